// SPDX-License-Identifier: GPL-2.0-or-later

//! The SMB Direct endpoint of [MS-SMBD]: negotiation, credits, fragments and timers, without I/O.
//!
//! An [`Endpoint`] is one end of one connection, acceptor or initiator: a plain value of some two hundred bytes that
//! owns no buffer, no queue, no socket and no clock, and never allocates. Its *owner* has all of those, tells the
//! endpoint what happened, and asks it what to do. The endpoint is separate from the transport so that tests can
//! simulate two hours of a connection, with all their faults, in a millisecond, and so that a kernel can use it.
//!
//! An endpoint must never do I/O, read a clock, look at a payload, or panic on anything that a peer sends.
//!
//! # Methods and their order
//!
//! - *Getters* return the state and change nothing: [`state`](Endpoint::state), [`negotiated`](Endpoint::negotiated),
//!   [`send_credits`](Endpoint::send_credits) and others.
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
//!    and says how many with `handle_receives_posted`. The receives come before the transmits, because
//!    a receive that is posted too late cannot be granted, and a connection with nothing granted stands still;
//! 2. calls `poll_transmit` until it returns `None`, and posts one SEND for each [`Transmit`], in
//!    order;
//! 3. ends the connection if `state` is [`State::Closed`];
//! 4. arms its timer with `poll_timeout`.
//!
//! Messages must be handed to `handle_message` in the order of arrival, each exactly once. On any
//! `Err(`[`ProtocolError`]`)` the owner ends the connection at once; the endpoint is already closed. A SEND or a
//! receive that fails ends the connection, too: RDMA works in no other way, so there is nothing to report to the
//! endpoint.
//!
//! Time is a monotonic [`Instant`](crate::units::Instant) that comes in as an argument; it must not run backwards from
//! one call to the next. A timer that is served late does no further harm: the peer always gets its full time. Messages
//! that have arrived must be handed over before `handle_timeout` is called; otherwise a late owner takes its own
//! lateness for the peer's silence.
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
//! - *One receive stays back.* A side with one send credit left may face a silent peer that holds all credits; if
//!   everything posted were granted, that side could never send again. So one posted receive, the reserve, is granted
//!   only together with the last send credit, or to a peer that holds nothing. Hence one more is posted than is granted
//!   if the peer asks for fewer credits than it holds. The peer's answer uses up a receive and thereby restores the
//!   reserve.
//! - *A peer that may starve gets credits in an empty message* at once if there is no other message: if it holds no
//!   credit, or at most a quarter of what it may hold and there are at least two to grant. An empty message itself uses
//!   one receive of the peer, so each such message leaves fewer ungranted receives on both sides together, and two
//!   peers do not answer each other's credits with credits for ever.
//!
//! Peers that follow [MS-SMBD] to the letter have no reserve: if all receives that they may post are granted, they keep
//! their last credit and wait for another one. So a peer is not left with a single credit, and at least four receives
//! are posted even if it asks for fewer credits; only the negotiate response grants no more than was asked for. Apart
//! from that, the peer is granted no more credits than its latest message asks for, but up to four in any case.
//!
//! The negotiate response grants the initiator its first credits: everything posted, up to the number that it
//! requested. The acceptor has no credits until the initiator's first message, which therefore always grants some and
//! is sent at once, empty if necessary.
//!
//! An owner may lack memory for receives as long as it likes: the peer runs out of credits, but its silence does not
//! end the connection, since the peer may not send. The endpoint still sends keepalives, so that the peer does not give
//! up this side. Only the owner decides whether such a connection continues.
//!
//! A receive must not depend on a SEND: an owner that frees memory for receives only when a message has gone out can
//! stand still with its last send credit. And sooner or later the owner must have memory for two receives at a time:
//! with one on each side, the only credit would travel back and forth in empty messages.
//!
//! # Fragments
//!
//! One upper-layer message is in progress at a time, and each transmit of an established connection carries as much of
//! it as fits; credits and keepalives travel along. An endpoint never sends an empty message between two fragments,
//! because such a message breaks the reassembly of some peers. The peer may send such messages, and fragments without
//! bytes, which begin or continue a message as others do.

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

/// The state of an SMB Direct endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The negotiation is not complete.
    Negotiating,
    /// Messages go both ways.
    Established,
    /// No new messages are taken; the message in progress, or the refusal of a negotiation, is still sent.
    Closing,
    /// There is nothing more to send: the owner ends the connection.
    Closed,
}

/// One SMB Direct message to send now, with one SEND.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Transmit {
    /// The SMB Direct header, or a whole negotiate message; `header_length` bytes of it.
    pub header: [u8; 32],
    /// Number of valid bytes of `header`: 20, 24 or 32.
    pub header_length: u8,
    /// The part of the message in progress that follows the header; empty if there is none.
    pub payload: Range<u32>,
    /// The peer's token to invalidate with this SEND.
    pub invalidate: Option<RemoteToken>,
    /// Whether this SEND carries the last bytes of the message in progress, so that the next one may be started.
    pub ends_message: bool,
}

impl Transmit {
    /// Returns the valid bytes of `header`.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        self.header
            .get(..usize::from(self.header_length))
            .unwrap_or(&self.header)
    }

    /// Makes a message that consists only of the first `length` of `bytes`, which are at most 32. The number of bytes
    /// is a constant, so the copy takes only a few moves.
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

/// The meaning of a received SMB Direct message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A negotiate message.
    Negotiate,
    /// Credits, a keepalive, or a fragment without bytes: nothing for the upper layer.
    Credits,
    /// A fragment of an upper-layer message.
    Fragment {
        /// The range of its bytes in the received message, which is never empty.
        payload: Range<u32>,
        /// The offset of these bytes in the upper-layer message; 0 begins a new message.
        offset: u32,
        /// Length of the whole upper-layer message, in bytes: it is complete when `offset + payload.len()` reaches
        /// this.
        total: u32,
    },
}
