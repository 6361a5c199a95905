//! An open model: where it lies, who may use it now, and its conversations.

use core::cell::UnsafeCell;
use core::ffi::c_char;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rill::arena::{Arena, PIECE_ALIGN};
use rill::image::{Image, PAGE_ALIGN};
use rill::plan::Plan;
use rill::seams::{Event, Events, World};
use rill::sequence::SequenceError;
use rill::session::Session;

use crate::border::guarded;
use crate::device::Device;
use crate::machine::{Time, Workers};
use crate::status::{ERROR_BYTES, Failure, Status};

/// An open model.
pub struct Model {
    /// Says that there is a model here, and that it was opened here.
    mark: AtomicU64,
    state: AtomicU32,
    stop: AtomicBool,
    inner: UnsafeCell<MaybeUninit<Inner>>,
}

/// What [`Model::mark`] is made of, with its own address: no copy of a model is one.
const MARK: u64 = u64::from_le_bytes(*b"rill mod");

/// What a model is doing.
mod state {
    pub const IDLE: u32 = 0;
    pub const BUSY: u32 = 1;
    /// A call panicked: nobody knows what is whole.
    pub const BROKEN: u32 = 2;
    pub const CLOSED: u32 = 3;
}

/// What a call may use, one at a time.
pub struct Inner {
    /// The engine and its sequences.
    pub session: Session<'static>,
    /// Dropped after the session, before the memory goes back to the caller: its reads end.
    pub device: Device,
    /// What computes.
    pub workers: Workers,
    /// What time it is.
    pub time: Time,
    /// What was opened.
    pub image: Image,
    /// How the arena is divided.
    pub plan: Plan,
    /// Seed of new conversations.
    pub seed: u64,
    /// Of each sequence: odd while it is a conversation, and another number for each that was.
    pub lives: &'static mut [u32],
    /// What the last call failed of.
    pub error: [c_char; ERROR_BYTES],
    /// What the model is called, with a 0 at the end.
    pub name: [c_char; 97],
    /// Name of the kernel table, with a 0 at the end.
    pub kernels: [c_char; 16],
    /// The chat template that came with the model.
    #[cfg(feature = "std")]
    pub template: Option<crate::template::Template>,
}

/// Bytes of an arena that are not the engine's, for so many conversations, wherever the arena lies.
pub const fn beside(conversations: u32) -> u64 {
    let model = (size_of::<Model>() + align_of::<Model>()) as u64;
    let lives = (conversations as u64 * 4).next_multiple_of(PIECE_ALIGN as u64);
    model + lives + PIECE_ALIGN as u64 + PAGE_ALIGN as u64
}

/// The places of a model in an arena.
pub struct Places {
    /// Where the model is going to be.
    pub model: *mut Model,
    /// See [`Inner::lives`].
    pub lives: &'static mut [u32],
    /// The engine's part.
    pub engine: &'static mut [u8],
}

impl Places {
    /// Cuts an arena of at least [`beside`] and `engine` bytes.
    pub fn cut(
        arena: &'static mut [u8],
        conversations: u32,
        engine: usize,
    ) -> Result<Self, Failure> {
        let mut arena = Arena::new(arena);
        let small = |_| Failure::from(Status::Arena);
        let model = arena.bytes(size_of::<Model>(), align_of::<Model>()).map_err(small)?;
        let lives = arena.zeros(conversations as usize).map_err(small)?;
        let engine = arena.bytes(engine, PAGE_ALIGN).map_err(small)?;
        Ok(Self { model: model.as_mut_ptr().cast(), lives, engine })
    }
}

impl Model {
    /// Begins a model at a place of its own.
    ///
    /// # Safety
    /// There is room, which nobody else looks at.
    pub unsafe fn begin(place: *mut Self, inner: Inner) {
        let model = Self {
            mark: AtomicU64::new(MARK ^ place.addr() as u64),
            state: AtomicU32::new(state::IDLE),
            stop: AtomicBool::new(false),
            inner: UnsafeCell::new(MaybeUninit::new(inner)),
        };
        // SAFETY: as was promised.
        unsafe { place.write(model) };
    }

    /// The model at a place, if there is one.
    ///
    /// # Safety
    /// A pointer that is neither null nor unaligned points to memory of at least a model's size.
    unsafe fn at<'m>(place: *const Self) -> Option<&'m Self> {
        if place.is_null() || !place.is_aligned() {
            return None;
        }
        // SAFETY: the pointer is good; any bytes will do for a number.
        let mark = unsafe { &(*place).mark };
        let is_here = mark.load(Ordering::Acquire) == MARK ^ place.addr() as u64;
        // SAFETY: only `begin` writes the mark of this address, and `close` takes it away.
        is_here.then(|| unsafe { &*place })
    }

    /// Begins a call; why not, where that cannot be.
    fn take(&self, closing: bool) -> Result<(), Status> {
        let take = |from| {
            let (to, success) = (state::BUSY, Ordering::Acquire);
            self.state.compare_exchange(from, to, success, Ordering::Relaxed)
        };
        let taken = match take(state::IDLE) {
            // One of those that close it.
            Err(state::BROKEN) if closing => take(state::BROKEN),
            taken => taken,
        };
        match taken {
            Ok(_) => Ok(()),
            Err(state::BUSY) => Err(Status::Busy),
            Err(state::CLOSED) => Err(Status::Model),
            Err(_) => Err(Status::Fault),
        }
    }
}

/// A call with a model.
pub struct Call<'c> {
    /// The model's own.
    pub inner: &'c mut Inner,
    stop: &'c AtomicBool,
}

/// Calls `body` with the model at `place`, when it is there and nobody else uses it.
///
/// # Safety
/// As for [`Model::at`].
pub unsafe fn with(
    place: *const Model,
    body: impl FnOnce(&mut Call<'_>) -> Result<(), Failure>,
) -> Status {
    // SAFETY: the caller's promise is the same.
    let Some(model) = (unsafe { Model::at(place) }) else { return Status::Model };
    if let Err(status) = model.take(false) {
        return status;
    }
    // SAFETY: the state says that this call alone uses it, and that it is there.
    let inner = unsafe { (*model.inner.get()).assume_init_mut() };
    let mut call = Call { inner, stop: &model.stop };
    let ended = guarded(|| body(&mut call));
    let (state, status) = match ended {
        Some(Ok(())) => (state::IDLE, Status::Ok),
        Some(Err(failure)) => {
            call.inner.error = failure.text().to_c();
            (state::IDLE, failure.status)
        }
        None => (state::BROKEN, Status::Fault),
    };
    model.state.store(state, Ordering::Release);
    status
}

/// Closes the model at `place`: nothing of it touches its memory any more.
///
/// # Safety
/// As for [`Model::at`].
pub unsafe fn close(place: *mut Model) -> Status {
    // SAFETY: the caller's promise is the same.
    let Some(model) = (unsafe { Model::at(place) }) else { return Status::Model };
    if let Err(status) = model.take(true) {
        return status;
    }
    // SAFETY: the state says that this call alone uses it; nobody does any more.
    let dropped = guarded(|| unsafe { ptr::drop_in_place((*model.inner.get()).as_mut_ptr()) });
    model.mark.store(0, Ordering::Release);
    model.state.store(state::CLOSED, Ordering::Release);
    dropped.map_or(Status::Fault, |()| Status::Ok)
}

/// Ends what a model computes, or is going to compute next.
///
/// # Safety
/// As for [`Model::at`].
pub unsafe fn stop(place: *const Model) -> Status {
    // SAFETY: the caller's promise is the same.
    let Some(model) = (unsafe { Model::at(place) }) else { return Status::Model };
    model.stop.store(true, Ordering::Relaxed);
    Status::Ok
}

/// What the last call that failed was about.
///
/// # Safety
/// As for [`Model::at`].
pub unsafe fn error_text(place: *const Model) -> Result<*const c_char, Status> {
    // SAFETY: the caller's promise is the same.
    let model = unsafe { Model::at(place) }.ok_or(Status::Model)?;
    model.take(false)?;
    // SAFETY: the state says that this call alone uses it, and that it is there.
    let text = unsafe { (*model.inner.get()).assume_init_ref() }.error.as_ptr();
    model.state.store(state::IDLE, Ordering::Release);
    Ok(text)
}

/// Hears nothing, and says when to stop.
struct Stop<'s>(&'s AtomicBool);

impl Events for Stop<'_> {
    fn hear(&mut self, _: Event) {}

    fn wants_stop(&mut self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Call<'_> {
    /// The number of a conversation's sequence.
    pub fn number(&self, conversation: u64) -> Result<usize, Failure> {
        let (number, life) = (conversation as u32 as usize, (conversation >> 32) as u32);
        let lives = self.inner.lives.get(number).is_some_and(|&now| now == life && now % 2 == 1);
        if lives { Ok(number) } else { Err(Status::Conversation.into()) }
    }

    /// Takes a sequence that is no conversation, for one.
    pub fn begin(&mut self) -> Result<(u64, usize), Failure> {
        let free = self.inner.lives.iter().position(|life| life % 2 == 0);
        let number = free.ok_or(Status::Conversations)?;
        let life = self.inner.lives[number].wrapping_add(1);
        self.inner.lives[number] = life;
        Ok((u64::from(life) << 32 | number as u64, number))
    }

    /// A conversation is over; its sequence is empty.
    pub fn end(&mut self, number: usize) {
        self.inner.lives[number] = self.inner.lives[number].wrapping_add(1);
        self.inner.session.select(number);
        self.inner.session.reset();
    }

    /// The session, with a conversation selected.
    pub fn select(&mut self, conversation: u64) -> Result<&mut Session<'static>, Failure> {
        let number = self.number(conversation)?;
        self.inner.session.select(number);
        Ok(&mut self.inner.session)
    }

    /// Calls `body` with the session and its world; a stop that was asked for is done with when it came
    /// to pass.
    pub fn compute<R>(
        &mut self,
        body: impl FnOnce(&mut Session<'static>, &mut World<'_, 'static>) -> Result<R, SequenceError>,
    ) -> Result<R, Failure> {
        if self.stop.swap(false, Ordering::Relaxed) {
            return Err(SequenceError::Stopped.into());
        }
        let Inner { session, device, workers, time, .. } = &mut *self.inner;
        let mut events = Stop(self.stop);
        let (parallel, clock) = (workers.parallel(), &*time);
        let mut world = World { storage: device.storage(), parallel, clock, events: &mut events };
        let ended = body(session, &mut world);
        if matches!(ended, Err(SequenceError::Stopped)) {
            self.stop.store(false, Ordering::Relaxed);
        }
        Ok(ended?)
    }

    /// Computes what is pending of the selected conversation.
    pub fn compute_pending(&mut self) -> Result<(), Failure> {
        while self.compute(|session, world| session.compute(world))? {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_model_is_closed_once() {
        let model = Model {
            mark: AtomicU64::new(0),
            state: AtomicU32::new(state::BROKEN),
            stop: AtomicBool::new(false),
            inner: UnsafeCell::new(MaybeUninit::uninit()),
        };
        assert_eq!(model.take(false), Err(Status::Fault));
        assert_eq!(model.take(true), Ok(()));
        assert_eq!(model.take(true), Err(Status::Busy));
        model.state.store(state::CLOSED, Ordering::Release);
        assert_eq!(model.take(true), Err(Status::Model));
    }
}
