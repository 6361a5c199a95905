//! Forms that were asked for before: a client that asks again waits for no compiler.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Form, Wanted};

/// Most bytes of the forms that are kept.
const MOST_BYTES: usize = 2 << 20;

/// What tells a form from others.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// Of a form that is wanted.
    pub fn of(wanted: &Wanted) -> Self {
        struct Sum(Sha256);
        impl Write for Sum {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.update(text);
                Ok(())
            }
        }
        let mut sum = Sum(Sha256::new());
        // A sum takes any text.
        let _ = write!(sum, "{wanted:?}");
        Self(sum.0.finalize().into())
    }
}

/// The forms that were asked for last.
#[derive(Default)]
pub struct Cache {
    /// The last one first.
    forms: VecDeque<(Key, Arc<Form>)>,
}

impl Cache {
    /// The form that has this key, if it is kept.
    pub fn find(&mut self, key: Key) -> Option<Arc<Form>> {
        let at = self.forms.iter().position(|(other, ..)| *other == key)?;
        let found = self.forms.remove(at)?;
        let form = Arc::clone(&found.1);
        self.forms.push_front(found);
        Some(form)
    }

    /// Keeps a form in the place of those that were asked for longest ago; not one that is too large for
    /// that.
    pub fn keep(&mut self, key: Key, form: &Arc<Form>) {
        if form.bytes > MOST_BYTES {
            return;
        }
        self.forms.push_front((key, Arc::clone(form)));
        while self.forms.iter().map(|(_, form)| form.bytes).sum::<usize>() > MOST_BYTES {
            self.forget();
        }
    }

    /// Forgets the form that was asked for longest ago; says whether there was one.
    pub fn forget(&mut self) -> bool {
        self.forms.pop_back().is_some()
    }
}

#[cfg(test)]
mod tests {
    use llguidance::ParserFactory;
    use llguidance::api::TopLevelGrammar;
    use llguidance::toktrie::ApproximateTokEnv;
    use serde_json::json;

    use super::super::{Made, Matcher};
    use super::*;

    fn key(number: usize) -> Key {
        Key::of(&Wanted::Schema(json!({"const": number})))
    }

    #[test]
    fn as_many_are_kept_as_there_is_room_for() {
        let environment = ApproximateTokEnv::single_byte_env();
        let factory = ParserFactory::new_simple(&environment).expect("it can be made");
        let grammar = TopLevelGrammar::from_lark("start: \"x\"".into());
        let matcher = Matcher::new(factory.create_parser(grammar).expect("it is one"));
        let form = |bytes| Arc::new(Form::new(Made { matcher: matcher.deep_clone(), bytes }, None));
        let room = 16;
        let each = form(MOST_BYTES / room);
        let mut cache = Cache::default();
        for number in 0..room {
            cache.keep(key(number), &each);
        }
        // What is asked for again stays; of the others the oldest goes.
        assert!(cache.find(key(0)).is_some());
        cache.keep(key(room), &each);
        assert!(cache.find(key(1)).is_none());
        assert!([0, 2, room].into_iter().all(|number| cache.find(key(number)).is_some()));
        // One that is larger than all room drives none out.
        cache.keep(key(room + 1), &form(MOST_BYTES + 1));
        assert!(cache.find(key(room + 1)).is_none() && cache.find(key(0)).is_some());
    }

    #[test]
    fn another_form_has_another_key() {
        let grammar = |text: &str| Key::of(&Wanted::Grammar(text.into()));
        assert!(key(1) == key(1) && key(1) != key(2));
        assert!(grammar("start: \"a\"") != grammar("start: \"b\"") && grammar("1") != key(1));
    }
}
