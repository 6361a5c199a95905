//! The server in the words of Ollama's and llama.cpp's clients, and decisions.

use std::net::SocketAddr;

use rill_serve::{Config, Listen};
use rill_tests::kiosk;
use rill_tests::rig::{Rig, Setting};
use rill_tests::server::{Reply, Running, start, start_image};
use serde_json::{Value, json};

fn served() -> Running {
    let config = Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))));
    start(config, Setting { conversations: 2, ..Setting::default() })
}

/// The lines of a streamed answer.
#[track_caller]
fn lines(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.body.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

#[test]
fn ollamas_clients_find_the_model() {
    let server = served();
    assert!(server.get("/api/version").ok()["version"].is_string());
    for path in ["/api/tags", "/api/ps"] {
        let models = server.get(path).ok();
        assert_eq!(models["models"][0]["name"], "kiosk", "{path}");
        assert!(models["models"][0]["size"].as_u64().is_some_and(|size| size > 0), "{path}");
    }
    let shown = server.post("/api/show", &json!({"model": "kiosk"})).ok();
    assert_eq!(shown["capabilities"][0], "completion");
    assert_eq!(shown["model_info"]["lfm2.context_length"], 512);
    assert_eq!(server.post("/api/show", &json!({"name": "kiosk:latest"})).ok(), shown);
    for (body, status) in [(json!({}), 400), (json!({"model": "llama3:8b"}), 404)] {
        let wrong = server.post("/api/show", &body);
        assert!(wrong.status == status && wrong.body.contains("model"), "{wrong:?}");
    }
    let wrong = server.post("/api/show", &json!({"model": "kiosk", "shout": 1}));
    assert!(wrong.status == 400 && wrong.json()["error"].is_string(), "{wrong:?}");
}

#[test]
fn ollamas_answers_are_openais() {
    let server = served();
    let messages = json!([{"role": "user", "content": "Where is the lift?"}]);
    let body = json!({"model": "kiosk", "messages": messages, "temperature": 0, "max_tokens": 20});
    let openai = server.post("/v1/chat/completions", &body).ok();
    let said = &openai["choices"][0]["message"]["content"];

    let options = json!({"temperature": 0, "num_predict": 20, "num_ctx": 8192});
    let mut body = json!({"model": "kiosk", "messages": messages, "options": options,
                          "stream": false, "keep_alive": "5m"});
    let whole = server.post("/api/chat", &body).ok();
    assert_eq!((&whole["message"]["content"], &whole["done"]), (said, &json!(true)));
    assert_eq!(whole["eval_count"], openai["usage"]["completion_tokens"]);
    assert_eq!(whole["prompt_eval_count"], openai["usage"]["prompt_tokens"]);

    // Streaming is what happens when nothing is said about it.
    body.as_object_mut().expect("it is an object").remove("stream");
    let pieces = lines(&server.post("/api/chat", &body));
    let text = pieces.iter().filter_map(|piece| piece["message"]["content"].as_str());
    assert_eq!(text.collect::<String>(), said.as_str().expect("it is a text"));
    let (last, rest) = pieces.split_last().expect("there are pieces");
    assert!(last["done"] == true && rest.iter().all(|piece| piece["done"] == false));

    let body = json!({"prompt": "Where is the lift?", "options": options, "stream": false});
    assert_eq!(&server.post("/api/generate", &body).ok()["response"], said);
    let empty = server.post("/api/generate", &json!({"model": "kiosk"})).ok();
    assert_eq!(empty["done_reason"], "load");
    for time in [json!(0), json!("0s")] {
        let empty =
            server.post("/api/generate", &json!({"model": "kiosk", "keep_alive": time})).ok();
        assert_eq!(empty["done_reason"], "unload");
    }
    let wrong = json!({"messages": messages, "options": {"temperature": "hot"}});
    let wrong = server.post("/api/chat", &wrong);
    assert!(wrong.status == 400 && wrong.body.contains("options.temperature"), "{wrong:?}");
}

#[test]
fn llamas_clients_are_answered() {
    let server = served();
    let props = server.get("/props").ok();
    assert_eq!((&props["total_slots"], &props["model_alias"]), (&json!(2), &json!("kiosk")));
    assert_eq!(server.get("/slots").ok().as_array().map(Vec::len), Some(2));

    let text = "The lift is behind the stairs. ✓";
    let tokens = server.post("/tokenize", &json!({"content": text})).ok();
    let back = server.post("/detokenize", &json!({"tokens": tokens["tokens"]})).ok();
    assert_eq!(back["content"], text);
    let named = server.post("/tokenize", &json!({"content": "lift", "with_pieces": true})).ok();
    assert!(named["tokens"][0]["piece"].is_string(), "{named}");
    let wrong = server.post("/detokenize", &json!({"tokens": [1, 99_999_999]}));
    assert_eq!((wrong.status, &*wrong.param()), (400, "tokens"));

    let body = json!({"prompt": "The museum", "n_predict": 6, "temperature": 0, "ignore_eos": true,
                      "n_probs": 2});
    let whole = server.post("/completion", &body).ok();
    assert_eq!((&whole["tokens_predicted"], &whole["stop_type"]), (&json!(6), &json!("limit")));
    assert_eq!(whole["completion_probabilities"].as_array().map(Vec::len), Some(6));
    let mut body = body;
    body["stream"] = true.into();
    let reply = server.post("/completion", &body);
    let pieces = reply.body.split("\n\n").filter_map(|line| line.strip_prefix("data: "));
    let pieces: Vec<Value> = pieces.map(|piece| serde_json::from_str(piece).unwrap()).collect();
    let said: String = pieces.iter().filter_map(|piece| piece["content"].as_str()).collect();
    assert_eq!(said, whole["content"].as_str().expect("it is a text"));
    assert_eq!(pieces.last().expect("there are pieces")["stop"], true);
    let none = server.post("/completion", &json!({"prompt": "The museum", "n_predict": 0})).ok();
    assert_eq!((&none["content"], &none["tokens_predicted"]), (&json!(""), &json!(0)));

    let body = json!({"prompt": "The museum", "n_predict": 6, "temperature": 0, "return_tokens": true,
                      "ignore_eos": true, "repeat_last_n": 64});
    let whole = server.post("/completion", &body).ok();
    assert_eq!(whole["completion_probabilities"], Value::Null);
    let back = server.post("/detokenize", &json!({"tokens": whole["tokens"]})).ok();
    assert_eq!(back["content"], whole["content"]);
    for (more, param) in [
        (json!({"samplers": ["top_k"]}), "samplers"),
        (json!({"repeat_last_n": 3}), "repeat_last_n"),
        (json!({"post_sampling_probs": true}), "post_sampling_probs"),
        (json!({"grammar": "root ::= \"x\"", "json_schema": {}}), "json_schema"),
    ] {
        let mut body = json!({"prompt": "x"});
        body.as_object_mut().expect("it is an object").extend(more.as_object().cloned().unwrap());
        let reply = server.post("/completion", &body);
        assert_eq!((reply.status, &*reply.param()), (400, param), "{reply:?}");
    }
}

/// The logarithm of the probability of each of `choices` after `prompt`, as the definition says.
fn logprobs(prompt: &str, choices: &[&str]) -> Vec<f64> {
    let mut rig: Rig = Rig::new(kiosk::default_image(), Setting::default()).expect("it loads");
    rig.session.append_text(prompt).expect("there is room");
    let prompt = rig.session.tokens().to_vec();
    let mut weigh = |choice: &&str| {
        let (mut scratch, mut ids) = (vec![0; 4096], vec![0; 64]);
        let tokenizer = rig.session.tokenizer();
        let count = tokenizer.encode(choice, false, &mut scratch, &mut ids).expect("there is room");
        let all = [&prompt[..], &ids[..count]].concat();
        let rows = rig.logits(&all).expect("it computes");
        let logprob = |at: usize| {
            let row = &rows[prompt.len() + at - 1];
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            f64::from(row[ids[at] as usize]) - sum.ln()
        };
        (0..count).map(logprob).sum()
    };
    choices.iter().map(&mut weigh).collect()
}

#[test]
fn decisions_are_the_choices_probabilities() {
    let server = served();
    let prompt = "Where is the lift? It is on the";
    let choices = [" left", " ground floor behind the stairs", " right", " xylophone quartz"];
    let body = json!({"prompt": prompt, "choices": choices});
    let decision = server.post("/v1/decide", &body).ok();
    let expected = logprobs(prompt, &choices);
    let mut shares = 0.0;
    for (choice, expected) in decision["choices"].as_array().expect("a list").iter().zip(&expected)
    {
        let logprob = choice["logprob"].as_f64().expect("a number");
        assert!((logprob - expected).abs() < 1e-3, "{choice} is not {expected}");
        shares += choice["share"].as_f64().expect("a number");
    }
    assert!((shares - 1.0).abs() < 1e-6);
    // The same where a choice takes several batches, is a known beginning, and beside others.
    let (conversations, prefixes) = (3, 8);
    let setting = Setting { conversations, prefixes, context: 512, batch: 5, ..Setting::default() };
    let narrow = start(Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))), setting);
    let said = json!({"prompt": format!("{prompt}{}", choices[1]), "max_tokens": 1});
    narrow.post("/v1/completions", &said).ok();
    std::thread::scope(|scope| {
        let ask = || narrow.post("/v1/decide", &body).ok();
        for thread in [(); 3].map(|()| scope.spawn(ask)) {
            assert_eq!(thread.join().expect("no panic")["choices"], decision["choices"]);
        }
    });
    let best = (0..4).max_by(|&a, &b| expected[a].total_cmp(&expected[b])).expect("there are four");
    assert_eq!(decision["choice"], choices[best]);

    for (body, param) in [
        (json!({"prompt": "x", "choices": ["a"]}), "choices"),
        (json!({"prompt": "x", "choices": ["a", ""]}), "choices"),
        (json!({"choices": ["a", "b"]}), "messages"),
        (json!({"prompt": "x", "choices": ["a", "b ".repeat(900)]}), "choices"),
    ] {
        let reply = server.post("/v1/decide", &body);
        assert_eq!((reply.status, &*reply.param()), (400, param), "{reply:?}");
    }
}

/// A server of a model whose template opens its thinking.
fn thinking() -> Running {
    let template = "{{- bos_token -}}
{%- for turn in messages -%}{{- '<|im_start|>' ~ turn.role ~ '\n' ~ turn.content ~ '<|im_end|>\n' -}}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n<think>\n' -}}{%- endif -%}
{#- </think> ends it. -#}";
    let config = Config::new(Listen::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))));
    start_image(config, Setting::default(), kiosk::with_template(template))
}

#[test]
fn thinking_has_no_logprobs() {
    let server = thinking();
    let messages = json!([{"role": "user", "content": "Where is the lift?"}]);
    let mut body = json!({"messages": messages, "temperature": 0, "max_tokens": 12, "ignore_eos": true,
                          "logprobs": true});
    let whole = &server.post("/v1/chat/completions", &body).ok()["choices"][0];
    assert_ne!(whole["message"]["reasoning_content"], Value::Null, "{whole}");
    assert_eq!((&whole["message"]["content"], &whole["logprobs"]), (&json!(""), &Value::Null));
    body["stream"] = true.into();
    for chunk in server.stream("/v1/chat/completions", &body) {
        assert_eq!(chunk["choices"][0]["logprobs"], Value::Null, "{chunk}");
    }
    body["reasoning_effort"] = "none".into();
    body["stream"] = false.into();
    let whole = &server.post("/v1/chat/completions", &body).ok()["choices"][0];
    assert_eq!(whole["message"]["reasoning_content"], Value::Null, "{whole}");
    assert!(whole["logprobs"]["content"].as_array().is_some_and(|all| !all.is_empty()), "{whole}");
}

#[test]
fn a_model_that_thinks_decides_by_what_it_answers() {
    let server = thinking();
    let choices = ["It is on the left.", "It is on the right."];
    let messages = json!([{"role": "user", "content": "Where is the lift?"}]);
    let prompt = "<|im_start|>user\nWhere is the lift?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
    let decide = |body: Value| server.post("/v1/decide", &body).ok();
    let asked = decide(json!({"messages": messages, "choices": choices}));
    let plain = decide(json!({"prompt": prompt, "choices": choices}));
    for at in 0..choices.len() {
        let [asked, plain] =
            [&asked, &plain].map(|said| said["choices"][at]["logprob"].as_f64().expect("a number"));
        assert!((asked - plain).abs() < 0.05, "{asked} is not {plain}");
    }
}
