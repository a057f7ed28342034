// SPDX-License-Identifier: GPL-2.0-or-later

//! A process that has connected to the status socket: it attaches, and asks once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use rustix::event::PollFlags;

use super::{Answers, Client};
use crate::broker::control::{attached, read_attach};
use crate::broker::process::{send, send_detached};
use crate::broker::shared::Shared;
use crate::device::Status;
use crate::device::abi::{MAX_CONTROL_LENGTH, kind, role};
use crate::device::message::{Request, read_request};
use crate::sys::SeqSocket;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Observer {
    socket: Arc<SeqSocket>,
    is_attached: bool,
}

impl Observer {
    pub(super) fn new(socket: SeqSocket) -> Self {
        Self {
            socket: Arc::new(socket),
            is_attached: false,
        }
    }

    /// Reads the next message, if it has come, and answers it. Returns whether another message has to follow.
    fn serve(&mut self, answers: &mut Answers<'_>) -> Result<bool, Status> {
        let mut buffer = [0; MAX_CONTROL_LENGTH];
        let message = match self.socket.receive_bytes(&mut buffer) {
            Ok(length) => buffer.get(..length),
            Err(error) if error.is_would_block() => return Ok(true),
            Err(_) => None,
        };
        let message = message.ok_or(Status::Corrupt)?;
        if !self.is_attached {
            self.attach(message, answers.shared)?;
            self.is_attached = true;
            return Ok(true);
        }
        let (cookie, request) = read_request(message).map_err(|_| Status::Corrupt)?;
        let json = match request {
            Request::Skipped => return Ok(true),
            Request::Status(_) => {
                let status = answers.status().ok_or(Status::Busy)?;
                serde_json::to_vec(status)
            }
            Request::Events(asked) => answers.shared.events_json(asked.after),
            _ => return Err(Status::Denied),
        };
        let json = json.map_err(|_| Status::System)?;
        let user = self.socket.peer_credentials().map_err(|_| Status::System)?;
        let to = (&self.socket, cookie);
        answers.files.send(user.user, to, &json, Instant::now())?;
        Ok(false)
    }

    /// Answers the first message of the process.
    fn attach(&self, message: &[u8], shared: &Shared) -> Result<(), Status> {
        let (cookie, attach, version) = read_attach(message).map_err(|(status, _)| status)?;
        if attach.role != role::OBSERVER {
            return Err(Status::Denied);
        }
        let attached = attached(0, &shared.config(), (version, attach.features));
        answered(send(&self.socket, kind::ATTACHED, cookie, &attached, &[]))
    }
}

impl Client for Observer {
    fn waits_for(&self) -> PollFlags {
        PollFlags::IN
    }

    fn step(&mut self, answers: &mut Answers<'_>) -> bool {
        self.serve(answers).unwrap_or_else(|status| {
            self.dismiss(status);
            false
        })
    }

    fn dismiss(&self, status: Status) {
        send_detached(&self.socket, status);
    }
}

impl AsFd for Observer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A process that leaves no room for its answer is no longer served.
fn answered(sent: io::Result<()>) -> Result<(), Status> {
    sent.map_err(|_| Status::Again)
}
