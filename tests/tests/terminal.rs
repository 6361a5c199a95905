//! What a terminal is given: names and texts from files and command lines reach it without control
//! sequences.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use rill_tests::kiosk;
use rill_tests::program::path;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// What would reset a terminal, and how it is shown.
const RESET: &str = "\u{1b}c";
const SHOWN: &str = "\\u{1b}c";

/// Runs the program on a terminal of its own; its status, and what was shown.
fn on_terminal(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let terminal = rustix::fs::open(&*name, flags, Mode::empty()).unwrap();
    let stdio = || Stdio::from(terminal.try_clone().unwrap());
    let mut command = Command::new(path());
    command.args(args).current_dir(folder).env("TERM", "xterm");
    command.stdin(Stdio::null()).stdout(stdio()).stderr(stdio());
    let mut child = command.spawn().unwrap();
    // Reading ends when nobody has the terminal any more.
    drop((command, terminal));
    let (mut master, mut shown) = (File::from(master), Vec::new());
    let mut bytes = [0; 4096];
    loop {
        match master.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) => shown.extend(&bytes[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let status = child.wait().unwrap().code();
    (status, String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn names_from_files_and_command_lines_are_shown_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    // The model's name in the file, of two bytes.
    let mut model = fs::read(kiosk::path("kiosk-q4_0.gguf")).unwrap();
    let key = [&b"general.name"[..], &8_u32.to_le_bytes(), &2_u64.to_le_bytes()].concat();
    let at = model.windows(key.len()).position(|bytes| bytes == key).unwrap() + key.len();
    model[at..at + 2].copy_from_slice(RESET.as_bytes());
    let file = format!("a{RESET}.gguf");
    fs::write(here.join(&file), model).unwrap();
    let (image, none) = (format!("a{RESET}.rill"), format!("none{RESET}"));
    let (file, image, none) = (file.as_str(), image.as_str(), none.as_str());
    for (args, status) in [
        (&["pack", file][..], 0),
        (&["pack", file, "-o", "plain.rill"], 0),
        (&["inspect", "-m", "plain.rill"], 0),
        (&["plan", "-m", image], 0),
        (&["verify", "-m", image], 0),
        (&["run", "-m", none, "hi"], 1),
        (&["pack", none], 1),
        (&["perplexity", none], 1),
        (&["run", "--kernels", none, "hi"], 2),
        (&["run", "hi", none], 2),
        (&["run", "--policy", none], 2),
        (&["none\u{1b}c"], 2),
    ] {
        let (found, shown) = on_terminal(here, args);
        assert_eq!(found, Some(status), "{args:?}: {shown:?}");
        assert!(!shown.contains(RESET), "{args:?}: {shown:?}");
        let is_usage = status == 2 && shown.contains("--help");
        assert!(shown.contains(if is_usage { "none" } else { SHOWN }), "{args:?}: {shown:?}");
    }
}
