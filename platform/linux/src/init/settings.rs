//! What the program is told.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Settings that came with the appliance.
const SHIPPED: &str = "/etc/rill.conf";
/// Settings of whoever runs it, in the place of the shipped ones.
const OWN: &str = "/state/rill.conf";

/// Options of `rill chat`, as a settings file has them.
pub fn arguments() -> Vec<String> {
    let path = match is_owners(Path::new(OWN)) {
        Some(true) => OWN,
        Some(false) => {
            eprintln!("note: {OWN} is not read: others than its owner may write it");
            SHIPPED
        }
        None => SHIPPED,
    };
    match fs::read_to_string(path) {
        Ok(text) => parse(&text),
        Err(error) => {
            eprintln!("note: {path}: {error}");
            Vec::new()
        }
    }
}

/// Whether a file is this user's and nobody else writes it; `None` without one.
fn is_owners(path: &Path) -> Option<bool> {
    let found = fs::symlink_metadata(path).ok()?;
    let owner = found.uid() == rustix::process::geteuid().as_raw();
    Some(found.is_file() && owner && found.mode() & 0o022 == 0)
}

/// Reads lines `name = value`, or `name = true` for options that take no value; lines that begin
/// with `#` say nothing.
fn parse(text: &str) -> Vec<String> {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut arguments = Vec::new();
    for line in lines {
        let (name, value) = line.split_once('=').unwrap_or((line, "true"));
        arguments.push(format!("--{}", name.trim()));
        if value.trim() != "true" {
            arguments.push(value.trim().to_owned());
        }
    }
    arguments
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn settings_are_what_their_owner_alone_writes() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link] = ["rill.conf", "link"].map(|name| folder.path().join(name));
        assert_eq!(is_owners(&file), None);
        fs::write(&file, "ram = 64MiB\n").unwrap();
        symlink("rill.conf", &link).unwrap();
        for (mode, expected) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_owners(&file), Some(expected), "{mode:o}");
        }
        assert_eq!(is_owners(&link), Some(false));
        assert_eq!(is_owners(folder.path()), Some(false));
    }

    #[test]
    fn settings_become_options() {
        let text = "# comment\n\nram = 64MiB\nsystem = Say x = y.\ngreedy = true\nno-lookahead\n";
        let expected = ["--ram", "64MiB", "--system", "Say x = y.", "--greedy", "--no-lookahead"];
        assert_eq!(parse(text), expected);
    }
}
