//! Keeping sequences and known beginnings elsewhere: what is written of them, and taking them back.
//!
//! Of a sequence six numbers (u32: tokens, of them computed, whether the last is a sample, the place in a
//! conversation, where the answer under way begins plus 1 or 0 where there is none, and 0), the state of its
//! random numbers (u64 four times), the tokens (u32 each), then what the model remembers of the computed ones:
//! block by block of keys and values, then the columns of the convolutions. All in native byte order.

use crate::chat::Place;
use crate::engine::Engine;
use crate::sampler::Xoshiro256;
pub use crate::saved::SaveError;
use crate::saved::{pass_over, read_tokens};
use crate::sequence::Sequence;

/// What stands before the tokens.
struct Head {
    len: usize,
    computed: usize,
    sampled: bool,
    place: Place,
    answer: Option<usize>,
    random: Xoshiro256,
}

impl Head {
    fn read<E>(read: &mut impl FnMut(&mut [u8]) -> Result<(), E>) -> Result<Self, SaveError<E>> {
        let mut words = [0_u32; 6];
        read(bytemuck::bytes_of_mut(&mut words)).map_err(SaveError::Keeper)?;
        let mut random = [0; 4];
        read(bytemuck::bytes_of_mut(&mut random)).map_err(SaveError::Keeper)?;
        let [len, computed, sampled, place, answer, none] = words;
        let is_right = computed <= len && sampled <= 1 && answer <= len && none == 0;
        let place = Place::of(place).filter(|_| is_right);
        Ok(Self {
            len: len as usize,
            computed: computed as usize,
            sampled: sampled == 1,
            place: place.ok_or(SaveError::Damaged)?,
            answer: (answer as usize).checked_sub(1),
            random: Xoshiro256::from_state(random).ok_or(SaveError::Damaged)?,
        })
    }
}

impl<'a> Engine<'a> {
    /// Writes a sequence, where its random numbers stand, and all that the model remembers of it, in
    /// pieces. [`Self::restore`] reads them; whoever keeps them in between says which image and
    /// [`Self::kv_format`] they belong to and finds damage.
    pub fn save<E>(
        &mut self,
        sequence: &mut Sequence<'a>,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let [len, computed] = [sequence.tokens().len(), sequence.computed()].map(|n| n as u32);
        let answer = sequence.answer.map_or(0, |begin| begin as u32 + 1);
        let head = [len, computed, u32::from(sequence.sampled), sequence.place.code(), answer, 0];
        write(bytemuck::bytes_of(&head))?;
        write(bytemuck::bytes_of(&sequence.sampler.random.state()))?;
        write(bytemuck::cast_slice(sequence.tokens()))?;
        self.visit_memory(sequence, &mut |bytes| write(bytes))
    }

    /// Whether [`Self::restore`] could take what `read` gives, as far as can be told without changing
    /// anything: `read` is asked for the beginning of it.
    pub fn check_saved<E>(
        &self,
        sequence: &Sequence<'a>,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        let head = Head::read(&mut read)?;
        if head.len > sequence.context() {
            return Err(SaveError::Sequence(sequence.full(Some(head.len))));
        }
        for _ in 0..head.len {
            read_tokens(&mut [0], self.vocab(), &mut read)?;
        }
        Ok(())
    }

    /// Takes what [`Self::save`] wrote in the place of a sequence; `read` fills its piece or fails. Where
    /// there is no memory for its keys and values, its tokens are pending instead.
    /// After an error the sequence is as after a reset: see [`Self::check_saved`].
    pub fn restore<E>(
        &mut self,
        sequence: &mut Sequence<'a>,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        self.reset(sequence);
        let restored = self.restore_into_empty(sequence, &mut read);
        if restored.is_err() {
            self.reset(sequence);
        }
        restored
    }

    fn restore_into_empty<E>(
        &mut self,
        sequence: &mut Sequence<'a>,
        read: &mut impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), SaveError<E>> {
        let head = Head::read(read)?;
        let full = sequence.full(Some(head.len));
        let tokens = sequence.room().get_mut(..head.len).ok_or(SaveError::Sequence(full))?;
        read_tokens(tokens, self.vocab(), read)?;
        sequence.grow(head.len);
        sequence.sampled = head.sampled;
        sequence.place = head.place;
        sequence.answer = head.answer;
        match self.restore_memory(sequence, head.computed) {
            Ok(()) => self.visit_memory(sequence, read),
            Err(_) => {
                let blocks = self.model.kv.visited_bytes(head.computed as u64);
                let columns = sequence.memory.column_bytes() as u64;
                let bytes = blocks.and_then(|blocks| blocks.checked_add(columns));
                pass_over(bytes.ok_or(SaveError::Damaged)?, read)
            }
        }
        .map_err(SaveError::Keeper)?;
        sequence.sampler.random = head.random;
        Ok(())
    }

    /// Writes the most useful known beginnings that take at most `most` bytes together, in pieces, and
    /// says how many they are. [`Self::restore_beginnings`] reads them; whoever keeps them in between
    /// says which image and [`Self::kv_format`] they belong to and finds damage.
    pub fn save_beginnings<E>(
        &mut self,
        most: u64,
        mut write: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<u64, E> {
        self.prefixes.save(&mut self.model.kv, most, &mut write)
    }

    /// Knows what [`Self::save_beginnings`] wrote, beside what it knows; `read` fills its piece or
    /// fails. What there is no room for is passed over. Says how many there was room for.
    ///
    /// After an error some may be known, or only seem to be: see [`Self::forget`].
    pub fn restore_beginnings<E>(
        &mut self,
        mut read: impl FnMut(&mut [u8]) -> Result<(), E>,
    ) -> Result<u64, SaveError<E>> {
        let vocab = self.vocab();
        self.prefixes.restore(&mut self.model.kv, vocab, &mut read)
    }
}
