// SPDX-License-Identifier: GPL-2.0-or-later

//! An iWARP queue pair whose owner posts work, takes memory away and closes at any time, while the peer sends whatever
//! it likes.
//!
//! `stream` checks what each segment means, with memory that stays. Here memory comes and goes, and region numbers are
//! reused.

use std::collections::VecDeque;

use smbdirect::fabric::iwarp::handshake::Agreed;
use smbdirect::fabric::iwarp::qp::{Completion, Done, Qp, Segment, Step};
use smbdirect::fabric::iwarp::{Depths, IwarpError, mpa};
use smbdirect::fabric::{Access, MAX_SEND_HEADER, RegionId, RemoteAddress, Sge, WrId};
use smbdirect::units::RemoteToken;

use super::input::Input;

const DEPTHS: Depths = Depths {
    sends: 4,
    recvs: 4,
    reads: 4,
    responses: 4,
    regions: 4,
};

/// Maximum number of FPDUs that are taken from the queue pair in one operation.
const FPDUS: u8 = 32;

struct Region {
    id: RegionId,
    length: u32,
    access: Access,
    remote: RemoteAddress,
    registered: bool,
}

/// A posted request that has not ended.
struct Posted {
    id: WrId,
    memory: Option<Sge>,
}

#[derive(Clone, Copy)]
enum Kind {
    Recv,
    Send,
    Read,
}

/// The queue pair, and what its owner and a peer that keeps the rules would know about it.
struct Model {
    /// Its handle of a region is an index into `regions`.
    qp: Qp<usize>,
    regions: Vec<Region>,
    posted: [VecDeque<Posted>; 3],
    next_id: u64,
    max_ulpdu: usize,
    /// The number of READs that the peer was asked for and has not answered.
    asked: usize,
    /// The next message numbers of the peer's SENDs and READ requests, and the peer's position in the current SEND.
    send_msn: u32,
    send_mo: u32,
    read_msn: u32,
    /// Bytes on their way to the queue pair.
    stream: Vec<u8>,
    failed: Option<IwarpError>,
    heard: bool,
    closed: bool,
}

/// Runs a list of operations on an established queue pair: FPDUs of the peer, well-formed or not, in pieces of any
/// length; and operations of an owner. Data goes only to and from the intended memory; each posted request ends once,
/// in order; no more READs are requested than agreed; after a broken rule the connection stays broken; each call makes
/// progress.
pub fn iwarp_owner(data: &[u8]) {
    let mut input = Input::new(data);
    let mut model = Model::new(&mut input);
    while !input.is_empty() {
        let operation = input.u8();
        model.step(operation, &mut input);
    }
    let rest = std::mem::take(&mut model.stream);
    model.receive(&rest);
    model.flush();
}

impl Model {
    fn new(input: &mut Input<'_>) -> Self {
        let flags = input.u8();
        let depths = input.u8();
        let agreed = Agreed {
            crc: flags & 1 != 0,
            peer_speaks_first: flags & 2 != 0,
            ready_to_receive_send: flags & 4 != 0,
            ird: u16::from(depths >> 4),
            ord: u16::from(depths & 0x0f),
        };
        let limit = input.u16();
        let mut qp = Qp::new(DEPTHS, crc32c);
        qp.establish(agreed, limit);
        let mut model = Self {
            qp,
            regions: Vec::new(),
            posted: [const { VecDeque::new() }; 3],
            next_id: 0,
            max_ulpdu: usize::from(limit.clamp(128, 65_532)),
            asked: 0,
            send_msn: 1,
            send_mo: 0,
            read_msn: 1,
            stream: Vec::new(),
            failed: None,
            heard: !agreed.peer_speaks_first,
            closed: false,
        };
        for number in 0..3 {
            model.register(number, 200);
        }
        model
    }

    fn step(&mut self, operation: u8, input: &mut Input<'_>) {
        match operation % 16 {
            0..=4 => self.peer_sends(input),
            5 => {
                let length = usize::from(input.u8());
                self.stream.extend_from_slice(input.bytes(length));
            }
            6 | 7 => {
                let length = usize::from(input.u16()).min(self.stream.len());
                let bytes: Vec<u8> = self.stream.drain(..length).collect();
                self.receive(&bytes);
            }
            8 => {
                let all = std::mem::take(&mut self.stream);
                self.receive(&all);
            }
            9 => self.post_recv(input),
            10 => self.post_read(input),
            11 => self.post_write(input),
            12 => self.post_send(input),
            13 => {
                for _ in 0..input.u8() % FPDUS {
                    self.transmit();
                }
            }
            14 => {
                let (number, length) = (input.u8(), input.u16());
                self.register(number, u32::from(length));
            }
            _ => self.take_away(input),
        }
    }

    /// Registers memory, sometimes longer than any message.
    fn register(&mut self, number: u8, length: u32) {
        let access = match number % 3 {
            0 => Access::Local,
            1 => Access::RemoteRead,
            _ => Access::RemoteWrite,
        };
        let length = if number & 0x80 != 0 {
            length << 12
        } else {
            length
        };
        let remote = RemoteAddress {
            token: RemoteToken(self.regions.len() as u32 + 1),
            address: u64::from(number) << 56,
        };
        let fits = remote.address.checked_add(length.into()).is_some();
        let has_room = self.qp.regions().has_room();
        let regions = self.qp.regions_mut();
        let id = regions.register(self.regions.len(), length, access, remote);
        assert_eq!(id.is_some(), fits && has_room);
        if let Some(id) = id {
            self.regions.push(Region {
                id,
                length,
                access,
                remote,
                registered: true,
            });
        }
    }

    fn take_away(&mut self, input: &mut Input<'_>) {
        match input.u8() {
            0 => {
                while let Some(completion) = self.qp.flush_reads() {
                    self.ended(completion, true);
                }
                self.closed = true;
            }
            number => {
                let number = usize::from(number) % self.regions.len().max(1);
                if let Some(region) = self.regions.get_mut(number) {
                    let handle = self.qp.regions_mut().deregister(region.id);
                    // The region may be gone, and another one may have its number.
                    let of = handle.map_or(number, |handle| handle);
                    assert!(handle.is_none() || self.regions[of].registered);
                    assert!(handle.is_some() || !self.regions[number].registered);
                    self.regions[of].registered = false;
                }
            }
        }
    }

    /// Returns some memory, mostly within a region.
    fn sge(&self, input: &mut Input<'_>) -> Sge {
        let number = usize::from(input.u8()) % self.regions.len().max(1);
        let (offset, length) = (input.u8(), input.u8());
        Sge {
            region: self.regions.get(number).map_or(RegionId(0), |of| of.id),
            offset: offset.into(),
            length: u32::from(length) << (offset & 7),
        }
    }

    fn id(&mut self) -> WrId {
        self.next_id += 1;
        WrId(self.next_id)
    }

    fn posted(&mut self, kind: Kind, id: WrId, memory: Option<Sge>, accepted: bool) {
        let in_memory = memory.is_none_or(|sge| {
            let mut of = self.regions.iter().filter(|region| region.registered);
            let region = of.find(|region| region.id == sge.region);
            region.is_some_and(|region| sge.offset + sge.length <= region.length)
        });
        let queue = &mut self.posted[kind as usize];
        assert_eq!(accepted, in_memory && queue.len() < 4);
        if accepted {
            queue.push_back(Posted { id, memory });
        }
    }

    fn post_recv(&mut self, input: &mut Input<'_>) {
        let (id, sge) = (self.id(), self.sge(input));
        let accepted = self.qp.post_recv(id, sge).is_ok();
        self.posted(Kind::Recv, id, Some(sge), accepted);
    }

    fn post_read(&mut self, input: &mut Input<'_>) {
        let (id, sge) = (self.id(), self.sge(input));
        let accepted = self.qp.post_read(id, sge, remote(input)).is_ok();
        self.posted(Kind::Read, id, Some(sge), accepted);
    }

    fn post_write(&mut self, input: &mut Input<'_>) {
        let (id, sge) = (self.id(), self.sge(input));
        let accepted = self.qp.post_write(id, sge, remote(input)).is_ok();
        self.posted(Kind::Send, id, Some(sge), accepted);
    }

    fn post_send(&mut self, input: &mut Input<'_>) {
        let id = self.id();
        let flags = usize::from(input.u8());
        let sge = (flags & 0x80 != 0).then(|| self.sge(input));
        let invalidate = (flags & 0x40 != 0).then_some(RemoteToken(9));
        let header = [7; MAX_SEND_HEADER];
        let header = &header[..(flags & 0x3f).min(MAX_SEND_HEADER)];
        let accepted = self.qp.post_send(id, header, sge, invalidate).is_ok();
        self.posted(Kind::Send, id, sge, accepted);
    }

    /// Appends an FPDU to the stream, with small faults if the input says so.
    fn peer_sends(&mut self, input: &mut Input<'_>) {
        let kind = input.u8();
        let fault = input.u8();
        let number = usize::from(input.u8());
        let length = usize::from(input.u16());
        let opcode = kind & 7;
        let last = if kind & 8 != 0 || opcode == 1 {
            0x40
        } else {
            0
        };
        let region = self.regions.get(number % self.regions.len().max(1));
        let remote = region
            .map(|region| region.remote)
            .filter(|_| fault & 1 == 0);
        let stag = remote.map_or(number as u32, |remote| remote.token.0);
        let offset = remote.map_or(0, |remote| remote.address) + u64::from(fault >> 1 & 0x1f);
        let control = match opcode {
            0 | 2 => [0x81 | last, 0x40 | opcode],
            _ => [0x01 | last, 0x40 | opcode],
        };
        let mut ulpdu = control.to_vec();
        match opcode {
            0 | 2 => {
                // READs name their own targets by number, from offset 0 on.
                let (stag, offset) = match opcode {
                    0 => (stag, offset),
                    _ => (number as u32, u64::from(fault)),
                };
                ulpdu.extend(stag.to_be_bytes());
                ulpdu.extend(offset.to_be_bytes());
                ulpdu.resize(14 + length % 1_500, 0x55);
            }
            1 => {
                let msn = self.read_msn.wrapping_add(u32::from(fault >> 6));
                ulpdu.extend([0, 1, msn, 0].map(u32::to_be_bytes).as_flattened());
                ulpdu.extend([0; 12]);
                ulpdu.extend((length as u32).to_be_bytes());
                ulpdu.extend(stag.to_be_bytes());
                ulpdu.extend(offset.to_be_bytes());
                self.read_msn = self.read_msn.wrapping_add(1);
            }
            7 => {
                ulpdu.extend([0, 2, 1, 0].map(u32::to_be_bytes).as_flattened());
                ulpdu.resize(18 + length % 64, 0x11);
            }
            _ => {
                let token = if opcode & 1 == 0 { stag } else { 0 };
                let msn = self.send_msn.wrapping_add(u32::from(fault >> 6));
                let header = [token, 0, msn, self.send_mo].map(u32::to_be_bytes);
                ulpdu.extend(header.as_flattened());
                let length = length % 1_500;
                ulpdu.resize(18 + length, 0x55);
                self.send_mo = self.send_mo.wrapping_add(length as u32);
                if last != 0 {
                    self.send_msn = self.send_msn.wrapping_add(1);
                    self.send_mo = 0;
                }
            }
        }
        let start = self.stream.len();
        self.stream.extend((ulpdu.len() as u16).to_be_bytes());
        self.stream.extend(&ulpdu);
        let end = self.stream.len() + mpa::pad(ulpdu.len());
        self.stream.resize(end, 0);
        let crc = match self.qp.agreed().crc {
            true => crc32c(0, &self.stream[start..]),
            false => 0,
        };
        self.stream.extend(crc.to_le_bytes());
    }

    fn receive(&mut self, bytes: &[u8]) {
        let mut input = bytes;
        let mut completed = false;
        loop {
            let before = input.len();
            match self.qp.receive(&mut input) {
                Err(error) => {
                    assert_eq!(error, *self.failed.get_or_insert(error));
                    return;
                }
                Ok(step) => {
                    assert_eq!(self.failed, None, "went on after an error");
                    self.heard |= before > 0;
                    match step {
                        Step::More => return assert!(input.is_empty()),
                        Step::Completed(completion) => {
                            assert!(!completed || input.len() < before, "no progress");
                            completed = true;
                            self.ended(completion, false);
                        }
                        Step::Place(target) => {
                            completed = false;
                            self.check_target();
                            assert!(target.length > 0);
                            if input.is_empty() {
                                return;
                            }
                            let length = input.len().min(target.length as usize).min(1_000);
                            let (payload, rest) = input.split_at(length);
                            let crc = self.qp.crc().map_or(0, |crc| crc32c(crc, payload));
                            self.qp.placed(length as u32, crc);
                            input = rest;
                        }
                    }
                }
            }
        }
    }

    /// Checks that the target of a segment lies in registered memory that the peer may write, or that the oldest
    /// receive or READ names.
    fn check_target(&mut self) {
        let target = self.qp.target().unwrap().expect("just asked for");
        let handle = *self.qp.memory(target).expect("registered memory");
        let region = &self.regions[handle];
        let end = target.offset.checked_add(target.length).unwrap();
        assert!(region.registered && end <= region.length);
        let named = [Kind::Recv, Kind::Read].into_iter().any(|kind| {
            let oldest = self.posted[kind as usize].front();
            oldest.and_then(|posted| posted.memory).is_some_and(|sge| {
                sge.region == region.id
                    && sge.offset <= target.offset
                    && end <= sge.offset + sge.length
            })
        });
        assert!(named || region.access == Access::RemoteWrite);
        assert!(!self.closed);
        for expected in self.qp.expected().take(16) {
            let start = expected.target.offset;
            let end = start.checked_add(expected.target.length).unwrap();
            let sinks = self.posted[Kind::Read as usize].iter();
            let mut sinks = sinks.filter_map(|posted| posted.memory);
            assert!(expected.target.length > 0);
            assert!(sinks.any(|sge| sge.offset <= start && end <= sge.offset + sge.length));
        }
    }

    fn transmit(&mut self) {
        let expected = self.qp.has_segment();
        let segment = match self.qp.next_segment() {
            Ok(segment) => segment,
            Err(IwarpError::LocalRegionGone | IwarpError::RdmapInvalidStag) => return,
            Err(error) => return assert_eq!(Some(error), self.failed),
        };
        assert_eq!(segment.is_some(), expected);
        let Some(segment) = segment else { return };
        assert!(self.heard, "a responder that spoke first");
        self.check_segment(&segment);
        if let Some(completion) = segment.completes {
            self.ended(completion, false);
        }
    }

    fn check_segment(&mut self, segment: &Segment) {
        let header = segment.header();
        let length = usize::from(u16::from_be_bytes([header[0], header[1]]));
        assert_eq!(length, segment.ulpdu_length());
        assert!(length <= self.max_ulpdu);
        let opcode = header[3] & 0x0f;
        if opcode == 1 {
            self.asked += 1;
            assert!(self.asked <= usize::from(self.qp.agreed().ord) || self.closed);
        }
        if let Some(handle) = self.qp.payload(segment).expect("registered memory") {
            let region = &self.regions[*handle];
            let end = segment.payload.offset + segment.payload.length;
            assert!(region.registered && end <= region.length);
            assert!(opcode != 2 || region.access == Access::RemoteRead);
            let sent = self.posted[Kind::Send as usize].front();
            let sent = sent.and_then(|posted| posted.memory);
            assert!(opcode == 2 || sent.is_some_and(|sge| sge.region == region.id));
        }
    }

    /// Checks a request that has ended: it must be the oldest of its kind.
    fn ended(&mut self, completion: Completion, flushed: bool) {
        let kind = match completion.done {
            Done::Recv { invalidated, .. } => {
                if let Some(token) = invalidated {
                    let mut of = self.regions.iter_mut();
                    let region = of.find(|region| region.remote.token == token).unwrap();
                    assert!(region.registered && region.access != Access::Local);
                    region.access = Access::Local;
                }
                Kind::Recv
            }
            Done::Send | Done::Write => Kind::Send,
            Done::Read => {
                assert!(flushed || self.asked > 0);
                self.asked = self.asked.saturating_sub(1);
                Kind::Read
            }
        };
        let posted = self.posted[kind as usize].pop_front();
        let posted = posted.expect("nothing of this kind is posted");
        assert_eq!(posted.id, completion.wr_id);
        if let Done::Recv { length, .. } = completion.done {
            assert!(posted.memory.is_some_and(|sge| length <= sge.length));
        }
    }

    /// Flushes whatever has not ended by now. Then nothing is left.
    fn flush(&mut self) {
        while let Some(completion) = self.qp.flush() {
            self.ended(completion, true);
        }
        assert!(self.posted.iter().all(VecDeque::is_empty));
        assert!(!self.qp.has_sends());
    }
}

fn remote(input: &mut Input<'_>) -> RemoteAddress {
    RemoteAddress {
        token: RemoteToken(input.u8().into()),
        address: u64::from(input.u8()) << 56 | 0x00ff_ffff_ffff_ff00,
    }
}

/// Computes a checksum that is not a real CRC32C, but distinguishes messages just as well and is fast.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |crc, byte| {
        crc.rotate_left(5).wrapping_add(u32::from(*byte))
    })
}
