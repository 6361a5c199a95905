//! What systemd hears of a server, and the sockets that it passes.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rill_serve::systemd::Notify;
use rill_serve::{Config, Listen, Server, StartError, Supervisor};
use rill_tests::process::signal;
use rill_tests::program::path;
use rill_tests::rig::Setting;
use rill_tests::served::SMALL;
use rill_tests::server::{Gate, Reply, Running, post, start_for};
use rustix::process::Signal;

const CHAT: &str = "/v1/chat/completions";
const ASK: &str = r#"{"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}"#;

/// Who listens as systemd does.
struct Systemd {
    socket: UnixDatagram,
    #[expect(dead_code, reason = "the socket is in it")]
    folder: tempfile::TempDir,
    path: String,
}

impl Systemd {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify").to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, folder, path }
    }

    /// What is heard next, if it comes within this time.
    fn hear(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut bytes = [0; 4096];
        let len = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..len].to_vec()).unwrap())
    }

    /// Hears until one word has this part; all that was heard.
    fn until(&self, part: &str) -> String {
        let mut all = String::new();
        loop {
            let word = self.hear(Duration::from_secs(120)).expect("it says so in the end");
            all.push_str(&word);
            all.push('\n');
            if word.contains(part) {
                return all;
            }
        }
    }
}

fn here() -> Config {
    Config::new(Listen::Tcp(([127, 0, 0, 1], 0).into()))
}

fn supervised(systemd: &Systemd, watchdog: Duration, gate: Gate) -> Running {
    let supervisor = Supervisor {
        sockets: Vec::new(),
        notify: Some(Notify::connect(systemd.path.as_bytes()).unwrap()),
        watchdog: Some(watchdog),
    };
    start_for(here(), supervisor, Setting::default(), gate)
}

#[test]
fn it_is_told_from_the_first_moment_to_the_last() {
    let systemd = Systemd::new();
    let server = supervised(&systemd, Duration::from_secs(2), Gate::default());
    let loading = systemd.until("READY=1");
    assert!(!loading.contains("STOPPING"), "{loading}");
    assert!(!loading.contains("WATCHDOG"), "{loading}");
    let idle = systemd.until("WATCHDOG=1");
    assert!(idle.contains("STATUS=0 answers under way, 0 wait"), "{idle}");
    server.stop().unwrap();
    systemd.until("STOPPING=1");
    while let Some(word) = systemd.hear(Duration::from_millis(10)) {
        assert!(!word.contains("STATUS=0 answers"), "{word}");
    }
}

#[test]
fn it_is_not_vouched_for_while_its_engine_is_stuck() {
    let systemd = Systemd::new();
    let gate = Gate::default();
    let server = supervised(&systemd, Duration::from_secs(2), gate.clone());
    systemd.until("WATCHDOG=1");
    let closed = gate.close();
    let mut stream = server.connect();
    stream.write_all(post(CHAT, ASK, "").as_bytes()).unwrap();
    // Sooner or later it is told of no more, however much else it says.
    let mut quiet = 0;
    for _ in 0..600 {
        match systemd.hear(Duration::from_secs(1)) {
            Some(word) if word.contains("WATCHDOG=1") => quiet = 0,
            _ => quiet += 1,
        }
        if quiet == 4 {
            break;
        }
    }
    assert_eq!(quiet, 4, "the watchdog is told that all is well");
    drop(closed);
    systemd.until("WATCHDOG=1");
    assert_eq!(Reply::read(stream).status, 200);
}

#[test]
fn a_socket_with_a_name_alone_is_told_too() {
    let name = format!("rill-tests-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    Notify::connect(format!("@{name}").as_bytes()).unwrap().tell("READY=1");
    let mut bytes = [0; 64];
    let len = socket.recv(&mut bytes).unwrap();
    assert_eq!(&bytes[..len], b"READY=1");
    assert!(Notify::connect(b"/nowhere/at/all").is_err());
}

#[test]
fn what_is_passed_must_listen_and_strangers_need_keys() {
    let adopt = |socket: OwnedFd| {
        let supervisor = Supervisor { sockets: vec![socket], ..Supervisor::default() };
        Server::bind_for(Config { listen: Vec::new(), ..here() }, supervisor)
            .map(|server| server.addresses().to_vec())
    };
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let expected = format!("http://{}", tcp.local_addr().unwrap());
    assert_eq!(adopt(tcp.into()).unwrap(), [expected]);
    let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
    assert!(matches!(adopt(everywhere.into()), Err(StartError::Strangers(_))));
    let (one, _other) = UnixStream::pair().unwrap();
    assert!(matches!(adopt(one.into()), Err(StartError::Passed(_))));
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(matches!(adopt(file.into()), Err(StartError::Passed(_))));
}

/// Starts the program as systemd does: with a socket as its third descriptor.
fn activate(socket: OwnedFd, systemd: &Systemd) -> Child {
    let script = "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\" 3<&0 </dev/null";
    Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(path())
        .arg("serve")
        .args(SMALL)
        .env("NOTIFY_SOCKET", &systemd.path)
        .stdin(Stdio::from(socket))
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn end(mut child: Child) {
    signal(&child, Signal::TERM);
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_program_serves_at_the_sockets_that_are_passed() {
    let systemd = Systemd::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let child = activate(tcp.into(), &systemd);
    systemd.until("READY=1");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(post(CHAT, ASK, "").as_bytes()).unwrap();
    assert_eq!(Reply::read(stream).status, 200);
    end(child);
    systemd.until("STOPPING=1");

    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("rill.sock");
    let child = activate(UnixListener::bind(&socket).unwrap().into(), &systemd);
    systemd.until("READY=1");
    let mut stream = UnixStream::connect(&socket).unwrap();
    stream.write_all(post(CHAT, ASK, "").as_bytes()).unwrap();
    assert_eq!(Reply::read(stream).status, 200);
    end(child);
    assert!(socket.exists(), "it is not the server's to remove");
}
