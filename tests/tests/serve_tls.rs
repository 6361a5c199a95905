//! TLS: who trusts the certificate's authority is answered, who speaks anything else is not.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use rill_serve::config::TlsFiles;
use rill_serve::{Config, Listen, Server};
use rill_tests::program::rill;
use rill_tests::rig::Setting;
use rill_tests::served::{SMALL, Served};
use rill_tests::server::{Gate, Reply, Running, post, soon, start_for};
use rill_tests::tls::{certificate, data, greet};
use rustix::process::Signal;
use rustls::pki_types::CertificateDer;

const ASK: &str = r#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}"#;

/// The answer to a question, and the certificate that was shown.
fn ask(address: &str) -> (Reply, CertificateDer<'static>) {
    let mut stream = greet(address);
    stream.write_all(post("/v1/chat/completions", ASK, "").as_bytes()).unwrap();
    let reply = Reply::read(&mut stream);
    let shown = stream.conn.peer_certificates().unwrap()[0].clone().into_owned();
    (reply, shown)
}

fn config(cert: &str, key: &str) -> Config {
    let tls = Some(TlsFiles { cert: data(cert), key: data(key) });
    Config { tls, ..Config::new(Listen::Tcp(([127, 0, 0, 1], 0).into())) }
}

#[test]
fn what_goes_over_the_network_is_encrypted() {
    let mut config = config("first.pem", "first.key");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("rill.sock");
    config.listen.push(Listen::Unix(socket.clone()));
    config.limits.arrival = Duration::from_secs(3);
    let server: Running = start_over_unix(config, &socket);
    let address = server.address.to_string();
    let (reply, shown) = ask(&address);
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(shown, certificate("first.pem"));
    // Who does not speak TLS, or says nothing, is not answered in HTTP, and frees the connection.
    for words in [&b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b""] {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(words).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        assert!(!said.starts_with(b"HTTP"), "{said:?}");
    }
    assert_eq!(ask(&address).0.status, 200);
}

/// Starts a server and waits over its socket in the file system, which has no TLS.
fn start_over_unix(config: Config, socket: &Path) -> Running {
    let running = start_for(config, Default::default(), Setting::default(), Gate::default());
    soon(|| {
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        (Reply::read(stream).status == 200).then_some(())
    });
    running
}

#[test]
fn files_that_make_no_tls_are_refused_by_name() {
    let refused = |cert: &str, key: &str| match Server::bind(config(cert, key)) {
        Ok(_) => panic!("{cert} and {key} are not refused"),
        Err(error) => error.to_string(),
    };
    for (cert, key, parts) in [
        ("none.pem", "first.key", ["none.pem", "No such file"]),
        ("first.key", "first.key", ["first.key", "no certificate"]),
        ("first.pem", "first.pem", ["first.pem", "no private key"]),
        ("README.md", "first.key", ["README.md", "no certificate"]),
        // The key of another certificate.
        ("first.pem", "second.key", ["second.key", "first.pem"]),
    ] {
        let said = refused(cert, key);
        for part in parts {
            assert!(said.contains(part), "no {part:?} in {said:?}");
        }
    }
    rill(&["serve", "--listen", "127.0.0.1:0", "--tls-cert", "/none"]).fails(2, &["--tls-key"]);
}

#[test]
fn a_renewed_certificate_is_shown_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| folder.path().join(name));
    let put = |name: &str| {
        fs::copy(data(&format!("{name}.pem")), &cert).unwrap();
        fs::copy(data(&format!("{name}.key")), &key).unwrap();
    };
    put("first");
    let files = ["--tls-cert".as_ref(), cert.as_os_str(), "--tls-key".as_ref(), key.as_os_str()];
    let mut served = Served::start(SMALL.iter().map(OsStr::new).chain(files));
    let address = served.address.clone();
    assert_eq!(ask(&address).1, certificate("first.pem"));
    put("second");
    served.signal(Signal::HUP);
    assert_eq!(served.line(), "the certificate was read again");
    assert_eq!(ask(&address).1, certificate("second.pem"));
    // What is damaged changes nothing.
    fs::write(&key, "rubbish").unwrap();
    served.signal(Signal::HUP);
    assert!(served.line().contains("the certificate stays as it was"));
    let (reply, shown) = ask(&address);
    assert_eq!((reply.status, shown), (200, certificate("second.pem")));
    served.end();
}
