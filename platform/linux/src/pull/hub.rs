use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rill_pack::checkpoint::{Source, Store};
use serde::Deserialize;

use super::digest::{Sum, Summer};
use super::remote::Remote;
use super::web::{Web, escaped};
use super::{FetchError, Name};

/// Most bytes of a repository's listing.
const LISTING_MOST: u64 = 32 << 20;
/// Most bytes of a file that is no tensor file: tokenizers of large vocabularies have some 20 MiB.
const SMALL_MOST: u64 = 128 << 20;
/// Bytes read at a time when sums are checked.
const CHUNK: usize = 1 << 20;

/// A repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// What is in it.
    pub files: Vec<File>,
}

/// A file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its path in the repository.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// What sum they have.
    pub sum: Option<Sum>,
}

/// The part of the hub's answer that is read.
#[derive(Debug, Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Repository {
    /// Asks what is in a repository; everything else is then asked of the commit that it names.
    pub fn look_up(web: &Web, name: &Name, revision: &str) -> Result<Self, FetchError> {
        let (endpoint, path) = (web.endpoint(), name.path());
        let revision = escaped(revision, false);
        let url = format!("{endpoint}/api/models/{path}/revision/{revision}?blobs=true");
        let bytes = web.whole(&url, LISTING_MOST).map_err(|error| match error {
            FetchError::NotFound(_) => FetchError::NotFound(format!("{path} (or its revision)")),
            FetchError::TokenMissing(_) => FetchError::TokenMissing(path.clone()),
            FetchError::TokenRefused(_) => FetchError::TokenRefused(path.clone()),
            FetchError::Forbidden(_) => FetchError::Forbidden(path.clone()),
            error => error,
        })?;
        Self::read(&bytes)
    }

    fn read(bytes: &[u8]) -> Result<Self, FetchError> {
        let wrong =
            |what: &dyn fmt::Display| FetchError::Contradiction(format!("its listing: {what}"));
        let listing: Listing = serde_json::from_slice(bytes).map_err(|error| wrong(&error))?;
        let commit = listing.sha;
        if commit.len() != 40 || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong(&"it names no commit"));
        }
        let mut files = Vec::new();
        for sibling in listing.siblings {
            let Sibling { rfilename: path, size, blob, lfs } = sibling;
            // Nobody could type it, and a terminal might obey it.
            if path.chars().any(char::is_control) {
                continue;
            }
            let (size, sum) = match lfs {
                Some(lfs) => (lfs.size.or(size), lfs.sha256.map(Sum::Sha256)),
                None => (size, blob.map(Sum::Blob)),
            };
            let Some(size) = size else {
                return Err(wrong(&format_args!("it does not say how large {path} is")));
            };
            files.push(File { path, size, sum });
        }
        Ok(Self { commit, files })
    }
}

/// A repository as a source of the packer. Paths begin with its owner and name.
pub struct Hub {
    web: Rc<Web>,
    root: PathBuf,
    repository: Repository,
    arrived: Rc<dyn Fn(u64)>,
}

impl Hub {
    /// `arrived` hears of bytes of large files.
    pub fn new(
        web: Rc<Web>,
        name: &Name,
        repository: Repository,
        arrived: Rc<dyn Fn(u64)>,
    ) -> Self {
        Self { web, root: name.path().into(), repository, arrived }
    }

    /// Reads `files` from start to end and compares their sums with those that the hub lists.
    pub fn verify(&self, files: &[File]) -> io::Result<()> {
        for file in files {
            let Some(sum) = &file.sum else {
                return Err(io::Error::other(format!("the hub lists no sum of {}", file.path)));
            };
            let remote = self.remote(file);
            let mut summer = Summer::like(sum, file.size);
            let mut chunk = vec![0; CHUNK];
            let mut at = 0;
            while at < file.size {
                let len = usize::try_from(file.size - at).unwrap_or(CHUNK).min(CHUNK);
                remote.read_at(at, file.size, &mut chunk[..len])?;
                summer.update(&chunk[..len]);
                at += len as u64;
            }
            if !summer.is(sum) {
                return Err(FetchError::Checksum(file.path.clone()).into());
            }
        }
        Ok(())
    }

    fn find(&self, path: &Path) -> Option<&File> {
        let path = path.strip_prefix(&self.root).ok()?.to_str()?;
        self.repository.files.iter().find(|file| file.path == path)
    }

    fn url(&self, file: &File) -> String {
        let (endpoint, commit) = (self.web.endpoint(), &self.repository.commit);
        let (root, path) = (self.root.display(), escaped(&file.path, true));
        format!("{endpoint}/{root}/resolve/{commit}/{path}")
    }

    fn remote(&self, file: &File) -> Remote {
        let (web, url, commit) = (self.web.clone(), self.url(file), self.repository.commit.clone());
        Remote::new(web, url, commit, (file.size, file.sum.clone()), self.arrived.clone())
    }

    /// A small file, whole and with the sum that is listed.
    fn small(&self, file: &File) -> Result<Vec<u8>, FetchError> {
        if file.size > SMALL_MOST {
            let what = format!("{} has {} bytes", file.path, file.size);
            return Err(FetchError::Contradiction(what));
        }
        let bytes = self.web.whole(&self.url(file), file.size)?;
        if bytes.len() as u64 != file.size {
            let what = format!("{} bytes of {}, not {}", bytes.len(), file.path, file.size);
            return Err(FetchError::Contradiction(what));
        }
        if let Some(sum) = &file.sum {
            let mut summer = Summer::like(sum, file.size);
            summer.update(&bytes);
            if !summer.is(sum) {
                return Err(FetchError::Checksum(file.path.clone()));
            }
        }
        Ok(bytes)
    }
}

impl Store for Hub {
    fn is_folder(&self, path: &Path) -> io::Result<bool> {
        if path == self.root {
            Ok(true)
        } else if self.find(path).is_some() {
            Ok(false)
        } else {
            Err(ErrorKind::NotFound.into())
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Source>> {
        let file = self.find(path).ok_or(ErrorKind::NotFound)?;
        if file.path.ends_with(".gguf") || file.path.ends_with(".safetensors") {
            Ok(Box::new(self.remote(file)))
        } else {
            Ok(Box::new(Small(self.small(file)?)))
        }
    }

    fn whole_path(&self, path: &Path) -> PathBuf {
        path.into()
    }
}

/// A file in RAM.
#[derive(Debug)]
struct Small(Vec<u8>);

impl Source for Small {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, at: u64, _: u64, into: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(at).ok().and_then(|at| self.0.get(at..)?.get(..into.len()));
        into.copy_from_slice(from.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    #[test]
    fn a_listing_is_read() {
        let text = format!(
            r#"{{"id": "a/b", "sha": "{COMMIT}", "siblings": [
                {{"rfilename": "config.json", "size": 12, "blobId": "ab"}},
                {{"rfilename": "x\u001b[2J.gguf", "size": 1, "blobId": "ab"}},
                {{"rfilename": "m.gguf", "size": 5, "blobId": "cd",
                  "lfs": {{"sha256": "ef", "size": 5, "pointerSize": 130}}}}]}}"#
        );
        let repository = Repository::read(text.as_bytes()).unwrap();
        assert_eq!(repository.commit, COMMIT);
        let file = |path: &str, size, sum| File { path: path.into(), size, sum: Some(sum) };
        let files = [
            file("config.json", 12, Sum::Blob("ab".into())),
            file("m.gguf", 5, Sum::Sha256("ef".into())),
        ];
        assert_eq!(repository.files, files);
    }

    #[test]
    fn a_listing_that_says_too_little_is_refused() {
        for text in [
            "",
            "[]",
            "<html>",
            r#"{"siblings": []}"#,
            r#"{"sha": "../../../etc"}"#,
            &format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "x"}}]}}"#),
            &format!(r#"{{"sha": "{COMMIT}", "siblings": [{{"rfilename": "x", "size": -1}}]}}"#),
        ] {
            let error = Repository::read(text.as_bytes()).unwrap_err();
            assert!(matches!(error, FetchError::Contradiction(_)), "{text}");
        }
    }
}
