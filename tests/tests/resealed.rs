//! Images, conversations and side files of any content under right checksums: each ends in an error
//! or an answer. Never a panic, a read out of bounds, or a run without an end.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rill::image::checksum;
use rill_tests::kiosk;
use rill_tests::program::{Run, rill, rill_with_input};
use rill_tests::reseal::{Draw, Sound, run};
use rill_tests::rig::arena;

/// Images that are drawn.
const IMAGES: u64 = 6_000;
/// An arena that runs most small models, with few or all of their experts.
const ARENA: u64 = 1 << 20;
/// Files of each kind that the program is given.
const FILES: u64 = 12;

#[test]
fn any_image_with_right_checksums_ends_in_an_error_or_an_answer() {
    let sound = Sound::default();
    let memory = arena(ARENA);
    let mut ends = BTreeMap::new();
    for seed in 1..=IMAGES {
        let end = catch_unwind(AssertUnwindSafe(|| {
            let mut draw = Draw::seeded(seed);
            let drawn = sound.draw(&mut draw);
            run(&drawn, &mut draw, memory)
        }));
        let end = end.unwrap_or_else(|_| panic!("seed {seed}"));
        *ends.entry(end).or_insert(0) += 1;
    }
    for (end, times) in &ends {
        println!("{times:>6} {end}");
    }
    // Every check was met, and what passes them all was run.
    let checks = ["open: Header", "open: Manifest", "open: Length", "plan: ", "load: ", "answered"];
    for check in checks {
        let times: i32 =
            ends.iter().filter(|(end, _)| end.starts_with(check)).map(|(_, times)| times).sum();
        assert!(times >= 20, "{check}: {times} of {IMAGES}");
    }
}

/// The first layers of the kiosk model in a folder of its own.
fn image(folder: &Path) -> PathBuf {
    let image = folder.join("kiosk.rill");
    fs::write(&image, kiosk::first_layers(4)).unwrap();
    image
}

/// Any change to a file, with the checksum at its end made right.
fn reseal(sound: &[u8], seed: u64) -> Vec<u8> {
    let mut draw = Draw::seeded(seed);
    let (body, _) = sound.split_last_chunk::<8>().expect("a checksum ends it");
    let mut body = body.to_vec();
    for _ in 0..1 + draw.below(8) {
        // What decides over the rest comes first.
        let end = if draw.one_in(2) { body.len().min(64) } else { body.len() };
        let at = draw.below(end as u64) as usize;
        match draw.below(6) {
            0 => body.truncate(at.max(1)),
            1 => body.extend(vec![0x7f; at]),
            2 => body[at..].iter_mut().take(4).for_each(|byte| *byte = 0xff),
            _ => body[at] ^= 1 << draw.below(8),
        }
    }
    let sum = checksum(&body);
    [body, sum.to_le_bytes().to_vec()].concat()
}

/// The run ended by itself: with an answer, or with an error that is told.
fn ended(run: &Run, seed: u64) {
    let told = run.status == Some(0) || run.err.contains("error");
    assert!(run.status.is_some() && told, "seed {seed}: {run:?}");
    assert!(!run.err.contains("panicked") && run.status != Some(101), "seed {seed}: {run:?}");
}

#[test]
fn any_side_file_with_a_right_checksum_changes_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path());
    let model = image.display().to_string();
    let args = ["run", "-m", &model, "--ram", "24MiB", "--temp", "0", "-n", "8", "--save-pages"];
    let ask = || rill(&[&args[..], &["Where is the station?"]].concat());
    let expected = ask().ok();
    let files: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| *path != image)
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    assert!(files.len() >= 2, "uses and pages are kept: {files:?}");
    for (sound, path) in &files {
        for seed in 1..=FILES {
            fs::write(path, reseal(sound, seed)).unwrap();
            assert_eq!(ask().ok(), expected, "{}, seed {seed}", path.display());
        }
    }
}

#[test]
fn any_known_beginnings_with_a_right_checksum_end_in_an_error_or_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let model = image(folder.path()).display().to_string();
    let args = ["run", "-m", &model, "--ram", "24MiB", "-n", "8", "-c", "128"];
    let args = [&args[..], &["--keep-beginnings", "4MiB", "Where is the station?"]].concat();
    rill(&args).ok();
    let file = folder.path().join("kiosk.rill.beginnings");
    let sound = fs::read(&file).unwrap();
    for seed in 1..=FILES {
        fs::write(&file, reseal(&sound, seed)).unwrap();
        ended(&rill(&args), seed);
    }
}

#[test]
fn any_conversation_with_a_right_checksum_ends_in_an_error_or_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let model = image(folder.path()).display().to_string();
    let file = folder.path().join("talk");
    let args = ["chat", "-m", &model, "--ram", "24MiB", "-n", "8", "-c", "128"];
    let name = file.display();
    rill_with_input(&args, &format!("Where is the station?\n/save {name}\n")).ok();
    let sound = fs::read(&file).unwrap();
    for seed in 1..=FILES {
        fs::write(&file, reseal(&sound, seed)).unwrap();
        ended(&rill_with_input(&args, &format!("/load {name}\nAnd the park?\n/stats\n")), seed);
    }
}
