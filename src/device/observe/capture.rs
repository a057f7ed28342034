// SPDX-License-Identifier: GPL-2.0-or-later

//! Captures connections of a device, as an administrator's tool does.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use super::{NotObserved, Observer};
use crate::device::Status;
use crate::device::abi::CaptureRequest;
use crate::device::channel::SocketChannel;
use crate::device::message::Answer;
use crate::sys::{ReceiveError, SeqSocket, wait_readable};

/// Length of the longest message of a capture, in bytes: a packet of IP with its comment needs half of it.
const LONGEST: usize = 128 << 10;

/// What to capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The client's address.
    pub address: IpAddr,
    /// The client's port, for one existing connection; `None` for all connections of the client, existing and future.
    pub port: Option<u16>,
    /// The number of bytes to capture of what RDMA moves for each request, and of the file data in each message.
    pub bytes: u32,
}

/// A capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    /// The attachment, until [`Self::stop`].
    observer: Option<Observer>,
    socket: SeqSocket,
    buffer: Vec<u8>,
}

/// What [`Capture::next`] has found.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Blocks of the pcapng file, which [`pcapng`](crate::fabric::pcapng) reads. The first blocks are those with which
    /// the file begins.
    Blocks(&'a [u8]),
    /// Nothing has come in time.
    Nothing,
    /// There is nothing more: the capture has ended, or the device has gone.
    End,
}

impl Capture {
    /// Asks the device whose control socket is at `path` for a capture, and waits up to `timeout` for its answer. The
    /// blocks come as soon as there is any traffic. If the caller takes them too slowly, some are lost; the last block
    /// counts these.
    ///
    /// # Errors
    ///
    /// The errors of [`observe`](super::observe); [`Status::Denied`] also for users who may only ask for the status.
    /// [`Status::Limit`]: there are too many captures already. [`Status::Corrupt`] may mean that the device is older
    /// than this request.
    pub fn begin(path: &Path, wanted: &Wanted, timeout: Duration) -> Result<Self, NotObserved> {
        let mut observer = Observer::attach(SocketChannel::connect(path)?, timeout)?;
        let address = match wanted.address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let request = CaptureRequest {
            address: address.octets(),
            bytes: wanted.bytes,
            port: wanted.port.unwrap_or(0),
            reserved: 0,
        };
        let delivery = observer.ask(2, &request)?;
        match (delivery.answer, delivery.socket) {
            (Answer::Capture(_), Some(socket)) => Ok(Self {
                observer: Some(observer),
                socket: socket.into(),
                buffer: vec![0; LONGEST],
            }),
            _ => Err(Status::Corrupt.into()),
        }
    }

    /// Waits for the next blocks up to `time`, or until a signal arrives, and returns them.
    ///
    /// # Errors
    ///
    /// [`Status::Corrupt`]: the device sent a message that is too long. [`Status::System`].
    pub fn next(&mut self, time: Duration) -> Result<Next<'_>, Status> {
        wait_readable(self.socket.as_fd(), Some(time)).map_err(|_| Status::System)?;
        match self.socket.receive(&mut self.buffer) {
            Ok(received) => {
                let blocks = self.buffer.get(..received.length);
                Ok(Next::Blocks(blocks.unwrap_or_default()))
            }
            Err(error) if error.is_would_block() => Ok(Next::Nothing),
            Err(ReceiveError::Closed | ReceiveError::System(_)) => Ok(Next::End),
            Err(_) => Err(Status::Corrupt),
        }
    }

    /// Tells the device to end the capture. Its last blocks, and [`Next::End`], are still to come.
    pub fn stop(&mut self) {
        self.observer = None;
    }
}
