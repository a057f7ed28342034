//! The status of a device, as an administrator's tool asks for it ([`role::OBSERVER`]).

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Status;
use super::abi::{Attach, MAX_CONTROL_LENGTH, StatusReport, StatusRequest, VERSION, role};
use super::message::{Answer, Body, encode, read_answer};
use crate::shm;
use crate::sys::{Memfd, ReceiveError, SeqSocket, wait_readable};

/// Bytes of a status at most: thousands of connections and workers.
const LONGEST_STATUS: u64 = 64 << 20;

/// Asks the device at `path` for its status, and waits for that up to `timeout`. It is JSON, whose
/// content is the device's own (smbdirectctl(8) describes that of smbdirectd).
///
/// # Errors
///
/// [`Status::NoDevice`], [`Status::Denied`], [`Status::Limit`] (the device refuses, or so many wait
/// for it that this process cannot), [`Status::TimedOut`], [`Status::Version`], [`Status::Corrupt`]
/// (it is no device), [`Status::Detached`] and others that the device may name.
pub fn observe(path: &Path, timeout: Duration) -> Result<String, Status> {
    let socket = SeqSocket::connect(path).map_err(|error| refused(&error))?;
    let observer = Observer {
        socket,
        deadline: Instant::now() + timeout,
    };
    let attach = Attach {
        version: VERSION,
        role: role::OBSERVER,
        token: [0; 16],
        reserved: 0,
    };
    match observer.ask(1, &attach)? {
        (Answer::Attached(attached), _) if attached.version != VERSION => {
            return Err(Status::Version);
        }
        (Answer::Attached(_), _) => {}
        _ => return Err(Status::Corrupt),
    }
    match observer.ask(2, &StatusRequest { reserved: 0 })? {
        (Answer::Status(report), descriptors) => {
            let [file] = <[_; 1]>::try_from(descriptors).map_err(|_| Status::Corrupt)?;
            content(report, file)
        }
        _ => Err(Status::Corrupt),
    }
}

/// Why nobody can be reached at a path.
fn refused(error: &io::Error) -> Status {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
            Status::NoDevice
        }
        ErrorKind::PermissionDenied => Status::Denied,
        // More wait to be accepted than the device allows.
        ErrorKind::WouldBlock => Status::Limit,
        // Too long a path, or a socket of another kind.
        _ if error.raw_os_error() == Some(libc::EPROTOTYPE) => Status::NoDevice,
        ErrorKind::InvalidInput => Status::Invalid,
        _ => Status::System,
    }
}

struct Observer {
    socket: SeqSocket,
    deadline: Instant,
}

impl Observer {
    /// Sends a request, and waits for its answer.
    fn ask(&self, cookie: u64, request: &impl Body) -> Result<(Answer, Vec<OwnedFd>), Status> {
        let mut message = Vec::new();
        encode(cookie, request, &[], &mut message);
        let sent = self.socket.send(&message, &[]);
        // What it said before it closed its end is still to be read, and says more.
        if sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            return Err(Status::TimedOut);
        }
        match self.receive()? {
            (_, Answer::Detached(detached), _) => Err(failure(detached.status)),
            (answered, ..) if answered != cookie => Err(Status::Corrupt),
            (_, Answer::Reply(reply), _) => Err(failure(reply.status)),
            (_, answer, descriptors) => Ok((answer, descriptors)),
        }
    }

    /// The next message: its cookie, what it says, and what it carries.
    fn receive(&self) -> Result<(u64, Answer, Vec<OwnedFd>), Status> {
        let mut buffer = [0; MAX_CONTROL_LENGTH];
        let received = loop {
            match self.socket.receive(&mut buffer) {
                Err(error) if error.is_would_block() => {}
                Err(error) => return Err(lost(&error)),
                Ok(received) => break received,
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Status::TimedOut);
            }
            wait_readable(self.socket.as_fd(), Some(left)).map_err(|_| Status::System)?;
        };
        let message = buffer.get(..received.length).ok_or(Status::Corrupt)?;
        let (cookie, answer) = read_answer(message).map_err(|_| Status::Corrupt)?;
        if received.descriptors.len() != answer.descriptors() {
            return Err(Status::Corrupt);
        }
        Ok((cookie, answer, received.descriptors))
    }
}

/// Why nothing was received.
fn lost(error: &ReceiveError) -> Status {
    match error {
        ReceiveError::Closed => Status::Detached,
        ReceiveError::MessageTooLong { .. } => Status::Corrupt,
        ReceiveError::TooManyDescriptors | ReceiveError::System(_) => Status::System,
    }
}

/// What the device says that went wrong. That nothing did is no answer to these questions.
fn failure(code: i32) -> Status {
    match Status::from_code(code) {
        None | Some(Status::Ok) => Status::Corrupt,
        Some(status) => status,
    }
}

/// The JSON that a report came with.
fn content(report: StatusReport, file: OwnedFd) -> Result<String, Status> {
    let StatusReport {
        length,
        json_length,
    } = report;
    if json_length > length || length > LONGEST_STATUS {
        return Err(Status::Corrupt);
    }
    // Both are at most `LONGEST_STATUS`.
    let file = Memfd::verify(file, length as usize).map_err(|_| Status::Corrupt)?;
    let memory = shm::map(&file).map_err(|_| Status::System)?;
    let json = memory.to_vec(0, json_length as usize);
    let json = json.map_err(|_| Status::Corrupt)?;
    String::from_utf8(json).map_err(|_| Status::Corrupt)
}

#[cfg(test)]
mod tests;
