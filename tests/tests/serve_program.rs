//! `rill serve` and `rill key`, run as their users run them.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rill_tests::kiosk;
use rill_tests::process::signal;
use rill_tests::program::{path, rill};
use rill_tests::served::{SMALL, Served};
use rill_tests::server::{Reply, post, soon};
use rustix::fs::{FileType, Mode};
use rustix::pipe::fcntl_getpipe_size;
use rustix::process::Signal;
use serde_json::Value;

fn serve(args: &[&str]) -> Served {
    Served::start([&SMALL[..], args].concat())
}

fn ask(served: &Served, head: &str) -> Reply {
    let body = r#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}"#;
    let mut stream = TcpStream::connect(&served.address).expect("it listens");
    let request = post("/v1/chat/completions", body, head);
    stream.write_all(request.as_bytes()).expect("it is taken");
    Reply::read(stream)
}

#[test]
fn the_program_serves_until_it_is_asked_to_end() {
    let mut served = serve(&["--alias", "guide"]);
    assert_eq!(ask(&served, "").ok()["model"], "guide");
    served.signal(Signal::TERM);
    let mut rest = String::new();
    served.lines.read_to_string(&mut rest).expect("it speaks UTF-8");
    assert!(served.child.wait().expect("it ends").success(), "{rest}");
}

#[test]
fn what_was_known_before_the_end_is_known_after_it() {
    let folder = tempfile::tempdir().expect("there is room");
    let image = folder.path().join("kiosk.rill");
    std::fs::write(&image, kiosk::default_image()).expect("there is room");
    let args = ["-m", image.to_str().expect("the path is UTF-8"), "--keep-beginnings", "8MiB"];
    let usage = || {
        let mut served = serve(&args);
        let usage = ask(&served, "").ok()["usage"].clone();
        served.end();
        let number = |value: &Value| value.as_u64().expect("it is a number");
        let cached = number(&usage["prompt_tokens_details"]["cached_tokens"]);
        [number(&usage["prompt_tokens"]), cached]
    };
    let [prompt, cached] = usage();
    assert_eq!(cached, 0);
    assert_eq!(usage(), [prompt, prompt - 1]);
}

#[test]
fn keys_are_made_and_read_again() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("keys.txt");
    let keys = file.to_str().expect("the path is UTF-8");
    let key = rill(&["key", keys, "kiosk", "--requests", "1000"]).ok();
    let kiosk = format!("Authorization: Bearer {}\r\n", key.trim());
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(text.contains("\nkiosk ") && !text.contains(key.trim()), "{text}");
    rill(&["key", keys, "kiosk"]).fails(2, &["keys.txt", "the name is there before"]);
    rill(&["key", keys, "a b"]).fails(2, &["letters"]);

    let mut served = serve(&["--keys", keys]);
    assert_eq!(ask(&served, "").status, 401);
    assert_eq!(ask(&served, &kiosk).status, 200);
    let desk = format!("X-Api-Key: {}\r\n", rill(&["key", keys, "desk"]).ok().trim());
    rill(&["key", keys, "house", "--operator"]).ok();
    assert!(std::fs::read_to_string(keys).expect("it is text").ends_with(" - - operator\n"));
    assert_eq!(ask(&served, &desk).status, 401);
    let reread = |served: &mut Served, says: &str| {
        served.signal(Signal::HUP);
        let line = served.line();
        assert!(line.contains(says), "{line}");
    };
    reread(&mut served, "read again");
    assert_eq!(ask(&served, &desk).status, 200);
    // A file that is damaged lets nobody in or out.
    std::fs::write(&file, "rubbish\n").expect("it can be written");
    reread(&mut served, "line 1");
    assert_eq!([ask(&served, &kiosk).status, ask(&served, "").status], [200, 401]);
}

/// Whatever becomes of its files and of what it says, a signal ends it.
#[test]
fn nothing_makes_it_deaf() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("keys.txt");
    let keys = file.to_str().expect("the path is UTF-8");
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
        .expect("a pipe can be made");
    let pipe = pipe.to_str().expect("the path is UTF-8");
    rill(&["serve", "--listen", "127.0.0.1:0", "--keys", pipe]).fails(1, &["not a regular file"]);

    let key = rill(&["key", keys, "kiosk"]).ok();
    let kiosk = format!("Authorization: Bearer {}\r\n", key.trim());
    let mut served = serve(&["--keys", keys]);
    std::fs::rename(pipe, &file).expect("it is in the same folder");
    served.signal(Signal::HUP);
    let line = served.line();
    assert!(line.contains("not a regular file"), "{line}");
    assert_eq!(ask(&served, &kiosk).status, 200);
    // Nobody reads what it says any more.
    served.lines = BufReader::new(Box::new(std::io::empty()));
    served.signal(Signal::HUP);
    assert_eq!(ask(&served, &kiosk).status, 200);
    served.end();
}

/// The program has said nothing yet and has no model, because nobody reads what it says.
#[test]
fn signals_are_heard_while_there_is_no_model() {
    let folder = tempfile::tempdir().expect("there is room");
    let socket = folder.path().join("rill.sock");
    let (_reader, mut full) = std::io::pipe().expect("a pipe can be made");
    let room = fcntl_getpipe_size(&full).expect("it has a size");
    full.write_all(&vec![b'\n'; room]).expect("there is room for so much");
    let mut child = Command::new(path())
        .args(["serve", "--listen", &format!("unix:{}", socket.display())])
        .stderr(full)
        .spawn()
        .expect("the program starts");
    let health = |mut stream: UnixStream| {
        let ask = b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).expect("it is taken");
        Reply::read(stream).status
    };
    let early = soon(|| UnixStream::connect(&socket).ok());
    signal(&child, Signal::HUP);
    assert_eq!(health(early), 503);
    signal(&child, Signal::HUP);
    assert_eq!(health(UnixStream::connect(&socket).expect("it listens")), 503);
    signal(&child, Signal::TERM);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
    assert!(!socket.exists(), "its name goes with it");
}

/// Keys made at once are all there, and a key that nobody was told is not.
#[test]
fn no_key_is_lost() {
    let folder = tempfile::tempdir().expect("there is room");
    let file = folder.path().join("keys.txt");
    let keys = file.to_str().expect("the path is UTF-8");
    rill(&["key", keys, "first"]).ok();
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(&file, mode).expect("it is the user's");
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || rill(&["key", keys, &format!("k{number}")]).ok());
        }
    });
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert_eq!(text.lines().count(), 1 + 1 + 8, "{text}");
    assert_eq!(file.metadata().expect("it is there").permissions().mode() & 0o777, 0o640);
    for nowhere in ["/dev/full", "/dev/null"] {
        let out = std::fs::File::options().write(true).open(nowhere).expect("Linux has it");
        let run = Command::new(path()).args(["key", keys, "lost"]).stdout(out).output();
        assert!(!run.expect("the program starts").status.success(), "{nowhere}");
        assert_eq!(std::fs::read_to_string(&file).expect("it is there"), text, "{nowhere}");
    }
}

#[test]
fn what_cannot_be_served_is_said() {
    rill(&["serve", "--listen", "0.0.0.0:0"]).fails(1, &["--keys", "--open"]);
    rill(&["serve", "--listen", "somewhere"]).fails(2, &["127.0.0.1:8080"]);
    rill(&["serve", "--keys", "/nowhere/keys"]).fails(1, &["/nowhere/keys"]);
    rill(&["serve", "--listen", "127.0.0.1:0", "-m", "/nowhere.rill"]).fails(1, &["/nowhere.rill"]);
    rill(&["serve", "--listen", "127.0.0.1:0", "--ram", "1MiB"]).fails(1, &["budget"]);
}
