/// Longest part of a character that can be waiting for its last byte.
const HELD: usize = 3;

/// Turns token bytes into text as they come.
///
/// The pieces of text it emits, put together, are what `String::from_utf8_lossy` makes of all the
/// bytes at once: bytes that may still become a character are held back, and bytes that cannot
/// become one are each time replaced by U+FFFD as the Unicode standard advises (one for every
/// maximal subpart).
#[derive(Debug, Clone, Default)]
pub struct Utf8Stream {
    held: [u8; HELD],
    len: usize,
}

impl Utf8Stream {
    /// Takes the next bytes and emits the text that they complete, in one or more pieces.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&str)) {
        while self.len > 0 {
            let Some((&next, rest)) = bytes.split_first() else { return };
            let mut held = [0; HELD + 1];
            held[..self.len].copy_from_slice(&self.held[..self.len]);
            held[self.len] = next;
            match core::str::from_utf8(&held[..=self.len]) {
                Ok(char) => {
                    emit(char);
                    self.len = 0;
                    bytes = rest;
                }
                Err(error) if error.error_len().is_none() => {
                    self.held[self.len] = next;
                    self.len += 1;
                    bytes = rest;
                }
                // What is held was a beginning; `next` does not continue it and starts anew.
                Err(_) => self.finish(&mut emit),
            }
        }
        while !bytes.is_empty() {
            match core::str::from_utf8(bytes) {
                Ok(text) => {
                    emit(text);
                    return;
                }
                Err(error) => {
                    let (good, bad) = bytes.split_at(error.valid_up_to());
                    if let Ok(text) = core::str::from_utf8(good)
                        && !text.is_empty()
                    {
                        emit(text);
                    }
                    let Some(len) = error.error_len() else {
                        self.len = bad.len().min(HELD);
                        self.held[..self.len].copy_from_slice(&bad[..self.len]);
                        return;
                    };
                    emit("\u{fffd}");
                    bytes = &bad[len..];
                }
            }
        }
    }

    /// Ends the text: bytes that were held back become U+FFFD. The stream is as new afterwards.
    pub fn finish(&mut self, mut emit: impl FnMut(&str)) {
        if self.len > 0 {
            self.len = 0;
            emit("\u{fffd}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::string::String;
    use std::vec::Vec;

    /// Bytes that are often nearly UTF-8.
    fn nearly_utf8() -> impl Strategy<Value = Vec<u8>> {
        let part = prop_oneof![
            any::<char>().prop_map(|c| String::from(c).into_bytes()),
            any::<char>().prop_map(|c| {
                let mut bytes = String::from(c).into_bytes();
                bytes.pop();
                bytes
            }),
            prop::sample::select(std::vec![
                0x80, 0xbf, 0xc0, 0xc2, 0xe0, 0xa0, 0xed, 0xf0, 0x90, 0xf4, 0xf5, 0xff
            ])
            .prop_map(|byte| std::vec![byte]),
        ];
        prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn text_does_not_depend_on_the_cuts(
            bytes in nearly_utf8(),
            sizes in prop::collection::vec(0..5_usize, 0..40),
        ) {
            let mut stream = Utf8Stream::default();
            let mut text = String::new();
            let mut rest = &bytes[..];
            for size in sizes {
                let (now, later) = rest.split_at(size.min(rest.len()));
                stream.push(now, |part| text.push_str(part));
                rest = later;
            }
            stream.push(rest, |part| text.push_str(part));
            stream.finish(|part| text.push_str(part));
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
