//! Conversations written message by message have the tokens of the whole rendered text.

use std::sync::LazyLock;

use proptest::prelude::*;
use rill::chat::{ChatError, Conversation, Role};
use rill::image::{Chat, Template};
use rill::tokenizer::{EncodeError, Tokenizer};
use serde_json::Value;

const TOKENIZER: &str = include_str!("../data/kiosk/kiosk-16m/tokenizer.json");
const CONFIG: &str = include_str!("../data/kiosk/kiosk-16m/tokenizer_config.json");
const TEMPLATE: &str = include_str!("../data/kiosk/kiosk-16m/chat_template.jinja");
const CASES: &str = include_str!("../data/kiosk/reference/cases.json");
const CLOSE: u32 = 7;

/// The kiosk model's tokenizer section and chat format.
static KIOSK: LazyLock<(Vec<u8>, Chat)> = LazyLock::new(|| {
    let vocabulary = rill_pack::tokenizer::from_json(TOKENIZER, Some(CONFIG)).expect("supported");
    let report = rill_pack::chat::chat(&vocabulary, Some(TEMPLATE), &[CLOSE]).expect("few stops");
    assert_eq!(report.chat.template, Template::Same, "{}", report.explanation);
    assert_eq!([report.chat.begin, report.chat.open], [Some(1), Some(6)]);
    assert_eq!(report.chat.stops, [CLOSE]);
    (vocabulary.tables(), report.chat)
});
static REFERENCE: LazyLock<tokenizers::Tokenizer> =
    LazyLock::new(|| TOKENIZER.parse().expect("the reference reads it"));

/// A caller's buffers.
struct Writer<'t> {
    tokenizer: Tokenizer<'t>,
    ids: Vec<u32>,
}

impl Writer<'_> {
    fn message(&mut self, conversation: &mut Conversation, role: Role, content: &str) {
        let (mut scratch, mut out) = (vec![0; 1 << 12], vec![0; 1 << 10]);
        let written = conversation.message(&self.tokenizer, role, content, &mut scratch, &mut out);
        self.ids.extend(&out[..written.expect("room")]);
    }

    fn prompt_answer(&mut self, conversation: &mut Conversation) {
        let (mut scratch, mut out) = ([0; 64], [0; 64]);
        let written = conversation.prompt_answer(&self.tokenizer, &mut scratch, &mut out);
        self.ids.extend(&out[..written.expect("room")]);
    }

    /// An answer as a model gives it: its tokens, then `last`.
    fn answer(&mut self, conversation: &mut Conversation, content: &str, last: Option<u32>) {
        let (mut scratch, mut out) = (vec![0; 1 << 12], vec![0; 1 << 10]);
        let len = self.tokenizer.encode(content, false, &mut scratch, &mut out).expect("room");
        self.ids.extend(out[..len].iter().copied().chain(last));
        conversation.answered(*self.ids.last().expect("a prompt"));
    }
}

#[test]
fn reference_conversations_have_their_ids() {
    let (tables, chat) = &*KIOSK;
    let cases: Value = serde_json::from_str(CASES).expect("JSON");
    let mut checked = 0;
    for case in cases.as_array().expect("a list") {
        let Some(messages) = case["messages"].as_array() else { continue };
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).expect("ids");
        // Past answers given as messages, then as the model's own tokens.
        for spoken in [false, true] {
            let tokenizer = Tokenizer::parse(tables, 2048).expect("tables");
            let mut writer = Writer { tokenizer, ids: vec![] };
            let mut conversation = Conversation::new(chat.clone()).expect("a chat model");
            for message in messages {
                let [role_name, content] = ["role", "content"].map(|key| message[key].as_str());
                let role = role_name.and_then(Role::named).expect("role");
                let content = content.expect("content");
                if spoken && role == Role::Assistant {
                    writer.prompt_answer(&mut conversation);
                    writer.answer(&mut conversation, content, Some(CLOSE));
                } else {
                    writer.message(&mut conversation, role, content);
                }
            }
            writer.prompt_answer(&mut conversation);
            assert_eq!(writer.ids, ids);
        }
        checked += 1;
    }
    assert!(checked > 5, "only {checked} cases have messages");
}

#[test]
fn an_answer_that_was_cut_is_closed() {
    let (tables, chat) = &*KIOSK;
    let ids = [None, Some(CLOSE)].map(|last| {
        let tokenizer = Tokenizer::parse(tables, 2048).expect("tables");
        let mut writer = Writer { tokenizer, ids: vec![] };
        let mut conversation = Conversation::new(chat.clone()).expect("a chat model");
        writer.message(&mut conversation, Role::User, "Hello");
        writer.prompt_answer(&mut conversation);
        writer.answer(&mut conversation, "Good morning", last);
        writer.message(&mut conversation, Role::User, "Where is the lift?");
        writer.ids
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_failed_message_can_be_repeated() {
    let (tables, chat) = &*KIOSK;
    let tokenizer = Tokenizer::parse(tables, 2048).expect("tables");
    let mut conversation = Conversation::new(chat.clone()).expect("a chat model");
    let mut scratch = [0; 64];
    for room in 0..8 {
        let mut out = vec![0; room];
        let full = Err(ChatError::Encode(EncodeError::Full { room }));
        let mut write =
            || conversation.message(&tokenizer, Role::User, "Hello", &mut scratch, &mut out);
        assert_eq!(write(), full, "{room}");
    }
    let mut out = [0; 8];
    let written = conversation.message(&tokenizer, Role::User, "Hello", &mut scratch, &mut out);
    assert_eq!((written, out), (Ok(8), [1, 6, 386, 274, 206, 1096, 7, 206]));
    assert_eq!(Conversation::new(Chat::default()).err(), Some(ChatError::NoTokens));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]
    #[test]
    fn any_content_is_tokenised_as_in_the_whole_text(
        contents in prop::collection::vec("[ \n\ra-c1!é]{0,8}|\\PC{0,12}", 1..4),
    ) {
        let (tables, chat) = &*KIOSK;
        let tokenizer = Tokenizer::parse(tables, 2048).expect("tables");
        let mut writer = Writer { tokenizer, ids: vec![] };
        let mut conversation = Conversation::new(chat.clone()).expect("a chat model");
        let mut text = String::from("<|startoftext|>");
        for content in &contents {
            writer.message(&mut conversation, Role::User, content);
            text += &format!("<|im_start|>user\n{content}<|im_end|>\n");
        }
        let expected = REFERENCE.encode_fast(text, false).expect("any text");
        prop_assert_eq!(writer.ids, expected.get_ids());
    }

    #[test]
    fn nobody_can_forge_a_message(before in "\\PC{0,4}", after in "\\PC{0,4}", id in 0..8_u32) {
        let (tables, chat) = &*KIOSK;
        let tokenizer = Tokenizer::parse(tables, 2048).expect("tables");
        let name = str::from_utf8(tokenizer.piece(id)).expect("a name").to_owned();
        let mut writer = Writer { tokenizer, ids: vec![] };
        let mut conversation = Conversation::new(chat.clone()).expect("a chat model");
        writer.message(&mut conversation, Role::User, &format!("{before}{name}{after}"));
        let control = writer.ids.iter().filter(|id| writer.tokenizer.is_special(**id));
        prop_assert_eq!(control.copied().collect::<Vec<_>>(), [1, 6, 7]);
    }
}
