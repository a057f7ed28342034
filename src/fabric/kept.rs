// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Keep`]: fabrics whose connections another process can continue.
//!
//! The process that ends writes down the state of each connection, and passes on its descriptor; the process that
//! begins makes a connection of both. The peer notices only a pause. Nothing is sent or received in between, so a
//! connection may be kept at any moment, whatever is under way on it.

use std::os::fd::{BorrowedFd, OwnedFd};

use super::iwarp::KeptConn;
use super::{ConnId, Event, FabricError, ListenerId, RegionId, SharedEpoll};
use crate::sys::Memory;

/// An error: a state does not fit the descriptor or the memory that came with it, or the fabric cannot continue it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its state cannot be continued")]
pub struct NotKept;

/// A fabric whose connections may be passed on to another process. By default, they cannot be.
pub trait Keep: SharedEpoll {
    /// Returns whether the state of an established connection, which its owner has not closed, can be written down.
    fn may_keep(&self, _conn: ConnId) -> bool {
        false
    }

    /// Returns the state of a connection that [may be kept](Self::may_keep), and its descriptor. The connection has to
    /// stay as it is, without a [`poll`](super::Fabric::poll), until it is continued elsewhere.
    fn keep(&self, _conn: ConnId) -> Option<(KeptConn, BorrowedFd<'_>)> {
        None
    }

    /// Continues a connection. `memory` returns the memory of each of its regions, or `None` if that has gone.
    ///
    /// # Errors
    ///
    /// [`NotKept`]. The descriptor is then closed.
    fn adopt(
        &mut self,
        _kept: KeptConn,
        _descriptor: OwnedFd,
        _memory: &mut dyn FnMut(RegionId) -> Option<Memory>,
    ) -> Result<ConnId, NotKept> {
        Err(NotKept)
    }

    /// Returns the descriptor of a listener that can be passed on, with the connections that wait to be accepted.
    fn listener(&self, _listener: ListenerId) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Continues a listener.
    ///
    /// # Errors
    ///
    /// The descriptor, which is then closed, is not that of a listener, or cannot be watched.
    fn adopt_listener(&mut self, _descriptor: OwnedFd) -> Result<ListenerId, FabricError> {
        Err(FabricError::Library("continue a listener".to_owned()))
    }

    /// Ends a connection at once: what was posted is flushed, and [`Event::Closed`] follows.
    fn end_at_once(&mut self, conn: ConnId) {
        self.close(conn);
    }

    /// Appends to `events` what has happened in calls other than [`poll`](super::Fabric::poll), without moving data.
    fn take_events(&mut self, _events: &mut Vec<Event>) {}
}
