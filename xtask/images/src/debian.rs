//! Packages of Debian, fetched and unpacked aside: nothing of this system changes, and nobody has
//! to be root.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

/// The suite whose Linux is booted.
pub const SUITE: &str = "bookworm";
use xtask::need::{self, Need};
use xtask::workspace;

const MIRROR: &str = "http://deb.debian.org/debian";
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What apt fetches and decompresses files with.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// Where packages come from: apt with a configuration, lists and downloads of its own. While it lives
/// no other task has them: apt would refuse it, and a file be read that is only half written.
pub struct Debian {
    folder: PathBuf,
    architecture: String,
    suite: &'static str,
    _alone: File,
}

impl Debian {
    /// Packages of a suite for an architecture; `components` as in `sources.list`.
    pub fn new(architecture: &str, suite: &'static str, components: &str) -> Result<Self> {
        need::require(&[Need::APT, Need::DPKG])?;
        let folder = workspace::cache("debian")?.join(format!("{suite}-{architecture}"));
        for part in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let alone = workspace::alone_in(&folder)?;
        fs::write(folder.join("status"), "")?;
        let signed =
            if Path::new(KEYS).is_file() { format!("signed-by={KEYS}") } else { String::new() };
        let source = format!("deb [arch={architecture} {signed}] {MIRROR} {suite} {components}\n");
        fs::write(folder.join("sources.list"), source)?;
        Ok(Self { folder, architecture: architecture.to_owned(), suite, _alone: alone })
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
            [one] if is_versioned(one, package) => one,
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

/// The kernel of unpacked packages and its version.
pub fn kernel(packages: &Path) -> Result<(PathBuf, String)> {
    let boot = packages.join("boot");
    let mut kernels = Vec::new();
    for entry in fs::read_dir(&boot).context("the packages have no kernel")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if let Some(version) = name.strip_prefix("vmlinuz-") {
            kernels.push((path.clone(), version.to_owned()));
        }
    }
    match kernels.pop() {
        Some(kernel) if kernels.is_empty() => Ok(kernel),
        Some(_) => bail!("the packages have several kernels; leave one"),
        None => bail!("the packages have no kernel"),
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

/// Whether a name is another one with a version put into it, as `linux-image-6.1.0-9-arm64` is
/// `linux-image-arm64`.
fn is_versioned(name: &str, other: &str) -> bool {
    other.match_indices('-').any(|(at, _)| {
        let (start, end) = other.split_at(at + 1);
        let version = name.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        version.is_some_and(|version| version.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Fetches a source archive of Debian's pool, which must have this SHA-256, and unpacks it.
pub fn unpack_source(path: &str, sha256: &str, to: &Path) -> Result<()> {
    need::require(&[Need::APT])?;
    let archive = to.join("source.tar.xz");
    let mut fetch = Command::new(HELPER);
    fetch.args(["-o", "APT::Sandbox::User=", "download-file"]);
    fetch.arg(format!("{MIRROR}/pool/{path}")).arg(&archive).arg(format!("SHA256:{sha256}"));
    workspace::output(&mut fetch)?;
    let mut xz = Command::new(HELPER)
        .arg("cat-file")
        .arg(&archive)
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {HELPER}"))?;
    let plain = xz.stdout.take().context("output is piped")?;
    let unpacked = tar::Archive::new(plain).unpack(to);
    ensure!(xz.wait()?.success(), "{}: apt cannot decompress it", archive.display());
    unpacked.with_context(|| archive.display().to_string())?;
    fs::remove_file(archive)?;
    Ok(())
}

/// Unpacks packages together.
pub fn unpack(packages: &[PathBuf], to: &Path) -> Result<()> {
    need::require(&[Need::DPKG])?;
    for package in packages {
        workspace::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_version_in_it_is_known() {
        assert!(is_versioned("linux-image-6.1.0-9-arm64", "linux-image-arm64"));
        assert!(is_versioned("linux-image-6.1.0-9-cloud-amd64", "linux-image-cloud-amd64"));
        assert!(!is_versioned("linux-image-6.1.0-9-cloud-amd64", "linux-image-rt-amd64"));
        assert!(!is_versioned("qemu-system-data", "qemu-system-arm"));
    }
}
