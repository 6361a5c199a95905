//! Connections: who may have one, for how long, and what is let in.

mod body;
mod guard;
mod patient;
mod places;
mod socket;
mod tls;
mod weight;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::HttpBody;
use axum::extract::{Extension, Request};
use axum::{Router, middleware};
use futures_util::future::{Either, select};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::AddressFamily;
use rustix::net::sockopt::{socket_acceptconn, socket_domain};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, copy, sink};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api;
use crate::config::Listen;
use crate::server::{Shared, StartError};
use crate::watch;
use patient::Patient;
use places::{Place, Places};

pub use body::{Taken, read};
pub use guard::Guest;
pub use tls::{Tls, TlsError};

/// What hyper reads into and writes from, at the least.
pub const LEAST_BUFFER: usize = 8 << 10;
/// Bytes that TLS keeps for a connection: a record as it comes and as it is read, as many that are to be
/// sent, and the greeting.
pub const TLS_BUFFERS: usize = 96 << 10;
/// Bytes that wait to be encrypted, and those that wait to be sent.
const TLS_WAITING: usize = 16 << 10;

/// Bytes that are read of what was refused.
const MOST_UNREAD: u64 = 64 << 20;

/// How a request reached the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Tcp,
    /// Over TCP, from this machine, at an address that others reach too.
    Near,
    /// Over TCP, at an address that only this machine reaches.
    Loopback,
    Unix,
}

/// A socket that listens.
pub enum Listener {
    Tcp(StdTcpListener),
    /// With its name, if it goes with the server.
    Unix(StdUnixListener, Option<socket::Name>),
}

impl Listener {
    /// Listens.
    pub fn bind(listen: &Listen) -> Result<Self, StartError> {
        match listen {
            Listen::Tcp(address) => {
                let failed = |error| StartError::Listen(address.to_string(), error);
                let listener = StdTcpListener::bind(address).map_err(failed)?;
                listener.set_nonblocking(true).map_err(failed)?;
                Ok(Self::Tcp(listener))
            }
            Listen::Unix(path) => {
                let failed = |error| StartError::Listen(path.display().to_string(), error);
                let (listener, name) = socket::listen_at(path).map_err(failed)?;
                Ok(Self::Unix(listener, Some(name)))
            }
        }
    }

    /// Takes over a socket that listens already.
    pub fn adopt(socket: OwnedFd) -> Result<Self, StartError> {
        let take = || {
            if !socket_acceptconn(&socket)? {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            match socket_domain(&socket)? {
                AddressFamily::INET | AddressFamily::INET6 => {
                    let listener = StdTcpListener::from(socket);
                    listener.set_nonblocking(true)?;
                    Ok(Self::Tcp(listener))
                }
                AddressFamily::UNIX => {
                    let listener = StdUnixListener::from(socket);
                    listener.set_nonblocking(true)?;
                    Ok(Self::Unix(listener, None))
                }
                _ => Err(io::ErrorKind::InvalidInput.into()),
            }
        };
        take().map_err(StartError::Passed)
    }

    /// The address of one of TCP.
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    /// Its URL, or its path.
    pub fn address(&self, scheme: &str) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|e| e.to_string(), |at| format!("{scheme}://{at}")),
            Self::Unix(listener, _) => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                path.map_or_else(String::new, |path| path.display().to_string())
            }
        }
    }
}

/// Lets requests in until the server is asked to end, then waits for those under way.
pub fn run(listeners: Vec<Listener>, shared: &Arc<Shared>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(listeners, shared));
    // What still reads a sensor is not waited for.
    runtime.shutdown_background();
    outcome
}

async fn serve(listeners: Vec<Listener>, shared: &Arc<Shared>) -> io::Result<()> {
    let router = api::router(Arc::clone(shared));
    let router = router.layer(middleware::from_fn_with_state(Arc::clone(shared), guard::check));
    let places = Places::new(shared.limits.connections as u32);
    let mut doors = JoinSet::new();
    let mut names = Vec::new();
    for listener in listeners {
        let (shared, places) = (Arc::clone(shared), Arc::clone(&places));
        match listener {
            Listener::Tcp(listener) => {
                let way = match listener.local_addr()?.ip().is_loopback() {
                    true => Way::Loopback,
                    false => Way::Tcp,
                };
                let listener = TcpListener::from_std(listener)?;
                doors.spawn(admit(listener, way, router.clone(), shared, places));
            }
            Listener::Unix(listener, name) => {
                names.extend(name);
                let listener = UnixListener::from_std(listener)?;
                doors.spawn(admit(listener, Way::Unix, router.clone(), shared, places));
            }
        }
    }
    let reporter = tokio::spawn(watch::report(Arc::clone(shared)));
    let mut leaving = shared.leaving();
    // The sender lives as long as `shared`.
    let _ = leaving.wait_for(|leaving| *leaving).await;
    doors.shutdown().await;
    drop(names);
    // Answers under way have the time that the limits say.
    let _ = timeout(shared.limits.drain, places.all()).await;
    shared.end_worker();
    // What the worker says last still goes out.
    let _ = timeout(Duration::from_secs(2), places.all()).await;
    reporter.abort();
    Ok(())
}

/// Where connections come from.
trait Accept: Send + Sync + 'static {
    /// Whether TLS is spoken here, where the server has it.
    const IS_OPEN: bool;
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection to where `way` leads, and the way that it came.
    fn accept(&self, way: Way) -> impl Future<Output = io::Result<(Self::Stream, Way)>> + Send;
}

impl Accept for TcpListener {
    const IS_OPEN: bool = true;
    type Stream = TcpStream;

    async fn accept(&self, way: Way) -> io::Result<(TcpStream, Way)> {
        let (stream, from) = self.accept().await?;
        // Tokens are small: they do not wait for each other.
        let _ = stream.set_nodelay(true);
        let is_near = way == Way::Tcp && from.ip().to_canonical().is_loopback();
        Ok((stream, if is_near { Way::Near } else { way }))
    }
}

impl Accept for UnixListener {
    const IS_OPEN: bool = false;
    type Stream = UnixStream;

    async fn accept(&self, way: Way) -> io::Result<(UnixStream, Way)> {
        Ok((self.accept().await?.0, way))
    }
}

/// Accepts connections, and serves as many as there are places.
async fn admit<L: Accept>(
    listener: L,
    way: Way,
    router: Router,
    shared: Arc<Shared>,
    places: Arc<Places>,
) {
    loop {
        match Accept::accept(&listener, way).await {
            Ok((stream, way)) => {
                // One that is here already has another one end that nobody uses.
                let Some(place) = places.take().await else { return };
                let (router, shared) = (router.clone(), Arc::clone(&shared));
                let router = router.layer(Extension(way));
                tokio::spawn(async move {
                    match shared.tls.as_ref().filter(|_| L::IS_OPEN) {
                        None => connection(stream, router, &shared, place).await,
                        Some(tls) => {
                            let greeting = tls.acceptor().accept_with(stream, |tls| {
                                tls.set_buffer_limit(Some(TLS_WAITING));
                            });
                            // Who does not greet in time, or in another language, is not spoken to.
                            if let Ok(Ok(stream)) = timeout(shared.limits.arrival, greeting).await {
                                connection(stream, router, &shared, place).await;
                            }
                        }
                    }
                });
            }
            // The process has as many files as it may, or the client was faster than we are.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection until one of both sides ends it.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    mut stream: S,
    router: Router,
    shared: &Arc<Shared>,
    place: Place,
) {
    let limits = &shared.limits;
    let place = Arc::new(place);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.arrival)
        .max_buf_size(limits.head.max(LEAST_BUFFER))
        .half_close(false);
    let io = TokioIo::new(Patient::new(&mut stream, limits.patience));
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        let busy = place.busy();
        let has_body = !request.body().is_end_stream();
        let (answer, place) = (router.call(request), &place);
        async move {
            let answer = answer.await?;
            let status = answer.status();
            place.note(has_body && (status.is_client_error() || status.is_server_error()));
            Ok::<_, Infallible>(answer.map(|body| busy.until(body)))
        }
    });
    let mut connection = Box::pin(http.serve_connection(io, service));
    let over = pin!(is_over(shared, &place));
    if let Either::Right(_) = select(connection.as_mut(), over).await {
        connection.as_mut().graceful_shutdown();
        // A client that breaks its connection knows.
        let _ = connection.as_mut().await;
    }
    drop(connection);
    if place.is_unread() {
        let heard = pin!(timeout(limits.arrival, hear_out(stream)));
        select(heard, pin!(is_over(shared, &place))).await;
    }
}

/// Reads on for a client that sends all that it has before it reads: what nobody has read when its
/// connection ends takes the refusal with it.
async fn hear_out(stream: impl AsyncRead + Unpin) {
    let mut rest = stream.take(MOST_UNREAD);
    // A client that breaks its connection knows.
    let _ = copy(&mut rest, &mut sink()).await;
}

/// Waits until the server is asked to end, or another client needs the place.
async fn is_over(shared: &Shared, place: &Place) {
    let mut leaving = shared.leaving();
    let left = pin!(async move {
        let _ = leaving.wait_for(|leaving| *leaving).await;
    });
    select(left, pin!(place.is_needed())).await;
}
