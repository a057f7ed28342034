//! One connection: its socket, its handshake, its queue pair, and the bytes in between.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;

use mio::net::TcpStream;

use super::Config;
use crate::fabric::iwarp::handshake::{self, Agreed, Offer, Request};
use crate::fabric::iwarp::mpa::{self, FrameKind};
use crate::fabric::iwarp::qp::{Completion, Depths, PostError, Qp, Segment, Step};
use crate::fabric::iwarp::IwarpError;
use crate::fabric::{CloseReason, ReadLimits, RegionId, Sge};
use crate::sys::{IoVecs, Memory};

/// Bytes that one system call sends at most: enough to make its cost small, little enough that
/// the CRCs are computed over what is still in the cache.
const BATCH_BYTES: usize = 1 << 20;
/// FPDUs in one system call: three pieces each.
const BATCH_FPDUS: usize = crate::sys::MAX_IOVECS / 3;
/// Payload from this size on is received straight into its target; below, copying costs less
/// than the system calls that it saves.
const DIRECT_BYTES: u32 = 8 * 1024;
/// What follows such a payload: padding, CRC and the next header.
const DIRECT_TAIL: usize = 7 + 20;
/// Bytes received on one connection before the others have their turn.
const RECEIVE_BUDGET: usize = 4 << 20;

/// What all connections of a thread use in turn.
pub(super) struct Scratch {
    pub(super) input: Vec<u8>,
    pub(super) iovecs: IoVecs,
    /// An empty queue with room, for the next connection that sends.
    pub(super) out: VecDeque<OutFpdu>,
    /// Work that ended, for the connection in hand.
    pub(super) completions: Vec<Completion>,
}

impl Scratch {
    pub(super) fn new() -> Self {
        Self {
            input: vec![0; 128 * 1024],
            iovecs: IoVecs::new(),
            out: VecDeque::with_capacity(BATCH_FPDUS),
            completions: Vec::with_capacity(256),
        }
    }
}

/// An FPDU on its way into the socket.
pub(super) struct OutFpdu {
    segment: Segment,
    memory: Option<Memory>,
    trailer: [u8; 8],
    trailer_length: usize,
}

impl OutFpdu {
    fn length(&self) -> usize {
        self.segment.header().len() + self.segment.payload.length as usize + self.trailer_length
    }
}

/// What a connection is doing.
#[derive(Debug)]
pub(super) enum Stage {
    /// TCP connects; then the MPA request is sent.
    Connecting(Offer),
    /// The MPA request was sent.
    AwaitsReply(Offer),
    /// TCP is connected; the MPA request has not arrived.
    AwaitsRequest,
    /// The owner is to accept or reject.
    Requested(Request),
    /// Data flows.
    Established,
    /// Closed by the owner: what was posted still goes out.
    Draining,
}

pub(super) struct Conn {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) listener: Option<super::ListenerId>,
    pub(super) stage: Stage,
    pub(super) qp: Qp,
    pub(super) memories: Vec<Option<Memory>>,
    /// Waits for its turn in the list of connections with something to do.
    pub(super) queued: bool,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has sent its last byte: read on until its end.
    pub(super) read_closed: bool,
    pub(super) deadline: Option<crate::units::Instant>,
    handshake: Vec<u8>,
    out: VecDeque<OutFpdu>,
    /// Bytes of the FPDU in front of `out` that the socket has taken.
    out_sent: usize,
}
