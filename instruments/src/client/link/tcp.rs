// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB over TCP: four bytes with the length precede each message ([MS-SMB2] 2.1).

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::super::{Error, Result};
use super::Deadline;

/// The largest length that fits in three bytes.
pub(super) const MAX_MESSAGE: u32 = 0x00ff_ffff;
/// Buffers that are kept for later messages.
const KEPT: usize = 16;

#[derive(Debug)]
pub(in super::super) struct Tcp {
    stream: TcpStream,
    server: SocketAddr,
    spare: Vec<Vec<u8>>,
    /// The length of the message that is being received, and how many bytes of it have arrived.
    head: ([u8; 4], usize),
    /// The bytes of that message that have arrived, if its length is known and a call gave up in the middle.
    partial: Option<Vec<u8>>,
    have: usize,
}

impl Tcp {
    pub(in super::super) fn connect(address: SocketAddr, timeout: Duration) -> Result<Self> {
        let connected = TcpStream::connect_timeout(&address, timeout);
        let stream = connected.and_then(|stream| {
            stream.set_nodelay(true)?;
            Ok(stream)
        });
        match stream {
            Ok(stream) => Ok(Self {
                stream,
                server: address,
                spare: Vec::new(),
                head: ([0; 4], 0),
                partial: None,
                have: 0,
            }),
            Err(source) => Err(Error::Connect { address, source }),
        }
    }

    pub(super) const fn server(&self) -> SocketAddr {
        self.server
    }

    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    pub(super) fn send(&mut self, parts: &[&[u8]], deadline: Deadline) -> Result<()> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_MESSAGE)
            .ok_or_else(|| {
                Error::Encode("a message", format!("{length} bytes are too many for TCP"))
            })?;
        // The length field: a zero byte, then three bytes of length.
        let head = length.to_be_bytes();
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(parts.len() + 1);
        slices.push(IoSlice::new(&head));
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        let mut rest = &mut slices[..];
        self.stream
            .set_write_timeout(Some(at_least(deadline.left())))?;
        while !rest.is_empty() {
            match self.stream.write_vectored(rest) {
                Ok(0) => return Err(closed()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) => self.failed(error, deadline, "sending a request")?,
            }
        }
        Ok(())
    }

    /// Receives the next message. If time is up, the part that has arrived is kept, and the next call continues with
    /// it.
    pub(super) fn receive(&mut self, deadline: Deadline) -> Result<Vec<u8>> {
        while self.head.1 < self.head.0.len() {
            let (mut head, have) = self.head;
            let read = self.read(&mut head[have..], deadline)?;
            self.head = (head, have + read);
        }
        let length = u32::from_be_bytes(self.head.0);
        if length > MAX_MESSAGE {
            return Err(Error::Malformed("TCP framing", "the first byte is not 0"));
        }
        let mut message = match self.partial.take() {
            Some(message) => message,
            None => {
                self.have = 0;
                let mut message = self.spare.pop().unwrap_or_default();
                message.resize(length as usize, 0);
                message
            }
        };
        while self.have < message.len() {
            match self.read(message.split_at_mut(self.have).1, deadline) {
                Ok(read) => self.have += read,
                Err(error) => {
                    self.partial = Some(message);
                    return Err(error);
                }
            }
        }
        self.head.1 = 0;
        Ok(message)
    }

    pub(super) fn recycle(&mut self, message: Vec<u8>) {
        // The buffer keeps its length, so a longer message zeroes only the bytes that it adds.
        if self.spare.len() < KEPT {
            self.spare.push(message);
        }
    }

    fn read(&mut self, buffer: &mut [u8], deadline: Deadline) -> Result<usize> {
        self.stream
            .set_read_timeout(Some(at_least(deadline.left())))?;
        loop {
            match self.stream.read(buffer) {
                Ok(0) => return Err(closed()),
                Ok(read) => return Ok(read),
                Err(error) => self.failed(error, deadline, "waiting for a response")?,
            }
        }
    }

    /// Returns whether to try again after an error.
    fn failed(&self, error: io::Error, deadline: Deadline, doing: &'static str) -> Result<()> {
        match error.kind() {
            ErrorKind::Interrupted => Ok(()),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Err(deadline.error(doing)),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Err(Error::Closed(format!(
                "{}: {error}: see the server's log",
                self.server
            ))),
            _ => Err(error.into()),
        }
    }
}

/// Avoids a timeout of zero, which sockets refuse.
fn at_least(time: Duration) -> Duration {
    time.max(Duration::from_millis(1))
}

fn closed() -> Error {
    Error::Closed("the server closed it: see the server's log".to_owned())
}
