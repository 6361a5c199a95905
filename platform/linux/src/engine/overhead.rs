//! RAM that the process uses beside its arena, by name.

use rustix::param::page_size;

/// What is not the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overhead {
    /// Bytes of a model inside the program.
    pub built_in: u64,
    /// Bytes of the chat template that came with the model.
    pub template: u64,
    /// Threads that compute or read.
    pub threads: usize,
    /// Bytes of a server's connections.
    pub connections: u64,
    /// Bytes of its requests, from their bodies to their answers.
    pub requests: u64,
    /// Bytes of the forms that answers must have.
    pub forms: u64,
}

/// Names of the parts, in the order of [`Overhead::parts`].
pub const PARTS: [&str; 8] = [
    "program",
    "built-in model",
    "chat template",
    "threads",
    "connections",
    "requests",
    "forms of answers",
    "page tables",
];

/// Code and what it links to, the data of the command line and of the tokenizer, queues, and the page
/// tables of all this. 8.5 MiB were measured where a chat template is rendered; the rest is code that
/// few runs reach.
const PROGRAM: u64 = 10 << 20;
/// A thread: what it touches of its stack, and the kernel's own stack and record for it. 38 KiB were
/// measured for each of 63 threads in a memory control group.
const THREAD: u64 = 64 << 10;

impl Overhead {
    /// Bytes of each part beside an arena of so many bytes.
    pub fn parts(&self, arena: u64) -> [(&'static str, u64); PARTS.len()] {
        let threads = (self.threads as u64).saturating_mul(THREAD);
        let tables = page_tables(arena, page_size() as u64);
        let Self { built_in, template, connections, requests, forms, .. } = *self;
        let bytes = [PROGRAM, built_in, template, threads, connections, requests, forms, tables];
        std::array::from_fn(|part| (PARTS[part], bytes[part]))
    }

    /// Bytes of all parts beside an arena of so many bytes.
    pub fn beside(&self, arena: u64) -> u64 {
        self.parts(arena).iter().fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes))
    }

    /// Bytes that a server takes of it.
    pub fn server(&self) -> u64 {
        let parts = [self.connections, self.requests, self.forms];
        parts.iter().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes))
    }

    /// Bytes of an arena with what lies beside it.
    pub fn with(&self, arena: u64) -> u64 {
        arena.saturating_add(self.beside(arena))
    }

    /// The largest arena for which a process of `total` bytes has room.
    pub fn arena(&self, total: u64) -> u64 {
        let (mut fits, mut most) = (0, total);
        while fits < most {
            let middle = most - (most - fits) / 2;
            if self.with(middle) <= total {
                fits = middle;
            } else {
                most = middle - 1;
            }
        }
        fits
    }
}

/// Bytes of the page tables of an arena: an entry of 8 bytes for each page, and the same again for the
/// tables themselves, level by level. Huge pages save none of it: the kernel keeps the tables that it
/// would need to break one up.
fn page_tables(arena: u64, page: u64) -> u64 {
    let (mut bytes, mut tables) = (0, arena.div_ceil(page));
    while tables > 2 {
        // One more where the arena does not begin with a table.
        tables = tables.div_ceil(page / 8) + 1;
        bytes += tables * page;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn page_tables_are_a_512th_and_a_little() {
        assert_eq!(page_tables(0, 4096), 0);
        // 2 MiB of tables for 1 GiB, and one at each end of a level.
        assert_eq!(page_tables(1 << 30, 4096), (513 + 3 + 2) * 4096);
        assert_eq!(page_tables(12 << 30, 4096), (6145 + 14 + 2) * 4096);
        // Pages of 16 KiB: a table holds 2048 entries.
        assert_eq!(page_tables(1 << 30, 16 << 10), (33 + 2) * (16 << 10));
    }

    proptest! {
        #[test]
        fn the_arena_is_the_largest_that_fits(
            total in 0_u64..64 << 30,
            built_in in 0_u64..64 << 20,
            threads in 0_usize..256,
        ) {
            let overhead = Overhead { built_in, threads, ..Overhead::default() };
            let arena = overhead.arena(total);
            prop_assert!(arena == 0 || overhead.with(arena) <= total);
            prop_assert!(overhead.with(arena + 1) > total);
            let sum: u64 = overhead.parts(arena).iter().map(|(_, bytes)| bytes).sum();
            prop_assert_eq!(overhead.with(arena), arena + sum);
        }
    }
}
