//! `rill pull` from a hub on this machine: a good one, one that fails in every way, and one that
//! lies. Whatever happens, the image is the one that is packed from the files, or there is none.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rill_tests::hub::{Answer, COMMIT, Hub, PATIENCE, Request};
use rill_tests::kiosk::{DEFAULT, image};
use rill_tests::program::{self, Run};
use tempfile::TempDir;

const GGUF: &str = "org/kiosk-GGUF:Q4_0";
const FOLDER: &str = "org/kiosk-16m";

/// A folder to pull into.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("there is room for temporary files"))
    }

    fn command(&self, hub: &Hub, args: &[&str]) -> Command {
        let mut command = Command::new(program::path());
        command.arg("pull").args(args).current_dir(self.0.path()).env("HF_ENDPOINT", hub.url());
        for variable in ["HF_TOKEN", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(variable).env_remove(variable.to_ascii_uppercase());
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn pull(&self, hub: &Hub, args: &[&str]) -> Run {
        finish(self.command(hub, args).spawn().expect("the program starts"))
    }

    fn names(&self) -> Vec<String> {
        let entries = self.0.path().read_dir().expect("the folder is there");
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The image is whole, and nothing else is left.
    #[track_caller]
    fn has(&self, name: &str, bytes: &[u8]) {
        assert_eq!(self.names(), [name]);
        let found = std::fs::read(self.0.path().join(name)).expect("the image is there");
        assert!(found == bytes, "{name} is another image");
    }
}

fn finish(child: Child) -> Run {
    let output = child.wait_with_output().expect("it can be waited for");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    Run { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn good(_: &Request, _: usize) -> Answer {
    Answer::Good
}

/// Whether a request is for weights.
fn weights(request: &Request) -> bool {
    request.path.contains("/resolve/") && request.range.is_some()
}

/// Repeatable numbers below `most`: a step of SplitMix64 for each index.
fn random(seed: u64, index: u64, most: u64) -> u64 {
    let mut x = (seed + index).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) % most
}

fn gguf() -> &'static [u8] {
    image("kiosk-q4_0.gguf", DEFAULT)
}

fn folder() -> &'static [u8] {
    image("kiosk-16m", DEFAULT)
}

#[test]
fn what_is_pulled_is_what_is_packed() {
    let hub = Hub::new(good);
    let place = Place::new();
    let out = place.pull(&hub, &[GGUF]).ok();
    assert!(out.contains("wrote kiosk-q4_0.rill"), "{out}");
    place.has("kiosk-q4_0.rill", gguf());
    let log = hub.log();
    let of_commit = |request: &Request| request.path.contains(&format!("/resolve/{COMMIT}/"));
    assert!(log[1..].iter().all(of_commit), "a branch may move: {log:?}");
    assert!(log.iter().all(|request| request.token.is_none()));

    let place = Place::new();
    place.pull(&hub, &["https://huggingface.co/org/kiosk-16m", "--verify"]).ok();
    place.has("kiosk-16m.rill", folder());
    place.pull(&hub, &[FOLDER]).fails(2, &["kiosk-16m.rill is there already", "--force"]);
    place.pull(&hub, &[FOLDER, "--force", "--experts", "q8"]).ok();
    let q8 = std::fs::metadata(place.0.path().join("kiosk-16m.rill")).unwrap().len();
    assert!(q8 > folder().len() as u64);
}

#[test]
fn weights_are_fetched_once_and_with_few_requests() {
    let hub = Hub::new(good);
    let place = Place::new();
    let run = place.pull(&hub, &[GGUF]);
    let size = std::fs::metadata(rill_tests::kiosk::path("kiosk-q4_0.gguf")).unwrap().len();
    let asked: u64 =
        hub.log().iter().filter_map(|request| request.range).map(|(a, b)| b - a + 1).sum();
    assert!(asked < size + (4 << 20), "{asked} bytes of {size}");
    run.ok();
    let tensors = rill_pack::gguf::parse(
        &mut std::fs::File::open(rill_tests::kiosk::path("kiosk-q4_0.gguf")).unwrap(),
    );
    let tensors = tensors.unwrap().tensors.len();
    assert!(hub.log().len() < tensors + 20, "{} requests", hub.log().len());
}

#[test]
fn connections_that_are_cut_at_random_points_do_no_harm() {
    for (name, file, bytes) in
        [(GGUF, "kiosk-q4_0.rill", gguf()), (FOLDER, "kiosk-16m.rill", folder())]
    {
        let cuts = AtomicU64::new(0);
        // Ten of the larger answers end early, some at once.
        let hub = Hub::new(move |request, number| {
            let Some((first, last)) = request.range else { return Answer::Good };
            let len = last - first + 1;
            if len < 1000
                || random(7, number as u64, 3) > 0
                || cuts.fetch_add(1, Ordering::Relaxed) >= 10
            {
                return Answer::Good;
            }
            let cut = random(11, number as u64, len);
            Answer::Cut(if cut.is_multiple_of(4) { 0 } else { cut })
        });
        let place = Place::new();
        let run = place.pull(&hub, &[name]);
        assert_eq!(run.err.matches("was cut").count(), 10, "{run:?}");
        run.ok();
        place.has(file, bytes);
    }
}

#[test]
fn a_process_that_is_killed_at_random_points_is_gone_on_with() {
    for (seed, name, file, source, bytes) in [
        (1, GGUF, "kiosk-q4_0.rill", "kiosk-q4_0.gguf", gguf()),
        (2, FOLDER, "kiosk-16m.rill", "kiosk-16m/model.safetensors", folder()),
    ] {
        let hub = Hub::new(good);
        let place = Place::new();
        let size = std::fs::metadata(rill_tests::kiosk::path(source)).unwrap().len();
        for attempt in 0..10 {
            // Room for the head, and some weights.
            hub.allow((1 << 20) + random(seed, attempt, size / 12));
            let mut child = place.command(&hub, &[name]).spawn().expect("the program starts");
            hub.wait();
            child.kill().expect("it can be killed");
            let run = finish(child);
            assert_eq!(run.status, None, "attempt {attempt} was killed: {run:?}");
            assert!(!place.names().iter().any(|name| name == file));
        }
        hub.allow(u64::MAX);
        let run = place.pull(&hub, &[name]);
        assert!(!run.err.contains("; 0 B of the image were there already"), "{run:?}");
        run.ok();
        place.has(file, bytes);
    }
}

#[test]
fn ctrl_c_ends_it_at_once_and_the_same_command_goes_on() {
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let hub = Hub::new(good);
        let place = Place::new();
        hub.allow(3 << 20);
        let child = place.command(&hub, &[GGUF]).spawn().expect("the program starts");
        hub.wait();
        let asked = Instant::now();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let run = finish(child);
        // It waits for a server that would be silent for minutes.
        assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
        run.fails(130, &["the same command goes on from here"]);
        hub.allow(u64::MAX);
        place.pull(&hub, &[GGUF]).ok();
        place.has("kiosk-q4_0.rill", gguf());
    }
}

#[test]
fn what_was_left_of_other_bytes_or_options_is_not_used() {
    let hub = Hub::new(good);
    let place = Place::new();
    let leave = |args: &[&str]| {
        hub.allow(4 << 20);
        let mut child = place.command(&hub, args).spawn().expect("the program starts");
        hub.wait();
        child.kill().expect("it can be killed");
        finish(child);
        hub.allow(u64::MAX);
    };
    leave(&[FOLDER, "--experts", "q8"]);
    let run = place.pull(&hub, &[FOLDER]);
    assert!(run.err.contains("; 0 B of the image were there already"), "{run:?}");
    run.ok();
    place.has("kiosk-16m.rill", folder());
}

#[test]
fn two_at_once_do_not_disturb_each_other() {
    let hub = Hub::new(good);
    let place = Place::new();
    hub.allow(2 << 20);
    let mut first = place.command(&hub, &[GGUF]).spawn().expect("the program starts");
    hub.wait();
    let other = Hub::new(good);
    place.pull(&other, &[GGUF]).fails(1, &["made by another process"]);
    first.kill().expect("it can be killed");
    finish(first);
    place.pull(&other, &[GGUF]).ok();
    place.has("kiosk-q4_0.rill", gguf());
}

#[test]
fn silence_is_not_waited_for_long() {
    let once = AtomicU64::new(0);
    let hub = Hub::new(move |request, _| {
        if weights(request) && once.fetch_add(1, Ordering::Relaxed) == 3 {
            Answer::Silent(100)
        } else {
            Answer::Good
        }
    });
    let place = Place::new();
    let run = place.pull(&hub, &[GGUF, "--timeout", "2"]);
    assert!(run.err.contains("trying again"), "{run:?}");
    run.ok();
    place.has("kiosk-q4_0.rill", gguf());
}

#[test]
fn a_server_that_fails_for_a_while_is_tried_again() {
    let hub = Hub::new(|request, number| match (number, weights(request)) {
        (0, _) => Answer::Status(500, vec![]),
        (1, _) => Answer::Status(429, vec![("Retry-After", "1".into())]),
        (number, true) if number.is_multiple_of(5) => Answer::Status(503, vec![]),
        _ => Answer::Good,
    });
    let place = Place::new();
    let run = place.pull(&hub, &[GGUF]);
    assert!(run.err.contains("429") && run.err.contains("trying again in 1.0 s"), "{run:?}");
    run.ok();
    place.has("kiosk-q4_0.rill", gguf());
}

#[test]
fn a_server_that_keeps_failing_is_left_alone_and_gone_on_with_later() {
    let place = Place::new();
    let broken = AtomicU64::new(0);
    let hub = Hub::new(move |request, _| {
        if weights(request) && broken.fetch_add(1, Ordering::Relaxed) > 20 {
            Answer::Status(502, vec![])
        } else {
            Answer::Good
        }
    });
    let run = place.pull(&hub, &[GGUF, "--retries", "2"]);
    run.fails(1, &["answers 502", "gave up after 3 tries", "goes on from here"]);
    let run = place.pull(&Hub::new(good), &[GGUF]);
    assert!(!run.err.contains("; 0 B of the image were there already"), "{run:?}");
    run.ok();
    place.has("kiosk-q4_0.rill", gguf());

    let busy = Hub::new(|_, _| Answer::Status(429, vec![("Retry-After", "86400".into())]));
    Place::new().pull(&busy, &[GGUF]).fails(1, &["asks to wait 86400 s"]);
}

#[test]
fn lies_are_noticed_before_anything_is_made_of_them() {
    let header = |name, value: &str| Answer::Headers(vec![(name, value.to_owned())]);
    let lies: [(&str, Answer); 9] = [
        ("another commit", header("X-Repo-Commit", "0000000000000000000000000000000000000000")),
        ("another size", header("X-Linked-Size", "5")),
        ("another SHA-256", header("X-Linked-ETag", "\"00\"")),
        ("another entity tag", header("ETag", "\"00\"")),
        ("which bytes", header("Content-Range", "lines 1-2")),
        ("another size", header("Content-Range", "bytes 0-9/10")),
        ("contradicts itself", Answer::Other((5, 9))),
        ("does not send parts", Answer::Whole),
        ("shorter than the hub lists", Answer::Status(416, vec![])),
    ];
    for (message, lie) in lies {
        // At first it is honest.
        let asked = AtomicU64::new(0);
        let hub = Hub::new(move |request, _| {
            if weights(request) && asked.fetch_add(1, Ordering::Relaxed) >= 5 {
                lie.clone()
            } else {
                Answer::Good
            }
        });
        let place = Place::new();
        place.pull(&hub, &[GGUF, "--retries", "0"]).fails(1, &[message]);
        // What came before the lie is good.
        place.pull(&Hub::new(good), &[GGUF]).ok();
        place.has("kiosk-q4_0.rill", gguf());
    }
}

#[test]
fn lengths_that_are_lies_are_noticed() {
    for (len, retries, parts) in [("7", "0", "contradicts"), ("99999999", "0", "contradicts")] {
        let hub = Hub::new(move |request, number| {
            if weights(request) && number > 3 {
                Answer::Headers(vec![("Content-Length", len.into())])
            } else {
                Answer::Good
            }
        });
        let place = Place::new();
        place.pull(&hub, &[GGUF, "--retries", retries]).fails(1, &[parts]);
    }
    for len in ["0", "9999999"] {
        let hub = Hub::new(move |request, _| {
            if request.path.ends_with("config.json") {
                Answer::Headers(vec![("Content-Length", len.into())])
            } else {
                Answer::Good
            }
        });
        let place = Place::new();
        let run = place.pull(&hub, &[FOLDER, "--retries", "0", "--timeout", "2"]);
        run.fails(1, &["config.json"]);
        assert!(place.names().is_empty());
    }
}

/// The kiosk model's repositories with one byte of a file changed, but not in the listing: a hub
/// whose copy is damaged.
fn damaged(name: &'static str, file: &'static str, at: usize) -> Hub {
    let hub = Hub::new(good);
    let kiosk = rill_tests::kiosk::path("");
    let path = if name == FOLDER { kiosk.join("kiosk-16m").join(file) } else { kiosk.join(file) };
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    let files = BTreeMap::from([(file.to_owned(), bytes)]);
    let repository = name.split(':').next().unwrap().to_owned();
    let copy = Hub::with_files(BTreeMap::from([(repository, files)]), |_, _| {
        Answer::Headers(vec![("X-Linked-ETag", "\"\"".into())])
    });
    // The good hub answers all but this file, which lies elsewhere.
    let away = copy.url();
    let rule = move |request: &Request, _| {
        let _lives = (&hub, &copy);
        if request.path.ends_with(&format!("/{file}")) {
            Answer::Status(302, vec![("Location", format!("{away}{}", request.path))])
        } else {
            Answer::Good
        }
    };
    Hub::new(rule)
}

#[test]
fn damage_is_found_in_small_files_always_and_in_weights_when_asked() {
    let place = Place::new();
    let hub = damaged(FOLDER, "tokenizer.json", 5000);
    place.pull(&hub, &[FOLDER]).fails(1, &["tokenizer.json arrived damaged"]);
    assert!(place.names().is_empty());

    let hub = damaged(GGUF, "kiosk-q4_0.gguf", 8_000_000);
    place.pull(&hub, &[GGUF, "--verify"]).fails(1, &["kiosk-q4_0.gguf arrived damaged"]);
    assert!(place.names().is_empty(), "nothing of it is kept: {:?}", place.names());
}

#[test]
fn the_token_is_sent_to_the_hub_and_nowhere_else() {
    let away = Hub::new(good);
    let url = away.url();
    let hub = Hub::new(move |request, _| {
        if request.path.contains("/resolve/") {
            Answer::Status(302, vec![("Location", format!("{url}{}?signed=1", request.path))])
        } else if request.path.contains("?blobs") {
            // As for a repository that was renamed.
            let path = request.path.replace("?blobs", "?renamed&blobs");
            Answer::Status(307, vec![("Location", path)])
        } else {
            Answer::Good
        }
    });
    let place = Place::new();
    let mut command = place.command(&hub, &[FOLDER]);
    finish(command.env("HF_TOKEN", "hf_secret").spawn().expect("the program starts")).ok();
    place.has("kiosk-16m.rill", folder());
    let tokens = |hub: &Hub| -> Vec<_> { hub.log().into_iter().map(|r| r.token).collect() };
    assert!(tokens(&hub).iter().all(|token| token.as_deref() == Some("Bearer hf_secret")));
    assert!(away.log().len() > 20, "it served all files");
    assert!(tokens(&away).iter().all(Option::is_none));
    // The hub is asked once for a file of weights: the address that it gave is used again.
    let asked = hub.log().iter().filter(|r| r.path.ends_with("model.safetensors")).count();
    assert_eq!(asked, 1);
}

#[test]
fn an_address_that_has_expired_is_asked_for_again() {
    let away = Hub::new(|request, number| {
        if weights(request) && number % 7 == 6 && !request.path.ends_with("again") {
            Answer::Status(403, vec![])
        } else {
            Answer::Good
        }
    });
    let url = away.url();
    let hub = Hub::new(move |request, number| {
        let again = if number % 2 == 0 { "again" } else { "" };
        if request.path.contains("/resolve/") {
            Answer::Status(302, vec![("Location", format!("{url}{}?{again}", request.path))])
        } else {
            Answer::Good
        }
    });
    let place = Place::new();
    place.pull(&hub, &[GGUF]).ok();
    place.has("kiosk-q4_0.rill", gguf());
}

#[test]
fn refusals_say_what_to_do() {
    let place = Place::new();
    let answer = |status: u16, token: bool, parts: &[&str]| {
        let hub = Hub::new(move |_, _| Answer::Status(status, vec![]));
        let mut command = place.command(&hub, &[GGUF]);
        if token {
            command.env("HF_TOKEN", "hf_secret");
        }
        let run = finish(command.spawn().expect("the program starts"));
        assert!(!run.err.contains("hf_secret"), "{run:?}");
        run.fails(1, parts);
        assert_eq!(hub.log().len(), 1, "it is not tried again");
    };
    answer(401, false, &["org/kiosk-GGUF", "private or gated", "HF_TOKEN"]);
    answer(401, true, &["does not accept the token", "org/kiosk-GGUF"]);
    answer(403, true, &["accept its terms"]);
    answer(404, false, &["org/kiosk-GGUF", "does not exist"]);
    answer(418, false, &["418"]);
    answer(302, false, &["redirects"]);

    let hub = Hub::new(good);
    place.pull(&hub, &["org/other"]).fails(1, &["org/other", "does not exist"]);
    place.pull(&hub, &[GGUF, "--revision", "v9"]).fails(1, &["revision"]);
    place.pull(&hub, &["nonsense"]).fails(2, &["looks like"]);
    let around =
        Hub::new(|request, _| Answer::Status(302, vec![("Location", request.path.clone())]));
    place.pull(&around, &[GGUF]).fails(1, &["again and again"]);
    for endpoint in ["ftp://hub.example", "hub.example", "http://"] {
        let mut command = place.command(&hub, &[GGUF]);
        let child = command.env("HF_ENDPOINT", endpoint).spawn().expect("the program starts");
        finish(child).fails(2, &["HF_ENDPOINT"]);
    }
    let mut command = place.command(&hub, &[GGUF]);
    let child = command.env("HF_TOKEN", "two words").spawn().expect("the program starts");
    finish(child).fails(2, &["HF_TOKEN"]);
    assert!(place.names().is_empty());
}

#[test]
fn a_hub_that_is_not_there_is_given_up() {
    // Before the other: it would be given the port that is free again.
    let hub = Hub::new(good);
    let gone = Hub::new(good).url();
    // The listener ends with the hub; nobody else listens there.
    let deadline = Instant::now() + PATIENCE;
    let address = gone.trim_start_matches("http://").to_owned();
    while std::net::TcpStream::connect(&address).is_ok() && Instant::now() < deadline {
        sleep(Duration::from_millis(10));
    }
    let place = Place::new();
    let mut command = place.command(&hub, &[GGUF, "--retries", "1"]);
    let run = finish(command.env("HF_ENDPOINT", gone).spawn().expect("the program starts"));
    run.fails(1, &["gave up after 2 tries"]);
}

#[test]
fn the_quants_of_a_repository_are_listed() {
    let gguf = std::fs::read(rill_tests::kiosk::path("kiosk-q4_0.gguf")).unwrap();
    let names = ["kiosk-Q4_0.gguf", "kiosk-Q8_0.gguf", "mmproj-F16.gguf"];
    let files = names.map(|name| (name.to_owned(), gguf.clone())).into();
    let hub = Hub::with_files(BTreeMap::from([("org/many".to_owned(), files)]), good);
    let place = Place::new();
    let both = ["rill pull org/many:Q4_0", "rill pull org/many:Q8_0"];
    let run = place.pull(&hub, &["org/many"]);
    assert!(!run.err.contains("mmproj"), "{run:?}");
    run.fails(2, &["several", both[0], both[1]]);
    place.pull(&hub, &["org/many:Q5_K_M"]).fails(2, &["no Q5_K_M", both[0], both[1]]);
    assert!(place.names().is_empty());
    place.pull(&hub, &["org/many:q8_0", "-o", "x.rill"]).ok();
    assert!(Path::new(&place.0.path().join("x.rill")).exists());
}

#[test]
fn what_is_no_model_of_this_family_leaves_nothing() {
    let files = [("config.json", &br#"{"model_type": "llama"}"#[..]), ("model.safetensors", b"x")];
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes.to_vec())).into();
    let hub = Hub::with_files(BTreeMap::from([("org/x".to_owned(), files)]), good);
    let place = Place::new();
    place.pull(&hub, &["org/x"]).fails(1, &["cut"]);
    assert!(place.names().is_empty());
}
