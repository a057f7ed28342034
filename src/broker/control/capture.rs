// SPDX-License-Identifier: GPL-2.0-or-later

//! Begins and ends captures that processes ask for.

use std::collections::BTreeSet;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Control;
use super::request::{Answer, Refusal, answered};
use crate::broker::capture::{Order, Target};
use crate::broker::process::{Process, send};
use crate::broker::reactor::Command;
use crate::device::Status;
use crate::device::abi::{self, kind};
use crate::fabric::pcapng;
use crate::sys::SeqSocket;
use crate::units::Instant;

/// Maximum number of captures at a time: each costs the reactors time and memory.
const MOST: usize = 2;

/// The processes that capture.
#[derive(Debug, Default)]
pub(super) struct Captures(BTreeSet<u32>);

impl Control {
    /// Begins a capture for a process, and answers it with a socket.
    pub(super) fn begin_capture(
        &mut self,
        process: &Arc<Process>,
        cookie: u64,
        asked: &abi::CaptureRequest,
    ) -> Result<Answer, Refusal> {
        if self.captures.0.contains(&process.id) {
            return Ok(Answer::Now(Err(Status::Busy)));
        }
        if self.captures.0.len() >= MOST {
            return Ok(Answer::Now(Err(Status::Limit)));
        }
        let named = self.shared.reactors.iter().enumerate();
        let names: Vec<String> = named
            .map(|(number, kind)| format!("reactor {number} ({kind})"))
            .collect();
        let program = concat!("smbdirectd ", env!("CARGO_PKG_VERSION"));
        let Ok((ours, theirs)) = first(&pcapng::file_header(program, &names)) else {
            return Ok(Answer::Now(Err(Status::System)));
        };
        let answer = abi::CaptureStarted {
            // There are only a few reactors.
            interfaces: u32::try_from(names.len()).unwrap_or(u32::MAX),
            reserved: 0,
        };
        let sent = send(
            &process.socket,
            kind::CAPTURE_STARTED,
            cookie,
            &answer,
            &[theirs.as_fd()],
        );
        answered(sent)?;
        let target = Target {
            address: Ipv6Addr::from(asked.address).to_canonical(),
            port: (asked.port != 0).then_some(asked.port),
        };
        let order = Arc::new(Order {
            process: process.id,
            target,
            shown: asked.bytes,
            epoch: epoch(self.shared.now()),
            socket: Arc::new(ours),
        });
        self.captures.0.insert(process.id);
        self.command_all(|| Command::Capture(Arc::clone(&order)));
        let (worker, pid) = (process.id, process.pid);
        let (address, port) = (target.address, target.port);
        let bytes = asked.bytes;
        tracing::info!(worker, pid, %address, port, bytes, "a capture begins");
        Ok(Answer::Other)
    }

    /// Ends the capture of a process that has detached, if it has one.
    pub(super) fn end_capture(&mut self, process: u32) {
        if self.captures.0.remove(&process) {
            self.command_all(|| Command::EndCapture(process));
            tracing::info!(worker = process, "a capture has ended");
        }
    }
}

/// Makes a socket for a process, which the process then reads to find these blocks first.
fn first(blocks: &[u8]) -> io::Result<(SeqSocket, SeqSocket)> {
    let (ours, theirs) = SeqSocket::pair()?;
    ours.send(blocks, &[])?;
    Ok((ours, theirs))
}

/// Returns the time since 1970 at the broker's start, as the machine's clock has it now.
fn epoch(now: Instant) -> Duration {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.unwrap_or_default();
    since.saturating_sub(Duration::from_nanos(now.as_nanos()))
}
