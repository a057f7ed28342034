// SPDX-License-Identifier: GPL-2.0-or-later

//! One connection: its socket, its handshake, its queue pair, and the bytes in between.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;

use mio::net::TcpStream;

use super::acknowledge::Unacknowledged;
use super::direct;
use super::fpdu::{self, OutFpdu, crc32c};
use crate::fabric::iwarp::IwarpError;
use crate::fabric::iwarp::handshake::{self, Agreed, MAX_OUTGOING, Offer, Outgoing, Request};
use crate::fabric::iwarp::mpa::{self, FRAME_HEADER_LENGTH, Frame, FrameKind, MAX_PRIVATE_DATA};
use crate::fabric::iwarp::qp::{Completion, Done, MAX_ULPDU, Qp, Step};
use crate::fabric::iwarp::rdmap::Terminate;
use crate::fabric::{CloseReason, ListenerId, Moved};
use crate::sys::{self, IoVecs, MAX_IOVECS, Memory};
use crate::units::Instant;

/// Maximum number of FPDUs in one system call.
const BATCH_FPDUS: usize = MAX_IOVECS / fpdu::PIECES;
/// Number of bytes in one system call, not counting the last FPDU: enough to make the cost of the call small, and few
/// enough that the bytes over which CRCs were computed are still in the cache.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_BYTES_WITH_CRC: usize = 1 << 18;
/// FPDUs with this much payload are received straight into their targets; for smaller ones a copy
/// costs less than the system calls it saves.
const DIRECT_BYTES: u32 = 8 * 1024;
/// Number of bytes moved on one connection, in each direction, before other connections get their turn.
const BUDGET: usize = 4 << 20;
/// The minimum by which each system call to receive reduces `BUDGET`, so that a peer cannot cause a call for every few
/// bytes.
const CALL: usize = 8 * 1024;
/// A socket that returns fewer bytes than this, although there was room for more, is empty. socket_wrapper, which
/// Samba's selftest puts in front of the kernel, moves one packet at a time, which has at least this many bytes if
/// there are more to come.
const LITTLE: usize = 512;

/// Buffers that the connections of a fabric use in turn.
pub(super) struct Scratch {
    pub(super) input: Box<[u8]>,
    iovecs: IoVecs,
    /// Room for the FPDUs of a connection that sends. A connection whose socket is full keeps the room.
    out: VecDeque<OutFpdu>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            input: vec![0; 128 * 1024].into_boxed_slice(),
            iovecs: IoVecs::new(),
            out: VecDeque::with_capacity(BATCH_FPDUS),
        }
    }
}

/// The stage of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// TCP is connecting.
    Connecting(Offer),
    /// The MPA request was sent.
    AwaitsReply(Offer),
    /// TCP is connected; the MPA request has not arrived.
    AwaitsRequest,
    /// The owner has to accept or reject.
    Requested(Request),
    /// The connection is established.
    Established,
    /// The owner closed the connection: posted work is still sent.
    Draining,
}

/// The result of pumping a connection.
pub(super) enum Progress {
    /// There is nothing that its owner must know, except for completions.
    None,
    /// The MPA request has arrived.
    Requested,
    /// The connection is established.
    Established(Agreed),
}

pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) listener: Option<ListenerId>,
    pub(super) stage: Stage,
    /// The queue pair, which is made when the connection is announced to its owner.
    pub(super) qp: Option<Box<Qp<Memory>>>,
    pub(super) deadline: Option<Instant>,
    /// The connection is in the list of connections with something to do.
    pub(super) queued: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has sent its last byte; the end of the stream will not be announced again.
    pub(super) read_closed: bool,
    max_ulpdu: Option<u16>,
    /// The frame of the handshake, as far as it has arrived.
    frame: Vec<u8>,
    pub(super) out: VecDeque<OutFpdu>,
    /// Number of bytes of the first FPDU of `out` that are in the socket.
    pub(super) out_sent: usize,
    /// Number of bytes of the FPDUs that the socket has taken whole.
    pub(super) position: u64,
    /// The socket had no room.
    pub(super) full: bool,
    /// SENDs that have not ended, if SENDs end with the acknowledgement.
    pub(super) unacknowledged: Option<Unacknowledged>,
    /// When bytes of posted work last moved.
    pub(super) moved: Moved,
}

impl Conn {
    /// Returns this side's address.
    pub(super) fn local_address(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }

    pub(super) fn new(
        stream: TcpStream,
        peer: SocketAddr,
        stage: Stage,
        max_ulpdu: Option<u16>,
    ) -> Self {
        Self {
            stream,
            peer,
            listener: None,
            stage,
            qp: None,
            deadline: None,
            queued: false,
            // The socket is tried once, in case it was readable before it was watched.
            readable: true,
            writable: false,
            read_closed: false,
            max_ulpdu,
            frame: Vec::new(),
            out: VecDeque::new(),
            out_sent: 0,
            position: 0,
            full: false,
            unacknowledged: None,
            moved: Moved::default(),
        }
    }

    /// Takes the next work request that was handed to the socket, but did not get through.
    pub(super) fn flush_output(&mut self) -> Option<Completion> {
        while let Some(fpdu) = self.out.pop_front() {
            if fpdu.segment.completes.is_some() {
                return fpdu.segment.completes;
            }
        }
        None
    }

    /// Returns whether there is something to do without new reports of the socket.
    pub(super) fn has_work(&self) -> bool {
        let output = !self.out.is_empty() || self.qp.as_ref().is_some_and(|qp| qp.has_segment());
        self.readable && self.receives() || self.writable && output && self.is_up()
    }

    /// Returns whether all posted work has been sent.
    pub(super) fn is_drained(&self) -> bool {
        self.out.is_empty() && self.qp.as_ref().is_none_or(|qp| !qp.has_sends())
    }

    /// Returns whether FPDUs may move.
    pub(super) const fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Established | Stage::Draining)
    }

    const fn receives(&self) -> bool {
        !matches!(self.stage, Stage::Connecting(_) | Stage::Requested(_))
    }

    /// Returns why the peer's request no longer needs an answer, if that is so.
    pub(super) fn gave_up(&self) -> Option<CloseReason> {
        if !matches!(self.stage, Stage::Requested(_)) || !self.read_closed {
            return None;
        }
        match self.stream.take_error() {
            Ok(None) => Some(CloseReason::Peer),
            Ok(Some(error)) | Err(error) => Some(os(&error)),
        }
    }

    /// Continues the handshake as far as possible.
    pub(super) fn handshake(&mut self) -> Result<Progress, CloseReason> {
        if let Stage::Connecting(offer) = self.stage {
            if !self.writable {
                return Ok(Progress::None);
            }
            if let Some(error) = self.stream.take_error().map_err(|error| os(&error))? {
                return Err(os(&error));
            }
            self.send_frame(&handshake::request(offer))?;
            self.stage = Stage::AwaitsReply(offer);
        }
        let kind = match self.stage {
            Stage::AwaitsReply(_) => FrameKind::Reply,
            Stage::AwaitsRequest => FrameKind::Request,
            _ => return Ok(Progress::None),
        };
        if !self.receive_frame(kind)? {
            return Ok(Progress::None);
        }
        let bytes = std::mem::take(&mut self.frame);
        let frame = Frame::parse(kind, &bytes)?;
        if let Stage::AwaitsReply(offer) = self.stage {
            let agreed = handshake::handle_reply(&frame, offer).map_err(|error| match error {
                IwarpError::MpaRejected => CloseReason::Refused,
                error => error.into(),
            })?;
            self.establish(agreed);
            return Ok(Progress::Established(agreed));
        }
        match Request::new(&frame) {
            Ok(request) => {
                self.stage = Stage::Requested(request);
                Ok(Progress::Requested)
            }
            Err(error) => {
                let _ =
                    self.send_frame(&handshake::reject(frame.revision, frame.enhanced.is_some()));
                Err(error.into())
            }
        }
    }

    pub(super) fn establish(&mut self, agreed: Agreed) {
        let max_ulpdu = self
            .max_ulpdu
            .unwrap_or_else(|| ulpdu_of_one_tcp_segment(&self.stream));
        if let Some(qp) = &mut self.qp {
            qp.establish(agreed, max_ulpdu);
        }
        self.stage = Stage::Established;
    }

    /// Sends a frame of the handshake, for which an empty socket buffer always has room.
    pub(super) fn send_frame(&mut self, frame: &Outgoing) -> Result<(), CloseReason> {
        let mut bytes = [0; MAX_OUTGOING];
        let length = frame.emit(&mut bytes)?;
        let bytes = bytes.get(..length).unwrap_or_default();
        match (&self.stream).write(bytes) {
            Ok(sent) if sent == length => Ok(()),
            Ok(_) => Err(CloseReason::Reset),
            Err(error) => Err(os(&error)),
        }
    }

    /// Receives exactly one frame; `true` once it is whole.
    fn receive_frame(&mut self, kind: FrameKind) -> Result<bool, CloseReason> {
        let mut chunk = [0; FRAME_HEADER_LENGTH + MAX_PRIVATE_DATA];
        loop {
            let length = Frame::length(kind, &self.frame)?;
            let missing = length
                .unwrap_or(FRAME_HEADER_LENGTH)
                .saturating_sub(self.frame.len());
            if missing == 0 {
                return Ok(true);
            }
            let room = chunk.get_mut(..missing).unwrap_or_default();
            match (&self.stream).read(room) {
                Ok(0) => {
                    return Err(if self.frame.is_empty() {
                        CloseReason::Peer
                    } else {
                        CloseReason::Reset
                    });
                }
                Ok(n) => self
                    .frame
                    .extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(false);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(os(&error)),
            }
        }
    }

    /// Sends, receives, and sends the answers. Errors are named as on an established connection.
    pub(super) fn transfer(
        &mut self,
        now: Instant,
        scratch: &mut Scratch,
        completions: &mut Vec<Completion>,
    ) -> Result<(), CloseReason> {
        let before = self.read_offset();
        let result = self.transfer_both_ways(now, scratch, completions);
        if self.read_offset() != before {
            self.moved.reads = now;
        }
        result.map_err(|reason| match reason {
            CloseReason::ConnectTimeout => CloseReason::Reset,
            reason => reason,
        })
    }

    fn read_offset(&self) -> u32 {
        self.qp.as_ref().map_or(0, |qp| qp.read_offset())
    }

    fn transfer_both_ways(
        &mut self,
        now: Instant,
        scratch: &mut Scratch,
        completions: &mut Vec<Completion>,
    ) -> Result<(), CloseReason> {
        let sent = self.send(now, scratch, completions);
        match &sent {
            Ok(()) => {}
            Err(reason) if IwarpError::of(reason).is_some() => return sent,
            Err(_) => {
                // The peer may have sent a Terminate and closed, and we may not have read the reason in the Terminate
                // yet.
                return match self.receive(scratch, completions) {
                    Err(reason) if IwarpError::of(&reason).is_some() => Err(reason),
                    _ => sent,
                };
            }
        }
        if self.readable {
            self.receive(scratch, completions)?;
        }
        self.send(now, scratch, completions)
    }

    /// Sends FPDUs until none are left, the socket is full, or it is the turn of other connections.
    fn send(
        &mut self,
        now: Instant,
        scratch: &mut Scratch,
        completions: &mut Vec<Completion>,
    ) -> Result<(), CloseReason> {
        if self.out.capacity() == 0 {
            std::mem::swap(&mut self.out, &mut scratch.out);
        }
        let result = self.send_batches(now, &mut scratch.iovecs, completions);
        if self.out.is_empty() {
            // Idle connections do not hold a queue. A connection that blocked kept its own queue, and gives it up now.
            let out = std::mem::take(&mut self.out);
            if scratch.out.capacity() == 0 {
                scratch.out = out;
            }
        }
        result
    }

    fn send_batches(
        &mut self,
        now: Instant,
        iovecs: &mut IoVecs,
        completions: &mut Vec<Completion>,
    ) -> Result<(), CloseReason> {
        let mut budget = BUDGET;
        while self.writable && budget > 0 {
            self.fill_batch()?;
            let (false, Some(qp)) = (self.out.is_empty(), &self.qp) else {
                break;
            };
            let mut vec = iovecs.send();
            let mut skip = self.out_sent;
            for fpdu in &self.out {
                // The memory is looked up again: its owner, or the peer with an invalidation, may have ended the
                // registration since the FPDU was made.
                fpdu.push(qp.payload(&fpdu.segment)?, &mut vec, &mut skip)?;
            }
            match vec.send(self.stream.as_fd()) {
                Ok(sent) => {
                    // If the socket took less than everything, there may still be more room: see `LITTLE`.
                    budget = budget.saturating_sub(sent);
                    if std::mem::take(&mut self.full) {
                        self.moved.sends = now;
                    }
                    self.advance(sent, completions);
                }
                // The kernel remembers that it had no room and reports when it has room again.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    (self.writable, self.full) = (false, true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(os(&error)),
            }
        }
        Ok(())
    }

    /// Takes FPDUs from the queue pair until the batch is full.
    fn fill_batch(&mut self) -> Result<(), IwarpError> {
        let Some(qp) = &mut self.qp else {
            return Ok(());
        };
        let crc = qp.agreed().crc;
        let limit = if crc {
            BATCH_BYTES_WITH_CRC
        } else {
            BATCH_BYTES
        };
        let mut bytes: usize = self
            .out
            .iter()
            .map(|fpdu| fpdu.segment.payload.length as usize)
            .sum();
        while bytes < limit && self.out.len() < BATCH_FPDUS {
            let Some(segment) = qp.next_segment()? else {
                break;
            };
            bytes += segment.payload.length as usize;
            // The FPDU is queued first, so that it is flushed, too, if anything fails after this.
            self.out.push_back(OutFpdu::new(segment));
            if let (true, Some(fpdu)) = (crc, self.out.back_mut()) {
                fpdu.add_crc(qp.payload(&fpdu.segment)?)?;
            }
        }
        Ok(())
    }

    /// Drops the bytes that the socket has taken.
    fn advance(&mut self, sent: usize, completions: &mut Vec<Completion>) {
        self.out_sent += sent;
        while let Some(fpdu) = self.out.front() {
            let length = fpdu.length();
            if self.out_sent < length {
                break;
            }
            self.out_sent -= length;
            self.position += length as u64;
            match (fpdu.segment.completes, &mut self.unacknowledged) {
                (Some(send), Some(unacknowledged)) if send.done == Done::Send => {
                    unacknowledged.push(self.position, length, send.wr_id);
                }
                (completion, _) => completions.extend(completion),
            }
            self.out.pop_front();
        }
    }

    /// Returns whether SENDs wait to be acknowledged.
    pub(super) fn awaits_acknowledgement(&self) -> bool {
        let unacknowledged = self.unacknowledged.as_ref();
        unacknowledged.is_some_and(|unacknowledged| !unacknowledged.is_empty())
    }

    /// Returns whether the socket has no room for the bytes that have to be sent.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Asks the kernel how much of the stream is acknowledged, and completes the SENDs in that part.
    pub(super) fn ask_acknowledged(&mut self, now: Instant, completions: &mut Vec<Completion>) {
        let taken = self.position + self.out_sent as u64;
        let Some(unacknowledged) = &mut self.unacknowledged else {
            return;
        };
        // If the system does not say how much, everything counts as delivered.
        let rest = sys::unacknowledged(self.stream.as_fd()).unwrap_or(0);
        if unacknowledged.acknowledge(taken.saturating_sub(rest as u64), completions) {
            self.moved.sends = now;
        }
    }

    /// Takes the next SEND that the socket took, but that will not be acknowledged.
    pub(super) fn flush_unacknowledged(&mut self) -> Option<Completion> {
        self.unacknowledged.as_mut()?.flush()
    }

    /// Receives the bytes that the socket has, within the budget, and places them.
    fn receive(
        &mut self,
        scratch: &mut Scratch,
        completions: &mut Vec<Completion>,
    ) -> Result<(), CloseReason> {
        let Some(qp) = &mut self.qp else {
            return Ok(());
        };
        let mut budget = BUDGET;
        while budget > 0 {
            // In a stream of large FPDUs we receive only payload, to its target, and the header in between, so that the
            // next payload can go to its target as well.
            let large = qp.segment_length() >= DIRECT_BYTES;
            let direct = qp.target()?.filter(|_| large);
            let (vec, expected) = match direct {
                Some(target) => {
                    direct::prepare(qp, target, &mut scratch.iovecs, &mut scratch.input)?
                }
                None => {
                    let most = if large {
                        direct::TAIL
                    } else {
                        scratch.input.len()
                    };
                    let mut vec = scratch.iovecs.receive();
                    vec.push(scratch.input.get_mut(..most).unwrap_or_default());
                    (vec, 0)
                }
            };
            let room = vec.total();
            let received = match vec.receive(self.stream.as_fd()) {
                Ok(0) => {
                    self.readable = false;
                    return Err(match qp.is_between_fpdus() {
                        true => CloseReason::Peer,
                        false => CloseReason::Reset,
                    });
                }
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(os(&error)),
            };
            budget = budget.saturating_sub(received.max(CALL));
            match direct {
                Some(target) => {
                    direct::take(qp, target, expected, received, &scratch.input, completions)?;
                }
                None => parse(
                    qp,
                    scratch.input.get(..received).unwrap_or_default(),
                    completions,
                )?,
            }
            // So few bytes mean that the socket is empty. Later bytes will be announced again, but not the end of the
            // stream if that has already been announced.
            if direct.is_none() && received < room.min(LITTLE) && !self.read_closed {
                self.readable = false;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends a Terminate for `error` if the stream can carry one and the socket takes it at once (RFC 5040 5.4), after
    /// the rest of an FPDU that was begun.
    pub(super) fn send_terminate(&mut self, error: IwarpError, scratch: &mut Scratch) {
        let (Some(code), Some(qp), Stage::Established) =
            (error.terminate_code(), &self.qp, self.stage)
        else {
            return;
        };
        let terminate = match qp.failed_segment() {
            (_, []) => Terminate::new(code),
            (length, header) => Terminate::on_segment(code, length, header),
        };
        let terminate = fpdu::terminate_fpdu(&terminate, qp.agreed().crc);
        let mut vec = scratch.iovecs.send();
        let begun = self.out.front().filter(|_| self.out_sent > 0);
        if let Some(fpdu) = begun {
            let mut skip = self.out_sent;
            let pushed = qp
                .payload(&fpdu.segment)
                .and_then(|memory| fpdu.push(memory, &mut vec, &mut skip));
            if pushed.is_err() {
                return;
            }
        }
        vec.push(&terminate);
        // If the socket does not take the Terminate, the peer just sees that the connection ends.
        let _ = vec.send(self.stream.as_fd());
    }
}

/// Passes bytes of the stream to the queue pair, and places payload as it asks.
pub(super) fn parse(
    qp: &mut Qp<Memory>,
    mut input: &[u8],
    completions: &mut Vec<Completion>,
) -> Result<(), IwarpError> {
    loop {
        match qp.receive(&mut input)? {
            Step::More => return Ok(()),
            Step::Completed(completion) => completions.push(completion),
            Step::Place(_) if input.is_empty() => return Ok(()),
            Step::Place(target) => {
                let length = input.len().min(target.length as usize);
                let (payload, rest) = input.split_at(length);
                qp.memory(target)?
                    .write(target.offset as usize, payload)
                    .map_err(|_| IwarpError::LocalRegionGone)?;
                let crc = qp.crc().map_or(0, |crc| crc32c(crc, payload));
                // The length is at most that of the target.
                qp.placed(length as u32, crc);
                input = rest;
            }
        }
    }
}

/// Returns the largest ULPDU to send if the owner does not set a limit: its FPDU fits into one TCP segment.
fn ulpdu_of_one_tcp_segment(stream: &TcpStream) -> u16 {
    ulpdu_for_mss(socket2::SockRef::from(stream).tcp_mss().unwrap_or(536))
}

/// Returns the largest ULPDU, in steps of 4, whose FPDU fits into one TCP segment of `mss` bytes, which RNICs expect
/// (RFC 5044 5.1). Segments that are too long for an Ethernet frame do not go to an RNIC, and other peers accept any
/// FPDU.
fn ulpdu_for_mss(mss: u32) -> u16 {
    const LARGEST_FRAME: u32 = 9216;
    /// Length of the length field, the CRC, and the padding of a ULPDU that is a multiple of 4 long.
    const OVERHEAD: u32 = 2 + 2 + mpa::CRC_LENGTH as u32;
    match mss {
        LARGEST_FRAME.. => MAX_ULPDU,
        mss => u16::try_from(mss.saturating_sub(OVERHEAD) & !3).unwrap_or(MAX_ULPDU),
    }
}

pub(super) fn os(error: &io::Error) -> CloseReason {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::ConnectionAborted => {
            CloseReason::Reset
        }
        ErrorKind::ConnectionRefused => CloseReason::Refused,
        ErrorKind::TimedOut => CloseReason::ConnectTimeout,
        _ => CloseReason::Os(error.raw_os_error().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests;
