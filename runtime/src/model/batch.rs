//! The rows of a batch: consecutive tokens of one or several sequences.

use super::state::{Columns, Memory, Staged, ring};
use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;

/// Most sequences of a batch.
pub const MAX_RUNS: usize = 64;

/// Which results of a run are wanted beside what later tokens need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// None: the last layer's output concerns nobody.
    Nothing,
    /// Those of the last token.
    Last,
    /// Those of every token.
    Every,
}

impl Wanted {
    /// Of how many tokens, the last of a run of `tokens`.
    pub const fn of(self, tokens: usize) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Last => 1,
            Self::Every => tokens,
        }
    }
}

/// What kind of work the rows of a run are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Kind {
    /// They were given.
    Prompt,
    /// They were sampled: a token of an answer, maybe with guesses of the next ones.
    Answer,
}

/// The next tokens of one sequence.
pub struct Run<'r, 'a> {
    /// What the model remembers of the sequence. The first token is at its end.
    pub memory: &'r mut Memory<'a>,
    /// At least one.
    pub tokens: &'r [u32],
    /// Whose results are wanted.
    pub wanted: Wanted,
    /// The sequence may go on after any of the last so many tokens, at least 1: see [`Memory::commit`].
    pub keep: usize,
    /// What they are.
    pub kind: Kind,
}

/// Where every row of the batch belongs, and what convolutions add to the sequences.
#[derive(Debug)]
pub struct Rows<'a> {
    /// For each row its run.
    run: &'a mut [u16],
    /// For each row its position in its sequence.
    position: &'a mut [u32],
    /// The rows whose results are wanted, in ascending order.
    picked: &'a mut [u32],
    /// How many rows there are, and how many of them are picked.
    count: usize,
    picked_count: usize,
    /// For each run where its columns are staged.
    staged_at: heapless::Vec<Staged, MAX_RUNS>,
    /// Columns of the last rows of each run.
    pub staged: Columns<'a>,
}

impl<'a> Rows<'a> {
    /// Bytes for batches of up to `rows`, of up to `runs` runs with `more` rows in all that are kept
    /// besides the last of each.
    pub fn bytes(manifest: &Manifest, rows: usize, runs: usize, more: usize) -> usize {
        Arena::cost::<u16>(rows)
            + 2 * Arena::cost::<u32>(rows)
            + Columns::bytes(manifest, runs * ring(manifest) + more)
    }

    /// Takes its memory.
    pub fn new(
        manifest: &Manifest,
        rows: usize,
        runs: usize,
        more: usize,
        arena: &mut Arena<'a>,
    ) -> Result<Self, ArenaFull> {
        Ok(Self {
            run: arena.zeros(rows)?,
            position: arena.zeros(rows)?,
            picked: arena.zeros(rows)?,
            count: 0,
            picked_count: 0,
            staged_at: heapless::Vec::new(),
            staged: Columns::new(manifest, runs * ring(manifest) + more, arena)?,
        })
    }

    /// Lays out a batch; `ring` is how many columns a sequence keeps.
    pub fn lay_out(&mut self, runs: &[Run<'_, '_>], ring: usize) {
        self.staged_at.clear();
        let (mut count, mut picked, mut staged) = (0, 0, 0);
        for (number, run) in runs.iter().enumerate() {
            let n = run.tokens.len();
            let wanted = n - run.wanted.of(n);
            for index in 0..n {
                self.run[count + index] = number as u16;
                self.position[count + index] = (run.memory.len() + index) as u32;
                if index >= wanted {
                    self.picked[picked] = (count + index) as u32;
                    picked += 1;
                }
            }
            let columns = n.min(run.keep - 1 + ring);
            let position = run.memory.len() + n - columns;
            let pushed = self.staged_at.push(Staged { position, place: staged });
            debug_assert!(pushed.is_ok() && staged + columns <= self.staged.places());
            staged += columns;
            count += n;
        }
        (self.count, self.picked_count) = (count, picked);
    }

    /// How many rows.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The rows whose results are wanted, in ascending order.
    pub fn picked(&self) -> &[u32] {
        &self.picked[..self.picked_count]
    }

    /// The run of a row.
    pub fn run(&self, row: usize) -> usize {
        usize::from(self.run[row])
    }

    /// The position of a row in its sequence.
    pub fn position(&self, row: usize) -> usize {
        self.position[row] as usize
    }

    /// Where the columns of a run are staged.
    pub fn staged_at(&self, run: usize) -> Staged {
        self.staged_at[run]
    }

    /// Moves the picked rows of `x`, rows of `len` values, to the front.
    pub fn pick(&self, x: &mut [f32], len: usize) {
        for (to, &row) in self.picked().iter().enumerate() {
            let row = row as usize;
            if row != to {
                x.copy_within(row * len..(row + 1) * len, to * len);
            }
        }
    }
}
