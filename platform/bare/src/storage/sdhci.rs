//! SD cards behind a standard host controller.
//!
//! Registers as in the SD Host Controller Simplified Specification 3.00, commands as in the SD
//! Physical Layer Simplified Specification 6.00. All accesses are 32 bits wide, because the
//! BCM2835's Arasan controller knows no others. A controller that can, and may, writes to memory by
//! itself (ADMA2); from others data is taken block by block.
//!
//! QEMU-tested, hardware-unverified.

use core::ptr::NonNull;

use rill::seams::{Clock, Micros, StorageError, StorageErrorKind};

use super::{BLOCK, Driver, Finished};

/// A controller's registers.
pub trait Registers {
    /// Reads the register at this offset.
    fn read(&self, at: usize) -> u32;
    /// Writes the register at this offset.
    fn write(&mut self, at: usize, value: u32);
    /// Where the controller sees this memory; `None` when it does not or must not use it.
    fn bus_address(&self, start: usize, bytes: usize) -> Option<u32>;
    /// Writes to memory what caches hold of these bytes, and forgets it.
    fn flush(&self, start: usize, bytes: usize);
}

/// Says to a controller where data goes: one descriptor for 32 KiB, 16 for the longest read.
#[repr(C, align(64))]
pub struct Table([u64; TABLE]);

const TABLE: usize = 16;
/// Bytes of one descriptor.
const STRETCH: usize = 32 << 10;
/// Parts of a descriptor: it is valid and moves data; it is the last.
const MOVE: u64 = 0b10_0001;
const LAST: u64 = 0b10;

impl Table {
    /// A table that describes nothing.
    pub const fn new() -> Self {
        Self([0; TABLE])
    }
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

/// [`StorageError::code`] when no card answers.
pub const NO_CARD: i32 = -2;
/// [`StorageError::code`] when the controller does not.
pub const NO_CONTROLLER: i32 = -3;

const BLOCKS: usize = 0x04;
const ARGUMENT: usize = 0x08;
const COMMAND: usize = 0x0c;
const RESPONSE: usize = 0x10;
const DATA: usize = 0x20;
const PRESENT: usize = 0x24;
const HOST_CONTROL: usize = 0x28;
const CLOCK_CONTROL: usize = 0x2c;
const STATUS: usize = 0x30;
const STATUS_ENABLE: usize = 0x34;
const SIGNAL_ENABLE: usize = 0x38;
const CAPABILITIES: usize = 0x40;
const TABLE_ADDRESS: usize = 0x58;

/// Bits of PRESENT: lines that are in use.
const COMMAND_BUSY: u32 = 1 << 0;
const DATA_BUSY: u32 = 1 << 1;
/// Bits of STATUS.
const COMMAND_DONE: u32 = 1 << 0;
const TRANSFER_DONE: u32 = 1 << 1;
const BLOCK_READY: u32 = 1 << 5;
const ERROR: u32 = 1 << 15;
const ERRORS: u32 = 0xffff << 16;
/// Bits of HOST_CONTROL.
const FOUR_LINES: u32 = 1 << 1;
const HIGH_SPEED: u32 = 1 << 2;
const TABLE_SELECT: u32 = 0b10 << 3;
const POWER_3V3: u32 = 0xf << 8;
/// Bits of CAPABILITIES: reads a table by itself.
const HAS_TABLE: u32 = 1 << 19;
/// Bits of CLOCK_CONTROL.
const CLOCK_INTERNAL: u32 = 1 << 0;
const CLOCK_STABLE: u32 = 1 << 1;
const CLOCK_ON: u32 = 1 << 2;
const LONGEST_TIMEOUT: u32 = 0xe << 16;
const RESET_ALL: u32 = 1 << 24;
const RESET_LINES: u32 = 0b11 << 25;

/// Bits of COMMAND: what answers, and what data follows.
const NO_RESPONSE: u32 = 0;
const R1: u32 = 0b10 << 16 | 1 << 19 | 1 << 20;
const R1_BUSY: u32 = 0b11 << 16 | 1 << 19 | 1 << 20;
const R2: u32 = 0b01 << 16 | 1 << 19;
const R3: u32 = 0b10 << 16;
const ONE_BLOCK: u32 = 1 << 21 | 1 << 4;
/// The controller moves the data.
const BY_ITSELF: u32 = 1 << 0;
/// Blocks are counted, and CMD12 follows them by itself.
const MANY_BLOCKS: u32 = ONE_BLOCK | 1 << 1 | 0b01 << 2 | 1 << 5;

const IDENTIFICATION_HZ: u32 = 400_000;
const DEFAULT_HZ: u32 = 25_000_000;
const HIGH_SPEED_HZ: u32 = 50_000_000;
/// A command takes microseconds; a controller that needs so long is stuck.
const COMMAND_LIMIT: Micros = 100_000;
/// A card may take so long to start.
const START_LIMIT: Micros = 1_000_000;
/// At the identification clock the Arasan controller loses a write that follows another within two
/// clocks: so long apart they are safe.
const SLOW_WRITE: Micros = 6;
/// Most blocks that one look takes, so that the cores get back to work.
const BLOCKS_A_LOOK: usize = 64;

/// A controller and its card.
pub struct Sdhci<R> {
    registers: R,
    clock: &'static dyn Clock,
    /// Of the controller's input.
    input_hz: u32,
    /// The card's clock is slow.
    slow: bool,
    /// `None` until it has been identified, and after errors.
    card: Option<Card>,
    flight: Option<Flight>,
    blocks: u64,
    /// The controller reads it while a read is under way.
    table: &'static mut Table,
    /// Whether it can.
    has_table: bool,
}

/// An identified card.
#[derive(Debug, Clone, Copy)]
struct Card {
    /// Addresses are blocks; bytes otherwise.
    by_block: bool,
    blocks: u64,
}

/// A read under way.
struct Flight {
    slot: usize,
    into: NonNull<[u8]>,
    /// Bytes that have arrived, as far as this core moves them.
    done: usize,
    by_itself: bool,
}

impl<R: Registers> Sdhci<R> {
    /// Starts the controller and identifies the card. `input_hz` is the controller's input clock.
    pub fn new(
        registers: R,
        input_hz: u32,
        clock: &'static dyn Clock,
        table: &'static mut Table,
    ) -> Result<Self, StorageError> {
        let has_table = registers.read(CAPABILITIES) & HAS_TABLE != 0;
        let mut sdhci = Self {
            registers,
            clock,
            input_hz,
            slow: true,
            card: None,
            flight: None,
            blocks: 0,
            table,
            has_table,
        };
        sdhci.blocks = sdhci.identify()?.blocks;
        Ok(sdhci)
    }

    fn write(&mut self, at: usize, value: u32) {
        self.registers.write(at, value);
        if self.slow {
            self.delay(SLOW_WRITE);
        }
    }

    fn delay(&self, time: Micros) {
        let start = self.clock.now();
        while self.clock.now() - start < time {
            core::hint::spin_loop();
        }
    }

    /// Waits until some of these bits are set or, with `value` 0, none is.
    fn wait(&self, at: usize, bits: u32, value: u32) -> Result<u32, StorageError> {
        let start = self.clock.now();
        loop {
            let now = self.registers.read(at);
            if now & bits & value != 0 || value == 0 && now & bits == 0 {
                return Ok(now);
            }
            if self.clock.now() - start > COMMAND_LIMIT {
                let code = NO_CONTROLLER;
                return Err(StorageError { kind: StorageErrorKind::Transient, code });
            }
            core::hint::spin_loop();
        }
    }

    /// Sends a command and waits for the answer, whose first word it returns.
    fn command(&mut self, index: u32, argument: u32, kind: u32) -> Result<u32, StorageError> {
        let data = kind & ONE_BLOCK != 0 || kind & R1_BUSY == R1_BUSY;
        let busy = if data { COMMAND_BUSY | DATA_BUSY } else { COMMAND_BUSY };
        self.wait(PRESENT, busy, 0)?;
        self.write(STATUS, u32::MAX);
        self.write(ARGUMENT, argument);
        self.write(COMMAND, index << 24 | kind);
        let status = self.wait(STATUS, COMMAND_DONE | ERROR, u32::MAX)?;
        if status & ERROR != 0 {
            self.reset_lines();
            return Err(card_error(status));
        }
        self.write(STATUS, COMMAND_DONE);
        Ok(self.registers.read(RESPONSE))
    }

    /// Sends a command of the application's own set.
    fn application(
        &mut self,
        index: u32,
        argument: u32,
        address: u32,
        kind: u32,
    ) -> Result<u32, StorageError> {
        self.command(55, address, R1)?;
        self.command(index, argument, kind)
    }

    /// Frees the lines after an error.
    fn reset_lines(&mut self) {
        let control = self.registers.read(CLOCK_CONTROL);
        self.write(CLOCK_CONTROL, control | RESET_LINES);
        // A controller that does not even do this fails the next command.
        let _ = self.wait(CLOCK_CONTROL, RESET_LINES, 0);
        self.write(STATUS, u32::MAX);
    }

    /// Sets the card's clock to `hz` or the nearest below: input / (2 divider), or the input.
    fn set_clock(&mut self, hz: u32) -> Result<(), StorageError> {
        let divider =
            if self.input_hz <= hz { 0 } else { self.input_hz.div_ceil(2 * hz).min(0x3ff) };
        self.write(CLOCK_CONTROL, LONGEST_TIMEOUT);
        let bits = (divider & 0xff) << 8 | (divider >> 8) << 6;
        self.write(CLOCK_CONTROL, LONGEST_TIMEOUT | bits | CLOCK_INTERNAL);
        self.wait(CLOCK_CONTROL, CLOCK_STABLE, u32::MAX)?;
        self.write(CLOCK_CONTROL, LONGEST_TIMEOUT | bits | CLOCK_INTERNAL | CLOCK_ON);
        self.slow = hz <= IDENTIFICATION_HZ;
        Ok(())
    }

    /// Resets controller and card, and finds out what card it is.
    fn identify(&mut self) -> Result<Card, StorageError> {
        self.card = None;
        self.slow = true;
        self.write(CLOCK_CONTROL, RESET_ALL);
        self.wait(CLOCK_CONTROL, RESET_ALL, 0)?;
        self.write(HOST_CONTROL, POWER_3V3);
        self.write(STATUS_ENABLE, u32::MAX);
        self.write(SIGNAL_ENABLE, 0);
        self.set_clock(IDENTIFICATION_HZ)?;
        // A card wants 1 ms of power and 74 clocks before the first command.
        self.delay(2000);
        self.command(0, 0, NO_RESPONSE)?;
        // Only cards since version 2 know CMD8; the pattern comes back.
        let version_2 = self.command(8, 0x1aa, R1).is_ok_and(|answer| answer & 0xfff == 0x1aa);
        let no_card = StorageError { kind: StorageErrorKind::Permanent, code: NO_CARD };
        let conditions = 0x00ff_8000 | u32::from(version_2) << 30;
        let start = self.clock.now();
        let by_block = loop {
            let answer = self.application(41, conditions, 0, R3).map_err(|_| no_card)?;
            if answer >> 31 == 1 {
                break answer >> 30 & 1 == 1;
            }
            if self.clock.now() - start > START_LIMIT {
                return Err(no_card);
            }
            self.delay(1000);
        };
        self.command(2, 0, R2)?;
        let address = self.command(3, 0, R1)? & 0xffff_0000;
        self.command(9, address, R2)?;
        let data = [0, 4, 8, 12].map(|at| self.registers.read(RESPONSE + at));
        let blocks = capacity(data);
        self.set_clock(DEFAULT_HZ)?;
        self.command(7, address, R1_BUSY)?;
        self.application(6, 2, address, R1)?;
        let mut control = POWER_3V3 | FOUR_LINES;
        if self.has_table {
            control |= TABLE_SELECT;
        }
        self.write(HOST_CONTROL, control);
        self.command(16, BLOCK as u32, R1)?;
        // Class 10 has the command that switches functions.
        if field(data, 84, 12) >> 10 & 1 == 1 && self.switch_to_high_speed()? {
            control |= HIGH_SPEED;
            self.write(HOST_CONTROL, control);
            self.set_clock(HIGH_SPEED_HZ)?;
        }
        let card = Card { by_block, blocks };
        self.card = Some(card);
        Ok(card)
    }

    /// Asks the card for high speed, and says whether it agreed.
    fn switch_to_high_speed(&mut self) -> Result<bool, StorageError> {
        const STATUS_BYTES: usize = 64;
        self.write(BLOCKS, STATUS_BYTES as u32 | 1 << 16);
        if self.command(6, 0x80ff_fff1, R1 | ONE_BLOCK).is_err() {
            return Ok(false);
        }
        let status = self.wait(STATUS, BLOCK_READY | ERROR, u32::MAX)?;
        if status & ERROR != 0 {
            self.reset_lines();
            return Ok(false);
        }
        self.write(STATUS, BLOCK_READY);
        let mut words = [0; STATUS_BYTES / 4];
        words.iter_mut().for_each(|word| *word = self.registers.read(DATA));
        self.wait(STATUS, TRANSFER_DONE | ERROR, u32::MAX)?;
        self.write(STATUS, u32::MAX);
        // Bits 379..376, the function of group 1: the low half of byte 16.
        Ok(words[4] & 0xf == 1)
    }

    /// Describes where data goes, when the controller may put it there.
    fn describe(&mut self, into: NonNull<[u8]>) -> Option<u32> {
        const LINE: usize = 64;
        let (start, bytes) = (into.addr().get(), into.len());
        // Whole lines only: what shares one with other data would be lost with the flush.
        let fits = start.is_multiple_of(LINE) && bytes.is_multiple_of(LINE);
        if !self.has_table || !fits || bytes > TABLE * STRETCH {
            return None;
        }
        let data = u64::from(self.registers.bus_address(start, bytes)?);
        let stretches = bytes.div_ceil(STRETCH);
        for (index, descriptor) in self.table.0[..stretches].iter_mut().enumerate() {
            let from = index * STRETCH;
            let len = STRETCH.min(bytes - from);
            *descriptor = (data + from as u64) << 32 | (len as u64) << 16 | MOVE;
        }
        self.table.0[stretches - 1] |= LAST;
        let table = self.table.0.as_ptr().addr();
        self.registers.flush(table, size_of::<Table>());
        self.registers.flush(start, bytes);
        self.registers.bus_address(table, size_of::<Table>())
    }

    /// Takes blocks out of the controller's buffer, and says whether the read is complete.
    fn receive(&mut self) -> Option<Result<(), StorageError>> {
        for _ in 0..BLOCKS_A_LOOK {
            let status = self.registers.read(STATUS);
            if status & ERROR != 0 {
                return Some(Err(card_error(status)));
            }
            let flight = self.flight.as_mut()?;
            let bytes = flight.into.len();
            if flight.by_itself {
                if status & TRANSFER_DONE == 0 {
                    return None;
                }
                self.registers.write(STATUS, TRANSFER_DONE);
                self.registers.flush(flight.into.addr().get(), bytes);
                return Some(Ok(()));
            }
            if status & BLOCK_READY != 0 && flight.done < bytes {
                self.registers.write(STATUS, BLOCK_READY);
                // SAFETY: `start` was lent the bytes, whole blocks, of which `done` are filled.
                let block = unsafe { flight.into.cast::<u8>().add(flight.done) };
                for word in 0..BLOCK / 4 {
                    let value = self.registers.read(DATA);
                    // SAFETY: as above; the word lies within the block.
                    unsafe { block.cast::<u32>().add(word).write_unaligned(value) };
                }
                flight.done += BLOCK;
            } else if status & TRANSFER_DONE != 0 && flight.done == bytes {
                self.registers.write(STATUS, TRANSFER_DONE);
                return Some(Ok(()));
            } else {
                return None;
            }
        }
        None
    }
}

/// What the controller says of a card that did not do what it was told; the code is the error half
/// of STATUS.
fn card_error(status: u32) -> StorageError {
    let code = ((status & ERRORS) >> 16) as i32;
    StorageError { kind: StorageErrorKind::Transient, code }
}

/// Bits `at..at + len` of a long answer. The controller leaves out the last byte, a checksum.
fn field(answer: [u32; 4], at: usize, len: usize) -> u64 {
    let whole = answer.iter().rev().fold(0_u128, |bits, &word| bits << 32 | u128::from(word));
    (whole >> (at - 8) & ((1 << len) - 1)) as u64
}

/// Blocks of a card, by its CSD register.
fn capacity(csd: [u32; 4]) -> u64 {
    match field(csd, 126, 2) {
        0 => {
            let (size, multiplier, length) =
                (field(csd, 62, 12), field(csd, 47, 3), field(csd, 80, 4));
            ((size + 1) << (multiplier + 2 + length)) / BLOCK as u64
        }
        _ => (field(csd, 48, 22) + 1) * 1024,
    }
}

impl<R: Registers> Driver for Sdhci<R> {
    fn name(&self) -> &'static str {
        "sd card"
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn depth(&self) -> usize {
        1
    }

    unsafe fn start(
        &mut self,
        slot: usize,
        block: u64,
        into: NonNull<[u8]>,
    ) -> Result<(), StorageError> {
        let card = match self.card {
            Some(card) => card,
            // After an error, or with another card in the slot.
            None => self.identify()?,
        };
        let count = into.len() / BLOCK;
        let past_end = StorageError { kind: StorageErrorKind::PastEnd, code: 0 };
        if block + count as u64 > card.blocks {
            return Err(past_end);
        }
        let address = if card.by_block { block } else { block * BLOCK as u64 };
        let address = u32::try_from(address).map_err(|_| past_end)?;
        let count = u32::try_from(count).ok().filter(|count| (1..=0xffff).contains(count));
        let count = count.ok_or(past_end)?;
        self.write(BLOCKS, BLOCK as u32 | count << 16);
        let (index, mut kind) = if count == 1 { (17, ONE_BLOCK) } else { (18, MANY_BLOCKS) };
        let table = self.describe(into);
        if let Some(table) = table {
            self.write(TABLE_ADDRESS, table);
            kind |= BY_ITSELF;
        }
        if let Err(error) = self.command(index, address, R1 | kind) {
            self.card = None;
            return Err(error);
        }
        self.flight = Some(Flight { slot, into, done: 0, by_itself: table.is_some() });
        Ok(())
    }

    fn poll(&mut self) -> Option<Finished> {
        let result = self.receive()?;
        let Flight { slot, .. } = self.flight.take()?;
        if result.is_err() {
            self.reset_lines();
            self.card = None;
        }
        Some(Finished { slot, result })
    }

    fn rest(&mut self) {
        // The next block is some microseconds away.
        core::hint::spin_loop();
    }

    fn reset(&mut self) {
        // The controller forgets what it was doing, also where it writes to.
        self.registers.write(CLOCK_CONTROL, RESET_ALL);
        let _ = self.wait(CLOCK_CONTROL, RESET_ALL, 0);
        self.flight = None;
        self.card = None;
    }
}
