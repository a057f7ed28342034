// SPDX-License-Identifier: GPL-2.0-or-later

//! The queue pair: work requests in, FPDUs out; FPDUs in, completions out (RFC 5040, RFC 5041).
//!
//! A sans-IO state machine. It knows which bytes come next in either direction and where in registered memory they lie;
//! its owner moves them. It allocates its queues, of fixed sizes, when it is made, and nothing afterwards.
//!
//! ```text
//!   post_send, post_write --> sends ----------------+
//!   post_read ---> reads (the outstanding in front) +--> next_segment --> FPDUs
//!   the peer's READ requests --> responses ---------+
//!
//!   FPDUs --> receive --> Place, placed --> (CRC is good) --> Completed
//! ```
//!
//! Out: messages never interleave, except that READ requests go first, and between the FPDUs of other messages, as they
//! only start work at the peer. They do not go between the FPDUs of a SEND: Linux's siw refuses that, as it tells
//! messages apart by tagged and untagged alone. Responses and the send queue take turns, message by message.
//!
//! In: payload is placed as it arrives and counts only once its FPDU's CRC has been verified (placement and delivery,
//! RFC 5041 5). Every header is checked before a byte behind it is placed; an error ends the connection, and every
//! later call returns it.
//!
//! Regions are looked up when their bytes move, not only when work is posted: between two FPDUs, and inside one, their
//! owner may deregister them.

mod forecast;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use alloc::collections::VecDeque;

pub use self::forecast::Expected;
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

/// Smallest ULPDU limit: room for the largest header and some payload.
pub const MIN_ULPDU: u16 = 128;
/// Largest ULPDU limit: what the length field of an FPDU holds, rounded down to a multiple of 4.
pub const MAX_ULPDU: u16 = 65_532;

/// The sizes of a queue pair's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depths {
    /// SENDs and RDMA WRITEs that are posted.
    pub sends: usize,
    /// Receives that are posted.
    pub recvs: usize,
    /// RDMA READs that are posted, outstanding ones included.
    pub reads: usize,
    /// RDMA READs of the peer that are served at a time; IRD never exceeds it.
    pub responses: usize,
    /// Memory regions.
    pub regions: usize,
}

/// What a completed work request was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// A receive.
    Recv {
        /// Bytes of the message.
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
pub struct Completion {
    /// As posted.
    pub wr_id: WrId,
    /// What it was.
    pub done: Done,
}

/// Why a work request was not posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// Its queue is full.
    QueueFull,
    /// The memory does not lie in a registered region.
    LocalProtection,
    /// The header is longer than [`MAX_SEND_HEADER`], or the message than 4 GiB.
    TooLong,
}

/// One end of an iWARP connection. `M` is its owner's handle of a memory. See the [module](self).
#[derive(Debug)]
pub struct Qp<M> {
    crc32c: Crc32c,
    max_ulpdu: usize,
    depths: Depths,
    agreed: Agreed,
    /// Established, and if this side is the responder, the initiator has sent an FPDU.
    may_send: bool,
    /// The rule that the peer broke: nothing after that in the stream is worth looking at.
    failed: Option<IwarpError>,
    regions: Regions<M>,

    sends: VecDeque<SendWork>,
    /// Bytes of the first message of `sends` that were handed out.
    send_offset: u32,
    send_msn: u32,
    reads: VecDeque<ReadWork>,
    /// READs at the front of `reads` whose request was handed out.
    outstanding: u16,
    /// Bytes of the oldest READ that arrived.
    read_offset: u32,
    /// Payload of the FPDUs in which READs are answered, except for the last of each.
    response_segment: u32,
    read_msn: u32,
    responses: VecDeque<Response>,
    response_offset: u32,
    /// The last message handed out was one of `sends`: a response is next.
    response_is_next: bool,

    recvs: VecDeque<(WrId, Piece)>,
    recv_msn: u32,
    recv_read_msn: u32,
    incoming_send: IncomingSend,
    /// Where an RDMA WRITE that has begun must continue.
    incoming_write: Option<Tagged>,
    /// Largest payload of an FPDU of the message that is arriving.
    segment_length: u32,

    stage: Stage,
    stash: [u8; STASH],
    stash_length: usize,
    /// Padding and CRC.
    trailer: [u8; 8],
    trailer_length: usize,
    crc: u32,
    incoming: Incoming,
}

impl<M> Qp<M> {
    /// A queue pair that is not established: memory may be registered and work posted.
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

    /// The handshake is done. FPDUs are sent with at most `max_ulpdu` bytes between their length and their CRC, clamped
    /// to [`MIN_ULPDU`] to [`MAX_ULPDU`] and rounded down to a multiple of 4.
    pub fn establish(&mut self, agreed: Agreed, max_ulpdu: u16) {
        self.agreed = agreed;
        self.max_ulpdu = usize::from(max_ulpdu.clamp(MIN_ULPDU, MAX_ULPDU)) & !3;
        self.may_send = !agreed.peer_speaks_first;
    }

    /// What both sides agreed on.
    #[must_use]
    pub const fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    /// Bytes of the oldest READ that have arrived.
    #[must_use]
    pub const fn read_offset(&self) -> u32 {
        self.read_offset
    }

    /// The memory regions.
    #[must_use]
    pub const fn regions(&self) -> &Regions<M> {
        &self.regions
    }

    /// The memory regions, to change them.
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
        // At most MAX_SEND_HEADER, just checked.
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

    /// Takes the next work request that will never be carried out, once the connection has ended
    /// or is being closed. Those of one kind come in the order of posting.
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

    /// Like [`Qp::flush`], but leaves SENDs and RDMA WRITEs, which may still go out. What arrives from now on is
    /// dropped: nothing waits for it.
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
