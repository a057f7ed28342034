// SPDX-License-Identifier: GPL-2.0-or-later

//! Messages that are not requests, for tests.

use std::net::SocketAddr;

use super::Connection;
use crate::client::link::{Deadline, Link, SmbDirect};
use crate::client::{Config, Result};

impl Connection {
    /// Does the same as [`smb_direct`](Self::smb_direct), after sending a first message, which has the id 0. The server
    /// refuses it, and its answer is ignored.
    pub fn smb_direct_after(first: &[u8], address: SocketAddr, config: Config) -> Result<Self> {
        let timeout = config.timeout;
        let link = SmbDirect::connect(address, (config.fabric, config.smb_direct), timeout)?;
        let mut link = Link::SmbDirect(Box::new(link));
        let deadline = Deadline::new(timeout);
        link.send(&[first], deadline)?;
        link.receive(deadline)?;
        Self::negotiate(link, config, 1)
    }

    /// Sends any bytes as one message, which does not count as a request. [`receive_bytes`](Self::receive_bytes)
    /// returns the answer, if there is one.
    pub fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        let deadline = Deadline::new(self.config.timeout);
        self.link.send(&[message], deadline)
    }

    /// Returns the next message as it arrived, unchecked. Not for a connection with outstanding requests.
    pub fn receive_bytes(&mut self) -> Result<Vec<u8>> {
        let deadline = Deadline::new(self.config.timeout);
        self.link.receive(deadline)
    }

    /// The message id of the next request.
    #[must_use]
    pub const fn next_message_id(&self) -> u64 {
        self.next_message_id
    }
}
