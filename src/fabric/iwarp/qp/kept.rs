// SPDX-License-Identifier: GPL-2.0-or-later

//! The state of a queue pair at any moment, even in the middle of an FPDU.

use alloc::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::receive::{Incoming, IncomingSend, STASH, Stage};
use super::send::{ReadWork, Response, SendWork};
use super::{Depths, MAX_ULPDU, MIN_ULPDU, Qp};
use crate::fabric::iwarp::ddp::Tagged;
use crate::fabric::iwarp::handshake::Agreed;
use crate::fabric::iwarp::mpa::Crc32c;
use crate::fabric::regions::{KeptRegions, Piece};
use crate::fabric::{NotKept, RegionId, WrId};
use crate::sys::Memory;

/// See the [module](self).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::fabric::iwarp) struct KeptQp {
    max_ulpdu: u16,
    agreed: Agreed,
    may_send: bool,
    regions: KeptRegions,
    sends: VecDeque<SendWork>,
    send_offset: u32,
    send_msn: u32,
    reads: VecDeque<ReadWork>,
    outstanding: u16,
    read_offset: u32,
    response_segment: u32,
    read_msn: u32,
    responses: VecDeque<Response>,
    response_offset: u32,
    response_is_next: bool,
    recvs: VecDeque<(WrId, Piece)>,
    recv_msn: u32,
    recv_read_msn: u32,
    incoming_send: IncomingSend,
    incoming_write: Option<Tagged>,
    segment_length: u32,
    stage: Stage,
    #[serde(with = "crate::units::hex")]
    stash: Vec<u8>,
    trailer: [u8; 8],
    trailer_length: usize,
    crc: u32,
    incoming: Incoming,
    /// What has arrived of a SEND that is not complete. All other memory is its owner's, who keeps it.
    #[serde(with = "crate::units::hex")]
    begun: Vec<u8>,
}

impl Qp<Memory> {
    /// Returns the state; `None` if the queue pair has failed or is closed.
    pub(in crate::fabric::iwarp) fn keep(&self) -> Option<KeptQp> {
        if !self.may_keep() {
            return None;
        }
        let Self {
            crc32c: _,
            max_ulpdu,
            depths: _,
            agreed,
            may_send,
            failed: _,
            regions,
            sends,
            send_offset,
            send_msn,
            reads,
            outstanding,
            read_offset,
            response_segment,
            read_msn,
            responses,
            response_offset,
            response_is_next,
            recvs,
            recv_msn,
            recv_read_msn,
            incoming_send,
            incoming_write,
            segment_length,
            stage,
            stash,
            stash_length,
            trailer,
            trailer_length,
            crc,
            incoming,
        } = self;
        Some(KeptQp {
            max_ulpdu: u16::try_from(*max_ulpdu).ok()?,
            agreed: *agreed,
            may_send: *may_send,
            regions: regions.keep(),
            sends: sends.clone(),
            send_offset: *send_offset,
            send_msn: *send_msn,
            reads: reads.clone(),
            outstanding: *outstanding,
            read_offset: *read_offset,
            response_segment: *response_segment,
            read_msn: *read_msn,
            responses: responses.clone(),
            response_offset: *response_offset,
            response_is_next: *response_is_next,
            recvs: recvs.clone(),
            recv_msn: *recv_msn,
            recv_read_msn: *recv_read_msn,
            incoming_send: *incoming_send,
            incoming_write: *incoming_write,
            segment_length: *segment_length,
            stage: *stage,
            stash: stash.get(..*stash_length)?.to_vec(),
            trailer: *trailer,
            trailer_length: *trailer_length,
            crc: *crc,
            incoming: *incoming,
            begun: self.begun()?,
        })
    }

    /// Returns whether [`keep`](Self::keep) returns the state.
    pub(in crate::fabric::iwarp) fn may_keep(&self) -> bool {
        self.failed.is_none() && self.stage != Stage::Closed
    }

    /// Returns what has arrived of the first receive, and perhaps more.
    fn begun(&self) -> Option<Vec<u8>> {
        let Some((_, piece)) = self.recvs.front() else {
            return Some(Vec::new());
        };
        let length = self.filled().min(piece.length);
        if length == 0 {
            return Some(Vec::new());
        }
        let memory = self.regions.memory(*piece)?;
        memory.to_vec(piece.offset as usize, length as usize).ok()
    }

    /// Continues a queue pair; `memory` returns the memory of each region.
    pub(in crate::fabric::iwarp) fn adopt(
        kept: KeptQp,
        depths: Depths,
        crc32c: Crc32c,
        memory: &mut dyn FnMut(RegionId) -> Option<Memory>,
    ) -> Result<Self, NotKept> {
        if !kept.is_sound() {
            return Err(NotKept);
        }
        let mut qp = Self::new(depths, crc32c);
        let regions = super::Regions::adopt(kept.regions, depths.regions, memory);
        qp.regions = regions.ok_or(NotKept)?;
        let stash = qp.stash.get_mut(..kept.stash.len());
        stash.ok_or(NotKept)?.copy_from_slice(&kept.stash);
        if let Some((_, piece)) = kept.recvs.front() {
            if !kept.begun.is_empty() && kept.begun.len() <= piece.length as usize {
                let memory = qp.regions.memory(*piece).ok_or(NotKept)?;
                let written = memory.write(piece.offset as usize, &kept.begun);
                written.map_err(|_| NotKept)?;
            }
        }
        // The queues keep their room, so that posting does not allocate.
        qp.sends.extend(kept.sends);
        qp.reads.extend(kept.reads);
        qp.responses.extend(kept.responses);
        qp.recvs.extend(kept.recvs);
        Ok(Self {
            max_ulpdu: usize::from(kept.max_ulpdu),
            agreed: kept.agreed,
            may_send: kept.may_send,
            send_offset: kept.send_offset,
            send_msn: kept.send_msn,
            outstanding: kept.outstanding,
            read_offset: kept.read_offset,
            response_segment: kept.response_segment,
            read_msn: kept.read_msn,
            response_offset: kept.response_offset,
            response_is_next: kept.response_is_next,
            recv_msn: kept.recv_msn,
            recv_read_msn: kept.recv_read_msn,
            incoming_send: kept.incoming_send,
            incoming_write: kept.incoming_write,
            segment_length: kept.segment_length,
            stage: kept.stage,
            stash_length: kept.stash.len(),
            trailer: kept.trailer,
            trailer_length: kept.trailer_length,
            crc: kept.crc,
            incoming: kept.incoming,
            ..qp
        })
    }
}

impl KeptQp {
    /// Returns whether the numbers keep to the limits on which the arithmetic relies.
    fn is_sound(&self) -> bool {
        let half = u32::MAX / 2;
        let offsets = [self.send_offset, self.read_offset, self.response_offset];
        let payload = u32::from(u16::MAX);
        (MIN_ULPDU..=MAX_ULPDU).contains(&self.max_ulpdu)
            && self.max_ulpdu % 4 == 0
            && self.stage != Stage::Closed
            && self.stash.len() <= STASH
            && self.trailer_length <= self.trailer.len()
            && usize::from(self.outstanding) <= self.reads.len()
            && offsets.iter().all(|offset| *offset <= half)
            && self.incoming_send.is_at_most(half)
            && self.incoming.is_at_most(payload)
    }
}
