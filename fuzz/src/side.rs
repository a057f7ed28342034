// SPDX-License-Identifier: GPL-2.0-or-later

//! An iWARP queue pair with its memory, and a record of what was posted.

use std::collections::VecDeque;

use smbdirect::fabric::iwarp::IwarpError;
use smbdirect::fabric::iwarp::ddp::{Control, Tagged, Untagged};
use smbdirect::fabric::iwarp::handshake::Agreed;
use smbdirect::fabric::iwarp::qp::{Completion, Depths, Done, MIN_ULPDU, Qp, Segment, Step};
use smbdirect::fabric::iwarp::rdmap::{Opcode, ReadRequest, Terminate};
use smbdirect::fabric::regions::Piece;
use smbdirect::fabric::{Access, RegionId, RemoteAddress, Sge, WrId};
use smbdirect::units::RemoteToken;

use super::rules::Rules;
use super::stream::framed;

pub(crate) const REGION_LENGTH: u32 = 4096;
/// For each region: what the peer may do, the region's token at the peer, and where it begins.
pub(crate) const REGIONS: [(Access, u32, u64); 4] = [
    (Access::Local, 0x10, 0),
    (Access::RemoteWrite, 0x12, 0x1000),
    (Access::RemoteRead, 0x14, 0),
    (Access::RemoteWrite, 0x16, u64::MAX - 4096),
];
pub(crate) const DEPTHS: Depths = Depths {
    sends: 8,
    recvs: 8,
    reads: 8,
    responses: 4,
    regions: REGIONS.len(),
};
/// The token by which the peer names the target of this side's first READ; later READs use the numbers after it.
pub(crate) const SINK: u32 = 1;
/// The bytes at the start of each SEND.
const HEADER: &[u8] = b"header";
/// The target of this side's WRITEs and READs.
const TARGET: RemoteAddress = RemoteAddress {
    token: RemoteToken(9),
    address: 0x1_0000,
};

/// The effect of a piece of the stream.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    completed: Vec<Completion>,
    pub(crate) error: Option<IwarpError>,
    between_fpdus: bool,
}

pub(crate) struct Side {
    /// Its handle of a region is the region's number.
    qp: Qp<usize>,
    memory: Vec<Vec<u8>>,
    /// False once the stream has contained unframed bytes, and so may be at any position.
    framed: bool,
    rules: Rules,
    /// Whether the peer has sent an FPDU, or need not.
    may_send: bool,
    sends: VecDeque<(WrId, bool, Sge)>,
    /// The bytes already sent of the first of `sends`, and of the first response.
    sent: u32,
    answered: u32,
    messages: u32,
    read_requests: u32,
    posted: u64,
    /// The lengths of the pieces in which the stream arrives, repeated. If empty, everything arrives at once.
    cuts: Vec<u8>,
}

/// Computes a checksum that the input can get right.
fn no_crc(_: u32, _: &[u8]) -> u32 {
    0
}

impl Side {
    pub(crate) fn new(agreed: Agreed, cuts: &[u8]) -> Self {
        let mut qp = Qp::new(DEPTHS, no_crc);
        for (n, (access, token, address)) in (0..).zip(REGIONS) {
            let remote = RemoteAddress {
                token: RemoteToken(token),
                address,
            };
            assert_eq!(
                qp.regions_mut()
                    .register(n as usize, REGION_LENGTH, access, remote),
                Some(RegionId(n))
            );
        }
        qp.establish(agreed, MIN_ULPDU);
        Self {
            qp,
            memory: vec![vec![0; REGION_LENGTH as usize]; REGIONS.len()],
            framed: true,
            rules: Rules::new(agreed),
            may_send: !agreed.peer_speaks_first,
            sends: VecDeque::new(),
            sent: 0,
            answered: 0,
            messages: 0,
            read_requests: 0,
            posted: 0,
            cuts: cuts.to_vec(),
        }
    }

    /// Posts work. Returns whether it was accepted, which depends only on the memory and the room.
    pub(crate) fn post(&mut self, kind: u8, memory: Sge) -> bool {
        let wr_id = WrId(self.posted);
        self.posted += 1;
        let rules = &mut self.rules;
        let (taken, room) = match kind {
            0..=3 => (
                self.qp.post_recv(wr_id, memory),
                rules.recvs.len() < DEPTHS.recvs,
            ),
            4 => (
                self.qp.post_send(wr_id, HEADER, Some(memory), None),
                self.sends.len() < DEPTHS.sends,
            ),
            5 => (
                self.qp.post_write(wr_id, memory, TARGET),
                self.sends.len() < DEPTHS.sends,
            ),
            _ => (
                self.qp.post_read(wr_id, memory, TARGET),
                rules.reads.len() < DEPTHS.reads,
            ),
        };
        assert_eq!(taken.is_ok(), room && lies_in_a_region(memory), "{taken:?}");
        if taken.is_ok() {
            match kind {
                0..=3 => rules.recvs.push_back((wr_id, memory)),
                4 | 5 => self.sends.push_back((wr_id, kind == 4, memory)),
                _ => rules.reads.push_back((wr_id, memory)),
            }
        }
        taken.is_ok()
    }

    /// Receives an FPDU around this ULPDU. It must be accepted if and only if the rules accept it.
    pub(crate) fn receive_fpdu(&mut self, ulpdu: &[u8], crc_is_good: bool) -> Outcome {
        let fpdu = framed(ulpdu, crc_is_good);
        if !self.framed {
            return self.receive(&fpdu);
        }
        let is_refused = self.rules.agreed.crc && !crc_is_good;
        let taken = if is_refused {
            None
        } else {
            self.rules.take(ulpdu)
        };
        let outcome = self.receive(&fpdu);
        let Some(taken) = taken else {
            assert!(outcome.error.is_some(), "accepted what the rules refuse");
            return outcome;
        };
        assert_eq!((outcome.error, outcome.between_fpdus), (None, true));
        assert_eq!(outcome.completed, Vec::from_iter(taken.completes));
        if let Some(place) = taken.place {
            let payload = &ulpdu[ulpdu.len() - place.length as usize..];
            let start = place.offset as usize;
            assert_eq!(
                &self.memory[place.region.0 as usize][start..start + payload.len()],
                payload
            );
        }
        self.may_send = true;
        outcome
    }

    /// Receives any bytes. From then on, it is unknown where an FPDU begins.
    pub(crate) fn receive_bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.framed = false;
        self.receive(bytes)
    }

    fn receive(&mut self, stream: &[u8]) -> Outcome {
        let mut outcome = Outcome::default();
        let mut rest = stream;
        let mut turn = 0;
        while !rest.is_empty() && outcome.error.is_none() {
            let cut = self.cuts.get(turn % self.cuts.len().max(1));
            let length = cut.map_or(rest.len(), |cut| 1 + usize::from(*cut));
            let (mut piece, later) = rest.split_at(length.min(rest.len()));
            rest = later;
            turn += 1;
            self.receive_piece(&mut piece, &mut outcome);
        }
        outcome.between_fpdus = self.qp.is_between_fpdus();
        outcome
    }

    fn receive_piece(&mut self, piece: &mut &[u8], outcome: &mut Outcome) {
        loop {
            match self.qp.receive(piece) {
                Ok(Step::More) => return assert!(piece.is_empty(), "left bytes behind"),
                Ok(Step::Place(place)) => {
                    let place = self.sge(place);
                    assert!(place.length > 0 && lies_in_a_region(place));
                    if piece.is_empty() {
                        return;
                    }
                    self.place(place, piece);
                }
                Ok(Step::Completed(completion)) => {
                    if !self.framed {
                        self.forget(completion);
                    }
                    outcome.completed.push(completion);
                }
                Err(error) => {
                    outcome.error = Some(error);
                    return self.report(error);
                }
            }
        }
    }

    /// Returns the memory of a piece, as it was posted.
    fn sge(&self, piece: Piece) -> Sge {
        let region = *self.qp.memory(piece).expect("registered memory") as u32;
        Sge {
            region: RegionId(region),
            offset: piece.offset,
            length: piece.length,
        }
    }

    /// Returns the memory for a segment's payload.
    fn payload(&self, segment: &Segment) -> Option<Sge> {
        let region = *self.qp.payload(segment).expect("registered memory")? as u32;
        Some(Sge {
            region: RegionId(region),
            offset: segment.payload.offset,
            length: segment.payload.length,
        })
    }

    fn place(&mut self, place: Sge, piece: &mut &[u8]) {
        let length = piece.len().min(place.length as usize);
        let (now, later) = piece.split_at(length);
        let region = &mut self.memory[place.region.0 as usize];
        region[place.offset as usize..][..length].copy_from_slice(now);
        *piece = later;
        assert_eq!(self.qp.crc().is_some(), self.rules.agreed.crc);
        self.qp.placed(length as u32, 0);
    }

    /// Removes a completed request. Each request completes once, and in order.
    fn forget(&mut self, completion: Completion) {
        let oldest = match completion.done {
            Done::Recv { length, .. } => self
                .rules
                .recvs
                .pop_front()
                .filter(|(_, memory)| length <= memory.length),
            Done::Read => self.rules.reads.pop_front(),
            Done::Send | Done::Write => self
                .sends
                .pop_front()
                .map(|(wr_id, _, memory)| (wr_id, memory)),
        };
        assert_eq!(oldest.map(|(wr_id, _)| wr_id), Some(completion.wr_id));
    }

    /// Checks that every error has a name, and that a Terminate, if one is sent, carries no more than the segment had.
    fn report(&self, error: IwarpError) {
        assert!(!error.name().is_empty());
        if let Some(code) = error.terminate_code() {
            let (length, start) = self.qp.failed_segment();
            assert!(start.len() <= usize::from(length).max(2));
            let terminate = Terminate::on_segment(code, length, start);
            assert!(terminate.emit().len() <= Terminate::MAX_LENGTH);
        }
    }

    /// Takes all FPDUs that can be sent. An error means that the peer has invalidated memory that it reads.
    pub(crate) fn send_all(&mut self) -> Result<Vec<Vec<u8>>, IwarpError> {
        let mut sent = Vec::new();
        loop {
            assert!(sent.len() < 10_000, "it never ends");
            match self.qp.next_segment() {
                Ok(Some(segment)) => {
                    self.check_segment(&segment);
                    sent.push(segment.header().to_vec());
                }
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error, IwarpError::RdmapInvalidStag);
                    assert!(!self.framed || self.rules.reads_what_is_revoked());
                    return Err(error);
                }
            }
        }
        if self.framed {
            assert!(
                self.may_send || sent.is_empty(),
                "spoke before the initiator"
            );
            assert!(
                !self.may_send || self.sends.is_empty() && self.rules.responses.is_empty(),
                "kept something"
            );
            let reads = self
                .rules
                .reads
                .len()
                .min(usize::from(self.rules.agreed.ord));
            assert!(!self.may_send || usize::from(self.rules.outstanding) == reads);
        }
        assert!(!self.qp.has_segment());
        Ok(sent)
    }

    fn check_segment(&mut self, segment: &Segment) {
        let header = segment.header();
        assert_eq!(
            usize::from(u16::from_be_bytes([header[0], header[1]])),
            segment.ulpdu_length()
        );
        assert!(segment.ulpdu_length() <= usize::from(MIN_ULPDU));
        assert!(self.payload(segment).is_none_or(lies_in_a_region));
        let control = Control::parse([header[2], header[3]]).expect("a legal segment");
        let rest = &header[4..];
        if !self.framed {
            if let Some(completion) = segment.completes {
                self.forget(completion);
            }
            return;
        }
        match control.opcode {
            Opcode::ReadRequest => self.check_read_request(rest),
            Opcode::ReadResponse => self.check_response(control, rest, segment),
            _ => self.check_send(control, rest, segment),
        }
    }

    fn check_read_request(&mut self, rest: &[u8]) {
        self.read_requests += 1;
        let untagged = Untagged {
            invalidate: 0,
            queue: 1,
            msn: self.read_requests,
            mo: 0,
        };
        let sink = self.rules.reads[usize::from(self.rules.outstanding)].1;
        let request = ReadRequest {
            sink_stag: SINK + self.read_requests - 1,
            sink_offset: 0,
            length: sink.length,
            source_stag: TARGET.token.0,
            source_offset: TARGET.address,
        };
        assert_eq!(rest, [&untagged.emit()[..], &request.emit()].concat());
        self.rules.outstanding += 1;
        assert!(self.rules.outstanding <= self.rules.agreed.ord);
    }

    fn check_response(&mut self, control: Control, rest: &[u8], segment: &Segment) {
        let (request, source) = *self.rules.responses.front().expect("the peer asked");
        let offset = request.sink_offset + u64::from(self.answered);
        assert_eq!(
            rest,
            Tagged {
                stag: request.sink_stag,
                offset
            }
            .emit()
        );
        if let Some(payload) = self.payload(segment) {
            assert_eq!(payload.region, source.region);
            assert_eq!(payload.offset, source.offset + self.answered);
        }
        self.answered += segment.payload.length;
        assert_eq!(control.last, self.answered == request.length);
        if control.last {
            self.rules.responses.pop_front();
            self.answered = 0;
        }
    }

    fn check_send(&mut self, control: Control, rest: &[u8], segment: &Segment) {
        let (wr_id, is_send, memory) = *self.sends.front().expect("it was posted");
        let front = if is_send { HEADER.len() as u32 } else { 0 };
        let payload = self.sent.saturating_sub(front);
        if let Some(part) = self.payload(segment) {
            assert_eq!(
                (part.region, part.offset),
                (memory.region, memory.offset + payload)
            );
        }
        let (expected, done) = if is_send {
            let untagged = Untagged {
                invalidate: 0,
                queue: 0,
                msn: self.messages + 1,
                mo: self.sent,
            };
            let header = if self.sent == 0 { HEADER } else { &[] };
            ([&untagged.emit()[..], header].concat(), Done::Send)
        } else {
            let offset = TARGET.address + u64::from(self.sent);
            (
                Tagged {
                    stag: TARGET.token.0,
                    offset,
                }
                .emit()
                .to_vec(),
                Done::Write,
            )
        };
        assert_eq!(rest, expected);
        self.sent = payload + front + segment.payload.length;
        assert_eq!(control.last, self.sent == front + memory.length);
        assert_eq!(
            segment.completes,
            control.last.then_some(Completion { wr_id, done })
        );
        if control.last {
            self.messages += u32::from(is_send);
            self.sends.pop_front();
            self.sent = 0;
        }
    }

    /// Flushes what was posted and is not done, once and in order, and returns the memory at the end.
    pub(crate) fn end(mut self) -> Vec<Vec<u8>> {
        while let Some(completion) = self.qp.flush() {
            self.forget(completion);
        }
        let lost = self.rules.recvs.len() + self.rules.reads.len() + self.sends.len();
        assert_eq!(lost, 0, "work without an end");
        self.memory
    }
}

fn lies_in_a_region(memory: Sge) -> bool {
    (memory.region.0 as usize) < REGIONS.len() && memory.offset + memory.length <= REGION_LENGTH
}
