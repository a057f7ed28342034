// SPDX-License-Identifier: GPL-2.0-or-later

//! An iWARP queue pair that receives any bytes, cut anywhere.

use smbdirect::fabric::iwarp::ddp::{Control, Tagged, Untagged};
use smbdirect::fabric::iwarp::handshake::{
    Agreed, MAX_OUTGOING, Offer, Outgoing, Request, handle_reply, reject, request,
};
use smbdirect::fabric::iwarp::mpa::{self, Frame, FrameKind};
use smbdirect::fabric::iwarp::rdmap::{Opcode, ReadRequest};
use smbdirect::fabric::{RegionId, Sge};

use super::input::Input;
use super::side::{Outcome, REGIONS, SINK, Side};

/// Runs a list of operations on two queue pairs of the same connection: one gets the stream in pieces of any length,
/// the other as it comes. Both must accept the same FPDUs as a second implementation of the rules, place and send the
/// same data, and complete every work request once and in order.
pub fn iwarp_stream(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(agreed) = agree(&mut input) else {
        return;
    };
    let cuts = input.bytes(8);
    let mut twins = [Side::new(agreed, &[]), Side::new(agreed, cuts)];
    let mut hints = Hints::default();
    while !input.is_empty() {
        let operation = input.u8();
        let [a, b] = match operation % 8 {
            0 => {
                let (kind, memory) = work(&mut input);
                let [a, b] = twins.each_mut().map(|side| side.post(kind, memory));
                assert_eq!(a, b);
                [Outcome::default(), Outcome::default()]
            }
            1 => {
                let length = usize::from(input.u8());
                let bytes = input.bytes(length);
                twins.each_mut().map(|side| side.receive_bytes(bytes))
            }
            2 => {
                let length = usize::from(input.u8());
                let ulpdu = input.bytes(length);
                let crc_is_good = operation & 8 == 0;
                twins
                    .each_mut()
                    .map(|side| side.receive_fpdu(ulpdu, crc_is_good))
            }
            kind => {
                let ulpdu = hints.segment(kind, operation >> 3, &mut input);
                twins.each_mut().map(|side| side.receive_fpdu(&ulpdu, true))
            }
        };
        assert_eq!(a, b, "depends on where the stream was cut");
        if a.error.is_some() {
            break;
        }
        if operation < 128 {
            let [a, b] = twins.each_mut().map(Side::send_all);
            assert_eq!(a, b);
            if a.is_err() {
                break;
            }
        }
    }
    let [a, b] = twins.map(Side::end);
    assert!(a == b, "placed something else");
}

/// Returns what both sides agreed on: by a handshake with the input as the peer, or simply as the input says.
fn agree(input: &mut Input<'_>) -> Option<Agreed> {
    let choice = input.u8();
    let offer = Offer {
        crc: choice & 1 != 0,
        ird: 4,
        ord: 4,
    };
    match choice >> 1 & 3 {
        0 => answer(
            Frame::parse(FrameKind::Request, frame_of(input)).ok()?,
            offer,
        ),
        1 => ask(Frame::parse(FrameKind::Reply, frame_of(input)).ok()?, offer),
        role => Some(Agreed {
            crc: offer.crc,
            ird: u16::from(choice >> 3 & 7),
            ord: u16::from(choice >> 6),
            peer_speaks_first: role == 2,
            ready_to_receive_send: role == 2 && choice & 8 != 0,
        }),
    }
}

fn frame_of<'a>(input: &mut Input<'a>) -> &'a [u8] {
    let length = usize::from(input.u8());
    input.bytes(length)
}

/// Checks a frame that is sent. It must be legal, and without markers.
fn sent<'a>(kind: FrameKind, frame: &Outgoing, out: &'a mut [u8; MAX_OUTGOING]) -> Frame<'a> {
    let length = frame.emit(out).expect("a frame that fits");
    let frame = Frame::parse(kind, &out[..length]).expect("a legal frame");
    assert!(!frame.markers);
    frame
}

/// Does the handshake as the responder.
fn answer(request: Frame<'_>, offer: Offer) -> Option<Agreed> {
    let accepted = Request::new(&request);
    assert_eq!(accepted.is_err(), request.markers);
    let mut out = [0; MAX_OUTGOING];
    let refusal = reject(request.revision, request.enhanced.is_some());
    assert!(sent(FrameKind::Reply, &refusal, &mut out).reject);

    let (reply, agreed) = accepted.ok()?.accept(offer);
    let reply = sent(FrameKind::Reply, &reply, &mut out);
    assert_eq!(
        (reply.reject, reply.revision, reply.crc),
        (false, request.revision, agreed.crc)
    );
    assert_eq!(reply.enhanced.is_some(), request.enhanced.is_some());
    assert_eq!(agreed.crc, offer.crc || request.crc);
    assert!(
        agreed.peer_speaks_first
            && (1..=offer.ird).contains(&agreed.ird)
            && agreed.ord <= offer.ord
    );
    if let (Some(peer), Some(own)) = (request.enhanced, reply.enhanced) {
        assert!(own.ord <= peer.ird, "more READs than the peer serves");
        assert!(
            own.control & !peer.control == 0,
            "a mode that was not offered"
        );
    }
    Some(agreed)
}

/// Does the handshake as the initiator.
fn ask(reply: Frame<'_>, offer: Offer) -> Option<Agreed> {
    let mut out = [0; MAX_OUTGOING];
    let request = sent(FrameKind::Request, &request(offer), &mut out);
    assert_eq!((request.revision, request.crc), (2, offer.crc));
    let agreed = handle_reply(&reply, offer);
    let usable = !reply.reject && !reply.markers && reply.revision == 2 && reply.enhanced.is_some();
    assert_eq!(agreed.is_ok(), usable);
    let agreed = agreed.ok()?;
    assert_eq!(agreed.crc, offer.crc || reply.crc);
    assert!(!agreed.peer_speaks_first && agreed.ird == offer.ird && agreed.ord <= offer.ord);
    assert!(agreed.ord <= reply.enhanced?.ird);
    Some(agreed)
}

/// Chooses a kind of work, and memory for it that need not exist.
fn work(input: &mut Input<'_>) -> (u8, Sge) {
    let kind = input.u8();
    let memory = Sge {
        region: RegionId(u32::from(kind >> 3 & 7)),
        offset: u32::from(input.u8()) * 16,
        length: u32::from(input.u8()) * 4,
    };
    (kind & 7, memory)
}

/// Makes an FPDU around a ULPDU.
pub(crate) fn framed(ulpdu: &[u8], crc_is_good: bool) -> Vec<u8> {
    let mut fpdu = (ulpdu.len() as u16).to_be_bytes().to_vec();
    fpdu.extend_from_slice(ulpdu);
    fpdu.resize(mpa::fpdu_length(ulpdu.len()) - 1, 0);
    fpdu.push(u8::from(!crc_is_good));
    fpdu
}

/// What a peer that keeps the rules would send next, so that the input need not guess it.
#[derive(Default)]
struct Hints {
    sends: u32,
    mo: u32,
    write: u64,
    read_requests: u32,
    responses: u32,
    response_offset: u64,
}

impl Hints {
    /// Makes a segment of one of the kinds, correct except for what `wrong` changes.
    fn segment(&mut self, kind: u8, wrong: u8, input: &mut Input<'_>) -> Vec<u8> {
        let last = wrong & 1 == 0;
        let off = u32::from(wrong & 2 != 0);
        let region = usize::from(wrong >> 2 & 3);
        let length = usize::from(input.u8());
        let payload = input.bytes(length);
        let (opcode, header) = match kind {
            3 => (
                Opcode::Send,
                self.send(0, off, last, payload.len()).to_vec(),
            ),
            4 => {
                let token = REGIONS[region].1;
                (
                    Opcode::SendInvalidate,
                    self.send(token, off, last, payload.len()).to_vec(),
                )
            }
            5 => {
                let (_, stag, start) = REGIONS[region];
                let offset = start.wrapping_add(self.write);
                self.write = if last {
                    u64::from(input.u16())
                } else {
                    self.write + payload.len() as u64
                };
                let tagged = Tagged {
                    stag: stag + off,
                    offset,
                };
                (Opcode::Write, tagged.emit().to_vec())
            }
            6 => (
                Opcode::ReadRequest,
                self.read_request(off, REGIONS[region].1, input),
            ),
            _ => {
                let stag = SINK + self.responses + off;
                let tagged = Tagged {
                    stag,
                    offset: self.response_offset,
                };
                self.response_offset = if last {
                    0
                } else {
                    self.response_offset + payload.len() as u64
                };
                self.responses += u32::from(last);
                (Opcode::ReadResponse, tagged.emit().to_vec())
            }
        };
        [&Control { opcode, last }.emit()[..], &header, payload].concat()
    }

    fn send(
        &mut self,
        invalidate: u32,
        off: u32,
        last: bool,
        length: usize,
    ) -> [u8; Untagged::LENGTH] {
        let untagged = Untagged {
            invalidate,
            queue: 0,
            msn: 1 + self.sends,
            mo: self.mo.wrapping_sub(off),
        };
        self.mo = if last { 0 } else { self.mo + length as u32 };
        self.sends += u32::from(last);
        untagged.emit()
    }

    fn read_request(&mut self, off: u32, source_stag: u32, input: &mut Input<'_>) -> Vec<u8> {
        self.read_requests += 1;
        let untagged = Untagged {
            invalidate: 0,
            queue: 1,
            msn: self.read_requests + off,
            mo: 0,
        };
        let request = ReadRequest {
            sink_stag: 7,
            sink_offset: u64::from(input.u8()),
            length: u32::from(input.u16()),
            source_stag,
            source_offset: u64::from(input.u16()),
        };
        [&untagged.emit()[..], &request.emit()].concat()
    }
}
