//! `rill run --file`: a file of prompts.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rill_tests::kiosk;
use rill_tests::program::{Run, path, rill};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const SUBJECTS: [&str; 8] = ["lift", "café", "fox", "museum", "train", "weather", "kite", "shop"];

/// A folder with a file of prompts.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(prompts: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("prompts.jsonl"), prompts).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// The arguments that answer the prompts into a file.
    fn args(&self, out: &str, conversations: u32) -> Vec<String> {
        let files = ["prompts.jsonl", out].map(|name| self.path(name).display().to_string());
        let [prompts, out] = files;
        let conversations = conversations.to_string();
        let args = [
            "run",
            "-t",
            "1",
            "--file",
            &prompts,
            "--out",
            &out,
            "--ram",
            "40MiB",
            "-c",
            "256",
            "-n",
            "16",
            "--seed",
            "5",
            "--conversations",
            &conversations,
        ];
        args.map(str::to_owned).to_vec()
    }

    fn run(&self, out: &str, conversations: u32, more: &[&str]) -> Run {
        let args = self.args(out, conversations);
        rill(&args.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// 200 prompts in all forms.
fn prompts() -> String {
    let line = |number: usize| {
        let subject = SUBJECTS[number % SUBJECTS.len()];
        match number % 4 {
            0 => json!(format!("Where is the {subject}?")),
            1 => json!({"prompt": format!("Tell me about the {subject}."), "seed": number}),
            2 => json!({"id": format!("q{number}"), "max_tokens": number % 7 + 1, "messages": [
                {"role": "user", "content": "Good morning!"},
                {"role": "assistant", "content": "Good morning. How can I help you?"},
                {"role": "user", "content": format!("I want to see the {subject}.")},
            ]}),
            _ => json!({"prompt": format!("A story about a {subject}"), "temperature": 1.5,
                        "system": "Be brief.", "seed": number}),
        }
    };
    (0..200).map(|number| format!("{}\n", line(number))).collect()
}

/// The program, killed where it stands once the file has so many answers.
fn kill_after(files: &Files, out: &str, answers: usize, conversations: u32) {
    let mut child: Child = Command::new(path())
        .args(files.args(out, conversations))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let count =
        || fs::read(files.path(out)).map_or(0, |b| b.iter().filter(|&&b| b == b'\n').count());
    while count() < answers && child.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(2));
    }
    // Ended already, where this process had no turn meanwhile: then there is less to go on with.
    let _ = child.kill();
    child.wait().unwrap();
}

#[test]
fn a_batch_that_is_killed_goes_on_and_equals_prompts_one_at_a_time() {
    let files = Files::new(&prompts());
    files.run("alone", 1, &[]).ok();
    let alone = files.read("alone");
    assert_eq!(lines(&alone).len(), 200);

    for (answers, conversations) in [(20, 4), (90, 3), (150, 4)] {
        kill_after(&files, "killed", answers, conversations);
        let so_far = fs::read(files.path("killed")).unwrap();
        assert!(alone.as_bytes().starts_with(&so_far), "in order, and each whole but the last");
    }
    // As if it had been killed within a line.
    let so_far = files.read("killed");
    let torn = so_far.len() - so_far.len().min(17);
    fs::write(files.path("killed"), &so_far[..torn]).unwrap();
    files.run("killed", 4, &[]).ok();
    assert_eq!(files.read("killed"), alone);
    // Nothing is left to do.
    files.run("killed", 2, &[]).ok();
    assert_eq!(files.read("killed"), alone);

    // And each is what the command gives for it.
    let all = lines(&alone);
    for (number, subject) in [(0, "lift"), (8, "lift"), (4, "train")] {
        let question = format!("Where is the {subject}?");
        let args = [
            "run", "-t", "1", "--ram", "40MiB", "-c", "256", "-n", "16", "--seed", "5", "--json",
            &question,
        ];
        let one = rill(&args).json();
        for field in ["text", "ending", "thinking"] {
            assert_eq!(all[number][field], one[field], "{question}");
        }
        assert_eq!(all[number]["line"], number + 1);
    }
    assert_eq!(all[2]["id"], "q2");
    assert_eq!(all[2]["ending"], "max_tokens");
    assert_eq!(all[2]["answer_tokens"], 3);
}

#[test]
fn a_line_that_cannot_be_answered_is_named_and_the_others_are_answered() {
    let long = json!({"id": 9, "prompt": "fox ".repeat(400)});
    let files = Files::new(&format!(
        "\"Hello\"\n\n{{\"id\":1,\"prompt\":7}}\nHello\n{long}\n{{\"prompt\":\"a\",\"stop\":\"\"}}\n\"Bye\"\n"
    ));
    for round in 0..2 {
        let more: &[&str] = if round == 0 { &[] } else { &["--logprobs", "2"] };
        let out = ["plain", "likely"][round];
        files.run(out, 3, more).fails(1, &["4 of 6 prompts", "line 3: ", "prompts.jsonl"]);
        let answers = lines(&files.read(out));
        let numbers: Vec<_> =
            answers.iter().map(|answer| answer["line"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [1, 3, 4, 5, 6, 7]);
        let errors: Vec<_> = answers.iter().map(|answer| answer["error"].as_str()).collect();
        assert_eq!([errors[0], errors[5]], [None; 2]);
        let holds =
            |at: usize, what: &str| assert!(errors[at].unwrap().contains(what), "{errors:?}");
        holds(1, "invalid type: integer `7`");
        holds(2, "not JSON");
        holds(3, "tokens, the context 256: shorten it");
        holds(4, "must not be empty");
        assert_eq!([&answers[1]["id"], &answers[3]["id"]], [1, 9]);
        assert_eq!(answers[0]["logprobs"].is_array(), round == 1);
        // What failed is not tried again, and still said.
        files.run(out, 3, more).fails(1, &["4 of 6 prompts"]);
        assert_eq!(lines(&files.read(out)), answers);
    }
}

#[test]
fn answers_to_something_else_are_not_gone_on_with() {
    let files = Files::new("\"Hello\"\n\"Bye\"\n");
    files.run("out", 1, &[]).ok();
    let there = files.read("out");
    let other = ["another file", "line 1", "out"];
    files.run("out", 1, &["--greedy"]).fails(1, &other);
    files.run("out", 1, &["--system", "Be brief."]).fails(1, &other);
    fs::write(files.path("prompts.jsonl"), "\"Hello\"\n\"Goodbye\"\n").unwrap();
    files.run("out", 1, &[]).fails(1, &["another file", "line 2"]);
    fs::write(files.path("prompts.jsonl"), "\"Hello\"\n").unwrap();
    files.run("out", 1, &[]).fails(1, &["another file", "line 2"]);
    assert_eq!(files.read("out"), there);
    // More prompts at the end are answered.
    fs::write(files.path("prompts.jsonl"), "\"Hello\"\n\"Bye\"\n\"Hello\"\n").unwrap();
    files.run("out", 1, &[]).ok();
    let all = lines(&files.read("out"));
    assert_eq!((all.len(), &all[0]["text"]), (3, &all[2]["text"]));

    // What is no answer is left alone, also where it has no line end.
    for content in ["a letter", "{\"a\": 1}\n", "{\"line\":1}\n", "\n"] {
        fs::write(files.path("letter"), content).unwrap();
        files.run("letter", 1, &[]).fails(1, &["holds no answers", "letter"]);
        assert_eq!(files.read("letter"), content);
    }
    files.run("prompts.jsonl", 1, &[]).fails(2, &["is read for this"]);
    files.run("nowhere/out", 1, &[]).fails(1, &["nowhere/out"]);
}

#[test]
fn answers_go_into_no_file_that_they_did_not_begin() {
    let files = Files::new("\"Once upon a time\"\n");
    let [prompts, out, link] = ["prompts.jsonl", "out", "link"].map(|name| files.path(name));
    let run = |out: &Path| {
        let [prompts, out] = [prompts.as_path(), out].map(|path| path.to_str().unwrap().to_owned());
        rill(&["run", "-t", "1", "-n", "5", "--raw", "--file", &prompts, "--out", &out])
    };
    for text in ["", "{\"li", "{\"line\":1,\"key\":\"half"] {
        fs::write(&out, text).unwrap();
        let _ = fs::remove_file(&link);
        symlink("out", &link).unwrap();
        run(&link).fails(1, &["is a link"]);
        assert_eq!(fs::read_to_string(&out).unwrap(), text);
    }
    for text in ["{\"li", "mine", "\n"] {
        fs::write(&out, text).unwrap();
        run(&out).fails(1, &["holds no answers"]);
        assert_eq!(fs::read_to_string(&out).unwrap(), text);
    }
    // What was begun goes on, and what cannot begin leaves nothing.
    fs::write(&out, "{\"line\":1,\"key\":\"half").unwrap();
    run(&out).ok();
    assert_eq!(lines(&fs::read_to_string(&out).unwrap()).len(), 1);
    fs::remove_file(&out).unwrap();
    fs::write(&prompts, "\"Once upon a time\"\n").unwrap();
    let [prompts, out_text] = [&prompts, &out].map(|path| path.to_str().unwrap());
    rill(&["run", "-c", "99999999", "--raw", "--file", prompts, "--out", out_text]).fails(1, &[]);
    assert!(!out.exists());
}

#[test]
fn a_file_of_prompts_goes_to_standard_output_and_fits_no_prompt() {
    let files = Files::new(
        "\"Once upon a time\"\n{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n",
    );
    let prompts = files.path("prompts.jsonl").display().to_string();
    let mut args = vec!["run", "-t", "1", "--file", &prompts, "-n", "5", "--raw"];
    args.extend(["--stats", "--conversations", "2"]);
    let run = rill(&args);
    let answers = lines(&run.out);
    let one = rill(&["run", "-t", "1", "-n", "5", "--raw", "--json", "Once upon a time"]).json();
    assert_eq!(answers[0]["text"], one["text"]);
    assert!(answers[1]["error"].as_str().unwrap().contains("--raw"));
    run.fails(1, &["1 of 2 prompts", "tokens/s"]);
    rill(&["run", "--file", &prompts, "Hello"]).fails(2, &["--file"]);
    rill(&["run", "--file", &prompts, "--json"]).fails(2, &["--json"]);
    rill(&["run", "--out", &prompts, "Hello"]).fails(2, &["--file"]);
    rill(&["run", "--logprobs", "2", "Hello"]).fails(2, &["--json"]);
    rill(&["run", "--file", "/nowhere.jsonl"]).fails(1, &["/nowhere.jsonl"]);
    rill(&["run", "--file", &prompts, "--conversations", "0"]).fails(2, &["--conversations"]);
}

#[test]
fn a_signal_within_a_long_batch_ends_it_and_leaves_no_file_without_answers() {
    let long = "Tell me a story about a fox. ".repeat(600);
    let files =
        Files::new(&format!("{}\n{}\n", json!({"prompt": "a", "max_tokens": 1}), json!(long)));
    fs::write(files.path("m.rill"), kiosk::of_context(8192)).unwrap();
    let (image, prompts) = (files.path("m.rill"), files.path("prompts.jsonl"));
    let start = |more: &[&str]| {
        let mut command = Command::new(path());
        command.args(["run", "-t", "1", "--raw", "-c", "8192", "--batch", "8192", "-m"]);
        command.arg(&image).arg("--file").arg(&prompts).args(more);
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    let end = |mut child: Child| {
        // Most likely within the batch; it ends alike wherever it is.
        sleep(Duration::from_millis(100));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130));
        fs::remove_file(files.path("m.rill.usage")).expect("what was learned is kept");
    };
    // The first answer is there: the long prompt is under way.
    let mut child = start(&[]);
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert!(line.contains("\"line\":1"), "{line}");
    end(child);

    let out = files.path("out");
    fs::write(&prompts, format!("{}\n", json!(long))).unwrap();
    let mut child = start(&["--out", out.to_str().unwrap()]);
    while !out.exists() {
        assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
        sleep(Duration::from_millis(2));
    }
    end(child);
    assert!(!out.exists());
}

#[test]
fn answers_that_wait_for_a_longer_one_stay_within_the_budget() {
    let short = format!("{}\n", json!({"prompt": "T", "max_tokens": 90}));
    let long = json!({"prompt": "Tell me a story", "max_tokens": 900});
    let files = Files::new(&format!("{long}\n{}", short.repeat(64)));
    let prompts = files.path("prompts.jsonl").display().to_string();
    let mut args = vec!["run", "-t", "1", "--file", &prompts, "--ram", "60MiB", "-c", "1024"];
    args.extend(["--conversations", "4", "--logprobs", "20", "--ignore-eos", "--stats"]);
    let run = rill(&args);
    let size = |before: &str| -> f64 {
        let (text, _) = run.err.split_once(before).unwrap();
        text.split_whitespace().next_back().unwrap().parse().unwrap()
    };
    let (planned, used) = (size(" MiB planned"), size(" MiB used at most"));
    assert!(used <= planned, "{}", run.err);
    assert_eq!(lines(&run.ok()).len(), 65);
}
