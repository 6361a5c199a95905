//! The image changes on disk while the program uses it: nothing wrong is ever said, the error names
//! the page and where it is, and a conversation goes on after a reset once the file is right again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rill::image::{Image, Section};
use rill_tests::program::{path, rill};
use rill_tests::{kiosk, rig};

const QUESTION: &str = "Tell me a story about a fox and a kite.";
/// The last line of what `/help` prints.
const END_OF_HELP: &str = "often each expert was used is kept beside the image.";

/// The kiosk image in a folder of its own, and the least RAM that works.
struct Kiosk {
    folder: tempfile::TempDir,
    least: String,
}

impl Kiosk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kiosk.rill");
        fs::write(&path, kiosk::default_image()).unwrap();
        let plan = rill(&["plan", "--json", "-c", "512", "-m", path.to_str().unwrap()]).json();
        Self { folder, least: plan["least_bytes"].to_string() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("kiosk.rill")
    }

    /// The program with few slots: every token reads pages.
    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(path());
        command.args([what, "--greedy", "-c", "512", "--ram", &self.least, "-m"]).arg(self.path());
        command
    }

    fn image(&self) -> Image {
        rig::open(kiosk::default_image()).unwrap()
    }

    /// Changes a byte of every page in place.
    fn flip_pages(&self) {
        let file = OpenOptions::new().write(true).open(self.path()).unwrap();
        let image = self.image();
        for page in 0..image.manifest.pages() as u32 {
            let at = image.page_offset(page) + 1000;
            file.write_all_at(&[!kiosk::default_image()[at as usize]], at).unwrap();
        }
    }

    /// Cuts the file before its pages.
    fn cut(&self) {
        let len = self.image().header.span(Section::Pages).offset;
        File::options().write(true).open(self.path()).unwrap().set_len(len).unwrap();
    }

    /// Puts other bytes into the same file.
    fn overwrite(&self, bytes: &[u8]) {
        fs::write(self.path(), bytes).unwrap();
    }

    /// Gives the file's name to another file.
    fn replace(&self, bytes: &[u8]) {
        let new = self.folder.path().join("new");
        fs::write(&new, bytes).unwrap();
        fs::rename(new, self.path()).unwrap();
    }
}

/// A conversation with the program.
struct Chat {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Chat {
    fn start(kiosk: &Kiosk) -> Self {
        let mut child = kiosk
            .command("chat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Asks the question in a new conversation; returns what is said to it.
    fn ask(&mut self) -> String {
        // What is printed after the answer tells that the answer is complete.
        writeln!(self.input, "/reset\n{QUESTION}\n/help").unwrap();
        let mut said = String::new();
        while !said.contains(END_OF_HELP) {
            assert!(self.output.read_line(&mut said).unwrap() > 0, "it ended after `{said}`");
        }
        let said = said.split("In a conversation:").next().unwrap().trim();
        said.trim_start_matches("forgotten").trim().to_owned()
    }

    /// Ends the conversation; returns what was said on standard error.
    fn end(self) -> String {
        let Self { mut child, input, .. } = self;
        drop(input);
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert!(child.wait().unwrap().success(), "{errors}");
        assert!(!errors.contains("panicked"), "{errors}");
        errors
    }
}

/// A message names a page and the place where that page is, and says `what`.
#[track_caller]
fn check_names_a_page(image: &Image, errors: &str, what: &str) {
    let line = errors.lines().find(|line| line.contains("offset")).expect(errors);
    let number = |after: &str| -> u64 {
        let (_, rest) = line.split_once(after).expect(line);
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap();
        digits.parse().expect(line)
    };
    assert_eq!(number("offset "), image.page_offset(number("page ") as u32), "{line}");
    assert!(line.contains(what), "{line}");
}

/// Damage between two questions is an error, and its repair makes the third answer right.
#[track_caller]
fn check_conversation(damage: impl FnOnce(&Kiosk), what: &str) {
    let kiosk = Kiosk::new();
    let mut chat = Chat::start(&kiosk);
    let right = chat.ask();
    assert!(right.len() > 20, "{right}");
    damage(&kiosk);
    let said = chat.ask();
    assert!(said.len() < right.len() && right.starts_with(&said), "wrong words: {said}");
    kiosk.overwrite(kiosk::default_image());
    assert_eq!(chat.ask(), right);
    check_names_a_page(&kiosk.image(), &chat.end(), what);
}

#[test]
fn pages_that_are_flipped_are_not_used() {
    check_conversation(Kiosk::flip_pages, "checksum is wrong");
}

#[test]
fn a_file_that_is_cut_is_an_error() {
    check_conversation(Kiosk::cut, "the file ends too early");
}

#[test]
fn a_file_that_is_overwritten_with_another_model_is_an_error() {
    let other = kiosk::image("kiosk-16m", kiosk::Q8);
    check_conversation(|kiosk| kiosk.overwrite(other), "checksum is wrong");
}

#[test]
fn a_file_that_is_replaced_is_still_the_one_that_was_opened() {
    let kiosk = Kiosk::new();
    let mut chat = Chat::start(&kiosk);
    let right = chat.ask();
    kiosk.replace(b"not an image");
    assert_eq!(chat.ask(), right);
    chat.end();
}

/// Bytes of an answer that a run gets rid of before it has to wait.
const ROOM: usize = 64;

/// A run that is held up in the middle of its answer while the file is damaged ends with an error.
#[track_caller]
fn check_run(damage: impl FnOnce(&Kiosk), what: &str) {
    let kiosk = Kiosk::new();
    let right = kiosk.command("run").arg(QUESTION).output().unwrap().stdout;
    assert!(right.len() > 2 * ROOM);

    // A pipe that is full but for a few bytes: nobody reads what is said until later.
    let (mut reader, mut writer) = io::pipe().unwrap();
    let filled = rustix::pipe::fcntl_getpipe_size(&writer).unwrap() - ROOM;
    writer.write_all(&vec![b'.'; filled]).unwrap();
    let mut command = kiosk.command("run");
    command.arg(QUESTION).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(command);
    while rustix::io::ioctl_fionread(&reader).unwrap() == filled as u64 {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it said anything");
        std::thread::yield_now();
    }
    damage(&kiosk);
    let mut said = Vec::new();
    reader.read_to_end(&mut said).unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{errors}");
    let said = &said[filled..];
    assert!(
        said.len() < right.len() && right.starts_with(said),
        "{:?}",
        String::from_utf8_lossy(said)
    );
    check_names_a_page(&kiosk.image(), &errors, what);
}

#[test]
fn a_run_whose_pages_are_flipped_fails() {
    check_run(Kiosk::flip_pages, "checksum is wrong");
}

#[test]
fn a_run_whose_file_is_cut_fails() {
    check_run(Kiosk::cut, "the file ends too early");
}
