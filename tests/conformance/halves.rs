//! A loopback whose ends live in two fabrics, as those of a network do.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;

use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{
    Access, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses, ReadLimits, Region,
    RegionId, RemoteAddress, Sge, Waitable, WrId,
};
use smbdirect::sys::Memory;
use smbdirect::units::{Instant, RemoteToken};

/// One of two fabrics that share a [`Loopback`] and see only their own ends of its connections.
pub struct Half {
    shared: Rc<RefCell<Shared>>,
    side: usize,
}

struct Shared {
    loopback: Loopback,
    side_of: HashMap<ConnId, usize>,
    events: [Vec<Event>; 2],
}

/// The two halves; the first one listens.
pub fn halves() -> (Half, Half) {
    let shared = Rc::new(RefCell::new(Shared {
        loopback: Loopback::new(LoopbackConfig::default()).unwrap(),
        side_of: HashMap::new(),
        events: [Vec::new(), Vec::new()],
    }));
    let half = |side| Half {
        shared: Rc::clone(&shared),
        side,
    };
    (half(0), half(1))
}

impl Half {
    fn with<T>(&self, call: impl FnOnce(&mut Loopback) -> T) -> T {
        call(&mut self.shared.borrow_mut().loopback)
    }
}

impl Fabric for Half {
    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        assert_eq!(self.side, 0);
        self.with(|f| f.listen(address))
    }

    fn local_address(&self, listener: ListenerId) -> Option<SocketAddr> {
        self.with(|f| f.local_address(listener))
    }

    fn conn_local_address(&self, conn: ConnId) -> Option<SocketAddr> {
        self.with(|f| f.conn_local_address(conn))
    }

    fn unlisten(&mut self, listener: ListenerId) {
        self.with(|f| f.unlisten(listener));
    }

    fn admit_at(&mut self, addresses: &Arc<LocalAddresses>) {
        self.with(|f| f.admit_at(addresses));
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let conn = self.with(|f| f.connect(address, limits))?;
        self.shared.borrow_mut().side_of.insert(conn, self.side);
        Ok(conn)
    }

    fn accept(&mut self, conn: ConnId, limits: ReadLimits) -> Result<(), FabricError> {
        self.with(|f| f.accept(conn, limits))
    }

    fn reject(&mut self, conn: ConnId) {
        self.with(|f| f.reject(conn));
    }

    fn close(&mut self, conn: ConnId) {
        self.with(|f| f.close(conn));
    }

    fn register(
        &mut self,
        conn: ConnId,
        memory: &Memory,
        access: Access,
    ) -> Result<Region, FabricError> {
        self.with(|f| f.register(conn, memory, access))
    }

    fn deregister(&mut self, conn: ConnId, region: RegionId) -> Result<(), FabricError> {
        self.with(|f| f.deregister(conn, region))
    }

    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, memory: Sge) -> Result<(), FabricError> {
        self.with(|f| f.post_recv(conn, wr_id, memory))
    }

    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        self.with(|f| f.post_send(conn, wr_id, header, payload, invalidate))
    }

    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.with(|f| f.post_write(conn, wr_id, source, target))
    }

    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.with(|f| f.post_read(conn, wr_id, sink, source))
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        let shared = &mut *self.shared.borrow_mut();
        let mut all = Vec::new();
        shared.loopback.poll(now, &mut all)?;
        for event in all {
            let side = match &event {
                Event::ConnectRequest { conn, .. } => {
                    shared.side_of.insert(*conn, 0);
                    0
                }
                Event::Established { conn, .. }
                | Event::Completion { conn, .. }
                | Event::Closed { conn, .. } => shared.side_of[conn],
                Event::Refused { .. } => 0,
            };
            shared.events[side].push(event);
        }
        events.append(&mut shared.events[self.side]);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let shared = self.shared.borrow();
        if shared.events[self.side].is_empty() {
            shared.loopback.poll_timeout()
        } else {
            Some(Instant::ZERO)
        }
    }
}

impl Waitable for Half {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
