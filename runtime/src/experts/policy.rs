//! Which page gives way to another.

use crate::arena::{Arena, ArenaFull};

/// What is remembered of every page, in RAM or not: the counts of evicted pages are what keeps a
/// cache smaller than one token's pages from thrashing.
#[derive(Debug)]
pub struct History<'a> {
    pages: &'a mut [Usage],
    /// Tokens so far.
    now: u32,
    /// Pages of a bank.
    experts: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Usage {
    /// Uses so far, halved every [`History::HALF_LIFE`] tokens; as of `last`.
    count: f32,
    /// Token of the last use; 0 when never used.
    last: u32,
    /// Order of the last use among all uses, which breaks ties within a token.
    order: u32,
}

impl<'a> History<'a> {
    /// Tokens after which a use counts half.
    pub const HALF_LIFE: f32 = 64.0;

    /// Bytes for `pages` pages.
    pub const fn bytes(pages: usize) -> usize {
        Arena::cost::<Usage>(pages)
    }

    /// Nothing has been used yet.
    pub fn new(pages: usize, experts: usize, arena: &mut Arena<'a>) -> Result<Self, ArenaFull> {
        let pages = arena.build(pages, |_| Ok(Usage::default()))?;
        Ok(Self { pages, now: 1, experts: experts as u32 })
    }

    /// `page` is used by `tokens` tokens of the batch; `order` grows with every use.
    pub fn used(&mut self, page: u32, tokens: u32, order: u32) {
        let count = self.count(page) + tokens as f32;
        self.pages[page as usize] = Usage { count, last: self.now, order };
    }

    /// A batch of `tokens` tokens is over.
    pub fn advance(&mut self, tokens: u32) {
        self.now = self.now.saturating_add(tokens);
    }

    /// Uses of `page`, decayed until now.
    pub fn count(&self, page: u32) -> f32 {
        let usage = self.pages[page as usize];
        let age = self.now - usage.last;
        usage.count * libm::exp2f(-(age as f32) / Self::HALF_LIFE)
    }

    /// When `page` was last used: greater is more recent.
    pub fn recency(&self, page: u32) -> u32 {
        self.pages[page as usize].order
    }

    /// The bank that `page` belongs to.
    pub fn bank(&self, page: u32) -> u32 {
        page / self.experts
    }

    /// How many banks there are.
    pub fn banks(&self) -> u32 {
        self.pages.len() as u32 / self.experts
    }
}

/// Chooses what to evict. No choice can change a result, only how long it takes.
pub trait Policy: Sync {
    /// As in options and reports.
    fn name(&self) -> &'static str;

    /// One of `candidates` (pages that may go) to give up for `incoming`, `None` only when there
    /// are none. `slots` is how many pages fit.
    fn victim(
        &self,
        history: &History<'_>,
        incoming: u32,
        slots: usize,
        candidates: &mut dyn Iterator<Item = u32>,
    ) -> Option<u32>;
}

/// The page whose last use is longest ago.
#[derive(Debug, Clone, Copy)]
pub struct Lru;

impl Policy for Lru {
    fn name(&self) -> &'static str {
        "lru"
    }

    fn victim(
        &self,
        history: &History<'_>,
        _: u32,
        _: usize,
        candidates: &mut dyn Iterator<Item = u32>,
    ) -> Option<u32> {
        candidates.min_by_key(|&page| history.recency(page))
    }
}

/// Least recently used within the incoming page's layer once that layer has its share of the
/// slots, else within the layer that is furthest over its share.
#[derive(Debug, Clone, Copy)]
pub struct LayerLru;

impl Policy for LayerLru {
    fn name(&self) -> &'static str {
        "layer-lru"
    }

    fn victim(
        &self,
        history: &History<'_>,
        incoming: u32,
        slots: usize,
        candidates: &mut dyn Iterator<Item = u32>,
    ) -> Option<u32> {
        let mut held = [0_u16; crate::image::MAX_LAYERS];
        let mut oldest = [(u32::MAX, None); crate::image::MAX_LAYERS];
        for page in candidates {
            let bank = history.bank(page) as usize;
            held[bank] += 1;
            if history.recency(page) < oldest[bank].0 || oldest[bank].1.is_none() {
                oldest[bank] = (history.recency(page), Some(page));
            }
        }
        let share = slots as u32 / history.banks();
        let own = history.bank(incoming) as usize;
        let bank = if u32::from(held[own]) >= share.max(1) {
            own
        } else {
            (0..held.len()).max_by_key(|&bank| held[bank])?
        };
        oldest[bank].1
    }
}

/// The page with the smallest decayed count of uses; evicted pages keep theirs. Ties go to the
/// page used longest ago.
#[derive(Debug, Clone, Copy)]
pub struct DecayedLfu;

impl Policy for DecayedLfu {
    fn name(&self) -> &'static str {
        "lfu"
    }

    fn victim(
        &self,
        history: &History<'_>,
        _: u32,
        _: usize,
        candidates: &mut dyn Iterator<Item = u32>,
    ) -> Option<u32> {
        candidates
            .map(|page| (history.count(page), history.recency(page), page))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, _, page)| page)
    }
}
