//! A process' attachment to a device: what smbd's parent and children hold.

use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::Status;
use super::abi::{ConnInfo, MemParams, SetParameters, Token};

/// What a process is to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// smbd's parent: learns of connections that nobody owns.
    Listener,
    /// smbd's child: owns connections.
    Worker,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The device has taken the attachment: calls other than [`Handle::attach`] work from now on.
    Attached,
    /// The attachment is over; nothing else will happen. Free the handle, attach again later.
    Detached {
        /// Why.
        status: Status,
    },
    /// Listener: a connection waits for an owner.
    Offer {
        /// For the child that is to own it.
        token: Token,
        /// The connection.
        info: ConnInfo,
    },
    /// A connection is this worker's now.
    Connection {
        /// What is known about it.
        info: ConnInfo,
    },
    /// A message arrived. Its memory is the worker's until [`Handle::take_pdu`].
    Pdu {
        /// The connection.
        conn: u64,
        /// For [`Handle::take_pdu`].
        pdu: u64,
        /// Bytes.
        length: u32,
    },
    /// A message was sent, or never will be.
    Sent {
        /// The connection.
        conn: u64,
        /// As given to [`Handle::send_pdu`].
        cookie: u64,
        /// `Ok` if the network has taken all of it.
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
        /// `Ok` if all of it was carried out.
        status: Status,
    },
    /// A transfer ended; if `Ok` the connection is another's.
    Transferred {
        /// The connection.
        conn: u64,
        /// As given to [`Handle::transfer`].
        cookie: u64,
        /// How it ended.
        status: Status,
        /// For whoever is to claim it, where no GUID was named; else 0.
        token: Token,
    },
    /// A connection is gone. All that was under way on it was reported before.
    Disconnected {
        /// The connection.
        conn: u64,
        /// Why.
        status: Status,
    },
    /// `set_parameters`, `set_session_id` or `claim` was answered.
    Reply {
        /// As given to that call.
        cookie: u64,
        /// How it ended.
        status: Status,
    },
    /// There is more room than before: calls that ended with [`Status::Again`] or
    /// [`Status::NoMemory`] may be tried again.
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
    /// Its number; never 0.
    pub number: u64,
    /// Its first byte, mapped until the handle is dropped. The device may write it at any time.
    pub start: *mut u8,
    /// Bytes.
    pub length: usize,
}

/// Counts of a connection, as this side knows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnCounts {
    /// Bytes of messages whose [`Event::Sent`] said `Ok`.
    pub sent_bytes: u64,
    /// Bytes of messages that were taken and not yet reported.
    pub unsent_bytes: u64,
    /// RDMA operations under way.
    pub rdma_operations: u32,
}

/// An attachment. One thread, one process; nothing blocks.
#[derive(Debug)]
pub struct Handle {}

#[allow(
    unused_variables,
    missing_docs,
    clippy::todo,
    clippy::needless_pass_by_value
)]
impl Handle {
    /// Presents this process to the device at `path`. [`Event::Attached`] or [`Event::Detached`]
    /// follows; for a worker with a `token`, its connection's [`Event::Connection`] as well.
    pub fn attach(path: &Path, role: Role, token: Option<Token>) -> Result<Self, Status> {
        todo!()
    }

    /// Readable whenever [`next_event`](Self::next_event) may have something after it had nothing.
    pub fn event_fd(&self) -> Result<BorrowedFd<'_>, Status> {
        todo!()
    }

    /// The next event; `None`: none now, and `event_fd` will tell.
    pub fn next_event(&mut self) -> Result<Option<Event>, Status> {
        todo!()
    }

    pub fn set_parameters(
        &mut self,
        cookie: u64,
        parameters: SetParameters,
        security_blob: &[u8],
    ) -> Result<(), Status> {
        todo!()
    }

    pub fn set_session_id(
        &mut self,
        cookie: u64,
        client_guid: [u8; 16],
        session_id: u64,
        remove: bool,
    ) -> Result<(), Status> {
        todo!()
    }

    pub fn claim(&mut self, cookie: u64, token: Token) -> Result<(), Status> {
        todo!()
    }

    pub fn mem_params(&self) -> Result<MemParams, Status> {
        todo!()
    }

    /// A buffer of at least `length` bytes. [`Status::Again`]: asked the device for memory,
    /// [`Event::Room`] follows. [`Status::NoMemory`]: all that is allowed is in use.
    pub fn allocate(&mut self, length: usize) -> Result<BulkBuffer, Status> {
        todo!()
    }

    /// [`Status::Busy`] while an RDMA operation uses it.
    pub fn free(&mut self, buffer: u64) -> Result<(), Status> {
        todo!()
    }

    /// Queues one message, gathered from `pieces`, which are copied before this returns.
    pub fn send_pdu(
        &mut self,
        conn: u64,
        cookie: u64,
        pieces: &[IoSlice<'_>],
        invalidate: Option<u32>,
    ) -> Result<(), Status> {
        todo!()
    }

    /// Queues an RDMA operation on `length` bytes at `offset` of `buffer`, with the descriptors of
    /// the client's request as they came ([MS-SMBD] 2.2.3.1).
    #[allow(clippy::too_many_arguments)]
    pub fn rdma(
        &mut self,
        direction: Direction,
        conn: u64,
        cookie: u64,
        buffer: u64,
        offset: usize,
        length: usize,
        descriptors: &[u8],
    ) -> Result<(), Status> {
        todo!()
    }

    /// Copies a received message into `target`, which has at least its length, and gives its
    /// memory back to the device. An empty `target`: only gives it back.
    pub fn take_pdu(&mut self, pdu: u64, target: &mut [u8]) -> Result<(), Status> {
        todo!()
    }

    /// Ends a connection in order. [`Event::Disconnected`] follows.
    pub fn disconnect(&mut self, conn: u64) -> Result<(), Status> {
        todo!()
    }

    /// Gives a connection to who registered `client_guid`, or to who claims the token of
    /// [`Event::Transferred`] (`None`); `pdu` becomes the first message there.
    pub fn transfer(
        &mut self,
        conn: u64,
        cookie: u64,
        client_guid: Option<[u8; 16]>,
        pdu: &[u8],
    ) -> Result<(), Status> {
        todo!()
    }

    pub fn conn_info(&self, conn: u64) -> Result<ConnInfo, Status> {
        todo!()
    }

    pub fn conn_counts(&self, conn: u64) -> Result<ConnCounts, Status> {
        todo!()
    }
}
