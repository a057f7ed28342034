// SPDX-License-Identifier: GPL-2.0-or-later

//! The receiving side: bytes of the stream become placed payload, completions and READ requests to answer.

use super::send::Response;
use super::{Completion, Done, Qp};
use crate::fabric::Access;
use crate::fabric::iwarp::IwarpError;
use crate::fabric::iwarp::ddp::{self, Control, Tagged, Untagged};
use crate::fabric::iwarp::mpa;
use crate::fabric::iwarp::rdmap::{Opcode, ReadRequest, Terminate, TerminateCode};
use crate::fabric::regions::Piece;

/// Length of the MPA length field and the two control bytes, which determine the length of the rest.
const FIRST: usize = 4;
/// Maximum number of bytes collected before the payload: a Terminate that carries a READ request back.
pub(super) const STASH: usize =
    FIRST + Untagged::LENGTH + 4 + 2 + 2 + Untagged::LENGTH + ReadRequest::LENGTH;

/// What [`Qp::receive`] needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The queue pair needs more bytes of the stream: it took all that there were.
    More,
    /// The next bytes of the stream belong in this piece: the owner places some or all of them in [`Qp::memory`], at
    /// once, and calls [`Qp::placed`].
    Place(Piece),
    /// A work request is done. Call again.
    Completed(Completion),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum Stage {
    Header,
    Payload,
    Trailer,
    /// Bytes that arrive are dropped.
    Closed,
}

/// The peer's message that is arriving on the queue of SENDs.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct IncomingSend {
    /// Number of bytes that have arrived.
    offset: u32,
    /// The first segment's opcode and token, which the others repeat.
    first: Option<(Opcode, u32)>,
}

/// The FPDU that is arriving.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Incoming {
    pub(super) control: Control,
    tagged: Tagged,
    untagged: Untagged,
    ulpdu_length: usize,
    /// The place of the rest of the payload.
    rest: Piece,
    /// Number of bytes of payload in the whole FPDU.
    pub(super) payload_length: u32,
    /// Whether the FPDU uses no receive, because it is the announced zero-length SEND of RFC 6581 9.
    swallow: bool,
}

#[cfg(feature = "broker")]
impl IncomingSend {
    /// Returns whether no more than `most` bytes have arrived.
    pub(super) const fn is_at_most(&self, most: u32) -> bool {
        self.offset <= most
    }
}

#[cfg(feature = "broker")]
impl Incoming {
    /// Returns whether the FPDU is no longer than `most` bytes.
    pub(super) const fn is_at_most(&self, most: u32) -> bool {
        self.payload_length <= most && self.ulpdu_length <= most as usize
    }
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            control: Control {
                opcode: Opcode::Send,
                last: true,
            },
            tagged: Tagged { stag: 0, offset: 0 },
            untagged: Untagged {
                invalidate: 0,
                queue: 0,
                msn: 0,
                mo: 0,
            },
            ulpdu_length: 0,
            rest: Piece::NOWHERE,
            payload_length: 0,
            swallow: false,
        }
    }
}

impl<M> Qp<M> {
    /// Takes bytes of the stream off the front of `input`, until it needs something else from its owner.
    ///
    /// # Errors
    ///
    /// The error names the rule that the peer broke, or is [`IwarpError::LocalRegionGone`]. Either ends the connection.
    pub fn receive(&mut self, input: &mut &[u8]) -> Result<Step, IwarpError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let step = self.advance(input);
        self.failed = step.as_ref().err().copied();
        step
    }

    fn advance(&mut self, input: &mut &[u8]) -> Result<Step, IwarpError> {
        loop {
            match self.stage {
                Stage::Header => {
                    if !collect(&mut self.stash, &mut self.stash_length, FIRST, input) {
                        return Ok(Step::More);
                    }
                    let header_length = self.header_length()?;
                    if !collect(
                        &mut self.stash,
                        &mut self.stash_length,
                        header_length,
                        input,
                    ) {
                        return Ok(Step::More);
                    }
                    self.begin_segment(header_length)?;
                }
                Stage::Payload if self.incoming.rest.length > 0 => {
                    self.check_target()?;
                    return Ok(Step::Place(self.incoming.rest));
                }
                Stage::Payload => {
                    self.stage = Stage::Trailer;
                    self.trailer_length = 0;
                }
                Stage::Trailer => {
                    let pad = mpa::pad(self.incoming.ulpdu_length);
                    if !collect(
                        &mut self.trailer,
                        &mut self.trailer_length,
                        pad + mpa::CRC_LENGTH,
                        input,
                    ) {
                        return Ok(Step::More);
                    }
                    self.check_crc(pad)?;
                    let completion = self.deliver()?;
                    self.stage = Stage::Header;
                    self.stash_length = 0;
                    self.may_send = true;
                    if let Some(completion) = completion {
                        return Ok(Step::Completed(completion));
                    }
                }
                Stage::Closed => {
                    // An initiator that sends has seen the reply, so this side may send now.
                    self.may_send |= !input.is_empty();
                    *input = &[];
                    return Ok(Step::More);
                }
            }
        }
    }

    /// Returns where the next bytes of the stream belong, if that is known and they are payload: the place that
    /// [`Qp::receive`] would return without any input.
    ///
    /// # Errors
    ///
    /// The errors of [`Qp::receive`]: the memory may have gone.
    pub fn target(&mut self) -> Result<Option<Piece>, IwarpError> {
        match self.receive(&mut &[][..])? {
            Step::Place(target) => Ok(Some(target)),
            // Without input nothing can be completed.
            Step::More | Step::Completed(_) => Ok(None),
        }
    }

    /// Takes note that the owner placed `length` bytes of the payload that [`Step::Place`] asked for; if [`Qp::crc`]
    /// was `Some`, `crc` is the CRC continued over them.
    pub fn placed(&mut self, length: u32, crc: u32) {
        let rest = &mut self.incoming.rest;
        let length = length.min(rest.length);
        rest.offset += length;
        rest.length -= length;
        self.crc = crc;
    }

    /// Returns the length of the largest payload of one FPDU in the message that is arriving or, between two messages,
    /// in the last one. This length shows whether to expect large FPDUs, although the last FPDU of a message may be
    /// small.
    #[must_use]
    pub const fn segment_length(&self) -> u32 {
        self.segment_length
    }

    /// Returns the CRC of the FPDU so far, if CRCs are in use.
    #[must_use]
    pub fn crc(&self) -> Option<u32> {
        self.agreed.crc.then_some(self.crc)
    }

    /// Returns whether the stream is between two FPDUs. A peer that closes in an orderly way ends the stream there.
    #[must_use]
    pub fn is_between_fpdus(&self) -> bool {
        self.stage == Stage::Header && self.stash_length == 0
    }

    /// Returns how many bytes of the first posted receive the peer has filled at most.
    #[cfg(feature = "broker")]
    pub(super) const fn filled(&self) -> u32 {
        let arriving = match self.stage {
            Stage::Payload | Stage::Trailer => self.incoming.payload_length,
            Stage::Header | Stage::Closed => 0,
        };
        self.incoming_send.offset.saturating_add(arriving)
    }

    /// Returns the ULPDU length of the FPDU that broke a rule, and the bytes of its ULPDU that were collected before
    /// the payload. A Terminate carries them back (RFC 5040 4.8). Both are empty if there is no such FPDU.
    #[must_use]
    pub fn failed_segment(&self) -> (u16, &[u8]) {
        if self.failed.is_none() {
            return (0, &[]);
        }
        let header = self.stash.get(mpa::FPDU_HEADER_LENGTH..self.stash_length);
        // The length was read from two bytes.
        let ulpdu_length = self.incoming.ulpdu_length as u16;
        (ulpdu_length, header.unwrap_or_default())
    }

    /// Reads the first four bytes; returns the length of everything before the payload.
    fn header_length(&mut self) -> Result<usize, IwarpError> {
        let [length_high, length_low, ddp, rdmap, ..] = self.stash;
        let ulpdu_length = usize::from(u16::from_be_bytes([length_high, length_low]));
        let incoming = &mut self.incoming;
        incoming.ulpdu_length = ulpdu_length;
        if ulpdu_length < 2 {
            return Err(IwarpError::DdpSegmentTooShort);
        }
        incoming.control = Control::parse([ddp, rdmap])?;
        let opcode = incoming.control.opcode;
        let header = 2 + if opcode.is_tagged() {
            Tagged::LENGTH
        } else {
            Untagged::LENGTH
        };
        if ulpdu_length < header {
            return Err(IwarpError::DdpSegmentTooShort);
        }
        match opcode {
            Opcode::ReadRequest if ulpdu_length != header + ReadRequest::LENGTH => {
                Err(IwarpError::RdmapReadRequestLength)
            }
            Opcode::Terminate if ulpdu_length < header + 4 || 2 + ulpdu_length > STASH => {
                Err(IwarpError::RdmapTerminateLength)
            }
            Opcode::ReadRequest | Opcode::Terminate => Ok(2 + ulpdu_length),
            _ => Ok(2 + header),
        }
    }

    /// Checks a complete header, and finds where the payload belongs.
    fn begin_segment(&mut self, header_length: usize) -> Result<(), IwarpError> {
        let header = self
            .stash
            .get(..header_length)
            .ok_or(IwarpError::DdpSegmentTooShort)?;
        if self.agreed.crc {
            self.crc = (self.crc32c)(0, header);
        }
        let incoming = &mut self.incoming;
        let opcode = incoming.control.opcode;
        let payload_length = 2 + incoming.ulpdu_length - header_length;
        // The length is at most 65,535, that of the largest ULPDU.
        incoming.payload_length = payload_length as u32;
        incoming.rest = Piece::NOWHERE;
        incoming.swallow = false;
        let rest = header.get(FIRST..).unwrap_or_default();
        if opcode.is_tagged() {
            let bytes = rest.first_chunk().ok_or(IwarpError::DdpSegmentTooShort)?;
            incoming.tagged = Tagged::parse(bytes);
        } else {
            let bytes = rest.first_chunk().ok_or(IwarpError::DdpSegmentTooShort)?;
            incoming.untagged = Untagged::parse(bytes);
        }
        self.incoming.rest = match opcode {
            Opcode::Write => self.begin_write()?,
            Opcode::ReadResponse => self.begin_read_response()?,
            Opcode::ReadRequest => self.begin_read_request()?,
            Opcode::Terminate => Piece::NOWHERE,
            _ => self.begin_send()?,
        };
        let goes_on = match opcode {
            Opcode::Write => self.incoming_write.is_some(),
            Opcode::ReadResponse => self.read_offset > 0,
            _ => self.incoming_send.offset > 0,
        };
        let before = if goes_on { self.segment_length } else { 0 };
        self.segment_length = before.max(self.incoming.payload_length);
        self.stage = Stage::Payload;
        Ok(())
    }

    /// Checks that the memory, which existed when the segment began, has not been deregistered by its owner since.
    fn check_target(&self) -> Result<(), IwarpError> {
        match self.memory(self.incoming.rest) {
            Ok(_) => Ok(()),
            Err(_) if self.incoming.control.opcode == Opcode::Write => {
                Err(IwarpError::DdpInvalidStag)
            }
            Err(error) => Err(error),
        }
    }

    fn begin_write(&self) -> Result<Piece, IwarpError> {
        let Incoming {
            tagged,
            payload_length,
            ..
        } = self.incoming;
        let goes_on = self
            .incoming_write
            .is_none_or(|expected| expected == tagged);
        if !goes_on || self.read_offset > 0 {
            return Err(IwarpError::RdmapInterleaved);
        }
        if payload_length == 0 {
            // A segment without payload moves nothing, and does not need a valid STag (RFC 5040 5.2).
            return Ok(Piece::NOWHERE);
        }
        let access = Access::RemoteWrite;
        let target = self
            .regions
            .resolve(tagged.stag, tagged.offset, payload_length, access);
        Ok(target?)
    }

    fn begin_read_response(&self) -> Result<Piece, IwarpError> {
        let Incoming {
            tagged,
            payload_length,
            control,
            ..
        } = self.incoming;
        if self.incoming_write.is_some() {
            return Err(IwarpError::RdmapInterleaved);
        }
        if self.outstanding == 0 {
            return Err(IwarpError::RdmapUnexpectedReadResponse);
        }
        let read = self
            .reads
            .front()
            .ok_or(IwarpError::RdmapUnexpectedReadResponse)?;
        let end = self
            .read_offset
            .checked_add(payload_length)
            .ok_or(IwarpError::RdmapReadResponseMismatch)?;
        // Each request named its MSN as the STag of its sink, with offsets that begin at 0.
        let oldest = self.read_msn.wrapping_sub(u32::from(self.outstanding));
        let matches = tagged.stag == oldest
            && tagged.offset == u64::from(self.read_offset)
            && end <= read.sink.length
            && control.last == (end == read.sink.length);
        if !matches {
            return Err(IwarpError::RdmapReadResponseMismatch);
        }
        if payload_length > 0 {
            self.memory(read.sink)?;
        }
        Ok(read.sink.part(self.read_offset, payload_length))
    }

    fn begin_send(&mut self) -> Result<Piece, IwarpError> {
        let Incoming {
            untagged,
            payload_length,
            control,
            ..
        } = self.incoming;
        if untagged.queue != ddp::QUEUE_SEND {
            return Err(IwarpError::DdpInvalidQueue);
        }
        if untagged.msn != self.recv_msn {
            return Err(IwarpError::DdpMsnRange);
        }
        if untagged.mo != self.incoming_send.offset {
            return Err(IwarpError::DdpInvalidMo);
        }
        let kind = match control.opcode.invalidates() {
            true => (control.opcode, untagged.invalidate),
            // The field is reserved.
            false => (control.opcode, 0),
        };
        if *self.incoming_send.first.get_or_insert(kind) != kind {
            return Err(IwarpError::RdmapInterleaved);
        }
        let ready_to_receive = Control {
            opcode: Opcode::Send,
            last: true,
        };
        if self.agreed.ready_to_receive_send
            && control == ready_to_receive
            && (untagged.msn, untagged.mo, payload_length) == (1, 0, 0)
        {
            self.incoming.swallow = true;
            return Ok(Piece::NOWHERE);
        }
        let (_, memory) = self.recvs.front().ok_or(IwarpError::DdpNoBuffer)?;
        let end = untagged
            .mo
            .checked_add(payload_length)
            .ok_or(IwarpError::DdpTooLong)?;
        if end > memory.length {
            return Err(IwarpError::DdpTooLong);
        }
        if payload_length > 0 {
            self.memory(*memory)?;
        }
        Ok(memory.part(untagged.mo, payload_length))
    }

    fn begin_read_request(&self) -> Result<Piece, IwarpError> {
        let Incoming {
            untagged, control, ..
        } = self.incoming;
        if untagged.queue != ddp::QUEUE_READ_REQUEST {
            return Err(IwarpError::DdpInvalidQueue);
        }
        if untagged.msn != self.recv_read_msn {
            return Err(IwarpError::DdpMsnRange);
        }
        if untagged.mo != 0 || !control.last {
            return Err(IwarpError::DdpInvalidMo);
        }
        Ok(Piece::NOWHERE)
    }

    fn check_crc(&self, pad: usize) -> Result<(), IwarpError> {
        if !self.agreed.crc {
            return Ok(());
        }
        let (pad, crc) = self
            .trailer
            .split_at_checked(pad)
            .ok_or(IwarpError::MpaCrc)?;
        let computed = (self.crc32c)(self.crc, pad);
        match crc.first_chunk() {
            Some(crc) if u32::from_le_bytes(*crc) == computed => Ok(()),
            _ => Err(IwarpError::MpaCrc),
        }
    }

    /// Delivers an FPDU that is whole and whose CRC is right.
    fn deliver(&mut self) -> Result<Option<Completion>, IwarpError> {
        match self.incoming.control.opcode {
            Opcode::Write => {
                self.deliver_write();
                Ok(None)
            }
            Opcode::ReadResponse => Ok(self.deliver_read_response()),
            Opcode::ReadRequest => self.deliver_read_request().map(|()| None),
            Opcode::Terminate => Err(self.deliver_terminate()),
            _ => self.deliver_send(),
        }
    }

    fn deliver_write(&mut self) {
        let Incoming {
            tagged,
            payload_length,
            control,
            ..
        } = self.incoming;
        let next = Tagged {
            offset: tagged.offset.wrapping_add(u64::from(payload_length)),
            ..tagged
        };
        self.incoming_write = (!control.last).then_some(next);
    }

    fn deliver_read_response(&mut self) -> Option<Completion> {
        self.read_offset += self.incoming.payload_length;
        if !self.incoming.control.last {
            self.response_segment = self.incoming.payload_length;
            return None;
        }
        self.read_offset = 0;
        self.outstanding = self.outstanding.saturating_sub(1);
        let read = self.reads.pop_front()?;
        Some(Completion {
            wr_id: read.wr_id,
            done: Done::Read,
        })
    }

    fn deliver_read_request(&mut self) -> Result<(), IwarpError> {
        let body = self
            .stash
            .get(FIRST + Untagged::LENGTH..)
            .and_then(|body| body.first_chunk());
        let request = ReadRequest::parse(body.ok_or(IwarpError::RdmapReadRequestLength)?);
        self.recv_read_msn = self.recv_read_msn.wrapping_add(1);
        if self.responses.len() >= usize::from(self.agreed.ird).min(self.depths.responses) {
            return Err(IwarpError::RdmapTooManyReads);
        }
        request
            .sink_offset
            .checked_add(u64::from(request.length))
            .ok_or(IwarpError::DdpOffsetWrap)?;
        let source = match request.length {
            0 => Piece::NOWHERE,
            length => self
                .regions
                .resolve(
                    request.source_stag,
                    request.source_offset,
                    length,
                    Access::RemoteRead,
                )
                .map_err(|fault| as_read_request_error(fault.into()))?,
        };
        let sink = Tagged {
            stag: request.sink_stag,
            offset: request.sink_offset,
        };
        self.responses.push_back(Response { sink, source });
        Ok(())
    }

    fn deliver_send(&mut self) -> Result<Option<Completion>, IwarpError> {
        let Incoming {
            untagged,
            payload_length,
            control,
            swallow,
            ..
        } = self.incoming;
        self.incoming_send.offset += payload_length;
        if !control.last {
            return Ok(None);
        }
        self.recv_msn = self.recv_msn.wrapping_add(1);
        let length = core::mem::take(&mut self.incoming_send).offset;
        if swallow {
            return Ok(None);
        }
        let invalidated = match control.opcode.invalidates() {
            true => {
                let token = self.regions.invalidate(untagged.invalidate);
                Some(token.ok_or(IwarpError::RdmapCannotInvalidate)?)
            }
            false => None,
        };
        let completion = self.recvs.pop_front().map(|(wr_id, _)| Completion {
            wr_id,
            done: Done::Recv {
                length,
                invalidated,
            },
        });
        Ok(completion)
    }

    fn deliver_terminate(&self) -> IwarpError {
        let body = self
            .stash
            .get(FIRST + Untagged::LENGTH..self.stash_length)
            .unwrap_or_default();
        match Terminate::parse(body) {
            Ok(TerminateCode { layer, etype, code }) => {
                IwarpError::PeerTerminated { layer, etype, code }
            }
            Err(error) => error,
        }
    }
}

/// Moves bytes from `input` until `buffer` holds `wanted`, which must not exceed its size.
fn collect(buffer: &mut [u8], length: &mut usize, wanted: usize, input: &mut &[u8]) -> bool {
    let missing = wanted.saturating_sub(*length);
    let (now, later) = input.split_at(missing.min(input.len()));
    if let Some(room) = buffer.get_mut(*length..*length + now.len()) {
        room.copy_from_slice(now);
        *length += now.len();
        *input = later;
    }
    *length >= wanted
}

/// Converts an error of a tagged segment, if a READ request caused it, into the READ request's own error.
const fn as_read_request_error(error: IwarpError) -> IwarpError {
    match error {
        IwarpError::DdpInvalidStag => IwarpError::RdmapInvalidStag,
        IwarpError::DdpBaseOrBounds | IwarpError::DdpOffsetWrap => IwarpError::RdmapBounds,
        other => other,
    }
}
