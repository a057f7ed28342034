// SPDX-License-Identifier: GPL-2.0-or-later

//! Provokes every status of the header by its real cause.
//!
//! `tests/c/errors.c` writes lines that say what it needs: clients that behave well or badly, and fake devices.
//! [`UNPROVOKED`] lists the statuses that it cannot provoke.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use smbdirect::device::abi::{self, Attached, Detached, RegionShape, Reply, Segment, kind, region};
use smbdirect::device::message::{Body, Request, encode, read_request};
use smbdirect::device::{Status, abi::VERSION};
use smbdirect::fabric::Access;
use smbdirect::sys::{Memfd, SeqListener, SeqSocket, wait_readable};
use zerocopy::FromZeros;

use instruments::c::header;
use instruments::c::programs::{Build, Running, program, source};
use instruments::daemon::{Daemon, Directory, Setup, TIMEOUT};
use instruments::peer::{Peer, Window, smb2};

/// A correct library never returns this status; a unit test in `src/ffi/pointer.rs` provokes it.
const UNPROVOKED: [&str; 1] = ["SMBDIRECT_E_PANIC"];

/// Limits that tests reach quickly, and how long a client may take to answer a keepalive.
pub(crate) const CONFIG: &str = "
max_workers = 2
max_sessions = 2
drain_timeout = \"100 ms\"
acceptor.keepalive_timeout = \"100 ms\"
memory.bulk.unit_length = \"1 MiB\"
memory.bulk.longest_run = 8
memory.bulk.units_per_segment = 8
memory.bulk.max_segments = 2
";

/// A network that forwards everything until it is told to do something else.
struct Network {
    /// The daemon's end of it.
    server: TcpStream,
}

impl Network {
    /// Makes a network for a client that `connect` connects. Unless the client `serves_reads`, the daemon is told that
    /// the client has no room for RDMA READs; our own fabrics always have room.
    fn between<T>(
        daemon: SocketAddr,
        serves_reads: bool,
        connect: impl FnOnce(SocketAddr) -> T,
    ) -> (Self, T) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = TcpStream::connect(daemon).expect("the daemon listens");
        let mut to_server = server.try_clone().expect("a descriptor");
        thread::spawn(move || {
            let (mut client, _) = listener.accept().expect("a client");
            // The header of the MPA request, then IRD and ORD (RFC 6581 9).
            let mut request = [0; 24];
            client.read_exact(&mut request).expect("an MPA request");
            if !serves_reads {
                // Clear the two flags in front of IRD.
                request[20] &= 0xc0;
                request[21] = 0;
            }
            to_server.write_all(&request).expect("the daemon reads");
            copy(&client, &to_server);
            copy(&to_server, &client);
        });
        (Self { server }, connect(address))
    }

    /// Breaks the connection: the daemon sees a reset.
    fn reset(&self) {
        rustix::net::connect_unspec(&self.server).expect("a reset");
    }

    /// Sends something that no RNIC sends: a DDP segment of another version (RFC 5041 4.1).
    fn break_protocol(&mut self) {
        let mut fpdu = vec![0xff; 28];
        fpdu[..2].copy_from_slice(&20_u16.to_be_bytes());
        self.server.write_all(&fpdu).expect("the daemon reads");
    }
}

/// Forwards everything that comes from one side, until the connection ends.
fn copy(from: &TcpStream, to: &TcpStream) {
    let [mut from, mut to] = [from, to].map(|side| side.try_clone().expect("a descriptor"));
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// A fake device, at a path of its own.
struct Fake {
    path: PathBuf,
    listener: SeqListener,
}

impl Fake {
    fn new(directory: &Path, name: &str) -> Self {
        let path = directory.join(format!("fake-{name}"));
        let listener = SeqListener::bind(&path).expect("a socket");
        Self { path, listener }
    }

    /// Answers one attachment, and then waits until the process has ended.
    fn answer(self, name: &str) {
        let name = name.to_owned();
        thread::spawn(move || {
            wait_readable(self.listener.as_fd(), None).expect("a process");
            let socket = self.listener.accept().expect("a process");
            wait_readable(socket.as_fd(), None).expect("its request");
            let mut buffer = [0; abi::MAX_CONTROL_LENGTH];
            let received = socket.receive(&mut buffer).expect("its request");
            let (cookie, _) = read_request(&buffer[..received.length]).expect("an attachment");
            match name.as_str() {
                "refuses-version" => {
                    let reply = Reply {
                        status: Status::Version.code(),
                        kind: kind::ATTACH,
                    };
                    send(&socket, cookie, &reply);
                }
                "other-version" => {
                    let attached = Attached {
                        version: VERSION + 1,
                        ..Attached::new_zeroed()
                    };
                    send(&socket, cookie, &attached);
                }
                "names-version" => {
                    let detached = Detached {
                        status: Status::Version.code(),
                        version: VERSION + 1,
                    };
                    send(&socket, 0, &detached);
                }
                "unknown-reason" => {
                    let detached = Detached {
                        status: 9999,
                        version: 0,
                    };
                    send(&socket, 0, &detached);
                }
                "no-memory" => serve_without_bulk(&socket, cookie),
                "garbage" => socket.send(&[0xaa; 40], &[]).expect("room"),
                name => panic!("no device {name}"),
            }
            // The socket becomes readable when the process' attachment ends.
            let _ = wait_readable(socket.as_fd(), None);
        });
    }
}

/// Attaches a worker and gives it memory for messages, but refuses all memory for data.
fn serve_without_bulk(socket: &SeqSocket, cookie: u64) {
    let shape = RegionShape {
        unit_length: 4096,
        units_per_segment: 1,
        longest_run: 1,
        max_segments: 1,
    };
    let mut attached = Attached {
        version: VERSION,
        submissions_outstanding: 1,
        ..Attached::new_zeroed()
    };
    attached.memory.limit = 1 << 20;
    (attached.memory.send, attached.memory.bulk) = (shape, shape);
    attached.memory.receive = shape;
    send(socket, cookie, &attached);
    for region in [region::SEND, region::BULK] {
        wait_readable(socket.as_fd(), None).expect("its request");
        let mut buffer = [0; abi::MAX_CONTROL_LENGTH];
        let received = socket.receive(&mut buffer).expect("its request");
        let request = read_request(&buffer[..received.length]).expect("a request");
        let (cookie, Request::Grow(grow)) = request else {
            panic!("{request:?}");
        };
        assert_eq!(grow.region, region);
        if region == region::BULK {
            let reply = Reply {
                status: Status::NoMemory.code(),
                kind: kind::GROW,
            };
            return send(socket, cookie, &reply);
        }
        let segment = Segment {
            region,
            length: 4096,
            ..Segment::new_zeroed()
        };
        let mut message = Vec::new();
        encode(cookie, &segment, &[], &mut message);
        let file = Memfd::create("test", 4096).expect("memory");
        socket.send(&message, &[file.as_fd()]).expect("room");
    }
}

fn send<B: Body>(socket: &SeqSocket, cookie: u64, body: &B) {
    let mut message = Vec::new();
    encode(cookie, body, &[], &mut message);
    socket.send(&message, &[]).expect("room");
}

/// The clients and daemons that a program needs.
pub(crate) struct Others {
    daemon: Daemon,
    directory: Directory,
    client: Option<(Network, Peer)>,
    /// Whether the client does nothing at present.
    mute: bool,
    windows: Vec<Window>,
    fakes: Vec<Fake>,
}

impl Others {
    pub(crate) fn new() -> Self {
        let directory = Directory::new();
        directory.file("smbdirectd.toml", CONFIG);
        Self {
            daemon: Daemon::start_in(directory, &Setup::default()),
            directory: Directory::new(),
            client: None,
            mute: false,
            windows: Vec::new(),
            fakes: Vec::new(),
        }
    }

    pub(crate) fn control(&self) -> &str {
        self.daemon.control.to_str().expect("UTF-8")
    }

    fn connect(&mut self, serves_reads: bool) {
        let connect = |address| {
            let mut peer = Peer::connect(address);
            peer.negotiate([7; 16]);
            peer
        };
        let daemon = self.daemon.address();
        self.client = Some(Network::between(daemon, serves_reads, connect));
    }

    /// Does what the program asks for, and returns the answer.
    fn obey(&mut self, request: &str) -> String {
        let (word, argument) = request.split_once(' ').unwrap_or((request, ""));
        match (word, &mut self.client) {
            ("connect", None) => self.connect(true),
            ("connect-without-reads", None) => self.connect(false),
            ("window", Some((_, peer))) => {
                let window = peer.window(1 << 16, Access::RemoteRead);
                let piece = window.descriptor();
                self.windows.push(window);
                return format!("{} {}", piece.offset, piece.token.0);
            }
            ("message", Some((_, peer))) => peer.send(&smb2::request(0x0d, 1, 0, &[])),
            ("mute", _) => self.mute = true,
            ("unmute", _) => self.mute = false,
            ("close", Some(_)) => {
                let (_, peer) = self.client.take().expect("a client");
                assert_eq!(peer.close().name(), "local");
            }
            ("reset", Some((network, _))) => network.reset(),
            ("break-protocol", Some((network, _))) => network.break_protocol(),
            ("stop", _) => self.daemon.signal(Signal::TERM),
            ("kill", _) => self.daemon.signal(Signal::KILL),
            ("open-up", _) => {
                let control = &self.daemon.control;
                let run = control.parent().expect("a directory");
                for (path, mode) in [(run, 0o755), (control, 0o666)] {
                    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
                }
            }
            ("fake", _) => {
                let fake = Fake::new(&self.directory.0, argument);
                let path = fake.path.to_str().expect("UTF-8").to_owned();
                match argument {
                    "accepts-nobody" => self.fakes.push(fake),
                    _ => fake.answer(argument),
                }
                return path;
            }
            _ => panic!("{request:?} makes no sense"),
        }
        String::new()
    }

    /// Does what the program asks for, until the program reports that it is done.
    pub(crate) fn play(&mut self, mut program: Running, done: &str) {
        let end = Instant::now() + TIMEOUT;
        loop {
            match program.line_within(Duration::from_millis(1)) {
                Ok(line) if line == done => break,
                Ok(line) => {
                    let answer = self.obey(&line);
                    let stdin = program.stdin.as_mut().expect("a pipe");
                    writeln!(stdin, "ok {answer}").expect("the program reads");
                }
                // The program's standard error says why.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let (false, Some((_, peer))) = (self.mute, &mut self.client) {
                peer.drive(Duration::from_millis(1), |_| false);
            }
            assert!(Instant::now() < end, "no end: {}", program.end());
        }
        program.finish();
    }
}

/// Returns the statuses that the program says it can provoke.
fn provoked() -> Vec<String> {
    let program = program(&source("errors.c"), Build::Plain);
    let output = Command::new(program).output().expect("the program runs");
    assert!(output.status.success(), "{output:?}");
    let names = String::from_utf8(output.stdout).expect("ASCII");
    names.lines().map(str::to_owned).collect()
}

#[test]
fn every_status_of_the_header_is_provoked() {
    let header = fs::read_to_string(header()).expect("the header");
    let declared: BTreeSet<&str> = header
        .lines()
        .filter_map(|line| line.strip_prefix("#define ")?.split(' ').next())
        .filter(|name| name.starts_with("SMBDIRECT_E_"))
        .collect();
    let provoked = provoked();
    let listed = provoked.iter().map(String::as_str).chain(UNPROVOKED);
    assert_eq!(
        listed.clone().count(),
        declared.len(),
        "a status is listed twice"
    );
    assert_eq!(listed.collect::<BTreeSet<_>>(), declared);
}

fn provoke_all(build: Build) {
    for name in provoked() {
        let mut others = Others::new();
        let errors = program(&source("errors.c"), build);
        let running = Running::start(&errors, &[&name, others.control()]);
        println!("{name}");
        others.play(running, "provoked");
    }
}

#[test]
fn each_fault_returns_its_own_status() {
    provoke_all(Build::Plain);
}

#[test]
fn each_fault_returns_its_own_status_under_sanitizers() {
    provoke_all(Build::Sanitized);
}
