//! What people see in a browser: files of `platform/serve/pages/`, in the program.
//!
//! - `kiosk`: what `kiosk.toml` says of the page for visitors;
//! - `colour`: its colours, and whether they can be read.

mod colour;
mod kiosk;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::keys::hex;

pub use kiosk::{Kiosk, KioskError};

/// A file, as it is served.
struct Page {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The files that stand at `/pages/`, and the documents.
macro_rules! files {
    ($($path:literal: $kind:ident $file:literal,)*) => {
        [$(Page { path: $path, kind: $kind, bytes: include_bytes!(concat!("../../pages/", $file)) },)*]
    };
}

/// All of them. Nothing else is ever served as a file.
const PAGES: &[Page] = &files! {
    "/": HTML "kiosk/index.html",
    "/pages/base.css": CSS "base.css",
    "/pages/kiosk.css": CSS "kiosk/kiosk.css",
    "/pages/answer.css": CSS "kiosk/answer.css",
    "/pages/kiosk.js": SCRIPT "kiosk/kiosk.js",
    "/pages/start.js": SCRIPT "kiosk/start.js",
    "/pages/conversation.js": SCRIPT "kiosk/conversation.js",
    "/pages/turn.js": SCRIPT "kiosk/turn.js",
    "/pages/composer.js": SCRIPT "kiosk/composer.js",
    "/pages/stream.js": SCRIPT "kiosk/stream.js",
    "/pages/blocks.js": SCRIPT "kiosk/blocks.js",
    "/pages/inline.js": SCRIPT "kiosk/inline.js",
    "/pages/markdown.js": SCRIPT "kiosk/markdown.js",
    "/pages/idle.js": SCRIPT "kiosk/idle.js",
    "/pages/watch.js": SCRIPT "kiosk/watch.js",
    "/pages/texts.js": SCRIPT "kiosk/texts.js",
    "/operator": HTML "operator/index.html",
    "/pages/operator.css": CSS "operator/operator.css",
    "/pages/operator.js": SCRIPT "operator/operator.js",
    "/pages/key.js": SCRIPT "operator/key.js",
    "/pages/figures.js": SCRIPT "operator/figures.js",
    "/pages/cache.js": SCRIPT "operator/cache.js",
    "/pages/dom.js": SCRIPT "dom.js",
};

/// Where the page for visitors asks.
pub const CHAT: &str = "/kiosk/chat";

/// What pages may load and where they may be shown: nothing from elsewhere, and nowhere else. Text never
/// becomes a document, whatever a script does.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

/// Whether a path is a page's: nothing about anybody can be read there.
pub fn is_page(path: &str) -> bool {
    PAGES.iter().any(|page| page.path == path) || Kiosk::PATHS.contains(&path)
}

/// The page at a path.
pub fn page(kiosk: &Kiosk, path: &str) -> Option<Response> {
    if let Some((kind, bytes)) = kiosk.file(path) {
        return Some(respond(kind, bytes.clone()));
    }
    let page = PAGES.iter().find(|page| page.path == path)?;
    Some(respond(page.kind, page.bytes))
}

fn respond(kind: &'static str, bytes: impl IntoResponse) -> Response {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (StatusCode::OK, headers, bytes).into_response()
}

/// What tells these pages from those of another version of the program.
fn fingerprint(more: &[&[u8]]) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    PAGES
        .iter()
        .map(|page| page.bytes)
        .chain(more.iter().copied())
        .for_each(|bytes| hash.update(bytes));
    hex(&hash.finalize()[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every file of the pages' folder.
    fn files() -> Vec<String> {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/pages");
        let mut folders = vec![std::path::PathBuf::from(root)];
        let mut files = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().expect("it is there") {
                let path = entry.expect("it can be read").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(std::fs::read_to_string(path).expect("it is text")),
                }
            }
        }
        files
    }

    #[test]
    fn every_file_is_served_and_no_other() {
        let files = files();
        for text in &files {
            let served = PAGES.iter().any(|page| page.bytes == text.as_bytes());
            assert!(served || text.starts_with("<svg"), "{}", &text[..80.min(text.len())]);
        }
        let kiosk = Kiosk::default();
        for path in ["/pages", "/pages/", "/pages/../src/lib.rs", "/index.html", "//", "/kiosk"] {
            assert!(page(&kiosk, path).is_none() && !is_page(path), "{path}");
        }
    }

    #[test]
    fn what_a_page_names_is_there() {
        for text in files() {
            let named = text.split(['"', '\'']).filter(|word| word.starts_with("/pages/"));
            let imported = text.split('"').filter(|word| word.starts_with("./"));
            let imported = imported.map(|word| word.replacen('.', "/pages", 1));
            for path in named.map(str::to_owned).chain(imported) {
                assert!(is_page(&path), "{path}");
            }
        }
    }
}
