//! The mixture of experts: every chosen expert's page is found or fetched, computed as it arrives,
//! and its results are added in router order, so that timing never changes a sum.

use super::Incomplete;
use super::batch::{Kind, Rows};
use super::checked::{Deal, multiply_and_sum};
use super::product::{
    Activations, Cores, GROUP, Grain, Middle, Output, Tiling, UNIT, UNIT_TILE_ROWS, Write,
    gate_up_units, project_tile_rows,
};
use super::router::{Choices, route};
use super::scratch::Scratch;
use super::weights::RouterWeights;
use crate::experts::{Cache, PageError, Part, SlotId};
use crate::image::{MAX_EXPERTS, MAX_TOP_K, Shape, sum_chunks};
use crate::kernels::Kernels;
use crate::seams::{Event, Micros, Shared, World, for_each_chunk};

/// How far an expert of this layer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its page has no slot yet.
    Wanted,
    /// Its page has a slot; gate-up is next.
    GateUp(SlotId),
    /// The middle activations are there; down is next.
    Down(SlotId),
    /// Its results are there.
    Done,
}

/// An expert that some tokens of the batch chose.
#[derive(Debug, Clone, Copy)]
struct Demand {
    page: u32,
    /// Its part of `by_expert` and `rows`.
    from: usize,
    tokens: usize,
    stage: Stage,
}

type Demands = heapless::Vec<Demand, MAX_EXPERTS>;

/// The router after this layer's, for guesses.
pub struct Next<'n> {
    /// (hidden,): the norm before it.
    pub norm: &'n [f32],
    /// Its weights.
    pub router: &'n RouterWeights<'n>,
    /// The rows that will come to it; `None` for all.
    pub picked: Option<&'n [u32]>,
}

impl Next<'_> {
    /// How many of `rows` rows come to it.
    fn count(&self, rows: usize) -> usize {
        self.picked.map_or(rows, <[u32]>::len)
    }
}

/// A batch with so many choices for each expert of a layer will want all of them, whatever its
/// subject is.
const WANTS_ALL: usize = 16;

/// What a MoE layer computes with.
pub struct MoeLayer<'l> {
    /// Sizes and constants.
    pub shape: &'l Shape,
    /// Its own router.
    pub router: &'l RouterWeights<'l>,
    /// The next one, when pages may be read on a guess.
    pub next: Option<Next<'l>>,
    /// The table of functions.
    pub kernels: &'static Kernels,
}

/// Asks on a guess for the pages of the first MoE layer: its router's choices, were its input what
/// `scratch.x` is before all layers.
pub fn look_ahead<'a>(
    world: &mut World<'_, 'a>,
    layer: (&Shape, &'static Kernels),
    first: &Next<'_>,
    rows: usize,
    scratch: &mut Scratch<'_>,
    cache: &mut Cache<'a>,
) {
    let (shape, kernels) = layer;
    let guesses = guess(Cores { kernels, parallel: world.parallel }, shape, first, rows, scratch);
    cache.manage(world, |cache, world| {
        for expert in guesses {
            if !cache.fetch_ahead(world, cache.page(first.router.bank, expert)) {
                break;
            }
        }
    });
}

/// Adds the experts of `scratch.normed`, the rows of the batch that go on, to `scratch.x`: the picked
/// ones in the `last` layer.
pub fn forward<'a>(
    world: &mut World<'_, 'a>,
    layer: MoeLayer<'_>,
    (rows, kind, last): (&Rows<'_>, Kind, bool),
    scratch: &mut Scratch<'_>,
    cache: &mut Cache<'a>,
) -> Result<(), Incomplete> {
    let MoeLayer { shape, router: w, next, kernels } = layer;
    let tokens = if last { rows.picked().len() } else { rows.count() };
    let hidden = shape.hidden as usize;
    let top_k = shape.top_k as usize;
    let cores = Cores { kernels, parallel: world.parallel };
    let choices =
        Choices { scores: scratch.scores, chosen: scratch.chosen, weights: scratch.weights };
    route(cores, shape, w, &scratch.normed[..tokens * hidden], choices);
    for (entry, &expert) in scratch.chosen[..tokens * top_k].iter().enumerate() {
        let row = entry / top_k;
        let row = if last { rows.picked()[row] as usize } else { row };
        let (run, position) = (rows.run(row) as u16, rows.position(row) as u32);
        world.events.hear(Event::Routed { run, position, bank: w.bank as u16, expert });
    }

    let guesses = next.map(|next| guess(cores, shape, &next, tokens, scratch)).unwrap_or_default();
    let mut guesses = guesses.into_iter();
    let mut demands = list(shape, w.bank, tokens, scratch, cache);
    let normed = &scratch.normed[..tokens * hidden];
    let mut bank = Bank {
        shape,
        kernels,
        x: Activations::quantise(cores, normed, hidden, 1, Grain::Plain, scratch.quants),
        by_expert: scratch.by_expert,
        rows: scratch.rows,
        gathered: scratch.gathered,
        middle: scratch.middle,
        out: &mut scratch.wide[..tokens * top_k * hidden],
        sums: scratch.sums,
    };
    cache.begin();
    cache.manage(world, |cache, world| {
        for demand in &mut demands {
            if let Some(slot) = cache.want(world, demand.page, demand.tokens as u32)? {
                demand.stage = Stage::GateUp(slot);
            }
        }
        cache.settle(world, w.bank, tokens as u32, kind == Kind::Answer);
        Ok::<_, PageError>(())
    })?;
    let mut guess = guesses.next();
    loop {
        if world.events.wants_stop() {
            return Err(Incomplete::Stopped);
        }
        cache.manage(world, |cache, world| {
            for demand in demands.iter_mut().filter(|demand| demand.stage == Stage::Wanted) {
                match cache.fetch(world, demand.page)? {
                    Some(slot) => demand.stage = Stage::GateUp(slot),
                    None => break,
                }
            }
            if demands.iter().all(|demand| demand.stage != Stage::Wanted) {
                while let Some(expert) = guess
                    && cache.fetch_ahead(world, cache.page(w.bank + 1, expert))
                {
                    guess = guesses.next();
                }
            }
            while cache.poll(world)? {}
            Ok::<_, PageError>(())
        })?;
        let gated = bank.gate_up(world, cache, &mut demands)?;
        let done = bank.down(world, cache, &mut demands)?;
        if demands.iter().all(|demand| demand.stage == Stage::Done) {
            break;
        }
        if !gated && !done {
            cache.wait(world)?;
        }
    }

    let (weights, out) = (&*scratch.weights, &*bank.out);
    for_each_chunk(world.parallel, &mut scratch.x[..tokens * hidden], hidden, |token, x| {
        for rank in token * top_k..(token + 1) * top_k {
            (kernels.add_scaled)(x, &out[rank * hidden..][..hidden], weights[rank]);
        }
    });
    Ok(())
}

/// The experts that the next MoE layer will probably want, the likeliest first: its router's
/// choices, were its input what this layer's is.
fn guess(
    cores: Cores<'_>,
    shape: &Shape,
    next: &Next<'_>,
    rows: usize,
    scratch: &mut Scratch<'_>,
) -> heapless::Vec<usize, MAX_EXPERTS> {
    let [hidden, experts, top_k] = [shape.hidden, shape.experts, shape.top_k].map(|x| x as usize);
    let count = next.count(rows);
    if count * top_k >= WANTS_ALL * experts {
        return (0..experts).collect();
    }
    // Each token gives its first choice the most votes: its last is the one most often wrong.
    let mut votes = [0_usize; MAX_EXPERTS];
    let normed = &mut scratch.inner[..hidden];
    for index in 0..count {
        let row = next.picked.map_or(index, |picked| picked[index] as usize);
        let x = &scratch.x[row * hidden..][..hidden];
        let [mut scores, mut weights] = [[0.0; MAX_EXPERTS]; 2];
        let mut chosen = [0; MAX_TOP_K];
        (cores.kernels.rms_norm)(x, next.norm, shape.norm_eps, normed);
        let choices = Choices { scores: &mut scores, chosen: &mut chosen, weights: &mut weights };
        route(cores, shape, next.router, normed, choices);
        for (rank, &expert) in chosen[..top_k].iter().enumerate() {
            votes[usize::from(expert)] += top_k - rank;
        }
    }
    let mut wanted: heapless::Vec<_, MAX_EXPERTS> =
        (0..experts).filter(|&expert| votes[expert] > 0).collect();
    wanted.sort_unstable_by_key(|&expert| (core::cmp::Reverse(votes[expert]), expert));
    wanted
}

/// Lists the experts that the batch chose, in file order, with their tokens.
fn list(
    shape: &Shape,
    bank: usize,
    tokens: usize,
    scratch: &mut Scratch<'_>,
    cache: &Cache<'_>,
) -> Demands {
    let top_k = shape.top_k as usize;
    let chosen = &scratch.chosen[..tokens * top_k];
    let mut counts = [0_u32; MAX_EXPERTS];
    chosen.iter().for_each(|&expert| counts[expert as usize] += 1);
    let mut demands = Demands::new();
    let mut next = [0_usize; MAX_EXPERTS];
    let mut from = 0;
    for expert in 0..shape.experts as usize {
        let count = counts[expert] as usize;
        next[expert] = from;
        if count > 0 {
            let page = cache.page(bank, expert);
            let pushed = demands.push(Demand { page, from, tokens: count, stage: Stage::Wanted });
            debug_assert!(pushed.is_ok(), "there are at most MAX_EXPERTS");
        }
        from += count;
    }
    for (entry, &expert) in chosen.iter().enumerate() {
        let to = &mut next[expert as usize];
        scratch.by_expert[*to] = (entry / top_k) as u32;
        scratch.rows[*to] = entry as u32;
        *to += 1;
    }
    demands
}

/// What all experts of the layer share.
struct Bank<'b> {
    shape: &'b Shape,
    kernels: &'static Kernels,
    /// The normed activations, one panel a token.
    x: Activations<'b>,
    by_expert: &'b [u32],
    rows: &'b [u32],
    gathered: &'b mut [i32],
    middle: &'b mut [i32],
    /// (tokens x top_k, hidden).
    out: &'b mut [f32],
    /// Of the chunks of parts that are computed together.
    sums: &'b mut [u64],
}

/// An expert of which a part can be computed.
#[derive(Debug, Clone, Copy)]
struct Ready {
    /// Its place among the demands.
    at: usize,
    slot: SlotId,
    /// Nobody knows yet whether the part is what was packed.
    unchecked: bool,
}

type ReadyList = heapless::Vec<Ready, MAX_EXPERTS>;

impl Ready {
    /// The experts whose next part is `part` and here.
    fn list(demands: &Demands, cache: &Cache<'_>, part: Part) -> ReadyList {
        let mut list = ReadyList::new();
        for (at, demand) in demands.iter().enumerate() {
            let slot = match (demand.stage, part) {
                (Stage::GateUp(slot), Part::GateUp) | (Stage::Down(slot), Part::Down) => slot,
                _ => continue,
            };
            if cache.has(slot, part) {
                let unchecked = !cache.is_checked(slot, part);
                let pushed = list.push(Self { at, slot, unchecked });
                debug_assert!(pushed.is_ok(), "there are at most MAX_EXPERTS");
            }
        }
        list
    }
}

impl Bank<'_> {
    /// Computes gate-up of every expert whose gate-up part is here. Says whether there was any.
    fn gate_up<'a>(
        &mut self,
        world: &mut World<'_, 'a>,
        cache: &mut Cache<'a>,
        demands: &mut Demands,
    ) -> Result<bool, PageError> {
        let ready = Ready::list(demands, cache, Part::GateUp);
        let Some(&Ready { slot, .. }) = ready.first() else { return Ok(false) };
        let (shape, kernels, x, by_expert) = (self.shape, self.kernels, &self.x, self.by_expert);
        let [hidden, ff] = [shape.hidden, shape.expert_ff].map(|x| x as usize);
        let words = Grain::Plain.words(1, hidden);
        let gathered = Shared::new(self.gathered);
        let listed = &*demands;
        if ready.iter().any(|ready| listed[ready.at].tokens > 1) {
            world.parallel.run(ready.len(), &|index| {
                let demand = &listed[ready[index].at];
                // SAFETY: demands have disjoint ranges, and each is run once.
                let panels = unsafe { gathered.part(demand.from * words, demand.tokens * words) };
                let tokens = &by_expert[demand.from..][..demand.tokens];
                Activations::gather(x, tokens, kernels.width, panels);
            });
        }
        let gathered = &*self.gathered;
        let middle = Shared::new(self.middle);
        let w = cache.gate_up(slot).shape;
        let bytes = w.format.tile_row_bytes(w.blocks()) * UNIT_TILE_ROWS;
        let deal = Deal { count: ff / UNIT, step: 1, bytes };
        let pages = &*cache;
        let multiply = |index: usize, units| {
            let Ready { at, slot, .. } = ready[index];
            let demand = &listed[at];
            let x = if demand.tokens == 1 {
                x.row(by_expert[demand.from] as usize)
            } else {
                let tiling = Tiling::new(demand.tokens, kernels.width);
                Activations::new(&gathered[demand.from * words..], tiling, hidden, Grain::Plain)
            };
            let at = demand.from * Grain::Plain.words(1, ff);
            let middle = Middle { words: &middle, from: at, grain: Grain::Plain };
            // SAFETY: demands have disjoint ranges of `middle`, and each unit is dealt out once.
            unsafe { gate_up_units(kernels, pages.gate_up(slot), x, units, &middle) };
        };
        let cores = Cores { kernels, parallel: world.parallel };
        let clock = world.clock;
        let time = {
            let parts = unchecked_bytes(&ready, pages, Part::GateUp);
            multiply_and_sum(cores, clock, &parts, deal, self.sums, &multiply)
        };
        self.judge(world, cache, Part::GateUp, &ready, time, |_, ready| {
            demands[ready.at].stage = Stage::Down(ready.slot);
        })?;
        Ok(true)
    }

    /// Computes down of every expert whose down part is here and whose gate-up is done. Says
    /// whether there was any.
    fn down<'a>(
        &mut self,
        world: &mut World<'_, 'a>,
        cache: &mut Cache<'a>,
        demands: &mut Demands,
    ) -> Result<bool, PageError> {
        let ready = Ready::list(demands, cache, Part::Down);
        let Some(&Ready { slot, .. }) = ready.first() else { return Ok(false) };
        let ff = self.shape.expert_ff as usize;
        let words = Grain::Plain.words(1, ff);
        let out = Shared::new(self.out);
        let w = cache.down(slot).shape;
        let bytes = w.format.tile_row_bytes(w.blocks());
        let deal = Deal { count: w.tile_rows(), step: GROUP, bytes };
        let (kernels, middle, listed, pages) = (self.kernels, &*self.middle, &*demands, &*cache);
        let multiply = |index: usize, tile_rows| {
            let Ready { at, slot, .. } = ready[index];
            let demand = &listed[at];
            let tiling = Tiling::new(demand.tokens, kernels.width);
            let x = Activations::new(&middle[demand.from * words..], tiling, ff, Grain::Plain);
            let output = Output {
                out: &out,
                index: Some(&self.rows[demand.from..][..demand.tokens]),
                write: Write::Store,
            };
            // SAFETY: demands have disjoint rows of `out`, and each tile row is dealt out once.
            unsafe { project_tile_rows(kernels, pages.down(slot), x, tile_rows, &output) };
        };
        let cores = Cores { kernels, parallel: world.parallel };
        let clock = world.clock;
        let time = {
            let parts = unchecked_bytes(&ready, pages, Part::Down);
            multiply_and_sum(cores, clock, &parts, deal, self.sums, &multiply)
        };
        self.judge(world, cache, Part::Down, &ready, time, |cache, ready| {
            demands[ready.at].stage = Stage::Done;
            cache.release(ready.slot);
        })?;
        Ok(true)
    }

    /// Compares the sums of what was computed with what was packed, and calls `count` for every
    /// expert whose results count. `time` is what the sums took.
    fn judge<'a>(
        &self,
        world: &mut World<'_, 'a>,
        cache: &mut Cache<'a>,
        part: Part,
        ready: &[Ready],
        time: Micros,
        mut count: impl FnMut(&mut Cache<'a>, &Ready),
    ) -> Result<(), PageError> {
        cache.checked_for(time);
        for (index, ready) in ready.iter().enumerate() {
            let chunks = sum_chunks(cache.bytes(ready.slot, part).len());
            let sums = &self.sums[index * chunks..][..chunks];
            if !ready.unchecked || cache.check(world, ready.slot, part, sums)? {
                count(cache, ready);
            }
        }
        Ok(())
    }
}

/// The bytes of the parts that are to be summed.
fn unchecked_bytes<'c>(
    ready: &[Ready],
    cache: &'c Cache<'_>,
    part: Part,
) -> heapless::Vec<Option<&'c [u8]>, MAX_EXPERTS> {
    ready.iter().map(|ready| ready.unchecked.then(|| cache.bytes(ready.slot, part))).collect()
}
