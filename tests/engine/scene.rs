// SPDX-License-Identifier: GPL-2.0-or-later

//! Shards with their shared state, their processes, and clients.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::DerefMut;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use smbdirect::device::Status;
use smbdirect::device::abi::{RegionShape, Token};
use smbdirect::engine::admission::{Limits, Place};
use smbdirect::engine::memory::Account;
use smbdirect::engine::peer::{Peer, Role};
use smbdirect::engine::pool::{Pool, QueueId};
use smbdirect::engine::registry::{Carried, Registry};
use smbdirect::engine::shard::{Claim, Host, Moving, Notice, Rules, Scope, Shard};
use smbdirect::fabric::{Access, ConnId, Movable, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, Transport};
use smbdirect::units::{Credits, Instant};
use smbdirect::wire::BufferDescriptorV1;

use crate::network::End;
use crate::process::{Process, Rings, UNIT};

/// The state that shards share; tokens are consecutive numbers.
#[derive(Clone, Debug)]
pub(crate) struct Office(Rc<RefCell<(Registry<Process>, u8)>>);

impl Host for Office {
    type Worker = Process;

    fn registry(&self) -> impl DerefMut<Target = Registry<Process>> {
        std::cell::RefMut::map(self.0.borrow_mut(), |(registry, _)| registry)
    }

    fn token(&self) -> Option<Token> {
        let (_, last) = &mut *self.0.borrow_mut();
        *last = last.checked_add(1)?;
        Some([*last; 16])
    }
}

/// What a client saw.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Established,
    Message(Vec<u8>),
    Closed(&'static str),
}

/// A connection that is in no shard.
type Traveller = Moving<<End as Movable>::Moving, Process>;

/// How shards are made.
struct Maker {
    end: End,
    office: Office,
    rules: Rules,
    config: Config,
    total: Arc<Account>,
}

impl Maker {
    /// Makes a shard, whose transport listens if `listens`.
    fn shard(&self, number: usize, listens: bool) -> (Shard<End, Office>, Option<SocketAddr>) {
        let receive = RegionShape {
            unit_length: UNIT,
            units_per_segment: 64,
            longest_run: 32,
            max_segments: 4,
        };
        let pool = Pool::new(receive, Arc::clone(&self.total), 0);
        let mut transport = Transport::new(self.end.another(), pool, self.config);
        let any = "127.0.0.1:0".parse().unwrap();
        let listener = listens.then(|| transport.listen(any).unwrap());
        let address = listener.and_then(|listener| transport.local_address(listener));
        let host = (self.office.clone(), self.rules.clone());
        let listeners = listener.into_iter().collect();
        let shard = Shard::new((number, "loopback"), host, (transport, listeners));
        (shard, address)
    }
}

pub(crate) struct Scene {
    pub(crate) now: Instant,
    pub(crate) shards: Vec<Shard<End, Office>>,
    /// The shard of each worker, if workers have shards of their own. Then shard 0 has all other connections.
    pub(crate) homes: Option<BTreeMap<u32, usize>>,
    /// Connections that are in no shard. They stay there as long as `is_holding`.
    pub(crate) moving: Vec<Traveller>,
    pub(crate) is_holding: bool,
    maker: Maker,
    addresses: Vec<SocketAddr>,
    clients: Transport<End, HeapBuffers>,
    seen: BTreeMap<ConnId, Vec<Seen>>,
    pub(crate) office: Office,
    pub(crate) total: Arc<Account>,
    processes: BTreeMap<u32, Process>,
    /// All queues that have ever existed, with their shards.
    queues: Vec<(usize, QueueId)>,
    last_id: u32,
    /// The reasons why processes were detached.
    pub(crate) faults: Vec<(u32, Status, String)>,
    /// The names of the reasons for which connections ended, in order.
    pub(crate) ends: Vec<&'static str>,
}

/// Maximum memory of a worker, in bytes.
const LIMIT: u64 = 2 << 20;

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(1, |_, _| ())
    }

    pub(crate) fn with(shards: usize, change: impl Fn(&mut Rules, &mut Limits)) -> Self {
        let total = Account::new(32 << 20);
        let mut rules = Rules {
            first_request_timeout: Duration::from_secs(20),
            login_timeout: Duration::from_secs(60),
            claim_timeout: Duration::from_secs(30),
            memory_idle_timeout: Duration::from_secs(5),
            queue_depth: 16,
            longest_send: 64 << 10,
            memory: Arc::clone(&total),
        };
        let mut limits = Limits {
            max_connections: 16,
            max_unauthenticated: 8,
            max_undispatched: 8,
            gateways: vec!["127.0.0.1:1".parse::<SocketAddr>().unwrap().into()],
        };
        change(&mut rules, &mut limits);
        let office = Office(Rc::new(RefCell::new((Registry::new(limits), 0))));
        let end = End::network(1).remove(0);
        let config = Config {
            first_receive_credit_max: Credits(8),
            ..Config::new(proto::Config::default(), proto::Config::initiator_default())
        };
        let clients = Transport::new(end.clone(), HeapBuffers::new(), config);
        let maker = Maker {
            end,
            office: office.clone(),
            rules,
            config,
            total: Arc::clone(&total),
        };
        let made = (0..shards).map(|number| maker.shard(number, true));
        let (shards, addresses): (Vec<_>, Vec<_>) = made.unzip();
        Self {
            now: Instant::ZERO + Duration::from_secs(1000),
            shards,
            homes: None,
            moving: Vec::new(),
            is_holding: false,
            maker,
            addresses: addresses.into_iter().flatten().collect(),
            clients,
            seen: BTreeMap::new(),
            office,
            total,
            processes: BTreeMap::new(),
            queues: Vec::new(),
            last_id: 0,
            faults: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Makes a scene in which each worker has a shard of its own.
    pub(crate) fn apart(change: impl Fn(&mut Rules, &mut Limits)) -> Self {
        let mut scene = Self::with(1, change);
        let lobby = scene.shards.remove(0);
        scene.shards.push(lobby.with_scope(Scope::Unowned));
        scene.homes = Some(BTreeMap::new());
        scene
    }

    /// Lets everything do its pending work at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.round() {
                return;
            }
        }
        panic!("still busy after many rounds");
    }

    /// Lets everything do a bit of its work, and returns whether there was any.
    pub(crate) fn round(&mut self) -> bool {
        let mut busy = false;
        for (shard, queue) in &self.queues {
            let shard = &mut self.shards[*shard];
            if shard.bell(*queue).is_some_and(Rings::take) {
                shard.rung(*queue);
            }
        }
        for index in 0..self.shards.len() {
            let shard = &mut self.shards[index];
            shard.set_now(self.now);
            busy |= shard.step().unwrap() || shard.is_due();
            while let Some(notice) = self.shards[index].next_notice() {
                busy = true;
                self.notice(index, notice);
            }
            let shard = &mut self.shards[index];
            busy |= !shard.announce_sleep();
            busy |= shard.next_deadline().is_some_and(|at| at <= self.now);
        }
        if !self.is_holding {
            for moving in std::mem::take(&mut self.moving) {
                busy = true;
                self.put(moving);
            }
        }
        let mut events = Vec::new();
        self.clients.poll(self.now, &mut events).unwrap();
        busy |= !events.is_empty();
        for event in events {
            let (conn, seen) = match event {
                Event::Established { conn, .. } => (conn, Seen::Established),
                Event::Message { conn, buffer, .. } => {
                    let message = buffer.clone();
                    self.clients.recycle(buffer);
                    (conn, Seen::Message(message))
                }
                Event::Closed { conn, reason, .. } => (conn, Seen::Closed(reason.name())),
                Event::Sent { .. } | Event::Invalidated { .. } => continue,
                other => panic!("{other:?}"),
            };
            self.seen.entry(conn).or_default().push(seen);
        }
        busy | self.clients.poll_timeout().is_some_and(|at| at <= self.now)
    }

    /// Puts a connection into the shard where it belongs.
    fn put(&mut self, mut moving: Traveller) {
        let homes = self.homes.as_ref().expect("connections that move");
        match moving.owner().map(|owner| homes.get(&owner.id()).copied()) {
            Some(Some(home)) => self.moving.extend(self.shards[home].put(moving).err()),
            Some(None) => {
                moving.refuse(Status::Detached);
                self.moving.push(moving);
            }
            None => {
                let answer = self.shards[0].put_unowned(moving);
                let home = answer
                    .as_ref()
                    .and_then(|answer| homes.get(&answer.worker()));
                if let (Some(answer), Some(home)) = (answer, home) {
                    self.shards[*home].transferred(answer);
                }
            }
        }
    }

    fn notice(&mut self, shard: usize, notice: Notice<Process>) {
        match notice {
            Notice::Fault {
                worker,
                status,
                why,
            } => {
                self.faults.push((worker, status, why.to_string()));
                self.detach(worker);
            }
            Notice::Gone(worker) => self.detach(worker),
            Notice::End(Place { shard, conn }, limit) => {
                self.shards[shard].end_stranger(conn, limit)
            }
            Notice::Offer(Place { shard, conn }) => self.shards[shard].route(conn),
            Notice::Ended { close, .. } => self.ends.push(close.reason),
            Notice::QueueMade(queue) => self.queues.push((shard, queue)),
            Notice::Leaving(conn) => self.moving.extend(self.shards[shard].take(conn)),
            Notice::NoMemory
            | Notice::Established { .. }
            | Notice::LimitMet(_)
            | Notice::TurnedAway(_)
            | Notice::Assigned { .. } => {}
        }
    }

    /// Lets time pass, and stops whenever a shard or client wants to be called.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        loop {
            let shards = self.shards.iter_mut().filter_map(Shard::next_deadline);
            let next = shards.chain(self.clients.poll_timeout()).min();
            let Some(at) = next.filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(at);
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    fn attach(&mut self, role: Role, invited: bool) -> Process {
        self.last_id += 1;
        let process = Process::new((self.last_id, role, invited), LIMIT, &self.total);
        self.office.registry().attach(&process);
        self.processes.insert(process.id(), process.clone());
        if let (Some(homes), Role::Worker) = (&mut self.homes, role) {
            let number = self.shards.len();
            let (shard, _) = self.maker.shard(number, false);
            self.shards.push(shard.with_scope(Scope::Worker));
            homes.insert(process.id(), number);
        }
        process
    }

    pub(crate) fn listener(&mut self) -> Process {
        self.attach(Role::Listener, false)
    }

    pub(crate) fn worker(&mut self) -> Process {
        self.attach(Role::Worker, false)
    }

    /// Makes a worker that has registered a client.
    pub(crate) fn worker_of(&mut self, guid: u8) -> Process {
        let worker = self.worker();
        let mut registry = self.office.registry();
        registry.register(worker.id(), [guid; 16], 0, 100).unwrap();
        drop(registry);
        worker
    }

    /// Ends a process.
    pub(crate) fn detach(&mut self, process: u32) {
        if let Some(ended) = self.processes.remove(&process) {
            ended.release();
            self.office.registry().detach(process);
            if let Some(homes) = &mut self.homes {
                homes.remove(&process);
            }
            for shard in &mut self.shards {
                shard.gone(process);
            }
        }
    }

    /// Claims a token for a worker.
    pub(crate) fn claim(&mut self, worker: &Process, token: Token) -> Result<(), Status> {
        let offered = self.office.registry().claim(&token);
        let Place { shard, conn } = offered.ok_or(Status::NoToken)?;
        let claim = Claim {
            worker: worker.clone(),
            cookie: Some(1),
        };
        self.shards[shard].claim(conn, claim);
        self.settle();
        Ok(())
    }

    /// Connects a client, which negotiates with the shard.
    pub(crate) fn connect(&mut self, shard: usize) -> Client {
        let conn = self
            .clients
            .connect(self.now, self.addresses[shard])
            .unwrap();
        let memory = Memory::zeroed(256 << 10);
        let mut register = |access| self.clients.register(conn, &memory, access).unwrap();
        let regions = [Access::RemoteRead, Access::RemoteWrite].map(&mut register);
        self.settle();
        Client {
            conn,
            memory,
            regions,
        }
    }

    /// Connects a client, which sends its first request.
    pub(crate) fn client(&mut self, shard: usize, guid: u8) -> Client {
        let client = self.connect(shard);
        assert_eq!(self.seen(&client), [Seen::Established]);
        self.send(&client, &negotiate(guid));
        client
    }

    /// Makes a client that has logged in, its worker, and the worker's number for the connection.
    pub(crate) fn pair(&mut self, guid: u8) -> (Client, Process, u64) {
        let worker = self.worker_of(guid);
        let client = self.client(0, guid);
        let (conn, first) = worker.connection_and_message();
        assert_eq!(first, negotiate(guid));
        worker.call(smbdirect::device::abi::op::AUTHENTICATED, conn);
        self.settle();
        (client, worker, conn)
    }

    pub(crate) fn send(&mut self, client: &Client, message: &[u8]) {
        self.begin_to_send(client, message);
        self.settle();
    }

    pub(crate) fn begin_to_send(&mut self, client: &Client, message: &[u8]) {
        client.memory.write(0, message).unwrap();
        let source = Sge {
            region: client.regions[0].id,
            offset: 0,
            length: message.len() as u32,
        };
        // The connection may have ended.
        let _ = self.clients.send(client.conn, 0, source, None);
    }

    pub(crate) fn close(&mut self, client: &Client) {
        self.clients.close(client.conn);
        self.settle();
    }

    pub(crate) fn abort(&mut self, client: &Client) {
        self.clients.abort(client.conn);
    }

    /// Takes the events of a client since the last call.
    pub(crate) fn seen(&mut self, client: &Client) -> Vec<Seen> {
        self.settle();
        self.seen.remove(&client.conn).unwrap_or_default()
    }

    pub(crate) fn is_closed(&mut self, client: &Client) -> bool {
        matches!(self.seen(client).last(), Some(Seen::Closed(_)))
    }

    /// Returns the number of connections, and how many of them have no session.
    pub(crate) fn office_counts(&self) -> (usize, usize) {
        let registry = self.office.registry();
        (registry.connections(), registry.unauthenticated())
    }

    /// Registers a client and a session (0: none) for a worker, unless another worker has them.
    pub(crate) fn office_register(
        &self,
        worker: u32,
        guid: [u8; 16],
        session: u64,
    ) -> Result<(), Status> {
        let mut registry = self.office.registry();
        registry.register(worker, guid, session, 100)
    }

    /// Returns the traffic of the shards that have stopped.
    pub(crate) fn carried(&self) -> Carried {
        self.office.registry().carried_before()["loopback"]
    }

    /// Ends all processes and clients, and checks that no connection and no charged memory is left.
    pub(crate) fn leaves_nothing(&mut self) {
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            self.detach(id);
        }
        for conn in self.clients.connections().collect::<Vec<_>>() {
            self.clients.abort(conn);
        }
        self.settle();
        let registry = self.office.registry();
        let counts = [
            registry.connections(),
            registry.undispatched(),
            registry.unauthenticated(),
            registry.tokens(),
            registry.clients(),
        ];
        drop(registry);
        assert_eq!(counts, [0; 5]);
        assert_eq!(self.total.used(), 0);
        for shard in &mut self.shards {
            let report = shard.report();
            assert!(report.connections.is_empty() && report.queues.is_empty());
            assert_eq!(report.registrations, 0);
        }
    }
}

/// A client with one connection, and memory that the server may access.
#[derive(Debug)]
pub(crate) struct Client {
    conn: ConnId,
    pub(crate) memory: Memory,
    /// A region to be read, and one to be written.
    regions: [Region; 2],
}

impl Client {
    /// Makes a descriptor, as on the wire, of a part of the client's readable memory.
    pub(crate) fn source(&self, offset: u64, length: u32) -> Vec<u8> {
        descriptor(&self.regions[0], offset, length)
    }

    /// Makes a descriptor of a part of the client's writable memory.
    pub(crate) fn target(&self, offset: u64, length: u32) -> Vec<u8> {
        descriptor(&self.regions[1], offset, length)
    }
}

fn descriptor(region: &Region, offset: u64, length: u32) -> Vec<u8> {
    let descriptor = BufferDescriptorV1 {
        offset: region.remote.address + offset,
        token: region.remote.token,
        length,
    };
    descriptor.emit().to_vec()
}

/// Makes a NEGOTIATE request of the client with this number.
pub(crate) fn negotiate(guid: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 36];
    bytes[..6].copy_from_slice(b"\xfeSMB\x40\x00");
    bytes[64] = 36;
    // The request has one dialect: 3.0.
    bytes[66] = 1;
    bytes[76..92].copy_from_slice(&[guid; 16]);
    bytes.extend_from_slice(&0x0300_u16.to_le_bytes());
    bytes
}
