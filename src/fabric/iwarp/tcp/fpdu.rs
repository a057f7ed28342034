// SPDX-License-Identifier: GPL-2.0-or-later

//! Splits FPDUs into the pieces that a system call sends.

use crate::fabric::iwarp::qp::Segment;
use crate::fabric::iwarp::rdmap::{Opcode, Terminate};
use crate::fabric::iwarp::{IwarpError, ddp, mpa};
use crate::fabric::regions::Piece;
use crate::sys::{Memory, SendVec};

/// Number of pieces of an FPDU: the bytes before the payload, the payload, and the bytes after it.
pub(super) const PIECES: usize = 3;

/// Maximum number of bytes after the payload.
const MAX_TRAILER: usize = 3 + mpa::CRC_LENGTH;

pub(super) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

/// An FPDU on its way into the socket.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct OutFpdu {
    pub(super) segment: Segment,
    /// The padding and the CRC.
    trailer: [u8; MAX_TRAILER],
    trailer_length: u8,
}

impl OutFpdu {
    /// Makes an FPDU without a CRC.
    pub(super) fn new(segment: Segment) -> Self {
        let pad = mpa::pad(segment.ulpdu_length());
        Self {
            segment,
            trailer: [0; MAX_TRAILER],
            // The length is at most MAX_TRAILER.
            trailer_length: (pad + mpa::CRC_LENGTH) as u8,
        }
    }

    /// Computes the CRC; `memory` holds the payload.
    pub(super) fn add_crc(&mut self, memory: Option<&Memory>) -> Result<(), IwarpError> {
        let mut sum = crc32c(0, self.segment.header());
        if let Some(memory) = memory {
            sum = crc32c_of_memory(sum, memory, self.segment.payload)?;
        }
        let length = usize::from(self.trailer_length);
        let trailer = self.trailer.get_mut(..length).unwrap_or_default();
        if let Some((pad, crc)) = trailer.split_last_chunk_mut::<{ mpa::CRC_LENGTH }>() {
            *crc = crc32c(sum, pad).to_le_bytes();
        }
        Ok(())
    }

    pub(super) fn length(&self) -> usize {
        self.segment.header().len()
            + self.segment.payload.length as usize
            + usize::from(self.trailer_length)
    }

    /// Adds everything after the first `skip` bytes, and subtracts from `skip` what it skipped.
    pub(super) fn push<'a>(
        &'a self,
        memory: Option<&'a Memory>,
        vec: &mut SendVec<'a>,
        skip: &mut usize,
    ) -> Result<(), IwarpError> {
        let mut skipped = |length: usize| {
            let skipped = length.min(*skip);
            *skip -= skipped;
            skipped
        };
        let header = self.segment.header();
        vec.push(header.get(skipped(header.len())..).unwrap_or_default());
        if let Some(memory) = memory {
            let Piece { offset, length, .. } = self.segment.payload;
            let skipped = skipped(length as usize);
            vec.push_memory(memory, offset as usize + skipped, length as usize - skipped)
                .map_err(|_| IwarpError::LocalRegionGone)?;
        }
        let length = usize::from(self.trailer_length);
        let trailer = self.trailer.get(skipped(length)..length);
        vec.push(trailer.unwrap_or_default());
        Ok(())
    }
}

/// Returns the CRC continued over registered memory. The region is as long as its memory, so the error does not happen.
pub(super) fn crc32c_of_memory(crc: u32, memory: &Memory, piece: Piece) -> Result<u32, IwarpError> {
    let mut sum = crc;
    memory
        .for_each_chunk(piece.offset as usize, piece.length as usize, |chunk| {
            sum = crc32c(sum, chunk);
        })
        .map_err(|_| IwarpError::LocalRegionGone)?;
    Ok(sum)
}

/// Returns the bytes of a Terminate message.
pub(super) fn terminate_fpdu(terminate: &Terminate, crc: bool) -> Vec<u8> {
    let control = ddp::Control {
        opcode: Opcode::Terminate,
        last: true,
    };
    let header = ddp::Untagged {
        invalidate: 0,
        queue: ddp::QUEUE_TERMINATE,
        msn: 1,
        mo: 0,
    };
    let body = terminate.emit();
    let ulpdu_length = ddp::Control::LENGTH + ddp::Untagged::LENGTH + body.len();
    let mut fpdu = Vec::with_capacity(mpa::fpdu_length(ulpdu_length));
    // The length is far below 65,536.
    fpdu.extend((ulpdu_length as u16).to_be_bytes());
    fpdu.extend(control.emit());
    fpdu.extend(header.emit());
    fpdu.extend(body);
    fpdu.resize(fpdu.len() + mpa::pad(ulpdu_length), 0);
    let crc = if crc { crc32c(0, &fpdu) } else { 0 };
    fpdu.extend(crc.to_le_bytes());
    fpdu
}
