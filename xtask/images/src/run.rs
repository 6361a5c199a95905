//! `cargo xtask run`: a board's program, here under an emulator or there over ssh.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use bytesize::ByteSize;
use rill_board::{Emulator, Platform};

use crate::chat::{Machine, Wire};
use crate::image::executorch::made::Made;
use crate::image::{self, Inputs};
use crate::{log, program, qemu};
use xtask::workspace;

/// Run a model on a board: emulated here, or on a real one over ssh.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Board to run: a file of `boards/`, without its extension
    #[arg(long, value_name = "NAME")]
    board: String,
    /// Packed model [default: the small kiosk model of this repository]
    #[arg(long, value_name = "MODEL.rill")]
    model: Option<PathBuf>,
    /// RAM that the program may use [default: as the board's file says]
    #[arg(long, value_name = "SIZE")]
    ram: Option<ByteSize>,
    /// Cores of the emulated machine, where one can choose
    #[arg(long, value_name = "N", conflicts_with = "host")]
    cores: Option<u32>,
    /// Boot the board's appliance in QEMU's virtual machine
    #[arg(long, conflicts_with_all = ["host", "cores"])]
    appliance: bool,
    /// Show the log afterwards, on standard error, where there is no operating system
    #[arg(long, conflicts_with_all = ["host", "appliance"])]
    log: bool,
    /// Run there, on a real board with Linux, instead of here: what `ssh` takes as destination
    #[arg(long, value_name = "USER@BOARD")]
    host: Option<String>,
    /// More options of `rill chat`
    #[arg(last = true, value_name = "OPTION")]
    options: Vec<String>,
}

/// Runs a board's program until it ends.
pub fn run(args: &Args) -> Result<()> {
    let mut inputs = Inputs::new(&args.board, args.model.as_deref(), args.ram)?;
    inputs.settings = settings(&args.options)?;
    if args.log {
        return run_and_show_log(&inputs, args.cores);
    }
    let mut machine = match &args.host {
        Some(host) => over_ssh(&inputs, host)?,
        None => machine(
            &inputs,
            &Emulation { cores: args.cores, appliance: args.appliance, ..Emulation::default() },
        )?,
    };
    workspace::run(&mut machine.command)
}

/// Runs a kernel until it ends, then shows its log, also when it did not end well.
fn run_and_show_log(inputs: &Inputs, cores: Option<u32>) -> Result<()> {
    let board = &inputs.board;
    ensure!(board.platform == Platform::Bare, "{}: `rill` on Linux keeps no log", board.name);
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let frames = files.path().join("log");
    let emulation = Emulation { cores, log: Some(frames.clone()), ..Emulation::default() };
    let mut machine = machine(inputs, &emulation)?;
    let ended = workspace::run(&mut machine.command);
    log::show(board, &frames)?;
    ended
}

/// How a board is emulated.
#[derive(Debug, Clone, Default)]
pub struct Emulation {
    /// Cores, where one can choose.
    pub cores: Option<u32>,
    /// Whether a board with Linux boots its appliance.
    pub appliance: bool,
    /// More arguments of the emulator.
    pub arguments: Vec<String>,
    /// File for the log of a board without an operating system, for whoever wants to decode it.
    pub log: Option<PathBuf>,
}

/// The machine that runs a board here.
pub fn machine(inputs: &Inputs, emulation: &Emulation) -> Result<Machine> {
    match inputs.board.platform {
        Platform::Linux if emulation.appliance => appliance(inputs),
        Platform::Linux => program(inputs, emulation),
        Platform::Bare => kernel(inputs, emulation),
        Platform::Executorch => executorch(inputs, emulation),
    }
}

/// `rill chat`, on this machine or under an emulator of the board's CPU.
fn program(inputs: &Inputs, emulation: &Emulation) -> Result<Machine> {
    let board = &inputs.board;
    let program = program::build(board, "rill")?;
    let mut command = match &board.emulator {
        None => Command::new(program),
        Some(Emulator::User) => {
            let mut command = qemu::user(board)?;
            command.args(&emulation.arguments).arg(program);
            command
        }
        Some(Emulator::System { .. }) => bail!("{}: boot its appliance instead", board.name),
    };
    command.args(["chat", "--model"]).arg(&inputs.model).args(chat_options(inputs));
    Ok(Machine { command, wire: Wire::Program, files: None })
}

/// The host of `platform/executorch` with the board's program and ExecuTorch's runtime.
fn executorch(inputs: &Inputs, emulation: &Emulation) -> Result<Machine> {
    let is_plain = emulation.cores.is_none() && !emulation.appliance && inputs.settings.is_empty();
    ensure!(is_plain, "{}: its host knows no options but --model and --ram", inputs.board.name);
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let made = Made::new(inputs, files.path())?;
    let host = made.link("examples/chat.cpp")?;
    let mut command = made.command(&host)?;
    command.arg(made.program()).arg((inputs.ram >> 20).to_string());
    Ok(Machine { command, wire: Wire::Program, files: Some(files) })
}

/// A kernel and its card, in the machine that the board's file names.
fn kernel(inputs: &Inputs, emulation: &Emulation) -> Result<Machine> {
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let made = image::make(inputs, files.path())?;
    let [kernel, disk] = &made[..] else { bail!("an image is a kernel and a disk") };
    let log = emulation.log.clone().unwrap_or_else(|| files.path().join("log"));
    let boot = qemu::Boot { kernel, disk: Some(disk), log: &log, cores: emulation.cores };
    let mut command = qemu::machine(&inputs.board, &boot)?;
    command.args(&emulation.arguments);
    Ok(Machine { command, wire: Wire::Console, files: Some(files) })
}

/// An appliance, in QEMU's virtual machine.
fn appliance(inputs: &Inputs) -> Result<Machine> {
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let made = image::appliance::make(inputs, None, files.path())?;
    let command = qemu::appliance(&inputs.board, &made)?;
    Ok(Machine { command, wire: Wire::Console, files: Some(files) })
}

/// RAM and settings as options of `rill chat`.
fn chat_options(inputs: &Inputs) -> Vec<String> {
    let mut options = vec!["--ram".to_owned(), inputs.ram.to_string()];
    for (name, value) in &inputs.settings {
        options.push(format!("--{name}"));
        options.extend(value.clone());
    }
    options
}

/// Reads `--name value` and `--name` as settings.
fn settings(options: &[String]) -> Result<Vec<(String, Option<String>)>> {
    let mut settings: Vec<(String, Option<String>)> = Vec::new();
    for word in options {
        match (word.strip_prefix("--"), settings.last_mut()) {
            (Some(name), _) => match name.split_once('=') {
                Some((name, value)) => settings.push((name.to_owned(), Some(value.to_owned()))),
                None => settings.push((name.to_owned(), None)),
            },
            (None, Some((_, value @ None))) => *value = Some(word.clone()),
            (None, _) => bail!("`{word}`: write options of `rill chat` as --name value"),
        }
    }
    Ok(settings)
}

/// Copies a bundle to a board and runs its program there, without installing it.
pub fn over_ssh(inputs: &Inputs, host: &str) -> Result<Machine> {
    let output = workspace::cache("ssh")?;
    let made = image::make(inputs, &output)?;
    let archive = made.iter().find(|path| path.extension().is_some_and(|end| end == "zst"));
    let archive =
        archive.with_context(|| format!("{} is no board with Linux", inputs.board.name))?;
    let name = format!("rill-{}", inputs.board.name);
    send(archive, host)?;
    let options: Vec<_> = chat_options(inputs).iter().map(|option| quote(option)).collect();
    let options = options.join(" ");
    let line = format!("cd {name} && exec ./bin/rill chat --model model.rill {options}");
    let mut command = Command::new("ssh");
    command.args(["-t", host, &line]);
    Ok(Machine { command, wire: Wire::Program, files: None })
}

/// Unpacks an archive in the home folder of a board, which needs `tar` only.
fn send(archive: &Path, host: &str) -> Result<()> {
    let file = std::fs::File::open(archive).with_context(|| archive.display().to_string())?;
    let mut plain = zstd::Decoder::new(file)?;
    let mut ssh = Command::new("ssh")
        .args([host, "tar -x -f -"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .context("cannot start ssh")?;
    let mut stdin = ssh.stdin.take().context("input is piped")?;
    let copied = std::io::copy(&mut plain, &mut stdin);
    drop(stdin);
    let status = ssh.wait()?;
    if !status.success() {
        bail!("ssh {host}: {status}");
    }
    copied.with_context(|| format!("cannot copy to {host}"))?;
    Ok(())
}

/// A word as a shell reads it.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_become_settings() {
        let words = |text: &str| text.split(' ').map(String::from).collect::<Vec<_>>();
        let settings = settings(&words("--seed 7 --greedy --temp=-1 --stop x")).unwrap();
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(String::from));
        let expected = [
            pair("seed", Some("7")),
            pair("greedy", None),
            pair("temp", Some("-1")),
            pair("stop", Some("x")),
        ];
        assert_eq!(settings, expected);
        assert!(super::settings(&words("seed 7")).is_err());
        assert!(super::settings(&words("--seed 7 8")).is_err());
    }

    #[test]
    fn a_shell_reads_back_what_is_quoted() {
        let word = "it's $HOME; `x` \\";
        let line = format!("printf %s {}", quote(word));
        let text = workspace::output(Command::new("sh").args(["-c", &line])).unwrap();
        assert_eq!(text, word);
    }
}
