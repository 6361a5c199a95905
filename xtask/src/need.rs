//! Tools that a task may need, and how to get them.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

/// A tool that is not part of a Rust installation.
#[derive(Debug, Clone, Copy)]
pub struct Need {
    what: &'static str,
    install: &'static str,
    how: How,
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// This program runs with these arguments.
    Runs(&'static [&'static str]),
    /// The standard library of this target is there.
    Target(&'static str),
}

impl Need {
    /// Links programs for 64-bit Arm Linux.
    pub const CROSS_GCC: Self = Self {
        what: "aarch64-linux-gnu-gcc",
        install: "apt-get install gcc-aarch64-linux-gnu",
        how: How::Runs(&["aarch64-linux-gnu-gcc", "--version"]),
    };
    /// Runs programs for 64-bit Arm Linux.
    pub const QEMU_USER: Self = Self {
        what: "qemu-aarch64",
        install: "apt-get install qemu-user",
        how: How::Runs(&["qemu-aarch64", "--version"]),
    };
    /// Checks licences and sources of dependencies.
    pub const CARGO_DENY: Self = Self {
        what: "cargo-deny",
        install: "cargo install --locked cargo-deny",
        how: How::Runs(&["cargo-deny", "--version"]),
    };
    /// Checks formatting.
    pub const RUSTFMT: Self = Self {
        what: "rustfmt",
        install: "rustup component add rustfmt",
        how: How::Runs(&["cargo-fmt", "--version"]),
    };
    /// Checks lints.
    pub const CLIPPY: Self = Self {
        what: "clippy",
        install: "rustup component add clippy",
        how: How::Runs(&["cargo-clippy", "--version"]),
    };

    /// The standard library of a target.
    pub const fn target(target: &'static str) -> Self {
        Self { what: target, install: "rustup target add", how: How::Target(target) }
    }

    /// Whether it is there.
    pub fn is_met(&self) -> bool {
        match self.how {
            How::Runs([program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
                command.status().is_ok_and(|status| status.success())
            }
            How::Runs([]) => true,
            How::Target(target) => has_core(target),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.how {
            How::Runs(_) => write!(f, "{} ({})", self.what, self.install),
            How::Target(target) => write!(f, "Rust's {} ({} {target})", self.what, self.install),
        }
    }
}

/// rustc prints a folder for every target it knows; only an installed one has libcore in it.
fn has_core(target: &str) -> bool {
    let output =
        Command::new("rustc").args(["--print", "target-libdir", "--target", target]).output();
    let Ok(output) = output else { return false };
    let folder = String::from_utf8_lossy(&output.stdout);
    let Ok(entries) = Path::new(folder.trim()).read_dir() else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
}
