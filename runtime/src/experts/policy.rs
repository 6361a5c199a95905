//! Which page gives way to another.

use core::fmt;

use super::history::History;

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

/// Every policy that needs no foresight, the default first.
pub static POLICIES: [&dyn Policy; 4] = [&Reuse, &DecayedLfu, &LayerLru, &Lru];

impl fmt::Debug for dyn Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The policy of that name.
pub fn policy(name: &str) -> Option<&'static dyn Policy> {
    POLICIES.into_iter().find(|policy| policy.name() == name)
}

/// The page that is expected to be wanted last: [`History::distance`].
///
/// Like an oracle it evicts by the time until the next use, only that it estimates that time: the
/// layers until a page's bank has its turn are known, the tokens that will do without it follow
/// from how often it was used of late, over short and long times. Below one token's pages this
/// keeps what a cycle needs next, where least recently used keeps what it needs last.
#[derive(Debug, Clone, Copy)]
pub struct Reuse;

impl Policy for Reuse {
    fn name(&self) -> &'static str {
        "reuse"
    }

    fn victim(
        &self,
        history: &History<'_>,
        _: u32,
        _: usize,
        candidates: &mut dyn Iterator<Item = u32>,
    ) -> Option<u32> {
        candidates
            .map(|page| (history.distance(page), page))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, page)| page)
    }
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
        let mut oldest = [(u64::MAX, None); crate::image::MAX_LAYERS];
        for page in candidates {
            let bank = history.bank_of(page) as usize;
            held[bank] += 1;
            if history.recency(page) < oldest[bank].0 || oldest[bank].1.is_none() {
                oldest[bank] = (history.recency(page), Some(page));
            }
        }
        let share = slots as u32 / history.banks();
        let own = history.bank_of(incoming) as usize;
        let bank = if u32::from(held[own]) >= share.max(1) {
            own
        } else {
            (0..held.len()).max_by_key(|&bank| held[bank])?
        };
        oldest[bank].1
    }
}

/// The page that the smallest share of tokens used of late; pages that left keep theirs. Ties go
/// to the page used longest ago.
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
            .map(|page| (history.rates(page)[1], history.recency(page), page))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .map(|(_, _, page)| page)
    }
}
