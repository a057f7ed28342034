// SPDX-License-Identifier: GPL-2.0-or-later

//! A loopback fabric that contains a client, so that a broker on it has a peer, and only the broker is measured.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use smbdirect::fabric::forward_fabric;
use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{
    Access, ConnId, Event, Fabric, FabricError, Keep, ListenerId, ReadLimits, Readiness,
    Reconfigure, Sge, SharedEpoll, Waitable, iwarp,
};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{self, HeapBuffers, Transport};
use smbdirect::units::Instant;
use smbdirect::wire::BufferDescriptorV1;

use super::stream::first_request;

/// One side of the fabric, with its connections. The broker's side also drives the client's.
pub(crate) struct Paired {
    shared: Arc<Mutex<Shared>>,
    /// The client; only the broker's side has it.
    client: Option<Box<Client>>,
    /// The broker waits for this.
    readiness: Readiness,
}

/// The bytes of the client's memory to which the server may write.
const WINDOW: usize = 4096;

/// Connects to the broker, sends a request, names memory, and takes what comes.
struct Client {
    transport: Transport<Paired, HeapBuffers>,
    server: Option<SocketAddr>,
    /// Whether to connect: for the first time, or because the broker did not know a worker for the client yet.
    connects: bool,
    events: Vec<transport::Event<Vec<u8>>>,
}

struct Shared {
    loopback: Loopback,
    /// The client's connections.
    of_client: Vec<ConnId>,
    for_client: Vec<Event>,
    for_broker: Vec<Event>,
    polled: Vec<Event>,
}

impl Paired {
    pub(crate) fn new() -> Self {
        let readiness = || Readiness::new().expect("an epoll instance");
        let shared = Shared {
            loopback: Loopback::new(LoopbackConfig::default()).expect("random numbers"),
            of_client: Vec::new(),
            for_client: Vec::new(),
            for_broker: Vec::new(),
            polled: Vec::new(),
        };
        let shared = Arc::new(Mutex::new(shared));
        let side = Self {
            shared: Arc::clone(&shared),
            client: None,
            readiness: readiness(),
        };
        let config = proto::Config::initiator_default();
        let client = Client {
            transport: Transport::new(
                side,
                HeapBuffers::new(),
                transport::Config::new(config, config),
            ),
            server: None,
            connects: false,
            events: Vec::new(),
        };
        Self {
            shared,
            client: Some(Box::new(client)),
            readiness: readiness(),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no thread panicked")
    }
}

impl Client {
    fn run(&mut self, now: Instant) -> Result<(), FabricError> {
        let transport = &mut self.transport;
        if let Some(server) = self.server.filter(|_| std::mem::take(&mut self.connects)) {
            transport.connect(now, server).expect("it listens");
        }
        transport.poll(now, &mut self.events)?;
        for event in self.events.drain(..) {
            match event {
                transport::Event::Established { conn, .. } => {
                    let window = Memory::zeroed(WINDOW);
                    let window = transport.register(conn, &window, Access::RemoteWrite)?;
                    let descriptor = BufferDescriptorV1 {
                        offset: window.remote.address,
                        token: window.remote.token,
                        length: WINDOW as u32,
                    };
                    for message in [&first_request()[..], &descriptor.emit()] {
                        let memory = Memory::zeroed(message.len());
                        memory.write(0, message).expect("room");
                        let region = transport.register(conn, &memory, Access::Local)?;
                        let source = Sge {
                            region: region.id,
                            offset: 0,
                            length: message.len() as u32,
                        };
                        transport.send(conn, 0, source, None).expect("room");
                    }
                }
                transport::Event::Message { buffer, .. } => transport.recycle(buffer),
                transport::Event::Closed { .. } => self.connects = true,
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns when it has something to do by itself.
    fn poll_timeout(&self) -> Option<Instant> {
        if self.connects {
            return Some(Instant::ZERO);
        }
        self.transport.poll_timeout()
    }
}

impl Shared {
    fn timeout(&self) -> Option<Instant> {
        if self.for_client.is_empty() && self.for_broker.is_empty() {
            self.loopback.poll_timeout()
        } else {
            Some(Instant::ZERO)
        }
    }
}

fn conn_of(event: &Event) -> Option<ConnId> {
    match event {
        Event::ConnectRequest { conn, .. }
        | Event::Established { conn, .. }
        | Event::Completion { conn, .. }
        | Event::Closed { conn, .. } => Some(*conn),
        Event::Refused { .. } => None,
    }
}

impl Fabric for Paired {
    forward_fabric!(self => self.shared().loopback;
        local_address, conn_local_address, unlisten, admit_at, accept, reject, close, register, deregister,
        post_recv, post_send, post_write, post_read);

    fn listen(&mut self, address: SocketAddr) -> Result<ListenerId, FabricError> {
        let mut shared = self.shared();
        let listener = shared.loopback.listen(address)?;
        let server = shared.loopback.local_address(listener);
        drop(shared);
        if let Some(client) = &mut self.client {
            client.server = server;
            client.connects = true;
        }
        Ok(listener)
    }

    fn connect(&mut self, address: SocketAddr, limits: ReadLimits) -> Result<ConnId, FabricError> {
        let mut shared = self.shared();
        let conn = shared.loopback.connect(address, limits)?;
        shared.of_client.push(conn);
        Ok(conn)
    }

    fn poll(&mut self, now: Instant, events: &mut Vec<Event>) -> Result<(), FabricError> {
        if let Some(client) = &mut self.client {
            client.run(now)?;
        }
        let is_client = self.client.is_none();
        let mut shared = self.shared();
        let Shared {
            loopback,
            of_client,
            for_client,
            for_broker,
            polled,
        } = &mut *shared;
        loopback.poll(now, polled)?;
        for event in polled.drain(..) {
            match conn_of(&event) {
                Some(conn) if of_client.contains(&conn) => for_client.push(event),
                _ => for_broker.push(event),
            }
        }
        events.append(if is_client { for_client } else { for_broker });
        Ok(())
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if let Some(client) = &self.client {
            // Whatever waits for the other side also makes this side run.
            let fabric = client.poll_timeout();
            return fabric.or_else(|| self.shared().timeout());
        }
        self.shared().timeout()
    }
}

impl Waitable for Paired {
    fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

impl Reconfigure for Paired {
    /// Does nothing: this fabric has no limits.
    fn set_config(&mut self, _: &iwarp::Config) {}
}
impl Keep for Paired {}

impl SharedEpoll for Paired {
    fn registry(&self) -> &mio::Registry {
        self.readiness.registry()
    }

    fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError> {
        self.readiness.wait(time)?;
        // Everything that is ready belongs to the broker, because this fabric has no descriptors.
        let found = self.readiness.take()?;
        self.readiness.put(found);
        Ok(())
    }

    fn ready(&mut self, keys: &mut Vec<u64>) {
        self.readiness.ready(keys);
    }
}
