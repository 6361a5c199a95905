//! An answer on standard output, its thinking dimmed or left out.

use std::io::{self, Write};
use std::str::FromStr;

use rill::thinking::Part;

use crate::terminal::{Shown, stdout};

/// What becomes of a model's thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinkingArg {
    /// It is shown.
    Show,
    /// It is not shown.
    Hide,
    /// It ends after so many tokens.
    Most(u64),
}

impl FromStr for ThinkingArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "show" => Ok(Self::Show),
            "hide" => Ok(Self::Hide),
            number => number
                .parse()
                .map(Self::Most)
                .map_err(|_| "not `show`, `hide` or a number of tokens".into()),
        }
    }
}

impl ThinkingArg {
    /// Most tokens of thinking.
    pub fn most(self) -> Option<u64> {
        match self {
            Self::Most(most) => Some(most),
            Self::Show | Self::Hide => None,
        }
    }
}

/// Writes answers to standard output as they come.
pub struct Voice {
    show: bool,
    dims: bool,
    /// The last text was thinking.
    thinking: bool,
}

impl Voice {
    /// Thinking is shown as `asked`, else on a terminal only.
    pub fn new(asked: Option<ThinkingArg>) -> Self {
        let terminal = stdout().is_terminal();
        let show = match asked {
            Some(ThinkingArg::Show) => true,
            Some(ThinkingArg::Hide) => false,
            Some(ThinkingArg::Most(_)) | None => terminal,
        };
        Self { show, dims: terminal, thinking: false }
    }

    /// Writes a piece.
    pub fn say(&mut self, part: Part, text: &str) -> io::Result<()> {
        let mut out = stdout();
        match part {
            Part::Mark => return Ok(()),
            Part::Thinking if !self.show => return Ok(()),
            Part::Thinking if !self.thinking => {
                self.thinking = true;
                out.style(if self.dims { "\x1b[2m" } else { "" })?;
            }
            Part::Answer if self.thinking => {
                self.undim(&mut out)?;
                out.write_all(b"\n\n")?;
            }
            Part::Thinking | Part::Answer => {}
        }
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// The answer is over.
    pub fn finish(&mut self) -> io::Result<()> {
        let mut out = stdout();
        self.undim(&mut out)?;
        out.flush()
    }

    fn undim(&mut self, out: &mut Shown<impl Write>) -> io::Result<()> {
        let dimmed = self.dims && self.thinking;
        self.thinking = false;
        out.style(if dimmed { "\x1b[22m" } else { "" })
    }
}
