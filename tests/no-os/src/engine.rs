// SPDX-License-Identifier: GPL-2.0-or-later

//! Links the engine with a fabric that goes nowhere: a kernel supplies its own.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::net::SocketAddr;
use core::ptr::NonNull;

use slotmap::SlotMap;
use smbdirect::device::message::{encode, read_request};
use smbdirect::device::{Status, abi};
use smbdirect::engine::admission::{Admission, Limits, Place};
use smbdirect::engine::memory::{Account, Segment};
use smbdirect::engine::peer::{Peer, Role, Untold};
use smbdirect::engine::registry::{Carried, Close, Registry, Route};
use smbdirect::engine::warnings::Warnings;
use smbdirect::engine::{reason, submission};
use smbdirect::fabric::{
    Access, CloseReason, ConnId, Event, Fabric, FabricError, ListenerId, LocalAddresses, Movable,
    ReadLimits, Region, RegionId, RemoteAddress, Sge, Source, WcStatus, Work, WrId,
};
use smbdirect::proto;
use smbdirect::shm::buffers::{Buffers, Shape};
use smbdirect::shm::{Consumer, Doorbell, Producer, RingMemory, ring_length};
use smbdirect::sys::{Memory, OsError};
use smbdirect::transport::{self, Config, HeapBuffers, Lines, Transport};
use smbdirect::units::{Instant, RemoteToken};
use smbdirect::wire::BufferDescriptorV1;
use zerocopy::{Immutable, IntoBytes};

use crate::shard::shard;

#[derive(Default)]
pub(crate) struct Nowhere {
    conns: SlotMap<ConnId, ()>,
    posted: Vec<(ConnId, WrId, Work)>,
}

impl Nowhere {
    pub(crate) fn is_idle(&self) -> bool {
        self.posted.is_empty()
    }

    fn post(&mut self, conn: ConnId, wr_id: WrId, work: Work) -> Result<(), FabricError> {
        self.conns.get(conn).ok_or(FabricError::NotConnected)?;
        self.posted.push((conn, wr_id, work));
        Ok(())
    }
}

impl Movable for Nowhere {
    type Moving = ();

    fn take(&mut self, conn: ConnId) -> Option<()> {
        self.conns.remove(conn)
    }

    fn put(&mut self, (): ()) -> ConnId {
        self.conns.insert(())
    }
}

impl Fabric for Nowhere {
    fn listen(&mut self, _: SocketAddr) -> Result<ListenerId, FabricError> {
        Err(FabricError::Os {
            context: "listen".into(),
            source: OsError(Status::System.errno()),
        })
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
        Ok(self.conns.insert(()))
    }

    fn accept(&mut self, _: ConnId, _: ReadLimits) -> Result<(), FabricError> {
        Ok(())
    }

    fn reject(&mut self, conn: ConnId) {
        self.conns.remove(conn);
    }

    fn close(&mut self, conn: ConnId) {
        self.conns.remove(conn);
    }

    fn register(&mut self, _: ConnId, _: &Memory, _: Access) -> Result<Region, FabricError> {
        Ok(Region {
            id: RegionId(1),
            remote: RemoteAddress {
                token: RemoteToken(1),
                address: 0,
            },
        })
    }

    fn deregister(&mut self, _: ConnId, _: RegionId) -> Result<(), FabricError> {
        Ok(())
    }

    fn post_recv(&mut self, conn: ConnId, wr_id: WrId, _: Sge) -> Result<(), FabricError> {
        let work = Work::Recv {
            length: 0,
            invalidated: None,
        };
        self.post(conn, wr_id, work)
    }

    fn post_send(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        _: &[u8],
        _: Option<Sge>,
        _: Option<RemoteToken>,
    ) -> Result<(), FabricError> {
        self.post(conn, wr_id, Work::Send)
    }

    fn post_write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        _: Sge,
        _: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.post(conn, wr_id, Work::Write)
    }

    fn post_read(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        _: Sge,
        _: RemoteAddress,
    ) -> Result<(), FabricError> {
        self.post(conn, wr_id, Work::Read)
    }

    fn poll(&mut self, _: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        for (conn, wr_id, work) in self.posted.drain(..) {
            events.push(Event::Completion {
                conn,
                wr_id,
                work,
                result: Ok(()),
            });
        }
        let conns = self.conns.drain();
        events.extend(conns.map(|(conn, ())| Event::Closed {
            conn,
            reason: CloseReason::from(WcStatus::FATAL),
        }));
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

#[derive(Debug)]
pub(crate) struct NoBell;

impl Doorbell for NoBell {
    fn ring(&self) {}
}

/// Makes memory of the `length` bytes at `start`, whose release does nothing.
///
/// # Safety
///
/// The bytes outlive the memory, and no reference points into them.
unsafe fn memory(start: NonNull<u8>, length: usize) -> Memory {
    unsafe extern "C" fn release(_: *mut c_void) {}
    // SAFETY: the caller promises that the bytes outlive the memory; `release` does nothing.
    unsafe { Memory::foreign((start, length), core::ptr::null_mut(), release) }
}

pub(crate) fn engine(bytes: &[u8], now: Instant) -> usize {
    transport(bytes, now) ^ rings(bytes) ^ rules(bytes, now) ^ shard(bytes, now)
}

fn transport(bytes: &[u8], now: Instant) -> usize {
    let config = Config::new(proto::Config::default(), proto::Config::default());
    let mut transport = Transport::new(Nowhere::default(), HeapBuffers::new(), config);
    let peer = SocketAddr::from(([192, 0, 2, 1], 445));
    let Ok(conn) = transport.connect(now, peer) else {
        return 0;
    };
    let memory = Memory::zeroed(bytes.len());
    let written = memory.write(0, bytes).is_ok();
    let region = transport.register(conn, &memory, Access::ReadSink);
    let local = Sge {
        region: region.map_or(RegionId(0), |region| region.id),
        offset: 0,
        length: bytes.len() as u32,
    };
    let remote = BufferDescriptorV1 {
        offset: 0,
        token: RemoteToken(1),
        length: local.length,
    };
    let taken = [
        transport.send(conn, 1, local, Some(RemoteToken(2))),
        transport.write(conn, 2, local, [remote]),
        transport.read(conn, 3, local, [remote]),
    ];
    let mut events = Vec::new();
    let polled = transport.poll(now, &mut events);
    let mut sum = usize::from(written) ^ usize::from(polled.is_ok());
    for event in events {
        sum ^= match event {
            transport::Event::Message { buffer, .. } => {
                transport.recycle(buffer);
                1
            }
            transport::Event::Closed { reason, .. } => reason::of_close(&reason).code() as usize,
            _ => 2,
        };
    }
    transport.raise_receives(conn);
    transport.close(conn);
    transport.abort(conn);
    transport.admit_at(&Arc::new(LocalAddresses::All));
    let _ = transport.deregister(conn, local.region);
    let status = transport.status(conn).map_or(0, |status| status.queued);
    let refused = taken.into_iter().filter_map(Result::err);
    sum ^ status ^ refused.map(|error| error.name().len()).sum::<usize>()
}

fn rings(bytes: &[u8]) -> usize {
    let capacity = 8;
    let mut room = [0_u64; 256];
    let start = NonNull::from(&mut room).cast();
    // SAFETY: `room` outlives the memory, and nothing else uses it.
    let memory = unsafe { memory(start, size_of_val(&room)) };
    let fits = ring_length(capacity).is_some_and(|length| length <= memory.len());
    let ring = RingMemory::create(&memory, capacity).and_then(|_| RingMemory::open(&memory));
    let Ok(ring) = ring else {
        return usize::from(fits);
    };
    let mut producer = Producer::new(ring.clone(), NoBell);
    let mut consumer = Consumer::new(ring, NoBell);
    let mut entries = [[bytes.len() as u64; 8]; 4];
    let pushed = producer
        .push(&entries)
        .and_then(|_| producer.announce_sleep());
    let popped = consumer.pop(&mut entries).and_then(|n| {
        consumer.announce_deep_sleep()?;
        Ok(n)
    });
    let judged = entries.map(|entry| {
        submission::parse(entry).map_or_else(|violation| violation.name().len(), |_| 1)
    });
    let shape = Shape {
        unit_length: 64,
        units_per_segment: 8,
        longest_run: 8,
        max_segments: 2,
    };
    let Ok(mut buffers) = Buffers::new(shape) else {
        return 0;
    };
    let added = buffers.add(0, memory);
    let buffer = buffers.allocate(bytes.len());
    let freed = buffer.map(|buffer| buffers.free(buffer).is_ok());
    judged.into_iter().sum::<usize>()
        ^ usize::from(pushed.is_ok())
        ^ popped.unwrap_or_default()
        ^ usize::from(added.is_ok())
        ^ usize::from(freed.is_ok())
}

fn rules(bytes: &[u8], now: Instant) -> usize {
    let limits = Limits {
        max_connections: bytes.len(),
        max_unauthenticated: 2,
        max_undispatched: 2,
        gateways: Vec::new(),
    };
    let (mut admission, source) = (
        Admission::new(limits.clone()),
        Source::of([192, 0, 2, 1].into()),
    );
    let place = Place {
        shard: 0,
        conn: ConnId::default(),
    };
    let excess = admission.admit(place, source);
    let offered = admission.offer(place, source);
    admission.stays(place, source);
    admission.authenticated(place);
    let next = admission.closed(place);
    let words = excess.map_or(0, |(_, limit)| limit.name().len());

    let routed = routes(place, limits, now);

    let line = Lines::default().admit(now);
    let warning = Warnings::default().met("max_connections", 1, now);

    let (worker, total) = (Account::new(1 << 20), Account::new(1 << 20));
    let make = |length| Ok((Memory::zeroed(length), ()));
    let segment = Segment::create(bytes.len(), &worker, (&total, 0), make);

    let mut message = Vec::new();
    let claim = abi::Claim {
        token: abi::Token::default(),
    };
    encode(1, &claim, &[], &mut message);
    let request = read_request(bytes).is_ok() ^ read_request(&message).is_ok();
    words
        ^ routed
        ^ usize::from(offered)
        ^ usize::from(next.is_some())
        ^ usize::from(line.is_some())
        ^ usize::from(warning.is_some())
        ^ usize::from(segment.is_ok())
        ^ usize::from(request)
        ^ Status::System.errno() as usize
}

#[derive(Clone)]
struct Process(u32);

impl Peer for Process {
    fn id(&self) -> u32 {
        self.0
    }

    fn role(&self) -> Role {
        Role::of(self.0).unwrap_or(Role::Worker)
    }

    fn invited(&self) -> bool {
        self.0 > 1
    }

    fn tell<T: IntoBytes + Immutable>(&self, _: u32, _: u64, _: &T) -> Result<(), Untold> {
        Ok(())
    }
}

fn routes(place: Place, limits: Limits, now: Instant) -> usize {
    let mut registry = Registry::new(limits);
    let (process, guid, token) = (Process(1), [1; 16], abi::Token::default());
    let may = registry.may_attach(process.role(), 1);
    registry.attach(&process);
    let registered = registry.register(1, guid, 1, 1);
    let peer = SocketAddr::from(([192, 0, 2, 1], 445));
    let excess = registry.established(place, peer);
    let owner = match registry.route(&guid) {
        Route::Worker(process) | Route::Listener(process) => process.id(),
        Route::Nobody => 0,
    };
    let offered = registry.may_offer(place, peer);
    registry.offer(token, place);
    let claimed = registry.claim(&token);
    let next = registry.dispatched(place);
    registry.authenticated(place);
    let close = Close {
        peer,
        local: None,
        fabric: "nowhere",
        worker: Some(owner),
        reason: "peer",
        at: now,
        age: Default::default(),
        bytes_received: 0,
        bytes_sent: 0,
    };
    let behind = registry.closed(place, close, (true, "peer"));
    registry.shard_ended(
        (0, "nowhere"),
        Carried::default(),
        [("peer", 1)].into_iter(),
    );
    let unregistered = registry.unregister(1, guid, 0);
    registry.detach(1);
    let counts =
        registry.closes().count() + registry.processes().count() + registry.counters().len();
    owner as usize
        ^ counts
        ^ usize::from(may.is_ok())
        ^ usize::from(registered.is_ok())
        ^ usize::from(unregistered.is_ok())
        ^ usize::from(excess.is_some())
        ^ usize::from(offered)
        ^ usize::from(claimed.is_some())
        ^ usize::from(next.is_some() ^ behind.is_some())
}
