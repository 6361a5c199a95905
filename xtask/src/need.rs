//! Tools that a task may need, and how to get them.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

/// A tool that is not part of a Rust installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    what: Cow<'static, str>,
    /// The command that brings it.
    install: Cow<'static, str>,
    how: How,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum How {
    /// This program runs with these arguments.
    Runs(&'static [&'static str]),
    /// This program prints a text that holds another, when it runs with these arguments.
    Prints(&'static str, &'static [&'static str]),
    /// This command succeeds.
    Succeeds(&'static [&'static str]),
    /// The standard library of the target is there.
    Target,
}

impl Need {
    /// Links programs for this machine.
    pub const GCC: Self = Self::program("gcc", "apt-get install gcc libc6-dev");
    /// Compiles what the tests compare with.
    pub const GXX: Self = Self::program("g++", "apt-get install g++");
    /// Builds what comes as a source.
    pub const MAKE: Self = Self::program("make", "apt-get install make");
    /// Links programs for 64-bit Arm Linux.
    pub const CROSS_GCC: Self =
        Self::program("aarch64-linux-gnu-gcc", "apt-get install gcc-aarch64-linux-gnu");
    /// Links programs for x86-64 Linux.
    pub const CROSS_GCC_X86: Self =
        Self::program("x86_64-linux-gnu-gcc", "apt-get install gcc-x86-64-linux-gnu");
    /// Compiles C++ for 64-bit Arm Linux.
    pub const CROSS_GXX: Self =
        Self::program("aarch64-linux-gnu-g++", "apt-get install g++-aarch64-linux-gnu");
    /// Compiles C++ for x86-64 Linux.
    pub const CROSS_GXX_X86: Self =
        Self::program("x86_64-linux-gnu-g++", "apt-get install g++-x86-64-linux-gnu");
    /// Runs programs for 64-bit Arm Linux.
    pub const QEMU_USER: Self = Self::program("qemu-aarch64", "apt-get install qemu-user");
    /// Runs whole machines with a 64-bit Arm CPU.
    pub const QEMU_SYSTEM: Self =
        Self::program("qemu-system-aarch64", "apt-get install qemu-system-arm");
    /// Fetches Debian's packages.
    pub const APT: Self = Self::program("apt-get", "a system made from Debian or Ubuntu");
    /// Unpacks Debian's packages.
    pub const DPKG: Self = Self::program("dpkg-deb", "a system made from Debian or Ubuntu");
    /// Makes ext4 file systems.
    pub const MKE2FS: Self = Self {
        what: Cow::Borrowed("mke2fs"),
        install: Cow::Borrowed("apt-get install e2fsprogs"),
        how: How::Runs(&["-V"]),
    };
    /// Runs programs for x86-64 Linux.
    pub const QEMU_USER_X86: Self = Self::program("qemu-x86_64", "apt-get install qemu-user");
    /// Counts instructions.
    pub const QEMU_PLUGINS: Self = Self {
        what: Cow::Borrowed("qemu-aarch64 with plugins"),
        install: Cow::Borrowed(
            "apt-get install qemu-user, a version below 10: later ones are built without",
        ),
        how: How::Prints("-plugin", &["qemu-aarch64", "--help"]),
    };
    /// Checks licences and sources of dependencies.
    pub const CARGO_DENY: Self = Self::program("cargo-deny", "cargo install --locked cargo-deny");
    /// What is known to be wrong with versions of crates.
    pub const ADVISORIES: Self = Self {
        what: Cow::Borrowed("RustSec's advisory database"),
        install: Cow::Borrowed("cargo deny fetch db, on a network that reaches github.com"),
        how: How::Succeeds(&["timeout", "120", "cargo", "deny", "fetch", "db"]),
    };
    /// Interprets tests, and sees what in them has no defined behaviour.
    pub const MIRI: Self = Self {
        what: Cow::Borrowed("Miri"),
        install: Cow::Borrowed(
            "rustup toolchain install nightly-2026-05-20 --profile minimal --component miri,rust-src, \
             on a network that reaches static.rust-lang.org",
        ),
        how: How::Succeeds(&["rustup", "run", Self::MIRI_TOOLCHAIN, "cargo", "miri", "--version"]),
    };
    /// The toolchain that has it: each nightly one is another.
    pub const MIRI_TOOLCHAIN: &str = "nightly-2026-05-20";
    /// Checks formatting.
    pub const RUSTFMT: Self = Self::program("cargo-fmt", "rustup component add rustfmt");
    /// Checks lints.
    pub const CLIPPY: Self = Self::program("cargo-clippy", "rustup component add clippy");

    /// Starts a server for its clients.
    pub const PYTHON3: Self = Self::program("python3", "apt-get install python3");
    /// Fetches ExecuTorch's runtime.
    pub const PIP: Self = Self {
        what: Cow::Borrowed("pip"),
        install: Cow::Borrowed("apt-get install python3-pip"),
        how: How::Succeeds(&["python3", "-m", "pip", "--version"]),
    };
    /// Runs what an OCI image holds, without root.
    pub const USER_NAMESPACES: Self = Self {
        what: Cow::Borrowed("user namespaces"),
        install: Cow::Borrowed(
            "apt-get install util-linux; sysctl user.max_user_namespaces=10000 and, where there are \
             such, kernel.unprivileged_userns_clone=1 and \
             kernel.apparmor_restrict_unprivileged_userns=0; a container around it that allows them",
        ),
        how: How::Succeeds(&[
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "--pid",
            "--fork",
            "unshare",
            "--user",
            "--map-user=1",
            "true",
        ]),
    };
    /// The official Python clients of the APIs that `rill serve` speaks.
    pub const PYTHON_CLIENTS: Self = Self {
        what: Cow::Borrowed("OpenAI's and Ollama's clients for Python, and jsonschema"),
        install: Cow::Borrowed(
            "apt-get install python3-venv && python3 -m venv target/clients && \
             target/clients/bin/pip install -r tests/clients/requirements.txt",
        ),
        how: How::Succeeds(&[Self::PYTHON, "-c", "import jsonschema, ollama, openai"]),
    };
    /// The Python that has them.
    pub const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/clients/bin/python");
    /// What builds the Python package.
    pub const PYTHON_WHEELS: Self = Self {
        what: Cow::Borrowed("maturin and NumPy for Python"),
        install: Cow::Borrowed(
            "apt-get install python3-venv && python3 -m venv target/python && \
             target/python/bin/pip install -r tests/python/requirements.txt",
        ),
        how: How::Succeeds(&[Self::PYTHON_BUILDER, "-c", "import maturin, numpy"]),
    };
    /// The Python that has it.
    pub const PYTHON_BUILDER: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/python");
    /// Builds what uses the package for ExecuTorch: a newer one than Debian's.
    pub const CMAKE: Self = Self {
        what: Cow::Borrowed("CMake 3.28 or later"),
        install: Self::PYTHON_WHEELS.install,
        how: How::Succeeds(&[Self::CMAKE_PROGRAM, "--version"]),
    };
    /// The program.
    pub const CMAKE_PROGRAM: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../target/python/bin/cmake");
    /// The official JavaScript clients of the APIs that `rill serve` speaks.
    pub const NODE_CLIENTS: Self = Self {
        what: Cow::Borrowed("OpenAI's and Ollama's clients for JavaScript"),
        install: Cow::Borrowed("apt-get install nodejs npm && npm ci --prefix tests/clients"),
        how: How::Succeeds(&[
            "node",
            "-e",
            concat!(
                "for (const name of ['ollama', 'openai']) require.resolve(name, { paths: ['",
                env!("CARGO_MANIFEST_DIR"),
                "/../tests/clients'] })",
            ),
        ]),
    };
    /// Shows pages as their visitors see them.
    pub const CHROMIUM: Self = Self::program("/usr/bin/chromium", "apt-get install chromium");
    /// Drives the browser, and looks for what keeps people out.
    pub const NODE_PAGES: Self = Self {
        what: Cow::Borrowed("Playwright's core and axe for JavaScript"),
        install: Cow::Borrowed("apt-get install nodejs npm && npm ci --prefix tests/pages"),
        how: How::Succeeds(&[
            "node",
            "-e",
            concat!(
                "for (const name of ['axe-core', 'playwright-core']) require.resolve(name, { paths: ['",
                env!("CARGO_MANIFEST_DIR"),
                "/../tests/pages'] })",
            ),
        ]),
    };

    /// Keeps conversations on their boards.
    pub const HAPROXY: Self = Self {
        what: Cow::Borrowed("haproxy"),
        install: Cow::Borrowed("apt-get install haproxy"),
        how: How::Runs(&["-v"]),
    };

    /// A program that knows `--version`.
    const fn program(name: &'static str, install: &'static str) -> Self {
        Self {
            what: Cow::Borrowed(name),
            install: Cow::Borrowed(install),
            how: How::Runs(&["--version"]),
        }
    }

    /// The standard library of a target.
    pub fn target(target: impl Into<String>) -> Self {
        let target = target.into();
        let install = format!("rustup target add {target}").into();
        Self { what: target.into(), install, how: How::Target }
    }

    /// What it is called.
    pub fn what(&self) -> String {
        match self.how {
            How::Target => format!("Rust's {}", self.what),
            _ => self.what.clone().into_owned(),
        }
    }

    /// The command that installs it.
    pub fn install(&self) -> &str {
        &self.install
    }

    /// Whether it is there.
    pub fn is_met(&self) -> bool {
        match self.how {
            How::Runs(arguments) => succeeds(&self.what, arguments),
            How::Succeeds([program, arguments @ ..]) => succeeds(program, arguments),
            How::Prints(text, [program, arguments @ ..]) => {
                let output = Command::new(program).args(arguments).output();
                output.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains(text))
            }
            How::Prints(_, []) | How::Succeeds([]) => true,
            How::Target => has_core(&self.what),
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.what(), self.install)
    }
}

/// Fails with what is missing and how to get it.
pub fn require(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !need.is_met()).map(Need::to_string).collect();
    if !missing.is_empty() {
        bail!("this needs {}", missing.join("; "));
    }
    Ok(())
}

/// Whether a program runs to a good end, unseen.
fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
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
