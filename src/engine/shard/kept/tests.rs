// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes on a shard whose fabric takes time to end a connection.

use alloc::rc::Rc;
use core::cell::{RefCell, RefMut};
use core::ops::DerefMut;
use core::time::Duration;
use std::os::fd::AsFd;

use super::*;
use crate::engine::admission::Limits;
use crate::engine::memory::Account;
use crate::engine::peer::fake::Told;
use crate::engine::pool::Pool;
use crate::engine::registry::Registry;
use crate::engine::shard::Rules;
use crate::fabric::iwarp::{self, Iwarp, KeptConn as KeptIwarp};
use crate::fabric::{
    Event, Fabric, FabricError, ListenerId, SharedEpoll, Waitable, forward_fabric,
};
use crate::proto;
use crate::transport::{Config, HeapBuffers, Transport};

/// A fabric that cannot keep one of its connections, and does not end it at once.
#[derive(Debug)]
struct Slow {
    inner: Iwarp,
    stuck: Option<ConnId>,
}

impl Fabric for Slow {
    forward_fabric!(self => self.inner;
        listen, local_address, conn_local_address, regions_may_be_invalidated, unlisten, admit_at, connect, accept,
        reject, register, deregister, post_recv, post_send, post_write, post_read, moved, poll, poll_timeout);

    fn close(&mut self, conn: ConnId) {
        if self.stuck != Some(conn) {
            self.inner.close(conn);
        }
    }
}

impl Waitable for Slow {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.event_fd()
    }
}

impl SharedEpoll for Slow {
    fn registry(&self) -> &mio::Registry {
        self.inner.registry()
    }

    fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError> {
        self.inner.wait(time)
    }

    fn ready(&mut self, keys: &mut Vec<u64>) {
        self.inner.ready(keys);
    }
}

impl Keep for Slow {
    fn may_keep(&self, conn: ConnId) -> bool {
        self.stuck != Some(conn) && self.inner.may_keep(conn)
    }

    fn keep(&self, conn: ConnId) -> Option<(KeptIwarp, BorrowedFd<'_>)> {
        self.inner.keep(conn)
    }

    fn adopt(
        &mut self,
        kept: KeptIwarp,
        descriptor: OwnedFd,
        memory: &mut dyn FnMut(RegionId) -> Option<Memory>,
    ) -> Result<ConnId, NotKept> {
        self.inner.adopt(kept, descriptor, memory)
    }

    fn end_at_once(&mut self, conn: ConnId) {
        if self.stuck != Some(conn) {
            self.inner.end_at_once(conn);
        }
    }

    fn take_events(&mut self, events: &mut Vec<Event>) {
        self.inner.take_events(events);
    }
}

/// The state that shards share.
#[derive(Clone, Debug)]
struct Office(Rc<RefCell<Registry<Told>>>);

impl Host for Office {
    type Worker = Told;

    fn registry(&self) -> impl DerefMut<Target = Registry<Told>> {
        RefMut::map(self.0.borrow_mut(), |registry| registry)
    }

    fn token(&self) -> Option<Token> {
        Some([1; 16])
    }
}

/// The descriptors that were passed on.
struct Passed(Vec<Option<OwnedFd>>);

impl Source<Told> for Passed {
    fn worker(&mut self, _: u32) -> Option<Told> {
        None
    }

    fn queue(&mut self, _: &KeptQueue) -> Option<(Memory, ())> {
        None
    }

    fn segment(&mut self, _: &KeptQueue, _: u32, _: usize) -> Option<Memory> {
        None
    }

    fn conn(&mut self, place: usize) -> Option<OwnedFd> {
        self.0.get_mut(place)?.take()
    }
}

fn config() -> Config {
    Config::new(proto::Config::default(), proto::Config::initiator_default())
}

fn shard() -> (Shard<Slow, Office>, SocketAddr) {
    let memory = Account::new(1 << 20);
    let rules = Rules {
        first_request_timeout: Duration::from_secs(20),
        login_timeout: Duration::from_secs(60),
        claim_timeout: Duration::from_secs(30),
        memory_idle_timeout: Duration::from_secs(5),
        queue_depth: 16,
        longest_send: 64 << 10,
        memory: Arc::clone(&memory),
    };
    let limits = Limits {
        max_connections: 16,
        max_unauthenticated: 16,
        max_undispatched: 16,
        gateways: Vec::new(),
    };
    let fabric = Slow {
        inner: Iwarp::new(iwarp::Config::default()).unwrap(),
        stuck: None,
    };
    let receive = crate::device::abi::RegionShape {
        unit_length: 4096,
        units_per_segment: 64,
        longest_run: 32,
        max_segments: 4,
    };
    let mut transport = Transport::new(fabric, Pool::new(receive, memory, 0), config());
    let listener: ListenerId = transport.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = transport.local_address(listener).unwrap();
    let office = Office(Rc::new(RefCell::new(Registry::new(limits))));
    let shard = Shard::new(
        (0, "software"),
        (office, rules),
        (transport, vec![listener]),
    );
    (shard, address)
}

#[test]
fn a_connection_that_takes_time_to_end_does_not_keep_others_from_being_kept() {
    let (mut old, address) = shard();
    let fabric = Iwarp::new(iwarp::Config::default()).unwrap();
    let mut clients = Transport::new(fabric, HeapBuffers::new(), config());
    let ours = [(); 3].map(|()| clients.connect(Instant::ZERO, address).unwrap());
    let mut seen = Vec::new();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while old.conns.len() < ours.len() || seen.len() < ours.len() {
        assert!(std::time::Instant::now() < end, "{seen:?}");
        old.step().unwrap();
        clients.poll(Instant::ZERO, &mut seen).unwrap();
    }
    let stuck = old.conns.iter().map(|(id, _)| id).next();
    old.fabric_mut().stuck = stuck;
    old.freeze();
    let (kept, descriptors, _) = old.keep();
    assert_eq!((kept.conns.len(), kept.ended.len()), (2, 1));
    let copies = descriptors
        .iter()
        .map(|conn| conn.as_fd().try_clone_to_owned().ok());
    let mut passed = Passed(copies.collect());
    let text = serde_json::to_string(&kept).unwrap();
    let kept: KeptShard = serde_json::from_str(&text).unwrap();
    assert!(kept.workers().is_empty());

    let (mut new, _) = shard();
    assert_eq!(new.adopt(kept, &mut passed), 2);
    let not_kept = new.host.registry().counters().get("not_kept").copied();
    assert_eq!(not_kept, Some(1));
    let ends = core::iter::from_fn(|| new.next_notice()).filter_map(|notice| match notice {
        Notice::Ended { close, .. } => Some(close.reason),
        _ => None,
    });
    assert_eq!(ends.collect::<Vec<_>>(), ["not_kept"]);
    // The old process ends, and the sockets of what was kept stay open in the new one.
    drop(old);
    let mut lost = Vec::new();
    while lost.is_empty() {
        assert!(
            std::time::Instant::now() < end,
            "its client notices the end"
        );
        new.step().unwrap();
        clients.poll(Instant::ZERO, &mut lost).unwrap();
    }
    let left = ours.iter().filter(|conn| clients.status(**conn).is_some());
    assert_eq!(left.count(), 2, "{lost:?}");
}
