//! The image's own name, and what may stand under it already.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Component, Path, PathBuf};

use rill::image::{HEADER_BYTES, Header, MAGIC, Manifest, Section};

use crate::image::MANIFEST_MOST;
use crate::quoted::quoted;

/// Most links that are followed.
const LINKS_MOST: usize = 40;

/// Why nothing is written under a name.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// It is a folder, a device, a pipe.
    #[error("{} is not a file; give the image another name with -o", .0.display())]
    NotAFile(PathBuf),
    /// It is what is packed.
    #[error(
        "{} is what is to be packed; give the image another name with -o, or --force to replace it",
        .0.display()
    )]
    Source(PathBuf),
    /// It is a file of another kind, or an image that cannot be read.
    #[error(
        "{} is there and {what}; give the image another name with -o, or --force to replace it",
        path.display()
    )]
    Other {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
    },
}

/// The name of the image of a model: the source's with `.rill`. A link into a cache of the Hugging
/// Face hub has the name of the file there, or of the repository. `None` for a source without a
/// name, which is `/`.
pub fn image_name(source: &Path) -> Option<PathBuf> {
    let mut name = hub_name(source).or_else(|| match source.components().next_back() {
        Some(Component::Normal(name)) => Some(name.to_owned()),
        _ => source.canonicalize().ok()?.file_name().map(ToOwned::to_owned),
    })?;
    if Path::new(&name).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf")) {
        name = Path::new(&name).with_extension("").into();
    }
    name.push(".rill");
    Some(name.into())
}

/// What a file or folder is called in the cache of the hub, if one of the links that lead to it is
/// there: `models--ORG--NAME/snapshots/HASH/FILE`, which is itself a link to `blobs/HASH`.
fn hub_name(source: &Path) -> Option<OsString> {
    let mut at = source.to_path_buf();
    for _ in 0..LINKS_MOST {
        // Links in the way are resolved, a link at the end is not yet.
        let place = match (at.parent(), at.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) => {
                let parent = if parent == Path::new("") { Path::new(".") } else { parent };
                parent.canonicalize().ok()?.join(name)
            }
            _ => at.canonicalize().ok()?,
        };
        if let Some(name) = cached_name(&place) {
            return Some(name);
        }
        at = place.parent()?.join(fs::read_link(&place).ok()?);
    }
    None
}

/// The name of a file or folder of the hub's cache by its place.
pub(crate) fn cached_name(place: &Path) -> Option<OsString> {
    let parts: Vec<&str> = place.iter().filter_map(|part| part.to_str()).collect();
    let at = parts.iter().rposition(|part| part.starts_with("models--"))?;
    let repository = parts[at].strip_prefix("models--")?;
    // Repositories of old have no organisation.
    let repository = repository.split_once("--").map_or(repository, |(_, name)| name);
    match parts[at + 1..] {
        ["snapshots", _] | ["blobs", _] => Some(repository.into()),
        ["snapshots", _, .., file] => Some(file.into()),
        _ => None,
    }
}

/// Where a file of this name is: where its links lead. In a folder that many may write to, others could
/// put a link that leads to a file of this user's: theirs are not followed.
pub(crate) fn resolved(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_path_buf();
    for _ in 0..LINKS_MOST {
        match fs::read_link(&at) {
            Ok(_) if !fs::symlink_metadata(&at).is_ok_and(|link| is_trusted(&link)) => {
                return Err(io::Error::new(
                    ErrorKind::PermissionDenied,
                    "is a link of another user",
                ));
            }
            Ok(target) => at = at.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return Ok(at),
        }
    }
    Err(io::Error::other("too many links"))
}

/// Whether a link is this user's, or root's.
fn is_trusted(link: &fs::Metadata) -> bool {
    #[cfg(unix)]
    {
        let owner = std::os::unix::fs::MetadataExt::uid(link);
        owner == 0 || owner == rustix::process::geteuid().as_raw()
    }
    #[cfg(not(unix))]
    {
        let _ = link;
        true
    }
}

/// Refuses what a file cannot replace.
pub(crate) fn check_kind(output: &Path) -> Result<(), OutputError> {
    match fs::metadata(output) {
        Ok(found) if !found.is_file() => Err(OutputError::NotAFile(output.into())),
        _ => Ok(()),
    }
}

/// Refuses to replace what is packed.
pub(crate) fn check_source(source: &Path, output: &Path) -> Result<(), OutputError> {
    if is_same(source, output) { Err(OutputError::Source(output.into())) } else { Ok(()) }
}

/// Whether two names are of one file.
fn is_same(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
        matches!((place(a), place(b)), (Ok(a), Ok(b)) if a == b)
    }
    #[cfg(not(unix))]
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Refuses to replace anything but an image of the model that `new` describes, or an empty file.
pub(crate) fn check_model(output: &Path, new: &Manifest) -> Result<(), OutputError> {
    let other = |what: String| Err(OutputError::Other { path: output.into(), what });
    let Ok(mut file) = File::open(output) else { return Ok(()) };
    let mut head = Vec::new();
    if (&mut file).take(HEADER_BYTES as u64).read_to_end(&mut head).is_err() {
        return other("cannot be read".into());
    }
    if head.is_empty() {
        return Ok(());
    }
    if !head.starts_with(&MAGIC) {
        return other("is no image".into());
    }
    match manifest_of(&mut file, &head) {
        None => other("is an image that this version cannot read".into()),
        Some(old) if is_same_model(&old, new) => Ok(()),
        Some(old) => other(format!("is an image of another model, {}", quoted(&old.name))),
    }
}

fn manifest_of(file: &mut File, head: &[u8]) -> Option<Manifest> {
    let span = Header::parse(head).ok()?.span(Section::Manifest);
    let len = usize::try_from(span.len).ok().filter(|&len| len <= MANIFEST_MOST)?;
    let mut bytes = vec![0; len];
    file.seek(SeekFrom::Start(span.offset)).and_then(|_| file.read_exact(&mut bytes)).ok()?;
    Manifest::decode(&bytes).ok()
}

/// However their weights are rounded.
fn is_same_model(a: &Manifest, b: &Manifest) -> bool {
    a.name == b.name && a.shape == b.shape && a.layers.len() == b.layers.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(source: &Path) -> String {
        image_name(source).unwrap().into_os_string().into_string().unwrap()
    }

    #[test]
    fn an_image_is_called_as_its_source() {
        let folder = tempfile::tempdir().unwrap();
        for (source, image) in [
            ("LFM2.5-8B-A1B", "LFM2.5-8B-A1B.rill"),
            ("LFM2.5-8B-A1B/", "LFM2.5-8B-A1B.rill"),
            ("LFM2.5-8B-A1B/../LFM2.5-1.2B", "LFM2.5-1.2B.rill"),
            ("LFM2.5-1.2B-Q4_0.gguf", "LFM2.5-1.2B-Q4_0.rill"),
            ("LFM2.5.GGUF", "LFM2.5.rill"),
            ("model.v2", "model.v2.rill"),
        ] {
            assert_eq!(name(&folder.path().join(source)), image);
            assert_eq!(name(Path::new(source)), image);
        }
        let model = folder.path().join("LFM2.5-8B-A1B");
        fs::create_dir(&model).unwrap();
        for dots in [".", "./", "../LFM2.5-8B-A1B/."] {
            assert_eq!(name(&model.join(dots)), "LFM2.5-8B-A1B.rill");
        }
        assert_eq!(image_name(Path::new("/")), None);
    }

    #[cfg(unix)]
    #[test]
    fn links_into_the_cache_of_the_hub_have_its_names() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("hub/models--LiquidAI--LFM2.5-8B-A1B");
        let (blob, snapshot) = (model.join("blobs/0f3c"), model.join("snapshots/9e45"));
        fs::create_dir_all(model.join("blobs")).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(&blob, "").unwrap();
        let file = snapshot.join("LFM2.5-8B-A1B-Q4_0.gguf");
        symlink("../../blobs/0f3c", &file).unwrap();
        assert_eq!(name(&file), "LFM2.5-8B-A1B-Q4_0.rill");
        assert_eq!(name(&blob), "LFM2.5-8B-A1B.rill");
        assert_eq!(name(&snapshot), "LFM2.5-8B-A1B.rill");
        assert_eq!(name(&snapshot.join(".")), "LFM2.5-8B-A1B.rill");
        // Through several links, of files and of folders, relative and not.
        let link = |target: &Path, name: &str| {
            let link = folder.path().join(name);
            symlink(target, &link).unwrap();
            link
        };
        let one = link(&file, "one");
        assert_eq!(name(&one), "LFM2.5-8B-A1B-Q4_0.rill");
        assert_eq!(name(&link(Path::new("one"), "two")), "LFM2.5-8B-A1B-Q4_0.rill");
        let hub = link(&folder.path().join("hub"), "elsewhere");
        let through = hub.join("models--LiquidAI--LFM2.5-8B-A1B/snapshots/9e45");
        assert_eq!(name(&link(&through, "model")), "LFM2.5-8B-A1B.rill");
        // Other links keep the name that they were given for.
        fs::write(folder.path().join("plain.gguf"), "").unwrap();
        assert_eq!(name(&link(Path::new("plain.gguf"), "mine.gguf")), "mine.rill");
        let (a, b) = (folder.path().join("a"), folder.path().join("b"));
        symlink(&a, &b).unwrap();
        symlink(&b, &a).unwrap();
        assert_eq!(name(&a), "a.rill");
    }
}
