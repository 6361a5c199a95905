//! ExecuTorch's released runtime, as its wheel brings it: headers, libraries and tools, kept outside the
//! repository.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use xtask::need::{self, Need};
use xtask::workspace;

/// The version that programs and the backend are made for. What is fetched stands, with its hashes, in
/// `platform/executorch/requirements.txt`.
pub const VERSION: &str = "1.5.1";
const REQUIREMENTS: &str = "platform/executorch/requirements.txt";
/// What compiles and prints flatbuffers.
const FLATC: &str = "data/bin/flatc";
/// Parts of a wheel that are unpacked, by the beginnings of their names.
const PARTS: [&str; 8] = [
    "executorch/include/",
    "executorch/lib/cmake/",
    "executorch/lib/libexecutorch.so",
    "executorch/lib/libexecutorch_backend_xnnpack.so",
    "executorch/lib/libexecutorch_threadpool.so",
    "executorch/data/bin/flatc",
    "executorch/schema/",
    // By this the package for CMake finds the folder.
    "executorch/share/cmake/",
];
/// Unpacks parts of an archive: archive, folder, beginnings of names.
const UNPACK: &str = "\
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    wheel.extractall(sys.argv[2], [n for n in wheel.namelist() if n.startswith(tuple(sys.argv[3:]))])";

/// An unpacked wheel.
pub struct Sdk {
    folder: PathBuf,
}

impl Sdk {
    /// The wheel for this architecture, fetched unless it is here already.
    pub fn get(architecture: &str) -> Result<Self> {
        let cache = workspace::cache("executorch")?;
        let folder = cache.join(format!("{VERSION}-{architecture}"));
        if !folder.is_dir() {
            need::require(&[Need::PYTHON3, Need::PIP])?;
            println!("fetching ExecuTorch {VERSION} for {architecture} from PyPI");
            let made = tempfile::tempdir_in(&cache)?;
            unpack(&fetch(architecture, made.path())?, &made.path().join("unpacked"))?;
            // Python leaves it out that this is a program.
            let flatc = made.path().join("unpacked/executorch").join(FLATC);
            fs::set_permissions(flatc, fs::Permissions::from_mode(0o755))?;
            fs::rename(made.path().join("unpacked/executorch"), &folder)?;
        }
        let sdk = Self { folder };
        let is_whole = sdk.library().is_file() && sdk.folder.join("share/cmake").is_dir();
        ensure!(is_whole, "{} is incomplete: remove it", sdk.folder.display());
        Ok(sdk)
    }

    /// Arguments of a compiler that make it find the headers; their warnings are not ours.
    pub fn compile(&self) -> Vec<String> {
        let include = self.folder.join("include");
        let c10 = include.join("executorch/runtime/core/portable_type/c10");
        vec![
            "-DC10_USING_CUSTOM_GENERATED_MACROS".to_owned(),
            format!("-isystem{}", include.display()),
            format!("-isystem{}", c10.display()),
        ]
    }

    /// Where CMake finds it.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Folder of the libraries.
    pub fn libraries(&self) -> PathBuf {
        self.folder.join("lib")
    }

    /// The runtime.
    fn library(&self) -> PathBuf {
        self.libraries().join("libexecutorch.so")
    }

    /// What compiles and prints flatbuffers, for the wheel's architecture.
    pub fn flatc(&self) -> PathBuf {
        self.folder.join(FLATC)
    }

    /// The schema of programs.
    pub fn schema(&self) -> PathBuf {
        self.folder.join("schema/program.fbs")
    }
}

/// Fetches the wheel, which must have one of the hashes that are known.
fn fetch(architecture: &str, to: &Path) -> Result<PathBuf> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--retries", "10", "--timeout", "60"]);
    pip.args(["--require-hashes", "--only-binary=:all:", "--python-version", "3.11"]);
    pip.args(["--implementation", "cp", "--platform"]);
    pip.arg(format!("manylinux_2_28_{architecture}"));
    pip.arg("--dest").arg(to).arg("--requirement").arg(workspace::root().join(REQUIREMENTS));
    workspace::run(&mut pip)?;
    for entry in fs::read_dir(to)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    bail!("pip fetched no wheel")
}

fn unpack(wheel: &Path, to: &Path) -> Result<()> {
    let mut python = Command::new("python3");
    python.args(["-c", UNPACK]).arg(wheel).arg(to).args(PARTS);
    workspace::run(&mut python).context("the wheel cannot be unpacked")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_the_one_that_is_fetched() {
        let text = fs::read_to_string(workspace::root().join(REQUIREMENTS)).unwrap();
        assert!(text.contains(&format!("executorch=={VERSION} --hash=sha256:")));
    }
}
