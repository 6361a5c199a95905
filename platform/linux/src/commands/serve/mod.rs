mod signals;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::builder::RangedU64ValueParser;
use rill::engine::Engine as Core;
use rill::seams::{Events, World};
use rill_linux::clock::local_seconds;
use rill_linux::engine::{Beside, Learned, LoadError, Memory, Parts};
use rill_linux::memory::parse_size;
use rill_linux::model::Model;
use rill_serve::config::TlsFiles;
use rill_serve::{
    Config, Desk, Limits, Listen, Loaded, Machine, Memory as Divided, Server, Share, Supervisor,
};

use crate::args::{BudgetArgs, EngineArgs};
use crate::failure::Failure;
use crate::terminal::{tell, tell_failure};
use signals::Signals;

/// Answer programs over HTTP, as OpenAI's, Ollama's and llama.cpp's servers do
///
/// Only this machine can ask, unless another address is named; that takes keys (--keys) or --open.
/// SIGTERM and Ctrl-C let answers under way end, SIGHUP reads keys and certificate again. systemd hears
/// when it is ready, that it lives, and when it ends, and may pass the sockets to listen at.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    engine: EngineArgs,
    /// Address and port, or unix:PATH for a socket in the file system; may be repeated
    /// [default: 127.0.0.1:8080, or the sockets that systemd passes]
    #[arg(long, value_name = "WHERE", value_parser = listen)]
    listen: Vec<Listen>,
    /// File of keys, one of which every request over the network needs; `rill key` makes them
    #[arg(long, value_name = "FILE", conflicts_with = "open")]
    keys: Option<PathBuf>,
    /// Speak TLS over the network, with this certificate and those that vouch for it, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let everybody ask who reaches the address
    #[arg(long)]
    open: bool,
    /// What clients call the model [default: its name]
    #[arg(long, value_name = "NAME")]
    alias: Option<String>,
    /// Further name by which this machine is reached, besides its addresses and its host name; may be
    /// repeated
    #[arg(long, value_name = "HOST", value_parser = host)]
    name: Vec<String>,
    /// Origin of web pages that may ask, for example https://desk.example; may be repeated
    #[arg(long, value_name = "ORIGIN", value_parser = origin)]
    origin: Vec<String>,
    /// File that says how the page for visitors is: its title, logo, questions, instruction, colours
    #[arg(long, value_name = "FILE")]
    kiosk: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// What the server takes on.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Limits")]
struct LimitArgs {
    /// Answers that may wait; more are refused
    #[arg(long, value_name = "N", default_value = "32", value_parser = places(0))]
    queue: u64,
    /// Seconds for an answer from its request on
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds(1))]
    time: u64,
    /// Most tokens of an answer [default: until the context is full]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    max_tokens: Option<u64>,
    /// Most bytes of a request
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "1MiB",
          hide_short_help = true)]
    body: u64,
    /// Connections; more wait
    #[arg(long, value_name = "N", default_value = "64", value_parser = places(1),
          hide_short_help = true)]
    connections: u64,
    /// Seconds for answers under way after the server was asked to end
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds(0),
          hide_short_help = true)]
    drain: u64,
}

const EXAMPLES: &str = "\
Examples:
  rill serve -m model.rill --ram 2GiB
  rill serve -m model.rill --kiosk kiosk.toml   the page for visitors at http://127.0.0.1:8080
  rill serve -m model.rill --listen unix:/run/rill/rill.sock
  rill key keys.txt kiosk                       make a key, and the file
  rill serve -m model.rill --listen 0.0.0.0:8080 --keys keys.txt
  rill serve -m model.rill --listen 0.0.0.0:8443 --keys keys.txt --tls-cert cert.pem --tls-key key.pem
  curl http://127.0.0.1:8080/v1/chat/completions -d \\
    '{\"messages\": [{\"role\": \"user\", \"content\": \"Why is the sky blue?\"}]}'";

pub fn run(args: &Args) -> Result<(), Failure> {
    // What is passed is taken over before anything else is opened.
    let supervisor = Supervisor::from_env()
        .map_err(|error| Failure::System { what: "what started the server is not clear", error })?;
    let signals = Signals::watch()?;
    let mut config = args.config();
    if config.listen.is_empty() && supervisor.sockets.is_empty() {
        config.listen.push(Listen::Tcp(HERE));
    }
    let (limits, tls) = (config.limits, config.tls.is_some());
    let beside = move |places| beside(limits, tls, places);
    let server = Server::bind_for(config, supervisor)?;
    signals.pass_to(server.control());
    let addresses = server.addresses().to_vec();
    server.run(|desk| {
        for address in addresses {
            tell(format_args!("listening at {address}"));
        }
        args.serve(desk, beside)
    })
}

/// What a server takes beside the model, where so many conversations are side by side.
fn beside(limits: Limits, tls: bool, places: u32) -> Beside {
    let Share { connections, requests, token, forms, word } = limits.memory(tls, places);
    Beside { connections, requests, token, forms, word }
}

/// The least budget of a server that takes on what it does where nobody says, with a model that so many
/// threads compute.
pub fn least(
    budget: &BudgetArgs,
    model: &Model,
    threads: Option<NonZeroUsize>,
) -> Result<u64, LoadError> {
    let beside = |places| beside(Limits::default(), false, places);
    budget.options_beside(CONVERSATIONS, beside).least(model, threads)
}

/// Where to listen where nobody says.
const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Conversations side by side where the user does not say.
const CONVERSATIONS: u32 = 2;

impl Args {
    /// Loads the model and answers until the server ends.
    fn serve(&self, desk: Desk, beside: impl FnOnce(u32) -> Beside) -> Result<(), Failure> {
        let mut memory = Memory::new();
        let mut engine = self.engine.load_beside(CONVERSATIONS, beside, &mut memory)?;
        tell_failure(engine.recall());
        let name = match &self.alias {
            Some(alias) => alias.clone(),
            None => engine.image.manifest.name.to_string(),
        };
        let (identity, sampling) = (engine.identity(), engine.image.manifest.sampling);
        let bytes = engine.image.header.file_len;
        let budget = engine.budget;
        let Parts { core, sequences, template, machine, learned } = engine.parts();
        desk.serve(Loaded {
            name,
            bytes,
            memory: Divided { budget: budget.total, plan: &budget.plan, beside: &budget.beside },
            identity,
            sampling,
            template,
            now: || local_seconds(SystemTime::now()),
            ready: || tell("ready"),
            engine: core,
            sequences,
            machine: &mut Bench { machine, learned },
        })?;
        tell_failure(engine.keep());
        Ok(())
    }

    fn config(&self) -> Config {
        let limits = &self.limits;
        let defaults = Limits::default();
        let body = usize::try_from(limits.body).unwrap_or(usize::MAX);
        Config {
            listen: self.listen.clone(),
            keys: self.keys.clone(),
            tls: self
                .tls_cert
                .clone()
                .zip(self.tls_key.clone())
                .map(|(cert, key)| TlsFiles { cert, key }),
            open: self.open,
            names: self.name.clone(),
            origins: self.origin.clone(),
            kiosk: self.kiosk.clone(),
            tell: |line| tell(line),
            abandon: || std::process::exit(0),
            temperature: rill_serve::temperature,
            limits: Limits {
                body,
                bodies: defaults.bodies.max(body.saturating_mul(2)),
                queue: limits.queue as usize,
                time: Duration::from_secs(limits.time),
                tokens: limits.max_tokens.unwrap_or(defaults.tokens),
                connections: limits.connections as usize,
                drain: Duration::from_secs(limits.drain),
                ..defaults
            },
        }
    }
}

/// The machine, as a server sees it.
struct Bench<'e, 'm> {
    machine: &'e mut rill_linux::engine::Machine<'m>,
    learned: Learned<'e>,
}

impl<'m> Machine<'m> for Bench<'_, 'm> {
    fn world<'w>(&'w mut self, events: &'w mut dyn Events) -> World<'w, 'm> {
        self.machine.world(events)
    }

    fn warm(&mut self, core: &mut Core<'m>) -> bool {
        self.learned.warm(core, self.machine)
    }

    fn keep(&mut self, core: &mut Core<'m>, idle: bool) {
        match idle {
            true => tell_failure(self.learned.keep_meanwhile(core)),
            false => self.learned.keep_uses(core),
        }
    }
}

fn at_least_one() -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(1..)
}

fn places(least: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(least..=Limits::MOST_PLACES)
}

fn seconds(least: u64) -> RangedU64ValueParser<u64> {
    RangedU64ValueParser::new().range(least..=Limits::LONGEST.as_secs())
}

/// A name as it stands in `Host`.
fn host(text: &str) -> Result<String, String> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let name = rest.split(['/', ':']).next().unwrap_or_default();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match name == text && !name.is_empty() && name.bytes().all(is_part) {
        true => Ok(text.to_owned()),
        false if name.is_empty() || !name.bytes().all(is_part) => {
            Err("not a name of a host, as gateway.example".to_owned())
        }
        false => Err(format!("a name of a host alone is meant: --name {name}")),
    }
}

/// An origin as browsers send it.
fn origin(text: &str) -> Result<String, String> {
    let is_whole = |(scheme, rest): &(&str, &str)| {
        !scheme.is_empty() && !rest.is_empty() && !rest.starts_with('/')
    };
    let Some((scheme, rest)) = text.split_once("://").filter(is_whole) else {
        return Err("not an origin, as https://desk.example or http://localhost:3000".to_owned());
    };
    let (scheme, host) = (scheme.to_lowercase(), rest.split(['/', '?', '#']).next());
    let mut host = host.unwrap_or_default().to_lowercase();
    // Browsers leave out the port that a scheme has anyway.
    for (usual, port) in [("http", ":80"), ("https", ":443")] {
        if scheme == usual && host.ends_with(port) {
            host.truncate(host.len() - port.len());
        }
    }
    let sent = format!("{scheme}://{host}");
    match sent == text && !host.is_empty() {
        true => Ok(sent),
        false => Err(format!("write it as browsers send it: --origin {sent}")),
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(Listen::Unix(path.into()));
    }
    let address: Result<SocketAddr, _> = text.parse();
    address.map(Listen::Tcp).map_err(|_| {
        "not an address with a port, as 127.0.0.1:8080 or [::1]:8080, nor unix:PATH".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn read(option: &str, value: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(["serve", option, value]).map(|line| line.args)
    }

    #[test]
    fn limits_that_nothing_can_count_are_refused_by_name() {
        for option in ["--queue", "--connections", "--time", "--drain"] {
            assert!(read(option, "7").is_ok(), "{option}");
            let error = read(option, "18446744073709551615").unwrap_err().to_string();
            assert!(error.contains(option) && error.contains("..="), "{error}");
        }
    }

    #[test]
    fn what_no_browser_sends_is_refused_with_what_to_write() {
        for name in ["gateway.example", "Pi_5", "10.0.0.1"] {
            assert_eq!(host(name).as_deref(), Ok(name));
        }
        for name in ["http://x:80", "x:80", "x/", "https://x/y"] {
            assert!(host(name).unwrap_err().ends_with("--name x"), "{name}");
        }
        for name in ["", "a b", "http://", "*.example"] {
            assert!(host(name).unwrap_err().contains("gateway.example"), "{name}");
        }
        for good in ["https://desk.example", "http://localhost:3000", "app://rill"] {
            assert_eq!(origin(good).as_deref(), Ok(good));
        }
        for wrong in
            ["https://desk.example/", "HTTPS://Desk.example:443/a?b", "https://desk.example#"]
        {
            assert!(
                origin(wrong).unwrap_err().ends_with("--origin https://desk.example"),
                "{wrong}"
            );
        }
        for wrong in ["desk.example", "null", "*", "", "https://", "https:///a"] {
            assert!(origin(wrong).unwrap_err().contains("not an origin"), "{wrong}");
        }
    }
}
