//! What the operator's page is told.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use rill_serve::keys::Key;
use rill_serve::{Config, Listen, Server, StartError};
use rill_tests::rig::Setting;
use rill_tests::server::{Reply, Running, post, soon, start};
use serde_json::{Value, json};

const STATE: &str = "/operator/state";

fn here() -> Config {
    Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
}

/// A server with two places and fewer slots than experts.
fn served() -> Running {
    start(here(), Setting { conversations: 2, slots: Some(24), ..Setting::default() })
}

/// The server's state once it is as `is` says.
fn once(server: &Running, is: impl Fn(&Value) -> bool) -> Value {
    // Who asks while the engine is busy for a second is told without its places.
    let whole = |state: &Value| state["places"].is_array() && is(state);
    soon(|| Some(server.get(STATE).ok()).filter(whole))
}

fn question(more: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": "Where is the lift?"}]});
    for (name, value) in more.as_object().expect("fields are an object") {
        body[name] = value.clone();
    }
    body
}

#[test]
fn the_plan_and_the_experts_are_told() {
    let server = served();
    let state = once(&server, |_| true);
    assert_eq!((&state["stage"], &state["model"]["name"]), (&json!("ready"), &json!("kiosk")));
    assert_eq!(state["places"], json!([null, null]));
    let parts = state["memory"]["parts"].as_array().expect("a list");
    let sum: u64 = parts.iter().filter_map(|part| part["bytes"].as_u64()).sum();
    assert_eq!(Some(sum), state["memory"]["budget"].as_u64());
    assert!(parts.iter().any(|part| part["name"] == "expert slots"));

    server.post("/v1/chat/completions", &question(&json!({"max_tokens": 8}))).ok();
    let state =
        once(&server, |state| state["answers"]["whole"] == 1 || state["answers"]["cut"] == 1);
    let experts = &state["experts"];
    let pages = experts["banks"].as_u64().unwrap() * experts["experts"].as_u64().unwrap();
    let states = experts["states"].as_str().expect("a text");
    assert_eq!(states.len() as u64, pages);
    let in_ram = states.bytes().filter(|state| *state == b'r').count();
    assert_eq!(experts["slots"], 24);
    assert!((1..=24).contains(&in_ram), "{states}");
    assert!(states.bytes().all(|state| b"rf.".contains(&state)), "{states}");
    let [used, often] = ["used", "often"].map(|name| experts[name].as_array().expect("a list"));
    assert_eq!([used.len() as u64, often.len() as u64], [pages, pages]);
    let last = used.iter().filter(|used| **used == 1).count() as u64;
    assert!(last > 0 && last <= experts["cycle"].as_u64().unwrap(), "{used:?}");
    assert!(often.iter().all(|share| share.as_u64().is_some_and(|share| share <= 1000)));
    let answer = &state["engine"]["answer"];
    assert!(answer["tokens"].as_u64() > Some(0), "{answer}");
    let bytes = ["answer", "prompt"].map(|phase| state["engine"][phase]["bytes"].as_u64().unwrap());
    assert!(bytes.iter().sum::<u64>() > 0);
    assert_eq!(state["first"]["count"], 1);
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("rill_answers_total{outcome=\"left\"} 0"), "{metrics}");
}

#[test]
fn a_sensor_that_never_answers_holds_up_nobody() {
    let temperature = || loop {
        std::thread::park();
    };
    let server = start(Config { temperature, ..here() }, Setting::default());
    for _ in 0..3 {
        let metrics = server.get("/metrics");
        assert_eq!(metrics.status, 200, "{metrics:?}");
        assert!(!metrics.body.contains("celsius"), "{metrics:?}");
        assert_eq!(server.get(STATE).ok()["temperature"], Value::Null);
    }
    server.post("/v1/chat/completions", &question(&json!({"max_tokens": 3}))).ok();
    server.stop().expect("it ends well");
}

/// A sensor may be slow, and is not waited for; sooner or later what it said is told.
#[test]
fn the_temperature_is_told() {
    let server = start(Config { temperature: || Some(41.5), ..here() }, Setting::default());
    once(&server, |state| state["temperature"] == 41.5 && state["memory"]["resident"].is_u64());
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("rill_board_temperature_celsius 41.5\n"), "{metrics}");
    assert!(metrics.contains("process_resident_memory_bytes "), "{metrics}");
}

#[test]
fn an_answer_under_way_is_seen_and_so_is_who_left_it() {
    let server = served();
    let long = question(&json!({"stream": true, "ignore_eos": true, "max_tokens": 900}));
    let mut seen = None;
    let mut left = 0;
    // An answer may be whole before anybody looks: then the next is looked at.
    for _ in 0..1000 {
        if seen.is_some() && left > 0 {
            break;
        }
        let mut stream = server.connect();
        stream
            .write_all(post("/v1/chat/completions", &long.to_string(), "").as_bytes())
            .expect("taken");
        stream.read_exact(&mut [0; 16]).expect("it begins");
        let state = once(&server, |_| true);
        let places = state["places"].as_array().expect("a list");
        seen = seen.or(places.iter().find(|place| place.is_object()).cloned());
        drop(stream);
        let state = once(&server, |state| state["places"] == json!([null, null]));
        assert_eq!(state["answers"]["failed"], 0);
        left = state["answers"]["left"].as_u64().expect("a number");
    }
    let seat = seen.expect("it was seen");
    assert!(seat["prompt"].as_u64() > seat["cached"].as_u64(), "{seat}");
    assert!(seat["speed"].is_number() && seat["tokens"].is_u64(), "{seat}");
}

#[test]
fn with_keys_it_needs_the_operators() {
    let folder = tempfile::tempdir().expect("there is room");
    let path = folder.path().join("keys");
    let key = |name| Key::new(name, None, None).expect("there is a random number");
    let (guest, house) = (key("guest"), key("house").of_operator());
    fs::write(&path, format!("{}\n{}", guest.line, house.line)).expect("it is written");
    let server = start(Config { keys: Some(path), ..here() }, Setting::default());
    assert_eq!(server.get("/operator").status, 200);
    let ask = |path: &str, key: &Key| {
        let head = format!("Host: localhost\r\nAuthorization: Bearer {}", key.secret);
        server.send(format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{head}\r\n\r\n"))
    };
    for path in [STATE, "/metrics"] {
        assert_eq!(server.get(path).status, 401);
        let refused = ask(path, &guest);
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(refused.body.contains("rill key --operator"), "{refused:?}");
        assert_eq!(ask(path, &house).status, 200);
    }
    // It is a key like any other too.
    for key in [&guest, &house] {
        assert_eq!(ask("/v1/models", key).status, 200);
    }
}

#[test]
fn without_keys_only_this_machine_is_told() {
    let listen = vec![Listen::Tcp(SocketAddr::from(([0, 0, 0, 0], 0)))];
    let config = Config { listen, open: true, ..here() };
    let server = start(config, Setting::default());
    let ask = |path: &str, head: &str| {
        server.send(format!(
            "GET {path} HTTP/1.1\r\nConnection: close\r\nHost: x.localhost{head}\r\n\r\n"
        ))
    };
    for path in [STATE, "/metrics"] {
        assert_eq!(ask(path, "").status, 200);
        let refused = ask(path, "\r\nX-Forwarded-For: 192.0.2.1");
        assert_eq!(refused.status, 403, "{refused:?}");
        assert!(refused.body.contains("--keys"), "{refused:?}");
    }
    assert_eq!(ask("/v1/models", "\r\nX-Forwarded-For: 192.0.2.1").status, 200);
}

#[test]
fn a_model_that_is_being_loaded_is_said() {
    let server = Server::bind(here()).expect("there is a port");
    let address = server.addresses()[0].replace("http://", "");
    let control = server.control();
    let run = server.run(|_desk| {
        let mut stream = TcpStream::connect(&address).expect("it listens");
        let ask = format!("GET {STATE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).expect("it is taken");
        let state = Reply::read(stream).ok();
        assert_eq!((&state["stage"], &state["model"]), (&json!("loading"), &Value::Null));
        control.stop();
        Ok::<_, StartError>(())
    });
    run.expect("it ends well");
}
