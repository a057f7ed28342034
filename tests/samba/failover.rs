//! A break that is under way on a channel that dies.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use smbdirect::client::{Config, Connection, Create, Disposition, Lease, Request};
use smbdirect::units::Credits;

use crate::channel::device;
use crate::server::Setup;
use crate::sessions::{GUID, credentials, log_in};

/// A line to the server that can be blocked, and cut.
struct Line {
    address: SocketAddr,
    is_blocked: Arc<AtomicBool>,
    thread: JoinHandle<[TcpStream; 2]>,
}

impl Line {
    fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        let is_blocked = Arc::new(AtomicBool::new(false));
        let blocked = Arc::clone(&is_blocked);
        let thread = std::thread::spawn(move || {
            let (client, _) = listener.accept().expect("a connection");
            let server = TcpStream::connect(server).expect("a server");
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
            thread,
        }
    }

    /// Nothing of the server arrives any more.
    fn block(&self) {
        self.is_blocked.store(true, Ordering::Relaxed);
    }

    fn cut(self) {
        for end in self.thread.join().expect("a line") {
            // The other end may have gone first.
            let _ = end.shutdown(Shutdown::Both);
        }
    }
}

fn down(mut server: TcpStream, mut client: TcpStream, blocked: &AtomicBool) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        if blocked.load(Ordering::Relaxed) {
            // What is not read from now on waits in the sockets, until the line is cut.
            return;
        }
        if client.write_all(&buffer[..length]).is_err() {
            return;
        }
    }
}

/// Messages that the one SMB Direct connection has carried to the client, and those that it has
/// taken from smbd and not carried yet.
fn messages(status: &serde_json::Value) -> (u64, u64) {
    let count = |name: &str| status["connections"][0][name].as_u64().unwrap_or(0);
    (count("messages_out"), count("outstanding"))
}

#[test]
fn a_break_that_a_dead_channel_did_not_take_goes_to_another() {
    let server = device(Setup {
        global: &["smb2 leases = yes"],
        ..Setup::default()
    });
    let line = Line::to(server.smb_direct);
    let mut config = Config::new(GUID);
    config.smb_direct.receive_credit_max = Credits(8);
    // The first channel is the one that is told of breaks.
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

    // Answers that do not arrive use up all that the server may send.
    let device = server.device();
    let received = direct.traffic().messages_in;
    let sent = messages(&device.wait_for_status(|status| messages(status) == (received, 0))).0;
    line.block();
    let echo = Request::echo().expect("encoded");
    for _ in 0..24 {
        direct.send(&echo).expect("sent");
    }
    let status = device.wait_for_status(|status| {
        let (out, waiting) = messages(status);
        out + waiting == sent + 24
    });
    let (_, waiting) = messages(&status);
    assert!(waiting > 0, "{status}");

    let mut other = log_in(&server, Config::new([8; 16]));
    let its_tree = other.tree_connect(&server.share_path()).expect("a tree");
    let how = Create::file(Disposition::Open);
    let request = Request::create(its_tree, "leased", &how).expect("encoded");
    let opening = other.send(&request).expect("sent");
    // The break is behind them.
    device.wait_for_status(|status| messages(status).1 == waiting + 1);
    line.cut();
    let notice = tcp.next_break(Duration::from_secs(30));
    let notice = notice.expect("a connection").expect("a break");
    assert_eq!(notice.body()[8..24], [5; 16], "the lease's key");
    tcp.close(tree, created.file)
        .expect("a close, which answers the break");
    let opened = other.wait(opening).expect("an answer").ok();
    opened.expect("the file");
}
