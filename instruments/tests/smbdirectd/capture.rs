// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl capture`. tshark, an independent decoder, reads the captures.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use instruments::daemon::{Daemon, Directory, SMBDIRECTCTL, TIMEOUT, stderr, stdout};
use instruments::peer::{Peer, Window, emit, smb2};
use rustix::process::{Pid, Signal, kill_process};
use smbdirect::device::{Direction, Event, Handle, Status};
use smbdirect::fabric::Access;
use smbdirect::fabric::pcapng::Statistics;

use crate::drain::dispatched;

const READ: u16 = 8;
const WRITE: u16 = 9;

/// Length of each RDMA transfer, and of each WRITE without RDMA, in bytes.
const BULK: usize = 200_000;
const INLINE: usize = 900;

/// Returns file data in which every four bytes are different.
fn content(length: usize) -> Vec<u8> {
    let words = (0..length / 4).map(|n| 0xc0de_0000 | n as u32);
    words.flat_map(u32::to_be_bytes).collect()
}

/// A client and the worker that serves it.
struct Pair {
    daemon: Daemon,
    worker: Handle,
    peer: Peer,
    conn: u64,
    window: Window,
    buffer: u64,
}

impl Pair {
    fn new() -> Self {
        let daemon = Daemon::start(&[]);
        let peer = Peer::connect(daemon.address());
        Self::of(daemon, peer)
    }

    /// Makes a worker for a client that has connected.
    fn of(daemon: Daemon, peer: Peer) -> Self {
        let (mut worker, mut peer, conn) = dispatched(&daemon, peer);
        let window = peer.window(BULK, Access::RemoteRead);
        assert_eq!(worker.allocate(BULK), Err(Status::Again));
        let mut pair = Self {
            daemon,
            worker,
            peer,
            conn,
            window,
            buffer: 0,
        };
        pair.until(|event| *event == Event::Room);
        let buffer = pair.worker.allocate(BULK).unwrap();
        pair.buffer = buffer.number;
        let data = content(BULK);
        // SAFETY: the buffer has `BULK` bytes, which are mapped and which only this thread uses.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), buffer.start, BULK) };
        pair
    }

    /// Drives both sides until the worker has this event.
    fn until(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let end = Instant::now() + TIMEOUT;
        loop {
            while let Some(event) = self.worker.next_event().unwrap() {
                if wanted(&event) {
                    return event;
                }
            }
            assert!(Instant::now() < end, "no event");
            self.peer.drive(Duration::from_micros(500), |_| false);
        }
    }

    /// Returns the client's address, as the status shows it.
    fn client(&self) -> String {
        let status = self.daemon.status();
        let peer = &status["connections"][0]["peer"];
        peer.as_str().expect("a connection").to_owned()
    }

    /// Sends a request, and takes it.
    fn request(&mut self, command: u16, id: u64, body: &[u8]) {
        self.peer.send(&smb2::request(command, id, 1, body));
        let event = self.until(|event| matches!(event, Event::Pdu { .. }));
        let Event::Pdu { pdu, .. } = event else {
            panic!("{event:?}");
        };
        self.worker.take_pdu(pdu, &mut []).unwrap();
    }

    /// Answers it.
    fn response(&mut self, command: u16, id: u64, body: &[u8]) {
        let mut message = smb2::request(command, id, 1, body);
        message[16] = 1;
        let sent = self.worker.send_pdu(self.conn, 7, &[&message[..]], None);
        sent.unwrap();
        self.until(|event| matches!(event, Event::Sent { .. }));
        self.peer.receive();
    }

    fn rdma(&mut self, direction: Direction, window: &Window) {
        let descriptors = emit(&window.descriptors(1));
        let (conn, buffer) = (self.conn, self.buffer);
        self.worker
            .rdma(direction, conn, 8, buffer, 0, BULK, &descriptors)
            .unwrap();
        let done = self.until(|event| matches!(event, Event::RdmaDone { .. }));
        assert!(
            matches!(
                done,
                Event::RdmaDone {
                    status: Status::Ok,
                    ..
                }
            ),
            "{done:?}"
        );
    }

    /// A READ by RDMA, a WRITE by RDMA, and a WRITE with its data in the message.
    fn exchange(&mut self) {
        let sink = self.peer.window(BULK, Access::RemoteWrite);
        self.request(READ, 2, &read_request(&sink));
        self.rdma(Direction::Write, &sink);
        // RDMA carried the data.
        let mut answer = vec![17, 0, 80, 0, 0, 0, 0, 0];
        answer.extend((BULK as u32).to_le_bytes());
        answer.extend([0; 4]);
        self.response(READ, 2, &answer);
        assert_eq!(sink.bytes(), content(BULK));

        self.window.memory.write(0, &content(BULK)).unwrap();
        let source = emit(&self.window.descriptors(1));
        self.request(WRITE, 3, &write_request(&[], &source, BULK));
        let window = Window {
            memory: self.window.memory.clone(),
            region: self.window.region,
        };
        self.rdma(Direction::Read, &window);
        self.response(WRITE, 3, &write_response(BULK));

        self.request(WRITE, 4, &write_request(&content(INLINE), &[], 0));
        self.response(WRITE, 4, &write_response(INLINE));
    }
}

/// Returns the body of a READ request over RDMA ([MS-SMB2] 2.2.19).
fn read_request(sink: &Window) -> Vec<u8> {
    let descriptors = emit(&sink.descriptors(1));
    let mut body = vec![49, 0, 80, 0];
    body.extend((BULK as u32).to_le_bytes());
    body.extend([0; 8 + 16 + 4]);
    body.extend(1u32.to_le_bytes());
    body.extend([0; 4]);
    body.extend(112u16.to_le_bytes());
    body.extend((descriptors.len() as u16).to_le_bytes());
    body.extend(descriptors);
    body
}

/// Returns the body of a WRITE request with `data`, or over RDMA ([MS-SMB2] 2.2.21).
fn write_request(data: &[u8], descriptors: &[u8], remaining: usize) -> Vec<u8> {
    let mut body = vec![49, 0];
    let offset: u16 = if data.is_empty() { 0 } else { 112 };
    body.extend(offset.to_le_bytes());
    body.extend((data.len() as u32).to_le_bytes());
    body.extend([0; 8 + 16]);
    body.extend(u32::from(!descriptors.is_empty()).to_le_bytes());
    body.extend((remaining as u32).to_le_bytes());
    let channel: u16 = if descriptors.is_empty() { 0 } else { 112 };
    body.extend(channel.to_le_bytes());
    body.extend((descriptors.len() as u16).to_le_bytes());
    body.extend([0; 4]);
    body.extend(data);
    body.extend(descriptors);
    body
}

fn write_response(length: usize) -> Vec<u8> {
    let mut body = vec![17, 0, 0, 0];
    body.extend((length as u32).to_le_bytes());
    body.extend([0; 8]);
    body
}

/// A running `smbdirectctl capture`, and its file.
struct Capture {
    child: Child,
    file: PathBuf,
    _directory: Directory,
}

fn command(control: &Path, peer: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.arg("capture").arg("--control").arg(control);
    command.args(["--peer", peer]).args(arguments);
    command
}

impl Capture {
    /// Begins a capture, and waits until the reactors capture.
    fn begin(daemon: &Daemon, peer: &str, arguments: &[&str]) -> Self {
        let directory = Directory::new();
        let file = directory.0.join("capture.pcapng");
        let before = daemon.log().matches("a capture begins").count();
        let mut command = command(&daemon.control, peer, arguments);
        command.arg("-w").arg(&file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let capture = Self {
            child: command.spawn().unwrap(),
            file,
            _directory: directory,
        };
        let end = Instant::now() + TIMEOUT;
        // A reactor takes the order before it takes anything that is sent after this.
        while daemon.log().matches("a capture begins").count() == before {
            assert!(Instant::now() < end, "{}", daemon.log());
            std::thread::sleep(Duration::from_millis(5));
        }
        capture
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end, and returns what it printed, and the file.
    fn ended(self) -> (Output, Vec<u8>) {
        let output = self.child.wait_with_output().unwrap();
        (output, fs::read(&self.file).unwrap())
    }

    fn stop(self) -> (String, Vec<u8>) {
        self.signal(Signal::INT);
        let (output, file) = self.ended();
        assert!(output.status.success(), "{output:?}");
        (stderr(&output), file)
    }
}

const FIELDS: [&str; 8] = [
    "tcp.srcport",
    "frame.protocols",
    "iwarp_rdma.opcode",
    "smb2.cmd",
    "_ws.malformed",
    "frame.comment",
    "frame.time_epoch",
    "_ws.col.Info",
];

fn tshark(arguments: &[&str]) -> Option<Command> {
    let mut tshark = Command::new("tshark");
    if let Err(error) = tshark
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
    {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        eprintln!("SKIPPED: tshark, which reads the capture, is not installed");
        return None;
    }
    let mut tshark = Command::new("tshark");
    tshark.args(["-o", "tcp.try_heuristic_first:TRUE"]);
    tshark.args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=f"]);
    tshark.args(FIELDS.iter().flat_map(|field| ["-e", field]));
    tshark.args(arguments);
    Some(tshark)
}

/// A packet, field by field.
type Packet = Vec<String>;

fn packets(text: &str) -> Vec<Packet> {
    let packet = |line: &str| line.splitn(FIELDS.len(), '|').map(str::to_owned).collect();
    text.lines().map(packet).collect()
}

/// Returns what tshark reads in a file, after checking that it understands all of it.
fn dissect(file: &[u8]) -> Option<Vec<Packet>> {
    let directory = Directory::new();
    let path = directory.0.join("capture.pcapng");
    fs::write(&path, file).unwrap();
    let output = tshark(&["-r", path.to_str().unwrap()])?.output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let packets = packets(&stdout(&output));
    for packet in &packets {
        assert_eq!(packet[4], "", "malformed: {packet:?}");
    }
    Some(packets)
}

/// Returns the lines of the packets that are about something other than TCP.
fn infos(packets: &[Packet]) -> Vec<&str> {
    let is_told = |packet: &&Packet| packet[1].contains("iwarp");
    packets
        .iter()
        .filter(is_told)
        .map(|packet| &*packet[7])
        .collect()
}

/// Returns the number of packets with this operation of RDMAP from the server, or from the client.
fn count(packets: &[Packet], opcode: &str, server: u16, from_server: bool) -> usize {
    let server = server.to_string();
    let sent = packets
        .iter()
        .filter(|packet| (packet[0] == server) == from_server);
    sent.filter(|packet| packet[2] == opcode || packet[2] == format!("0x0{opcode}"))
        .count()
}

fn contains(file: &[u8], word: usize) -> bool {
    let word = &content(4 * word + 4)[4 * word..];
    file.windows(4).any(|bytes| bytes == word)
}

#[test]
fn shows_a_connection_that_is_under_way() {
    let mut pair = Pair::new();
    pair.exchange();
    let capture = Capture::begin(&pair.daemon, &pair.client(), &[]);
    pair.exchange();
    let mode = fs::metadata(&capture.file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (said, file) = capture.stop();

    let statistics: Vec<_> = Statistics::all_in(&file).collect();
    assert_eq!(statistics.len(), 1, "{statistics:?}");
    assert_eq!(
        (statistics[0].dropped, &*statistics[0].comment),
        (0, "The capture was ended.")
    );
    let count_of = format!("{} packets captured\n", statistics[0].received);
    assert!(said.ends_with(&count_of), "{said}");

    // The first bytes of each transfer are there, and no others.
    assert!(contains(&file, 0) && contains(&file, 31));
    for word in [32, 100, INLINE / 4 - 1, BULK / 4 - 1] {
        assert!(!contains(&file, word), "{word}");
    }

    let Some(packets) = dissect(&file) else {
        return;
    };
    let server = pair.daemon.address().port();
    let infos = infos(&packets);
    let mut rest = infos.iter();
    for wanted in [
        "MPA Request Frame",
        "MPA Reply Frame",
        "NegotiateRequest",
        "NegotiateResponse",
        "Read Request Len:200000",
        "Read Response",
        "Write Request",
        "Write Response",
        "Write Request Len:900",
        "Write Response",
    ] {
        assert!(
            rest.any(|info| info.contains(wanted)),
            "no {wanted} in {infos:#?}"
        );
    }
    assert_eq!(
        count(&packets, "0", server, true),
        1,
        "RDMAP Write: {packets:#?}"
    );
    assert_eq!(
        count(&packets, "1", server, true),
        1,
        "Read Request: {packets:#?}"
    );
    assert_eq!(
        count(&packets, "2", server, false),
        1,
        "Read Response: {packets:#?}"
    );
    for from_server in [true, false] {
        let mut smb2 = packets.iter().filter(|packet| !packet[3].is_empty());
        let sent = smb2.any(|packet| (packet[0] == server.to_string()) == from_server);
        assert!(sent, "{packets:#?}");
    }
    let with = |comment: &str| packets.iter().filter(|it| it[5].contains(comment)).count();
    // TCP's handshake, MPA's, and the negotiation.
    assert_eq!(with("Made up by smbdirectd"), 7);
    assert_eq!(with("The first 128 of 200000 bytes"), 2);
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    for packet in &packets {
        let age = now.as_secs_f64() - packet[6].parse::<f64>().expect("a time");
        // tshark may have taken a while.
        assert!((-1.0..600.0).contains(&age), "{age}");
    }
}

/// The client answers READs only while it is driven.
#[test]
fn a_read_from_before_the_capture_does_not_take_the_place_of_a_later_one() {
    let mut pair = Pair::new();
    pair.window.memory.write(0, &content(BULK)).unwrap();
    // What the worker's memory held before is not what the READ brings.
    let old = vec![0xee; BULK];
    let start = pair.worker.buffer(pair.buffer).unwrap().start;
    // SAFETY: the buffer has `BULK` bytes, which are mapped and which only this thread uses.
    unsafe { std::ptr::copy_nonoverlapping(old.as_ptr(), start, BULK) };
    let (conn, buffer) = (pair.conn, pair.buffer);
    let read = |pair: &mut Pair, offset: u32, length: u32| {
        let piece = emit(&[pair.window.piece(offset, length)]);
        let (at, length) = (offset as usize, length as usize);
        let read = pair
            .worker
            .rdma(Direction::Read, conn, 8, buffer, at, length, &piece);
        read.unwrap();
    };
    read(&mut pair, 0, 100_000);
    pair.daemon.wait_for_status(|status| {
        let connection = &status["connections"][0];
        connection["outstanding"] == 1 && connection["queued"] == 0
    });
    let capture = Capture::begin(&pair.daemon, &pair.client(), &[]);
    read(&mut pair, 150_000, 100);
    for _ in 0..2 {
        pair.until(|event| matches!(event, Event::RdmaDone { .. }));
    }
    let (_, file) = capture.stop();
    let Some(packets) = dissect(&file) else {
        return;
    };
    let server = pair.daemon.address().port();
    assert_eq!(count(&packets, "1", server, true), 1, "{packets:#?}");
    assert_eq!(count(&packets, "2", server, false), 1, "{packets:#?}");
    let with = |comment: &str| packets.iter().filter(|it| it[5].contains(comment)).count();
    assert_eq!(with("RDMA transfer"), 0, "{packets:#?}");
    assert!(contains(&file, 150_000 / 4) && !contains(&file, 0));
}

#[test]
fn many_small_transfers_of_a_request_show_no_more_than_a_large_one() {
    let mut pair = Pair::new();
    pair.window.memory.write(0, &content(BULK)).unwrap();
    let sink = pair.peer.window(BULK, Access::RemoteWrite);
    let capture = Capture::begin(&pair.daemon, &pair.client(), &[]);
    let (conn, buffer) = (pair.conn, pair.buffer);
    // Each request has other words of the data, so that the file shows which request a word is from.
    let requests = [
        (Direction::Write, 0),
        (Direction::Write, 40_000),
        (Direction::Read, 80_000),
        (Direction::Read, 120_000),
    ];
    for (direction, at) in requests {
        let window = match direction {
            Direction::Write => &sink,
            Direction::Read => &pair.window,
        };
        let pieces: Vec<_> = (0..100).map(|n| window.piece(at + 40 * n, 40)).collect();
        let started = pair.worker.rdma(
            direction,
            conn,
            8,
            buffer,
            at as usize,
            4000,
            &emit(&pieces),
        );
        started.unwrap();
        pair.until(|event| matches!(event, Event::RdmaDone { .. }));
    }
    assert_eq!(sink.bytes()[40_000..44_000], content(BULK)[40_000..44_000]);
    let (_, file) = capture.stop();
    for (direction, at) in requests {
        let first = at as usize / 4;
        let shown: Vec<usize> = (first..first + 1000)
            .filter(|word| contains(&file, *word))
            .collect();
        let expected: Vec<usize> = (first..first + 32).collect();
        assert_eq!(shown, expected, "{direction:?}");
    }
}

#[test]
fn shows_all_data_if_asked_and_a_new_connection_from_its_beginning() {
    let daemon = Daemon::start(&[]);
    let capture = Capture::begin(&daemon, "127.0.0.1", &["--bytes", "all"]);
    let peer = Peer::connect(daemon.address());
    let mut pair = Pair::of(daemon, peer);
    pair.exchange();
    pair.peer.close();
    let status = pair
        .daemon
        .wait_for_status(|status| status["connections"] == serde_json::json!([]));
    assert_eq!(status["closes"].as_array().unwrap().len(), 1);
    let (said, file) = capture.stop();
    assert!(
        said.contains("127.0.0.1 has no connection now: waiting for one"),
        "{said}"
    );
    // Both reactors waited for connections of the client.
    assert_eq!(Statistics::all_in(&file).count(), 2);
    for word in [0, 100, BULK / 4 - 1] {
        assert!(contains(&file, word), "{word}");
    }
    let Some(packets) = dissect(&file) else {
        return;
    };
    let infos = infos(&packets);
    assert_eq!(
        infos
            .iter()
            .filter(|info| info.contains("Negotiate Protocol Request"))
            .count(),
        1
    );
    assert!(
        packets.iter().all(|packet| packet[5].is_empty()),
        "{packets:#?}"
    );
    let server = pair_port(&status);
    let payload = count(&packets, "0", server, true);
    assert_eq!(payload, BULK.div_ceil(60 * 1024), "{packets:#?}");
    assert!(packets.iter().any(|packet| packet[7].contains("FIN")));
}

fn pair_port(status: &serde_json::Value) -> u16 {
    let listen = status["listen"][0].as_str().unwrap();
    listen.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn a_capture_in_standard_output_is_read_while_it_grows() {
    let mut pair = Pair::new();
    let Some(mut tshark) = tshark(&["-l", "-r", "-"]) else {
        return;
    };
    let mut capture = command(&pair.daemon.control, &pair.client(), &["-w", "-"]);
    capture.args(["--seconds", "2"]).stdout(Stdio::piped());
    let mut capture = capture.spawn().unwrap();
    tshark.stdin(capture.stdout.take().unwrap());
    let tshark = tshark.stdout(Stdio::piped()).spawn().unwrap();
    pair.daemon.wait_for_log("a capture begins");
    pair.exchange();
    let output = tshark.wait_with_output().unwrap();
    assert!(capture.wait().unwrap().success());
    let packets = packets(&stdout(&output));
    assert!(
        infos(&packets)
            .iter()
            .any(|info| info.contains("Read Request")),
        "{packets:#?}"
    );
}

#[test]
fn ends_with_its_connection() {
    let pair = Pair::new();
    let capture = Capture::begin(&pair.daemon, &pair.client(), &[]);
    let Pair {
        peer,
        daemon,
        worker,
        ..
    } = pair;
    peer.close();
    let (output, file) = capture.ended();
    assert!(output.status.success(), "{output:?}");
    let said = stderr(&output);
    assert!(
        said.contains("The connection has ended: closed by the peer."),
        "{said}"
    );
    if let Some(packets) = dissect(&file) {
        assert!(
            packets.iter().any(|packet| packet[7].contains("FIN")),
            "{packets:#?}"
        );
    }
    daemon.wait_for_log("a capture has ended");
    drop(worker);
}

#[test]
fn a_reader_that_stands_still_does_not_hold_up_the_connection() {
    let mut pair = Pair::new();
    let capture = Capture::begin(&pair.daemon, &pair.client(), &["--bytes", "all"]);
    capture.signal(Signal::STOP);
    let sink = pair.peer.window(BULK, Access::RemoteWrite);
    // 16 MB: four times as much as the device keeps.
    for _ in 0..80 {
        pair.rdma(Direction::Write, &sink);
    }
    capture.signal(Signal::CONT);
    let (said, file) = capture.stop();
    let statistics: Vec<_> = Statistics::all_in(&file).collect();
    assert!(statistics[0].dropped > 100, "{statistics:?}");
    let lost = format!("{} packets are missing", statistics[0].dropped);
    assert!(said.contains(&lost), "{said}");
    if let Some(packets) = dissect(&file) {
        let kept = statistics[0].received - statistics[0].dropped;
        assert_eq!(packets.len() as u64, kept);
    }
    pair.exchange();
}

#[test]
fn a_reader_that_dies_makes_room_for_another() {
    let mut pair = Pair::new();
    let client = pair.client();
    let mut first = Capture::begin(&pair.daemon, &client, &[]);
    let second = Capture::begin(&pair.daemon, "127.0.0.1", &[]);
    let output = command(&pair.daemon.control, &client, &["-w", "/nowhere/at/all"]).output();
    let said = stderr(&output.unwrap());
    assert!(said.contains("two captures are running already"), "{said}");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    pair.exchange();
    pair.daemon.wait_for_log("a capture has ended");
    let third = Capture::begin(&pair.daemon, &client, &[]);
    pair.exchange();
    for (capture, times) in [(second, 2), (third, 1)] {
        let (_, file) = capture.stop();
        if let Some(packets) = dissect(&file) {
            let reads = infos(&packets);
            let reads = reads
                .iter()
                .filter(|info| info.contains("Read Request Len"));
            assert_eq!(reads.count(), times);
        }
    }
}

#[test]
fn what_cannot_be_captured_is_explained() {
    let pair = Pair::new();
    let directory = Directory::new();
    let file = directory.0.join("capture.pcapng");
    let file = file.to_str().unwrap();
    let refused = |mut command: Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        stderr(&output)
    };
    let control = &pair.daemon.control;
    let said = refused(command(control, "127.0.0.1:1", &["-w", file]));
    let port = pair.client().replace("127.0.0.1:", "");
    assert!(
        said.contains("there is no connection from 127.0.0.1:1"),
        "{said}"
    );
    assert!(said.contains(&format!("have the ports {port}")), "{said}");
    let said = refused(command(control, "10.9.9.9:1", &["-w", file]));
    assert!(said.contains("smbdirectctl status lists them"), "{said}");
    let said = refused(command(Path::new("/dev/null"), "127.0.0.1", &["-w", file]));
    assert!(
        said.contains("the kernel's device has no capture"),
        "{said}"
    );
    assert!(!Path::new(file).exists());
    let said = refused(command(control, "127.0.0.1", &["-w", "/nowhere/at/all"]));
    assert!(said.contains("/nowhere/at/all: No such file"), "{said}");

    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: a user who is not root: needs root");
        return;
    }
    // The status is open to the group, and a capture is not.
    let run = control.parent().unwrap();
    fs::set_permissions(run, fs::Permissions::from_mode(0o755)).unwrap();
    let status = run.join("status");
    fs::set_permissions(status, fs::Permissions::from_mode(0o666)).unwrap();
    let program = directory.0.join("smbdirectctl");
    crate::copy_program(&*SMBDIRECTCTL, &program);
    let as_user = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg("--control").arg(control);
        command.uid(65_531).gid(65_531);
        command
    };
    let output = as_user(&["status", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = refused(as_user(&["capture", "--peer", "127.0.0.1", "-w", file]));
    assert!(said.contains("a capture holds data of clients"), "{said}");
    assert!(said.contains("as root"), "{said}");
}
