//! One image, one answer: the same logits bit for bit whatever the budget, the batch, the threads,
//! the kernel table, the device's timing and its hiccups, for each format of keys and values.

use proptest::prelude::*;
use rill::experts::POLICIES;
use rill::kernels::{CpuFeatures, all};
use rill::plan::KvFormat;
use rill::seams::Fault;
use rill_tests::kiosk;
use rill_tests::reference::cases;
use rill_tests::rig::{Rig, Setting};

/// The logits of a prompt, as bits.
fn bits(rig: &mut Rig, ids: &[u32]) -> Vec<Vec<u32>> {
    let logits = rig.logits(ids).unwrap();
    logits.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

/// The longest prompt of the reference.
fn prompt() -> Vec<u32> {
    cases().into_iter().map(|case| case.ids).max_by_key(Vec::len).unwrap()
}

#[test]
fn budget_batch_and_threads_change_nothing() {
    let image = kiosk::default_image();
    let ids = prompt();
    // Slots know nothing of keys and values: one budget is enough for the second format.
    let cases = [(KvFormat::F16, &[Some(4), Some(128), None][..]), (KvFormat::Int8, &[Some(128)])];
    for (kv, budgets) in cases {
        let setting = Setting { kv, ..Setting::default() };
        let expected = bits(&mut Rig::new(image, setting).unwrap(), &ids);
        for &slots in budgets {
            for batch in [1, 7, 64] {
                for threads in [1, 2, 3] {
                    let setting = Setting { slots, batch, threads, ..setting };
                    let mut rig = Rig::new(image, setting).unwrap();
                    let same = bits(&mut rig, &ids) == expected;
                    assert!(same, "{kv:?}, slots {slots:?}, batch {batch}, threads {threads}");
                }
            }
        }
    }
}

#[test]
fn every_table_computes_the_same_bits() {
    let image = kiosk::default_image();
    let ids = prompt();
    for kv in KvFormat::ALL {
        let mut answers = all(CpuFeatures::detect()).map(|kernels| {
            let mut rig = Rig::new(image, Setting { kernels, kv, ..Setting::default() }).unwrap();
            (kernels.name, bits(&mut rig, &ids))
        });
        let (first, expected) = answers.next().unwrap();
        for (name, answer) in answers {
            assert!(answer == expected, "{name} differs from {first} in {kv:?}");
        }
    }
}

#[test]
fn a_second_turn_equals_the_whole_conversation_at_once() {
    let ids = prompt();
    // With batches shorter than a part, most batches want nothing of the last layer, which is a
    // convolution in the whole model and attention in its first nine layers.
    let images = [kiosk::default_image(), kiosk::first_layers(9)];
    let batches = [(4, KvFormat::F16), (4, KvFormat::Int8), (64, KvFormat::F16)];
    for (image, (batch, kv)) in images.into_iter().flat_map(|image| batches.map(|b| (image, b))) {
        let setting = Setting { slots: Some(40), batch, kv, ..Setting::default() };
        let mut rig = Rig::new(image, setting).unwrap();
        let whole = bits(&mut rig, &ids);
        rig.session.reset();
        let mut computed = 0;
        for part in ids.chunks(11) {
            computed += part.len();
            rig.session.append(part).unwrap();
            rig.with(|session, world| while session.compute(world).unwrap() {});
            let last: Vec<u32> = rig.session.logits().iter().map(|x| x.to_bits()).collect();
            assert!(last == whole[computed - 1], "batch {batch}, {kv:?}, {computed} tokens");
        }
    }
}

#[test]
fn slots_that_were_warmed_and_a_conversation_that_was_restored_change_nothing() {
    KvFormat::ALL.into_iter().for_each(warm_and_restore);
}

fn warm_and_restore(kv: KvFormat) {
    let ids = prompt();
    let (first, rest) = ids.split_at(ids.len() / 2);
    let setting = Setting { slots: Some(40), kv, ..Setting::default() };
    let mut rig = Rig::new(kiosk::default_image(), setting).unwrap();
    let expected = bits(&mut rig, &ids);
    rig.session.reset();
    rig.session.append(first).unwrap();
    rig.with(|session, world| while session.compute(world).unwrap() {});
    let mut saved = Vec::new();
    let kept = rig.session.save(|bytes| {
        saved.extend_from_slice(bytes);
        Ok::<_, ()>(())
    });
    kept.unwrap();

    let mut other = Rig::new(kiosk::default_image(), setting).unwrap();
    let warmed = other.with(|session, world| {
        std::iter::from_fn(|| session.warm(world, &[255, 3, 9999]).unwrap().then_some(())).count()
    });
    assert!(warmed >= 40, "{warmed} parts were read");
    let mut resident: Vec<u32> = other.session.resident_pages().collect();
    resident.sort_unstable();
    assert!(resident.len() == 40 && resident.ends_with(&[255]), "{resident:?}");
    let restore = |rig: &mut Rig, saved: &[u8]| {
        let mut left = saved;
        rig.session.restore(|into| {
            let (now, later) = left.split_at_checked(into.len()).ok_or(())?;
            into.copy_from_slice(now);
            left = later;
            Ok::<_, ()>(())
        })
    };
    // A part of it is no conversation, and the session is as good as new afterwards.
    for len in [0, 15, 16, 56, 80, saved.len() / 2, saved.len() - 1] {
        assert!(restore(&mut other, &saved[..len]).is_err(), "{len} bytes");
        assert!(other.session.tokens().is_empty());
    }
    restore(&mut other, &saved).unwrap();
    assert_eq!(other.session.tokens(), first);
    other.session.append(rest).unwrap();
    other.with(|session, world| while session.compute(world).unwrap() {});
    let last: Vec<u32> = other.session.logits().iter().map(|x| x.to_bits()).collect();
    assert!(last == *expected.last().unwrap());
    let warm = other.session.stats().prompt.cache;
    assert!(warm.hits + warm.late > 0, "{warm:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn schedules_and_hiccups_change_nothing(
        slots in 4..256_u32,
        batch in 1..80_u32,
        threads in 1..4_usize,
        seed in any::<u64>(),
        unaligned in any::<bool>(),
        (depth, patience) in (2..17_usize, 1..20_u32),
        policy in 0..POLICIES.len(),
        (lookahead, int8) in any::<(bool, bool)>(),
        fault in prop_oneof![
            Just(Fault::None),
            (8..100_u32).prop_map(Fault::Transient),
            (8..100_u32).prop_map(Fault::FlippedBit),
        ],
    ) {
        let ids = &prompt()[..40];
        let image = kiosk::default_image();
        let kv = if int8 { KvFormat::Int8 } else { KvFormat::F16 };
        let default = Setting { kv, ..Setting::default() };
        let expected = bits(&mut Rig::new(image, default).unwrap(), ids);
        let alignment = if unaligned { 1 } else { 4096 };
        let setting = Setting {
            slots: Some(slots),
            batch,
            threads,
            seed,
            alignment,
            depth,
            patience,
            policy: POLICIES[policy],
            lookahead,
            ..default
        };
        let mut rig = Rig::new(image, setting).unwrap();
        rig.disk.set_fault(fault);
        // A page may fail again and again by chance: then there is an error, never another answer.
        if let Ok(logits) = rig.logits(ids) {
            let ours: Vec<Vec<u32>> =
                logits.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect();
            prop_assert!(ours == expected);
        } else {
            prop_assert!(fault != Fault::None);
        }
    }
}
