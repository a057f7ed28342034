// SPDX-License-Identifier: GPL-2.0-or-later

//! How a process speaks to a device in the kernel, `/dev/smbdirect`: the numbers and arguments of its `ioctl`s, and
//! the offsets for `mmap`.
//!
//! The data has the version and the form of [`abi`](super::abi): there is one interface, with two carriers. Only the
//! carrier differs, so this module has no version of its own. `kernel/uapi/smbdirect.h` says the same in C, and is
//! generated from here.
//!
//! # Calls
//!
//! An open file corresponds to a connection to smbdirectd: it has one role, and its first call is `ATTACH`. A message
//! that a process sends to smbdirectd is the argument of a call here; a message that smbdirectd sends is either the
//! answer in that argument, or an event that `GET_EVENTS` returns.
//!
//! | message to smbdirectd | here | answer |
//! |---|---|---|
//! | `ATTACH` | [`AttachCall`] | at once; [`Addresses`](super::abi::Addresses) is the first event of listeners and workers |
//! | `SET_PARAMETERS`, `SET_ADDRESSES`, `SET_SESSION_ID`, `DECLINE` | [`SetParametersCall`] and so on | at once |
//! | `CLAIM`, `GROW` | [`ClaimCall`], [`GrowCall`] | at once, or with [`LATER`] as `REPLY` or `SEGMENT` among the events |
//! | `RELEASE` | [`Release`] | none |
//! | `STATUS_REQUEST` | [`StatusCall`] | at once: records, see [`status`] |
//! | `EVENTS_REQUEST` | not available: the events are in the kernel's log | |
//! | `CAPTURE_REQUEST` | not available | |
//! | the end of the socket | [`DETACH`] | none |
//!
//! | message from smbdirectd | here |
//! |---|---|
//! | `ATTACHED`; `REPLY` and `SEGMENT` that answer at once | in the argument of the call |
//! | `ADDRESSES`, `OFFER`, `QUEUE`, `RECLAIM`, `DETACHED`; `SEGMENT` of RECEIVE; `REPLY`, `SEGMENT` after [`LATER`] | [`GetEventsCall`] |
//! | `WAKE` | not sent: `poll` says that the file is readable |
//! | `STATUS_REPORT` | not sent: the answer is in the buffer of [`StatusCall`] |
//!
//! A call that returns 0 was carried out, and `status` in its argument says how the request ended, as in
//! [`Reply`](super::abi::Reply). A call that was not carried out returns one of these numbers instead:
//!
//! | | |
//! |---|---|
//! | `ENOTTY` | no such call: another kind of device, or a later version of the interface |
//! | `EFAULT`, `EINVAL` | an address that cannot be read or written; a reserved field or a flag that is not 0; a length or a role out of range |
//! | `EBADF` | the process is not attached, or not in the role for this call |
//! | `EACCES` | the process wants to be a listener or a worker, but the file is not open for writing |
//! | `EBUSY` | the process is already attached |
//! | `ESHUTDOWN` | the process is no longer attached, and has read the last event |
//! | `EIO` | the device has failed, and the kernel's log says why |
//! | `ENOMEM` | the kernel has no memory |
//! | `EINTR` | a signal came first, so nothing was done |
//!
//! # Queues, and waiting
//!
//! A worker has one queue, whose rings and [`Queue`](super::abi::Queue) are the same as with smbdirectd. Its bell is
//! [`EnterCall`]: the device takes the submissions of the ring in the caller's context. [`SubmitCall`] submits entries
//! without a ring. There is no call for TRANSFER, because it is an entry of the submission ring.
//!
//! The file is readable (`POLLIN`) while there are events to read, while a completion ring has entries and its consumer
//! has announced that it sleeps, and while the network has reported something to the device that the device has not
//! looked at. The file stays readable until the process reads the events, takes the completions or makes a call with
//! [`enter::LOOK`]; an [`EnterCall`] without that flag does not change it. `POLLHUP` says that the process was
//! detached.
//!
//! # Memory
//!
//! The device announces segments and queues. A process maps one with `mmap` at [`map_offset`]: shared, for reading and
//! writing, and from the beginning of the segment or queue. The mapping may be as long as the message says, rounded up
//! to a page. A child of `fork` does not inherit the mapping. Send [`Release`] after `munmap`; a mapping that still
//! exists after that only keeps its pages allocated.
//!
//! [`LATER`]: answer::LATER
//! [`DETACH`]: number::DETACH

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::abi::{
    Attach, Attached, Claim, Decline, Grow, MemParams, Release, Segment, SetAddresses,
    SetParameters, SetSessionId,
};

pub mod status;

/// The path of the device, unless udev's rules change it.
pub const PATH: &str = "/dev/smbdirect";

/// The type in the numbers of all calls, which no other call in Linux's `ioctl-number.rst` has.
pub const MAGIC: u8 = 0xd5;

/// The numbers of the calls, as `_IO`, `_IOR`, `_IOW` and `_IOWR` of `<linux/ioctl.h>` make them. The length of the
/// argument is in the number, so if a later version has a longer argument, that is a different call.
pub mod number {
    use super::super::abi;

    const NONE: u32 = 0;
    const WRITE: u32 = 1;
    const READ: u32 = 2;
    const BOTH: u32 = READ | WRITE;

    /// Makes a number as `_IOC` of Linux's `asm-generic/ioctl.h` does, which x86-64 and arm64 use.
    const fn call(direction: u32, number: u8, length: usize) -> u32 {
        assert!(length < 1 << 14);
        direction << 30 | (length as u32) << 16 | (super::MAGIC as u32) << 8 | number as u32
    }

    /// Takes [`AttachCall`](super::AttachCall), which has the same form in every version.
    pub const ATTACH: u32 = call(BOTH, 1, size_of::<super::AttachCall>());
    /// Ends the attachment, even if a child of the process has a copy of the file. It has no argument.
    pub const DETACH: u32 = call(NONE, 2, 0);
    /// Takes [`SetParametersCall`](super::SetParametersCall): SET_SMBD_PARAMETERS.
    pub const SET_PARAMETERS: u32 = call(BOTH, 3, size_of::<super::SetParametersCall>());
    /// Takes [`SetAddressesCall`](super::SetAddressesCall).
    pub const SET_ADDRESSES: u32 = call(BOTH, 4, size_of::<super::SetAddressesCall>());
    /// Takes [`SetSessionIdCall`](super::SetSessionIdCall): SET_SMBD_SESSION_ID.
    pub const SET_SESSION_ID: u32 = call(BOTH, 5, size_of::<super::SetSessionIdCall>());
    /// Takes [`ClaimCall`](super::ClaimCall).
    pub const CLAIM: u32 = call(BOTH, 6, size_of::<super::ClaimCall>());
    /// Takes [`DeclineCall`](super::DeclineCall).
    pub const DECLINE: u32 = call(BOTH, 7, size_of::<super::DeclineCall>());
    /// Writes [`MemParams`](abi::MemParams), the same as in [`Attached`](abi::Attached): GET_MEM_PARAMS.
    pub const GET_MEM_PARAMS: u32 = call(READ, 8, size_of::<abi::MemParams>());
    /// Takes [`GrowCall`](super::GrowCall).
    pub const GROW: u32 = call(BOTH, 9, size_of::<super::GrowCall>());
    /// Takes [`Release`](abi::Release).
    pub const RELEASE: u32 = call(WRITE, 10, size_of::<abi::Release>());
    /// Takes [`GetEventsCall`](super::GetEventsCall): GET_SMBD_EVENT, except completions.
    pub const GET_EVENTS: u32 = call(BOTH, 11, size_of::<super::GetEventsCall>());
    /// Takes [`SubmitCall`](super::SubmitCall): SEND_PDU, RDMA_READ_WRITE and the others, without a ring.
    pub const SUBMIT: u32 = call(BOTH, 12, size_of::<super::SubmitCall>());
    /// Takes [`EnterCall`](super::EnterCall): submits what is in a ring.
    pub const ENTER: u32 = call(BOTH, 13, size_of::<super::EnterCall>());
    /// Takes [`StatusCall`](super::StatusCall).
    pub const STATUS: u32 = call(BOTH, 14, size_of::<super::StatusCall>());
}

/// Values of `status` in an argument, besides the numbers of [`Status`](crate::device::Status).
pub mod answer {
    /// The answer (`SEGMENT` for `GROW`, otherwise `REPLY`) comes as an event with the request's cookie.
    pub const LATER: i32 = -1;
}

/// Values of [`EnterCall::flags`].
pub mod enter {
    /// Also takes what the network has completed, and writes to `ready` what the process can read.
    pub const LOOK: u32 = 1;
}

/// Values of [`EnterCall::ready`].
pub mod ready {
    /// There are events to read.
    pub const EVENTS: u32 = 1;
    /// There are completions in a ring.
    pub const COMPLETIONS: u32 = 2;
}

/// Value of [`EnterCall::queue`] for all queues of the process, of which there may be none.
pub const ALL_QUEUES: u32 = u32::MAX;

/// Value of [`EnterCall::wait_ns`] for a wait without a limit.
pub const FOREVER: u64 = u64::MAX;

/// Maximum number of entries of a [`SubmitCall`].
pub const MAX_SUBMISSIONS: u32 = 256;

/// Stands for queues in the offset for `mmap`, in place of a region of `abi::region::*`.
pub const MAP_QUEUE: u32 = 4;

/// Returns the offset for `mmap` of the segment `number` of a region of `abi::region::*`, or of the queue `number`
/// ([`MAP_QUEUE`]). Returns `None` if there is no place for such a number: a device in the kernel has at most 256
/// segments in a region.
#[must_use]
pub const fn map_offset(region: u32, number: u32) -> Option<u64> {
    if region == 0 || region > MAP_QUEUE || number > 0xff {
        return None;
    }
    Some((region as u64) << 40 | (number as u64) << 32)
}

/// The argument of a call.
pub trait Call: Copy + FromBytes + IntoBytes + Immutable + KnownLayout {
    /// One of `number::*`.
    const NUMBER: u32;

    /// Returns whether all reserved fields, including those of the structures within, are 0. Otherwise the device
    /// refuses the call. It does not look at the fields that it writes.
    fn reserved_is_zero(&self) -> bool;
}

macro_rules! calls {
    ($($call:ident $number:ident: $reserved:expr;)*) => {
        $(impl Call for $call {
            const NUMBER: u32 = number::$number;

            fn reserved_is_zero(&self) -> bool {
                let reserved: fn(&Self) -> bool = $reserved;
                reserved(self)
            }
        })*
    };
}

calls! {
    AttachCall ATTACH: |call| call.attach.reserved == 0;
    SetParametersCall SET_PARAMETERS: |call| call.parameters.reserved == [0; 5] && call.reserved == 0;
    SetAddressesCall SET_ADDRESSES: |call| call.reserved == 0;
    SetSessionIdCall SET_SESSION_ID: |call| call.session.reserved == 0 && call.reserved == 0;
    ClaimCall CLAIM: |call| call.reserved == 0;
    DeclineCall DECLINE: |call| call.reserved == 0;
    // The device writes all of it.
    MemParams GET_MEM_PARAMS: |_| true;
    GrowCall GROW: |call| call.reserved == 0;
    Release RELEASE: |call| call.reserved == 0;
    GetEventsCall GET_EVENTS: |call| call.reserved == 0;
    SubmitCall SUBMIT: |call| call.reserved == 0;
    EnterCall ENTER: |call| call.reserved == 0;
    StatusCall STATUS: |call| call.reserved == 0;
}

/// A process asks to be attached. If `status` says that it was not attached, it may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttachCall {
    /// The request. A listener and a worker need a file that is open for writing.
    pub attach: Attach,
    /// Written if `status` is OK.
    pub attached: Attached,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// Written: the device's newest version if it refuses because of versions, otherwise 0.
    pub version: u32,
}

/// A listener sets parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetParametersCall {
    /// The request.
    pub parameters: SetParameters,
    /// The address of the security blob; `parameters` has its length.
    pub security_blob: u64,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// Must be 0.
    pub reserved: u32,
}

/// A listener sets the addresses that clients may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetAddressesCall {
    /// The request.
    pub set: SetAddresses,
    /// The address of an array of [`AllowedAddress`](super::abi::AllowedAddress); `set` has its length.
    pub addresses: u64,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// Must be 0.
    pub reserved: u32,
}

/// A worker registers a client and a session, or removes the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetSessionIdCall {
    /// The request.
    pub session: SetSessionId,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// Must be 0.
    pub reserved: u32,
}

/// A worker claims the connection that a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClaimCall {
    /// A number, not 0, that the answer repeats if it comes later.
    pub cookie: u64,
    /// The request.
    pub claim: Claim,
    /// Written: a [`Status`](crate::device::Status) as a number, or [`answer::LATER`].
    pub status: i32,
    /// Must be 0.
    pub reserved: u32,
}

/// A listener declines the connection that a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeclineCall {
    /// The request.
    pub decline: Decline,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// Must be 0.
    pub reserved: u32,
}

/// A worker needs one more segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrowCall {
    /// A number, not 0, that the answer repeats if it comes later.
    pub cookie: u64,
    /// The request.
    pub grow: Grow,
    /// Written if `status` is OK.
    pub segment: Segment,
    /// Written: a [`Status`](crate::device::Status) as a number, or [`answer::LATER`].
    pub status: i32,
    /// Must be 0.
    pub reserved: u32,
}

/// Reads events: consecutive whole control messages ([`Control`](super::abi::Control)), each a multiple of 8 bytes
/// long. Returns as many of them as fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetEventsCall {
    /// The address of a buffer.
    pub buffer: u64,
    /// Length of the buffer in bytes: at least [`MAX_CONTROL_LENGTH`](super::abi::MAX_CONTROL_LENGTH), so that any
    /// message fits.
    pub length: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Written: the length of the messages, in bytes.
    pub filled: u32,
    /// Written: the number of messages, 0 if there are none now.
    pub count: u32,
}

/// A worker submits entries that are not in a ring. The device takes the ring's entries first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SubmitCall {
    /// The address of `count` entries, each a [`Submission`](super::abi::Submission) or a
    /// [`TransferSubmission`](super::abi::TransferSubmission).
    pub submissions: u64,
    /// Number of entries: 1 to [`MAX_SUBMISSIONS`].
    pub count: u32,
    /// The queue.
    pub queue: u32,
    /// Written: how many entries the device has taken, which is fewer than `count` while there is no room for
    /// completions.
    pub taken: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// A worker rings the bell of a queue, or any process asks what it can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EnterCall {
    /// The queue, or [`ALL_QUEUES`].
    pub queue: u32,
    /// A combination of `enter::*`.
    pub flags: u32,
    /// Maximum time to sleep until `ready` is not 0, in nanoseconds: 0 means not to sleep, [`FOREVER`] without a limit.
    /// Needs [`enter::LOOK`].
    pub wait_ns: u64,
    /// Written: a combination of `ready::*` with [`enter::LOOK`], otherwise 0.
    pub ready: u32,
    /// Must be 0.
    pub reserved: u32,
}

/// An observer asks for the status: consecutive records ([`status`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatusCall {
    /// The address of a buffer.
    pub buffer: u64,
    /// Length of the buffer, in bytes.
    pub length: u32,
    /// Must be 0.
    pub reserved: u32,
    /// Written: the length of the records, in bytes; 0 if they do not all fit.
    pub filled: u32,
    /// Written: the length of all records, in bytes, which may have grown by the next call.
    pub needed: u32,
}

// `IntoBytes` refuses padding; the lengths are part of the numbers.
const _: () = {
    assert!(size_of::<AttachCall>() == 152);
    assert!(size_of::<SetParametersCall>() == 80);
    assert!(size_of::<SetAddressesCall>() == 24);
    assert!(size_of::<SetSessionIdCall>() == 40);
    assert!(size_of::<ClaimCall>() == 32);
    assert!(size_of::<DeclineCall>() == 24);
    assert!(size_of::<GrowCall>() == 48);
    assert!(size_of::<GetEventsCall>() == 24);
    assert!(size_of::<SubmitCall>() == 24);
    assert!(size_of::<EnterCall>() == 24);
    assert!(size_of::<StatusCall>() == 24);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_own_offset() {
        assert_eq!(map_offset(1, 0), Some(1 << 40));
        assert_eq!(map_offset(3, 0xff), Some(0x03ff_0000_0000));
        assert_eq!(map_offset(MAP_QUEUE, 1), Some(0x0401_0000_0000));
        for (region, number) in [(0, 0), (5, 0), (1, 256), (u32::MAX, u32::MAX)] {
            assert_eq!(map_offset(region, number), None);
        }
    }

    #[test]
    fn the_length_and_the_direction_are_in_the_number() {
        assert_eq!(number::ENTER, 0xc018_d50d);
        assert_eq!(number::DETACH, 0xd502);
        assert_eq!(number::GET_MEM_PARAMS, 0x8040_d508);
        assert_eq!(number::RELEASE, 0x4010_d50a);
    }

    /// Checks that a structure with one byte that is not 0 is refused exactly if that byte is reserved.
    fn check<C: Call>(reserved: &[core::ops::Range<usize>]) {
        for offset in 0..size_of::<C>() {
            let mut bytes = [0; 160];
            bytes[offset] = 1;
            let call = C::read_from_bytes(&bytes[..size_of::<C>()]).unwrap();
            let is_reserved = reserved.iter().any(|range| range.contains(&offset));
            assert_eq!(
                call.reserved_is_zero(),
                !is_reserved,
                "{:#x} {offset}",
                C::NUMBER
            );
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn finds_reserved_fields() {
        check::<AttachCall>(&[28..32]);
        check::<SetParametersCall>(&[44..64, 76..80]);
        check::<SetAddressesCall>(&[20..24]);
        check::<SetSessionIdCall>(&[28..32, 36..40]);
        check::<ClaimCall>(&[28..32]);
        check::<DeclineCall>(&[20..24]);
        check::<MemParams>(&[]);
        check::<GrowCall>(&[44..48]);
        check::<Release>(&[12..16]);
        check::<GetEventsCall>(&[12..16]);
        check::<SubmitCall>(&[20..24]);
        check::<EnterCall>(&[20..24]);
        check::<StatusCall>(&[12..16]);
    }
}
