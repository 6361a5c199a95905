//! The conversations of a chat, one of which is held.

use rill_linux::engine::Engine;
use rill_linux::talk::Talk;

use crate::args::begin_talk;
use crate::failure::Failure;

/// As many conversations as there is RAM for.
pub struct Talks<'s> {
    /// `None` for those that did not begin.
    all: Vec<Option<Talk>>,
    now: usize,
    system: Option<&'s str>,
}

impl<'s> Talks<'s> {
    /// Begins the first one, with an instruction before it and the others.
    pub fn begin(engine: &mut Engine<'_>, system: Option<&'s str>) -> Result<Self, Failure> {
        let mut all = vec![Some(begin_talk(engine, system)?)];
        all.resize_with(engine.session.conversations(), || None);
        Ok(Self { all, now: 0, system })
    }

    /// The one that is held.
    pub fn now(&mut self) -> &mut Talk {
        self.all[self.now].as_mut().unwrap_or_else(|| unreachable!("only one that began is held"))
    }

    /// Goes on with another one: a copy of this one, or one that begins. Its number, from 1 on; `None`
    /// where there is no RAM for it.
    pub fn add(&mut self, engine: &mut Engine<'_>, copy: bool) -> Result<Option<usize>, Failure> {
        let Some(to) = self.all.iter().position(Option::is_none) else { return Ok(None) };
        let added = if copy {
            self.now().fork(engine, to)
        } else {
            engine.session.select(to);
            let begun = Talk::begin(engine, self.system);
            if begun.is_err() {
                engine.session.select(self.now);
            }
            Some(begun?)
        };
        if added.is_some() {
            self.all[to] = added;
            self.now = to;
        }
        Ok(Some(self.now + 1))
    }

    /// Gives up the one that is held: there is RAM for another. Goes on with the first that is left, and
    /// says its number, from 1 on; `None` where there is no other.
    pub fn close(&mut self, engine: &mut Engine<'_>) -> Option<usize> {
        let is_left = |&at: &usize| at != self.now && self.all[at].is_some();
        let next = (0..self.all.len()).find(is_left)?;
        engine.session.select(self.now);
        engine.session.reset();
        self.all[self.now] = None;
        self.now = next;
        engine.session.select(next);
        Some(next + 1)
    }

    /// Goes on with the one of this number, from 1 on; says whether it is there.
    pub fn switch(&mut self, engine: &mut Engine<'_>, number: &str) -> bool {
        let at = number.parse().map_or(usize::MAX, |number: usize| number.wrapping_sub(1));
        let is_there = self.all.get(at).is_some_and(Option::is_some);
        if is_there {
            self.now = at;
            engine.session.select(at);
        }
        is_there
    }

    /// The numbers of those that began, the held one marked.
    pub fn list(&self) -> String {
        let began = (0..self.all.len()).filter(|&at| self.all[at].is_some());
        let name = |at| format!("{}{}", at + 1, if at == self.now { " (this one)" } else { "" });
        began.map(name).collect::<Vec<_>>().join(", ")
    }
}
