//! `rill quality`: how far an image is from what it was made of.

use std::path::Path;

use rill_tests::kiosk::{self, Q8};
use rill_tests::program::rill;

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary names are UTF-8")
}

/// An ExecuTorch program whose segments are these bytes.
fn program_of(segments: &[u8]) -> Vec<u8> {
    const BASE: usize = 1 << 14;
    let mut program = vec![0; 4];
    program.extend(b"ET12eh00");
    program.extend(32_u32.to_le_bytes());
    for word in [64, BASE, segments.len()] {
        program.extend((word as u64).to_le_bytes());
    }
    program.resize(BASE, 0);
    program.extend(segments);
    program
}

#[test]
fn an_image_is_compared_with_another_and_with_its_source() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (int4, int8, plot) = (at("int4.rill"), at("int8.rill"), at("quality.svg"));
    std::fs::write(&int4, kiosk::default_image()).unwrap();
    std::fs::write(&int8, kiosk::image("kiosk-16m", Q8)).unwrap();
    let [held, more] =
        ["held-back.txt", "held-back.jsonl"].map(|name| kiosk::path("texts").join(name));
    let source = kiosk::path("kiosk-16m");
    let quality = |image: &Path, against: &Path, options: &[&str]| {
        let fixed = ["quality", "-m", text(image), "--against", text(against), text(&held)];
        rill(&[&fixed, options].concat())
    };

    let itself = quality(&int4, &int4, &["--json"]).json();
    assert_eq!(itself["all"]["same"], 1.0);
    assert!(itself["all"]["mean"].as_f64().unwrap() < 1e-12);
    assert_eq!(itself["all"]["perplexity"], itself["all"]["reference_perplexity"]);

    // An image within an ExecuTorch program is an image.
    let program = at("int4.pte");
    std::fs::write(&program, program_of(kiosk::default_image())).unwrap();
    assert_eq!(quality(&int4, &program, &["--json"]).json(), itself);
    std::fs::write(&program, program_of(&[0; 1 << 14])).unwrap();
    quality(&int4, &program, &[]).fails(1, &["holds no Rill model"]);

    let mean = |image: &Path, against: &Path| {
        let found = quality(image, against, &["--json", "-c", "64"]).json();
        let [all, texts, positions] = ["all", "texts", "positions"].map(|key| found[key].clone());
        let counted = |list: &serde_json::Value| -> u64 {
            let list = list.as_array().unwrap().iter();
            list.map(|entry| entry["figures"]["tokens"].as_u64().unwrap()).sum()
        };
        assert!(texts.as_array().unwrap().len() > 5);
        assert_eq!(positions[1]["first"], 16);
        assert_eq!(all["tokens"], counted(&texts));
        assert_eq!(all["tokens"], counted(&positions));
        assert!(all["median"].as_f64() < all["p99"].as_f64());
        assert!(all["same"].as_f64().unwrap() > 0.9);
        all["mean"].as_f64().unwrap()
    };
    let [far, near] = [&int4, &int8].map(|image| mean(image, &source));
    assert!(0.0 < near && near < far && far < 0.1, "{near} {far}");
    assert!(mean(&int4, &int8) > 0.0);

    let table = quality(&int4, &source, &[text(&more), "--plot", text(&plot)]).ok();
    for part in ["mean KL", " all |", "held-back.jsonl", "tokens 17 to 32"] {
        assert!(table.contains(part), "{table}");
    }
    assert!(std::fs::read_to_string(&plot).unwrap().contains("KL divergence"));

    let empty = at("empty.txt");
    std::fs::write(&empty, "").unwrap();
    let against = ["--against", text(&source)];
    rill(&[&["quality", "-m", text(&int4)], &against[..], &[text(&empty)]].concat())
        .fails(2, &["too few tokens"]);
    rill(&[&["quality", "-m", text(&int4)], &against[..], &["missing"]].concat())
        .fails(2, &["missing cannot be read"]);
    quality(&int4, &held, &[]).fails(1, &["not a GGUF file"]);
}
