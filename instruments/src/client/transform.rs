// SPDX-License-Identifier: GPL-2.0-or-later

//! RDMA transforms: encrypts and signs data that goes by RDMA, and decrypts and checks it ([MS-SMB2] 2.2.43, 3.2.4.7,
//! 3.2.5.11).

use super::{Channel, Connection, Error, Response, Result};
use smbdirect::wire::BufferDescriptorV1;
use smbdirect::wire::smb2::{self, CryptoTransform, TransformType};

/// Bytes of the longest channel information ([MS-SMB2] 2.2.21).
const LONGEST_INFO: usize = u16::MAX as usize;

/// How the data of one WRITE is protected. Every field is public: a test can send what no client should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transform {
    /// What has been done to the data.
    pub transform_type: TransformType,
    /// The tag, or the signature.
    pub signature: Vec<u8>,
    /// The nonce; empty for AES-CMAC.
    pub nonce: Vec<u8>,
}

impl Transform {
    /// Returns the channel information of a WRITE: the transform, followed by the descriptors.
    #[must_use]
    pub fn channel_info(&self, channel: Channel, descriptors: &[BufferDescriptorV1]) -> Vec<u8> {
        let channel = match channel {
            Channel::None => smb2::Channel::None,
            Channel::RdmaV1 => smb2::Channel::RdmaV1,
            Channel::RdmaV1Invalidate => smb2::Channel::RdmaV1Invalidate,
        };
        let descriptors: Vec<u8> = descriptors.iter().flat_map(|one| one.emit()).collect();
        let mut info = vec![0; LONGEST_INFO];
        let length = self.crypto().emit(channel, &descriptors, &mut info);
        info.truncate(length.unwrap_or(0));
        info
    }

    fn crypto(&self) -> CryptoTransform<'_> {
        CryptoTransform {
            transform_type: self.transform_type,
            signature: &self.signature,
            nonce: &self.nonce,
        }
    }
}

impl Connection {
    /// Returns the transform that data of requests on a tree needs to go by RDMA, so that it is protected in the same
    /// way as messages. `None`: messages are not protected, or the connection has not negotiated the transform; see
    /// [`Self::may_place`].
    #[must_use]
    pub fn transform(&self, tree_id: u32) -> Option<TransformType> {
        let wanted = self.wanted_transform(tree_id)?;
        self.negotiated
            .transforms
            .contains(&wanted)
            .then_some(wanted)
    }

    /// Returns whether data of requests on a tree may go by RDMA: either it needs no protection, or there is a
    /// transform for it.
    #[must_use]
    pub fn may_place(&self, tree_id: u32) -> bool {
        let wanted = self.wanted_transform(tree_id);
        wanted.is_none() || self.transform(tree_id).is_some()
    }

    fn wanted_transform(&self, tree_id: u32) -> Option<TransformType> {
        if self.is_tree_sealed(tree_id) {
            Some(TransformType::Encryption)
        } else if self.is_signed() {
            Some(TransformType::Signing)
        } else {
            None
        }
    }

    /// Encrypts the data of a WRITE in place, or signs it.
    pub fn protect(&mut self, transform_type: TransformType, data: &mut [u8]) -> Result<Transform> {
        let on = self
            .session
            .as_ref()
            .ok_or(Error::NoSession("an RDMA transform"))?;
        let (nonce, signature) = match transform_type {
            TransformType::Encryption => {
                let sealer = on.session.sealer.as_ref().ok_or(Error::NoCipher)?;
                sealer.seal_payload(data).ok_or(Error::Decrypt)?
            }
            TransformType::Signing => {
                let signer = on.signer.as_ref().ok_or(Error::NoSession("a signature"))?;
                self.payload_nonce += 1;
                let nonce = signer.payload_nonce(self.payload_nonce);
                let signature = signer
                    .payload_signature(&nonce, data)
                    .ok_or(Error::Decrypt)?;
                (nonce, signature)
            }
        };
        Ok(Transform {
            transform_type,
            signature: signature.to_vec(),
            nonce,
        })
    }

    /// Decrypts in place the data that a READ has placed, or checks its signature. Refuses a transform of the wrong
    /// kind, and data without one if it must be protected.
    pub fn unprotect(&self, tree_id: u32, response: &Response, data: &mut [u8]) -> Result<()> {
        let read = response.read()?;
        let found = read.transform()?;
        let Some(crypto) = found else {
            return match self.wanted_transform(tree_id) {
                None => Ok(()),
                Some(_) => Err(response.malformed("its data is neither encrypted nor signed")),
            };
        };
        if !self.negotiated.transforms.contains(&crypto.transform_type) {
            return Err(response.malformed("its RDMA transform was not negotiated"));
        }
        if self
            .wanted_transform(tree_id)
            .is_some_and(|wanted| wanted != crypto.transform_type)
        {
            return Err(response
                .malformed("its RDMA transform does not match the protection of its message"));
        }
        let on = self
            .session
            .as_ref()
            .ok_or(Error::NoSession("an RDMA transform"))?;
        let wrong =
            || response.malformed("the data that it placed was altered, or the keys differ");
        match crypto.transform_type {
            TransformType::Encryption => {
                let sealer = on.session.sealer.as_ref().ok_or(Error::NoCipher)?;
                sealer
                    .open_payload(crypto.nonce, crypto.signature, data)
                    .ok_or_else(wrong)
            }
            TransformType::Signing => {
                let signer = on.signer.as_ref().ok_or(Error::NoSession("a signature"))?;
                let expected = signer
                    .payload_signature(crypto.nonce, data)
                    .ok_or_else(wrong)?;
                let differ = expected.len() != crypto.signature.len();
                let bits = expected.iter().zip(crypto.signature);
                // Compare in constant time, so that the time tells nothing about the signature.
                let bits = bits.fold(0, |found, (a, b)| found | (a ^ b));
                if differ || bits != 0 {
                    Err(wrong())
                } else {
                    Ok(())
                }
            }
        }
    }
}
