// SPDX-License-Identifier: GPL-2.0-or-later

//! The smbdirect device in user space: the broker between clients and the processes of smbd.
//!
//! ```text
//!    clients ---> reactor 0 \                             / listener (smbd)
//!    clients ---> reactor 1  >--- rings and memory ------<  worker (smbd's child)
//!            ...            /     of each worker          \ worker
//!                 ^  commands, notices  |
//!                 '-- control thread ---'---- control socket --- all of them
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `control` | the thread that knows processes: attaches them, answers them, notices their end |
//! | `observers` | the thread that answers processes that may only ask for the status and the events, and Prometheus |
//! | `reactor` | a thread that drives a shard of the connections |
//! | `capture` | captures of connections, for administrators |
//! | `addresses` | the addresses on which clients reach the broker, and their interfaces |
//! | `reload` | which keys of the configuration can change while the broker runs, and how |
//! | `shared` | the state that all threads share: the registry of clients and connections, the configuration |
//! | `process`, `segment` | an attached process, and its memory |
//! | `kept` | what one broker passes on to the next one at a restart |
//! | `config`, `settings`, `quantity`, `log`, `suggest` | the broker's configuration, and the file that holds it |
//! | [`status`], `words` | what the broker reports about itself |
//! | [`metrics`] | the broker's report for Prometheus |
//! | [`events`] | what has happened lately |
//! | [`kernel_status`] | the report of a device in the kernel, in the broker's form, for smbdirectctl |
//!
//! The rules of a device, in a process or in a kernel, are in [`engine`](crate::engine).
//!
//! The broker does not know any rule of SMB Direct, and parses only as much of SMB2 as it needs to find the owner of a
//! connection. The worst that a client or a process can do is to end its own connection or its own attachment.

mod addresses;
mod capture;
mod config;
mod control;
pub mod events;
mod kept;
pub mod kernel_status;
mod log;
mod machine;
pub mod metrics;
mod observers;
mod placement;
mod presence;
mod process;
mod quantity;
mod reactor;
mod reload;
mod segment;
mod settings;
mod shared;
pub mod status;
mod suggest;
mod words;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};

use self::capture::Tap;
pub use self::config::{Config, Listen, METRICS_PORT, OutOfRange, PORT};
use self::control::{Control, ControlSocket, Keeper, Message, ToReactor, continue_with};
use self::kept::{Descriptors, KeptSocket, names};
pub use self::kept::{Kept, NotContinued, Store};
pub use self::log::{LogFormat, log_filter};
use self::observers::{Listeners, Observers};
pub use self::placement::{NotPlaced, unused_devices};
use self::process::Pool;
use self::reactor::{Notice, Reactor, ToControl, ToStore};
use self::reload::Listening;
pub use self::reload::{Applies, Change, KEYS, Plan, Problem, Refusal, Reloaded};
pub use self::settings::{NoAddress, Settings, SettingsError};
use self::shared::Shared;
use self::status::Status;
use crate::device;
use crate::device::trust::{UnsafeDirectory, check_directory, check_directory_of};
use crate::engine::shard::KeptShard;
use crate::fabric::verbs;
use crate::fabric::{
    Fabric, FabricError, FabricKind, Keep, ListenerId, ReadLimits, Reconfigure, SharedEpoll, iwarp,
    owner_token,
};
use crate::proto;
pub use crate::sys::passed_descriptors;
use crate::transport::{self, Transport};
use crate::units::{Credits, Instant};

/// Time that the owner of the broker waits for the status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that [`Broker::keep`] waits besides the time in which the connections of RDMA devices end.
const KEEP_TIMEOUT: Duration = Duration::from_secs(13);

/// Number of registrations of a connection besides those of its owner's segments: the receives of the negotiation, and
/// the receives after it.
const OWN_REGIONS: usize = 2;

/// Maximum number of credits that a client holds until its connection has a session.
const RECEIVES_OF_STRANGERS: Credits = Credits(8);

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The control socket could not be made.
    #[error("control socket {path}: {source}")]
    Control {
        /// Its path.
        path: String,
        /// What is wrong.
        source: io::Error,
    },
    /// The status socket could not be made.
    #[error("status socket {path}: {source}")]
    StatusSocket {
        /// Its path.
        path: String,
        /// What is wrong.
        source: io::Error,
    },
    /// The socket of the metrics could not be made.
    #[error("metrics.socket {path}: {source}")]
    MetricsSocket {
        /// Its path.
        path: String,
        /// What is wrong.
        source: io::Error,
    },
    /// Other users could replace the socket of the metrics.
    #[error("metrics.socket {path}: {source}")]
    MetricsDirectory {
        /// Its path.
        path: String,
        /// What is wrong with the socket's directory.
        source: UnsafeDirectory,
    },
    /// The status socket, or the socket of the metrics, cannot be given to [`Config::status_group`].
    #[error(
        "status_group is \"{group}\", and the {what} socket {path} cannot be given to that group: {source}"
    )]
    StatusGroup {
        /// The configured group.
        group: String,
        /// Which socket it is: `status` or `metrics`.
        what: &'static str,
        /// The path of the socket.
        path: String,
        /// What is wrong.
        source: io::Error,
    },
    /// Other users could replace the control socket.
    #[error("control socket {path}: {source}")]
    Directory {
        /// Its path.
        path: String,
        /// What is wrong with the socket's directory.
        source: UnsafeDirectory,
    },
    /// A value is out of range.
    #[error(transparent)]
    Config(#[from] OutOfRange),
    /// The configuration asks for a fabric that is not available.
    #[error(transparent)]
    Place(#[from] NotPlaced),
    /// A fabric could not be made.
    #[error("fabric: {0}")]
    Fabric(io::Error),
    /// The fabric cannot listen for clients.
    #[error("{0}")]
    Listen(#[from] FabricError),
    /// Threads, or what they wait on, could not be made.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Returns the configuration of a broker's [`iwarp::Iwarp`] fabrics: the fabrics of all reactors listen on the same
/// addresses, and a connection has room for all segments of its owner and for all receives of the connection.
#[must_use]
pub fn iwarp_config(config: &Config) -> iwarp::Config {
    let mut iwarp = iwarp::Config {
        max_pending: config.max_unnegotiated,
        max_pending_per_source: config.max_unnegotiated_per_source,
        reuse_port: true,
        // The interface promises workers that SENT means acknowledged.
        acknowledged_sends: true,
        free_bind: true,
        ..iwarp::Config::default()
    };
    let segments = config.memory.send.max_segments as usize;
    let segments = segments.saturating_add(config.memory.bulk.max_segments as usize);
    iwarp.depths.regions = segments.saturating_add(OWN_REGIONS);
    // The negotiation needs one more receive.
    let receives = usize::from(config.acceptor.receive_credit_max.0) + 1;
    iwarp.depths.recvs = iwarp.depths.recvs.max(receives);
    iwarp
}

/// Returns the configuration of a broker's fabric of RDMA devices.
#[must_use]
pub fn verbs_config(config: &Config) -> verbs::Config {
    (&iwarp_config(config)).into()
}

/// A running broker. Dropping it ends it at once.
#[derive(Debug)]
pub struct Broker {
    listening: Vec<Listening>,
    /// The address of the metrics as it was configured, and with its real port if they are served there.
    metrics: [Option<SocketAddr>; 2],
    drain_timeout: Duration,
    control: ToControl,
    /// The reactors, and the fabric of each.
    reactors: Vec<(FabricKind, ToReactor)>,
    threads: Vec<JoinHandle<()>>,
    /// The thread that answers observers until all other threads have ended.
    observers: Option<Observers>,
}

impl Broker {
    /// Starts the threads of a broker; `make_fabric` makes the fabric of a reactor. One reactor drives the connections
    /// of all RDMA devices; the software fabric has [`Config::reactors`] reactors.
    ///
    /// # Errors
    ///
    /// The error says why the broker could not start. No thread is left running.
    pub fn start<F, M>(config: Config, make_fabric: M) -> Result<Self, StartError>
    where
        F: Keep + Reconfigure + Send + 'static,
        M: FnMut(FabricKind) -> io::Result<F>,
    {
        Self::resume(config, None, make_fabric)
    }

    /// Starts as [`start`](Self::start) does, and continues where the broker stood still that wrote down `kept`. What
    /// cannot be continued ends, and the log says so. There are at least as many reactors as the connections need.
    ///
    /// # Errors
    ///
    /// The error says why the broker could not start. No thread is left running, and all connections end.
    pub fn resume<F, M>(
        mut config: Config,
        kept: Option<Kept>,
        mut make_fabric: M,
    ) -> Result<Self, StartError>
    where
        F: Keep + Reconfigure + Send + 'static,
        M: FnMut(FabricKind) -> io::Result<F>,
    {
        config.validate()?;
        config.place()?;
        let mut kept = kept.filter(|kept| {
            let why = kept.misfit(&config);
            if let Some(why) = why {
                tracing::warn!("connections end with this restart: {why}");
            }
            why.is_none()
        });
        if let Some(kept) = &kept {
            let mut listen = config.listen.iter();
            let is_verbs = listen.any(|listen| listen.fabric == Some(FabricKind::Verbs));
            config.reactors = config.reactors.max(kept.reactors(is_verbs));
        }
        let (socket, asked_at) = sockets(&config, kept.as_mut())?;
        let status_socket = Arc::clone(&asked_at.status);
        let metrics = config.metrics;
        let drain_timeout = config.drain_timeout;
        let mut listen_at = config.listen.clone();
        let asked: Vec<SocketAddr> = listen_at.iter().map(|listen| listen.address).collect();
        let now = kept.as_ref().map_or(Instant::ZERO, |kept| kept.state.now);
        let shared = Arc::new(Shared::new(config, now));
        let continued = kept
            .as_mut()
            .map(|kept| continue_with(&mut kept.state, &mut kept.descriptors, &shared));
        let poll = mio::Poll::new()?;
        let (sender, messages) = unbounded();
        let waker = mio::Waker::new(poll.registry(), control::WAKER)?;
        let control = ToControl {
            sender,
            waker: Arc::new(waker),
        };
        let (mut reactors, mut to_reactors) = (Vec::new(), Vec::new());
        let kinds = shared.reactors.clone();
        for (number, kind) in kinds.iter().copied().enumerate() {
            let fabric = make_fabric(kind).map_err(StartError::Fabric)?;
            let of = (number, kind);
            let transport = listen(&shared, Tap::new(fabric), of, &mut listen_at, kept.as_mut())?;
            let (to_reactor, commands) = unbounded();
            let registry = transport.0.fabric().registry();
            let waker = mio::Waker::new(registry, owner_token(reactor::WAKER))?;
            to_reactors.push(ToReactor {
                kind,
                sender: to_reactor,
                waker: Arc::new(waker),
            });
            let shared = Arc::clone(&shared);
            reactors.push(Reactor::new(
                (number, kind),
                shared,
                transport,
                commands,
                control.clone(),
            ));
        }
        let waits = (poll, messages);
        let observers = observers::Server::new(Arc::clone(&shared), asked_at, control.clone())?;
        let of_kinds = kinds.into_iter().zip(to_reactors.iter().cloned()).collect();
        let sockets = (socket, status_socket);
        let mut thread = Control::new(
            Arc::clone(&shared),
            waits,
            sockets,
            to_reactors,
            listen_at.clone(),
        )?;
        if let (Some(kept), Some((peers, state))) = (kept, continued) {
            let acceptor = state.acceptor(&shared.config().acceptor);
            for reactor in &mut reactors {
                reactor.set_up(acceptor, state.allowed());
            }
            let Kept {
                state: mut before,
                mut descriptors,
            } = kept;
            shared.adopt_events(std::mem::take(&mut before.events));
            continue_shards(
                &mut reactors,
                (before.shards, &mut descriptors),
                (&shared, &control),
            );
            thread.adopt(peers, state);
        }
        let listening = asked.into_iter().zip(listen_at);
        let mut broker = Self {
            listening: listening
                .map(|(asked, at)| Listening { asked, at })
                .collect(),
            metrics: [metrics, observers.metrics_address()],
            drain_timeout,
            control,
            reactors: of_kinds,
            threads: Vec::new(),
            observers: None,
        };
        broker.spawn(thread, reactors)?;
        broker.observers = Some(observers.spawn()?);
        Ok(broker)
    }

    fn spawn<F: Keep + Reconfigure + Send + 'static>(
        &mut self,
        mut control: Control,
        reactors: Vec<Reactor<F>>,
    ) -> io::Result<()> {
        let thread = thread::Builder::new().name("control".to_owned());
        self.threads.push(thread.spawn(move || {
            if let Err(error) = control.run() {
                tracing::error!("the control thread cannot wait for events: {error}");
            }
        })?);
        // All `Ended`s are made before the first thread: if a thread cannot be started, dropping its `Ended` reports
        // the failure.
        let ended = |number| Ended(number, self.control.clone());
        let ended: Vec<Ended> = (0..reactors.len()).map(ended).collect();
        for (ended, mut reactor) in ended.into_iter().zip(reactors) {
            let thread = thread::Builder::new().name(format!("reactor {}", ended.0));
            self.threads.push(thread.spawn(move || {
                // `ended` is dropped last, even if the thread panics.
                let ended = ended;
                if let Err(error) = reactor.run() {
                    tracing::error!(reactor = ended.0, "the fabric has failed: {error}");
                }
            })?);
        }
        Ok(())
    }

    /// Returns the addresses on which the broker accepts SMB Direct, with real ports.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let all = self.listening.iter();
        all.map(|listening| listening.at.address).collect()
    }

    /// Returns the address on which Prometheus gets the metrics, with its real port; `None` if they are not served.
    #[must_use]
    pub const fn metrics_address(&self) -> Option<SocketAddr> {
        let [_, served] = self.metrics;
        served
    }

    /// Returns the broker's status.
    ///
    /// # Errors
    ///
    /// The broker has ended, or is too busy to answer in a few seconds.
    pub fn status(&self) -> io::Result<Status> {
        ask_status(&self.control, STATUS_TIMEOUT)
    }

    /// Begins to stop: accepts no more connections and processes, and ends each connection as soon as nothing is under
    /// way on it, at the latest after [`Config::drain_timeout`].
    pub fn stop(&self) {
        self.control.send(Message::Stop(self.drain_timeout));
    }

    /// Lets everything stand still, so that another broker can continue ([`resume`](Self::resume)): passes all
    /// descriptors to `store`, and returns a file that holds the state. Connections of RDMA devices, which cannot be
    /// passed on, first end as they do when the broker [stops](Self::stop). [`leave`](Self::leave) or
    /// [`go_on`](Self::go_on) has to follow.
    ///
    /// # Errors
    ///
    /// The error says why the broker cannot be passed on, as a message for people. Everything goes on, except for
    /// connections of RDMA devices, and for clients that had not negotiated yet.
    pub fn keep(&self, store: Arc<dyn Store>) -> Result<OwnedFd, String> {
        let (answer, answered) = bounded(1);
        let store = ToStore(store);
        self.control.send(Message::Keep(Keeper { store, answer }));
        let time = self.drain_timeout.saturating_add(KEEP_TIMEOUT);
        let kept = answered.recv_timeout(time);
        let state = kept.unwrap_or_else(|_| Err("the device does not answer".to_owned()))?;
        kept::write(&state).map_err(|error| format!("the state cannot be written down: {error}"))
    }

    /// Goes on after [`keep`](Self::keep), because no other broker can continue.
    pub fn go_on(&self) {
        self.control.send(Message::GoOn);
    }

    /// Gives up the broker after [`keep`](Self::keep), without a word to anybody. Its threads stand still until the
    /// process ends, which has to follow.
    pub fn leave(self) {
        std::mem::forget(self);
    }

    /// Returns whether the broker has ended, so that [`wait`](Self::wait) would return at once.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Waits until the broker has ended, because of [`stop`](Self::stop) or because it failed as a whole.
    ///
    /// # Errors
    ///
    /// A thread has panicked.
    pub fn wait(mut self) -> io::Result<()> {
        self.join()
    }

    fn join(&mut self) -> io::Result<()> {
        let results: Vec<_> = self.threads.drain(..).map(JoinHandle::join).collect();
        self.observers = None;
        match results.iter().filter(|result| result.is_err()).count() {
            0 => Ok(()),
            count => Err(io::Error::other(format!("{count} threads have panicked"))),
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.control.send(Message::Stop(Duration::ZERO));
        // If the control thread never ran, there is no thread to wait for.
        let _ = self.join();
    }
}

/// Asks the control thread for the status, and waits for this time.
///
/// # Errors
///
/// The broker has ended, or is too busy to answer in time.
fn ask_status(control: &ToControl, time: Duration) -> io::Result<Status> {
    let (sender, answer): (Sender<Status>, _) = bounded(1);
    control.send(Message::Status(sender));
    let status = answer.recv_timeout(time);
    status.map_err(|error| io::Error::new(io::ErrorKind::TimedOut, error.to_string()))
}

/// Makes the control socket, and what observers connect to; continues the sockets that were passed on.
fn sockets(
    config: &Config,
    mut kept: Option<&mut Kept>,
) -> Result<(ControlSocket, Listeners), StartError> {
    let control = &config.control;
    check_directory(control).map_err(|source| StartError::Directory {
        path: control.display().to_string(),
        source,
    })?;
    let mut at = |path: &Path, name: &str, of: fn(&Kept) -> &KeptSocket| {
        let kept = kept.as_deref_mut().filter(|kept| of(kept).is_at(path));
        let again = kept.and_then(|kept| {
            let descriptor = kept.descriptors.take(name)?;
            ControlSocket::adopt(of(kept), descriptor)
        });
        again.map_or_else(|| ControlSocket::bind(path), Ok)
    };
    let bound = at(control, names::CONTROL, |kept| &kept.state.control);
    let bound = bound.map_err(|source| StartError::Control {
        path: control.display().to_string(),
        source,
    })?;
    let path = device::status_path(control);
    let status = at(&path, names::STATUS, |kept| &kept.state.status);
    let status = status.map_err(|source| StartError::StatusSocket {
        path: path.display().to_string(),
        source,
    })?;
    share(config, &status, ("status", &path))?;
    let listeners = Listeners {
        status: Arc::new(status),
        metrics: config.metrics.and_then(observers::listen),
        metrics_socket: metrics_socket(config)?,
    };
    Ok((bound, listeners))
}

/// Makes the socket of the metrics, if there is to be one.
fn metrics_socket(config: &Config) -> Result<Option<ControlSocket<UnixListener>>, StartError> {
    let Some(path) = &config.metrics_socket else {
        return Ok(None);
    };
    let shown = || path.display().to_string();
    check_directory_of(path, ("socket", "metrics.socket")).map_err(|source| {
        StartError::MetricsDirectory {
            path: shown(),
            source,
        }
    })?;
    let bound = ControlSocket::bind_stream(path);
    let bound = bound.map_err(|source| StartError::MetricsSocket {
        path: shown(),
        source,
    })?;
    share(config, &bound, ("metrics", path))?;
    Ok(Some(bound))
}

/// Lets the members of [`Config::status_group`] connect to a socket.
fn share<L>(
    config: &Config,
    socket: &ControlSocket<L>,
    (what, path): (&'static str, &Path),
) -> Result<(), StartError> {
    let Some(group) = config.status_group_id() else {
        return Ok(());
    };
    let shared = socket.share(group);
    shared.map_err(|source| group_error(config, (what, path), source))
}

/// Returns the error for a socket that cannot be given to its group.
fn group_error(
    config: &Config,
    (what, path): (&'static str, &Path),
    source: io::Error,
) -> StartError {
    StartError::StatusGroup {
        group: config.status_group.clone(),
        what,
        path: path.display().to_string(),
        source,
    }
}

/// Continues the shards of an earlier broker. A shard without a reactor ends, with all of its workers: a worker has shared
/// a queue with it.
fn continue_shards<F: Keep + Reconfigure>(
    reactors: &mut [Reactor<F>],
    (shards, descriptors): (Vec<KeptShard>, &mut Descriptors),
    (shared, control): (&Shared, &ToControl),
) {
    let (mut continued, mut all) = (0, 0);
    for shard in shards {
        let count = shard.conns.len();
        all += count;
        if let Some(reactor) = reactors.get_mut(shard.number) {
            continued += reactor.adopt(shard, descriptors);
            continue;
        }
        let workers = shard.workers();
        if count == 0 && workers.is_empty() {
            continue;
        }
        let (number, workers_ended) = (shard.number, workers.len());
        tracing::warn!(
            "reactor {number} is missing after the restart, because \"listen\" has no address of its fabric any more: \
             its {count} connections end, and {workers_ended} workers are detached"
        );
        for _ in 0..count {
            shared.registry().count("not_kept");
        }
        for process in workers {
            let status = device::Status::System;
            let why = format!("its reactor {number} is missing after the restart");
            control.send(Message::Notice(Notice::Fault {
                process,
                status,
                why,
            }));
        }
    }
    if continued == all {
        tracing::info!("continues {continued} connections");
    } else {
        tracing::warn!("continues {continued} of {all} connections; the others end");
    }
}

/// Returns the fabric of each reactor.
fn kinds_of_reactors(config: &Config) -> Vec<FabricKind> {
    let is_used = |kind| {
        let mut listen = config.listen.iter();
        listen.any(|listen| listen.fabric.unwrap_or(FabricKind::Software) == kind)
    };
    let mut kinds = Vec::new();
    if is_used(FabricKind::Software) {
        kinds.resize(config.reactors.max(1), FabricKind::Software);
    }
    if is_used(FabricKind::Verbs) {
        kinds.push(FabricKind::Verbs);
    }
    kinds
}

/// Reports the end of a reactor to the control thread, when it is dropped.
struct Ended(usize, ToControl);

impl Drop for Ended {
    fn drop(&mut self) {
        self.1.send(Message::Notice(Notice::Ended(self.0)));
    }
}

/// Returns the configuration of a reactor's transport.
fn transport_config(config: &Config) -> transport::Config {
    transport::Config {
        acceptor: config.acceptor,
        first_receive_credit_max: RECEIVES_OF_STRANGERS,
        initiator: proto::Config::initiator_default(),
        limits: ReadLimits::default(),
        max_unnegotiated: config.max_unnegotiated,
        max_unnegotiated_per_source: config.max_unnegotiated_per_source,
        // Which connection has to end for a newcomer is decided once the newcomer has negotiated.
        max_connections: config.max_connections + config.max_unnegotiated,
        // A worker's queue never has more submissions outstanding than this.
        send_queue: config.queue_depth as usize,
        progress_timeout: config.progress_timeout,
    }
}

/// Makes the transport of a reactor. The transport listens on the addresses of `listen_at`, whose ports become real
/// ones.
#[allow(clippy::type_complexity)]
fn listen<F: Fabric + Keep>(
    shared: &Shared,
    fabric: F,
    (reactor, kind): (usize, FabricKind),
    listen_at: &mut [Listen],
    mut kept: Option<&mut Kept>,
) -> Result<(Transport<F, Pool>, Vec<ListenerId>), FabricError> {
    let config = shared.config();
    let total = Arc::clone(&shared.memory);
    let pool = Pool::new(config.memory.receive, total, shared.reserve.worker);
    let mut transport = Transport::new(fabric, pool, transport_config(&config));
    let mut listeners = Vec::new();
    for listen in listen_at {
        if listen.fabric.unwrap_or(FabricKind::Software) != kind {
            continue;
        }
        listen.address = self::listen_at(listen, |address| {
            let before = kept.as_deref_mut();
            let before = before.and_then(|kept| kept.take_listener(reactor, address));
            let listener = match before {
                Some(descriptor) => transport.fabric_mut().adopt_listener(descriptor)?,
                None => transport.listen(address)?,
            };
            listeners.push(listener);
            Ok(transport.local_address(listener).unwrap_or(address))
        })?;
    }
    Ok((transport, listeners))
}

/// Listens on an address, and on its companion if it has one; `listen` listens on one address, and returns the address
/// with its real port, as this function does.
fn listen_at(
    at: &Listen,
    mut listen: impl FnMut(SocketAddr) -> Result<SocketAddr, FabricError>,
) -> Result<SocketAddr, FabricError> {
    let companion = placement::companion(at);
    let address = listen(at.address)?;
    match companion.map(|address| (address, listen(address))) {
        None => {}
        Some((address, Ok(_))) => {
            tracing::info!("listening on {address} as well, which RoCE and InfiniBand clients try");
        }
        Some((_, Err(error))) => {
            tracing::warn!(
                "{error}: clients that do not try port {PORT} will not find this server"
            );
        }
    }
    Ok(address)
}
