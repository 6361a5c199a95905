//! The `rill` program, run as its users run it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Where the program is: what `RILL_PROGRAM` names, to test a build as it is shipped. Otherwise the
/// first call of a process builds it: cargo builds no program of another package for a test.
pub fn path() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(program) = std::env::var_os("RILL_PROGRAM") {
            return program.into();
        }
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "rill-linux", "--bin", "rill"])
            .args(["--profile", "test", "--message-format", "json"])
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(built.status.success(), "the program builds");
        String::from_utf8_lossy(&built.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
            .expect("cargo says where the program is")
    })
}

/// What a run of the program brought.
#[derive(Debug)]
pub struct Run {
    /// Exit status; `None` after a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs the program with nothing on standard input.
pub fn rill(args: &[&str]) -> Run {
    rill_with_input(args, "")
}

/// Runs the program with a text on standard input.
pub fn rill_with_input(args: &[&str], input: &str) -> Run {
    let mut child = Command::new(path())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A program that fails early closes its input.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it can be waited for");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    Run { status: status.code(), out: text(stdout), err: text(stderr) }
}

impl Run {
    /// The run was successful; its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.out
    }

    /// The run was successful and printed JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).expect("it is JSON")
    }

    /// The run failed with this status and a message that holds all of `parts`.
    #[track_caller]
    pub fn fails(self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no `{part}` in {self:?}");
        }
    }
}
