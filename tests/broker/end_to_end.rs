// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the library with the broker, and with real clients over iWARP.

use std::io::IoSlice;
use std::path::Path;
use std::time::{Duration, Instant};

use smbdirect::broker::Config;
use smbdirect::device::abi::Token;
use smbdirect::device::{BulkBuffer, Direction, Event, Handle, Role, Status};
use smbdirect::fabric::Access;
use smbdirect::sys::wait_readable;
use smbdirect::wire::BufferDescriptorV1;

use crate::peer::{Client, Happened};
use crate::scene::{PATIENCE, Scene, negotiate};

/// A process of smbd.
struct Process(Handle);

impl Process {
    fn attach(path: &Path, role: Role, token: Option<Token>) -> Self {
        let mut process = Self(Handle::attach(path, role, token).expect("a device"));
        assert_eq!(process.next(), Event::Attached);
        process
    }

    /// Makes a worker that has registered a client.
    fn registered(scene: &Scene, guid: u8) -> Self {
        let mut process = Self::attach(scene.path(), Role::Worker, None);
        let asked = process.0.set_session_id(1, [guid; 16], 0, false);
        asked.expect("sent");
        assert_eq!(process.reply(1), Status::Ok);
        process
    }

    /// Makes such a worker with a connection of that client; the worker has taken the first request.
    fn connected(scene: &Scene, guid: u8) -> (Self, u64, Client) {
        let mut process = Self::registered(scene, guid);
        let client = scene.client(guid);
        let conn = process.connection();
        assert_eq!(process.message(conn), negotiate(guid));
        process.0.set_authenticated(conn).expect("its own");
        (process, conn, client)
    }

    /// Waits for the next event, and sleeps until then as a process does.
    fn next(&mut self) -> Event {
        let start = Instant::now();
        loop {
            if let Some(event) = self.0.next_event().expect("attached") {
                return event;
            }
            let left = PATIENCE.checked_sub(start.elapsed()).expect("an event");
            wait_readable(self.0.event_fd().expect("its own"), Some(left)).expect("waited");
        }
    }

    fn reply(&mut self, expected: u64) -> Status {
        match self.next() {
            Event::Reply { cookie, status } if cookie == expected => status,
            other => panic!("{other:?}"),
        }
    }

    fn connection(&mut self) -> u64 {
        match self.next() {
            Event::Connection { info } => info.conn,
            other => panic!("{other:?}"),
        }
    }

    fn message(&mut self, expected: u64) -> Vec<u8> {
        match self.next() {
            Event::Pdu {
                conn, pdu, length, ..
            } if conn == expected => {
                let mut target = vec![0; length as usize];
                self.0.take_pdu(pdu, &mut target).expect("held");
                target
            }
            other => panic!("{other:?}"),
        }
    }

    /// Sleeps until there is room.
    fn room(&mut self) {
        assert_eq!(self.next(), Event::Room);
    }

    fn try_send(&mut self, conn: u64, cookie: u64, message: &[u8]) -> Result<(), Status> {
        let pieces = [IoSlice::new(message)];
        self.0.send_pdu(conn, cookie, &pieces, None)
    }

    fn send(&mut self, conn: u64, cookie: u64, message: &[u8]) {
        while let Err(status) = self.try_send(conn, cookie, message) {
            assert_eq!(status, Status::Again);
            self.room();
        }
    }

    fn sent(&mut self, expected: u64) -> Status {
        match self.next() {
            Event::Sent { cookie, status, .. } if cookie == expected => status,
            other => panic!("{other:?}"),
        }
    }

    fn allocate(&mut self, length: usize) -> BulkBuffer {
        loop {
            match self.0.allocate(length) {
                Ok(buffer) => return buffer,
                Err(status) => assert_eq!(status, Status::Again),
            }
            self.room();
        }
    }

    fn rdma_done(&mut self, expected: u64) -> Status {
        match self.next() {
            Event::RdmaDone { cookie, status, .. } if cookie == expected => status,
            other => panic!("{other:?}"),
        }
    }

    fn disconnected(&mut self, expected: u64) -> Status {
        match self.next() {
            Event::Disconnected { conn, status } if conn == expected => status,
            other => panic!("{other:?}"),
        }
    }

    /// Takes all events up to the end, and returns them and the reason.
    fn last(&mut self) -> (Vec<Event>, Status) {
        let mut events = Vec::new();
        loop {
            match self.next() {
                Event::Detached { status } => return (events, status),
                event => events.push(event),
            }
        }
    }
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 % 251) as u8).collect()
}

fn write(buffer: &BulkBuffer, offset: usize, bytes: &[u8]) {
    assert!(offset + bytes.len() <= buffer.length);
    // SAFETY: this process owns the buffer, and its bytes, until the buffer is freed.
    let target = unsafe { buffer.start.add(offset) };
    // SAFETY: as above; nothing else writes there now.
    unsafe { target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
}

fn read(buffer: &BulkBuffer, offset: usize, length: usize) -> Vec<u8> {
    assert!(offset + length <= buffer.length);
    let mut bytes = vec![0; length];
    // SAFETY: as in `write`.
    let source = unsafe { buffer.start.add(offset) };
    // SAFETY: as in `write`.
    unsafe { source.copy_to_nonoverlapping(bytes.as_mut_ptr(), length) }
    bytes
}

fn list(descriptors: &[BufferDescriptorV1]) -> Vec<u8> {
    let emit = |descriptor: &BufferDescriptorV1| descriptor.emit();
    descriptors.iter().flat_map(emit).collect()
}

#[test]
fn an_unknown_client_goes_through_the_listener_to_a_new_worker() {
    let scene = Scene::new();
    let mut listener = Process::attach(scene.path(), Role::Listener, None);
    let client = scene.client(1);
    let Event::Offer { token, info } = listener.next() else {
        panic!("an offer");
    };
    assert_eq!(info.client_guid, [1; 16]);
    let mut child = Process::attach(scene.path(), Role::Worker, Some(token));
    let conn = child.connection();
    assert_eq!(
        child.0.conn_info(conn).expect("its own").client_guid,
        [1; 16]
    );
    assert_eq!(child.message(conn), negotiate(1));
    child.send(conn, 1, b"response");
    assert_eq!(client.message(), b"response");
    assert_eq!(child.sent(1), Status::Ok);

    let _second = scene.client(2);
    let Event::Offer { token, .. } = listener.next() else {
        panic!("an offer");
    };
    child.0.claim(7, token).expect("sent");
    // Three events come in any order: the answer to the claim, and the connection with its first message.
    let mut told = [child.next(), child.next(), child.next()];
    told.sort_by_key(|event| match event {
        Event::Reply { .. } => 0,
        Event::Connection { .. } => 1,
        _ => 2,
    });
    assert!(
        matches!(
            told,
            [
                Event::Reply {
                    cookie: 7,
                    status: Status::Ok
                },
                Event::Connection { .. },
                Event::Pdu { .. }
            ]
        ),
        "{told:?}"
    );
    child.0.claim(8, token).expect("sent");
    assert_eq!(child.reply(8), Status::NoToken);
}

#[test]
fn an_attachment_with_an_unknown_token_is_refused() {
    let scene = Scene::new();
    let attached = Handle::attach(scene.path(), Role::Worker, Some([9; 16]));
    let mut process = Process(attached.expect("a device"));
    assert_eq!(process.last(), (vec![], Status::NoToken));
    let nowhere = scene.path().with_extension("not");
    let refusal = Handle::attach(&nowhere, Role::Worker, None).map(|_| ());
    assert_eq!(refusal, Err(Status::NoDevice));
}

#[test]
fn messages_of_any_length_go_both_ways() {
    let scene = Scene::new();
    let (mut worker, conn, client) = Process::connected(&scene, 1);
    let longest = 1 << 20;
    for (cookie, length) in [1, 1000, 65_536, 65_537, longest].into_iter().enumerate() {
        let message = content(length);
        client.send(&message);
        assert!(worker.message(conn) == message, "{length}");
        worker.send(conn, cookie as u64, &message);
        assert!(client.message() == message, "{length}");
        assert_eq!(worker.sent(cookie as u64), Status::Ok);
    }
    let too_long = vec![0; longest + 1];
    assert_eq!(worker.try_send(conn, 1, &too_long), Err(Status::TooLong));
    let counts = worker.0.conn_counts(conn).expect("its own");
    let sent = 1 + 1000 + 65_536 + 65_537 + longest as u64;
    assert_eq!((counts.sent_bytes, counts.unsent_bytes), (sent, 0));
}

#[test]
fn a_flood_of_messages_arrives_in_order_with_waits_for_room() {
    let scene = Scene::new();
    let (mut worker, conn, client) = Process::connected(&scene, 1);
    let (mut next, mut sent, mut waits) = (0u64, 0, 0);
    while sent < 2000 {
        while next < 2000 {
            match worker.try_send(conn, next, &next.to_le_bytes()) {
                Ok(()) => next += 1,
                Err(Status::Again) => {
                    waits += 1;
                    break;
                }
                Err(status) => panic!("{status}"),
            }
        }
        match worker.next() {
            Event::Sent { cookie, status, .. } => {
                assert_eq!((cookie, status), (sent, Status::Ok));
                sent += 1;
            }
            Event::Room => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(waits > 0);
    for number in 0..2000u64 {
        assert_eq!(client.message(), number.to_le_bytes());
    }
}

/// A worker does not wake the device for messages that it gives back, unless the device wants the memory that they
/// occupy.
#[test]
fn messages_that_need_all_memory_arrive_as_fast_as_they_are_taken() {
    let scene = Scene::with(|config| config.memory.receive.max_segments = 4);
    let (mut process, conn, client) = Process::connected(&scene, 1);
    let messages: Vec<Vec<u8>> = (0..40).map(|number| vec![number; 500_000]).collect();
    for some in messages.chunks(8) {
        client.send_all(some);
    }
    for message in messages {
        assert!(process.message(conn) == message, "{}", message[0]);
    }
}

#[test]
fn rdma_moves_data_both_ways_by_several_descriptors() {
    let scene = Scene::new();
    let (mut worker, conn, client) = Process::connected(&scene, 1);
    let buffer = worker.allocate(400_000);
    let data = content(300_000);
    let source = client.register(1 << 20, Access::RemoteRead);
    source.memory.write(100, &data[..200_000]).expect("there");
    source
        .memory
        .write(500_000, &data[200_000..])
        .expect("there");
    let pieces = list(&[source.part(100, 200_000), source.part(500_000, 400_000)]);
    let mut rdma = |direction, cookie, pieces: &[u8]| loop {
        let length = data.len();
        match worker.0.rdma(
            direction,
            conn,
            cookie,
            buffer.number,
            12_345,
            length,
            pieces,
        ) {
            Ok(()) => break,
            Err(status) => assert_eq!(status, Status::Again),
        }
        worker.room();
    };
    rdma(Direction::Read, 3, &pieces);
    assert_eq!(worker.0.free(buffer.number), Err(Status::Busy));
    assert_eq!(worker.rdma_done(3), Status::Ok);
    assert!(read(&buffer, 12_345, data.len()) == data);

    let reversed: Vec<u8> = data.iter().rev().copied().collect();
    write(&buffer, 12_345, &reversed);
    let target = client.register(1 << 20, Access::RemoteWrite);
    let pieces = list(&[
        target.part(7, 1),
        target.part(100_000, 199_999),
        target.part(400_000, 200_000),
    ]);
    let write = Direction::Write;
    let queued = worker
        .0
        .rdma(write, conn, 4, buffer.number, 12_345, data.len(), &pieces);
    queued.expect("room");
    worker.send(conn, 5, b"written");
    assert_eq!(client.message(), b"written");
    let written = |offset, length| target.memory.to_vec(offset, length).expect("there");
    assert_eq!(written(7, 1), reversed[..1]);
    assert!(written(100_000, 199_999) == reversed[1..200_000]);
    assert!(written(400_000, 100_000) == reversed[200_000..]);
    assert_eq!(written(500_000, 1), [0]);
    assert_eq!(worker.rdma_done(4), Status::Ok);
    assert_eq!(worker.sent(5), Status::Ok);
    assert_eq!(worker.0.free(buffer.number), Ok(()));
}

#[test]
fn a_peer_that_refuses_access_ends_only_its_own_connection() {
    let scene = Scene::new();
    let (mut worker, conn, client) = Process::connected(&scene, 1);
    let other = scene.client(1);
    let second = worker.connection();
    worker.message(second);
    let buffer = worker.allocate(2000).number;
    let target = client.register(1000, Access::RemoteWrite);
    let pieces = list(&[target.part(0, 1001)]);
    let write = Direction::Write;
    let queued = worker.0.rdma(write, conn, 1, buffer, 0, 1001, &pieces);
    queued.expect("room");
    worker.rdma_done(1);
    assert_eq!(worker.disconnected(conn), Status::RemoteAccess);
    assert_eq!(worker.0.free(buffer), Ok(()));
    worker.send(second, 2, b"still here");
    assert_eq!(other.message(), b"still here");
}

#[test]
fn a_message_invalidates_a_token() {
    let scene = Scene::new();
    let (mut worker, conn, client) = Process::connected(&scene, 1);
    let token = client.register(4096, Access::RemoteWrite).part(0, 1).token;
    worker.send(conn, 1, b"first");
    assert_eq!(worker.sent(1), Status::Ok);
    let pieces = [IoSlice::new(b"done")];
    let sent = worker.0.send_pdu(conn, 2, &pieces, Some(token.0));
    sent.expect("room");
    assert_eq!(client.message(), b"first");
    assert_eq!(client.next(), Happened::Invalidated(token));
    assert_eq!(client.message(), b"done");
    assert_eq!(worker.sent(2), Status::Ok);
}

#[test]
fn either_side_ends_a_connection() {
    let scene = Scene::new();
    let (mut worker, conn, client) = Process::connected(&scene, 1);
    worker.send(conn, 1, b"last words");
    worker.0.disconnect(conn).expect("its own");
    assert_eq!(client.message(), b"last words");
    assert_eq!(worker.sent(1), Status::Ok);
    assert_eq!(worker.disconnected(conn), Status::ClosedLocally);
    client.closed();

    let client = scene.client(1);
    let conn = worker.connection();
    worker.message(conn);
    client.close();
    assert_eq!(worker.disconnected(conn), Status::ClosedByPeer);
    assert_eq!(worker.try_send(conn, 1, b"x"), Err(Status::NoConnection));
}

#[test]
fn a_connection_goes_to_the_worker_of_a_guid_or_of_a_token() {
    let scene = Scene::new();
    let (mut first, conn, client) = Process::connected(&scene, 1);
    let mut second = Process::registered(&scene, 2);
    let transferred = |process: &mut Process, conn, guid: Option<[u8; 16]>| loop {
        match process.0.transfer(conn, 5, guid, b"carried") {
            Ok(()) => break,
            Err(status) => assert_eq!(status, Status::Again),
        }
        process.room();
    };
    transferred(&mut first, conn, Some([2; 16]));
    let done = |status, token| Event::Transferred {
        conn,
        cookie: 5,
        status,
        token,
    };
    assert_eq!(first.next(), done(Status::Ok, [0; 16]));
    assert_eq!(first.0.conn_info(conn), Err(Status::NoConnection));
    let conn = second.connection();
    assert_eq!(second.message(conn), b"carried");
    client.send(b"next");
    assert_eq!(second.message(conn), b"next");

    transferred(&mut second, conn, None);
    let Event::Transferred {
        status: Status::Ok,
        token,
        ..
    } = second.next()
    else {
        panic!("transferred");
    };
    let mut third = Process::attach(scene.path(), Role::Worker, Some(token));
    let conn = third.connection();
    assert_eq!(third.message(conn), b"carried");
    third.send(conn, 1, b"answer");
    assert_eq!(client.message(), b"answer");
    assert_eq!(third.sent(1), Status::Ok);

    transferred(&mut third, conn, Some([9; 16]));
    let Event::Transferred { status, .. } = third.next() else {
        panic!("an answer");
    };
    assert_eq!(status, Status::NoOwner);
    third.send(conn, 2, b"still here");
    assert_eq!(client.message(), b"still here");
}

#[test]
fn a_stopped_broker_detaches_its_processes_and_the_next_broker_accepts_them() {
    let mut scene = Scene::new();
    let mut listener = Process::attach(scene.path(), Role::Listener, None);
    let (mut worker, conn, client) = Process::connected(&scene, 1);
    scene.broker().stop();
    let (told, reason) = worker.last();
    assert!(
        matches!(told[..], [Event::Disconnected { conn: ended, .. }] if ended == conn),
        "{told:?}"
    );
    assert_eq!(reason, Status::Stopping);
    assert_eq!(listener.last(), (vec![], Status::Stopping));
    assert_eq!(worker.try_send(conn, 1, b"x"), Err(Status::Detached));
    client.closed();

    scene.broker = None;
    let gone = Handle::attach(scene.path(), Role::Worker, None).map(|_| ());
    assert_eq!(gone, Err(Status::NoDevice));
    scene.start();
    let (mut worker, conn, client) = Process::connected(&scene, 1);
    worker.send(conn, 1, b"again");
    assert_eq!(client.message(), b"again");
}

#[test]
fn a_worker_that_is_dropped_leaves_nothing_behind() {
    let scene = Scene::new();
    let (worker, _, client) = Process::connected(&scene, 1);
    drop(worker);
    client.closed();
    scene.until("everything is gone", |status| {
        status.processes.is_empty() && status.connections.is_empty()
    });
}

/// Reads `length` bytes from a client, as for the client's WRITE.
fn fetch(process: &mut Process, conn: u64, client: &Client, length: u32) {
    let source = client.register(length as usize, Access::RemoteRead);
    let list = source.part(0, length).emit();
    let buffer = process.allocate(length as usize);
    let read = Direction::Read;
    let asked = process
        .0
        .rdma(read, conn, 7, buffer.number, 0, length as usize, &list);
    asked.expect("room");
    assert_eq!(process.rdma_done(7), Status::Ok);
    process.0.free(buffer.number).expect("in use");
}

/// Each client's share of the memory limit is as large as if a thousand clients shared 4 GiB.
#[test]
fn many_idle_clients_that_wrote_once_need_little_memory() {
    const CLIENTS: u64 = 20;
    let default = Config::default();
    let scene = Scene::with(|config| {
        config.memory = default.memory;
        config.queue_depth = default.queue_depth;
        config.acceptor = default.acceptor;
        config.max_workers = CLIENTS as usize;
        config.memory_limit = CLIENTS * (4 << 30) / 1000;
        config.memory_idle_timeout = Duration::from_millis(100);
    });
    let mut processes = Vec::new();
    for guid in 1..=CLIENTS as u8 {
        let (mut process, conn, client) = Process::connected(&scene, guid);
        fetch(&mut process, conn, &client, 4096);
        process.send(conn, 1, b"written");
        assert_eq!(process.sent(1), Status::Ok);
        processes.push((process, client));
    }
    let before = scene.status().totals.memory;
    // When the library takes events, it gives back the memory that the device wants.
    let idle = scene.until("idle memory is back", |status| {
        for (process, _) in &mut processes {
            assert_eq!(process.0.next_event(), Ok(None));
        }
        status
            .processes
            .iter()
            .all(|process| process.bulk_segments == 0)
    });
    let each = idle.totals.memory / CLIENTS;
    println!(
        "{} bytes for an idle client, {each} in the end",
        before / CLIENTS
    );
    assert!(each < 768 << 10, "{each}");
}

/// Transfers wait for memory that other workers hold, but none fails.
#[test]
fn no_transfer_fails_because_others_hold_memory() {
    let scene = Scene::with(|config| {
        config.memory.bulk.max_segments = 16;
        config.memory_limit = 12 << 20;
    });
    let (mut greedy, _, _client) = Process::connected(&scene, 1);
    let mut held = Vec::new();
    // Take all memory, except the part that is kept for workers that wait.
    for _ in 0..6 {
        held.push(greedy.allocate(1 << 20));
    }
    let mut others: Vec<_> = (2..6)
        .map(|guid| Process::connected(&scene, guid))
        .collect();
    for (process, ..) in &mut others {
        assert_eq!(process.0.allocate(1 << 20).err(), Some(Status::Again));
    }
    // As transfers end, one worker after another gives back the memory that it holds.
    for buffer in held {
        greedy.0.free(buffer.number).expect("in use");
    }
    for (process, conn, client) in &mut others {
        // When the library takes events, it gives back the memory that the device wants.
        while process.0.next_event() != Ok(Some(Event::Room)) {
            assert_eq!(greedy.0.next_event(), Ok(None));
            std::thread::sleep(Duration::from_millis(1));
        }
        fetch(process, *conn, client, 1 << 20);
    }
}
