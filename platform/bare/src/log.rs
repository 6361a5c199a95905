//! The log: defmt frames on a stream of their own, so that the console stays text.
//!
//! On a board with virtio it is a virtio console, on a Raspberry Pi the mini UART (which shares its
//! pins with the console: it can be read in QEMU, as the second serial port). Where there is
//! neither, frames are dropped.

use core::cell::RefCell;

use critical_section::{CriticalSection, Mutex, RestoreState};
use heapless::Vec;
use rill::seams::{Clock, Event, Events};

use crate::cpu::CLOCK;

/// A frame on its way, and what carries it.
struct Stream {
    encoder: defmt::Encoder,
    restore: Option<RestoreState>,
    bytes: Vec<u8, 128>,
    sink: sink::Sink,
}

static STREAM: Mutex<RefCell<Stream>> = Mutex::new(RefCell::new(Stream {
    encoder: defmt::Encoder::new(),
    restore: None,
    bytes: Vec::new(),
    sink: sink::Sink::new(),
}));

defmt::timestamp!("{=u64:us}", CLOCK.now());

/// Opens the stream.
pub fn start() {
    critical_section::with(|section| STREAM.borrow_ref_mut(section).sink.open());
}

impl Stream {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.bytes.is_full() {
                self.flush();
            }
            // There is room.
            let _ = self.bytes.push(byte);
        }
    }

    fn flush(&mut self) {
        self.sink.send(&self.bytes);
        self.bytes.clear();
    }
}

#[defmt::global_logger]
struct Logger;

/// Calls `body` with the stream, between `acquire` and `release`.
fn with(body: impl FnOnce(&mut Stream, &mut defmt::Encoder)) {
    // SAFETY: defmt calls only between `acquire`, which entered a critical section, and `release`,
    // which leaves it.
    let section = unsafe { CriticalSection::new() };
    let mut stream = STREAM.borrow_ref_mut(section);
    let mut encoder = core::mem::replace(&mut stream.encoder, defmt::Encoder::new());
    body(&mut stream, &mut encoder);
    stream.encoder = encoder;
}

// SAFETY: a critical section is held from `acquire` to `release`, so frames do not mix.
unsafe impl defmt::Logger for Logger {
    fn acquire() {
        // SAFETY: `release` ends it.
        let restore = unsafe { critical_section::acquire() };
        with(|stream, encoder| {
            stream.restore = Some(restore);
            encoder.start_frame(|bytes| stream.write(bytes));
        });
    }

    unsafe fn flush() {}

    unsafe fn release() {
        let mut restore = None;
        with(|stream, encoder| {
            encoder.end_frame(|bytes| stream.write(bytes));
            stream.flush();
            restore = stream.restore.take();
        });
        if let Some(restore) = restore {
            // SAFETY: `acquire` entered it.
            unsafe { critical_section::release(restore) };
        }
    }

    unsafe fn write(bytes: &[u8]) {
        with(|stream, encoder| encoder.write(bytes, |bytes| stream.write(bytes)));
    }
}

/// Logs what happens in the engine.
pub struct Log;

impl Events for Log {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Retry { .. } => defmt::warn!("{}", event),
            _ => defmt::trace!("{}", event),
        }
    }
}

#[cfg(block = "virtio")]
mod sink {
    use virtio_drivers::device::console::VirtIOConsole;
    use virtio_drivers::transport::DeviceType;
    use virtio_drivers::transport::mmio::MmioTransport;

    use crate::block::virtio::{Pages, find};

    /// A virtio console.
    pub struct Sink(Option<VirtIOConsole<Pages, MmioTransport<'static>>>);

    impl Sink {
        pub const fn new() -> Self {
            Self(None)
        }

        pub fn open(&mut self) {
            let found = find(DeviceType::Console);
            self.0 = found.and_then(|(transport, _)| VirtIOConsole::new(transport).ok());
        }

        pub fn send(&mut self, bytes: &[u8]) {
            if let Some(console) = &mut self.0
                && console.send_bytes(bytes).is_err()
            {
                self.0 = None;
            }
        }
    }
}

/// The mini UART ("BCM2835 ARM Peripherals", 2.2).
#[cfg(firmware = "raspberry_pi")]
mod sink {
    use crate::board::AUX;
    use crate::mmio;

    const ENABLES: usize = AUX + 0x04;
    const IO: usize = AUX + 0x40;
    const INTERRUPTS: usize = AUX + 0x44;
    const LINE_CONTROL: usize = AUX + 0x4c;
    const LINE_STATUS: usize = AUX + 0x54;
    const CONTROL: usize = AUX + 0x60;
    const BAUD: usize = AUX + 0x68;
    /// 115200 baud with the system clock of 250 MHz: 250e6 / (8 * 115200) - 1.
    const DIVIDER: u32 = 270;
    const ROOM: u32 = 1 << 5;

    /// The device.
    pub struct Sink(());

    impl Sink {
        pub const fn new() -> Self {
            Self(())
        }

        pub fn open(&mut self) {
            mmio::write(ENABLES, mmio::read(ENABLES) | 1);
            mmio::write(INTERRUPTS, 0);
            mmio::write(CONTROL, 0);
            // 8 bits: the manual's value 1 is wrong, see its errata.
            mmio::write(LINE_CONTROL, 3);
            mmio::write(BAUD, DIVIDER);
            // Send only.
            mmio::write(CONTROL, 2);
        }

        pub fn send(&mut self, bytes: &[u8]) {
            for &byte in bytes {
                while mmio::read(LINE_STATUS) & ROOM == 0 {
                    core::hint::spin_loop();
                }
                mmio::write(IO, byte.into());
            }
        }
    }
}

#[cfg(not(any(block = "virtio", firmware = "raspberry_pi")))]
mod sink {
    /// Nothing: frames are dropped.
    pub struct Sink(());

    impl Sink {
        pub const fn new() -> Self {
            Self(())
        }

        pub fn open(&mut self) {}

        pub fn send(&mut self, _: &[u8]) {}
    }
}
