//! Compares a checkpoint's chat template with the core's ChatML.

use rill::image::{Chat, ChatTemplate, Earlier, MAX_STOPS, Template, Thinking};
use rill_template::{Template as Jinja, TemplateError, Words};

use crate::chatml::{CLOSE, Habit, OPEN, ROLES, SAMPLES, Sample, THINK};
use crate::tokenizer::Vocabulary;

/// What an image says about chatting, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatReport {
    /// For the manifest.
    pub chat: Chat,
    /// The template section.
    pub template: Vec<u8>,
    /// One or a few lines for whoever packs.
    pub explanation: String,
}

/// Why there is no chat for the manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChatError {
    /// More tokens end an answer than an image can say.
    #[error("{0} tokens end an answer, an image holds {MAX_STOPS}; shorten eos_token_id")]
    Stops(usize),
    /// A token that ends an answer does not exist.
    #[error("token {0} of eos_token_id is not in the vocabulary; use the checkpoint's own files")]
    UnknownStop(u32),
}

/// Finds out how to chat with a model: its tokens for ChatML, what ends an answer, how it thinks,
/// and whether the checkpoint's own `template` (Jinja) renders sample conversations as the core
/// does. A template that can be used goes into the image.
///
/// `eos` are the ends of an answer that the checkpoint names (`generation_config.json`), besides
/// its tokenizer's.
pub fn chat(
    vocabulary: &Vocabulary,
    template: Option<&str>,
    eos: &[u32],
) -> Result<ChatReport, ChatError> {
    let [open, close] = [OPEN, CLOSE].map(|name| vocabulary.control(name));
    let [system, user, assistant] = ROLES.map(|role| role.parse().unwrap_or_default());
    let name_of = |id: Option<u32>| id.and_then(|id| vocabulary.added_text(id)).unwrap_or_default();
    let [bos, eos_text] = [vocabulary.bos(), vocabulary.eos()].map(name_of);
    let words = Words {
        bos: bos.into(),
        eos: eos_text.into(),
        control: vocabulary.controls().map(|(name, id)| (name.to_owned(), id)).collect(),
        thinking: Some(THINK.map(str::to_owned)),
    };
    let Comparison { template: verdict, explanation, habit, renders_bos } =
        compare(template, words, open.and(close).is_some(), vocabulary.adds_bos());
    let usable = template.filter(|_| verdict.is_usable());
    let section =
        usable.map(|source| ChatTemplate { bos, eos: eos_text, source }.bytes().collect());
    let tokens = THINK.iter().all(|name| vocabulary.added(name).is_some());
    let mentions = |source: &str| THINK.iter().any(|name| source.contains(name));
    let thinks = tokens || template.is_some_and(mentions);
    let [think_open, think_close] = THINK.map(|name| name.parse().unwrap_or_default());
    let chat = Chat {
        begin: vocabulary.bos().filter(|_| vocabulary.adds_bos() || renders_bos),
        open,
        close,
        stops: stops(vocabulary, close, eos)?,
        system,
        user,
        assistant,
        template: verdict.0,
        thinking: thinks.then_some(Thinking {
            open: think_open,
            close: think_close,
            prompted: habit.prompted,
            earlier: habit.earlier,
        }),
    };
    Ok(ChatReport { chat, template: section.unwrap_or_default(), explanation })
}

fn stops(
    vocabulary: &Vocabulary,
    close: Option<u32>,
    eos: &[u32],
) -> Result<heapless::Vec<u32, MAX_STOPS>, ChatError> {
    let mut all: Vec<u32> = eos.iter().copied().chain(vocabulary.eos()).chain(close).collect();
    all.sort_unstable();
    all.dedup();
    if let Some(&id) = all.iter().find(|&&id| id as usize >= vocabulary.len()) {
        return Err(ChatError::UnknownStop(id));
    }
    heapless::Vec::from_slice(&all).map_err(|_| ChatError::Stops(all.len()))
}

/// How a template compares, and whether it can render at all.
struct Verdict(Template, bool);

impl Verdict {
    fn is_usable(&self) -> bool {
        self.1
    }
}

/// What comparing a template gave.
struct Comparison {
    template: Verdict,
    /// For the reader.
    explanation: String,
    /// How the core has to think to be like the template.
    habit: Habit,
    /// Whether the template itself writes the begin token.
    renders_bos: bool,
}

/// What follows an explanation where a program can render the template.
const FOLLOWED: &str = "on Linux the template is followed";

fn compare(template: Option<&str>, words: Words, tokens: bool, adds_bos: bool) -> Comparison {
    let habit = Habit::default();
    let none =
        |template, explanation| Comparison { template, explanation, habit, renders_bos: false };
    let Some(source) = template else {
        let text = "the checkpoint has no chat template; ChatML is assumed";
        return none(Verdict(Template::Missing, false), text.into());
    };
    let bos = words.bos.clone();
    let rendered = Jinja::new(source, words).and_then(|jinja| {
        let render = |sample: &Sample| Ok(jinja.render(&sample.conversation())?.text());
        SAMPLES.iter().map(render).collect::<Result<Vec<String>, TemplateError>>()
    });
    let rendered = match rendered {
        Ok(rendered) => rendered,
        Err(error) => {
            // One that refuses some conversations can render others.
            let usable = matches!(error, TemplateError::Refused(_));
            let end = if usable { FOLLOWED } else { "ChatML is used instead" };
            let text = format!("the checkpoint's template cannot be compared: {error}; {end}");
            return none(Verdict(Template::Differs, usable), text);
        }
    };
    let renders_bos = !bos.is_empty() && rendered.iter().all(|text| text.starts_with(&bos));
    let bos = if adds_bos || renders_bos { bos.as_str() } else { "" };
    let differing = |habit| {
        let mut pairs = SAMPLES.iter().zip(&rendered);
        pairs.find_map(|(sample, found)| {
            let expected = sample.chatml(bos, habit);
            (*found != expected).then(|| difference(&expected, found))
        })
    };
    let Some(first) = differing(habit).filter(|_| tokens) else {
        return match tokens {
            true => {
                let text = "the checkpoint's chat template is ChatML as Rill writes it";
                Comparison { renders_bos, ..none(Verdict(Template::Same, true), text.into()) }
            }
            false => {
                let text = format!(
                    "the tokenizer has no control tokens {OPEN} and {CLOSE}, so the model does not \
                     chat in ChatML; {FOLLOWED}"
                );
                Comparison { renders_bos, ..none(Verdict(Template::Differs, true), text) }
            }
        };
    };
    let (template, explanation, habit) =
        match Habit::all().skip(1).find(|habit| differing(*habit).is_none()) {
            Some(habit) => {
                let text = format!("the checkpoint's chat template is ChatML, but {}", said(habit));
                (Template::SameButThinking, format!("{text}; {FOLLOWED}"), habit)
            }
            None => {
                let prompted = rendered
                    .iter()
                    .zip(&SAMPLES)
                    .all(|(text, sample)| !sample.asks() || text.trim_end().ends_with(THINK[0]));
                let habit = Habit { prompted, ..habit };
                (Template::Differs, format!("{first}; {FOLLOWED}"), habit)
            }
        };
    Comparison { template: Verdict(template, true), explanation, habit, renders_bos }
}

/// In what a template is not plain ChatML.
fn said(habit: Habit) -> String {
    let earlier = match habit.earlier {
        Earlier::Stays => None,
        Earlier::Leaves => Some("the thinking of earlier turns leaves the conversation"),
        Earlier::LeavesButLast => {
            Some("the thinking of earlier turns but the last leaves the conversation")
        }
    };
    let prompted = habit.prompted.then_some("the prompt of an answer opens <think>");
    let all: Vec<&str> = prompted.into_iter().chain(earlier).collect();
    all.join(" and ")
}

/// Shows the first place where two texts differ.
fn difference(expected: &str, found: &str) -> String {
    let same: usize = expected
        .chars()
        .zip(found.chars())
        .take_while(|(a, b)| a == b)
        .map(|(a, _)| a.len_utf8())
        .sum();
    let excerpt = |text: &str| text[same..].chars().take(40).collect::<String>();
    let before: Vec<char> = expected[..same].chars().rev().take(20).collect();
    let before: String = before.into_iter().rev().collect();
    format!(
        "the checkpoint's chat template differs from ChatML as Rill writes it: after {before:?} \
         the template has {:?}, Rill {:?}",
        excerpt(found),
        excerpt(expected)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::{GgufTokenizer, from_gguf};

    /// A tokenizer of bytes and control tokens.
    fn vocabulary(control: &[&str], add_bos: bool) -> Vocabulary {
        let mut gguf = GgufTokenizer {
            model: "gpt2".into(),
            pre: Some("lfm2".into()),
            tokens: control.iter().map(|&name| name.into()).collect(),
            bos: Some(0),
            eos: Some(1),
            add_bos: Some(add_bos),
            ..GgufTokenizer::default()
        };
        gguf.token_types = vec![3; control.len()];
        gguf.tokens.extend((0..=255).map(|byte| crate::tokenizer::char_of(byte).to_string()));
        gguf.token_types.resize(gguf.tokens.len(), 1);
        from_gguf(gguf).unwrap()
    }

    const CONTROL: [&str; 3] = ["<s>", CLOSE, OPEN];
    /// Tags on lines of their own, a system message kept apart: as published templates do.
    const LONG: &str = "{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- if messages[0]['role'] == 'system' -%}
    {%- set ns.system = messages[0]['content'] -%}
    {%- set messages = messages[1:] -%}
{%- endif -%}
{%- if tools -%}{{ raise_exception('no tools here') }}{{ tools | tojson }}{%- endif -%}
{%- if ns.system.strip() -%}
    {{- '<|im_start|>system\\n' + ns.system + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set content = message['content'] -%}
    {%- if message['role'] == 'assistant' and '</think>' in content -%}
        {%- set content = content.split('</think>')[-1] | trim -%}
    {%- endif -%}
    {{- '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
";

    /// The same without thinking.
    fn plain() -> String {
        let start = LONG.find("    {%- if message['role'] == 'assistant'").unwrap();
        let end = LONG.find("    {{- '<|im_start|>' + message").unwrap();
        [&LONG[..start], &LONG[end..]].concat()
    }

    #[test]
    fn chatml_is_recognised() {
        let report = chat(&vocabulary(&CONTROL, true), Some(&plain()), &[1]).unwrap();
        assert_eq!(report.chat.template, Template::Same, "{}", report.explanation);
        assert_eq!(report.chat.thinking, None);
        assert_eq!(
            (report.chat.begin, report.chat.open, report.chat.close),
            (Some(0), Some(2), Some(1))
        );
        assert_eq!((report.chat.user.as_str(), &report.chat.stops[..]), ("user", &[1][..]));
    }

    #[test]
    fn the_begin_token_is_the_template_s_or_the_tokenizer_s() {
        let plain = plain();
        let without = plain.replace("{{- bos_token -}}", "");
        let begin = |add_bos, template: &str| {
            let chat = chat(&vocabulary(&CONTROL, add_bos), Some(template), &[]).unwrap().chat;
            (chat.begin, chat.template)
        };
        assert_eq!(begin(false, &plain), (Some(0), Template::Same));
        assert_eq!(begin(false, &without), (None, Template::Same));
        assert_eq!(begin(true, &without), (Some(0), Template::Differs));
    }

    #[test]
    fn other_templates_are_told_apart_and_explained() {
        let said = |control: &[&str], template: Option<&str>| {
            let report = chat(&vocabulary(control, true), template, &[]).unwrap();
            (report.chat.template, report.explanation)
        };
        let cases = [
            (
                LONG.replace("message['role'] + '\\n'", "message['role'] + ': '"),
                "after \"<s><|im_start|>user\" the template has \": Where",
            ),
            (LONG.replace("{%- if tools", "{%- if messages"), "no tools here"),
            ("{% for".into(), "cannot be compiled"),
            (String::new(), "the template has \"\""),
        ];
        for (template, part) in cases {
            let (verdict, text) = said(&CONTROL, Some(&template));
            assert_eq!(verdict, Template::Differs);
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(said(&CONTROL, None).0, Template::Missing);
        let (verdict, text) = said(&["<s>", "</s>"], Some(LONG));
        assert_eq!(verdict, Template::Differs);
        assert!(text.contains("no control tokens"), "{text}");
    }

    #[test]
    fn stops_must_exist_and_be_few() {
        let vocabulary = vocabulary(&CONTROL, true);
        assert_eq!(chat(&vocabulary, None, &[999]), Err(ChatError::UnknownStop(999)));
        let many: Vec<u32> = (0..9).collect();
        assert_eq!(chat(&vocabulary, None, &many), Err(ChatError::Stops(9)));
    }

    const GENERATION: &str = include_str!("../../template/tests/data/generation.jinja");
    const PREFILLED: &str = include_str!("../../template/tests/data/prefilled-thinking.jinja");
    const STRIP: &str = include_str!("../../template/tests/data/strip-thinking.jinja");

    #[test]
    fn templates_that_think_are_told_from_those_that_do_not() {
        let judged = |source: &str| {
            let report = chat(&vocabulary(&CONTROL, true), Some(source), &[]).unwrap();
            let section = ChatTemplate::parse(&report.template).unwrap();
            assert_eq!(section, ChatTemplate { bos: "<s>", eos: CLOSE, source });
            let thinking = report.chat.thinking.map(|t| (t.prompted, t.earlier));
            (report.chat.template, thinking, report.explanation)
        };
        let same = "the checkpoint's chat template is ChatML as Rill writes it";
        assert_eq!(judged(GENERATION), (Template::Same, None, same.into()));
        let cases = [
            (
                PREFILLED,
                (true, Earlier::Stays),
                "ChatML, but the prompt of an answer opens <think>;",
            ),
            (
                STRIP,
                (false, Earlier::Leaves),
                "ChatML, but the thinking of earlier turns leaves the conversation;",
            ),
        ];
        // One that takes thinking even from an answer that nothing follows is not the core's.
        assert_eq!(judged(LONG).0, Template::Differs);
        let last = STRIP.replace("turn.role == 'user'", "turn.role == 'assistant'");
        let butlast = (false, Earlier::LeavesButLast);
        for (source, thinking, said) in cases.into_iter().chain([(&*last, butlast, "but the last")])
        {
            let (template, found, explanation) = judged(source);
            assert_eq!(template, Template::SameButThinking, "{explanation}");
            assert_eq!(found, Some(thinking), "{explanation}");
            assert!(
                explanation.contains(said) && explanation.contains("followed"),
                "{explanation}"
            );
        }
    }

    #[test]
    fn a_template_that_means_ill_is_left_out() {
        let loops =
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
        let long = "x".repeat(100_000);
        for (source, part) in [(loops, "limits"), (&*long, "bytes"), ("{% for", "compiled")] {
            let report = chat(&vocabulary(&CONTROL, true), Some(source), &[]).unwrap();
            assert_eq!(report.chat.template, Template::Differs);
            assert!(report.template.is_empty());
            let text = report.explanation;
            assert!(text.contains(part) && text.contains("ChatML is used instead"), "{text}");
        }
    }
}
