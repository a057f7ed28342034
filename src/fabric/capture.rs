// SPDX-License-Identifier: GPL-2.0-or-later

//! Captures operations of a fabric as the iWARP frames that would carry them on a wire.
//!
//! Numbers that exist only on a wire are made up as a peer would choose them: message sequence
//! numbers from 1, and an STag and offset for the sink of an RDMA READ. Only things that the trait shows
//! are captured: posted work and its completion.
//!
//! A capture may begin in the middle of a connection ([`Capture::join`]), and may show only the first bytes that RDMA
//! moves for each operation ([`Capture::limit`]) and edited messages ([`Edit`]).

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::fabric::iwarp::ddp::{Control, QUEUE_READ_REQUEST, QUEUE_SEND, Tagged, Untagged};
use crate::fabric::iwarp::mpa::{
    FPDU_HEADER_LENGTH, FRAME_HEADER_LENGTH, Frame, FrameKind, ReadDepths, pad,
};
use crate::fabric::iwarp::rdmap::{Opcode, ReadRequest};
use crate::fabric::pcap::{Direction, PcapWriter, StreamId};
use crate::fabric::{ConnId, ReadLimits, Region, RegionId, RemoteAddress, Sge, Work, WrId};
use crate::sys::Memory;
use crate::units::{Instant, RemoteToken};

/// Number of bytes of a message in one FPDU, which fits into one IP packet with its headers.
const SEGMENT: usize = 60 * 1024;

/// Changes a message of a connection before it is captured. The arguments are the direction and all bytes of a SEND.
pub(crate) type Edit = Box<dyn FnMut(Direction, &mut [u8]) + Send>;

/// A connection that a capture finds under way.
#[cfg(feature = "broker")]
pub(crate) struct Joined {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    /// The limits, once the connection is established.
    pub(crate) limits: Option<ReadLimits>,
    /// The regions that are registered, except those of the peer.
    pub(crate) regions: Vec<(RegionId, Memory)>,
    /// The receives that are posted.
    pub(crate) receives: Vec<(WrId, Sge)>,
    /// Number of RDMA READs that are posted.
    pub(crate) reads: usize,
    pub(crate) edit: Edit,
}

/// A capture file of a fabric's connections.
pub(crate) struct Capture<W> {
    pcap: PcapWriter<W>,
    now: Instant,
    ends: HashMap<ConnId, End>,
    /// Number of bytes that RDMA moves for each operation to capture.
    shown: u32,
    /// Returns whether a work request is the last one of its operation.
    is_last: fn(WrId) -> bool,
    /// The next port for clients whose address the trait does not reveal.
    next_port: u16,
}

/// One end of a connection, as far as this fabric knows it.
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
    receives: VecDeque<(WrId, Option<(Memory, Sge)>)>,
    /// The sink of each READ response to come, and its tagged header.
    reads: VecDeque<Option<(Memory, Sge, Tagged)>>,
    sent: Numbers,
    received: Numbers,
    /// Number of bytes captured of the RDMA WRITEs of the operation that is under way, and of its RDMA READs. One
    /// operation may have thousands of them, each with a few bytes.
    written: u32,
    read: u32,
    edit: Option<Edit>,
}

/// Returns how many of `length` bytes are captured, if `already` bytes of the operation are, and counts them.
fn take(already: &mut u32, length: u32, shown: u32, is_last: bool) -> u32 {
    let taken = length.min(shown.saturating_sub(*already));
    // Both are at most `shown` in sum.
    *already = if is_last { 0 } else { *already + taken };
    taken
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
            written: 0,
            read: 0,
            edit: None,
        }
    }

    fn memory(&self, piece: Sge) -> Option<(Memory, Sge)> {
        let (memory, _) = self.regions.get(&piece.region)?;
        Some((memory.clone(), piece))
    }

    /// Takes the memory of a receive that has ended. The receives of a connection end in the order of posting, but a
    /// capture that joined a connection does not know that order.
    fn take_receive(&mut self, wr_id: WrId) -> Option<(Memory, Sge)> {
        let mut receives = self.receives.iter();
        let at = receives.position(|(posted, _)| *posted == wr_id)?;
        self.receives.remove(at)?.1
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
impl<W: Write> Capture<W> {
    pub(crate) fn new(pcap: PcapWriter<W>) -> Self {
        Self {
            pcap,
            now: Instant::ZERO,
            ends: HashMap::new(),
            shown: u32::MAX,
            is_last: |_| true,
            next_port: 49152,
        }
    }

    pub(crate) const fn set_time(&mut self, now: Instant) {
        self.now = now;
    }

    pub(crate) fn connecting(&mut self, conn: ConnId, server: SocketAddr, limits: ReadLimits) {
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
    pub(crate) fn requested(
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
    pub(crate) fn accepted(&mut self, conn: ConnId, limits: ReadLimits) -> io::Result<()> {
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

    pub(crate) fn established(&mut self, conn: ConnId, limits: ReadLimits) -> io::Result<()> {
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
        self.pcap.set_time(self.now);
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

    pub(crate) fn closed(&mut self, conn: ConnId, now: Instant) -> io::Result<()> {
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

    pub(crate) fn forget(&mut self, conn: ConnId) {
        self.ends.remove(&conn);
    }
}

/// The functions for captures that do not have everything of a connection.
#[cfg(feature = "broker")]
impl<W: Write> Capture<W> {
    /// Captures only this many bytes of all that RDMA moves for an operation, whose last work request is the one for
    /// which `is_last` is true: a transfer with more looks as if it had no more, and a comment on the packet has its
    /// length.
    pub(crate) fn limit(mut self, shown: u32, is_last: fn(WrId) -> bool) -> Self {
        (self.shown, self.is_last) = (shown, is_last);
        self
    }

    pub(crate) const fn writer(&self) -> &W {
        self.pcap.writer()
    }

    pub(crate) const fn writer_mut(&mut self) -> &mut W {
        self.pcap.writer_mut()
    }

    pub(crate) fn has(&self, conn: ConnId) -> bool {
        self.ends.contains_key(&conn)
    }

    /// Makes all messages of a connection go through `edit`.
    pub(crate) fn set_edit(&mut self, conn: ConnId, edit: Edit) {
        if let Some(end) = self.ends.get_mut(&conn) {
            end.edit = Some(edit);
        }
    }

    /// Begins with a connection that this side has accepted. If it is established, the stream begins with the handshake
    /// that the agreement stands for, and then `messages`; `comment` says on each of these packets that they were made
    /// up.
    pub(crate) fn join(
        &mut self,
        conn: ConnId,
        joined: Joined,
        messages: &[(Direction, Vec<u8>)],
        comment: &str,
    ) -> io::Result<()> {
        let mut end = End::new(Direction::ToClient, joined.client, joined.server);
        let regions = joined.regions.into_iter();
        end.regions = regions
            .map(|(region, memory)| (region, (memory, RemoteToken(0))))
            .collect();
        let receives = joined.receives.into_iter();
        end.receives = receives
            .map(|(wr_id, piece)| (wr_id, end.memory(piece)))
            .collect();
        end.reads.resize_with(joined.reads, || None);
        self.ends.insert(conn, end);
        let Some(limits) = joined.limits else {
            self.set_edit(conn, joined.edit);
            return Ok(());
        };
        self.pcap.set_comment(comment);
        self.open(conn, mirrored(limits), limits)?;
        for (direction, message) in messages {
            let Some(end) = self.ends.get_mut(&conn) else {
                break;
            };
            let numbers = match direction {
                Direction::ToClient => &mut end.sent,
                Direction::ToServer => &mut end.received,
            };
            numbers.send = numbers.send.wrapping_add(1);
            let msn = numbers.send;
            self.write_send((conn, *direction), msn, message, None)?;
        }
        self.pcap.set_comment("");
        self.set_edit(conn, joined.edit);
        Ok(())
    }
}

/// The functions for operations.
impl<W: Write> Capture<W> {
    pub(crate) fn registered(&mut self, conn: ConnId, region: Region, memory: &Memory) {
        if let Some(end) = self.ends.get_mut(&conn) {
            end.regions
                .insert(region.id, (memory.clone(), region.remote.token));
        }
    }

    pub(crate) fn deregistered(&mut self, conn: ConnId, region: RegionId) {
        if let Some(end) = self.ends.get_mut(&conn) {
            end.regions.remove(&region);
        }
    }

    pub(crate) fn recv(&mut self, conn: ConnId, wr_id: WrId, piece: Sge) {
        if let Some(end) = self.ends.get_mut(&conn) {
            let memory = end.memory(piece);
            end.receives.push_back((wr_id, memory));
        }
    }

    pub(crate) fn send(
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
        if let Some(edit) = &mut end.edit {
            edit(end.sends, &mut message);
        }
        end.sent.send = end.sent.send.wrapping_add(1);
        let (direction, msn) = (end.sends, end.sent.send);
        self.write_send((conn, direction), msn, &message, invalidate)
    }

    pub(crate) fn write(
        &mut self,
        conn: ConnId,
        wr_id: WrId,
        (source, target): (Sge, RemoteAddress),
    ) -> io::Result<()> {
        let (shown, is_last) = (self.shown, (self.is_last)(wr_id));
        let Some(end) = self.ends.get_mut(&conn) else {
            return Ok(());
        };
        let length = take(&mut end.written, source.length, shown, is_last);
        let (bytes, direction) = (end.bytes(Sge { length, ..source }), end.sends);
        let to = Tagged {
            stag: target.token.0,
            offset: target.address,
        };
        let data = (&bytes[..], source.length);
        self.write_tagged((conn, direction), Opcode::Write, to, data)
    }

    pub(crate) fn read(
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

    pub(crate) fn completed(
        &mut self,
        conn: ConnId,
        (wr_id, work, succeeded): (WrId, Work, bool),
    ) -> io::Result<()> {
        let (shown, is_last) = (self.shown, (self.is_last)(wr_id));
        let Some(end) = self.ends.get_mut(&conn) else {
            return Ok(());
        };
        let arrives = end.sends.reverse();
        match work {
            // The READs of a connection end in the order of posting.
            Work::Read => match end.reads.pop_front() {
                Some(Some((memory, sink, to))) if succeeded => {
                    let length = take(&mut end.read, sink.length, shown, is_last);
                    let bytes = copied(&memory, Sge { length, ..sink });
                    let data = (&bytes[..], sink.length);
                    self.write_tagged((conn, arrives), Opcode::ReadResponse, to, data)
                }
                _ => {
                    take(&mut end.read, 0, shown, is_last);
                    Ok(())
                }
            },
            Work::Recv {
                length,
                invalidated,
            } => match end.take_receive(wr_id) {
                Some((memory, piece)) if succeeded && end.peer.is_none() => {
                    let mut bytes = copied(&memory, Sge { length, ..piece });
                    if let Some(edit) = &mut end.edit {
                        edit(arrives, &mut bytes);
                    }
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
impl<W: Write> Capture<W> {
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
        (bytes, length): (&[u8], u32),
    ) -> io::Result<()> {
        // The bytes are missing altogether if their region is unknown.
        let is_cut = bytes.len() < length as usize;
        if is_cut {
            let shown = bytes.len();
            let comment = format!("The first {shown} of {length} bytes of an RDMA transfer.");
            self.pcap.set_comment(&comment);
        }
        for (at, last, part) in segments(bytes) {
            let header = Tagged {
                stag: to.stag,
                offset: to.offset.wrapping_add(at as u64),
            };
            self.fpdu(way, Control { opcode, last }, &header.emit(), part)?;
        }
        if is_cut {
            self.pcap.set_comment("");
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
