// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what real connections send, with tshark, an independent decoder.
//!
//! Two transports talk SMB Direct over the iWARP fabric and TCP, through a proxy that captures the bytes. tshark must
//! find nothing malformed and every CRC good. It must read from the bytes, field by field and in order, what the
//! endpoints said they sent.

mod dissection;
mod recorder;
mod wiretap;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use dissection::{Packet, dissect, good_crcs};
use recorder::{Journal, Posted, Recorder};
use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::{Access, ConnId, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, Transport};
use smbdirect::units::Instant;
use smbdirect::wire::BufferDescriptorV1;
use wiretap::Wiretap;

/// Opcodes as tshark numbers them.
const WRITE: u64 = 0;
const READ_REQUEST: u64 = 1;
const READ_RESPONSE: u64 = 2;
const SEND: u64 = 3;
const SEND_INVALIDATE: u64 = 4;

const BULK: u32 = 100_000;
/// Length of the longest ULPDU, in bytes: each FPDU fits into one packet of the capture.
const MAX_ULPDU: u16 = 16_000;

type Link = Transport<Recorder<Iwarp>, HeapBuffers>;

/// One end of the connection.
struct End {
    link: Link,
    journal: Journal,
    events: Vec<Event<Vec<u8>>>,
    start: std::time::Instant,
}

impl End {
    fn new(crc: bool) -> Self {
        let config = iwarp::Config {
            crc,
            max_ulpdu: Some(MAX_ULPDU),
            ..iwarp::Config::default()
        };
        let journal = Journal::default();
        let fabric = Recorder {
            inner: Iwarp::new(config).unwrap(),
            journal: Arc::clone(&journal),
        };
        let config = Config::new(proto::Config::default(), proto::Config::initiator_default());
        let link = Transport::new(fabric, HeapBuffers::new(), config);
        Self {
            link,
            journal,
            events: Vec::new(),
            start: std::time::Instant::now(),
        }
    }

    fn poll(&mut self) {
        let now = Instant::ZERO + self.start.elapsed();
        self.link.poll(now, &mut self.events).unwrap();
    }

    /// Takes the first event that `pick` wants.
    fn take<T>(&mut self, pick: impl Fn(&Event<Vec<u8>>) -> Option<T>) -> Option<T> {
        let (index, found) = self
            .events
            .iter()
            .enumerate()
            .find_map(|(index, event)| Some((index, pick(event)?)))?;
        self.events.remove(index);
        Some(found)
    }
}

/// Polls both ends until `done` has a result.
fn until<T>(
    ends: &mut [End; 2],
    what: &str,
    mut done: impl FnMut(&mut [End; 2]) -> Option<T>,
) -> T {
    let start = std::time::Instant::now();
    loop {
        for end in ends.iter_mut() {
            end.poll();
        }
        if let Some(found) = done(ends) {
            return found;
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "waited in vain for {what}"
        );
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A connection with memory registered at both ends.
struct Session {
    ends: [End; 2],
    conns: [ConnId; 2],
    memory: [Memory; 2],
    local: [Region; 2],
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

impl Session {
    fn new(crc: bool, address: IpAddr) -> (Self, Wiretap) {
        let mut ends = [End::new(crc), End::new(crc)];
        let listener = ends[SERVER]
            .link
            .listen(SocketAddr::new(address, 0))
            .unwrap();
        let tap = Wiretap::before(ends[SERVER].link.local_address(listener).unwrap());
        let client = ends[CLIENT]
            .link
            .connect(Instant::ZERO, tap.address)
            .unwrap();
        let established = |event: &Event<Vec<u8>>| match event {
            Event::Established { conn, .. } => Some(*conn),
            _ => None,
        };
        let server = until(&mut ends, "the server's end", |ends| {
            ends[SERVER].take(established)
        });
        until(&mut ends, "the client's end", |ends| {
            ends[CLIENT].take(established)
        });
        let conns = [client, server];
        let memory = [(); 2].map(|()| Memory::zeroed(BULK as usize));
        let local = [0, 1].map(|end| {
            ends[end]
                .link
                .register(conns[end], &memory[end], Access::Local)
                .unwrap()
        });
        (
            Self {
                ends,
                conns,
                memory,
                local,
            },
            tap,
        )
    }

    /// Sends a message of `length` bytes, and checks that it arrives whole.
    fn message(&mut self, from: usize, length: u32, invalidate: Option<Region>) {
        let bytes: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
        self.memory[from].write(0, &bytes).unwrap();
        let source = Sge {
            region: self.local[from].id,
            offset: 0,
            length,
        };
        let token = invalidate.map(|region| region.remote.token);
        self.ends[from]
            .link
            .send(self.conns[from], 1, source, token)
            .unwrap();
        let arrived = until(&mut self.ends, "a message", |ends| {
            ends[1 - from].take(|event| match event {
                Event::Message { buffer, .. } => Some(buffer.clone()),
                _ => None,
            })
        });
        assert_eq!(arrived, bytes);
    }

    /// Makes the server write to, or read from, a region that the client offers.
    fn rdma(&mut self, access: Access) -> Region {
        let region = self.ends[CLIENT]
            .link
            .register(self.conns[CLIENT], &self.memory[CLIENT], access)
            .unwrap();
        let target = BufferDescriptorV1 {
            offset: region.remote.address + 5,
            token: region.remote.token,
            length: BULK - 5,
        };
        let local = Sge {
            region: self.local[SERVER].id,
            offset: 3,
            length: BULK - 10,
        };
        let (link, conn) = (&mut self.ends[SERVER].link, self.conns[SERVER]);
        match access {
            Access::RemoteWrite => link.write(conn, 2, local, [target]).unwrap(),
            _ => link.read(conn, 2, local, [target]).unwrap(),
        }
        until(&mut self.ends, "RDMA", |ends| {
            ends[SERVER].take(|event| match event {
                Event::Written { result, .. } | Event::Read { result, .. } => Some(*result),
                _ => None,
            })
        })
        .unwrap();
        region
    }

    fn close(mut self) -> [Vec<Posted>; 2] {
        self.ends[CLIENT].link.close(self.conns[CLIENT]);
        for end in [CLIENT, SERVER] {
            until(&mut self.ends, "the end", |ends| {
                ends[end].take(|event| matches!(event, Event::Closed { .. }).then_some(()))
            });
        }
        self.ends.map(|end| end.journal.lock().unwrap().clone())
    }
}

fn check(name: &str, crc: bool, address: IpAddr) {
    let (mut session, tap) = Session::new(crc, address);
    for from in [CLIENT, SERVER] {
        session.message(from, 100, None);
        session.message(from, 50_000, None);
    }
    session.rdma(Access::RemoteWrite);
    let read = session.rdma(Access::RemoteRead);
    session.message(SERVER, 200, Some(read));
    let journals = session.close();

    let mut capture = tap.capture();
    let packets = dissect(name, &capture);
    let client_port = packets[0].number("tcp.srcport");
    let fpdus: Vec<&Packet> = packets
        .iter()
        .filter(|packet| packet.has("iwarp_mpa.ulpdulength"))
        .collect();
    assert!(fpdus.len() > 80, "only {} FPDUs", fpdus.len());
    if crc {
        assert_eq!(good_crcs(name, &capture), fpdus.len());
        // This shows that the check works: if one bit of a message is changed, there is one good CRC less.
        let message: Vec<u8> = (0..100).collect();
        let inside = capture
            .windows(message.len())
            .position(|bytes| bytes == message)
            .unwrap();
        capture[inside] ^= 1;
        assert_eq!(
            good_crcs(&format!("{name}-damaged"), &capture),
            fpdus.len() - 1
        );
    } else {
        assert!(
            fpdus
                .iter()
                .all(|packet| packet.number("iwarp_mpa.crc") == 0)
        );
    }
    for (end, journal) in journals.iter().enumerate() {
        let from_client = end == CLIENT;
        let of_end =
            |packet: &&&Packet| (packet.number("tcp.srcport") == client_port) == from_client;
        let sent: Vec<&Packet> = fpdus.iter().filter(of_end).copied().collect();
        compare_sends(journal, &sent);
        compare_rdma(journal, &sent);
    }
    let responses: Vec<&&Packet> = with_opcode(&fpdus, READ_RESPONSE);
    assert_eq!(payload_of(&responses), u64::from(BULK - 10));
}

fn with_opcode<'a, 'b>(packets: &'b [&'a Packet], opcode: u64) -> Vec<&'b &'a Packet> {
    packets
        .iter()
        .filter(|packet| packet.number("iwarp_rdma.opcode") == opcode)
        .collect()
}

/// Returns the number of bytes after the headers of tagged segments.
fn payload_of(packets: &[&&Packet]) -> u64 {
    packets
        .iter()
        .map(|packet| packet.number("iwarp_mpa.ulpdulength") - 14)
        .sum()
}

/// Checks that each posted SEND is in the capture, in order, with each field as posted.
fn compare_sends(journal: &[Posted], sent: &[&Packet]) {
    let mut packets = sent
        .iter()
        .filter(|packet| matches!(packet.number("iwarp_rdma.opcode"), SEND | SEND_INVALIDATE));
    for posted in journal {
        let Posted::Send {
            header,
            payload,
            invalidate,
        } = posted
        else {
            continue;
        };
        let packet = packets
            .next()
            .expect("a SEND of the journal is not in the capture");
        match invalidate {
            Some(token) => assert_eq!(packet.number("iwarp_rdma.inval_stag"), u64::from(token.0)),
            None => assert_eq!(packet.number("iwarp_rdma.opcode"), SEND),
        }
        let number = |at: usize, length: usize| {
            header[at..at + length]
                .iter()
                .rev()
                .fold(0, |number, byte| number << 8 | u64::from(*byte))
        };
        let fields: &[(&str, usize, usize)] =
            match (packet.has("smb_direct.data_message"), header.len()) {
                (true, 20 | 24) => DATA_TRANSFER,
                (false, 20) if packet.has("smb_direct.negotiate_request") => NEGOTIATE_REQUEST,
                (false, 32) if packet.has("smb_direct.negotiate_response") => NEGOTIATE_RESPONSE,
                _ => panic!("{posted:?} is {packet:?}"),
            };
        for (field, at, length) in fields {
            assert_eq!(
                packet.number(field),
                number(*at, *length),
                "{field}: {posted:?} {packet:?}"
            );
        }
        if packet.has("smb_direct.data_message") {
            assert_eq!(
                packet.number("smb_direct.flags.response_requested"),
                number(4, 2) & 1
            );
            assert_eq!(packet.number("smb_direct.data_length"), u64::from(*payload));
        }
    }
    assert!(
        packets.next().is_none(),
        "a SEND of the capture is not in the journal"
    );
}

/// Field, offset and length, from \[MS-SMBD\] 2.2.1 to 2.2.3.
const NEGOTIATE_REQUEST: &[(&str, usize, usize)] = &[
    ("smb_direct.version.min", 0, 2),
    ("smb_direct.version.max", 2, 2),
    ("smb_direct.credits.requested", 6, 2),
    ("smb_direct.preferred_send_size", 8, 4),
    ("smb_direct.max_receive_size", 12, 4),
    ("smb_direct.max_fragmented_size", 16, 4),
];
const NEGOTIATE_RESPONSE: &[(&str, usize, usize)] = &[
    ("smb_direct.version.min", 0, 2),
    ("smb_direct.version.max", 2, 2),
    ("smb_direct.version.negotiated", 4, 2),
    ("smb_direct.credits.requested", 8, 2),
    ("smb_direct.credits.granted", 10, 2),
    ("smb_direct.status", 12, 4),
    ("smb_direct.max_read_write_size", 16, 4),
    ("smb_direct.preferred_send_size", 20, 4),
    ("smb_direct.max_receive_size", 24, 4),
    ("smb_direct.max_fragmented_size", 28, 4),
];
const DATA_TRANSFER: &[(&str, usize, usize)] = &[
    ("smb_direct.credits.requested", 0, 2),
    ("smb_direct.credits.granted", 2, 2),
    ("smb_direct.remaining_length", 8, 4),
    ("smb_direct.data_offset", 12, 4),
    ("smb_direct.data_length", 16, 4),
];

/// Checks that the posted RDMA READs and WRITEs are in the capture.
fn compare_rdma(journal: &[Posted], sent: &[&Packet]) {
    let writes = with_opcode(sent, WRITE);
    let mut reads = with_opcode(sent, READ_REQUEST).into_iter();
    let mut written = 0;
    for posted in journal {
        match posted {
            Posted::Send { .. } => {}
            Posted::Write { length, target } => {
                let first = writes
                    .first()
                    .expect("a WRITE of the journal is not in the capture");
                assert_eq!(first.number("iwarp_ddp.stag"), u64::from(target.token.0));
                assert_eq!(first.number("iwarp_ddp.tagged_offset"), target.address);
                written += u64::from(*length);
            }
            Posted::Read { length, source } => {
                let packet = reads
                    .next()
                    .expect("a READ of the journal is not in the capture");
                assert_eq!(packet.number("iwarp_rdma.rdmardsz"), u64::from(*length));
                assert_eq!(
                    packet.number("iwarp_rdma.srcstag"),
                    u64::from(source.token.0)
                );
                assert_eq!(packet.number("iwarp_rdma.srcto"), source.address);
            }
        }
    }
    assert!(
        reads.next().is_none(),
        "a READ of the capture is not in the journal"
    );
    assert_eq!(payload_of(&writes), written);
}

#[test]
fn reads_a_connection_without_crcs_as_the_endpoints_meant_it() {
    check("plain", false, Ipv4Addr::LOCALHOST.into());
}

#[test]
fn reads_a_connection_with_crcs_as_the_endpoints_meant_it() {
    check("crc", true, Ipv4Addr::LOCALHOST.into());
}

#[test]
fn reads_a_connection_on_ipv6_as_the_endpoints_meant_it() {
    check("ipv6", true, Ipv6Addr::LOCALHOST.into());
}
