// SPDX-License-Identifier: GPL-2.0-or-later

//! The endpoint itself: which message is due in which state, and what each message changes.
//!
//! The endpoint joins the parts (ledger, reassembly, timers, negotiation), each of which knows only its own rules. [The
//! module](super) explains the call order, the time rules and the reasons for the credit rules.

use super::config::{Config, NEGOTIATE_RECEIVE_SIZE, Negotiated};
use super::credits::Ledger;
use super::error::{ProtocolError, SendError};
use super::negotiate;
use super::reassembly::{Placed, Reassembly};
use super::timers::{Liveness, MessageTime, Timers};
use super::{Received, State, Transmit};
use crate::units::{Credits, Instant, RemoteToken};
use crate::wire::{DataTransfer, NegotiateRequest, NegotiateResponse, STATUS_NOT_SUPPORTED};

/// Number of bytes from the start of a message that are enough for [`Endpoint::handle_head`]: the longest negotiate
/// message, and more than the header of any other.
pub const HEAD_LENGTH: usize = 32;

/// One end of an SMB Direct connection. See [the module](super) for how to drive it.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Endpoint {
    config: Config,
    phase: Phase,
    /// The result of the negotiation, which is kept when the connection closes.
    negotiated: Option<Negotiated>,
    credits: Ledger,
    /// The peer has been granted credits at some time. Until then the peer cannot send.
    peer_can_send: bool,
    reassembly: Reassembly,
    outgoing: Option<Outgoing>,
    /// The peer has asked for a message.
    respond: bool,
    /// The next message asks the peer for a message.
    ask: bool,
    timers: Timers,
}

/// The [`State`], and, within `Negotiating`, the side whose turn it is.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
enum Phase {
    /// Acceptor: no request has come.
    AwaitRequest,
    /// Acceptor: the sides have agreed; the response waits for receives to grant.
    Respond {
        agreed: Negotiated,
    },
    /// Acceptor: the sides have not agreed; the response, which says so, has to be sent.
    Refuse,
    /// Initiator: the request waits for a receive, which the response needs.
    Request,
    /// Initiator: the request has been sent.
    AwaitResponse,
    Established,
    /// The message in progress is still being sent.
    Closing,
    Closed,
}

/// The upper-layer message in progress.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
struct Outgoing {
    length: u32,
    /// Number of bytes that transmits have carried, which is less than `length`.
    sent: u32,
    invalidate: Option<RemoteToken>,
}

impl Endpoint {
    /// Makes the end that accepted the connection. `now` is the moment at which the RDMA connection was
    /// established: the negotiation timer runs from it.
    ///
    /// Values of `config` that are out of range are raised to the smallest legal ones.
    #[must_use]
    pub fn acceptor(config: Config, now: Instant) -> Self {
        Self::new(config, now, Phase::AwaitRequest)
    }

    /// Makes the end that connected; otherwise this is like [`Endpoint::acceptor`]. The end's request is sent when the
    /// first receive is posted.
    #[must_use]
    pub fn initiator(config: Config, now: Instant) -> Self {
        Self::new(config, now, Phase::Request)
    }

    fn new(config: Config, now: Instant, phase: Phase) -> Self {
        let config = config.raised();
        Self {
            config,
            phase,
            negotiated: None,
            credits: Ledger::new(config.receive_credit_max.0),
            peer_can_send: false,
            reassembly: Reassembly::default(),
            outgoing: None,
            respond: false,
            ask: false,
            timers: Timers::new(now + config.negotiation_timeout),
        }
    }

    /// Returns the state of the endpoint.
    #[must_use]
    pub fn state(&self) -> State {
        match self.phase {
            Phase::AwaitRequest | Phase::Respond { .. } | Phase::Request | Phase::AwaitResponse => {
                State::Negotiating
            }
            Phase::Established => State::Established,
            Phase::Refuse | Phase::Closing => State::Closing,
            Phase::Closed => State::Closed,
        }
    }

    /// Returns the result of the negotiation once it is complete from this side's view (an acceptor has sent its
    /// response, or an initiator has accepted it), and from then on, even when the endpoint is closed.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// Returns the number of messages that this side may send.
    #[must_use]
    pub fn send_credits(&self) -> Credits {
        Credits(self.credits.send())
    }

    /// Returns the number of messages that the peer may send: those granted, minus those that have arrived.
    #[must_use]
    pub fn receive_credits(&self) -> Credits {
        Credits(self.credits.granted())
    }

    /// Returns the number of posted receives that no handled message has used.
    #[must_use]
    pub fn receives_posted(&self) -> u16 {
        self.credits.posted()
    }

    /// Returns whether a message is in progress: it was started, and its last byte is not in a [`Transmit`] yet.
    #[must_use]
    pub fn is_sending(&self) -> bool {
        self.outgoing.is_some()
    }

    /// Returns whether a part of a message has arrived, and more of it is to come.
    #[must_use]
    pub const fn is_receiving(&self) -> bool {
        self.reassembly.is_incomplete()
    }

    /// Returns the number of bytes that each receive posted from now on must hold: [`NEGOTIATE_RECEIVE_SIZE`] while the
    /// peer's part of the negotiation is awaited, then `max_receive_size`.
    #[must_use]
    pub fn receive_size(&self) -> u32 {
        match (&self.phase, &self.negotiated) {
            (Phase::Respond { agreed }, _) | (_, Some(agreed)) => agreed.max_receive_size,
            _ => NEGOTIATE_RECEIVE_SIZE,
        }
    }

    /// Returns how many receives should be posted now; the owner posts as many as it has buffers for, and reports how
    /// many. If it posts fewer, the peer may send less.
    #[must_use]
    pub fn receives_wanted(&self) -> u16 {
        match self.phase {
            Phase::Refuse | Phase::Closed => 0,
            _ => self.credits.wanted(),
        }
    }

    /// From now on, limits the receives that this side posts, and so grants, to `max`. This is for an owner that does
    /// not trust every peer with the configured maximum from the start. Credits that were granted stay granted.
    pub fn set_receive_credit_max(&mut self, max: Credits) {
        self.credits.set_max(max.0);
    }

    /// Takes note that `count` receives of [`Endpoint::receive_size`] bytes are posted, which may be granted from now
    /// on. A receive that was posted before the endpoint existed counts, too. More may be posted than were wanted, but
    /// those beyond the configured maximum are not granted.
    pub fn handle_receives_posted(&mut self, count: u16) {
        self.credits.add_posted(count);
    }

    /// Handles a message that was received. In [`State::Closed`] it is ignored.
    ///
    /// # Errors
    ///
    /// Every [`ProtocolError`] except the timeouts. The endpoint is then closed, and the owner ends the connection.
    #[inline]
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: &[u8],
    ) -> Result<Received, ProtocolError> {
        self.handle_head(
            now,
            message,
            u32::try_from(message.len()).unwrap_or(u32::MAX),
        )
    }

    /// Handles a message of `length` bytes. `head` holds the first [`HEAD_LENGTH`] bytes, or all bytes of a shorter
    /// message: an owner copies that many out of memory that others may write. The payload belongs to the owner, and is
    /// never looked at here.
    ///
    /// # Errors
    ///
    /// The errors of [`Endpoint::handle_message`].
    #[inline]
    pub fn handle_head(
        &mut self,
        now: Instant,
        head: &[u8],
        length: u32,
    ) -> Result<Received, ProtocolError> {
        // Bytes after the message in the owner's memory are not part of it.
        let head = usize::try_from(length)
            .ok()
            .and_then(|length| head.get(..length))
            .unwrap_or(head);
        let result = match self.phase {
            Phase::Established | Phase::Closing => self.handle_data(now, head, length),
            Phase::AwaitRequest => self.handle_request(head),
            Phase::AwaitResponse => self.handle_response(now, head),
            Phase::Respond { .. } | Phase::Refuse | Phase::Request => Err(ProtocolError::OutOfTurn),
            // The peer sent the message before it could know of the close, so this is a race and not an error.
            Phase::Closed => Ok(Received::Credits),
        };
        result.inspect_err(|_| self.phase = Phase::Closed)
    }

    /// Does the work that is due at `now`; has no effect before [`Endpoint::poll_timeout`].
    ///
    /// # Errors
    ///
    /// [`ProtocolError::NegotiationTimeout`], [`ProtocolError::KeepaliveTimeout`], [`ProtocolError::CreditTimeout`],
    /// [`ProtocolError::MessageTimeout`]. The endpoint is then closed, and the owner ends the connection.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if matches!(self.phase, Phase::Closed) {
            return Ok(());
        }
        let result = self.expire(now);
        result.inspect_err(|_| self.phase = Phase::Closed)
    }

    /// Returns when `handle_timeout` must be called, unless something else happens before; `None` when the endpoint is
    /// closed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closed => None,
            _ => Some(self.timers.next()),
        }
    }

    /// Begins to send an upper-layer message of `length` bytes. The owner keeps the bytes until the SENDs of all
    /// transmits of the message have completed. The last SEND invalidates `invalidate`, a token of the peer: the
    /// token's memory stays accessible while the fragments arrive, but not once the message is complete, so that the
    /// peer never sees the whole message without the invalidation.
    ///
    /// # Errors
    ///
    /// Every [`SendError`]; in that case, nothing has changed.
    pub fn start_message(
        &mut self,
        length: u32,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), SendError> {
        let (Phase::Established, Some(negotiated)) = (self.phase, &self.negotiated) else {
            return Err(SendError::NotEstablished);
        };
        if self.outgoing.is_some() {
            return Err(SendError::Busy);
        }
        if length == 0 {
            return Err(SendError::Empty);
        }
        if length > negotiated.max_fragmented_send_size {
            return Err(SendError::TooLong);
        }
        self.outgoing = Some(Outgoing {
            length,
            sent: 0,
            invalidate,
        });
        Ok(())
    }

    /// Returns the next message to send, as one SEND; `None` if there is none now. Call this until it returns `None`,
    /// because a wait for credits begins with the call that returns `None`.
    #[inline]
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        match self.phase {
            Phase::Established | Phase::Closing => self.transmit_data(now),
            Phase::Request if self.credits.posted() > 0 => {
                self.phase = Phase::AwaitResponse;
                Some(Transmit::bare(
                    &negotiate::request(&self.config).emit(),
                    NegotiateRequest::LENGTH,
                ))
            }
            Phase::Respond { agreed } if self.credits.posted() > 0 => {
                let granted = self.credits.grant_in_response();
                self.peer_can_send = true;
                self.establish(now, agreed);
                Some(Transmit::bare(
                    &negotiate::response(&self.config, &agreed, granted).emit(),
                    NegotiateResponse::LENGTH,
                ))
            }
            Phase::Refuse => {
                self.phase = Phase::Closed;
                Some(Transmit::bare(
                    &NegotiateResponse::refusal(STATUS_NOT_SUPPORTED).emit(),
                    NegotiateResponse::LENGTH,
                ))
            }
            Phase::Respond { .. }
            | Phase::AwaitRequest
            | Phase::Request
            | Phase::AwaitResponse
            | Phase::Closed => None,
        }
    }

    /// Stops taking new messages. The message in progress, or the refusal of a negotiation, is still sent before the
    /// endpoint closes; if there is neither, the endpoint closes at once. Messages of the peer are handled until then,
    /// since they may bring the missing credits.
    pub fn close(&mut self) {
        self.phase = match self.phase {
            Phase::Refuse => Phase::Refuse,
            Phase::Established | Phase::Closing if self.outgoing.is_some() => Phase::Closing,
            _ => Phase::Closed,
        };
    }

    /// Returns whether the endpoint may be written down, and continued by another process with the same clock: it is
    /// established, and its numbers can be right.
    #[cfg(feature = "broker")]
    #[must_use]
    pub fn may_keep(&self) -> bool {
        let (Phase::Established, Some(negotiated)) = (self.phase, &self.negotiated) else {
            return false;
        };
        let most = negotiated.max_fragmented_send_size;
        let outgoing = self.outgoing.as_ref();
        self.credits.is_sound()
            && self
                .reassembly
                .is_sound(negotiated.max_fragmented_receive_size)
            && outgoing
                .is_none_or(|message| message.sent < message.length && message.length <= most)
            && self.config == self.config.raised()
    }

    fn establish(&mut self, now: Instant, negotiated: Negotiated) {
        self.negotiated = Some(negotiated);
        self.phase = Phase::Established;
        self.timers
            .start(Liveness::Idle, now + self.config.idle_timeout);
    }

    /// Handles a negotiate request ([MS-SMBD] 3.1.5.6).
    fn handle_request(&mut self, message: &[u8]) -> Result<Received, ProtocolError> {
        let request = NegotiateRequest::parse(message)?;
        self.credits.take_negotiate();
        self.phase = match negotiate::accept_request(&self.config, &request)? {
            None => Phase::Refuse,
            Some(agreed) => {
                self.credits.set_requested(request.credits_requested.0);
                Phase::Respond { agreed }
            }
        };
        Ok(Received::Negotiate)
    }

    /// Handles a negotiate response ([MS-SMBD] 3.1.5.7).
    fn handle_response(&mut self, now: Instant, message: &[u8]) -> Result<Received, ProtocolError> {
        let response = NegotiateResponse::parse(message)?;
        self.credits.take_negotiate();
        let agreed = negotiate::accept_response(&self.config, &response)?;
        self.credits.set_requested(response.credits_requested.0);
        self.credits.add_send(response.credits_granted.0)?;
        self.establish(now, agreed);
        Ok(Received::Negotiate)
    }

    /// Handles a data transfer message ([MS-SMBD] 3.1.5.8).
    #[inline]
    fn handle_data(
        &mut self,
        now: Instant,
        head: &[u8],
        length: u32,
    ) -> Result<Received, ProtocolError> {
        let Some(negotiated) = &self.negotiated else {
            return Err(ProtocolError::OutOfTurn);
        };
        let data = DataTransfer::parse_head(head, length)?;
        if length > negotiated.max_receive_size {
            return Err(ProtocolError::MessageTooLong);
        }
        self.credits.take_message(data.credits_granted.0)?;
        self.credits.set_requested(data.credits_requested.0);
        let received = if data.total_length() == 0 {
            // An empty message is harmless even between the fragments of another: some peers send credits there.
            Received::Credits
        } else {
            let Placed { offset, total } = self.reassembly.take(
                data.data_length(),
                data.remaining_data_length,
                negotiated.max_fragmented_receive_size,
            )?;
            self.timers.message = self.reassembly.is_incomplete().then(|| {
                let began = self.timers.message;
                began.unwrap_or_else(|| MessageTime::Until(now + self.config.message_time(total)))
            });
            match data.payload.is_empty() {
                // A fragment without bytes begins or continues a message like any other, and holds nothing for the
                // owner.
                true => Received::Credits,
                false => Received::Fragment {
                    payload: data.payload.clone(),
                    offset,
                    total,
                },
            }
        };
        if data.credits_granted > Credits::ZERO {
            self.timers.credits = None;
        }
        self.respond |= data.response_requested();
        self.ask = false;
        self.timers
            .set_silent(now, self.credits.keeps_peer_silent());
        self.timers
            .start(Liveness::Idle, now + self.config.idle_timeout);
        Ok(received)
    }

    /// Handles the timer events ([MS-SMBD] 3.1.6).
    fn expire(&mut self, now: Instant) -> Result<(), ProtocolError> {
        if self.timers.credits.is_some_and(|deadline| deadline <= now) {
            return Err(ProtocolError::CreditTimeout);
        }
        let message = self.timers.message_deadline();
        if message.is_some_and(|deadline| deadline <= now) {
            return Err(ProtocolError::MessageTimeout);
        }
        if self.timers.deadline > now {
            return Ok(());
        }
        match self.timers.liveness {
            Liveness::Negotiation => Err(ProtocolError::NegotiationTimeout),
            Liveness::Keepalive => Err(ProtocolError::KeepaliveTimeout),
            Liveness::Idle => {
                self.ask = true;
                // The peer has no credit to answer with, or cannot be asked, because this side's owner lacks memory for
                // receives, so its silence means nothing. The question is still sent if possible, because it shows the
                // peer that this side lives.
                if self.credits.lacks_receives() {
                    self.timers
                        .start(Liveness::Idle, now + self.config.idle_timeout);
                } else {
                    // Without a send credit the question cannot be asked, but the time runs anyway: a live peer owes
                    // credits, or asks its own question.
                    self.timers
                        .start(Liveness::Keepalive, now + self.config.keepalive_timeout);
                }
                Ok(())
            }
        }
    }

    /// Makes the next message of an established connection ([MS-SMBD] 3.1.5.1).
    #[inline]
    fn transmit_data(&mut self, now: Instant) -> Option<Transmit> {
        if self.outgoing.is_none() && !self.respond && !self.ask && !self.credits.owes_credits() {
            return None;
        }
        let Some(grant) = self.credits.next_grant() else {
            // A side that could send but has nothing to grant waits for its own owner, which is not the peer's fault.
            if self.outgoing.is_some() && self.credits.send() == 0 {
                self.timers
                    .credits
                    .get_or_insert(now + self.config.credit_timeout);
            }
            return None;
        };
        if grant == 0 && !self.peer_can_send {
            return None;
        }
        self.credits.spend(grant);
        self.timers
            .set_silent(now, self.credits.keeps_peer_silent());
        self.peer_can_send = true;
        self.respond = false;
        let flags = if self.ask {
            DataTransfer::RESPONSE_REQUESTED
        } else {
            0
        };
        self.ask = false;
        Some(self.fragment(grant, flags))
    }

    /// Makes a message with the next piece of the message in progress, or an empty one if there is none.
    #[inline]
    fn fragment(&mut self, grant: u16, flags: u16) -> Transmit {
        let (payload, length, invalidate) = match &self.outgoing {
            Some(message) => {
                let end = message
                    .sent
                    .saturating_add(self.payload_max())
                    .min(message.length);
                (message.sent..end, message.length, message.invalidate)
            }
            None => (0..0, 0, None),
        };
        let data = DataTransfer {
            credits_requested: self.config.send_credit_target,
            credits_granted: Credits(grant),
            flags,
            remaining_data_length: length.saturating_sub(payload.end),
            payload: DataTransfer::payload_of(payload.end.saturating_sub(payload.start)),
        };
        let (header, header_length) = data.emit();
        let ends_message = self.outgoing.is_some() && payload.end == length;
        if ends_message {
            self.finish_message();
        } else if let Some(message) = &mut self.outgoing {
            message.sent = payload.end;
        }
        Transmit {
            payload,
            invalidate: invalidate.filter(|_| ends_message),
            ends_message,
            ..Transmit::bare(&header, header_length)
        }
    }

    /// Returns the maximum number of bytes of a message in progress that one transmit carries: at least 104.
    #[inline]
    fn payload_max(&self) -> u32 {
        let size = self
            .negotiated
            .map_or(0, |negotiated| negotiated.max_send_size);
        size.saturating_sub(DataTransfer::PAYLOAD_OFFSET).max(1)
    }

    fn finish_message(&mut self) {
        self.outgoing = None;
        if matches!(self.phase, Phase::Closing) {
            self.phase = Phase::Closed;
        }
    }
}

#[cfg(test)]
mod tests;
