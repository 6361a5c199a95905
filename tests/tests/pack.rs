//! The `pack` command as a whole: what its image is called, what it replaces, how it ends.

#![cfg(unix)]

use std::fs;
use std::io::{ErrorKind, Write, pipe};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rill_tests::kiosk;
use rill_tests::program::{path, rill};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, Signal, kill_process};

/// The kiosk model as one file.
fn source() -> PathBuf {
    kiosk::path("kiosk-q4_0.gguf")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The command, to be run in a folder.
fn pack(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.arg("pack").args(args).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Ends with this status and a message that holds `part`.
#[track_caller]
fn ends(mut command: Command, status: i32, part: &str) {
    let done = command.output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(status), "{said}");
    assert!(said.contains(part) && !said.contains("panicked"), "no `{part}` in {said}");
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_image_is_called_as_its_model() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let hub = here.join("hub/models--LiquidAI--LFM2.5-8B-A1B/snapshots");
    fs::create_dir_all(&hub).unwrap();
    symlink(kiosk::path("kiosk-16m"), hub.join("9e45")).unwrap();
    symlink(hub.join("9e45"), here.join("linked")).unwrap();
    ends(pack(here, &["linked"]), 0, "");
    let plain = here.join("LFM2.5-1.2B");
    fs::create_dir(&plain).unwrap();
    for name in names(&kiosk::path("kiosk-16m")) {
        symlink(kiosk::path("kiosk-16m").join(&name), plain.join(&name)).unwrap();
    }
    ends(pack(here, &["LFM2.5-1.2B/"]), 0, "");
    assert_eq!(
        names(here),
        ["LFM2.5-1.2B", "LFM2.5-1.2B.rill", "LFM2.5-8B-A1B.rill", "hub", "linked"]
    );
    ends(pack(&plain, &["."]), 0, "");
    // The image is not taken for the model when it is packed again.
    ends(pack(&plain, &["."]), 0, "");
    assert!(plain.join("LFM2.5-1.2B.rill").is_file());
}

#[test]
fn only_an_image_of_the_same_model_is_replaced_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let model = here.join("model.gguf");
    fs::copy(source(), &model).unwrap();
    let other = here.join("other.rill");
    let image = kiosk::first_layers(4);
    fs::write(&other, image).unwrap();
    fs::write(here.join("notes.txt"), "mine").unwrap();
    fs::write(here.join("new.rill"), "").unwrap();
    symlink("model.gguf", here.join("again.gguf")).unwrap();
    let refused = [
        ("model.gguf", "is what is to be packed"),
        ("again.gguf", "is what is to be packed"),
        ("other.rill", "another model"),
        ("notes.txt", "is no image"),
        (".", "is not a file"),
        ("/dev/null", "is not a file"),
    ];
    let before = names(here);
    for (output, why) in refused {
        ends(pack(here, &["model.gguf", "-o", output]), 1, why);
    }
    assert_eq!(names(here), before);
    assert!(fs::read(&model).unwrap() == fs::read(source()).unwrap());
    assert!(fs::read(&other).unwrap() == image);
    // An empty file holds nothing, and other formats make no other model.
    ends(pack(here, &["model.gguf", "-o", "new.rill"]), 0, "");
    ends(pack(here, &["model.gguf", "-o", "new.rill", "--experts", "q8"]), 0, "");
    for output in ["other.rill", "notes.txt", "model.gguf"] {
        ends(pack(here, &["model.gguf", "-o", output, "--force"]), 0, "");
        rill(&["verify", "-m", text(&here.join(output))]).ok();
    }
    ends(pack(here, &["notes.txt", "-o", "/dev/null", "--force"]), 1, "is not a file");
}

#[test]
fn a_pipe_is_neither_read_nor_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let made = Command::new("mkfifo").arg(here.join("pipe")).status().unwrap();
    assert!(made.success());
    ends(pack(here, &[text(&source()), "-o", "pipe"]), 1, "is not a file");
    ends(pack(here, &["pipe", "-o", "m.rill"]), 1, "pipe");
    // Nor as a part of a folder.
    fs::create_dir(here.join("model")).unwrap();
    for name in names(&kiosk::path("kiosk-16m")) {
        symlink(kiosk::path("kiosk-16m").join(&name), here.join("model").join(name)).unwrap();
    }
    fs::remove_file(here.join("model/tokenizer.json")).unwrap();
    symlink("../pipe", here.join("model/tokenizer.json")).unwrap();
    ends(pack(here, &["model"]), 1, "tokenizer.json");
    assert_eq!(names(here), ["model", "pipe"]);
}

#[test]
fn a_closed_or_full_standard_output_costs_nothing_but_the_summary() {
    let folder = tempfile::tempdir().unwrap();
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut closed = pack(folder.path(), &[text(&source()), "-o", "closed.rill"]);
    closed.stdout(writer);
    ends(closed, 0, "");
    let mut full = pack(folder.path(), &[text(&source()), "-o", "full.rill"]);
    full.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    ends(full, 1, "cannot write the result");
    for name in ["closed.rill", "full.rill"] {
        rill(&["verify", "-m", text(&folder.path().join(name))]).ok();
    }
}

/// A `pack` that has written its image and waits for good to say so.
fn stuck(folder: &Path) -> Child {
    let (reader, writer) = pipe().unwrap();
    fcntl_setfl(&writer, OFlags::NONBLOCK).unwrap();
    loop {
        match (&writer).write(&[0; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    fcntl_setfl(&writer, OFlags::empty()).unwrap();
    // The pipe must neither close nor be read while the process lives.
    std::mem::forget(reader);
    let mut command = pack(folder, &[text(&source()), "-o", "m.rill"]);
    let mut child = command.stdout(writer).spawn().unwrap();
    while !folder.join("m.rill").exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn a_signal_ends_it_wherever_it_is() {
    for (signal, count) in
        [(Signal::TERM, 1), (Signal::INT, 1), (Signal::HUP, 1), (Signal::TERM, 2)]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut child = stuck(folder.path());
        for _ in 0..count {
            kill_process(Pid::from_child(&child), signal).unwrap();
        }
        assert_eq!(child.wait().unwrap().code(), Some(130));
        assert_eq!(names(folder.path()), ["m.rill"]);
    }
}

#[test]
fn a_stopped_attempt_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = pack(folder.path(), &[text(&source()), "-o", "m.rill"]).spawn().unwrap();
    while names(folder.path()).is_empty() && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_micros(200));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // It may have been faster.
    let expected: &[&str] = match child.wait().unwrap().code() {
        Some(130) if !folder.path().join("m.rill").exists() => &[],
        Some(0 | 130) => &["m.rill"],
        other => panic!("{other:?}"),
    };
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn attempts_at_one_name_at_once_do_not_harm_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let attempts: Vec<Child> = (0..4)
        .map(|_| pack(folder.path(), &[text(&source()), "-o", "m.rill"]).spawn().unwrap())
        .collect();
    for attempt in attempts {
        let done = attempt.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert_eq!(names(folder.path()), ["m.rill"]);
    rill(&["verify", "-m", text(&folder.path().join("m.rill"))]).ok();
}
