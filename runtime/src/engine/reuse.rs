//! Nothing is computed twice: which known beginnings sequences take over, and what is remembered of
//! them.

use core::ops::RangeInclusive;

use super::{Engine, Share};
use crate::model::batch::{MAX_MARKS, Mark};
use crate::sequence::Sequence;

/// Tokens between two places of a prompt that are remembered, at least, and before the first: mostly
/// an instruction that many conversations begin with.
const MARK_TOKENS: usize = 128;
const FIRST_MARK_TOKENS: usize = 16;

impl<'a> Engine<'a> {
    /// Takes over the longest known beginning of a sequence, so that less of it is pending; at least one
    /// token is. Says how many tokens need not be computed. [`Self::advance`] does it by itself.
    pub fn reuse(&mut self, sequence: &mut Sequence<'a>) -> usize {
        if self.prefixes.room() == 0 || sequence.pending().len() < 2 || sequence.wants_every {
            return 0;
        }
        let (memory, tokens) = sequence.memory_mut();
        let reused = self.prefixes.take(&mut self.model.kv, memory, tokens);
        if reused > 0 {
            sequence.results = None;
            sequence.remembered = sequence.computed();
            self.stats.reused += reused as u64;
        }
        reused
    }

    /// Remembers what was computed of a sequence, for those that begin alike. It happens by itself at the
    /// end of prompts and answers, and within long prompts.
    pub fn remember(&mut self, sequence: &mut Sequence<'a>) {
        let len = sequence.computed();
        if self.prefixes.room() > 0 && len > sequence.remembered {
            let (memory, tokens) = sequence.memory_mut();
            self.prefixes.remember(&mut self.model.kv, memory, &tokens[..len], None);
            sequence.remembered = len;
        }
    }

    /// How many beginnings were remembered so far that were not known before: another number when there
    /// is something new to keep, see [`Self::save_beginnings`].
    pub const fn remembered(&self) -> u64 {
        self.prefixes.remembered()
    }

    /// Forgets all known beginnings; what sequences have stays.
    pub fn forget(&mut self) {
        self.prefixes.clear(&mut self.model.kv);
    }

    /// Where in a batch what was computed is to be remembered, for sequences that begin alike: where others
    /// that wait begin to differ, where it parts from what is known, and where a message begins.
    pub(super) fn marks(&self, shares: &[Share<'_, 'a>]) -> heapless::Vec<Mark, MAX_MARKS> {
        let mut marks = heapless::Vec::new();
        let room = self.prefixes.room().min(MAX_MARKS);
        let prompts = || shares.iter().enumerate().filter(|(_, share)| !share.is_answer());
        let shared = prompts().flat_map(|(run, share)| {
            let lengths = share.lengths();
            share.shared.iter().filter(move |len| lengths.contains(len)).map(move |&len| (run, len))
        });
        let parted = prompts().filter_map(|(run, share)| {
            let sequence = &share.sequence;
            let (lengths, far) = (share.lengths(), sequence.remembered + FIRST_MARK_TOKENS);
            let most = sequence.tokens().len() - 1;
            // To compare with all that is known takes long beside a short share.
            if room == 0 || sequence.wants_every || most.min(*lengths.end()) < far {
                return None;
            }
            let len = self.prefixes.shared(&self.model.kv, sequence.tokens()).min(most);
            (len >= far && lengths.contains(&len)).then_some((run, len))
        });
        let messages = prompts().flat_map(|(run, share)| {
            let mut before = share.sequence.remembered;
            let tokens = share.sequence.tokens();
            share.lengths().filter_map(move |len| {
                let far = if before == 0 { FIRST_MARK_TOKENS } else { MARK_TOKENS };
                let begins = |&id: &u32| self.tokenizer.is_special(id);
                let is_mark = len >= before + far && tokens.get(len).is_some_and(begins);
                is_mark.then(|| {
                    before = len;
                    (run, len)
                })
            })
        });
        for (run, len) in shared.chain(parted).chain(messages).take(room) {
            let mark = Mark { run, len };
            if !marks.contains(&mark) {
                // As many as there is room for were taken.
                let _ = marks.push(mark);
            }
        }
        marks.sort_unstable();
        marks
    }

    /// Whether a sequence is better off when one of `shares`, which come first, has computed what both
    /// begin with: then that one is to remember it.
    pub(super) fn waits(&self, sequence: &Sequence<'a>, shares: &mut [Share<'_, 'a>]) -> bool {
        let tokens = sequence.tokens();
        let worth = sequence.computed() + FIRST_MARK_TOKENS;
        if self.prefixes.room() == 0 || tokens.len() <= worth || sequence.wants_every {
            return false;
        }
        for share in shares.iter_mut().filter(|share| !share.is_answer()) {
            let first = &share.sequence;
            let both = tokens.iter().zip(first.tokens()).take_while(|(a, b)| a == b).count();
            let both = both.min(tokens.len() - 1);
            if both >= worth && both > first.computed() {
                return share.shared.contains(&both) || share.shared.push(both).is_ok();
            }
        }
        false
    }
}

impl Share<'_, '_> {
    /// Lengths that the sequence comes to within the share.
    fn lengths(&self) -> RangeInclusive<usize> {
        let start = self.sequence.computed();
        start + 1..=start + self.tokens
    }

    /// How much of the sequence is to be remembered when the share is computed: all but the last token
    /// of a prompt, so that the same prompt finds it, and as much of one that goes on as was computed. What
    /// is weighed token by token goes on in no other sequence.
    pub(super) fn last_mark(&self) -> Option<usize> {
        if self.sequence.wants_every {
            return None;
        }
        let end = self.sequence.computed() + self.tokens;
        let is_end = end == self.sequence.tokens().len();
        let len = if is_end { end - 1 } else { end };
        let far = self.sequence.remembered + if is_end { 1 } else { MARK_TOKENS };
        (!self.is_answer() && len >= far && len > self.sequence.computed()).then_some(len)
    }
}
