//! Executed instructions, counted by the first core itself (Arm ARM, D13: performance monitors).
//!
//! Under QEMU the counter moves with `-icount` only.

use core::arch::asm;
use core::fmt;

/// Event: an instruction was executed and kept.
const INST_RETIRED: u64 = 0x08;

/// What the tokens of an answer cost.
#[derive(Default)]
pub struct Meter {
    /// The counter when the token at hand began; none before the first is out.
    begin: Option<u32>,
    instructions: u64,
    tokens: u32,
}

impl Meter {
    /// Starts the counter of the core that calls this.
    pub fn start() -> Self {
        // SAFETY: this program counts nothing else, and a counter changes nothing.
        unsafe {
            asm!(
                "msr pmevtyper0_el0, {event}",
                "msr pmcntenset_el0, {one}",
                "mrs {control}, pmcr_el0",
                "orr {control}, {control}, {one}",
                "msr pmcr_el0, {control}",
                "isb",
                event = in(reg) INST_RETIRED,
                one = in(reg) 1_u64,
                control = out(reg) _,
                options(nomem, nostack)
            );
        }
        Self::default()
    }

    /// An answer begins: forgets the last one.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// To be called between steps. Those before the answer has text are the prompt's and its first
    /// token's, and do not count. The counter has 32 bits: no token executes more.
    pub fn between(&mut self, spoken: bool) {
        let now = counter();
        if let Some(begin) = self.begin {
            self.instructions += u64::from(now.wrapping_sub(begin));
            self.tokens += 1;
        }
        self.begin = spoken.then_some(now);
    }
}

/// A line, or nothing where nothing was counted.
impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.instructions == 0 || self.tokens == 0 {
            return Ok(());
        }
        let each = self.instructions / u64::from(self.tokens);
        writeln!(
            f,
            "executed  {each} instructions a token on the first core, {} in {} tokens",
            self.instructions, self.tokens
        )
    }
}

fn counter() -> u32 {
    let value: u64;
    // SAFETY: reading this register changes nothing. What comes before is counted.
    unsafe { asm!("isb", "mrs {}, pmevcntr0_el0", out(reg) value, options(nomem, nostack)) };
    value as u32
}
