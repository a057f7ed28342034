// SPDX-License-Identifier: GPL-2.0-or-later

//! One network whose ends are separate fabrics.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{
    ConnId, Event, Fabric, FabricError, ListenerId, Movable, ReadLimits, forward_fabric,
};
use smbdirect::units::Instant;

struct Network {
    loopback: Loopback,
    listeners: HashMap<ListenerId, usize>,
    conns: HashMap<ConnId, usize>,
    /// The events that each end has not taken yet.
    events: Vec<Vec<Event>>,
}

/// An end of the network.
#[derive(Clone)]
pub(crate) struct End {
    network: Rc<RefCell<Network>>,
    number: usize,
}

impl std::fmt::Debug for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "End({})", self.number)
    }
}

impl End {
    /// Makes the ends of a new network.
    pub(crate) fn network(ends: usize) -> Vec<Self> {
        let network = Rc::new(RefCell::new(Network {
            loopback: Loopback::new(LoopbackConfig::default()).unwrap(),
            listeners: HashMap::new(),
            conns: HashMap::new(),
            events: vec![Vec::new(); ends],
        }));
        let end = |number| Self {
            network: Rc::clone(&network),
            number,
        };
        (0..ends).map(end).collect()
    }

    /// Makes one more end of the same network.
    pub(crate) fn another(&self) -> Self {
        let events = &mut self.network.borrow_mut().events;
        events.push(Vec::new());
        Self {
            network: Rc::clone(&self.network),
            number: events.len() - 1,
        }
    }
}

impl Network {
    /// Carries out pending work, and sorts the events.
    fn poll(&mut self, now: Instant) -> Result<(), FabricError> {
        let mut events = Vec::new();
        self.loopback.poll(now, &mut events)?;
        for event in events {
            let end = match &event {
                Event::ConnectRequest { listener, conn, .. } => {
                    let end = self.listeners[listener];
                    self.conns.insert(*conn, end);
                    end
                }
                Event::Closed { conn, .. } => self.conns.remove(conn).unwrap(),
                Event::Established { conn, .. } | Event::Completion { conn, .. } => {
                    self.conns[conn]
                }
                Event::Refused { .. } => 0,
            };
            self.events[end].push(event);
        }
        Ok(())
    }
}

impl Fabric for End {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        let listener = self.network.borrow_mut().loopback.listen(address)?;
        let listeners = &mut self.network.borrow_mut().listeners;
        listeners.insert(listener, self.number);
        Ok(listener)
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let conn = self
            .network
            .borrow_mut()
            .loopback
            .connect(address, limits)?;
        self.network.borrow_mut().conns.insert(conn, self.number);
        Ok(conn)
    }

    forward_fabric!(self => self.network.borrow_mut().loopback;
        local_address, conn_local_address, regions_may_be_invalidated, unlisten, admit_at, accept, reject, close,
        register, deregister, post_recv, post_send, post_write, post_read, moved);

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        let mut network = self.network.borrow_mut();
        network.poll(now)?;
        events.append(&mut network.events[self.number]);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let network = self.network.borrow();
        match network.events[self.number].is_empty() {
            true => network.loopback.poll_timeout(),
            false => Some(Instant::ZERO),
        }
    }
}

/// A connection gets another number when it moves, as it does in a kernel.
impl Movable for End {
    type Moving = <Loopback as Movable>::Moving;

    fn take(&mut self, conn: ConnId) -> Option<Self::Moving> {
        let mut network = self.network.borrow_mut();
        let is_done = |event: &Event| !matches!(event, Event::Completion { conn: of, .. } | Event::Closed { conn: of, .. } if *of == conn);
        assert!(
            network.events[self.number].iter().all(is_done),
            "a poll takes all events"
        );
        network.conns.remove(&conn)?;
        network.loopback.take(conn)
    }

    fn put(&mut self, moving: Self::Moving) -> ConnId {
        let mut network = self.network.borrow_mut();
        let conn = network.loopback.put(moving);
        network.conns.insert(conn, self.number);
        conn
    }
}
