//! The rows of a batch: consecutive tokens of one or several sequences.

use super::state::{Columns, Memory, Staged, ring, window};
use crate::arena::{Arena, ArenaFull};
use crate::image::Manifest;

/// Most sequences of a batch.
pub const MAX_RUNS: usize = 64;

/// Most marks of a batch: see [`Mark`].
pub const MAX_MARKS: usize = 4;

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

/// The most that a batch can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Most {
    /// Rows.
    pub rows: usize,
    /// Runs.
    pub runs: usize,
    /// Rows of all runs that are kept besides the last of each: see [`Run::keep`].
    pub more: usize,
    /// Marks.
    pub marks: usize,
}

impl Most {
    /// Columns that are staged.
    fn columns(self, manifest: &Manifest) -> usize {
        self.runs * ring(manifest) + self.more + self.marks * window(manifest)
    }
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

/// A place in a run that is to be remembered: the columns that a sequence of so many positions needs are
/// staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    /// The number of the run.
    pub run: usize,
    /// Positions of the sequence up to there: more than the run begins with, at most as many as it ends
    /// with.
    pub len: usize,
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
    /// The marks, and where their columns are staged.
    marks: heapless::Vec<(Mark, Staged), MAX_MARKS>,
    /// Columns of the last rows of each run, and of those before each mark.
    pub staged: Columns<'a>,
}

impl<'a> Rows<'a> {
    /// Bytes for batches of `most`.
    pub fn bytes(manifest: &Manifest, most: Most) -> usize {
        Arena::cost::<u16>(most.rows)
            + 2 * Arena::cost::<u32>(most.rows)
            + Columns::bytes(manifest, most.columns(manifest))
    }

    /// Takes its memory.
    pub fn new(manifest: &Manifest, most: Most, arena: &mut Arena<'a>) -> Result<Self, ArenaFull> {
        Ok(Self {
            run: arena.zeros(most.rows)?,
            position: arena.zeros(most.rows)?,
            picked: arena.zeros(most.rows)?,
            count: 0,
            picked_count: 0,
            staged_at: heapless::Vec::new(),
            marks: heapless::Vec::new(),
            staged: Columns::new(manifest, most.columns(manifest), arena)?,
        })
    }

    /// Lays out a batch; `window` is how many columns the next token of a sequence needs.
    pub fn lay_out(&mut self, runs: &[Run<'_, '_>], marks: &[Mark], window: usize) {
        self.staged_at.clear();
        self.marks.clear();
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
            let columns = n.min(run.keep - 1 + 2 * window);
            let position = run.memory.len() + n - columns;
            let pushed = self.staged_at.push(Staged { position, place: staged });
            debug_assert!(pushed.is_ok() && staged + columns <= self.staged.places());
            staged += columns;
            count += n;
        }
        for &mark in marks {
            let start = runs[mark.run].memory.len();
            let position = start.max(mark.len.saturating_sub(window));
            debug_assert!(mark.len > start && staged + window <= self.staged.places());
            let pushed = self.marks.push((mark, Staged { position, place: staged }));
            debug_assert!(pushed.is_ok());
            staged += window;
        }
        (self.count, self.picked_count) = (count, picked);
    }

    /// The marks, and where their columns are staged.
    pub fn marks(&self) -> &[(Mark, Staged)] {
        &self.marks
    }

    /// Stages the column of a layer at a position of a run, where it is wanted later.
    pub fn stage(&mut self, run: usize, layer: usize, position: usize, column: &[f32]) {
        let last = position.checked_sub(self.staged_at[run].position);
        let last = last.map(|index| self.staged_at[run].place + index);
        let is_before = |(mark, at): &&(Mark, Staged)| {
            mark.run == run && (at.position..mark.len).contains(&position)
        };
        let marked = self.marks.iter().filter(is_before);
        let marked = marked.map(|(_, at)| at.place + position - at.position);
        for place in last.into_iter().chain(marked) {
            self.staged.get_mut(layer, place).copy_from_slice(column);
        }
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
