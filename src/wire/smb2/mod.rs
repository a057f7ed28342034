// SPDX-License-Identifier: GPL-2.0-or-later

//! The slice of SMB2 ([MS-SMB2]) that a device reads: enough to route a new connection to the process that owns it, and
//! to direct RDMA for READ and WRITE.
//!
//! [`MessageKind::of`] distinguishes plain messages from encrypted and compressed ones, which stay opaque. [`Requests`]
//! splits a plain message, and a compound into its elements; a [`Request`] is then read as [`NegotiateRequest`],
//! [`SessionSetupRequest`], [`ReadRequest`] or [`WriteRequest`].
//!
//! Signatures, credits, the order of messages and all decisions of an SMB server are left to the server. This module
//! checks only that fields can be read safely, and that a request over a channel has what [MS-SMB2] demands in every
//! dialect.

mod negotiate;
mod rdma_transform;
mod read_write;
mod session_setup;

use core::iter::FusedIterator;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::WireError;

pub use negotiate::{NegotiateContext, NegotiateContexts, NegotiateRequest};
pub use rdma_transform::{CryptoTransform, RdmaTransform, TransformType};
pub use read_write::{Channel, ChannelTransfer, ReadRequest, TransformTransfer, WriteRequest};
pub use session_setup::SessionSetupRequest;

/// SMB 3.0, the oldest dialect with RDMA.
pub const DIALECT_0300: u16 = 0x0300;
/// SMB 3.0.2.
pub const DIALECT_0302: u16 = 0x0302;
/// SMB 3.1.1.
pub const DIALECT_0311: u16 = 0x0311;

/// The kind of a message on an SMB Direct connection, according to its first four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// One SMB2 request or response, or a compound ([MS-SMB2] 2.2.1).
    Plain,
    /// An encrypted message: `SMB2 TRANSFORM_HEADER` ([MS-SMB2] 2.2.41).
    Encrypted,
    /// A compressed message: `SMB2 COMPRESSION_TRANSFORM_HEADER` ([MS-SMB2] 2.2.42). It is not used over RDMA.
    Compressed,
}

impl MessageKind {
    /// Returns the kind of `message`; only the protocol id is looked at.
    ///
    /// # Errors
    ///
    /// [`WireError::TooShort`], and [`WireError::Smb2ProtocolId`], even for SMB1.
    pub fn of(message: &[u8]) -> Result<Self, WireError> {
        match message.first_chunk() {
            None => Err(WireError::TooShort),
            Some(b"\xfeSMB") => Ok(Self::Plain),
            Some(b"\xfdSMB") => Ok(Self::Encrypted),
            Some(b"\xfcSMB") => Ok(Self::Compressed),
            Some(_) => Err(WireError::Smb2ProtocolId),
        }
    }
}

/// The SMB2 header ([MS-SMB2] 2.2.1), in place.
///
/// ```text
///   0 ProtocolId        4 StructureSize (64)                    6 CreditCharge
///   8 Status (requests: ChannelSequence)   12 Command          14 CreditRequest
///  16 Flags            20 NextCommand      24 MessageId
///  32 sync: Reserved   36 sync: TreeId     32 async: AsyncId
///  40 SessionId                            48 Signature        64
/// ```
#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Header {
    protocol_id: [u8; 4],
    structure_size: U16,
    credit_charge: U16,
    status: U32,
    command: U16,
    credit_request: U16,
    flags: U32,
    next_command: U32,
    message_id: U64,
    reserved: U32,
    tree_id: U32,
    session_id: U64,
    signature: [u8; 16],
}

impl Header {
    /// Length of the header in bytes.
    pub const LENGTH: usize = size_of::<Self>();

    /// Command: NEGOTIATE.
    pub const NEGOTIATE: u16 = 0x0000;
    /// Command: SESSION_SETUP.
    pub const SESSION_SETUP: u16 = 0x0001;
    /// Command: READ.
    pub const READ: u16 = 0x0008;
    /// Command: WRITE.
    pub const WRITE: u16 = 0x0009;

    /// Flag: the message is a response.
    pub const SERVER_TO_REDIR: u32 = 0x0000_0001;
    /// Flag: the header is an async one.
    pub const ASYNC_COMMAND: u32 = 0x0000_0002;
    /// Flag: this element of a compound takes its session, tree and file from the element before.
    pub const RELATED_OPERATIONS: u32 = 0x0000_0004;
    /// Flag: the message is signed.
    pub const SIGNED: u32 = 0x0000_0008;

    /// Reads the header with which `bytes` begin.
    ///
    /// # Errors
    ///
    /// [`WireError::TooShort`], [`WireError::Smb2ProtocolId`], [`WireError::Smb2StructureSize`].
    pub fn parse(bytes: &[u8]) -> Result<&Self, WireError> {
        let (header, _) = Self::ref_from_prefix(bytes).map_err(|_| WireError::TooShort)?;
        if header.protocol_id != *b"\xfeSMB" {
            return Err(WireError::Smb2ProtocolId);
        }
        if usize::from(header.structure_size.get()) != Self::LENGTH {
            return Err(WireError::Smb2StructureSize);
        }
        Ok(header)
    }

    /// Returns how many credits the request costs; 0 counts as 1.
    #[must_use]
    pub fn credit_charge(&self) -> u16 {
        self.credit_charge.get()
    }

    /// Returns the command: [`Self::NEGOTIATE`] and so on.
    #[must_use]
    pub fn command(&self) -> u16 {
        self.command.get()
    }

    /// Returns the flags: any of the constants above, and others.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.flags.get()
    }

    /// Returns the distance from this header to the header of the compound's next element, in bytes; 0 in the last one.
    #[must_use]
    pub fn next_command(&self) -> u32 {
        self.next_command.get()
    }

    /// Returns the number of the request on its connection.
    #[must_use]
    pub fn message_id(&self) -> u64 {
        self.message_id.get()
    }

    /// Returns the tree connect of a sync header.
    #[must_use]
    pub fn tree_id(&self) -> Option<u32> {
        (!self.has(Self::ASYNC_COMMAND)).then(|| self.tree_id.get())
    }

    /// Returns the AsyncId of an async header: the number of an operation that is answered later.
    #[must_use]
    pub fn async_id(&self) -> Option<u64> {
        let (low, high) = (self.reserved.get(), self.tree_id.get());
        self.has(Self::ASYNC_COMMAND)
            .then(|| u64::from(high) << 32 | u64::from(low))
    }

    /// Returns the session; 0 before there is one.
    #[must_use]
    pub fn session_id(&self) -> u64 {
        self.session_id.get()
    }

    /// Returns whether this is a response.
    #[must_use]
    pub fn is_response(&self) -> bool {
        self.has(Self::SERVER_TO_REDIR)
    }

    /// Returns whether the message carries a signature, which has not been verified.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.has(Self::SIGNED)
    }

    fn has(&self, flag: u32) -> bool {
        self.flags.get() & flag != 0
    }
}

/// One SMB2 request, from its header to its end: a whole message, or one element of a compound.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    header: &'a Header,
    bytes: &'a [u8],
}

impl<'a> Request<'a> {
    /// Returns the first request of a plain message, and what follows it in a compound.
    ///
    /// # Errors
    ///
    /// The errors of [`Header::parse`], [`WireError::Smb2NextCommandUnaligned`],
    /// [`WireError::Smb2NextCommandInHeader`], [`WireError::Smb2NextCommandOutOfBounds`].
    pub fn split_first(message: &'a [u8]) -> Result<(Self, Option<&'a [u8]>), WireError> {
        let header = Header::parse(message)?;
        let next_command = header.next_command();
        if next_command == 0 {
            return Ok((
                Self {
                    header,
                    bytes: message,
                },
                None,
            ));
        }
        if next_command % 8 != 0 {
            return Err(WireError::Smb2NextCommandUnaligned);
        }
        let next_command = usize::try_from(next_command).unwrap_or(usize::MAX);
        if next_command < Header::LENGTH {
            return Err(WireError::Smb2NextCommandInHeader);
        }
        match message.split_at_checked(next_command) {
            Some((bytes, rest)) if rest.len() >= Header::LENGTH => {
                Ok((Self { header, bytes }, Some(rest)))
            }
            _ => Err(WireError::Smb2NextCommandOutOfBounds),
        }
    }

    /// Reads one element of a compound that its owner has already cut out, or a whole message with nothing after it:
    /// `NextCommand` is not looked at.
    ///
    /// # Errors
    ///
    /// The errors of [`Header::parse`].
    pub fn of_element(bytes: &'a [u8]) -> Result<Self, WireError> {
        let header = Header::parse(bytes)?;
        Ok(Self { header, bytes })
    }

    /// Returns the header.
    #[must_use]
    pub const fn header(&self) -> &'a Header {
        self.header
    }

    /// Returns the request, including its header. Offsets within the request count from the first of these bytes.
    #[must_use]
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Returns the fixed part of the request's body. The request must have the command of that body.
    fn body<T: Body>(&self) -> Result<&'a T, WireError> {
        if self.header.command() != T::COMMAND {
            return Err(WireError::Smb2Command);
        }
        let bytes = self
            .bytes
            .get(Header::LENGTH..)
            .ok_or(WireError::TooShort)?;
        let (body, _) = T::ref_from_prefix(bytes).map_err(|_| WireError::TooShort)?;
        if body.structure_size() != T::STRUCTURE_SIZE {
            return Err(WireError::Smb2StructureSize);
        }
        Ok(body)
    }
}

/// The fixed part of a request body.
trait Body: FromBytes + Immutable + KnownLayout + Unaligned {
    /// The command that has this body.
    const COMMAND: u16;
    /// The value that `StructureSize` must have: the length of the fixed part, plus 1 if something follows.
    const STRUCTURE_SIZE: u16;

    fn structure_size(&self) -> u16;
}

/// The requests of a plain message in order: one, or the elements of a compound ([MS-SMB2] 3.3.5.2.7). The sequence
/// ends after the first error.
#[derive(Clone, Debug)]
pub struct Requests<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Requests<'a> {
    /// Returns the requests of `message`.
    #[must_use]
    pub const fn new(message: &'a [u8]) -> Self {
        Self {
            rest: Some(message),
        }
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = Result<Request<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let message = self.rest.take()?;
        Some(Request::split_first(message).map(|(request, rest)| {
            self.rest = rest;
            request
        }))
    }
}

impl FusedIterator for Requests<'_> {}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Makes a header with session 0x0123456789abcdef, message 5, tree 7.
    pub(crate) fn header(command: u16) -> Vec<u8> {
        let mut bytes = vec![0; 64];
        bytes[..6].copy_from_slice(b"\xfeSMB\x40\x00");
        bytes[6] = 2;
        bytes[12..14].copy_from_slice(&command.to_le_bytes());
        bytes[24] = 5;
        bytes[36] = 7;
        bytes[40..48].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
        bytes
    }

    /// Returns `bytes` with the bytes at `at` replaced by `value`.
    pub(crate) fn with(mut bytes: Vec<u8>, at: usize, value: &[u8]) -> Vec<u8> {
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    }

    /// Returns the only request of a message.
    pub(crate) fn request(bytes: &[u8]) -> Request<'_> {
        let (request, rest) = Request::split_first(bytes).unwrap();
        assert!(rest.is_none());
        request
    }

    fn error(bytes: &[u8]) -> Option<WireError> {
        Requests::new(bytes).find_map(Result::err)
    }

    #[test]
    fn tells_plain_encrypted_and_compressed_messages_apart() {
        assert_eq!(MessageKind::of(b"\xfeSMB"), Ok(MessageKind::Plain));
        assert_eq!(MessageKind::of(b"\xfdSMB\0"), Ok(MessageKind::Encrypted));
        assert_eq!(MessageKind::of(b"\xfcSMB\0"), Ok(MessageKind::Compressed));
        assert_eq!(
            MessageKind::of(b"\xffSMB\0"),
            Err(WireError::Smb2ProtocolId)
        );
        assert_eq!(MessageKind::of(b"\xfeSM"), Err(WireError::TooShort));
    }

    #[test]
    fn reads_a_sync_header() {
        let bytes = with(header(Header::READ), 16, &[0x08, 0, 0, 0]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(header.credit_charge(), 2);
        assert_eq!(header.command(), Header::READ);
        assert_eq!(header.flags(), Header::SIGNED);
        assert_eq!(header.next_command(), 0);
        assert_eq!(header.message_id(), 5);
        assert_eq!((header.tree_id(), header.async_id()), (Some(7), None));
        assert_eq!(header.session_id(), 0x0123_4567_89ab_cdef);
        assert!(header.is_signed());
        assert!(!header.is_response());
    }

    #[test]
    fn reads_an_async_header() {
        let bytes = with(header(Header::READ), 16, &[0x03, 0, 0, 0, 0, 0, 0, 0]);
        let bytes = with(bytes, 32, &[8, 7, 6, 5, 4, 3, 2, 1]);
        let header = Header::parse(&bytes).unwrap();
        assert_eq!(
            (header.tree_id(), header.async_id()),
            (None, Some(0x0102_0304_0506_0708))
        );
        assert!(header.is_response());
    }

    #[test]
    fn each_rule_of_the_header_is_checked() {
        let bytes = header(Header::READ);
        assert_eq!(Header::parse(&bytes[..63]).err(), Some(WireError::TooShort));
        let changed = with(bytes.clone(), 0, &[0xfd]);
        assert_eq!(
            Header::parse(&changed).err(),
            Some(WireError::Smb2ProtocolId)
        );
        let changed = with(bytes, 4, &[65]);
        assert_eq!(
            Header::parse(&changed).err(),
            Some(WireError::Smb2StructureSize)
        );
    }

    #[test]
    fn splits_a_compound_into_its_requests() {
        let mut bytes = with(header(Header::READ), 20, &[72]);
        bytes.extend([0xa5; 8]);
        bytes.extend(header(Header::WRITE));
        bytes.extend([0x5a; 3]);
        let requests: Vec<_> = Requests::new(&bytes).map(Result::unwrap).collect();
        let commands: Vec<_> = requests
            .iter()
            .map(|request| request.header().command())
            .collect();
        assert_eq!(commands, [Header::READ, Header::WRITE]);
        assert_eq!(requests[0].bytes(), &bytes[..72]);
        assert_eq!(requests[1].bytes(), &bytes[72..]);
    }

    #[test]
    fn each_rule_of_a_compound_is_checked() {
        let mut bytes = header(Header::READ);
        bytes.extend(header(Header::READ));
        let next = |value: u32| error(&with(bytes.clone(), 20, &value.to_le_bytes()));
        assert_eq!(next(64), None);
        assert_eq!(next(65), Some(WireError::Smb2NextCommandUnaligned));
        assert_eq!(next(56), Some(WireError::Smb2NextCommandInHeader));
        assert_eq!(next(72), Some(WireError::Smb2NextCommandOutOfBounds));
        assert_eq!(next(128), Some(WireError::Smb2NextCommandOutOfBounds));
        assert_eq!(
            next(u32::MAX - 7),
            Some(WireError::Smb2NextCommandOutOfBounds)
        );
        let second = with(with(bytes.clone(), 20, &[64]), 64, &[0]);
        assert_eq!(error(&second), Some(WireError::Smb2ProtocolId));
    }

    #[test]
    fn no_request_follows_an_error() {
        let bytes = with(header(Header::READ), 20, &[65]);
        let mut requests = Requests::new(&bytes);
        assert!(matches!(requests.next(), Some(Err(_))));
        assert!(requests.next().is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            command in 0u16..10,
            next_command in prop_oneof![Just(0u32), (0u32..40).prop_map(|n| n * 8), any::<u32>()],
            structure_size in prop_oneof![Just(25u16), Just(36), Just(49)],
        ) {
            // Enough of the message is right for the later checks to be reached.
            if bytes.len() >= 66 {
                bytes = with(bytes, 0, b"\xfeSMB\x40\x00");
                bytes = with(bytes, 12, &command.to_le_bytes());
                bytes = with(bytes, 20, &next_command.to_le_bytes());
                bytes = with(bytes, 64, &structure_size.to_le_bytes());
            }
            let _ = MessageKind::of(&bytes);
            for request in Requests::new(&bytes).map_while(Result::ok) {
                if let Ok(negotiate) = NegotiateRequest::parse(request) {
                    let _ = (negotiate.dialects().count(), negotiate.contexts().count());
                }
                let _ = SessionSetupRequest::parse(request);
                if let Ok(read) = ReadRequest::parse(request) {
                    let _ = (read.transfer(), read.token_to_invalidate());
                }
                if let Ok(write) = WriteRequest::parse(request) {
                    let _ = (write.transfer(), write.transform(), write.token_to_invalidate());
                }
            }
        }
    }
}
