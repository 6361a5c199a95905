//! Thinking that leaves a conversation, as boards without an operating system hold it: the model is then
//! as if it had never been there.

use std::fs;

use proptest::prelude::*;
use rill::answer::Answer;
use rill::chat::Role;
use rill::generate::{Free, forget_thinking, generate};
use rill::image::{Earlier, Template};
use rill::plan::KvFormat;
use rill::session::Session;
use rill_pack::{Options, Quiet, pack};
use rill_tests::kiosk;
use rill_tests::reference::cases;
use rill_tests::rig::{Rig, Setting};

const MESSAGES: [&str; 3] =
    ["Tell me a story about a fox and a kite.", "Where is the lift?", "What is 3 plus 4?"];

/// ChatML whose prompt opens thinking; that of earlier turns leaves, or that of all but the last answer.
fn template(keeps_last: bool) -> String {
    let last = if keeps_last { "assistant" } else { "user" };
    format!(
        "{{{{- bos_token -}}}}
{{%- set ns = namespace(last=-1) -%}}
{{%- for turn in messages -%}}{{%- if turn.role == '{last}' -%}}{{%- set ns.last = loop.index0 -%}}{{%- endif -%}}{{%- endfor -%}}
{{%- for turn in messages -%}}
{{%- set text = turn.content -%}}
{{%- if turn.role == 'assistant' and loop.index0 < ns.last and '</think>' in text -%}}{{%- set text = text.split('</think>')[-1] | trim -%}}{{%- endif -%}}
{{{{- '<|im_start|>' ~ turn.role ~ '\\n' ~ text ~ '<|im_end|>\\n' -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}{{{{- '<|im_start|>assistant\\n<think>\\n' -}}}}{{%- endif -%}}"
    )
}

/// The kiosk model with such a template.
fn image(keeps_last: bool) -> &'static [u8] {
    let folder = tempfile::tempdir().unwrap();
    let (source, image) = (folder.path().join("model"), folder.path().join("m.rill"));
    fs::create_dir(&source).unwrap();
    for file in fs::read_dir(kiosk::path("kiosk-16m")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), source.join(file.file_name())).unwrap();
    }
    fs::write(source.join("chat_template.jinja"), template(keeps_last)).unwrap();
    pack(&source, &image, &Options::default(), &Quiet).unwrap();
    fs::read(image).unwrap().leak()
}

fn rig(image: &'static [u8], kv: KvFormat) -> Rig {
    let setting = Setting { slots: Some(40), kv, ..Setting::default() };
    Rig::new(image, setting).unwrap()
}

/// The last token's logits of what the session holds, as bits.
fn last(rig: &mut Rig) -> Vec<u32> {
    rig.with(|session: &mut Session<'_>, world| while session.compute(world).unwrap() {});
    rig.session.logits().iter().map(|logit| logit.to_bits()).collect()
}

/// The same of a sequence that never held anything else.
fn fresh(rig: &mut Rig, ids: &[u32]) -> Vec<u32> {
    let ids = ids.to_vec();
    rig.session.reset();
    rig.session.append(&ids).unwrap();
    last(rig)
}

#[test]
fn after_thinking_leaves_logits_are_those_of_a_fresh_sequence() {
    for keeps_last in [false, true] {
        let image = image(keeps_last);
        let mut rig = rig(image, KvFormat::F16);
        let chat = rig.session.chat();
        let thinking = chat.thinking.clone().expect("the model thinks");
        assert_eq!(chat.template, Template::SameButThinking);
        assert!(thinking.prompted);
        assert_eq!(
            thinking.earlier,
            if keeps_last { Earlier::LeavesButLast } else { Earlier::Leaves }
        );
        let mut answer = Answer::default();
        // The model was not taught to end it.
        answer.expect_thinking(Some(thinking), Some(6));
        answer.begin_conversation();
        let mut removed = 0;
        for (turn, message) in MESSAGES.into_iter().enumerate() {
            let before = rig.session.tokens().len();
            forget_thinking(&mut rig.session, &mut answer);
            removed += before - rig.session.tokens().len();
            let thoughts = text(&rig).matches("</think>").count();
            assert_eq!(thoughts, if keeps_last { turn.min(1) } else { 0 }, "{}", text(&rig));
            rig.session.append_message(Role::User, message).unwrap();
            rig.session.begin_answer().unwrap();
            let ids = rig.session.tokens().to_vec();
            let ours = last(&mut rig);
            let mut other = self::rig(image, KvFormat::F16);
            assert!(ours == fresh(&mut other, &ids), "turn {turn}, the last stays: {keeps_last}");
            answer.begin(true);
            rig.with(|session, world| {
                generate(session, world, &mut answer, 20, &mut Free, || false, |_, _| ()).unwrap()
            });
        }
        assert!(removed > 6 * if keeps_last { 1 } else { 2 }, "{removed} tokens left");
    }
}

/// All that the session holds.
fn text(rig: &Rig) -> String {
    let pieces = rig.session.tokens().iter().map(|&id| rig.session.tokenizer().piece(id));
    String::from_utf8_lossy(&pieces.collect::<Vec<_>>().concat()).into_owned()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn tokens_that_were_taken_out_were_never_there(
        start in 0..60_usize,
        len in 0..60_usize,
        computed in 0..60_usize,
        more in 1..12_usize,
        int8: bool,
    ) {
        let kv = if int8 { KvFormat::Int8 } else { KvFormat::F16 };
        let ids = cases().into_iter().map(|case| case.ids).max_by_key(Vec::len).unwrap();
        let (ids, tail) = ids.split_at(50);
        let tail = &tail[..more.min(tail.len())];
        let mut rig = rig(kiosk::default_image(), kv);
        rig.session.append(&ids[..computed.min(50)]).unwrap();
        if computed > 0 {
            last(&mut rig);
        }
        rig.session.append(&ids[computed.min(50)..]).unwrap();
        rig.session.remove(start..start + len);
        let mut left = ids.to_vec();
        left.drain(start.min(50)..(start + len).min(50));
        prop_assert_eq!(rig.session.tokens(), &left[..]);
        rig.session.append(tail).unwrap();
        left.extend(tail);
        let ours = last(&mut rig);
        let mut other = self::rig(kiosk::default_image(), kv);
        prop_assert!(ours == fresh(&mut other, &left));
    }
}
