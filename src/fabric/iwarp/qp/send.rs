//! The way out: what is posted, and the peer's READ requests, become FPDUs.

use super::{Completion, Done, Qp};
use crate::fabric::iwarp::ddp::{self, Control, Tagged, Untagged};
use crate::fabric::iwarp::rdmap::{Opcode, ReadRequest};
use crate::fabric::{MAX_SEND_HEADER, RemoteAddress, Sge, WrId};

/// Most bytes of an FPDU in front of its payload: MPA length, control, untagged DDP header, and
/// the header of a SEND.
pub const MAX_SEGMENT_HEADER: usize = 2 + 2 + Untagged::LENGTH + MAX_SEND_HEADER;

/// One FPDU to send: these header bytes, then the payload, then padding and CRC, which the owner
/// makes (see [`crate::fabric::iwarp::mpa`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    header: [u8; MAX_SEGMENT_HEADER],
    header_length: usize,
    /// The payload, in registered memory; length 0 without one.
    pub payload: Sge,
    /// The work request that is done once this FPDU is sent.
    pub completes: Option<Completion>,
}

/// A SEND or an RDMA WRITE that waits or is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct SendWork {
    pub(super) wr_id: WrId,
    pub(super) payload: Sge,
    pub(super) kind: SendKind,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum SendKind {
    Send {
        header: [u8; MAX_SEND_HEADER],
        header_length: u8,
        invalidate: Option<u32>,
    },
    Write {
        target: RemoteAddress,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ReadWork {
    pub(super) wr_id: WrId,
    pub(super) sink: Sge,
    pub(super) source: RemoteAddress,
    pub(super) sink_stag: u32,
}

/// A READ request of the peer that is being answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Response {
    pub(super) request: ReadRequest,
    pub(super) source: Sge,
}

impl Segment {
    /// The MPA length, the DDP and RDMAP headers and what precedes the payload.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.header.get(..self.header_length).unwrap_or_default()
    }

    /// Bytes between the MPA length and the padding.
    #[must_use]
    pub const fn ulpdu_length(&self) -> usize {
        self.header_length - 2 + self.payload.length as usize
    }

    fn new(control: Control, payload: Sge, completes: Option<Completion>) -> Self {
        let mut segment = Self {
            header: [0; MAX_SEGMENT_HEADER],
            header_length: 2,
            payload,
            completes,
        };
        segment.append(&control.emit());
        segment
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.header_length + bytes.len();
        if let Some(room) = self.header.get_mut(self.header_length..end) {
            room.copy_from_slice(bytes);
            self.header_length = end;
        }
    }

    /// Fills in the MPA length: at most `max_ulpdu`, which is below 65,536.
    fn finish(mut self) -> Self {
        let [high, low] = (self.ulpdu_length() as u16).to_be_bytes();
        self.header[0] = high;
        self.header[1] = low;
        self
    }
}

impl Qp {
    /// The next FPDU to send; `None`: nothing now. What it returns counts as sent.
    pub fn next_segment(&mut self) -> Option<Segment> {
        if !self.may_send {
            return None;
        }
        if let Some(request) = self.next_read_request() {
            return Some(request);
        }
        let in_send = self.send_offset > 0;
        let in_response = self.response_offset > 0;
        if in_response || (self.response_is_next && !in_send && !self.responses.is_empty()) {
            return self.next_of_response();
        }
        self.next_of_send().or_else(|| self.next_of_response())
    }

    /// Whether [`Qp::next_segment`] has anything to return.
    #[must_use]
    pub fn has_segment(&self) -> bool {
        self.may_send
            && (!self.sends.is_empty() || !self.responses.is_empty() || self.read_may_start())
    }

    /// Whether SENDs or RDMA WRITEs wait, or are under way.
    #[must_use]
    pub fn has_sends(&self) -> bool {
        !self.sends.is_empty()
    }

    fn read_may_start(&self) -> bool {
        self.outstanding < self.agreed.ord && usize::from(self.outstanding) < self.reads.len()
    }

    fn next_read_request(&mut self) -> Option<Segment> {
        if !self.read_may_start() {
            return None;
        }
        let read = self.reads.get(usize::from(self.outstanding))?;
        let request = ReadRequest {
            sink_stag: read.sink_stag,
            sink_offset: 0,
            length: read.sink.length,
            source_stag: read.source.token.0,
            source_offset: read.source.address,
        };
        let nothing = Sge {
            length: 0,
            ..read.sink
        };
        let mut segment = Segment::new(
            Control {
                opcode: Opcode::ReadRequest,
                last: true,
            },
            nothing,
            None,
        );
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
        Some(segment.finish())
    }

    fn next_of_response(&mut self) -> Option<Segment> {
        let Response { request, source } = *self.responses.front()?;
        let tagged = |offset: u32| Tagged {
            stag: request.sink_stag,
            // The whole sink was checked not to wrap when the request was taken.
            offset: request.sink_offset.wrapping_add(u64::from(offset)),
        };
        let offset = self.response_offset;
        let (payload, last) = self.slice(source, offset, Tagged::LENGTH);
        let mut segment = Segment::new(
            Control {
                opcode: Opcode::ReadResponse,
                last,
            },
            payload,
            None,
        );
        segment.append(&tagged(offset).emit());
        self.response_offset = offset + payload.length;
        if last {
            self.responses.pop_front();
            self.response_offset = 0;
            self.response_is_next = false;
        }
        Some(segment.finish())
    }

    fn next_of_send(&mut self) -> Option<Segment> {
        let work = *self.sends.front()?;
        let offset = self.send_offset;
        let (segment, last, sent) = match work.kind {
            SendKind::Write { target } => self.write_segment(&work, target, offset),
            SendKind::Send {
                header,
                header_length,
                invalidate,
            } => {
                let header = header.get(..usize::from(header_length)).unwrap_or_default();
                self.send_segment(&work, header, invalidate, offset)
            }
        };
        self.send_offset = offset + sent;
        if last {
            self.sends.pop_front();
            self.send_offset = 0;
            self.response_is_next = true;
            if matches!(work.kind, SendKind::Send { .. }) {
                self.send_msn = self.send_msn.wrapping_add(1);
            }
        }
        Some(segment.finish())
    }

    fn write_segment(
        &self,
        work: &SendWork,
        target: RemoteAddress,
        offset: u32,
    ) -> (Segment, bool, u32) {
        let (payload, last) = self.slice(work.payload, offset, Tagged::LENGTH);
        let completes = last.then_some(Completion {
            wr_id: work.wr_id,
            done: Done::Write,
        });
        let mut segment = Segment::new(
            Control {
                opcode: Opcode::Write,
                last,
            },
            payload,
            completes,
        );
        // Past the end of the address space it wraps, and the peer refuses it.
        let address = target.address.wrapping_add(u64::from(offset));
        segment.append(
            &Tagged {
                stag: target.token.0,
                offset: address,
            }
            .emit(),
        );
        (segment, last, payload.length)
    }

    fn send_segment(
        &self,
        work: &SendWork,
        header: &[u8],
        invalidate: Option<u32>,
        offset: u32,
    ) -> (Segment, bool, u32) {
        // The header of the message is at most MAX_SEND_HEADER bytes and always fits into its
        // first FPDU (MIN_ULPDU).
        let header_length = header.len() as u32;
        let front = if offset == 0 { header } else { &[] };
        let payload_offset = offset.saturating_sub(header_length);
        let (payload, last) =
            self.slice(work.payload, payload_offset, Untagged::LENGTH + front.len());
        let opcode = if invalidate.is_some() {
            Opcode::SendInvalidate
        } else {
            Opcode::Send
        };
        let completes = last.then_some(Completion {
            wr_id: work.wr_id,
            done: Done::Send,
        });
        let mut segment = Segment::new(Control { opcode, last }, payload, completes);
        let untagged = Untagged {
            invalidate: invalidate.unwrap_or(0),
            queue: ddp::QUEUE_SEND,
            msn: self.send_msn,
            mo: offset,
        };
        segment.append(&untagged.emit());
        segment.append(front);
        (segment, last, front.len() as u32 + payload.length)
    }

    /// As much of `whole` from `offset` on as one FPDU carries behind `header` bytes (and the two
    /// of control); and whether that is the end.
    fn slice(&self, whole: Sge, offset: u32, header: usize) -> (Sge, bool) {
        let room = (self.max_ulpdu - 2 - header) as u32;
        let rest = whole.length.saturating_sub(offset);
        let length = rest.min(room);
        (
            Sge {
                offset: whole.offset.wrapping_add(offset),
                length,
                ..whole
            },
            length == rest,
        )
    }
}
