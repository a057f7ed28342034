// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests restarts that keep the connections, with a service manager that has a descriptor store.

mod manager;
mod server;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use smbdirect::device::{Direction, Event, Handle, Status, status_path};
use smbdirect::fabric::Access;
use smbdirect::sys::SeqSocket;

use self::manager::Manager;
use self::server::{attach, serve, work};
use crate::drain::event;
use crate::events::Following;
use instruments::ROOT;
use instruments::daemon::TIMEOUT;
use instruments::peer::{Peer, Window, emit};

/// The threads of a test: clients, whose rounds it counts, and workers.
#[derive(Default)]
struct Load {
    rounds: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    /// Tells the clients, and then the workers, to end.
    stop: [Arc<AtomicBool>; 2],
}

impl Load {
    fn add_worker(&mut self, manager: &Manager, guid: [u8; 16]) {
        let worker = serve(&manager.control(), guid, &self.stop);
        self.workers.push(worker);
    }

    fn add_client(&mut self, address: SocketAddr, guid: [u8; 16]) {
        let client = work(address, guid, (&self.stop[0], &self.rounds));
        self.clients.push(client);
    }

    /// Waits until the clients have done this many more rounds together.
    fn wait_for(&self, more: u64) {
        let (until, end) = (self.rounds() + more, Instant::now() + TIMEOUT);
        while self.rounds() < until {
            let mut threads = self.clients.iter().chain(&self.workers);
            assert!(!threads.any(JoinHandle::is_finished), "a thread has ended");
            assert!(Instant::now() < end, "{} of {until} rounds", self.rounds());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Ends all threads, none of which may have failed.
    fn end(self) {
        for (stop, threads) in self.stop.iter().zip([self.clients, self.workers]) {
            stop.store(true, Ordering::Relaxed);
            for thread in threads {
                thread.join().unwrap();
            }
        }
    }
}

/// Room for everything.
const ROOM: usize = 1000;

#[test]
fn ten_restarts_under_load_lose_no_connection_and_no_byte() {
    let mut manager = Manager::start("", ROOM);
    let (mut load, address) = (Load::default(), manager.address());
    for guid in [[1; 16], [2; 16]] {
        load.add_worker(&manager, guid);
        load.add_client(address, guid);
        load.add_client(address, guid);
    }
    load.wait_for(8);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        pauses.push(manager.restart());
        let stored = manager.stored();
        assert_eq!(stored, [""; 0], "a crash must not revive anything");
        load.wait_for(6);
    }
    let (status, rounds) = (manager.status(), load.rounds());
    load.end();
    assert_eq!(manager.address(), address);
    assert_eq!(status["totals"]["connections"], 4, "{status}");
    assert_eq!(status["counters"]["established"], 4, "{status}");
    assert_eq!(status["ends"], serde_json::json!({}), "{status}");
    assert_eq!(manager.log().matches("continues 4 connections").count(), 10);
    let longest = pauses.iter().max().unwrap();
    println!("{rounds} rounds, the longest restart took {longest:?}: {pauses:?}");
}

/// Returns a worker that has begun to read memory of a client, which serves it only when it is driven again.
fn reading(manager: &Manager, guid: [u8; 16]) -> (Handle, Peer, Window) {
    let mut worker = attach(&manager.control(), guid);
    let mut peer = Peer::connect(manager.address());
    peer.negotiate(guid);
    let Event::Connection { info } = event(&mut worker) else {
        panic!("a connection");
    };
    let Event::Pdu { pdu, .. } = event(&mut worker) else {
        panic!("the first request");
    };
    worker.take_pdu(pdu, &mut []).unwrap();
    worker.set_authenticated(info.conn).unwrap();
    let window = peer.window(1 << 20, Access::RemoteRead);
    assert_eq!(worker.allocate(1 << 20), Err(Status::Again));
    assert_eq!(event(&mut worker), Event::Room);
    let buffer = worker.allocate(1 << 20).unwrap();
    let (list, conn) = (emit(&window.descriptors(3)), info.conn);
    let begun = worker.rdma(Direction::Read, conn, 2, buffer.number, 0, 1 << 20, &list);
    begun.unwrap();
    (worker, peer, window)
}

#[test]
fn an_rdma_read_goes_on_where_it_was() {
    let mut manager = Manager::start("", ROOM);
    let (mut worker, mut peer, window) = reading(&manager, [1; 16]);
    let content: Vec<u8> = (0..1 << 20).map(|n: u32| (n >> 7) as u8).collect();
    window.memory.write(0, &content).unwrap();
    manager.restart();
    // A part of the answer arrives before the next restart.
    peer.drive(Duration::from_millis(2), |_| false);
    manager.restart();
    let mut done = None;
    peer.drive(TIMEOUT, |_| {
        done = worker.next_event().unwrap();
        done.is_some()
    });
    let Some(Event::RdmaDone { status, cookie, .. }) = done else {
        panic!("the end of the RDMA READ: {done:?}");
    };
    assert_eq!((status, cookie), (Status::Ok, 2));
    assert!(peer.closed().is_none());
}

#[test]
fn a_client_that_never_answers_loses_only_its_own_connection() {
    let mut manager = Manager::start("progress_timeout = \"1 s\"", ROOM);
    let mut load = Load::default();
    load.add_worker(&manager, [2; 16]);
    load.add_client(manager.address(), [2; 16]);
    // Connections that have not negotiated are not kept.
    load.wait_for(1);
    let (mut worker, _silent, _window) = reading(&manager, [1; 16]);
    manager.restart();
    let Event::RdmaDone { status, .. } = event(&mut worker) else {
        panic!("the end of the RDMA READ");
    };
    assert_eq!(status, Status::Flushed);
    let Event::Disconnected { status, .. } = event(&mut worker) else {
        panic!("the end of the connection");
    };
    assert_eq!(status, Status::TimedOut);
    load.wait_for(3);
    load.end();
}

/// Stops a daemon with a connection, replaces its state, and returns the log of the next daemon. Copies of its
/// descriptors, as a child of the service manager may have, do not keep anything alive.
fn with_state(state: impl FnOnce(&Manager) -> OwnedFd) -> String {
    let mut manager = Manager::start("", ROOM);
    let (mut worker, mut peer, _window) = reading(&manager, [1; 16]);
    assert!(manager.stop().success(), "{}", manager.log());
    let other = state(&manager);
    let _copies = manager.passed();
    manager.replace("state", other);
    manager.begin();
    assert_eq!(manager.stored(), [""; 0]);
    let status = manager.status();
    assert_eq!(status["totals"]["connections"], 0, "{status}");
    let Event::RdmaDone { .. } = event(&mut worker) else {
        panic!("the end of the RDMA READ");
    };
    peer.wait_closed();
    manager.log()
}

/// Returns a sealed file with these bytes.
fn sealed(bytes: &[u8]) -> OwnedFd {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let file = memfd_create("state", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&file, bytes).unwrap();
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&file, seals).unwrap();
    file
}

#[test]
fn starts_afresh_with_a_state_that_it_cannot_continue() {
    for (bytes, why) in [
        (&b"{\"version\": 2}"[..], "the state cannot be read"),
        (b"not a state", "the state cannot be read"),
        (
            b"{\"version\": 4711, \"more\": []}",
            "the state has version 4711",
        ),
    ] {
        let log = with_state(|_| sealed(bytes));
        assert!(log.contains("connections end with this restart"), "{log}");
        assert!(log.contains(why), "{log}");
    }
    let log = with_state(|manager| {
        let path = manager.directory.file("state", "{\"version\": 2}");
        std::fs::File::open(path).unwrap().into()
    });
    assert!(log.contains("the state cannot be read"), "{log}");
}

#[test]
fn ends_workers_whose_memory_no_longer_fits_the_configuration() {
    let mut manager = Manager::start("", ROOM);
    let (mut worker, mut peer, _window) = reading(&manager, [1; 16]);
    assert!(manager.stop().success());
    manager
        .directory
        .file("smbdirectd.toml", "memory.bulk.max_segments = 8");
    let _copies = manager.passed();
    manager.begin();
    let log = manager.log();
    assert!(
        log.contains("the shapes of \"memory\" have changed"),
        "{log}"
    );
    assert!(matches!(event(&mut worker), Event::RdmaDone { .. }));
    peer.wait_closed();
}

#[test]
fn stops_gracefully_if_the_store_is_too_small() {
    let mut manager = Manager::start("drain_timeout = \"200 ms\"", 4);
    let (mut worker, mut peer, _window) = reading(&manager, [1; 16]);
    assert!(manager.stop().success(), "{}", manager.log());
    let log = manager.log();
    assert!(log.contains("connections end with this stop"), "{log}");
    assert!(log.contains("raise FileDescriptorStoreMax="), "{log}");
    assert!(log.contains("stopped"), "{log}");
    assert_eq!(manager.stored(), [""; 0]);
    peer.wait_closed();
    let Event::RdmaDone { status, .. } = event(&mut worker) else {
        panic!("the end of the RDMA READ");
    };
    assert_eq!(status, Status::Flushed);
    let Event::Disconnected { status, .. } = event(&mut worker) else {
        panic!("the end of the connection");
    };
    assert_eq!(status, Status::Stopping);
}

#[test]
fn what_attached_after_a_reload_is_kept_as_well() {
    let mut manager = Manager::start("", ROOM);
    manager
        .directory
        .file("smbdirectd.toml", "max_connections = 77");
    manager.reload("max_connections: ");
    let (mut load, address) = (Load::default(), manager.address());
    load.add_worker(&manager, [4; 16]);
    load.add_client(address, [4; 16]);
    load.wait_for(3);
    manager.restart();
    load.wait_for(3);
    load.end();
    assert!(manager.log().contains("continues 1 connections"));
}

/// Stops a daemon with a connection, and changes what the next one finds. Returns the next one's log.
fn without(change: impl FnOnce(&mut Manager)) -> String {
    let mut manager = Manager::start("", ROOM);
    let (mut worker, mut peer, _window) = reading(&manager, [1; 16]);
    assert!(manager.stop().success(), "{}", manager.log());
    change(&mut manager);
    // A child of the service manager may have copies, and must not keep a socket alive.
    let _copies = manager.passed();
    manager.begin();
    assert!(matches!(event(&mut worker), Event::RdmaDone { .. }));
    peer.wait_closed();
    assert_eq!(manager.status()["totals"]["connections"], 0);
    manager.log()
}

#[test]
fn ends_what_it_cannot_take_out_of_the_store() {
    let log = without(|manager| manager.limit = 0);
    assert!(log.contains("a store (FDSTORE"), "{log}");
}

#[test]
fn ends_what_comes_without_a_state() {
    let log = without(|manager| manager.remove("state"));
    assert!(log.contains("which come without a state"), "{log}");
}

/// While the store is being emptied, nothing else has the connections than the daemon that is told to stop.
#[test]
fn a_stop_while_the_daemon_starts_keeps_the_connections() {
    let mut manager = Manager::start("", ROOM);
    let mut load = Load::default();
    load.add_worker(&manager, [8; 16]);
    load.add_client(manager.address(), [8; 16]);
    load.wait_for(2);
    assert!(manager.stop().success(), "{}", manager.log());
    let status = manager.begin_and_stop();
    assert!(status.success(), "{status}: {}", manager.log());
    manager.begin();
    load.wait_for(2);
    load.end();
    assert_eq!(manager.log().matches("continues 1 connections").count(), 2);
}

#[test]
fn a_client_that_connects_during_the_restart_is_served_afterwards() {
    let mut manager = Manager::start("", ROOM);
    let (mut load, address) = (Load::default(), manager.address());
    load.add_worker(&manager, [3; 16]);
    assert!(manager.stop().success(), "{}", manager.log());
    load.add_client(address, [3; 16]);
    std::thread::sleep(Duration::from_millis(100));
    manager.begin();
    load.wait_for(2);
    load.end();
}

/// The events go on with the next number, so they must not be taken for those of another device.
#[test]
fn events_that_are_followed_come_once() {
    let mut manager = Manager::start("", ROOM);
    let _first = attach(&manager.control(), [6; 16]);
    let mut following = Following::start(&manager.control());
    let attached = following.next();
    assert!(attached.contains("attached"), "{attached}");
    manager.restart();
    let _second = attach(&manager.control(), [7; 16]);
    let next = following.next();
    assert!(next.contains("attached"), "{next}");
    // The time of the first event is in its line.
    assert_ne!(next, attached);
}

#[test]
fn the_sockets_name_the_daemon_that_serves_them() {
    let mut manager = Manager::start("", ROOM);
    let paths = [manager.control(), status_path(&manager.control())];
    for _ in 0..2 {
        for path in &paths {
            let socket = SeqSocket::connect(path).unwrap();
            let found = socket.peer_credentials().unwrap().process;
            assert_eq!(found, manager.process(), "{}", path.display());
        }
        manager.restart();
    }
}

/// A listener at all addresses that is passed on is in the way of one at a single address, unless it is closed first.
#[test]
fn connections_stay_if_another_address_is_configured() {
    let mut manager = Manager::start("", ROOM);
    let (mut load, address) = (Load::default(), manager.address());
    load.add_worker(&manager, [5; 16]);
    load.add_client(address, [5; 16]);
    load.wait_for(2);
    manager.listen = "0.0.0.0:0".to_owned();
    manager.restart();
    load.wait_for(2);
    let port = manager.address().port();
    manager.listen = format!("127.0.0.1:{port}");
    manager.restart();
    assert_eq!(manager.address().to_string(), manager.listen);
    load.add_client(manager.address(), [5; 16]);
    load.wait_for(2);
    load.end();
    assert_eq!(manager.log().matches("continues 1 connections").count(), 2);
}

/// Collects the names of everything in a state; numbers and texts do not matter, nor do the names of counters.
fn form(value: &serde_json::Value, path: &str, paths: &mut BTreeSet<String>) {
    const COUNTS: [&str; 5] = [
        "/registry/carried",
        "/registry/counters",
        "/registry/refused",
        "/registry/transport",
        "/shards/counters",
    ];
    paths.insert(path.to_owned());
    match value {
        _ if COUNTS.contains(&path) => {}
        serde_json::Value::Object(members) => {
            for (name, value) in members {
                form(value, &format!("{path}/{name}"), paths);
            }
        }
        serde_json::Value::Array(values) => {
            for value in values {
                form(value, path, paths);
            }
        }
        _ => {}
    }
}

/// Returns the form of the state while a worker reads.
fn form_now() -> String {
    let mut manager = Manager::start("", ROOM);
    let (_worker, _peer, _window) = reading(&manager, [1; 16]);
    // The daemon takes what the worker has just given it.
    std::thread::sleep(Duration::from_millis(50));
    assert!(manager.stop().success());
    let state: serde_json::Value = serde_json::from_slice(&manager.content("state")).unwrap();
    let mut paths = BTreeSet::new();
    form(&state, "", &mut paths);
    let lines: Vec<String> = paths.into_iter().collect();
    format!("version {}{}\n", state["version"], lines.join("\n"))
}

/// The form is that of structures all over the program, and only this test notices that one has changed.
#[test]
fn state_has_the_form_of_its_version() {
    let path = Path::new(ROOT).join("instruments/tests/smbdirectd/restart/form.txt");
    if std::env::var_os("UPDATE").is_some_and(|update| update == "1") {
        std::fs::write(&path, form_now()).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    let mut found = String::new();
    // On a busy machine, the daemon may not be that far in time.
    for _ in 0..5 {
        found = form_now();
        if found == expected {
            break;
        }
    }
    assert_eq!(
        found, expected,
        "the state has another form: increase VERSION in src/broker/kept.rs, say so in CHANGELOG.md, and run this \
         test with UPDATE=1"
    );
}
