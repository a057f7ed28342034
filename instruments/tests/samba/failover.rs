// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a break that is being sent on a channel when the channel dies, because it is cut off or silent.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use instruments::client::{Config, Connection, Create, Disposition, FileId, Lease, Read, Request};
use smbdirect::units::Credits;
use socket2::{Domain, Socket, Type};

use crate::channel::device;
use crate::sessions::{GUID, credentials, log_in};
use instruments::samba::{Server, Setup};

/// The number of bytes that a blocked line holds, roughly.
const HELD: usize = 16 << 10;

/// How long a break may stay unacknowledged on one channel before it is sent on another: 6 s, which is the longest time
/// with TCP, and some more for a busy machine. smbd would wait 35 s for the answer to a break that it has sent.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// A line to the server that can be blocked, and cut.
struct Line {
    address: SocketAddr,
    is_blocked: Arc<AtomicBool>,
    thread: Option<JoinHandle<[TcpStream; 2]>>,
}

impl Line {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let is_blocked = Arc::new(AtomicBool::new(false));
        let blocked = Arc::clone(&is_blocked);
        let thread = std::thread::spawn(move || {
            let (client, _) = listener.accept().expect("a connection");
            let server = connect(server);
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("an option");
            }
            let copy = |stream: &TcpStream| stream.try_clone().expect("a copy");
            let (mut from, mut to) = (copy(&client), copy(&server));
            std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            let ends = [copy(&client), copy(&server)];
            std::thread::spawn(move || down(server, client, &blocked));
            ends
        });
        Self {
            address,
            is_blocked,
            thread: Some(thread),
        }
    }

    /// Blocks the line: from now on nothing from the server arrives, and little is acknowledged; see [`connect`].
    fn block(&self) {
        self.is_blocked.store(true, Ordering::Relaxed);
    }

    fn cut(&mut self) {
        let thread = self.thread.take().expect("once");
        for end in thread.join().expect("a line") {
            // The other end may already be closed.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

/// Connects with a socket that buffers little on this side. The network does not acknowledge data that is not buffered.
fn connect(server: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(HELD / 2).expect("an option");
    socket.connect(&server.into()).expect("a server");
    socket.into()
}

fn down(mut server: TcpStream, mut client: TcpStream, blocked: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        if blocked.load(Ordering::Relaxed) {
            // From now on unread data stays in the sockets, until the line is cut.
            return;
        }
        if client.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Returns the number of messages that the one SMB Direct connection has carried to the client, and the number that it
/// has taken from smbd but not carried yet.
fn messages(status: &serde_json::Value) -> (u64, u64) {
    let count = |name: &str| status["connections"][0][name].as_u64().unwrap_or(0);
    (count("messages_out"), count("outstanding"))
}

/// A client that has a lease. Its first channel is SMB Direct, and the second one is TCP.
struct Scene {
    server: Server,
    line: Line,
    direct: Connection,
    tcp: Connection,
    tree: u32,
    file: FileId,
}

impl Scene {
    /// Makes a scene. On the first channel, there may be `credits` messages from the server that the client has not
    /// processed.
    fn new(credits: u16) -> Self {
        let server = device(Setup {
            global: &["smb2 leases = yes"],
            ..Setup::default()
        });
        let line = Line::to(server.smb_direct);
        let mut config = Config::new(GUID);
        config.smb_direct.receive_credit_max = Credits(credits);
        // Breaks are sent on the first channel.
        let mut direct = Connection::smb_direct(line.address, config.clone()).expect("SMB Direct");
        direct.log_in(&credentials(&server)).expect("a session");
        let tree = direct.tree_connect(&server.share_path()).expect("a tree");
        let mut tcp = Connection::tcp(server.tcp, config).expect("TCP");
        tcp.bind(&direct, &credentials(&server)).expect("a binding");
        let how = Create {
            lease: Some(Lease {
                key: [5; 16],
                state: 7,
            }),
            ..Create::file(Disposition::Create)
        };
        let created = direct.create(tree, "leased", &how).expect("a file");
        assert_eq!(created.oplock, 0xff, "a lease");
        Self {
            server,
            line,
            direct,
            tcp,
            tree,
            file: created.file,
        }
    }

    /// Blocks the line and makes the server answer `count` requests. Some of the answers then wait for the network or
    /// for credits. Returns the number of messages that the server has sent, including those that wait.
    fn block(&mut self, request: &Request<'_>, count: u64) -> u64 {
        let device = self.server.device();
        let received = self.direct.traffic().messages_in;
        let is_quiet = |status: &serde_json::Value| messages(status) == (received, 0);
        let sent = messages(&device.wait_for_status(is_quiet)).0;
        self.line.block();
        for _ in 0..count {
            self.direct.send(request).expect("sent");
        }
        let status = device.wait_for_status(|status| {
            let (out, waiting) = messages(status);
            // Some requests may also have an interim response.
            out + waiting >= sent + count
        });
        assert!(messages(&status).1 > 0, "everything has arrived: {status}");
        sent + count
    }

    /// Makes another client open the file.
    fn open(&self) -> (Connection, u64) {
        let mut other = log_in(&self.server, Config::new([8; 16]));
        let its_tree = other
            .tree_connect(&self.server.share_path())
            .expect("a tree");
        let how = Create::file(Disposition::Open);
        let request = Request::create(its_tree, "leased", &how).expect("encoded");
        let opening = other.send(&request).expect("sent");
        (other, opening)
    }

    /// Waits until the break is queued after `sent` messages, or smbd has given up the channel.
    fn wait_until_behind(&self, sent: u64) {
        self.server.device().wait_for_status(|status| {
            let (out, waiting) = messages(status);
            out + waiting > sent || status["connections"] == serde_json::json!([])
        });
    }

    /// Checks that the break comes on the second channel, and that the open then succeeds.
    fn expect_break(&mut self, (mut other, opening): (Connection, u64)) {
        // smbd waits longer than this for the answer to a break.
        let notice = self.tcp.next_break(Duration::from_secs(30));
        let notice = notice.expect("a connection").expect("a break");
        assert_eq!(notice.body()[8..24], [5; 16], "the lease's key");
        self.tcp
            .close(self.tree, self.file)
            .expect("a close, which answers the break");
        let opened = other.wait(opening).expect("an answer").ok();
        opened.expect("the file");
    }
}

#[test]
fn a_break_that_a_dead_channel_did_not_take_goes_to_another() {
    let mut scene = Scene::new(8);
    // Answers that do not arrive use up all of the server's credits.
    let sent = scene.block(&Request::echo().expect("encoded"), 24);
    let opening = scene.open();
    scene.wait_until_behind(sent);
    scene.line.cut();
    scene.expect_break(opening);
}

#[test]
fn a_break_that_a_silent_channel_does_not_acknowledge_goes_to_another() {
    let mut scene = Scene::new(255);
    let (tree, file) = (scene.tree, scene.file);
    let data = vec![7; 4096];
    let written = scene.tcp.write(tree, file, 0, &data).expect("a write");
    assert_eq!(written as usize, data.len());
    // The answers are more than the line holds, but far fewer messages than the server may send.
    let count = 4 * HELD / data.len();
    let read = Read::inline(file, 0, 4096).request(tree);
    scene.block(&read, count as u64);
    let opening = scene.open();
    let began = Instant::now();
    scene.expect_break(opening);
    let after = began.elapsed();
    println!("the break was answered after {after:?}");
    assert!(after < UNACKNOWLEDGED, "{after:?}");
}
