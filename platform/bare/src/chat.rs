//! Conversations at the console: answers what is typed, as `rill chat` does.

use core::cell::{Cell, RefCell};
use core::convert::Infallible;
use core::fmt::Write;

use rill::chat::Role;
use rill::generate::{Ending, Free, forget_thinking, generate};
use rill::plan::Plan;
use rill::report::{Report, Surroundings};
use rill::seams::{Micros, Parallel, World};
use rill::sequence::SequenceError;
use rill::session::Session;
use rill::size::Size;
use rill::thinking::{Part, Thoughts};
use rill_bare::config::Config;
use rill_bare::disk::CONFIG_NAME;
use rill_bare::line::{Key, Line};
use rill_bare::storage::{Driver, Queue};
use rill_bare::talks::Talks;

use crate::boot;
use crate::console::Console;
use crate::cores::Cores;
use crate::cpu::CLOCK;
use crate::log::Log;
use crate::pmu::Meter;
use crate::power::{self, WATCHDOG};

const HELP: &str = "\
In a conversation:
  /reset     forget it and begin anew
  /new       begin another one beside it; /fork begins it with what was said so far
  /switch N  go on with conversation N (`conversations` in RILL.CFG says how many there can be)
  /stats     where the time went
  /help      this list
  /restart   restart the board
  /quit      switch the board off
Ctrl-C ends an answer.";

/// The conversations at the console, and what they are held with.
pub struct Chat<'c, 't, D> {
    /// Where they are held.
    pub console: &'c mut Console,
    /// How.
    pub config: &'c mut Config<'t>,
    /// The model and its sequences.
    pub session: &'c mut Session<'static>,
    /// Which of them began.
    pub talks: Talks,
    /// How RAM is divided.
    pub plan: &'c Plan,
    /// What computes.
    pub cores: &'c Cores,
    /// Where experts come from.
    pub disk: &'c mut Queue<D>,
    /// How long the start took.
    pub load_time: Micros,
    /// Bytes of RAM in use.
    pub used: u64,
    /// Those of them that are not the arena.
    pub overhead: &'c [(&'static str, u64)],
    /// What the tokens of the last answer cost.
    pub meter: Meter,
}

impl<'c, D: Driver> Chat<'c, '_, D> {
    /// Begins the first one, asks what the configuration asks, and then what is typed. Ends only where
    /// the instruction of the configuration cannot be used.
    pub fn hold(&mut self) -> Result<Infallible, SequenceError> {
        self.begin()?;
        if let Some(prompt) = self.config.prompt {
            let _ = writeln!(self.console, "> {prompt}");
            self.answer(prompt);
        }
        loop {
            self.turn();
        }
    }

    /// Begins the selected conversation.
    fn begin(&mut self) -> Result<(), SequenceError> {
        self.session.reset();
        match self.config.system {
            Some(system) => self.session.append_message(Role::System, system),
            None => Ok(()),
        }
    }

    /// One line and what it asks for.
    fn turn(&mut self) {
        let mut line = Line::new();
        self.read(&mut line);
        let Some(text) = line.text() else {
            self.console.print("error: the line is not UTF-8 text\n");
            return;
        };
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        match word {
            "" => {}
            "/quit" | "/exit" => {
                self.console.drain();
                power::off();
            }
            "/restart" => {
                self.console.drain();
                power::restart();
            }
            "/help" => {
                let _ = writeln!(self.console, "{HELP}");
            }
            "/stats" => {
                let report = self.report();
                let _ = writeln!(self.console, "{report}");
                self.report_stacks();
                let _ = write!(self.console, "{}", self.meter);
            }
            "/reset" => {
                self.config.answer.begin_conversation();
                if let Err(error) = self.begin() {
                    let _ = writeln!(self.console, "error: {error}");
                }
            }
            "/new" | "/fork" => self.add(word == "/fork"),
            "/switch" => match self.talks.find(rest) {
                Some(to) => self.go_on(to),
                None => {
                    let _ = writeln!(self.console, "{word} needs one of {}", self.talks);
                }
            },
            command if command.starts_with('/') => {
                let _ = writeln!(self.console, "no command `{command}`; /help lists them");
            }
            _ => self.answer(text),
        }
    }

    /// Goes on with another conversation: a copy of this one, or one that begins.
    fn add(&mut self, copy: bool) {
        let (from, Some(to)) = (self.session.selected(), self.talks.free()) else {
            let _ = writeln!(
                self.console,
                "there is RAM for {} (`conversations` in {CONFIG_NAME}): /switch to one of them",
                self.talks
            );
            return;
        };
        let thoughts = if copy {
            // One that did not begin is there and is not this one.
            let _ = self.session.fork(to);
            self.config.answer.thoughts().clone()
        } else {
            self.session.select(to);
            if let Err(error) = self.begin() {
                self.session.select(from);
                let _ = writeln!(self.console, "error: {error}");
                return;
            }
            Thoughts::default()
        };
        self.talks.add(to, thoughts);
        self.go_on(to);
    }

    /// Goes on with a conversation.
    fn go_on(&mut self, to: usize) {
        self.talks.hold(to, &mut self.config.answer);
        self.session.select(to);
        let _ = writeln!(self.console, "conversation {}", to + 1);
    }

    /// Reads a line, with a prompt before it.
    fn read(&mut self, line: &mut Line) {
        self.console.print("> ");
        loop {
            WATCHDOG.kick();
            let Some(byte) = self.console.wait(1_000_000) else { continue };
            match line.feed(byte, |shown| self.console.show(shown)) {
                Key::Edited => {}
                Key::Enter => return,
                Key::Interrupt => {
                    line.clear();
                    self.console.print("^C\n> ");
                }
            }
        }
    }

    /// Answers a message. What goes wrong is said, and the next line may help it.
    fn answer(&mut self, message: &str) {
        match self.speak(message) {
            Ok(ending) => {
                self.console.print("\n");
                match ending {
                    Ending::ContextFull => {
                        let _ = writeln!(
                            self.console,
                            "note: the context is full: /reset, or a larger one (`context` in \
                             {CONFIG_NAME})"
                        );
                    }
                    Ending::Interrupted => self.console.print("note: interrupted\n"),
                    Ending::Stop | Ending::MaxTokens => {}
                }
            }
            Err(error) => {
                let _ = writeln!(self.console, "\nerror: {error} (/reset)");
            }
        }
    }

    fn speak(&mut self, message: &str) -> Result<Ending, SequenceError> {
        forget_thinking(self.session, &mut self.config.answer);
        let before = self.session.bookmark();
        let asked = self.session.append_message(Role::User, message);
        if let Err(error) = asked.and_then(|()| self.session.begin_answer()) {
            // A question without room for an answer was never asked.
            self.session.go_back(&before, false);
            return Err(error);
        }
        let thinking = &self.session.chat().thinking;
        self.config.answer.begin(thinking.as_ref().is_some_and(|thinking| thinking.prompted));
        let mut world =
            World { storage: self.disk, parallel: self.cores, clock: &CLOCK, events: &mut Log };
        // Both the text and the wish to stop go through the console.
        let console = RefCell::new(&mut *self.console);
        let mut shown = Shown::new(self.config.hides_thinking);
        let spoken = Cell::new(false);
        self.meter.reset();
        let ending = generate(
            self.session,
            &mut world,
            &mut self.config.answer,
            self.config.max_tokens.unwrap_or(u64::MAX),
            &mut Free,
            || {
                self.meter.between(spoken.get());
                console.borrow_mut().interrupted()
            },
            |part, text| {
                spoken.set(true);
                shown.show(&mut console.borrow_mut(), part, text);
            },
        );
        shown.finish(self.console);
        ending
    }

    /// How much of its stack each core has ever used.
    fn report_stacks(&mut self) {
        self.console.print("stacks   ");
        for core in 0..self.cores.width() {
            let (used, bytes) = boot::stack_use(core);
            let _ = write!(self.console, " {} of {}", Size(used as u64), Size(bytes as u64));
        }
        self.console.print("\n");
    }

    fn report(&self) -> Report<'c> {
        let around = Surroundings {
            threads: self.cores.width(),
            storage: self.disk.driver().name(),
            load_time: self.load_time,
            budget: self.used,
            overhead: self.overhead,
            peak_resident: None,
            answer_time: None,
            thought: self.config.answer.thought(),
            faults: None,
        };
        Report::new(self.session, self.plan, around)
    }
}

/// What is shown of an answer: its thinking dimmed, or not at all.
struct Shown {
    hides_thinking: bool,
    /// The last text was thinking.
    dimmed: bool,
}

impl Shown {
    fn new(hides_thinking: bool) -> Self {
        Self { hides_thinking, dimmed: false }
    }

    fn show(&mut self, console: &mut Console, part: Part, text: &str) {
        match part {
            Part::Mark => return,
            Part::Thinking if self.hides_thinking => return,
            Part::Thinking if !self.dimmed => console.print("\x1b[2m"),
            Part::Answer if self.dimmed => console.print("\x1b[22m\n\n"),
            Part::Thinking | Part::Answer => {}
        }
        self.dimmed = part == Part::Thinking;
        console.print(text);
    }

    /// The answer is over.
    fn finish(self, console: &mut Console) {
        if self.dimmed {
            console.print("\x1b[22m");
        }
    }
}
