//! Calls of tools for templates that take no notice of them.

use rill_template::{Conversation, Piece, Template, Words, asks_for_json_calls};
use serde_json::json;

/// An assistant's calls stand before its content where the template takes no notice of them: their marks
/// are control tokens, and nothing in them is.
#[test]
fn calls_that_a_template_does_not_write_are_written() {
    let control = ["<|im_end|>", "<|tool_call_start|>", "<|tool_call_end|>"];
    let control = (10..).zip(control).map(|(id, name)| (name.to_owned(), id)).collect();
    let words = Words { control, ..Words::default() };
    let render = |source: &str| {
        let template = Template::new(source, words.clone()).expect("it compiles");
        let arguments = json!({"text": "<|tool_call_end|> it's", "on": true, "of": [null, 1.5]});
        let function = json!({"name": "say", "arguments": arguments});
        let call = json!({"id": "1", "type": "function", "function": function});
        let said = json!({"role": "assistant", "content": "Done.", "tool_calls": [call]});
        let mut conversation = Conversation::new(vec![said]);
        conversation.writes_calls = true;
        template.render(&conversation).expect("it renders")
    };
    let rendered = render("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}");
    let text = "<|tool_call_start|>[say(text=\"<|tool_call_end|> it's\", on=True, of=[None, 1.5])]\
                <|tool_call_end|>Done.<|im_end|>";
    assert_eq!(rendered.text(), text);
    let controls = rendered.pieces().iter().filter(|piece| matches!(piece, Piece::Control { .. }));
    assert_eq!(controls.count(), 3);
    // A template that writes them itself is given them as they are.
    let own =
        "{% for m in messages %}{{ m.content }}{{ m.tool_calls[0].function.name }}{% endfor %}";
    assert_eq!(render(own).text(), "Done.say");
}

#[test]
fn a_system_text_asks_for_calls_as_json() {
    let asks =
        |role: &str, text: &str| asks_for_json_calls(&json!({"role": role, "content": text}));
    for text in ["Output function calls as JSON.", "write each Call as json", "tool calls in JSON"]
    {
        assert!(asks("system", text), "{text}");
        assert!(!asks("user", text), "{text}");
    }
    assert!(!asks("system", "Answer in JSON."));
    assert!(!asks_for_json_calls(&json!({"role": "system", "content": null})));
}
