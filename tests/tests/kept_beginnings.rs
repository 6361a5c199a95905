//! `--keep-beginnings`: what a run knew of conversations, the next one knows, and nothing that lies in
//! the file's place ends a run or changes what it says.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rill_tests::kiosk;
use rill_tests::program::{Run, path, rill};
use serde_json::Value;

const SYSTEM: &str = "You are the guide of a small museum of clocks and of maps. You answer in one \
    short sentence, you know where everything is, and you never speak of prices.";

/// An image in a folder of its own.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(image: &[u8]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.file("model.rill"), image).unwrap();
        folder
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Where what is known is kept.
    fn kept(&self) -> PathBuf {
        self.file("model.rill.beginnings")
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    fn args(&self, question: &str, extra: &[&str]) -> Vec<String> {
        let model = self.file("model.rill").display().to_string();
        let args = ["run", "--json", "--greedy", "-n", "6", "--ram", "96MiB", "-c", "256"];
        let more = ["-m", &model, "--system", SYSTEM];
        let all = [&args[..], &more, extra, &[question]].concat();
        all.into_iter().map(str::to_owned).collect()
    }

    fn ask(&self, question: &str, extra: &[&str]) -> Run {
        let args = self.args(question, extra);
        rill(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

const KEEP: [&str; 2] = ["--keep-beginnings", "8MiB"];

fn said(output: &Value) -> &Value {
    assert!(output["text"].is_string(), "{output}");
    &output["text"]
}

fn number(output: &Value, name: &str) -> u64 {
    output[name].as_u64().unwrap_or_else(|| panic!("{name} in {output}"))
}

#[test]
fn what_was_known_before_a_restart_is_known_after_it() {
    let folder = Folder::new(kiosk::default_image());
    let right = folder.ask("Where is the lift?", &[]).json();
    assert!(!folder.kept().exists());
    let first = folder.ask("Where is the lift?", &KEEP).json();
    assert_eq!(number(&first, "reused_tokens"), 0);
    assert_eq!(fs::metadata(folder.kept()).unwrap().permissions().mode() & 0o777, 0o600);
    let second = folder.ask("Where is the lift?", &KEEP).json();
    // All of the prompt but its last token, which gives the first of the answer.
    assert_eq!(number(&second, "reused_tokens"), number(&first, "prompt_tokens") - 1);
    let third = folder.ask("When do you close?", &KEEP).json();
    assert!(number(&third, "reused_tokens") > 20, "{third}");
    let without = folder.ask("When do you close?", &[]).json();
    assert_eq!([said(&first), said(&second)], [said(&right); 2]);
    assert_eq!(said(&third), said(&without));

    // In a folder of its own, which survives where images do not.
    let state = tempfile::tempdir().unwrap();
    let state = [&KEEP[..], &["--state", state.path().to_str().unwrap()]].concat();
    assert_eq!(number(&folder.ask("Hello", &state).json(), "reused_tokens"), 0);
    assert!(number(&folder.ask("Hello", &state).json(), "reused_tokens") > 0);
}

#[test]
fn the_file_is_as_small_as_is_asked() {
    let folder = Folder::new(kiosk::default_image());
    folder.ask("Where is the lift?", &KEEP).ok();
    let size = fs::metadata(folder.kept()).unwrap().len();
    for (most, is_less) in [(size, false), (size - 1, true), (1, true)] {
        fs::remove_file(folder.kept()).unwrap();
        folder.ask("Where is the lift?", &["--keep-beginnings", &most.to_string()]).ok();
        let len = fs::metadata(folder.kept()).unwrap().len();
        // An empty one says as little as it can.
        assert!(len <= most.max(128) && (len < size) == is_less, "{len} of {most}");
    }
    // What is larger than is asked for now is known, and as much of it kept as there is room for.
    folder.ask("Where is the lift?", &KEEP).ok();
    folder.ask("When do you close?", &KEEP).ok();
    let large = fs::metadata(folder.kept()).unwrap().len();
    for (most, is_kept) in [(large - 1, true), (1, false), (1, false)] {
        let small = folder.ask("When do you close?", &["--keep-beginnings", &most.to_string()]);
        assert!(!small.err.contains("of conversations"), "{small:?}");
        small.ok();
        let len = fs::metadata(folder.kept()).unwrap().len();
        assert!(len <= most.max(128), "{len} of {most}");
        assert_eq!(len > 128, is_kept);
    }
    rill(&["run", "--keep-beginnings", "much", "hi"]).fails(2, &["--keep-beginnings"]);
    let built_in = rill(&["run", "--keep-beginnings", "1MiB", "-n", "1", "hi"]);
    assert!(built_in.err.contains("built in"), "{built_in:?}");
    built_in.ok();
}

#[test]
fn what_is_not_this_models_or_damaged_or_of_others_is_refused() {
    let folder = Folder::new(kiosk::default_image());
    let right = folder.ask("Where is the lift?", &KEEP).json();
    let sound = fs::read(folder.kept()).unwrap();
    let flipped = |at: usize| {
        let mut bytes = sound.clone();
        bytes[at] ^= 1;
        bytes
    };
    let contents = [
        (Vec::new(), "none of this"),
        (b"RILLTALK\x01".to_vec(), "none of this"),
        (sound[..sound.len() / 2].to_vec(), "damaged"),
        (sound[..sound.len() - 1].to_vec(), "damaged"),
        ([&sound[..], b"\0"].concat(), "damaged"),
        (flipped(8), "none of this"),
        (flipped(16), "another model"),
        (flipped(32), "damaged"),
        (flipped(sound.len() / 2), "damaged"),
        (flipped(sound.len() - 1), "damaged"),
    ];
    let refused = |run: Run, why: &str| {
        assert!(run.err.contains("not used") && run.err.contains(why), "{why}: {run:?}");
        let output = run.json();
        assert_eq!(number(&output, "reused_tokens"), 0, "{why}");
        assert_eq!(said(&output), said(&right), "{why}");
    };
    for (bytes, why) in contents {
        fs::write(folder.kept(), &bytes).unwrap();
        fs::set_permissions(folder.kept(), Permissions::from_mode(0o600)).unwrap();
        refused(folder.ask("Where is the lift?", &KEEP), why);
        assert_eq!(fs::read(folder.kept()).unwrap(), sound, "a good one takes its place");
    }
    fs::set_permissions(folder.kept(), Permissions::from_mode(0o666)).unwrap();
    refused(folder.ask("Where is the lift?", &KEEP), "others may have written it");

    // What another image knew, and this one in another format.
    let other = Folder::new(kiosk::first_layers(4));
    fs::copy(folder.kept(), other.kept()).unwrap();
    let foreign = other.ask("Where is the lift?", &KEEP);
    assert!(foreign.err.contains("another model"), "{foreign:?}");
    foreign.ok();
    let format = folder.ask("Where is the lift?", &[&KEEP[..], &["--kv", "int8"]].concat());
    assert!(format.err.contains("kept as f16"), "{format:?}");
    format.ok();

    // What is no file of this program's is neither read nor replaced.
    fs::rename(folder.kept(), folder.file("elsewhere")).unwrap();
    symlink("elsewhere", folder.kept()).unwrap();
    let link = folder.ask("Where is the lift?", &KEEP);
    assert!(link.err.contains("not used") && link.err.contains("is a link"), "{link:?}");
    assert_eq!(said(&link.json()), said(&right));
    assert!(fs::symlink_metadata(folder.kept()).unwrap().is_symlink());
}

#[test]
fn what_has_no_room_leaves_what_was_there() {
    let folder = Folder::new(kiosk::default_image());
    folder.ask("Where is the lift?", &KEEP).ok();
    let before = fs::read(folder.kept()).unwrap();
    assert!(before.len() > 64 << 10, "{} bytes", before.len());
    // No file may be longer than 16 KiB.
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 32; exec \"$@\"", "sh"]).arg(path());
    let refused = command.args(folder.args("And the maps?", &KEEP)).output().unwrap();
    assert!(refused.status.success(), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("is not kept") && said.contains("File too large"), "{said}");
    assert_eq!(fs::read(folder.kept()).unwrap(), before);
    let is_remains = |name: &String| Path::new(name).to_string_lossy().contains(".part-");
    assert_eq!(folder.names().iter().filter(|name| is_remains(name)).count(), 0);
    let next = folder.ask("And the maps?", &KEEP).json();
    assert!(number(&next, "reused_tokens") > 20, "{next}");
}
