// SPDX-License-Identifier: GPL-2.0-or-later

//! Captures operations of a fabric as the iWARP frames that would carry them on a wire.
//!
//! Numbers that exist only on a wire are made up as a peer would choose them: message sequence
//! numbers from 1, and an STag and offset for the sink of an RDMA READ. Only things that the trait shows
//! are captured: posted work and its completion.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::fabric::iwarp::ddp::{Control, QUEUE_READ_REQUEST, QUEUE_SEND, Tagged, Untagged};
use crate::fabric::iwarp::mpa::{
    FPDU_HEADER_LENGTH, FRAME_HEADER_LENGTH, Frame, FrameKind, ReadDepths, pad,
};
use crate::fabric::iwarp::rdmap::{Opcode, ReadRequest};
use crate::fabric::pcap::{Direction, PcapWriter, StreamId};
use crate::fabric::{ConnId, ReadLimits, Region, RegionId, RemoteAddress, Sge, Work};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// Number of bytes of a message in one FPDU, which fits into one IP packet with its headers.
const SEGMENT: usize = 60 * 1024;

/// A capture file of a fabric's connections.
pub(super) struct Capture {
    pcap: PcapWriter<Box<dyn Write + Send>>,
    now: Instant,
    ends: HashMap<ConnId, End>,
    /// The next port for clients whose address the trait does not reveal.
    next_port: u16,
}

/// One end of a connection, as far as this fabric knows it.
#[derive(Debug)]
struct End {
    /// The direction in which this end sends.
    sends: Direction,
    client: SocketAddr,
    server: SocketAddr,
    /// The limits that the client asked for, if they are known.
    asked: Option<ReadLimits>,
    /// The other end, if it is in this fabric, too. Then the messages for this end are captured when the other end
    /// sends them.
    peer: Option<ConnId>,
    /// The stream, once the connection is established.
    stream: Option<StreamId>,
    regions: HashMap<RegionId, (Memory, RemoteToken)>,
    receives: VecDeque<Option<(Memory, Sge)>>,
    /// The sink of each READ response to come, and its tagged header.
    reads: VecDeque<Option<(Memory, Sge, Tagged)>>,
    sent: Numbers,
    received: Numbers,
}

/// The message sequence numbers of the latest messages in one direction (RFC 5041, 4.3).
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    send: u32,
    read_request: u32,
}

impl End {
    fn new(sends: Direction, client: SocketAddr, server: SocketAddr) -> Self {
        Self {
            sends,
            client,
            server,
            asked: None,
            peer: None,
            stream: None,
            regions: HashMap::new(),
            receives: VecDeque::new(),
            reads: VecDeque::new(),
            sent: Numbers::default(),
            received: Numbers::default(),
        }
    }

    fn memory(&self, piece: Sge) -> Option<(Memory, Sge)> {
        let (memory, _) = self.regions.get(&piece.region)?;
        Some((memory.clone(), piece))
    }

    /// Returns the bytes of a piece, or no bytes if its region is unknown.
    fn bytes(&self, piece: Sge) -> Vec<u8> {
        self.memory(piece)
            .map_or_else(Vec::new, |(memory, piece)| copied(&memory, piece))
    }
}

fn copied(memory: &Memory, piece: Sge) -> Vec<u8> {
    memory
        .to_vec(piece.offset as usize, piece.length as usize)
        .unwrap_or_default()
}

/// The functions for connections.
impl Capture {
    pub(super) fn new(writer: Box<dyn Write + Send>) -> io::Result<Self> {
        Ok(Self {
            pcap: PcapWriter::new(writer)?,
            now: Instant::ZERO,
            ends: HashMap::new(),
            next_port: 49152,
        })
    }

    pub(super) const fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn connecting(&mut self, conn: ConnId, server: SocketAddr, limits: ReadLimits) {
        let ip = match server.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let client = SocketAddr::new(ip, self.next_port);
        self.next_port = self.next_port.checked_add(1).unwrap_or(49152);
        let mut end = End::new(Direction::ToServer, client, server);
        end.asked = Some(limits);
        self.ends.insert(conn, end);
    }

    /// Takes note of an incoming request, which comes from `peer` if that is in this fabric.
    pub(super) fn requested(
        &mut self,
        conn: ConnId,
        client: SocketAddr,
        server: SocketAddr,
        peer: Option<ConnId>,
    ) {
        let mut end = End::new(Direction::ToClient, client, server);
        if let Some(other) = peer.and_then(|peer| self.ends.get_mut(&peer)) {
            other.peer = Some(conn);
            (end.peer, end.asked) = (peer, other.asked);
        }
        self.ends.insert(conn, end);
    }

    /// Captures the handshake of a server that has accepted, unless only the client is in this fabric.
    pub(super) fn accepted(&mut self, conn: ConnId, limits: ReadLimits) -> io::Result<()> {
        let Some(end) = self.ends.get(&conn) else {
            return Ok(());
        };
        let asked = end.asked.unwrap_or_else(|| mirrored(limits));
        let agreed = ReadLimits {
            responder_resources: limits.responder_resources.min(asked.initiator_depth),
            initiator_depth: limits.initiator_depth.min(asked.responder_resources),
        };
        self.open(conn, asked, agreed)
    }

    pub(super) fn established(&mut self, conn: ConnId, limits: ReadLimits) -> io::Result<()> {
        match self.ends.get(&conn) {
            Some(End {
                stream: None,
                asked,
                ..
            }) => {
                let asked = asked.unwrap_or(limits);
                self.open(conn, asked, mirrored(limits))
            }
            _ => Ok(()),
        }
    }

    /// Begins the stream with MPA's handshake (RFC 6581): `asked` is the client's offer, `agreed`
    /// the agreement as the server sees it.
    fn open(&mut self, conn: ConnId, asked: ReadLimits, agreed: ReadLimits) -> io::Result<()> {
        let Some(end) = self.ends.get(&conn) else {
            return Ok(());
        };
        let peer = end.peer;
        let stream = self.pcap.stream(end.client, end.server)?;
        for (kind, limits, direction) in [
            (FrameKind::Request, asked, Direction::ToServer),
            (FrameKind::Reply, agreed, Direction::ToClient),
        ] {
            let depths = ReadDepths {
                ird: limits.responder_resources,
                ord: limits.initiator_depth,
                control: 0,
            };
            let frame = Frame {
                kind,
                markers: false,
                crc: true,
                reject: false,
                revision: 2,
                enhanced: Some(depths),
                private_data: &[],
            };
            let mut bytes = [0; FRAME_HEADER_LENGTH + ReadDepths::LENGTH];
            frame.emit(&mut bytes).map_err(io::Error::other)?;
            self.pcap.data(stream, direction, self.now, &bytes)?;
        }
        for id in [Some(conn), peer].into_iter().flatten() {
            if let Some(end) = self.ends.get_mut(&id) {
                end.stream = Some(stream);
            }
        }
        Ok(())
    }

    pub(super) fn closed(&mut self, conn: ConnId, now: Instant) -> io::Result<()> {
        match self.ends.remove(&conn) {
            Some(End {
                stream: Some(stream),
                sends,
                peer,
                ..
            }) => {
                self.pcap.close(stream, sends, now)?;
                if peer.is_none() {
                    self.pcap.close(stream, sends.reverse(), now)?;
                }
                self.pcap.flush()
            }
            _ => Ok(()),
        }
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        self.ends.remove(&conn);
    }
}

/// The functions for operations.
impl Capture {
    pub(super) fn registered(&mut self, conn: ConnId, region: Region, memory: &Memory) {
        if let Some(end) = self.ends.get_mut(&conn) {
            end.regions
                .insert(region.id, (memory.clone(), region.remote.token));
        }
    }

    pub(super) fn deregistered(&mut self, conn: ConnId, region: RegionId) {
        if let Some(end) = self.ends.get_mut(&conn) {
            end.regions.remove(&region);
        }
    }

    pub(super) fn recv(&mut self, conn: ConnId, piece: Sge) {
        if let Some(end) = self.ends.get_mut(&conn) {
            let memory = end.memory(piece);
            end.receives.push_back(memory);
        }
    }

    pub(super) fn send(
        &mut self,
        conn: ConnId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> io::Result<()> {
        let Some(end) = self.ends.get_mut(&conn) else {
            return Ok(());
        };
        let mut message = header.to_vec();
        if let Some(payload) = payload {
            message.extend_from_slice(&end.bytes(payload));
        }
        end.sent.send = end.sent.send.wrapping_add(1);
        let (direction, msn) = (end.sends, end.sent.send);
        self.write_send((conn, direction), msn, &message, invalidate)
    }

    pub(super) fn write(
        &mut self,
        conn: ConnId,
        source: Sge,
        target: RemoteAddress,
    ) -> io::Result<()> {
        let Some(end) = self.ends.get(&conn) else {
            return Ok(());
        };
        let (bytes, direction) = (end.bytes(source), end.sends);
        let to = Tagged {
            stag: target.token.0,
            offset: target.address,
        };
        self.write_tagged((conn, direction), Opcode::Write, to, &bytes)
    }

    pub(super) fn read(
        &mut self,
        conn: ConnId,
        sink: Sge,
        source: RemoteAddress,
    ) -> io::Result<()> {
        let Some(end) = self.ends.get_mut(&conn) else {
            return Ok(());
        };
        let token = end
            .regions
            .get(&sink.region)
            .map_or(0, |(_, token)| token.0);
        // Local memory has no token, but on a wire the responses need an STag.
        let stag = if token == 0 {
            (sink.region.0.wrapping_add(1)) << 8
        } else {
            token
        };
        let to = Tagged {
            stag,
            offset: u64::from(sink.offset),
        };
        let response = end.memory(sink).map(|(memory, sink)| (memory, sink, to));
        end.reads.push_back(response);
        end.sent.read_request = end.sent.read_request.wrapping_add(1);
        let request = ReadRequest {
            sink_stag: to.stag,
            sink_offset: to.offset,
            length: sink.length,
            source_stag: source.token.0,
            source_offset: source.address,
        };
        let header = Untagged {
            invalidate: 0,
            queue: QUEUE_READ_REQUEST,
            msn: end.sent.read_request,
            mo: 0,
        };
        let control = Control {
            opcode: Opcode::ReadRequest,
            last: true,
        };
        let direction = end.sends;
        self.fpdu((conn, direction), control, &header.emit(), &request.emit())
    }

    pub(super) fn completed(
        &mut self,
        conn: ConnId,
        work: Work,
        succeeded: bool,
    ) -> io::Result<()> {
        let Some(end) = self.ends.get_mut(&conn) else {
            return Ok(());
        };
        let arrives = end.sends.reverse();
        match work {
            Work::Read => match end.reads.pop_front() {
                Some(Some((memory, sink, to))) if succeeded => {
                    let bytes = copied(&memory, sink);
                    self.write_tagged((conn, arrives), Opcode::ReadResponse, to, &bytes)
                }
                _ => Ok(()),
            },
            Work::Recv {
                length,
                invalidated,
            } => match end.receives.pop_front() {
                Some(Some((memory, piece))) if succeeded && end.peer.is_none() => {
                    let bytes = copied(&memory, Sge { length, ..piece });
                    end.received.send = end.received.send.wrapping_add(1);
                    let msn = end.received.send;
                    self.write_send((conn, arrives), msn, &bytes, invalidated)
                }
                _ => Ok(()),
            },
            Work::Send | Work::Write => Ok(()),
        }
    }
}

/// The functions for frames.
impl Capture {
    fn write_send(
        &mut self,
        way: (ConnId, Direction),
        msn: u32,
        message: &[u8],
        invalidate: Option<RemoteToken>,
    ) -> io::Result<()> {
        let opcode = if invalidate.is_some() {
            Opcode::SendInvalidate
        } else {
            Opcode::Send
        };
        for (mo, last, part) in segments(message) {
            let header = Untagged {
                invalidate: invalidate.map_or(0, |token| token.0),
                queue: QUEUE_SEND,
                msn,
                mo: u32::try_from(mo).unwrap_or(u32::MAX),
            };
            self.fpdu(way, Control { opcode, last }, &header.emit(), part)?;
        }
        Ok(())
    }

    fn write_tagged(
        &mut self,
        way: (ConnId, Direction),
        opcode: Opcode,
        to: Tagged,
        bytes: &[u8],
    ) -> io::Result<()> {
        for (at, last, part) in segments(bytes) {
            let header = Tagged {
                stag: to.stag,
                offset: to.offset.wrapping_add(at as u64),
            };
            self.fpdu(way, Control { opcode, last }, &header.emit(), part)?;
        }
        Ok(())
    }

    /// Captures one FPDU (RFC 5044, 4.1) in a packet of its own.
    fn fpdu(
        &mut self,
        (conn, direction): (ConnId, Direction),
        control: Control,
        header: &[u8],
        payload: &[u8],
    ) -> io::Result<()> {
        let Some(End {
            stream: Some(stream),
            ..
        }) = self.ends.get(&conn)
        else {
            return Ok(());
        };
        let length = Control::LENGTH + header.len() + payload.len();
        let field = u16::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fpdu = Vec::with_capacity(FPDU_HEADER_LENGTH + length + 8);
        fpdu.extend_from_slice(&field.to_be_bytes());
        fpdu.extend_from_slice(&control.emit());
        fpdu.extend_from_slice(header);
        fpdu.extend_from_slice(payload);
        fpdu.resize(fpdu.len() + pad(length), 0);
        let crc = crc32c::crc32c(&fpdu);
        fpdu.extend_from_slice(&crc.to_le_bytes());
        self.pcap.data(*stream, direction, self.now, &fpdu)
    }
}

/// Returns the agreement as the other side sees it.
const fn mirrored(limits: ReadLimits) -> ReadLimits {
    ReadLimits {
        responder_resources: limits.initiator_depth,
        initiator_depth: limits.responder_resources,
    }
}

/// Returns the parts of a message, each with its offset and whether it is the last; an empty message is one part.
fn segments(message: &[u8]) -> impl Iterator<Item = (usize, bool, &[u8])> {
    (0..message.len().max(1)).step_by(SEGMENT).map(|at| {
        let end = message.len().min(at + SEGMENT);
        (
            at,
            end == message.len(),
            message.get(at..end).unwrap_or_default(),
        )
    })
}
