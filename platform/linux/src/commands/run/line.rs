//! A line of a file with prompts.

use rill::chat::Role;
use rill::sampler::Settings;
use rill_linux::answer::AnswerOptions;
use rill_linux::talk::Message;
use serde::Deserialize;
use serde_json::Value;

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// What the user calls it.
    pub id: Option<Value>,
    system: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<u64>,
    /// Seed of the random choices.
    pub seed: Option<u64>,
    stop: Option<Stop>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
}

/// One stop text or several.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// A line that cannot be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct BadLine {
    /// What the user calls it, where that can be read.
    pub id: Option<Value>,
    /// What is wrong with it.
    pub what: String,
}

impl Line {
    /// Reads a line.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let bad = |id, what: String| Err(BadLine { id, what });
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => return bad(None, format!("not JSON: {}", without_place(&error))),
        };
        let id = value.get("id").cloned();
        let line = match value {
            Value::String(prompt) => Ok(Self { prompt: Some(prompt), ..Self::default() }),
            Value::Object(_) => Self::deserialize(value).map_err(|error| without_place(&error)),
            _ => Err("neither a JSON string nor a JSON object".into()),
        };
        match line.and_then(|line| line.check().map(|()| line)) {
            Ok(line) => Ok(line),
            Err(what) => bad(id, what),
        }
    }

    fn check(&self) -> Result<(), String> {
        match (&self.prompt, &self.messages) {
            (Some(_), None) => {}
            (None, Some(messages)) => match messages.last() {
                Some(Message { role: Role::User, .. }) => {}
                _ => return Err("the last of `messages` is to be the user's".into()),
            },
            _ => return Err("one of `prompt` and `messages` is wanted".into()),
        }
        if self.system.is_some() && self.brings_system() {
            return Err("`system` and a system message in `messages`: give one of them".into());
        }
        let ranges = [
            ("temperature", self.temperature, 0.0..=f32::MAX, "a number of at least 0"),
            ("top_p", self.top_p, 0.0_f32.next_up()..=1.0, "a number above 0, at most 1"),
            ("min_p", self.min_p, 0.0..=1.0_f32.next_down(), "a number of at least 0, below 1"),
        ];
        match ranges.iter().find(|(_, x, range, _)| x.is_some_and(|x| !range.contains(&x))) {
            Some((name, _, _, range)) => Err(format!("`{name}` is not {range}")),
            None => Ok(()),
        }
    }

    /// Whether its conversation begins with an instruction.
    fn brings_system(&self) -> bool {
        let first = self.messages.as_ref().and_then(|messages| messages.first());
        first.is_some_and(|message| message.role == Role::System)
    }

    /// The text to continue without a chat format, where there is one.
    pub fn raw(&self) -> Option<&str> {
        self.prompt.as_deref().filter(|_| self.system.is_none())
    }

    /// The conversation; `system` is the instruction where it brings none.
    pub fn conversation(&self, system: Option<&str>) -> Vec<Message> {
        let message = |role, text: &str| Message { role, content: text.to_owned() };
        let prompt = self.prompt.iter().map(|text| message(Role::User, text));
        let said: Vec<_> = prompt.chain(self.messages.iter().flatten().cloned()).collect();
        let system = self.system.as_deref().or(system.filter(|_| !self.brings_system()));
        let before = system.map(|text| message(Role::System, text));
        before.into_iter().chain(said).collect()
    }

    /// How tokens are chosen, given how they are where the line does not say.
    pub fn settings(&self, mut settings: Settings) -> Settings {
        let sampling = &mut settings.sampling;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        sampling.top_k = self.top_k.unwrap_or(sampling.top_k);
        sampling.top_p = self.top_p.unwrap_or(sampling.top_p);
        sampling.min_p = self.min_p.unwrap_or(sampling.min_p);
        settings
    }

    /// When the answer ends, given when it does where the line does not say.
    pub fn answer(&self, options: AnswerOptions) -> AnswerOptions {
        let stop = match &self.stop {
            Some(Stop::One(text)) => vec![text.clone()],
            Some(Stop::Many(texts)) => texts.clone(),
            None => options.stop,
        };
        AnswerOptions { max_tokens: self.max_tokens.or(options.max_tokens), stop, ..options }
    }
}

/// What serde says is wrong, without the place in the line of a file that it takes for the whole.
fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use rill::image::Sampling;

    use super::*;

    fn what(text: &str) -> String {
        Line::parse(text).unwrap_err().what
    }

    #[test]
    fn a_line_is_a_prompt_or_a_conversation() {
        let message = |role, text: &str| Message { role, content: text.to_owned() };
        let hello = [message(Role::User, "Hello")];
        for text in ["\"Hello\"", r#"{"prompt":"Hello"}"#] {
            let line = Line::parse(text).unwrap();
            assert_eq!(line.conversation(None), hello);
            assert_eq!(line.raw(), Some("Hello"));
            let said = line.conversation(Some("Be brief."));
            assert_eq!(said.split_first(), Some((&message(Role::System, "Be brief."), &hello[..])));
        }
        let text = r#"{"messages":[{"role":"system","content":"A"},{"role":"user","content":"B"},
            {"role":"assistant","content":"C"},{"role":"user","content":"D"}]}"#;
        let line = Line::parse(text).unwrap();
        let said = line.conversation(Some("not this"));
        let texts: Vec<_> = said.iter().map(|message| message.content.as_str()).collect();
        assert_eq!(texts, ["A", "B", "C", "D"]);
        assert_eq!(line.raw(), None);
        let line = Line::parse(r#"{"system":"E","prompt":"F"}"#).unwrap();
        assert_eq!(line.conversation(Some("not this"))[0], message(Role::System, "E"));
    }

    #[test]
    fn what_a_line_says_comes_before_what_the_command_says() {
        let line = Line::parse(
            r#"{"id":7,"prompt":"","max_tokens":3,"stop":"x","temperature":0,"seed":9,"top_k":2}"#,
        );
        let line = line.unwrap();
        assert_eq!((line.id.clone(), line.seed), (Some(7.into()), Some(9)));
        let options =
            AnswerOptions { max_tokens: Some(9), stop: vec!["y".into()], thinking: Some(5) };
        let own = AnswerOptions { max_tokens: Some(3), stop: vec!["x".into()], thinking: Some(5) };
        assert_eq!(line.answer(options.clone()), own);
        assert_eq!(Line::parse("\"\"").unwrap().answer(options.clone()), options);
        let settings = Settings::from(Sampling::default());
        let sampling = line.settings(settings).sampling;
        assert_eq!((sampling.temperature, sampling.top_k), (0.0, 2));
        assert_eq!(sampling.min_p, settings.sampling.min_p);
    }

    #[test]
    fn what_cannot_be_answered_says_why() {
        let bad = Line::parse(r#"{"id":"x","prompt":"a","mesages":1}"#).unwrap_err();
        assert_eq!(bad.id, Some("x".into()));
        assert!(bad.what.contains("unknown field `mesages`"), "{}", bad.what);
        assert!(what("{").starts_with("not JSON: "));
        assert!(!what("{").contains("line"));
        assert!(what("7").contains("neither"));
        assert!(what("{}").contains("one of"));
        assert!(what(r#"{"prompt":"a","messages":[]}"#).contains("one of"));
        assert!(what(r#"{"messages":[]}"#).contains("user's"));
        assert!(what(r#"{"messages":[{"role":"assistant","content":"a"}]}"#).contains("user's"));
        assert!(what(r#"{"messages":[{"role":"robot","content":"a"}]}"#).contains("robot"));
        assert!(what(r#"{"prompt":"a","temperature":-1}"#).contains("`temperature`"));
        assert!(what(r#"{"prompt":"a","top_p":0}"#).contains("`top_p`"));
        assert!(Line::parse(r#"{"prompt":"a","top_p":1e-38}"#).is_ok());
        let both = r#"{"system":"a","messages":[{"role":"system","content":"b"},
            {"role":"user","content":"c"}]}"#;
        assert!(what(both).contains("`system` and a system message in `messages`"));
        assert!(what(r#"{"prompt":"a","min_p":1}"#).contains("`min_p`"));
        assert!(what(r#"{"prompt":"a","temperature":1e300}"#).contains("`temperature`"));
        assert!(what(r#"{"prompt":"a","max_tokens":-1}"#).contains("-1"));
    }
}
