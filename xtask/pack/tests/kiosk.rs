//! The kiosk model, packed from both kinds of checkpoint, against its sources.

mod common;

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use common::truth::{ceiling, differences};
use common::{Packed, gguf_file, hub_folder, kiosk};
use rill::image::layout::Format;
use rill_pack::{Class, Options, PackError, Progress, Quiet, pack};

#[test]
fn a_gguf_of_q4_0_and_q8_0_is_carried_over_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (kiosk().join("kiosk-q4_0.gguf"), folder.path().join("k.rill"));
    let summary = pack(&source, &image, &Options::default(), &Quiet).unwrap();
    let packed = Packed::open(&image);
    assert_eq!(packed.image.manifest, summary.manifest);
    assert_eq!(packed.image.header, summary.header);
    let found = differences(&packed, &gguf_file::read(&source));
    assert_eq!(found.len(), 57);
    for (name, (rms, format)) in found {
        let expected = if name == "token_embd.weight" { Format::Q8 } else { Format::Q4 };
        assert_eq!((rms, format), (0.0, expected), "{name}");
        assert_eq!(summary.report.tensors[&name].relative_rms, None);
    }
    // Asking for more bits adds none.
    let options = Options { experts: Format::Q8, dense: Format::Q8, embedding: Format::Q4 };
    let again = folder.path().join("again.rill");
    pack(&source, &again, &options, &Quiet).unwrap();
    assert!(fs::read(&image).unwrap() == fs::read(&again).unwrap());
}

#[test]
fn a_hub_folder_is_quantised_within_the_reported_error() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("k.rill");
    let source = kiosk().join("kiosk-16m");
    let truth = hub_folder::read_tensors(&source.join("model.safetensors"));
    let truth = gguf_file::tensors(truth, |_| rill_pack::stored::Stored::F32);
    for experts in [Format::Q4, Format::Q8] {
        let options = Options { experts, dense: experts, ..Options::default() };
        let summary = pack(&source, &image, &options, &Quiet).unwrap();
        let packed = Packed::open(&image);
        for (name, (rms, format)) in differences(&packed, &truth) {
            // Single experts may be a little worse than all together.
            assert!(rms > 0.0 && rms < 1.15 * ceiling(format), "{name}: {rms}");
        }
        let manifest = &packed.image.manifest;
        assert_eq!([manifest.page_gate_up, manifest.page_down], [experts; 2]);
        let rms = summary.report.relative_rms(Class::Experts).unwrap();
        assert!(rms < ceiling(experts), "{rms}");
        let embedding = summary.report.relative_rms(Class::Embedding).unwrap();
        let measured = differences(&packed, &truth)["token_embd.weight"].0;
        assert!((embedding - measured).abs() < 1e-9);
    }
}

#[test]
fn both_sources_describe_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let open = |source: &str| {
        let image = folder.path().join("k.rill");
        pack(&kiosk().join(source), &image, &Options::default(), &Quiet).unwrap();
        Packed::open(&image)
    };
    let (hub, gguf) = (open("kiosk-16m"), open("kiosk-q4_0.gguf"));
    assert_eq!(hub.image.manifest.shape, gguf.image.manifest.shape);
    assert_eq!(hub.image.manifest.chat, gguf.image.manifest.chat);
    assert_eq!(hub.image.manifest.sampling, gguf.image.manifest.sampling);
    // GGUF does not say whether whole pieces win over merges. It makes no difference here.
    let tokenizer = rill::image::Section::Tokenizer;
    assert!(hub.section(tokenizer) == gguf.section(tokenizer));
}

#[test]
fn packing_again_gives_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, threads| {
        let image = folder.path().join(name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let report = pool.install(|| {
            pack(&kiosk().join("kiosk-16m"), &image, &Options::default(), &Quiet).unwrap().report
        });
        (fs::read(image).unwrap(), report)
    };
    let (one, two) = (make("one.rill", 1), make("two.rill", 3));
    assert!(one.0 == two.0);
    assert_eq!(one.1, two.1);
}

/// Stops after a number of bytes.
struct StopAfter(AtomicU64, u64);

impl Progress for StopAfter {
    fn start(&self, _: u64) {}
    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        if self.0.fetch_add(bytes, Ordering::Relaxed) + bytes > self.1 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

#[test]
fn an_interrupted_pack_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("k.rill");
    fs::write(&image, "the old one").unwrap();
    for after in [0, 300, 100_000, 5_000_000] {
        let stop = StopAfter(AtomicU64::new(0), after);
        let source = kiosk().join("kiosk-q4_0.gguf");
        let result = pack(&source, &image, &Options::default(), &stop);
        assert!(matches!(result, Err(PackError::Cancelled)));
        only(folder.path(), "k.rill");
        assert_eq!(fs::read(&image).unwrap(), b"the old one");
    }
}

/// Asserts that a folder holds one file.
fn only(folder: &Path, name: &str) {
    let entries = fs::read_dir(folder).unwrap();
    let names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, [name]);
}

#[test]
fn a_cut_source_is_refused_at_every_length() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("k.rill");
    let whole = fs::read(kiosk().join("kiosk-q4_0.gguf")).unwrap();
    let cut = folder.path().join("cut.gguf");
    for len in (0..200).chain((200..whole.len()).step_by(whole.len() / 97)) {
        fs::write(&cut, &whole[..len]).unwrap();
        let error = pack(&cut, &image, &Options::default(), &Quiet).unwrap_err();
        let expected = if len < 4 { "not a GGUF file" } else { "ends inside" };
        assert!(error.to_string().contains(expected), "{len}: {error}");
        only(folder.path(), "cut.gguf");
    }
    fs::remove_file(&cut).unwrap();

    let source = kiosk().join("kiosk-16m");
    let weights = fs::read(source.join("model.safetensors")).unwrap();
    let copy = folder.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for entry in fs::read_dir(&source).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    for len in (0..20).chain((20..weights.len()).step_by(weights.len() / 37)) {
        fs::write(copy.join("model.safetensors"), &weights[..len]).unwrap();
        let error = pack(&copy, &image, &Options::default(), &Quiet).unwrap_err();
        assert!(error.to_string().contains("model.safetensors is damaged"), "{len}: {error}");
        only(folder.path(), "copy");
    }
}
