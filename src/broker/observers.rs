// SPDX-License-Identifier: GPL-2.0-or-later

//! The status socket: a process that may connect there may ask for the status once, and do nothing else.
//!
//! A thread of its own serves one process after the other, each for a short time. Whatever a process sends,
//! leaves unread, or makes this side close (closing a descriptor may take long) delays only other processes
//! that ask here. The thread answers until the broker has ended.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::ask_status;
use super::control::{ControlSocket, attached, read_attach, send_status};
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
    control: ToControl,
    stop: Arc<EventFd>,
}

impl Server {
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: ControlSocket,
        control: ToControl,
    ) -> io::Result<Self> {
        Ok(Self {
            shared,
            socket,
            control,
            stop: Arc::new(EventFd::new()?),
        })
    }
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
        while self.wait(Some(self.socket.as_fd()), None) {
            let pause = match self.socket.accept() {
                Ok(socket) => {
                    if let Err(status) = self.serve(&socket, Instant::now() + TIME) {
                        send_detached(&socket, status);
                    }
                    PAUSE
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => ACCEPT_PAUSE,
            };
            if !self.wait(None, Some(Instant::now() + pause)) {
                return;
            }
        }
    }

    /// Waits until `fd` is readable, up to a time; `false`: the thread has to end.
    fn wait(&self, fd: Option<BorrowedFd<'_>>, until: Option<Instant>) -> bool {
        let time = until.map(|until| {
            let left = until.saturating_duration_since(Instant::now());
            Timespec {
                // A few seconds.
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN)];
        fds.extend(fd.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        // Interrupted, or out of memory: the caller looks again.
        let _ = poll(&mut fds, time.as_ref());
        fds.first().is_some_and(|stop| stop.revents().is_empty())
    }

    /// Answers the two requests of a process: to attach, and for the status.
    fn serve(&self, socket: &SeqSocket, until: Instant) -> Result<(), Status> {
        let mut buffer = vec![0; MAX_CONTROL_LENGTH];
        let attach = self.receive(socket, &mut buffer, until)?;
        let (cookie, common) = self.attach(attach)?;
        let attached = attached(0, &self.shared.config, common);
        answered(send(socket, kind::ATTACHED, cookie, &attached, &[]))?;
        let cookie = loop {
            let request = self.receive(socket, &mut buffer, until)?;
            match read_request(request).map_err(|_| Status::Corrupt)? {
                (_, Request::Skipped) => {}
                (cookie, Request::Status(_)) => break cookie,
                _ => return Err(Status::Denied),
            }
        };
        let status = ask_status(&self.control).map_err(|_| Status::Busy)?;
        answered(send_status(socket, cookie, &status))
    }

    /// Checks the first message of a process. Returns its cookie, and the version and features of both sides.
    fn attach(&self, message: &[u8]) -> Result<(u64, (u32, u64)), Status> {
        let refused = match read_attach(message) {
            Ok((cookie, attach, version)) if attach.role == role::OBSERVER => {
                return Ok((cookie, (version, attach.features)));
            }
            Ok(_) => Status::Denied,
            Err((Status::Version, _)) => Status::Version,
            Err((status, _)) => return Err(status),
        };
        self.shared.registry().refused_attach(refused);
        Err(refused)
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
            if !self.wait(Some(socket.as_fd()), Some(until)) {
                return Err(Status::Stopping);
            }
        }
    }
}

/// A process that leaves no room for its answer is no longer served.
fn answered(sent: io::Result<()>) -> Result<(), Status> {
    sent.map_err(|_| Status::Again)
}
