// SPDX-License-Identifier: GPL-2.0-or-later

//! Moves connections. Both ends stay in the same [`Loopback`], whichever fabric stands for an end: a connection that was
//! taken out goes on, but its events and its end are held back until it is put in again, under another number.

use super::Loopback;
use crate::fabric::{ConnId, Event, Movable};

/// A connection of a [`Loopback`] that was taken out.
#[derive(Debug)]
pub struct Moving(ConnId);

impl Loopback {
    /// Holds back the events of connections that were taken out.
    pub(super) fn hold_back(&mut self) {
        if self.away.is_empty() {
            return;
        }
        for mut event in std::mem::take(&mut self.ready) {
            let is_away = conn_of(&mut event).is_some_and(|conn| self.away.contains(conn));
            let events = if is_away {
                &mut self.held_back
            } else {
                &mut self.ready
            };
            events.push(event);
        }
    }
}

impl Movable for Loopback {
    type Moving = Moving;

    fn take(&mut self, conn: ConnId) -> Option<Moving> {
        self.conns.get(conn)?;
        self.away.push(conn);
        Some(Moving(conn))
    }

    fn put(&mut self, Moving(old): Moving) -> ConnId {
        self.hold_back();
        self.away.retain(|conn| *conn != old);
        let Some(conn) = self.conns.remove(old) else {
            return old;
        };
        let (peer, new) = (conn.peer, self.conns.insert(conn));
        if let Some(peer) = self.conns.get_mut(peer) {
            peer.peer = new;
        }
        let numbers = self.reading.iter_mut().chain(&mut self.ending);
        numbers
            .filter(|conn| **conn == old)
            .for_each(|conn| *conn = new);
        for mut event in std::mem::take(&mut self.held_back) {
            match conn_of(&mut event) {
                Some(conn) if *conn == old => {
                    *conn = new;
                    self.ready.push(event);
                }
                _ => self.held_back.push(event),
            }
        }
        new
    }
}

/// Returns the number of the connection that an event names.
fn conn_of(event: &mut Event) -> Option<&mut ConnId> {
    match event {
        Event::ConnectRequest { conn, .. }
        | Event::Established { conn, .. }
        | Event::Completion { conn, .. }
        | Event::Closed { conn, .. } => Some(conn),
        Event::Refused { .. } => None,
    }
}
