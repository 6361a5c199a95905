//! The C library as programs in C use it: compiled and linked by the system's compiler.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rill_linux::answer::AnswerOptions;
use rill_linux::engine::{Engine, Memory, Options};
use rill_linux::talk::Talk;
use rill_tests::kiosk;

const QUESTIONS: [&str; 2] = ["Where is the lift?", "And how do I get there?"];

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../platform/ffi").join(name)
}

/// The library, which cargo has built beside this test because the test needs it.
fn library(name: &str) -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let library = folder.join(name);
    assert!(library.is_file(), "{} is not there", library.display());
    library
}

/// A program of `file` in `folder`.
fn compile(folder: &Path, file: &Path, flags: &[&str], library: &Path) -> PathBuf {
    let program = folder.join("program");
    let compiled = Command::new("gcc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g"])
        .args(flags)
        .arg("-I")
        .arg(source("include"))
        .arg(file)
        .arg(library)
        .args(["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl", "-o"])
        .arg(&program)
        .output()
        .unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    program
}

/// What the example says when it is asked, and what it writes to standard error.
fn chat(program: &Path, arguments: &[&str], questions: &[&str]) -> (Option<i32>, String, String) {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LD_LIBRARY_PATH", std::env::current_exe().unwrap().parent().unwrap())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    // A program that fails reads no questions.
    let _ = questions.iter().try_for_each(|question| writeln!(input, "{question}"));
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// What `rill chat` answers.
fn answers(image: &Path) -> String {
    let mut memory = Memory::new();
    let mut options = Options { model: Some(image.to_owned()), ..Options::default() };
    options.budget.ram = Some(64 << 20);
    let mut engine = Engine::load(&options, &mut memory, &mut |_| {}).unwrap();
    let mut talk = Talk::begin(&mut engine, None).unwrap();
    let mut all = String::new();
    for question in QUESTIONS {
        talk.ask(&mut engine, question).unwrap();
        let options = AnswerOptions::default();
        engine.answer(Some(&mut talk), &options, |_, text| all.push_str(text)).unwrap();
        all.push('\n');
    }
    all
}

#[test]
fn the_example_is_short() {
    let lines = fs::read_to_string(source("examples/chat.c")).unwrap().lines().count();
    assert!(lines < 100, "{lines} lines");
}

#[test]
fn the_example_answers_as_the_program_does_and_sanitizers_find_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("kiosk.rill");
    fs::write(&image, kiosk::default_image()).unwrap();
    let path = image.to_str().unwrap();
    let expected = answers(&image);
    let sanitized = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
    for (flags, name) in [(&[][..], "librill_ffi.so"), (&sanitized, "librill_ffi.a")] {
        let program = compile(folder.path(), &source("examples/chat.c"), flags, &library(name));
        // So little that experts come and go, and all that there is any use for.
        for mib in ["12", "64"] {
            let (status, out, err) = chat(&program, &[path, mib], &QUESTIONS);
            assert_eq!((status, &out), (Some(0), &expected), "{name}, {mib} MiB: {err}");
        }
        let (status, out, err) = chat(&program, &[path, "1"], &QUESTIONS);
        assert_eq!((status, &*out), (Some(1), ""));
        assert!(err.contains("the least that works is"), "{err}");
        let (status, _, err) = chat(&program, &["/nowhere.rill", "64"], &[]);
        assert!(status == Some(1) && err.contains("/nowhere.rill"), "{err}");
    }
}
