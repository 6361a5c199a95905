//! Images for boards with Linux: a folder that installs itself, and an archive of it.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use xtask::workspace;

use super::sizes::Sizes;
use super::{Inputs, licences, put};
use crate::program;

/// Names every file of a bundle with its checksum, as `sha256sum` reads it.
pub const SUMS: &str = "SHA256SUMS";
/// What has no limit among the parts.
const MODEL: &str = "model";
/// Time of all files in an archive: 2000-01-01, so that it does not depend on the clock.
const TIME: u64 = 946_684_800;
/// Weights do not shrink; a higher level would only take longer.
pub const LEVEL: i32 = 3;

const SERVICE: &str = include_str!("linux/rill.service");
const CONFIG: &str = include_str!("linux/rill.conf");
const SERVE_SERVICE: &str = include_str!("linux/rill-serve.service");
const SERVE_SOCKET: &str = include_str!("linux/rill-serve.socket");
const SERVE_CONFIG: &str = include_str!("linux/rill-serve.conf");
const INSTALL: &str = include_str!("linux/install.sh");
const README: &str = include_str!("linux/README.txt");

/// Makes a bundle; returns the folder and the archive.
pub fn make(inputs: &Inputs, output: &Path) -> Result<Vec<PathBuf>> {
    let board = &inputs.board;
    let built = program::build(board, "rill")?;
    let others = licences::collect(&licences::Linked::program(board))?;
    let made = tempfile::Builder::new().prefix(".rill").tempdir_in(output)?;
    let program = made.path().join("rill");
    program::strip(board, &built, &program)?;
    let (paths, sizes) = write(inputs, &program, &others, made.path())?;
    println!("{sizes}");
    sizes.check(&board.name)?;
    paths.iter().map(|from| put(from, output)).collect()
}

/// Writes a folder and its archive; returns both, and what their parts take.
fn write(
    inputs: &Inputs,
    program: &Path,
    others: &str,
    output: &Path,
) -> Result<([PathBuf; 2], Sizes)> {
    let board = &inputs.board;
    let name = format!("rill-{}", board.name);
    let folder = output.join(&name);
    let mut bundle = Bundle::new(&folder);
    let mut sizes = Sizes::default();
    let bytes = bundle.copy("bin/rill", program, 0o755)?;
    sizes.add("program", bytes).limit("sizes.program", Some(board.sizes.program));
    sizes.add_sections(program)?;
    sizes.add(MODEL, bundle.copy("model.rill", &inputs.model, 0o644)?);

    let fill = |text: &str| {
        text.replace("@RAM@", &inputs.ram.to_string()).replace("@BOARD@", &board.title)
    };
    let mut bytes = bundle.write("install.sh", INSTALL, 0o755)?;
    for (path, text) in [
        ("rill.service", SERVICE),
        ("rill.conf", CONFIG),
        ("rill-serve.service", SERVE_SERVICE),
        ("rill-serve.socket", SERVE_SOCKET),
        ("rill-serve.conf", SERVE_CONFIG),
        ("README.txt", README),
    ] {
        bytes += bundle.write(path, &fill(text), 0o644)?;
    }
    sizes.add("services and script", bytes);

    sizes.add("licences", bundle.licences(others)?);
    let files = bundle.finish()?;
    sizes.add("checksums", fs::metadata(folder.join(SUMS))?.len());
    sizes.sum_but(MODEL).limit("sizes.bundle", board.sizes.bundle);
    let archive = output.join(format!("{name}.tar.zst"));
    pack(output, &name, &files, &archive)?;
    Ok(([folder, archive], sizes))
}

/// A folder in the making.
pub struct Bundle {
    folder: PathBuf,
    /// Paths within it, modes and checksums.
    sums: Vec<(String, u32, String)>,
}

impl Bundle {
    /// An empty one in a folder that need not be there.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), sums: Vec::new() }
    }

    /// Adds a copy of a file; returns its length.
    pub fn copy(&mut self, path: &str, from: &Path, mode: u32) -> Result<u64> {
        let file = File::open(from).with_context(|| from.display().to_string())?;
        self.add(path, BufReader::with_capacity(1 << 20, file), mode)
    }

    /// Adds a file with this text; returns its length.
    pub fn write(&mut self, path: &str, text: &str, mode: u32) -> Result<u64> {
        self.add(path, text.as_bytes(), mode)
    }

    /// Adds the licences of this repository and of `others`; returns their length.
    pub fn licences(&mut self, others: &str) -> Result<u64> {
        let mut bytes = self.write("licences/OTHERS.txt", others, 0o644)?;
        for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let to = format!("licences/{file}");
            bytes += self.copy(&to, &workspace::root().join(file), 0o644)?;
        }
        Ok(bytes)
    }

    /// Paths and checksums of the files so far.
    pub fn sums(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sums.iter().map(|(path, _, sum)| (path.as_str(), sum.as_str()))
    }

    /// Adds a file with what is read; returns its length.
    pub fn add(&mut self, path: &str, mut from: impl io::Read, mode: u32) -> Result<u64> {
        let to = self.folder.join(path);
        fs::create_dir_all(to.parent().unwrap_or(&self.folder))?;
        let mut out = Hashing { hash: Sha256::new(), out: File::create(&to)? };
        let bytes = io::copy(&mut from, &mut out).with_context(|| path.to_owned())?;
        out.out.set_permissions(fs::Permissions::from_mode(mode))?;
        let sum = out.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        self.sums.push((path.to_owned(), mode, sum));
        Ok(bytes)
    }

    /// Writes the checksums; returns all files and their modes, by name.
    pub fn finish(mut self) -> Result<Vec<(String, u32)>> {
        self.sums.sort();
        let text: String =
            self.sums.iter().map(|(path, _, sum)| format!("{sum}  {path}\n")).collect();
        self.write(SUMS, &text, 0o644)?;
        self.sums.sort();
        Ok(self.sums.into_iter().map(|(path, mode, _)| (path, mode)).collect())
    }
}

/// A file and the hash of what is written to it.
struct Hashing {
    hash: Sha256,
    out: File,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// What an archive says of a file: nothing that differs from one time to the next.
pub fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(TIME);
    header.set_uid(0);
    header.set_gid(0);
    header
}

/// Packs files of `parent/name`; nothing but names, modes and contents goes into the archive.
fn pack(parent: &Path, name: &str, files: &[(String, u32)], archive: &Path) -> Result<()> {
    let out = BufWriter::with_capacity(1 << 20, File::create(archive)?);
    let mut tar = tar::Builder::new(zstd::Encoder::new(out, LEVEL)?);
    for (path, mode) in files {
        let path = Path::new(name).join(path);
        let mut file = File::open(parent.join(&path))?;
        tar.append_data(&mut header(file.metadata()?.len(), *mode), &path, &mut file)?;
    }
    tar.into_inner()?.finish()?.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::Command;

    use super::*;

    /// A bundle with another program in the place of Rill's.
    fn bundle(output: &Path) -> [PathBuf; 2] {
        let model = output.join("model");
        fs::write(&model, [5; 100_000]).unwrap();
        let inputs = Inputs {
            board: workspace::board("pi4").unwrap(),
            model,
            ram: 64 << 20,
            settings: Vec::new(),
            firmware: None,
        };
        write(&inputs, Path::new("/bin/sh"), "others", output).unwrap().0
    }

    #[test]
    fn equal_inputs_give_equal_bytes() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [a, b] = folders.each_ref().map(|folder| bundle(folder.path())[1].clone());
        assert!(fs::read(a).unwrap() == fs::read(b).unwrap());
    }

    #[test]
    fn a_bundle_is_installed_below_a_relative_folder() {
        let folder = tempfile::tempdir().unwrap();
        let [bundle, _] = bundle(folder.path());
        fs::create_dir(folder.path().join("a root")).unwrap();
        let install = |root: &str| {
            let mut command = Command::new(bundle.join("install.sh"));
            let output = command.arg(root).current_dir(folder.path()).output().unwrap();
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(install("a root"), (Some(0), String::new()));
        let service = folder.path().join("a root/etc/systemd/system/rill.service");
        assert!(service.is_file());
        let enabled = service.with_file_name("multi-user.target.wants").join("rill.service");
        assert_eq!(fs::read(enabled).unwrap(), fs::read(service).unwrap());
        let (code, said) = install("none");
        assert!(code == Some(1) && said.contains("no folder none"), "{said}");

        // By a link that stands elsewhere.
        symlink(bundle.join("install.sh"), folder.path().join("link.sh")).unwrap();
        let link =
            Command::new(folder.path().join("link.sh")).arg(folder.path().join("a root")).output();
        assert!(link.unwrap().status.success());
        // A folder where a file is to be.
        let model = folder.path().join("a root/opt/rill/model.rill");
        fs::remove_file(&model).unwrap();
        fs::create_dir(&model).unwrap();
        let (code, said) = install("a root");
        assert!(code == Some(1) && said.contains("is a folder"), "{said}");
        assert_eq!(fs::read_dir(&model).unwrap().count(), 0);
        // A variable that is not set is not this machine. Without sums nothing would be installed there.
        fs::remove_file(bundle.join(SUMS)).unwrap();
        let (code, said) = install("");
        assert!(code == Some(1) && said.contains("name one folder"), "{said}");
    }

    #[test]
    fn a_bundle_installs_itself_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let [bundle, _] = bundle(folder.path());
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        let install = |bundle: &Path| {
            let output = Command::new(bundle.join("install.sh")).arg(&root).output().unwrap();
            (output.status.success(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(install(&bundle), (true, String::new()));
        let config = root.join("etc/rill/rill.conf");
        fs::write(&config, "RILL_OPTIONS=--greedy\n").unwrap();
        assert_eq!(install(&bundle), (true, String::new()));
        assert_eq!(fs::read_to_string(&config).unwrap(), "RILL_OPTIONS=--greedy\n");
        let model = root.join("opt/rill/model.rill");
        assert_eq!(fs::read(&model).unwrap(), [5; 100_000]);
        let service = fs::read_to_string(root.join("etc/systemd/system/rill.service")).unwrap();
        assert!(service.contains("--ram 67108864") && service.contains("MemoryMax=67108864"));
        assert!(!service.contains("@RAM@"), "{service}");
        assert!(service.contains("StateDirectory=rill") && service.contains("--state %S/rill"));

        // Programs reach it on this machine alone, by a socket that waits for it.
        let units = root.join("etc/systemd/system");
        let serve = fs::read_to_string(units.join("rill-serve.service")).unwrap();
        for part in [
            "Type=notify",
            "--ram 67108864",
            "MemoryMax=67108864",
            "WatchdogSec=",
            "LoadCredential=",
        ] {
            assert!(serve.contains(part), "no {part}");
        }
        let socket = fs::read_to_string(units.join("rill-serve.socket")).unwrap();
        assert!(socket.contains("ListenStream=127.0.0.1:8080"), "{socket}");
        assert!(root.join("etc/rill/rill-serve.conf").is_file());

        // What nobody vouches for is not installed.
        fs::write(bundle.join("licences/PLANTED.txt"), "planted").unwrap();
        assert_eq!(install(&bundle), (true, String::new()));
        let licences = fs::read_dir(root.join("opt/rill/licences")).unwrap().count();
        assert_eq!(licences, 3);
        let sums = fs::read_to_string(bundle.join(SUMS)).unwrap();
        let without: String = sums
            .lines()
            .filter(|line| !line.ends_with("  rill.service"))
            .map(|l| format!("{l}\n"))
            .collect();
        fs::write(bundle.join(SUMS), without).unwrap();
        fs::write(bundle.join("rill.service"), "planted").unwrap();
        let (done, said) = install(&bundle);
        assert!(!done && said.contains("rill.service"), "{said}");
        let kept = root.join("etc/systemd/system/rill.service");
        assert_eq!(fs::read_to_string(kept).unwrap(), service);
        fs::write(bundle.join(SUMS), sums).unwrap();
        fs::write(bundle.join("rill.service"), &service).unwrap();

        // A damaged copy changes nothing.
        fs::write(bundle.join("model.rill"), [6; 100_000]).unwrap();
        let (done, said) = install(&bundle);
        assert!(!done && said.contains("damaged"), "{said}");
        assert_eq!(fs::read(&model).unwrap(), [5; 100_000]);
    }
}
