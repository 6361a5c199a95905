//! `cargo xtask test --board NAME --oci`: what a board's OCI image holds, run as a container.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use xtask::{need, needs, workspace};

use crate::chat::{Machine, TURNS, Wire, script};
use crate::container::{Image, Volume};
use crate::image::{self, oci};
use crate::program;

/// Greedy and short: one question has one answer.
const TOKENS: u64 = 16;
/// Longest silence of a server that has started.
const PATIENCE: Duration = Duration::from_secs(300);

/// Asks the server in a container, as its image starts it, and compares its answer with that of
/// `rill run`; then it is to end well.
pub fn run(name: &str) -> Result<()> {
    let board = workspace::board(name)?;
    let needs = needs::container(&board);
    need::require(&needs.with_context(|| format!("{name}: its programs do not run here"))?)?;
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let image = Image::read(&oci::make(&board, files.path())?)?;
    let root = files.path().join("root");
    image.unpack(&root)?;

    let built = program::build(&board, "rill")?;
    let volumes = [("models", "ro"), ("keys", "ro"), ("state", "rw")];
    let volumes = volumes.map(|(at, access)| Volume { at, from: files.path().join(at), access });
    for volume in &volumes {
        fs::create_dir(&volume.from)?;
    }
    let model = files.path().join("models/model.rill");
    fs::copy(image::kiosk()?, &model)?;
    let mut key = Command::new(&built);
    key.arg("key").arg(files.path().join("keys/keys.txt")).arg("test");
    let key = workspace::output(&mut key)?;

    ensure!(image.config["config"]["StopSignal"] == "SIGTERM", "it is stopped in another way");
    let arguments = at_a_free_port(image.words("Cmd"))?;
    let command = image.command(&root, &volumes, &arguments)?;
    let machine = Machine { command, wire: Wire::Program, files: None };
    let answer = script(machine, |talk| {
        let said = talk.hear(&["listening at http://", "\nready\n"])?;
        let process = said.lines().next().and_then(|line| Pid::from_raw(line.parse().ok()?));
        let process = process.context("it does not say which process it is")?;
        let answer = ask(&said, key.trim_end())?;
        kill_process(process, Signal::TERM)?;
        talk.end()?;
        Ok(answer)
    })?;

    let learned = fs::read_dir(files.path().join("state"))?.next();
    ensure!(learned.is_some(), "what it learned of its model is not on its volume");

    let mut alone = Command::new(&built);
    alone.args(["run", "--temp", "0", "--max-tokens", &TOKENS.to_string(), "--model"]).arg(&model);
    let alone = workspace::output(alone.arg(TURNS[0]))?;
    ensure!(answer == alone.trim_end(), "the container answers {answer:?}, `rill run` {alone:?}");
    println!("{name}: its container answers as `rill run` does, {answer:?}, and ends well");
    Ok(())
}

/// The words that the image starts its program with, at any free port of this machine alone.
fn at_a_free_port(mut words: Vec<String>) -> Result<Vec<String>> {
    let option = words.iter().position(|word| word == "--listen");
    let address = option.and_then(|option| words.get_mut(option + 1));
    *address.context("the image does not say where it listens")? = "127.0.0.1:0".to_owned();
    Ok(words)
}

/// What a server that said where it listens answers to the first question.
fn ask(said: &str, key: &str) -> Result<String> {
    let address = said.split_once("listening at http://").context("it does not listen")?.1;
    let address = address.lines().next().unwrap_or_default();
    let (status, health) = exchange(address, "GET /health", "", "")?;
    ensure!(status == 200, "/health: {status}: {health}");
    let question = json!({
        "messages": [{ "role": "user", "content": TURNS[0] }],
        "temperature": 0,
        "max_tokens": TOKENS,
    });
    let (asks, question) = ("POST /v1/chat/completions", question.to_string());
    let (status, refusal) = exchange(address, asks, "", &question)?;
    ensure!(status == 401, "without a key: {status}: {refusal}");
    let key = format!("Authorization: Bearer {key}\r\n");
    let (status, answer) = exchange(address, asks, &key, &question)?;
    ensure!(status == 200, "{status}: {answer}");
    let answer: Value = serde_json::from_str(&answer)?;
    let text = answer["choices"][0]["message"]["content"].as_str();
    Ok(text.with_context(|| format!("no answer in {answer}"))?.to_owned())
}

/// Status and body of what a server answers.
fn exchange(address: &str, asks: &str, headers: &str, body: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).with_context(|| address.to_owned())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let len = body.len();
    write!(
        stream,
        "{asks} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{headers}\
         Content-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head in the answer")?;
    let status = head.split(' ').nth(1).context("no status in the answer")?;
    Ok((status.parse()?, body.to_owned()))
}
