//! Which page is in which slot, and which one gives way: the decisions of a cache, without the
//! bytes. A replay of a recorded run makes them with nothing but a [`Shelf`].

use super::history::History;
use super::policy::Policy;
use crate::arena::{Arena, ArenaFull};

/// A slot's number.
pub type SlotId = u16;

const NO_PAGE: u32 = u32::MAX;

/// What is in a slot.
#[derive(Debug, Clone, Copy)]
struct Entry {
    page: u32,
    /// The layer that is being computed needs it.
    pinned: bool,
    /// It was placed on a guess that has not come true and may still.
    ahead: bool,
    /// Its memory is in the hands of the storage.
    away: bool,
}

impl Entry {
    const EMPTY: Self = Self { page: NO_PAGE, pinned: false, ahead: false, away: false };
}

/// A page that was wanted and has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The slot.
    pub slot: SlotId,
    /// It was placed on a guess, which came true with this.
    pub guessed: bool,
}

/// A page that has just been given a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// The slot.
    pub slot: SlotId,
    /// The page that was there.
    pub evicted: Option<u32>,
}

/// The slots' contents.
pub struct Shelf<'a> {
    entries: &'a mut [Entry],
    /// For each page its slot + 1, or 0.
    slot_of: &'a mut [u16],
    /// Uses of every page.
    pub history: History<'a>,
    policy: &'a dyn Policy,
    /// Guesses that came to nothing.
    wasted: u64,
}

impl<'a> Shelf<'a> {
    /// Bytes it takes.
    pub const fn bytes(pages: usize, slots: usize, conversations: usize) -> usize {
        Arena::cost::<Entry>(slots)
            + Arena::cost::<u16>(pages)
            + History::bytes(pages, Self::voices(pages, slots, conversations))
    }

    /// An empty shelf of `slots` slots for so many conversations. There are `banks` banks of `experts`
    /// pages, of which a token uses `top_k`.
    pub fn new(
        [banks, experts, top_k]: [u32; 3],
        slots: usize,
        conversations: usize,
        policy: &'a dyn Policy,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        let pages = (banks * experts) as usize;
        let voices = Self::voices(pages, slots, conversations);
        Ok(Self {
            entries: arena.build(slots, |_| Ok(Entry::EMPTY))?,
            slot_of: arena.zeros(pages)?,
            history: History::new(pages, [experts, top_k], voices, arena)?,
            policy,
            wasted: 0,
        })
    }

    /// Whose habits matter: nobody's where all pages fit.
    const fn voices(pages: usize, slots: usize, conversations: usize) -> usize {
        if slots < pages { conversations } else { 1 }
    }

    /// How many pages fit.
    pub const fn slots(&self) -> usize {
        self.entries.len()
    }

    /// The page in slot `id`.
    pub fn page(&self, id: SlotId) -> Option<u32> {
        Some(self.entries[id as usize].page).filter(|&page| page != NO_PAGE)
    }

    /// The slot of `page`.
    pub fn slot(&self, page: u32) -> Option<SlotId> {
        self.slot_of[page as usize].checked_sub(1)
    }

    /// `tokens` tokens want `page` now: pins it where it has a slot.
    pub fn want(&mut self, page: u32, tokens: u32) -> Option<Found> {
        self.history.used(page, tokens);
        let slot = self.slot(page)?;
        let entry = &mut self.entries[slot as usize];
        entry.pinned = true;
        Some(Found { slot, guessed: core::mem::take(&mut entry.ahead) })
    }

    /// All that a batch of `tokens` tokens wants of `bank` has been told. Guesses about it that did
    /// not come true are pages like any other from now on.
    pub fn settle(&mut self, bank: u32, tokens: u32, is_answer: bool) {
        self.history.settle(bank, tokens, is_answer);
        for entry in self.entries.iter_mut().filter(|entry| entry.ahead) {
            entry.ahead = self.history.bank_of(entry.page) != bank;
            self.wasted += u64::from(!entry.ahead);
        }
    }

    /// Gives `page` a slot, pinned. `None` when every slot is pinned or away.
    pub fn place(&mut self, page: u32) -> Option<Placed> {
        // A guess that may still come true gives way last.
        let placed = self.assign(page, false).or_else(|| self.assign(page, true))?;
        self.entries[placed.slot as usize].pinned = true;
        Some(placed)
    }

    /// Gives `page` a slot on a guess. `None` when none is to spare.
    pub fn place_ahead(&mut self, page: u32) -> Option<Placed> {
        let placed = self.assign(page, false)?;
        self.entries[placed.slot as usize].ahead = true;
        Some(placed)
    }

    /// Gives `page` a slot that is empty, not pinned. `None` when there is none.
    pub fn place_in_empty(&mut self, page: u32) -> Option<Placed> {
        let slot = self.empty()?;
        Some(self.put(page, slot, None))
    }

    /// The layer is done with the page in slot `id`.
    pub fn release(&mut self, id: SlotId) {
        self.entries[id as usize].pinned = false;
    }

    /// Whether the layer that is being computed needs the page in slot `id`.
    pub fn is_pinned(&self, id: SlotId) -> bool {
        self.entries[id as usize].pinned
    }

    /// Whether the page in slot `id` was placed on a guess that may still come true.
    pub fn is_guess(&self, id: SlotId) -> bool {
        self.entries[id as usize].ahead
    }

    /// Whether the memory of slot `id` is in the hands of the storage.
    pub fn is_away(&self, id: SlotId) -> bool {
        self.entries[id as usize].away
    }

    /// The memory of slot `id` is in the hands of the storage, or not: while it is, the slot keeps
    /// its page.
    pub fn set_away(&mut self, id: SlotId, away: bool) {
        self.entries[id as usize].away = away;
    }

    /// Empties slot `id`.
    pub fn forget(&mut self, id: SlotId) {
        let entry = &mut self.entries[id as usize];
        if entry.page != NO_PAGE {
            self.slot_of[entry.page as usize] = 0;
            self.wasted += u64::from(entry.ahead);
        }
        *entry = Entry { away: entry.away, ..Entry::EMPTY };
    }

    /// Guesses that came to nothing so far: their turn passed, or they gave way before it.
    pub fn wasted(&self) -> u64 {
        self.wasted
    }

    /// Takes an empty slot, or that of a page that the policy gives up; guesses are spared or not.
    fn assign(&mut self, page: u32, guesses: bool) -> Option<Placed> {
        let (slot, evicted) = match self.empty() {
            Some(slot) => (slot, None),
            None => {
                let slots = self.entries.len();
                let mut candidates = self
                    .entries
                    .iter()
                    .filter(|p| p.page != NO_PAGE && !p.pinned && !p.away && (guesses || !p.ahead))
                    .map(|p| p.page);
                let victim = self.policy.victim(&self.history, page, slots, &mut candidates)?;
                let slot = self.slot(victim)?;
                self.slot_of[victim as usize] = 0;
                self.wasted += u64::from(self.entries[slot as usize].ahead);
                (slot, Some(victim))
            }
        };
        Some(self.put(page, slot, evicted))
    }

    fn empty(&self) -> Option<SlotId> {
        let empty = |entry: &Entry| entry.page == NO_PAGE && !entry.away;
        self.entries.iter().position(empty).map(|slot| slot as SlotId)
    }

    fn put(&mut self, page: u32, slot: SlotId, evicted: Option<u32>) -> Placed {
        self.entries[slot as usize] = Entry { page, ..Entry::EMPTY };
        self.slot_of[page as usize] = slot + 1;
        Placed { slot, evicted }
    }
}

#[cfg(test)]
mod tests {
    use super::super::policy::{Lru, POLICIES};
    use super::*;

    const SHAPE: [u32; 3] = [2, 4, 2];

    fn with_shelf(slots: usize, policy: &dyn Policy, body: impl FnOnce(&mut Shelf<'_>)) {
        let mut memory = std::vec![0; Shelf::bytes(8, slots, 1) + 64];
        body(&mut Shelf::new(SHAPE, slots, 1, policy, &mut Arena::new(&mut memory)).unwrap());
    }

    #[test]
    fn what_is_pinned_away_or_guessed_stays() {
        with_shelf(3, &Lru, |shelf| {
            for page in 0..3 {
                assert_eq!(shelf.want(page, 1), None);
                assert_eq!(shelf.place(page).unwrap(), Placed { slot: page as u16, evicted: None });
            }
            assert_eq!(shelf.place(3), None, "all are pinned");
            shelf.release(0);
            shelf.set_away(0, true);
            assert_eq!(shelf.place(3), None, "one is away, two are pinned");
            shelf.set_away(0, false);
            assert_eq!(shelf.place_ahead(4).unwrap(), Placed { slot: 0, evicted: Some(0) });
            assert_eq!(shelf.place_ahead(5), None, "a guess spares a guess");
            shelf.release(1);
            assert_eq!(shelf.place(3).unwrap().evicted, Some(1));
            assert_eq!(shelf.place(1).unwrap().evicted, Some(4), "a guess gives way last");
            assert_eq!(shelf.wasted(), 1);
        });
    }

    #[test]
    fn guesses_come_true_or_become_pages_like_any_other() {
        with_shelf(3, &Lru, |shelf| {
            [4, 5].iter().for_each(|&page| assert!(shelf.place_ahead(page).is_some()));
            assert_eq!(shelf.want(4, 1), Some(Found { slot: 0, guessed: true }));
            shelf.settle(1, 1, true);
            assert_eq!(shelf.wasted(), 1);
            assert_eq!(shelf.want(5, 1), Some(Found { slot: 1, guessed: false }));
        });
    }

    #[test]
    fn every_policy_keeps_pages_and_slots_in_step() {
        for policy in POLICIES {
            for slots in 2..=8 {
                with_shelf(slots, policy, |shelf| {
                    for token in 0..50_u32 {
                        for bank in 0..2 {
                            let wanted = [token % 4, (token * token + 1) % 4].map(|e| bank * 4 + e);
                            let wanted = &wanted[..1 + usize::from(wanted[0] != wanted[1])];
                            let found = [0, 1].map(|i| shelf.want(*wanted.get(i)?, 1));
                            shelf.settle(bank, 1, true);
                            for (page, found) in wanted.iter().zip(found) {
                                if found.is_none() {
                                    assert!(shelf.place(*page).is_some(), "{}", policy.name());
                                }
                            }
                            for &page in wanted {
                                let slot = shelf.slot(page).unwrap();
                                assert_eq!(shelf.page(slot), Some(page));
                                shelf.release(slot);
                            }
                        }
                    }
                    let held = (0..8).filter(|&page| shelf.slot(page).is_some()).count();
                    assert!(held <= slots);
                });
            }
        }
    }
}
