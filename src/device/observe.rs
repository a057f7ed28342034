// SPDX-License-Identifier: GPL-2.0-or-later

//! Asks a device for its status and its events, as an administrator's tool does ([`role::OBSERVER`]).

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Status;
use super::abi::{Attach, EventsRequest, StatusReport, StatusRequest, VERSION, role};
use super::channel::{Channel, Delivery, SocketChannel};
use super::message::{Answer, Body, encode};
use crate::sys::{Bell, Memory, wait_readable};

#[cfg(feature = "broker")]
pub mod capture;
#[cfg(test)]
mod tests;

/// Length of the longest status, and of the longest list of events, in bytes: enough for thousands of connections and
/// workers.
const LONGEST_STATUS: u64 = 64 << 20;

/// Returns the path of the status socket of the device whose control socket is at `control`. That socket is in the same
/// directory, and open to a group of users (smbdirectd.toml(5), `status_group`).
#[must_use]
pub fn status_path(control: &Path) -> PathBuf {
    let name = control.file_name().unwrap_or_default();
    let name = match name == "control" {
        true => "status".into(),
        false => {
            let mut name = name.to_owned();
            name.push("-status");
            name
        }
    };
    control.with_file_name(name)
}

/// Why the device did not give its status or its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotObserved {
    /// The reason.
    pub status: Status,
    /// The version of the interface that the device speaks, if it is not [`VERSION`] and the device has named it.
    pub device_version: Option<u32>,
}

impl From<Status> for NotObserved {
    fn from(status: Status) -> Self {
        Self {
            status,
            device_version: None,
        }
    }
}

impl fmt::Display for NotObserved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.device_version {
            Some(version) => write!(
                f,
                "smbdirectd speaks version {version} of the interface, this program version {VERSION}: install both \
                 from one build, and restart smbdirectd"
            ),
            None => self.status.fmt(f),
        }
    }
}

/// Asks the device whose control socket is at `path` for its status, and waits up to `timeout` for it. If this process
/// may not use the control socket, or the socket has gone because the device is being stopped, this function asks on
/// the status socket. The status is JSON in the device's own format, which smbdirectctl(8) describes for smbdirectd.
///
/// # Errors
///
/// [`Status::NoDevice`], [`Status::Denied`], [`Status::Untrusted`], [`Status::TimedOut`], [`Status::Version`],
/// [`Status::Corrupt`] (what listens at `path` is not a device), [`Status::Detached`], [`Status::System`], and others
/// that the device may give.
pub fn observe(path: &Path, timeout: Duration) -> Result<String, NotObserved> {
    observe_process(path, timeout).map(|(json, _)| json)
}

/// Asks as [`observe`] does, and also returns the process that serves the device, if it is visible from here. The
/// kernel, not the device itself, names that process.
///
/// # Errors
///
/// The errors of [`observe`].
pub fn observe_process(
    path: &Path,
    timeout: Duration,
) -> Result<(String, Option<u32>), NotObserved> {
    ask_once(path, timeout, &StatusRequest { reserved: 0 })
}

/// Asks as [`observe`] does, but for the events after the one with the number `after`, or, with 0, for all that the
/// device still keeps. The events are JSON, too.
///
/// # Errors
///
/// The errors of [`observe`]; [`Status::Corrupt`] may mean that the device is older than this request.
pub fn observe_events(path: &Path, after: u64, timeout: Duration) -> Result<String, NotObserved> {
    ask_once(path, timeout, &EventsRequest { after }).map(|(json, _)| json)
}

/// Attaches as an observer, sends a request, and returns the JSON of the answer, and the process that gave it.
fn ask_once(
    path: &Path,
    timeout: Duration,
    request: &impl Body,
) -> Result<(String, Option<u32>), NotObserved> {
    let channel = SocketChannel::connect(path).or_else(|status| match status {
        Status::Denied | Status::NoDevice => {
            SocketChannel::connect(&status_path(path)).map_err(|_| status)
        }
        status => Err(status),
    });
    let mut observer = Observer::attach(channel?, timeout)?;
    let delivery = observer.ask(2, request)?;
    match (delivery.answer, delivery.memory) {
        (Answer::Status(report), Some(memory)) => {
            let json = content(report, &memory)?;
            Ok((json, observer.channel.device_process()))
        }
        _ => Err(Status::Corrupt.into()),
    }
}

const fn other_version(version: u32) -> NotObserved {
    NotObserved {
        status: Status::Version,
        device_version: Some(version),
    }
}

#[derive(Debug)]
struct Observer {
    channel: SocketChannel,
    deadline: Instant,
}

impl Observer {
    /// Attaches. All answers, to this and to later requests, must come within `timeout` from now.
    fn attach(channel: SocketChannel, timeout: Duration) -> Result<Self, NotObserved> {
        let mut observer = Self {
            channel,
            deadline: Instant::now() + timeout,
        };
        let attach = Attach::new(role::OBSERVER, [0; 16]);
        match observer.ask(1, &attach)?.answer {
            Answer::Attached(attached) if attached.is_understood() => Ok(observer),
            Answer::Attached(attached) => Err(other_version(attached.version)),
            _ => Err(Status::Corrupt.into()),
        }
    }

    /// Sends a request, and waits for its answer, with what it carries.
    fn ask(&mut self, cookie: u64, request: &impl Body) -> Result<Delivery<Bell>, NotObserved> {
        let mut message = Vec::new();
        encode(cookie, request, &[], &mut message);
        match self.channel.send(&message) {
            Err(Status::Again) => return Err(Status::TimedOut.into()),
            // A message that the device sent before it closed its end can still be read, and says more.
            Err(Status::Detached) | Ok(()) => {}
            Err(status) => return Err(status.into()),
        }
        let delivery = loop {
            match self.channel.receive()? {
                Some(Delivery {
                    answer: Answer::Skipped,
                    ..
                }) => continue,
                Some(delivery) => break delivery,
                None => {}
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Status::TimedOut.into());
            }
            wait_readable(self.channel.event_fd(), Some(left)).map_err(|_| Status::System)?;
        };
        match &delivery.answer {
            Answer::Detached(detached) if detached.version != 0 => {
                Err(other_version(detached.version))
            }
            Answer::Detached(detached) => Err(failure(detached.status).into()),
            _ if delivery.cookie != cookie => Err(Status::Corrupt.into()),
            Answer::Reply(reply) => Err(failure(reply.status).into()),
            _ => Ok(delivery),
        }
    }
}

/// Returns the status that the device gave as an error. `Ok` is not a legal answer to these requests.
fn failure(code: i32) -> Status {
    match Status::from_code(code) {
        None | Some(Status::Ok) => Status::Corrupt,
        Some(status) => status,
    }
}

/// Returns the JSON that came with a report.
fn content(report: StatusReport, memory: &Memory) -> Result<String, Status> {
    if report.json_length > LONGEST_STATUS {
        return Err(Status::Corrupt);
    }
    // The length is at most `LONGEST_STATUS`; `to_vec` checks it against the memory.
    let json = memory.to_vec(0, report.json_length as usize);
    let json = json.map_err(|_| Status::Corrupt)?;
    String::from_utf8(json).map_err(|_| Status::Corrupt)
}
