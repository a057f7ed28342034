// SPDX-License-Identifier: GPL-2.0-or-later

//! The control thread, which attaches processes and handles everything that they ask for besides data.
//!
//! ```text
//!   SeqListener --accept--> Peer --Attach--> Peer with a Process --> Registry
//!                             |                |  requests, answers
//!                             '-- its socket or its process ends, or it breaks a rule: detached
//!   reactors  <-- Command --       -- Notice -->
//! ```
//!
//! A process counts as dead when its socket is closed or the process itself ends, whichever comes first: a child that
//! inherited the socket keeps it open, and must not keep its dead parent's connections alive.
//!
//! Nothing here waits for a process: a process that does not read its messages, or asks for more than can be answered,
//! is detached.

mod addresses;
mod capture;
mod clients;
mod kept;
mod memory;
mod path;
mod reload;
mod report;
mod request;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::unix::SourceFd;
use mio::{Interest, Token};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use self::addresses::Known;
use self::capture::Captures;
use self::clients::Clients;
pub(super) use self::clients::KeptClients;
use self::kept::Keeping;
pub(super) use self::kept::{Keeper, KeptPeer, continue_with};
use self::memory::Exchange;
pub(super) use self::memory::KeptExchange;
pub(super) use self::path::ControlSocket;
pub(super) use self::reload::Reload;
use self::report::Reports;
pub(super) use self::report::send_report;
pub(super) use self::request::{attached, read_attach};
use super::config::Listen;
use super::events::What;
use super::process::{Process, send_detached};
use super::reactor::{Command, Notice};
use super::shared::Shared;
use super::status;
use crate::device::Status;
use crate::device::abi::{MAX_CONTROL_LENGTH, SetParameters};
use crate::engine::peer::Role;
use crate::fabric::FabricKind;
use crate::sys::{ACCEPT_PAUSE, ReceiveError, SeqSocket};
use crate::transport::Lines;
use crate::units::Instant;

/// Time within which a process must attach.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of open sockets whose processes have not attached. If there are more, the oldest is closed: a process
/// that wants to attach does so at once.
const MAX_UNATTACHED: usize = 64;
/// Maximum number of messages read from a process in one round.
const BATCH: usize = 32;

/// The token of the waker for messages.
pub(super) const WAKER: Token = Token(usize::MAX);
const LISTENER: Token = Token(usize::MAX - 1);

/// A message from another thread to the control thread.
#[derive(Debug)]
pub(super) enum Message {
    /// A notice from a reactor.
    Notice(Notice),
    /// The owner of the broker wants it to stop, and to give connections this much time to finish what is under way.
    Stop(Duration),
    /// The owner of the broker has another configuration.
    Reload(Box<Reload>),
    /// A thread of the broker's process asks for the status.
    Status(Sender<status::Status>),
    /// The owner of the broker wants to pass it on.
    Keep(Keeper),
    /// The owner of the broker could not pass it on.
    GoOn,
}

/// A channel for commands to a reactor.
#[derive(Clone, Debug)]
pub(super) struct ToReactor {
    pub(super) kind: FabricKind,
    pub(super) sender: Sender<Command>,
    pub(super) waker: Arc<mio::Waker>,
}

impl ToReactor {
    pub(super) fn send(&self, command: Command) {
        // A reactor that has ended does not need commands.
        let _ = self.sender.send(command);
        let _ = self.waker.wake();
    }
}

/// A process that has connected.
#[derive(Debug)]
struct Peer {
    socket: Arc<SeqSocket>,
    pid: i32,
    /// A descriptor that is readable once the process is dead; `None` if the process cannot be watched.
    pidfd: Option<OwnedFd>,
    /// The process, or `None` until it has attached.
    process: Option<Arc<Process>>,
    /// The process has to be told on which addresses clients reach the device.
    addresses_due: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Control {
    shared: Arc<Shared>,
    poll: mio::Poll,
    messages: Receiver<Message>,
    socket: ControlSocket,
    /// The socket for processes that may only ask, which another thread serves.
    status_socket: Arc<ControlSocket>,
    /// The broker is being passed on.
    keeping: Option<Keeping>,
    /// The device is stopping: only observers may still attach.
    stopping: bool,
    reactors: Vec<ToReactor>,
    running: usize,
    listen: Vec<SocketAddr>,
    known: Known,
    /// What the listener has set last for the negotiation of connections.
    parameters: Option<SetParameters>,
    peers: BTreeMap<u32, Peer>,
    last_id: u32,
    /// Peers that have not attached, each with the time until which it may attach; the earliest comes first.
    unattached: VecDeque<(Instant, u32)>,
    /// Peers that may have more messages to read.
    readable: VecDeque<u32>,
    accept_again: Option<Instant>,
    reports: Reports,
    clients: Clients,
    captures: Captures,
    exchange: Exchange,
    lines: Lines,
    /// Bytes of the message that is being read.
    buffer: Vec<u8>,
    now: Instant,
}

impl Control {
    pub(super) fn new(
        shared: Arc<Shared>,
        (poll, messages): (mio::Poll, Receiver<Message>),
        (socket, status_socket): (ControlSocket, Arc<ControlSocket>),
        reactors: Vec<ToReactor>,
        listen: Vec<Listen>,
    ) -> io::Result<Self> {
        let fd = socket.as_fd().as_raw_fd();
        let registry = poll.registry();
        registry.register(&mut SourceFd(&fd), LISTENER, Interest::READABLE)?;
        let now = shared.now();
        let addresses = listen.iter().map(|listen| listen.address).collect();
        let known = Known::new(listen, registry, now)?;
        Ok(Self {
            now,
            shared,
            poll,
            messages,
            socket,
            status_socket,
            keeping: None,
            stopping: false,
            running: reactors.len(),
            reactors,
            listen: addresses,
            known,
            parameters: None,
            peers: BTreeMap::new(),
            last_id: 0,
            unattached: VecDeque::new(),
            readable: VecDeque::new(),
            accept_again: None,
            reports: Reports::default(),
            clients: Clients::default(),
            captures: Captures::default(),
            exchange: Exchange::default(),
            lines: Lines::default(),
            buffer: vec![0; MAX_CONTROL_LENGTH],
        })
    }

    /// Works until all reactors have ended.
    ///
    /// # Errors
    ///
    /// The system can no longer wait for events.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut ready = mio::Events::with_capacity(256);
        let result = loop {
            if self.running == 0 {
                break Ok(());
            }
            match self.poll.poll(&mut ready, self.timeout()) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break Err(error),
                _ => {}
            }
            self.now = self.shared.now();
            for event in &ready {
                match event.token() {
                    WAKER => {}
                    // Whatever has come waits for the next broker.
                    _ if self.stands_still() => {}
                    LISTENER => self.accept(),
                    addresses::WATCH => self.addresses_may_differ(),
                    token => self.ready(token),
                }
            }
            for _ in 0..self.messages.len() {
                if let Ok(message) = self.messages.try_recv() {
                    self.handle(message);
                }
            }
            if self.stands_still() {
                self.readable.clear();
                continue;
            }
            for _ in 0..self.readable.len() {
                if let Some(id) = self.readable.pop_front() {
                    self.read(id);
                }
            }
            self.expire();
            self.run_memory();
            self.run_addresses();
        };
        // All remaining reactors end now.
        self.command_all(|| Command::Stop(Instant::ZERO));
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            self.detach(id, Some(Status::Stopping), "the device stops");
        }
        result
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.readable.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.stands_still() {
            return None;
        }
        let attach = self.unattached.front().map(|(at, _)| *at);
        let memory = self.exchange.next(self.now);
        let all = [attach, self.accept_again, self.known.next(), memory];
        let next = all.into_iter().flatten().min();
        next.map(|at| at.saturating_since(self.shared.now()))
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Stop(drain) => self.stop(drain),
            Message::Reload(reload) => self.reload(*reload),
            Message::Status(answer) => self.report_to(answer),
            Message::Keep(keeper) => self.keep(keeper),
            Message::GoOn => self.go_on(),
            Message::Notice(Notice::Kept(reactor, kept)) => self.kept(reactor, kept),
            Message::Notice(Notice::Relay(reactor, command)) => {
                if let Some(reactor) = self.reactors.get(reactor) {
                    reactor.send(command);
                }
            }
            Message::Notice(Notice::Report(number, report)) => self.reported(number, report),
            Message::Notice(Notice::Fault {
                process,
                status,
                why,
            }) => self.detach(process, Some(status), &why),
            Message::Notice(Notice::Closed(process)) => {
                self.detach(process, None, "it has closed its socket");
            }
            Message::Notice(Notice::NoMemory) => self.press(),
            Message::Notice(Notice::Ended(reactor)) => {
                self.running = self.running.saturating_sub(1);
                if !self.stopping {
                    tracing::error!(reactor, "a reactor has ended: the device stops");
                    self.stop(Duration::ZERO);
                }
                self.reactor_ended(reactor);
            }
        }
    }

    fn stop(&mut self, drain: Duration) {
        self.stopping = true;
        let by = self.now + drain;
        self.command_all(|| Command::Stop(by));
    }

    fn command_all(&self, command: impl Fn() -> Command) {
        for reactor in &self.reactors {
            reactor.send(command());
        }
    }

    fn accept(&mut self) {
        let again = self.accept_again.take().is_some();
        loop {
            match self.socket.accept() {
                Ok(socket) => {
                    if let Err((status, why)) = self.admit(socket) {
                        self.shared.registry().count("refused_process");
                        self.refused(None, status, &why);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // This is logged once, however long it lasts.
                    if !again {
                        self.shared.registry().count("cannot_accept");
                        tracing::warn!(%error, "cannot accept processes for now");
                    }
                    self.accept_again = Some(self.now + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    /// Counts a process that may not use the device, records the event, and logs it unless many such processes were
    /// logged just before.
    fn refused(&mut self, pid: Option<i32>, status: Status, why: &str) {
        self.shared.registry().refused_attach(status);
        self.shared.record(What::Refused {
            pid,
            status: status.name().into(),
            words: why.to_owned(),
        });
        let Some(suppressed) = self.lines.admit(self.now) else {
            return;
        };
        let (status, suppressed) = (status.name(), (suppressed > 0).then_some(suppressed));
        // A device that is stopping is expected to refuse processes.
        if self.stopping {
            tracing::info!(pid, status, suppressed, "process refused: {why}");
        } else {
            tracing::warn!(pid, status, suppressed, "process refused: {why}");
        }
    }

    /// Accepts a process that has connected, if it may use the device.
    fn admit(&mut self, socket: SeqSocket) -> Result<(), (Status, String)> {
        let refuse = |status: Status, why: String| {
            send_detached(&socket, status);
            Err((status, why))
        };
        let credentials = match socket.peer_credentials() {
            Ok(credentials) => credentials,
            Err(error) => return refuse(Status::System, error.to_string()),
        };
        let user = credentials.user;
        let own = rustix::process::geteuid().as_raw();
        if user != 0 && user != own {
            let why = format!(
                "process {} runs as user {user}, which is neither root nor the user of smbdirectd ({own})",
                credentials.process
            );
            return refuse(Status::Denied, why);
        }
        let pid = credentials.process;
        let pidfd = match Pid::from_raw(pid) {
            None => None,
            Some(pid) => match pidfd(pidfd_open(pid, PidfdFlags::empty())) {
                Ok(pidfd) => pidfd,
                Err(_) => return Ok(()),
            },
        };
        let id = self.free_id();
        let peer = Peer {
            socket: Arc::new(socket),
            pid,
            pidfd,
            process: None,
            addresses_due: false,
        };
        if let Err(error) = peer.watch(self.poll.registry(), id) {
            peer.unwatch(self.poll.registry());
            send_detached(&peer.socket, Status::System);
            return Err((Status::System, error.to_string()));
        }
        self.unattached.push_back((self.now + ATTACH_TIMEOUT, id));
        self.peers.insert(id, peer);
        self.limit_unattached();
        Ok(())
    }

    /// Makes room for processes that do attach.
    fn limit_unattached(&mut self) {
        let peers = &self.peers;
        self.unattached.retain(|(_, id)| {
            let peer = peers.get(id);
            peer.is_some_and(|peer| peer.process.is_none())
        });
        if self.unattached.len() > MAX_UNATTACHED {
            if let Some((_, oldest)) = self.unattached.pop_front() {
                let why = "it did not attach, and others are waiting";
                self.detach(oldest, Some(Status::Limit), why);
            }
        }
    }

    /// Returns a number that no process has or had recently.
    fn free_id(&mut self) -> u32 {
        loop {
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
            if !self.peers.contains_key(&self.last_id) {
                return self.last_id;
            }
        }
    }

    /// Handles a socket that is readable, or a process that has ended.
    fn ready(&mut self, token: Token) {
        let (id, is_process) = Peer::of(token);
        if is_process {
            self.detach(id, None, "its process has ended");
        } else if !self.readable.contains(&id) {
            self.readable.push_back(id);
        }
    }

    /// Reads some messages of a process.
    fn read(&mut self, id: u32) {
        for _ in 0..BATCH {
            let Some(peer) = self.peers.get(&id) else {
                return;
            };
            let mut buffer = std::mem::take(&mut self.buffer);
            let received = peer.socket.receive(&mut buffer);
            let result = match received {
                Ok(received) if received.descriptors.is_empty() => {
                    let message = buffer.get(..received.length).unwrap_or_default();
                    self.request(id, message)
                }
                Ok(_) => Err((Status::Corrupt, "its request has file descriptors".into())),
                Err(error) if error.is_would_block() => {
                    self.buffer = buffer;
                    return;
                }
                Err(ReceiveError::Closed) => {
                    self.buffer = buffer;
                    return self.detach(id, None, "it has closed its socket");
                }
                Err(_) => Err((Status::Corrupt, "its message cannot be read".into())),
            };
            self.buffer = buffer;
            if let Err((status, why)) = result {
                self.shared.registry().count("refused_request");
                return self.detach(id, Some(status), &why);
            }
        }
        // Other processes get their turn. This process stays in the list of readable peers, because no further event
        // would say that there is more to read.
        self.readable.push_back(id);
    }

    fn expire(&mut self) {
        while let Some((at, id)) = self.unattached.front().copied() {
            let attached = self
                .peers
                .get(&id)
                .is_none_or(|peer| peer.process.is_some());
            if !attached && at > self.now {
                break;
            }
            self.unattached.pop_front();
            if !attached {
                self.detach(id, Some(Status::TimedOut), "it did not attach in time");
            }
        }
        if self.accept_again.is_some_and(|at| at <= self.now) {
            self.accept();
        }
        self.expire_reports();
    }

    /// Detaches a process. If there is a status, the process gets it as the reason.
    fn detach(&mut self, id: u32, status: Option<Status>, why: &str) {
        let Some(peer) = self.peers.remove(&id) else {
            return;
        };
        peer.unwatch(self.poll.registry());
        if let Some(status) = status {
            send_detached(&peer.socket, status);
            // Closing a socket with unread messages resets it, and the process might never read the
            // reason.
            for _ in 0..BATCH {
                match peer.socket.receive(&mut self.buffer) {
                    Err(error) if error.is_would_block() => break,
                    Err(ReceiveError::Closed) => break,
                    Ok(_) | Err(_) => {}
                }
            }
        }
        self.forget_asker(id);
        self.end_capture(id);
        self.forget_waiting(id);
        let Some(process) = peer.process else {
            return match status {
                Some(status) => self.refused(Some(peer.pid), status, why),
                None => tracing::debug!(pid = peer.pid, "a process ended before it attached"),
            };
        };
        let mut registry = self.shared.registry();
        registry.detach(id);
        registry.count("detached");
        drop(registry);
        if process.role == Role::Worker {
            self.command_all(|| Command::Gone(id));
        }
        let (role, pid) = (process.role.name(), process.pid);
        if process.role != Role::Observer {
            self.shared.record(What::Detached {
                worker: id,
                pid,
                role: role.into(),
                status: status.map(|status| status.name().into()),
                words: why.to_owned(),
            });
        }
        match status {
            None | Some(Status::Stopping) if process.role == Role::Observer => {
                tracing::debug!(worker = id, pid, role, "detached: {why}");
            }
            None | Some(Status::Stopping) => {
                tracing::info!(worker = id, pid, role, "detached: {why}");
            }
            Some(status) => {
                tracing::warn!(
                    worker = id,
                    pid,
                    role,
                    status = status.name(),
                    "detached: {why}"
                );
            }
        }
    }
}

/// Returns the result of `pidfd_open`; [`Errno::SRCH`] if the process has already gone. Returns `None` if the system
/// does not have that call, has no descriptor left, or forbids the call with a filter: then only the end of the
/// process's socket will show that the process has ended.
fn pidfd(opened: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Errno> {
    match opened {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::SRCH) => Err(Errno::SRCH),
        Err(error) => {
            tracing::debug!(%error, "pidfd unavailable: will notice process exit only through its socket");
            Ok(None)
        }
    }
}

impl Peer {
    /// Returns the process for which a token stands, and whether the token means that the process has ended.
    const fn of(token: Token) -> (u32, bool) {
        ((token.0 >> 1) as u32, token.0 & 1 != 0)
    }

    fn watch(&self, registry: &mio::Registry, id: u32) -> io::Result<()> {
        let token = (id as usize) << 1;
        let fd = self.socket.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&fd), Token(token), Interest::READABLE)?;
        if let Some(pidfd) = &self.pidfd {
            let fd = pidfd.as_raw_fd();
            registry.register(&mut SourceFd(&fd), Token(token | 1), Interest::READABLE)?;
        }
        Ok(())
    }

    /// Returns whether this peer has closed its socket or its process is dead, even if no event has shown that yet.
    fn has_gone(&self) -> bool {
        let mut ends = vec![PollFd::new(&self.socket, PollFlags::RDHUP)];
        let pidfd = self.pidfd.as_ref();
        ends.extend(pidfd.map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
        matches!(poll(&mut ends, Some(&Timespec::default())), Ok(count) if count > 0)
    }

    fn unwatch(&self, registry: &mio::Registry) {
        let fd = self.socket.as_fd().as_raw_fd();
        let _ = registry.deregister(&mut SourceFd(&fd));
        if let Some(pidfd) = &self.pidfd {
            let fd = pidfd.as_raw_fd();
            let _ = registry.deregister(&mut SourceFd(&fd));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_on_if_the_system_cannot_watch_processes() {
        for error in [Errno::NOSYS, Errno::PERM, Errno::ACCESS, Errno::MFILE] {
            assert!(matches!(pidfd(Err(error)), Ok(None)), "{error}");
        }
        assert_eq!(pidfd(Err(Errno::SRCH)).unwrap_err(), Errno::SRCH);
        let opened = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(pidfd(Ok(opened.into())), Ok(Some(_))));
    }
}
