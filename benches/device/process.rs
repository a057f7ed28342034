// SPDX-License-Identifier: GPL-2.0-or-later

//! Processes of the benchmark: this program, started again in another role.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant as Clock};

use smbdirect::broker::{self, Broker, Config};
use smbdirect::device::{Event, Handle, Role, Status};
use smbdirect::fabric::iwarp::Iwarp;
use smbdirect::sys::{EventFd, SeqListener, SeqSocket, wait_readable};

use super::pair::Paired;
use super::{operations, stream};

/// The client of all measurements.
pub(crate) const CLIENT_GUID: [u8; 16] = *b"a client's GUID.";

/// Plays the role of another process if this is one. Returns whether it did.
pub(crate) fn is_child(args: &[String]) -> bool {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["--pong", path] => operations::pong(Path::new(path)),
        ["--broker", fabric, path] => serve(fabric, Path::new(path)),
        ["--client", address] => stream::client(address.parse().expect("an address")),
        _ => return false,
    }
    true
}

/// Another process, which ends when this is dropped.
pub(crate) struct Process {
    child: Child,
    pub(crate) output: BufReader<ChildStdout>,
}

impl Process {
    pub(crate) fn start(args: &[&str]) -> Self {
        let program = std::env::current_exe().expect("own path");
        // The benchmark needs descriptors for thousands of workers and connections.
        let script = "ulimit -n $(ulimit -H -n); exec \"$0\" \"$@\"";
        let mut child = Command::new("sh")
            .args(["-c", script])
            .arg(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start another process");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, output }
    }

    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    /// Returns the resident memory in bytes, and the processor time used in seconds.
    pub(crate) fn usage(&self) -> (u64, f64) {
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.child.id());
            fs::read_to_string(path).expect("it runs")
        };
        let status = read("status");
        let resident = status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .parse::<u64>()
                    .ok()
            })
            .expect("VmRSS");
        // utime and stime, in ticks of 10 ms, are the 12th and 13th fields after the command's name.
        let stat = read("stat");
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().expect("a number"))
            .sum();
        (resident * 1024, ticks as f64 / 100.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process ends when its standard input does.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A broker in a separate process.
pub(crate) struct BrokerProcess {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    pub(crate) control: PathBuf,
    _directory: Directory,
}

/// A directory that is deleted when this is dropped. Others may not write to it, because the control socket requires
/// that.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = socket_path();
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.expect("a directory of its own");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl BrokerProcess {
    pub(crate) fn start(fabric: &str) -> Self {
        let directory = Directory::new();
        let control = directory.0.join("control");
        let path = control.to_str().expect("UTF-8");
        let mut process = Process::start(&["--broker", fabric, path]);
        let address = process.line().parse().expect("an address");
        Self {
            process,
            address,
            control,
            _directory: directory,
        }
    }

    /// Attaches a worker that registers the client.
    pub(crate) fn worker(&self) -> Worker {
        let mut worker = self.bare_worker();
        let register = worker.handle.set_session_id(1, CLIENT_GUID, 0, false);
        register.expect("attached");
        match worker.next() {
            Event::Reply {
                status: Status::Ok, ..
            } => worker,
            other => panic!("{other:?}"),
        }
    }

    /// Attaches a worker.
    pub(crate) fn bare_worker(&self) -> Worker {
        let handle = Handle::attach(&self.control, Role::Worker, None).expect("a broker");
        let mut worker = Worker {
            handle,
            busy_poll: Duration::ZERO,
        };
        match worker.next() {
            Event::Attached => worker,
            other => panic!("{other:?}"),
        }
    }
}

/// How long workers and clients look for events before they sleep. The broker uses the same time.
pub(crate) const BUSY_POLL: Duration = Duration::from_micros(50);

/// A worker in this process.
pub(crate) struct Worker {
    pub(crate) handle: Handle,
    busy_poll: Duration,
}

impl Worker {
    /// Makes the worker look for events for a while before it sleeps.
    pub(crate) fn looks_for(&mut self, time: Duration) {
        self.busy_poll = time;
    }

    /// Waits for the next event, and sleeps until there is one. Every client counts as logged in as soon as it
    /// connects, because the limits for strangers are not to be measured.
    pub(crate) fn next(&mut self) -> Event {
        let event = self.wait();
        if let Event::Connection { info } = &event {
            let result = self.handle.set_authenticated(info.conn);
            result.expect("its own");
        }
        event
    }

    fn wait(&mut self) -> Event {
        let start = Clock::now();
        loop {
            if let Some(event) = self.handle.peek_event().expect("attached") {
                return event;
            }
            if start.elapsed() >= self.busy_poll {
                break;
            }
            std::hint::spin_loop();
        }
        loop {
            if let Some(event) = self.handle.next_event().expect("attached") {
                return event;
            }
            let descriptor = self.handle.event_fd().expect("this process'");
            wait_readable(descriptor, Some(Duration::from_secs(10))).expect("poll");
        }
    }
}

/// Returns a path for a socket.
pub(crate) fn socket_path() -> PathBuf {
    let name = format!(
        "smbdirect-bench-{}-{}",
        std::process::id(),
        fastrand::u32(..)
    );
    std::env::temp_dir().join(name)
}

/// Plays the broker's role, until standard input ends.
fn serve(fabric: &str, control: &Path) {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        control: control.to_owned(),
        reactors: 1,
        max_connections: 4096,
        max_workers: 4096,
        max_unnegotiated_per_source: 256,
        ..Config::default()
    };
    let wait = |address: SocketAddr| {
        println!("{address}");
        let _ = std::io::stdin().read(&mut [0]);
    };
    if fabric == "loopback" {
        let broker = Broker::start(config, |_| Ok(Paired::new())).expect("a broker");
        wait(broker.addresses()[0]);
    } else {
        let iwarp = broker::iwarp_config(&config);
        let fabric = move |_| Iwarp::new(iwarp).map_err(std::io::Error::other);
        let broker = Broker::start(config, fabric).expect("a broker");
        wait(broker.addresses()[0]);
    }
}

/// Shares two eventfds between this process and the one that it starts.
pub(crate) fn share_eventfds(args: &[&str]) -> (Process, EventFd, EventFd) {
    let path = socket_path();
    let listener = SeqListener::bind(&path).expect("a socket");
    let process = Process::start(&[args, &[path.to_str().expect("UTF-8")]].concat());
    wait_readable(listener.as_fd(), None).expect("poll");
    let socket = listener.accept().expect("the other process");
    let (there, back) = (
        EventFd::new().expect("eventfd"),
        EventFd::new().expect("eventfd"),
    );
    socket
        .send(b"eventfds", &[there.as_fd(), back.as_fd()])
        .expect("room");
    fs::remove_file(path).expect("there");
    (process, there, back)
}

/// Receives the eventfds: the other side of [`share_eventfds`].
pub(crate) fn receive_eventfds(path: &Path) -> [OwnedFd; 2] {
    let socket = SeqSocket::connect(path).expect("the first process");
    wait_readable(socket.as_fd(), None).expect("poll");
    let received = socket.receive(&mut [0; 64]).expect("a message");
    received.descriptors.try_into().expect("two descriptors")
}
