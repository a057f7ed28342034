// SPDX-License-Identifier: GPL-2.0-or-later

//! Predicts where payload belongs before its header has arrived.
//!
//! RDMA READ responses come in a known order, to known places, in FPDUs of one size except for the last FPDU of each
//! response. So while one FPDU arrives, the places of the next FPDUs' payload are known, and one system call can fill
//! many of these places. They are a forecast: the owner compares them with the places that [`Qp::receive`] then asks
//! for. Bytes that went to the wrong place are in the sinks of READs that are not complete, and nothing reads such
//! sinks yet. An RDMA WRITE has no known length and so no forecast: the memory after its end may be in use.

use super::Qp;
use super::receive::{Incoming, Stage};
use crate::fabric::iwarp::ddp::{Control, Tagged};
use crate::fabric::iwarp::mpa::{CRC_LENGTH, FPDU_HEADER_LENGTH, pad};
use crate::fabric::iwarp::rdmap::Opcode;
use crate::fabric::regions::Piece;

/// Payload that is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Number of bytes of the stream between the previous payload and this one: padding and CRC of the previous FPDU,
    /// and the header of this one.
    pub framing: usize,
    /// The place of the payload.
    pub target: Piece,
}

/// Number of bytes before the payload of a READ response, without the MPA length.
const HEADER: usize = Control::LENGTH + Tagged::LENGTH;

impl<M> Qp<M> {
    /// Returns the payload that is expected after the arriving one, if the arriving one answers a READ.
    pub fn expected(&self) -> impl Iterator<Item = Expected> {
        let Incoming {
            control,
            payload_length,
            ..
        } = self.incoming;
        let answers = self.stage == Stage::Payload && control.opcode == Opcode::ReadResponse;
        let outstanding = if answers { self.outstanding } else { 0 };
        let segment = match control.last {
            true => self.response_segment,
            false => payload_length,
        };
        let mut reads = self.reads.iter().take(usize::from(outstanding));
        let mut read = reads.next();
        let mut end = self.read_offset.saturating_add(payload_length);
        let mut length = payload_length;
        core::iter::from_fn(move || {
            while read?.sink.length <= end {
                read = reads.next();
                end = 0;
            }
            let sink = read?.sink;
            let framing = pad(HEADER + length as usize) + CRC_LENGTH + FPDU_HEADER_LENGTH + HEADER;
            length = (sink.length - end).min(segment);
            let target = sink.part(end, length);
            end += length;
            (length > 0).then_some(Expected { framing, target })
        })
    }
}
