//! The status of a device, as an administrator's tool asks for it ([`role::OBSERVER`]).

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Status;
use super::abi::{
    Attach, Attached, Control, Detached, MAX_CONTROL_LENGTH, Reply, StatusReport, StatusRequest,
    VERSION, kind, role,
};
use crate::shm;
use crate::sys::{Memfd, ReceiveError, Received, SeqSocket, wait_readable};

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
    let (attached, _): (Attached, _) = observer.ask(1, (kind::ATTACH, &attach), kind::ATTACHED)?;
    if attached.version != VERSION {
        return Err(Status::Version);
    }
    let request = (kind::STATUS_REQUEST, &StatusRequest { reserved: 0 });
    let (report, received) = observer.ask(2, request, kind::STATUS_REPORT)?;
    content(report, received)
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
    /// Sends a request, and waits for the answer of this kind.
    fn ask<A: FromBytes>(
        &self,
        cookie: u64,
        (kind, request): (u32, &(impl IntoBytes + Immutable)),
        answer: u32,
    ) -> Result<(A, Received), Status> {
        let body = request.as_bytes();
        let control = Control {
            kind,
            // Of two structures that are a few bytes each.
            length: (size_of::<Control>() + body.len()) as u32,
            cookie,
        };
        let sent = self.socket.send(&[control.as_bytes(), body].concat(), &[]);
        // What it said before it closed its end is still to be read, and says more.
        if sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {
            return Err(Status::TimedOut);
        }
        let (control, body, received) = self.receive()?;
        match control.kind {
            kind::DETACHED => return Err(failure(read::<Detached>(&body)?.status)),
            _ if control.cookie != cookie => return Err(Status::Corrupt),
            kind::REPLY => return Err(failure(read::<Reply>(&body)?.status)),
            kind if kind == answer => {}
            _ => return Err(Status::Corrupt),
        }
        Ok((read(&body)?, received))
    }

    /// The next message: what it begins with, and what follows that.
    fn receive(&self) -> Result<(Control, Vec<u8>, Received), Status> {
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
        let (control, body) = Control::read_from_prefix(message).map_err(|_| Status::Corrupt)?;
        if control.length as usize != message.len() {
            return Err(Status::Corrupt);
        }
        Ok((control, body.to_vec(), received))
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

/// A structure that fills the body of a message.
fn read<A: FromBytes>(body: &[u8]) -> Result<A, Status> {
    A::read_from_bytes(body).map_err(|_| Status::Corrupt)
}

/// The JSON that a report came with.
fn content(report: StatusReport, received: Received) -> Result<String, Status> {
    let StatusReport {
        length,
        json_length,
    } = report;
    if json_length > length || length > LONGEST_STATUS {
        return Err(Status::Corrupt);
    }
    let [file] = <[_; 1]>::try_from(received.descriptors).map_err(|_| Status::Corrupt)?;
    // Both are at most `LONGEST_STATUS`.
    let file = Memfd::verify(file, length as usize).map_err(|_| Status::Corrupt)?;
    let memory = shm::map(&file).map_err(|_| Status::System)?;
    let json = memory.to_vec(0, json_length as usize);
    let json = json.map_err(|_| Status::Corrupt)?;
    String::from_utf8(json).map_err(|_| Status::Corrupt)
}

#[cfg(test)]
mod tests;
