// SPDX-License-Identifier: GPL-2.0-or-later

//! One SMB Direct connection, with its own iWARP fabric.

use std::collections::{HashMap, VecDeque};
use std::io::Error as IoError;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant as Clock};

use smb::transport::TransportError;
use smb::transport::error::Result;
use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::{Access, ConnId, RegionId, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{CloseReason, Config, Event, HeapBuffers, Transport};
use smbdirect::units::Instant;

use crate::carried::Carried;

/// How long a graceful close may take.
const CLOSE: Duration = Duration::from_secs(2);

pub(crate) struct Link {
    transport: Transport<Iwarp, HeapBuffers>,
    conn: ConnId,
    start: Clock,
    established: bool,
    closed: Option<CloseReason>,
    received: VecDeque<Vec<u8>>,
    /// Messages that are being sent, and the memory that contains them.
    sending: HashMap<u64, (Memory, RegionId)>,
    sent: u64,
    carried: Carried,
}

impl Link {
    /// Begins a connection. The descriptor is readable when there is something to do.
    pub(crate) fn begin(server: SocketAddr, carried: Carried) -> Result<(Self, OwnedFd)> {
        let fabric = Iwarp::new(iwarp::Config::default()).map_err(IoError::other)?;
        let config = Config::new(proto::Config::default(), proto::Config::initiator_default());
        let mut transport = Transport::new(fabric, HeapBuffers::new(), config);
        let conn = transport
            .connect(Instant::ZERO, server)
            .map_err(IoError::other)?;
        let events = transport.event_fd().ok_or(TransportError::NotConnected)?;
        let events = events.try_clone_to_owned()?;
        let link = Self {
            transport,
            conn,
            start: Clock::now(),
            established: false,
            closed: None,
            received: VecDeque::new(),
            sending: HashMap::new(),
            sent: 0,
            carried,
        };
        Ok((link, events))
    }

    pub(crate) fn is_established(&self) -> bool {
        self.established
    }

    /// Fails if the connection has ended.
    pub(crate) fn check(&self) -> Result<()> {
        match &self.closed {
            None => Ok(()),
            // After any error other than `NotConnected` the library continues.
            Some(_) if self.established => Err(TransportError::NotConnected),
            Some(reason) => Err(IoError::other(reason.to_string()).into()),
        }
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, message: &[u8]) -> Result<()> {
        self.check()?;
        let memory = Memory::zeroed(message.len());
        memory.write(0, message).map_err(IoError::other)?;
        let region = self
            .transport
            .register(self.conn, &memory, Access::Local)
            .map_err(IoError::other)?
            .id;
        let sge = Sge {
            region,
            offset: 0,
            length: u32::try_from(message.len()).map_err(IoError::other)?,
        };
        self.transport
            .send(self.conn, self.sent, sge, None)
            .map_err(IoError::other)?;
        self.sending.insert(self.sent, (memory, region));
        self.sent += 1;
        self.carried.count_sent(message);
        // Whatever the credits allow goes out at once.
        self.poll()
    }

    /// Returns the next message, if there is one.
    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        self.received.pop_front()
    }

    /// Returns how long it may sleep if there is no event.
    pub(crate) fn time_to_sleep(&self) -> Option<Duration> {
        let now = self.now();
        let at = self.transport.poll_timeout()?;
        Some(at.saturating_since(now))
    }

    pub(crate) fn poll(&mut self) -> Result<()> {
        let mut events = Vec::new();
        let polled = self.transport.poll(self.now(), &mut events);
        for event in events {
            match event {
                Event::Established { .. } => self.established = true,
                Event::Message { buffer, .. } => {
                    self.carried.count_received(&buffer);
                    self.received.push_back(buffer);
                }
                Event::Sent { cookie, .. } => {
                    if let Some((_, region)) = self.sending.remove(&cookie) {
                        // Deregistering fails if the connection and its registrations are gone.
                        let _ = self.transport.deregister(self.conn, region);
                    }
                }
                Event::Closed { reason, .. } => self.closed = Some(reason),
                // The library does not use RDMA.
                Event::Invalidated { .. } | Event::Written { .. } | Event::Read { .. } => {}
            }
        }
        Ok(polled.map_err(IoError::other)?)
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }
}

impl Drop for Link {
    /// Closes gracefully, so that the messages that were sent arrive.
    fn drop(&mut self) {
        self.transport.close(self.conn);
        let end = Clock::now() + CLOSE;
        while self.poll().is_ok() && self.closed.is_none() {
            let left = end.saturating_duration_since(Clock::now());
            if left.is_zero() || self.transport.wait(self.now(), Some(left)).is_err() {
                break;
            }
        }
    }
}
