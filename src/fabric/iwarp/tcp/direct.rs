// SPDX-License-Identifier: GPL-2.0-or-later

//! Receives payload from the socket straight into its target, many FPDUs with one system call.
//!
//! ```text
//!   stream   | rest of the payload | framing | payload | framing | payload | ... | a little more |
//!               |                     |         |                                  |
//!   goes to    target                input    where it is expected to belong      input
//! ```
//!
//! The places do not overlap: if the sinks of READs overlap, the list ends there, because bytes that came first would
//! be overwritten before they were read.
//!
//! If the framing differs from what was expected, everything that came after it is copied out and parsed in order, as
//! if it had never been placed.

use super::conn::parse;
use super::fpdu::crc32c_of_memory;
use crate::fabric::iwarp::IwarpError;
use crate::fabric::iwarp::mpa::CRC_LENGTH;
use crate::fabric::iwarp::qp::{Completion, Expected, Qp};
use crate::fabric::regions::Piece;
use crate::sys::{IoVecs, Memory, ReceiveVec};

/// Number of bytes that follow the last payload: padding, CRC, and the header of the next FPDU.
pub(super) const TAIL: usize = 3 + CRC_LENGTH + 20;
/// Maximum number of expected FPDUs in one system call. With CRCs, only as many as stay in the cache until the CRCs are
/// computed.
const EXPECTED: usize = 16;
const EXPECTED_WITH_CRC: usize = 3;

/// Lists the memory to receive into: `target`, the places expected after it, and a little of `input`. Also returns how
/// many FPDUs are expected.
pub(super) fn prepare<'a>(
    qp: &'a Qp<Memory>,
    target: Piece,
    iovecs: &'a mut IoVecs,
    mut input: &'a mut [u8],
) -> Result<(ReceiveVec<'a>, usize), IwarpError> {
    let mut vec = iovecs.receive();
    push(&mut vec, qp.memory(target)?, target)?;
    let mut count = 0;
    for Expected { framing, target } in expected(qp) {
        // A sink that its owner has deregistered is not an error before its turn comes.
        let (Ok(memory), true) = (qp.memory(target), framing <= input.len()) else {
            break;
        };
        let (offset, length) = (target.offset as usize, target.length as usize);
        if vec.contains(memory, offset, length) != Ok(false) {
            break;
        }
        let (bytes, rest) = std::mem::take(&mut input).split_at_mut(framing);
        vec.push(bytes);
        push(&mut vec, memory, target)?;
        input = rest;
        count += 1;
    }
    vec.push(input.get_mut(..TAIL).unwrap_or_default());
    Ok((vec, count))
}

/// Tells the queue pair about `received` bytes that came as [`prepare`] listed them.
pub(super) fn take(
    qp: &mut Qp<Memory>,
    target: Piece,
    count: usize,
    received: usize,
    mut input: &[u8],
    completions: &mut Vec<Completion>,
) -> Result<(), IwarpError> {
    // This is the forecast as it was when the places were listed.
    let mut list = [None; EXPECTED];
    for (slot, item) in list.iter_mut().zip(expected(qp).take(count)) {
        *slot = Some(item);
    }
    let mut left = received - placed(qp, target, received)?;
    let mut list = list.into_iter().flatten();
    while let Some(Expected { framing, target }) = list.next() {
        let (bytes, rest) = input.split_at_checked(framing).unwrap_or((input, &[]));
        input = rest;
        let bytes = bytes.get(..left).unwrap_or(bytes);
        parse(qp, bytes, completions)?;
        left -= bytes.len();
        if left == 0 {
            return Ok(());
        }
        if qp.target()? != Some(target) {
            let rest = [Some(Expected { framing: 0, target })]
                .into_iter()
                .flatten()
                .chain(list);
            let rest = in_order(qp, rest, input, left)?;
            return parse(qp, &rest, completions);
        }
        left -= placed(qp, target, left)?;
    }
    parse(qp, input.get(..left).unwrap_or(input), completions)
}

fn expected(qp: &Qp<Memory>) -> impl Iterator<Item = Expected> {
    let most = if qp.agreed().crc {
        EXPECTED_WITH_CRC
    } else {
        EXPECTED
    };
    qp.expected().take(most)
}

fn push<'a>(vec: &mut ReceiveVec<'a>, memory: &'a Memory, target: Piece) -> Result<(), IwarpError> {
    vec.push_memory(memory, target.offset as usize, target.length as usize)
        .map_err(|_| IwarpError::LocalRegionGone)
}

/// Takes note that the first of `left` bytes are in `target`, as many as it has room for; returns how many.
fn placed(qp: &mut Qp<Memory>, target: Piece, left: usize) -> Result<usize, IwarpError> {
    let length = u32::try_from(left).map_or(target.length, |left| left.min(target.length));
    let placed = target.part(0, length);
    let crc = match qp.crc() {
        Some(crc) => crc32c_of_memory(crc, qp.memory(placed)?, placed)?,
        None => 0,
    };
    qp.placed(length, crc);
    Ok(length as usize)
}

/// Collects `left` bytes of the stream from the places where they were expected to belong.
fn in_order(
    qp: &Qp<Memory>,
    list: impl Iterator<Item = Expected>,
    mut input: &[u8],
    left: usize,
) -> Result<Vec<u8>, IwarpError> {
    let mut bytes = Vec::with_capacity(left);
    for Expected { framing, target } in list {
        let (framing, rest) = input.split_at_checked(framing).unwrap_or((input, &[]));
        input = rest;
        let missing = left - bytes.len();
        bytes.extend_from_slice(framing.get(..missing).unwrap_or(framing));
        let length = (left - bytes.len()).min(target.length as usize);
        qp.memory(target)?
            .append_to(target.offset as usize, length, &mut bytes)
            .map_err(|_| IwarpError::LocalRegionGone)?;
    }
    let missing = left - bytes.len();
    bytes.extend_from_slice(input.get(..missing).unwrap_or(input));
    Ok(bytes)
}
