//! The mixture of experts: every chosen expert's page is found or fetched, computed as it arrives,
//! and its results are added in router order, so that timing never changes a sum.

use core::ops::Range;

use super::product::{
    Activations, Cores, Grain, Middle, Rows, Tiling, UNIT, UNIT_TILE_ROWS, Write, activation_words,
    gate_up_units, part_len, project_tile_rows,
};
use super::router::{Choices, route};
use super::scratch::Scratch;
use super::weights::RouterWeights;
use crate::experts::{Cache, PageError, Part, SlotId};
use crate::image::{MAX_EXPERTS, MAX_TOP_K, Shape};
use crate::kernels::Kernels;
use crate::seams::{Event, Shared, World, for_each_chunk};

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
}

/// A batch with so many choices for each expert of a layer will want all of them.
const WANTS_ALL: usize = 4;

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

/// Adds the experts of `scratch.normed`, rows for the positions `batch`, to `scratch.x`.
pub fn forward<'a>(
    world: &mut World<'_, 'a>,
    layer: MoeLayer<'_>,
    batch: Range<usize>,
    scratch: &mut Scratch<'_>,
    cache: &mut Cache<'a>,
) -> Result<(), PageError> {
    let MoeLayer { shape, router: w, next, kernels } = layer;
    let (position, tokens) = (batch.start, batch.len());
    let hidden = shape.hidden as usize;
    let top_k = shape.top_k as usize;
    let cores = Cores { kernels, parallel: world.parallel };
    let choices =
        Choices { scores: scratch.scores, chosen: scratch.chosen, weights: scratch.weights };
    route(cores, shape, w, &scratch.normed[..tokens * hidden], choices);
    for (entry, &expert) in scratch.chosen[..tokens * top_k].iter().enumerate() {
        let position = (position + entry / top_k) as u32;
        world.events.hear(Event::Routed { position, bank: w.bank as u16, expert });
    }

    let guesses = next.map(|next| guess(cores, shape, &next, tokens, scratch)).unwrap_or_default();
    let mut guesses = guesses.into_iter();
    let mut demands = list(shape, w.bank, tokens, scratch, cache);
    let normed = &scratch.normed[..tokens * hidden];
    let bank = Bank {
        shape,
        x: Activations::quantise(cores, normed, hidden, 1, Grain::Plain, scratch.quants),
        by_expert: scratch.by_expert,
        rows: scratch.rows,
    };
    let out = &mut scratch.wide[..tokens * top_k * hidden];
    cache.manage(world, |cache, world| {
        for demand in &mut demands {
            if let Some(slot) = cache.want(world, demand.page, demand.tokens as u32)? {
                demand.stage = Stage::GateUp(slot);
            }
        }
        cache.settle(w.bank, tokens as u32);
        Ok(())
    })?;
    let mut guess = guesses.next();
    loop {
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
            Ok(())
        })?;
        cache.check(world)?;
        let cores = Cores { kernels, parallel: world.parallel };
        let gated = bank.gate_up(cores, cache, &mut demands, scratch.gathered, scratch.middle);
        let done = bank.down(cores, cache, &mut demands, scratch.middle, out);
        if demands.iter().all(|demand| demand.stage == Stage::Done) {
            break;
        }
        if !gated && !done {
            cache.wait(world)?;
        }
    }

    let weights = &*scratch.weights;
    for_each_chunk(world.parallel, &mut scratch.x[..tokens * hidden], hidden, |token, x| {
        for rank in token * top_k..(token + 1) * top_k {
            (kernels.add_scaled)(x, &out[rank * hidden..][..hidden], weights[rank]);
        }
    });
    Ok(())
}

/// The experts that the next MoE layer will probably want: its router's choices, were its input
/// what this layer's is.
fn guess(
    cores: Cores<'_>,
    shape: &Shape,
    next: &Next<'_>,
    tokens: usize,
    scratch: &mut Scratch<'_>,
) -> heapless::Vec<usize, MAX_EXPERTS> {
    let [hidden, experts, top_k] = [shape.hidden, shape.experts, shape.top_k].map(|x| x as usize);
    if tokens * top_k >= WANTS_ALL * experts {
        return (0..experts).collect();
    }
    let mut wanted = [false; MAX_EXPERTS];
    let normed = &mut scratch.inner[..hidden];
    for x in scratch.x[..tokens * hidden].chunks_exact(hidden) {
        let [mut scores, mut weights] = [[0.0; MAX_EXPERTS]; 2];
        let mut chosen = [0; MAX_TOP_K];
        (cores.kernels.rms_norm)(x, next.norm, shape.norm_eps, normed);
        let choices = Choices { scores: &mut scores, chosen: &mut chosen, weights: &mut weights };
        route(cores, shape, next.router, normed, choices);
        chosen[..top_k].iter().for_each(|&expert| wanted[usize::from(expert)] = true);
    }
    (0..experts).filter(|&expert| wanted[expert]).collect()
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
    /// The normed activations, one panel a token.
    x: Activations<'b>,
    by_expert: &'b [u32],
    rows: &'b [u32],
}

impl Bank<'_> {
    /// Computes gate-up of every expert whose gate-up part is here. Says whether there was any.
    fn gate_up(
        &self,
        cores: Cores<'_>,
        cache: &Cache<'_>,
        demands: &mut Demands,
        gathered: &mut [i32],
        middle: &mut [i32],
    ) -> bool {
        let mut ready = heapless::Vec::<(Demand, SlotId), MAX_EXPERTS>::new();
        for demand in demands.iter_mut() {
            if let Stage::GateUp(slot) = demand.stage
                && cache.has(slot, Part::GateUp)
            {
                let pushed = ready.push((*demand, slot));
                debug_assert!(pushed.is_ok(), "there are at most MAX_EXPERTS");
                demand.stage = Stage::Down(slot);
            }
        }
        let Some(&(_, slot)) = ready.first() else { return false };
        let [hidden, ff] = [self.shape.hidden, self.shape.expert_ff].map(|x| x as usize);
        let words = activation_words(1, hidden);
        let gathered_words = Shared::new(gathered);
        if ready.iter().any(|(demand, _)| demand.tokens > 1) {
            cores.parallel.run(ready.len(), &|index| {
                let demand = &ready[index].0;
                // SAFETY: demands have disjoint ranges, and each is run once.
                let panels =
                    unsafe { gathered_words.part(demand.from * words, demand.tokens * words) };
                let tokens = &self.by_expert[demand.from..][..demand.tokens];
                Activations::gather(&self.x, tokens, cores.kernels.width, panels);
            });
        }
        let gathered = &*gathered;
        let middle = Shared::new(middle);
        let units = ff / UNIT;
        let w = cache.gate_up(slot).shape;
        let unit_bytes = w.format.tile_row_bytes(w.blocks()) * UNIT_TILE_ROWS;
        let part = part_len(cores.parallel, units, 1, unit_bytes);
        let parts = units.div_ceil(part);
        cores.parallel.run(ready.len() * parts, &|index| {
            let (demand, slot) = ready[index / parts];
            let x = if demand.tokens == 1 {
                self.x.row(self.by_expert[demand.from] as usize)
            } else {
                let tiling = Tiling::new(demand.tokens, cores.kernels.width);
                Activations::new(&gathered[demand.from * words..], tiling, hidden, Grain::Plain)
            };
            let from = index % parts * part;
            let to = (from + part).min(units);
            let at = demand.from * activation_words(1, ff);
            let middle = Middle { words: &middle, from: at, grain: Grain::Plain };
            // SAFETY: demands have disjoint ranges of `middle`, parts have disjoint units.
            unsafe { gate_up_units(cores.kernels, cache.gate_up(slot), x, from..to, &middle) };
        });
        true
    }

    /// Computes down of every expert whose down part is here and whose gate-up is done. Says
    /// whether there was any.
    fn down(
        &self,
        cores: Cores<'_>,
        cache: &mut Cache<'_>,
        demands: &mut Demands,
        middle: &[i32],
        out: &mut [f32],
    ) -> bool {
        let mut ready = heapless::Vec::<(Demand, SlotId), MAX_EXPERTS>::new();
        for demand in demands.iter_mut() {
            if let Stage::Down(slot) = demand.stage
                && cache.has(slot, Part::Down)
            {
                let pushed = ready.push((*demand, slot));
                debug_assert!(pushed.is_ok(), "there are at most MAX_EXPERTS");
                demand.stage = Stage::Done;
            }
        }
        let Some(&(_, slot)) = ready.first() else { return false };
        let ff = self.shape.expert_ff as usize;
        let words = activation_words(1, ff);
        let out = Shared::new(out);
        let w = cache.down(slot).shape;
        let tile_rows = w.tile_rows();
        let part = part_len(cores.parallel, tile_rows, 4, w.format.tile_row_bytes(w.blocks()));
        let parts = tile_rows.div_ceil(part);
        let pages = &*cache;
        cores.parallel.run(ready.len() * parts, &|index| {
            let (demand, slot) = ready[index / parts];
            let tiling = Tiling::new(demand.tokens, cores.kernels.width);
            let x = Activations::new(&middle[demand.from * words..], tiling, ff, Grain::Plain);
            let from = index % parts * part;
            let rows = Rows {
                out: &out,
                index: Some(&self.rows[demand.from..][..demand.tokens]),
                write: Write::Store,
            };
            let tile_rows = from..(from + part).min(tile_rows);
            // SAFETY: demands have disjoint rows of `out`, parts have disjoint columns.
            unsafe {
                project_tile_rows(cores.kernels, pages.down(slot), x, tile_rows, &rows);
            }
        });
        ready.iter().for_each(|&(_, slot)| cache.release(slot));
        true
    }
}
