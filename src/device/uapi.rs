// SPDX-License-Identifier: GPL-2.0-or-later

//! How a process speaks to a device in the kernel, `/dev/smbdirect`: the numbers and arguments of its `ioctl`s, and
//! the offsets for `mmap`.
//!
//! The data is that of [`abi`](super::abi), in the same version and the same form: one interface, two carriers. Only
//! what carries it is different, so this module has no version of its own. `kernel/uapi/smbdirect.h` says the same in
//! C, and is generated from here.
//!
//! # Calls
//!
//! An open file is what a connection is to smbdirectd: it has one role, and its first call is `ATTACH`. A message that a
//! process sends to smbdirectd is the argument of a call here; a message that smbdirectd sends is either the answer in
//! that argument, or comes with `GET_EVENTS`.
//!
//! | message to smbdirectd | here | answer |
//! |---|---|---|
//! | `ATTACH` | [`AttachCall`] | at once; [`Addresses`](super::abi::Addresses) is the first event of listeners and workers |
//! | `SET_PARAMETERS`, `SET_ADDRESSES`, `SET_SESSION_ID`, `DECLINE` | [`SetParametersCall`] and so on | at once |
//! | `CLAIM`, `GROW` | [`ClaimCall`], [`GrowCall`] | at once, or with [`LATER`] as `REPLY` or `SEGMENT` among the events |
//! | `RELEASE` | [`Release`] | none |
//! | `STATUS_REQUEST` | [`StatusCall`] | at once: records, see [`status`] |
//! | `EVENTS_REQUEST` | not there: the kernel's log has the events | |
//! | the end of the socket | [`DETACH`] | none |
//!
//! | message of smbdirectd | here |
//! |---|---|
//! | `ATTACHED`; `REPLY` and `SEGMENT` that answer at once | in the argument of the call |
//! | `ADDRESSES`, `OFFER`, `QUEUE`, `RECLAIM`, `DETACHED`; `SEGMENT` of RECEIVE; `REPLY`, `SEGMENT` after [`LATER`] | [`GetEventsCall`] |
//! | `WAKE` | not sent: `poll` says that the file is readable |
//! | `STATUS_REPORT` | not sent: the answer is in the buffer of [`StatusCall`] |
//!
//! A call that returns 0 was carried out, and `status` in its argument says what became of the request, as in
//! [`Reply`](super::abi::Reply). The numbers that a call returns instead say that it was not carried out:
//!
//! | | |
//! |---|---|
//! | `ENOTTY` | no such call: another kind of device, or a later version of the interface |
//! | `EFAULT`, `EINVAL` | an address that cannot be read or written; a reserved field or a flag that is not 0; a length or a role out of range |
//! | `EBADF` | not attached, or not in the role for this call |
//! | `EACCES` | a listener or a worker, and the file is not open for writing |
//! | `EBUSY` | already attached |
//! | `ESHUTDOWN` | no longer attached, and the last event has been read |
//! | `EIO` | the device has failed, and the kernel's log says why |
//! | `ENOMEM` | the kernel has no memory |
//! | `EINTR` | a signal came first: nothing was done |
//!
//! # Queues, and waiting
//!
//! A worker has one queue, whose rings and [`Queue`](super::abi::Queue) are those of smbdirectd. Its bell is
//! [`EnterCall`]: the device takes the submissions of the ring in the caller's context. [`SubmitCall`] submits entries
//! without a ring. There is no call for TRANSFER, because it is an entry of the submission ring.
//!
//! The file is readable (`POLLIN`) while there are events to read, while a completion ring has entries and its consumer
//! has announced that it sleeps, and while the network has told the device of something that it has not looked at.
//! That is a state, which only reading events, taking completions or a call with [`enter::LOOK`] ends; an
//! [`EnterCall`] without it does not. `POLLHUP` says that the process was detached.
//!
//! # Memory
//!
//! A segment or a queue that the device announces is mapped with `mmap` at [`map_offset`], shared, for reading and
//! writing, from its beginning and at most as long as it says, rounded up to a page. A child of `fork` does not inherit
//! the mapping. [`Release`] comes after `munmap`; a mapping that is still there keeps the pages, and nothing else.
//!
//! [`LATER`]: answer::LATER
//! [`DETACH`]: number::DETACH

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::abi::{
    Attach, Attached, Claim, Decline, Grow, MemParams, Release, Segment, SetAddresses,
    SetParameters, SetSessionId,
};

pub mod status;

/// Where the device is, unless udev's rules say otherwise.
pub const PATH: &str = "/dev/smbdirect";

/// The type of all numbers, which no call in Linux's `ioctl-number.rst` has.
pub const MAGIC: u8 = 0xd5;

/// The numbers of the calls, as `_IO`, `_IOR`, `_IOW` and `_IOWR` of `<linux/ioctl.h>` make them. The length of the
/// argument is in the number, so a longer argument of a later version is another call.
pub mod number {
    use super::super::abi;

    const NONE: u32 = 0;
    const WRITE: u32 = 1;
    const READ: u32 = 2;
    const BOTH: u32 = READ | WRITE;

    /// `_IOC` of Linux's `asm-generic/ioctl.h`, which x86-64 and arm64 use.
    const fn call(direction: u32, number: u8, length: usize) -> u32 {
        assert!(length < 1 << 14);
        direction << 30 | (length as u32) << 16 | (super::MAGIC as u32) << 8 | number as u32
    }

    /// [`AttachCall`](super::AttachCall): of the same form in every version.
    pub const ATTACH: u32 = call(BOTH, 1, size_of::<super::AttachCall>());
    /// No argument. Ends the attachment, even if a child of the process has a copy of the file.
    pub const DETACH: u32 = call(NONE, 2, 0);
    /// [`SetParametersCall`](super::SetParametersCall): SET_SMBD_PARAMETERS.
    pub const SET_PARAMETERS: u32 = call(BOTH, 3, size_of::<super::SetParametersCall>());
    /// [`SetAddressesCall`](super::SetAddressesCall).
    pub const SET_ADDRESSES: u32 = call(BOTH, 4, size_of::<super::SetAddressesCall>());
    /// [`SetSessionIdCall`](super::SetSessionIdCall): SET_SMBD_SESSION_ID.
    pub const SET_SESSION_ID: u32 = call(BOTH, 5, size_of::<super::SetSessionIdCall>());
    /// [`ClaimCall`](super::ClaimCall).
    pub const CLAIM: u32 = call(BOTH, 6, size_of::<super::ClaimCall>());
    /// [`DeclineCall`](super::DeclineCall).
    pub const DECLINE: u32 = call(BOTH, 7, size_of::<super::DeclineCall>());
    /// [`MemParams`](abi::MemParams), as [`Attached`](abi::Attached) had it: GET_MEM_PARAMS.
    pub const GET_MEM_PARAMS: u32 = call(READ, 8, size_of::<abi::MemParams>());
    /// [`GrowCall`](super::GrowCall).
    pub const GROW: u32 = call(BOTH, 9, size_of::<super::GrowCall>());
    /// [`Release`](abi::Release).
    pub const RELEASE: u32 = call(WRITE, 10, size_of::<abi::Release>());
    /// [`GetEventsCall`](super::GetEventsCall): GET_SMBD_EVENT, except completions.
    pub const GET_EVENTS: u32 = call(BOTH, 11, size_of::<super::GetEventsCall>());
    /// [`SubmitCall`](super::SubmitCall): SEND_PDU, RDMA_READ_WRITE and the others, without a ring.
    pub const SUBMIT: u32 = call(BOTH, 12, size_of::<super::SubmitCall>());
    /// [`EnterCall`](super::EnterCall): the same with a ring.
    pub const ENTER: u32 = call(BOTH, 13, size_of::<super::EnterCall>());
    /// [`StatusCall`](super::StatusCall).
    pub const STATUS: u32 = call(BOTH, 14, size_of::<super::StatusCall>());
}

/// What is in `status` of an argument, besides the numbers of [`Status`](crate::device::Status).
pub mod answer {
    /// The answer comes among the events, with the request's cookie: `REPLY`, or `SEGMENT` to `GROW`.
    pub const LATER: i32 = -1;
}

/// [`EnterCall::flags`].
pub mod enter {
    /// Also take what the network has completed, and say in `ready` what there is.
    pub const LOOK: u32 = 1;
}

/// [`EnterCall::ready`].
pub mod ready {
    /// There are events to read.
    pub const EVENTS: u32 = 1;
    /// There are completions in a ring.
    pub const COMPLETIONS: u32 = 2;
}

/// [`EnterCall::queue`]: all queues of the process, of which there may be none.
pub const ALL_QUEUES: u32 = u32::MAX;

/// [`EnterCall::wait_ns`]: without a limit.
pub const FOREVER: u64 = u64::MAX;

/// The most entries of a [`SubmitCall`].
pub const MAX_SUBMISSIONS: u32 = 256;

/// What of a process's memory can be mapped, besides `abi::region::*`: a queue, with its number.
pub const MAP_QUEUE: u32 = 4;

/// Where `mmap` finds the segment `number` of `abi::region::*`, or the queue `number` ([`MAP_QUEUE`]). `None`: there
/// is no place for such a number; a device in the kernel has at most 256 segments in a region.
#[must_use]
pub const fn map_offset(region: u32, number: u32) -> Option<u64> {
    if region == 0 || region > MAP_QUEUE || number > 0xff {
        return None;
    }
    Some((region as u64) << 40 | (number as u64) << 32)
}

/// The argument of a call.
pub trait Call: Copy + FromBytes + IntoBytes + Immutable + KnownLayout {
    /// `number::*`.
    const NUMBER: u32;

    /// Whether all reserved fields, and those of the structures within, are 0. The device refuses the call otherwise.
    /// It does not look at the fields that it writes.
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

/// A process presents itself. If `status` says that it could not attach, it may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AttachCall {
    /// The request. A listener and a worker need a file that is open for writing.
    pub attach: Attach,
    /// Written if `status` is OK.
    pub attached: Attached,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// Written: the device's newest version if versions are why it refuses, otherwise 0.
    pub version: u32,
}

/// A listener sets parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetParametersCall {
    /// The request.
    pub parameters: SetParameters,
    /// The address of the security blob, of as many bytes as `parameters` says.
    pub security_blob: u64,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// 0.
    pub reserved: u32,
}

/// A listener sets the addresses that clients may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetAddressesCall {
    /// The request.
    pub set: SetAddresses,
    /// The address of as many [`AllowedAddress`](super::abi::AllowedAddress)es as `set` says.
    pub addresses: u64,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// 0.
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
    /// 0.
    pub reserved: u32,
}

/// A worker wants the connection of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ClaimCall {
    /// Not 0: repeated in the answer if that comes later.
    pub cookie: u64,
    /// The request.
    pub claim: Claim,
    /// Written: a [`Status`](crate::device::Status) as a number, or [`answer::LATER`].
    pub status: i32,
    /// 0.
    pub reserved: u32,
}

/// A listener declines the connection of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DeclineCall {
    /// The request.
    pub decline: Decline,
    /// Written: a [`Status`](crate::device::Status) as a number.
    pub status: i32,
    /// 0.
    pub reserved: u32,
}

/// A worker needs one more segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GrowCall {
    /// Not 0: repeated in the answer if that comes later.
    pub cookie: u64,
    /// The request.
    pub grow: Grow,
    /// Written if `status` is OK.
    pub segment: Segment,
    /// Written: a [`Status`](crate::device::Status) as a number, or [`answer::LATER`].
    pub status: i32,
    /// 0.
    pub reserved: u32,
}

/// Reads events: whole control messages ([`Control`](super::abi::Control)), one behind the other, each a multiple of
/// 8 bytes long, as many as there are and fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct GetEventsCall {
    /// The address of a buffer.
    pub buffer: u64,
    /// Its bytes: at least [`MAX_CONTROL_LENGTH`](super::abi::MAX_CONTROL_LENGTH), so that any message fits.
    pub length: u32,
    /// 0.
    pub reserved: u32,
    /// Written: bytes of the messages.
    pub filled: u32,
    /// Written: how many messages there are, and 0 if there are none now.
    pub count: u32,
}

/// A worker submits entries that are not in a ring. The device takes those of the ring first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SubmitCall {
    /// The address of as many [`Submission`](super::abi::Submission)s or
    /// [`TransferSubmission`](super::abi::TransferSubmission)s as `count` says.
    pub submissions: u64,
    /// 1 to [`MAX_SUBMISSIONS`].
    pub count: u32,
    /// The queue.
    pub queue: u32,
    /// Written: how many the device has taken: fewer, while there is no room for completions.
    pub taken: u32,
    /// 0.
    pub reserved: u32,
}

/// A worker rings the bell of a queue, and any process asks what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct EnterCall {
    /// The queue, or [`ALL_QUEUES`].
    pub queue: u32,
    /// `enter::*`.
    pub flags: u32,
    /// How long to sleep until `ready` is not 0, in nanoseconds; 0: not at all; [`FOREVER`]. Needs [`enter::LOOK`].
    pub wait_ns: u64,
    /// Written: `ready::*` with [`enter::LOOK`], otherwise 0.
    pub ready: u32,
    /// 0.
    pub reserved: u32,
}

/// An observer asks for the status: records ([`status`]), one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct StatusCall {
    /// The address of a buffer.
    pub buffer: u64,
    /// Its bytes.
    pub length: u32,
    /// 0.
    pub reserved: u32,
    /// Written: bytes of the records; 0 if they do not all fit.
    pub filled: u32,
    /// Written: how many bytes all records have, which may be more the next time.
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

    /// The bytes of a structure, of which one is not 0, are refused if that byte is reserved.
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
