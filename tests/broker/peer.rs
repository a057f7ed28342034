// SPDX-License-Identifier: GPL-2.0-or-later

//! Clients: initiators with their own fabric, in their own thread.

use std::cell::Cell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::{Access, ConnId, RegionId, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, Transport};
use smbdirect::units::{Instant, RemoteToken};
use smbdirect::wire::BufferDescriptorV1;

use crate::scene::PATIENCE;

type Initiator = Transport<Iwarp, HeapBuffers>;

type Task = Box<dyn FnOnce(&mut State) + Send>;

struct State {
    transport: Initiator,
    now: Instant,
    clients: HashMap<ConnId, Sender<Happened>>,
    ended: bool,
}

/// What a client sees.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happened {
    Established,
    Message(Vec<u8>),
    Invalidated(RemoteToken),
    Closed(&'static str),
}

/// The thread that drives clients.
pub(crate) struct Peers {
    tasks: Option<Sender<Task>>,
    thread: Option<JoinHandle<()>>,
}

/// One connection of a client.
pub(crate) struct Client {
    tasks: Sender<Task>,
    pub(crate) conn: ConnId,
    happened: Receiver<Happened>,
    /// Holds the messages that the client sends.
    memory: Memory,
    region: RegionId,
    /// The number of bytes of it that messages have used.
    used: Cell<u32>,
}

/// Memory of a client that the server may access.
pub(crate) struct Target {
    pub(crate) memory: Memory,
    token: RemoteToken,
    address: u64,
}

impl Target {
    /// Returns a descriptor of a part of it.
    pub(crate) fn part(&self, offset: u64, length: u32) -> BufferDescriptorV1 {
        BufferDescriptorV1 {
            offset: self.address + offset,
            token: self.token,
            length,
        }
    }
}

impl Peers {
    pub(crate) fn start() -> Self {
        Self::with(proto::Config::initiator_default())
    }

    pub(crate) fn with(initiator: proto::Config) -> Self {
        let (sender, tasks) = channel::<Task>();
        let thread = std::thread::spawn(move || {
            let fabric = Iwarp::new(iwarp::Config::default()).unwrap();
            let config = Config::new(proto::Config::default(), initiator);
            let mut state = State {
                transport: Transport::new(fabric, HeapBuffers::new(), config),
                now: Instant::ZERO,
                clients: HashMap::new(),
                ended: false,
            };
            drive(&mut state, &tasks);
        });
        Self {
            tasks: Some(sender),
            thread: Some(thread),
        }
    }

    /// Connects, and waits until SMB Direct is negotiated.
    pub(crate) fn connect(&self, address: SocketAddr) -> Client {
        let client = self.dial(address);
        assert_eq!(client.next(), Happened::Established);
        client
    }

    /// Begins to connect.
    pub(crate) fn dial(&self, address: SocketAddr) -> Client {
        let tasks = self.tasks.clone().unwrap();
        let (sender, happened) = channel();
        let (conn, memory, region) = call(&tasks, move |state| {
            let conn = state.transport.connect(state.now, address).unwrap();
            state.clients.insert(conn, sender);
            let memory = Memory::zeroed(1 << 20);
            let region = state.transport.register(conn, &memory, Access::Local);
            (conn, memory, region.unwrap().id)
        });
        Client {
            tasks,
            conn,
            happened,
            memory,
            region,
            used: Cell::new(0),
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        if let Some(tasks) = self.tasks.take() {
            let _ = tasks.send(Box::new(|state| state.ended = true));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Makes the thread do something, and waits for it.
fn call<T: Send + 'static>(
    tasks: &Sender<Task>,
    task: impl FnOnce(&mut State) -> T + Send + 'static,
) -> T {
    let (sender, answer) = channel();
    let task: Task = Box::new(move |state| sender.send(task(state)).unwrap());
    tasks.send(task).unwrap();
    answer
        .recv_timeout(PATIENCE)
        .expect("the clients' thread answers")
}

impl Client {
    /// Sends a message. It reuses memory of messages that are more than 1 MiB back, so these must have gone out, or no
    /// longer matter.
    pub(crate) fn send(&self, message: &[u8]) {
        let (conn, region, length) = (self.conn, self.region, message.len() as u32);
        let mut offset = self.used.get();
        if offset as usize + message.len() > self.memory.len() {
            offset = 0;
        }
        self.memory.write(offset as usize, message).unwrap();
        self.used.set(offset + length);
        call(&self.tasks, move |state| {
            let source = Sge {
                region,
                offset,
                length,
            };
            state.transport.send(conn, 0, source, None).unwrap();
        });
    }

    /// Sends a message and closes at once.
    pub(crate) fn send_last(&self, message: &[u8]) {
        let (conn, region, length) = (self.conn, self.region, message.len() as u32);
        self.memory.write(0, message).unwrap();
        call(&self.tasks, move |state| {
            let source = Sge {
                region,
                offset: 0,
                length,
            };
            state.transport.send(conn, 0, source, None).unwrap();
            state.transport.close(conn);
        });
    }

    /// Begins to send a message that is longer than the credits allow at once. The thread then stops serving all its
    /// clients until the returned value is dropped.
    pub(crate) fn send_partly(&self, message: &[u8]) -> Sender<()> {
        let (go_on, stopped) = channel::<()>();
        let (conn, region, length) = (self.conn, self.region, message.len() as u32);
        self.memory.write(0, message).unwrap();
        self.used.set(length);
        let task: Task = Box::new(move |state| {
            let source = Sge {
                region,
                offset: 0,
                length,
            };
            state.transport.send(conn, 0, source, None).unwrap();
            let mut events = Vec::new();
            state.transport.poll(state.now, &mut events).unwrap();
            assert!(events.is_empty(), "{events:?}");
            let _ = stopped.recv();
        });
        self.tasks.send(task).unwrap();
        go_on
    }

    /// Makes all of these clients of one thread begin to send a message that is longer than their credits allow at
    /// once. They then stop until the returned value is dropped.
    pub(crate) fn begin_all(clients: &[Self], message: &[u8]) -> Sender<()> {
        let (go_on, stopped) = channel::<()>();
        let sources: Vec<(ConnId, Sge)> = clients
            .iter()
            .map(|client| {
                client.memory.write(0, message).unwrap();
                let source = Sge {
                    region: client.region,
                    offset: 0,
                    length: message.len() as u32,
                };
                (client.conn, source)
            })
            .collect();
        let task: Task = Box::new(move |state| {
            for (conn, source) in sources {
                state.transport.send(conn, 0, source, None).unwrap();
            }
            let mut events = Vec::new();
            state.transport.poll(state.now, &mut events).unwrap();
            let _ = stopped.recv();
        });
        clients[0].tasks.send(task).unwrap();
        go_on
    }

    /// Queues all of these messages, which together are at most 4 MiB long.
    pub(crate) fn send_all(&self, messages: &[Vec<u8>]) {
        let (conn, all) = (self.conn, messages.concat());
        let lengths: Vec<u32> = messages.iter().map(|m| m.len() as u32).collect();
        call(&self.tasks, move |state| {
            let memory = Memory::zeroed(all.len());
            memory.write(0, &all).unwrap();
            let region = state.transport.register(conn, &memory, Access::Local);
            let region = region.unwrap().id;
            let mut offset = 0;
            for length in lengths {
                let source = Sge {
                    region,
                    offset,
                    length,
                };
                state.transport.send(conn, 0, source, None).unwrap();
                offset += length;
            }
        });
    }

    /// Waits for the next event.
    pub(crate) fn next(&self) -> Happened {
        self.happened
            .recv_timeout(PATIENCE)
            .expect("something happens to the client")
    }

    /// Waits for the next message.
    pub(crate) fn message(&self) -> Vec<u8> {
        match self.next() {
            Happened::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end, and returns its reason. Drops messages before the end.
    pub(crate) fn closed(&self) -> &'static str {
        loop {
            if let Happened::Closed(reason) = self.next() {
                return reason;
            }
        }
    }

    /// Returns whether nothing happens for this time.
    pub(crate) fn is_quiet(&self, time: Duration) -> bool {
        self.happened.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }

    pub(crate) fn close(&self) {
        let conn = self.conn;
        call(&self.tasks, move |state| state.transport.close(conn));
    }

    /// Registers memory that the server may access.
    pub(crate) fn register(&self, length: usize, access: Access) -> Target {
        let conn = self.conn;
        call(&self.tasks, move |state| {
            let memory = Memory::zeroed(length);
            let region = state.transport.register(conn, &memory, access).unwrap();
            Target {
                memory,
                token: region.remote.token,
                address: region.remote.address,
            }
        })
    }
}

fn drive(state: &mut State, tasks: &Receiver<Task>) {
    let start = std::time::Instant::now();
    let mut events = Vec::new();
    loop {
        state.now = Instant::ZERO + start.elapsed();
        while let Ok(task) = tasks.try_recv() {
            task(state);
        }
        if state.ended {
            return;
        }
        state.transport.poll(state.now, &mut events).unwrap();
        let is_quiet = events.is_empty();
        for event in events.drain(..) {
            tell(state, event);
        }
        if is_quiet {
            let time = Some(Duration::from_millis(1));
            state.transport.wait(state.now, time).unwrap();
        }
    }
}

fn tell(state: &mut State, event: Event<Vec<u8>>) {
    let (conn, happened) = match event {
        Event::Established { conn, .. } => (conn, Happened::Established),
        Event::Message { conn, buffer, .. } => {
            let message = buffer.clone();
            state.transport.recycle(buffer);
            (conn, Happened::Message(message))
        }
        Event::Invalidated { conn, token } => (conn, Happened::Invalidated(token)),
        Event::Closed { conn, reason, .. } => (conn, Happened::Closed(reason.name())),
        Event::Sent { .. } | Event::Written { .. } | Event::Read { .. } => return,
    };
    // A test that is done has dropped its client.
    let _ = state.clients[&conn].send(happened);
}
