//! The `rill` program as a whole: what it prints, what it says when something is wrong, and its
//! exit status.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rill::image::{Image, Section};
use rill_tests::program::{path, rill, rill_with_input};
use rill_tests::{kiosk, rig};
use serde_json::Value;

/// The kiosk image in a folder of its own.
struct Kiosk {
    folder: tempfile::TempDir,
}

impl Kiosk {
    fn new() -> Self {
        Self::of(kiosk::default_image())
    }

    fn of(image: &[u8]) -> Self {
        let kiosk = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(kiosk.path(), image).unwrap();
        kiosk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("kiosk.rill")
    }

    /// The image with a change, beside the intact one.
    fn changed(&self, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let path = self.folder.path().join("changed.rill");
        let mut bytes = kiosk::default_image().to_vec();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn image() -> Image {
    rig::open(kiosk::default_image()).unwrap()
}

fn bytes_of(plan: &Value, field: &str) -> u64 {
    plan[field].as_u64().unwrap()
}

/// A prompt of the reference outputs.
const PROMPT: &str = "Tell me a story about a fox and a kite.";

#[test]
fn a_wrong_path_is_named() {
    rill(&["inspect", "-m", "/nonexistent.rill"]).fails(1, &["/nonexistent.rill", "No such file"]);
    rill(&["run", "-m", "/tmp", "hi"]).fails(1, &["/tmp", "directory"]);
}

#[test]
fn what_is_no_image_is_refused() {
    let kiosk = Kiosk::new();
    let note = kiosk.file("note.txt", &"no image ".repeat(10_000));
    rill(&["inspect", "-m", text(&note)]).fails(1, &["note.txt", "rill pack"]);
    // A pipe that nobody writes to is not waited for.
    let pipe = kiosk.folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for other in [text(&pipe), "/dev/zero", "/dev/null"] {
        for command in ["inspect", "verify", "plan", "run", "chat"] {
            rill(&[command, "-m", other]).fails(1, &[other, "neither a file nor a disk"]);
        }
    }
}

#[test]
fn a_truncated_image_is_refused_by_every_command() {
    let kiosk = Kiosk::new();
    for len in [0, 100, 40_000, kiosk::default_image().len() - 1] {
        let cut = kiosk.changed(|bytes| bytes.truncate(len));
        let ids = kiosk.file("ids.txt", "1 2 3");
        let (cut, ids) = (text(&cut), text(&ids));
        for args in [
            &["inspect", "-m", cut][..],
            &["verify", "-m", cut],
            &["plan", "-m", cut],
            &["tokenize", "-m", cut, "hi"],
            &["run", "-m", cut, "hi"],
            &["bench", "-m", cut],
            &["logits", "-m", cut, "--ids", ids, "--out", "/dev/null"],
        ] {
            rill(args).fails(1, &["changed.rill", "copy it again"]);
        }
    }
}

#[test]
fn wrong_options_are_usage_errors() {
    for (args, part) in [
        (&["run", "--temp", "-1", "hi"][..], "--temp"),
        (&["run", "--min-p", "1", "hi"], "below 1"),
        (&["run", "--ram", "much", "hi"], "900MiB"),
        (&["run", "--kernels", "abacus", "hi"], "scalar"),
        (&["run", "--greedy", "--temp", "1", "hi"], "--temp"),
        (&["run", "--greedy", "--top-n-sigma", "1", "hi"], "--top-n-sigma"),
        (&["run", "--top-n-sigma", "-1", "hi"], "at least 0"),
        (&["run", "--presence-penalty", "2.5", "hi"], "from -2 to 2"),
        (&["run", "--logit-bias", "5", "hi"], "42=-1.5"),
        (&["run", "--logit-bias", "5=much", "hi"], "number"),
        (&["run", "--min-tokens", "few", "hi"], "--min-tokens"),
        (&["run", "--logprobs", "5", "hi"], "--json"),
        (&["run", "--json", "--logprobs", "21", "hi"], "20"),
        (&["run", "-t", "0", "hi"], "0"),
        (&["run", "-t", "100000", "hi"], "1..=1024"),
        (&["plan", "-t", "100000"], "1..=1024"),
        (&["doctor", "-t", "100000"], "1..=1024"),
        (&["run", "--kv", "int4", "hi"], "int8"),
        (&["plan", "--frobnicate"], "--frobnicate"),
        (&["bench", "-p", "0", "-n", "0"], "nothing to measure"),
        (&["bench", "-r", "0"], "0"),
        (&["bench", "-p", "18446744073709551615"], "18446744073709551615"),
        (&["bench", "-p", "4294967295", "-n", "1"], "-p and -n are more than 4294967295 together"),
        (&["run", "--stop", "", "hi"], "--stop: a stop string must not be empty"),
        (&["run", "--stop", &"x".repeat(65), "hi"], "--stop: a stop string has at most 64 bytes"),
        (&[&["run", "hi"][..], &["--stop=x"; 9]].concat(), "--stop: there are at most 8"),
        (&["run", "-m", "nowhere.rill", "--file", "Cargo.toml", "--stop", ""], "--stop: "),
        (&["chat", "-m", "nowhere.rill", "--stop", ""], "--stop: "),
        (&["dance"], "dance"),
        (&[], "Usage"),
    ] {
        rill(args).fails(2, &[part]);
    }
    rill(&["run", "-c", "1000000", "hi"]).fails(1, &["1000000", "2048"]);
}

#[test]
fn help_has_examples() {
    for args in [&["--help"][..], &["run", "--help"], &["bench", "--help"], &["plan", "--help"]] {
        assert!(rill(args).ok().contains("Examples:"));
    }
    assert!(rill(&["chat", "--help"]).ok().contains("/reset"));
}

#[test]
fn conversations_share_room_for_as_many_tokens_as_are_named() {
    let plan = |more: &[&str]| {
        let args = ["plan", "--json", "--ram", "100MiB", "-c", "512", "--conversations", "4"];
        rill(&[&args, more].concat()).json()
    };
    let parts = |plan: &Value| plan["parts"]["keys and values"].as_u64().unwrap();
    let (all, some) = (plan(&[]), plan(&["--kv-tokens", "1000"]));
    assert_eq!([&all, &some].map(|plan| bytes_of(plan, "kv_tokens")), [2048, 1024]);
    assert_eq!(parts(&all), 2 * parts(&some));
    let few = ["plan", "-c", "512", "--kv-tokens", "511"];
    rill(&few).fails(1, &["511 tokens is less than one conversation may have, 512"]);
}

#[test]
fn a_plan_adds_up_and_its_least_is_the_least() {
    let plan = rill(&["plan", "--ram", "100MiB", "--json"]).json();
    let parts: u64 = plan["parts"].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum();
    assert_eq!(parts, bytes_of(&plan, "arena_bytes"));
    assert_eq!(parts + bytes_of(&plan, "overhead_bytes"), bytes_of(&plan, "total_bytes"));
    let beside = plan["overhead"].as_object().unwrap();
    let sum: u64 = beside.values().map(|v| v.as_u64().unwrap()).sum();
    assert_eq!(sum, bytes_of(&plan, "overhead_bytes"));
    for name in ["program", "built-in model", "threads", "page tables"] {
        assert!(beside[name].as_u64().unwrap() > 0, "{name}");
    }
    let threads =
        |n| rill(&["plan", "-t", n, "--json"]).json()["overhead"]["threads"].as_u64().unwrap();
    assert_eq!(threads("8"), 8 * threads("1"));
    assert_eq!(bytes_of(&plan, "slots"), bytes_of(&plan, "pages"));
    assert_eq!(bytes_of(&plan, "cycle_pages"), 32);

    let least = bytes_of(&plan, "least_bytes");
    let at_least = rill(&["plan", "--ram", &least.to_string(), "--json"]).json();
    assert_eq!(bytes_of(&at_least, "slots"), 4);
    assert_eq!(bytes_of(&at_least, "total_bytes"), least);
    let below = (least - 1).to_string();
    for args in [&["plan", "--ram", &below][..], &["run", "--ram", &below, "hi"]] {
        rill(args).fails(1, &["below the least that works", "MiB", "(-c, --kv-tokens)"]);
    }
    let serve = bytes_of(&plan, "serve_least_bytes");
    assert!(serve > least);
    let below = (serve - 1).to_string();
    rill(&["serve", "--listen", "127.0.0.1:0", "--ram", &below])
        .fails(1, &["below the least that works", "the server itself takes", "--connections"]);
    let batch = ["plan", "--batch", "64", "--json"];
    let with_batch = bytes_of(&rill(&batch).json(), "least_bytes");
    assert!(with_batch > least);
    rill(&[&batch[..], &["--ram", &with_batch.to_string()]].concat()).ok();
    rill(&[&batch[..], &["--ram", &(with_batch - 1).to_string()]].concat()).fails(1, &["below"]);
    // Beside 32 elements of 2 bytes, 32 of 1 byte and a scale of 2.
    let key_values = |plan: &Value| bytes_of(&plan["parts"], "keys and values");
    let int8 = rill(&["plan", "--ram", "100MiB", "--kv", "int8", "--json"]).json();
    assert_eq!(key_values(&int8) * 64, key_values(&plan) * 34);
    assert!(bytes_of(&int8, "least_bytes") < least);
    assert_eq!([&plan["kv"], &int8["kv"]], ["f16", "int8"]);
    rill(&["run", "--ram", "0", "hi"]).fails(1, &["budget 0 B"]);
    // Each conversation has the keys and values of a context, by blocks of 64 tokens.
    let of = |conversations: &str| {
        let args =
            ["plan", "--ram", "100MiB", "-c", "500", "--conversations", conversations, "--json"];
        rill(&args).json()
    };
    let (one, three) = (of("1"), of("3"));
    assert_eq!(key_values(&three), 3 * key_values(&one));
    assert!(
        bytes_of(&three["parts"], "conversations") > 2 * bytes_of(&one["parts"], "conversations")
    );
    assert!(bytes_of(&three, "least_bytes") > bytes_of(&one, "least_bytes"));
    assert_eq!(three["conversations"], 3);
    let table = rill(&["plan", "--ram", &least.to_string()]).ok();
    assert!(table.contains("every token reads flash"), "{table}");
}

#[test]
fn inspect_shows_shape_sections_and_kernels() {
    let shown = rill(&["inspect"]).ok();
    for part in ["192", "8 banks of 32", "resident weights", "a token uses"] {
        assert!(shown.contains(part), "no `{part}` in {shown}");
    }
    let json = rill(&["inspect", "--json"]).json();
    assert_eq!(json["manifest"]["shape"]["hidden"], 192);
    assert_eq!(bytes_of(&json, "file_bytes"), kiosk::default_image().len() as u64);
    // 3 attention layers, 2 heads of 32, keys and values of 2 bytes.
    assert_eq!(bytes_of(&json, "kv_bytes_per_token"), 3 * 2 * 32 * 2 * 2);
    assert_eq!(bytes_of(&json, "kv_bytes_per_token_int8"), 3 * 2 * (32 + 2) * 2);
    let kernels = rill(&["inspect", "--kernels"]).ok();
    assert_eq!(kernels.lines().last(), Some("scalar"));
}

#[test]
fn the_built_in_model_is_the_kiosk_model_as_calibration_rounds_it() {
    let kiosk = Kiosk::of(kiosk::built_in_image());
    let built_in = rill(&["inspect", "--json"]).ok();
    assert_eq!(built_in, rill(&["inspect", "--json", "-m", text(&kiosk.path())]).ok());
}

#[test]
fn tokenize_gives_the_reference_ids() {
    let cases = fs::read_to_string(kiosk::path("reference/cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    assert!(!cases.is_empty());
    for case in &cases {
        let rendered = case["text"].as_str().unwrap();
        let ids = rill_with_input(&["tokenize", "--special", "-"], rendered).json();
        assert_eq!(ids, case["ids"], "{rendered}");
    }
    assert_eq!(rill(&["tokenize", ""]).ok(), "[]\n");
    // Without --special a control token's name is text.
    let ids = rill(&["tokenize", "<|im_end|>"]).json();
    assert!(ids.as_array().unwrap().len() > 1);
}

#[test]
fn verify_names_what_is_damaged() {
    let kiosk = Kiosk::new();
    let path = kiosk.path();
    assert!(rill(&["verify", "-m", text(&path)]).ok().contains("every checksum is right"));
    assert!(rill(&["verify"]).ok().contains("every checksum is right"));

    let image = image();
    let page = image.page_offset(70);
    let last_of_page = page + image.page_shape().unwrap().down_at() as u64;
    let resident = image.header.span(Section::Resident);
    let tokenizer = image.header.span(Section::Tokenizer);
    let sums = image.header.span(Section::PageSums);
    for (at, name) in [
        (page, "expert 6 of bank 2"),
        (last_of_page, "expert 6 of bank 2"),
        (resident.offset + resident.len / 2, "resident weights"),
        (tokenizer.end() - 1, "tokenizer"),
        (sums.offset, "page checksums"),
    ] {
        let damaged = kiosk.changed(|bytes| bytes[at as usize] ^= 1);
        let run = rill(&["verify", "-m", text(&damaged)]);
        assert!(run.out.contains(name), "{run:?}");
        run.fails(1, &["1 part is damaged"]);
    }
    let manifest = image.header.span(Section::Manifest).offset as usize;
    for (at, part) in [(0, "not a Rill image"), (30, "header"), (manifest + 3, "manifest")] {
        let damaged = kiosk.changed(|bytes| bytes[at] ^= 1);
        rill(&["verify", "-m", text(&damaged)]).fails(1, &[part]);
    }
}

#[test]
fn a_damaged_page_ends_a_run_with_its_name() {
    let kiosk = Kiosk::new();
    let image = image();
    let damaged = kiosk.changed(|bytes| {
        for page in 0..image.manifest.pages() as u32 {
            bytes[image.page_offset(page) as usize] ^= 1;
        }
    });
    rill(&["run", "-m", text(&damaged), "hi"]).fails(1, &["MoE layer", "expert", "copy it again"]);
}

#[test]
fn an_answer_does_not_depend_on_budget_cores_source_or_back_end() {
    let kiosk = Kiosk::of(kiosk::built_in_image());
    let path = kiosk.path();
    // Threads take RAM as well: the most that any of the runs has.
    let busy = ["-c", "512", "-t", "3", "--io", "threads"];
    let plan = rill(&[&["plan", "--json", "-m", text(&path)][..], &busy].concat()).json();
    let [least, most] = ["least_bytes", "most_bytes"].map(|field| bytes_of(&plan, field));
    let answer = rill(&["run", "--greedy", PROMPT]).ok();
    assert!(answer.trim().len() > 20, "{answer}");
    for (ram, extra) in [
        (least, &["-t", "1"][..]),
        (least, &["--io", "threads", "-t", "3"]),
        ((least + most) / 2, &["--policy", "lru"]),
        (most, &["-t", "2"]),
    ] {
        let ram = ram.to_string();
        let mut args = vec!["run", "--greedy", "-c", "512", "-m", text(&path), "--ram", &ram];
        args.extend(extra);
        args.push(PROMPT);
        assert_eq!(rill(&args).ok(), answer, "{args:?}");
    }
    // Neither on where the prompt comes from.
    assert_eq!(rill_with_input(&["run", "--greedy", "-"], PROMPT).ok(), answer);
    assert_eq!(rill_with_input(&["run", "--greedy"], PROMPT).ok(), answer);
}

#[test]
fn run_reports_where_the_time_went() {
    let report = rill(&["run", "--json", "-n", "5", PROMPT]).json();
    assert_eq!(report["ending"], "max_tokens");
    assert_eq!(report["generated_tokens"], 5);
    assert_eq!(report["prompt_tokens"].as_u64().map(|n| n > 20), Some(true));
    assert!(report["prompt"]["page_misses"].as_u64().unwrap() > 0);
    assert!(!report["text"].as_str().unwrap().is_empty());
    let run = rill(&["run", "--stats", "-n", "5", PROMPT]);
    assert!(run.err.contains("tokens/s") && run.err.contains("hits"), "{run:?}");
    assert!(run.err.contains("--ram"), "the chosen budget is said: {run:?}");
}

#[test]
fn an_answer_ends_before_a_stop_text_and_depends_on_the_seed_only_when_sampled() {
    let answer = rill(&["run", "--greedy", PROMPT]).ok();
    let word = answer.split_whitespace().nth(5).unwrap();
    let cut = rill(&["run", "--greedy", "--stop", word, PROMPT]).ok();
    assert_eq!(cut.trim_end_matches('\n'), answer.split(word).next().unwrap());
    rill(&["run", "--stop", "", PROMPT]).fails(2, &["stop string"]);

    let sampled = |seed: &str| {
        rill(&["run", "--temp", "2", "--min-p", "0", "-n", "24", "--seed", seed, PROMPT]).ok()
    };
    assert_eq!(sampled("1"), sampled("1"));
    assert_ne!(sampled("1"), sampled("2"));
}

#[test]
fn a_raw_prompt_that_begins_with_the_begin_token_gets_one() {
    let tokens = |prompt: &str| {
        let run = rill(&["run", "--raw", "--greedy", "-n", "8", "--json", prompt]).json();
        (run["prompt_tokens"].as_u64().unwrap(), run["text"].clone())
    };
    let (count, text) = tokens(PROMPT);
    assert_eq!(tokens(&format!("<|startoftext|>{PROMPT}")), (count, text));
    assert_eq!(tokens(&format!("<|startoftext|><|startoftext|>{PROMPT}")).0, count + 1);
}

#[test]
fn a_full_context_is_said() {
    let run = rill(&["run", "--raw", "-c", "40", "--greedy", PROMPT]);
    assert_eq!(run.status, Some(0));
    let long = "word ".repeat(100);
    rill(&["run", "-c", "40", &long]).fails(1, &["tokens, the context 40: shorten it", "-c"]);
}

#[test]
fn a_conversation_is_held_and_its_commands_work() {
    let input = format!("{PROMPT}\n/stats\n/reset\n/dance\n\n{PROMPT}\n/help\n/quit\nnever read\n");
    let run = rill_with_input(&["chat", "--greedy"], &input);
    let answer = rill(&["run", "--greedy", PROMPT]).ok();
    let out = run.ok();
    assert_eq!(out.matches(answer.trim()).count(), 2, "{out}");
    for part in ["tokens/s", "\nforgotten\n", "no command `/dance`", "forget it and begin anew"] {
        assert!(out.contains(part), "no `{part}` in {out}");
    }
    // The end of the input ends it too.
    assert_eq!(rill_with_input(&["chat"], "").status, Some(0));
}

#[test]
fn a_full_conversation_can_be_reset() {
    let input = format!("{}\n/reset\n{PROMPT}\n", "word ".repeat(100));
    let run = rill_with_input(&["chat", "--greedy", "-c", "60"], &input);
    assert!(run.err.contains("/reset"), "{run:?}");
    assert!(!run.ok().trim().is_empty());
}

#[test]
fn logits_are_the_same_for_every_batch_and_budget() {
    let kiosk = Kiosk::new();
    let ids = kiosk.file("ids.txt", "1 6 386 274 206 458\n424 266 333 375\t266 796");
    let write = |name: &str, extra: &[&str]| {
        let out = kiosk.folder.path().join(name);
        let experts = kiosk.folder.path().join(format!("experts-{name}"));
        let (ids, out_text, experts_text) = (text(&ids), text(&out), text(&experts));
        let mut args = vec!["logits", "--ids", ids, "--out", out_text, "--experts", experts_text];
        args.extend(extra);
        rill(&args).ok();
        [fs::read(out).unwrap(), fs::read(experts).unwrap()]
    };
    let [logits, experts] = write("a.npy", &[]);
    assert_eq!(logits.len(), 128 + 12 * 2048 * 4);
    assert!(logits.starts_with(b"\x93NUMPY"));
    assert_eq!(experts.len(), 128 + 8 * 12 * 4);
    assert!(experts[128..].chunks(4).all(|four| four.is_sorted() && four[3] < 32));
    for (name, extra) in [("b.npy", &["--batch", "1"][..]), ("c.npy", &["--batch", "5", "-t", "3"])]
    {
        assert!(write(name, extra) == [logits.clone(), experts.clone()], "{extra:?}");
    }
    let run = |content: &str| {
        let ids = kiosk.file("bad.txt", content);
        rill(&["logits", "--ids", text(&ids), "--out", "/dev/null"])
    };
    run("1 999999").fails(1, &["999999", "vocabulary"]);
    run("1 two").fails(2, &["two", "bad.txt"]);
    run("").fails(2, &["no token ids"]);
}

#[test]
fn perplexity_of_what_the_model_learned_is_low() {
    let kiosk = Kiosk::new();
    let cases = fs::read_to_string(kiosk::path("reference/cases.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&cases).unwrap();
    let learned: String = cases
        .iter()
        .map(|case| case["greedy_text"].as_str().unwrap())
        .collect::<Vec<_>>()
        .join(" ");
    let measure = |name: &str, content: &str| {
        let file = kiosk.file(name, content);
        rill(&["perplexity", "--json", text(&file)]).json()["perplexity"].as_f64().unwrap()
    };
    let noise: String = (0..2000_u32).map(|i| char::from(b'a' + (i * i % 23) as u8)).collect();
    let (learned, noise) = (measure("learned.txt", &learned), measure("noise.txt", &noise));
    assert!(learned > 1.0 && learned * 10.0 < noise, "{learned} and {noise}");
    let empty = kiosk.file("empty.txt", "");
    rill(&["perplexity", text(&empty)]).fails(2, &["too few tokens"]);
}

#[test]
fn bench_measures_what_it_is_asked() {
    let kiosk = Kiosk::new();
    let ids = kiosk.file("ids.txt", "1 6 386 274 206");
    let args = ["bench", "-p", "8", "-n", "4", "-r", "2", "--ids", text(&ids)];
    let table = rill(&args).ok();
    for part in ["| ", "t/s", "pp8", "tg4 @ d8", "±"] {
        assert!(table.contains(part), "no `{part}` in {table}");
    }
    let rows = rill(&[&args[..], &["--json"]].concat()).json();
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(rows[1]["test"], "tg4 @ d8");
    assert_eq!(rows[1]["samples_tokens_per_second"].as_array().unwrap().len(), 2);
}

#[test]
fn bench_feeds_all_that_it_divides_by() {
    let kiosk = Kiosk::new();
    // What repeats is guessed, and right.
    let ids = kiosk.file("ids.txt", "5");
    let args = ["bench", "-p", "64", "-n", "200", "-r", "2", "--ids", text(&ids), "--json"];
    for more in [&["--draft"][..], &["--draft", "--conversations", "3"], &["--conversations", "3"]]
    {
        let rows = rill(&[&args[..], more].concat()).json();
        for row in rows.as_array().unwrap() {
            let asked = 2 * bytes_of(row, "tokens") * bytes_of(row, "conversations");
            assert_eq!(bytes_of(row, "fed_tokens"), asked, "{more:?}: {row}");
        }
    }
    rill(&[&args[..], &["-c", "128"]].concat()).fails(1, &["128", "264 are needed", "-c"]);
    // Beginnings that are kept are shared where that is asked for.
    let more = ["--conversations", "3", "--prefixes", "4"];
    let rows = rill(&[&args[..], &more].concat()).json();
    assert!(bytes_of(&rows[2], "fed_tokens") < 2 * 64 * 3, "{rows}");
}

#[test]
fn bench_measures_what_forms_cost() {
    let args = ["bench", "-p", "4", "-n", "4", "-r", "1", "--forms"];
    let rows = rill(&[&args[..], &["--json"]].concat()).json();
    let rows = rows.as_array().unwrap();
    let names: Vec<&str> = rows[2..].iter().map(|row| row["form"].as_str().unwrap()).collect();
    assert!(names.starts_with(&["json_schema", "json_object", "lark", "gbnf"]), "{names:?}");
    for row in &rows[2..] {
        assert!(bytes_of(row, "form_tokens") > 10 && row["share_of_token"].as_f64() > Some(0.0));
    }
    // The names of a schema's fields are the only ones that may come.
    assert!(bytes_of(&rows[2], "forced_tokens") > 20, "{rows:?}");
    let table = rill(&args).ok();
    assert!(table.contains("of a token's time") && table.contains("json_schema"), "{table}");
    rill(&["bench", "-p", "4", "-n", "0", "--forms"]).fails(2, &["--forms", "-n"]);
}

#[test]
fn bench_measures_one_conversation_and_several_together() {
    let size = ["-c", "128", "--batch", "32", "--conversations", "4", "--json"];
    let least = bytes_of(&rill(&[&["plan"][..], &size].concat()).json(), "least_bytes").to_string();
    // Reads on a guess depend on how long reads take.
    let args = ["bench", "-p", "32", "-n", "8", "-r", "1", "--no-lookahead", "--ram", &least];
    let rows = rill(&[&args[..], &size].concat()).json();
    let rows = rows.as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!(names, ["pp32", "tg8 @ d32", "pp32 x4", "tg8 @ d32 x4"]);
    let conversations: Vec<u64> = rows.iter().map(|row| bytes_of(row, "conversations")).collect();
    assert_eq!(conversations, [1, 1, 4, 4]);
    // A page is read once a step, however many wait for it: of 32 experts, 4 rows with 4 each want
    // 13.2 in the mean where chance decides.
    let read = |row: &Value| row["read_bytes_per_token"].as_f64().unwrap();
    assert!(read(&rows[3]) > 0.0 && read(&rows[3]) < 0.95 * read(&rows[1]), "{rows:?}");
}

#[test]
fn pack_writes_the_image_it_is_asked_for_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = kiosk::path("kiosk-q4_0.gguf");
    let image = folder.path().join("made.rill");
    let said = rill(&["pack", text(&source), "-o", text(&image)]).ok();
    assert!(said.contains("made.rill"), "{said}");
    rill(&["verify", "-m", text(&image)]).ok();

    let whole = fs::read(&source).unwrap();
    let cut = folder.path().join("cut.gguf");
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let before = fs::read(&image).unwrap();
    rill(&["pack", text(&cut), "-o", text(&image)]).fails(1, &["cut.gguf"]);
    assert_eq!(fs::read(&image).unwrap(), before, "what was there is lost");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "a half file is left");
}

#[test]
fn a_sweep_measures_budgets_side_by_side() {
    let kiosk = Kiosk::new();
    let (image, plot) = (kiosk.path(), kiosk.folder.path().join("sweep.svg"));
    let args = ["bench", "-m", text(&image), "-p", "8", "-n", "2", "-r", "1", "--json"];
    let sweep = ["--sweep-ram", "--plot", text(&plot)];
    let rows = rill(&[&args[..], &sweep].concat()).json();
    let rows = rows.as_array().unwrap();
    let slots: Vec<u64> = rows.iter().map(|row| bytes_of(row, "slots")).collect();
    assert!(slots.is_sorted() && slots.len() == 14, "{slots:?}");
    assert_eq!((slots[0], slots[13]), (4, bytes_of(&rows[13], "pages")));
    assert!(fs::read_to_string(&plot).unwrap().contains("tokens/s"));
    rill(&["bench", "--sweep-ram=x"]).fails(2, &["900MiB"]);
    rill(&["bench", "--sweep-ram", "--ram", "1GiB"]).fails(2, &["--ram"]);
}

#[test]
fn a_trace_has_each_token_of_an_answer_once_and_no_guesses() {
    let kiosk = Kiosk::new();
    let trace = |name: &str, more: &[&str]| {
        let path = kiosk.folder.path().join(name);
        // An answer that goes on after its end repeats itself, which is guessed, often wrongly.
        let args = ["trace", "--ignore-eos", "-n", "100", "-o", text(&path), "hi"];
        rill(&[&args[..], more].concat()).ok();
        fs::read(&path).unwrap()
    };
    assert!(trace("one.trace", &[]) == trace("other.trace", &["--no-draft"]));
}

#[test]
fn a_trace_is_replayed_for_every_policy() {
    let kiosk = Kiosk::new();
    let ids = kiosk.file("ids.txt", &"1 6 386 274 206 458 424 266 333 375 ".repeat(12));
    let trace = kiosk.folder.path().join("text.trace");
    rill(&["trace", "--ids", text(&ids), "-o", text(&trace)]).ok();
    let again = kiosk.folder.path().join("again.trace");
    let args = ["trace", "--ids", text(&ids), "-o", text(&again), "--batch", "7", "--ram", "30MiB"];
    rill(&args).ok();
    assert!(fs::read(&trace).unwrap() == fs::read(&again).unwrap(), "no budget changes a trace");

    let plot = kiosk.folder.path().join("text.svg");
    let args = ["replay", text(&trace), "--skip", "20", "--plot", text(&plot), "--json"];
    let replay = rill(&args).json();
    for budget in replay["budgets"].as_array().unwrap() {
        let hits = |policy: &str| budget["policies"][policy]["hit_percent"].as_f64().unwrap();
        let best = ["reuse", "lfu", "layer-lru", "lru"].map(hits).into_iter().fold(0.0, f64::max);
        assert!(hits("belady") >= best - 1e-9, "{budget}");
        let cycle = bytes_of(&replay, "cycle");
        if bytes_of(budget, "slots") < cycle {
            assert!(hits("reuse") > hits("lru"), "{budget}");
        }
        if bytes_of(budget, "percent") == 100 {
            assert!(hits("reuse") > 95.0, "{budget}");
        }
    }
    assert!(fs::read_to_string(&plot).unwrap().contains("belady"));
    assert!(rill(&["replay", text(&trace)]).ok().contains("reuse %"));

    rill(&["replay", text(&ids)]).fails(1, &["not a trace", "rill trace"]);
    let mut bytes = fs::read(&trace).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&again, &bytes).unwrap();
    rill(&["replay", text(&again)]).fails(1, &["damaged"]);
    rill(&["replay", text(&trace), "--skip", "500"]).fails(2, &["120 tokens"]);
}

#[test]
fn a_conversation_is_saved_and_goes_on_elsewhere() {
    let kiosk = Kiosk::new();
    let (image, file) = (kiosk.path(), kiosk.folder.path().join("talk"));
    let chat_by = |how: &[&str], input: &str| {
        let args = ["chat", "--ram", "40MiB", "-n", "40", "-m", text(&image)];
        rill_with_input(&[&args, how].concat(), input)
    };
    let chat = |input: &str| chat_by(&["--greedy"], input);
    let second = "And then?";
    let spoken = |out: &str| out.replace("> ", "");
    // By chance too: the random numbers go on from where they were, whatever the seed there is.
    let drawn = ["--temp", "1.5", "--seed", "5"];
    let [kept, going_on] =
        ["kept in", "going on with"].map(|did| format!("{did} {}\n", text(&file)));
    let mut whole = String::new();
    for (how, there) in [(&drawn[..], &["--temp", "1.5"][..]), (&["--greedy"], &["--greedy"])] {
        whole = chat_by(how, &format!("{PROMPT}\n{second}\n")).ok();
        let before = spoken(&chat_by(how, &format!("{PROMPT}\n/save {}\n", text(&file))).ok());
        let after = spoken(&chat_by(there, &format!("/load {}\n{second}\n", text(&file))).ok());
        let (before, after) = (before.strip_suffix(&kept), after.strip_prefix(&going_on));
        assert_eq!(before.unwrap().to_owned() + after.unwrap(), spoken(&whole));
    }
    assert!(kiosk.folder.path().join("kiosk.rill.usage").exists());

    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let damaged = kiosk.folder.path().join("damaged");
    fs::write(&damaged, &bytes).unwrap();
    for (path, part) in [
        (text(&damaged), "damaged"),
        (text(&image), "not a saved conversation"),
        ("/nonexistent", "No such file"),
    ] {
        let run = chat(&format!("{PROMPT}\n/load {path}\n{second}\n"));
        assert!(run.err.contains(part), "{run:?}");
        assert_eq!(spoken(&run.ok()), spoken(&whole), "the conversation goes on");
    }
    let input = format!("/load {}\n", text(&file));
    let run = rill_with_input(&["chat", "--kv", "int8", "-m", text(&image)], &input);
    assert!(run.err.contains("in f16; use --kv f16"), "{run:?}");
    bytes[16] ^= 1;
    bytes[middle] ^= 1;
    fs::write(&damaged, &bytes).unwrap();
    let run = chat(&format!("/load {}\n/save\n", text(&damaged)));
    assert!(run.err.contains("another model"), "{run:?}");
    assert!(run.ok().contains("needs the name of a file"));
}

#[test]
fn the_experts_in_ram_are_kept_when_asked_and_what_does_not_fit_is_ignored() {
    let kiosk = Kiosk::new();
    let image = kiosk.path();
    let resident = kiosk.folder.path().join("kiosk.rill.resident");
    let answer = |extra: &[&str]| {
        let ram = ["run", "--greedy", "-c", "512", "--ram", "40MiB", "-m", text(&image), PROMPT];
        rill(&[&ram[..], extra].concat()).ok()
    };
    let right = answer(&[]);
    assert!(!resident.exists());
    assert_eq!(answer(&["--save-pages"]), right);
    let kept = fs::read(&resident).unwrap();
    let pages = self::image().manifest.pages();
    assert!(kept.len() > 24 && kept.len() <= 24 + 4 * pages, "{} bytes", kept.len());
    let names = || fs::read_dir(kiosk.folder.path()).unwrap().count();
    let files = names();
    for other in [&kept[..], &kept[1..], b"", &vec![255; 1 << 20]] {
        fs::write(&resident, other).unwrap();
        let said = rill_with_input(
            &["chat", "--greedy", "-c", "512", "--ram", "40MiB", "-m", text(&image)],
            &format!("{PROMPT}\n"),
        );
        assert!(said.ok().contains(right.trim()));
        assert_eq!(fs::read(&resident).unwrap(), other, "it is written only when asked");
        assert_eq!(names(), files);
    }
}

#[test]
fn ctrl_c_ends_a_run_with_130() {
    let mut child = Command::new(path())
        .args(["bench", "-r", "4000000000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The budget is said once Ctrl-C is watched for.
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("--ram"), "{line}");
    let interrupted = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupted.unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
}

#[test]
fn cargo_run_in_the_repository_is_this_program() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .unwrap();
    assert!(output.status.success());
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [package] = &metadata["workspace_default_members"].as_array().unwrap()[..] else {
        panic!("`cargo run` would have to be told which package")
    };
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|one| one["id"] == *package).unwrap();
    assert_eq!((&package["name"], &package["default_run"]), (&"rill-linux".into(), &"rill".into()));
}
