//! What the program writes and prints: results that are whole or not there, files that are the user's
//! own, and text that no terminal obeys.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rill_tests::kiosk;
use rill_tests::process::status;
use rill_tests::program::{path, rill, rill_with_input};

/// The kiosk image in a folder of its own.
struct Kiosk(tempfile::TempDir);

impl Kiosk {
    fn new() -> Self {
        let kiosk = Self(tempfile::tempdir().unwrap());
        fs::write(kiosk.file("kiosk.rill"), kiosk::default_image()).unwrap();
        kiosk
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A budget in which experts give way, so that files are kept beside the image.
const BUDGET: [&str; 6] = ["--greedy", "--ram", "40MiB", "-c", "512", "-m"];

fn run(image: &Path, extra: &[&str]) -> rill_tests::program::Run {
    let args = [&["run", "-n", "4"][..], &BUDGET, &[text(image)], extra, &["hi"]].concat();
    rill(&args)
}

#[test]
fn a_result_is_not_written_over_what_it_is_made_from() {
    let kiosk = Kiosk::new();
    let (image, ids) = (kiosk.file("kiosk.rill"), kiosk.file("ids.txt"));
    fs::write(&ids, "1 2 3").unwrap();
    let link = kiosk.file("link");
    symlink("kiosk.rill", &link).unwrap();
    let [image_text, ids_text, link] = [&image, &ids, &link].map(|path| text(path));
    let of = ["-m", image_text, "--ids", ids_text];
    for onto in [image_text, ids_text, link] {
        for args in [
            &["logits", "--out", onto][..],
            &["logits", "--out", "/dev/null", "--experts", onto],
            &["trace", "-o", onto],
            &["bench", "--sweep-ram", "--plot", onto],
        ] {
            rill(&[args, &of].concat()).fails(2, &["read for this"]);
        }
    }
    let (new, other) = (kiosk.file("new.npy"), kiosk.0.path().join("./new.npy"));
    for there in [false, true] {
        let args = ["logits", "--out", text(&new), "--experts", text(&other)];
        rill(&[&args, &of[..]].concat()).fails(2, &["two results"]);
        assert_eq!(new.exists(), there);
        fs::write(&new, "kept").unwrap();
    }
    assert_eq!(fs::read(&new).unwrap(), b"kept");
    let trace = kiosk.file("trace");
    rill(&[&["trace", "-o", text(&trace)][..], &of].concat()).ok();
    rill(&["replay", text(&trace), "--plot", text(&trace)]).fails(2, &["read for this"]);
    rill(&["replay", text(&trace)]).ok();
    assert_eq!(fs::read(&image).unwrap(), kiosk::default_image());
    assert_eq!(fs::read(&ids).unwrap(), b"1 2 3");
}

#[test]
fn a_result_does_not_replace_an_image() {
    let kiosk = Kiosk::new();
    let (ids, other) = (kiosk.file("ids.txt"), kiosk.file("other.rill"));
    fs::write(&ids, "1 2 3").unwrap();
    fs::write(&other, kiosk::default_image()).unwrap();
    let (trace, prompts) = (kiosk.file("trace"), kiosk.file("prompts.jsonl"));
    fs::write(&prompts, "\"Once\"\n").unwrap();
    let [ids, onto, trace, prompts] = [&ids, &other, &trace, &prompts].map(|path| text(path));
    rill(&["trace", "-o", trace, "--ids", ids]).ok();
    for args in [
        &["replay", trace, "--plot", onto][..],
        &["trace", "--ids", ids, "-o", onto],
        &["logits", "--ids", ids, "--out", onto],
        &["run", "--raw", "-n", "1", "--file", prompts, "--out", onto],
    ] {
        rill(args).fails(1, &["other.rill", "choose another name"]);
    }
    assert_eq!(fs::read(&other).unwrap(), kiosk::default_image());
}

#[test]
fn a_device_without_room_leaves_nothing_behind() {
    let kiosk = Kiosk::new();
    let ids = kiosk.file("ids.txt");
    fs::write(&ids, "1 2 3").unwrap();
    let trace = kiosk.file("trace");
    rill(&["trace", "-o", text(&trace), "--ids", text(&ids)]).ok();
    let before = kiosk.names();
    // The limit of a file's size is the nearest to a full disk that needs no rights.
    let limited = |args: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -f 1; exec \"$@\"", "sh"]);
        let output = command.arg(path()).args(args).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {err}");
        assert!(err.contains("out") && !err.contains("panicked"), "{args:?}: {err}");
    };
    let out = kiosk.file("out");
    let (out_text, ids, trace) = (text(&out), text(&ids), text(&trace));
    limited(&["logits", "--ids", ids, "--out", out_text]);
    limited(&["replay", trace, "--plot", out_text]);
    let long = "1 6 386 274 206 458 424 266 333 375 ".repeat(20);
    fs::write(ids, long).unwrap();
    limited(&["trace", "--ids", ids, "-o", out_text]);
    let prompts = kiosk.file("prompts.jsonl");
    let prompt = "a ".repeat(300);
    fs::write(&prompts, format!("{{\"prompt\":\"a\",\"id\":\"{prompt}\"}}\n")).unwrap();
    limited(&["run", "--raw", "-n", "1", "--file", text(&prompts), "--out", out_text]);
    fs::remove_file(prompts).unwrap();
    assert_eq!(kiosk.names(), before);
}

#[test]
fn what_lies_in_the_place_of_a_side_file_is_left_alone() {
    let kiosk = Kiosk::new();
    let image = kiosk.file("kiosk.rill");
    let right = run(&image, &[]).ok();
    let usage = kiosk.file("kiosk.rill.usage");
    let kept = fs::read(&usage).unwrap();
    assert!(!kept.is_empty());

    // A private file stays private.
    fs::set_permissions(&usage, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(run(&image, &[]).ok(), right);
    assert_eq!(fs::metadata(&usage).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(&usage).unwrap().len(), kept.len() as u64);

    let private = kiosk.file("private");
    fs::write(&private, "kept").unwrap();
    for ending in ["usage", "probe", "resident"] {
        let file = kiosk.file(&format!("kiosk.rill.{ending}"));
        let _ = fs::remove_file(&file);
        symlink("private", &file).unwrap();
        assert_eq!(run(&image, &["--save-pages"]).ok(), right);
        assert!(fs::symlink_metadata(&file).unwrap().is_symlink());
        assert_eq!(fs::read(&private).unwrap(), b"kept");
        fs::remove_file(&file).unwrap();

        // A pipe that nobody writes to, and a file that would fill RAM.
        assert!(Command::new("mkfifo").arg(&file).status().unwrap().success());
        assert_eq!(run(&image, &["--save-pages"]).ok(), right);
        fs::remove_file(&file).unwrap();
        File::create(&file).unwrap().set_len(3 << 30).unwrap();
        let args = ["run", "--json", "-n", "4"];
        let report = rill(&[&args[..], &BUDGET, &[text(&image), "hi"]].concat()).json();
        assert!(report["peak_resident_bytes"].as_u64().unwrap() < 128 << 20, "{report}");
        let _ = fs::remove_file(&file);
    }
    assert!(kiosk.names().iter().all(|name| !name.contains(".part-")), "{:?}", kiosk.names());
}

#[test]
fn state_goes_where_it_is_asked_to() {
    let kiosk = Kiosk::new();
    let image = kiosk.file("kiosk.rill");
    let state = tempfile::tempdir().unwrap();
    let right = run(&image, &["--state", text(state.path()), "--save-pages"]).ok();
    assert_eq!(kiosk.names(), ["kiosk.rill"]);
    assert!(state.path().join("kiosk.rill.usage").is_file());
    assert!(state.path().join("kiosk.rill.resident").is_file());
    let named = Command::new(path())
        .args(["run", "-n", "4"])
        .args(BUDGET)
        .args([text(&image), "hi"])
        .env("RILL_STATE", state.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(named.stdout).unwrap(), right);
    assert_eq!(kiosk.names(), ["kiosk.rill"]);
    run(&image, &["--state", text(&kiosk.file("none"))]).fails(1, &["none"]);
}

#[test]
fn a_conversation_is_saved_for_its_owner_and_over_no_other_file() {
    let kiosk = Kiosk::new();
    let (image, talk) = (kiosk.file("kiosk.rill"), kiosk.file("talk"));
    let chat = |commands: &str| {
        let args = [&["chat"][..], &BUDGET, &[text(&image)]].concat();
        rill_with_input(&args, commands)
    };
    let save = format!("hi\n/save {0}\n/save {0}\n", text(&talk));
    assert_eq!(chat(&save).err, "");
    assert_eq!(fs::metadata(&talk).unwrap().permissions().mode() & 0o777, 0o600);
    let settings = kiosk.file("rill.conf");
    fs::write(&settings, "ram = 64MiB\n").unwrap();
    symlink("talk", kiosk.file("link")).unwrap();
    for (name, why) in [
        ("rill.conf", "no conversation"),
        ("kiosk.rill", "no conversation"),
        ("link", "link"),
        (".", "directory"),
    ] {
        let said = chat(&format!("hi\n/save {}\n", text(&kiosk.file(name))));
        assert!(said.err.contains(why), "{name}: {said:?}");
        said.ok();
    }
    assert!(chat("/load /dev/zero\n").err.contains("not a regular file"));
    assert_eq!(fs::read(&settings).unwrap(), b"ram = 64MiB\n");
    assert_eq!(fs::read(&image).unwrap(), kiosk::default_image());
}

/// Runs the program with its standard output on a device or a pipe that takes nothing.
fn without_output(args: &[&str], out: Stdio) -> (Option<i32>, String) {
    let mut command = Command::new(path());
    command.args(args).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn output_that_is_closed_or_full_ends_every_command_quietly() {
    let kiosk = Kiosk::new();
    let (ids, story) = (kiosk.file("ids.txt"), kiosk.file("story.txt"));
    fs::write(&ids, "1 6 386 274 206").unwrap();
    fs::write(&story, "a fox and a kite").unwrap();
    let trace = kiosk.file("trace");
    rill(&["trace", "-o", text(&trace), "--ids", text(&ids)]).ok();
    let damaged = kiosk.file("damaged.rill");
    let mut bytes = kiosk::default_image().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&damaged, bytes).unwrap();
    let (ids, trace, again) = (text(&ids), text(&trace), kiosk.file("again"));
    for args in [
        &["run", "hi"][..],
        &["run", "--json", "hi"],
        &["plan"],
        &["inspect"],
        &["verify"],
        &["tokenize", "hi"],
        &["bench", "-p", "4", "-n", "1", "-r", "1"],
        &["perplexity", text(&story)],
        &["trace", "--ids", ids, "-o", text(&again)],
        &["replay", trace],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, err) = without_output(args, writer.into());
        assert_eq!(code, Some(0), "{args:?}: {err}");
        assert!(!err.contains("panicked") && !err.contains("error"), "{args:?}: {err}");
        let full = File::options().write(true).open("/dev/full").unwrap();
        let (code, err) = without_output(args, full.into());
        assert_eq!(code, Some(1), "{args:?}: {err}");
        assert!(err.contains("cannot write the result"), "{args:?}: {err}");
    }
    // Also where it is called by its name.
    for args in [
        &["logits", "--ids", ids, "--out", "/dev/stdout"][..],
        &["trace", "--ids", ids, "-o", "/dev/stdout"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let (code, err) = without_output(args, writer.into());
        assert_eq!(code, Some(0), "{args:?}: {err}");
        assert!(!err.contains("error"), "{args:?}: {err}");
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let (code, err) = without_output(&["verify", "-m", text(&damaged)], writer.into());
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("1 part is damaged"), "{err}");
}

#[test]
fn an_error_within_an_answer_starts_a_line() {
    let kiosk = Kiosk::new();
    let (image, trace) = (kiosk.file("kiosk.rill"), kiosk.file("trace"));
    let prompt = "Tell me a story about a fox and a kite.";
    rill(&["trace", "--greedy", "-m", text(&image), "-o", text(&trace), prompt]).ok();
    // An expert that is used for the first time well within the answer.
    let trace = fs::read(trace).unwrap();
    let (head, chosen) = trace.split_at(trace.iter().position(|&byte| byte == b'\n').unwrap() + 1);
    let head: serde_json::Value = serde_json::from_slice(head).unwrap();
    let [banks, experts, top_k, prompt_tokens] =
        ["banks", "experts", "top_k", "prompt_tokens"].map(|name| head[name].as_u64().unwrap());
    let page =
        |(at, expert): (usize, &u8)| at as u64 / top_k % banks * experts + u64::from(*expert);
    let early = (banks * top_k * (prompt_tokens + 8)) as usize;
    let before: std::collections::HashSet<u64> =
        chosen[..early].iter().enumerate().map(page).collect();
    let late = chosen.iter().enumerate().skip(early).map(page).find(|page| !before.contains(page));
    let mut bytes = kiosk::default_image().to_vec();
    let whole = rill_tests::rig::open(kiosk::default_image()).unwrap();
    bytes[whole.page_offset(late.unwrap() as u32) as usize] ^= 1;
    fs::write(&image, bytes).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(path());
    command.args(["run", "--greedy", "--no-lookahead", "-m", text(&image), prompt]);
    command.stdout(writer.try_clone().unwrap()).stderr(writer);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut reader, &mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let lines: Vec<&str> = said.lines().collect();
    let [budget, answer @ .., error] = &lines[..] else { panic!("{said}") };
    assert!(budget.contains("--ram") && error.starts_with("error: "), "{said}");
    assert!(!answer.concat().is_empty(), "{said}");
}

#[test]
fn too_much_text_is_refused_before_it_fills_ram() {
    for (args, limit) in [(&["run", "-"][..], "1.0 MiB"), (&["tokenize", "-"], "16.0 MiB")] {
        let zeros = File::open("/dev/zero").unwrap();
        let output = Command::new(path()).args(args).stdin(zeros).output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{err}");
        assert!(err.contains("standard input") && err.contains(limit), "{err}");
    }
    rill(&["perplexity", "/dev/zero"]).fails(1, &["16.0 MiB"]);
    rill(&["logits", "--ids", "/dev/zero", "--out", "/dev/null"]).fails(1, &["16.0 MiB"]);
    assert_eq!(rill_with_input(&["tokenize", "-"], &"a".repeat(1 << 20)).status, Some(0));
}

/// Waits until a process catches SIGHUP (1), SIGINT (2) and SIGTERM (15).
fn wait_until_it_watches(process: &mut Child) {
    let all: u64 = [1, 2, 15].map(|signal: u32| 1 << (signal - 1)).iter().sum();
    loop {
        let caught = status(process.id(), "SigCgt");
        if u64::from_str_radix(&caught, 16).unwrap() & all == all {
            return;
        }
        assert_eq!(process.try_wait().unwrap(), None, "it ended by itself");
        std::thread::yield_now();
    }
}

#[test]
fn every_command_ends_on_a_signal_whatever_it_waits_for() {
    let kiosk = Kiosk::new();
    let (ids, story, out) = (kiosk.file("ids.txt"), kiosk.file("story.txt"), kiosk.file("out"));
    fs::write(&ids, "1 6 386 274 206 458 424 266 333 375 ".repeat(20)).unwrap();
    fs::write(&story, "a fox and a kite. ".repeat(500_000)).unwrap();
    let pipe = kiosk.file("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let before = kiosk.names();
    let (ids, story, pipe, out) = (text(&ids), text(&story), text(&pipe), text(&out));
    for (args, signal) in [
        (&["bench", "-r", "4000000000"][..], "-INT"),
        (&["bench", "-r", "4000000000"], "-TERM"),
        (&["bench", "-r", "4000000000", "--sweep-ram"], "-TERM"),
        (&["perplexity", story], "-HUP"),
        // These wait for what never comes.
        (&["run", "-"], "-TERM"),
        (&["tokenize", "-"], "-INT"),
        (&["trace", "--ids", pipe, "-o", out], "-INT"),
        (&["logits", "--ids", ids, "--out", pipe], "-TERM"),
        (&["replay", pipe], "-HUP"),
    ] {
        let mut child = Command::new(path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until_it_watches(&mut child);
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let stdin = child.stdin.take();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{args:?}");
        drop(stdin);
        assert_eq!(kiosk.names(), before, "{args:?}");
    }
}
