// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the capture file of [`Fault`] with an independent decoder: tshark, if it is installed.

use std::fs::File;
use std::io::{BufWriter, ErrorKind};
use std::path::PathBuf;
use std::process::Command;

use smbdirect::fabric::fault::{Fault, FaultPlan};
use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{Access, Fabric};

use crate::halves::halves;
use crate::harness::{Pair, Rig, World, pattern};

/// A file that is deleted at the end of the test.
struct Temporary(PathBuf);

impl Temporary {
    fn new(name: &str) -> Self {
        let name = format!("smbdirect-{}-{name}.pcap", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    /// Makes `fabric` write a capture to this file.
    fn capturing<F: Fabric>(&self, fabric: F) -> Fault<F> {
        let mut fault = Fault::new(fabric, FaultPlan::default());
        let writer = BufWriter::new(File::create(&self.0).unwrap());
        fault.capture(writer).unwrap();
        fault
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // The result of the test does not depend on the removal.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Returns what tshark prints about `file`; `None` if tshark is not installed.
fn tshark(file: &Temporary, args: &[&str]) -> Option<String> {
    let mut tshark = Command::new("tshark");
    // Users who capture on port 5445 need this option, because another dissector claims the port.
    tshark.args(["-o", "tcp.try_heuristic_first:TRUE"]);
    tshark.args(["-o", "tcp.check_checksum:TRUE"]);
    tshark.args(["-o", "ip.check_checksum:TRUE"]);
    match tshark.arg("-r").arg(&file.0).args(args).output() {
        Ok(output) => {
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{errors}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("SKIPPED: tshark, which reads the capture file, is not installed");
            None
        }
        Err(error) => panic!("tshark: {error}"),
    }
}

const FIELDS: [&str; 9] = [
    "frame.protocols",
    "tcp.srcport",
    "iwarp_rdma.opcode",
    "iwarp_ddp.last_flag",
    "tcp.checksum.status",
    "ip.checksum.status",
    "_ws.expert.severity",
    "iwarp_rdma.inval_stag",
    "_ws.col.Info",
];

/// A frame, field by field.
type Frame = Vec<String>;

/// Returns all frames of a file, after checking what is true of each capture of one connection.
fn dissect(file: &Temporary) -> Option<Vec<Frame>> {
    let mut args = vec!["-T", "fields", "-E", "separator=|", "-E", "occurrence=f"];
    args.extend(FIELDS.iter().flat_map(|field| ["-e", field]));
    let text = tshark(file, &args)?;
    let lines = text.lines();
    let frames: Vec<Frame> = lines
        .map(|line| line.splitn(FIELDS.len(), '|').map(str::to_owned).collect())
        .collect();
    for frame in &frames {
        assert_eq!(frame[4], "1", "TCP's checksum: {frame:?}");
        let ip = if frame[0].contains("ipv6") { "" } else { "1" };
        assert_eq!(frame[5], ip, "IP's checksum: {frame:?}");
        // tshark notes the beginning and the end of a connection, with its lowest severity.
        assert!(["", "2097152"].contains(&&*frame[6]), "expert: {frame:?}");
    }
    let about = |text: &str| {
        frames
            .iter()
            .filter(|frame| frame[8].contains(text))
            .count()
    };
    assert_eq!(about("MPA Request Frame"), 1);
    assert_eq!(about("MPA Reply Frame"), 1);
    assert_eq!(about("[SYN"), 2);
    assert_eq!(about("[FIN"), 2);

    let fpdus = frames.iter().filter(|frame| !frame[2].is_empty()).count();
    let text = tshark(file, &["-V", "-O", "iwarp_mpa"])?;
    assert_eq!(text.matches("(Good CRC32)").count(), fpdus);
    assert_eq!(text.matches("ULPDU length").count(), fpdus);
    Some(frames)
}

/// Returns the operation and the sender of each frame.
fn operations(frames: &[Frame], server: &str) -> Vec<String> {
    let fpdus = frames.iter().filter(|frame| !frame[2].is_empty());
    fpdus
        .map(|frame| {
            let from = if frame[1] == server {
                "server"
            } else {
                "client"
            };
            let last = if frame[3] == "1" { "last" } else { "more" };
            format!("{from} {} {last}", frame[2])
        })
        .collect()
}

fn words(halves: &[u16], wholes: &[u32]) -> Vec<u8> {
    let halves = halves.iter().flat_map(|half| half.to_le_bytes());
    let wholes = wholes.iter().flat_map(|whole| whole.to_le_bytes());
    halves.chain(wholes).collect()
}

/// Sends an SMB Direct message from one end to the other.
fn message(w: &mut World<Rig>, pair: Pair, way: usize, header: &[u8], payload: usize) {
    let (from, to) = pair.both_ways()[way];
    let buffer = w.register(to, 8192, Access::Local);
    let source = w.register_bytes(from, &pattern(1, payload), Access::Local);
    let receive = w.post_recv(to, buffer.all());
    let payload = (payload > 0).then(|| source.all());
    w.post_send(from, header, payload, None);
    w.receives(to, receive, header.len() + source.memory.len());
}

/// Makes the header of a data transfer of `length` bytes ([MS-SMBD] 2.2.3).
fn data_transfer(length: u32) -> Vec<u8> {
    words(&[10, 2, 0, 0], &[0, 24, length, 0])
}

/// Sends both negotiate messages, and a data transfer each way ([MS-SMBD] 2.2).
fn converse(w: &mut World<Rig>, pair: Pair) {
    const MIB: u32 = 1 << 20;
    let request = words(&[0x100, 0x100, 0, 10], &[1364, 8192, MIB]);
    message(w, pair, 0, &request, 0);
    let response = words(
        &[0x100, 0x100, 0x100, 0, 10, 10],
        &[0, MIB, 1364, 8192, MIB],
    );
    message(w, pair, 1, &response, 0);
    message(w, pair, 0, &data_transfer(100), 100);
    message(w, pair, 1, &data_transfer(100), 100);
}

#[test]
fn tshark_sees_smb_direct_on_iwarp_on_tcp() {
    for address in ["127.0.0.1:5445", "[::1]:5445"] {
        let file = Temporary::new(&format!("smbd{}", address.len()));
        let loopback = Loopback::new(LoopbackConfig::default()).unwrap();
        let rig = Rig::in_virtual_time("captured", file.capturing(loopback));
        let mut w = World::new(rig.at(address.parse().unwrap()));
        let pair = w.pair_in_silence();
        converse(&mut w, pair);
        w.finish();

        let Some(frames) = dissect(&file) else { return };
        let messages: Vec<_> = frames
            .iter()
            .filter(|frame| frame[0].contains("rdmap"))
            .collect();
        let ip = if address.starts_with('[') {
            "ipv6"
        } else {
            "ip"
        };
        let stack = format!("raw:{ip}:tcp:iwarp_mpa:iwarp_ddp_rdmap:smb_direct");
        assert!(
            messages.iter().all(|frame| frame[0].starts_with(&stack)),
            "{messages:?}"
        );
        let what: Vec<&str> = messages.iter().map(|frame| &*frame[8]).collect();
        let expected = [
            "NegotiateRequest",
            "NegotiateResponse",
            "DataMessage",
            "DataMessage",
        ];
        assert_eq!(what, expected);
    }
}

/// Carries out some of each kind of operation, with RDMA by the server as in SMB. Returns the token that the server
/// invalidates.
fn operate(w: &mut World<Rig>) -> u32 {
    let pair = w.pair_in_silence();
    let (client, server) = (pair.client, pair.server);
    let readable = w.register_bytes(client, &pattern(1, 150_000), Access::RemoteRead);
    let writable = w.register(client, 150_000, Access::RemoteWrite);
    let own = w.register(server, 150_000, Access::Local);
    converse(w, pair);
    let read = w.post_read(server, own.all(), readable.remote(0));
    w.succeeds(server, read);
    let write = w.post_write(server, own.all(), writable.remote(0));
    w.succeeds(server, write);
    let buffer = w.register(client, 100, Access::Local);
    let receive = w.post_recv(client, buffer.all());
    let token = readable.region.remote.token;
    w.post_send(
        server,
        &data_transfer(64),
        Some(own.sge(0, 64)),
        Some(token),
    );
    w.succeeds(client, receive);
    token.0
}

const MESSAGES: [&str; 4] = [
    "client 0x03 last",
    "server 0x03 last",
    "client 0x03 last",
    "server 0x03 last",
];
const RDMA: [&str; 7] = [
    "server 0x01 last",
    "client 0x02 more",
    "client 0x02 more",
    "client 0x02 last",
    "server 0x00 more",
    "server 0x00 more",
    "server 0x00 last",
];
const INVALIDATION: [&str; 1] = ["server 0x04 last"];

fn assert_invalidates(frames: &[Frame], token: u32) {
    let invalidation = frames.iter().find(|frame| frame[2] == "0x04").unwrap();
    let stag = invalidation[7].strip_prefix("0x").map_or_else(
        || invalidation[7].parse(),
        |hex| u32::from_str_radix(hex, 16),
    );
    assert_eq!(stag, Ok(token));
}

#[test]
fn each_operation_is_captured_once_if_both_ends_are_in_the_fabric() {
    let file = Temporary::new("both");
    let loopback = Loopback::new(LoopbackConfig::default()).unwrap();
    let rig = Rig::in_virtual_time("captured", file.capturing(loopback));
    let mut w = World::new(rig.at("127.0.0.1:4455".parse().unwrap()));
    let token = operate(&mut w);
    w.finish();
    let Some(frames) = dissect(&file) else { return };
    let expected = [&MESSAGES[..], &RDMA, &INVALIDATION].concat();
    assert_eq!(operations(&frames, "4455"), expected);
    assert_invalidates(&frames, token);
}

#[test]
fn one_end_captures_its_own_operations_and_those_that_arrive() {
    let [servers, clients] = ["server", "client"].map(Temporary::new);
    let (server, client) = halves();
    let (server, client) = (servers.capturing(server), clients.capturing(client));
    let rig = Rig::in_virtual_time_with_two("captured at each end", server, client);
    let mut w = World::new(rig.at("[::1]:4455".parse().unwrap()));
    let token = operate(&mut w);
    w.finish();
    let Some(frames) = dissect(&servers) else {
        return;
    };
    let expected = [&MESSAGES[..], &RDMA, &INVALIDATION].concat();
    assert_eq!(operations(&frames, "4455"), expected);
    assert_invalidates(&frames, token);
    // The client does not see the server's RDMA.
    let frames = dissect(&clients).unwrap();
    let expected = [&MESSAGES[..], &INVALIDATION].concat();
    assert_eq!(operations(&frames, "4455"), expected);
    assert_invalidates(&frames, token);
}
