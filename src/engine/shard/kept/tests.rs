// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes on a shard whose fabric takes time to end a connection.

use alloc::rc::Rc;
use alloc::sync::Arc;
use core::cell::{RefCell, RefMut};
use core::ops::DerefMut;
use core::time::Duration;
use std::os::fd::{AsFd, BorrowedFd};

use super::*;
use crate::engine::admission::Limits;
use crate::engine::memory::Account;
use crate::engine::peer::fake::Told;
use crate::engine::pool::Pool;
use crate::engine::registry::Registry;
use crate::engine::shard::{Host, Notice, Rules, Shard};
use crate::fabric::iwarp::{self, Iwarp, KeptConn as KeptIwarp};
use crate::fabric::{
    ConnId, Event, Fabric, FabricError, Keep, NotKept, SharedEpoll, Waitable, forward_fabric,
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

/// The descriptors that were passed on, and the worker, if there is one.
struct Passed(Vec<Option<OwnedFd>>, Option<Told>);

impl Source<Told> for Passed {
    fn worker(&mut self, _: u32) -> Option<Told> {
        self.1.clone()
    }

    fn queue(&mut self, _: &KeptQueue) -> Option<(Memory, ())> {
        let memory = self.1.as_ref()?.queue.borrow().clone();
        Some((memory?, ()))
    }

    fn segment(&mut self, _: &KeptQueue, _: u32, length: usize) -> Option<Memory> {
        // Nothing has been received.
        Some(Memory::zeroed(length))
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
    let listener = transport.listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = transport.local_address(listener).unwrap();
    let office = Office(Rc::new(RefCell::new(Registry::new(limits))));
    let shard = Shard::new(
        (0, "software"),
        (office, rules),
        (transport, vec![listener]),
    );
    (shard, address)
}

const TIMEOUT: Duration = Duration::from_secs(20);

/// Returns a shard with three connections, and their clients.
fn connected() -> (
    Shard<Slow, Office>,
    Transport<Iwarp, HeapBuffers>,
    [ConnId; 3],
) {
    let (mut shard, address) = shard();
    let fabric = Iwarp::new(iwarp::Config::default()).unwrap();
    let mut clients = Transport::new(fabric, HeapBuffers::new(), config());
    let ours = [(); 3].map(|()| clients.connect(Instant::ZERO, address).unwrap());
    let mut seen = Vec::new();
    let end = std::time::Instant::now() + TIMEOUT;
    while shard.conns.len() < ours.len() || seen.len() < ours.len() {
        assert!(std::time::Instant::now() < end, "{seen:?}");
        shard.step().unwrap();
        clients.poll(Instant::ZERO, &mut seen).unwrap();
    }
    (shard, clients, ours)
}

/// Stops a shard while one of its connections does not end. Returns what it passes on.
fn pass_on(shard: &mut Shard<Slow, Office>, worker: Option<Told>) -> (KeptShard, Passed) {
    let stuck = shard.conns.iter().map(|(id, _)| id).next();
    shard.fabric_mut().stuck = stuck;
    shard.freeze();
    let (kept, descriptors, _) = shard.keep();
    assert_eq!((kept.conns.len(), kept.ended.len()), (2, 1));
    let copies = descriptors
        .iter()
        .map(|conn| conn.as_fd().try_clone_to_owned().ok());
    let passed = Passed(copies.collect(), worker);
    let text = serde_json::to_string(&kept).unwrap();
    (serde_json::from_str(&text).unwrap(), passed)
}

#[test]
fn a_connection_that_takes_time_to_end_does_not_keep_others_from_being_kept() {
    let (mut old, mut clients, ours) = connected();
    let (kept, mut passed) = pass_on(&mut old, None);
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
    let (mut lost, end) = (Vec::new(), std::time::Instant::now() + TIMEOUT);
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

#[test]
fn a_worker_learns_of_the_end_of_such_a_connection_from_the_next_device() {
    let (mut old, _clients, _) = connected();
    let worker = Told::new(1 << 20);
    old.host.registry().attach(&worker);
    let all: Vec<ConnId> = old.conns.iter().map(|(id, _)| id).collect();
    for id in all {
        old.assign(id, &worker);
    }
    old.flush_queues();
    let backlog = |shard: &mut Shard<Slow, Office>| {
        let queue = shard.queues.values_mut().next().unwrap();
        let (waiting, in_ring) = queue.backlog();
        (queue.count(), waiting, in_ring)
    };
    let (count, waiting, told) = backlog(&mut old);
    assert_eq!((count, waiting), (3, 0));
    let (kept, mut passed) = pass_on(&mut old, Some(worker));
    assert_eq!(kept.workers().into_iter().collect::<Vec<_>>(), [1]);
    // The worker has not been told here, because the fabric may still use its memory.
    assert_eq!(backlog(&mut old), (3, 0, told));
    let (mut new, _) = shard();
    assert_eq!(new.adopt(kept, &mut passed), 2);
    assert_eq!(backlog(&mut new), (2, 1, told), "it will be told");
}

#[test]
fn a_worker_that_breaks_a_rule_at_the_last_moment_keeps_nobody_else_from_being_kept() {
    let (mut old, _clients, _) = connected();
    let worker = Told::new(1 << 20);
    old.host.registry().attach(&worker);
    let id = old.conns.iter().map(|(id, _)| id).next().unwrap();
    old.assign(id, &worker);
    // This is what the worker may write at any moment: the ring's indexes.
    let memory = worker.queue.borrow().clone().unwrap();
    memory.write(0, &vec![0xff; memory.len()]).unwrap();
    old.freeze();
    let (kept, ..) = old.keep();
    assert_eq!((kept.conns.len(), kept.ended.len()), (2, 0));
    assert!(kept.queues.is_empty());
    let mut notices = core::iter::from_fn(|| old.next_notice());
    assert!(notices.any(|notice| matches!(notice, Notice::Fault { worker: 1, .. })));
}
