// SPDX-License-Identifier: GPL-2.0-or-later

//! What a READ or WRITE request says about RDMA, so that smbd need not trust any of its fields.

use super::Status;
use crate::units::RemoteToken;
use crate::wire::smb2::{Channel, ChannelTransfer, Header, ReadRequest, Request, WriteRequest};
use crate::wire::{BufferDescriptors, WireError};

/// Where the data of a READ or WRITE request is in the client's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The channel: 1 or 2 ([MS-SMB2] 2.2.19).
    pub channel: u32,
    /// Number of bytes to read or write: at least 1.
    pub length: u32,
    /// Offset of the buffer descriptors, in bytes from the request's header.
    pub descriptors_offset: usize,
    /// Length of the descriptors in bytes, a multiple of 16. Together they describe at least `length` bytes.
    pub descriptors_length: usize,
}

/// Returns the transfer that a READ or WRITE request asks for; `None` if the data is in the messages. `request` is a
/// message or one element of a compound, and begins with its SMB2 header.
///
/// # Errors
///
/// [`Status::Request`]: not a READ or WRITE request, an unknown channel, or fields that contradict
/// each other. [`Status::Descriptors`], [`Status::DescriptorsTooShort`].
pub fn transfer(request: &[u8]) -> Result<Option<Transfer>, Status> {
    let element = Request::of_element(request).map_err(status)?;
    let transfer = if element.header().command() == Header::READ {
        ReadRequest::parse(element).and_then(|read| read.transfer())
    } else {
        WriteRequest::parse(element).and_then(|write| write.transfer())
    };
    let of_channel = |transfer: ChannelTransfer<'_>| {
        let descriptors = transfer.descriptors().as_bytes();
        Transfer {
            channel: match transfer.channel() {
                Channel::RdmaV1Invalidate => 2,
                _ => 1,
            },
            length: transfer.length(),
            // The descriptors are a part of the request.
            descriptors_offset: descriptors.as_ptr().addr() - request.as_ptr().addr(),
            descriptors_length: descriptors.len(),
        }
    };
    transfer
        .map(|transfer| transfer.map(of_channel))
        .map_err(status)
}

/// How the data of a WRITE request over channel 3 is protected, and where it is in the client's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transform {
    /// The type: 1 encryption, 2 signing ([MS-SMB2] 2.2.43.1).
    pub transform_type: u16,
    /// Number of bytes to write: at least 1.
    pub length: u32,
    /// Offset of the buffer descriptors, in bytes from the request's header.
    pub descriptors_offset: usize,
    /// Length of the descriptors in bytes, a multiple of 16. Together they describe at least `length` bytes.
    pub descriptors_length: usize,
    /// Offset of the signature, in bytes from the request's header.
    pub signature_offset: usize,
    /// Length of the signature in bytes; it is not checked against the algorithm.
    pub signature_length: usize,
    /// Offset of the nonce, in bytes from the request's header.
    pub nonce_offset: usize,
    /// Length of the nonce in bytes; it is not checked against the algorithm.
    pub nonce_length: usize,
}

/// Returns how the data of a WRITE request over channel 3 is protected ([MS-SMB2] 3.3.5.13). `request` is as in
/// [`transfer`].
///
/// # Errors
///
/// [`Status::Request`]: not a WRITE request, another channel, a malformed transform, not exactly one transform, or
/// fields that contradict each other. [`Status::Descriptors`], [`Status::DescriptorsTooShort`].
pub fn transform(request: &[u8]) -> Result<Transform, Status> {
    let element = Request::of_element(request).map_err(status)?;
    let transfer = WriteRequest::parse(element)
        .and_then(|write| write.transform())
        .map_err(status)?;
    // All of these are parts of the request.
    let offset = |part: &[u8]| part.as_ptr().addr() - request.as_ptr().addr();
    let (crypto, descriptors) = (transfer.crypto(), transfer.descriptors().as_bytes());
    Ok(Transform {
        transform_type: crypto.transform_type.number(),
        length: transfer.length(),
        descriptors_offset: offset(descriptors),
        descriptors_length: descriptors.len(),
        signature_offset: offset(crypto.signature),
        signature_length: crypto.signature.len(),
        nonce_offset: offset(crypto.nonce),
        nonce_length: crypto.nonce.len(),
    })
}

/// Returns the token that each final response to a READ or WRITE request, including an error, must invalidate
/// ([MS-SMB2] 3.3.4.1.7); `None` for any other request, or if the request does not ask for that.
#[must_use]
pub fn token_to_invalidate(request: &[u8]) -> Option<RemoteToken> {
    let element = Request::of_element(request).ok()?;
    match element.header().command() {
        Header::READ => ReadRequest::parse(element).ok()?.token_to_invalidate(),
        Header::WRITE => WriteRequest::parse(element).ok()?.token_to_invalidate(),
        _ => None,
    }
}

/// Returns the number of bytes that a list of buffer descriptors describes.
///
/// # Errors
///
/// [`Status::Descriptors`].
pub fn described_length(descriptors: &[u8]) -> Result<u64, Status> {
    let descriptors = BufferDescriptors::parse(descriptors).map_err(status)?;
    Ok(descriptors.total_length())
}

const fn status(error: WireError) -> Status {
    match error {
        WireError::DescriptorsTooSmall => Status::DescriptorsTooShort,
        WireError::DescriptorListEmpty
        | WireError::DescriptorListUneven
        | WireError::DescriptorLengthZero
        | WireError::DescriptorWraps => Status::Descriptors,
        _ => Status::Request,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a WRITE request over channel 2, followed by these descriptors.
    fn write(length: u32, descriptors: &[u8]) -> Vec<u8> {
        let mut request = vec![0; 112];
        request[..4].copy_from_slice(b"\xfeSMB");
        request[4] = 64;
        request[12] = 9;
        // The header says that another element follows, which was cut off.
        request[20] = 160;
        request[64] = 49;
        request[96] = 2;
        request[100..104].copy_from_slice(&length.to_le_bytes());
        request[104] = 112;
        request[106..108].copy_from_slice(&(descriptors.len() as u16).to_le_bytes());
        request.extend(descriptors);
        request
    }

    fn descriptor(length: u32) -> Vec<u8> {
        [&[0; 8][..], &[1, 2, 3, 4], &length.to_le_bytes()].concat()
    }

    #[test]
    fn finds_the_descriptors_of_an_element() {
        let descriptors = [descriptor(100), descriptor(28)].concat();
        let request = write(128, &descriptors);
        let expected = Transfer {
            channel: 2,
            length: 128,
            descriptors_offset: 112,
            descriptors_length: 32,
        };
        assert_eq!(transfer(&request), Ok(Some(expected)));
        assert_eq!(
            token_to_invalidate(&request),
            Some(RemoteToken(0x0403_0201))
        );
        assert_eq!(described_length(&descriptors), Ok(128));
    }

    #[test]
    fn finds_the_parts_of_a_transform() {
        let mut info = vec![56, 0, 16, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        info.extend([1, 0, 16, 0, 12, 0, 0, 0]);
        info.extend([0; 32]);
        info.extend(descriptor(128));
        let mut request = write(128, &info);
        request[96] = 3;
        let expected = Transform {
            transform_type: 1,
            length: 128,
            descriptors_offset: 112 + 56,
            descriptors_length: 16,
            signature_offset: 112 + 24,
            signature_length: 16,
            nonce_offset: 112 + 40,
            nonce_length: 12,
        };
        assert_eq!(transform(&request), Ok(expected));
        let token = Some(RemoteToken(0x0403_0201));
        assert_eq!(token_to_invalidate(&request), token);
        // Channel 3 is not for a caller that does not look at transforms.
        assert_eq!(transfer(&request), Err(Status::Request));
        request[100] = 129;
        assert_eq!(transform(&request), Err(Status::DescriptorsTooShort));
        request[112 + 8] = 2;
        assert_eq!(transform(&request), Err(Status::Request));
        assert_eq!(token_to_invalidate(&request), token);
        request[96] = 2;
        assert_eq!(transform(&request), Err(Status::Request));
        request[12] = 8;
        assert_eq!(transform(&request), Err(Status::Request));
        assert_eq!(transform(&[]), Err(Status::Request));
    }

    #[test]
    fn names_what_is_wrong_and_still_knows_the_token() {
        let short = write(129, &descriptor(128));
        assert_eq!(transfer(&short), Err(Status::DescriptorsTooShort));
        let uneven = write(1, &[&descriptor(128)[..], &[0]].concat());
        assert_eq!(transfer(&uneven), Err(Status::Descriptors));
        let empty = write(1, &descriptor(0));
        assert_eq!(transfer(&empty), Err(Status::Descriptors));
        for request in [&short, &uneven, &empty] {
            let token = token_to_invalidate(request);
            assert_eq!(token, Some(RemoteToken(0x0403_0201)));
        }
        let mut inline = write(0, &[]);
        inline[96] = 0;
        assert_eq!(transfer(&inline), Ok(None));
        inline[96] = 4;
        assert_eq!(transfer(&inline), Err(Status::Request));
        inline[12] = 5;
        assert_eq!(transfer(&inline), Err(Status::Request));
        assert_eq!(transfer(&[]), Err(Status::Request));
        assert_eq!(token_to_invalidate(&inline), None);
        assert_eq!(described_length(&[]), Err(Status::Descriptors));
    }
}
