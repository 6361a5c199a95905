//! What is checked of a request before anything else: whom it thinks that it speaks to, which web page
//! sent it, and its key.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Way;
use crate::error::ApiError;
use crate::keys::Verdict;
use crate::pages;
use crate::server::Shared;

/// Who asks: the name of the key, where one was needed.
#[derive(Debug, Clone, Default)]
pub struct Guest(pub Option<String>);

/// Lets a request through, or answers in its place.
pub async fn check(
    State(shared): State<Arc<Shared>>,
    Extension(way): Extension<Way>,
    mut request: Request,
    next: Next,
) -> Response {
    let path = request.uri().path().to_owned();
    let origin = request.headers().get(header::ORIGIN).cloned();
    let checked = judge(&shared, way, &request);
    let mut response = match checked {
        Ok(_) if request.method() == Method::OPTIONS && origin.is_some() => {
            preflight(request.headers())
        }
        Ok(guest) => {
            request.extensions_mut().insert(guest);
            next.run(request).await
        }
        Err(error) => error.response(&path),
    };
    if let Some(origin) = origin.filter(|origin| is_named(&shared.origins, origin)) {
        let headers = response.headers_mut();
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let exposed = HeaderValue::from_static("retry-after");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
    }
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    shared.metrics.response(response.status().as_u16());
    response
}

fn judge(shared: &Shared, way: Way, request: &Request) -> Result<Guest, ApiError> {
    let headers = request.headers();
    if way == Way::Unix {
        // No web page reaches a socket in the file system, and the system says who may open it.
        return Ok(Guest(None));
    }
    let host = host(request)?;
    if !is_ours(&shared.names, host) {
        let message = format!(
            "this server is not called `{host}`; ask it by its address, or start it with --name {host}"
        );
        return Err(ApiError::new(StatusCode::MISDIRECTED_REQUEST, message));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let is_own = origin.to_str().is_ok_and(|origin| is_same(origin, headers));
        if !is_own && !is_named(&shared.origins, origin) {
            let message = "web pages of other origins may not ask; --origin names those that may";
            return Err(ApiError::new(StatusCode::FORBIDDEN, message));
        }
    }
    if is_public(request) {
        return Ok(Guest(None));
    }
    let Some(mut keys) = shared.keys() else {
        if is_operators(request) && !is_from_here(way, headers) {
            let message = "without keys only this machine is told how the server is: ask from it, or start \
                           the server with --keys";
            let error = ApiError::new(StatusCode::FORBIDDEN, message);
            return Err(error.code("insufficient_permissions"));
        }
        return Ok(Guest(None));
    };
    let now = Instant::now();
    let verdict = match visitor(shared, way, request) {
        Some(name) => keys.judge_named(name, now),
        // Without a key it takes as long as with a wrong one.
        None => keys.judge(presented(headers).unwrap_or_default(), now),
    };
    match verdict {
        Verdict::Welcome(name) if is_operators(request) && !keys.is_operators(&name) => {
            let message =
                "this takes a key of whoever runs the server: `rill key --operator` makes one";
            Err(ApiError::new(StatusCode::FORBIDDEN, message).code("insufficient_permissions"))
        }
        Verdict::Welcome(name) => Ok(Guest(Some(name))),
        Verdict::Unknown => {
            let message = "a key is needed: `Authorization: Bearer rill-...`";
            Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"))
        }
        Verdict::Spent(seconds) => {
            let message = "this key has used up what it may have a minute";
            let error = ApiError::later(StatusCode::TOO_MANY_REQUESTS, seconds, message);
            Err(error.code("rate_limit_exceeded"))
        }
    }
}

/// What says nothing about anybody: whether the server lives, what a browser asks beforehand, and pages,
/// which a browser could not ask for with a key.
fn is_public(request: &Request) -> bool {
    let path = request.uri().path();
    request.method() == Method::OPTIONS
        || matches!(path, "/health" | "/v1/health")
        || pages::is_page(path)
}

/// What tells how the server is, and with it what others do: for whoever runs it.
fn is_operators(request: &Request) -> bool {
    matches!(request.uri().path(), "/metrics" | "/operator/state")
}

/// The key in whose name a visitor asks, who uses this machine's own browser: neither through a proxy nor
/// with a key of their own.
fn visitor<'s>(shared: &'s Shared, way: Way, request: &Request) -> Option<&'s str> {
    let headers = request.headers();
    let is_here = way == Way::Loopback && request.uri().path() == pages::CHAT;
    let has_key = headers.contains_key("authorization") || headers.contains_key("x-api-key");
    shared.kiosk.key.as_deref().filter(|_| is_here && is_from_here(way, headers) && !has_key)
}

/// Whether a request comes from this machine, and through no proxy that says so.
fn is_from_here(way: Way, headers: &HeaderMap) -> bool {
    // What proxies add, where they are told to.
    const PROXIES: [&str; 6] = [
        "forwarded",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
    ];
    way != Way::Tcp && PROXIES.iter().all(|name| !headers.contains_key(*name))
}

/// The host that a request names, without the port.
fn host(request: &Request) -> Result<&str, ApiError> {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err(ApiError::bad("a request has exactly one `Host`"));
    };
    let wrong = || ApiError::bad("`Host` is no host");
    let host = host.to_str().map_err(|_| wrong())?;
    // A proxy's form of a request names a host of its own: it must be the same.
    if request.uri().authority().is_some_and(|authority| authority.as_str() != host) {
        return Err(wrong());
    }
    without_port(host).ok_or_else(wrong)
}

/// A host without its port.
fn without_port(host: &str) -> Option<&str> {
    let is_port = |port: &str| port.bytes().all(|digit| digit.is_ascii_digit());
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let fits = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return fits.then_some(address);
    }
    match host.split_once(':') {
        Some((host, port)) => (is_port(port) && !host.is_empty()).then_some(host),
        None => (!host.is_empty()).then_some(host),
    }
}

/// Whether a host is this server, whoever answers for the name: an address is, and so are names that
/// nobody else can give. A web page that has its own name lead here (DNS rebinding) says that name.
fn is_ours(names: &[String], host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_local = host.eq_ignore_ascii_case("localhost")
        || host.len() > 10 && host[host.len() - 10..].eq_ignore_ascii_case(".localhost");
    is_local
        || host.parse::<IpAddr>().is_ok()
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// Whether an origin is the host that the request names.
fn is_same(origin: &str, headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    rest.is_some() && rest == host
}

/// Whether an origin is one of those that may ask.
fn is_named(origins: &[String], origin: &HeaderValue) -> bool {
    origins.iter().any(|named| named.as_bytes() == origin.as_bytes())
}

/// The key that a request presents.
fn presented(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        return key.to_str().ok();
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

/// What a browser wants to know before it lets a page of a named origin ask: it may send the headers that
/// its library adds.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    let names = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|names| are_names(names));
    let usual = HeaderValue::from_static("authorization, content-type, x-api-key");
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.cloned().unwrap_or(usual));
    let methods = HeaderValue::from_static("GET, POST");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

/// Whether a header lists names of headers, and no more than any library adds.
fn are_names(list: &HeaderValue) -> bool {
    const MOST: usize = 2048;
    let is_name = |name: &str| HeaderName::from_bytes(name.trim().as_bytes()).is_ok();
    list.len() <= MOST && list.to_str().is_ok_and(|list| list.split(',').all(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_told_from_hosts() {
        let good = [("a:80", "a"), ("a", "a"), ("[::1]:8080", "::1"), ("[::1]", "::1")];
        for (host, expected) in good {
            assert_eq!(without_port(host), Some(expected));
        }
        for host in ["", ":80", "a:b", "[::1", "[::1]x", "::1", "a:80:90"] {
            assert_eq!(without_port(host), None, "{host}");
        }
    }

    #[test]
    fn who_comes_from_elsewhere_or_through_a_proxy_is_not_from_here() {
        let headers = HeaderMap::new();
        for way in [Way::Near, Way::Loopback, Way::Unix] {
            assert!(is_from_here(way, &headers), "{way:?}");
        }
        assert!(!is_from_here(Way::Tcp, &headers));
        let from = HeaderValue::from_static("192.0.2.1");
        let passed_on = HeaderMap::from_iter([("x-forwarded-for".parse().unwrap(), from)]);
        assert!(!is_from_here(Way::Loopback, &passed_on));
    }

    #[test]
    fn only_names_that_nobody_else_can_give_are_ours() {
        let names = ["gateway.local".to_owned()];
        for host in ["127.0.0.1", "::1", "192.168.1.4", "localhost", "LOCALHOST.", "a.localhost"] {
            assert!(is_ours(&names, host), "{host}");
        }
        assert!(is_ours(&names, "Gateway.local"));
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost"]
        {
            assert!(!is_ours(&names, host), "{host}");
        }
    }
}
