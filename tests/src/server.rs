//! A server with the kiosk model in this process, and a client that sends what it is told.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use rill::image::{ChatTemplate, Sampling};
use rill::seams::{Events, ManualClock, Parallel, RamDisk, World};
use rill_serve::{Config, Control, Loaded, Machine, Memory, Server, StartError, Supervisor};
use serde_json::Value;

use crate::kiosk;
use crate::rig::{Many, Rig, Setting};

/// A server that ends when this is dropped.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    control: Control,
    thread: Option<JoinHandle<Result<(), StartError>>>,
}

/// A rig's world for a server.
struct Bench {
    disk: RamDisk<'static, 'static>,
    parallel: Box<dyn Parallel>,
    clock: ManualClock,
    gate: Gate,
}

impl Machine<'static> for Bench {
    fn world<'w>(&'w mut self, events: &'w mut dyn Events) -> World<'w, 'static> {
        let Self { disk, parallel, clock, gate } = self;
        drop(gate.close());
        World { storage: disk, parallel: &**parallel, clock, events }
    }
}

/// Serves the kiosk model as `config` says; its first listener is of TCP.
pub fn start(config: Config, setting: Setting) -> Running {
    let default = kiosk::default_image();
    ready(serve(config, Supervisor::default(), setting, Gate::default(), default, None))
}

/// As [`start`], of another image in RAM, with its chat template.
pub fn start_image(config: Config, setting: Setting, image: &'static [u8]) -> Running {
    let template = crate::rig::template(image);
    ready(serve(config, Supervisor::default(), setting, Gate::default(), image, template))
}

/// As [`start`], for somebody who watches over it; it may not be ready yet.
pub fn start_for(config: Config, supervisor: Supervisor, setting: Setting, gate: Gate) -> Running {
    serve(config, supervisor, setting, gate, kiosk::default_image(), None)
}

/// Holds up the machine of a server: a device that does not answer.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<()>>);

impl Gate {
    /// Nothing is computed until what this gives is dropped.
    pub fn close(&self) -> MutexGuard<'_, ()> {
        self.0.lock().expect("nobody panics at the gate")
    }
}

/// A server, once it answers.
fn ready(running: Running) -> Running {
    soon(|| (running.get("/health").status == 200).then_some(()));
    running
}

/// What `look` finds, as soon as it does: it looks again and again, for a minute at most.
#[track_caller]
pub fn soon<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("what was waited for did not come");
}

fn serve(
    config: Config,
    supervisor: Supervisor,
    setting: Setting,
    gate: Gate,
    image: &'static [u8],
    template: Option<ChatTemplate<'static>>,
) -> Running {
    let server = Server::bind_for(config, supervisor).expect("there is a port");
    let (_, address) = server.addresses()[0].split_once("://").expect("it is of TCP");
    let address = address.parse().expect("it is an address");
    let control = server.control();
    let serve = move || {
        server.run(|desk| {
            let rig = Rig::many(image, setting).expect("the kiosk model loads");
            let Rig { session, plan, disk, parallel, clock, .. } = rig;
            let (mut engine, sequences): Many = session;
            let sampling = Sampling { temperature: 0.7, ..engine_advice() };
            desk.serve(Loaded {
                name: "kiosk".into(),
                bytes: image.len() as u64,
                memory: Memory { budget: plan.total(), plan: &plan, beside: &[] },
                identity: 1,
                sampling,
                template,
                now: || 0,
                ready: || {},
                engine: &mut engine,
                sequences,
                machine: &mut Bench { disk, parallel, clock, gate },
            })
        })
    };
    Running { address, control, thread: Some(std::thread::spawn(serve)) }
}

/// What the kiosk model's makers advise.
fn engine_advice() -> Sampling {
    crate::rig::open(kiosk::default_image()).expect("it opens").manifest.sampling
}

impl Running {
    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) -> Result<(), StartError> {
        self.control.stop();
        self.thread.take().expect("it was not stopped before").join().expect("no panic")
    }

    /// Asks it to end.
    pub fn ask_to_stop(&self) {
        self.control.stop();
    }

    /// The answer to a GET.
    pub fn get(&self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// The answer to a POST of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(post(path, &body.to_string(), ""))
    }

    /// The answer to what is sent.
    pub fn send(&self, request: impl AsRef<[u8]>) -> Reply {
        let mut stream = self.connect();
        // A server that refuses early closes before all was sent.
        let _ = stream.write_all(request.as_ref());
        Reply::read(stream)
    }

    /// A connection.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("it can be set");
        stream
    }

    /// The pieces of a streamed answer, without the last word.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let reply = self.post(path, body);
        assert_eq!(reply.status, 200, "{reply:?}");
        assert!(reply.header("content-type").starts_with("text/event-stream"), "{reply:?}");
        let mut lines: Vec<_> = reply.body.split("\n\n").filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.pop(), Some("data: [DONE]"), "{reply:?}");
        let data = |line: &&str| line.strip_prefix("data: ").map(str::to_owned);
        lines.iter().filter_map(data).map(|data| serde_json::from_str(&data).unwrap()).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.stop();
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().expect("no panic").expect("it ends well");
        }
    }
}

/// A POST of a body, with more lines for its head.
pub fn post(path: &str, body: &str, head: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n{head}\r\n{body}",
        body.len()
    )
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status; 0 when the server closed the connection without a word.
    pub status: u16,
    /// Names in small letters, and values.
    pub headers: Vec<(String, String)>,
    /// The body, its pieces put together.
    pub body: String,
}

impl Reply {
    /// Reads an answer up to its end.
    pub fn read(stream: impl Read) -> Self {
        Self::parse(BufReader::new(stream)).unwrap_or_else(|_| Self::none())
    }

    fn none() -> Self {
        Self { status: 0, headers: Vec::new(), body: String::new() }
    }

    fn parse(mut from: BufReader<impl Read>) -> io::Result<Self> {
        let mut line = String::new();
        from.read_line(&mut line)?;
        let Some(status) = line.split(' ').nth(1).and_then(|status| status.parse().ok()) else {
            return Ok(Self::none());
        };
        let mut headers = Vec::new();
        loop {
            line.clear();
            from.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Self { status, headers, body: String::new() };
        let mut bytes = Vec::new();
        if reply.header("transfer-encoding") == "chunked" {
            loop {
                line.clear();
                from.read_line(&mut line)?;
                let len = usize::from_str_radix(line.trim_end(), 16).map_err(io::Error::other)?;
                let start = bytes.len();
                bytes.resize(start + len, 0);
                from.read_exact(&mut bytes[start..])?;
                from.read_line(&mut line)?;
                if len == 0 {
                    break;
                }
            }
        } else {
            let len = reply.header("content-length").parse().unwrap_or(0);
            bytes.resize(len, 0);
            from.read_exact(&mut bytes)?;
        }
        reply.body = String::from_utf8(bytes).map_err(io::Error::other)?;
        Ok(reply)
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(other, _)| other == name);
        found.map_or("", |(_, value)| value)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body as JSON, of a request that was granted.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }

    /// The field that an error in OpenAI's shape names.
    #[track_caller]
    pub fn param(&self) -> String {
        let error = &self.json()["error"];
        assert!(error["message"].is_string() && error["type"].is_string(), "{self:?}");
        error["param"].as_str().unwrap_or_default().to_owned()
    }
}
