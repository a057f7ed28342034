// SPDX-License-Identifier: GPL-2.0-or-later

//! The sending side: posted work, and the peer's READ requests, become FPDUs.

use super::{Completion, Done, Qp};
use crate::fabric::iwarp::IwarpError;
use crate::fabric::iwarp::ddp::{self, Control, Tagged, Untagged};
use crate::fabric::iwarp::mpa;
use crate::fabric::iwarp::rdmap::{Opcode, ReadRequest};
use crate::fabric::regions::Piece;
use crate::fabric::{MAX_SEND_HEADER, RemoteAddress, WrId};
use crate::units::RemoteToken;

/// Maximum number of bytes of an FPDU before its payload: MPA length, control, untagged DDP header, and the header of a
/// SEND.
pub const MAX_SEGMENT_HEADER: usize = 2 + 2 + Untagged::LENGTH + MAX_SEND_HEADER;

/// One FPDU to send: these header bytes, then the payload, then padding and CRC, which the owner
/// adds (see [`crate::fabric::iwarp::mpa`]).
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Segment {
    #[cfg_attr(feature = "broker", serde(with = "crate::units::hex"))]
    header: [u8; MAX_SEGMENT_HEADER],
    header_length: u8,
    /// Whether the payload answers a READ of the peer, and was not posted here.
    answers_peer: bool,
    /// The payload, in registered memory; its length is 0 if there is none. [`Qp::payload`] looks up the memory.
    pub payload: Piece,
    /// The work request that is done once this FPDU is sent.
    pub completes: Option<Completion>,
}

/// A SEND or an RDMA WRITE that waits or is under way.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct SendWork {
    pub(super) wr_id: WrId,
    pub(super) payload: Piece,
    pub(super) kind: SendKind,
}

/// The kind of the work. It has no `Option`, so that it takes only 40 bytes, because each connection has room for many.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum SendKind {
    Send {
        header: [u8; MAX_SEND_HEADER],
        header_length: u8,
    },
    SendInvalidate {
        header: [u8; MAX_SEND_HEADER],
        header_length: u8,
        token: RemoteToken,
    },
    Write {
        target: RemoteAddress,
    },
}

#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct ReadWork {
    pub(super) wr_id: WrId,
    pub(super) sink: Piece,
    pub(super) source: RemoteAddress,
}

/// A READ request of the peer that is being answered.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Response {
    pub(super) sink: Tagged,
    pub(super) source: Piece,
}

impl Segment {
    /// Returns the MPA length, the DDP and RDMAP headers, and the header that precedes the payload.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.header
            .get(..usize::from(self.header_length))
            .unwrap_or_default()
    }

    /// Returns the number of bytes between the MPA length and the padding.
    #[must_use]
    pub const fn ulpdu_length(&self) -> usize {
        self.header_length as usize - mpa::FPDU_HEADER_LENGTH + self.payload.length as usize
    }

    fn new(opcode: Opcode, last: bool, payload: Piece) -> Self {
        let mut segment = Self {
            header: [0; MAX_SEGMENT_HEADER],
            header_length: mpa::FPDU_HEADER_LENGTH as u8,
            answers_peer: opcode == Opcode::ReadResponse,
            payload,
            completes: None,
        };
        segment.append(&Control { opcode, last }.emit());
        segment
    }

    fn append(&mut self, bytes: &[u8]) {
        let start = usize::from(self.header_length);
        let end = start + bytes.len();
        if let Some(room) = self.header.get_mut(start..end) {
            room.copy_from_slice(bytes);
            // The length is at most MAX_SEGMENT_HEADER.
            self.header_length = end as u8;
        }
    }

    /// Fills in the MPA length: at most `max_ulpdu`, which is below 65,536.
    fn finish(mut self) -> Self {
        let [high, low] = (self.ulpdu_length() as u16).to_be_bytes();
        let [first, second, ..] = &mut self.header;
        (*first, *second) = (high, low);
        self
    }
}

impl<M> Qp<M> {
    /// Returns the next FPDU to send, which then counts as sent; `None` if there is nothing to send now.
    ///
    /// # Errors
    ///
    /// The memory of the next FPDU has gone: [`IwarpError::LocalRegionGone`] if it was posted here,
    /// [`IwarpError::RdmapInvalidStag`] if the peer reads it. The connection ends.
    pub fn next_segment(&mut self) -> Result<Option<Segment>, IwarpError> {
        match self.failed {
            Some(error) => Err(error),
            None if self.may_send => self.choose_segment(),
            None => Ok(None),
        }
    }

    /// Returns whether [`Qp::next_segment`] has anything to return, even if only an error.
    #[must_use]
    pub fn has_segment(&self) -> bool {
        let waiting = !self.sends.is_empty() || !self.responses.is_empty() || self.read_may_start();
        self.may_send && waiting
    }

    /// Returns whether SENDs or RDMA WRITEs wait, or are under way.
    #[must_use]
    pub fn has_sends(&self) -> bool {
        !self.sends.is_empty()
    }

    /// Returns the memory of a segment's payload, which has to be looked up each time that bytes are taken from it;
    /// `None` if there is no payload.
    ///
    /// # Errors
    ///
    /// The errors of [`Qp::next_segment`].
    pub fn payload(&self, segment: &Segment) -> Result<Option<&M>, IwarpError> {
        match segment.payload {
            Piece { length: 0, .. } => Ok(None),
            payload if segment.answers_peer => self.memory_to_answer(payload).map(Some),
            payload => self.memory(payload).map(Some),
        }
    }

    /// Returns the memory of posted work.
    ///
    /// # Errors
    ///
    /// [`IwarpError::LocalRegionGone`].
    pub fn memory(&self, piece: Piece) -> Result<&M, IwarpError> {
        let memory = self.regions.memory(piece);
        memory.ok_or(IwarpError::LocalRegionGone)
    }

    fn memory_to_answer(&self, source: Piece) -> Result<&M, IwarpError> {
        let memory = self.regions.memory_for_peer(source);
        memory.ok_or(IwarpError::RdmapInvalidStag)
    }

    fn choose_segment(&mut self) -> Result<Option<Segment>, IwarpError> {
        let in_response = self.response_offset > 0;
        let in_work = self.send_offset > 0;
        let work = self.sends.front().copied();
        let in_send =
            in_work && work.is_some_and(|work| !matches!(work.kind, SendKind::Write { .. }));
        if self.read_may_start() && !in_send {
            return self.next_read_request();
        }
        let response = self.responses.front().copied();
        match (work, response) {
            (Some(work), None) => self.next_of_work(&work).map(Some),
            (Some(work), Some(_)) if in_work || !(in_response || self.response_is_next) => {
                self.next_of_work(&work).map(Some)
            }
            (_, Some(response)) => self.next_of_response(&response).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn read_may_start(&self) -> bool {
        self.outstanding < self.agreed.ord && usize::from(self.outstanding) < self.reads.len()
    }

    fn next_read_request(&mut self) -> Result<Option<Segment>, IwarpError> {
        let Some(read) = self.reads.get(usize::from(self.outstanding)).copied() else {
            return Ok(None);
        };
        if read.sink.length > 0 {
            self.memory(read.sink)?;
        }
        let request = ReadRequest {
            // Each READ has its own STag.
            sink_stag: self.read_msn,
            sink_offset: 0,
            length: read.sink.length,
            source_stag: read.source.token.0,
            source_offset: read.source.address,
        };
        let mut segment = Segment::new(Opcode::ReadRequest, true, Piece::NOWHERE);
        let header = Untagged {
            invalidate: 0,
            queue: ddp::QUEUE_READ_REQUEST,
            msn: self.read_msn,
            mo: 0,
        };
        segment.append(&header.emit());
        segment.append(&request.emit());
        self.read_msn = self.read_msn.wrapping_add(1);
        self.outstanding += 1;
        Ok(Some(segment.finish()))
    }

    fn next_of_response(&mut self, response: &Response) -> Result<Segment, IwarpError> {
        let Response { sink, source } = *response;
        let offset = self.response_offset;
        let (payload, last) = self.slice(source, offset, Tagged::LENGTH);
        let mut segment = Segment::new(Opcode::ReadResponse, last, payload);
        self.payload(&segment)?;
        let tagged = Tagged {
            // When the request was taken, it was checked that the whole sink does not wrap.
            offset: sink.offset.wrapping_add(u64::from(offset)),
            ..sink
        };
        segment.append(&tagged.emit());
        self.response_offset = offset + payload.length;
        if last {
            self.responses.pop_front();
            self.response_offset = 0;
            self.response_is_next = false;
        }
        Ok(segment.finish())
    }

    fn next_of_work(&mut self, work: &SendWork) -> Result<Segment, IwarpError> {
        let offset = self.send_offset;
        let (mut segment, last, sent) = match &work.kind {
            SendKind::Write { target } => self.write_segment(work, *target, offset),
            SendKind::Send {
                header,
                header_length,
            } => self.send_segment(work, (header, *header_length), None, offset),
            SendKind::SendInvalidate {
                header,
                header_length,
                token,
            } => self.send_segment(work, (header, *header_length), Some(*token), offset),
        };
        self.payload(&segment)?;
        self.send_offset = offset + sent;
        if last {
            self.sends.pop_front();
            self.send_offset = 0;
            self.response_is_next = true;
            let done = match work.kind {
                SendKind::Write { .. } => Done::Write,
                SendKind::Send { .. } | SendKind::SendInvalidate { .. } => {
                    self.send_msn = self.send_msn.wrapping_add(1);
                    Done::Send
                }
            };
            segment.completes = Some(Completion {
                wr_id: work.wr_id,
                done,
            });
        }
        Ok(segment.finish())
    }

    fn write_segment(
        &self,
        work: &SendWork,
        target: RemoteAddress,
        offset: u32,
    ) -> (Segment, bool, u32) {
        let (payload, last) = self.slice(work.payload, offset, Tagged::LENGTH);
        let mut segment = Segment::new(Opcode::Write, last, payload);
        let tagged = Tagged {
            stag: target.token.0,
            // Beyond the end of the address space the offset wraps, and the peer refuses the segment.
            offset: target.address.wrapping_add(u64::from(offset)),
        };
        segment.append(&tagged.emit());
        (segment, last, payload.length)
    }

    fn send_segment(
        &self,
        work: &SendWork,
        (header, header_length): (&[u8; MAX_SEND_HEADER], u8),
        invalidate: Option<RemoteToken>,
        offset: u32,
    ) -> (Segment, bool, u32) {
        // The header of the message is at most MAX_SEND_HEADER bytes and always fits into its
        // first FPDU (MIN_ULPDU).
        let front = match offset {
            0 => header.get(..usize::from(header_length)).unwrap_or_default(),
            _ => &[],
        };
        let payload_offset = offset.saturating_sub(u32::from(header_length));
        let (payload, last) =
            self.slice(work.payload, payload_offset, Untagged::LENGTH + front.len());
        let opcode = match invalidate {
            None => Opcode::Send,
            Some(_) => Opcode::SendInvalidate,
        };
        let mut segment = Segment::new(opcode, last, payload);
        let untagged = Untagged {
            invalidate: invalidate.map_or(0, |token| token.0),
            queue: ddp::QUEUE_SEND,
            msn: self.send_msn,
            mo: offset,
        };
        segment.append(&untagged.emit());
        segment.append(front);
        (segment, last, front.len() as u32 + payload.length)
    }

    /// Returns as much of `whole`, starting at `offset`, as one FPDU carries after `header` bytes and the two control
    /// bytes; and whether that is all of the rest.
    fn slice(&self, whole: Piece, offset: u32, header: usize) -> (Piece, bool) {
        let room = (self.max_ulpdu - Control::LENGTH - header) as u32;
        let rest = whole.length.saturating_sub(offset);
        let length = rest.min(room);
        (whole.part(offset, length), length == rest)
    }
}
