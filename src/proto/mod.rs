// SPDX-License-Identifier: GPL-2.0-or-later

//! The SMB Direct endpoint of [MS-SMBD]: negotiation, credits, fragments and timers, without I/O.
//!
//! An [`Endpoint`] is one end of one connection, acceptor or initiator: a plain value of some two
//! hundred bytes that owns no buffer, no queue, no socket and no clock, and never allocates. Its
//! *owner* has all of those; it tells the endpoint what happened and asks it what to do. The
//! endpoint is apart from the transport so that two hours of a connection, with all their faults,
//! can be simulated in a millisecond, and so that a kernel could use it.
//!
//! It must never do I/O, read a clock, look at a payload, or panic on anything that a peer sends.
//!
//! # Methods and their order
//!
//! - *Getters* tell about the state and change nothing: [`state`](Endpoint::state),
//!   [`negotiated`](Endpoint::negotiated), [`send_credits`](Endpoint::send_credits) and others.
//! - *Events* come in through `handle_*`:
//!   [`handle_receives_posted`](Endpoint::handle_receives_posted),
//!   [`handle_message`](Endpoint::handle_message), [`handle_timeout`](Endpoint::handle_timeout).
//! - The *application* acts with [`start_message`](Endpoint::start_message) and
//!   [`close`](Endpoint::close).
//! - *Work* comes out of [`receives_wanted`](Endpoint::receives_wanted),
//!   [`poll_transmit`](Endpoint::poll_transmit) and [`poll_timeout`](Endpoint::poll_timeout).
//!
//! After any number of events and actions, the owner
//!
//! 1. posts up to `receives_wanted` receives of `receive_size` bytes each, as far as it has memory,
//!    and says how many with `handle_receives_posted`. First the receives, then the transmits:
//!    what is posted too late cannot be granted, and a connection with nothing granted stands still;
//! 2. calls `poll_transmit` until it returns `None`, and posts one SEND for each [`Transmit`], in
//!    order;
//! 3. ends the connection if `state` is [`State::Closed`];
//! 4. arms its timer with `poll_timeout`.
//!
//! Messages must be handed to `handle_message` in the order of arrival, each exactly once. On any
//! `Err(`[`ProtocolError`]`)` the owner ends the connection at once; the endpoint is closed then.
//! A SEND or a receive that fails ends the connection too: RDMA has no other way, so there is
//! nothing to tell the endpoint.
//!
//! Time is a monotonic [`Instant`](crate::units::Instant) that comes in as an argument; it must not
//! run backwards from one call to the next. A timer that is served late is late and no more: the
//! peer always gets its full time. Messages that have arrived are handed over before
//! `handle_timeout` is called, or a late owner takes its own lateness for the peer's silence.
//!
//! # States
//!
//! ```text
//!   acceptor                      initiator
//!   wait for the request          a receive is posted: send the request
//!      |          | versions         |
//!      |          | refused       wait for the response
//!   receives      |                  |
//!   are posted:   v                  |                             any error, or
//!   send the   Closing               |                             close() before
//!   response     | response          |                             the negotiation
//!      |         | sent              |                             is complete
//!      |         v                   |                                   |
//!      |       Closed                |                                   v
//!      +-------------+---------------+                                Closed
//!                    v
//!               Established --- close(), nothing in progress --------> Closed
//!                    |                                                   ^
//!                    +--------- close() --> Closing --- message sent ----+
//! ```
//!
//! Which message is expected follows from the state alone, never from its content: a second
//! negotiate request is read as a data transfer, and data before the negotiation as a request.
//!
//! # Credits
//!
//! ```text
//!      this side                                                  peer
//!   receives_wanted --> posted --(CreditsGranted)--> granted --> its send credits
//!          ^              |                             |             |
//!          |              | reserve: 1                  |             | one for each message
//!          +--------------+--- a message arrives -------+<------------+
//! ```
//!
//! A receive that is posted is granted once, with whatever message goes out next, and used up when
//! a message arrives ([MS-SMBD] 3.1.5.1, 3.1.5.8, 3.1.5.9). Three rules keep both sides going:
//!
//! - *The last send credit is spent only on a message that grants at least one.* Otherwise both
//!   sides could send their last message at once, and neither could ever grant again.
//! - *One receive stays back.* A side with one send credit left may face a silent peer that holds
//!   all credits; if everything posted were granted, it could never send again. So one posted
//!   receive, the reserve, is granted only together with the last send credit, or to a peer that
//!   holds nothing. Hence one more is posted than is granted if the peer asks for fewer credits
//!   than it holds. The peer's answer uses up a receive and thereby restores the reserve.
//! - *A peer that may starve is told of receives by an empty message* at once if there is no other
//!   message: if it holds no credit, or at most a quarter of what it may hold and there are at least
//!   two to grant. An empty message itself uses one receive of the peer, so each leaves fewer
//!   ungranted receives in the world than before, and two peers do not answer each other's credits
//!   with credits for ever.
//!
//! Peers that keep [MS-SMBD] by the letter have no reserve: if all that they may post is granted,
//! they wait with their last credit for another one. So a peer is not left with a single credit,
//! and at least four receives are posted even if it asks for fewer credits; only the negotiate
//! response grants no more than was asked for. Otherwise the peer is granted no more than it asks
//! for with its latest message, or those four.
//!
//! The negotiate response grants the initiator its first credits, everything posted up to what was
//! requested. The acceptor has none until the initiator's first message, which therefore always
//! grants some and is sent at once, empty if need be.
//!
//! An owner may lack memory for receives as long as it likes: the peer runs out of credits, but its
//! silence does not end the connection, since it may not send. The endpoint still sends keepalives,
//! so that the peer does not give up this side. Whether such a connection lives on is then the
//! owner's decision alone.
//!
//! A receive must not depend on a SEND: an owner that frees memory for receives only when a
//! message has gone out can stand still with its last send credit. And it must have memory for two
//! receives at a time, sooner or later: with one on both sides, the only credit in the world
//! would travel back and forth in empty messages.
//!
//! # Fragments
//!
//! One upper-layer message is in progress at a time, and each transmit of an established connection
//! carries as much of it as fits; credits and keepalives travel along. There is never an empty
//! message between two fragments: peers exist whose reassembly breaks on it. The peer may send some,
//! and fragments without bytes, which begin or continue a message as others do.

mod config;
mod credits;
mod endpoint;
mod error;
mod negotiate;
mod reassembly;
mod timers;

use core::ops::Range;

pub use config::{Config, ConfigError, NEGOTIATE_RECEIVE_SIZE, Negotiated, SLOWEST_RATE};
pub use endpoint::{Endpoint, HEAD_LENGTH};
pub use error::{ProtocolError, SendError};

use crate::units::RemoteToken;

/// What an SMB Direct endpoint is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The negotiation is not complete.
    Negotiating,
    /// Messages go both ways.
    Established,
    /// No new messages are taken; what is in progress, or the refusal of a negotiation, still goes out.
    Closing,
    /// Nothing more to send: the owner ends the connection.
    Closed,
}

/// One SMB Direct message to send now, with one SEND.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The SMB Direct header, or a whole negotiate message; `header_length` bytes of it.
    pub header: [u8; 32],
    /// Bytes of `header` that count: 20, 24 or 32.
    pub header_length: u8,
    /// The part of the message in progress that follows the header; empty without one.
    pub payload: Range<u32>,
    /// The peer's token to invalidate with this SEND.
    pub invalidate: Option<RemoteToken>,
    /// This SEND carries the last bytes of the message in progress: the next one may be started.
    pub ends_message: bool,
}

impl Transmit {
    /// The bytes of `header` that count.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.header
            .get(..usize::from(self.header_length))
            .unwrap_or(&self.header)
    }

    /// A message of the first `length` of these at most 32 bytes, and nothing else. The number of
    /// bytes is a constant, so the copy is a few moves.
    #[inline]
    fn bare<const N: usize>(bytes: &[u8; N], length: usize) -> Self {
        let mut header = [0; 32];
        for (to, from) in header.iter_mut().zip(bytes) {
            *to = *from;
        }
        Self {
            header,
            header_length: length.min(32) as u8,
            payload: 0..0,
            invalidate: None,
            ends_message: false,
        }
    }
}

/// What a received SMB Direct message was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A negotiate message.
    Negotiate,
    /// Credits, a keepalive, or a fragment without bytes: nothing for the upper layer.
    Credits,
    /// A fragment of an upper-layer message.
    Fragment {
        /// Where its bytes lie in the received message. Never empty.
        payload: Range<u32>,
        /// Where they belong in the upper-layer message; 0 begins a new one.
        offset: u32,
        /// Bytes of the whole upper-layer message: with `offset + payload.len()` reached it is
        /// complete.
        total: u32,
    },
}
