use std::cell::RefCell;
use std::fmt;
use std::io::{self, Read};
use std::ops::Range;
use std::rc::Rc;

use rill_pack::checkpoint::Source;
use ureq::BodyReader;

use super::FetchError;
use super::digest::Sum;
use super::web::{Answer, Patience, Web, plain, text, without_query};

/// A large file of a repository, read by ranges.
///
/// The packer takes the rows of several tensors in turn, each tensor in order. A stream is one
/// request for what remains of a tensor; as many as are in use stay open. A range has no sum that
/// the hub knows, so each answer must fit the listing instead: the same commit, size and SHA-256
/// where the hub names them, the same entity tag each time, and just the bytes asked for.
pub struct Remote {
    web: Rc<Web>,
    /// Its address at the commit.
    url: String,
    commit: String,
    size: u64,
    sum: Option<Sum>,
    /// Hears of bytes that arrive.
    arrived: Rc<dyn Fn(u64)>,
    /// Least recently used first.
    streams: RefCell<Vec<Stream>>,
    last: RefCell<Last>,
}

/// What earlier answers said.
#[derive(Debug, Default)]
struct Last {
    /// Where the hub redirects to; such addresses expire.
    place: Option<String>,
    /// The entity tag at an address (without its query).
    etag: Option<(String, String)>,
}

/// The body of an answer on its way.
struct Stream {
    body: BodyReader<'static>,
    at: u64,
    end: u64,
}

/// Gate, up and down of an expert, and one for what comes between.
const STREAMS_MOST: usize = 4;
/// Bytes asked for when nothing is known of what is read next.
const AHEAD: u64 = 1 << 20;

impl Remote {
    /// The file at `url`, which is of `commit`.
    pub fn new(
        web: Rc<Web>,
        url: String,
        commit: String,
        (size, sum): (u64, Option<Sum>),
        arrived: Rc<dyn Fn(u64)>,
    ) -> Self {
        let (streams, last) = (RefCell::default(), RefCell::default());
        Self { web, url, commit, size, sum, arrived, streams, last }
    }

    /// Fills `into` from `at`; `end` as in [`Source::read_at`].
    fn fill(&self, mut at: u64, end: u64, into: &mut [u8]) -> Result<(), FetchError> {
        let last = at.checked_add(into.len() as u64).filter(|&last| last <= self.size);
        let Some(last) = last else {
            return Err(FetchError::Contradiction("a read past the end of the file".into()));
        };
        let end = if end == 0 { at.saturating_add(AHEAD) } else { end }.clamp(last, self.size);
        let mut into = into;
        let mut patience = self.web.patience();
        while !into.is_empty() {
            let mut stream = self.stream(at, end, &mut patience)?;
            let most = into.len().min(usize::try_from(stream.end - at).unwrap_or(usize::MAX));
            match stream.body.read(&mut into[..most]) {
                Ok(0) => patience.bear(FetchError::Connection("the connection was cut".into()))?,
                Err(error) => patience.bear(broken(&error))?,
                Ok(len) => {
                    patience.renew();
                    (self.arrived)(len as u64);
                    at += len as u64;
                    into = &mut into[len..];
                    stream.at = at;
                    self.keep(stream);
                }
            }
        }
        Ok(())
    }

    /// The stream that stands at `at`, or a new one from there to `end`.
    fn stream(&self, at: u64, end: u64, patience: &mut Patience<'_>) -> Result<Stream, FetchError> {
        let mut streams = self.streams.borrow_mut();
        if let Some(index) = streams.iter().position(|stream| stream.at == at) {
            return Ok(streams.remove(index));
        }
        loop {
            match self.ask(at..end) {
                Ok(stream) => return Ok(stream),
                Err(error) => patience.bear(error)?,
            }
        }
    }

    /// Puts a stream back if there is more in it.
    fn keep(&self, mut stream: Stream) {
        if stream.at == stream.end {
            // Reading the end of the body frees the connection for the next request. If there is
            // more than was asked for, it is closed.
            let _ = stream.body.read(&mut [0]);
            return;
        }
        let mut streams = self.streams.borrow_mut();
        if streams.len() == STREAMS_MOST {
            streams.remove(0);
        }
        streams.push(stream);
    }

    /// Asks for a range. What a server said of the file before holds.
    fn ask(&self, range: Range<u64>) -> Result<Stream, FetchError> {
        let known = self.last.borrow().place.clone();
        let answer = match &known {
            Some(place) => match self.web.get(place, Some(range.clone())) {
                // It may have expired; the hub knows a new one.
                Err(error) if !error.may_pass() => {
                    self.last.borrow_mut().place = None;
                    self.web.get(&self.url, Some(range.clone()))?
                }
                answer => answer?,
            },
            None => self.web.get(&self.url, Some(range.clone()))?,
        };
        let end = self.check(&answer, &range)?;
        if answer.place != self.url {
            self.last.borrow_mut().place = Some(answer.place);
        }
        let body = answer.response.into_body().into_reader();
        Ok(Stream { body, at: range.start, end })
    }

    /// Whether an answer is the range asked for, of the file that the hub listed; where it ends.
    fn check(&self, answer: &Answer, range: &Range<u64>) -> Result<u64, FetchError> {
        let Answer { response, place, told } = answer;
        let changed = |what: &str| Err(FetchError::Changed(what.into()));
        if told.commit.as_ref().is_some_and(|commit| *commit != self.commit) {
            return changed("another commit");
        }
        if told.size.is_some_and(|size| size != self.size) {
            return changed("another size");
        }
        if let (Some(etag), Some(Sum::Sha256(sum))) = (&told.etag, &self.sum)
            && !etag.eq_ignore_ascii_case(sum)
        {
            return changed("another SHA-256");
        }
        if let Some(etag) = text(response, "etag") {
            let mut last = self.last.borrow_mut();
            let (place, etag) = (without_query(place), plain(etag));
            match &last.etag {
                Some((at, before)) if at == place && before != etag => {
                    return changed("another entity tag");
                }
                _ => last.etag = Some((place.into(), etag.into())),
            }
        }
        let len = response.body().content_length();
        let contradiction = |what: String| Err(FetchError::Contradiction(what));
        if response.status().as_u16() == 200 {
            // The whole file is what was asked for only if that was the whole file.
            if len.is_some_and(|len| len != self.size) {
                return changed("another size");
            }
            return if *range == (0..self.size) {
                Ok(self.size)
            } else {
                Err(FetchError::NoRanges)
            };
        }
        let Some((first, last, size)) = text(response, "content-range").and_then(content_range)
        else {
            return contradiction("it does not say which bytes it sends".into());
        };
        if size.is_some_and(|size| size != self.size) {
            return changed("another size");
        }
        if first != range.start || last < first || last >= range.end {
            return contradiction(format!(
                "bytes {first} to {last} for {} to {}",
                range.start,
                range.end - 1
            ));
        }
        let end = last + 1;
        if len.is_some_and(|len| len != end - first) {
            return contradiction(format!("{} bytes of {}", len.unwrap_or(0), end - first));
        }
        Ok(end)
    }
}

/// `bytes FIRST-LAST/SIZE`.
fn content_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let size = if size == "*" { None } else { Some(size.parse().ok()?) };
    Some((first.parse().ok()?, last.parse().ok()?, size))
}

/// A body that ended early.
fn broken(error: &io::Error) -> FetchError {
    FetchError::Connection(format!("the connection was cut ({error})"))
}

impl Source for Remote {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, at: u64, end: u64, into: &mut [u8]) -> io::Result<()> {
        Ok(self.fill(at, end, into)?)
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("url", &self.url).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        assert_eq!(content_range("bytes 0-9/100"), Some((0, 9, Some(100))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5, 5, None)));
        for wrong in ["", "bytes */100", "bytes 1-2", "bytes a-2/3", "lines 1-2/3", "bytes 1-2/x"] {
            assert_eq!(content_range(wrong), None, "{wrong}");
        }
    }
}
