// SPDX-License-Identifier: GPL-2.0-or-later

//! Control messages as bytes, for both sides, in the form that [`abi`](super::abi) defines.
//!
//! A message is read as a whole: kind, length, cookie and reserved fields are checked before anything is used, and the
//! structure is a copy. The caller decides what the values mean and whether the message is legal now. This module must
//! never look at a socket or a descriptor.
//!
//! ```text
//!   0 kind      4 length      8 cookie      16 the structure of that kind      (blob, or elements)
//! ```

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::abi::{
    Address, Addresses, AllowedAddress, Attach, Attached, CaptureRequest, CaptureStarted, Claim,
    ClientNote, Control, Decline, Detached, EventsRequest, Grow, MAX_ADDRESSES,
    MAX_ALLOWED_ADDRESSES, MAX_SECURITY_BLOB, OPTIONAL, Offer, Queue, Reclaim, Release, Reply,
    Segment, SetAddresses, SetParameters, SetSessionId, StatusReport, StatusRequest, Wake, kind,
};

/// The structure of a control message.
pub trait Body: Copy + FromBytes + IntoBytes + Immutable + KnownLayout {
    /// `kind::*`.
    const KIND: u32;

    /// Returns whether all reserved fields are 0.
    fn reserved_is_zero(&self) -> bool;
}

macro_rules! bodies {
    ($($body:ident $kind:ident: $reserved:expr;)*) => {
        $(impl Body for $body {
            const KIND: u32 = kind::$kind;

            fn reserved_is_zero(&self) -> bool {
                let reserved: fn(&Self) -> bool = $reserved;
                reserved(self)
            }
        })*
    };
}

bodies! {
    Attach ATTACH: |body| body.reserved == 0;
    SetParameters SET_PARAMETERS: |body| body.reserved == [0; 5];
    SetAddresses SET_ADDRESSES: |_| true;
    SetSessionId SET_SESSION_ID: |body| body.reserved == 0;
    ClientNote CLIENT_NOTE: |body| body.reserved == 0;
    Claim CLAIM: |_| true;
    Decline DECLINE: |_| true;
    Grow GROW: |_| true;
    Release RELEASE: |body| body.reserved == 0;
    StatusRequest STATUS_REQUEST: |body| body.reserved == 0;
    EventsRequest EVENTS_REQUEST: |_| true;
    CaptureRequest CAPTURE_REQUEST: |body| body.reserved == 0;
    Attached ATTACHED: |body| body.reserved == [0; 4] && body.memory.reserved == 0;
    Reply REPLY: |_| true;
    Segment SEGMENT: |body| body.reserved == 0;
    Reclaim RECLAIM: |body| body.reserved == 0;
    Queue QUEUE: |body| body.reserved == 0;
    Offer OFFER: |body| body.info.reserved == [0; 7];
    Wake WAKE: |body| body.reserved == 0;
    StatusReport STATUS_REPORT: |_| true;
    CaptureStarted CAPTURE_STARTED: |body| body.reserved == 0;
    Detached DETACHED: |_| true;
    Addresses ADDRESSES: |body| body.reserved == 0;
}

/// What a process sends to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// The first message of a process.
    Attach(Attach),
    /// The parameters that a listener sets, and the security blob.
    SetParameters(SetParameters, &'a [u8]),
    /// The addresses that a listener allows: at most [`MAX_ALLOWED_ADDRESSES`].
    SetAddresses(SetAddresses, Vec<AllowedAddress>),
    /// A worker registers a client or a session.
    SetSessionId(SetSessionId),
    /// A worker claims a connection.
    Claim(Claim),
    /// A listener declines a connection.
    Decline(Decline),
    /// A worker needs a segment.
    Grow(Grow),
    /// A worker gives a segment back. There is no answer.
    Release(Release),
    /// A listener says what smbd knows about a client. There is no answer.
    ClientNote(ClientNote),
    /// An observer asks for the status.
    Status(StatusRequest),
    /// An observer asks for events.
    Events(EventsRequest),
    /// An observer asks for a capture.
    Capture(CaptureRequest),
    /// A message of a later version, which may be skipped.
    Skipped,
}

/// What a device sends to a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to [`Request::Attach`].
    Attached(Attached),
    /// The answer to requests that have no other answer, and to those that fail.
    Reply(Reply),
    /// The answer to [`Request::Grow`]; for RECEIVE, it comes unasked. It carries a memory file.
    Segment(Segment),
    /// The device asks for a segment back.
    Reclaim(Reclaim),
    /// The device shares a queue. The message carries a memory file and, after it, a doorbell.
    Queue(Queue),
    /// The device offers a connection to the listener.
    Offer(Offer),
    /// The device wakes a worker.
    Wake(Wake),
    /// The answer to [`Request::Status`] and [`Request::Events`]. It carries a memory file.
    Status(StatusReport),
    /// The answer to [`Request::Capture`]. It carries a socket.
    Capture(CaptureStarted),
    /// The addresses on which clients reach the device: at most [`MAX_ADDRESSES`].
    Addresses(Vec<Address>),
    /// The last message: the device has ended the attachment.
    Detached(Detached),
    /// A message of a later version, which may be skipped, with whatever it carries.
    Skipped,
}

impl Answer {
    /// Returns the exact number of file descriptors that the message must carry; `None` allows any number.
    #[must_use]
    pub const fn descriptors(&self) -> Option<usize> {
        match self {
            Self::Queue(_) => Some(2),
            Self::Segment(_) | Self::Status(_) | Self::Capture(_) => Some(1),
            Self::Skipped => None,
            _ => Some(0),
        }
    }
}

/// Why bytes are not a control message. Their sender broke the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum MessageError {
    /// The message is shorter than a [`Control`], or its length differs from what its kind or its `length` says.
    #[error("wrong length for a control message: {0} bytes")]
    WrongLength(usize),
    /// The message has a kind that this side does not read.
    #[error("unexpected control message kind {0}")]
    UnknownKind(u32),
    /// A reserved field is not 0.
    #[error("a reserved field of a control message of kind {0} is not 0")]
    ReservedNotZero(u32),
    /// The request cannot be answered, because it has cookie 0.
    #[error("a request with cookie 0")]
    NoCookie,
}

impl MessageError {
    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// Replaces the contents of `message` by a message, and keeps its capacity.
///
/// `blob` is the security blob of [`SetParameters`] (at most [`MAX_SECURITY_BLOB`] bytes), or the elements of
/// [`Addresses`] (at most [`MAX_ADDRESSES`]) or [`SetAddresses`] (at most [`MAX_ALLOWED_ADDRESSES`]). It is
/// empty for other messages.
pub fn encode<B: Body>(cookie: u64, body: &B, blob: &[u8], message: &mut Vec<u8>) {
    let length = size_of::<Control>() + size_of::<B>() + blob.len();
    let control = Control {
        kind: B::KIND,
        // This length is too long for any message: the other side refuses the message.
        length: u32::try_from(length).unwrap_or(u32::MAX),
        cookie,
    };
    message.clear();
    message.extend_from_slice(control.as_bytes());
    message.extend_from_slice(body.as_bytes());
    message.extend_from_slice(blob);
}

/// Replaces the contents of `message` by an [`Addresses`] with the first [`MAX_ADDRESSES`] of `list`.
pub fn encode_addresses(cookie: u64, list: &[Address], message: &mut Vec<u8>) {
    let list = list.get(..MAX_ADDRESSES).unwrap_or(list);
    let body = Addresses {
        count: list.len() as u32,
        reserved: 0,
    };
    encode(cookie, &body, list.as_bytes(), message);
}

/// Reads a message from a process. Returns the cookie, which is not 0 if the device must answer, and the request.
///
/// # Errors
///
/// The error names the first rule that the message breaks.
pub fn read_request(message: &[u8]) -> Result<(u64, Request<'_>), MessageError> {
    let (control, rest) = split(message)?;
    if control.kind == kind::CLIENT_NOTE && control.cookie == 0 {
        return Ok((0, Request::ClientNote(read(rest)?)));
    }
    if is_skipped(&control) {
        return Ok((0, Request::Skipped));
    }
    if control.cookie == 0 && control.kind != kind::RELEASE {
        return Err(MessageError::NoCookie);
    }
    let request = match control.kind {
        kind::ATTACH => Request::Attach(read(rest)?),
        kind::SET_PARAMETERS => {
            let (parameters, blob) = read_parameters(rest)?;
            Request::SetParameters(parameters, blob)
        }
        kind::SET_ADDRESSES => {
            let (set, list) = read_list(rest, MAX_ALLOWED_ADDRESSES)?;
            Request::SetAddresses(set, list)
        }
        kind::SET_SESSION_ID => Request::SetSessionId(read(rest)?),
        kind::CLAIM => Request::Claim(read(rest)?),
        kind::DECLINE => Request::Decline(read(rest)?),
        kind::GROW => Request::Grow(read(rest)?),
        kind::RELEASE => Request::Release(read(rest)?),
        kind::STATUS_REQUEST => Request::Status(read(rest)?),
        kind::EVENTS_REQUEST => Request::Events(read(rest)?),
        kind::CAPTURE_REQUEST => Request::Capture(read(rest)?),
        other => return Err(MessageError::UnknownKind(other)),
    };
    Ok((control.cookie, request))
}

/// Returns whether a side that does not know the kind may skip the message.
const fn is_skipped(control: &Control) -> bool {
    control.kind & OPTIONAL != 0 && control.cookie == 0
}

/// Returns the newest version that an [`Attach`] names, even if this side does not know the form of the rest; `None`
/// for other messages.
#[must_use]
pub fn attach_version(message: &[u8]) -> Option<u32> {
    let (control, rest) = split(message).ok()?;
    let (version, _) = u32::read_from_prefix(rest).ok()?;
    (control.kind == kind::ATTACH).then_some(version)
}

/// Reads a message from a device. Returns the cookie, which is 0 for unasked messages, and the message.
///
/// # Errors
///
/// The error names the first rule that the message breaks.
pub fn read_answer(message: &[u8]) -> Result<(u64, Answer), MessageError> {
    let (control, rest) = split(message)?;
    if is_skipped(&control) {
        return Ok((0, Answer::Skipped));
    }
    let answer = match control.kind {
        kind::ATTACHED => Answer::Attached(read(rest)?),
        kind::REPLY => Answer::Reply(read(rest)?),
        kind::SEGMENT => Answer::Segment(read(rest)?),
        kind::RECLAIM => Answer::Reclaim(read(rest)?),
        kind::QUEUE => Answer::Queue(read(rest)?),
        kind::OFFER => Answer::Offer(read(rest)?),
        kind::WAKE => Answer::Wake(read(rest)?),
        kind::STATUS_REPORT => Answer::Status(read(rest)?),
        kind::CAPTURE_STARTED => Answer::Capture(read(rest)?),
        kind::ADDRESSES => {
            let (_, list): (Addresses, _) = read_list(rest, MAX_ADDRESSES)?;
            Answer::Addresses(list)
        }
        kind::DETACHED => Answer::Detached(read(rest)?),
        other => return Err(MessageError::UnknownKind(other)),
    };
    Ok((control.cookie, answer))
}

fn split(message: &[u8]) -> Result<(Control, &[u8]), MessageError> {
    let wrong = MessageError::WrongLength(message.len());
    let (control, rest) = Control::read_from_prefix(message).map_err(|_| wrong)?;
    if usize::try_from(control.length) != Ok(message.len()) {
        return Err(wrong);
    }
    Ok((control, rest))
}

fn read<B: Body>(bytes: &[u8]) -> Result<B, MessageError> {
    let wrong = MessageError::WrongLength(size_of::<Control>() + bytes.len());
    let body = B::read_from_bytes(bytes).map_err(|_| wrong)?;
    if !body.reserved_is_zero() {
        return Err(MessageError::ReservedNotZero(B::KIND));
    }
    Ok(body)
}

fn read_parameters(bytes: &[u8]) -> Result<(SetParameters, &[u8]), MessageError> {
    let wrong = MessageError::WrongLength(size_of::<Control>() + bytes.len());
    let (body, blob) = bytes
        .split_at_checked(size_of::<SetParameters>())
        .ok_or(wrong)?;
    let parameters: SetParameters = read(body)?;
    let announced = usize::try_from(parameters.security_blob_length);
    if blob.len() > MAX_SECURITY_BLOB || announced != Ok(blob.len()) {
        return Err(wrong);
    }
    Ok((parameters, blob))
}

/// A structure that says how many elements follow it.
trait Listing: Body {
    type Element: FromBytes;

    fn count(&self) -> u32;

    fn is_reserved_zero(element: &Self::Element) -> bool;
}

impl Listing for Addresses {
    type Element = Address;

    fn count(&self) -> u32 {
        self.count
    }

    fn is_reserved_zero(element: &Address) -> bool {
        element.reserved == [0; 3]
    }
}

impl Listing for SetAddresses {
    type Element = AllowedAddress;

    fn count(&self) -> u32 {
        self.count
    }

    fn is_reserved_zero(element: &AllowedAddress) -> bool {
        element.reserved == 0
    }
}

/// Reads a structure and the elements that follow it: as many as the structure says, and at most `most`.
fn read_list<L: Listing>(bytes: &[u8], most: usize) -> Result<(L, Vec<L::Element>), MessageError> {
    let wrong = MessageError::WrongLength(size_of::<Control>() + bytes.len());
    let (body, list) = bytes.split_at_checked(size_of::<L>()).ok_or(wrong)?;
    let body: L = read(body)?;
    let elements = list.chunks_exact(size_of::<L::Element>());
    let announced = usize::try_from(body.count());
    if !elements.remainder().is_empty() || elements.len() > most || announced != Ok(elements.len())
    {
        return Err(wrong);
    }
    let element = |bytes| {
        let element = L::Element::read_from_bytes(bytes).map_err(|_| wrong)?;
        match L::is_reserved_zero(&element) {
            true => Ok(element),
            false => Err(MessageError::ReservedNotZero(L::KIND)),
        }
    };
    let list: Result<Vec<_>, _> = elements.map(element).collect();
    Ok((body, list?))
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::super::abi::{MAX_CONTROL_LENGTH, role};
    use super::*;

    fn message<B: Body>(cookie: u64, body: &B, blob: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0xff; 7];
        encode(cookie, body, blob, &mut bytes);
        bytes
    }

    fn refusal(bytes: &[u8]) -> [&'static str; 2] {
        [
            read_request(bytes).map_or_else(|error| error.name(), |_| "ok"),
            read_answer(bytes).map_or_else(|error| error.name(), |_| "ok"),
        ]
    }

    #[test]
    fn reads_the_bytes_of_a_request() {
        let attach = Attach::new(role::WORKER, [7; 16]);
        let bytes = message(0x0102, &attach, &[]);
        assert_eq!(bytes.len(), 56);
        assert_eq!(bytes[..4], 1u32.to_ne_bytes());
        assert_eq!(bytes[4..8], 56u32.to_ne_bytes());
        assert_eq!(bytes[8..16], 0x0102u64.to_ne_bytes());
        assert_eq!(bytes[24..40], [7; 16]);
        let read = read_request(&bytes);
        assert_eq!(read, Ok((0x0102, Request::Attach(attach))));
        // The copy is at an unaligned address.
        let shifted = [&[0][..], &bytes].concat();
        assert_eq!(read_request(&shifted[1..]), read);
    }

    #[test]
    fn the_version_of_an_attachment_is_read_whatever_follows_it() {
        let attach = Attach {
            version: 7,
            ..Attach::new_zeroed()
        };
        let mut bytes = message(5, &attach, &[1; 8]);
        assert_eq!(refusal(&bytes)[0], "wrong_length");
        assert_eq!(attach_version(&bytes), Some(7));
        bytes.pop();
        assert_eq!(attach_version(&bytes), None);
        assert_eq!(attach_version(&message(5, &Grow::new_zeroed(), &[])), None);
    }

    #[test]
    fn parameters_have_their_blob_behind_them() {
        let mut parameters = SetParameters::new_zeroed();
        for length in [0, 1, MAX_SECURITY_BLOB] {
            let blob = vec![3; length];
            parameters.security_blob_length = length as u32;
            let mut bytes = message(1, &parameters, &blob);
            assert!(bytes.len() <= MAX_CONTROL_LENGTH);
            let request = Request::SetParameters(parameters, &blob);
            assert_eq!(read_request(&bytes), Ok((1, request)));
            bytes.push(0);
            bytes[4..8].copy_from_slice(&(80 + length as u32 + 1).to_ne_bytes());
            assert_eq!(refusal(&bytes)[0], "wrong_length");
        }
        parameters.security_blob_length = MAX_SECURITY_BLOB as u32 + 1;
        let bytes = message(1, &parameters, &[0; MAX_SECURITY_BLOB + 1]);
        assert_eq!(refusal(&bytes)[0], "wrong_length");
        assert_eq!(refusal(&message(1, &parameters, &[]))[0], "wrong_length");
    }

    #[test]
    fn addresses_are_as_many_as_announced_and_not_too_many() {
        let of = |count: u32, elements: usize| {
            let element = Address {
                port: 5445,
                ..Address::new_zeroed()
            };
            let list = vec![element; elements];
            let body = Addresses { count, reserved: 0 };
            (message(0, &body, list.as_bytes()), list)
        };
        for length in [0, 1, MAX_ADDRESSES] {
            let (bytes, list) = of(length as u32, length);
            assert!(bytes.len() <= MAX_CONTROL_LENGTH);
            let mut again = vec![1; 7];
            encode_addresses(0, &list, &mut again);
            assert_eq!(again, bytes);
            assert_eq!(read_answer(&bytes), Ok((0, Answer::Addresses(list))));
        }
        for (count, elements) in [(0, 1), (2, 1), (65, 65), (u32::MAX, 1)] {
            assert_eq!(refusal(&of(count, elements).0)[1], "wrong_length");
        }
        let (mut bytes, _) = of(2, 2);
        let last = bytes.len() - 1;
        bytes[last] = 1;
        assert_eq!(refusal(&bytes)[1], "reserved_not_zero");
    }

    #[test]
    fn allowed_addresses_are_as_many_as_announced_and_not_too_many() {
        let of = |count: u32, elements: usize| {
            let list = vec![AllowedAddress::new_zeroed(); elements];
            let body = SetAddresses { count, all: 0 };
            (message(1, &body, list.as_bytes()), body, list)
        };
        for length in [0, 1, MAX_ALLOWED_ADDRESSES] {
            let (bytes, body, list) = of(length as u32, length);
            assert!(bytes.len() <= MAX_CONTROL_LENGTH);
            let request = Request::SetAddresses(body, list);
            assert_eq!(read_request(&bytes), Ok((1, request)));
        }
        for (count, elements) in [(0, 1), (2, 1), (129, 129), (u32::MAX, 1)] {
            assert_eq!(refusal(&of(count, elements).0)[0], "wrong_length");
        }
        let (mut bytes, ..) = of(2, 2);
        let last = bytes.len() - 1;
        bytes[last] = 1;
        assert_eq!(refusal(&bytes)[0], "reserved_not_zero");
    }

    /// Breaks each rule of form once, for a kind that side `index` reads.
    fn check<B: Body>(index: usize, reserved: &[std::ops::Range<usize>]) {
        let kind = B::KIND;
        let good = message(5, &B::new_zeroed(), &[]);
        assert_eq!(refusal(&good)[index], "ok", "{kind}");
        assert_eq!(refusal(&good)[1 - index], "unknown_kind", "{kind}");
        assert_eq!(refusal(&good[..good.len() - 1]), ["wrong_length"; 2]);
        for length in [good.len() - 8, good.len() + 8] {
            let mut bytes = good.clone();
            bytes.resize(length, 0);
            bytes[4..8].copy_from_slice(&(length as u32).to_ne_bytes());
            assert_eq!(refusal(&bytes)[index], "wrong_length", "{kind}");
        }
        for offset in 0..size_of::<B>() {
            let mut bytes = good.clone();
            bytes[16 + offset] = 1;
            let is_reserved = reserved.iter().any(|range| range.contains(&offset));
            // These are the lengths of what follows.
            let is_blob_length = (kind == kind::SET_PARAMETERS && (40..44).contains(&offset))
                || (kind == kind::ADDRESSES && (0..4).contains(&offset))
                || (kind == kind::SET_ADDRESSES && (0..4).contains(&offset));
            let expected = match (is_reserved, is_blob_length) {
                (true, _) => "reserved_not_zero",
                (_, true) => "wrong_length",
                _ => "ok",
            };
            assert_eq!(refusal(&bytes)[index], expected, "{kind} {offset}");
        }
    }

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn refuses_a_message_of_the_wrong_length_or_with_a_reserved_field() {
        const REQUEST: usize = 0;
        const ANSWER: usize = 1;
        check::<Attach>(REQUEST, &[28..32]);
        check::<SetParameters>(REQUEST, &[44..64]);
        check::<SetAddresses>(REQUEST, &[]);
        check::<SetSessionId>(REQUEST, &[28..32]);
        check::<Claim>(REQUEST, &[]);
        check::<Decline>(REQUEST, &[]);
        check::<Grow>(REQUEST, &[]);
        check::<Release>(REQUEST, &[12..16]);
        check::<StatusRequest>(REQUEST, &[0..8]);
        check::<EventsRequest>(REQUEST, &[]);
        check::<CaptureRequest>(REQUEST, &[22..24]);
        check::<Attached>(ANSWER, &[64..72, 88..104]);
        check::<Reply>(ANSWER, &[]);
        check::<Segment>(ANSWER, &[12..16]);
        check::<Reclaim>(ANSWER, &[12..16]);
        check::<Queue>(ANSWER, &[4..8]);
        check::<Offer>(ANSWER, &[100..128]);
        check::<Wake>(ANSWER, &[0..8]);
        check::<StatusReport>(ANSWER, &[]);
        check::<CaptureStarted>(ANSWER, &[4..8]);
        check::<Detached>(ANSWER, &[]);
        check::<Addresses>(ANSWER, &[4..8]);
    }

    #[test]
    fn refuses_what_is_not_a_message() {
        for length in [0, 1, 15] {
            assert_eq!(refusal(&vec![0; length]), ["wrong_length"; 2]);
        }
        let grow = message(0, &Grow::new_zeroed(), &[]);
        assert_eq!(refusal(&grow)[0], "no_cookie");
        let release = message(0, &Release::new_zeroed(), &[]);
        assert_eq!(refusal(&release)[0], "ok", "there is no answer");
        for unknown in [0u32, 12, 100, 112, u32::MAX] {
            let mut bytes = message(1, &Grow::new_zeroed(), &[]);
            bytes[..4].copy_from_slice(&unknown.to_ne_bytes());
            assert_eq!(refusal(&bytes), ["unknown_kind"; 2]);
        }
    }

    #[test]
    fn a_message_knows_what_it_carries() {
        let carried = |bytes: &[u8]| read_answer(bytes).unwrap().1.descriptors();
        assert_eq!(carried(&message(0, &Queue::new_zeroed(), &[])), Some(2));
        assert_eq!(carried(&message(0, &Segment::new_zeroed(), &[])), Some(1));
        assert_eq!(
            carried(&message(1, &StatusReport::new_zeroed(), &[])),
            Some(1)
        );
        assert_eq!(carried(&message(0, &Wake::new_zeroed(), &[])), Some(0));
    }
}
