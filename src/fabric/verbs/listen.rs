// SPDX-License-Identifier: GPL-2.0-or-later

//! Handles listeners, and requests for connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::conn::Stage;
use super::ffi::{Channel, CmEvent, CmId, Depths};
use super::status::of_error;
use super::{Owner, Verbs};
use crate::fabric::iwarp::mpa::LegacyReadDepths;
use crate::fabric::{CloseReason, Event, ListenerId};
use crate::units::Instant;

/// Maximum number of requests that the system queues until they are handled.
const BACKLOG: i32 = 1024;

/// Time after which a listener that has lost its device tries again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// A listening identifier.
#[derive(Debug)]
pub(super) struct Listener {
    /// The identifier, or `None` if its device has gone or never existed.
    id: Option<CmId>,
    pub(super) address: SocketAddr,
    /// When to try again.
    pub(super) again_at: Option<Instant>,
}

impl Listener {
    pub(super) fn bind(channel: &Arc<Channel>, address: SocketAddr) -> io::Result<Self> {
        let id = CmId::new(channel)?;
        id.bind(address)?;
        id.listen(BACKLOG)?;
        let address = id.local_address().unwrap_or(address);
        Ok(Self {
            id: Some(id),
            address,
            again_at: None,
        })
    }

    /// Makes a listener on an address that no device has yet; it tries again later.
    const fn waiting(address: SocketAddr, again_at: Instant) -> Self {
        Self {
            id: None,
            address,
            again_at: Some(again_at),
        }
    }

    pub(super) fn key(&self) -> Option<usize> {
        self.id.as_ref().map(CmId::key)
    }
}

impl Verbs {
    /// Listens on `address`, or will do so when a device has it.
    pub(super) fn new_listener(&self, address: SocketAddr) -> io::Result<Listener> {
        match Listener::bind(&self.channel, address) {
            Err(error) if self.config.free_bind && is_missing(&error) => {
                Ok(Listener::waiting(address, self.now + LISTEN_AGAIN))
            }
            result => result,
        }
    }

    /// Gives up a listener whose device is being removed, because the removal waits for that.
    pub(super) fn lose_listener(&mut self, id: ListenerId) {
        let Some(listener) = self.listeners.get_mut(id) else {
            return;
        };
        let address = listener.address;
        tracing::warn!("the RDMA device of {address} was removed: not listening there");
        if let Some(key) = listener.key() {
            self.owners.remove(&key);
        }
        listener.id = None;
        listener.again_at = Some(self.now + LISTEN_AGAIN);
    }

    /// Listens again if a device that was removed is back.
    pub(super) fn listen_again(&mut self) {
        for (id, listener) in &mut self.listeners {
            if listener.again_at.is_none_or(|at| at > self.now) {
                continue;
            }
            match Listener::bind(&self.channel, listener.address) {
                Ok(again) => {
                    tracing::info!("listening on {} by RDMA again", again.address);
                    self.owners
                        .extend(again.key().map(|key| (key, Owner::Listener(id))));
                    *listener = again;
                }
                Err(_) => listener.again_at = Some(self.now + LISTEN_AGAIN),
            }
        }
    }

    /// Handles a peer's request for a connection.
    pub(super) fn admit(&mut self, listener: ListenerId, event: CmEvent, events: &mut Vec<Event>) {
        let Some(id) = event.id else {
            return;
        };
        let Some(peer) = id.peer_address() else {
            tracing::debug!("a request without an address was turned away");
            return;
        };
        let mut refuse = |reason| events.push(Event::Refused { peer, reason });
        if !self.admitted.admit_conn(id.local_address()) {
            return refuse(CloseReason::AddressNotAllowed);
        }
        let (depths, legacy) = (event.depths, LegacyReadDepths::parse(&event.private_data));
        let is_iwarp = id.device().is_ok_and(|device| device.is_iwarp);
        let legacy = legacy.filter(|_| is_iwarp);
        let stage = Stage::Requested {
            peer: agree(depths, legacy),
            legacy: legacy.is_some(),
        };
        match self.add(id, stage) {
            Err(error) => {
                tracing::debug!(%error, %peer, "connection dropped");
                refuse(of_error(&error));
            }
            Ok(id) => {
                if let Some(conn) = self.conns.get_mut(id) {
                    conn.listener = Some(listener);
                }
                events.push(Event::ConnectRequest {
                    listener,
                    conn: id,
                    peer,
                });
                let excess = self.pending.admit(id, peer.into(), self.pending_limits());
                if let Some((oldest, _)) = excess {
                    self.end_with(oldest, CloseReason::TooManyPending, false, events);
                }
            }
        }
    }
}

/// Returns whether the error means that no device has the address.
fn is_missing(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENODEV | libc::EADDRNOTAVAIL)
    )
}

/// Returns a peer's READ depths, from its point of view: those on which the connection managers agreed (MPA revision 2,
/// InfiniBand's REQ), but no more than the peer names in private data, the only source with MPA revision 1.
fn agree(event: Depths, legacy: Option<LegacyReadDepths>) -> Depths {
    // The event states the depths from this side's point of view.
    let peer = Depths {
        responder_resources: event.initiator_depth,
        initiator_depth: event.responder_resources,
    };
    let least = |depth: u8, named: u32| depth.min(u8::try_from(named).unwrap_or(u8::MAX));
    match legacy {
        None => peer,
        Some(legacy) => Depths {
            responder_resources: least(peer.responder_resources, legacy.ird),
            initiator_depth: least(peer.initiator_depth, legacy.ord),
        },
    }
}
