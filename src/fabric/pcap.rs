// SPDX-License-Identifier: GPL-2.0-or-later

//! [`PcapWriter`]: TCP streams as a capture file that Wireshark opens.
//!
//! The bytes of a stream come from a socket, or from a fabric that only acts as if there were one; IP and TCP headers
//! are added to them, with a handshake and with valid sequence numbers and checksums. Each call of [`PcapWriter::data`]
//! begins a new packet, because iWARP dissectors work best with one FPDU in each.
//!
//! The file is a classic pcap with nanoseconds, or a part of a [`pcapng`] file, which has comments. Its link type is "raw
//! IP", which does not need an artificial Ethernet header. The headers of a stream without losses are two fixed
//! layouts, so they are written here instead of by a library. A capture must never make anything else fail: code that
//! captures for diagnosis drops the capture at the first error.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::pcapng;
use crate::units::Instant;

/// The magic number for nanosecond timestamps, in the byte order of the writer: little-endian here.
const MAGIC: u32 = 0xa1b2_3c4d;
/// The link type for raw IP: the version is in the packet.
const LINKTYPE_RAW: u32 = 101;
const SNAPSHOT_LENGTH: u32 = 262_144;
const RECORD_HEADER: usize = 16;

const IPV4_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
/// Number of bytes in an IPv4 packet after both headers.
const MAX_PAYLOAD: usize = 65_535 - IPV4_HEADER - TCP_HEADER;
const PROTOCOL_TCP: u8 = 6;
const HOP_LIMIT: u8 = 64;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
/// Window scale 14 after a no-operation: the window is a gigabyte, so no packets are needed just for acknowledgements.
const SYN_OPTIONS: [u8; 4] = [1, 3, 3, 14];

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client, which opened the stream.
    ToServer,
    /// From the server.
    ToClient,
}

impl Direction {
    /// Returns the other direction.
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// A stream of one [`PcapWriter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(usize);

/// One end of a stream.
#[derive(Clone, Copy, Debug)]
struct End {
    address: SocketAddr,
    /// The sequence number of the next byte that this end sends.
    sequence: u32,
    /// The end sends nothing more.
    is_closed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    client: End,
    server: End,
}

/// The form of the file.
#[derive(Clone, Copy, Debug)]
enum Form {
    /// A classic pcap.
    Classic,
    /// Blocks of a [`pcapng`] file for this interface; `epoch` is the time since 1970 at [`Instant::ZERO`].
    Blocks { interface: u32, epoch: Duration },
}

/// Writes TCP streams to a capture file. See the [module](self).
#[derive(Debug)]
pub struct PcapWriter<W> {
    writer: W,
    form: Form,
    /// The comment on the packets that follow, if the form has comments.
    comment: String,
    streams: Vec<Stream>,
    /// The places in `streams` of those that have ended, which new ones take: a file may have very many streams.
    ended: Vec<usize>,
    /// The latest time that was given, because packets are in the order of time.
    now: Instant,
    record: Vec<u8>,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the header of the file. Each packet is written with one call, so an unbuffered `writer` leaves a complete
    /// file at any time.
    pub fn new(mut writer: W) -> io::Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend_from_slice(&MAGIC.to_le_bytes());
        header.extend_from_slice(&2_u16.to_le_bytes());
        header.extend_from_slice(&4_u16.to_le_bytes());
        header.extend_from_slice(&[0; 8]);
        header.extend_from_slice(&SNAPSHOT_LENGTH.to_le_bytes());
        header.extend_from_slice(&LINKTYPE_RAW.to_le_bytes());
        writer.write_all(&header)?;
        Ok(Self::with(writer, Form::Classic))
    }

    /// Writes only packets, as blocks of a [`pcapng`] file that has the interface with this number. `epoch` is the time
    /// since 1970 at [`Instant::ZERO`]. Each block is written with one call.
    pub const fn blocks(writer: W, interface: u32, epoch: Duration) -> Self {
        Self::with(writer, Form::Blocks { interface, epoch })
    }

    const fn with(writer: W, form: Form) -> Self {
        Self {
            writer,
            form,
            comment: String::new(),
            streams: Vec::new(),
            ended: Vec::new(),
            now: Instant::ZERO,
            record: Vec::new(),
        }
    }

    /// Sets the time of the packets that follow, unless it would run backwards.
    pub fn set_time(&mut self, time: Instant) {
        self.now = self.now.max(time);
    }

    /// Adds this comment to all packets that follow, until the next call; empty stands for none. A classic pcap has no
    /// comments.
    pub fn set_comment(&mut self, comment: &str) {
        self.comment.clear();
        self.comment.push_str(comment);
    }

    /// Begins a stream with TCP's handshake, at the latest time known so far. Both addresses must
    /// be of the same family ([`io::ErrorKind::InvalidInput`]).
    pub fn stream(&mut self, client: SocketAddr, server: SocketAddr) -> io::Result<StreamId> {
        if client.is_ipv4() != server.is_ipv4() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let end = |address, sequence| End {
            address,
            sequence,
            is_closed: false,
        };
        let stream = Stream {
            client: end(client, 1000),
            server: end(server, 2000),
        };
        let ended = self.ended.pop();
        let id = StreamId(ended.unwrap_or(self.streams.len()));
        match self.streams.get_mut(id.0) {
            Some(place) => *place = stream,
            None => self.streams.push(stream),
        }
        self.packet(id, Direction::ToServer, SYN, &[])?;
        self.packet(id, Direction::ToClient, SYN | ACK, &[])?;
        self.packet(id, Direction::ToServer, ACK, &[])?;
        Ok(id)
    }

    /// Writes bytes that went in one direction, dated no earlier than `time`, in one packet if IP has room for them
    /// (65,495 bytes). Fails if the writer does, or if the stream belongs to another object.
    pub fn data(
        &mut self,
        stream: StreamId,
        direction: Direction,
        time: Instant,
        bytes: &[u8],
    ) -> io::Result<()> {
        self.now = self.now.max(time);
        for part in bytes.chunks(MAX_PAYLOAD) {
            self.packet(stream, direction, PSH | ACK, part)?;
        }
        Ok(())
    }

    /// Ends one direction; nothing more goes in it afterwards. Once both have ended, `stream` has no meaning.
    pub fn close(
        &mut self,
        stream: StreamId,
        direction: Direction,
        time: Instant,
    ) -> io::Result<()> {
        self.now = self.now.max(time);
        self.packet(stream, direction, FIN | ACK, &[])?;
        if let Some(Stream { client, server }) = self.streams.get_mut(stream.0) {
            let (one, other) = match direction {
                Direction::ToServer => (client, server),
                Direction::ToClient => (server, client),
            };
            let was_closed = std::mem::replace(&mut one.is_closed, true);
            if !was_closed && other.is_closed {
                self.ended.push(stream.0);
            }
        }
        Ok(())
    }

    /// Flushes the writer.
    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    /// Returns the writer.
    pub const fn writer(&self) -> &W {
        &self.writer
    }

    /// Returns the writer, which may be written to between two packets.
    pub const fn writer_mut(&mut self) -> &mut W {
        &mut self.writer
    }

    /// Returns the writer.
    pub fn into_inner(self) -> W {
        self.writer
    }

    fn packet(
        &mut self,
        stream: StreamId,
        direction: Direction,
        flags: u8,
        payload: &[u8],
    ) -> io::Result<()> {
        let stream = self
            .streams
            .get_mut(stream.0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let (from, to) = match direction {
            Direction::ToServer => (&mut stream.client, &stream.server),
            Direction::ToClient => (&mut stream.server, &stream.client),
        };
        let segment = segment(from, to, flags, payload)?;
        // SYN and FIN count as a byte each.
        let counts = payload.len() + usize::from(flags & (SYN | FIN) != 0);
        let counts = u32::try_from(counts).map_err(|_| io::ErrorKind::InvalidInput)?;
        from.sequence = from.sequence.wrapping_add(counts);

        let ip = ip_header(from.address.ip(), to.address.ip(), segment.len())?;
        let nanos = self.now.as_nanos();
        self.record.clear();
        match self.form {
            Form::Classic => {
                let seconds = u32::try_from(nanos / 1_000_000_000).unwrap_or(u32::MAX);
                let length = u32::try_from(ip.len() + segment.len()).unwrap_or(u32::MAX);
                self.record
                    .reserve(RECORD_HEADER + ip.len() + segment.len());
                for field in [seconds, (nanos % 1_000_000_000) as u32, length, length] {
                    self.record.extend_from_slice(&field.to_le_bytes());
                }
                self.record.extend_from_slice(&ip);
                self.record.extend_from_slice(&segment);
            }
            Form::Blocks { interface, epoch } => {
                let packet = pcapng::Packet {
                    interface,
                    time: epoch + Duration::from_nanos(nanos),
                    bytes: &[ip, segment].concat(),
                    comment: &self.comment,
                };
                packet.emit(&mut self.record);
            }
        }
        self.writer.write_all(&self.record)
    }
}

/// Makes a TCP segment (RFC 9293, section 3.1) with its checksum.
fn segment(from: &End, to: &End, flags: u8, payload: &[u8]) -> io::Result<Vec<u8>> {
    let options: &[u8] = if flags & SYN != 0 { &SYN_OPTIONS } else { &[] };
    let acknowledged = if flags & ACK != 0 { to.sequence } else { 0 };
    let header_words = (TCP_HEADER + options.len()) / 4;
    let mut segment = Vec::with_capacity(TCP_HEADER + options.len() + payload.len());
    segment.extend_from_slice(&from.address.port().to_be_bytes());
    segment.extend_from_slice(&to.address.port().to_be_bytes());
    segment.extend_from_slice(&from.sequence.to_be_bytes());
    segment.extend_from_slice(&acknowledged.to_be_bytes());
    segment.extend_from_slice(&[(header_words << 4) as u8, flags]);
    segment.extend_from_slice(&u16::MAX.to_be_bytes());
    segment.extend_from_slice(&[0; 4]);
    segment.extend_from_slice(options);
    segment.extend_from_slice(payload);

    let length = u16::try_from(segment.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut sum = Checksum::default();
    for address in [from.address.ip(), to.address.ip()] {
        match address {
            IpAddr::V4(address) => sum.add(&address.octets()),
            IpAddr::V6(address) => sum.add(&address.octets()),
        }
    }
    sum.add(&[0, PROTOCOL_TCP]);
    sum.add(&length.to_be_bytes());
    sum.add(&segment);
    if let Some(field) = segment.get_mut(16..18) {
        field.copy_from_slice(&sum.finish());
    }
    Ok(segment)
}

/// Makes an IPv4 (RFC 791) or IPv6 (RFC 8200) header for `length` bytes of TCP.
fn ip_header(from: IpAddr, to: IpAddr, length: usize) -> io::Result<Vec<u8>> {
    let too_long = |_| io::ErrorKind::InvalidInput;
    let mut header = Vec::with_capacity(40);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(length + IPV4_HEADER).map_err(too_long)?;
            header.extend_from_slice(&[0x45, 0]);
            header.extend_from_slice(&length.to_be_bytes());
            // There is no identification, and the packet is never fragmented.
            header.extend_from_slice(&[0, 0, 0x40, 0, HOP_LIMIT, PROTOCOL_TCP, 0, 0]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
            let mut sum = Checksum::default();
            sum.add(&header);
            if let Some(field) = header.get_mut(10..12) {
                field.copy_from_slice(&sum.finish());
            }
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(length).map_err(too_long)?;
            header.extend_from_slice(&[0x60, 0, 0, 0]);
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[PROTOCOL_TCP, HOP_LIMIT]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    }
    Ok(header)
}

/// The Internet checksum (RFC 1071).
#[derive(Default)]
struct Checksum(u64);

impl Checksum {
    /// Adds bytes; only the last call may add an odd number of them.
    fn add(&mut self, bytes: &[u8]) {
        for pair in bytes.chunks(2) {
            let high = pair.first().copied().unwrap_or(0);
            let low = pair.get(1).copied().unwrap_or(0);
            self.0 += u64::from(u16::from_be_bytes([high, low]));
        }
    }

    fn finish(self) -> [u8; 2] {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the packets of a file: time in nanoseconds and bytes.
    fn packets(file: &[u8]) -> Vec<(u64, &[u8])> {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        let (mut at, mut packets) = (24, Vec::new());
        while at < file.len() {
            let time = u64::from(word(at)) * 1_000_000_000 + u64::from(word(at + 4));
            let length = word(at + 8) as usize;
            packets.push((time, &file[at + 16..at + 16 + length]));
            at += 16 + length;
        }
        packets
    }

    fn sum(bytes: &[u8]) -> [u8; 2] {
        let mut sum = Checksum::default();
        sum.add(bytes);
        sum.finish()
    }

    fn record(client: &str, server: &str) -> Vec<u8> {
        let mut pcap = PcapWriter::new(Vec::new()).unwrap();
        let (client, server) = (client.parse().unwrap(), server.parse().unwrap());
        let stream = pcap.stream(client, server).unwrap();
        let time = Instant::from_nanos(3_000_000_007);
        pcap.data(stream, Direction::ToServer, time, b"odd")
            .unwrap();
        // Time does not run backwards in a file.
        pcap.data(
            stream,
            Direction::ToClient,
            Instant::ZERO,
            &vec![0xab; 100_000],
        )
        .unwrap();
        pcap.close(stream, Direction::ToServer, time).unwrap();
        pcap.close(stream, Direction::ToClient, time).unwrap();
        pcap.into_inner()
    }

    #[test]
    fn writes_a_handshake_and_numbers_that_continue() {
        let file = record("10.0.0.1:1234", "10.0.0.2:5445");
        let packets = packets(&file);
        let tcp = |n: usize| &packets[n].1[20..];
        let number =
            |n: usize, at: usize| u32::from_be_bytes(tcp(n)[at..at + 4].try_into().unwrap());
        let seen: Vec<_> = (0..packets.len())
            .map(|n| (number(n, 4), number(n, 8), tcp(n)[13]))
            .collect();
        let expected = [
            (1000, 0, SYN),
            (2000, 1001, SYN | ACK),
            (1001, 2001, ACK),
            (1001, 2001, PSH | ACK),
            (2001, 1004, PSH | ACK),
            (2001 + MAX_PAYLOAD as u32, 1004, PSH | ACK),
            (1004, 102_001, FIN | ACK),
            (102_001, 1005, FIN | ACK),
        ];
        assert_eq!(seen, expected);
        assert_eq!(&tcp(3)[20..], b"odd");
        assert_eq!(packets[0].0, 0);
        assert!(packets[3..].iter().all(|(time, _)| *time == 3_000_000_007));
    }

    #[test]
    fn writes_valid_checksums() {
        let file = record("10.0.0.1:1234", "10.0.0.2:5445");
        for (_, packet) in packets(&file) {
            assert_eq!(sum(&packet[..20]), [0, 0]);
            let length = (packet.len() as u16 - 20).to_be_bytes();
            let pseudo = [&packet[12..20], &[0, 6], &length, &packet[20..]].concat();
            assert_eq!(sum(&pseudo), [0, 0]);
        }
        let file = record("[fe80::1]:1234", "[fe80::2]:5445");
        for (_, packet) in packets(&file) {
            let pseudo = [&packet[8..40], &[0, 6], &packet[4..6], &packet[40..]].concat();
            assert_eq!(sum(&pseudo), [0, 0]);
        }
    }

    #[test]
    fn streams_that_have_ended_cost_nothing() {
        let mut pcap = PcapWriter::new(Vec::new()).unwrap();
        let addresses = ["10.0.0.1:1", "10.0.0.2:2"].map(|address| address.parse().unwrap());
        let [client, server] = addresses;
        let lives = pcap.stream(client, server).unwrap();
        for _ in 0..100 {
            let stream = pcap.stream(client, server).unwrap();
            assert_ne!(stream, lives);
            let time = Instant::ZERO;
            for direction in [Direction::ToServer, Direction::ToClient] {
                pcap.data(stream, direction, time, b"x").unwrap();
                pcap.close(stream, direction, time).unwrap();
            }
            // A second end of the same direction counts for nothing.
            pcap.close(stream, Direction::ToClient, time).unwrap();
        }
        assert_eq!((pcap.streams.len(), pcap.ended.len()), (2, 1));
        let file = pcap.into_inner();
        let begins = packets(&file).iter().filter(|it| it.1[33] == SYN).count();
        assert_eq!(begins, 101);
    }

    #[test]
    fn refuses_a_stream_between_address_families_and_one_of_another_file() {
        let mut pcap = PcapWriter::new(Vec::new()).unwrap();
        let (v4, v6) = ("1.2.3.4:5".parse().unwrap(), "[::1]:5".parse().unwrap());
        let error = pcap.stream(v4, v6).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let unknown = pcap.data(StreamId(7), Direction::ToServer, Instant::ZERO, b"x");
        assert_eq!(unknown.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
