// SPDX-License-Identifier: GPL-2.0-or-later

//! The status of a device in the kernel: the records that fill the buffer of a [`StatusCall`](super::StatusCall).
//!
//! A record is a [`Head`] and the structure that its `kind` names. There is one [`Device`], which is the first, and any
//! number of the others, in any order, except that a [`Queue`] follows its [`Process`]. A reader skips kinds that it
//! does not know, and the rest of a record that is longer than it knows: later versions add both. Times are in
//! nanoseconds, and names are ASCII, padded with zeros.
//!
//! ```text
//!   0 kind      4 length, head included      8 the structure, a multiple of 8 bytes long
//! ```

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::super::abi::{Address, AllowedAddress};

/// Values of [`Head::kind`].
pub mod record {
    /// A record with a [`Device`](super::Device).
    pub const DEVICE: u32 = 1;
    /// A record with a [`SocketAddress`](super::SocketAddress) on which the device accepts connections.
    pub const LISTEN: u32 = 2;
    /// A record with an [`Address`](super::Address) on which clients reach the device, as in `abi::Addresses`.
    pub const ADDRESS: u32 = 3;
    /// A record with an [`AllowedAddress`](super::AllowedAddress) that the listener has set.
    pub const ALLOWED: u32 = 4;
    /// A record with a [`Carried`](super::Carried).
    pub const CARRIED: u32 = 5;
    /// A record with a [`Connection`](super::Connection).
    pub const CONNECTION: u32 = 6;
    /// A record with a [`Process`](super::Process).
    pub const PROCESS: u32 = 7;
    /// A record with a [`Queue`](super::Queue).
    pub const QUEUE: u32 = 8;
    /// A record with a [`Close`](super::Close); the oldest comes first.
    pub const CLOSE: u32 = 9;
    /// A record with a [`Counter`](super::Counter).
    pub const COUNTER: u32 = 10;
}

/// Values of [`Device::flags`].
pub mod device_flags {
    /// The device no longer accepts connections and processes.
    pub const STOPPING: u32 = 1;
    /// The listener has set the addresses that clients may use, and the records [`ALLOWED`](super::record::ALLOWED)
    /// list them.
    pub const RESTRICTED: u32 = 2;
}

/// Values of [`Connection::flags`].
pub mod connection_flags {
    /// A worker owns the connection: `id`, `worker` and `pid` are valid.
    pub const OWNED: u32 = 1;
    /// The connection has a session.
    pub const AUTHENTICATED: u32 = 2;
    /// `local` is known.
    pub const LOCAL: u32 = 4;
}

/// Values of [`Process::flags`].
pub mod process_flags {
    /// The process attached with the token of a connection.
    pub const INVITED: u32 = 1;
}

/// Values of [`Close::flags`].
pub mod close_flags {
    /// A worker owned the connection.
    pub const OWNED: u32 = 1;
    /// `local` is known.
    pub const LOCAL: u32 = 4;
}

/// A short name.
pub type Name = [u8; 16];

/// The name of a reason or a counter.
pub type LongName = [u8; 48];

/// The head of each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Head {
    /// One of `record::*`.
    pub kind: u32,
    /// Length of the record in bytes, including this head.
    pub length: u32,
}

/// The structure of a record.
pub trait Record: Copy + FromBytes + IntoBytes + Immutable + KnownLayout {
    /// One of `record::*`.
    const KIND: u32;
}

macro_rules! records {
    ($($record:ident $kind:ident;)*) => {
        $(impl Record for $record {
            const KIND: u32 = record::$kind;
        })*
    };
}

records! {
    Device DEVICE;
    SocketAddress LISTEN;
    Address ADDRESS;
    AllowedAddress ALLOWED;
    Carried CARRIED;
    Connection CONNECTION;
    Process PROCESS;
    Queue QUEUE;
    Close CLOSE;
    Counter COUNTER;
}

/// The device, its limits, and its current numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Device {
    /// The version of the module.
    pub version: Name,
    /// The version of the interface: `abi::VERSION`.
    pub interface: u32,
    /// A combination of `device_flags::*`.
    pub flags: u32,
    /// Time since the module was loaded.
    pub uptime_ns: u64,
    /// Maximum number of connections.
    pub max_connections: u32,
    /// Maximum number of connections that are offered to the listener at a time.
    pub max_undispatched: u32,
    /// Maximum number of connections without a session.
    pub max_unauthenticated: u32,
    /// Maximum number of workers.
    pub max_workers: u32,
    /// Maximum number of sessions and clients of one worker.
    pub max_sessions_of_worker: u32,
    /// Number of entries of a ring.
    pub queue_depth: u32,
    /// Maximum number of bytes of memory of one worker.
    pub max_memory_of_worker: u64,
    /// Maximum number of bytes of memory of all workers together.
    pub max_memory: u64,
    /// Number of connections that have negotiated.
    pub connections: u32,
    /// Number of connections that have negotiated and have no owner.
    pub undispatched: u32,
    /// Number of connections that have negotiated and have no session.
    pub unauthenticated: u32,
    /// Number of tokens that may be claimed.
    pub offered: u32,
    /// Number of client GUIDs that are registered.
    pub clients: u32,
    /// Number of sessions that are registered.
    pub sessions: u32,
    /// Number of queues of all workers.
    pub queues: u32,
    /// Number of segments that are registered with connections, each counted once per connection.
    pub registrations: u32,
    /// Number of bytes of memory of all workers.
    pub memory: u64,
}

/// An address and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SocketAddress {
    /// The address. IPv4 is mapped into IPv6.
    pub address: [u8; 16],
    /// Scope ID of a link-local address, or 0.
    pub scope_id: u32,
    /// The port.
    pub port: u16,
    /// Must be 0.
    pub reserved: u16,
}

/// The traffic of a fabric since the module was loaded. None of the numbers ever falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Carried {
    /// The fabric: `verbs`.
    pub fabric: Name,
    /// Number of connections that negotiated.
    pub connections: u64,
    /// Number of messages received.
    pub messages_in: u64,
    /// Number of messages sent.
    pub messages_out: u64,
    /// Bytes of messages received.
    pub inline_bytes_in: u64,
    /// Bytes of messages sent.
    pub inline_bytes_out: u64,
    /// Number of RDMA READs that fetched all of their data.
    pub rdma_reads: u64,
    /// Bytes that RDMA READs fetched.
    pub rdma_read_bytes: u64,
    /// Number of RDMA WRITEs that carried all of their data.
    pub rdma_writes: u64,
    /// Bytes that RDMA WRITEs carried.
    pub rdma_write_bytes: u64,
    /// Number of clients' tokens that messages invalidated.
    pub invalidations_out: u64,
    /// Number of times that a received fragment had to wait for memory of the connection's owner.
    pub buffer_waits: u64,
}

/// A connection that has negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Connection {
    /// The number by which its owner knows it.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddress,
    /// The server's address to which the client connected.
    pub local: SocketAddress,
    /// The fabric that carries it.
    pub fabric: Name,
    /// `fresh`, `offered`, `owned` or `ending`.
    pub state: Name,
    /// A combination of `connection_flags::*`.
    pub flags: u32,
    /// The worker that owns it.
    pub worker: u32,
    /// The system's number for that worker's process.
    pub pid: i32,
    /// Number of messages that may be sent to the client now.
    pub send_credits: u16,
    /// Number of messages that the client may send now.
    pub receive_credits: u16,
    /// Number of receives that are posted.
    pub receives_posted: u32,
    /// Number of operations that are queued and not posted.
    pub queued: u32,
    /// Submissions that have not been answered.
    pub outstanding: u32,
    /// Number of received fragments that wait for memory of the owner.
    pub starved: u32,
    /// Time since the connection was accepted.
    pub age_ns: u64,
    /// Bytes of messages received.
    pub inline_bytes_in: u64,
    /// Bytes of messages sent.
    pub inline_bytes_out: u64,
    /// Bytes that RDMA READs fetched.
    pub rdma_read_bytes: u64,
    /// Bytes that RDMA WRITEs carried.
    pub rdma_write_bytes: u64,
    /// Number of messages received.
    pub messages_in: u64,
    /// Number of messages sent.
    pub messages_out: u64,
    /// Number of the client's tokens that messages invalidated.
    pub invalidations_out: u64,
}

/// An attached process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Process {
    /// The device's number for the process.
    pub id: u32,
    /// The system's number for the process, as the process that asks sees it, or 0.
    pub pid: i32,
    /// `abi::role::*`.
    pub role: u32,
    /// A combination of `process_flags::*`.
    pub flags: u32,
    /// Number of connections that the process owns.
    pub connections: u32,
    /// Number of sessions and clients that the process has registered.
    pub sessions: u32,
    /// Number of SEND segments.
    pub send_segments: u32,
    /// Number of BULK segments.
    pub bulk_segments: u32,
    /// Number of bytes of the process's memory.
    pub memory: u64,
}

/// A queue of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Queue {
    /// The device's number for the worker.
    pub worker: u32,
    /// The queue's number.
    pub queue: u32,
    /// Number of connections that use the queue.
    pub connections: u32,
    /// Number of completions for which there was no room in the ring.
    pub overflow: u32,
    /// Number of completions in the ring.
    pub completions: u32,
    /// Submissions that have not been answered.
    pub outstanding: u32,
    /// Number of RECEIVE segments.
    pub receive_segments: u32,
    /// Number of RECEIVE units in use.
    pub receive_units_used: u32,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Close {
    /// The client's address.
    pub peer: SocketAddress,
    /// The server's address to which the client connected.
    pub local: SocketAddress,
    /// The fabric that carried it.
    pub fabric: Name,
    /// The reason's name.
    pub reason: LongName,
    /// A combination of `close_flags::*`.
    pub flags: u32,
    /// The worker that owned it.
    pub worker: u32,
    /// Time between the loading of the module and the end of the connection.
    pub at_ns: u64,
    /// Time that the connection lasted.
    pub age_ns: u64,
    /// Bytes that came from the client, in messages and by RDMA READ.
    pub bytes_received: u64,
    /// Bytes that went to the client, in messages and by RDMA WRITE.
    pub bytes_sent: u64,
}

/// A counter of something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Counter {
    /// The name of what happened.
    pub name: LongName,
    /// How often it happened.
    pub count: u64,
}

// `IntoBytes` refuses padding; the lengths are part of the interface.
const _: () = {
    assert!(size_of::<Head>() == 8);
    assert!(size_of::<Device>() == 112);
    assert!(size_of::<SocketAddress>() == 24);
    assert!(size_of::<Carried>() == 104);
    assert!(size_of::<Connection>() == 184);
    assert!(size_of::<Process>() == 40);
    assert!(size_of::<Queue>() == 32);
    assert!(size_of::<Close>() == 152);
    assert!(size_of::<Counter>() == 56);
};

/// Adds a record.
pub fn push<R: Record>(records: &mut Vec<u8>, record: &R) {
    let head = Head {
        kind: R::KIND,
        // A record has at most a few hundred bytes.
        length: (size_of::<Head>() + size_of::<R>()) as u32,
    };
    records.extend_from_slice(head.as_bytes());
    records.extend_from_slice(record.as_bytes());
}

/// Takes the first record off, and returns its kind, its structure, which [`read`] reads, and the other records.
/// Returns `None` if there is no record, or if its length is impossible.
#[must_use]
pub fn split_first(records: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (head, _) = Head::read_from_prefix(records).ok()?;
    let length = usize::try_from(head.length).ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let body = record.get(size_of::<Head>()..)?;
    Some((head.kind, body, rest))
}

/// Reads a record's structure, which may be longer than this version knows. Returns `None` if it is shorter.
#[must_use]
pub fn read<R: Record>(body: &[u8]) -> Option<R> {
    R::read_from_prefix(body).ok().map(|(record, _)| record)
}

/// Returns a text as a name, cut off if it is too long.
#[must_use]
pub fn name<const N: usize>(text: &str) -> [u8; N] {
    let mut name = [0; N];
    for (byte, from) in name.iter_mut().zip(text.bytes()) {
        *byte = from;
    }
    name
}

/// Returns the text of a name; characters that are not printable ASCII become `?`.
pub fn text(name: &[u8]) -> impl Iterator<Item = char> {
    let bytes = name.iter().take_while(|byte| **byte != 0);
    bytes.map(|byte| match byte {
        0x20..=0x7e => char::from(*byte),
        _ => '?',
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn reads_what_it_wrote_and_skips_what_a_later_version_adds() {
        let counter = Counter {
            name: name("attached"),
            count: 7,
        };
        let mut records = Vec::new();
        push(&mut records, &counter);
        // These are a record of a later version, and a counter with more fields than this version knows.
        records.extend_from_slice(&[99u32, 16, 1, 2].map(u32::to_ne_bytes).concat());
        let longer = records.len();
        push(&mut records, &counter);
        records.extend_from_slice(&[0xff; 8]);
        records[longer + 4..longer + 8].copy_from_slice(&72u32.to_ne_bytes());

        let (kind, body, rest) = split_first(&records).unwrap();
        assert_eq!((kind, read(body)), (record::COUNTER, Some(counter)));
        assert_eq!(text(&counter.name).collect::<String>(), "attached");
        let (kind, _, rest) = split_first(rest).unwrap();
        assert_eq!(kind, 99);
        let (kind, body, rest) = split_first(rest).unwrap();
        assert_eq!((kind, body.len()), (record::COUNTER, 64));
        assert_eq!(read(body), Some(counter));
        assert_eq!((rest, split_first(rest)), (&[][..], None));
    }

    #[test]
    fn refuses_impossible_lengths() {
        let mut records = Vec::new();
        push(&mut records, &Queue::new_zeroed());
        assert_eq!(split_first(&records[..7]), None);
        for length in [0u32, 7, 41, u32::MAX] {
            records[4..8].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(split_first(&records), None, "{length}");
        }
        assert_eq!(read::<Queue>(&[0; 31]), None);
    }

    #[test]
    fn names_are_cut_off_and_printable() {
        let long: Name = name("a name of more than sixteen bytes");
        assert_eq!(text(&long).collect::<String>(), "a name of more t");
        assert_eq!(text(b"\x1b[1m\xff\0x").collect::<String>(), "?[1m?");
    }
}
