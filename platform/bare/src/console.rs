//! The serial console: a PL011, 115200 baud, 8 bits, no parity.

use core::fmt;
use core::ptr::NonNull;

use arm_pl011_uart::{DataBits, LineConfig, PL011Registers, Parity, StopBits, Uart};
use heapless::Deque;
use rill::seams::Micros;
use safe_mmio::UniqueMmioPointer;

use crate::board::{CONSOLE, CONSOLE_HZ};
use crate::cpu;

const BAUD: u32 = 115_200;
/// What is typed while the program is busy waits here, then in the device.
const TYPED: usize = 256;
/// How often an idle console is looked at: the device holds what comes meanwhile.
const LOOK: Micros = 1000;
const CTRL_C: u8 = 3;

/// The console.
pub struct Console {
    uart: Uart<'static>,
    typed: Deque<u8, TYPED>,
}

impl Console {
    /// Sets the device up. There is one console; a panic makes a second one, and nothing else is
    /// said after that.
    pub fn start() -> Self {
        let registers = CONSOLE as *mut PL011Registers;
        let registers = NonNull::new(registers).expect("no console lies at address 0");
        // SAFETY: the board's file says that a PL011 is there; it is mapped as device memory, and
        // this is the only use of it but for a panic's.
        let registers = unsafe { UniqueMmioPointer::new(registers) };
        let mut uart = Uart::new(registers);
        let line = LineConfig {
            data_bits: DataBits::Bits8,
            parity: Parity::None,
            stop_bits: StopBits::One,
        };
        // Only a clock slower than the baud rate could be refused; the console then stays as the
        // loader left it.
        let _ = uart.enable(line, BAUD, CONSOLE_HZ);
        Self { uart, typed: Deque::new() }
    }

    /// Shows bytes as they are.
    pub fn show(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            while self.uart.is_tx_fifo_full() {
                core::hint::spin_loop();
            }
            self.uart.write_word(byte);
        }
    }

    /// Shows a text; its lines end as terminals want it.
    pub fn print(&mut self, text: &str) {
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    self.show(line.as_bytes());
                    self.show(b"\r\n");
                }
                None => self.show(line.as_bytes()),
            }
        }
    }

    /// The next byte that was typed, if there is one.
    pub fn typed(&mut self) -> Option<u8> {
        self.typed.pop_front().or_else(|| self.receive())
    }

    /// Waits for the next byte, at most about `time`.
    pub fn wait(&mut self, time: Micros) -> Option<u8> {
        for _ in 0..time / LOOK + 1 {
            if let Some(byte) = self.typed() {
                return Some(byte);
            }
            cpu::rest(LOOK);
        }
        None
    }

    /// Whether Ctrl-C was typed. What else was typed stays to be read.
    pub fn interrupted(&mut self) -> bool {
        while !self.typed.is_full()
            && let Some(byte) = self.receive()
        {
            if byte == CTRL_C {
                self.typed.clear();
                return true;
            }
            // There is room.
            let _ = self.typed.push_back(byte);
        }
        false
    }

    /// Waits until everything has left.
    pub fn drain(&mut self) {
        while self.uart.is_busy() {
            core::hint::spin_loop();
        }
    }

    /// A byte from the device. One that arrived damaged is skipped.
    fn receive(&mut self) -> Option<u8> {
        loop {
            if let Ok(byte) = self.uart.read_word() {
                return byte;
            }
        }
    }
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.print(text);
        Ok(())
    }
}
