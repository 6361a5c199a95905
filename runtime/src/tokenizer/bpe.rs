//! Merging a piece: the pair of lowest rank first, the leftmost of equals, until none is left.

/// Words of scratch that [`merge`] needs for each byte of a piece.
pub const SCRATCH_WORDS_PER_BYTE: usize = 4;

/// Rank of a place where nothing can be merged.
const NEVER: u32 = u32::MAX;

/// Merges a piece whose `len` bytes are the tokens `ids` and passes the result to `emit`.
///
/// `lookup` gives a pair's rank and the token it becomes. `scratch` has at least
/// [`SCRATCH_WORDS_PER_BYTE`] words a byte, and `len` fits in 32 bits. O(len log len).
pub fn merge<E>(
    ids: impl Iterator<Item = u32>,
    len: usize,
    scratch: &mut [u32],
    lookup: impl Fn(u32, u32) -> Option<(u32, u32)>,
    mut emit: impl FnMut(u32) -> Result<(), E>,
) -> Result<(), E> {
    let (id, rest) = scratch.split_at_mut(len);
    let (span, rest) = rest.split_at_mut(len);
    let (rank, rest) = rest.split_at_mut(len);
    let mut piece = Piece { id, span, rank, winner: &mut rest[..len] };
    piece.fill(ids, &lookup);
    while piece.merge_best(&lookup) {}
    let mut at = 0;
    while at < len {
        emit(piece.id[at])?;
        at += piece.span[at] as usize;
    }
    Ok(())
}

/// A piece being merged. A symbol covers consecutive bytes and is named by the first of them.
struct Piece<'s> {
    /// Token of the symbol that starts at this byte.
    id: &'s mut [u32],
    /// Bytes of a symbol, kept at its first and at its last byte: enough to find both neighbours.
    span: &'s mut [u32],
    /// Rank of merging the symbol that starts here with the next one; [`NEVER`] elsewhere.
    rank: &'s mut [u32],
    /// A tournament over `rank`: node `k` holds the better byte of nodes `2 k` and `2 k + 1`,
    /// node `len + i` stands for byte `i`, node 1 is the best of all.
    winner: &'s mut [u32],
}

impl Piece<'_> {
    fn fill(
        &mut self,
        ids: impl Iterator<Item = u32>,
        lookup: &impl Fn(u32, u32) -> Option<(u32, u32)>,
    ) {
        for (slot, id) in self.id.iter_mut().zip(ids) {
            *slot = id;
        }
        self.span.fill(1);
        for at in 0..self.id.len() {
            self.rank[at] = self.rank_at(at, lookup);
        }
        for node in (1..self.id.len()).rev() {
            self.winner[node] = self.play(node);
        }
    }

    /// Merges the best pair; false when there is none.
    fn merge_best(&mut self, lookup: &impl Fn(u32, u32) -> Option<(u32, u32)>) -> bool {
        let len = self.id.len();
        if len < 2 {
            return false;
        }
        let left = self.winner[1] as usize;
        if self.rank[left] == NEVER {
            return false;
        }
        let right = left + self.span[left] as usize;
        let Some((_, merged)) = lookup(self.id[left], self.id[right]) else { return false };
        let span = self.span[left] + self.span[right];
        self.id[left] = merged;
        self.span[left] = span;
        self.span[left + span as usize - 1] = span;
        self.set_rank(right, NEVER);
        let rank = self.rank_at(left, lookup);
        self.set_rank(left, rank);
        if left > 0 {
            let before = left - self.span[left - 1] as usize;
            let rank = self.rank_at(before, lookup);
            self.set_rank(before, rank);
        }
        true
    }

    fn rank_at(&self, at: usize, lookup: &impl Fn(u32, u32) -> Option<(u32, u32)>) -> u32 {
        let next = at + self.span[at] as usize;
        self.id
            .get(next)
            .and_then(|&right| lookup(self.id[at], right))
            .map_or(NEVER, |(rank, _)| rank)
    }

    fn set_rank(&mut self, at: usize, rank: u32) {
        self.rank[at] = rank;
        let mut node = (self.id.len() + at) / 2;
        while node > 0 {
            self.winner[node] = self.play(node);
            node /= 2;
        }
    }

    fn play(&self, node: usize) -> u32 {
        let [a, b] = [2 * node, 2 * node + 1].map(|child| {
            let leaf = child.checked_sub(self.id.len());
            leaf.map_or_else(|| self.winner[child], |byte| byte as u32)
        });
        let key = |byte: u32| (self.rank[byte as usize], byte);
        if key(a) <= key(b) { a } else { b }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    /// The definition, step by step.
    fn by_definition(mut ids: Vec<u32>, merges: &HashMap<(u32, u32), (u32, u32)>) -> Vec<u32> {
        while let Some((&(_, merged), at)) = ids
            .windows(2)
            .enumerate()
            .filter_map(|(at, pair)| merges.get(&(pair[0], pair[1])).map(|merge| (merge, at)))
            .min_by_key(|(merge, at)| (merge.0, *at))
        {
            ids.splice(at..at + 2, [merged]);
        }
        ids
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn merges_as_defined(
            ids in proptest::collection::vec(0..4_u32, 0..60),
            pairs in proptest::collection::vec((0..12_u32, 0..12_u32), 0..40),
        ) {
            let mut merges = HashMap::new();
            for (rank, pair) in pairs.into_iter().enumerate() {
                merges.entry(pair).or_insert((rank as u32, 4 + rank as u32 % 8));
            }
            let lookup = |left, right| merges.get(&(left, right)).copied();
            let mut scratch = std::vec![7; ids.len() * SCRATCH_WORDS_PER_BYTE];
            let mut found = Vec::new();
            let emit = |id| { found.push(id); Ok::<(), ()>(()) };
            merge(ids.iter().copied(), ids.len(), &mut scratch, lookup, emit).unwrap();
            prop_assert_eq!(found, by_definition(ids, &merges));
        }
    }
}
