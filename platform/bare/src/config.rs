//! The file that says how the program runs: `RILL.CFG` on the FAT partition.
//!
//! One `key = value` a line; a line that begins with `#` is a comment. Keys are named as the
//! options of `rill chat`. What is missing is as it would be there.

use core::fmt;
use core::str::FromStr;

use rill::answer::{Answer, StopError};
use rill::experts::{Policy, policy};
use rill::image::Sampling;
use rill::plan::KvFormat;
use rill::sampler::Settings;
use rill::size::Size;

use crate::talks::MOST_TALKS;

/// Longest file, in bytes.
pub const CONFIG_BYTES: usize = 4 << 10;

/// How the program runs. Texts are borrowed from the file.
#[derive(Clone, Default)]
pub struct Config<'t> {
    /// Instruction before the conversation.
    pub system: Option<&'t str>,
    /// Asked once, before the first line of the console.
    pub prompt: Option<&'t str>,
    /// RAM that the whole program may use.
    pub ram: Option<u64>,
    /// Tokens of a conversation.
    pub context: Option<u32>,
    /// Most tokens of a batch.
    pub batch: Option<u32>,
    /// Beginnings of conversations that are kept; `None` to choose by the budget.
    pub prefixes: Option<u32>,
    /// Conversations side by side; `None` for one.
    pub conversations: Option<u32>,
    /// Tokens of all conversations together; `None` for as many as all can have.
    pub kv_tokens: Option<u32>,
    /// How keys and values are kept; `None` for the default.
    pub kv: Option<KvFormat>,
    /// Most tokens of an answer.
    pub max_tokens: Option<u64>,
    /// Cores to use.
    pub threads: Option<usize>,
    /// Name of the kernel table.
    pub kernels: Option<&'t str>,
    /// Which experts give way; `None` for the default.
    pub policy: Option<&'static dyn Policy>,
    /// No experts are read on a guess.
    pub no_lookahead: bool,
    /// Never guess how an answer goes on.
    pub no_draft: bool,
    /// Seed of the sampler.
    pub seed: u64,
    /// Ends answers.
    pub answer: Answer,
    /// Thinking is not shown.
    pub hides_thinking: bool,
    /// Most tokens of thinking.
    pub most_thinking: Option<u64>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: f32,
    frequency_penalty: f32,
    top_n_sigma: f32,
    ignore_eos: bool,
    min_tokens: u32,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Problem {
    /// It is no `key = value`.
    Syntax,
    /// There is no such key.
    Key,
    /// The key was there before.
    Repeated,
    /// The value must be this.
    Value(&'static str),
    /// The stop text cannot be used.
    Stop(StopError),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match self.problem {
            Problem::Syntax => write!(f, "write `key = value`, or `#` before a comment"),
            Problem::Key => {
                write!(f, "there is no such key; there are")?;
                KEYS.iter().enumerate().try_for_each(|(at, key)| {
                    write!(f, "{} {}", if at == 0 { "" } else { "," }, key.name)
                })
            }
            Problem::Repeated => write!(f, "this key was there before"),
            Problem::Value(what) => write!(f, "the value must be {what}"),
            Problem::Stop(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for ConfigError {}

type Set = for<'t> fn(&mut Config<'t>, &'t str) -> Result<(), Problem>;

/// A key and what its value does.
struct Key {
    name: &'static str,
    set: Set,
}

const COUNT: &str = "a whole number above 0";

static KEYS: &[Key] = &[
    Key { name: "system", set: |config, text| put(&mut config.system, text) },
    Key { name: "prompt", set: |config, text| put(&mut config.prompt, text) },
    Key {
        name: "ram",
        set: |config, text| {
            let size: Size = number(text, "a size such as 900MiB", |_| true)?;
            put(&mut config.ram, size.0)
        },
    },
    Key {
        name: "context",
        set: |config, text| put(&mut config.context, number(text, COUNT, |&n| n > 0)?),
    },
    Key {
        name: "batch",
        set: |config, text| put(&mut config.batch, number(text, COUNT, |&n| n > 0)?),
    },
    Key {
        name: "kv",
        set: |config, text| {
            let format = KvFormat::ALL.into_iter().find(|format| format.name() == text);
            put(&mut config.kv, format.ok_or(Problem::Value("f16 or int8"))?)
        },
    },
    Key {
        name: "prefixes",
        set: |config, text| put(&mut config.prefixes, number(text, "a whole number", |_| true)?),
    },
    Key {
        name: "conversations",
        set: |config, text| {
            let fits = |&count: &u32| (1..=MOST_TALKS as u32).contains(&count);
            put(&mut config.conversations, number(text, "a whole number from 1 to 8", fits)?)
        },
    },
    Key {
        name: "kv-tokens",
        set: |config, text| put(&mut config.kv_tokens, number(text, COUNT, |&n| n > 0)?),
    },
    Key {
        name: "max-tokens",
        set: |config, text| put(&mut config.max_tokens, number(text, COUNT, |&n| n > 0)?),
    },
    Key {
        name: "threads",
        set: |config, text| put(&mut config.threads, number(text, COUNT, |&n| n > 0)?),
    },
    Key { name: "kernels", set: |config, text| put(&mut config.kernels, text) },
    Key {
        name: "policy",
        set: |config, text| {
            let policy = policy(text).ok_or(Problem::Value("reuse, lfu, layer-lru or lru"))?;
            put(&mut config.policy, policy)
        },
    },
    Key {
        name: "no-lookahead",
        set: |config, text| {
            config.no_lookahead = number(text, "true or false", |_| true)?;
            Ok(())
        },
    },
    Key {
        name: "no-draft",
        set: |config, text| {
            config.no_draft = number(text, "true or false", |_| true)?;
            Ok(())
        },
    },
    Key {
        name: "seed",
        set: |config, text| {
            config.seed = number(text, "a whole number", |_| true)?;
            Ok(())
        },
    },
    Key {
        name: "thinking",
        set: |config, text| {
            match text {
                "show" => {}
                "hide" => config.hides_thinking = true,
                most => {
                    let what = "show, hide or a whole number of tokens";
                    config.most_thinking = Some(number(most, what, |_| true)?);
                }
            }
            Ok(())
        },
    },
    Key { name: "stop", set: |config, text| config.answer.add_stop(text).map_err(Problem::Stop) },
    Key { name: "temp", set: |config, text| put(&mut config.temperature, at_least_zero(text)?) },
    Key {
        name: "top-k",
        set: |config, text| put(&mut config.top_k, number(text, "a whole number", |_| true)?),
    },
    Key {
        name: "top-p",
        set: |config, text| {
            let value =
                number(text, "a number above 0, at most 1", |x: &f32| *x > 0.0 && *x <= 1.0)?;
            put(&mut config.top_p, value)
        },
    },
    Key {
        name: "min-p",
        set: |config, text| {
            let range = "a number of at least 0, below 1";
            put(&mut config.min_p, number(text, range, |x: &f32| (0.0..1.0).contains(x))?)
        },
    },
    Key {
        name: "repeat-penalty",
        set: |config, text| {
            let value = number(text, "a number above 0", |x: &f32| x.is_finite() && *x > 0.0)?;
            put(&mut config.repetition_penalty, value)
        },
    },
    Key {
        name: "presence-penalty",
        set: |config, text| {
            config.presence_penalty = within_two(text)?;
            Ok(())
        },
    },
    Key {
        name: "frequency-penalty",
        set: |config, text| {
            config.frequency_penalty = within_two(text)?;
            Ok(())
        },
    },
    Key {
        name: "top-n-sigma",
        set: |config, text| {
            config.top_n_sigma = at_least_zero(text)?;
            Ok(())
        },
    },
    Key {
        name: "ignore-eos",
        set: |config, text| {
            config.ignore_eos = number(text, "true or false", |_| true)?;
            Ok(())
        },
    },
    Key {
        name: "min-tokens",
        set: |config, text| {
            config.min_tokens = number(text, "a whole number", |_| true)?;
            Ok(())
        },
    },
];

fn put<T>(place: &mut Option<T>, value: T) -> Result<(), Problem> {
    *place = Some(value);
    Ok(())
}

fn number<T: FromStr>(
    text: &str,
    what: &'static str,
    fits: impl Fn(&T) -> bool,
) -> Result<T, Problem> {
    text.parse().ok().filter(fits).ok_or(Problem::Value(what))
}

fn at_least_zero(text: &str) -> Result<f32, Problem> {
    number(text, "a number of at least 0", |x: &f32| x.is_finite() && *x >= 0.0)
}

fn within_two(text: &str) -> Result<f32, Problem> {
    number(text, "a number from -2 to 2", |x: &f32| (-2.0..=2.0).contains(x))
}

impl<'t> Config<'t> {
    /// Reads a file's text.
    pub fn parse(text: &'t str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let mut seen = 0_u32;
        for (index, line) in text.lines().enumerate() {
            let wrong = |problem| ConfigError { line: index + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or(wrong(Problem::Syntax))?;
            let (name, value) = (name.trim(), value.trim());
            if value.is_empty() {
                return Err(wrong(Problem::Syntax));
            }
            let found = KEYS.iter().position(|key| key.name == name);
            let number = found.ok_or(wrong(Problem::Key))?;
            if seen >> number & 1 == 1 && name != "stop" {
                return Err(wrong(Problem::Repeated));
            }
            seen |= 1 << number;
            (KEYS[number].set)(&mut config, value).map_err(wrong)?;
        }
        Ok(config)
    }

    /// How to choose tokens, given what the image advises.
    pub fn settings(&self, advised: Sampling) -> Settings {
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(advised.temperature),
            top_k: self.top_k.unwrap_or(advised.top_k),
            top_p: self.top_p.unwrap_or(advised.top_p),
            min_p: self.min_p.unwrap_or(advised.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(advised.repetition_penalty),
        };
        Settings {
            sampling,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            top_n_sigma: self.top_n_sigma,
            ignore_eos: self.ignore_eos,
            min_tokens: self.min_tokens,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use rill::experts::POLICIES;

    use super::*;

    #[test]
    fn a_file_says_how_to_run() {
        let text = "# kiosk\r\nsystem = You are a guide. A = B.\r\n\r\n ram=200MiB\n\
                    temp = 0\nseed = 7\nstop = User:\nstop = Guide:\nno-lookahead = true\n\
                    no-draft = true\n\
                    policy = lru\nkv = int8\nprefixes = 3\nconversations = 2\nkv-tokens = 600\n\
                    max-tokens = 64\nthinking = 100\n\
                    presence-penalty = 0.5\nfrequency-penalty = -0.25\ntop-n-sigma = 1.5\n\
                    ignore-eos = true\nmin-tokens = 8\n";
        let config = Config::parse(text).unwrap();
        assert_eq!(config.system, Some("You are a guide. A = B."));
        assert_eq!((config.ram, config.seed), (Some(200 << 20), 7));
        assert_eq!((config.max_tokens, config.context), (Some(64), None));
        assert_eq!((config.most_thinking, config.hides_thinking), (Some(100), false));
        assert!(config.no_lookahead);
        assert!(Config::parse("thinking = hide").unwrap().hides_thinking);
        assert_eq!(config.policy.unwrap().name(), "lru");
        assert_eq!((config.prefixes, config.conversations), (Some(3), Some(2)));
        assert_eq!(config.kv_tokens, Some(600));
        assert_eq!(config.kv, Some(KvFormat::Int8));
        let expected = Settings {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            presence_penalty: 0.5,
            frequency_penalty: -0.25,
            top_n_sigma: 1.5,
            ignore_eos: true,
            min_tokens: 8,
        };
        assert_eq!(config.settings(Sampling::default()), expected);
    }

    #[test]
    fn an_empty_file_changes_nothing() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.settings(Sampling::default()), Sampling::default().into());
        assert!(config.system.is_none() && config.policy.is_none());
        assert!(!config.no_lookahead && !config.no_draft);
    }

    #[test]
    fn errors_name_the_line_and_what_to_write() {
        for (text, line, part) in [
            ("seed = 1\nbananas = 2", 2, "there are system, prompt, ram,"),
            ("seed", 1, "key = value"),
            ("seed =", 1, "key = value"),
            ("seed = 1\n\nseed = 2", 3, "before"),
            ("ram = much", 1, "900MiB"),
            ("temp = -1", 1, "at least 0"),
            ("temp = nan", 1, "at least 0"),
            ("top-p = 0", 1, "at most 1"),
            ("min-p = 1", 1, "below 1"),
            ("repeat-penalty = inf", 1, "above 0"),
            ("presence-penalty = 3", 1, "from -2 to 2"),
            ("top-n-sigma = -1", 1, "at least 0"),
            ("min-tokens = few", 1, "whole number"),
            ("context = 0", 1, "above 0"),
            ("conversations = 0", 1, "from 1 to 8"),
            ("conversations = 9", 1, "from 1 to 8"),
            ("policy = random", 1, "layer-lru"),
            ("kv = int4", 1, "f16 or int8"),
            ("thinking = loud", 1, "show, hide"),
        ] {
            let error = Config::parse(text).err().unwrap_or_else(|| panic!("{text}"));
            assert_eq!(error.line, line, "{text}");
            assert!(error.to_string().contains(part), "{error}");
        }
        let long = std::format!("stop = {}", "x".repeat(65));
        assert!(matches!(Config::parse(&long).err().unwrap().problem, Problem::Stop(_)));
    }

    #[test]
    fn every_policy_is_named_where_one_is_unknown() {
        let message = Config::parse("policy = random").err().unwrap().to_string();
        for policy in POLICIES {
            assert!(message.contains(policy.name()), "{message}");
        }
    }

    #[test]
    fn every_key_has_a_place_in_the_set_of_those_seen() {
        assert!(KEYS.len() <= 32);
    }
}
