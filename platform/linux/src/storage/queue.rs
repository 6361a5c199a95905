use rill::seams::Storage;
use rill::seams::pieces::Tuning;

/// What performs the reads of a [`Disk`](super::Disk).
pub trait Queue: Storage<'static> + std::fmt::Debug {
    /// What it is called in statistics.
    fn name(&self) -> &'static str;
    /// Its threads.
    fn threads(&self) -> usize;
    /// How reads are cut from now on.
    fn tune(&mut self, tuning: Tuning);
    /// Reads from now on write only inside `arena`; others fail.
    fn confine(&mut self, arena: &[u8]);
}
