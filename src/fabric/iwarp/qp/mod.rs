// SPDX-License-Identifier: GPL-2.0-or-later

//! The queue pair: work requests in, FPDUs out; FPDUs in, completions out (RFC 5040, RFC 5041).
//!
//! A queue pair is a state machine without I/O. It knows which bytes come next in either direction and where they are
//! in registered memory; its owner moves them. It allocates its queues, of fixed sizes, when it is made, and nothing
//! afterwards.
//!
//! ```text
//!   post_send, post_write --> sends ----------------+
//!   post_read ---> reads (the outstanding in front) +--> next_segment --> FPDUs
//!   the peer's READ requests --> responses ---------+
//!
//!   FPDUs --> receive --> Place, placed --> (CRC is good) --> Completed
//! ```
//!
//! Outgoing messages never interleave, except that READ requests go first, and between the FPDUs of other messages,
//! because they only start work at the peer. They do not go between the FPDUs of a SEND, because Linux's siw refuses
//! that: it distinguishes messages only as tagged and untagged. Responses and the send queue take turns, message by
//! message.
//!
//! Incoming payload is placed as it arrives, and is valid only once its FPDU's CRC has been verified (placement and
//! delivery, RFC 5041 5). Every header is checked before a byte after it is placed; an error ends the connection, and
//! every later call returns it.
//!
//! Regions are looked up when their bytes move, not only when work is posted: between two FPDUs, and inside one, their
//! owner may deregister them.

mod forecast;
#[cfg(feature = "broker")]
mod kept;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;

pub use self::forecast::Expected;
#[cfg(feature = "broker")]
pub(super) use self::kept::KeptQp;
pub use self::receive::Step;
use self::receive::{Incoming, IncomingSend, STASH, Stage};
pub use self::send::{MAX_SEGMENT_HEADER, Segment};
use self::send::{ReadWork, Response, SendKind, SendWork};
use super::IwarpError;
use super::ddp::Tagged;
use super::handshake::Agreed;
use super::mpa::Crc32c;

use crate::fabric::regions::{Piece, Regions};
use crate::fabric::{MAX_SEND_HEADER, RemoteAddress, Sge, WrId};
use crate::units::RemoteToken;

/// The smallest ULPDU limit: room for the largest header and some payload.
pub const MIN_ULPDU: u16 = 128;
/// The largest ULPDU limit: the maximum of an FPDU's length field, rounded down to a multiple of 4.
pub const MAX_ULPDU: u16 = 65_532;

/// The sizes of a queue pair's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depths {
    /// Maximum number of posted SENDs and RDMA WRITEs.
    pub sends: usize,
    /// Maximum number of posted receives.
    pub recvs: usize,
    /// Maximum number of posted RDMA READs, including outstanding ones.
    pub reads: usize,
    /// Maximum number of the peer's RDMA READs that are served at a time; IRD never exceeds it.
    pub responses: usize,
    /// Maximum number of memory regions.
    pub regions: usize,
}

/// The kind of a completed work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub enum Done {
    /// A receive.
    Recv {
        /// Length of the message in bytes.
        length: u32,
        /// The local token that the SEND revoked.
        invalidated: Option<RemoteToken>,
    },
    /// A SEND.
    Send,
    /// An RDMA WRITE.
    Write,
    /// An RDMA READ.
    Read,
}

/// The end of a work request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Completion {
    /// The number with which the work request was posted.
    pub wr_id: WrId,
    /// The kind of the work request.
    pub done: Done,
}

/// Why a work request was not posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// The queue for this kind of work request is full.
    QueueFull,
    /// The memory does not lie in a registered region.
    LocalProtection,
    /// The header is longer than [`MAX_SEND_HEADER`], or the message is longer than 4 GiB.
    TooLong,
}

/// One end of an iWARP connection. `M` is its owner's handle of a memory. See the [module](self).
#[derive(Debug)]
pub struct Qp<M> {
    crc32c: Crc32c,
    max_ulpdu: usize,
    depths: Depths,
    agreed: Agreed,
    /// The connection is established, and, if this side is the responder, the initiator has sent an FPDU.
    may_send: bool,
    /// The rule that the peer broke: the rest of the stream is not looked at.
    failed: Option<IwarpError>,
    regions: Regions<M>,

    sends: VecDeque<SendWork>,
    /// Number of bytes of the first message of `sends` that were handed out.
    send_offset: u32,
    send_msn: u32,
    reads: VecDeque<ReadWork>,
    /// Number of READs at the front of `reads` whose request was handed out.
    outstanding: u16,
    /// Number of bytes of the oldest READ that have arrived.
    read_offset: u32,
    /// Length of the payload of each FPDU that answers a READ, except for the last one of an answer.
    response_segment: u32,
    read_msn: u32,
    responses: VecDeque<Response>,
    response_offset: u32,
    /// Whether the last message handed out was one of `sends`, so that a response is next.
    response_is_next: bool,

    recvs: VecDeque<(WrId, Piece)>,
    recv_msn: u32,
    recv_read_msn: u32,
    incoming_send: IncomingSend,
    /// The place at which an RDMA WRITE that has begun must continue.
    incoming_write: Option<Tagged>,
    /// Length of the largest payload of an FPDU of the message that is arriving.
    segment_length: u32,

    stage: Stage,
    stash: [u8; STASH],
    stash_length: usize,
    /// The padding and the CRC.
    trailer: [u8; 8],
    trailer_length: usize,
    crc: u32,
    incoming: Incoming,
}

impl<M> Qp<M> {
    /// Makes a queue pair that is not established: memory may be registered and work posted.
    #[must_use]
    pub fn new(depths: Depths, crc32c: Crc32c) -> Self {
        Self {
            crc32c,
            max_ulpdu: usize::from(MIN_ULPDU),
            depths,
            agreed: Agreed::default(),
            may_send: false,
            failed: None,
            regions: Regions::new(depths.regions),
            sends: VecDeque::with_capacity(depths.sends),
            send_offset: 0,
            send_msn: 1,
            reads: VecDeque::with_capacity(depths.reads),
            outstanding: 0,
            read_offset: 0,
            response_segment: 0,
            read_msn: 1,
            responses: VecDeque::with_capacity(depths.responses),
            response_offset: 0,
            response_is_next: false,
            recvs: VecDeque::with_capacity(depths.recvs),
            recv_msn: 1,
            recv_read_msn: 1,
            incoming_send: IncomingSend::default(),
            incoming_write: None,
            segment_length: 0,
            stage: Stage::Header,
            stash: [0; STASH],
            stash_length: 0,
            trailer: [0; 8],
            trailer_length: 0,
            crc: 0,
            incoming: Incoming::default(),
        }
    }

    /// Establishes the queue pair after the handshake. FPDUs are sent with at most `max_ulpdu` bytes between their
    /// length and their CRC, clamped to [`MIN_ULPDU`] to [`MAX_ULPDU`] and rounded down to a multiple of 4.
    pub fn establish(&mut self, agreed: Agreed, max_ulpdu: u16) {
        self.agreed = agreed;
        self.max_ulpdu = usize::from(max_ulpdu.clamp(MIN_ULPDU, MAX_ULPDU)) & !3;
        self.may_send = !agreed.peer_speaks_first;
    }

    /// Returns the values on which both sides agreed.
    #[must_use]
    pub const fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Returns the number of bytes of the oldest READ that have arrived.
    #[must_use]
    pub const fn read_offset(&self) -> u32 {
        self.read_offset
    }

    /// Returns the memory regions.
    #[must_use]
    pub const fn regions(&self) -> &Regions<M> {
        &self.regions
    }

    /// Returns the memory regions, to change them.
    pub const fn regions_mut(&mut self) -> &mut Regions<M> {
        &mut self.regions
    }

    /// Posts a receive.
    pub fn post_recv(&mut self, wr_id: WrId, memory: Sge) -> Result<(), PostError> {
        check_room(self.recvs.len(), self.depths.recvs)?;
        self.recvs.push_back((wr_id, self.look_up(memory)?));
        Ok(())
    }

    /// Posts a SEND of `header` and `payload`.
    pub fn post_send(
        &mut self,
        wr_id: WrId,
        header: &[u8],
        payload: Option<Sge>,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), PostError> {
        check_room(self.sends.len(), self.depths.sends)?;
        let payload = match payload {
            Some(payload) => self.look_up(payload)?,
            None => Piece::NOWHERE,
        };
        let mut bytes = [0; MAX_SEND_HEADER];
        bytes
            .get_mut(..header.len())
            .ok_or(PostError::TooLong)?
            .copy_from_slice(header);
        // The length is at most MAX_SEND_HEADER, as was just checked.
        let header_length = header.len() as u8;
        payload
            .length
            .checked_add(u32::from(header_length))
            .ok_or(PostError::TooLong)?;
        let kind = match invalidate {
            None => SendKind::Send {
                header: bytes,
                header_length,
            },
            Some(token) => SendKind::SendInvalidate {
                header: bytes,
                header_length,
                token,
            },
        };
        self.sends.push_back(SendWork {
            wr_id,
            payload,
            kind,
        });
        Ok(())
    }

    /// Posts an RDMA WRITE.
    pub fn post_write(
        &mut self,
        wr_id: WrId,
        source: Sge,
        target: RemoteAddress,
    ) -> Result<(), PostError> {
        check_room(self.sends.len(), self.depths.sends)?;
        let payload = self.look_up(source)?;
        self.sends.push_back(SendWork {
            wr_id,
            payload,
            kind: SendKind::Write { target },
        });
        Ok(())
    }

    /// Posts an RDMA READ.
    pub fn post_read(
        &mut self,
        wr_id: WrId,
        sink: Sge,
        source: RemoteAddress,
    ) -> Result<(), PostError> {
        check_room(self.reads.len(), self.depths.reads)?;
        let sink = self.look_up(sink)?;
        self.reads.push_back(ReadWork {
            wr_id,
            sink,
            source,
        });
        Ok(())
    }

    /// Takes the next work request that will never be carried out, once the connection has ended or is being closed.
    /// Requests of one kind come in the order of posting.
    pub fn flush(&mut self) -> Option<Completion> {
        self.flush_reads().or_else(|| {
            let work = self.sends.pop_front()?;
            self.send_offset = 0;
            let done = match work.kind {
                SendKind::Send { .. } | SendKind::SendInvalidate { .. } => Done::Send,
                SendKind::Write { .. } => Done::Write,
            };
            Some(Completion {
                wr_id: work.wr_id,
                done,
            })
        })
    }

    /// Does what [`Qp::flush`] does, but leaves SENDs and RDMA WRITEs, which may still be sent. Bytes that arrive from
    /// now on are dropped, because nothing waits for them.
    pub fn flush_reads(&mut self) -> Option<Completion> {
        self.stage = Stage::Closed;
        self.segment_length = 0;
        if let Some((wr_id, _)) = self.recvs.pop_front() {
            return Some(Completion {
                wr_id,
                done: Done::Recv {
                    length: 0,
                    invalidated: None,
                },
            });
        }
        let read = self.reads.pop_front()?;
        self.outstanding = self.outstanding.saturating_sub(1);
        Some(Completion {
            wr_id: read.wr_id,
            done: Done::Read,
        })
    }

    fn look_up(&self, sge: Sge) -> Result<Piece, PostError> {
        let piece = self.regions.look_up(sge);
        piece.ok_or(PostError::LocalProtection)
    }
}

const fn check_room(posted: usize, depth: usize) -> Result<(), PostError> {
    if posted < depth {
        Ok(())
    } else {
        Err(PostError::QueueFull)
    }
}
