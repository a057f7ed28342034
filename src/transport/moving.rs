// SPDX-License-Identifier: GPL-2.0-or-later

//! Moves a connection from one transport to another, with everything that its peer knows about it: credits, receives,
//! waiting fragments, and the messages of the endpoint itself, posted or not.
//!
//! Nothing that belongs to the first transport's owner may be under way: no message that is being reassembled, because
//! its buffer is that owner's, and no operation, because its end would be reported to another owner.

use alloc::boxed::Box;

use super::connection::Connection;
use super::{MessageBuffers, Transport, mark_dirty};
use crate::fabric::{ConnId, Movable};

/// A connection that is in neither of two transports.
#[derive(Debug)]
pub struct Moving<C, Buffer> {
    fabric: C,
    connection: Box<Connection<Buffer>>,
}

impl<F: Movable, B: MessageBuffers> Transport<F, B> {
    /// Takes an established connection out. `None`: there is no such connection, it is ending, or something of its
    /// owner is under way on it; nothing has changed.
    pub fn take(&mut self, id: ConnId) -> Option<Moving<F::Moving, B::Buffer>> {
        self.conns.get(id).filter(|conn| conn.may_move())?;
        let fabric = self.fabric.take(id)?;
        let mut connection = self.conns.remove(id)?;
        if connection.dirty {
            self.dirty.retain(|other| *other != id);
        }
        if connection.starved {
            self.starved.retain(|other| *other != id);
        }
        // The entry of the timers that this connection had is stale now, because the connection has gone.
        (connection.dirty, connection.starved, connection.armed) = (false, false, None);
        self.timers.tidy(&self.conns);
        Some(Moving { fabric, connection })
    }

    /// Puts in a connection that was taken out of another transport. Returns its new number. The connection keeps the
    /// configuration with which it began.
    pub fn put(&mut self, moving: Moving<F::Moving, B::Buffer>) -> ConnId {
        let Moving {
            fabric,
            mut connection,
        } = moving;
        let id = self.fabric.put(fabric);
        if connection.waiting() > 0 {
            connection.starved = true;
            self.starved.push(id);
            self.retry_starved = true;
        }
        mark_dirty(&mut self.dirty, id, &mut connection);
        self.timers.arm(id, &mut connection);
        self.conns.insert(id, connection);
        id
    }
}

impl<Buffer> Connection<Buffer> {
    fn may_move(&self) -> bool {
        self.established
            && !self.closing
            && !self.is_failed()
            && !self.incoming.is_assembling()
            && self.sends.is_done()
            && self.reads.is_done()
    }
}
