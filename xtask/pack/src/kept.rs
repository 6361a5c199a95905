//! Files beside an image under way that are there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// What the name of one has more while it is written.
const NEW: &str = ".new";

/// The path with this ending more.
pub fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

/// Has `fill` write a file in the place of an earlier one.
pub fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let new = beside(path, NEW);
    let mut file = BufWriter::new(File::create(&new)?);
    fill(&mut file)?;
    file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
    fs::rename(&new, path)
}

/// Removes one, and what is left of one that was being written.
pub fn remove(path: &Path) {
    // It is of no use to an image that is complete or given up.
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(beside(path, NEW));
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_there_whole_or_as_before_and_goes_with_what_is_left_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k.kept");
        write(&path, |file| file.write_all(b"one")).unwrap();
        let cut = write(&path, |file| {
            file.write_all(b"tw")?;
            Err(io::ErrorKind::Other.into())
        });
        assert!(cut.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"one");
        remove(&path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
