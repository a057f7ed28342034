// SPDX-License-Identifier: GPL-2.0-or-later

//! One end of a [`Loopback`](super::Loopback) connection, and the copies between two.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::LoopbackConfig;
use crate::fabric::regions::{Piece, Regions};
use crate::fabric::{
    Access, CloseReason, ConnId, Event, FabricError, ListenerId, ReadLimits, RemoteAddress, Sge,
    Work, WrError, WrId,
};
use crate::sys::Memory;
use crate::units::RemoteToken;

#[derive(Debug)]
pub(super) struct Conn {
    /// The other end; null if there is none, or if it has gone.
    pub(super) peer: ConnId,
    pub(super) phase: Phase,
    /// This end's address, once it is known.
    pub(super) address: Option<SocketAddr>,
    /// The first reason for the end, which is set once; `poll` does the rest.
    pub(super) ended: Option<CloseReason>,
    pub(super) limits: ReadLimits,
    pub(super) regions: Regions<Memory>,
    pub(super) receives: VecDeque<Receive>,
    pub(super) reads: VecDeque<Read>,
    /// Number of SENDs and RDMA WRITEs posted in `round`: all earlier ones have been reported.
    pub(super) sends: usize,
    pub(super) round: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Connecting,
    Requested(ListenerId),
    Established,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Receive {
    pub(super) wr_id: WrId,
    pub(super) memory: Piece,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Read {
    pub(super) wr_id: WrId,
    pub(super) sink: Piece,
    pub(super) source: RemoteAddress,
}

/// Why an operation ends the connection.
#[derive(Debug)]
pub(super) struct Failure {
    /// How the operation itself ends.
    pub(super) result: WrError,
    /// Why both ends close.
    pub(super) reason: CloseReason,
}

const REMOTE_ACCESS: Failure = Failure {
    result: WrError::RemoteAccess,
    reason: CloseReason::RemoteAccess,
};

/// A fault of the receiver: the sender's operation counts as one that was not carried out.
const NOT_READY: Failure = Failure {
    result: WrError::Flushed,
    reason: CloseReason::ReceiverNotReady,
};

impl Conn {
    pub(super) fn new(
        peer: ConnId,
        phase: Phase,
        limits: ReadLimits,
        config: &LoopbackConfig,
    ) -> Self {
        Self {
            peer,
            phase,
            address: None,
            ended: None,
            limits,
            regions: Regions::new(config.regions),
            receives: VecDeque::new(),
            reads: VecDeque::new(),
            sends: 0,
            round: 0,
        }
    }

    /// Checks that the connection's owner may still post. If the peer has ended the connection, the owner does not know
    /// that yet: its work is accepted, and flushed.
    pub(super) fn check_open(&self) -> Result<(), FabricError> {
        match self.ended {
            Some(CloseReason::Local) => Err(FabricError::NotConnected),
            _ => Ok(()),
        }
    }

    pub(super) fn check_established(&self) -> Result<(), FabricError> {
        if self.phase != Phase::Established {
            return Err(FabricError::NotConnected);
        }
        self.check_open()
    }

    /// Takes a slot of the send queue. Each `poll` frees all slots: this function notices the new round, so nothing is
    /// counted down at each completion.
    #[inline]
    pub(super) fn take_send_slot(&mut self, round: u64, limit: usize) -> Result<(), FabricError> {
        if self.round != round {
            self.round = round;
            self.sends = 0;
        }
        if self.sends >= limit {
            return Err(FabricError::QueueFull);
        }
        self.sends += 1;
        Ok(())
    }

    /// Copies a message of this connection to the peer's next receive, and completes that receive.
    #[inline]
    pub(super) fn send(
        &self,
        peer: &mut Self,
        header: &[u8],
        payload: Option<Piece>,
        invalidate: Option<RemoteToken>,
        ready: &mut Vec<Event>,
    ) -> Result<(), Failure> {
        let Some(receive) = peer.receives.pop_front() else {
            return Err(NOT_READY);
        };
        let outcome = self.fill(peer, receive, header, payload, invalidate);
        let (length, result) = match &outcome {
            Ok(length) => (*length, Ok(())),
            Err((error, _)) => (0, Err(*error)),
        };
        let work = Work::Recv {
            length,
            invalidated: invalidate.filter(|_| result.is_ok()),
        };
        ready.push(Event::Completion {
            conn: self.peer,
            wr_id: receive.wr_id,
            work,
            result,
        });
        outcome.map(|_| ()).map_err(|(_, failure)| failure)
    }

    /// Does the work of `send`: returns the bytes of the message, or how the receive and the SEND
    /// fail.
    #[inline]
    fn fill(
        &self,
        peer: &mut Self,
        receive: Receive,
        header: &[u8],
        payload: Option<Piece>,
        invalidate: Option<RemoteToken>,
    ) -> Result<u32, (WrError, Failure)> {
        let payload_length = payload.map_or(0, |piece| piece.length);
        let header_length = u32::try_from(header.len()).unwrap_or(u32::MAX);
        let length = header_length
            .checked_add(payload_length)
            .filter(|length| *length <= receive.memory.length);
        let Some(length) = length else {
            return Err((WrError::LocalLength, NOT_READY));
        };
        if let Some(token) = invalidate {
            if peer.regions.invalidate(token.0).is_none() {
                tracing::debug!(%token, "invalidation of an unknown token refused");
                return Err((WrError::Flushed, REMOTE_ACCESS));
            }
        }
        let copied = || {
            let (target, at) = peer.memory(receive.memory)?;
            target.write(at, header).ok()?;
            if let Some(payload) = payload {
                let (source, from) = self.memory(payload)?;
                source
                    .copy_to(from, target, at + header.len(), payload.length as usize)
                    .ok()?;
            }
            Some(length)
        };
        // If the receive's region was deregistered in the meantime, that counts as a missing receive.
        copied().ok_or((WrError::Flushed, NOT_READY))
    }

    /// Returns the memory that a work request names, if it lies in a registered region.
    #[inline]
    pub(super) fn look_up(&self, sge: Sge) -> Result<Piece, FabricError> {
        self.regions
            .look_up(sge)
            .ok_or(FabricError::LocalProtection)
    }

    /// Returns the memory of a piece, and the offset of the piece in it; `None` if the memory was deregistered since.
    #[inline]
    fn memory(&self, piece: Piece) -> Option<(&Memory, usize)> {
        Some((self.regions.memory(piece)?, piece.offset as usize))
    }

    /// Returns the local memory that the peer of this connection names.
    #[inline]
    fn resolve(
        &self,
        target: RemoteAddress,
        length: u32,
        access: Access,
    ) -> Result<Piece, Failure> {
        let RemoteAddress { token, address } = target;
        let piece = self.regions.resolve(token.0, address, length, access);
        piece.map_err(|fault| {
            let fault: &'static str = fault.into();
            tracing::debug!(fault, "remote access refused");
            REMOTE_ACCESS
        })
    }

    pub(super) fn write(
        &self,
        peer: &Self,
        source: Piece,
        target: RemoteAddress,
    ) -> Result<(), Failure> {
        let length = source.length;
        let target = peer.resolve(target, length, Access::RemoteWrite)?;
        let (target, at) = peer.memory(target).ok_or(REMOTE_ACCESS)?;
        let (source, from) = self.memory(source).ok_or(NOT_READY)?;
        source
            .copy_to(from, target, at, length as usize)
            .map_err(|_| REMOTE_ACCESS)
    }

    pub(super) fn read(&self, peer: &Self, read: &Read) -> Result<(), Failure> {
        let length = read.sink.length;
        let source = peer.resolve(read.source, length, Access::RemoteRead)?;
        let (source, from) = peer.memory(source).ok_or(REMOTE_ACCESS)?;
        // If the sink was deregistered, the response would name an unknown token.
        let sink_gone = Failure {
            result: WrError::Flushed,
            reason: CloseReason::RemoteAccess,
        };
        let (sink, at) = self.memory(read.sink).ok_or(sink_gone)?;
        source
            .copy_to(from, sink, at, length as usize)
            .map_err(|_| REMOTE_ACCESS)
    }
}
