use std::io::Read;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use super::FetchError;

/// How the hub is talked to.
pub struct Settings {
    /// Where it is, without a slash at the end.
    pub endpoint: String,
    /// What opens gated repositories.
    pub token: Option<String>,
    /// How often in a row a request is repeated.
    pub retries: u32,
    /// How long a silence means that a connection is dead.
    pub silence: Duration,
}

/// A client of one hub.
pub struct Web {
    agent: Agent,
    settings: Settings,
    home: Uri,
    /// Hears what is tried again, and why.
    note: Box<dyn Fn(&str)>,
}

/// A successful answer, its body unread.
pub struct Answer {
    pub response: Response<Body>,
    /// The address that gave it, after all redirects.
    pub place: String,
    /// What the hub itself said of the file before it redirected.
    pub told: Told,
}

/// What the hub says of a file, wherever the file lies.
#[derive(Debug, Default)]
pub struct Told {
    /// The commit it is of.
    pub commit: Option<String>,
    /// The SHA-256 of a large file.
    pub etag: Option<String>,
    /// The size of a large file.
    pub size: Option<u64>,
}

/// Most redirects in a row.
const REDIRECTS_MOST: u32 = 8;
/// The first pause before something is tried again; each further one is twice as long.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
/// The longest pause.
const PAUSE_MOST: Duration = Duration::from_secs(30);
/// The longest pause that a server may ask for.
const WAIT_MOST: Duration = Duration::from_secs(300);

impl Web {
    /// A client; an error message when the settings cannot be used.
    pub fn new(settings: Settings, note: Box<dyn Fn(&str)>) -> Result<Self, String> {
        let wrong = || {
            format!("HF_ENDPOINT is {}, not an address like https://hub.example", settings.endpoint)
        };
        let home: Uri = settings.endpoint.parse().map_err(|_| wrong())?;
        let scheme = home.scheme_str();
        if !matches!(scheme, Some("http" | "https")) || home.host().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        if let Some(token) = &settings.token
            && !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err("HF_TOKEN holds characters that no token has".into());
        }
        let silence = Some(settings.silence);
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("rill/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(silence)
            .timeout_connect(silence)
            .timeout_per_read(silence)
            .timeout_per_write(silence)
            .build()
            .into();
        Ok(Self { agent, settings, home, note })
    }

    /// Where the hub is.
    pub fn endpoint(&self) -> &str {
        &self.settings.endpoint
    }

    /// Asks for `url`, or a range of its bytes, and follows redirects. The token goes to the hub
    /// and nowhere else.
    pub fn get(&self, url: &str, range: Option<Range<u64>>) -> Result<Answer, FetchError> {
        let mut place = url.to_owned();
        let mut told = Told::default();
        for _ in 0..=REDIRECTS_MOST {
            let redirect = |to: &str| FetchError::Redirect(without_query(to).into());
            let uri: Uri = place.parse().map_err(|_| redirect(&place))?;
            let at_home = origin(&uri) == origin(&self.home);
            let mut request = self.agent.get(&uri).header("Accept-Encoding", "identity");
            if let Some(range) = &range {
                let (first, last) = (range.start, range.end.saturating_sub(1));
                request = request.header("Range", format!("bytes={first}-{last}"));
            }
            let token = self.settings.token.as_ref().filter(|_| at_home && is_private(&uri));
            if let Some(token) = token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| failed(&error))?;
            if at_home {
                told.hear(&response);
            }
            let status = response.status().as_u16();
            match status {
                200..=299 => return Ok(Answer { response, place, told }),
                301 | 302 | 303 | 307 | 308 => {
                    let to = text(&response, "location").unwrap_or_default();
                    let next = join(&uri, to).ok_or_else(|| redirect(to))?;
                    // What began in private stays private.
                    if uri.scheme_str() == Some("https") && !next.starts_with("https:") {
                        return Err(redirect(to));
                    }
                    place = next;
                }
                _ => return Err(refused(&response, without_query(&place), token.is_some())),
            }
        }
        Err(FetchError::Redirect("itself again and again".into()))
    }

    /// A whole small file of at most `most` bytes, tried again as often as it may help.
    pub fn whole(&self, url: &str, most: u64) -> Result<Vec<u8>, FetchError> {
        let mut patience = self.patience();
        loop {
            let got = self.get(url, None).and_then(|mut answer| {
                let mut bytes = Vec::new();
                let body = answer.response.body_mut();
                let listed = body.content_length();
                body.as_reader()
                    .take(most.saturating_add(1))
                    .read_to_end(&mut bytes)
                    .map_err(|error| FetchError::Connection(error.to_string()))?;
                let len = bytes.len() as u64;
                if len > most {
                    let what = format!("more than {most} bytes where that many are listed");
                    return Err(FetchError::Contradiction(what));
                }
                if listed.is_some_and(|listed| listed != len) {
                    return Err(FetchError::Connection("the connection was cut".into()));
                }
                Ok(bytes)
            });
            match got {
                Ok(bytes) => return Ok(bytes),
                Err(error) => patience.bear(error)?,
            }
        }
    }

    /// The patience of one reader.
    pub fn patience(&self) -> Patience<'_> {
        Patience { web: self, failures: 0 }
    }
}

/// Decides whether, and when, something is tried again.
pub struct Patience<'w> {
    web: &'w Web,
    failures: u32,
}

impl Patience<'_> {
    /// Something arrived: all failures are forgotten.
    pub fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next try; the error when there should be none.
    pub fn bear(&mut self, error: FetchError) -> Result<(), FetchError> {
        if !error.may_pass() {
            return Err(error);
        }
        if self.failures >= self.web.settings.retries {
            let tries = self.failures + 1;
            return Err(FetchError::GaveUp { tries, reason: error.to_string() });
        }
        let pause = match error {
            FetchError::Busy { wait: Some(wait), .. } if wait > WAIT_MOST => {
                return Err(FetchError::Later(wait));
            }
            FetchError::Busy { wait: Some(wait), .. } => wait,
            _ => PAUSE_FIRST.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MOST),
        };
        self.failures += 1;
        (self.web.note)(&format!("{error}; trying again in {:.1} s", pause.as_secs_f32()));
        thread::sleep(pause);
        Ok(())
    }
}

impl Told {
    fn hear(&mut self, response: &Response<Body>) {
        let heard = |name| text(response, name).map(str::to_owned);
        self.commit = heard("x-repo-commit").or(self.commit.take());
        self.etag = heard("x-linked-etag").map(|etag| plain(&etag).into()).or(self.etag.take());
        self.size = heard("x-linked-size").and_then(|size| size.parse().ok()).or(self.size);
    }
}

/// A header.
pub fn text<'r>(response: &'r Response<Body>, name: &str) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

/// An entity tag without what is around it.
pub fn plain(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// An address without what may be secret in it.
pub fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// `path` as part of an address; slashes stay if they part folders.
pub fn escaped(path: &str, folders: bool) -> String {
    let mut out = String::new();
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || folders && byte == b'/' {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Scheme, host and port.
fn origin(uri: &Uri) -> (Option<&str>, Option<String>, Option<u16>) {
    let usual = match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    };
    let host = uri.host().map(str::to_ascii_lowercase);
    (uri.scheme_str(), host, uri.port_u16().or(usual))
}

/// Whether nobody can listen: encrypted, or inside this machine.
fn is_private(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    uri.scheme_str() == Some("https")
        || host == "localhost"
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Where a redirect leads.
fn join(from: &Uri, to: &str) -> Option<String> {
    let scheme = from.scheme_str()?;
    let joined = if to.starts_with("https://") || to.starts_with("http://") {
        to.to_owned()
    } else if to.starts_with("//") {
        format!("{scheme}:{to}")
    } else if to.starts_with('/') {
        format!("{scheme}://{}{to}", from.authority()?)
    } else {
        return None;
    };
    let uri: Uri = joined.parse().ok()?;
    uri.host().is_some_and(|host| !host.is_empty()).then_some(joined)
}

/// A request without an answer.
fn failed(error: &ureq::Error) -> FetchError {
    let reason = match error {
        ureq::Error::HostNotFound => "the name of the server is not known".into(),
        ureq::Error::Timeout(_) => "the server is silent".into(),
        error => error.to_string(),
    };
    if reason.contains("certificate") {
        FetchError::Certificate(reason)
    } else {
        FetchError::Connection(reason)
    }
}

/// An answer that is a refusal.
fn refused(response: &Response<Body>, what: &str, token: bool) -> FetchError {
    let what = what.to_owned();
    match response.status().as_u16() {
        401 if token => FetchError::TokenRefused(what),
        401 => FetchError::TokenMissing(what),
        403 => FetchError::Forbidden(what),
        404 | 410 => FetchError::NotFound(what),
        416 => FetchError::Changed("it is shorter than the hub lists".into()),
        status @ (408 | 425 | 429 | 500..=599) => {
            let wait = text(response, "retry-after").and_then(|wait| wait.parse().ok());
            FetchError::Busy { status, wait: wait.map(Duration::from_secs) }
        }
        status => FetchError::Status { status, what },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_as_a_browser_does() {
        let from: Uri = "https://hub.example:8443/a/b?x=1".parse().unwrap();
        let join = |to| join(&from, to);
        assert_eq!(join("/c/d?y").as_deref(), Some("https://hub.example:8443/c/d?y"));
        assert_eq!(join("//cdn.example/z").as_deref(), Some("https://cdn.example/z"));
        assert_eq!(join("http://cdn.example/z").as_deref(), Some("http://cdn.example/z"));
        for nowhere in ["", "ftp://cdn.example/", "file:///etc/passwd", "https://", "d"] {
            assert_eq!(join(nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn origins_differ_in_scheme_host_and_port() {
        let same = |a: &str, b: &str| {
            origin(&a.parse::<Uri>().unwrap()) == origin(&b.parse::<Uri>().unwrap())
        };
        assert!(same("https://hub.example/a", "https://HUB.example:443/b"));
        for other in [
            "http://hub.example/",
            "https://hub.example:444/",
            "https://hub.example.evil.example/",
            "https://evil.example/hub.example",
            "https://x.hub.example/",
        ] {
            assert!(!same("https://hub.example/", other), "{other}");
        }
    }

    #[test]
    fn a_token_is_sent_only_where_nobody_listens() {
        for (url, private) in [
            ("https://hub.example/", true),
            ("http://127.0.0.1:80/", true),
            ("http://[::1]:80/", true),
            ("http://localhost/", true),
            ("http://hub.example/", false),
            ("http://127.0.0.1.hub.example/", false),
        ] {
            assert_eq!(is_private(&url.parse().unwrap()), private, "{url}");
        }
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("a b/ü#?.gguf", true), "a%20b/%C3%BC%23%3F.gguf");
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
