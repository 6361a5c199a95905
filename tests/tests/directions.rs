//! The engine's modules stand on each other in one direction: each uses those only that its front page
//! names before it.

use std::fs;
use std::path::{Path, PathBuf};

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/src")
}

/// The words in backquotes of the front page's list, in order.
fn order(front_page: &str) -> Vec<String> {
    let lines = front_page.lines().skip_while(|line| !line.contains("In reading order"));
    let list: String = lines.take_while(|line| line.starts_with("//!")).collect();
    let words = list.split('`').skip(1).step_by(2);
    words.map(|word| word.trim_start_matches("mod@").to_owned()).collect()
}

/// Modules of the crate that a file names outside of its tests and comments.
fn named(code: &str) -> Vec<String> {
    let code = code.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let is_name = |letter: char| letter.is_ascii_lowercase() || letter == '_';
    let names = lines.flat_map(|line| line.split("crate::").skip(1));
    names.map(|rest| rest.chars().take_while(|&letter| is_name(letter)).collect()).collect()
}

fn files(at: &Path) -> Vec<PathBuf> {
    if at.is_file() {
        return vec![at.to_owned()];
    }
    let entries = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| files(&path)).collect()
}

#[test]
fn modules_of_the_engine_use_those_before_them() {
    let front_page = fs::read_to_string(source().join("lib.rs")).unwrap();
    let order = order(&front_page);
    let mut checked = 0;
    for line in front_page.lines() {
        let Some((_, module)) = line.split_once("mod ").filter(|_| line.ends_with(';')) else {
            continue;
        };
        let module = module.trim_end_matches(';');
        let place = |name: &str| order.iter().position(|other| other == name);
        let own = place(module).unwrap_or_else(|| panic!("the front page does not name {module}"));
        let folder = source().join(module);
        let file = source().join(format!("{module}.rs"));
        for path in files(if folder.is_dir() { &folder } else { &file }) {
            for name in named(&fs::read_to_string(&path).unwrap()) {
                if fs::exists(source().join(format!("{name}.rs"))).unwrap()
                    || source().join(&name).is_dir()
                {
                    let before = place(&name).is_some_and(|other| other <= own);
                    assert!(before, "{} uses {name}, which comes after it", path.display());
                    checked += 1;
                }
            }
        }
    }
    assert!(checked > 50, "{checked} uses were looked at");
}
