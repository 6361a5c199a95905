//! The server, asked by one client at a time and by many.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rill::session::Session;
use rill_serve::{Config, Limits, Listen, Supervisor};
use rill_tests::kiosk;
use rill_tests::rig::{Rig, Setting};
use rill_tests::server::{Gate, Running, post, soon, start, start_for};
use serde_json::{Value, json};

/// A free port of this machine.
fn here() -> Config {
    Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))))
}

/// A server with so many places.
fn served(conversations: u32) -> Running {
    start(here(), Setting { conversations, prefixes: 16, ..Setting::default() })
}

const CHAT: &str = "/v1/chat/completions";

/// A question, with more fields.
fn question(text: &str, more: Value) -> Value {
    let mut body = json!({"model": "kiosk", "messages": [{"role": "user", "content": text}]});
    for (name, value) in more.as_object().expect("fields are an object") {
        body[name] = value.clone();
    }
    body
}

/// The text of the first choice.
fn text(body: &Value) -> &str {
    body["choices"][0]["message"]["content"].as_str().expect("an answer has a content")
}

/// The bytes of tokens with log-probabilities, as a text.
#[track_caller]
fn spelled(logprobs: &[Value]) -> String {
    let bytes = logprobs.iter().flat_map(|token| token["bytes"].as_array().expect("bytes"));
    let bytes: Vec<u8> = bytes.map(|byte| byte.as_u64().expect("a byte") as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a session alone answers, always with the best token.
fn alone(question: &str, most: usize) -> String {
    use rill::chat::Role;
    let mut rig: Rig = Rig::new(kiosk::default_image(), Setting::default()).expect("it loads");
    rig.session.append_message(Role::User, question).expect("there is room");
    rig.session.begin_answer().expect("the kiosk model chats");
    let prompt = rig.session.tokens().to_vec();
    let ids = rig.greedy(&prompt, most).expect("it answers");
    let session: &Session<'_> = &rig.session;
    let stops = &session.chat().stops;
    let said = ids.iter().filter(|id| !stops.contains(id));
    let bytes: Vec<u8> = said.flat_map(|id| session.tokenizer().piece(*id)).copied().collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn what_there_is_can_be_asked() {
    let server = served(1);
    assert_eq!(server.get("/health").ok(), json!({"status": "ok"}));
    let models = server.get("/v1/models").ok();
    assert_eq!(models["data"][0]["id"], "kiosk");
    assert_eq!(server.get("/v1/models/kiosk").ok()["object"], "model");
    assert_eq!(server.get("/v1/models/other").status, 404);
    let page = server.get("/");
    assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
    assert!(page.header("content-security-policy").contains("default-src 'none'"), "{page:?}");
    let metrics = server.get("/metrics");
    assert!(metrics.body.contains("rill_tokens_total{phase=\"prompt\"} 0"), "{metrics:?}");
    let nothing = server.get("/nothing");
    assert_eq!((nothing.status, &*nothing.param()), (404, ""));
    assert_eq!(server.get(CHAT).status, 405);
}

#[test]
fn an_answer_is_what_the_model_says_alone() {
    let server = served(2);
    for question_text in ["Where is the lift?", "When do you open?"] {
        let more = json!({"temperature": 0, "repetition_penalty": 1, "max_tokens": 24});
        let whole = server.post(CHAT, &question(question_text, more.clone())).ok();
        assert_eq!(text(&whole), alone(question_text, 24));
        assert_eq!(whole["object"], "chat.completion");
        let usage = &whole["usage"];
        let [prompt, said, all] = ["prompt_tokens", "completion_tokens", "total_tokens"]
            .map(|name| usage[name].as_u64().expect("it is a number"));
        assert!(prompt > 0 && said > 0 && prompt + said == all, "{usage}");

        let mut more = more;
        more["stream"] = true.into();
        more["stream_options"] = json!({"include_usage": true});
        let chunks = server.stream(CHAT, &question(question_text, more));
        let pieces = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str());
        assert_eq!(pieces.collect::<String>(), text(&whole));
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let last = &chunks[chunks.len() - 1]["usage"];
        assert_eq!(last["total_tokens"], usage["total_tokens"]);
        // All but the last token of the prompt is known by now.
        assert_eq!(last["prompt_tokens_details"]["cached_tokens"], prompt - 1);
        let ends = chunks.iter().filter_map(|c| c["choices"][0]["finish_reason"].as_str());
        let end = whole["choices"][0]["finish_reason"].as_str().expect("it ended");
        assert_eq!(ends.collect::<Vec<_>>(), [end]);
    }
}

#[test]
fn what_is_asked_for_is_given() {
    let server = served(2);
    let ask = |more: Value| server.post(CHAT, &question("Tell me about the museum.", more)).ok();
    let seeded = json!({"seed": 7, "max_tokens": 12, "temperature": 1.0});
    assert_eq!(text(&ask(seeded.clone())), text(&ask(seeded.clone())));

    let several = ask(json!({"seed": 7, "max_tokens": 12, "temperature": 1.0, "n": 3}));
    let choices = several["choices"].as_array().expect("choices are a list");
    assert_eq!(choices.len(), 3);
    assert_eq!(choices[0]["message"]["content"], text(&ask(seeded)));

    let logprobs = ask(json!({"max_tokens": 3, "logprobs": true, "top_logprobs": 2}));
    let tokens = logprobs["choices"][0]["logprobs"]["content"].as_array().expect("a list");
    assert_eq!(tokens.len(), 3);
    assert_eq!(tokens[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
    assert_eq!(spelled(tokens), text(&logprobs));

    let free = ask(json!({"temperature": 0, "max_tokens": 20}));
    let stop: String = text(&free).chars().skip(4).take(3).collect();
    let stopped = ask(json!({"temperature": 0, "max_tokens": 20, "stop": stop}));
    let before = text(&free).split(&stop).next().expect("a text begins");
    assert_eq!((text(&stopped), &stopped["choices"][0]["finish_reason"]), (before, &json!("stop")));

    let parts = json!([{"type": "text", "text": "Where is "}, {"type": "text", "text": "it?"}]);
    let body = json!({"messages": [{"role": "user", "content": parts}], "temperature": 0,
                      "max_tokens": 8, "user": "u", "metadata": {"a": "b"}, "store": false});
    let whole = question("Where is it?", json!({"temperature": 0, "max_tokens": 8}));
    assert_eq!(text(&server.post(CHAT, &body).ok()), text(&server.post(CHAT, &whole).ok()));
}

#[test]
fn logprobs_are_those_of_the_text() {
    let server = served(1);
    let more =
        |stop: &str| json!({"temperature": 0, "max_tokens": 40, "logprobs": true, "stop": stop});
    let ask = |stop: &str| server.post(CHAT, &question("Where is the lift?", more(stop))).ok();
    let free = ask("no such text");
    let list = |logprobs: &Value| logprobs["content"].as_array().cloned().unwrap_or_default();
    let all = list(&free["choices"][0]["logprobs"]);
    assert_eq!(spelled(&all), text(&free));
    // Stop texts of whole tokens, so that what is before them is one of whole tokens too.
    for at in [1, all.len() / 2, all.len() - 2] {
        let stop = spelled(&all[at..at + 2]);
        let stopped = ask(&stop);
        let said = list(&stopped["choices"][0]["logprobs"]);
        let before = text(&free).split(&stop).next().expect("a text begins");
        assert_eq!((text(&stopped), &*spelled(&said)), (before, before));
        let mut body = question("Where is the lift?", more(&stop));
        body["stream"] = true.into();
        let chunks = server.stream(CHAT, &body);
        let streamed = chunks.iter().flat_map(|chunk| list(&chunk["choices"][0]["logprobs"]));
        assert_eq!(streamed.collect::<Vec<_>>(), said);
    }
}

#[test]
fn plain_text_is_continued() {
    let server = served(2);
    let path = "/v1/completions";
    let body = json!({"prompt": "The museum", "max_tokens": 6, "temperature": 0, "logprobs": 1,
                      "ignore_eos": true});
    let one = server.post(path, &body).ok();
    let said = one["choices"][0]["text"].as_str().expect("it is a text");
    assert_eq!(one["usage"]["completion_tokens"], 6);
    let logprobs = &one["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"].as_array().map(Vec::len), Some(6));
    assert_eq!(logprobs["text_offset"][0], 0);
    let both = json!({"prompt": ["The museum", "The lift"], "max_tokens": 6, "temperature": 0,
                      "ignore_eos": true});
    let both = server.post(path, &both).ok();
    assert_eq!(both["choices"][0]["text"], said);
    assert_eq!(both["choices"].as_array().map(Vec::len), Some(2));
    let body = json!({"prompt": "The museum", "max_tokens": 6, "temperature": 0, "stream": true,
                      "ignore_eos": true});
    let pieces = server.stream(path, &body);
    let pieces = pieces.iter().filter_map(|piece| piece["choices"][0]["text"].as_str());
    assert_eq!(pieces.collect::<String>(), said);
}

#[test]
fn errors_name_the_field() {
    let server = served(1);
    let cases = [
        (json!({"messages": []}), "messages"),
        (json!({"messages": "hello"}), "messages"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": "warm"}), "temperature"),
        (json!({"top_p": 2}), "top_p"),
        (json!({"n": 0}), "n"),
        (json!({"n": 1000}), "n"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"presence_penalty": 3}), "presence_penalty"),
        (json!({"top_logprobs": 3}), "top_logprobs"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias"),
        (json!({"logit_bias": {"99999999": 1}}), "logit_bias"),
        (json!({"stop": [1]}), "stop"),
        (json!({"stop": ["a".repeat(100)]}), "stop"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"stream_options": {"usage": true}}), "stream_options.usage"),
        (json!({"reasoning_effort": "heroic"}), "reasoning_effort"),
        (json!({"modalities": ["audio"]}), "modalities"),
        (json!({"web_search_options": {}}), "web_search_options"),
    ];
    for (more, param) in cases {
        let reply = server.post(CHAT, &question("Hello", more));
        assert_eq!((reply.status, &*reply.param()), (400, param), "{reply:?}");
    }
    let long = server.post(CHAT, &question(&"word ".repeat(2000), json!({})));
    assert_eq!((long.status, &*long.param()), (400, "messages"), "{long:?}");
    assert_eq!(long.json()["error"]["code"], "context_length_exceeded");
    let name = &server.post("/v1/completions", &json!({"model": "kiosk"}));
    assert_eq!((name.status, &*name.param()), (400, "prompt"));
}

/// Requests of all kinds: their path and body.
fn mixture() -> Vec<Value> {
    let questions = ["Where is the lift?", "When do you open?", "Tell me a story.", "Hi", "Why?"];
    let mut bodies = Vec::new();
    for (number, text) in questions.into_iter().cycle().take(20).enumerate() {
        let mut more = json!({"seed": number, "max_tokens": 4 + 5 * (number % 7)});
        match number % 4 {
            0 => more["temperature"] = 0.into(),
            1 => more["frequency_penalty"] = 0.5.into(),
            2 => more["logit_bias"] = json!({"42": 2.0}),
            _ => {
                more["logprobs"] = true.into();
                more["top_logprobs"] = 3.into();
            }
        }
        if number % 3 == 0 {
            more["n"] = 2.into();
        }
        let mut body = question(text, more);
        if number % 5 == 0 {
            let long = "The lift is behind the stairs. ".repeat(6);
            body["messages"] = json!([{"role": "system", "content": long},
                                      {"role": "user", "content": text}]);
        }
        bodies.push(body);
    }
    bodies
}

#[test]
fn every_answer_is_that_of_the_request_alone() {
    let server = served(4);
    let bodies = mixture();
    let choices = |body: &Value| server.post(CHAT, body).ok()["choices"].clone();
    let alone: Vec<Value> = bodies.iter().map(choices).collect();
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (server, bodies, alone) = (&server, &bodies, &alone);
            scope.spawn(move || {
                for turn in 0..bodies.len() {
                    let number = (turn * 3 + client * 5) % bodies.len();
                    match (turn + client) % 6 {
                        // One leaves in the middle of its answer.
                        0 => leave(server, &bodies[number]),
                        // One sends rubbish.
                        1 => {
                            let reply = server.send(post(CHAT, "{\"messages\": [[[", ""));
                            assert_eq!(reply.status, 400);
                        }
                        _ => {
                            let reply = loop {
                                let reply = server.post(CHAT, &bodies[number]);
                                if reply.status != 429 {
                                    break reply;
                                }
                                assert_eq!(reply.header("retry-after"), "5");
                                std::thread::sleep(Duration::from_millis(5));
                            };
                            assert_eq!(reply.ok()["choices"], alone[number], "{number}");
                        }
                    }
                }
            });
        }
    });
    is_all_free(&server);
}

/// Reads the first piece of a streamed answer and goes.
fn leave(server: &Running, body: &Value) {
    let mut body = body.clone();
    body["stream"] = true.into();
    let mut stream = server.connect();
    stream.write_all(post(CHAT, &body.to_string(), "").as_bytes()).expect("it is taken");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("it answers");
}

/// Waits until no place is taken, which those who left had.
#[track_caller]
fn is_all_free(server: &Running) {
    for _ in 0..6000 {
        let metrics = server.get("/metrics").body;
        let free = ["rill_answers_active 0\n", "rill_answers_queued 0\n"];
        if free.iter().all(|line| metrics.contains(line)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("a place was lost: {}", server.get("/metrics").body);
}

#[test]
fn who_leaves_frees_the_place() {
    let server = served(1);
    let forever = json!({"ignore_eos": true, "max_tokens": 400});
    for _ in 0..4 {
        leave(&server, &question("Tell me a long story.", forever.clone()));
    }
    // The only place is free again long before 4 × 400 tokens.
    let whole = server.post(CHAT, &question("Hi", json!({"max_tokens": 2}))).ok();
    assert_eq!(whole["usage"]["completion_tokens"], 2);
    is_all_free(&server);
}

#[test]
fn who_comes_when_all_is_full_is_told_when_to_come_again() {
    let gate = Gate::default();
    let setting = Setting { context: 2048, ..Setting::default() };
    let config = Config { limits: Limits { queue: 1, ..Limits::default() }, ..here() };
    let server = start_for(config, Supervisor::default(), setting, gate.clone());
    soon(|| (server.get("/health").status == 200).then_some(()));
    let mut body = question("Tell me a story.", json!({"ignore_eos": true, "max_tokens": 1900}));
    body["stream"] = true.into();
    let ask = || {
        let mut stream = server.connect();
        stream.write_all(post(CHAT, &body.to_string(), "").as_bytes()).expect("it is taken");
        BufReader::new(stream)
    };
    let begins = |mut stream: BufReader<TcpStream>, with: &str| {
        let mut line = String::new();
        while !line.starts_with(with) {
            line.clear();
            assert!(stream.read_line(&mut line).expect("it answers") > 0);
        }
        stream
    };
    // One at work and one that waits, both kept.
    let closed = gate.close();
    let at_work = begins(ask(), "HTTP/1.1 200");
    let waits = begins(ask(), "HTTP/1.1 200");
    let reply = server.post(CHAT, &body);
    assert_eq!((reply.status, reply.header("retry-after")), (429, "5"), "{reply:?}");
    drop(closed);
    drop((at_work, waits));
    is_all_free(&server);
}

#[test]
fn who_asks_for_an_end_gets_it_and_answers_under_way_are_given() {
    let server = served(1);
    let more = json!({"ignore_eos": true, "max_tokens": 60, "stream": true});
    let body = question("Tell me a story.", more);
    let mut stream = server.connect();
    stream.write_all(post(CHAT, &body.to_string(), "").as_bytes()).expect("it is taken");
    let mut reader = BufReader::new(stream);
    let mut said = String::new();
    while !said.contains("data: ") {
        assert!(reader.read_line(&mut said).expect("it answers") > 0, "{said}");
    }
    server.ask_to_stop();
    reader.read_to_string(&mut said).expect("it goes on answering");
    assert!(said.contains("\"finish_reason\":\"length\"") && said.contains("[DONE]"), "{said}");
    server.stop().expect("it ends well");
}
