//! An OCI image, read and run as a container runtime does, without root and without a daemon.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::image::oci::digest;

/// What is in the file of an image.
pub struct Image {
    /// How it is run.
    pub config: Value,
    /// Its layers as plain archives, the lowest first.
    pub layers: Vec<Vec<u8>>,
}

impl Image {
    /// Reads an image; each of its parts must be what its name says.
    pub fn read(path: &Path) -> Result<Self> {
        let parts = Parts::read(path).with_context(|| path.display().to_string())?;
        let layout = parse(parts.file("oci-layout")?)?;
        ensure!(layout["imageLayoutVersion"] == "1.0.0", "its layout is {layout}");
        let entry = &parse(parts.file("index.json")?)?["manifests"][0];
        let manifest = parse(parts.blob(entry)?)?;
        let config = parse(parts.blob(&manifest["config"])?)?;
        for key in ["architecture", "variant", "os"] {
            let (entry, config) = (&entry["platform"][key], &config[key]);
            ensure!(entry == config, "its {key} is {entry} and {config}");
        }
        let mut layers = Vec::new();
        for (at, layer) in manifest["layers"].as_array().into_iter().flatten().enumerate() {
            let plain = zstd::decode_all(parts.blob(layer)?)?;
            let name = &config["rootfs"]["diff_ids"][at];
            ensure!(name == &digest(&plain), "the layer {name} is another one");
            layers.push(plain);
        }
        Ok(Self { config, layers })
    }

    /// Puts its layers into a folder, each over those before.
    pub fn unpack(&self, root: &Path) -> Result<()> {
        for layer in &self.layers {
            tar::Archive::new(&layer[..]).unpack(root)?;
        }
        Ok(())
    }

    /// Words of its configuration under this key.
    pub fn words(&self, key: &str) -> Vec<String> {
        let words = self.config["config"][key].as_array().into_iter().flatten();
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    }

    /// Runs its program with these arguments in `root`, where it was unpacked: as process 1, as the
    /// image's user and with no variables but the image's; it can write to volumes alone. The first
    /// line of its output is the process's number on this machine; what it says of errors follows.
    pub fn command(
        &self,
        root: &Path,
        volumes: &[Volume],
        arguments: &[String],
    ) -> Result<Command> {
        let config = &self.config["config"];
        let user = config["User"].as_str().and_then(|user| user.split_once(':'));
        let (user, group) = user.context("the image names no user with a group")?;
        let folder = config["WorkingDir"].as_str().context("the image names no folder")?;
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child"]);
        command.args(["sh", "-e", "-c", MOUNT, "sh"]).arg(root);
        for Volume { at, from, access } in volumes {
            command.arg(at).arg(from).arg(access);
        }
        command.args(["--", "env", "-i"]).args(self.words("Env"));
        // Whoever mounts is root among the users of its own, the program is not.
        command.args(["unshare", "--user"]);
        command.arg(format!("--map-user={user}")).arg(format!("--map-group={group}"));
        command.arg(format!("--root={}", root.display())).arg(format!("--wd={folder}"));
        command.arg("--").args(self.words("Entrypoint")).args(arguments);
        Ok(command)
    }
}

/// A folder that a container sees.
pub struct Volume {
    /// Where, below its root.
    pub at: &'static str,
    pub from: PathBuf,
    /// `ro` or `rw`.
    pub access: &'static str,
}

/// Mounts what is in a container and becomes its program. `/proc` is this machine's: where this is
/// a container itself, a new one may be forbidden.
const MOUNT: &str = r#"
root=$1
shift
mount --bind "$root" "$root"
for folder in dev proc sys; do
    mkdir -p "$root/$folder"
    mount --rbind "/$folder" "$root/$folder"
done
while [ "$1" != -- ]; do
    mount --bind -o "$3" "$2" "$root/$1"
    shift 3
done
shift
mount -o remount,bind,ro "$root"
read -r process rest </proc/self/stat
echo "$process"
exec "$@" 2>&1
"#;

/// The files in an archive that is an image.
struct Parts(HashMap<PathBuf, Vec<u8>>);

impl Parts {
    fn read(path: &Path) -> Result<Self> {
        let mut parts = HashMap::new();
        for entry in tar::Archive::new(File::open(path)?).entries()? {
            let mut entry = entry?;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            parts.insert(entry.path()?.into_owned(), bytes);
        }
        Ok(Self(parts))
    }

    fn file(&self, name: &str) -> Result<&[u8]> {
        let file = self.0.get(Path::new(name)).map(Vec::as_slice);
        file.with_context(|| format!("it has no {name}"))
    }

    /// What a descriptor names.
    fn blob(&self, descriptor: &Value) -> Result<&[u8]> {
        let name = descriptor["digest"].as_str().context("it names no digest")?;
        let bytes = self.file(&format!("blobs/{}", name.replace(':', "/")))?;
        ensure!(descriptor["size"] == bytes.len(), "{name} has {} bytes", bytes.len());
        ensure!(digest(bytes) == name, "{name} is {}", digest(bytes));
        Ok(bytes)
    }
}

fn parse(bytes: &[u8]) -> Result<Value> {
    Ok(serde_json::from_slice(bytes)?)
}
