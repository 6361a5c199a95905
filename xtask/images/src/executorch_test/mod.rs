//! `cargo xtask test --board executorch-*`: the program in the released runtime against `rill` on this
//! machine.

mod refused;
mod synthetic;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use bytesize::ByteSize;
use serde_json::Value;
use xtask::need::Need;
use xtask::workspace;

use crate::image::Inputs;
use crate::image::executorch::made::Made;
use crate::image::executorch::program as pte;
use crate::program;

/// The program that chats.
const HOST: &str = "examples/chat.cpp";
/// The program of the checks.
const CHECKS: &str = "tests/check.cpp";
/// Tokens that are compared: more than a batch, and than an attention block.
const TOKENS: u32 = 80;
/// RAM for the kiosk model in which not all experts fit.
const TIGHT_MIB: u64 = 24;
/// RAM for the large program, of 1 GiB and more.
const LARGE_MIB: u64 = 512;
/// Tokens that are computed with the large program.
const LARGE_TOKENS: u32 = 24;

/// What runs the checks of `platform/executorch/tests/check.cpp`.
struct Checker<'m> {
    made: &'m Made,
    program: PathBuf,
}

impl Checker<'_> {
    /// Runs a check; its output, however it ends.
    fn output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.made.command(&self.program)?;
        command.args(arguments).output().context("the check does not start")
    }

    /// Runs a check that must succeed, and returns what it prints.
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments)?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?}: {}: {stderr}", output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The error of the runtime when it loads a program; 0 for none.
    fn load(&self, program: &Path, options: &[String]) -> Result<u32> {
        let program = program.to_string_lossy();
        let mut arguments = vec!["load", &program];
        arguments.extend(options.iter().map(String::as_str));
        self.run(&arguments)?.trim().parse().context("no number of an error")
    }
}

/// Tests a board's program.
pub fn run(name: &str) -> Result<()> {
    let inputs = Inputs::new(name, None, Some(ByteSize::mib(TIGHT_MIB)))?;
    let files = tempfile::tempdir_in(workspace::cache("run")?)?;
    let made = Made::new(&inputs, files.path())?;
    let checker = Checker { made: &made, program: made.link(CHECKS)? };
    println!("{name}: {}", same_logits(&inputs, &checker, files.path())?.trim());
    let program = made.program();
    let path = program.to_string_lossy();
    if !inputs.board.runs_here() {
        print!("{}", checker.run(&["shapes", &path])?);
        return refused::check(&checker, &program, files.path());
    }
    reads_back(&made)?;
    let answer = chats(&made, files.path())?;
    found_by_cmake(&made, files.path(), &answer)?;
    within_budget(&checker, files.path())?;
    // What is wrong is where mistakes show: it goes through a backend that is watched.
    let watched = files.path().join("watched");
    made.link_sanitized(CHECKS, &watched)?;
    let checker = Checker { made: &made, program: watched };
    print!("{}", checker.run(&["shapes", &path])?);
    print!("{}", checker.run(&["shapes", &path, &format!("program={path}")])?);
    refused::check(&checker, &program, files.path())
}

/// The runtime gives the logits of `rill logits`, whatever reads the experts and on however many threads;
/// so does `rill logits` of the program.
fn same_logits(inputs: &Inputs, checker: &Checker<'_>, files: &Path) -> Result<String> {
    let program = checker.made.program();
    let ids = files.join("ids.txt");
    // All are tokens of the kiosk model.
    let tokens = (0..TOKENS).map(|i| (i * i * 31 + 17 * i + 1) % 1600);
    fs::write(&ids, tokens.map(|id| format!("{id}\n")).collect::<String>())?;
    let rill = program::build(&workspace::board("host")?, "rill")?;
    let logits = |model: &Path, out: &str| -> Result<PathBuf> {
        let out = files.join(out);
        let mut command = Command::new(&rill);
        command.args(["logits", "--model"]).arg(model).arg("--ids").arg(&ids);
        command.args(["--state".as_ref(), files.as_os_str(), "--out".as_ref(), out.as_os_str()]);
        workspace::output(&mut command)?;
        Ok(out)
    };
    let expected = logits(&inputs.model, "logits.npy")?;
    let of_program = logits(&program, "of-program.npy")?;
    ensure!(
        fs::read(&expected)? == fs::read(of_program)?,
        "`rill logits` gives other logits for the program than for its image"
    );
    let [path, ids, expected] =
        [&program, &ids, &expected].map(|path| path.to_string_lossy().into_owned());
    let direct = format!("program={path}");
    let mut said = String::new();
    for options in [
        &[direct.as_str()][..],
        &[&direct, "ram_mib=64", "threads=1"],
        &["loader=file", "threads=2"],
        &["loader=mmap", "ram_mib=32"],
    ] {
        let arguments = [&["logits", &path, &ids, &expected], options].concat();
        said = checker.run(&arguments)?;
    }
    Ok(said)
}

/// ExecuTorch's own reader of programs reads the tables as they were meant.
fn reads_back(made: &Made) -> Result<()> {
    let files = tempfile::tempdir()?;
    let mut flatc = Command::new(made.sdk.flatc());
    flatc.args(["--json", "--raw-binary", "--strict-json", "-o"]).arg(files.path());
    workspace::output(flatc.arg(made.sdk.schema()).arg("--").arg(made.program()))?;
    let text = fs::read_to_string(files.path().join("model.json"))?;
    let program: Value = serde_json::from_str(&text)?;
    let plans = program["execution_plan"].as_array().context("no methods")?;
    let names: Vec<_> = plans.iter().filter_map(|plan| plan["name"].as_str()).collect();
    let expected = [
        "forward",
        "get_bos_id",
        "get_eos_ids",
        "get_vocab_size",
        "get_max_seq_len",
        "get_max_context_len",
        "use_kv_cache",
        "use_sdpa_with_kv_cache",
        "enable_dynamic_shape",
    ];
    ensure!(names == expected, "flatc finds the methods {names:?}");
    let segments = program["segments"].as_array().map_or(0, Vec::len);
    let named = program["named_data"].as_array().map_or(0, Vec::len);
    ensure!(segments > 256 && named + 1 == segments, "{segments} segments, {named} named");
    Ok(())
}

/// The host gives the same answer with either library, and `rill` takes the program for a model. Returns
/// the answer.
fn chats(made: &Made, files: &Path) -> Result<String> {
    let whole = files.join("static");
    made.link_static(HOST, &whole)?;
    let [shared, whole] =
        [&made.link(HOST)?, &whole].map(|host| answer(made.command(host)?, made, files));
    let (shared, whole) = (shared?, whole?);
    ensure!(!shared.trim().is_empty() && shared == whole, "{shared:?}, but statically {whole:?}");
    println!("the host, with the shared library and the static one: {}", shared.trim());
    let rill = program::build(&workspace::board("host")?, "rill")?;
    for task in ["verify", "plan"] {
        workspace::output(Command::new(&rill).args([task, "--model"]).arg(made.program()))?;
    }
    Ok(shared)
}

/// What a host answers to a question.
fn answer(mut host: Command, made: &Made, files: &Path) -> Result<String> {
    let question = files.join("question.txt");
    fs::write(&question, "Where is the lift?\n")?;
    workspace::output(host.arg(made.program()).stdin(File::open(&question)?))
}

/// CMake builds the folder's example with its package, and the program finds its libraries by itself and
/// gives this answer, with either library.
fn found_by_cmake(made: &Made, files: &Path, expected: &str) -> Result<()> {
    let build = files.join("cmake");
    let mut configure = Command::new(Need::CMAKE_PROGRAM);
    configure.arg("-S").arg(made.folder().join("examples")).arg("-B").arg(&build);
    configure.arg(format!("-DCMAKE_PREFIX_PATH={}", made.sdk.folder().display()));
    workspace::output(&mut configure)?;
    workspace::output(Command::new(Need::CMAKE_PROGRAM).arg("--build").arg(&build))?;
    for host in ["chat", "chat-static"] {
        let said = answer(Command::new(build.join(host)), made, files)?;
        ensure!(said == expected, "{host}, built by CMake, says {said:?}, not {expected:?}");
    }
    println!("the host, built with the CMake package: the same");
    Ok(())
}

/// A program of more than 1 GiB of bytes that are there runs in half of it, whatever reads it.
fn within_budget(checker: &Checker<'_>, files: &Path) -> Result<()> {
    let image = files.join("large.rill");
    let program = files.join("large.pte");
    let bytes = synthetic::write(&image)?;
    ensure!(bytes >= 1 << 30, "the large model has {bytes} bytes");
    let mut content = pte::open(&image, LARGE_MIB << 20)?.content;
    io::copy(&mut content, &mut File::create(&program)?)?;
    fs::remove_file(image)?;
    let path = program.to_string_lossy();
    let direct = format!("program={path}");
    for reader in [direct.as_str(), "loader=file"] {
        let said = checker.run(&["speed", &path, &LARGE_TOKENS.to_string(), reader])?;
        let found: Value = serde_json::from_str(&said)?;
        let peak = found["peak_resident"].as_u64().context("no peak")?;
        let how = if reader == direct { "from the file" } else { "through the loader" };
        println!("{bytes} bytes in {LARGE_MIB} MiB, {how}: {}", said.trim());
        ensure!(
            peak <= LARGE_MIB << 20,
            "the process had {peak} bytes in RAM, and {LARGE_MIB} MiB were allowed"
        );
    }
    Ok(())
}
