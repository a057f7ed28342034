// SPDX-License-Identifier: GPL-2.0-or-later

//! A loopback whose ends are in two fabrics, like the ends of a network connection.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use smbdirect::fabric::forward_fabric;
use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{ConnId, Event, Fabric, FabricError, ListenerId, ReadLimits, Waitable};
use smbdirect::units::Instant;

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

/// Makes the two halves. The first one listens.
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

impl Fabric for Half {
    forward_fabric!(self => self.shared.borrow_mut().loopback;
        local_address, conn_local_address, unlisten, admit_at, accept, reject, close, register, deregister,
        post_recv, post_send, post_write, post_read);

    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        assert_eq!(self.side, 0);
        self.shared.borrow_mut().loopback.listen(address)
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let shared = &mut *self.shared.borrow_mut();
        let conn = shared.loopback.connect(address, limits)?;
        shared.side_of.insert(conn, self.side);
        Ok(conn)
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
