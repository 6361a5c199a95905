//! `cargo xtask test --board NAME --power-cut`: an appliance whose power goes while it writes.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use serde_json::json;

use crate::chat::{Machine, TURNS, Talk, Wire, script};
use crate::image::{Inputs, appliance};
use crate::monitor::{Monitor, Socket};
use crate::qemu;
use crate::qemu::CARD;
use xtask::workspace;

const RAM: ByteSize = ByteSize::mib(32);
const TOKENS: u64 = 16;
/// Where a conversation is kept: in the program's own folder.
const KEPT: &str = "talk";
/// Bytes a second that the disk takes when it is to be caught writing.
const SLOW: u64 = 8 << 10;
/// Bytes of an unfinished file that are on the disk when the power goes: the file is larger.
const WRITTEN: u64 = 48 << 10;
/// Longest wait for them.
const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at what is written.
const LOOK: Duration = Duration::from_millis(50);

/// Keeps a conversation, cuts the power while another takes its place, and goes on with what is
/// found after the next start.
pub fn run(name: &str) -> Result<()> {
    let mut inputs = Inputs::new(name, None, Some(RAM))?;
    // Greedy: one question has one answer, whenever it is asked.
    inputs.set(&[("temp", 0), ("max-tokens", TOKENS)]);
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let made = appliance::make(&inputs, None, files.path())?;
    let machine = |arguments: &[String]| -> Result<Machine> {
        let mut command = qemu::appliance(&inputs.board, &made)?;
        command.args(arguments);
        Ok(Machine { command, wire: Wire::Console, files: None })
    };

    let socket = Socket::new()?;
    let [first, second] = script(machine(&socket.arguments())?, |talk| {
        talk.prompt()?;
        let first = talk.ask(TURNS[0])?;
        does(talk, "/save", "kept in")?;
        let second = talk.ask(TURNS[1])?;
        cut_while_saving(talk, &mut socket.connect()?)?;
        Ok([first, second])
    })
    .context("before the power cut")?;
    script(machine(&[])?, |talk| {
        talk.prompt()?;
        let answer = talk.ask(TURNS[0])?;
        ensure!(answer == first, "it answers {answer:?} instead of {first:?}");
        does(talk, "/load", "going on with")?;
        let answer = talk.ask(TURNS[1])?;
        ensure!(answer == second, "it goes on with {answer:?} instead of {second:?}");
        talk.quit()
    })
    .context("after the power cut")?;
    println!("{name}: what was kept before a power cut is there after it");
    Ok(())
}

/// A command with the conversation's file, which says what it `did`.
fn does(talk: &mut Talk, command: &str, did: &str) -> Result<()> {
    let said = talk.ask(&format!("{command} {KEPT}"))?;
    ensure!(said.trim() == format!("{did} {KEPT}"), "{command}: {said}");
    Ok(())
}

/// Cuts the power once a part of the conversation's file is on the disk.
fn cut_while_saving(talk: &mut Talk, monitor: &mut Monitor) -> Result<()> {
    monitor.throttle(CARD, json!({ "bps_wr": SLOW }))?;
    let goal = written(monitor)? + WRITTEN;
    talk.enter(&format!("/save {KEPT}"))?;
    let start = Instant::now();
    while written(monitor)? < goal {
        ensure!(start.elapsed() < PATIENCE, "nothing is written");
        sleep(LOOK);
    }
    talk.cut()
}

/// Bytes that the machine has written to its disk.
fn written(monitor: &mut Monitor) -> Result<u64> {
    let devices = monitor.execute("query-blockstats", json!({}))?;
    let mut devices = devices.as_array().into_iter().flatten();
    let disk = devices.find(|device| device["device"] == CARD).map(|disk| &disk["stats"]);
    match disk.and_then(|stats| stats["wr_bytes"].as_u64()) {
        Some(bytes) => Ok(bytes),
        None => bail!("QEMU counts no bytes of {CARD}"),
    }
}
