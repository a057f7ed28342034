// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes connections and listeners on to another process.
//!
//! All of a connection's state is in its queue pair and in the FPDUs that the socket has not taken; the kernel keeps
//! the rest. Connections that have not finished MPA's handshake, and sockets that linger, are not kept.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use mio::net::{TcpListener, TcpStream};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockRef, Type};

use super::Iwarp;
use super::acknowledge::Unacknowledged;
use super::conn::{Conn, Stage};
use super::fpdu::{OutFpdu, crc32c};
use super::listen::Listener;
use crate::fabric::iwarp::qp::{KeptQp, Qp};
use crate::fabric::wait::failed;
use crate::fabric::{
    CloseReason, ConnId, Event, FabricError, Keep, ListenerId, Moved, NotKept, RegionId,
};
use crate::sys::Memory;

/// The state of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeptConn {
    peer: SocketAddr,
    qp: KeptQp,
    out: VecDeque<OutFpdu>,
    out_sent: usize,
    position: u64,
    full: bool,
    unacknowledged: Option<Unacknowledged>,
    moved: Moved,
}

impl Conn {
    fn keep(&self) -> Option<KeptConn> {
        Some(KeptConn {
            peer: self.peer,
            qp: self.qp.as_ref()?.keep()?,
            out: self.out.clone(),
            out_sent: self.out_sent,
            position: self.position,
            full: self.full,
            unacknowledged: self.unacknowledged.clone(),
            moved: self.moved,
        })
    }

    fn adopt(stream: TcpStream, qp: Qp<Memory>, kept: KeptConn) -> Self {
        let mut conn = Self::new(stream, kept.peer, Stage::Established, None);
        conn.qp = Some(Box::new(qp));
        conn.out = kept.out;
        conn.out_sent = kept.out_sent;
        conn.position = kept.position;
        conn.full = kept.full;
        conn.unacknowledged = kept.unacknowledged;
        conn.moved = kept.moved;
        conn
    }
}

impl Keep for Iwarp {
    fn may_keep(&self, conn: ConnId) -> bool {
        let conn = self.conns.get(conn);
        conn.is_some_and(|conn| {
            let qp = conn.qp.as_ref();
            matches!(conn.stage, Stage::Established) && qp.is_some_and(|qp| qp.may_keep())
        })
    }

    fn keep(&self, conn: ConnId) -> Option<(KeptConn, BorrowedFd<'_>)> {
        if !self.may_keep(conn) {
            return None;
        }
        let conn = self.conns.get(conn)?;
        Some((conn.keep()?, conn.stream.as_fd()))
    }

    fn adopt(
        &mut self,
        kept: KeptConn,
        descriptor: OwnedFd,
        memory: &mut dyn FnMut(RegionId) -> Option<Memory>,
    ) -> Result<ConnId, NotKept> {
        // The socket may have been reset meanwhile, which the first attempt to use it shows.
        let stream = std::net::TcpStream::from(descriptor);
        let (kind, domain) = (SockRef::from(&stream).r#type(), domain(&stream));
        let is_tcp = matches!(kind, Ok(Type::STREAM)) && domain == Some(of(kept.peer));
        if !is_tcp || stream.set_nonblocking(true).is_err() {
            return Err(NotKept);
        }
        let qp = Qp::adopt(kept.qp.clone(), self.config.depths, crc32c, memory)?;
        let stream = TcpStream::from_std(stream);
        let mut conn = Conn::adopt(stream, qp, kept);
        let unacknowledged = conn.unacknowledged.take();
        let id = self.add(conn).map_err(|_| NotKept)?;
        if let (Some(conn), Some(kept)) = (self.conns.get_mut(id), unacknowledged) {
            self.questions
                .extend(kept.ask_at.map(|at| Reverse((at, id))));
            conn.unacknowledged = Some(kept);
        }
        Ok(id)
    }

    fn listener(&self, listener: ListenerId) -> Option<BorrowedFd<'_>> {
        Some(self.listeners.get(listener)?.socket.as_fd())
    }

    fn adopt_listener(&mut self, descriptor: OwnedFd) -> Result<ListenerId, FabricError> {
        let context = |source| failed("continue a listener", source);
        let socket = std::net::TcpListener::from(descriptor);
        socket.set_nonblocking(true).map_err(context)?;
        let address = socket.local_addr().map_err(context)?;
        let socket = TcpListener::from_std(socket);
        self.watch(Listener { socket, address }).map_err(context)
    }

    fn end_at_once(&mut self, conn: ConnId) {
        self.end_now(conn, CloseReason::Local);
    }

    fn take_events(&mut self, events: &mut Vec<Event>) {
        events.append(&mut self.events);
    }
}

fn domain(stream: &std::net::TcpStream) -> Option<Domain> {
    SockRef::from(stream).domain().ok()
}

/// Returns the domain of a socket whose peer has this address. Listeners for IPv6 accept no IPv4.
const fn of(peer: SocketAddr) -> Domain {
    match peer {
        SocketAddr::V4(_) => Domain::IPV4,
        SocketAddr::V6(_) => Domain::IPV6,
    }
}
