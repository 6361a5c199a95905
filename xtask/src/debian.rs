//! Packages of Debian, fetched and unpacked aside: nothing of this system changes, and nobody has
//! to be root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::need::{self, Need};
use crate::workspace;

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from: apt with a configuration, lists and downloads of its own.
pub struct Debian {
    folder: PathBuf,
    architecture: String,
    suite: &'static str,
}

impl Debian {
    /// Packages of a suite for an architecture; `components` as in `sources.list`.
    pub fn new(architecture: &str, suite: &'static str, components: &str) -> Result<Self> {
        need::require(&[Need::APT, Need::DPKG])?;
        let folder = workspace::cache("debian")?.join(format!("{suite}-{architecture}"));
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(folder.join(part))?;
        }
        fs::write(folder.join("status"), "")?;
        let signed =
            if Path::new(KEYS).is_file() { format!("signed-by={KEYS}") } else { String::new() };
        let source = format!("deb [arch={architecture} {signed}] {MIRROR} {suite} {components}\n");
        fs::write(folder.join("sources.list"), source)?;
        Ok(Self { folder, architecture: architecture.to_owned(), suite })
    }

    /// Fetches packages, unless they are here already, and unpacks them together. A package that
    /// is nothing but the name of another stands for that one.
    pub fn unpacked(&self, packages: &[&str]) -> Result<PathBuf> {
        let to = self.folder.join("unpacked").join(packages.join("+"));
        if to.is_dir() {
            return Ok(to);
        }
        println!("fetching {} from Debian {}", packages.join(", "), self.suite);
        workspace::output(self.apt("apt-get").args(["--quiet", "update"]))?;
        let downloads = tempfile::tempdir_in(&self.folder)?;
        let mut command = self.apt("apt-get");
        command.current_dir(downloads.path()).args(["--quiet", "download"]);
        for package in packages {
            command.arg(self.real(package)?);
        }
        workspace::output(&mut command)?;
        let files = debs(downloads.path())?;
        ensure!(files.len() == packages.len(), "apt fetched {files:?} for {packages:?}");
        let made = tempfile::tempdir_in(&self.folder)?;
        unpack(&files, made.path())?;
        fs::create_dir_all(to.parent().unwrap_or(&self.folder))?;
        fs::rename(made.keep(), &to)?;
        Ok(to)
    }

    /// The package that an empty one stands for: `linux-image-arm64` for the current kernel.
    fn real(&self, package: &str) -> Result<String> {
        let text = workspace::output(self.apt("apt-cache").args(["depends", package]))?;
        let depends: Vec<_> =
            text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).collect();
        Ok(match depends[..] {
            [one] if one.starts_with(package.trim_end_matches(&self.architecture)) => one,
            _ => package,
        }
        .to_owned())
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |part: &str| self.folder.join(part).display().to_string();
        for option in [
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures::={}", self.architecture),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::State::lists={}", at("lists")),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Etc::sourcelist={}", at("sources.list")),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            "Dir::Etc::preferences=/dev/null".to_owned(),
            "Dir::Etc::preferencesparts=/dev/null".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// The packages in a folder, by name.
pub fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Unpacks packages together.
pub fn unpack(packages: &[PathBuf], to: &Path) -> Result<()> {
    need::require(&[Need::DPKG])?;
    for package in packages {
        workspace::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(to))?;
    }
    Ok(())
}
