// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that a client is served no matter how much other clients take: strangers, idle, greedy or stopped ones.
//!
//! Each test fills a server with clients of one such kind, all from another address. Then a client logs in, writes and
//! reads by RDMA and leaves, three times. The test asserts that the client is served within the timeout that all tests
//! have. It only prints how long that took, because on a busy machine a second is not the server's fault.

use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use instruments::client::{Config, Connection, Create, Disposition, FileId, NtStatus};
use socket2::{Domain, Socket, Type};

use crate::channel::device;
use crate::failures::client::{config, content, get, put, send_get, send_put};
use crate::sessions::credentials;
use instruments::samba::{Server, Setup};

/// The address of the unfair clients.
const CROWD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 5);
/// How many times the other client is served.
const ROUNDS: usize = 3;

/// A relay to a server. To the server, its clients have another address.
struct Relay {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    /// The number of bytes from clients that are still to be forwarded.
    left: Arc<AtomicUsize>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut relay = Self {
            address: listener.local_addr().expect("its address"),
            streams: Arc::default(),
            left: Arc::new(AtomicUsize::new(usize::MAX)),
            stopping: Arc::default(),
            thread: None,
        };
        let streams = Arc::clone(&relay.streams);
        let left = Arc::clone(&relay.left);
        let stopping = Arc::clone(&relay.stopping);
        relay.thread = Some(thread::spawn(move || {
            for client in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    return;
                }
                let client = client.expect("a connection");
                // The server may refuse further connections.
                if let Ok(server) = connect_from(CROWD, server) {
                    carry(client, server, &streams, &left);
                }
            }
        }));
        relay
    }

    /// Forwards this many more bytes of clients, and nothing after that.
    fn hold_after(&self, bytes: usize) {
        self.left.store(bytes, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        for stream in self.streams.lock().expect("a list").drain(..) {
            // One end may already be closed.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn connect_from(source: Ipv4Addr, server: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    socket.connect(&server.into())?;
    Ok(socket.into())
}

/// Carries bytes both ways; the threads end when the streams end.
fn carry(
    client: TcpStream,
    server: TcpStream,
    streams: &Mutex<Vec<TcpStream>>,
    left: &Arc<AtomicUsize>,
) {
    let copy = |stream: &TcpStream| {
        stream.set_nodelay(true).expect("an option");
        stream.try_clone().expect("a copy")
    };
    let (from_client, to_server) = (copy(&client), copy(&server));
    let (mut from_server, mut to_client) = (copy(&server), copy(&client));
    streams.lock().expect("a list").extend([client, server]);
    let left = Arc::clone(left);
    thread::spawn(move || carry_up(from_client, to_server, &left));
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        // Tells the client that the server has ended it.
        let _ = to_client.shutdown(Shutdown::Both);
    });
}

fn carry_up(mut client: TcpStream, mut server: TcpStream, left: &AtomicUsize) {
    use std::io::{Read, Write};
    let mut buffer = vec![0; 4096];
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        let still = |left: usize| left.checked_sub(length);
        let sent = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, still);
        if sent.is_err() {
            // Leave both ends open.
            return;
        }
        if server.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
}

/// A client that uses only SMB Direct, with a file.
struct Client {
    direct: Connection,
    tree: u32,
    file: FileId,
}

impl Client {
    fn log_in(server: &Server, address: SocketAddr, config: Config) -> Self {
        let mut direct = Connection::smb_direct(address, config).expect("SMB Direct");
        direct.log_in(&credentials(server)).expect("a session");
        let tree = direct.tree_connect(&server.share_path()).expect("a tree");
        let name = format!("fair-{}", crate::failures::client::number());
        let how = Create::file(Disposition::Create);
        let file = direct.create(tree, &name, &how).expect("a file").file;
        Self { direct, tree, file }
    }

    /// Writes by RDMA, and reads the data back.
    fn copy(&mut self, length: usize) {
        let data = content(length as u64, length);
        let written = put(&mut self.direct, self.tree, self.file, 0, &data);
        assert_eq!(written.expect("a WRITE") as usize, length);
        let read = get(&mut self.direct, self.tree, self.file, 0, length);
        assert!(read.expect("a READ") == data, "other bytes");
    }
}

/// Runs several clients without a relay, one after another, and prints the longest time that one of them took.
fn others_are_served(server: &Server, what: &str) {
    let mut longest = Duration::ZERO;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        Client::log_in(server, server.smb_direct, config()).copy(8192);
        longest = longest.max(began.elapsed());
    }
    println!("{what}: another client was served within {longest:.2?}");
}

fn count(server: &Server, of: &str) -> u64 {
    let status = server.device().status();
    status["totals"][of].as_u64().expect("a number")
}

/// These clients have one address. They never log in, but they name the GUID of a client that has.
#[test]
fn strangers_do_not_take_all_connections() {
    let server = device(Setup {
        device: "max_connections = 60\n",
        ..Setup::default()
    });
    let relay = Relay::to(server.smb_direct);
    let mut victim = Client::log_in(&server, server.smb_direct, config());
    let config = Config {
        timeout: Duration::from_secs(10),
        ..victim.direct.config().clone()
    };
    let mut crowd = Vec::new();
    let mut refused = 0;
    while crowd.len() < 70 && refused < 3 {
        match Connection::smb_direct(relay.address, config.clone()) {
            Ok(stranger) => crowd.push(stranger),
            Err(_) => refused += 1,
        }
    }
    assert!(!crowd.is_empty());
    // One address may have a quarter of all connections, and the victim has one more.
    let is_bound = |status: &serde_json::Value| {
        let connections = status["totals"]["connections"].as_u64();
        connections.is_some_and(|connections| connections <= 60 / 4 + 1)
    };
    server.device().wait_for_status(is_bound);
    others_are_served(&server, "strangers");
    victim.copy(8192);
}

/// These connections have the GUID of another client. On each of them a long message begins and never ends.
#[test]
fn unfinished_messages_of_strangers_do_not_take_a_clients_memory() {
    let server = device(Setup::default());
    let mut victim = Client::log_in(&server, server.smb_direct, config());
    let mut relays = Vec::new();
    let mut crowd = Vec::new();
    for _ in 0..9 {
        let relay = Relay::to(server.smb_direct);
        let config = Config {
            timeout: Duration::from_secs(10),
            ..victim.direct.config().clone()
        };
        // If there is not even memory for the first request, the victim will find out below.
        let Ok(mut stranger) = Connection::smb_direct(relay.address, config) else {
            continue;
        };
        relay.hold_after(50_000);
        crowd.push(thread::spawn(move || {
            let mut message = vec![0xfe; 1_000_000];
            message[1..4].copy_from_slice(b"SMB");
            // Sending fails when the relay ends, or because a stranger may not send so much.
            let _ = stranger.send_bytes(&message);
        }));
        relays.push(relay);
    }
    victim.copy(8192);
    others_are_served(&server, "unfinished messages");
    drop(relays);
    for stranger in crowd {
        let _ = stranger.join();
    }
}

/// Many clients of one address come at once; TCP would accept each of them.
#[test]
fn a_burst_of_clients_of_one_address_is_served() {
    const BURST: usize = 100;
    let server = device(Setup::default());
    let address = server.smb_direct;
    let connect = || thread::spawn(move || Connection::smb_direct(address, config()).map(drop));
    let burst: Vec<_> = (0..BURST).map(|_| connect()).collect();
    let served = burst
        .into_iter()
        .map(|client| client.join().expect("a client"));
    let failed: Vec<_> = served.filter_map(Result::err).collect();
    assert!(
        failed.is_empty(),
        "{} of {BURST}: {}",
        failed.len(),
        failed[0]
    );
}

/// Silent connections come from many addresses, and must wait while other clients get in.
#[test]
fn silent_connections_do_not_keep_other_clients_out() {
    let server = device(Setup::default());
    let mut silent = Vec::new();
    for source in 0..16 {
        for _ in 0..80 {
            let source = Ipv4Addr::new(127, 0, 1, source);
            silent.extend(connect_from(source, server.smb_direct));
        }
    }
    others_are_served(&server, "silent connections");
}

/// These clients wrote by RDMA once and have been idle since then, so they hold next to nothing.
#[test]
fn an_idle_crowd_leaves_memory_to_others() {
    const IDLE: usize = 24;
    let server = device(Setup {
        device: "memory_limit = \"512 MiB\"\n",
        ..Setup::default()
    });
    let relay = Relay::to(server.smb_direct);
    let mut crowd: Vec<_> = (0..IDLE)
        .map(|_| {
            let mut client = Client::log_in(&server, relay.address, config());
            client.copy(4096);
            client
        })
        .collect();
    others_are_served(&server, "an idle crowd");
    for client in &mut crowd {
        client.copy(4096);
    }
    println!("{} KiB counted", count(&server, "memory") >> 10);
}

/// A client stops while a hundred of the largest requests are outstanding.
#[test]
fn a_greedy_client_that_stops_leaves_memory_to_others() {
    const MIB: usize = 1 << 20;
    let server = device(Setup {
        device: "memory_limit = \"140 MiB\"\n",
        ..Setup::default()
    });
    let relay = Relay::to(server.smb_direct);
    let how = Config {
        credits: 4096,
        ..config()
    };
    let mut greedy = Client::log_in(&server, relay.address, how);
    greedy.copy(MIB);
    let ids: Vec<u64> = (0..100)
        .map(|_| {
            let sent = send_get(&mut greedy.direct, greedy.tree, greedy.file, 0, MIB);
            sent.expect("sent").0
        })
        .collect();
    // The client does not take the data, so the data stays where it is.
    others_are_served(&server, "a greedy client");
    for id in ids {
        let response = greedy.direct.wait(id).expect("an answer");
        assert_eq!(response.status(), NtStatus::SUCCESS);
    }
}

/// These clients do not send the data of WRITEs that the server has begun, until the server gives them up.
#[test]
fn stopped_clients_leave_memory_to_others() {
    const LONG: usize = 8 << 20;
    let server = device(Setup {
        device: "memory_limit = \"300 MiB\"\nprogress_timeout = \"10 s\"\n",
        ..Setup::default()
    });
    let relay = Relay::to(server.smb_direct);
    let data = content(1, LONG);
    let mut stopped = Vec::new();
    for _ in 0..4 {
        let how = Config {
            credits: 4096,
            ..config()
        };
        let mut client = Client::log_in(&server, relay.address, how);
        for _ in 0..8 {
            let sent = send_put(&mut client.direct, client.tree, client.file, 0, &data);
            sent.expect("sent");
        }
        stopped.push(client);
    }
    others_are_served(&server, "stopped clients");
    let is_empty = |status: &serde_json::Value| status["totals"]["connections"] == 0;
    server.device().wait_for_status(is_empty);
}
