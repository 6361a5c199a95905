//! What `kiosk.toml` says of the page for visitors.
//!
//! ```toml
//! title = "City museum"
//! welcome = "Ask me about the house and its rooms."
//! logo = "logo.svg"                # beside this file: SVG, PNG, JPEG or WebP
//! prompts = ["Where is the lift?", "When do you close?"]
//! system = "You are the guide of the city museum. Answer in two sentences."
//! language = "en"                  # en, de, es or ar; without it the browser's
//! idle = 90                        # seconds without a touch until the conversation is wiped; 0: never
//! tokens = 400                     # most tokens of an answer
//! thinking = "none"                # none, minimal, low, medium or high
//! key = "kiosk"                    # of the file of keys: visitors on this machine ask in its name
//!
//! [colours]
//! accent = "#0b6670"               # and background, text; the same under [colours.dark]
//!
//! [languages.de]
//! title = "Stadtmuseum"            # and welcome, prompts
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use axum::body::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::colour::{Colour, Faint, Scheme};
use super::fingerprint;
use crate::files;

/// Languages that the page speaks.
const LANGUAGES: [&str; 4] = ["en", "de", "es", "ar"];
/// Efforts of thinking.
const EFFORTS: [&str; 5] = ["none", "minimal", "low", "medium", "high"];
/// Most bytes of `kiosk.toml`.
const MOST_BYTES: u64 = 64 << 10;
/// Most bytes of a logo.
const MOST_LOGO: u64 = 512 << 10;
/// Seconds without a touch until a conversation is wiped, where `kiosk.toml` does not say.
const IDLE: u64 = 90;
/// Most tokens of an answer, where `kiosk.toml` does not say.
const TOKENS: u64 = 1024;

/// Why a kiosk cannot be as its file says.
#[derive(Debug, thiserror::Error)]
pub enum KioskError {
    /// It cannot be read.
    #[error("{0}")]
    Unread(io::Error),
    /// A file that it names cannot be read.
    #[error("{}: {}", .0.display(), .1)]
    File(PathBuf, io::Error),
    /// It is no TOML, or has keys or values that there are not.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A value cannot be.
    #[error("`{0}`: {1}")]
    Value(String, String),
    /// A colour cannot be read.
    #[error(transparent)]
    Faint(#[from] Faint),
    /// The logo is no picture that browsers show.
    #[error("{}: it is no SVG, PNG, JPEG or WebP", .0.display())]
    Logo(PathBuf),
    /// Its key is not one of those that may ask.
    #[error("`key`: `{0}` is not in the file of keys (--keys)")]
    Key(String),
}

/// The file, as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    title: Option<String>,
    welcome: Option<String>,
    prompts: Option<Vec<String>>,
    logo: Option<PathBuf>,
    system: Option<String>,
    language: Option<String>,
    idle: Option<u64>,
    tokens: Option<u64>,
    thinking: Option<String>,
    key: Option<String>,
    #[serde(default)]
    colours: Colours,
    #[serde(default)]
    languages: BTreeMap<String, Words>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Colours {
    background: Option<Colour>,
    text: Option<Colour>,
    accent: Option<Colour>,
    #[serde(default)]
    dark: Dark,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dark {
    background: Option<Colour>,
    text: Option<Colour>,
    accent: Option<Colour>,
}

/// What is said in one language.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    title: Option<String>,
    welcome: Option<String>,
    prompts: Option<Vec<String>>,
}

/// The page for visitors, as it is served.
#[derive(Debug)]
pub struct Kiosk {
    /// What the model is told before a visitor's first word.
    pub system: Option<String>,
    /// Most tokens of an answer.
    pub tokens: Option<u64>,
    /// How much the model thinks, in OpenAI's words.
    pub thinking: Option<String>,
    /// The key in whose name visitors on this machine ask.
    pub key: Option<String>,
    settings: Bytes,
    colours: Bytes,
    logo: (&'static str, Bytes),
}

impl Default for Kiosk {
    /// As it is without a file: nothing is wiped while somebody thinks.
    fn default() -> Self {
        let scheme = [Scheme::LIGHT, Scheme::DARK];
        let written = Written { idle: Some(0), ..Written::default() };
        Self { tokens: None, ..Self::made(written, scheme, (SVG, LOGO.to_vec())) }
    }
}

const SVG: &str = "image/svg+xml";
const LOGO: &[u8] = include_bytes!("../../pages/rill.svg");
const SETTINGS: &str = "/kiosk/settings";
const COLOURS: &str = "/kiosk/colours.css";
const PICTURE: &str = "/kiosk/logo";

impl Kiosk {
    /// Where its own files stand.
    pub const PATHS: [&str; 3] = [SETTINGS, COLOURS, PICTURE];

    /// Reads `kiosk.toml` and what it names.
    pub fn read(path: &Path) -> Result<Self, KioskError> {
        let bytes = bounded(path, MOST_BYTES).map_err(KioskError::Unread)?;
        let text = String::from_utf8(bytes).map_err(|error| {
            KioskError::Unread(io::Error::new(io::ErrorKind::InvalidData, error))
        })?;
        let written: Written = toml::from_str(&text)?;
        written.check()?;
        let scheme = written.colours.schemes()?;
        let logo = match &written.logo {
            None => (SVG, LOGO.to_vec()),
            Some(logo) => {
                let path = path.parent().unwrap_or(Path::new("")).join(logo);
                let bytes = bounded(&path, MOST_LOGO)
                    .map_err(|error| KioskError::File(path.clone(), error))?;
                (kind(&bytes).ok_or(KioskError::Logo(path))?, bytes)
            }
        };
        Ok(Self::made(written, scheme, logo))
    }

    fn made(written: Written, [light, dark]: [Scheme; 2], logo: (&'static str, Vec<u8>)) -> Self {
        let colours = format!(
            ":root{{{}}}\n@media (prefers-color-scheme:dark){{:root{{{}}}}}\n",
            light.variables(),
            dark.variables()
        );
        let words = |title: &Option<String>,
                     welcome: &Option<String>,
                     prompts: &Option<Vec<String>>| {
            json!({"title": title, "welcome": welcome, "prompts": prompts})
        };
        let languages: serde_json::Map<String, Value> = written
            .languages
            .iter()
            .map(|(name, of)| (name.clone(), words(&of.title, &of.welcome, &of.prompts)))
            .collect();
        let mut settings = json!({
            "words": words(&written.title, &written.welcome, &written.prompts),
            "languages": languages,
            "language": written.language,
            "idle": written.idle.unwrap_or(IDLE),
        });
        let said = settings.to_string();
        settings["version"] = fingerprint(&[said.as_bytes(), colours.as_bytes(), &logo.1]).into();
        Self {
            system: written.system.filter(|text| !text.trim().is_empty()),
            tokens: Some(written.tokens.unwrap_or(TOKENS)),
            thinking: written.thinking,
            key: written.key,
            settings: settings.to_string().into(),
            colours: colours.into(),
            logo: (logo.0, logo.1.into()),
        }
    }

    /// One of its own files: its type, and what is in it.
    pub fn file(&self, path: &str) -> Option<(&'static str, &Bytes)> {
        match path {
            SETTINGS => Some(("application/json", &self.settings)),
            COLOURS => Some((super::CSS, &self.colours)),
            PICTURE => Some((self.logo.0, &self.logo.1)),
            _ => None,
        }
    }
}

impl Written {
    fn check(&self) -> Result<(), KioskError> {
        let own = ("", &self.title, &self.welcome, &self.prompts);
        let others =
            self.languages.iter().map(|(name, of)| (&**name, &of.title, &of.welcome, &of.prompts));
        for (language, title, welcome, prompts) in std::iter::once(own).chain(others) {
            let path = match language {
                "" => String::new(),
                language => format!("languages.{language}."),
            };
            if !language.is_empty() {
                one_of("languages", language, &LANGUAGES)?;
            }
            short(&path, "title", title.as_deref(), 80)?;
            short(&path, "welcome", welcome.as_deref(), 300)?;
            let prompts = prompts.as_deref().unwrap_or_default();
            if prompts.len() > 8 {
                return Err(value(format!("{path}prompts"), "has more than 8 questions"));
            }
            prompts.iter().try_for_each(|prompt| short(&path, "prompts", Some(prompt), 200))?;
        }
        if let Some(language) = &self.language {
            one_of("language", language, &LANGUAGES)?;
        }
        if let Some(thinking) = &self.thinking {
            one_of("thinking", thinking, &EFFORTS)?;
        }
        if self.system.as_ref().is_some_and(|text| text.len() > 16 << 10) {
            return Err(value("system", "has more than 16384 bytes"));
        }
        if self.idle.is_some_and(|seconds| seconds > 86_400) {
            return Err(value("idle", "is more than a day, 86400 seconds"));
        }
        if self.tokens.is_some_and(|tokens| !(1..=1 << 20).contains(&tokens)) {
            return Err(value("tokens", "must be from 1 to 1048576"));
        }
        Ok(())
    }
}

impl Colours {
    /// The light scheme and the dark one. An accent that only one of them has is adapted for the other.
    fn schemes(&self) -> Result<[Scheme; 2], KioskError> {
        let own = |colour: Option<Colour>, default| colour.unwrap_or(default);
        let light = Scheme {
            background: own(self.background, Scheme::LIGHT.background),
            text: own(self.text, Scheme::LIGHT.text),
            accent: own(self.accent, Scheme::LIGHT.accent),
        };
        light.check("colours.")?;
        let dark = Scheme {
            background: own(self.dark.background, Scheme::DARK.background),
            text: own(self.dark.text, Scheme::DARK.text),
            accent: own(self.dark.accent, Scheme::DARK.accent),
        };
        let dark = match (self.accent, self.dark.accent) {
            (Some(accent), None) => dark.adapt(accent),
            _ => dark,
        };
        dark.check("colours.dark.")?;
        Ok([light, dark])
    }
}

fn value(name: impl Into<String>, message: impl Into<String>) -> KioskError {
    KioskError::Value(name.into(), message.into())
}

fn one_of(name: &str, given: &str, known: &[&str]) -> Result<(), KioskError> {
    match known.contains(&given) {
        true => Ok(()),
        false => Err(value(name, format!("`{given}` is not one of {}", known.join(", ")))),
    }
}

/// Refuses what is empty, or longer than its place on the page.
fn short(path: &str, name: &str, text: Option<&str>, most: usize) -> Result<(), KioskError> {
    let Some(text) = text else { return Ok(()) };
    match text.chars().count() {
        _ if text.trim().is_empty() => Err(value(format!("{path}{name}"), "is empty")),
        count if count > most => {
            Err(value(format!("{path}{name}"), format!("has more than {most} characters")))
        }
        _ => Ok(()),
    }
}

/// The bytes of a file that may have so many.
fn bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    files::read(path, most).map_err(|error| match error.kind() {
        kind @ io::ErrorKind::FileTooLarge => {
            io::Error::new(kind, format!("it has more than {most} bytes"))
        }
        _ => error,
    })
}

/// The type of a picture, by its first bytes.
fn kind(bytes: &[u8]) -> Option<&'static str> {
    let is_svg = || {
        let head = String::from_utf8_lossy(&bytes[..bytes.len().min(1024)]);
        head.trim_start_matches('\u{feff}').trim_start().starts_with('<') && head.contains("<svg")
    };
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => is_svg().then_some(SVG),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<Kiosk, KioskError> {
        let folder = tempfile::tempdir().expect("there is room");
        std::fs::write(folder.path().join("logo.png"), b"\x89PNG....").expect("it is written");
        std::fs::write(folder.path().join("text.svg"), b"hello").expect("it is written");
        std::fs::write(folder.path().join("long.png"), vec![0x89; (MOST_LOGO + 1) as usize])
            .expect("it is written");
        let path = folder.path().join("kiosk.toml");
        std::fs::write(&path, toml).expect("it is written");
        Kiosk::read(&path)
    }

    fn settings(kiosk: &Kiosk) -> Value {
        serde_json::from_slice(kiosk.file(SETTINGS).expect("it has them").1).expect("they are JSON")
    }

    #[test]
    fn what_the_file_says_is_what_the_page_gets() {
        let kiosk = read(
            "title = 'Museum'\nprompts = ['Where?']\nlogo = 'logo.png'\nsystem = 'Be brief.'\nidle = 7\n\
             language = 'de'\ntokens = 9\nkey = 'kiosk'\n[colours]\naccent = '#7a0019'\n\
             [languages.de]\ntitle = 'Haus'",
        )
        .unwrap();
        let said = settings(&kiosk);
        assert_eq!(said["words"]["title"], "Museum");
        assert_eq!(said["words"]["prompts"], json!(["Where?"]));
        assert_eq!([&said["language"], &said["languages"]["de"]["title"]], ["de", "Haus"]);
        assert_eq!([&said["idle"], &said["words"]["welcome"]], [&json!(7), &Value::Null]);
        assert_eq!(
            [kiosk.system.as_deref(), kiosk.key.as_deref()],
            [Some("Be brief."), Some("kiosk")]
        );
        assert_eq!(kiosk.tokens, Some(9));
        assert_eq!(kiosk.file(PICTURE).unwrap().0, "image/png");
        let colours = String::from_utf8_lossy(kiosk.file(COLOURS).unwrap().1);
        assert!(colours.contains("--accent:#7a0019;"), "{colours}");
        // What the model is told, and whose key it is, is nobody's business.
        assert!(!said.to_string().contains("Be brief.") && !said.to_string().contains("kiosk"));
    }

    #[test]
    fn a_file_that_says_little_is_a_kiosk_and_none_is_a_page_that_stays() {
        assert_eq!(settings(&read("").unwrap())["idle"], 90);
        let none = Kiosk::default();
        assert_eq!([settings(&none)["idle"].as_u64(), none.tokens], [Some(0), None]);
        assert_ne!(settings(&none)["version"], settings(&read("").unwrap())["version"]);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let long = "x".repeat(81);
        let cases = [
            ("titel = 'x'".to_owned(), "unknown field `titel`, expected one of `title`, `welcome`"),
            (
                "[colours]\nink = '#000000'".into(),
                "unknown field `ink`, expected one of `background`",
            ),
            ("[colours.dark]\nink = '#000000'".into(), "unknown field `ink`"),
            ("[languages.de]\nsystem = ''".into(), "unknown field `system`"),
            (
                "[languages.fr]\ntitle = 'x'".into(),
                "`languages`: `fr` is not one of en, de, es, ar",
            ),
            ("language = 'xx'".into(), "`language`: `xx` is not one of en"),
            ("thinking = 'much'".into(), "`thinking`: `much` is not one of none"),
            (format!("title = '{long}'"), "`title`: has more than 80"),
            ("[languages.es]\nprompts = ['a', '']".into(), "`languages.es.prompts`: is empty"),
            ("prompts = ['1','2','3','4','5','6','7','8','9']".into(), "more than 8"),
            ("idle = -1".into(), "idle"),
            ("idle = 100000".into(), "`idle`: is more than a day"),
            ("tokens = 0".into(), "`tokens`: must be from 1"),
            ("[colours]\naccent = 'red'".into(), "`red` is no colour"),
            ("[colours]\naccent = '#ffee00'".into(), "`colours.accent`: #ffee00 on"),
            ("[colours.dark]\ntext = '#555555'".into(), "`colours.dark.text`: #555555 on"),
            ("logo = 'none.png'".into(), "none.png: "),
            ("logo = 'text.svg'".into(), "text.svg: it is no SVG"),
            ("logo = 'long.png'".into(), "long.png: it has more than 524288 bytes"),
            (format!("# {}", "x".repeat(64 << 10)), "more than 65536 bytes"),
            ("title".into(), "line 1"),
        ];
        for (toml, expected) in cases {
            let message = read(&toml).unwrap_err().to_string();
            assert!(message.contains(expected), "{toml:.80}: {message}");
            // Whoever says this names the file itself.
            assert!(!message.contains("kiosk.toml"), "{message}");
        }
    }
}
