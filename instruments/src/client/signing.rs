// SPDX-License-Identifier: GPL-2.0-or-later

//! Signatures of messages ([MS-SMB2] 3.1.4.1).

use std::borrow::Cow;

use aes::Aes128;
use aes_gcm::aead::AeadInPlace;
use aes_gcm::{Aes128Gcm, KeyInit};
use cmac::{Cmac, Mac};

use super::Command;
use super::header::{HEADER_LENGTH, Header, SIGNATURE_AT};
use super::keys::{Key, hmac_sha256};

/// How messages are signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// HMAC-SHA256.
    HmacSha256,
    /// AES-128-CMAC: the algorithm of SMB 3.0 and 3.0.2, and of 3.1.1 unless another one is
    /// negotiated.
    AesCmac,
    /// AES-128-GMAC.
    AesGmac,
}

impl SigningAlgorithm {
    /// Returns the algorithm with this number in negotiate contexts ([MS-SMB2] 2.2.3.1.7).
    pub(super) const fn of_number(number: u16) -> Option<Self> {
        match number {
            0 => Some(Self::HmacSha256),
            1 => Some(Self::AesCmac),
            2 => Some(Self::AesGmac),
            _ => None,
        }
    }
}

/// Signs messages, and checks signatures.
#[derive(Clone, Debug)]
pub(super) struct Signer {
    algorithm: SigningAlgorithm,
    key: Key,
}

impl Signer {
    /// Makes a signer. `key` has 128 bits.
    pub(super) const fn new(algorithm: SigningAlgorithm, key: Key) -> Self {
        Self { algorithm, key }
    }

    /// Its key.
    pub(super) const fn key(&self) -> &Key {
        &self.key
    }

    /// Computes the signature of a message made up of `parts`; the header is at the start of the first. The signature
    /// field counts as zeros.
    pub(super) fn signature(&self, header: &Header, parts: &[&[u8]]) -> [u8; 16] {
        let mut head = header.emit();
        head[SIGNATURE_AT..].fill(0);
        let (first, rest) = match parts.split_first() {
            Some((first, rest)) => (first.get(HEADER_LENGTH..).unwrap_or_default(), rest),
            None => (&[][..], &[][..]),
        };
        let pieces = [&head[..], first].into_iter().chain(rest.iter().copied());
        self.mac(&gmac_nonce(header), pieces)
    }

    /// Applies the algorithm to all `pieces`. Only AES-GMAC uses the nonce.
    fn mac<'a>(&self, nonce: &[u8; 12], mut pieces: impl Iterator<Item = &'a [u8]>) -> [u8; 16] {
        match self.algorithm {
            SigningAlgorithm::HmacSha256 => {
                let mut mac = hmac_sha256(&self.key.0);
                pieces.for_each(|piece| mac.update(piece));
                let mut signature = [0; 16];
                signature.copy_from_slice(&mac.finalize().into_bytes()[..16]);
                signature
            }
            SigningAlgorithm::AesCmac => {
                #[allow(clippy::expect_used)]
                let mut mac = <Cmac<Aes128> as Mac>::new_from_slice(&self.key.0)
                    .expect("the key has 128 bits");
                pieces.for_each(|piece| mac.update(piece));
                mac.finalize().into_bytes().into()
            }
            SigningAlgorithm::AesGmac => {
                #[allow(clippy::expect_used)]
                let gcm = Aes128Gcm::new_from_slice(&self.key.0).expect("the key has 128 bits");
                let mut whole = Cow::Borrowed(pieces.next().unwrap_or_default());
                pieces.for_each(|piece| whole.to_mut().extend(piece));
                #[allow(clippy::expect_used)]
                let tag = gcm
                    .encrypt_in_place_detached(nonce.into(), &whole, &mut [])
                    .expect("less than 2^36 bytes");
                tag.into()
            }
        }
    }

    /// Makes a nonce for data that goes by RDMA. The connection must not have used `count` before. Empty if the
    /// algorithm has no nonce. No message has the same nonce, because the highest bit is 0 in the nonces of messages
    /// ([MS-SMB2] 3.1.4.1).
    pub(super) fn payload_nonce(&self, count: u64) -> Vec<u8> {
        if self.algorithm != SigningAlgorithm::AesGmac {
            return Vec::new();
        }
        let mut nonce = count.to_le_bytes().to_vec();
        nonce.extend(PAYLOAD.to_le_bytes());
        nonce
    }

    /// Computes the signature of data that goes by RDMA. `None`: the algorithm has no nonces of that length.
    pub(super) fn payload_signature(&self, nonce: &[u8], data: &[u8]) -> Option<[u8; 16]> {
        let nonce = match self.algorithm {
            SigningAlgorithm::AesGmac => nonce.try_into().ok()?,
            SigningAlgorithm::AesCmac if nonce.is_empty() => [0; 12],
            // HMAC-SHA256 does not protect this data, and AES-CMAC has no nonce.
            _ => return None,
        };
        Some(self.mac(&nonce, std::iter::once(data)))
    }

    /// Returns whether a message is signed with this key.
    pub(super) fn verify(&self, header: &Header, message: &[u8]) -> bool {
        let expected = self.signature(header, &[message]);
        // Compare in constant time, so that the time tells nothing about the signature.
        let differ = expected.iter().zip(header.signature);
        differ.fold(0, |found, (a, b)| found | (a ^ b)) == 0
    }
}

/// Marks the nonces of data that goes by RDMA, in their last four bytes. The lowest bit is 0, as in the nonces of
/// client messages.
const PAYLOAD: u32 = 0x8000_0000;

/// Makes the nonce from the message id, whether the server signed the message, and whether it is a CANCEL ([MS-SMB2]
/// 3.1.4.1).
fn gmac_nonce(header: &Header) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&header.message_id.to_le_bytes());
    let from_server = u8::from(header.flags & Header::RESPONSE != 0);
    let cancel = u8::from(header.command == Command::CANCEL);
    nonce[8] = from_server | cancel << 1;
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::NtStatus;

    fn header() -> Header {
        Header {
            credit_charge: 1,
            status: NtStatus::SUCCESS,
            command: Command::ECHO,
            credits: 1,
            flags: Header::SIGNED,
            next_command: 0,
            message_id: 5,
            async_id: 0,
            session_id: 9,
            signature: [0; 16],
        }
    }

    /// Uses the final SESSION_SETUP response of the SMB 3.1.1 sample in the article that the tests of `keys` name.
    #[test]
    fn the_signature_of_the_published_sample_is_right() {
        let key = 0x73fe_7a9a_77be_f0bd_e49c_650d_8ccb_5f76_u128;
        let signer = Signer::new(SigningAlgorithm::AesCmac, Key(key.to_be_bytes().to_vec()));
        let header = Header {
            command: Command::SESSION_SETUP,
            credits: 128,
            flags: Header::SIGNED | Header::RESPONSE,
            message_id: 3,
            async_id: 0xfeff,
            session_id: 0x1000_0000_0019,
            signature: 0xebe1_46da_120b_a25f_c337_6a49_dfe3_1bc1_u128.to_be_bytes(),
            ..header()
        };
        let token = b"\xa1\x1b\x30\x19\xa0\x03\x0a\x01\x00\xa3\x12\x04\x10\x01\x00\x00\x00\
            \x3b\x45\x3c\xdc\x35\x24\x16\x42\x00\x00\x00\x00";
        let body = b"\x09\x00\x00\x00\x48\x00\x1d\x00";
        let message = [&header.emit()[..], body, token].concat();
        assert!(signer.verify(&header, &message));
    }

    #[test]
    fn a_signature_covers_every_byte_but_itself() {
        use SigningAlgorithm::{AesCmac, AesGmac, HmacSha256};
        for algorithm in [HmacSha256, AesCmac, AesGmac] {
            let signer = Signer::new(algorithm, Key(vec![3; 16]));
            let mut header = header();
            let mut message = [&header.emit()[..], b"\x04\x00\x00\x00"].concat();
            header.signature = signer.signature(&header, &[&message]);
            message[..HEADER_LENGTH].copy_from_slice(&header.emit());
            assert!(signer.verify(&header, &message), "{algorithm:?}");
            for at in 0..message.len() {
                let mut other = message.clone();
                other[at] ^= 1;
                let good =
                    Header::parse(&other).is_some_and(|header| signer.verify(&header, &other));
                assert!(!good, "{algorithm:?}: byte {at}");
            }
        }
    }

    #[test]
    fn the_signature_of_pieces_is_that_of_the_whole() {
        for number in 0..3 {
            let algorithm = SigningAlgorithm::of_number(number).expect("an algorithm");
            let signer = Signer::new(algorithm, Key(vec![3; 16]));
            let message = [&header().emit()[..], b"body and data"].concat();
            let whole = signer.signature(&header(), &[&message]);
            assert_eq!(
                signer.signature(&header(), &[&message[..70], &message[70..]]),
                whole
            );
        }
        assert_eq!(SigningAlgorithm::of_number(3), None);
    }

    /// Uses examples 2 and 3 of RFC 4493, section 4.
    #[test]
    fn the_signature_of_published_data_is_right() {
        let key = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128;
        let signer = Signer::new(SigningAlgorithm::AesCmac, Key(key.to_be_bytes().to_vec()));
        let data = 0x6bc1_bee2_2e40_9f96_e93d_7e11_7393_172a_u128.to_be_bytes();
        let expected = 0x070a_16b4_6b4d_4144_f79b_dd9d_d04a_287c_u128.to_be_bytes();
        assert_eq!(signer.payload_signature(&[], &data), Some(expected));
        assert_eq!(signer.payload_signature(&[0; 12], &data), None);
        assert!(signer.payload_nonce(1).is_empty());
    }

    /// Uses test case 1 of appendix B of "The Galois/Counter Mode of Operation": no text, and no authenticated data.
    #[test]
    fn the_gmac_of_nothing_is_the_published_one() {
        let signer = Signer::new(SigningAlgorithm::AesGmac, Key(vec![0; 16]));
        let expected = 0x58e2_fcce_fa7e_3061_367f_1d57_a4e7_455a_u128.to_be_bytes();
        assert_eq!(signer.payload_signature(&[0; 12], &[]), Some(expected));
        assert_eq!(signer.payload_signature(&[0; 11], &[]), None);
    }

    #[test]
    fn no_message_has_a_nonce_of_rdma_data() {
        let signer = Signer::new(SigningAlgorithm::AesGmac, Key(vec![0; 16]));
        assert_eq!(
            signer.payload_nonce(5),
            [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]
        );
        for flags in [0, Header::RESPONSE] {
            let header = Header { flags, ..header() };
            assert_eq!(gmac_nonce(&header)[9..], [0; 3]);
        }
    }

    #[test]
    fn the_nonce_tells_directions_and_cancels_apart() {
        let mut header = header();
        assert_eq!(gmac_nonce(&header), [5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        header.flags |= Header::RESPONSE;
        assert_eq!(gmac_nonce(&header)[8], 1);
        header.flags = 0;
        header.command = Command::CANCEL;
        assert_eq!(gmac_nonce(&header)[8], 2);
    }
}
