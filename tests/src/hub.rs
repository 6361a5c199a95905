//! A model hub on this machine, well-behaved or not.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The commit that each repository is at.
pub const COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";
/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What somebody asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// Path and query.
    pub path: String,
    /// First and last byte.
    pub range: Option<(u64, u64)>,
    /// The header `Authorization`.
    pub token: Option<String>,
}

/// Names and values.
pub type Headers = Vec<(&'static str, String)>;

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Answer {
    /// What a good hub answers.
    Good,
    /// A status and headers, without a body.
    Status(u16, Headers),
    /// The good answer, but these headers are others.
    Headers(Headers),
    /// The good answer, but the connection ends after so many bytes of the body.
    Cut(u64),
    /// The good answer, but nothing comes after so many bytes of the body.
    Silent(u64),
    /// The good answer to another range.
    Other((u64, u64)),
    /// The whole file, whatever was asked for.
    Whole,
}

struct File {
    bytes: Arc<[u8]>,
    /// SHA-256 of large files, Git's name of the blob of others.
    sum: String,
}

type Rule = dyn Fn(&Request, usize) -> Answer + Send + Sync;

/// A server that ends with its value.
pub struct Hub {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// By repository and path.
    files: BTreeMap<String, BTreeMap<String, File>>,
    rule: Box<Rule>,
    log: Mutex<Vec<Request>>,
    /// Bytes of bodies that may still be sent.
    left: Mutex<u64>,
    spent: Condvar,
    ended: AtomicBool,
}

impl Hub {
    /// A hub with the kiosk model in `org/kiosk-16m` and in `org/kiosk-GGUF`. `rule` says how each
    /// request is answered; it is given how many there were before.
    pub fn new(rule: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let kiosk = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/kiosk");
        let read = |path: &Path| std::fs::read(path).expect("the kiosk folder can be read");
        let mut folder = BTreeMap::new();
        for entry in kiosk.join("kiosk-16m").read_dir().expect("the kiosk folder is there") {
            let path = entry.expect("the kiosk folder can be read").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into();
            folder.insert(name, read(&path));
        }
        let mut ggufs = BTreeMap::from([("README.md".to_owned(), b"kiosk".to_vec())]);
        ggufs.insert("kiosk-q4_0.gguf".into(), read(&kiosk.join("kiosk-q4_0.gguf")));
        let files = [("org/kiosk-16m", folder), ("org/kiosk-GGUF", ggufs)];
        Self::with_files(files.map(|(name, files)| (name.into(), files)).into(), rule)
    }

    /// A hub with other repositories.
    pub fn with_files(
        files: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
        rule: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
        let address = listener.local_addr().expect("it has an address");
        let with_sums = |files: BTreeMap<String, Vec<u8>>| {
            files.into_iter().map(|(path, bytes)| {
                let sum = if is_large(&path) {
                    hex(&Sha256::digest(&bytes))
                } else {
                    let head = format!("blob {}\0", bytes.len());
                    hex(&Sha1::new().chain_update(head).chain_update(&bytes).finalize())
                };
                (path, File { bytes: bytes.into(), sum })
            })
        };
        let files =
            files.into_iter().map(|(name, files)| (name, with_sums(files).collect())).collect();
        let shared = Arc::new(Shared {
            files,
            rule: Box::new(rule),
            log: Mutex::default(),
            left: Mutex::new(u64::MAX),
            spent: Condvar::new(),
            ended: AtomicBool::new(false),
        });
        let its = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if its.ended.load(Ordering::Relaxed) {
                    break;
                }
                let shared = its.clone();
                if let Ok(stream) = stream {
                    thread::spawn(move || shared.serve(&stream));
                }
            }
        });
        Self { address, shared }
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub fn log(&self) -> Vec<Request> {
        self.shared.log.lock().expect("no server thread panics").clone()
    }

    /// From now on it sends so many bytes of tensor files, then it is silent.
    pub fn allow(&self, bytes: u64) {
        *self.shared.left.lock().expect("no server thread panics") = bytes;
    }

    /// Waits until it is silent.
    pub fn wait(&self) {
        let left = self.shared.left.lock().expect("no server thread panics");
        let (left, _) = self
            .shared
            .spent
            .wait_timeout_while(left, PATIENCE, |left| *left > 0)
            .expect("no server thread panics");
        assert_eq!(*left, 0, "nobody asks for that much");
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes what waits for a connection.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// Answers the requests of one connection until it ends.
    fn serve(&self, stream: &TcpStream) {
        // Heads and bodies are written apart.
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(stream);
        while let Some(request) = read(&mut reader) {
            let number = {
                let mut log = self.log.lock().expect("no server thread panics");
                log.push(request.clone());
                log.len() - 1
            };
            let answer = (self.rule)(&request, number);
            if self.answer(stream, &request, &answer).is_none() {
                return;
            }
        }
    }

    /// `None` when the connection is to end.
    fn answer(&self, mut stream: &TcpStream, request: &Request, answer: &Answer) -> Option<()> {
        if let Answer::Status(status, headers) = answer {
            return write_head(stream, *status, headers, 0);
        }
        let path = request.path.split('?').next().unwrap_or_default();
        let found = path.strip_prefix("/api/models/").map_or_else(
            || self.file(path.trim_start_matches('/')),
            |name| {
                Some((
                    self.listing(name.strip_suffix("/revision/main")?)?.into_bytes().into(),
                    Vec::new(),
                ))
            },
        );
        let Some((body, mut headers)) = found else {
            return write_head(stream, 404, &[], 0);
        };
        let range = match answer {
            Answer::Whole => None,
            Answer::Other(range) => Some(*range),
            _ => request.range,
        };
        let size = body.len() as u64;
        let (status, bytes) = match range {
            Some((first, last)) if first > last || last >= size => {
                return write_head(stream, 416, &[("Content-Range", format!("bytes */{size}"))], 0);
            }
            Some((first, last)) => {
                headers.push(("Content-Range", format!("bytes {first}-{last}/{size}")));
                (206, &body[first as usize..=last as usize])
            }
            None => (200, &body[..]),
        };
        if let Answer::Headers(others) = answer {
            headers.retain(|(name, _)| others.iter().all(|(other, _)| other != name));
            headers.extend(others.iter().cloned());
        }
        write_head(stream, status, &headers, bytes.len() as u64)?;
        let most = match answer {
            Answer::Cut(most) | Answer::Silent(most) => *most,
            _ => u64::MAX,
        };
        let weights = path.ends_with(".gguf") || path.ends_with(".safetensors");
        let mut sent = 0;
        for chunk in bytes.chunks(4096) {
            let room = chunk.len().min(usize::try_from(most - sent).unwrap_or(usize::MAX));
            if weights && !self.spend(room as u64) {
                self.silence(stream);
                return None;
            }
            stream.write_all(&chunk[..room]).ok()?;
            sent += room as u64;
            if room < chunk.len() {
                if matches!(answer, Answer::Silent(_)) {
                    self.silence(stream);
                }
                return None;
            }
        }
        Some(())
    }

    /// Whether so many bytes may be sent.
    fn spend(&self, bytes: u64) -> bool {
        let mut left = self.left.lock().expect("no server thread panics");
        if *left == u64::MAX {
            return true;
        }
        *left = left.saturating_sub(bytes);
        if *left == 0 {
            self.spent.notify_all();
        }
        *left > 0
    }

    /// Keeps a connection open and says nothing, until the other end closes it.
    fn silence(&self, stream: &TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
        let deadline = Instant::now() + PATIENCE;
        let mut byte = [0];
        while Instant::now() < deadline && !self.ended.load(Ordering::Relaxed) {
            match stream.peek(&mut byte) {
                Ok(0) => return,
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
                _ => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// What the hub's API says of a repository.
    fn listing(&self, name: &str) -> Option<String> {
        let siblings: Vec<_> = self
            .files
            .get(name)?
            .iter()
            .map(|(path, File { bytes, sum })| {
                let size = bytes.len();
                if is_large(path) {
                    let lfs = json!({ "sha256": sum, "size": size, "pointerSize": 134 });
                    return json!({ "rfilename": path, "size": size, "lfs": lfs });
                }
                json!({ "rfilename": path, "size": size, "blobId": sum })
            })
            .collect();
        Some(json!({ "id": name, "sha": COMMIT, "siblings": siblings }).to_string())
    }

    /// A file by the path under which the hub has it, and what is said of it.
    fn file(&self, path: &str) -> Option<(Arc<[u8]>, Headers)> {
        let (name, path) = path.split_once(&format!("/resolve/{COMMIT}/"))?;
        let File { bytes, sum } = self.files.get(name)?.get(path)?;
        let mut headers = vec![("X-Repo-Commit", COMMIT.to_owned())];
        if is_large(path) {
            headers.push(("ETag", format!("\"{sum}\"")));
            headers.push(("X-Linked-ETag", format!("\"{sum}\"")));
            headers.push(("X-Linked-Size", bytes.len().to_string()));
        }
        Some((bytes.clone(), headers))
    }
}

fn is_large(path: &str) -> bool {
    path.ends_with(".gguf") || path.ends_with(".safetensors")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The next request of a connection.
fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&len| len > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let (mut range, mut token) = (None, None);
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|&len| len > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            return Some(Request { path, range, token });
        };
        if name.eq_ignore_ascii_case("range") {
            let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
            range = Some((first.parse().ok()?, last.parse().ok()?));
        } else if name.eq_ignore_ascii_case("authorization") {
            token = Some(value.to_owned());
        }
    }
}

fn write_head(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(&'static str, String)],
    len: u64,
) -> Option<()> {
    let mut head = format!("HTTP/1.1 {status} X\r\n");
    if headers.iter().all(|(name, _)| *name != "Content-Length") {
        head.push_str(&format!("Content-Length: {len}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).ok()
}
