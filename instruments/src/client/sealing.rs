// SPDX-License-Identifier: GPL-2.0-or-later

//! Encrypted messages ([MS-SMB2] 2.2.41, 3.1.4.3).

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use aes::{Aes128, Aes256};
use aes_gcm::aead::AeadInPlace;
use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::aead::generic_array::typenum::{U11, U16};
use aes_gcm::{Aes128Gcm, Aes256Gcm, KeyInit};
use ccm::Ccm;

use super::bytes::{array_at, u16_at, u32_at, u64_at};
use super::keys::Key;

type Aes128Ccm = Ccm<Aes128, U16, U11>;
type Aes256Ccm = Ccm<Aes256, U16, U11>;

/// Bytes of the transform header.
pub(super) const TRANSFORM_LENGTH: usize = 52;
/// The offset of the authenticated but unencrypted part of the header: after protocol id and signature.
const AAD_AT: usize = 20;

/// How messages are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CipherAlgorithm {
    /// AES-128-CCM, the cipher of SMB 3.0 and 3.0.2.
    Aes128Ccm,
    /// AES-128-GCM.
    Aes128Gcm,
    /// AES-256-CCM.
    Aes256Ccm,
    /// AES-256-GCM.
    Aes256Gcm,
}

impl CipherAlgorithm {
    /// Returns the algorithm with this number in negotiate contexts ([MS-SMB2] 2.2.3.1.2).
    pub(super) const fn of_number(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::Aes128Ccm),
            2 => Some(Self::Aes128Gcm),
            3 => Some(Self::Aes256Ccm),
            4 => Some(Self::Aes256Gcm),
            _ => None,
        }
    }

    pub(super) const fn key_bits(self) -> u32 {
        match self {
            Self::Aes128Ccm | Self::Aes128Gcm => 128,
            Self::Aes256Ccm | Self::Aes256Gcm => 256,
        }
    }

    const fn nonce_length(self) -> usize {
        match self {
            Self::Aes128Ccm | Self::Aes256Ccm => 11,
            Self::Aes128Gcm | Self::Aes256Gcm => 12,
        }
    }
}

/// The size of the variants does not matter, because there are only a few ciphers per connection.
#[allow(clippy::large_enum_variant)]
enum Cipher {
    Aes128Ccm(Aes128Ccm),
    Aes128Gcm(Aes128Gcm),
    Aes256Ccm(Aes256Ccm),
    Aes256Gcm(Aes256Gcm),
}

impl Cipher {
    #[allow(clippy::expect_used)]
    fn new(algorithm: CipherAlgorithm, key: &Key) -> Self {
        const REASON: &str = "the key has the length of the algorithm";
        match algorithm {
            CipherAlgorithm::Aes128Ccm => {
                Self::Aes128Ccm(KeyInit::new_from_slice(&key.0).expect(REASON))
            }
            CipherAlgorithm::Aes128Gcm => {
                Self::Aes128Gcm(KeyInit::new_from_slice(&key.0).expect(REASON))
            }
            CipherAlgorithm::Aes256Ccm => {
                Self::Aes256Ccm(KeyInit::new_from_slice(&key.0).expect(REASON))
            }
            CipherAlgorithm::Aes256Gcm => {
                Self::Aes256Gcm(KeyInit::new_from_slice(&key.0).expect(REASON))
            }
        }
    }

    /// Encrypts in place, and returns the tag. `None`: the message is too long for the algorithm.
    fn encrypt(&self, nonce: &[u8], aad: &[u8], data: &mut [u8]) -> Option<[u8; 16]> {
        let tag = match self {
            Self::Aes128Ccm(cipher) => {
                cipher.encrypt_in_place_detached(GenericArray::from_slice(nonce), aad, data)
            }
            Self::Aes128Gcm(cipher) => {
                cipher.encrypt_in_place_detached(GenericArray::from_slice(nonce), aad, data)
            }
            Self::Aes256Ccm(cipher) => {
                cipher.encrypt_in_place_detached(GenericArray::from_slice(nonce), aad, data)
            }
            Self::Aes256Gcm(cipher) => {
                cipher.encrypt_in_place_detached(GenericArray::from_slice(nonce), aad, data)
            }
        };
        tag.ok().map(Into::into)
    }

    fn decrypt(&self, nonce: &[u8], aad: &[u8], data: &mut [u8], tag: &[u8; 16]) -> Option<()> {
        let nonce = nonce.iter().copied();
        let tag = GenericArray::from_slice(tag);
        match self {
            Self::Aes128Ccm(cipher) => {
                let nonce = GenericArray::from_exact_iter(nonce)?;
                cipher.decrypt_in_place_detached(&nonce, aad, data, tag)
            }
            Self::Aes128Gcm(cipher) => {
                let nonce = GenericArray::from_exact_iter(nonce)?;
                cipher.decrypt_in_place_detached(&nonce, aad, data, tag)
            }
            Self::Aes256Ccm(cipher) => {
                let nonce = GenericArray::from_exact_iter(nonce)?;
                cipher.decrypt_in_place_detached(&nonce, aad, data, tag)
            }
            Self::Aes256Gcm(cipher) => {
                let nonce = GenericArray::from_exact_iter(nonce)?;
                cipher.decrypt_in_place_detached(&nonce, aad, data, tag)
            }
        }
        .ok()
    }
}

/// Encrypts the messages that a session sends on any channel, and decrypts those that it receives.
pub(super) struct Sealer {
    algorithm: CipherAlgorithm,
    to_server: Cipher,
    to_client: Cipher,
    session_id: u64,
    /// Never repeats with the same key, because all channels of the session share this count.
    nonce: AtomicU64,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({:?})", self.algorithm)
    }
}

impl Sealer {
    pub(super) fn new(
        algorithm: CipherAlgorithm,
        session_id: u64,
        to_server: &Key,
        to_client: &Key,
    ) -> Self {
        Self {
            algorithm,
            to_server: Cipher::new(algorithm, to_server),
            to_client: Cipher::new(algorithm, to_client),
            session_id,
            nonce: AtomicU64::new(1),
        }
    }

    /// Encrypts `message` in place and returns the transform header that goes in front of it.
    pub(super) fn seal(&self, message: &mut [u8]) -> Option<[u8; TRANSFORM_LENGTH]> {
        let mut head = [0; TRANSFORM_LENGTH];
        head[..4].copy_from_slice(b"\xfdSMB");
        let nonce = self.nonce.fetch_add(1, Ordering::Relaxed);
        head[20..28].copy_from_slice(&nonce.to_le_bytes());
        head[36..40].copy_from_slice(&u32::try_from(message.len()).ok()?.to_le_bytes());
        head[42..44].copy_from_slice(&1_u16.to_le_bytes());
        head[44..].copy_from_slice(&self.session_id.to_le_bytes());
        let nonce = &head[20..20 + self.algorithm.nonce_length()];
        let tag = self.to_server.encrypt(nonce, &head[AAD_AT..], message)?;
        head[4..20].copy_from_slice(&tag);
        Some(head)
    }

    /// Encrypts in place data that goes by RDMA, and returns its nonce and its tag. Such data has no additional
    /// authenticated data ([MS-SMB2] 3.2.4.7).
    pub(super) fn seal_payload(&self, data: &mut [u8]) -> Option<(Vec<u8>, [u8; 16])> {
        // Count these nonces with those of messages, because the key is the same.
        let count = self.nonce.fetch_add(1, Ordering::Relaxed);
        let mut nonce = vec![0; self.algorithm.nonce_length()];
        nonce[..8].copy_from_slice(&count.to_le_bytes());
        let tag = self.to_server.encrypt(&nonce, &[], data)?;
        Some((nonce, tag))
    }

    /// Decrypts in place data that came by RDMA. `None`: it does not come from the server.
    pub(super) fn open_payload(&self, nonce: &[u8], tag: &[u8], data: &mut [u8]) -> Option<()> {
        let tag: [u8; 16] = tag.try_into().ok()?;
        if nonce.len() != self.algorithm.nonce_length() {
            return None;
        }
        self.to_client.decrypt(nonce, &[], data, &tag)
    }

    /// Decrypts a whole message, transform header included. `None`: it does not come from the server.
    pub(super) fn open(&self, mut message: Vec<u8>) -> Option<Vec<u8>> {
        let head: [u8; TRANSFORM_LENGTH] = array_at(&message, 0)?;
        let (size, flags) = (u32_at(&head, 36)?, u16_at(&head, 42)?);
        let data = message.get_mut(TRANSFORM_LENGTH..)?;
        if flags != 1 || size as usize != data.len() || u64_at(&head, 44)? != self.session_id {
            return None;
        }
        let tag: [u8; 16] = array_at(&head, 4)?;
        let nonce = &head[20..20 + self.algorithm.nonce_length()];
        self.to_client.decrypt(nonce, &head[AAD_AT..], data, &tag)?;
        message.drain(..TRANSFORM_LENGTH);
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALGORITHMS: [CipherAlgorithm; 4] = [
        CipherAlgorithm::Aes128Ccm,
        CipherAlgorithm::Aes128Gcm,
        CipherAlgorithm::Aes256Ccm,
        CipherAlgorithm::Aes256Gcm,
    ];

    /// Returns two ends: each opens what the other seals.
    fn ends(algorithm: CipherAlgorithm) -> (Sealer, Sealer) {
        let length = algorithm.key_bits() as usize / 8;
        let (a, b) = (Key(vec![1; length]), Key(vec![2; length]));
        (
            Sealer::new(algorithm, 77, &a, &b),
            Sealer::new(algorithm, 77, &b, &a),
        )
    }

    fn sealed(sealer: &Sealer, message: &[u8]) -> Vec<u8> {
        let mut data = message.to_vec();
        let head = sealer.seal(&mut data).expect("short enough");
        [&head[..], &data].concat()
    }

    #[test]
    fn only_the_other_end_can_read_a_sealed_message() {
        for (number, algorithm) in (1..).zip(ALGORITHMS) {
            assert_eq!(CipherAlgorithm::of_number(number), Some(algorithm));
            let (client, server) = ends(algorithm);
            let message = sealed(&client, b"some message");
            assert!(!message.windows(4).any(|w| w == b"some"));
            assert_eq!(
                server.open(message.clone()).as_deref(),
                Some(&b"some message"[..])
            );
            assert_eq!(client.open(message), None, "its own message");
        }
        assert_eq!(CipherAlgorithm::of_number(5), None);
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        for algorithm in ALGORITHMS {
            let (client, server) = ends(algorithm);
            let message = sealed(&client, b"some message");
            for at in 4..message.len() {
                let mut other = message.clone();
                other[at] ^= 0x10;
                assert_eq!(server.open(other), None, "{algorithm:?}: byte {at}");
                assert_eq!(server.open(message[..at].to_vec()), None);
            }
        }
    }

    /// Uses test case 3 of appendix B of "The Galois/Counter Mode of Operation".
    #[test]
    fn a_published_payload_is_encrypted_as_published() {
        let key = Key(0xfeff_e992_8665_731c_6d6a_8f94_6730_8308_u128
            .to_be_bytes()
            .to_vec());
        let cipher = Cipher::new(CipherAlgorithm::Aes128Gcm, &key);
        let nonce = [
            0xca, 0xfe, 0xba, 0xbe, 0xfa, 0xce, 0xdb, 0xad, 0xde, 0xca, 0xf8, 0x88,
        ];
        let text: [u128; 4] = [
            0xd931_3225_f884_06e5_a559_09c5_aff5_269a,
            0x86a7_a953_1534_f7da_2e4c_303d_8a31_8a72,
            0x1c3c_0c95_9568_0953_2fcf_0e24_49a6_b525,
            0xb16a_edf5_aa0d_e657_ba63_7b39_1aaf_d255,
        ];
        let mut data: Vec<u8> = text.iter().flat_map(|part| part.to_be_bytes()).collect();
        let tag = cipher
            .encrypt(&nonce, &[], &mut data)
            .expect("short enough");
        let begin = 0x4283_1ec2_2177_7424_4b72_21b7_84d0_d49c_u128.to_be_bytes();
        assert_eq!(data[..16], begin);
        assert_eq!(
            tag,
            0x4d5c_2af3_27cd_64a6_2cf3_5abd_2ba6_fab4_u128.to_be_bytes()
        );
    }

    #[test]
    fn the_other_end_reads_a_payload_and_notices_every_change() {
        for algorithm in ALGORITHMS {
            let (client, server) = ends(algorithm);
            let mut data = b"some payload".to_vec();
            let (nonce, tag) = client.seal_payload(&mut data).expect("short enough");
            assert_eq!(nonce.len(), algorithm.nonce_length());
            assert!(!data.windows(4).any(|w| w == b"some"));
            let opens = |nonce: &[u8], tag: &[u8], data: &[u8]| {
                let mut data = data.to_vec();
                server.open_payload(nonce, tag, &mut data).map(|()| data)
            };
            assert_eq!(
                opens(&nonce, &tag, &data).as_deref(),
                Some(&b"some payload"[..])
            );
            assert_eq!(opens(&nonce[1..], &tag, &data), None);
            assert_eq!(opens(&nonce, &tag[1..], &data), None);
            let mut other = data.clone();
            other[3] ^= 1;
            assert_eq!(opens(&nonce, &tag, &other), None);
        }
    }

    #[test]
    fn no_nonce_comes_twice() {
        let (client, _) = ends(CipherAlgorithm::Aes128Gcm);
        let payload = || client.seal_payload(&mut [0; 4]).expect("short enough").0;
        let message = || sealed(&client, b"x")[20..32].to_vec();
        let nonces = [payload(), message(), payload(), message()];
        for (n, nonce) in nonces.iter().enumerate() {
            assert!(!nonces[..n].contains(nonce), "{nonces:?}");
        }
        assert_ne!(sealed(&client, b"x")[20..36], sealed(&client, b"x")[20..36]);
    }
}
