//! Who has the memory for keys and values: known beginnings give way to sequences, and sequences that come
//! last to those that come first.

use super::Engine;
use crate::kernels::KV_BLOCK;
use crate::sequence::Sequence;

/// Times that a sequence gave way after which it does not wait for still more room the next time.
const MOST_PATIENCE: u32 = 5;

impl<'a> Engine<'a> {
    /// Promises memory for the next batch to those of `sequences` that have something pending, in their
    /// order: who has some of it is admitted. Says which is the first that waits for it.
    ///
    /// Who goes on takes what it needs from those after it. Who begins, or begins again, needs room for all
    /// of it beside what those before it are going to need, and the more beside that the more often it gave
    /// way: what is computed in vain has a bound. Nobody begins before one that waits.
    pub(super) fn admit(&mut self, sequences: &mut [&mut Sequence<'a>]) -> Option<usize> {
        let mut refused = None;
        // How many go on; blocks that they need for the next batch, for all that is pending, and those that
        // they may need after that.
        let (mut count, mut promised, mut soon, mut later_on) = (0, 0, 0, 0);
        for number in 0..sequences.len() {
            let Some((sequence, later)) = sequences[number..].split_first_mut() else { break };
            sequence.is_admitted = false;
            let pending = sequence.pending().len();
            let begins = !sequence.has_begun;
            if pending == 0 {
                continue;
            }
            if !(begins && refused.is_some()) {
                let is_empty = sequence.memory.table().is_empty();
                let reused = self.reuse(sequence) as u64;
                let whole = sequence.tokens().len();
                let tokens = sequence.pending().len().min(self.batch);
                let (end, more) = match begins && count > 0 {
                    true => {
                        let spare = count << sequence.parks.min(MOST_PATIENCE);
                        (whole, soon + spare.min(later_on))
                    }
                    false => (sequence.computed() + tokens, promised),
                };
                if self.make_room(sequence, later, end, more) {
                    (sequence.is_admitted, sequence.has_begun) = (true, true);
                    count += 1;
                    promised += self.lacks(sequence, sequence.computed() + tokens);
                    soon += self.lacks(sequence, whole);
                    let whole = whole.div_ceil(KV_BLOCK).max(sequence.memory.table().len());
                    later_on += sequence.context().div_ceil(KV_BLOCK) - whole;
                    continue;
                }
                if is_empty {
                    sequence.unuse(&mut self.model.kv);
                    self.stats.reused -= reused;
                }
            }
            refused = refused.or(Some(number));
        }
        refused
    }

    /// Blocks that a sequence needs to have them up to position `end`, if known beginnings gave theirs up.
    fn lacks(&mut self, sequence: &Sequence<'a>, end: usize) -> usize {
        let kv = &mut self.model.kv;
        match sequence.memory.needs(kv, end) {
            0 => 0,
            _ => kv.without(self.prefixes.tables(), |kv| sequence.memory.needs(kv, end)),
        }
    }

    /// Whether a sequence could have blocks up to position `end`, and so many `more` be left, if known
    /// beginnings and those of `later` that wait gave theirs up.
    pub(super) fn has_room(
        &mut self,
        sequence: &Sequence<'a>,
        later: &[&mut Sequence<'a>],
        end: usize,
        more: usize,
    ) -> bool {
        let kv = &mut self.model.kv;
        if sequence.memory.needs(kv, end) + more <= kv.free() {
            return true;
        }
        let waiting = later.iter().filter(|one| !one.pending().is_empty());
        let tables = self.prefixes.tables().chain(waiting.map(|one| one.memory.table()));
        kv.without(tables, |kv| sequence.memory.needs(kv, end) + more <= kv.unowned())
    }

    /// Sees to it that there is such room: of `later` those give way without whom there is none, the last
    /// ones first.
    fn make_room(
        &mut self,
        sequence: &Sequence<'a>,
        later: &mut [&mut Sequence<'a>],
        end: usize,
        more: usize,
    ) -> bool {
        if self.has_room(sequence, &[], end, more) {
            return true;
        }
        if !self.has_room(sequence, later, end, more) {
            return false;
        }
        for number in 0..later.len() {
            let Some((one, rest)) = later[number..].split_first_mut() else { break };
            // Those after it may have enough; and what it has may be others' too, and stay theirs.
            if !one.pending().is_empty() && !self.has_room(sequence, rest, end, more) {
                self.park(one);
            }
        }
        true
    }
}
