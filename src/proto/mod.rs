//! The SMB Direct endpoint of [MS-SMBD]: negotiation, credits, fragments and timers, without I/O.

use core::ops::Range;
use core::time::Duration;

use crate::units::{Credits, Instant, RemoteToken};

/// What one side brings to the negotiation ([MS-SMBD] 3.1.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Most receives that this side posts, and so most credits the peer can hold. 1 to 65,535.
    pub receive_credit_max: Credits,
    /// Credits that this side asks the peer for. 1 to 65,535.
    pub send_credit_target: Credits,
    /// Largest message this side sends, header included, in bytes. At least 128.
    pub max_send_size: u32,
    /// Largest message this side receives, header included, in bytes. At least 128.
    pub max_receive_size: u32,
    /// Largest upper-layer message this side reassembles, in bytes. At least 131,072.
    pub max_fragmented_size: u32,
    /// Largest transfer of one RDMA READ or WRITE request, in bytes.
    pub max_read_write_size: u32,
    /// Time for the negotiation. [MS-SMBD] has 5 s for an acceptor, 120 s for an initiator.
    pub negotiation_timeout: Duration,
    /// Time without a message from the peer after which it is asked for one.
    pub idle_timeout: Duration,
    /// Time that the peer then has.
    pub keepalive_timeout: Duration,
    /// Time that a message may wait for send credits.
    pub credit_timeout: Duration,
}

/// What both sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Largest message to send, header included.
    pub max_send_size: u32,
    /// Largest message to receive, header included.
    pub max_receive_size: u32,
    /// Largest upper-layer message to send.
    pub max_fragmented_send_size: u32,
    /// Largest upper-layer message to receive.
    pub max_fragmented_receive_size: u32,
    /// Largest RDMA READ or WRITE request.
    pub max_read_write_size: u32,
}

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

/// What a received SMB Direct message was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// A negotiate message.
    Negotiate,
    /// Credits, or a keepalive, and nothing for the upper layer.
    Credits,
    /// A fragment of an upper-layer message.
    Fragment {
        /// Where its bytes lie in the received message.
        payload: Range<u32>,
        /// Where they belong in the upper-layer message; 0 begins a new one.
        offset: u32,
        /// Bytes of the whole upper-layer message: with `offset + payload.len()` reached it is complete.
        total: u32,
    },
}

/// One end of an SMB Direct connection. (API skeleton.)
#[derive(Debug)]
pub struct Endpoint {}

/// Why the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum ProtocolError {
    /// skeleton
    #[error("skeleton")]
    Skeleton,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Not established, or closing.
    #[error("the connection is not established")]
    NotEstablished,
    /// The previous message is still in progress.
    #[error("a message is in progress")]
    Busy,
    /// Larger than the peer reassembles.
    #[error("the message is larger than the peer reassembles")]
    TooLong,
    /// An empty message cannot be sent.
    #[error("the message is empty")]
    Empty,
}

#[allow(missing_docs, clippy::todo, unused_variables)]
impl Endpoint {
    pub fn acceptor(config: Config, now: Instant) -> Self {
        todo!()
    }
    pub fn initiator(config: Config, now: Instant) -> Self {
        todo!()
    }
    pub fn state(&self) -> State {
        todo!()
    }
    /// Some once the negotiation is complete in this side's eyes.
    pub fn negotiated(&self) -> Option<&Negotiated> {
        todo!()
    }
    /// Bytes that each receive must hold that is posted from now on: 512 while negotiating, then max_receive_size.
    pub fn receive_size(&self) -> u32 {
        todo!()
    }
    /// Receives that should be posted now; the owner posts as many as it has buffers for, and says so.
    pub fn receives_wanted(&self) -> u16 {
        todo!()
    }
    pub fn handle_receives_posted(&mut self, count: u16) {
        todo!()
    }
    pub fn handle_message(
        &mut self,
        now: Instant,
        message: &[u8],
    ) -> Result<Received, ProtocolError> {
        todo!()
    }
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ProtocolError> {
        todo!()
    }
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
    pub fn start_message(
        &mut self,
        length: u32,
        invalidate: Option<RemoteToken>,
    ) -> Result<(), SendError> {
        todo!()
    }
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        todo!()
    }
    pub fn close(&mut self) {
        todo!()
    }
    pub fn send_credits(&self) -> Credits {
        todo!()
    }
    pub fn receive_credits(&self) -> Credits {
        todo!()
    }
}
