// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB Direct as a transport of the crate `smb`, an SMB client library that does not know SMB
//! Direct.
//!
//! The library has its own messages, signatures and ciphers; only whole messages pass through here. `tests/` runs it
//! with a real smbd. Run it from this directory, after building the programs and Samba:
//!
//! ```text
//!   SMBDIRECT_SAMBA=<build tree> cargo test
//! ```

mod carried;
mod link;

use std::cell::Cell;
use std::io::{Error as IoError, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use smb::transport::error::Result;
use smb::transport::{IoVec, SmbTransport, SmbTransportRead, SmbTransportWrite, TransportError};
use smbdirect::sys::wait_readable;

pub use carried::{Carried, Messages};
use link::Link;

/// How long one half sleeps at a time: the other half may already have read the event that should wake it.
const NAP: Duration = Duration::from_millis(2);
/// How long connecting and negotiating SMB Direct may take.
const CONNECT: Duration = Duration::from_secs(30);

/// A connection, or one half of it. Both halves use the same link, under a lock.
#[derive(Clone)]
pub struct SmbDirect {
    link: Arc<Mutex<Link>>,
    /// Readable when there may be something to do.
    events: Arc<OwnedFd>,
    server: SocketAddr,
    carried: Carried,
    read_timeout: Cell<Option<Duration>>,
}

impl SmbDirect {
    /// Connects to an SMB Direct server at `address`, and negotiates.
    pub fn to(address: SocketAddr) -> Result<Self> {
        let carried = Carried::default();
        let (link, events) = Link::begin(address, carried.clone())?;
        let this = Self {
            link: Arc::new(Mutex::new(link)),
            events: Arc::new(events),
            server: address,
            carried,
            read_timeout: Cell::new(Some(CONNECT)),
        };
        this.wait_for(|link| link.is_established().then_some(()))?;
        this.read_timeout.set(None);
        Ok(this)
    }

    /// Returns the numbers of messages that it has carried. They keep growing after the library owns the connection.
    pub fn carried(&self) -> Carried {
        self.carried.clone()
    }

    /// Sleeps until `what` has a result, the read timeout has passed, or the connection has ended.
    fn wait_for<T>(&self, mut what: impl FnMut(&mut Link) -> Option<T>) -> Result<T> {
        let end = self.read_timeout.get().map(|time| Instant::now() + time);
        loop {
            let nap = {
                let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
                link.poll()?;
                if let Some(found) = what(&mut link) {
                    return Ok(found);
                }
                link.check()?;
                link.time_to_sleep().map_or(NAP, |time| time.min(NAP))
            };
            if end.is_some_and(|end| Instant::now() >= end) {
                // The library takes this for a timeout.
                return Err(IoError::from(ErrorKind::WouldBlock).into());
            }
            wait_readable(self.events.as_fd(), Some(nap))?;
        }
    }
}

impl SmbTransport for SmbDirect {
    /// Does nothing, because the link is already connected: see [`SmbDirect::to`].
    fn connect(&mut self, _server_name: &str, _address: SocketAddr) -> Result<()> {
        Err(TransportError::AlreadyConnected)
    }

    fn default_port(&self) -> u16 {
        5445
    }

    fn split(self: Box<Self>) -> Result<(Box<dyn SmbTransportRead>, Box<dyn SmbTransportWrite>)> {
        Ok((self.clone(), self))
    }

    fn remote_address(&self) -> Result<SocketAddr> {
        Ok(self.server)
    }
}

impl SmbTransportWrite for SmbDirect {
    fn send_raw(&mut self, _bytes: &[u8]) -> Result<()> {
        Err(no_stream())
    }

    /// Sends a message without the four bytes that precede it on TCP ([MS-SMB2] 2.1).
    fn send(&mut self, message: &IoVec) -> Result<()> {
        let message: Vec<u8> = message.iter().flat_map(|part| part.to_vec()).collect();
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        link.send(&message)
    }
}

impl SmbTransportRead for SmbDirect {
    fn receive_exact(&mut self, _bytes: &mut [u8]) -> Result<()> {
        Err(no_stream())
    }

    fn receive(&mut self) -> Result<Vec<u8>> {
        self.wait_for(Link::receive)
    }

    fn set_read_timeout(&self, timeout: Duration) -> Result<()> {
        self.read_timeout.set(Some(timeout));
        Ok(())
    }
}

fn no_stream() -> TransportError {
    IoError::new(ErrorKind::Unsupported, "SMB Direct carries whole messages").into()
}
