//! One connection: its socket, its handshake, its queue pair, and the bytes in between.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;

use mio::net::TcpStream;

use crate::fabric::iwarp::handshake::{self, Agreed, MAX_OUTGOING, Offer, Outgoing, Request};
use crate::fabric::iwarp::mpa::{
    self, Crc32c, FRAME_HEADER_LENGTH, Frame, FrameKind, MAX_PRIVATE_DATA,
};
use crate::fabric::iwarp::qp::{Completion, MAX_ULPDU, Qp, Segment, Step};
use crate::fabric::iwarp::rdmap::Terminate;
use crate::fabric::iwarp::{IwarpError, ddp};
use crate::fabric::{CloseReason, ListenerId, Sge};
use crate::sys::{IoVecs, MAX_IOVECS, Memory};
use crate::units::Instant;

/// FPDUs in one system call, each of three pieces.
const BATCH_FPDUS: usize = MAX_IOVECS / 3;
/// Bytes in one system call, but for the last FPDU: enough to make its cost small, and little
/// enough that CRCs are computed over what the call then finds in the cache.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_BYTES_WITH_CRC: usize = 1 << 18;
/// Payload from this size on is received straight into its target; below, one copy costs less
/// than the system calls it saves.
const DIRECT_BYTES: u32 = 8 * 1024;
/// What follows such a payload: padding, CRC, and the header of the next.
const DIRECT_TAIL: usize = 3 + mpa::CRC_LENGTH + 20;
/// Bytes received on one connection before others have their turn.
const RECEIVE_BUDGET: usize = 4 << 20;

pub(super) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}

const _: Crc32c = crc32c;

/// What the connections of a fabric use in turn.
pub(super) struct Scratch {
    input: Box<[u8]>,
    iovecs: IoVecs,
    /// Room for the FPDUs of a connection that sends; one whose socket is full keeps it.
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

/// An FPDU on its way into the socket.
struct OutFpdu {
    segment: Segment,
    /// What the payload lies in, kept alive.
    memory: Option<Memory>,
    /// Padding and CRC.
    trailer: [u8; 8],
    trailer_length: usize,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Stage {
    /// TCP connects.
    Connecting(Offer),
    /// The MPA request was sent.
    AwaitsReply(Offer),
    /// TCP is connected; the MPA request has not arrived.
    AwaitsRequest,
    /// The owner accepts or rejects.
    Requested(Request),
    /// Data flows.
    Established,
    /// The owner closed it: what was posted still goes out.
    Draining,
}

/// What pumping a connection brought forward.
pub(super) enum Progress {
    /// Nothing that its owner must know, but for completions.
    None,
    /// The MPA request is here.
    Requested,
    /// Established.
    Established(Agreed),
}

pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) listener: Option<ListenerId>,
    pub(super) stage: Stage,
    /// Made when the connection is announced to its owner.
    pub(super) qp: Option<Box<Qp>>,
    /// The memory of region `n`.
    pub(super) memories: Vec<Option<Memory>>,
    pub(super) deadline: Option<Instant>,
    /// It is in the list of connections with something to do.
    pub(super) queued: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has sent its last byte; nothing will announce the end of the stream again.
    pub(super) read_closed: bool,
    max_ulpdu: Option<u16>,
    /// The frame of the handshake, as far as it has arrived.
    frame: Vec<u8>,
    out: VecDeque<OutFpdu>,
    /// Bytes of the FPDU in front of `out` that are in the socket.
    out_sent: usize,
}

impl Conn {
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
            memories: Vec::new(),
            deadline: None,
            queued: false,
            readable: false,
            writable: false,
            read_closed: false,
            max_ulpdu,
            frame: Vec::new(),
            out: VecDeque::new(),
            out_sent: 0,
        }
    }

    /// Takes the next work request that was handed to the socket and did not get through.
    pub(super) fn flush_output(&mut self) -> Option<Completion> {
        while let Some(fpdu) = self.out.pop_front() {
            if fpdu.segment.completes.is_some() {
                return fpdu.segment.completes;
            }
        }
        None
    }

    /// Whether there is something to do without the socket reporting anything new.
    pub(super) fn has_work(&self) -> bool {
        let output = !self.out.is_empty() || self.qp.as_ref().is_some_and(|qp| qp.has_segment());
        self.readable && self.receives() || self.writable && output && self.sends()
    }

    /// Whether all that was posted has gone out.
    pub(super) fn is_drained(&self) -> bool {
        self.out.is_empty() && self.qp.as_ref().is_none_or(|qp| !qp.has_sends())
    }

    pub(super) fn sends(&self) -> bool {
        matches!(self.stage, Stage::Established | Stage::Draining)
    }

    fn receives(&self) -> bool {
        !matches!(self.stage, Stage::Draining | Stage::Requested(_))
    }

    /// Goes on with the handshake, as far as it gets.
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
            Stage::Requested(_) if self.read_closed => return Err(CloseReason::Peer),
            _ => return Ok(Progress::None),
        };
        if !self.receive_frame(kind)? {
            return Ok(Progress::None);
        }
        let bytes = std::mem::take(&mut self.frame);
        let frame = Frame::parse(kind, &bytes)?;
        if let Stage::AwaitsReply(offer) = self.stage {
            let agreed = match handshake::handle_reply(&frame, offer) {
                Err(IwarpError::MpaRejected) => return Err(CloseReason::Refused),
                agreed => agreed?,
            };
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

    /// Sends a frame of the handshake, which an empty socket buffer always has room for.
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

    /// Sends FPDUs until there are none or the socket is full.
    pub(super) fn send(
        &mut self,
        scratch: &mut Scratch,
        completions: &mut Vec<Completion>,
    ) -> Result<(), CloseReason> {
        if self.out.capacity() == 0 {
            std::mem::swap(&mut self.out, &mut scratch.out);
        }
        let result = self.send_batches(&mut scratch.iovecs, completions);
        if self.out.is_empty() {
            // Idle connections hold no queue. One that blocked kept its own, and gives it up now.
            let out = std::mem::take(&mut self.out);
            if scratch.out.capacity() == 0 {
                scratch.out = out;
            }
        }
        result
    }

    fn send_batches(
        &mut self,
        iovecs: &mut IoVecs,
        completions: &mut Vec<Completion>,
    ) -> Result<(), CloseReason> {
        while self.writable {
            self.fill_batch()?;
            if self.out.is_empty() {
                break;
            }
            let mut vec = iovecs.send();
            let mut skip = self.out_sent;
            for fpdu in &self.out {
                fpdu.push(&mut vec, &mut skip)
                    .map_err(|_| CloseReason::Local)?;
            }
            let total = vec.total();
            match vec.send(self.stream.as_fd()) {
                Ok(sent) => {
                    // The kernel remembers that it had no room and reports when it has again.
                    self.writable = sent == total;
                    self.advance(sent, completions);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(os(&error)),
            }
        }
        Ok(())
    }

    /// Takes FPDUs from the queue pair until the batch is full.
    fn fill_batch(&mut self) -> Result<(), CloseReason> {
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
            let Some(segment) = qp.next_segment() else {
                break;
            };
            bytes += segment.payload.length as usize;
            self.out
                .push_back(OutFpdu::new(segment, &self.memories, crc)?);
        }
        Ok(())
    }

    /// Drops what the socket has taken.
    fn advance(&mut self, sent: usize, completions: &mut Vec<Completion>) {
        self.out_sent += sent;
        while let Some(fpdu) = self.out.front() {
            let length = fpdu.length();
            if self.out_sent < length {
                break;
            }
            self.out_sent -= length;
            completions.extend(fpdu.segment.completes);
            self.out.pop_front();
        }
    }

    /// Takes what the socket has, within the budget, and places it.
    pub(super) fn receive(
        &mut self,
        scratch: &mut Scratch,
        completions: &mut Vec<Completion>,
    ) -> Result<(), CloseReason> {
        let Self {
            qp: Some(qp),
            memories,
            stream,
            ..
        } = self
        else {
            return Ok(());
        };
        let mut budget = RECEIVE_BUDGET;
        while budget > 0 {
            let direct = match qp.receive(&mut &[][..])? {
                Step::Place(target) if target.length >= DIRECT_BYTES => Some(target),
                _ => None,
            };
            let mut vec = scratch.iovecs.receive();
            let tail = match direct {
                Some(target) => {
                    let memory = memory(memories, target)?;
                    vec.push_memory(memory, target.offset as usize, target.length as usize)
                        .map_err(|_| CloseReason::Local)?;
                    scratch.input.get_mut(..DIRECT_TAIL).unwrap_or_default()
                }
                None => &mut scratch.input[..],
            };
            vec.push(tail);
            let room = vec.total();
            let received = match vec.receive(stream.as_fd()) {
                Ok(0) => {
                    self.readable = false;
                    return Err(if qp.is_between_fpdus() {
                        CloseReason::Peer
                    } else {
                        CloseReason::Reset
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
            budget = budget.saturating_sub(received);
            let mut input = scratch.input.get(..received).unwrap_or(&scratch.input);
            if let Some(target) = direct {
                let placed = received.min(target.length as usize);
                placed_directly(qp, memories, target, placed)?;
                input = scratch.input.get(..received - placed).unwrap_or_default();
            }
            parse(qp, memories, input, completions)?;
            // A short read emptied the socket: what comes later is announced anew, but for the
            // end of the stream if that has been announced already.
            if received < room && !self.read_closed {
                self.readable = false;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Sends a Terminate for `error` if the stream is where one can begin and the socket takes it
    /// at once (RFC 5040 5.4).
    pub(super) fn send_terminate(&mut self, error: IwarpError) {
        let (Some(code), Some(qp)) = (error.terminate_code(), &self.qp) else {
            return;
        };
        if self.out_sent > 0 || !matches!(self.stage, Stage::Established) {
            return;
        }
        let (segment_length, header) = qp.last_segment();
        let terminate = match header {
            [] => Terminate::new(code),
            header => Terminate::on_segment(code, segment_length, header),
        };
        let fpdu = terminate_fpdu(&terminate, qp.agreed().crc);
        // Whoever does not take it sees the connection end.
        let _ = (&self.stream).write(&fpdu);
    }
}

/// The bytes of a Terminate message.
fn terminate_fpdu(terminate: &Terminate, crc: bool) -> Vec<u8> {
    let control = ddp::Control {
        opcode: crate::fabric::iwarp::rdmap::Opcode::Terminate,
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
    // Far below 65,536.
    fpdu.extend((ulpdu_length as u16).to_be_bytes());
    fpdu.extend(control.emit());
    fpdu.extend(header.emit());
    fpdu.extend(body);
    fpdu.resize(fpdu.len() + mpa::pad(ulpdu_length), 0);
    let crc = if crc { crc32c(0, &fpdu) } else { 0 };
    fpdu.extend(crc.to_le_bytes());
    fpdu
}

impl OutFpdu {
    fn new(segment: Segment, memories: &[Option<Memory>], crc: bool) -> Result<Self, CloseReason> {
        let payload = segment.payload;
        let memory = match payload.length {
            0 => None,
            _ => Some(memory(memories, payload)?.clone()),
        };
        let pad = mpa::pad(segment.ulpdu_length());
        let mut trailer = [0; 8];
        if crc {
            let mut sum = crc32c(0, segment.header());
            if let Some(memory) = &memory {
                memory
                    .for_each_chunk(payload.offset as usize, payload.length as usize, |chunk| {
                        sum = crc32c(sum, chunk)
                    })
                    .map_err(|_| CloseReason::Local)?;
            }
            sum = crc32c(sum, trailer.get(..pad).unwrap_or_default());
            if let Some(room) = trailer.get_mut(pad..pad + mpa::CRC_LENGTH) {
                room.copy_from_slice(&sum.to_le_bytes());
            }
        }
        Ok(Self {
            segment,
            memory,
            trailer,
            trailer_length: pad + mpa::CRC_LENGTH,
        })
    }

    fn length(&self) -> usize {
        self.segment.header().len() + self.segment.payload.length as usize + self.trailer_length
    }

    /// Adds what lies behind the first `skip` bytes, and takes from `skip` what it skipped.
    fn push<'a>(
        &'a self,
        vec: &mut crate::sys::SendVec<'a>,
        skip: &mut usize,
    ) -> Result<(), crate::sys::OutOfRange> {
        let mut rest = |length: usize| {
            let skipped = length.min(*skip);
            *skip -= skipped;
            skipped
        };
        let header = self.segment.header();
        vec.push(header.get(rest(header.len())..).unwrap_or_default());
        if let Some(memory) = &self.memory {
            let Sge { offset, length, .. } = self.segment.payload;
            let skipped = rest(length as usize);
            vec.push_memory(memory, offset as usize + skipped, length as usize - skipped)?;
        }
        vec.push(
            self.trailer
                .get(rest(self.trailer_length)..self.trailer_length)
                .unwrap_or_default(),
        );
        Ok(())
    }
}

/// Hands bytes of the stream to the queue pair and places payload as it asks.
fn parse(
    qp: &mut Qp,
    memories: &[Option<Memory>],
    mut input: &[u8],
    completions: &mut Vec<Completion>,
) -> Result<(), CloseReason> {
    loop {
        match qp.receive(&mut input)? {
            Step::More => return Ok(()),
            Step::Completed(completion) => completions.push(completion),
            Step::Place(_) if input.is_empty() => return Ok(()),
            Step::Place(target) => {
                let length = input.len().min(target.length as usize);
                let (payload, rest) = input.split_at(length);
                memory(memories, target)?
                    .write(target.offset as usize, payload)
                    .map_err(|_| CloseReason::Local)?;
                let crc = qp.crc().map_or(0, |crc| crc32c(crc, payload));
                // At most the length of the target.
                qp.placed(length as u32, crc);
                input = rest;
            }
        }
    }
}

/// Tells the queue pair what the socket put into the target.
fn placed_directly(
    qp: &mut Qp,
    memories: &[Option<Memory>],
    target: Sge,
    placed: usize,
) -> Result<(), CloseReason> {
    let mut sum = qp.crc();
    if let Some(sum) = &mut sum {
        memory(memories, target)?
            .for_each_chunk(target.offset as usize, placed, |chunk| {
                *sum = crc32c(*sum, chunk)
            })
            .map_err(|_| CloseReason::Local)?;
    }
    // At most the length of the target.
    qp.placed(placed as u32, sum.unwrap_or(0));
    Ok(())
}

/// The memory of a region. It is gone only where the owner deregistered what it had posted.
fn memory(memories: &[Option<Memory>], sge: Sge) -> Result<&Memory, CloseReason> {
    memories
        .get(sge.region.0 as usize)
        .and_then(Option::as_ref)
        .ok_or(CloseReason::Local)
}

/// The largest ULPDU whose FPDU fits into one TCP segment, which RNICs expect (RFC 5044 5.1). No
/// RNIC is behind segments that no Ethernet frame holds: such a peer takes any FPDU.
fn ulpdu_of_one_tcp_segment(stream: &TcpStream) -> u16 {
    const LARGEST_FRAME: u32 = 9216;
    let mss = socket2::SockRef::from(stream).tcp_mss().unwrap_or(536);
    let overhead = 2 + mpa::CRC_LENGTH as u32;
    match mss {
        LARGEST_FRAME.. => MAX_ULPDU,
        mss => u16::try_from(mss.saturating_sub(overhead)).unwrap_or(MAX_ULPDU),
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
