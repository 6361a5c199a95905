//! The budget is the whole truth: a process never uses more RAM than `--ram` allows, its page tables
//! counted, and what is set aside for them is what the kernel takes.
//!
//! One test, so that nothing else in its process allocates or decides over huge pages.

use std::fs;
use std::path::Path;

use rill_linux::arena::Arena;
use rill_linux::engine::Overhead;
use rill_tests::kiosk;
use rill_tests::process::status_bytes;
use rill_tests::program::rill;
use rustix::thread::disable_transparent_huge_pages;
use serde_json::Value;

const PROMPT: &str = "Tell me a story about a fox and a kite.";

#[test]
fn nothing_is_used_beyond_the_budget_with_huge_pages_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let image = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let kiosk = image("kiosk.rill", kiosk::default_image());
    // 768 bytes a position: 192 MiB of keys and values.
    let long = image("long.rill", kiosk::of_context(1 << 18));
    // The setting goes to the programs that this process starts.
    for off in [false, true] {
        disable_transparent_huge_pages(off).unwrap();
        the_kernel_takes_what_is_set_aside_for_page_tables();
        for extra in [&["-t", "1", "--io", "threads"][..], &["-t", "5"]] {
            within(&kiosk, extra);
        }
        within(&long, &["-c", "262144"]);
    }
}

fn the_kernel_takes_what_is_set_aside_for_page_tables() {
    const LEN: usize = 256 << 20;
    let before = page_tables();
    let arena = Arena::new(LEN, 1).unwrap();
    let taken = page_tables() - before;
    let parts = Overhead::default().parts(arena.len() as u64);
    let (_, aside) = parts.into_iter().find(|(name, _)| *name == "page tables").unwrap();
    assert!(taken <= aside && taken * 16 >= aside * 15, "{taken} of {aside} bytes");
}

/// Bytes of this process's page tables.
fn page_tables() -> u64 {
    status_bytes("self", "VmPTE")
}

/// Runs the program with the least budget that works and the most of any use.
#[track_caller]
fn within(image: &Path, extra: &[&str]) {
    let image = ["-m", image.to_str().unwrap()];
    let bytes = |json: &Value, field: &str| json[field].as_u64().unwrap();
    let plan = rill(&[&["plan", "--ram", "4GiB", "--json"], &image[..], extra].concat()).json();
    let [least, most] = ["least_bytes", "most_bytes"].map(|field| bytes(&plan, field));
    for ram in [least, most] {
        let text = ram.to_string();
        let run = ["run", "--json", "--ram", &text, "-n", "8"];
        let report = rill(&[&run, &image[..], extra, &[PROMPT]].concat()).json();
        assert!(bytes(&report, "budget_bytes") <= ram);
        let peak = bytes(&report, "peak_resident_bytes");
        assert!(peak <= ram, "{peak} bytes used of {ram}: {report}");
        let parts: u64 =
            report["overhead"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
        assert_eq!(bytes(&report, "arena_bytes") + parts, bytes(&report, "budget_bytes"));
    }
}
