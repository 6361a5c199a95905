//! `cargo xtask test --board NAME --faults`: what a board without an operating system does when its
//! card is missing, removed, damaged or slow.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use mbrman::MBR;
use rill::image::{HEADER_BYTES, Header, Section};
use rill_board::{Board, Disk, Emulator, Platform};
use serde_json::json;
use xtask::workspace;

use crate::chat::{Machine, Talk, Wire, converse, script};
use crate::image::{self, Inputs, RAW};
use crate::monitor::{Monitor, Socket};
use crate::qemu::{Boot, CARD};
use crate::run::Emulation;
use crate::{log, qemu, run};

/// What is asked before and after each fault.
const TURN: &str = "Tell me a story about a fox and a kite.";
/// Tokens of an answer.
const TOKENS: u64 = 8;
/// So little that no answer finds all of its experts in RAM.
const RAM: ByteSize = ByteSize::mib(6);
/// Bytes a second of a card that is as good as stuck: a piece of a page would take a quarter of an
/// hour.
const STUCK: u64 = 512;
/// What a board says of a read that it gave up; it follows the page's name.
const STALLED: &str = "the device did not answer in time";
const DAMAGED: &str = "its checksum is wrong";
const FAILED: &str = "a read failed for a moment";
/// What is read again before it is given up, and how the log calls it; other errors are final.
const RETRIED: [(&str, &str); 3] =
    [(DAMAGED, "None"), (STALLED, "Some(Stalled)"), (FAILED, "Some(Transient)")];

/// Does everything to a board's card that can be done to it here.
pub fn run(name: &str) -> Result<()> {
    let mut inputs = Inputs::new(name, None, Some(RAM))?;
    ensure!(inputs.board.platform == Platform::Bare, "{name} has an operating system");
    // Greedy: one question has one answer, whenever it is asked.
    inputs.set(&[("temp", 0), ("max-tokens", TOKENS)]);
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let made = image::make(&inputs, files.path())?;
    let [kernel, card] = &made[..] else { bail!("an image is a kernel and a disk") };
    let host = Inputs { board: workspace::board("host")?, ram: 1 << 30, ..inputs.clone() };
    let expected = converse(run::machine(&host, &Emulation::default())?, &[TURN])?.answers;

    let log = files.path().join("log");
    let test = Test { board: &inputs.board, kernel, log, expected, retries: RefCell::default() };
    test.without_card()?;
    test.with_card(card, &Pages::find(card, &inputs.model)?)?;
    test.check_log()
}

struct Test<'a> {
    board: &'a Board,
    kernel: &'a Path,
    log: PathBuf,
    /// The answer of a board that works.
    expected: String,
    /// What the log has to say of the pages that the board lacked.
    retries: RefCell<Vec<String>>,
}

impl Test<'_> {
    fn machine(&self, disk: Option<&Path>, arguments: &[String]) -> Result<Machine> {
        let boot = Boot { kernel: self.kernel, disk, log: &self.log, cores: None };
        let mut command = qemu::machine(self.board, &boot)?;
        command.args(arguments);
        Ok(Machine { command, wire: Wire::Console, files: None })
    }

    /// No card: the board says so, and restarts.
    fn without_card(&self) -> Result<()> {
        script(self.machine(None, &[])?, |talk| {
            talk.hear(&["error: no card answers", "Enter restarts it now"])?;
            talk.enter("")?;
            talk.end()
        })
        .context("without a card")?;
        println!("{}: without a card it says so and restarts", self.board.name);
        Ok(())
    }

    /// A card that is damaged, slow and removed while the board runs.
    fn with_card(&self, card: &Path, pages: &Pages) -> Result<()> {
        let socket = Socket::new()?;
        script(self.machine(Some(card), &socket.arguments())?, |talk| {
            talk.prompt()?;
            let mut monitor = socket.connect()?;
            self.works(talk).context("before any fault")?;

            pages.flip()?;
            let error = self.fails(talk, pages).context("with a damaged card")?;
            ensure!(error.contains(DAMAGED), "a damaged card: {error}");
            pages.flip()?;
            self.works(talk).context("with the card repaired")?;

            if self.is_virtio() {
                self.slow_down(talk, &mut monitor, pages).context("with a slow card")?;
            }
            self.remove(talk, &mut monitor, card, pages).context("with the card removed")?;
            talk.quit()
        })?;
        Ok(())
    }

    /// The board answers as it should.
    fn works(&self, talk: &mut Talk) -> Result<()> {
        talk.ask("/reset")?;
        let answer = talk.ask(TURN)?;
        ensure!(answer == self.expected, "it answers {answer:?} instead of {:?}", self.expected);
        Ok(())
    }

    /// The board fails to answer, says which page it lacks, and prompts again; returns the error.
    fn fails(&self, talk: &mut Talk, pages: &Pages) -> Result<String> {
        talk.ask("/reset")?;
        let said = talk.ask(TURN)?;
        let error = said.lines().find_map(|line| line.strip_prefix("error: "));
        let error = error.with_context(|| format!("no error: {said:?}"))?;
        let page = pages.check_named(error)?;
        if let Some((_, kind)) = RETRIED.iter().find(|(what, _)| error.contains(what)) {
            self.retries.borrow_mut().push(format!("Retry {{ page: {page}, error: {kind} }}"));
        }
        println!("{}: {error}", self.board.name);
        Ok(error.to_owned())
    }

    /// Makes the card slower than any patience. QEMU's SD cards stop the whole machine until they
    /// have read, so what the program does meanwhile cannot be seen there.
    fn slow_down(&self, talk: &mut Talk, monitor: &mut Monitor, pages: &Pages) -> Result<()> {
        monitor.throttle(CARD, json!({ "bps_rd": STUCK }))?;
        let error = self.fails(talk, pages)?;
        ensure!(error.contains(STALLED), "{error}");
        monitor.throttle(CARD, json!({}))?;
        self.works(talk).context("fast again")
    }

    /// The log has a warning for every page that the board tried to read again.
    fn check_log(&self) -> Result<()> {
        let log = log::decode(self.board, &self.log)?;
        for retry in self.retries.borrow().iter() {
            let line = log::find(&log, "WARN", retry)?;
            println!("{}: the log says: {}", self.board.name, line.trim());
        }
        Ok(())
    }

    fn is_virtio(&self) -> bool {
        matches!(self.board.emulator, Some(Emulator::System { disk: Disk::Virtio, .. }))
    }

    /// Takes the card away; where the slot takes another one, puts it back.
    fn remove(
        &self,
        talk: &mut Talk,
        monitor: &mut Monitor,
        card: &Path,
        pages: &Pages,
    ) -> Result<()> {
        if self.is_virtio() {
            // The device stays, and nothing can be read from it any more.
            monitor.by_hand(&format!("drive_del {CARD}"))?;
            self.fails(talk, pages)?;
            return Ok(());
        }
        monitor.execute("eject", json!({ "device": CARD, "force": true }))?;
        self.fails(talk, pages)?;
        let medium = json!({ "device": CARD, "filename": card, "format": "raw" });
        monitor.execute("blockdev-change-medium", medium)?;
        self.works(talk).context("with the card back")
    }
}

/// The experts' pages of a model on a card.
struct Pages {
    card: File,
    /// First byte of the model on the card.
    model: u64,
    /// First byte of the pages in the model.
    offset: u64,
    /// Bytes of a page.
    len: u64,
    count: u64,
}

impl Pages {
    fn find(card: &Path, model: &Path) -> Result<Self> {
        let mut bytes = [0; HEADER_BYTES];
        File::open(model)?.read_exact_at(&mut bytes, 0)?;
        let header = Header::parse(&bytes).with_context(|| model.display().to_string())?;
        let pages = header.span(Section::Pages);
        let mut card = File::options().read(true).write(true).open(card)?;
        let table = MBR::read_from(&mut card, 512)?;
        let model = table.iter().find(|(_, partition)| partition.sys == RAW);
        let (_, model) = model.context("no partition of the card holds a model")?;
        Ok(Self {
            model: u64::from(model.starting_lba) * 512,
            offset: pages.offset,
            len: header.page_len,
            count: pages.len / header.page_len,
            card,
        })
    }

    /// Flips a bit in the middle of every page; a second time repairs them.
    fn flip(&self) -> Result<()> {
        for page in 0..self.count {
            let at = self.model + self.offset + page * self.len + self.len / 2;
            let mut byte = [0];
            self.card.read_exact_at(&mut byte, at)?;
            self.card.write_all_at(&[byte[0] ^ 1], at)?;
        }
        Ok(())
    }

    /// The error begins with the number of a page and says where it is; returns the number.
    fn check_named(&self, error: &str) -> Result<u64> {
        let number = |before: &str| -> Option<u64> {
            let rest = error.split_once(before)?.1;
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let (page, offset) = number("page ").zip(number("at offset ")).context("no page's name")?;
        ensure!(page < self.count && offset == self.offset + page * self.len, "wrong: {error}");
        Ok(page)
    }
}
