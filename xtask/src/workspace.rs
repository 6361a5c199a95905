//! This repository and the commands of its Rust installation.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rill_board::Board;

/// The repository's folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// The board of this name.
pub fn board(name: &str) -> Result<Board> {
    Ok(rill_board::find(&root().join("boards"), name)?)
}

/// All boards.
pub fn boards() -> Result<Vec<Board>> {
    Ok(rill_board::all(&root().join("boards"))?)
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    root().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into()))
}

/// A folder for what xtask makes and can make again.
pub fn cache(name: &str) -> Result<PathBuf> {
    let folder = target_dir().join("xtask").join(name);
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    Ok(folder)
}

/// Waits until no other task makes something in a folder; none does while what this gives lives.
pub fn alone_in(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
    lock.with_context(|| path.display().to_string())
}

/// Package of what decodes logs, which is no part of the workspace.
pub const LOG_DECODER: &str = "xtask/log/Cargo.toml";

/// Arguments of cargo: a task with that package, and where it is built.
pub fn log_decoder(task: &str) -> [String; 5] {
    let target = target_dir().join("log").display().to_string();
    [task, "--manifest-path", LOG_DECODER, "--target-dir", &target].map(str::to_owned)
}

/// A cargo command in the repository, free of flags meant for another build.
pub fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root());
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    command
}

/// Runs a command to its end and returns what it writes to standard output; an error holds what it
/// writes to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}: {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command to its end, its output shown.
pub fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("cannot start {program}"))?;
    ensure!(status.success(), "{program}: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::thread;

    use super::*;

    #[test]
    fn only_one_at_a_time_makes_something_in_a_folder() {
        let folder = std::env::temp_dir().join(format!("rill-alone-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let count = folder.join("count");
        fs::write(&count, "0").unwrap();
        // Who reads while another writes counts one too few.
        let add = || {
            let _alone = alone_in(&folder).unwrap();
            let number: u32 = fs::read_to_string(&count).unwrap().parse().unwrap();
            thread::yield_now();
            fs::write(&count, (number + 1).to_string()).unwrap();
        };
        thread::scope(|scope| {
            (0..8).for_each(|_| _ = scope.spawn(|| (0..100).for_each(|_| add())));
        });
        assert_eq!(fs::read_to_string(&count).unwrap(), "800");
        fs::remove_dir_all(&folder).unwrap();
    }
}
