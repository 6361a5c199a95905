use core::fmt;

/// What a device wants its reads to look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Geometry {
    /// Bytes that can be read.
    pub len: u64,
    /// Offsets, lengths and buffer addresses must be multiples of this (a power of two, at most
    /// 4096). The image aligns its sections and pages to 16 KiB.
    pub alignment: u32,
    /// How many reads may be under way at once; at least 1.
    pub depth: u16,
}

/// How soon the bytes of a read are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Urgency {
    /// The current token waits for them.
    Demand,
    /// A guess: it may wait behind every `Demand`.
    Ahead,
}

/// A buffer on its way through the storage: an exclusive part of the arena.
pub type Slice<'a> = &'a mut [u8];

/// A read to be started. It owns its buffer until the storage gives it back.
#[derive(Debug)]
pub struct Read<'a> {
    /// The caller's name for this read; it returns in the [`Completion`].
    pub tag: u32,
    /// First byte.
    pub offset: u64,
    /// Where the bytes go, filled whole.
    pub into: Slice<'a>,
    /// How soon.
    pub urgency: Urgency,
    /// How often this read failed before: a device may let some time pass, longer each time.
    pub attempt: u8,
}

/// A finished read.
#[derive(Debug)]
pub struct Completion<'a> {
    /// The tag of the [`Read`].
    pub tag: u32,
    /// The buffer, back from its journey; its content counts only when `result` is `Ok`.
    pub into: Slice<'a>,
    /// Whether all of it was read.
    pub result: Result<(), StorageError>,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum StorageErrorKind {
    /// A hiccup: the same read may succeed soon.
    Transient,
    /// The device did nothing for so long that it was given up: the same read may succeed soon.
    Stalled,
    /// The device says no, and will go on saying so.
    Permanent,
    /// The read reaches past the end: the file was cut.
    PastEnd,
}

impl StorageErrorKind {
    /// Whether trying again can help.
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::Transient | Self::Stalled)
    }
}

/// A read that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct StorageError {
    /// Whether trying again can help.
    pub kind: StorageErrorKind,
    /// The device's own number for it (`errno` on Linux, a status register on a board); 0 for none.
    pub code: i32,
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            StorageErrorKind::Transient => "a read failed for a moment",
            StorageErrorKind::Stalled => "the device did not answer in time",
            StorageErrorKind::Permanent => "the device cannot read",
            StorageErrorKind::PastEnd => "the file ends too early",
        };
        match self.code {
            0 => f.write_str(what),
            code => write!(f, "{what} (device code {code})"),
        }
    }
}

impl core::error::Error for StorageError {}

/// How often a read that failed is tried again where that can help.
pub const RETRIES: u8 = 4;

/// A device that holds an image.
///
/// Duties of an implementation:
/// - a read fills its buffer whole or fails: never short;
/// - a submitted buffer comes back exactly once, through [`poll`](Self::poll) or
///   [`wait`](Self::wait), in any order, also when the read failed;
/// - while it is away, nobody else touches it: ownership replaces a promise;
/// - nothing is allocated after the first read.
pub trait Storage<'a> {
    /// What reads must look like.
    fn geometry(&self) -> Geometry;

    /// Reads `into.len()` bytes at `offset` and returns when they are there.
    fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError>;

    /// Lets a device whose read failed `attempt` times have a moment; by default none.
    fn rest(&mut self, attempt: u8) {
        let _ = attempt;
    }

    /// [`read_at`](Self::read_at), tried again up to [`RETRIES`] times where that can help.
    fn read_patiently(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
        let mut attempt = 0;
        loop {
            match self.read_at(offset, into) {
                Err(error) if error.kind.may_pass() && attempt < RETRIES => {
                    attempt += 1;
                    self.rest(attempt);
                }
                result => return result,
            }
        }
    }

    /// Starts a read. A full queue hands it back: take a completion first.
    fn submit(&mut self, read: Read<'a>) -> Result<(), Read<'a>>;

    /// A read that was submitted as [`Urgency::Ahead`] is now waited for. A device without a queue
    /// of its own has nothing to do.
    fn hurry(&mut self, tag: u32) {
        let _ = tag;
    }

    /// A read that was submitted as [`Urgency::Ahead`] is not wanted any more. As far as it has not
    /// begun it may come back as it is, with a transient error. A device without a queue of its own
    /// has nothing to do.
    fn abandon(&mut self, tag: u32) {
        let _ = tag;
    }

    /// A finished read, if there is one.
    fn poll(&mut self) -> Option<Completion<'a>>;

    /// Waits for a finished read; `None` when none is under way.
    fn wait(&mut self) -> Option<Completion<'a>>;
}

#[cfg(any(test, feature = "fake"))]
pub use fake::{Fault, RamDisk};

#[cfg(any(test, feature = "fake"))]
mod fake {
    use super::*;

    /// A device in RAM with seeded faults. Reads finish in a shuffled order.
    #[derive(Debug)]
    pub struct RamDisk<'d, 'a> {
        data: &'d [u8],
        alignment: u32,
        fault: Fault,
        random: u64,
        reads: u64,
        depth: usize,
        patience: u32,
        queue: heapless::Vec<Read<'a>, QUEUE>,
        /// Reads of the queue that nobody wants any more.
        abandoned: heapless::Vec<u32, QUEUE>,
    }

    /// Most reads under way on a [`RamDisk`].
    const QUEUE: usize = 16;

    /// What goes wrong on a [`RamDisk`].
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub enum Fault {
        /// Nothing.
        #[default]
        None,
        /// About one read in `n` fails and succeeds when tried again.
        Transient(u32),
        /// Every read that touches this byte fails.
        DeadByte(u64),
        /// About one read in `n` arrives with one bit flipped.
        FlippedBit(u32),
        /// The device ends here.
        CutAt(u64),
    }

    impl<'d> RamDisk<'d, '_> {
        /// A healthy device with these bytes. `seed` decides in which order reads finish.
        pub fn new(data: &'d [u8], seed: u64) -> Self {
            let random = seed ^ 0x9e37_79b9_7f4a_7c15;
            Self {
                data,
                alignment: 1,
                fault: Fault::None,
                random,
                reads: 0,
                depth: QUEUE,
                patience: 2,
                queue: heapless::Vec::new(),
                abandoned: heapless::Vec::new(),
            }
        }

        /// From now on this goes wrong.
        pub fn set_fault(&mut self, fault: Fault) {
            self.fault = fault;
        }

        /// From now on these are its bytes.
        pub fn replace(&mut self, data: &'d [u8]) {
            self.data = data;
        }

        /// From now on reads must be aligned to this.
        pub fn set_alignment(&mut self, alignment: u32) {
            self.alignment = alignment;
        }

        /// From now on at most `depth` reads (2 to 16) are under way, and who looks without waiting
        /// finds a read ready about once in `patience` looks.
        pub fn set_schedule(&mut self, depth: usize, patience: u32) {
            self.depth = depth.clamp(2, QUEUE);
            self.patience = patience.max(1);
        }

        /// How many reads were asked for.
        pub fn reads(&self) -> u64 {
            self.reads
        }

        fn random(&mut self) -> u64 {
            // xorshift64*: https://doi.org/10.18637/jss.v008.i14
            self.random ^= self.random >> 12;
            self.random ^= self.random << 25;
            self.random ^= self.random >> 27;
            self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
        }

        fn perform(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
            self.reads += 1;
            let alignment = u64::from(self.alignment);
            assert!(
                offset.is_multiple_of(alignment) && (into.len() as u64).is_multiple_of(alignment)
            );
            let end = offset + into.len() as u64;
            let size = match self.fault {
                Fault::CutAt(size) => size.min(self.data.len() as u64),
                _ => self.data.len() as u64,
            };
            if end > size {
                return Err(StorageError { kind: StorageErrorKind::PastEnd, code: 0 });
            }
            let chance = self.random();
            let hit = |n: u32| chance.is_multiple_of(u64::from(n));
            match self.fault {
                Fault::Transient(n) if hit(n) => {
                    return Err(StorageError { kind: StorageErrorKind::Transient, code: 5 });
                }
                Fault::DeadByte(at) if (offset..end).contains(&at) => {
                    return Err(StorageError { kind: StorageErrorKind::Permanent, code: 5 });
                }
                _ => {}
            }
            into.copy_from_slice(&self.data[offset as usize..end as usize]);
            if matches!(self.fault, Fault::FlippedBit(n) if hit(n)) {
                let bit = self.random() as usize % (into.len() * 8);
                into[bit / 8] ^= 1 << (bit % 8);
            }
            Ok(())
        }
    }

    impl<'a> Storage<'a> for RamDisk<'_, 'a> {
        fn geometry(&self) -> Geometry {
            let depth = self.depth as u16;
            Geometry { len: self.data.len() as u64, alignment: self.alignment, depth }
        }

        fn read_at(&mut self, offset: u64, into: &mut [u8]) -> Result<(), StorageError> {
            self.perform(offset, into)
        }

        fn submit(&mut self, read: Read<'a>) -> Result<(), Read<'a>> {
            if self.queue.len() < self.depth { self.queue.push(read) } else { Err(read) }
        }

        fn abandon(&mut self, tag: u32) {
            let guess = |read: &Read<'_>| read.tag == tag && read.urgency == Urgency::Ahead;
            if self.queue.iter().any(guess) {
                // At most as many as there are reads.
                let _ = self.abandoned.push(tag);
            }
        }

        fn poll(&mut self) -> Option<Completion<'a>> {
            // Often nothing seems to be ready, as on a real device.
            if self.random().is_multiple_of(u64::from(self.patience)) { self.wait() } else { None }
        }

        fn wait(&mut self) -> Option<Completion<'a>> {
            if self.queue.is_empty() {
                return None;
            }
            let next = self.random() as usize % self.queue.len();
            let Read { tag, offset, into, .. } = self.queue.swap_remove(next);
            let result = match self.abandoned.iter().position(|&abandoned| abandoned == tag) {
                Some(at) => {
                    self.abandoned.swap_remove(at);
                    Err(StorageError { kind: StorageErrorKind::Transient, code: 0 })
                }
                None => self.perform(offset, into),
            };
            Some(Completion { tag, into, result })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hiccup_outside_the_queue_is_tried_again_and_nothing_else_is() {
        let data = [7; 64];
        // One read in three fails, and five in a row about once in 240 times.
        let mut failed = 0;
        for seed in 0..64 {
            let mut disk = RamDisk::new(&data, seed);
            disk.set_fault(Fault::Transient(3));
            let mut bytes = [0; 8];
            let result = disk.read_patiently(8, &mut bytes);
            assert!(disk.reads() <= 1 + u64::from(RETRIES));
            let tried_out = disk.reads() == 1 + u64::from(RETRIES);
            assert!(result.map_or(tried_out, |()| bytes == [7; 8]), "seed {seed}");
            failed += u32::from(result.is_err());
        }
        assert!(failed <= 2, "{failed} of 64 reads");
        for fault in [Fault::DeadByte(9), Fault::CutAt(10)] {
            let mut disk = RamDisk::new(&data, 1);
            disk.set_fault(fault);
            disk.read_patiently(8, &mut [0; 8]).unwrap_err();
            assert_eq!(disk.reads(), 1);
        }
    }
}
