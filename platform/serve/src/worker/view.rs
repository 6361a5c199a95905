//! How the engine is, for its operator: a snapshot between two batches.

use rill::engine::Engine;

use super::place::{Place, Seat};

/// What the worker sees.
#[derive(Debug)]
pub struct View {
    /// Who has which place; nothing where it is free.
    pub places: Vec<Option<Seat>>,
    /// The experts; nothing for a dense model.
    pub experts: Option<Experts>,
}

/// The experts of all layers, one layer after the other.
#[derive(Debug)]
pub struct Experts {
    /// Layers.
    pub banks: u32,
    /// Where each is: `r` in RAM, `f` on its way from flash, `.` on flash alone.
    pub states: String,
    /// Uses of any expert since each was used; nothing for those that never were.
    pub since: Vec<Option<u64>>,
    /// Share of the tokens that wanted each, in the long run.
    pub often: Vec<f32>,
}

impl View {
    /// Of an engine and its places.
    pub fn of(engine: &Engine<'_>, places: &[Place<'_, '_>]) -> Self {
        Self { places: places.iter().map(Place::seat).collect(), experts: Experts::of(engine) }
    }
}

impl Experts {
    fn of(engine: &Engine<'_>) -> Option<Self> {
        let history = engine.history()?;
        let pages = 0..history.pages();
        let mut states = vec![b'.'; pages.len()];
        engine.arriving_pages().for_each(|page| states[page as usize] = b'f');
        engine.resident_pages().for_each(|page| states[page as usize] = b'r');
        let since = |page| match history.recency(page) {
            0 => None,
            use_ => Some(history.uses() - use_),
        };
        Some(Self {
            banks: history.banks(),
            states: String::from_utf8_lossy(&states).into_owned(),
            since: pages.clone().map(since).collect(),
            often: pages.map(|page| history.rates(page)[2]).collect(),
        })
    }
}
