// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB2 NEGOTIATE Request ([MS-SMB2] 2.2.3), which says to which client a connection belongs, and which dialects the
//! client speaks.

use core::iter::FusedIterator;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::super::{WireError, slice};
use super::{Body, DIALECT_0311, Header, Request};

/// Offset of the dialects in the request.
const DIALECTS_OFFSET: u32 = 64 + 36;

/// A NEGOTIATE request.
///
/// ```text
///  64 StructureSize (36)                   66 DialectCount     68 SecurityMode
///  70 Reserved         72 Capabilities     76 ClientGuid
///  92 NegotiateContextOffset (with 0x0311) 96 NegotiateContextCount
/// 100 Dialects, 2 bytes each; then, each at a multiple of 8, the negotiate contexts
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NegotiateRequest<'a> {
    body: &'a NegotiateBody,
    dialects: &'a [U16],
    contexts: NegotiateContexts<'a>,
}

impl<'a> NegotiateRequest<'a> {
    /// Reads a NEGOTIATE request, with all its dialects and negotiate contexts.
    ///
    /// # Errors
    ///
    /// [`WireError::Smb2Command`], [`WireError::TooShort`], [`WireError::Smb2StructureSize`],
    /// [`WireError::Smb2DialectCountZero`], [`WireError::Smb2DialectsOutOfBounds`], and, if SMB 3.1.1 is offered,
    /// [`WireError::Smb2NegotiateContextUnaligned`], [`WireError::Smb2NegotiateContextOverlap`],
    /// [`WireError::Smb2NegotiateContextOutOfBounds`].
    pub fn parse(request: Request<'a>) -> Result<Self, WireError> {
        let body: &NegotiateBody = request.body()?;
        let dialect_count = body.dialect_count.get();
        if dialect_count == 0 {
            return Err(WireError::Smb2DialectCountZero);
        }
        let dialects = slice(
            request.bytes(),
            DIALECTS_OFFSET,
            u32::from(dialect_count) * 2,
        )
        .and_then(|bytes| <[U16]>::ref_from_bytes(bytes).ok())
        .ok_or(WireError::Smb2DialectsOutOfBounds)?;
        // Older clients have their start time, which is zero, in place of the offset and count.
        let contexts = if dialects.contains(&U16::new(DIALECT_0311)) {
            Self::parse_contexts(request, body)?
        } else {
            NegotiateContexts { rest: &[], left: 0 }
        };
        Ok(Self {
            body,
            dialects,
            contexts,
        })
    }

    fn parse_contexts(
        request: Request<'a>,
        body: &NegotiateBody,
    ) -> Result<NegotiateContexts<'a>, WireError> {
        let left = body.negotiate_context_count.get();
        if left == 0 {
            return Ok(NegotiateContexts { rest: &[], left });
        }
        let offset = body.negotiate_context_offset.get();
        if offset % 8 != 0 {
            return Err(WireError::Smb2NegotiateContextUnaligned);
        }
        if offset < DIALECTS_OFFSET + u32::from(body.dialect_count.get()) * 2 {
            return Err(WireError::Smb2NegotiateContextOverlap);
        }
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| request.bytes().get(offset..));
        let rest = rest.ok_or(WireError::Smb2NegotiateContextOutOfBounds)?;
        let contexts = NegotiateContexts { rest, left };
        let mut unchecked = contexts;
        while unchecked.step()?.is_some() {}
        Ok(contexts)
    }

    /// Returns the dialects offered, at least one, in the order of the request, including unknown ones.
    #[must_use]
    pub fn dialects(&self) -> impl ExactSizeIterator<Item = u16> + use<'a> {
        self.dialects.iter().map(|dialect| dialect.get())
    }

    /// Returns `SecurityMode`: 1 if signing is enabled, 2 if it is required.
    #[must_use]
    pub fn security_mode(&self) -> u16 {
        self.body.security_mode.get()
    }

    /// Returns `SMB2_GLOBAL_CAP_*` of the client.
    #[must_use]
    pub fn capabilities(&self) -> u32 {
        self.body.capabilities.get()
    }

    /// Returns the client's GUID, as bytes on the wire. It is the same on each of the client's connections.
    #[must_use]
    pub const fn client_guid(&self) -> [u8; 16] {
        self.body.client_guid
    }

    /// Returns the negotiate contexts; there are none unless SMB 3.1.1 is offered.
    #[must_use]
    pub const fn contexts(&self) -> NegotiateContexts<'a> {
        self.contexts
    }
}

/// One negotiate context ([MS-SMB2] 2.2.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NegotiateContext<'a> {
    /// The type of the context: 1 is preauthentication integrity, 2 encryption, 7 RDMA transforms, and so on.
    pub context_type: u16,
    /// The data of the context, which has not been interpreted.
    pub data: &'a [u8],
}

/// The negotiate contexts of a request in order. [`NegotiateRequest::contexts`] makes them.
#[derive(Clone, Copy, Debug)]
pub struct NegotiateContexts<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> NegotiateContexts<'a> {
    fn step(&mut self) -> Result<Option<NegotiateContext<'a>>, WireError> {
        if self.left == 0 {
            return Ok(None);
        }
        let (header, data) = ContextHeader::ref_from_prefix(self.rest)
            .map_err(|_| WireError::Smb2NegotiateContextOutOfBounds)?;
        let data_length = usize::from(header.data_length.get());
        let (data, _) = data
            .split_at_checked(data_length)
            .ok_or(WireError::Smb2NegotiateContextOutOfBounds)?;
        // The last context need not be padded.
        let next = size_of::<ContextHeader>() + data_length.next_multiple_of(8);
        self.rest = self.rest.get(next..).unwrap_or_default();
        self.left -= 1;
        Ok(Some(NegotiateContext {
            context_type: header.context_type.get(),
            data,
        }))
    }
}

impl<'a> Iterator for NegotiateContexts<'a> {
    type Item = NegotiateContext<'a>;

    fn next(&mut self) -> Option<NegotiateContext<'a>> {
        // `parse` has read the whole list, so there is no error.
        self.step().ok().flatten()
    }
}

impl FusedIterator for NegotiateContexts<'_> {}

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct NegotiateBody {
    structure_size: U16,
    dialect_count: U16,
    security_mode: U16,
    reserved: U16,
    capabilities: U32,
    client_guid: [u8; 16],
    negotiate_context_offset: U32,
    negotiate_context_count: U16,
    reserved2: U16,
}

impl Body for NegotiateBody {
    const COMMAND: u16 = Header::NEGOTIATE;
    const STRUCTURE_SIZE: u16 = 36;

    fn structure_size(&self) -> u16 {
        self.structure_size.get()
    }
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ContextHeader {
    context_type: U16,
    data_length: U16,
    reserved: U32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{header, request, with};
    use super::super::{DIALECT_0300, DIALECT_0302};
    use super::*;

    /// Makes a request for SMB 3.0, 3.0.2 and 3.1.1, with a context of 38 bytes at 112 and one of 4 bytes at 160.
    fn message() -> Vec<u8> {
        let mut bytes = header(Header::NEGOTIATE);
        bytes.extend([36, 0, 3, 0, 1, 0, 0, 0, 0x7f, 0, 0, 0]);
        bytes.extend(1..=16);
        bytes.extend([112, 0, 0, 0, 2, 0, 0, 0]);
        bytes.extend([0x00, 0x03, 0x02, 0x03, 0x11, 0x03]);
        bytes.resize(112, 0);
        bytes.extend([1, 0, 38, 0, 0, 0, 0, 0]);
        bytes.extend([0xa5; 38]);
        bytes.resize(160, 0);
        bytes.extend([2, 0, 4, 0, 0, 0, 0, 0, 1, 0, 2, 0]);
        bytes
    }

    fn error(bytes: &[u8]) -> Option<WireError> {
        NegotiateRequest::parse(request(bytes)).err()
    }

    #[test]
    fn reads_a_request_with_contexts() {
        let bytes = message();
        let negotiate = NegotiateRequest::parse(request(&bytes)).unwrap();
        let dialects: Vec<_> = negotiate.dialects().collect();
        assert_eq!(dialects, [DIALECT_0300, DIALECT_0302, DIALECT_0311]);
        assert_eq!(negotiate.security_mode(), 1);
        assert_eq!(negotiate.capabilities(), 0x7f);
        assert_eq!(u128::from_le_bytes(negotiate.client_guid()) >> 112, 0x100f);
        let contexts: Vec<_> = negotiate.contexts().collect();
        let first = NegotiateContext {
            context_type: 1,
            data: &[0xa5; 38],
        };
        let second = NegotiateContext {
            context_type: 2,
            data: &[1, 0, 2, 0],
        };
        assert_eq!(contexts, [first, second]);
    }

    #[test]
    fn without_smb_3_1_1_there_are_no_contexts() {
        let bytes = with(message(), 104, &[0x10, 0x02]);
        let bytes = with(bytes, 92, &[0xff; 8]);
        let negotiate = NegotiateRequest::parse(request(&bytes)).unwrap();
        assert_eq!(negotiate.contexts().count(), 0);
    }

    #[test]
    fn without_contexts_the_offset_means_nothing() {
        let bytes = with(message(), 92, &[0xff, 0xff, 0xff, 0xff, 0, 0]);
        let negotiate = NegotiateRequest::parse(request(&bytes)).unwrap();
        assert_eq!(negotiate.contexts().count(), 0);
    }

    #[test]
    fn each_rule_of_the_fixed_part_is_checked() {
        assert_eq!(error(&message()), None);
        assert_eq!(
            error(&with(message(), 12, &[1])),
            Some(WireError::Smb2Command)
        );
        assert_eq!(
            error(&with(message(), 64, &[37])),
            Some(WireError::Smb2StructureSize)
        );
        assert_eq!(error(&message()[..99]), Some(WireError::TooShort));
        assert_eq!(
            error(&with(message(), 66, &[0])),
            Some(WireError::Smb2DialectCountZero)
        );
        let refusal = Some(WireError::Smb2DialectsOutOfBounds);
        assert_eq!(error(&with(message(), 66, &[0xff, 0xff])), refusal);
        assert_eq!(error(&message()[..105]), refusal);
    }

    #[test]
    fn each_rule_of_the_contexts_is_checked() {
        let offset = |value: u32| error(&with(message(), 92, &value.to_le_bytes()));
        assert_eq!(offset(108), Some(WireError::Smb2NegotiateContextUnaligned));
        assert_eq!(offset(104), Some(WireError::Smb2NegotiateContextOverlap));
        assert_eq!(offset(0), Some(WireError::Smb2NegotiateContextOverlap));
        let out_of_bounds = Some(WireError::Smb2NegotiateContextOutOfBounds);
        assert_eq!(offset(176), out_of_bounds);
        assert_eq!(offset(u32::MAX - 7), out_of_bounds);
        assert_eq!(error(&with(message(), 96, &[3, 0])), out_of_bounds);
        assert_eq!(error(&with(message(), 114, &[0xff, 0xff])), out_of_bounds);
        assert_eq!(error(&with(message(), 162, &[5, 0])), out_of_bounds);
    }

    proptest! {
        #[test]
        fn an_accepted_request_has_all_its_dialects_and_contexts(
            changes in proptest::collection::vec((64usize..172, any::<u8>()), 0..4),
            length in prop_oneof![Just(172usize), 100usize..172],
        ) {
            let bytes = changes.into_iter().fold(message(), |bytes, (at, byte)| with(bytes, at, &[byte]));
            let bytes = &bytes[..length];
            let Ok(negotiate) = NegotiateRequest::parse(request(bytes)) else { return Ok(()) };
            prop_assert_eq!(negotiate.dialects().count(), usize::from(bytes[66]));
            if negotiate.dialects().any(|dialect| dialect == DIALECT_0311) {
                prop_assert_eq!(negotiate.contexts().count(), usize::from(bytes[96]));
            }
        }
    }
}
