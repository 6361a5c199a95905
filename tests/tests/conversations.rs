//! Many conversations in one engine: each gets the logits that it would get alone, bit for bit,
//! whatever the others do, and however it came to its tokens.

use proptest::prelude::*;
use proptest::sample::Index;
use rill::engine::{Advance, Engine, MAX_RUNS, Share, Step, Wanted};
use rill::experts::POLICIES;
use rill::image::Sampling;
use rill::kernels::{CpuFeatures, KV_BLOCK, all};
use rill::plan::KvFormat;
use rill::sampler::Settings;
use rill::seams::Fault;
use rill::sequence::{Sequence, SequenceError};
use rill_tests::kiosk;
use rill_tests::reference::cases;
use rill_tests::rig::{Many, Rig, Setting};

/// What happens next.
#[derive(Debug, Clone)]
enum Act {
    /// A conversation is given tokens.
    Append(Index, usize),
    /// One batch: for each conversation how many of its pending tokens it takes, and whether all of
    /// their results are wanted.
    Batch(Vec<(usize, bool)>),
    /// A conversation becomes a copy of another.
    Fork(Index, Index),
    /// A conversation goes back by so many tokens.
    Cut(Index, usize),
    /// A conversation is given up.
    Reset(Index),
    /// A conversation is kept elsewhere and taken back, by another.
    Move(Index, Index),
    /// A conversation computes its last token again.
    Again(Index),
    /// A conversation takes over what is known of its beginning.
    Reuse(Index),
    /// What was computed of a conversation is remembered.
    Remember(Index),
    /// Nothing is known any more.
    Forget,
    /// A conversation gives up what was computed of it.
    Park(Index),
}

fn act() -> impl Strategy<Value = Act> {
    let one = any::<Index>;
    prop_oneof![
        4 => (one(), 1..90_usize).prop_map(|(who, count)| Act::Append(who, count)),
        8 => prop::collection::vec((0..70_usize, any::<bool>()), 4).prop_map(Act::Batch),
        1 => (one(), one()).prop_map(|(from, to)| Act::Fork(from, to)),
        1 => (one(), 1..100_usize).prop_map(|(who, count)| Act::Cut(who, count)),
        1 => one().prop_map(Act::Reset),
        1 => (one(), one()).prop_map(|(from, to)| Act::Move(from, to)),
        1 => one().prop_map(Act::Again),
        4 => one().prop_map(Act::Reuse),
        2 => one().prop_map(Act::Remember),
        1 => Just(Act::Forget),
        1 => one().prop_map(Act::Park),
    ]
}

/// Text to take tokens from.
fn text() -> Vec<u32> {
    cases().into_iter().flat_map(|case| case.ids).collect()
}

/// Logits by tokens, of a model that computes one sequence alone.
struct Alone {
    rig: Rig,
}

impl Alone {
    fn new(kv: KvFormat) -> Self {
        let setting = Setting { kv, ..Setting::default() };
        Self { rig: Rig::new(kiosk::default_image(), setting).unwrap() }
    }

    /// The logits after the last of `ids`.
    fn last(&mut self, ids: &[u32]) -> Vec<u32> {
        self.rig.session.reset();
        self.rig.session.append(ids).unwrap();
        self.rig.with(|session, world| while session.compute(world).unwrap() {});
        bits(self.rig.session.logits())
    }

    /// The logits after each of `ids` from number `from` on.
    fn every(&mut self, ids: &[u32], from: usize) -> Vec<Vec<u32>> {
        self.rig.logits(ids).unwrap()[from..].iter().map(|row| bits(row)).collect()
    }
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

/// Two different ones of the conversations.
fn two<'s>(
    sequences: &'s mut [Sequence<'static>],
    from: &Index,
    to: &Index,
) -> Option<[(usize, &'s mut Sequence<'static>); 2]> {
    let [from, to] = [from, to].map(|index| index.index(sequences.len()));
    let [one, other] = sequences.get_disjoint_mut([from, to]).ok()?;
    Some([(from, one), (to, other)])
}

/// Takes shares of the pending tokens, as many as there are and as fit into a batch, and compares what
/// comes out.
fn batch(
    rig: &mut Rig<Many>,
    wishes: &[(usize, bool)],
    alone: &mut Alone,
) -> Result<(), TestCaseError> {
    let outcome = rig.with(|(engine, sequences), world| {
        let mut room = engine.batch();
        let mut shares: Vec<Share<'_, 'static>> = Vec::new();
        for (sequence, &(tokens, every)) in sequences.iter_mut().zip(wishes) {
            let pending = sequence.pending().len();
            let tokens = tokens.min(pending).min(room);
            if tokens == 0 {
                continue;
            }
            room -= tokens;
            let wanted = match (every, tokens == pending) {
                (true, _) => Wanted::Every,
                (false, true) => Wanted::Last,
                (false, false) => Wanted::Nothing,
            };
            shares.push(Share::new(sequence, tokens, wanted));
        }
        if shares.is_empty() {
            return Ok(Vec::new());
        }
        engine.forward(world, &mut shares)?;
        let computed = shares.into_iter().map(|share| (share.sequence, share.tokens, share.wanted));
        let mut results = Vec::new();
        for (sequence, tokens, wanted) in computed {
            let ids = sequence.tokens()[..sequence.computed()].to_vec();
            let mut rows = Vec::new();
            if wanted == Wanted::Last {
                let last = engine.logits(world.parallel, sequence);
                rows.push(bits(last.expect("the last row was wanted")));
            }
            engine.each_logits(world.parallel, sequence, |row| rows.push(bits(row)));
            results.push((ids, tokens, wanted, rows));
        }
        Ok::<_, SequenceError>(results)
    });
    match outcome {
        Ok(results) => {
            for (ids, tokens, wanted, rows) in results {
                let expected = match wanted {
                    Wanted::Nothing => Vec::new(),
                    // Once as it stands ready, once as one of all.
                    Wanted::Last => vec![alone.last(&ids); 2],
                    Wanted::Every => alone.every(&ids, ids.len() - tokens),
                };
                prop_assert!(rows == expected, "{wanted:?} of {tokens} after {}", ids.len());
            }
        }
        // By chance a page may fail as often as it is tried: nothing is lost.
        Err(SequenceError::Page(_)) => {}
        Err(error) => prop_assert!(false, "{error}"),
    }
    Ok(())
}

/// Keeps one sequence and takes it back as another.
fn carry(engine: &mut Engine<'static>, from: &mut Sequence<'static>, to: &mut Sequence<'static>) {
    let mut saved = Vec::new();
    let written = engine.save(from, |bytes| {
        saved.extend_from_slice(bytes);
        Ok::<_, ()>(())
    });
    written.unwrap();
    let reader = || {
        let mut left = &saved[..];
        move |into: &mut [u8]| {
            let (now, later) = left.split_at_checked(into.len()).ok_or(())?;
            into.copy_from_slice(now);
            left = later;
            Ok::<_, ()>(())
        }
    };
    engine.check_saved(to, reader()).unwrap();
    engine.restore(to, reader()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn each_conversation_is_as_if_it_were_alone(
        acts in prop::collection::vec(act(), 1..40),
        slots in prop_oneof![Just(None), (4..256_u32).prop_map(Some)],
        (most, threads, seed, prefixes) in (1..100_u32, 1..4_usize, any::<u64>(), 0..6_u32),
        (policy, table) in (0..POLICIES.len(), any::<Index>()),
        (lookahead, int8) in (any::<bool>(), any::<bool>()),
        fault in prop_oneof![Just(Fault::None), (8..60_u32).prop_map(Fault::FlippedBit)],
    ) {
        let text = text();
        let kv = if int8 { KvFormat::Int8 } else { KvFormat::F16 };
        let tables: Vec<_> = all(CpuFeatures::detect()).collect();
        let setting = Setting {
            kernels: tables[table.index(tables.len())],
            slots,
            batch: most,
            kv,
            threads,
            seed,
            policy: POLICIES[policy],
            lookahead,
            context: 300,
            conversations: 4,
            prefixes,
            ..Setting::default()
        };
        let mut alone = Alone::new(kv);
        let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
        rig.disk.set_fault(fault);
        let blocks = rig.session.0.free_blocks();
        // What each conversation should have.
        let mut told = vec![Vec::new(); 4];
        for (number, act) in acts.iter().enumerate() {
            let (engine, sequences) = &mut rig.session;
            match act {
                Act::Append(who, count) => {
                    let who = who.index(4);
                    // Many begin alike, and differ later.
                    let from = if told[who].len() < 60 { told[who].len() } else { number * 37 };
                    let ids: Vec<u32> =
                        text.iter().cycle().skip(from).take(*count).copied().collect();
                    match engine.append(&mut sequences[who], &ids) {
                        Ok(()) => told[who].extend(ids),
                        Err(error) => prop_assert!(told[who].len() + count > 300, "{error}"),
                    }
                }
                Act::Batch(wishes) => batch(&mut rig, wishes, &mut alone)?,
                Act::Fork(from, to) => if let Some([from, to]) = two(sequences, from, to) {
                    engine.fork(from.1, to.1);
                    told[to.0] = told[from.0].clone();
                },
                Act::Cut(who, count) => {
                    let who = who.index(4);
                    let len = told[who].len().saturating_sub(*count);
                    engine.cut(&mut sequences[who], len);
                    told[who].truncate(len);
                    prop_assert!(sequences[who].computed() <= len);
                }
                Act::Reset(who) => {
                    let who = who.index(4);
                    engine.reset(&mut sequences[who]);
                    told[who].clear();
                }
                Act::Move(from, to) => if let Some([from, to]) = two(sequences, from, to) {
                    carry(engine, from.1, to.1);
                    told[to.0] = told[from.0].clone();
                },
                Act::Again(who) => {
                    let who = who.index(4);
                    engine.uncompute_last(&mut sequences[who]);
                    prop_assert!(told[who].is_empty() || !sequences[who].pending().is_empty());
                }
                Act::Reuse(who) => {
                    let sequence = &mut sequences[who.index(4)];
                    let (before, pending) = (sequence.computed(), sequence.pending().len());
                    let reused = engine.reuse(sequence);
                    prop_assert_eq!(sequence.computed(), before + reused);
                    prop_assert!(pending == 0 || reused < pending);
                }
                Act::Remember(who) => engine.remember(&mut sequences[who.index(4)]),
                Act::Forget => engine.forget(),
                Act::Park(who) => {
                    let sequence = &mut sequences[who.index(4)];
                    engine.park(sequence);
                    prop_assert_eq!(sequence.computed(), 0);
                }
            }
            for (told, sequence) in told.iter().zip(&*rig.session.1) {
                prop_assert_eq!(sequence.tokens(), told);
            }
        }
        // Every block comes back.
        let (engine, sequences) = &mut rig.session;
        sequences.iter_mut().for_each(|sequence| engine.reset(sequence));
        engine.forget();
        prop_assert_eq!(engine.free_blocks(), blocks);
    }
}

#[test]
fn a_token_or_two_back_costs_nothing() {
    let text = text();
    let setting = Setting { slots: Some(40), conversations: 2, ..Setting::default() };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        let sequence = &mut sequences[0];
        engine.append(sequence, &text[..60]).unwrap();
        engine.forward(world, &mut [Share::new(sequence, 60, Wanted::Last)]).unwrap();
        for back in [1, 2] {
            engine.cut(sequence, 60 - back);
            assert_eq!(sequence.computed(), 60 - back);
        }
        // Further back there is nothing to go on from.
        engine.cut(sequence, 40);
        assert_eq!((sequence.computed(), sequence.pending().len()), (0, 40));
    });
}

#[test]
fn a_fork_shares_memory_until_one_of_the_two_writes_on() {
    let text = text();
    let setting = Setting { conversations: 2, ..Setting::default() };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        let [one, other] = sequences else { panic!("two sequences") };
        let free = engine.free_blocks();
        let tokens = KV_BLOCK + 10;
        engine.append(one, &text[..tokens]).unwrap();
        for tokens in [64, tokens - 64] {
            let share = Share::new(one, tokens, Wanted::Last);
            engine.forward(world, &mut [share]).unwrap();
        }
        assert_eq!(engine.free_blocks(), free - 2);
        engine.fork(one, other);
        assert_eq!(engine.free_blocks(), free - 2);
        engine.append(other, &text[..1]).unwrap();
        engine.reserve(other, 1).unwrap();
        // The whole block stays shared, the other is a copy.
        assert_eq!(engine.free_blocks(), free - 3);
        engine.reset(one);
        assert_eq!(engine.free_blocks(), free - 2);
        engine.reset(other);
        assert_eq!(engine.free_blocks(), free);
    });
}

/// What a conversation says after its prompt: up to `most` tokens, or to the first that ends it. Where there is
/// room for the keys and values of all, nobody waits for it.
fn said(rig: &mut Rig<Many>, prompts: &[Vec<u32>], most: usize) -> Vec<Vec<u32>> {
    let is_roomy = rig.plan.sizes.kv_tokens.is_none();
    rig.with(|(engine, sequences), world| {
        let sequences = &mut sequences[..prompts.len()];
        for (sequence, prompt) in sequences.iter_mut().zip(prompts) {
            engine.reset(sequence);
            let settings = Settings { min_tokens: most as u32 / 2, ..SAMPLING.into() };
            sequence.set_sampling(settings, prompt.len() as u64);
            engine.append(sequence, prompt).unwrap();
        }
        let mut under_way: Vec<_> = sequences.iter_mut().collect();
        let mut ended = Vec::new();
        while !under_way.is_empty() {
            let advance = engine.advance(world, &mut under_way).unwrap();
            let mut goes_on = Vec::new();
            let mut stepped = advance.rows > 0;
            for sequence in under_way {
                let mut is_over = false;
                while !is_over && engine.has_logits(sequence) {
                    stepped = true;
                    let id = engine.sample(world, sequence).unwrap();
                    let step = engine.accept(sequence, id).unwrap();
                    let prompt =
                        prompts.iter().find(|prompt| sequence.tokens().starts_with(prompt));
                    let count = sequence.tokens().len() - prompt.unwrap().len();
                    is_over = !matches!(step, Step::Token(_)) || count == most;
                }
                if is_over {
                    ended.push(sequence.tokens().to_vec());
                    // Others may need the memory.
                    engine.reset(sequence);
                } else {
                    goes_on.push(sequence);
                }
            }
            assert!(stepped && !(is_roomy && advance.refused.is_some()), "{advance:?}");
            under_way = goes_on;
        }
        let of = |prompt: &Vec<u32>| {
            let tokens = ended.iter().find(|tokens| tokens.starts_with(prompt)).unwrap();
            tokens[prompt.len()..].to_vec()
        };
        prompts.iter().map(of).collect()
    })
}

/// Several conversations with room for so many tokens of keys and values together.
fn tight(conversations: u32, context: u32, kv_tokens: u32) -> Setting {
    Setting { conversations, context, kv_tokens: Some(kv_tokens), ..Setting::default() }
}

const SAMPLING: Sampling =
    Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, min_p: 0.05, repetition_penalty: 1.05 };

#[test]
fn conversations_side_by_side_say_what_each_says_alone() {
    const MOST: usize = 24;
    // Different beginnings, so that they can be told apart.
    let prompts: Vec<Vec<u32>> =
        [5, 130, 17, 64].map(|len| text().into_iter().cycle().skip(len).take(len).collect()).into();
    let setting = Setting { context: 300, conversations: 4, ..Setting::default() };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .flat_map(|prompt| said(&mut rig, std::slice::from_ref(prompt), MOST))
        .collect();
    let cases = [
        (None, 64, true, 0),
        (Some(40), 9, false, 9),
        (Some(4), 200, true, 1),
        (None, 30, true, 5),
    ];
    for (slots, batch, draft, prefixes) in cases {
        let setting = Setting { slots, batch, draft, prefixes, ..setting };
        let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
        // The second time most is known.
        for time in 0..2 {
            assert!(
                said(&mut rig, &prompts, MOST) == alone,
                "{slots:?} slots, batches of {batch}, {time}"
            );
        }
    }
}

#[test]
fn conversations_without_room_together_say_what_each_says_alone() {
    const MOST: usize = 120;
    let prompts: Vec<Vec<u32>> = [105, 90, 170, 64, 33, 120]
        .map(|len| text().into_iter().cycle().skip(len).take(len).collect())
        .into();
    let setting = Setting { context: 300, conversations: 6, ..Setting::default() };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    let alone: Vec<Vec<u32>> = prompts
        .iter()
        .flat_map(|prompt| said(&mut rig, std::slice::from_ref(prompt), MOST))
        .collect();
    let mut parked = 0;
    for (kv_tokens, batch, draft, prefixes) in
        [(300, 64, true, 0), (400, 9, false, 9), (600, 30, true, 3), (357, 200, true, 1)]
    {
        let kv_tokens = Some(kv_tokens);
        let setting = Setting { kv_tokens, batch, draft, prefixes, ..setting };
        let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
        for time in 0..2 {
            assert!(
                said(&mut rig, &prompts, MOST) == alone,
                "{kv_tokens:?} tokens, {batch}, {time}"
            );
        }
        parked += rig.session.0.stats().parked;
        // Nobody has anything when all have ended.
        let blocks = rig.plan.sizes.blocks();
        rig.with(|(engine, sequences), _| {
            engine.forget();
            sequences.iter_mut().for_each(|sequence| engine.reset(sequence));
            assert_eq!(engine.free_blocks(), blocks);
        });
    }
    assert!(parked > 0);
}

#[test]
fn who_asks_for_more_than_others_leave_is_refused_and_they_stay() {
    let setting = Setting { prefixes: 4, ..tight(3, 200, 256) };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        let [first, second, third] = sequences else { panic!("there are three") };
        engine.append(first, &text()[..150]).unwrap();
        while engine.advance(world, &mut [&mut *first]).unwrap().rows > 0 {}
        // The first one is not asked to go on: what it has stays its own.
        engine.append(second, &text()[200..300]).unwrap();
        engine.append(third, &text()[300..310]).unwrap();
        while engine.advance(world, &mut [&mut *second, &mut *third]).unwrap().rows > 0 {}
        assert_eq!([first.computed(), second.computed(), third.computed()], [150, 64, 0]);
        let refused = engine.advance(world, &mut [&mut *second]).unwrap();
        assert_eq!((refused.rows, refused.refused), (0, Some(0)));
        assert_eq!(engine.reserve(second, 36), Err(SequenceError::NoBlocks));
        engine.reset(first);
        while engine.advance(world, &mut [&mut *second]).unwrap().rows > 0 {}
        assert_eq!(second.computed(), 100);
    });
}

#[test]
fn refused_ones_hold_nothing_and_nobody_waits_for_ever() {
    let setting = Setting { batch: 200, ..tight(4, 200, 256) };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        let [outside, done, first, second] = sequences else { panic!("there are four") };
        engine.append(outside, &text()[..100]).unwrap();
        engine.advance(world, &mut [&mut *outside]).unwrap();
        engine.append(done, &text()[200..230]).unwrap();
        engine.advance(world, &mut [&mut *done]).unwrap();
        engine.append(first, &text()[300..450]).unwrap();
        assert_eq!(engine.advance(world, &mut [&mut *first]).unwrap().refused, Some(0));
        assert!(!engine.park(first), "it has nothing");
        engine.append(second, &text()[350..450]).unwrap();
        for _ in 0..3 {
            let advance = engine.advance(world, &mut [&mut *done, &mut *first, &mut *second]);
            let advance = advance.unwrap();
            assert_eq!((advance.rows, advance.refused), (0, Some(1)));
        }
        assert_eq!(engine.stats().parked, 0);
        assert_eq!(engine.free_blocks(), 1);
        engine.reserve(second, 64).unwrap();
        engine.reset(second);
        assert_eq!(engine.free_blocks(), 1);
    });
}

#[test]
fn nobody_gives_way_in_vain() {
    let setting = Setting { draft: false, ..tight(4, 200, 256) };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        let [first, second, outside, last] = sequences else { panic!("there are four") };
        for (sequence, len) in [(&mut *first, 64), (&mut *second, 64), (&mut *outside, 128)] {
            engine.append(sequence, &text()[len..][..len]).unwrap();
            while engine.advance(world, &mut [&mut *sequence]).unwrap().rows > 0 {}
        }
        // What it has is also one's that is not asked to go on.
        engine.fork(outside, last);
        assert_eq!(engine.free_blocks(), 0);
        for sequence in [&mut *first, &mut *second, &mut *last] {
            engine.append(sequence, &[300]).unwrap();
        }
        engine.advance(world, &mut [&mut *first, &mut *second, &mut *last]).unwrap();
        assert_eq!([first.computed(), second.computed(), last.computed()], [65, 0, 128]);
        assert_eq!(engine.stats().parked, 1);
    });
}

#[test]
fn who_came_first_goes_first_whoever_comes_later() {
    let setting = Setting { draft: false, ..tight(5, 300, 448) };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        // The first grows over what the second has; short ones come again and again.
        engine.append(&mut sequences[0], &text()[..100]).unwrap();
        engine.append(&mut sequences[1], &text()[100..200]).unwrap();
        let (mut steps, mut passed) = (0, 0);
        while sequences[1].tokens().len() < 200 || !sequences[1].pending().is_empty() {
            steps += 1;
            assert!(steps < 400, "{passed} later ones came before it");
            let mut all: Vec<_> = sequences.iter_mut().collect();
            assert!(engine.advance(world, &mut all).unwrap().rows > 0);
            for (number, sequence) in sequences.iter_mut().enumerate() {
                let most = [290, 200].get(number).copied().unwrap_or(60);
                if !sequence.pending().is_empty() {
                    continue;
                }
                if sequence.tokens().len() < most && !sequence.tokens().is_empty() {
                    engine.accept(sequence, 300 + number as u32).unwrap();
                } else if number != 1 {
                    engine.reset(sequence);
                    if number > 1 {
                        passed += 1;
                        engine.append(sequence, &text()[passed..][..30]).unwrap();
                    }
                }
            }
        }
        assert!(passed > 0 && engine.stats().parked > 0);
    });
}

#[test]
fn what_is_computed_again_has_a_bound() {
    let texts: Vec<Vec<u32>> = (0..8)
        .map(|number| text().into_iter().cycle().skip(number * 50).take(120).collect())
        .collect();
    for (kv_tokens, batch) in [(600, 512), (600, 16), (900, 64)] {
        let setting = Setting { batch, draft: false, ..tight(8, 600, kv_tokens) };
        let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
        rig.with(|(engine, sequences), world| {
            for (sequence, text) in sequences.iter_mut().zip(&texts) {
                engine.append(sequence, text).unwrap();
            }
            let mut under_way: Vec<_> = sequences.iter_mut().collect();
            let mut useful = 0;
            while !under_way.is_empty() {
                assert!(engine.advance(world, &mut under_way).unwrap().rows > 0);
                under_way.retain_mut(|sequence| {
                    if sequence.pending().is_empty() {
                        if sequence.tokens().len() == 500 {
                            useful += 500;
                            engine.reset(sequence);
                            return false;
                        }
                        engine.accept(sequence, 400).unwrap();
                    }
                    true
                });
            }
            let again = engine.stats().parked_tokens;
            assert!(again <= useful, "{again} of {useful} tokens again, {kv_tokens}, {batch}");
        });
    }
}

#[test]
fn more_conversations_than_a_batch_has_room_for_share_few_blocks() {
    const COUNT: usize = MAX_RUNS + 16;
    let setting = Setting { draft: false, ..tight(COUNT as u32, 100, 128) };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        for (number, sequence) in sequences.iter_mut().enumerate() {
            engine.append(sequence, &[300 + number as u32; 30]).unwrap();
        }
        let mut under_way: Vec<_> = sequences.iter_mut().collect();
        while !under_way.is_empty() {
            assert!(engine.advance(world, &mut under_way).unwrap().rows > 0);
            under_way.retain_mut(|sequence| {
                let is_over = sequence.pending().is_empty() && sequence.tokens().len() == 40;
                if is_over {
                    engine.reset(sequence);
                } else if sequence.pending().is_empty() {
                    engine.accept(sequence, 301).unwrap();
                }
                !is_over
            });
        }
    });
}

#[test]
fn a_session_takes_memory_from_those_that_are_not_spoken_with() {
    let setting = tight(3, 200, 200);
    let mut alone = Alone::new(KvFormat::F16);
    let mut rig = Rig::new(kiosk::default_image(), setting).unwrap();
    let mut told = vec![Vec::new(); 3];
    let mut saved = Vec::new();
    for turn in 0..9 {
        let number = [0, 1, 2, 0, 2, 1, 1, 0, 2][turn];
        assert!(rig.session.select(number));
        let ids = &text()[turn * 40..][..55];
        rig.session.append(ids).unwrap();
        told[number].extend_from_slice(ids);
        rig.with(|session, world| while session.compute(world).unwrap() {});
        assert!(bits(rig.session.logits()) == alone.last(&told[number]), "turn {turn}");
        // It is kept and taken back where others have the memory meanwhile.
        if turn == 2 {
            let keep = |bytes: &[u8]| {
                saved.extend_from_slice(bytes);
                Ok::<_, ()>(())
            };
            rig.session.save(keep).unwrap();
        }
        if turn == 3 {
            // Until they have all of it.
            assert!(rig.session.select(1));
            let ids = &text()[400..420];
            rig.session.append(ids).unwrap();
            told[1].extend_from_slice(ids);
            rig.with(|session, world| while session.compute(world).unwrap() {});
            let mut left = &saved[..];
            assert!(rig.session.select(2));
            let read = |into: &mut [u8]| {
                let (now, later) = left.split_at_checked(into.len()).ok_or(())?;
                into.copy_from_slice(now);
                left = later;
                Ok::<_, ()>(())
            };
            rig.session.restore(read).unwrap();
            assert!(left.is_empty() && rig.session.tokens() == told[2]);
            let (_, sequences) = rig.session.parts();
            assert_eq!([0, 1, 2].map(|number| sequences[number].computed()), [110, 75, 0]);
        }
    }
    assert!(rig.session.stats().parked > 0);
}

#[test]
fn prompts_that_begin_alike_leave_what_is_known_of_others() {
    let setting = Setting {
        context: 256,
        conversations: 4,
        batch: 256,
        prefixes: 8,
        draft: false,
        ..Setting::default()
    };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    rig.with(|(engine, sequences), world| {
        // Four known beginnings have 12 of 16 blocks.
        let known = |number: u32| vec![300 + number; 190];
        for number in 0..4 {
            engine.append(&mut sequences[0], &known(number)).unwrap();
            engine.advance(world, &mut [&mut sequences[0]]).unwrap();
            engine.reset(&mut sequences[0]);
        }
        assert_eq!(engine.free_blocks(), 4);
        // One of three computes what all begin with.
        for (number, sequence) in sequences[..3].iter_mut().enumerate() {
            engine.append(sequence, &text()[..180]).unwrap();
            engine.append(sequence, &[number as u32 + 500; 5]).unwrap();
        }
        let mut alike: Vec<_> = sequences[..3].iter_mut().collect();
        assert_eq!(
            engine.advance(world, &mut alike).unwrap(),
            Advance { rows: 185, refused: None }
        );
        for number in 0..4 {
            engine.append(&mut sequences[3], &known(number)).unwrap();
            assert!(engine.reuse(&mut sequences[3]) > 0, "beginning {number} is known");
            engine.reset(&mut sequences[3]);
        }
    });
}

/// Gives each conversation a prompt of 8 of its tokens and then the others one by one; the logits before
/// each of these, and for how many steps one of them waited at most while others went on.
fn fed(rig: &mut Rig<Many>, texts: &[Vec<u32>]) -> (Vec<Vec<Vec<u32>>>, usize) {
    const PROMPT: usize = 8;
    rig.with(|(engine, sequences), world| {
        let sequences = &mut sequences[..texts.len()];
        for (sequence, text) in sequences.iter_mut().zip(texts) {
            engine.reset(sequence);
            engine.append(sequence, &text[..PROMPT]).unwrap();
        }
        let mut all = vec![Vec::new(); texts.len()];
        let (mut waited, mut longest) = (vec![0; texts.len()], 0);
        loop {
            let mut under_way: Vec<_> = sequences.iter_mut().collect();
            if engine.advance(world, &mut under_way).unwrap().rows == 0 {
                return (all, longest);
            }
            for (number, sequence) in sequences.iter_mut().enumerate() {
                let Some(logits) = engine.logits(world.parallel, sequence) else {
                    waited[number] += usize::from(!sequence.pending().is_empty());
                    longest = longest.max(waited[number]);
                    continue;
                };
                waited[number] = 0;
                all[number].push(bits(logits));
                if let Some(&id) = texts[number].get(sequence.tokens().len()) {
                    engine.accept(sequence, id).unwrap();
                }
            }
        }
    })
}

#[test]
fn answers_that_take_turns_have_the_same_logits_and_wait_for_the_others_turns() {
    let ids = |seed: usize| (0..80).map(move |at| (100 + (at * 37 + seed * 311) % 1500) as u32);
    let texts: Vec<Vec<u32>> = (0..4).map(|seed| ids(seed).collect()).collect();
    let setting = Setting { context: 100, conversations: 4, draft: false, ..Setting::default() };
    let mut rig = Rig::many(kiosk::default_image(), setting).unwrap();
    let mut alone = Vec::new();
    for text in &texts {
        let (mut logits, longest) = fed(&mut rig, std::slice::from_ref(text));
        assert_eq!((logits[0].len(), longest), (73, 0));
        alone.append(&mut logits);
    }
    // All experts are in RAM: nobody waits.
    assert!(fed(&mut rig, &texts) == (alone.clone(), 0));
    // Few are: turns are tried.
    let mut rig = Rig::many(kiosk::default_image(), Setting { slots: Some(8), ..setting }).unwrap();
    let (logits, longest) = fed(&mut rig, &texts);
    assert!(logits == alone);
    assert!((1..=3 * 32).contains(&longest), "{longest}");
}

#[test]
fn more_conversations_than_a_batch_has_room_for_are_served_in_turn() {
    const COUNT: u32 = MAX_RUNS as u32 + 6;
    for batch in [1, 5, 512] {
        let setting = Setting {
            conversations: COUNT,
            context: 64,
            batch,
            draft: false,
            ..Setting::default()
        };
        let mut rig = Rig::new(kiosk::default_image(), setting).unwrap();
        rig.with(|session, world| {
            let (engine, sequences) = session.parts();
            for (number, sequence) in sequences.iter_mut().enumerate() {
                engine.append(sequence, &[300 + number as u32; 3]).unwrap();
            }
            // Answers go on and on, and nobody falls back behind the others by more than a prompt.
            for _ in 0..8 * COUNT.div_ceil(batch.min(MAX_RUNS as u32)) {
                let mut all: Vec<_> = sequences.iter_mut().collect();
                engine.advance(world, &mut all).unwrap();
                for sequence in sequences.iter_mut().filter(|s| s.pending().is_empty()) {
                    if sequence.tokens().len() < 64 {
                        engine.accept(sequence, 301).unwrap();
                    }
                }
            }
            let lens = || sequences.iter().map(|sequence| sequence.computed());
            let [least, most] = [lens().min(), lens().max()].map(Option::unwrap);
            assert!(least >= 7 && most - least <= 3, "{least} to {most} tokens, {batch} a batch");
        });
    }
}
