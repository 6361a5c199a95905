//! What people see in a browser: files of `platform/serve/pages/`, in the program.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A file, as it is served.
struct Page {
    path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
}

/// All of them. Nothing else is ever served as a file.
const PAGES: [Page; 1] = [Page {
    path: "/",
    kind: "text/html; charset=utf-8",
    bytes: include_bytes!("../pages/index.html"),
}];

/// What pages may load and where they may be shown: nothing from elsewhere, and nowhere else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page at a path.
pub fn page(path: &str) -> Option<Response> {
    let page = PAGES.iter().find(|page| page.path == path)?;
    let headers = [
        (header::CONTENT_TYPE, page.kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    Some((StatusCode::OK, headers, page.bytes).into_response())
}
