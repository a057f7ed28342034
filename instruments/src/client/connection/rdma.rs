// SPDX-License-Identifier: GPL-2.0-or-later

//! Calls that only SMB Direct offers.

use std::time::Duration;

use super::Connection;
use crate::client::{Registration, Result};
use smbdirect::fabric::{Access, FabricKind};
use smbdirect::sys::Memory;
use smbdirect::transport::{CloseReason, Traffic};
use smbdirect::units::RemoteToken;

impl Connection {
    /// Registers memory that the server may read or write. Works only over SMB Direct.
    pub fn register(&mut self, memory: &Memory, access: Access) -> Result<Registration> {
        self.link.rdma()?.register(memory, access)
    }

    /// Ends a registration: an access by the server from now on ends the connection.
    pub fn deregister(&mut self, registration: &Registration) -> Result<()> {
        self.link.rdma()?.deregister(registration)
    }

    /// Returns whether the server has invalidated a token, and then forgets the token.
    pub fn take_invalidated(&mut self, token: RemoteToken) -> bool {
        self.link.take_invalidated(token)
    }

    /// Returns the fabric that carries an SMB Direct connection; `None` over TCP. With an RDMA device, the server
    /// should not invalidate memory (`Channel::RdmaV1Invalidate`): most devices then end the connection, and others do
    /// not report the invalidation.
    pub fn fabric(&mut self) -> Option<FabricKind> {
        Some(self.link.rdma().ok()?.fabric())
    }

    /// Returns the traffic of an SMB Direct connection; over TCP, all counts are 0.
    pub fn traffic(&mut self) -> Traffic {
        self.link
            .rdma()
            .map_or_else(|_| Traffic::default(), |link| link.traffic())
    }

    /// Serves an SMB Direct connection for a time without sending requests: answers keepalives, and lets the server
    /// access memory.
    pub fn serve(&mut self, time: Duration) -> Result<()> {
        self.link.rdma()?.serve(time)
    }

    /// Returns why an SMB Direct connection ended, if it has.
    pub fn close_reason(&mut self) -> Option<CloseReason> {
        self.link.rdma().ok()?.close_reason().cloned()
    }
}
