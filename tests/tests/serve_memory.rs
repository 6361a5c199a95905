//! The most that a server may be asked at once stays within what it set aside for that.

use std::io::{BufReader, Read, Write, empty};
use std::mem::replace;
use std::sync::Barrier;
use std::time::Duration;

use rill_tests::process::status_bytes;
use rill_tests::served::Served;
use rill_tests::server::{Reply, post, soon};
use rill_tests::tls::{data, greet};
use serde_json::{Map, Value, json};

/// A server that listens through TLS and in the file system.
struct Both {
    served: Served,
    socket: String,
}

impl Both {
    fn start(folder: &std::path::Path) -> Self {
        let socket = folder.join("rill.sock").display().to_string();
        let [cert, key] = ["first.pem", "first.key"].map(|name| data(name).display().to_string());
        let mut served = Served::start(
            [
                ["--listen", &format!("unix:{socket}"), "--tls-cert", &cert, "--tls-key", &key],
                ["--ram", "512MiB", "-c", "1024", "--conversations", "4"],
            ]
            .concat(),
        );
        let mut lines = replace(&mut served.lines, BufReader::new(Box::new(empty())));
        std::thread::spawn(move || lines.read_to_end(&mut Vec::new()));
        Self { served, socket }
    }

    /// The status of an answer through TLS.
    fn ask(&self, path: &str, body: &Value) -> u16 {
        let mut stream = greet(&self.served.address);
        let _ = stream.sock.set_read_timeout(Some(Duration::from_secs(300)));
        // A server that refuses early closes before all was sent.
        let _ = stream.write_all(post(path, &body.to_string(), "").as_bytes());
        Reply::read(&mut stream).status
    }

    /// Bytes of what it set aside, by name.
    fn parts(&self) -> Vec<(String, u64)> {
        let mut stream = std::os::unix::net::UnixStream::connect(&self.socket).expect("it listens");
        let ask = b"GET /operator/state HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).expect("it is taken");
        let state = Reply::read(stream).ok();
        let parts = state["memory"]["parts"].as_array().expect("a list").clone();
        let part =
            |part: &Value| Some((part["name"].as_str()?.to_owned(), part["bytes"].as_u64()?));
        parts.iter().filter_map(part).collect()
    }

    /// Bytes that the kernel counts of it.
    fn counted(&self, name: &str) -> u64 {
        status_bytes(self.served.child.id(), name)
    }
}

/// A conversation with more fields.
fn question(more: &Value) -> Value {
    let mut body =
        json!({"messages": [{"role": "user", "content": "Where is the lift?"}], "max_tokens": 64});
    for (name, value) in more.as_object().expect("fields are an object") {
        body[name] = value.clone();
    }
    body
}

/// A conversation whose answer has a form of a schema.
fn formed(schema: &Value, count: usize) -> Value {
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    question(&json!({"response_format": format, "n": count}))
}

/// A schema with so many properties, each of its own kind.
fn schema(count: usize, kind: impl Fn(usize) -> Value) -> Value {
    let properties: Map<_, _> = (0..count).map(|n| (format!("f{n}"), kind(n))).collect();
    json!({"type": "object", "properties": properties, "additionalProperties": false})
}

/// Kinds of requests, each of which takes the most of something.
const KINDS: usize = 7;
/// Of them, the one that is refused: its prompt does not fit.
const LONG: usize = 6;

/// What asks for the most of a kind.
fn heavy(kind: usize) -> (&'static str, Value) {
    const CHAT: &str = "/v1/chat/completions";
    let text = "a".repeat(900_000);
    match kind {
        // As many values as are taken, and as many bytes.
        0 => (CHAT, question(&json!({"metadata": vec![0; 20_000], "user": text}))),
        // As long as it may be.
        1 => {
            let text =
                |n: usize| json!({"type": "string", "pattern": format!("^[a-x]{{1,9}}{n}$")});
            (CHAT, formed(&schema(450, text), 1))
        }
        // Long tables, several times.
        2 => {
            let number =
                |n: usize| json!({"type": "number", "minimum": n, "maximum": 1_234_567 + n});
            (CHAT, formed(&schema(100, number), 4))
        }
        // Nothing but what must come.
        3 => (CHAT, formed(&json!({"const": "a".repeat(5000)}), 1)),
        4 => {
            let logprobs = json!(["message.output_text.logprobs"]);
            let body = json!({"input": "Hi", "metadata": {"a": "\n".repeat(30_000)}, "stream": true,
                              "include": logprobs, "top_logprobs": 20, "max_output_tokens": 97});
            ("/v1/responses", body)
        }
        5 => {
            let more = json!({"logprobs": true, "top_logprobs": 20, "max_tokens": 24, "n": 4});
            (CHAT, question(&more))
        }
        _ => (CHAT, json!({"messages": [{"role": "user", "content": text}]})),
    }
}

#[test]
fn the_most_that_is_asked_stays_within_what_is_set_aside() {
    const EACH: usize = 5;
    let folder = tempfile::tempdir().expect("there is room");
    let server = Both::start(folder.path());
    let parts = server.parts();
    let of = |name| parts.iter().find(|part| part.0 == name).expect("it is planned").1;
    let aside = of("connections") + of("requests") + of("forms of answers");
    let before = server.counted("VmRSS");
    // Connections that say half of what they want.
    let half = format!("GET /health HTTP/1.1\r\nHost: x\r\nX: {}", "y".repeat(15 << 10));
    let idle: Vec<_> = (0..64 - KINDS * EACH - 2)
        .map(|_| {
            let mut stream = greet(&server.served.address);
            // The server may have no patience any more.
            let _ = stream.write_all(half.as_bytes());
            stream
        })
        .collect();
    let barrier = Barrier::new(KINDS * EACH);
    std::thread::scope(|scope| {
        for number in 0..KINDS * EACH {
            let (server, barrier) = (&server, &barrier);
            scope.spawn(move || {
                let kind = number % KINDS;
                let (path, body) = heavy(kind);
                barrier.wait();
                // Those that come when there is no room come again.
                let status = soon(|| {
                    let status = server.ask(path, &body);
                    (![408, 429].contains(&status)).then_some(status)
                });
                assert_eq!(status, if kind == LONG { 400 } else { 200 }, "{kind}");
            });
        }
    });
    drop(idle);
    let peak = server.counted("VmHWM");
    println!("{before} bytes before, {peak} at most, {aside} set aside: {parts:?}");
    assert!(peak - before <= aside, "{} bytes of {aside}: {parts:?}", peak - before);
    let all = parts.iter().map(|(_, bytes)| bytes).sum::<u64>();
    assert!(peak <= all, "{peak} bytes of {all}: {parts:?}");
}

#[test]
fn a_body_of_more_values_than_are_taken_is_refused() {
    let folder = tempfile::tempdir().expect("there is room");
    let server = Both::start(folder.path());
    let before = server.counted("VmHWM");
    for values in [
        json!(vec![0; 400_000]),
        json!(vec![json!([]); 200_000]),
        json!(vec![json!({"a": 0}); 80_000]),
    ] {
        assert_eq!(
            server.ask("/v1/chat/completions", &question(&json!({"metadata": values}))),
            413
        );
    }
    // Nothing of it was ever there but its bytes.
    let grown = server.counted("VmHWM") - before;
    assert!(grown < 16 << 20, "{grown} bytes");
}
