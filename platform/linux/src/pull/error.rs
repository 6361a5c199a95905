use std::io::{self, ErrorKind};
use std::time::Duration;

/// Why something could not be fetched. Each message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// No connection, or one that was cut or went silent.
    #[error("{0}")]
    Connection(String),
    /// The server cannot answer now.
    #[error("the server answers {status}")]
    Busy {
        /// HTTP status.
        status: u16,
        /// How long it asks to wait.
        wait: Option<Duration>,
    },
    /// It was tried often enough.
    #[error(
        "{reason}; gave up after {tries} tries. Run the same command again later: it goes on from here"
    )]
    GaveUp {
        /// How often.
        tries: u32,
        /// What went wrong the last time.
        reason: String,
    },
    /// The server wants to be left alone for long.
    #[error(
        "the server asks to wait {} s. Run the same command again then: it goes on from here",
        .0.as_secs()
    )]
    Later(Duration),
    /// The certificate of the server is not valid.
    #[error(
        "the server cannot be trusted ({0}); is the clock of this machine right, and is there a proxy?"
    )]
    Certificate(String),
    /// 401 without a token.
    #[error(
        "{0} does not exist, or is private or gated; if you may read it, put a token from huggingface.co/settings/tokens into HF_TOKEN"
    )]
    TokenMissing(String),
    /// 401 with a token.
    #[error("the hub does not accept the token in HF_TOKEN for {0}; is it expired or mistyped?")]
    TokenRefused(String),
    /// 403.
    #[error(
        "access to {0} is refused; open its page on the hub, accept its terms, and use a token that may read gated repositories"
    )]
    Forbidden(String),
    /// 404.
    #[error("{0} does not exist")]
    NotFound(String),
    /// Any other status.
    #[error("the server answers {status} for {what}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        what: String,
    },
    /// The server sends whole files only.
    #[error(
        "the server does not send parts of files, so that this one cannot be pulled; download the file and use `rill pack`"
    )]
    NoRanges,
    /// The file is another one than at the start.
    #[error("the file changed while it was read ({0}); run the same command again")]
    Changed(String),
    /// The answer is not what the listing says.
    #[error("the server contradicts itself ({0}); nothing of this answer was used")]
    Contradiction(String),
    /// A file has not the sum that the hub's listing gives.
    #[error("{0} arrived damaged: its checksum is not the one that the hub lists; try again")]
    Checksum(String),
    /// A redirect that is not followed.
    #[error("the server redirects to {0}, which is not followed")]
    Redirect(String),
}

impl FetchError {
    /// Whether the same request may succeed a little later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Connection(_) | Self::Busy { .. })
    }
}

impl From<FetchError> for io::Error {
    fn from(error: FetchError) -> Self {
        let kind = match error {
            FetchError::NotFound(_) => ErrorKind::NotFound,
            _ => ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}
