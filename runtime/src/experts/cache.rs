//! Slots of RAM that hold pages.
//!
//! A slot is two buffers, cut from the arena once: the bytes before down and the rest of a page.
//! They travel through the storage separately, so that gate and up can be used while down is still
//! arriving. Eviction changes an index; no memory is ever mapped, moved or freed.

use core::fmt;

use super::history::{History, Rates};
use super::policy::Policy;
use super::shelf::{Found, Placed, Shelf, SlotId};
use crate::arena::{Arena, ArenaFull};
use crate::image::{Image, PAGE_ALIGN, PageShape, join_sums};
use crate::kernels::Matrix;
use crate::seams::{Completion, Event, Micros, RETRIES, Read, Slice, StorageError, Urgency, World};

/// A part of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The bytes before down: gate and up.
    GateUp,
    /// Down, and the padding.
    Down,
}

/// What is wrong with a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
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
#[non_exhaustive]
pub struct CacheStats {
    /// Pages that were wanted and in RAM since an earlier token.
    pub hits: u64,
    /// Pages that were wanted and in RAM because of a guess.
    pub guessed: u64,
    /// Pages that were wanted and still on their way because of a guess.
    pub late: u64,
    /// Pages that were wanted, not in RAM and not on their way.
    pub misses: u64,
    /// Pages that left RAM.
    pub evictions: u64,
    /// Bytes that the storage gave.
    pub bytes: u64,
    /// Reads that were tried again.
    pub retries: u64,
    /// Pages that were asked for on a guess.
    pub ahead: u64,
    /// Of them, those that nobody wanted in their turn.
    pub wasted: u64,
    /// Time spent waiting for the storage with nothing else to do.
    pub waiting: Micros,
    /// Time spent on checksums.
    pub checking: Micros,
    /// Of it, the time that cost nothing: something that was needed had not arrived when the checks
    /// were done, so without them the wait for it would have been longer.
    pub hidden: Micros,
    /// Time spent deciding what goes where, and on asking the storage.
    pub managing: Micros,
}

impl CacheStats {
    /// Pages that were wanted.
    pub fn wanted(&self) -> u64 {
        self.hits + self.guessed + self.late + self.misses
    }

    /// Share of the wanted pages that were in RAM when they were wanted.
    pub fn hit_rate(&self) -> f64 {
        (self.hits + self.guessed) as f64 / self.wanted().max(1) as f64
    }

    /// What was added since `before`.
    pub fn since(self, before: Self) -> Self {
        self.zip(before, |now, before| now - before)
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }

    fn zip(self, other: Self, of: fn(u64, u64) -> u64) -> Self {
        Self {
            hits: of(self.hits, other.hits),
            guessed: of(self.guessed, other.guessed),
            late: of(self.late, other.late),
            misses: of(self.misses, other.misses),
            evictions: of(self.evictions, other.evictions),
            bytes: of(self.bytes, other.bytes),
            retries: of(self.retries, other.retries),
            ahead: of(self.ahead, other.ahead),
            wasted: of(self.wasted, other.wasted),
            waiting: of(self.waiting, other.waiting),
            checking: of(self.checking, other.checking),
            hidden: of(self.hidden, other.hidden),
            managing: of(self.managing, other.managing),
        }
    }
}

/// Parts under way while slots are warmed: one page waits behind another, so that the device is
/// busy and what is asked for meanwhile still comes soon.
const WARM_PARTS: usize = 3;

#[derive(Debug)]
struct Slot<'a> {
    /// A part of it cannot be had.
    failed: bool,
    /// Its page was a guess that did not come true: what has not been read is not to be.
    abandoned: bool,
    /// When its page was asked for.
    since: Micros,
    /// Which [`Part`]s of its page are what was packed.
    checked: [bool; 2],
    /// What is read at once: a [`Part`] each, or the whole page as the first.
    parts: [SlotPart<'a>; 2],
}

#[derive(Debug)]
struct SlotPart<'a> {
    /// `None` while the storage has it.
    buffer: Option<Slice<'a>>,
    /// The storage has given its page's bytes.
    here: bool,
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
    /// Conversations side by side.
    pub conversations: usize,
}

/// The slots and what is in them.
pub struct Cache<'a> {
    slots: &'a mut [Slot<'a>],
    shelf: Shelf<'a>,
    /// For each page the checksums of its parts.
    sums: &'a [[u64; 2]],
    shape: PageShape,
    /// Where the second part begins in a slot: where down does, or the whole page's length.
    split: usize,
    pages_at: u64,
    experts: u32,
    under_way: usize,
    /// Time spent on checks since the last wait of this layer.
    unhidden: Micros,
    stats: CacheStats,
}

impl<'a> Cache<'a> {
    /// Bytes of everything but the slots' pages.
    pub const fn index_bytes(pages: usize, slots: usize, conversations: usize) -> usize {
        Arena::cost::<Slot<'_>>(slots) + Shelf::bytes(pages, slots, conversations)
    }

    /// An empty cache. `sums` is the page-sums section. `alignment` is the storage's: parts are
    /// read one at a time only where that allows it.
    pub fn new(
        image: &Image,
        shape: PageShape,
        sums: &'a [[u64; 2]],
        alignment: usize,
        policy: &'a dyn Policy,
        memory: Memory<'_, 'a>,
    ) -> Result<Self, ArenaFull> {
        let split = if shape.splits_at(alignment) { shape.down_at() } else { shape.bytes() };
        let Memory { index, pages: arena, slots: count, conversations } = memory;
        let slots = index.build(count, |_| {
            let (head, tail) = arena.bytes(shape.bytes(), PAGE_ALIGN)?.split_at_mut(split);
            let part = |buffer| SlotPart { buffer: Some(buffer), here: false, attempts: 0 };
            let parts = [part(head), part(tail)];
            Ok(Slot { failed: false, abandoned: false, since: 0, checked: [false; 2], parts })
        })?;
        let manifest = &image.manifest;
        let experts = manifest.shape.experts;
        let banks = [manifest.banks() as u32, experts, manifest.shape.top_k];
        Ok(Self {
            slots,
            shelf: Shelf::new(banks, count, conversations, policy, index)?,
            sums,
            shape,
            split,
            pages_at: image.page_offset(0),
            experts,
            under_way: 0,
            unhidden: 0,
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

    /// Uses of every page.
    pub fn history(&self) -> &History<'a> {
        &self.shelf.history
    }

    /// The pages that are in RAM whole.
    pub fn resident(&self) -> impl Iterator<Item = u32> {
        let whole = |id: &SlotId| self.parts().all(|part| self.has(*id, part));
        (0..self.slots.len() as SlotId).filter(whole).filter_map(|id| self.shelf.page(id))
    }

    /// The pages of which a part is on its way.
    pub fn arriving(&self) -> impl Iterator<Item = u32> {
        let ids = (0..self.slots.len() as SlotId).filter(|&id| self.shelf.is_away(id));
        ids.filter_map(|id| self.shelf.page(id))
    }

    /// Takes over what another run found out about `page`.
    pub fn recall(&mut self, page: u32, rates: Rates) {
        self.shelf.history.recall(page, rates);
    }

    /// The batches from now on are of one conversation, or of several.
    pub fn listen(&mut self, voice: Option<usize>) {
        self.shelf.history.listen(voice);
    }

    /// A conversation ends.
    pub fn forget(&mut self, voice: usize) {
        self.shelf.history.forget(voice);
    }

    /// What happened so far.
    pub fn stats(&self) -> CacheStats {
        CacheStats { wasted: self.shelf.wasted(), ..self.stats }
    }

    /// Calls `body` and counts its time as management, but for what of it was spent waiting.
    pub fn manage<'w, R>(
        &mut self,
        world: &mut World<'w, 'a>,
        body: impl FnOnce(&mut Self, &mut World<'w, 'a>) -> R,
    ) -> R {
        let (start, waited) = (world.clock.now(), self.stats.waiting);
        let result = body(self, world);
        let waited = self.stats.waiting - waited;
        self.stats.managing += (world.clock.now() - start).saturating_sub(waited);
        result
    }

    /// `tokens` tokens want `page` now. Pins it where it is in RAM or on its way.
    pub fn want(
        &mut self,
        world: &mut World<'_, 'a>,
        page: u32,
        tokens: u32,
    ) -> Result<Option<SlotId>, PageError> {
        let Some(Found { slot: id, guessed }) = self.shelf.want(page, tokens) else {
            self.stats.misses += 1;
            return Ok(None);
        };
        self.slots[id as usize].failed = false;
        self.slots[id as usize].abandoned = false;
        let here = self.parts().all(|part| self.has(id, part));
        let count = match (here, guessed) {
            (false, _) => &mut self.stats.late,
            (true, true) => &mut self.stats.guessed,
            (true, false) => &mut self.stats.hits,
        };
        *count += 1;
        for part in self.parts() {
            let state = &mut self.slots[id as usize].parts[part as usize];
            if state.buffer.is_none() {
                world.storage.hurry(tag(id, part));
            } else if !state.here {
                // A guess whose read failed.
                state.attempts = 0;
                self.submit(world, id, part, Urgency::Demand)?;
            }
        }
        Ok(Some(id))
    }

    /// All that a batch of `tokens` tokens wants of `bank` has been asked for. Guesses about it that
    /// did not come true are not read any further.
    pub fn settle(&mut self, world: &mut World<'_, 'a>, bank: usize, tokens: u32, is_answer: bool) {
        let (first, experts) = (self.page(bank, 0), self.experts);
        for id in 0..self.slots.len() as SlotId {
            let page = self.shelf.page(id);
            let of_bank = page.is_some_and(|page| (first..first + experts).contains(&page));
            if of_bank && self.shelf.is_guess(id) && self.shelf.is_away(id) {
                self.slots[id as usize].abandoned = true;
                for part in self.parts() {
                    if self.slots[id as usize].parts[part as usize].buffer.is_none() {
                        world.storage.abandon(tag(id, part));
                    }
                }
            }
        }
        self.shelf.settle(bank as u32, tokens, is_answer);
    }

    /// Gives `page` a slot, pinned, and starts to read it. `None` when every slot is pinned or
    /// away: finish something first.
    pub fn fetch(
        &mut self,
        world: &mut World<'_, 'a>,
        page: u32,
    ) -> Result<Option<SlotId>, PageError> {
        let Some(placed) = self.shelf.place(page) else { return Ok(None) };
        self.start(world, placed);
        world.events.hear(Event::Miss { page });
        for part in self.parts() {
            self.submit(world, placed.slot, part, Urgency::Demand)?;
        }
        Ok(Some(placed.slot))
    }

    /// Starts to read `page` on a guess. Says whether it is here or on its way now; it is not when
    /// no slot or no place in the queue is to spare.
    pub fn fetch_ahead(&mut self, world: &mut World<'_, 'a>, page: u32) -> bool {
        if self.shelf.slot(page).is_some() {
            return true;
        }
        if self.under_way + 2 > usize::from(world.storage.geometry().depth) {
            return false;
        }
        let Some(placed) = self.shelf.place_ahead(page) else { return false };
        self.start(world, placed);
        self.stats.ahead += 1;
        for part in self.parts() {
            if self.submit(world, placed.slot, part, Urgency::Ahead).is_err() {
                self.slots[placed.slot as usize].failed = true;
            }
        }
        true
    }

    /// Reads on towards full slots, into slots that are still empty: the pages `first` in order, then
    /// those that were used most in the long run. Waits for one part at most. `false` when nothing
    /// is left to read.
    pub fn warm(&mut self, world: &mut World<'_, 'a>, first: &[u32]) -> Result<bool, PageError> {
        let is_outside =
            |shelf: &Shelf<'_>, page| page < shelf.history.pages() && shelf.slot(page).is_none();
        while self.under_way < WARM_PARTS
            && let listed = first.iter().copied().find(|&page| is_outside(&self.shelf, page))
            && let Some(page) = listed.or_else(|| self.most_used_outside())
            && let Some(placed) = self.shelf.place_in_empty(page)
        {
            self.start(world, placed);
            for part in self.parts() {
                self.submit(world, placed.slot, part, Urgency::Ahead)?;
            }
        }
        self.wait(world)
    }

    fn most_used_outside(&self) -> Option<u32> {
        let history = &self.shelf.history;
        let outside = (0..history.pages()).filter(|&page| self.shelf.slot(page).is_none());
        // Among equals the first: neighbours are read in file order.
        outside.min_by(|&a, &b| history.rates(b)[2].total_cmp(&history.rates(a)[2]))
    }

    /// A slot has a new page, of which nothing is here.
    fn start(&mut self, world: &mut World<'_, 'a>, placed: Placed) {
        let slot = &mut self.slots[placed.slot as usize];
        slot.failed = false;
        slot.abandoned = false;
        slot.since = world.clock.now();
        slot.checked = [false; 2];
        for part in &mut slot.parts {
            part.here = false;
            part.attempts = 0;
        }
        if let Some(page) = placed.evicted {
            self.stats.evictions += 1;
            world.events.hear(Event::Evicted { page });
        }
    }

    fn submit(
        &mut self,
        world: &mut World<'_, 'a>,
        id: SlotId,
        part: Part,
        urgency: Urgency,
    ) -> Result<(), PageError> {
        let Some(page) = self.shelf.page(id) else { return Ok(()) };
        let start = if part == Part::GateUp { 0 } else { self.split };
        let state = &mut self.slots[id as usize].parts[part as usize];
        let Some(into) = state.buffer.take() else { return Ok(()) };
        let attempt = state.attempts;
        self.shelf.set_away(id, true);
        let mut read = Read {
            tag: tag(id, part),
            offset: self.offset(page) + start as u64,
            into,
            urgency,
            attempt,
        };
        self.under_way += 1;
        while let Err(back) = world.storage.submit(read) {
            read = back;
            // The queue is full, so something is under way and will come.
            if let Err(error) = self.wait(world) {
                self.under_way -= 1;
                self.put_back(id, part, read.into);
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
        let waited = world.clock.now() - before;
        self.stats.waiting += waited;
        if waited > 0 {
            self.stats.hidden += core::mem::take(&mut self.unhidden);
        }
        match completion {
            Some(completion) => self.take(world, completion).map(|()| true),
            None => Ok(false),
        }
    }

    /// Takes a buffer back, and asks again when the read failed.
    fn take(
        &mut self,
        world: &mut World<'_, 'a>,
        completion: Completion<'a>,
    ) -> Result<(), PageError> {
        self.under_way -= 1;
        let id = (completion.tag / 2) as SlotId;
        let part = if completion.tag.is_multiple_of(2) { Part::GateUp } else { Part::Down };
        let bytes = completion.into.len() as u64;
        self.put_back(id, part, completion.into);
        match completion.result {
            Ok(()) => {
                self.stats.bytes += bytes;
                self.slots[id as usize].parts[part as usize].here = true;
            }
            Err(_) if self.slots[id as usize].abandoned => {}
            Err(error) => return self.again(world, id, part, Some(error)),
        }
        let whole = self.parts().all(|part| self.has(id, part));
        if self.slots[id as usize].abandoned && !self.shelf.is_away(id) && !whole {
            self.shelf.forget(id);
        }
        Ok(())
    }

    fn put_back(&mut self, id: SlotId, part: Part, buffer: Slice<'a>) {
        let parts = &mut self.slots[id as usize].parts;
        parts[part as usize].buffer = Some(buffer);
        self.shelf.set_away(id, parts.iter().any(|part| part.buffer.is_none()));
    }

    /// Whether `part` of the page in slot `id` is known to be what was packed.
    pub fn is_checked(&self, id: SlotId, part: Part) -> bool {
        self.slots[id as usize].checked[part as usize]
    }

    /// Compares the sums of the chunks of a part, all of them in order, with what was packed. Says
    /// whether it is right; asks for it again where it is not.
    pub fn check(
        &mut self,
        world: &mut World<'_, 'a>,
        id: SlotId,
        part: Part,
        sums: &[u64],
    ) -> Result<bool, PageError> {
        let Some(page) = self.shelf.page(id) else { return Ok(false) };
        let right = join_sums(sums) == self.sums[page as usize][part as usize];
        let whole = !self.is_split();
        let read = if whole { Part::GateUp } else { part };
        let slot = &mut self.slots[id as usize];
        slot.checked[part as usize] = right;
        if right {
            if slot.checked == [true; 2] {
                let waited = world.clock.now() - slot.since;
                world.events.hear(Event::Arrived { page, waited });
            }
            return Ok(true);
        }
        if whole {
            slot.checked = [false; 2];
        }
        slot.parts[read as usize].here = false;
        self.again(world, id, read, None)?;
        Ok(false)
    }

    /// A layer begins: no check of an earlier one is hidden by its waits.
    pub fn begin(&mut self) {
        self.unhidden = 0;
    }

    /// Checks took so long.
    pub fn checked_for(&mut self, time: Micros) {
        self.stats.checking += time;
        self.unhidden += time;
    }

    /// A part did not come as it was packed: asks again where that may help. `error` is the
    /// storage's; `None` when the checksum is wrong.
    fn again(
        &mut self,
        world: &mut World<'_, 'a>,
        id: SlotId,
        part: Part,
        error: Option<StorageError>,
    ) -> Result<(), PageError> {
        let Some(page) = self.shelf.page(id) else { return Ok(()) };
        let slot = &mut self.slots[id as usize];
        if !self.shelf.is_pinned(id) {
            // A guess: nobody waits for it, and `want` asks again if somebody does.
            slot.failed = true;
            return Ok(());
        }
        let attempts = &mut slot.parts[part as usize].attempts;
        let may_help = error.is_none_or(|error| error.kind.may_pass());
        if may_help && *attempts < RETRIES && !slot.failed {
            *attempts += 1;
            self.stats.retries += 1;
            world.events.hear(Event::Retry { page, error: error.map(|error| error.kind) });
            return self.submit(world, id, part, Urgency::Demand);
        }
        slot.failed = true;
        Err(PageError {
            page,
            bank: page / self.experts,
            expert: page % self.experts,
            offset: self.offset(page),
            fault: error.map_or(PageFault::Checksum, PageFault::Storage),
        })
    }

    /// Whether a part of a slot's page is in RAM, checked or not.
    pub fn has(&self, id: SlotId, part: Part) -> bool {
        self.part(id, part).here
    }

    /// Gate and up of the page in slot `id`, (2 expert_ff, hidden); it must be here.
    pub fn gate_up(&self, id: SlotId) -> Matrix<'_> {
        let shape = self.shape.gate_up;
        Matrix { shape, bytes: &self.bytes(id, Part::GateUp)[..shape.bytes()] }
    }

    /// Down of the page in slot `id`, (hidden, expert_ff); it must be here.
    pub fn down(&self, id: SlotId) -> Matrix<'_> {
        let shape = self.shape.down;
        Matrix { shape, bytes: &self.bytes(id, Part::Down)[..shape.bytes()] }
    }

    /// All bytes of `part` of the page in slot `id`, as they were read; it must be here.
    pub fn bytes(&self, id: SlotId, part: Part) -> &[u8] {
        let read = self.part(id, part);
        let bytes = read.buffer.as_deref().filter(|_| read.here);
        let bytes = bytes.expect("only a part that has arrived is used");
        match part {
            _ if self.is_split() => bytes,
            Part::GateUp => &bytes[..self.shape.down_at()],
            Part::Down => &bytes[self.shape.down_at()..],
        }
    }

    /// The layer is done with the page in slot `id`.
    pub fn release(&mut self, id: SlotId) {
        self.shelf.release(id);
    }

    /// After an error: waits for what is under way, and empties every slot that is not whole and
    /// checked: what has come since the device went wrong may be wrong too.
    pub fn recover(&mut self, world: &mut World<'_, 'a>) {
        for id in 0..self.slots.len() as SlotId {
            // Nobody waits for anything any more: nothing is asked for again.
            self.shelf.release(id);
        }
        while self.under_way > 0 {
            // Errors of other pages add nothing to the one that is being reported.
            let _ = self.wait(world);
        }
        for id in 0..self.slots.len() as SlotId {
            if self.slots[id as usize].checked != [true; 2] {
                self.shelf.forget(id);
            }
            self.slots[id as usize].failed = false;
            self.slots[id as usize].abandoned = false;
        }
    }

    fn is_split(&self) -> bool {
        self.split < self.shape.bytes()
    }

    /// The parts that a page is read in.
    fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        [Part::GateUp, Part::Down].into_iter().take(1 + usize::from(self.is_split()))
    }

    /// Where `part` of the page in slot `id` is.
    fn part(&self, id: SlotId, part: Part) -> &SlotPart<'a> {
        &self.slots[id as usize].parts[if self.is_split() { part as usize } else { 0 }]
    }

    fn offset(&self, page: u32) -> u64 {
        self.pages_at + u64::from(page) * self.shape.bytes() as u64
    }
}

/// The storage's name for the read of a part.
fn tag(id: SlotId, part: Part) -> u32 {
    u32::from(id) * 2 + part as u32
}
