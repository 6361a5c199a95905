//! Requests that mean no good: nothing of them gets in, and the server stays up.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rill_serve::keys::Key;
use rill_serve::{Config, Limits, Listen, Server, StartError, Supervisor};
use rill_tests::rig::Setting;
use rill_tests::server::{Gate, Reply, Running, post, soon, start, start_for};
use serde_json::json;

fn here() -> Config {
    Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
}

fn served(config: Config) -> Running {
    start(config, Setting::default())
}

const CHAT: &str = "/v1/chat/completions";
const HELLO: &str = r#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}"#;

/// A good request is still answered.
#[track_caller]
fn is_up(server: &Running) {
    let reply = server.send(post(CHAT, HELLO, ""));
    assert_eq!(reply.status, 200, "{reply:?}");
}

#[test]
fn bodies_that_are_nothing_are_refused() {
    let server = served(here());
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let nested = format!("{{\"messages\": {deep}}}");
    let objects = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
    let texts = [
        "",
        " ",
        "null",
        "[]",
        "3",
        "\"x\"",
        "{",
        "{\"messages\"",
        "{\"messages\": [}",
        "{} {}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"\\ud800\"}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"\\u00\"}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\u{0}b\"}]}",
        "{\"max_tokens\": 1e999}",
        "{\"seed\": 99999999999999999999999}",
        "NaN",
        "\u{feff}{}",
        &deep,
        &nested,
        &objects,
    ];
    for path in [CHAT, "/v1/completions", "/api/chat", "/completion", "/v1/decide", "/tokenize"] {
        for text in texts {
            let reply = server.send(post(path, text, ""));
            let shown: String = text.chars().take(60).collect();
            assert!(
                (400..500).contains(&reply.status) || reply.status == 200,
                "{path} {shown}: {reply:?}"
            );
            assert!(reply.json().is_object(), "{path} {shown}: {reply:?}");
            if reply.status == 200 {
                // Without a question Ollama's clients load the model; a tokenizer takes no text.
                assert!(["/api/chat", "/tokenize"].contains(&path), "{path} {shown}: {reply:?}");
            }
        }
    }
    // Bytes that are no text.
    for bytes in [&b"{\"a\": \"\xff\xfe\"}"[..], b"\x00\x01\x02", b"\xc0\xaf", b"{\"\x80\": 1}"] {
        let mut request = format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        )
        .into_bytes();
        request.extend_from_slice(bytes);
        assert_eq!(server.send(request).status, 400);
    }
    is_up(&server);
}

#[test]
fn what_is_too_large_is_refused() {
    let limits = Limits { body: 10_000, values: 192_000, head: 8 << 10, ..Limits::default() };
    let server = served(Config { limits, ..here() });
    let long = format!("{{\"messages\": \"{}\"}}", "x".repeat(20_000));
    let reply = server.send(post(CHAT, &long, ""));
    assert_eq!(reply.status, 413, "{reply:?}");
    let many = server.send(post(CHAT, &json!({"prompt": vec![1; 2000]}).to_string(), ""));
    assert_eq!(many.status, 413, "{many:?}");
    assert!(many.body.contains("a list of 1000 numbers"), "{many:?}");
    // The same without saying so beforehand.
    let mut chunked = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    for _ in 0..30 {
        chunked.push_str(&format!("3e8\r\n{}\r\n", "x".repeat(1000)));
    }
    chunked.push_str("0\r\n\r\n");
    assert_eq!(server.send(chunked).status, 413);
    // A length that nobody has.
    let huge = format!(
        "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 99999999999999\r\n\r\n{{"
    );
    assert_eq!(server.send(huge).status, 413);
    // A head that does not end, and one with too many lines.
    let reply =
        server.send(format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(70_000)));
    assert!([0, 414, 431].contains(&reply.status), "{reply:?}");
    let many: String = (0..500).map(|number| format!("X-{number}: 1\r\n")).collect();
    let reply = server.send(format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"));
    assert!([0, 431].contains(&reply.status), "{reply:?}");
    let gzip = server.send(post(CHAT, HELLO, "Content-Encoding: gzip\r\n"));
    assert_eq!(gzip.status, 415, "{gzip:?}");
    is_up(&server);
}

#[test]
fn who_sends_all_before_reading_hears_the_refusal() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("keys");
    let key = Key::new("kiosk", None, None).unwrap();
    fs::write(&path, &key.line).unwrap();
    let limits = Limits { arrival: Duration::from_secs(3600), ..Limits::default() };
    let server = served(Config { keys: Some(path), limits, ..here() });
    // More than the sockets hold on their way.
    let long = "x".repeat(24 << 20);
    for (head, status) in [(format!("X-Api-Key: {}\r\n", key.secret), 413), (String::new(), 401)] {
        let mut stream = server.connect();
        stream.write_all(post(CHAT, &long, &head).as_bytes()).expect("all of it is taken");
        assert_eq!(Reply::read(stream).status, status);
    }
}

#[test]
fn answers_that_can_never_all_have_a_place_are_refused_for_good() {
    let limits = Limits { queue: 1, ..Limits::default() };
    let server = served(Config { limits, ..here() });
    let ask = |count: u32| {
        server.post(
            CHAT,
            &json!({"messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 2, "n": count}),
        )
    };
    let reply = ask(8);
    assert_eq!((reply.status, reply.param().as_str()), (400, "n"), "{reply:?}");
    assert_eq!(ask(2).status, 200);
}

#[test]
fn who_is_slow_is_not_waited_for() {
    let arrival = Duration::from_millis(300);
    let limits = Limits { arrival, connections: 4, ..Limits::default() };
    let server = served(Config { limits, ..here() });
    // More than there may be: without an end of theirs nobody else would come in.
    let heads: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = server.connect();
            stream
                .write_all(b"POST /v1/chat/completions HTTP/1.1\r\nHost: lo")
                .expect("it is taken");
            stream
        })
        .collect();
    is_up(&server);
    drop(heads);
    let body = format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{");
    let reply = server.send(body);
    assert_eq!(reply.status, 408, "{reply:?}");
    is_up(&server);
}

#[test]
fn bodies_that_do_not_arrive_hold_nobody_up() {
    // They would be waited for an hour.
    let limits = Limits { arrival: Duration::from_secs(3600), ..Limits::default() };
    let server = served(Config { limits, ..here() });
    let bodies: Vec<_> = (0..3)
        .map(|_| {
            let head = format!(
                "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\
                 Expect: 100-continue\r\n\r\n{{",
                limits.body
            );
            let mut stream = server.connect();
            stream.write_all(head.as_bytes()).expect("it is taken");
            // It is being read.
            let mut line = [0; 12];
            stream.read_exact(&mut line).expect("it answers");
            assert_eq!(&line, b"HTTP/1.1 100");
            stream
        })
        .collect();
    is_up(&server);
    drop(bodies);
}

#[test]
fn connections_that_nobody_uses_keep_nobody_out() {
    // They would stay for an hour.
    let arrival = Duration::from_secs(3600);
    let limits = Limits { arrival, connections: 4, ..Limits::default() };
    let server = served(Config { limits, ..here() });
    let ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it is taken");
        Reply::read(stream).status
    };
    let mut idle: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for stream in &mut idle {
        assert_eq!(ask(stream), 200);
    }
    assert_eq!(server.get("/health").status, 200);
    // The one that had been idle for longest has ended, and no other.
    assert_eq!(idle[0].read(&mut [0]).expect("it ended well"), 0);
    for stream in &mut idle[1..] {
        assert_eq!(ask(stream), 200);
    }
}

#[test]
fn what_two_readers_would_read_differently_is_refused() {
    let server = served(here());
    let hidden = "GET /smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let shapes = [
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\n{hidden}"
        ),
        format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: +4\r\n\r\n{hidden}"),
        format!("POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length : 4\r\n\r\n{hidden}"),
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"
        ),
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n{hidden}"
        ),
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n{hidden}"
        ),
        format!(
            "POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n X: folded\r\nContent-Length: 0\r\n\r\n{hidden}"
        ),
        "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n".into(),
        "GET /health HTTP/1.1\r\n\r\n".into(),
        "GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "GET /health HTTP/9.9\r\nHost: localhost\r\n\r\n".into(),
        "GET\0/health HTTP/1.1\r\nHost: localhost\r\n\r\n".into(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03".into(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(),
    ];
    for shape in shapes {
        let mut stream = server.connect();
        let _ = stream.write_all(shape.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        let said = String::from_utf8_lossy(&said);
        let status = said.split(' ').nth(1).unwrap_or("0");
        assert!(status == "0" || status.starts_with('4') || status == "505", "{shape:?}: {said}");
        // Whatever follows on the connection was not read as a request of its own.
        assert!(said.matches("HTTP/1.1 ").count() <= 1, "{shape:?}: {said}");
    }
    is_up(&server);
}

#[test]
fn a_web_page_cannot_reach_it() {
    let origins = vec!["https://desk.example".to_owned()];
    let names = vec!["gateway.example".to_owned()];
    let server = served(Config { origins, names, ..here() });
    let get = |host: &str, more: &str| {
        server.send(format!(
            "GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n"
        ))
    };
    // A name that leads here (DNS rebinding) is the page's own.
    for host in
        ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example"]
    {
        assert_eq!(get(host, "").status, 421, "{host}");
    }
    for host in
        ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:80", "10.0.0.1", "gateway.example"]
    {
        assert_eq!(get(host, "").status, 200, "{host}");
    }
    for origin in ["https://evil.example", "null", "http://localhost:1", "file://"] {
        assert_eq!(get("localhost", &format!("Origin: {origin}\r\n")).status, 403, "{origin}");
    }
    assert_eq!(get("localhost:7", "Origin: http://localhost:7\r\n").status, 200);
    let named = get("localhost", "Origin: https://desk.example\r\n");
    assert_eq!(named.header("access-control-allow-origin"), "https://desk.example");
    assert_eq!(named.header("access-control-expose-headers"), "retry-after");
    let before = |origin: &str, names: &str| {
        server.send(format!(
            "OPTIONS {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nOrigin: {origin}\r\n\
             Access-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: {names}\r\n\r\n"
        ))
    };
    // What the library of a page adds may be sent; what is no list of names is not said again.
    let library = "authorization,content-type,x-stainless-arch,x-stainless-lang";
    let usual = "authorization, content-type, x-api-key";
    let long = vec!["x-name"; 500].join(",");
    for (names, allowed) in [(library, library), ("a b", usual), ("", usual), (&long, usual)] {
        let reply = before("https://desk.example", names);
        assert_eq!((reply.status, reply.header("access-control-allow-headers")), (204, allowed));
    }
    assert_eq!(before("https://evil.example", library).status, 403);
}

#[test]
fn who_has_no_key_does_not_come_in() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("keys");
    let [kiosk, other] = ["kiosk", "other"].map(|name| Key::new(name, Some(1000), None).unwrap());
    let small = Key::new("small", Some(2), None).unwrap();
    fs::write(&path, format!("{}\n{}\n", kiosk.line, small.line)).unwrap();
    let server = served(Config { keys: Some(path), ..here() });
    let ask = |head: &str| server.send(post(CHAT, HELLO, head));
    let bearer = |key: &str| format!("Authorization: Bearer {key}\r\n");
    for head in [
        String::new(),
        bearer(&other.secret),
        bearer(""),
        bearer(&kiosk.secret[..kiosk.secret.len() - 1]),
        bearer(&format!("{}x", kiosk.secret)),
        format!("Authorization: Basic {}\r\n", kiosk.secret),
        format!("Authorization: {}\r\n", kiosk.secret),
        "Authorization: Bearer \u{fc}\r\n".to_owned(),
    ] {
        let reply = ask(&head);
        assert_eq!((reply.status, reply.header("www-authenticate")), (401, "Bearer"), "{head}");
    }
    assert_eq!(server.get("/v1/models").status, 401);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(ask(&bearer(&kiosk.secret)).status, 200);
    assert_eq!(ask(&format!("X-Api-Key: {}\r\n", kiosk.secret)).status, 200);
    let spent: Vec<Reply> = (0..3).map(|_| ask(&bearer(&small.secret))).collect();
    assert_eq!(spent[1].status, 200);
    assert_eq!(spent[2].status, 429);
    assert!(spent[2].header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds <= 61));
}

#[test]
fn strangers_are_let_in_only_on_purpose() {
    let everywhere = Listen::Tcp(SocketAddr::from(([0, 0, 0, 0], 0)));
    let refused = Server::bind(Config::new(everywhere.clone()));
    assert!(matches!(refused, Err(StartError::Strangers(_))));
    assert!(Server::bind(Config { open: true, ..Config::new(everywhere) }).is_ok());
}

#[test]
fn a_socket_in_the_file_system_needs_no_key() {
    let folder = tempfile::tempdir().expect("there is room");
    let (keys, socket) = (folder.path().join("keys"), folder.path().join("rill.sock"));
    fs::write(&keys, Key::new("kiosk", None, None).unwrap().line).unwrap();
    let mut config = Config { keys: Some(keys), ..here() };
    config.listen.push(Listen::Unix(socket.clone()));
    let server = served(config);
    let mut stream = UnixStream::connect(&socket).expect("it listens");
    stream.write_all(post(CHAT, HELLO, "").as_bytes()).expect("it is taken");
    let mut said = String::new();
    stream.read_to_string(&mut said).expect("it answers");
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    // Another server does not take it away.
    let second = Server::bind(Config::new(Listen::Unix(socket.clone())));
    assert!(matches!(second, Err(StartError::Listen(..))));
    server.stop().expect("it ends well");
    assert!(!socket.exists());
    // One that a server left behind is replaced.
    drop(UnixListener::bind(&socket).expect("there is room"));
    assert!(Server::bind(Config::new(Listen::Unix(socket))).is_ok());
}

#[test]
fn a_thousand_of_them_leave_it_as_it_was() {
    let server = served(here());
    let body =
        json!({"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": 4});
    let before = server.post(CHAT, &body).ok()["choices"].clone();
    let pieces = [
        "POST /v1/chat/completions HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n",
        "Host: localhost\r\n",
        "Host: evil.example\r\n",
        "Content-Length: 5\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "{\"messages\":",
        "[[[[",
        "\0\0\0",
        "5\r\nhello\r\n",
        "Authorization: Bearer x\r\n",
        "Connection: close\r\n",
        HELLO,
        "\u{fffd}\u{10ffff}",
    ];
    // A generator of its own, so that each run sends the same.
    let mut state = 1_u64;
    let mut next = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    for _ in 0..1000 {
        let request: String = (0..next(9)).map(|_| pieces[next(pieces.len())]).collect();
        let mut stream = server.connect();
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        if next(2) == 0 {
            let mut said = String::new();
            let _ = stream.read_to_string(&mut said);
            assert!(!said.starts_with("HTTP/1.1 5"), "{request:?}: {said}");
        }
    }
    assert_eq!(server.post(CHAT, &body).ok()["choices"], before);
}

#[test]
fn a_stuck_device_ends_answers_and_not_the_server() {
    let gate = Gate::default();
    let limits = Limits { stuck: Duration::from_secs(3), ..Limits::default() };
    let config = Config { limits, ..here() };
    let setting = Setting { context: 2048, ..Setting::default() };
    let server = start_for(config, Supervisor::default(), setting, gate.clone());
    soon(|| (server.get("/health").status == 200).then_some(()));
    let body = json!({
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 100_000,
        "ignore_eos": true,
        "stream": true,
    });
    let mut stream = BufReader::new(server.connect());
    stream.get_mut().write_all(post(CHAT, &body.to_string(), "").as_bytes()).unwrap();
    let mut line = String::new();
    let closed = gate.close();
    while !line.starts_with("HTTP/1.1 200") {
        line.clear();
        assert!(stream.read_line(&mut line).expect("it begins") > 0);
    }
    // The answer ends with an error in its stream.
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("it ends well");
    assert!(rest.contains("does not answer"), "{rest}");
    assert_eq!(server.get("/health").status, 503);
    let refused = server.send(post(CHAT, HELLO, ""));
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("retry-after").parse::<u64>().is_ok());
    // Once the device answers again, so does the server; no place is lost.
    drop(closed);
    soon(|| (server.get("/health").status == 200).then_some(()));
    is_up(&server);
}
