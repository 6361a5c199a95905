//! What says which tokens a form allows: the library's parser, held to what it may grow by.

use std::fmt::Display;
use std::panic::AssertUnwindSafe;

use llguidance::TokenParser;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{SimpleVob, TokTrie};

use super::{MOST_GROWTH, said};

/// A parser at work.
pub struct Matcher {
    parser: TokenParser,
    /// Bytes of its recogniser before it took anything.
    made: usize,
    /// Whether it failed, and says nothing any more.
    is_broken: bool,
}

impl Matcher {
    /// With a parser that has taken nothing.
    pub fn new(mut parser: TokenParser) -> Self {
        parser.start_without_prompt();
        let made = parser.parser.lexer_stats().num_bytes;
        Self { parser, made, is_broken: false }
    }

    /// One that shares nothing with it.
    pub fn deep_clone(&self) -> Self {
        Self { parser: self.parser.deep_clone(), ..*self }
    }

    /// Bytes of its recogniser before it took anything.
    pub fn made(&self) -> usize {
        self.made
    }

    /// Bytes that its recogniser has grown by since.
    pub fn grown(&self) -> usize {
        self.parser.parser.lexer_stats().num_bytes.saturating_sub(self.made)
    }

    /// The tokens that it chooses from.
    pub fn trie(&self) -> &TokTrie {
        self.parser.token_env.tok_trie()
    }

    /// Whether nothing can follow but the end, or it failed.
    pub fn is_stopped(&self) -> bool {
        self.is_broken || self.parser.stopped()
    }

    /// The tokens that may come next: the end where nothing else can.
    pub fn mask(&mut self) -> Result<SimpleVob, String> {
        if !self.is_broken {
            if self.parser.stopped() {
                return Ok(self.trie().eos_token_set());
            }
            self.is_broken = self.grown() > MOST_GROWTH;
        }
        self.attempt(TokenParser::compute_mask)
    }

    /// This token comes, of those that may.
    pub fn take(&mut self, id: u32) -> Result<(), String> {
        self.attempt(|parser| {
            parser.consume_token(id)?;
            parser.check_stop()
        })?;
        Ok(())
    }

    /// The bytes that must come next.
    pub fn forced(&mut self) -> Vec<u8> {
        // What goes wrong is said by the next mask.
        self.attempt(|parser| Ok::<_, String>(parser.force_bytes())).unwrap_or_default()
    }

    fn attempt<T, E: Display>(
        &mut self,
        act: impl FnOnce(&mut TokenParser) -> Result<T, E>,
    ) -> Result<T, String> {
        if self.is_broken {
            return Err(format!("it grows by more than {MOST_GROWTH} bytes"));
        }
        let parser = &mut self.parser;
        let outcome = match catch_unwind(AssertUnwindSafe(|| Ok(act(parser)))) {
            Ok(outcome) => outcome.map_err(said),
            Err(panic) => Err(said(panic)),
        };
        self.is_broken = outcome.is_err();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use llguidance::ParserFactory;
    use llguidance::api::TopLevelGrammar;
    use llguidance::toktrie::ApproximateTokEnv;
    use serde_json::json;

    use super::*;

    /// A matcher of a schema whose tokens are bytes.
    fn matcher(schema: serde_json::Value) -> Matcher {
        let factory = ParserFactory::new_simple(&ApproximateTokEnv::single_byte_env());
        let mut factory = factory.expect("it can be made");
        factory.limits_mut().max_lexer_states = super::super::MOST_STATES;
        let parser = factory.quiet().create_parser(TopLevelGrammar::from_json_schema(schema));
        Matcher::new(parser.expect("it is a schema"))
    }

    /// Takes bytes until it says nothing any more; returns how many.
    fn take(matcher: &mut Matcher, bytes: impl IntoIterator<Item = u8>) -> usize {
        let is_taken = |byte: &u8| {
            let mask = matcher.mask();
            mask.is_ok_and(|mask| mask.is_allowed((*byte).into()))
                && matcher.take((*byte).into()).is_ok()
        };
        bytes.into_iter().take_while(is_taken).count()
    }

    #[test]
    fn a_long_text_has_room_and_one_without_an_end_has_not() {
        let long = format!("\"{}\"", "x".repeat(1500));
        let mut whole = matcher(json!({"type": "string", "minLength": 1000, "maxLength": 1500}));
        assert_eq!(take(&mut whole, long.bytes()), long.len());
        assert!(whole.is_stopped() && whole.grown() <= MOST_GROWTH);
        let end = whole.trie().eos_token();
        assert!(whole.mask().is_ok_and(|mask| mask.iter().eq([end])));

        let mut spent = matcher(json!({"type": "string", "minLength": 50_000}));
        let taken = take(&mut spent, std::iter::once(b'"').chain([b'x'; 50_000]));
        assert!((1500..50_000).contains(&taken), "{taken}");
        assert!(spent.mask().is_err() && spent.take(b'x'.into()).is_err());
        assert!(spent.grown() < MOST_GROWTH + (64 << 10), "{}", spent.grown());
    }
}
