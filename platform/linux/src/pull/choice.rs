//! Which of a repository's checkpoints is meant.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use rill::size::Size;

use super::hub::File;
use super::{Name, Repository};

/// One of a repository's checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// What the user calls it.
    pub quant: String,
    /// The first file of it; none for the safetensors of the repository's folder.
    file: Option<String>,
    /// Its large files.
    pub files: Vec<File>,
}

/// The checkpoint that `name` means; else a message with a list of those there are.
pub fn choose(name: &Name, repository: &Repository) -> Result<Choice, String> {
    let all = choices(&repository.files);
    let plain = name.path();
    if all.is_empty() {
        return Err(format!("{plain} has neither GGUF files nor safetensors with a config.json"));
    }
    let meant: Vec<&Choice> = match &name.pick {
        None => all.iter().collect(),
        Some(pick) => all.iter().filter(|choice| choice.is(pick)).collect(),
    };
    if let [choice] = meant[..] {
        return Ok(choice.clone());
    }
    let (mut message, listed) = match &name.pick {
        None => (format!("{plain} has several checkpoints; name one:"), &meant),
        Some(pick) if meant.is_empty() => {
            (format!("{plain} has no {pick}; it has:"), &all.iter().collect())
        }
        Some(pick) => (format!("{plain} has several files of {pick}; name one:"), &meant),
    };
    for choice in listed {
        // Of several with the same quant only the file tells which.
        let twice = all.iter().filter(|other| other.quant == choice.quant).count() > 1;
        let name = if twice { choice.file.as_ref() } else { None }.unwrap_or(&choice.quant);
        let _ = write!(message, "\n  rill pull {plain}:{name}  ({})", Size(choice.bytes()));
    }
    Err(message)
}

impl Choice {
    /// Where the packer finds it in the repository at `name`.
    pub fn path(&self, name: &Name) -> PathBuf {
        let root = PathBuf::from(name.path());
        self.file.as_ref().map_or(root.clone(), |file| root.join(file))
    }

    /// What its image is called: as the file, without the number of a part, or as the repository.
    pub fn image(&self, name: &Name) -> PathBuf {
        let stem = match &self.file {
            Some(file) => whole_stem(last(file)),
            None => &name.repository,
        };
        format!("{stem}.rill").into()
    }

    /// Bytes of its large files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// Differs for any two sets of files with other bytes.
    pub fn identity(&self, commit: &str) -> String {
        let mut identity = String::new();
        for File { path, size, sum } in &self.files {
            let _ = match sum {
                Some(sum) => write!(identity, "{path} {size} {sum:?}, "),
                None => write!(identity, "{path} {size} {commit}, "),
            };
        }
        identity
    }

    fn is(&self, pick: &str) -> bool {
        let file = self.file.as_deref().unwrap_or("safetensors");
        self.quant.eq_ignore_ascii_case(pick)
            || [file, last(file), whole_stem(last(file))].contains(&pick)
    }
}

/// All checkpoints of a repository.
fn choices(files: &[File]) -> Vec<Choice> {
    let mut ggufs: BTreeMap<(&str, &str), Vec<File>> = BTreeMap::new();
    for file in files {
        let name = last(&file.path);
        // Parts of models that see or hear, and statistics of activations.
        if !name.ends_with(".gguf") || name.contains("mmproj") || name.contains("imatrix") {
            continue;
        }
        let folder = &file.path[..file.path.len() - name.len()];
        ggufs.entry((folder, whole_stem(name))).or_default().push(file.clone());
    }
    let mut all: Vec<Choice> = ggufs
        .into_iter()
        .map(|((folder, stem), mut files)| {
            files.sort_by(|a, b| a.path.cmp(&b.path));
            let of_folder = || quant(folder.trim_end_matches('/'));
            Choice {
                quant: quant(stem).or_else(of_folder).unwrap_or(stem).into(),
                file: files.first().map(|file| file.path.clone()),
                files,
            }
        })
        .collect();
    all.sort_by(|a, b| (a.bytes(), &a.file).cmp(&(b.bytes(), &b.file)));
    let top = |name: &str| files.iter().any(|file| file.path == name);
    let tensors = |file: &&File| !file.path.contains('/') && file.path.ends_with(".safetensors");
    let files: Vec<File> = files.iter().filter(tensors).cloned().collect();
    if top("config.json") && !files.is_empty() {
        all.push(Choice { quant: "safetensors".into(), file: None, files });
    }
    all
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The name of a GGUF file without its ending and, for a split one, the part's number.
fn whole_stem(name: &str) -> &str {
    let stem = name.strip_suffix(".gguf").unwrap_or(name);
    let number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    match stem.rsplit_once("-of-") {
        Some((front, count)) if number(count) => match front.rsplit_once('-') {
            Some((stem, place)) if number(place) => stem,
            _ => stem,
        },
        _ => stem,
    }
}

/// The quant that a stem ends in, such as `Q4_0`, `UD-Q4_K_XL` or `BF16`.
fn quant(stem: &str) -> Option<&str> {
    let at = stem.rfind(['-', '.', '/']).map_or(0, |at| at + 1);
    let tail = stem[at..].to_ascii_uppercase();
    let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let known = ["IQ", "TQ", "Q"].iter().any(|kind| tail.strip_prefix(kind).is_some_and(digit))
        || ["BF16", "F16", "F32", "FP16", "FP32"].contains(&tail.as_str())
        || tail.starts_with("MXFP4");
    let dynamic =
        at >= 3 && stem.get(at - 3..at).is_some_and(|mark| mark.eq_ignore_ascii_case("UD-"));
    known.then(|| &stem[if dynamic { at - 3 } else { at }..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(files: &[(&str, u64)]) -> Repository {
        let file = |&(path, size): &(&str, u64)| File { path: path.into(), size, sum: None };
        Repository { commit: String::new(), files: files.iter().map(file).collect() }
    }

    fn chosen(name: &str, files: &[(&str, u64)]) -> Result<(String, String), String> {
        let name: Name = name.parse().unwrap();
        let choice = choose(&name, &repository(files))?;
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        Ok((text(choice.path(&name)), text(choice.image(&name))))
    }

    const SOME: [(&str, u64); 7] = [
        ("README.md", 1),
        ("M-Q8_0.gguf", 8 << 20),
        ("M-Q4_0.gguf", 4 << 20),
        ("mmproj-M-F16.gguf", 1),
        ("M-UD-Q4_K_XL.gguf", 5 << 20),
        ("BF16/M-BF16-00002-of-00002.gguf", 10 << 20),
        ("BF16/M-BF16-00001-of-00002.gguf", 10 << 20),
    ];

    #[track_caller]
    fn is(result: Result<(String, String), String>, path: &str, image: &str) {
        assert_eq!(result.unwrap(), (path.to_owned(), image.to_owned()));
    }

    #[test]
    fn a_quant_or_a_file_is_found() {
        is(chosen("o/r:q4_0", &SOME), "o/r/M-Q4_0.gguf", "M-Q4_0.rill");
        is(chosen("o/r:UD-Q4_K_XL", &SOME), "o/r/M-UD-Q4_K_XL.gguf", "M-UD-Q4_K_XL.rill");
        let parts = "o/r/BF16/M-BF16-00001-of-00002.gguf";
        is(chosen("o/r:BF16", &SOME), parts, "M-BF16.rill");
        is(chosen("o/r:M-BF16", &SOME), parts, "M-BF16.rill");
        is(chosen("o/r:BF16/M-BF16-00001-of-00002.gguf", &SOME), parts, "M-BF16.rill");
        is(chosen("o/r", &SOME[..2]), "o/r/M-Q8_0.gguf", "M-Q8_0.rill");
    }

    #[test]
    fn a_folder_is_the_choice_where_nothing_else_is() {
        let folder = [("config.json", 1), ("model.safetensors", 9), ("x/other.safetensors", 9)];
        is(chosen("o/r", &folder), "o/r", "r.rill");
        is(chosen("o/r:safetensors", &folder), "o/r", "r.rill");
        let both = [&folder[..], &SOME[..2]].concat();
        assert!(chosen("o/r", &both).unwrap_err().contains("rill pull o/r:safetensors"));
        is(chosen("o/r:Q8_0", &both), "o/r/M-Q8_0.gguf", "M-Q8_0.rill");
    }

    #[test]
    fn without_one_choice_all_are_listed() {
        let list = "\n  rill pull o/r:Q4_0  (4.0 MiB)\n  rill pull o/r:UD-Q4_K_XL  (5.0 MiB)\n  \
                    rill pull o/r:Q8_0  (8.0 MiB)\n  rill pull o/r:BF16  (20.0 MiB)";
        let several = chosen("o/r", &SOME).unwrap_err();
        assert_eq!(several, format!("o/r has several checkpoints; name one:{list}"));
        let none = chosen("o/r:Q5_0", &SOME).unwrap_err();
        assert_eq!(none, format!("o/r has no Q5_0; it has:{list}"));
        let twins = [("a-Q4_0.gguf", 1), ("b-Q4_0.gguf", 1)];
        let message = chosen("o/r:Q4_0", &twins).unwrap_err();
        assert!(message.contains("several files of Q4_0") && message.contains("o/r:b-Q4_0.gguf"));
        is(chosen("o/r:b-Q4_0.gguf", &twins), "o/r/b-Q4_0.gguf", "b-Q4_0.rill");
        assert!(chosen("o/r", &SOME[..1]).unwrap_err().contains("neither"));
    }
}
