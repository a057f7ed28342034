// SPDX-License-Identifier: GPL-2.0-or-later

//! One network whose ends are separate fabrics.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{
    Access, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses, Moved, ReadLimits,
    Region, RegionId, RemoteAddress, Sge, WrId,
};
use smbdirect::sys::Memory;
use smbdirect::units::{Instant, RemoteToken};

struct Network {
    loopback: Loopback,
    listeners: HashMap<ListenerId, usize>,
    conns: HashMap<ConnId, usize>,
    /// The events that each end has not taken.
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
    /// The ends of a new network.
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

    fn with<T>(&self, call: impl FnOnce(&mut Loopback) -> T) -> T {
        call(&mut self.network.borrow_mut().loopback)
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
        let listener = self.with(|all| all.listen(address))?;
        let listeners = &mut self.network.borrow_mut().listeners;
        listeners.insert(listener, self.number);
        Ok(listener)
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.with(|all| all.local_address(listener))
    }

    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr> {
        self.with(|all| all.conn_local_address(conn))
    }

    fn regions_may_be_invalidated(&self, conn: ConnId) -> bool {
        self.with(|all| all.regions_may_be_invalidated(conn))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.with(|all| all.unlisten(listener));
    }

    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        self.with(|all| all.admit_at(addresses));
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let conn = self.with(|all| all.connect(address, limits))?;
        self.network.borrow_mut().conns.insert(conn, self.number);
        Ok(conn)
    }

    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        self.with(|all| all.accept(conn, limits))
    }

    fn reject(&mut self, conn: ConnId) {
        self.with(|all| all.reject(conn));
    }

    fn close(&mut self, conn: ConnId) {
        self.with(|all| all.close(conn));
    }

    fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError> {
        self.with(|all| all.register(conn, memory, access))
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        self.with(|all| all.deregister(conn, region))
    }

    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        self.with(|all| all.post_recv(conn, wr_id, memory))
    }

    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        self.with(|all| all.post_send(conn, wr_id, header, payload, invalidate))
    }

    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.with(|all| all.post_write(conn, wr_id, source, target))
    }

    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.with(|all| all.post_read(conn, wr_id, sink, source))
    }

    fn moved(&self, conn: ConnId) -> Moved {
        self.with(|all| all.moved(conn))
    }

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
