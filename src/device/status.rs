// SPDX-License-Identifier: GPL-2.0-or-later

//! How a call, an operation or a connection ended, as a number that C can see.

use core::ffi::CStr;
use core::fmt;

#[cfg(feature = "std")]
use libc as errno;

#[cfg(not(feature = "std"))]
use super::errno;

/// How a call, an operation or a connection ended.
///
/// Numbers never change: new ones are added at the end, and a number that is no longer used stays as
/// a comment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::FromRepr, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[repr(i32)]
pub enum Status {
    /// Success.
    Ok = 0,
    /// An argument is invalid: a null pointer, or a length or number out of range.
    Invalid = 1,
    /// A bug in the library. The handle can only be freed.
    Panic = 2,
    /// Another process made the handle. This process must make its own attachment.
    Forked = 3,
    /// Nothing listens at the device's path.
    NoDevice = 4,
    /// This process may not use the device.
    Denied = 5,
    /// The library and the device have no version of their interface in common.
    Version = 6,
    /// The device has gone, or has ended this process's attachment. Attach again.
    Detached = 7,
    /// The process is not attached yet, or not attached in the role for this call.
    NotAttached = 8,
    /// There is no room now. Try again after the event that says that there may be room.
    Again = 9,
    /// The device has no memory for this, and nothing that this process has under way would free any.
    /// Give up: no event follows.
    NoMemory = 10,
    /// A length exceeds that of the longest buffer, message or RDMA transfer.
    TooLong = 11,
    /// The connection does not exist, or it no longer belongs to this process.
    NoConnection = 12,
    /// The buffer does not exist, or it was freed.
    NoBuffer = 13,
    /// The range is not within the buffer or region.
    OutOfBounds = 14,
    /// The buffer descriptors are invalid: none, too many, a partial one, or one with an invalid range.
    Descriptors = 15,
    /// The buffer descriptors describe fewer bytes than the transfer has.
    DescriptorsTooShort = 16,
    /// The bytes are not a well-formed SMB2 request of the kind that the call expects.
    Request = 17,
    /// The peer does not serve RDMA READs.
    NoReads = 18,
    /// The token is unknown, used or expired.
    NoToken = 19,
    /// No process has registered that client GUID.
    NoOwner = 20,
    /// Another process has registered the client GUID or session, or is the listener.
    Taken = 21,
    /// The device has reached its limit of workers, sessions or connections.
    Limit = 22,
    /// An operation is still under way on the connection.
    Busy = 23,
    /// The work was abandoned because the connection ended.
    Flushed = 24,
    /// The peer refused access to its memory.
    RemoteAccess = 25,
    /// The network or fabric failed, or the device gave a code that this version does not know.
    Fabric = 26,
    /// The peer closed the connection gracefully.
    ClosedByPeer = 27,
    /// This process closed the connection.
    ClosedLocally = 28,
    /// The peer or the network aborted the connection.
    Reset = 29,
    /// The peer broke a rule of SMB Direct or of its fabric.
    Protocol = 30,
    /// The peer did not answer, or did not take what was sent, in time.
    TimedOut = 31,
    /// The device is being stopped.
    Stopping = 32,
    /// The other side of the interface broke its rules.
    Corrupt = 33,
    /// The system refused memory or a file descriptor.
    System = 34,
    /// The connection's server address is not allowed, or the machine no longer has it.
    Address = 35,
    /// The process that listens at the device's path runs as a user that is not trusted to run the device.
    Untrusted = 36,
}

impl Status {
    /// Returns the status as a number.
    #[must_use]
    pub const fn code(self) -> i32 {
        self as i32
    }

    /// Returns the status with this number; `None` if this version does not know it.
    #[must_use]
    pub const fn from_code(code: i32) -> Option<Self> {
        Self::from_repr(code)
    }

    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the meaning of the status, for a log.
    #[must_use]
    pub const fn text(self) -> &'static CStr {
        match self {
            Self::Ok => c"no error",
            Self::Invalid => c"invalid argument",
            Self::Panic => c"internal error in the library: the handle can only be freed",
            Self::Forked => {
                c"the handle belongs to the process that made it, not to its child: attach again"
            }
            Self::NoDevice => c"no smbdirect device at this path: is smbdirectd running, or smbdirectk loaded?",
            Self::Denied => c"not allowed to use the smbdirect device",
            Self::Version => c"the smbdirect device speaks another version",
            Self::Detached => c"detached from the smbdirect device",
            Self::NotAttached => c"not attached in the role for this call",
            Self::Again => c"no room now: wait for an event",
            Self::NoMemory => c"the device has no memory for this",
            Self::TooLong => c"longer than a buffer, message or RDMA transfer may be",
            Self::NoConnection => c"no such connection",
            Self::NoBuffer => c"no such buffer",
            Self::OutOfBounds => c"the range is not within the buffer",
            Self::Descriptors => c"invalid buffer descriptors",
            Self::DescriptorsTooShort => {
                c"the buffer descriptors describe fewer bytes than the transfer has"
            }
            Self::Request => c"not a well-formed SMB2 request",
            Self::NoReads => c"the peer does not serve RDMA READs",
            Self::NoToken => c"the token of the connection is unknown, used or expired",
            Self::NoOwner => c"no worker has registered this client GUID",
            Self::Taken => c"another worker has registered this client GUID or session",
            Self::Limit => c"a limit of the smbdirect device is reached",
            Self::Busy => c"operations are still under way on the connection",
            Self::Flushed => c"given up because the connection ended",
            Self::RemoteAccess => c"the peer refused access to its memory",
            Self::Fabric => c"the network or fabric failed",
            Self::ClosedByPeer => c"closed by the peer",
            Self::ClosedLocally => c"closed by this side",
            Self::Reset => c"connection reset",
            Self::Protocol => c"the peer broke the protocol",
            Self::TimedOut => c"timed out",
            Self::Stopping => c"the smbdirect device is being stopped",
            Self::Corrupt => c"the interface between library and device was violated",
            Self::System => c"the system has no memory or descriptors left",
            Self::Untrusted => {
                c"not trusted: the process at the device's path runs neither as root, nor as this user, nor as a user \
                  to whom root gave the socket's directory"
            }
            Self::Address => c"the connection's server address is not allowed, or has gone",
        }
    }

    /// Returns the nearest `errno` value.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Ok => 0,
            Self::Invalid | Self::Descriptors | Self::DescriptorsTooShort | Self::Request => {
                errno::EINVAL
            }
            Self::Panic => errno::ENOTRECOVERABLE,
            Self::Forked | Self::NotAttached => errno::EBADF,
            Self::NoDevice => errno::ENODEV,
            Self::Denied => errno::EACCES,
            Self::Untrusted => errno::EPERM,
            Self::Version => errno::EPROTONOSUPPORT,
            Self::Detached | Self::Stopping => errno::ESHUTDOWN,
            Self::Again => errno::EAGAIN,
            Self::NoMemory => errno::ENOBUFS,
            Self::TooLong => errno::EMSGSIZE,
            Self::NoConnection => errno::ENOTCONN,
            Self::NoBuffer | Self::NoOwner | Self::NoToken => errno::ENOENT,
            Self::OutOfBounds => errno::ERANGE,
            Self::NoReads => errno::EOPNOTSUPP,
            Self::Taken => errno::EEXIST,
            Self::Limit => errno::EUSERS,
            Self::Busy => errno::EBUSY,
            Self::Flushed => errno::ECANCELED,
            Self::RemoteAccess => errno::EREMOTEIO,
            Self::Fabric => errno::EIO,
            Self::ClosedByPeer => errno::EPIPE,
            Self::ClosedLocally => errno::ECONNABORTED,
            Self::Reset => errno::ECONNRESET,
            Self::Protocol | Self::Corrupt => errno::EPROTO,
            Self::TimedOut => errno::ETIMEDOUT,
            Self::System => errno::ENOMEM,
            Self::Address => errno::EADDRNOTAVAIL,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // All texts are ASCII.
        f.write_str(self.text().to_str().unwrap_or_default())
    }
}

impl core::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_own_number_name_and_text() {
        let all: Vec<Status> = (0..).map_while(Status::from_code).collect();
        assert_eq!(all.len(), 37);
        for (number, status) in (0..).zip(&all) {
            assert_eq!(status.code(), number);
            assert!(number == 0 || status.errno() > 0);
            let others = all
                .iter()
                .filter(|other| other.to_string() == status.to_string());
            assert_eq!(others.count(), 1, "{status}");
        }
        assert_eq!(Status::from_code(-1), None);
        assert_eq!(Status::DescriptorsTooShort.name(), "descriptors_too_short");
    }
}
