// SPDX-License-Identifier: GPL-2.0-or-later

//! SMB2 SESSION_SETUP Request ([MS-SMB2] 2.2.5), the first request that can name a session that already lives in
//! another process, by binding this connection to it.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::super::{WireError, slice};
use super::{Body, Header, Request};

/// The lowest offset of the security buffer.
const BUFFER_OFFSET: u16 = 64 + 24;

/// A SESSION_SETUP request.
///
/// ```text
///  64 StructureSize (25)                   66 Flags            67 SecurityMode
///  68 Capabilities     72 Channel          76 SecurityBufferOffset
///  78 SecurityBufferLength                 80 PreviousSessionId
///  88 Buffer
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SessionSetupRequest<'a> {
    header: &'a Header,
    body: &'a SessionSetupBody,
    security_buffer: &'a [u8],
}

impl<'a> SessionSetupRequest<'a> {
    /// Flag: binds the connection to the session that the header names.
    pub const BINDING: u8 = 0x01;

    /// Reads a SESSION_SETUP request.
    ///
    /// # Errors
    ///
    /// [`WireError::Smb2Command`], [`WireError::TooShort`], [`WireError::Smb2StructureSize`],
    /// [`WireError::Smb2SecurityBufferOverlap`], [`WireError::Smb2SecurityBufferOutOfBounds`].
    pub fn parse(request: Request<'a>) -> Result<Self, WireError> {
        let body: &SessionSetupBody = request.body()?;
        let offset = body.security_buffer_offset.get();
        let length = body.security_buffer_length.get();
        let security_buffer = if length == 0 {
            &[]
        } else {
            if offset < BUFFER_OFFSET {
                return Err(WireError::Smb2SecurityBufferOverlap);
            }
            slice(request.bytes(), offset.into(), length.into())
                .ok_or(WireError::Smb2SecurityBufferOutOfBounds)?
        };
        Ok(Self {
            header: request.header(),
            body,
            security_buffer,
        })
    }

    /// Returns the flags: [`Self::BINDING`] or 0, and bits without a meaning.
    #[must_use]
    pub const fn flags(&self) -> u8 {
        self.body.flags
    }

    /// Returns whether the connection has to be bound to an existing session.
    #[must_use]
    pub const fn is_binding(&self) -> bool {
        self.body.flags & Self::BINDING != 0
    }

    /// Returns `SecurityMode`: 1 if signing is enabled, 2 if it is required.
    #[must_use]
    pub const fn security_mode(&self) -> u8 {
        self.body.security_mode
    }

    /// Returns `SMB2_GLOBAL_CAP_*` of the client.
    #[must_use]
    pub fn capabilities(&self) -> u32 {
        self.body.capabilities.get()
    }

    /// Returns the session, from the header; 0 in the first request of a new session.
    #[must_use]
    pub fn session_id(&self) -> u64 {
        self.header.session_id()
    }

    /// Returns the session that the client had before it lost its connection; 0 if it had none.
    #[must_use]
    pub fn previous_session_id(&self) -> u64 {
        self.body.previous_session_id.get()
    }

    /// Returns the GSS token, which may be empty.
    #[must_use]
    pub const fn security_buffer(&self) -> &'a [u8] {
        self.security_buffer
    }
}

#[derive(Debug, FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct SessionSetupBody {
    structure_size: U16,
    flags: u8,
    security_mode: u8,
    capabilities: U32,
    channel: U32,
    security_buffer_offset: U16,
    security_buffer_length: U16,
    previous_session_id: U64,
}

impl Body for SessionSetupBody {
    const COMMAND: u16 = Header::SESSION_SETUP;
    const STRUCTURE_SIZE: u16 = 25;

    fn structure_size(&self) -> u16 {
        self.structure_size.get()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{header, request, with};
    use super::*;

    fn message() -> Vec<u8> {
        let mut bytes = header(Header::SESSION_SETUP);
        bytes.extend([25, 0, 1, 2, 0x7f, 0, 0, 0, 0, 0, 0, 0, 88, 0, 4, 0]);
        bytes.extend([9, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(b"blob");
        bytes
    }

    fn error(bytes: &[u8]) -> Option<WireError> {
        SessionSetupRequest::parse(request(bytes)).err()
    }

    #[test]
    fn reads_a_binding_request() {
        let bytes = message();
        let setup = SessionSetupRequest::parse(request(&bytes)).unwrap();
        assert_eq!(setup.flags(), SessionSetupRequest::BINDING);
        assert!(setup.is_binding());
        assert_eq!(setup.security_mode(), 2);
        assert_eq!(setup.capabilities(), 0x7f);
        assert_eq!(setup.session_id(), 0x0123_4567_89ab_cdef);
        assert_eq!(setup.previous_session_id(), 9);
        assert_eq!(setup.security_buffer(), b"blob");
    }

    #[test]
    fn an_empty_security_buffer_may_be_anywhere() {
        let bytes = with(message(), 76, &[0xff, 0xff, 0, 0]);
        let setup = SessionSetupRequest::parse(request(&bytes)).unwrap();
        assert!(setup.security_buffer().is_empty());
    }

    #[test]
    fn each_rule_is_checked() {
        assert_eq!(error(&message()), None);
        assert_eq!(
            error(&with(message(), 12, &[0])),
            Some(WireError::Smb2Command)
        );
        assert_eq!(
            error(&with(message(), 64, &[24])),
            Some(WireError::Smb2StructureSize)
        );
        assert_eq!(error(&message()[..87]), Some(WireError::TooShort));
        assert_eq!(
            error(&with(message(), 76, &[87])),
            Some(WireError::Smb2SecurityBufferOverlap)
        );
        let out_of_bounds = Some(WireError::Smb2SecurityBufferOutOfBounds);
        assert_eq!(error(&with(message(), 76, &[89])), out_of_bounds);
        assert_eq!(error(&with(message(), 78, &[5])), out_of_bounds);
        assert_eq!(error(&with(message(), 76, &[0xff; 4])), out_of_bounds);
    }
}
