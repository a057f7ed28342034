// SPDX-License-Identifier: GPL-2.0-or-later

//! The status socket: a process that may connect there may ask once for the status or for the events, and do nothing
//! else. This thread also answers on the loopback address on which Prometheus gets the metrics, if there is one.
//!
//! A thread of its own serves one process after the other, each for a short time. Whatever a process sends,
//! leaves unread, or makes this side close (closing a descriptor may take long) delays only other processes
//! that ask here. The thread answers until the broker has ended.

mod http;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use self::http::{Asked, LONGEST_REQUEST, answer};
use super::ask_status;
use super::control::{ControlSocket, attached, read_attach, send_json, send_status};
use super::metrics::{self, PerConnection};
use super::process::{send, send_detached};
use super::reactor::ToControl;
use super::shared::Shared;
use crate::device::Status;
use crate::device::abi::{MAX_CONTROL_LENGTH, kind, role};
use crate::device::message::{Request, read_request};
use crate::sys::{ACCEPT_PAUSE, EventFd, SeqSocket};

/// Time that a process has once it has connected.
const TIME: Duration = Duration::from_secs(2);
/// Time between two processes: each status is work for all reactors.
const PAUSE: Duration = Duration::from_millis(20);

/// The thread that answers. Dropping this ends it.
#[derive(Debug)]
pub(super) struct Observers {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// The thread's state before it runs.
#[derive(Debug)]
pub(super) struct Server {
    shared: Arc<Shared>,
    socket: ControlSocket,
    /// The listener for the metrics.
    metrics: Option<TcpListener>,
    control: ToControl,
    stop: Arc<EventFd>,
}

impl Server {
    pub(super) fn new(
        shared: Arc<Shared>,
        (socket, metrics): (ControlSocket, Option<TcpListener>),
        control: ToControl,
    ) -> io::Result<Self> {
        Ok(Self {
            shared,
            socket,
            metrics,
            control,
            stop: Arc::new(EventFd::new()?),
        })
    }

    /// Returns the address on which Prometheus gets the metrics, with its real port.
    pub(super) fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }
}

/// Listens on the address of the metrics.
///
/// # Errors
///
/// Returns the system's errors.
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Drop for Observers {
    fn drop(&mut self) {
        // The thread can end at any time: at worst, its last answer is lost.
        let _ = self.stop.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Server {
    pub(super) fn spawn(self) -> io::Result<Observers> {
        let stop = Arc::clone(&self.stop);
        let thread = thread::Builder::new().name("observers".to_owned());
        let thread = thread.spawn(move || self.run())?;
        Ok(Observers {
            stop,
            thread: Some(thread),
        })
    }

    fn run(&self) {
        let socket = PollFd::new(&self.socket, PollFlags::IN);
        let metrics = self.metrics.as_ref();
        let metrics = metrics.map(|metrics| PollFd::new(metrics, PollFlags::IN));
        let all: Vec<PollFd<'_>> = [socket].into_iter().chain(metrics).collect();
        while self.wait(&all, None) {
            // It serves one client of each kind, so that neither kind keeps the other waiting.
            let pauses = [self.serve_observer(), self.serve_scraper()];
            let Some(pause) = pauses.into_iter().flatten().max() else {
                continue;
            };
            if !self.wait(&[], Some(Instant::now() + pause)) {
                return;
            }
        }
    }

    /// Serves the next process on the status socket. Returns for how long to pause then, or `None` if there was no
    /// process.
    fn serve_observer(&self) -> Option<Duration> {
        match self.socket.accept() {
            Ok(socket) => {
                if let Err(status) = self.serve(&socket, Instant::now() + TIME) {
                    send_detached(&socket, status);
                }
                Some(PAUSE)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(ACCEPT_PAUSE),
        }
    }

    /// Serves the next client that asks for the metrics, in the same way.
    fn serve_scraper(&self) -> Option<Duration> {
        match self.metrics.as_ref()?.accept() {
            Ok((stream, _)) => {
                // A client that asks too slowly, or does not take its answer, gets none.
                let _ = self.answer_scraper(&stream, Instant::now() + TIME);
                Some(PAUSE)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(_) => Some(ACCEPT_PAUSE),
        }
    }

    /// Reads the request of a client that asks for the metrics, and answers it.
    fn answer_scraper(&self, mut stream: &TcpStream, until: Instant) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let (mut request, mut length) = ([0; LONGEST_REQUEST], 0);
        let asked = loop {
            if let Some(asked) = Asked::read(request.get(..length).unwrap_or_default()) {
                break asked;
            }
            match stream.read(request.get_mut(length..).unwrap_or_default()) {
                Ok(0) => return Ok(()),
                Ok(more) => length += more,
                Err(error) => self.wait_again(error, stream, PollFlags::IN, until)?,
            }
        };
        let text = answer(asked, metrics::CONTENT_TYPE, || self.metrics_text());
        let mut left = text.as_slice();
        while !left.is_empty() {
            match stream.write(left) {
                Ok(sent) => left = left.get(sent..).unwrap_or_default(),
                Err(error) => self.wait_again(error, stream, PollFlags::OUT, until)?,
            }
        }
        Ok(())
    }

    /// Returns the metrics of this device.
    fn metrics_text(&self) -> String {
        match ask_status(&self.control) {
            Ok(status) => metrics::of(&status, PerConnection::LeftOut),
            Err(_) => metrics::of_silence(),
        }
    }

    /// Waits, after an error of a stream, until the stream can go on.
    ///
    /// # Errors
    ///
    /// Fails if the stream cannot go on, or if there is no time left.
    fn wait_again(
        &self,
        error: io::Error,
        stream: &TcpStream,
        what: PollFlags,
        until: Instant,
    ) -> io::Result<()> {
        match error.kind() {
            io::ErrorKind::Interrupted => return Ok(()),
            io::ErrorKind::WouldBlock => {}
            _ => return Err(error),
        }
        let goes_on = self.wait(&[PollFd::new(stream, what)], Some(until));
        match goes_on && Instant::now() < until {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Waits until one of `fds` is ready, up to a time. Returns `false` if the thread has to end.
    fn wait(&self, fds: &[PollFd<'_>], until: Option<Instant>) -> bool {
        let time = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                // A few seconds.
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let stop = PollFd::new(&*self.stop, PollFlags::IN);
        let mut all: Vec<PollFd<'_>> = [stop].into_iter().chain(fds.iter().cloned()).collect();
        // Interrupted, or out of memory: the caller looks again.
        let _ = poll(&mut all, time.as_ref());
        all.first().is_some_and(|stop| stop.revents().is_empty())
    }

    /// Answers the two requests of a process: to attach, and for the status or for the events.
    fn serve(&self, socket: &SeqSocket, until: Instant) -> Result<(), Status> {
        let mut buffer = vec![0; MAX_CONTROL_LENGTH];
        let attach = self.receive(socket, &mut buffer, until)?;
        let (cookie, common) = self.attach(attach)?;
        let attached = attached(0, &self.shared.config, common);
        answered(send(socket, kind::ATTACHED, cookie, &attached, &[]))?;
        let (cookie, after) = loop {
            let request = self.receive(socket, &mut buffer, until)?;
            match read_request(request).map_err(|_| Status::Corrupt)? {
                (_, Request::Skipped) => {}
                (cookie, Request::Status(_)) => break (cookie, None),
                (cookie, Request::Events(asked)) => break (cookie, Some(asked.after)),
                _ => return Err(Status::Denied),
            }
        };
        if let Some(after) = after {
            let json = self.shared.events_json(after).map_err(|_| Status::System)?;
            return answered(send_json(socket, cookie, &json));
        }
        let status = ask_status(&self.control).map_err(|_| Status::Busy)?;
        answered(send_status(socket, cookie, &status))
    }

    /// Checks the first message of a process. Returns its cookie, and the version and features of both sides.
    fn attach(&self, message: &[u8]) -> Result<(u64, (u32, u64)), Status> {
        match read_attach(message) {
            Ok((cookie, attach, version)) if attach.role == role::OBSERVER => {
                Ok((cookie, (version, attach.features)))
            }
            Ok(_) => Err(Status::Denied),
            Err((status, _)) => Err(status),
        }
    }

    fn receive<'a>(
        &self,
        socket: &SeqSocket,
        buffer: &'a mut [u8],
        until: Instant,
    ) -> Result<&'a [u8], Status> {
        loop {
            match socket.receive(buffer) {
                Ok(received) if received.descriptors.is_empty() => {
                    return buffer.get(..received.length).ok_or(Status::Corrupt);
                }
                Err(error) if error.is_would_block() => {}
                Ok(_) | Err(_) => return Err(Status::Corrupt),
            }
            if Instant::now() >= until {
                return Err(Status::TimedOut);
            }
            if !self.wait(&[PollFd::new(socket, PollFlags::IN)], Some(until)) {
                return Err(Status::Stopping);
            }
        }
    }
}

/// A process that leaves no room for its answer is no longer served.
fn answered(sent: io::Result<()>) -> Result<(), Status> {
    sent.map_err(|_| Status::Again)
}
