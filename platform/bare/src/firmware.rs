//! The Raspberry Pi's firmware, asked through its mailbox
//! (<https://github.com/raspberrypi/firmware/wiki/Mailbox-property-interface>), and its pins.

use core::cell::UnsafeCell;

use rill::seams::{Clock, Micros};

use crate::board::{GPIO, MAILBOX};
use crate::cpu::{self, CLOCK};
use crate::mmio;

const READ: usize = MAILBOX;
const STATUS: usize = MAILBOX + 0x18;
const WRITE: usize = MAILBOX + 0x20;
const FULL: u32 = 1 << 31;
const EMPTY: u32 = 1 << 30;
/// Properties, from the Arm cores to the firmware.
const CHANNEL: u32 = 8;
/// Where the firmware sees RAM without caches.
const UNCACHED: u32 = 0xc000_0000;
const DONE: u32 = 1 << 31;
/// A firmware that needs longer does not answer.
const LIMIT: Micros = 1_000_000;

const GET_REVISION: u32 = 0x0000_0001;
const GET_ARM_MEMORY: u32 = 0x0001_0005;
const GET_CLOCK_RATE: u32 = 0x0003_0002;

/// The revision that QEMU has always claimed; real ones are times, this one would be in 1970.
const QEMU_REVISION: u32 = 346_337;

/// A message, alone in its cache lines.
#[repr(C, align(64))]
struct Message(UnsafeCell<[u32; 16]>);

// SAFETY: only the first core asks, one question at a time.
unsafe impl Sync for Message {}

static MESSAGE: Message = Message(UnsafeCell::new([0; 16]));

/// Asks for a property: a tag, two words with it, two words back.
fn ask(tag: u32, words: [u32; 2]) -> Option<[u32; 2]> {
    let message = MESSAGE.0.get();
    // SAFETY: see `Message`; the firmware has answered every earlier question or never will.
    unsafe {
        *message = [0; 16];
        // Bytes, a request, the tag, bytes for values, a request, the values, the end.
        (&mut *message)[..8].copy_from_slice(&[32, 0, tag, 8, 0, words[0], words[1], 0]);
    }
    let address = message.addr();
    cpu::flush_cache(address, 64);
    wait(FULL)?;
    mmio::write(WRITE, address as u32 | UNCACHED | CHANNEL);
    loop {
        wait(EMPTY)?;
        if mmio::read(READ) & 0xf == CHANNEL {
            break;
        }
    }
    cpu::flush_cache(address, 64);
    // SAFETY: the firmware is done with the message.
    let answer = unsafe { message.read_volatile() };
    (answer[1] == DONE && answer[4] & DONE != 0).then_some([answer[5], answer[6]])
}

/// Waits until this bit of the status is clear.
fn wait(bit: u32) -> Option<()> {
    let start = CLOCK.now();
    while mmio::read(STATUS) & bit != 0 {
        if CLOCK.now() - start > LIMIT {
            return None;
        }
    }
    Some(())
}

/// Whether this is QEMU, whose watchdog fires at once.
pub fn is_emulated() -> bool {
    ask(GET_REVISION, [0; 2]).is_some_and(|[revision, _]| revision == QEMU_REVISION)
}

/// End of the RAM that the firmware leaves to the Arm cores, of the part that begins at 0.
pub fn ram_end() -> usize {
    ask(GET_ARM_MEMORY, [0; 2]).map_or(usize::MAX, |[start, bytes]| (start + bytes) as usize)
}

/// The rate of a clock, in Hz.
pub fn clock_rate(clock: u32) -> Option<u32> {
    ask(GET_CLOCK_RATE, [clock, 0]).map(|[_, rate]| rate)
}

/// What a pin is used for.
#[derive(Clone, Copy)]
enum Function {
    /// Alternative 0.
    Alt0 = 0b100,
    /// Alternative 3.
    Alt3 = 0b111,
}

/// Leads the console's and, where pins are in between, the card's lines to their devices.
pub fn start() {
    // Pins 14 and 15: PL011. The firmware may have given them to the mini UART.
    [14, 15].into_iter().for_each(|pin| set_pin(pin, Function::Alt0));
    if crate::board::SDHCI_PINS {
        // Pins 48 to 53: the Arasan controller. The firmware may have given them to its own.
        (48..=53).for_each(|pin| set_pin(pin, Function::Alt3));
    }
}

fn set_pin(pin: usize, function: Function) {
    let register = GPIO + pin / 10 * 4;
    let at = pin % 10 * 3;
    mmio::write(register, mmio::read(register) & !(0b111 << at) | (function as u32) << at);
}
