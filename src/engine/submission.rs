// SPDX-License-Identifier: GPL-2.0-or-later

//! Entries of a submission ring, copied out and checked: a request of a worker, or an entry that no
//! correct library writes.

use zerocopy::transmute;

use crate::device::abi::{OPTIONAL, Place, Submission, TransferSubmission, flags, op};
use crate::shm::Entry;
use crate::units::RemoteToken;

/// The rule that a submission breaks. No correct library breaks one, so the worker is detached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum Violation {
    /// The operation is unknown.
    #[error("unknown operation {0}")]
    Operation(u32),
    /// The operation does not have these flags.
    #[error("unknown flags {0:#x}")]
    Flags(u32),
    /// A reserved field is not 0.
    #[error("a reserved field is not 0")]
    Reserved,
    /// The queue never had a connection with that number.
    #[error("connection {0:#x} does not belong to this worker")]
    Connection(u64),
    /// The bytes do not lie in the worker's memory.
    #[error("{length} bytes at place {place:#x} do not lie in its memory")]
    OutOfBounds {
        /// The [`Place`] at which they begin.
        place: u64,
        /// Number of bytes.
        length: u64,
    },
    /// The worker gave back a buffer that it does not have.
    #[error("buffer {0:#x} is not in use")]
    Buffer(u64),
    /// The ring itself is corrupt.
    #[error("corrupt ring: {0}")]
    Ring(#[from] crate::shm::RingCorrupt),
}

impl Violation {
    /// Returns a stable name for counters, in lower case, with words joined by `_`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A range of bytes of a worker's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The place of the first byte.
    pub place: Place,
    /// Number of bytes.
    pub length: u32,
}

impl Piece {
    const fn of(place: u64, length: u32) -> Self {
        Self {
            place: Place::from_bits(place),
            length,
        }
    }

    /// Returns the violation for a piece that is not in the worker's memory.
    #[must_use]
    pub fn violation(self) -> Violation {
        Violation::OutOfBounds {
            place: self.place.to_bits(),
            length: self.length.into(),
        }
    }
}

/// What a worker asks for on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Sends a message.
    Send {
        /// The message.
        source: Piece,
        /// The client's token that the message invalidates.
        invalidate: Option<RemoteToken>,
    },
    /// Reads from the client's memory by RDMA.
    Read {
        /// The memory into which the data goes.
        sink: Piece,
        /// Where the data is in the client's memory.
        descriptors: Descriptors,
    },
    /// Writes to the client's memory by RDMA.
    Write {
        /// The data.
        source: Piece,
        /// Where the data goes in the client's memory.
        descriptors: Descriptors,
    },
    /// Lends memory for the data of the next WRITE.
    FetchAhead {
        /// The memory into which the data goes.
        sink: Piece,
    },
    /// Asks for the lent memory back.
    Recall,
    /// Ends the connection cleanly.
    Disconnect,
    /// Says that the connection has a session.
    Authenticated,
    /// Gives the connection to another worker.
    Transfer {
        /// The client whose worker gets the connection; `None` if the worker that claims the answer's token gets it.
        client_guid: Option<[u8; 16]>,
        /// The first message, for the worker that gets it.
        message: Option<Piece>,
    },
}

/// The place of a list of buffer descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The place in the worker's memory.
    pub place: Place,
    /// Number of descriptors.
    pub count: u32,
}

/// A submission, checked as far as that is possible without other state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// A received message is given back.
    Recycle {
        /// The connection.
        conn: u64,
        /// The buffer.
        buffer: u64,
    },
    /// A request that a completion answers.
    Request {
        /// The connection.
        conn: u64,
        /// The cookie for the answer.
        cookie: u64,
        /// The request.
        request: Request,
    },
    /// An entry of a newer version, which may be skipped.
    Skipped,
}

/// Reads an entry of a submission ring.
///
/// # Errors
///
/// The entry is one that no correct library writes.
pub fn parse(entry: Entry) -> Result<Submitted, Violation> {
    let submission: Submission = transmute!(entry);
    if submission.op & OPTIONAL != 0 {
        return Ok(Submitted::Skipped);
    }
    if submission.op == op::TRANSFER {
        return parse_transfer(transmute!(entry));
    }
    if submission.reserved != [0; 3] {
        return Err(Violation::Reserved);
    }
    let invalidates = match (submission.op, submission.flags) {
        (_, 0) => false,
        (op::SEND_PDU, flags::INVALIDATE) => true,
        (_, other) => return Err(Violation::Flags(other)),
    };
    let piece = Piece::of(submission.place, submission.length);
    let descriptors = Descriptors {
        place: Place::from_bits(submission.descriptors),
        count: submission.descriptor_count,
    };
    let request = match submission.op {
        op::SEND_PDU => Request::Send {
            source: piece,
            invalidate: invalidates.then_some(RemoteToken(submission.token)),
        },
        op::RDMA_READ => Request::Read {
            sink: piece,
            descriptors,
        },
        op::RDMA_WRITE => Request::Write {
            source: piece,
            descriptors,
        },
        op::FETCH_AHEAD => Request::FetchAhead { sink: piece },
        op::RECALL => Request::Recall,
        op::DISCONNECT => Request::Disconnect,
        op::AUTHENTICATED => Request::Authenticated,
        op::RECYCLE => {
            return Ok(Submitted::Recycle {
                conn: submission.conn,
                buffer: submission.place,
            });
        }
        other => return Err(Violation::Operation(other)),
    };
    Ok(Submitted::Request {
        conn: submission.conn,
        cookie: submission.cookie,
        request,
    })
}

fn parse_transfer(submission: TransferSubmission) -> Result<Submitted, Violation> {
    if submission.flags != 0 {
        return Err(Violation::Flags(submission.flags));
    }
    if submission.reserved != 0 || submission.reserved2 != 0 {
        return Err(Violation::Reserved);
    }
    let has_message = submission.length > 0;
    let has_guid = submission.client_guid != [0; 16];
    Ok(Submitted::Request {
        conn: submission.conn,
        cookie: submission.cookie,
        request: Request::Transfer {
            client_guid: has_guid.then_some(submission.client_guid),
            message: has_message.then_some(Piece::of(submission.place, submission.length)),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: Submission = Submission {
        op: op::SEND_PDU,
        flags: flags::INVALIDATE,
        conn: 1 << 48 | 5,
        cookie: 6,
        place: 2 << 48 | 7,
        length: 8,
        token: 9,
        descriptors: 3 << 48 | 10,
        descriptor_count: 11,
        reserved: [0; 3],
    };

    fn parsed(submission: Submission) -> Result<Submitted, Violation> {
        parse(transmute!(submission))
    }

    #[test]
    fn reads_each_operation() {
        let piece = Piece {
            place: Place {
                segment: 2,
                offset: 7,
            },
            length: 8,
        };
        let descriptors = Descriptors {
            place: Place {
                segment: 3,
                offset: 10,
            },
            count: 11,
        };
        for (op, flags, request) in [
            (
                op::SEND_PDU,
                flags::INVALIDATE,
                Request::Send {
                    source: piece,
                    invalidate: Some(RemoteToken(9)),
                },
            ),
            (
                op::SEND_PDU,
                0,
                Request::Send {
                    source: piece,
                    invalidate: None,
                },
            ),
            (
                op::RDMA_READ,
                0,
                Request::Read {
                    sink: piece,
                    descriptors,
                },
            ),
            (
                op::RDMA_WRITE,
                0,
                Request::Write {
                    source: piece,
                    descriptors,
                },
            ),
            (op::DISCONNECT, 0, Request::Disconnect),
            (op::AUTHENTICATED, 0, Request::Authenticated),
        ] {
            let expected = Submitted::Request {
                conn: SEND.conn,
                cookie: 6,
                request,
            };
            assert_eq!(parsed(Submission { op, flags, ..SEND }), Ok(expected));
        }
        let recycle = Submission {
            op: op::RECYCLE,
            flags: 0,
            ..SEND
        };
        let expected = Submitted::Recycle {
            conn: SEND.conn,
            buffer: SEND.place,
        };
        assert_eq!(parsed(recycle), Ok(expected));
    }

    #[test]
    fn refuses_entries_that_no_library_writes() {
        for (submission, name) in [
            (
                Submission {
                    op: 0,
                    flags: 0,
                    ..SEND
                },
                "operation",
            ),
            (
                Submission {
                    op: 10,
                    flags: 0,
                    ..SEND
                },
                "operation",
            ),
            (Submission { flags: 2, ..SEND }, "flags"),
            (
                Submission {
                    op: op::RDMA_READ,
                    ..SEND
                },
                "flags",
            ),
            (
                Submission {
                    reserved: [0, 0, 1],
                    ..SEND
                },
                "reserved",
            ),
        ] {
            assert_eq!(parsed(submission).unwrap_err().name(), name);
        }
    }

    #[test]
    fn a_transfer_may_lack_a_guid_and_a_message() {
        let transfer = TransferSubmission {
            op: op::TRANSFER,
            flags: 0,
            conn: 1,
            cookie: 2,
            place: 3,
            length: 0,
            reserved: 0,
            client_guid: [0; 16],
            reserved2: 0,
        };
        let request = |transfer: TransferSubmission| match parse(transmute!(transfer)) {
            Ok(Submitted::Request { request, .. }) => request,
            other => panic!("{other:?}"),
        };
        let nothing = Request::Transfer {
            client_guid: None,
            message: None,
        };
        assert_eq!(request(transfer), nothing);
        let full = TransferSubmission {
            length: 4,
            client_guid: [7; 16],
            ..transfer
        };
        let expected = Request::Transfer {
            client_guid: Some([7; 16]),
            message: Some(Piece::of(3, 4)),
        };
        assert_eq!(request(full), expected);
        for bad in [
            TransferSubmission {
                flags: 1,
                ..transfer
            },
            TransferSubmission {
                reserved: 1,
                ..transfer
            },
            TransferSubmission {
                reserved2: 1,
                ..transfer
            },
        ] {
            assert!(parse(transmute!(bad)).is_err());
        }
    }
}
