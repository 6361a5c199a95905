//! An OCI image: the program for clusters, without a model, which lies on a volume.
//!
//! Formats: <https://github.com/opencontainers/image-spec> (`image-layout.md`, `manifest.md`,
//! `config.md`, `layer.md`). It is one file, which `podman load`, `docker load` and `k3s ctr images
//! import` read.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rill_board::Board;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use xtask::workspace;

use super::bundle::{LEVEL, header};
use super::sizes::Sizes;
use super::{licences, put};
use crate::program;

/// A user that no system has a name for.
const USER: u64 = 65532;
/// When it was made: as all files, so that it does not depend on the clock.
const CREATED: &str = "2000-01-01T00:00:00Z";

/// Makes an image; returns its file.
pub fn make(board: &Board, output: &Path) -> Result<PathBuf> {
    let built = program::build(board, "rill")?;
    let others = licences::collect(&licences::Linked::program(board))?;
    let made = tempfile::Builder::new().prefix(".rill").tempdir_in(output)?;
    let stripped = made.path().join("rill");
    program::strip(board, &built, &stripped)?;
    let mut sizes = Sizes::default();
    let bytes = fs::metadata(&stripped)?.len();
    sizes.add("program", bytes).limit("sizes.program", Some(board.sizes.program));
    let image = made.path().join(format!("rill-{}-oci.tar", board.name));
    let bytes = write(board, &fs::read(&stripped)?, &others, &image)?;
    sizes.add("image", bytes);
    println!("{sizes}");
    sizes.check(&board.name)?;
    put(&image, output)
}

/// Writes an image of a program; returns its length.
fn write(board: &Board, program: &[u8], others: &str, to: &Path) -> Result<u64> {
    let layer = layer(program, others)?;
    let packed = zstd::encode_all(&layer[..], LEVEL)?;
    let config = config(board, &digest(&layer))?;
    let config = serde_json::to_vec(&config)?;
    let blob = |kind: &str, bytes: &[u8]| {
        json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": digest(bytes),
            "size": bytes.len(),
        })
    };
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", &config),
        "layers": [blob("layer.v1.tar+zstd", &packed)],
    }))?;
    let mut entry = blob("manifest.v1+json", &manifest);
    entry["platform"] = platform(board)?;
    let version = env!("CARGO_PKG_VERSION");
    entry["annotations"] = json!({
        "org.opencontainers.image.ref.name": version,
        "io.containerd.image.name": format!("docker.io/library/rill:{version}"),
    });
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [entry],
    }))?;
    let mut files = vec![
        ("oci-layout".to_owned(), &br#"{"imageLayoutVersion":"1.0.0"}"#[..]),
        ("index.json".to_owned(), &index[..]),
    ];
    for bytes in [&config, &packed, &manifest] {
        files.push((format!("blobs/{}", digest(bytes).replace(':', "/")), bytes));
    }
    files[2..].sort();
    let out = BufWriter::with_capacity(1 << 20, File::create(to)?);
    let mut tar = tar::Builder::new(out);
    for (path, bytes) in files {
        append(&mut tar, &path, bytes, 0o644)?;
    }
    tar.into_inner()?.flush()?;
    Ok(fs::metadata(to)?.len())
}

/// What is in it: the program, licences, and the folders that volumes cover.
fn layer(program: &[u8], others: &str) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, owner) in [("keys/", 0), ("licences/", 0), ("models/", 0), ("state/", USER)] {
        let mut header = header(0, if owner == 0 { 0o755 } else { 0o700 });
        header.set_entry_type(tar::EntryType::Directory);
        header.set_uid(owner);
        header.set_gid(owner);
        tar.append_data(&mut header, path, &[][..])?;
    }
    append(&mut tar, "licences/OTHERS.txt", others.as_bytes(), 0o644)?;
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        let text = fs::read(workspace::root().join(file)).context(file)?;
        append(&mut tar, &format!("licences/{file}"), &text, 0o644)?;
    }
    append(&mut tar, "rill", program, 0o755)?;
    Ok(tar.into_inner()?)
}

/// How it is run: `rill serve` for everybody who has a key, with a model from a volume. Nothing in it
/// is ever written to but `/state`, where a volume may be.
fn config(board: &Board, layer: &str) -> Result<Value> {
    let mut config = platform(board)?;
    config["created"] = CREATED.into();
    config["config"] = json!({
        "User": format!("{USER}:{USER}"),
        "Env": ["RILL_STATE=/state"],
        "Entrypoint": ["/rill"],
        "Cmd": [
            "serve", "--model", "/models/model.rill", "--listen", "0.0.0.0:8080", "--keys",
            "/keys/keys.txt",
        ],
        "ExposedPorts": { "8080/tcp": {} },
        "Volumes": { "/models": {}, "/state": {} },
        "WorkingDir": "/",
        "StopSignal": "SIGTERM",
        "Labels": {
            "org.opencontainers.image.title": "rill",
            "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
            "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
        },
    });
    config["rootfs"] = json!({ "type": "layers", "diff_ids": [layer] });
    Ok(config)
}

/// The machine that it runs on, in Go's words.
fn platform(board: &Board) -> Result<Value> {
    match board.architecture() {
        "x86_64" => Ok(json!({ "architecture": "amd64", "os": "linux" })),
        "aarch64" => Ok(json!({ "architecture": "arm64", "variant": "v8", "os": "linux" })),
        other => bail!("{}: containers for {other} have no name here", board.name),
    }
}

/// The name of a part.
pub fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn append(tar: &mut tar::Builder<impl Write>, path: &str, bytes: &[u8], mode: u32) -> Result<()> {
    tar.append_data(&mut header(bytes.len() as u64, mode), path, bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Read;

    use super::*;
    use crate::container::Image;

    fn files(bytes: &[u8]) -> HashMap<String, (Vec<u8>, u32, u64)> {
        let mut archive = tar::Archive::new(bytes);
        let file = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            let (mode, owner) = (header.mode().unwrap(), header.uid().unwrap());
            (entry.path().unwrap().display().to_string(), (content, mode, owner))
        };
        archive.entries().unwrap().map(file).collect()
    }

    #[test]
    fn every_part_is_named_by_its_digest_and_nobody_is_root() {
        let folder = tempfile::tempdir().unwrap();
        for (name, architecture) in [("pi4", "arm64"), ("n100", "amd64")] {
            let board = workspace::board(name).unwrap();
            let [a, b] = ["a", "b"].map(|file| folder.path().join(file));
            for path in [&a, &b] {
                let len = write(&board, b"a program", "others", path).unwrap();
                assert_eq!(len, fs::metadata(path).unwrap().len());
            }
            let bytes = fs::read(&a).unwrap();
            assert!(bytes == fs::read(&b).unwrap(), "equal inputs give equal bytes");
            let image = Image::read(&a).unwrap();
            assert_eq!(image.config["architecture"], architecture);
            assert_eq!(image.config["config"]["User"], "65532:65532");
            let [layer] = &image.layers[..] else { panic!("there is one layer") };
            let layer = files(layer);
            assert_eq!(layer["rill"], (b"a program".to_vec(), 0o755, 0));
            assert_eq!(layer["state/"].2, USER);
            assert!(layer.contains_key("licences/OTHERS.txt"));
            let may_write = |mode: &u32| mode & 0o022 != 0;
            assert!(!layer.values().any(|(_, mode, _)| may_write(mode)));
            let mut damaged = bytes;
            let at = damaged.windows(8).position(|part| part == br#""rootfs""#).unwrap();
            damaged[at + 1] = b'f';
            fs::write(&b, damaged).unwrap();
            assert!(Image::read(&b).is_err(), "a part is not what its name says");
        }
    }
}
