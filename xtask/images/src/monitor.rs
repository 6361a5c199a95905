//! QEMU's monitor: what happens to an emulated machine while it runs.
//!
//! The protocol is QMP (<https://www.qemu.org/docs/master/interop/qmp-spec.html>): one JSON object
//! a line in each direction.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// QEMU answers at once; a hang is to end at some time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where QEMU waits for commands. Paths of sockets are short, so it is a folder of its own.
pub struct Socket {
    folder: tempfile::TempDir,
}

impl Socket {
    /// A place for it.
    pub fn new() -> Result<Self> {
        Ok(Self { folder: tempfile::tempdir()? })
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("monitor")
    }

    /// The arguments that make QEMU wait there.
    pub fn arguments(&self) -> [String; 2] {
        let path = self.path().display().to_string().replace(',', ",,");
        ["-qmp".to_owned(), format!("unix:{path},server=on,wait=off")]
    }

    /// Connects with a machine that has started.
    pub fn connect(&self) -> Result<Monitor> {
        let path = self.path();
        let stream = UnixStream::connect(&path).with_context(|| path.display().to_string())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut monitor = Monitor { stream: BufReader::new(stream) };
        let greeting = monitor.message()?;
        ensure!(greeting.get("QMP").is_some(), "QEMU's monitor begins with {greeting}");
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }
}

/// A connection with QEMU's monitor.
pub struct Monitor {
    stream: BufReader<UnixStream>,
}

impl Monitor {
    /// Does what a command says and returns its answer.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{line}")?;
        loop {
            let mut message = self.message()?;
            if let Some(error) = message.get("error") {
                bail!("{command}: {error}");
            }
            // The others are events.
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
        }
    }

    /// Does what a command for people says, which there is no other one for.
    pub fn by_hand(&mut self, line: &str) -> Result<()> {
        let said = self.execute("human-monitor-command", json!({ "command-line": line }))?;
        match said.as_str() {
            Some("") => Ok(()),
            _ => bail!("{line}: {said}"),
        }
    }

    /// Limits what a disk moves: keys of `block_set_io_throttle`, in bytes or operations a second;
    /// without a limit where none is named.
    pub fn throttle(&mut self, disk: &str, limits: Value) -> Result<()> {
        let mut all = json!({
            "device": disk, "bps": 0, "bps_rd": 0, "bps_wr": 0, "iops": 0, "iops_rd": 0, "iops_wr": 0,
        });
        for (key, limit) in limits.as_object().into_iter().flatten() {
            all[key] = limit.clone();
        }
        self.execute("block_set_io_throttle", all)?;
        Ok(())
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        let len = self.stream.read_line(&mut line).context("QEMU's monitor does not answer")?;
        ensure!(len > 0, "QEMU has ended");
        Ok(serde_json::from_str(&line)?)
    }
}
