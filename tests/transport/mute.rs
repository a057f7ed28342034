// SPDX-License-Identifier: GPL-2.0-or-later

//! A fabric on which a peer asks for a connection that is never established; or on which connections are established,
//! but nothing can be sent.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use slotmap::SlotMap;
use smbdirect::fabric::{
    Access, CloseReason, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses,
    ReadLimits, Region, RegionId, RemoteAddress, Sge, Waitable, WrId,
};
use smbdirect::sys::Memory;
use smbdirect::units::{Instant, RemoteToken};

#[derive(Debug, Default)]
pub(crate) struct Mute {
    conns: SlotMap<ConnId, ()>,
    ready: Vec<Event>,
    asked: bool,
    /// Whether `connect` succeeds but the send queue is always full.
    clogged: bool,
}

impl Mute {
    pub(crate) fn clogged() -> Self {
        Self {
            clogged: true,
            ..Self::default()
        }
    }
}

impl Fabric for Mute {
    fn listen(&mut self, _: SocketAddr) -> Result<ListenerId, FabricError> {
        Ok(ListenerId::default())
    }

    fn local_address(&self, _: ListenerId) -> Option<SocketAddr> {
        None
    }

    fn conn_local_address(&self, _: ConnId) -> Option<SocketAddr> {
        None
    }

    fn unlisten(&mut self, _: ListenerId) {}

    fn admit_at(&mut self, _: &Arc<LocalAddresses>) {}

    fn connect(&mut self, _: SocketAddr, _: ReadLimits) -> Result<ConnId, FabricError> {
        let conn = self.conns.insert(());
        if self.clogged {
            let limits = ReadLimits::default();
            self.ready.push(Event::Established { conn, limits });
        }
        Ok(conn)
    }

    fn accept(&mut self, _: ConnId, _: ReadLimits) -> Result<(), FabricError> {
        Ok(())
    }

    fn reject(&mut self, _: ConnId) {}

    fn close(&mut self, conn: ConnId) {
        // The connection's slot is free for another connection before the owner learns of the end.
        if self.conns.remove(conn).is_none() {
            return;
        }
        let reason = CloseReason::Local;
        self.ready.push(Event::Closed { conn, reason });
    }

    fn register(&mut self, _: ConnId, _: &Memory, _: Access) -> Result<Region, FabricError> {
        let remote = RemoteAddress {
            token: RemoteToken(1),
            address: 0,
        };
        Ok(Region {
            id: RegionId(0),
            remote,
        })
    }

    fn deregister(&mut self, _: ConnId, _: RegionId) -> Result<(), FabricError> {
        Ok(())
    }

    fn post_recv(&mut self, _: ConnId, _: WrId, _: Sge) -> Result<(), FabricError> {
        Ok(())
    }

    fn post_send(
        &mut self,
        _: ConnId,
        _: WrId,
        _: &[u8],
        _: Option<Sge>,
        _: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        Err(FabricError::QueueFull)
    }

    fn post_write(
        &mut self,
        _: ConnId,
        _: WrId,
        _: Sge,
        _: RemoteAddress,
    ) -> Result<(), FabricError> {
        Err(FabricError::NotConnected)
    }

    fn post_read(
        &mut self,
        _: ConnId,
        _: WrId,
        _: Sge,
        _: RemoteAddress,
    ) -> Result<(), FabricError> {
        Err(FabricError::NotConnected)
    }

    fn poll(&mut self, _: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        if !std::mem::replace(&mut self.asked, true) && !self.clogged {
            events.push(Event::ConnectRequest {
                listener: ListenerId::default(),
                conn: self.conns.insert(()),
                peer: SocketAddr::from(([192, 0, 2, 1], 445)),
            });
        }
        events.append(&mut self.ready);
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (!self.ready.is_empty()).then_some(Instant::ZERO)
    }
}

impl Waitable for Mute {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
