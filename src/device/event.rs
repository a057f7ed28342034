// SPDX-License-Identifier: GPL-2.0-or-later

//! What a process and a device say to each other, in the library's terms.

#[cfg(doc)]
use super::Handle;
use super::Status;
use super::abi::{ConnInfo, Token};

/// The role of a process that uses the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The parent smbd, which is offered connections without an owner.
    Listener,
    /// A child smbd, which owns connections.
    Worker,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device has accepted the attachment: calls other than [`Handle::attach`] work from now on.
    Attached,
    /// The attachment has ended; no other event follows. Free the handle, and attach again later.
    Detached {
        /// The reason.
        status: Status,
    },
    /// For a listener: a connection waits for an owner.
    Offer {
        /// The token for the child that will own the connection.
        token: Token,
        /// The connection.
        info: ConnInfo,
    },
    /// A connection belongs to this worker now.
    Connection {
        /// The description of the connection.
        info: ConnInfo,
    },
    /// A message arrived. Its memory belongs to the worker until [`Handle::take_pdu`].
    Pdu {
        /// The connection.
        conn: u64,
        /// The message's number, for [`Handle::take_pdu`].
        pdu: u64,
        /// Length in bytes.
        length: u32,
        /// The data of the message, if it is a WRITE whose data has already been fetched into the buffer given to
        /// [`Handle::fetch_ahead`]. That buffer belongs to the worker again.
        data: Option<Fetched>,
    },
    /// A message was sent, or will never be sent.
    Sent {
        /// The connection.
        conn: u64,
        /// As given to [`Handle::send_pdu`].
        cookie: u64,
        /// `Ok` if it was sent: see [`SENT`](super::abi::event::SENT).
        status: Status,
        /// Bytes of the message.
        length: u32,
    },
    /// An RDMA READ or RDMA WRITE ended.
    RdmaDone {
        /// The connection.
        conn: u64,
        /// As given to [`Handle::rdma`].
        cookie: u64,
        /// `Ok` if all of it was done.
        status: Status,
    },
    /// A transfer ended; if `Ok`, the connection no longer belongs to this worker.
    Transferred {
        /// The connection.
        conn: u64,
        /// As given to [`Handle::transfer`].
        cookie: u64,
        /// How it ended.
        status: Status,
        /// The token with which to claim the connection, if no GUID was named; otherwise 0.
        token: Token,
    },
    /// A connection has ended. Everything under way on it has already been reported.
    Disconnected {
        /// The connection.
        conn: u64,
        /// Why.
        status: Status,
    },
    /// The device answered `set_parameters`, `set_addresses`, `set_session_id`, `claim` or `decline`.
    Reply {
        /// As given to that call.
        cookie: u64,
        /// How it ended.
        status: Status,
    },
    /// There is room again: calls that failed with [`Status::Again`] may be repeated.
    Room,
}

/// The direction of an RDMA operation, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client's memory into a buffer here.
    Read,
    /// From a buffer here into the client's memory.
    Write,
}

/// A buffer of the bulk region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkBuffer {
    /// The buffer's number; never 0.
    pub number: u64,
    /// The buffer's first byte, mapped until the handle is dropped. The device may write to the buffer at any time.
    pub start: *mut u8,
    /// Length in bytes.
    pub length: usize,
}

/// The data of a WRITE that was fetched before its message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// The number of the buffer.
    pub buffer: u64,
    /// Number of bytes, starting with the first byte of the buffer.
    pub length: u32,
}

/// Counts for a connection, as far as this side knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnCounts {
    /// Bytes of messages whose [`Event::Sent`] said `Ok`.
    pub sent_bytes: u64,
    /// Bytes of messages that were taken, but whose end has not been reported yet.
    pub unsent_bytes: u64,
    /// RDMA operations under way.
    pub rdma_operations: u32,
}
