//! Slots of RAM that hold pages.
//!
//! A slot is two buffers, cut from the arena once: the bytes before down and the rest of a page.
//! They travel through the storage separately, so that gate and up can be used while down is still
//! arriving. Eviction changes an index; no memory is ever mapped, moved or freed.

use core::fmt;

use super::policy::{History, Policy};
use crate::arena::{Arena, ArenaFull};
use crate::image::{Image, PAGE_ALIGN, PageShape, checksum};
use crate::model::weights::Matrix;
use crate::seams::{
    Completion, Event, Micros, Read, Slice, StorageError, StorageErrorKind, Urgency, World,
};

/// A slot's number.
pub type SlotId = u16;

/// A part of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The bytes before down: gate and up.
    GateUp,
    /// Down, and the padding.
    Down,
}

/// A part that has arrived, and is what was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The slot.
    pub slot: SlotId,
    /// The part.
    pub part: Part,
}

/// What is wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PageFault {
    /// The device cannot read it.
    Storage(StorageError),
    /// The bytes are not those that were packed, however often they are read.
    Checksum,
}

/// A page that cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PageError {
    /// The page.
    pub page: u32,
    /// MoE layer, counted from the first MoE layer.
    pub bank: u32,
    /// Expert.
    pub expert: u32,
    /// Where in the image.
    pub offset: u64,
    /// What is wrong.
    pub fault: PageFault,
}

impl fmt::Display for PageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { page, bank, expert, offset, fault } = self;
        write!(f, "page {page} (MoE layer {bank}, expert {expert}) at offset {offset}: ")?;
        match fault {
            PageFault::Storage(error) => error.fmt(f),
            PageFault::Checksum => {
                write!(f, "its checksum is wrong; the image is damaged, copy it again")
            }
        }
    }
}

impl core::error::Error for PageError {}

/// What the cache has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CacheStats {
    /// Pages that were wanted and in RAM.
    pub hits: u64,
    /// Pages that were wanted and not in RAM.
    pub misses: u64,
    /// Pages that left RAM.
    pub evictions: u64,
    /// Bytes asked of the storage.
    pub bytes: u64,
    /// Reads that were tried again.
    pub retries: u64,
    /// Pages that were read on a guess.
    pub ahead: u64,
    /// Of them, those that were wanted while they were in RAM or on their way.
    pub ahead_useful: u64,
    /// Time spent waiting for the storage with nothing else to do.
    pub waiting: Micros,
    /// Time spent on checksums.
    pub checking: Micros,
}

/// How often a read is tried again before the page is given up.
const MAX_RETRIES: u8 = 4;
const NO_PAGE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<'a> {
    page: u32,
    /// Its page is needed by the layer that is being computed.
    pinned: bool,
    /// A part of it cannot be had.
    failed: bool,
    /// Its page was read on a guess and has not been wanted yet.
    ahead: bool,
    /// When its page was asked for.
    since: Micros,
    parts: [SlotPart<'a>; 2],
}

#[derive(Debug)]
struct SlotPart<'a> {
    /// `None` while the storage has it.
    buffer: Option<Slice<'a>>,
    /// It holds its part of `page`, checked.
    valid: bool,
    /// How often reading it failed.
    attempts: u8,
}

/// Where a cache takes its memory from.
pub struct Memory<'m, 'a> {
    /// For everything but the pages, [`Cache::index_bytes`].
    pub index: &'m mut Arena<'a>,
    /// For the pages.
    pub pages: &'m mut Arena<'a>,
    /// How many pages fit.
    pub slots: usize,
}

/// The slots and what is in them.
pub struct Cache<'a> {
    slots: &'a mut [Slot<'a>],
    /// For each page its slot + 1, or 0.
    slot_of: &'a mut [u16],
    /// For each page the checksums of its parts.
    sums: &'a [[u64; 2]],
    /// Uses of every page.
    pub history: History<'a>,
    policy: &'static dyn Policy,
    shape: PageShape,
    /// Where the second part begins in a slot: where down does, or the whole page's length.
    split: usize,
    pages_at: u64,
    experts: u32,
    under_way: usize,
    uses: u32,
    /// What happened so far.
    pub stats: CacheStats,
}

impl<'a> Cache<'a> {
    /// Bytes of everything but the slots' pages.
    pub const fn index_bytes(pages: usize, slots: usize) -> usize {
        Arena::cost::<Slot<'_>>(slots) + Arena::cost::<u16>(pages) + History::bytes(pages)
    }

    /// An empty cache. `sums` is the page-sums section. `alignment` is the storage's: parts are
    /// read one at a time only where that allows it.
    pub fn new(
        image: &Image,
        shape: PageShape,
        sums: &'a [[u64; 2]],
        alignment: usize,
        policy: &'static dyn Policy,
        memory: Memory<'_, 'a>,
    ) -> Result<Self, ArenaFull> {
        let split = if shape.splits_at(alignment) { shape.down_at() } else { shape.bytes() };
        let Memory { index, pages: arena, slots } = memory;
        let slots = index.build(slots, |_| {
            let (head, tail) = arena.bytes(shape.bytes(), PAGE_ALIGN)?.split_at_mut(split);
            let part = |buffer| SlotPart { buffer: Some(buffer), valid: false, attempts: 0 };
            Ok(Slot {
                page: NO_PAGE,
                pinned: false,
                failed: false,
                ahead: false,
                since: 0,
                parts: [part(head), part(tail)],
            })
        })?;
        let experts = image.manifest.shape.experts;
        let pages = image.manifest.pages();
        Ok(Self {
            slots,
            slot_of: index.zeros(pages)?,
            sums,
            history: History::new(pages, experts as usize, index)?,
            policy,
            shape,
            split,
            pages_at: image.page_offset(0),
            experts,
            under_way: 0,
            uses: 0,
            stats: CacheStats::default(),
        })
    }

    /// How many pages fit.
    pub const fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The number of an expert's page.
    pub const fn page(&self, bank: usize, expert: usize) -> u32 {
        bank as u32 * self.experts + expert as u32
    }

    /// `tokens` tokens want `page` now. Pins it and counts a hit when it is in RAM or on its way.
    pub fn want(
        &mut self,
        world: &mut World<'_, 'a>,
        page: u32,
        tokens: u32,
    ) -> Result<Option<SlotId>, PageError> {
        self.uses += 1;
        self.history.used(page, tokens, self.uses);
        let Some(id) = self.slot_of[page as usize].checked_sub(1) else {
            self.stats.misses += 1;
            return Ok(None);
        };
        self.stats.hits += 1;
        let slot = &mut self.slots[id as usize];
        slot.pinned = true;
        slot.failed = false;
        let guessed = core::mem::take(&mut slot.ahead);
        self.stats.ahead_useful += u64::from(guessed);
        for part in [Part::GateUp, Part::Down] {
            let state = &mut self.slots[id as usize].parts[part as usize];
            if state.buffer.is_none() {
                world.storage.hurry(tag(id, part));
            } else if !state.valid {
                // A guess whose read failed.
                state.attempts = 0;
                self.submit(world, id, part, Urgency::Demand)?;
            }
        }
        Ok(Some(id))
    }

    /// Gives `page` a slot, pinned, and starts to read it. `None` when every slot is pinned or
    /// away: finish something first.
    pub fn fetch(
        &mut self,
        world: &mut World<'_, 'a>,
        page: u32,
    ) -> Result<Option<SlotId>, PageError> {
        // A guess that has not come true gives way last.
        let Some(id) =
            self.free_slot(world, page, false).or_else(|| self.free_slot(world, page, true))
        else {
            return Ok(None);
        };
        self.assign(world, id, page);
        self.slots[id as usize].pinned = true;
        world.events.hear(Event::Miss { page });
        self.submit(world, id, Part::GateUp, Urgency::Demand)?;
        self.submit(world, id, Part::Down, Urgency::Demand)?;
        Ok(Some(id))
    }

    /// Starts to read `page` on a guess. Says whether it is here or on its way now; it is not when
    /// no slot or no place in the queue is to spare.
    pub fn fetch_ahead(&mut self, world: &mut World<'_, 'a>, page: u32) -> bool {
        if self.slot_of[page as usize] != 0 {
            return true;
        }
        if self.under_way + 2 > usize::from(world.storage.geometry().depth) {
            return false;
        }
        let Some(id) = self.free_slot(world, page, false) else { return false };
        self.assign(world, id, page);
        self.slots[id as usize].ahead = true;
        self.stats.ahead += 1;
        for part in [Part::GateUp, Part::Down] {
            if self.submit(world, id, part, Urgency::Ahead).is_err() {
                self.slots[id as usize].failed = true;
            }
        }
        true
    }

    /// Guesses about `bank` that have not come true are pages like any other from now on.
    pub fn settle(&mut self, bank: usize) {
        for slot in self.slots.iter_mut().filter(|slot| slot.ahead) {
            slot.ahead = self.history.bank(slot.page) != bank as u32;
        }
    }

    fn assign(&mut self, world: &World<'_, 'a>, id: SlotId, page: u32) {
        let slot = &mut self.slots[id as usize];
        slot.page = page;
        slot.failed = false;
        slot.since = world.clock.now();
        for part in &mut slot.parts {
            part.valid = false;
            part.attempts = 0;
        }
        self.slot_of[page as usize] = id + 1;
    }

    /// An empty slot, or that of a page that the policy gives up. `guesses` are spared or not.
    fn free_slot(
        &mut self,
        world: &mut World<'_, 'a>,
        incoming: u32,
        guesses: bool,
    ) -> Option<SlotId> {
        let idle = |slot: &Slot<'_>| slot.parts.iter().all(|part| part.buffer.is_some());
        if let Some(id) = self.slots.iter().position(|slot| slot.page == NO_PAGE && idle(slot)) {
            return Some(id as SlotId);
        }
        let mut candidates = self
            .slots
            .iter()
            .filter(|slot| !slot.pinned && (guesses || !slot.ahead) && idle(slot))
            .map(|slot| slot.page);
        let count = self.slots.len();
        let page = self.policy.victim(&self.history, incoming, count, &mut candidates)?;
        let id = self.slot_of[page as usize] - 1;
        self.forget(id);
        self.stats.evictions += 1;
        world.events.hear(Event::Evicted { page });
        Some(id)
    }

    /// Empties a slot.
    fn forget(&mut self, id: SlotId) {
        let slot = &mut self.slots[id as usize];
        self.slot_of[slot.page as usize] = 0;
        slot.page = NO_PAGE;
        slot.pinned = false;
        slot.ahead = false;
        slot.parts.iter_mut().for_each(|part| part.valid = false);
    }

    fn submit(
        &mut self,
        world: &mut World<'_, 'a>,
        id: SlotId,
        part: Part,
        urgency: Urgency,
    ) -> Result<(), PageError> {
        if part == Part::Down && self.split == self.shape.bytes() {
            return Ok(());
        }
        let slot = &mut self.slots[id as usize];
        let start = if part == Part::GateUp { 0 } else { self.split };
        let state = &mut slot.parts[part as usize];
        let Some(into) = state.buffer.take() else { return Ok(()) };
        let attempt = state.attempts;
        self.stats.bytes += into.len() as u64;
        let mut read = Read {
            tag: tag(id, part),
            offset: self.pages_at + u64::from(slot.page) * self.shape.bytes() as u64 + start as u64,
            into,
            urgency,
            attempt,
        };
        self.under_way += 1;
        while let Err(back) = world.storage.submit(read) {
            read = back;
            // The queue is full, so something is under way and will come.
            if let Some(completion) = world.storage.wait()
                && let Err(error) = self.take(world, completion)
            {
                self.under_way -= 1;
                self.slots[id as usize].parts[part as usize].buffer = Some(read.into);
                return Err(error);
            }
        }
        Ok(())
    }

    /// What has arrived meanwhile, if anything.
    pub fn poll(&mut self, world: &mut World<'_, 'a>) -> Result<bool, PageError> {
        match world.storage.poll() {
            Some(completion) => self.take(world, completion).map(|()| true),
            None => Ok(false),
        }
    }

    /// Waits until something arrives. `false` when nothing is under way.
    pub fn wait(&mut self, world: &mut World<'_, 'a>) -> Result<bool, PageError> {
        if self.under_way == 0 {
            return Ok(false);
        }
        let before = world.clock.now();
        let completion = world.storage.wait();
        self.stats.waiting += world.clock.now() - before;
        match completion {
            Some(completion) => self.take(world, completion).map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes a buffer back, checks it, and asks again when it is wrong.
    fn take(
        &mut self,
        world: &mut World<'_, 'a>,
        completion: Completion<'a>,
    ) -> Result<(), PageError> {
        self.under_way -= 1;
        let id = (completion.tag / 2) as SlotId;
        let part = if completion.tag.is_multiple_of(2) { Part::GateUp } else { Part::Down };
        let before = world.clock.now();
        let slot = &mut self.slots[id as usize];
        let page = slot.page;
        let right = completion.result.is_ok()
            && page_sums_match(
                completion.into,
                part,
                self.split,
                &self.shape,
                &self.sums[page as usize],
            );
        let now = world.clock.now();
        self.stats.checking += now - before;
        let state = &mut slot.parts[part as usize];
        state.buffer = Some(completion.into);
        if right {
            state.valid = true;
            if self.has(id, Part::GateUp) && self.has(id, Part::Down) {
                let waited = now - self.slots[id as usize].since;
                world.events.hear(Event::Arrived { page, waited });
            }
            return Ok(());
        }
        if !slot.pinned {
            // A guess: nobody waits for it, and `want` asks again if somebody does.
            slot.failed = true;
            return Ok(());
        }
        let error = completion.result.err();
        let again = error.is_none_or(|error| error.kind == StorageErrorKind::Transient);
        if again && state.attempts < MAX_RETRIES && !slot.failed {
            state.attempts += 1;
            self.stats.retries += 1;
            world.events.hear(Event::Retry { page, error: error.map(|error| error.kind) });
            return self.submit(world, id, part, Urgency::Demand);
        }
        slot.failed = true;
        Err(PageError {
            page,
            bank: page / self.experts,
            expert: page % self.experts,
            offset: self.pages_at + u64::from(page) * self.shape.bytes() as u64,
            fault: error.map_or(PageFault::Checksum, PageFault::Storage),
        })
    }

    /// Whether a part of a slot's page is in RAM and checked.
    pub fn has(&self, id: SlotId, part: Part) -> bool {
        let parts = &self.slots[id as usize].parts;
        parts[if self.split < self.shape.bytes() { part as usize } else { 0 }].valid
    }

    /// Gate and up of the page in slot `id`, (2 expert_ff, hidden); it must be here.
    pub fn gate_up(&self, id: SlotId) -> Matrix<'_> {
        Matrix { shape: self.shape.gate_up, bytes: self.bytes(id, 0, self.shape.gate_up.bytes()) }
    }

    /// Down of the page in slot `id`, (hidden, expert_ff); it must be here.
    pub fn down(&self, id: SlotId) -> Matrix<'_> {
        let bytes = self.bytes(id, self.shape.down_at(), self.shape.down.bytes());
        Matrix { shape: self.shape.down, bytes }
    }

    fn bytes(&self, id: SlotId, at: usize, len: usize) -> &[u8] {
        let parts = &self.slots[id as usize].parts;
        let (part, at) =
            if at < self.split { (&parts[0], at) } else { (&parts[1], at - self.split) };
        let buffer = part.buffer.as_deref().filter(|_| part.valid);
        &buffer.expect("only a part that has arrived is used")[at..at + len]
    }

    /// The layer is done with the page in slot `id`.
    pub fn release(&mut self, id: SlotId) {
        self.slots[id as usize].pinned = false;
    }

    /// After an error: waits for what is under way, and empties every slot that is not whole.
    pub fn recover(&mut self, world: &mut World<'_, 'a>) {
        while self.under_way > 0 {
            // Errors of other pages add nothing to the one that is being reported.
            let _ = self.wait(world);
        }
        for id in 0..self.slots.len() as SlotId {
            let whole = self.has(id, Part::GateUp) && self.has(id, Part::Down);
            if self.slots[id as usize].page != NO_PAGE && !whole {
                self.forget(id);
            }
            self.slots[id as usize].pinned = false;
            self.slots[id as usize].failed = false;
        }
    }
}

/// The storage's name for the read of a part.
fn tag(id: SlotId, part: Part) -> u32 {
    u32::from(id) * 2 + part as u32
}

/// Whether the bytes of a slot's part are those of the page.
fn page_sums_match(
    bytes: &[u8],
    part: Part,
    split: usize,
    shape: &PageShape,
    sums: &[u64; 2],
) -> bool {
    if split < shape.bytes() {
        return checksum(bytes) == sums[part as usize];
    }
    let (head, tail) = bytes.split_at(shape.down_at());
    checksum(head) == sums[0] && checksum(tail) == sums[1]
}
