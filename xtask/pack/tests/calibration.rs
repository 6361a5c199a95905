//! Calibration keeps more of a model than plain rounding does, on texts that it did not see; and the
//! packer's own pass over a model is what others compute.

mod common;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rill::image::layout::Format;
use rill::image::{Mixer, PAGE_ALIGN, Section};
use rill_pack::softmax::Softmax;
use rill_pack::stored::Stored;
use rill_pack::texts::{Reader, Text};
use rill_pack::{
    Calibration, Options, PackError, Progress, Quiet, Reference, pack, pack_calibrated,
    pack_new_calibrated,
};
use safetensors::SafeTensors;

use common::tiny::{Random, Tiny};
use common::{Packed, gguf_file, hub_folder, kiosk, run::logits};

/// Files of the kiosk's texts.
fn texts(names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| kiosk().join("texts").join(name)).collect()
}

/// The conversations of a file, each as its messages before the last and the last.
fn conversations(name: &str) -> Vec<[String; 2]> {
    let file = fs::read_to_string(kiosk().join("texts").join(name)).unwrap();
    let split = |line: &str| {
        let messages: Vec<serde_json::Value> = serde_json::from_str(line).unwrap();
        let (answer, question) = messages.split_last().unwrap();
        assert_eq!(answer["role"], "assistant");
        let question: String = question.iter().map(ToString::to_string).collect();
        [question, answer["content"].as_str().unwrap().to_owned()]
    };
    file.lines().map(split).collect()
}

/// What an image's model hears of texts, in windows of 64 tokens.
fn read(packed: &Packed, paths: &[PathBuf]) -> Vec<Text> {
    let manifest = &packed.image.manifest;
    let [tables, template] = [Section::Tokenizer, Section::Template].map(|s| packed.section(s));
    let reader = Reader::new(tables, manifest.shape.vocab, &manifest.chat, template, 64);
    reader.unwrap().read(paths).unwrap()
}

/// The KL divergences of images from their source in f32, token by token, ascending.
fn divergences<const N: usize>(
    source: &Path,
    images: [&Path; N],
    texts: impl Fn(&Packed) -> Vec<Vec<u32>>,
) -> [Vec<f64>; N] {
    let images = images.map(Packed::open);
    let texts = texts(&images[0]);
    let ids: Vec<&[u32]> = texts.iter().map(|ids| &**ids).collect();
    let hidden = Reference::open(source).unwrap().run(&ids, &mut |_, _| ControlFlow::Continue(()));
    let hidden = hidden.unwrap();
    let floats: Vec<Vec<f32>> = (ids.iter().enumerate())
        .flat_map(|(index, ids)| hidden.logits(index, 0..ids.len()))
        .collect();
    images.map(|image| {
        let ours = ids.iter().flat_map(|ids| logits(&image.bytes, None, ids));
        let mut all: Vec<f64> = (floats.iter().zip(ours))
            .map(|(floats, ours)| Softmax::new(floats).divergence(&Softmax::new(&ours)))
            .collect();
        assert_eq!(all.len(), floats.len());
        all.sort_by(f64::total_cmp);
        all
    })
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}

#[test]
fn the_pass_over_a_checkpoint_computes_what_transformers_computes() {
    let folder = kiosk().join("reference");
    let cases: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let ids: Vec<Vec<u32>> = (cases.as_array().unwrap().iter())
        .map(|case| serde_json::from_value(case["ids"].clone()).unwrap())
        .collect();
    let texts: Vec<&[u32]> = ids.iter().map(|ids| &**ids).collect();
    let reference = Reference::open(&kiosk().join("kiosk-16m")).unwrap();
    let layers = Cell::new(0);
    let hidden = reference.run(&texts, &mut |done, of| {
        assert_eq!((done, of), (layers.get(), 10));
        layers.set(done + 1);
        ControlFlow::Continue(())
    });
    let hidden = hidden.unwrap();
    let bytes = fs::read(folder.join("f32.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    for (case, ids) in ids.iter().enumerate() {
        let theirs = tensors.tensor(&format!("case{case}.logits")).unwrap();
        let theirs: Vec<f32> =
            theirs.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let ours = hidden.logits(case, 0..ids.len()).concat();
        assert_eq!(ours.len(), theirs.len());
        let most = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(most < 2e-3, "case {case}: {most}");
    }
    let stopped = reference.run(&texts, &mut |_, _| ControlFlow::Break(()));
    assert!(matches!(stopped, Err(PackError::Cancelled)));
    let beyond = reference.run(&[&[1, 99_999]], &mut |_, _| ControlFlow::Continue(()));
    assert!(beyond.unwrap_err().to_string().contains("token 99999"));
}

#[test]
fn no_text_judges_that_calibration_or_tuning_heard() {
    let (mut known, mut count) = (BTreeSet::new(), 0);
    for name in ["calibration.jsonl", "tuning.jsonl", "held-back.jsonl"] {
        let all = conversations(name);
        assert!(all.len() > 50, "{name}");
        count += 2 * all.len();
        known.extend(all.into_iter().flatten());
    }
    assert_eq!(known.len(), count, "a question or an answer is there twice");
    let lines = |name: &str| -> BTreeSet<String> {
        let text = fs::read_to_string(kiosk().join("texts").join(name)).unwrap();
        text.lines().filter(|line| line.len() > 10).map(str::to_owned).collect()
    };
    assert!(lines("calibration.txt").is_disjoint(&lines("held-back.txt")));
}

#[test]
fn the_kiosk_model_loses_half_on_texts_that_calibration_did_not_see() {
    let folder = tempfile::tempdir().unwrap();
    let source = kiosk().join("kiosk-16m");
    let options = Options { dense: Format::Q4, ..Options::default() };
    let [usual, plain, calibrated] =
        ["usual", "plain", "calibrated"].map(|name| folder.path().join(name));
    pack(&kiosk().join("kiosk-q4_0.gguf"), &usual, &options, &Quiet).unwrap();
    pack(&source, &plain, &options, &Quiet).unwrap();
    let samples = texts(&["calibration.jsonl", "calibration.txt"]);
    let summary =
        pack_calibrated(&source, &calibrated, &options, &Calibration::with(&samples), &Quiet)
            .unwrap();
    let report = summary.calibration.as_ref().unwrap();
    assert_eq!((report.layers.len(), report.left), (10, 0));
    for layer in &report.layers {
        let [plain, chosen] = layer.errors().unwrap();
        assert!(chosen < 0.75 * plain, "{plain} {chosen}");
    }
    let said = summary.to_string();
    assert!(said.contains("calibrated with") && said.contains("layer  9"), "{said}");
    let images = [&*usual, &*plain, &*calibrated];
    for image in images {
        assert_eq!(fs::metadata(image).unwrap().len(), summary.header.file_len);
    }
    // A part of them will do: what is measured here is measured at every change.
    let judges = |packed: &Packed| {
        let texts = read(packed, &texts(&["held-back.jsonl"]));
        texts.into_iter().step_by(4).map(|text| text.ids).collect()
    };
    let [usual, plain, calibrated] = divergences(&source, images, judges).map(|all| {
        let (mean, median, p99) = (mean(&all), all[all.len() / 2], all[all.len() * 99 / 100]);
        println!("KL to float: mean {mean:.2e}, median {median:.2e}, 99th percentile {p99:.2e}");
        (mean, median, p99)
    });
    assert!(calibrated.0 <= 0.5 * usual.0, "{} {}", calibrated.0, usual.0);
    // A hundredth of these tokens are few, and each is an expert chosen otherwise: only the direction is
    // certain.
    assert!(calibrated.2 < usual.2, "{} {}", calibrated.2, usual.2);
    assert!(calibrated.0 < plain.0 && calibrated.1 < 0.6 * plain.1);
}

#[test]
fn random_models_of_odd_shapes_are_never_worse() {
    let shapes = [
        Tiny::default(),
        Tiny {
            hidden: 96,
            expert_ff: 40,
            dense_ff: 112,
            head_dim: 24,
            kv_heads: 1,
            ..Tiny::default()
        },
        Tiny { tied: false, expert_bias: false, experts: 3, top_k: 1, ..Tiny::default() },
        Tiny { dense_layers: 4, ..Tiny::default() },
    ];
    for (index, tiny) in shapes.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let source = at("model");
        hub_folder::write(&source, &tiny.config(), &tiny.tensors());
        let options = Options { experts: Format::Q4, dense: Format::Q4, embedding: Format::Q8 };
        pack(&source, &at("plain"), &options, &Quiet).unwrap();
        let samples = texts(&["calibration.txt"]);
        pack_calibrated(&source, &at("calibrated"), &options, &Calibration::with(&samples), &Quiet)
            .unwrap();
        let [plain, calibrated] = divergences(&source, [&at("plain"), &at("calibrated")], |_| {
            let mut random = Random(7);
            let mut id = || (random.next() % 1600) as u32;
            (0..16).map(|_| (0..32).map(|_| id()).collect()).collect()
        })
        .map(|all| mean(&all));
        println!("shape {index}: KL {plain:.2e} plain, {calibrated:.2e} calibrated");
        assert!(calibrated <= plain, "shape {index}: {calibrated} {plain}");
    }
}

#[test]
fn experts_with_few_samples_are_named_and_no_worse_than_plainly_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (source, tiny) = (at("model"), Tiny::default());
    hub_folder::write(&source, &tiny.config(), &tiny.tensors());
    let options = Options { dense: Format::Q4, ..Options::default() };
    pack(&source, &at("plain"), &options, &Quiet).unwrap();
    fs::write(
        at("few.txt"),
        "Few words are heard here, and each goes to two experts of five.".repeat(2),
    )
    .unwrap();
    let samples = [at("few.txt")];
    let summary =
        pack_calibrated(&source, &at("few"), &options, &Calibration::with(&samples), &Quiet)
            .unwrap();
    let report = summary.calibration.as_ref().unwrap();
    // Fewer tokens than inputs: no expert can have enough.
    assert!(report.tokens < tiny.hidden);
    for (index, layer) in report.layers.iter().enumerate() {
        let experts = if index < tiny.dense_layers { 0 } else { tiny.experts };
        assert_eq!(layer.few.len(), experts);
        let routed: usize = layer.few.iter().map(|(_, tokens)| tokens).sum();
        assert_eq!(routed, if experts == 0 { 0 } else { report.tokens * tiny.top_k });
    }
    let (expert, tokens) = report.layers[tiny.dense_layers].few[0];
    let said = summary.to_string();
    assert!(
        said.contains(&format!("few samples for experts {expert} ({tokens} tokens)")),
        "{said}"
    );
    let [plain, few] = divergences(&source, [&at("plain"), &at("few")], |_| {
        let mut random = Random(11);
        let mut id = || (random.next() % 1600) as u32;
        (0..16).map(|_| (0..32).map(|_| id()).collect()).collect()
    })
    .map(|all| mean(&all));
    assert!(few <= plain, "{few} {plain}");
    // Those with twice as many as inputs are not named.
    let samples = texts(&["calibration.jsonl"]);
    let summary =
        pack_calibrated(&source, &at("many"), &options, &Calibration::with(&samples), &Quiet)
            .unwrap();
    let layers = summary.calibration.unwrap().layers;
    assert!(
        layers.iter().flat_map(|layer| &layer.few).all(|(_, tokens)| *tokens < 2 * tiny.hidden)
    );
}

/// Bytes of an image in these formats.
fn size_in(source: &Path, format: Format) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { experts: format, dense: format, embedding: format };
    pack(source, &folder.path().join("k.rill"), &options, &Quiet).unwrap().header.file_len
}

#[test]
fn a_size_is_kept_to_and_spent_where_int4_loses_most() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (source, samples) = (kiosk().join("kiosk-16m"), texts(&["calibration.txt"]));
    let packed = |name: &str, size| {
        let calibration = Calibration { texts: &samples, target_size: Some(size) };
        let options = Options::default();
        let summary = pack_calibrated(&source, &at(name), &options, &calibration, &Quiet).unwrap();
        assert!(summary.header.file_len <= size, "{name}");
        assert_eq!(fs::metadata(at(name)).unwrap().len(), summary.header.file_len);
        summary
    };
    // The very least leaves nothing to spend.
    let summary = packed("least", size_in(&source, Format::Q4));
    let mix = summary.mix.as_ref().unwrap();
    assert!(mix.choices.iter().all(|choice| !choice.int8));
    // Two for each mixer, two for each dense part, the embedding and the experts' two.
    assert_eq!(mix.choices.len(), 10 * 2 + 2 * 2 + 3);
    assert!(mix.tokens > 1500, "{}", mix.tokens);
    assert!(mix.choices.iter().all(|choice| choice.loss > 0.0 && choice.loss < 0.1));

    // As large as with an embedding of int4 and all else that is resident in int8.
    let named = Options { embedding: Format::Q4, ..Options::default() };
    let calibration = Calibration::with(&samples);
    let size = pack_calibrated(&source, &at("named"), &named, &calibration, &Quiet).unwrap();
    let summary = packed("mix", size.header.file_len);
    let mix = summary.mix.as_ref().unwrap();
    let spent = summary.header.file_len - fs::metadata(at("least")).unwrap().len();
    let larger = mix.choices.iter().filter(|choice| choice.int8);
    // But for what is aligned.
    assert!(spent.abs_diff(larger.map(|choice| choice.bytes).sum()) < 2 * PAGE_ALIGN as u64);
    let said = summary.to_string();
    assert!(said.contains("mix for") && said.contains("layer 9 mixer output"), "{said}");
    let manifest = Packed::open(&at("mix")).image.manifest;
    let said_to_be = |name: &str| {
        let choice = mix.choices.iter().find(|choice| choice.name == name).unwrap();
        if choice.int8 { Format::Q8 } else { Format::Q4 }
    };
    assert_eq!(manifest.embedding, said_to_be("embedding"));
    assert_eq!(manifest.page_gate_up, said_to_be("experts' gate and up"));
    assert_eq!(manifest.page_down, said_to_be("experts' down"));
    let Mixer::Conv { in_proj, out_proj } = manifest.layers[0].mixer else { panic!() };
    assert_eq!(in_proj, said_to_be("layer 0 mixer input"));
    assert_eq!(out_proj, said_to_be("layer 0 mixer output"));

    let judges = |packed: &Packed| {
        let texts = read(packed, &texts(&["held-back.jsonl"]));
        texts.into_iter().step_by(8).map(|text| text.ids).collect()
    };
    let images = ["least", "named", "mix"].map(at);
    let [least, named, mix] = divergences(&source, images.each_ref().map(|p| &**p), judges)
        .map(|all| (mean(&all), all[all.len() / 2]));
    println!("KL, mean and median: {least:?} at least, {named:?} as named, {mix:?} mixed");
    assert!(mix.0 < 0.75 * named.0 && mix.1 < 0.25 * named.1);
    assert!(mix.0 < 0.5 * least.0);
}

#[test]
fn a_size_that_leaves_no_choice_is_refused_with_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let (source, samples) = (kiosk().join("kiosk-16m"), texts(&["calibration.txt"]));
    let [least, most] = [Format::Q4, Format::Q8].map(|format| size_in(&source, format));
    let error = |size| {
        let calibration = Calibration { texts: &samples, target_size: Some(size) };
        let output = folder.path().join("k.rill");
        pack_calibrated(&source, &output, &Options::default(), &calibration, &Quiet).unwrap_err()
    };
    let small = error(least - 1);
    assert!(matches!(small, PackError::Small { least: l, .. } if l == least), "{small}");
    assert!(small.to_string().contains("name a larger size"), "{small}");
    let large = error(most);
    assert!(matches!(large, PackError::Large { most: m, .. } if m == most), "{large}");
    assert!(large.to_string().contains("--experts q8"), "{large}");
    assert_eq!(names(folder.path()).len(), 0);
}

#[test]
fn int8_sources_are_calibrated_and_int4_ones_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (source, tiny) = (at("tiny.gguf"), Tiny::default());
    let small = |name: &str| name.contains("ffn_down_exps") || name.contains("attn_q");
    let stored = |name: &str| if small(name) { Stored::Q4_0 } else { Stored::Q8_0 };
    gguf_file::write(
        &source,
        &gguf_file::metadata(&tiny),
        &gguf_file::tensors(tiny.tensors(), stored),
    );
    let samples = texts(&["calibration.txt"]);
    let calibration = Calibration::with(&samples);
    let summary =
        pack_calibrated(&source, &at("k.rill"), &Options::default(), &calibration, &Quiet).unwrap();
    for (name, tensor) in &summary.report.tensors {
        let experts = name.contains("_exps");
        assert_eq!(tensor.format, if experts { Format::Q4 } else { Format::Q8 }, "{name}");
        let rounded = experts && tensor.stored == Stored::Q8_0;
        assert_eq!(tensor.relative_rms.is_some(), rounded, "{name}");
    }
    // Without texts nothing is rounded that need not be.
    let summary = pack(&source, &at("k.rill"), &Options::default(), &Quiet).unwrap();
    assert!(summary.report.tensors.values().all(|tensor| tensor.relative_rms.is_none()));
}

/// Stops when calibration has come so far, and notes where it began.
struct Until {
    /// Of calibration.
    done: usize,
    began: Cell<Option<usize>>,
    /// Of the choice of formats.
    chosen: usize,
    /// How often it heard of that.
    chose: Cell<usize>,
}

impl Until {
    fn done(done: usize) -> Self {
        Self { done, began: Cell::new(None), chosen: usize::MAX, chose: Cell::new(0) }
    }
}

impl Progress for Until {
    fn choose(&self, done: usize, of: usize) -> ControlFlow<()> {
        assert!(done < of);
        self.chose.set(self.chose.get() + 1);
        if done >= self.chosen { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn calibrate(&self, done: usize, of: usize) -> ControlFlow<()> {
        assert!(done <= of);
        if self.began.get().is_none() {
            self.began.set(Some(done));
        }
        if done >= self.done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn start(&self, _: u64) {}

    fn advance(&self, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Stops when it hears for the second time that this much is done.
struct Twice {
    done: usize,
    heard: Cell<bool>,
}

impl Progress for Twice {
    fn calibrate(&self, done: usize, _: usize) -> ControlFlow<()> {
        if done == self.done && self.heard.replace(true) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }

    fn start(&self, _: u64) {}

    fn advance(&self, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

#[test]
fn calibration_can_be_stopped_while_the_head_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let (source, output) = (kiosk().join("kiosk-16m"), folder.path().join("k.rill"));
    let progress = Twice { done: 10, heard: Cell::new(false) };
    let samples = texts(&["calibration.txt"]);
    let stopped = pack_calibrated(
        &source,
        &output,
        &Options::default(),
        &Calibration::with(&samples),
        &progress,
    );
    assert!(matches!(stopped, Err(PackError::Cancelled)));
    assert!(
        !names(folder.path()).iter().any(|path| path.extension().is_some_and(|e| e == "layers"))
    );
}

fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn an_attempt_goes_on_after_its_last_finished_layer_and_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (source, whole) = (kiosk().join("kiosk-16m"), folder.path().join("whole.rill"));
    let (options, samples) = (Options::default(), texts(&["calibration.txt"]));
    pack_calibrated(&source, &whole, &options, &Calibration::with(&samples), &Quiet).unwrap();
    let expected = fs::read(&whole).unwrap();
    let other = tempfile::tempdir().unwrap();
    let output = other.path().join("k.rill");
    // Ten for the first pass, two dense layers of 2, then 33 for each of the others.
    for (until, from) in [(4, 0), (13, 0), (14 + 33 + 7, 12), (14 + 2 * 33, 14 + 33)] {
        let progress = Until::done(until);
        let stopped =
            pack_calibrated(&source, &output, &options, &Calibration::with(&samples), &progress);
        assert!(matches!(stopped, Err(PackError::Cancelled)));
        assert_eq!(progress.began.get(), Some(from));
        assert!(!output.exists());
    }
    // A state that is damaged, or pieces that are, are made again.
    let state = |folder: &Path| {
        names(folder).into_iter().find(|path| path.extension().is_some_and(|e| e == "layers"))
    };
    let mut bytes = fs::read(state(other.path()).unwrap()).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(state(other.path()).unwrap(), &bytes).unwrap();
    let progress = Until::done(15);
    let stopped =
        pack_calibrated(&source, &output, &options, &Calibration::with(&samples), &progress);
    assert!(matches!(stopped, Err(PackError::Cancelled)));
    assert_eq!(progress.began.get(), Some(0));
    pack_calibrated(&source, &output, &options, &Calibration::with(&samples), &Quiet).unwrap();
    assert!(fs::read(&output).unwrap() == expected);
    assert!(names(other.path()) == [&*output]);
    // Other texts are another attempt, and other bytes.
    let samples = texts(&["held-back.txt"]);
    pack_new_calibrated(&source, &output, &options, &Calibration::with(&samples), &Quiet).unwrap();
    assert!(fs::read(&output).unwrap() != expected);
}

#[test]
fn only_an_image_of_the_same_model_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("k.rill");
    let samples = texts(&["held-back.txt"]);
    fs::write(&output, "mine").unwrap();
    let refused = pack_new_calibrated(
        &kiosk().join("kiosk-16m"),
        &output,
        &Options::default(),
        &Calibration::with(&samples),
        &Quiet,
    );
    assert!(matches!(refused, Err(PackError::Output(_))));
    assert_eq!(fs::read(&output).unwrap(), b"mine");
    assert_eq!(names(folder.path()), [&*output]);
}

#[test]
fn formats_are_chosen_once_whatever_stops_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, output] = ["whole", "k"].map(|name| folder.path().join(name).join("k.rill"));
    let (source, samples) = (kiosk().join("kiosk-16m"), texts(&["calibration.txt"]));
    let calibration = Calibration { texts: &samples, target_size: Some(11_000_000) };
    let attempt = |output: &Path, progress: &dyn Progress| {
        fs::create_dir_all(output.parent().unwrap()).unwrap();
        pack_calibrated(&source, output, &Options::default(), &calibration, progress)
    };
    let expected = attempt(&whole, &Quiet).unwrap();
    let stopped = Until { chosen: 3, ..Until::done(usize::MAX) };
    assert!(matches!(attempt(&output, &stopped), Err(PackError::Cancelled)));
    assert_eq!((stopped.chose.get(), stopped.began.get()), (4, None));
    let later = Until::done(15);
    assert!(matches!(attempt(&output, &later), Err(PackError::Cancelled)));
    assert!(later.chose.get() > 10 && later.began.get() == Some(0));
    // What was measured is there now.
    let last = Until::done(usize::MAX);
    let summary = attempt(&output, &last).unwrap();
    assert_eq!((last.chose.get(), last.began.get()), (0, Some(14)));
    assert_eq!(summary, expected);
    assert!(fs::read(&output).unwrap() == fs::read(&whole).unwrap());
    assert_eq!(names(output.parent().unwrap()), [&*output]);
}

#[test]
fn what_cannot_help_is_refused_and_nothing_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (source, output) = (kiosk().join("kiosk-16m"), at("k.rill"));
    fs::write(&output, "mine").unwrap();
    let said = |source: &Path, name: &str, content: &[u8]| {
        fs::write(at(name), content).unwrap();
        let options = Options::default();
        let error =
            pack_calibrated(source, &output, &options, &Calibration::with(&[at(name)]), &Quiet)
                .unwrap_err();
        assert_eq!(fs::read(&output).unwrap(), b"mine");
        error.to_string()
    };
    let line = |content: &str| said(&source, "t.jsonl", content.as_bytes());
    assert!(line("\"fine\"\n{").contains("line 2: not JSON"));
    assert!(line("7").contains("line 1: give a string"));
    assert!(line("[]").contains("without messages"));
    assert!(line("[{\"role\": \"user\"}]").contains("`content`"));
    assert!(line("[{\"role\": \"pirate\", \"content\": \"ho\"}]").contains("pirate"));
    assert!(said(&source, "t.txt", b"").contains("fewer than 32 tokens"));
    assert!(said(&source, "t.txt", b"ab\xff").contains("not UTF-8 from byte 2"));
    let gguf = kiosk().join("kiosk-q4_0.gguf");
    let content = "some text ".repeat(100);
    assert!(said(&gguf, "t.txt", content.as_bytes()).contains("nothing to calibrate"));
    let missing = [at("missing.txt")];
    let error = pack_calibrated(
        &source,
        &output,
        &Options::default(),
        &Calibration::with(&missing),
        &Quiet,
    );
    assert!(error.unwrap_err().to_string().contains("missing.txt cannot be read"));
}
