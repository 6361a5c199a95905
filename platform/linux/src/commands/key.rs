use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::builder::RangedU64ValueParser;
use rill_linux::regular;
use rill_linux::replace::{Access, folder_of, replace};
use rill_serve::keys::{Key, Keys, MOST_BYTES, is_name};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::failure::Failure;
use crate::terminal::{stdout, tell};

/// Make a key for `rill serve`
///
/// Adds a line with the key's hash to a file, and prints the key, which is kept nowhere. A server that
/// runs takes new keys over at SIGHUP. The file is made for its user alone: a server of another user gets it
/// from systemd (LoadCredential=, as rill-serve.service does) or as a secret of Kubernetes, or its group may
/// read it (chgrp and chmod 640), which later keys leave so.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File of keys; made if it is not there
    file: PathBuf,
    /// What to call the key: letters, digits, and -_.@
    #[arg(value_parser = name)]
    name: String,
    /// Most requests a minute [default: any number]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    requests: Option<u64>,
    /// Most tokens a minute, of prompts and answers [default: any number]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<u64>::new().range(1..))]
    tokens: Option<u64>,
    /// A key of whoever runs the server: it opens the page at /operator and /metrics too
    #[arg(long)]
    operator: bool,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let path = &args.file;
    // Others who make keys wait, and add theirs to this one.
    let _held = hold(path).map_err(Failure::file(path))?;
    let (mut text, access) = match regular::read(path, MOST_BYTES) {
        Ok(bytes) => {
            let text = String::from_utf8(bytes).map_err(|_| wrong(args, "it is no text"))?;
            // A server of another user may read it.
            (text, Access::Ordinary)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => (HEAD.to_owned(), Access::Private),
        Err(error) => return Err(Failure::file(path)(error)),
    };
    let random = |error| Failure::System { what: "cannot make a key", error };
    let key = Key::new(&args.name, args.requests, args.tokens).map_err(random)?;
    let key = if args.operator { key.of_operator() } else { key };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&key.line);
    text.push('\n');
    // What was there before is as it must be, and the name is new.
    Keys::parse(&text).map_err(|error| wrong(args, error))?;
    // What nobody was told is no key.
    if goes_nowhere() {
        let lost = "standard output goes nowhere, and the key with it: read it there, or keep it";
        return Err(Failure::Usage(lost.to_owned()));
    }
    writeln!(stdout(), "{}", key.secret)?;
    stdout().flush()?;
    replace(path, access, |out| out.write_all(text.as_bytes())).map_err(Failure::file(path))?;
    tell(format_args!("the key is kept nowhere else: only its hash is in {}", path.display()));
    Ok(())
}

/// Holds the folder of a file until it is dropped, against everybody else who does: what is read of the
/// file is still so when it is replaced.
fn hold(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder_of(path), flags, Mode::empty())?;
    flock(&folder, FlockOperation::LockExclusive)?;
    Ok(folder)
}

/// Whether standard output is `/dev/null`, which is also what takes the place of one that is closed.
fn goes_nowhere() -> bool {
    let place = |found: rustix::fs::Stat| (found.st_dev, found.st_ino, found.st_rdev);
    let out = rustix::fs::fstat(rustix::stdio::stdout()).map(place);
    let null = rustix::fs::stat("/dev/null").map(place);
    matches!((out, null), (Ok(out), Ok(null)) if out == null)
}

const HEAD: &str =
    "# name, SHA-256 of the key, requests a minute, tokens a minute (- for any number)\n";

fn wrong(args: &Args, what: impl std::fmt::Display) -> Failure {
    Failure::Usage(format!("{}: {what}", args.file.display()))
}

fn name(text: &str) -> Result<String, String> {
    match is_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a name has 1 to 64 letters, digits, and -_.@".to_owned()),
    }
}
