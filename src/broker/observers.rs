// SPDX-License-Identifier: GPL-2.0-or-later

//! The status socket: a process that may connect there may ask once for the status or for the events, and do nothing
//! else. This thread also answers on the loopback address and on the socket on which Prometheus and its agents get the
//! metrics, if there are any.
//!
//! A thread of its own serves all these clients in rounds, in which each gets as far as it can without waiting. Every
//! user of the machine can connect to the address of the metrics, so a client that says nothing, or takes nothing, must
//! not keep others waiting: each client has little time, and the number of clients of each kind is limited: beyond the
//! limit, a newcomer replaces the oldest. Each status is work for all reactors, so a round asks for the status at most
//! once, however many clients want it, and the metrics are made at most once a second.
//!
//! Only closing a descriptor that a process has sent to the status socket may take long, such as that of a TCP socket
//! that lingers. So no process may send any there. Linux before 6.16 cannot forbid that: this thread does not take
//! them, but the kernel closes them on this thread's time. That delays the other clients of this thread and, by at most
//! [`END_TIME`], the end of the broker, and nothing else of the device. The thread answers until the broker has ended.

mod files;
mod http;
mod observer;
mod scraper;

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::files::Files;
use self::observer::Observer;
use self::scraper::Scraper;
use super::ask_status;
use super::control::ControlSocket;
use super::metrics::{self, PerConnection};
use super::reactor::ToControl;
use super::shared::Shared;
use super::status;
use crate::device::Status;
use crate::sys::{ACCEPT_PAUSE, EventFd};

/// Time that a client has, once it has connected, to ask and to take its answer.
const TIME: Duration = Duration::from_secs(2);
/// Time that a round waits for the status, if a client asks for it.
const STATUS_TIME: Duration = Duration::from_secs(2);
/// Time that the thread has to end: more than it waits for the status.
const END_TIME: Duration = Duration::from_secs(3);
/// Time between two rounds.
const PAUSE: Duration = Duration::from_millis(20);
/// Age at which the metrics are made anew.
const METRICS_AGE: Duration = Duration::from_secs(1);
/// Maximum number of clients of each kind at a time.
const MOST: usize = 64;

/// The thread that answers. Dropping this ends it, or leaves it behind if it does not end in time.
#[derive(Debug)]
pub(super) struct Observers {
    bell: Arc<EventFd>,
    /// Orders to the thread. The thread ends when this is dropped.
    orders: Option<Sender<Order>>,
    /// Disconnected once the thread has ended.
    running: Receiver<()>,
}

/// What another thread wants this one to do.
#[derive(Debug)]
enum Order {
    /// Answer requests for metrics at this listener instead of any other.
    Metrics(Option<TcpListener>),
    /// Give the sockets to this group, instead of the old one.
    Share(u32, Sender<io::Result<()>>),
}

/// The thread's state before it runs.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    at: Listeners,
    control: ToControl,
    bell: Arc<EventFd>,
}

/// Where clients connect.
#[derive(Debug)]
pub(super) struct Listeners {
    /// The status socket.
    pub(super) status: Arc<ControlSocket>,
    /// The loopback address of the metrics.
    pub(super) metrics: Option<TcpListener>,
    /// The socket of the metrics. Only members of its group can connect, so its clients are counted separately, and
    /// clients of the address cannot push them out.
    pub(super) metrics_socket: Option<ControlSocket<UnixListener>>,
}

impl Listeners {
    /// Gives the sockets to this group, instead of the old one. If that fails, all of them stay with the old one.
    fn share(&self, group: u32) -> io::Result<()> {
        let before = self.status.access()?;
        self.status.share(group)?;
        let shared = match &self.metrics_socket {
            Some(socket) => socket.share(group),
            None => Ok(()),
        };
        shared.inspect_err(|_| self.status.restore(before))
    }
}

impl Server {
    pub(super) fn new(shared: Arc<Shared>, at: Listeners, control: ToControl) -> io::Result<Self> {
        if let Err(error) = at.status.refuse_descriptors() {
            tracing::debug!("processes can send descriptors to the status socket: {error}");
        }
        Ok(Self {
            shared,
            at,
            control,
            bell: Arc::new(EventFd::new()?),
        })
    }

    /// Returns the address on which Prometheus gets the metrics, with its real port.
    pub(super) fn metrics_address(&self) -> Option<SocketAddr> {
        self.at.metrics.as_ref()?.local_addr().ok()
    }
}

/// Listens on the address of the metrics. If that fails, the log says so, and there are no metrics: any user of the
/// machine can take the port while the device restarts, and must not keep the device from serving clients.
pub(super) fn listen(address: SocketAddr) -> Option<TcpListener> {
    try_listen(address)
        .inspect_err(|why| tracing::error!("no metrics are served: {why}"))
        .ok()
}

/// Listens on the address of the metrics.
///
/// # Errors
///
/// The error says what is wrong and what helps, as a message for people.
pub(super) fn try_listen(address: SocketAddr) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "; another program listens there (ss -ltnp): end it and reload smbdirectd, or give the metrics \
                 another port"
            }
            io::ErrorKind::PermissionDenied => {
                "; ports below 1024 need root or CAP_NET_BIND_SERVICE: give the metrics another port"
            }
            _ => "",
        };
        format!("metrics.listen {address}: {error}{hint}")
    })
}

impl Observers {
    /// Answers requests for metrics at this listener instead of any other.
    pub(super) fn serve_metrics(&self, listener: Option<TcpListener>) {
        self.order(Order::Metrics(listener));
    }

    /// Gives the sockets to this group, instead of the old one. Waits at most this time.
    ///
    /// # Errors
    ///
    /// The system does not let this process give the file to that group, or the thread does not answer.
    pub(super) fn share(&self, group: u32, time: Duration) -> io::Result<()> {
        let (sender, answer) = bounded(1);
        self.order(Order::Share(group, sender));
        let answer = answer.recv_timeout(time);
        answer.unwrap_or_else(|error| Err(io::Error::new(io::ErrorKind::TimedOut, error)))
    }

    fn order(&self, order: Order) {
        // A thread that has ended does not need orders.
        let _ = self.orders.as_ref().map(|orders| orders.send(order));
        let _ = self.bell.ring();
    }
}

impl Drop for Observers {
    fn drop(&mut self) {
        // The thread can end at any time: at worst, its last answer is lost.
        self.orders = None;
        let _ = self.bell.ring();
        if self.running.recv_timeout(END_TIME) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(
                "the thread that answers on the status socket does not end, and is left behind: a process that asked \
                 for the status may have sent it a descriptor that cannot be closed"
            );
        }
    }
}

impl Server {
    pub(super) fn spawn(self) -> io::Result<Observers> {
        let bell = Arc::clone(&self.bell);
        let (sender, orders) = unbounded();
        let (runs, running) = bounded(0);
        let thread = thread::Builder::new().name("observers".to_owned());
        thread.spawn(move || {
            let _runs = runs;
            self.run(&orders);
        })?;
        Ok(Observers {
            bell,
            orders: Some(sender),
            running,
        })
    }

    fn run(mut self, orders: &Receiver<Order>) {
        let mut observers = Clients::default();
        let (mut scrapers, mut local_scrapers) = (Clients::default(), Clients::default());
        let (mut recent, mut files) = (Recent::default(), Files::default());
        loop {
            let has_rung = self.wait_for((&observers, &scrapers, &local_scrapers));
            if has_rung && !self.obey(orders) {
                break;
            }
            let observer = observers.admit(|| self.at.status.accept().map(Observer::new));
            let scraper = match &self.at.metrics {
                Some(listener) => scrapers.admit(|| Scraper::accept(listener)),
                None => Ok(()),
            };
            let local_scraper = match &self.at.metrics_socket {
                Some(socket) => local_scrapers.admit(|| Scraper::accept_at(socket)),
                None => Ok(()),
            };
            let mut answers = Answers {
                shared: &self.shared,
                control: &self.control,
                status: None,
                recent: &mut recent,
                files: &mut files,
            };
            observers.step(&mut answers);
            scrapers.step(&mut answers);
            local_scrapers.step(&mut answers);
            let pause = match observer.and(scraper).and(local_scraper) {
                Ok(()) => PAUSE,
                Err(_) => ACCEPT_PAUSE,
            };
            if self.wait(&[], Some(Instant::now() + pause)) && !self.obey(orders) {
                break;
            }
        }
        observers.dismiss(Status::Stopping);
    }

    /// Carries out the orders of other threads. Returns `false` if there can be no more orders, so that this thread
    /// has to end.
    fn obey(&mut self, orders: &Receiver<Order>) -> bool {
        let _ = self.bell.drain();
        loop {
            match orders.try_recv() {
                Ok(Order::Metrics(listener)) => self.at.metrics = listener,
                Ok(Order::Share(group, answer)) => {
                    let _ = answer.try_send(self.at.share(group));
                }
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    /// Waits until there is something to do for clients, or until the time of one of them is over. Returns whether
    /// another thread has woken this one.
    fn wait_for(&self, (observers, scrapers, local_scrapers): AllClients<'_>) -> bool {
        let at = &self.at;
        let mut fds = vec![PollFd::new(&*at.status, PollFlags::IN)];
        let metrics = at.metrics.iter();
        fds.extend(metrics.map(|metrics| PollFd::new(metrics, PollFlags::IN)));
        let metrics = at.metrics_socket.iter();
        fds.extend(metrics.map(|metrics| PollFd::new(metrics, PollFlags::IN)));
        fds.extend(observers.fds());
        fds.extend(scrapers.fds());
        fds.extend(local_scrapers.fds());
        let until = [observers.next(), scrapers.next(), local_scrapers.next()];
        self.wait(&fds, until.into_iter().flatten().min())
    }

    /// Waits until one of `fds` is ready, but not beyond `until`. Returns whether another thread has
    /// woken this one.
    fn wait(&self, fds: &[PollFd<'_>], until: Option<Instant>) -> bool {
        let time = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                // At most a few seconds, so the cast loses nothing.
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let bell = PollFd::new(&*self.bell, PollFlags::IN);
        let mut all: Vec<PollFd<'_>> = [bell].into_iter().chain(fds.iter().cloned()).collect();
        // If the call was interrupted or the system is out of memory, the caller tries again.
        let _ = poll(&mut all, time.as_ref());
        all.first().is_some_and(|bell| !bell.revents().is_empty())
    }
}

/// The clients of the status socket, of the address of the metrics, and of the socket of the metrics.
type AllClients<'a> = (
    &'a Clients<Observer>,
    &'a Clients<Scraper<TcpStream>>,
    &'a Clients<Scraper<UnixStream>>,
);

/// A client of one of the sockets.
trait Client: AsFd {
    /// Returns what its socket has to be ready for before another step makes sense.
    fn waits_for(&self) -> PollFlags;

    /// Reads what the client has sent, and answers it, without waiting. Returns whether the client stays.
    fn step(&mut self, answers: &mut Answers<'_>) -> bool;

    /// Tells the client why it does not stay, if the client would understand the reason.
    fn dismiss(&self, status: Status);
}

/// The clients of a socket that have not got their answers yet, the oldest first, and until when each may stay.
#[derive(Debug)]
struct Clients<C>(VecDeque<(C, Instant)>);

impl<C> Default for Clients<C> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<C: Client> Clients<C> {
    fn fds(&self) -> impl Iterator<Item = PollFd<'_>> {
        let clients = self.0.iter();
        clients.map(|(client, _)| PollFd::new(client, client.waits_for()))
    }

    /// Returns when the time of the oldest client is over.
    fn next(&self) -> Option<Instant> {
        self.0.front().map(|(_, until)| *until)
    }

    /// Adds clients that have connected, for as long as `accept` returns some and up to a limit.
    ///
    /// # Errors
    ///
    /// The system cannot accept any for now.
    fn admit(&mut self, mut accept: impl FnMut() -> io::Result<C>) -> io::Result<()> {
        for _ in 0..MOST {
            let client = match accept() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                result => result?,
            };
            if self.0.len() >= MOST {
                if let Some((oldest, _)) = self.0.pop_front() {
                    oldest.dismiss(Status::Limit);
                }
            }
            self.0.push_back((client, Instant::now() + TIME));
        }
        Ok(())
    }

    /// Lets each client take a step, and ends those whose time is over.
    fn step(&mut self, answers: &mut Answers<'_>) {
        self.0.retain_mut(|(client, until)| {
            if !client.step(answers) {
                return false;
            }
            let has_time = Instant::now() < *until;
            if !has_time {
                client.dismiss(Status::TimedOut);
            }
            has_time
        });
    }

    /// Ends all clients.
    fn dismiss(self, status: Status) {
        for (client, _) in self.0 {
            client.dismiss(status);
        }
    }
}

/// What the clients of a round are answered with.
struct Answers<'a> {
    shared: &'a Shared,
    control: &'a ToControl,
    /// The status, if a client of this round has asked for it: `None` within it means that the device did not answer.
    status: Option<Option<status::Status>>,
    recent: &'a mut Recent,
    files: &'a mut Files,
}

impl Answers<'_> {
    /// Returns the status; `None` if the device does not answer in time.
    fn status(&mut self) -> Option<&status::Status> {
        let control = self.control;
        let ask = || ask_status(control, STATUS_TIME).ok();
        self.status.get_or_insert_with(ask).as_ref()
    }

    /// Returns the metrics.
    fn metrics(&mut self) -> String {
        let now = Instant::now();
        if let Some(text) = self.recent.text(now) {
            return text.to_owned();
        }
        let text = match self.status() {
            Some(status) => metrics::of(status, PerConnection::LeftOut),
            None => metrics::of_silence(),
        };
        self.recent.0 = Some((now, text.clone()));
        text
    }
}

/// The metrics that were made last, and when making them began.
#[derive(Debug, Default)]
struct Recent(Option<(Instant, String)>);

impl Recent {
    /// Returns the metrics, unless they are too old.
    fn text(&self, now: Instant) -> Option<&str> {
        let (at, text) = self.0.as_ref()?;
        let age = now.saturating_duration_since(*at);
        (age < METRICS_AGE).then_some(text.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::sys::SeqSocket;

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest() {
        let pairs = (0..MOST + 2).map(|_| SeqSocket::pair().unwrap());
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
        let mut ours = ours.into_iter().map(Observer::new);
        let nobody = || io::Error::from(io::ErrorKind::WouldBlock);
        let mut accept = || ours.next().ok_or_else(nobody);
        let mut clients = Clients::default();
        for _ in 0..2 {
            clients.admit(&mut accept).unwrap();
        }
        assert_eq!(clients.0.len(), MOST);
        let is_told = |client: &SeqSocket| client.receive(&mut [0; 64]).is_ok();
        let told: Vec<bool> = theirs.iter().map(is_told).collect();
        assert_eq!(told[..3], [true, true, false]);
        assert!(!told[2..].contains(&true));
    }

    #[test]
    fn a_thread_that_does_not_end_is_left_behind() {
        let (runs, running) = bounded(0);
        let (sender, _orders) = unbounded();
        let observers = Observers {
            bell: Arc::new(EventFd::new().unwrap()),
            orders: Some(sender),
            running,
        };
        let (done, is_done) = bounded(1);
        thread::spawn(move || {
            drop(observers);
            let _ = done.send(());
        });
        assert_eq!(is_done.recv_timeout(END_TIME * 3), Ok(()));
        drop(runs);
    }

    #[test]
    fn sockets_that_cannot_all_be_shared_stay_as_they_were() {
        let path = |name: &str| {
            let name = format!("smbdirect-observers-{}-{name}", std::process::id());
            std::env::temp_dir().join(name)
        };
        let (status, metrics) = (path("status"), path("metrics"));
        let listeners = Listeners {
            status: Arc::new(ControlSocket::bind(&status).unwrap()),
            metrics: None,
            metrics_socket: Some(ControlSocket::bind_stream(&metrics).unwrap()),
        };
        let mode = || fs::metadata(&status).unwrap().mode() & 0o777;
        let group = rustix::process::getegid().as_raw();
        // What is not there cannot be given to a group.
        fs::remove_file(&metrics).unwrap();
        assert!(listeners.share(group).is_err());
        assert_eq!(mode(), 0o600);
        let listeners = Listeners {
            metrics_socket: None,
            ..listeners
        };
        listeners.share(group).unwrap();
        assert_eq!(mode(), 0o660);
    }

    #[test]
    fn the_metrics_are_those_of_less_than_a_second_ago() {
        let start = Instant::now();
        assert_eq!(Recent::default().text(start), None);
        let recent = Recent(Some((start, "text".to_owned())));
        for (milliseconds, text) in [(0, Some("text")), (999, Some("text")), (1000, None)] {
            let now = start + Duration::from_millis(milliseconds);
            assert_eq!(recent.text(now), text, "{milliseconds}");
        }
    }
}
