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
/// Where the authenticated but unencrypted part begins in it: after protocol id and signature.
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
    /// The algorithm with this number in negotiate contexts ([MS-SMB2] 2.2.3.1.2).
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

/// There are only a few per connection.
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

    /// Encrypts and returns the tag; `None` if the message is too long for the algorithm.
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
    /// Never repeats with the same key: all channels of the session count here.
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

    /// Decrypts a whole message, transform header included; `None` if it is not from the server.
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

    /// Two ends: what one seals, the other opens.
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
    fn only_the_other_end_can_read_it() {
        for (number, algorithm) in (1..).zip(ALGORITHMS) {
            assert_eq!(CipherAlgorithm::of_number(number), Some(algorithm));
            let (client, server) = ends(algorithm);
            let message = sealed(&client, b"some message");
            assert!(!message.windows(4).any(|w| w == b"some"));
            assert_eq!(
                server.open(message.clone()).as_deref(),
                Some(&b"some message"[..])
            );
            assert_eq!(client.open(message), None, "its own");
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

    #[test]
    fn no_nonce_comes_twice() {
        let (client, _) = ends(CipherAlgorithm::Aes128Gcm);
        assert_ne!(sealed(&client, b"x")[20..36], sealed(&client, b"x")[20..36]);
    }
}
