// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures how fast a stream of RDMA is compared with a bare TCP stream: two processes, loopback TCP, messages of 1
//! MiB, all in one run. Prints a table of ratios; `--json` prints it for scripts.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant as Clock};

use smbdirect::fabric::iwarp::{Config, Iwarp};
use smbdirect::fabric::{
    Access, ConnId, Event, Fabric, ReadLimits, Region, RemoteAddress, Sge, Waitable, Work, WrId,
};
use smbdirect::sys::{Memory, wait_readable};
use smbdirect::units::{Instant, RemoteToken};

const CHUNK: usize = 1 << 20;
const OUTSTANDING: usize = 8;
/// How long an end looks for events before it sleeps. Waking up is expensive on a virtual machine.
const SPIN: Duration = Duration::from_micros(50);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(position) = args.iter().position(|arg| arg == "--serve") {
        return serve(&args[position + 1], &args[position + 2]);
    }
    let gib: usize = args
        .iter()
        .find_map(|arg| arg.strip_prefix("--gib=")?.parse().ok())
        .unwrap_or(4);
    let rounds = if args.iter().any(|arg| arg == "--test") {
        1
    } else {
        3
    };
    let chunks = if rounds == 1 { 64 } else { gib << 10 };
    run(chunks, rounds, args.iter().any(|arg| arg == "--json"));
}

#[derive(Clone, Copy, PartialEq)]
enum Case {
    Tcp,
    Write { crc: bool },
    Read { crc: bool },
}

const CASES: [(&str, Case); 5] = [
    ("bare TCP", Case::Tcp),
    ("RDMA WRITE", Case::Write { crc: false }),
    ("RDMA WRITE, CRC", Case::Write { crc: true }),
    ("RDMA READ, 8 outstanding", Case::Read { crc: false }),
    ("RDMA READ, 8 outstanding, CRC", Case::Read { crc: true }),
];

/// The results of one run.
#[derive(Clone, Copy)]
struct Sample {
    bytes_per_second: f64,
    /// The processor seconds per GiB, of the requesting side and of the other process.
    cpu: [f64; 2],
}

/// Runs the cases in turn, round by round, and prints medians.
fn run(chunks: usize, rounds: usize, json: bool) {
    let mut samples = vec![Vec::new(); CASES.len()];
    for round in 1..=rounds {
        for ((name, case), samples) in CASES.iter().zip(&mut samples) {
            let sample = measure(*case, chunks);
            let rate = sample.bytes_per_second / 1e9;
            eprintln!("round {round}/{rounds}: {name}: {rate:.2} GB/s");
            samples.push(sample);
        }
    }
    let medians: Vec<Sample> = samples.iter().map(|samples| median(samples)).collect();
    let goals = [1.0, 0.9, 0.6, 0.9, 0.6];
    if !json {
        println!(
            "\n{:<32}{:>8}{:>8}{:>6}   CPU s/GiB: asking, other",
            "1 MiB messages", "GB/s", "ratio", "goal"
        );
    }
    let mut rows = Vec::new();
    for (((name, _), sample), goal) in CASES.iter().zip(&medians).zip(goals) {
        let ratio = sample.bytes_per_second / medians[0].bytes_per_second;
        let [asking, other] = sample.cpu;
        let rate = sample.bytes_per_second;
        rows.push(format!(
            "{{\"case\":\"{name}\",\"bytes_per_second\":{rate:.0},\"ratio\":{ratio:.3},\
             \"cpu_seconds_per_gib\":[{asking:.3},{other:.3}]}}"
        ));
        if !json {
            let missed = if ratio < goal { "   MISSED" } else { "" };
            println!(
                "{name:<32}{:>8.2}{ratio:>8.2}{goal:>6.1}{asking:>20.2}{other:>8.2}{missed}",
                rate / 1e9
            );
        }
    }
    if json {
        println!("[{}]", rows.join(","));
    }
}

fn median(samples: &[Sample]) -> Sample {
    let of = |pick: &dyn Fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Sample {
        bytes_per_second: of(&|sample| sample.bytes_per_second),
        cpu: [of(&|sample| sample.cpu[0]), of(&|sample| sample.cpu[1])],
    }
}

fn measure(case: Case, chunks: usize) -> Sample {
    let (mode, crc) = match case {
        Case::Tcp => ("tcp", false),
        Case::Write { crc } | Case::Read { crc } => ("iwarp", crc),
    };
    let (mut child, mut output, address) = spawn(mode, crc);
    let before = processor_seconds();
    let time = match case {
        Case::Tcp => tcp_stream(address, chunks),
        Case::Write { .. } => rdma(address, crc, chunks, false),
        Case::Read { .. } => rdma(address, crc, chunks, true),
    };
    let asking = processor_seconds() - before;
    child.wait().expect("the other process ends");
    let mut line = String::new();
    output.read_line(&mut line).expect("its processor time");
    let other: f64 = line.trim().parse().expect("a number");
    let gib = (chunks * CHUNK) as f64 / f64::from(1 << 30);
    Sample {
        bytes_per_second: (chunks * CHUNK) as f64 / time.as_secs_f64(),
        cpu: [asking / gib, other / gib],
    }
}

/// Returns the processor time of this thread, which is the only one of this process; 0 if the kernel does not report
/// it.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text
        .split_whitespace()
        .next()
        .and_then(|text| text.parse().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}

fn spawn(mode: &str, crc: bool) -> (Child, BufReader<ChildStdout>, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().expect("own path"))
        .args(["--serve", mode, if crc { "crc" } else { "plain" }])
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the other process");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("an address");
    (child, output, line.trim().parse().expect("an address"))
}

fn serve(mode: &str, crc: &str) {
    match mode {
        "tcp" => serve_tcp(),
        _ => serve_iwarp(crc == "crc"),
    }
    println!("{}", processor_seconds());
}

fn serve_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    println!("{}", listener.local_addr().expect("bound"));
    let (mut stream, _) = listener.accept().expect("accept");
    // Use as much memory as the RDMA cases touch.
    let mut buffers = vec![0; CHUNK * OUTSTANDING];
    let mut turn = 0;
    loop {
        let buffer = &mut buffers[turn * CHUNK..][..CHUNK];
        if stream.read(buffer).expect("read") == 0 {
            break;
        }
        turn = (turn + 1) % OUTSTANDING;
    }
    stream.write_all(b"x").expect("answer");
}

fn tcp_stream(address: SocketAddr, chunks: usize) -> Duration {
    let mut stream = TcpStream::connect(address).expect("connect");
    let buffers = vec![7; CHUNK * OUTSTANDING];
    let start = Clock::now();
    for turn in 0..chunks {
        stream
            .write_all(&buffers[turn % OUTSTANDING * CHUNK..][..CHUNK])
            .expect("write");
    }
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("shutdown");
    stream.read_exact(&mut [0]).expect("answer");
    start.elapsed()
}

/// One end: a fabric, its clock, and its events.
struct End {
    fabric: Iwarp,
    start: Clock,
    events: Vec<Event>,
}

impl End {
    fn new(crc: bool) -> Self {
        let config = Config {
            crc,
            ..Config::default()
        };
        Self {
            fabric: Iwarp::new(config).expect("fabric"),
            start: Clock::now(),
            events: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    /// Waits for events.
    fn turn(&mut self) -> Vec<Event> {
        let mut awake = self.now();
        loop {
            let now = self.now();
            self.fabric.poll(now, &mut self.events).expect("poll");
            if !self.events.is_empty() {
                return std::mem::take(&mut self.events);
            }
            let timeout = self
                .fabric
                .poll_timeout()
                .map(|at| at.saturating_since(now));
            if timeout != Some(Duration::ZERO) && now - awake >= SPIN {
                let fd = self.fabric.event_fd().expect("sockets");
                wait_readable(fd, timeout).expect("wait");
                awake = self.now();
            }
        }
    }
}

/// Offers 8 MiB for RDMA, sends the descriptor, and stays until the peer is done.
fn serve_iwarp(crc: bool) {
    let mut end = End::new(crc);
    let listener = end
        .fabric
        .listen("127.0.0.1:0".parse().expect("address"))
        .expect("listen");
    println!("{}", end.fabric.local_address(listener).expect("bound"));
    let memory = Memory::zeroed(CHUNK * OUTSTANDING);
    let small = Memory::zeroed(64);
    let mut done = false;
    loop {
        for event in end.turn() {
            match event {
                Event::ConnectRequest { conn, .. } => {
                    let inbox = end
                        .fabric
                        .register(conn, &small, Access::Local)
                        .expect("register");
                    let sge = Sge {
                        region: inbox.id,
                        offset: 0,
                        length: 64,
                    };
                    end.fabric.post_recv(conn, WrId(0), sge).expect("post");
                    end.fabric.post_recv(conn, WrId(1), sge).expect("post");
                    end.fabric
                        .accept(conn, ReadLimits::default())
                        .expect("accept");
                }
                Event::Completion {
                    conn,
                    work: Work::Recv { .. },
                    result: Ok(()),
                    ..
                } if !done => {
                    done = true;
                    let write = end
                        .fabric
                        .register(conn, &memory, Access::RemoteWrite)
                        .expect("register");
                    let read = end
                        .fabric
                        .register(conn, &memory, Access::RemoteRead)
                        .expect("register");
                    end.fabric
                        .post_send(conn, WrId(2), &announce(write, read), None, None)
                        .expect("post");
                }
                // This SEND follows all of the data.
                Event::Completion {
                    conn,
                    work: Work::Recv { .. },
                    result: Ok(()),
                    ..
                } => {
                    end.fabric
                        .post_send(conn, WrId(3), b"done", None, None)
                        .expect("post");
                }
                Event::Closed { .. } => return,
                _ => {}
            }
        }
    }
}

fn announce(write: Region, read: Region) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (room, region) in bytes.chunks_exact_mut(12).zip([write, read]) {
        room[..4].copy_from_slice(&region.remote.token.0.to_le_bytes());
        room[4..].copy_from_slice(&region.remote.address.to_le_bytes());
    }
    bytes
}

fn announced(bytes: &[u8]) -> RemoteAddress {
    RemoteAddress {
        token: RemoteToken(u32::from_le_bytes(bytes[..4].try_into().expect("4 bytes"))),
        address: u64::from_le_bytes(bytes[4..12].try_into().expect("8 bytes")),
    }
}

fn rdma(address: SocketAddr, crc: bool, chunks: usize, read: bool) -> Duration {
    let mut end = End::new(crc);
    let conn = end.fabric.connect(
        address,
        ReadLimits {
            initiator_depth: 8,
            ..ReadLimits::default()
        },
    );
    let conn = conn.expect("connect");
    let memory = Memory::zeroed(CHUNK * OUTSTANDING);
    let small = Memory::zeroed(64);
    let inbox = end
        .fabric
        .register(conn, &small, Access::Local)
        .expect("register")
        .id;
    let local = end
        .fabric
        .register(conn, &memory, Access::Local)
        .expect("register")
        .id;
    let inbox = Sge {
        region: inbox,
        offset: 0,
        length: 64,
    };
    end.fabric.post_recv(conn, WrId(0), inbox).expect("post");
    end.turn();
    end.fabric
        .post_send(conn, WrId(1), b"hello", None, None)
        .expect("post");
    let remote = wait_for_announcement(&mut end, &small, read);

    let start = Clock::now();
    let (mut posted, mut done) = (0, 0);
    while done < chunks {
        while posted < chunks && posted - done < OUTSTANDING {
            let offset = ((posted % OUTSTANDING) * CHUNK) as u32;
            let sge = Sge {
                region: local,
                offset,
                length: CHUNK as u32,
            };
            let there = RemoteAddress {
                address: remote.address + u64::from(offset),
                ..remote
            };
            let result = match read {
                true => end.fabric.post_read(conn, WrId(9), sge, there),
                false => end.fabric.post_write(conn, WrId(9), sge, there),
            };
            result.expect("post");
            posted += 1;
        }
        for event in end.turn() {
            match event {
                Event::Completion {
                    work: Work::Read | Work::Write,
                    result,
                    ..
                } => {
                    result.expect("transferred");
                    done += 1;
                }
                Event::Closed { reason, .. } => panic!("closed: {reason}"),
                _ => {}
            }
        }
    }
    end.fabric.post_recv(conn, WrId(2), inbox).expect("post");
    end.fabric
        .post_send(conn, WrId(3), b"end", None, None)
        .expect("post");
    wait_for_recv(&mut end);
    let elapsed = start.elapsed();
    end.fabric.close(conn);
    finish(&mut end, conn);
    elapsed
}

fn wait_for_announcement(end: &mut End, small: &Memory, read: bool) -> RemoteAddress {
    wait_for_recv(end);
    let bytes = small.to_vec(0, 24).expect("in range");
    announced(if read { &bytes[12..] } else { &bytes[..12] })
}

fn wait_for_recv(end: &mut End) {
    loop {
        for event in end.turn() {
            match event {
                Event::Completion {
                    work: Work::Recv { .. },
                    result,
                    ..
                } => return result.expect("received"),
                Event::Closed { reason, .. } => panic!("closed: {reason}"),
                _ => {}
            }
        }
    }
}

fn finish(end: &mut End, conn: ConnId) {
    loop {
        if end
            .turn()
            .iter()
            .any(|event| matches!(event, Event::Closed { conn: id, .. } if *id == conn))
        {
            return;
        }
    }
}
