// SPDX-License-Identifier: GPL-2.0-or-later

//! The keys of a session, and how they are derived ([MS-SMB2] 3.1.4.2, 3.2.5.3).

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256, Sha512};

use super::Dialect;

/// The hash over every message sent before the keys existed (SMB 3.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Preauth([u8; 64]);

impl Preauth {
    pub(super) const START: Self = Self([0; 64]);

    /// Adds one message, as it goes over the wire.
    pub(super) fn add(&mut self, message: &[u8]) {
        let mut hash = Sha512::new();
        hash.update(self.0);
        hash.update(message);
        self.0 = hash.finalize().into();
    }
}

/// A secret key, which is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key(pub(super) Vec<u8>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bits)", self.0.len() * 8)
    }
}

/// The purpose of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Signing,
    /// Encrypts messages to the server.
    ToServer,
    /// Decrypts messages from the server.
    ToClient,
}

/// Derives a key of `bits` (128 or 256) from the key that authentication produced.
pub(super) fn derive(
    session_key: &[u8],
    dialect: Dialect,
    preauth: &Preauth,
    purpose: Purpose,
    bits: u32,
) -> Key {
    if dialect == Dialect::Smb311 {
        let label: &[u8] = match purpose {
            Purpose::Signing => b"SMBSigningKey\0",
            Purpose::ToServer => b"SMBC2SCipherKey\0",
            Purpose::ToClient => b"SMBS2CCipherKey\0",
        };
        return kdf(session_key, label, &preauth.0, bits);
    }
    let (label, context): (&[u8], &[u8]) = match purpose {
        Purpose::Signing => (b"SMB2AESCMAC\0", b"SmbSign\0"),
        Purpose::ToServer => (b"SMB2AESCCM\0", b"ServerIn \0"),
        Purpose::ToClient => (b"SMB2AESCCM\0", b"ServerOut\0"),
    };
    kdf(session_key, label, context, bits)
}

/// Derives a key by SP800-108 in counter mode with HMAC-SHA256, one block: at most 256 bits.
fn kdf(key: &[u8], label: &[u8], context: &[u8], bits: u32) -> Key {
    let mut mac = hmac_sha256(key);
    mac.update(&1_u32.to_be_bytes());
    mac.update(label);
    mac.update(&[0]);
    mac.update(context);
    mac.update(&bits.to_be_bytes());
    let mut block = mac.finalize().into_bytes().to_vec();
    block.truncate(bits as usize / 8);
    Key(block)
}

/// Makes an HMAC-SHA256 with a key of any length.
pub(super) fn hmac_sha256(key: &[u8]) -> Hmac<Sha256> {
    #[allow(clippy::expect_used)]
    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
        (0..text.len()).step_by(2).map(digit).collect()
    }

    /// Uses the samples of Microsoft's article "SMB 2 and SMB 3 security in Windows 10: the anatomy of signing and
    /// cryptographic keys".
    #[test]
    fn the_keys_are_those_of_the_published_samples() {
        let key = |session: &str, dialect, preauth: &Preauth, purpose| {
            derive(&hex(session), dialect, preauth, purpose, 128)
        };
        let of = |purpose| {
            let session = "7cd451825d0450d235424e44ba6e78cc";
            key(session, Dialect::Smb300, &Preauth::START, purpose)
        };
        assert_eq!(
            of(Purpose::Signing).0,
            hex("0b7e9c5cac36c0f6ea9ab275298cedce")
        );
        assert_eq!(
            of(Purpose::ToServer).0,
            hex("fad27796665b313ebb578f388632b4f7")
        );
        assert_eq!(
            of(Purpose::ToClient).0,
            hex("b0f0427f7ceb416d1d9dcc0cd4f99447")
        );

        let preauth = "0dd13628cc3ed218ef9df9772d436d0887ab9814bfae63a80aa845f36909db79\
                       28622dddad522d9751640a459762c5a9d6bb084cbb3ce6bdadef5d5bce3c6c01";
        let preauth = Preauth(hex(preauth).try_into().expect("64 bytes"));
        let of = |purpose| {
            let session = "270e1ba896585eeb7af3472d3b4c75a7";
            key(session, Dialect::Smb311, &preauth, purpose)
        };
        assert_eq!(
            of(Purpose::Signing).0,
            hex("73fe7a9a77bef0bde49c650d8ccb5f76")
        );
        assert_eq!(
            of(Purpose::ToServer).0,
            hex("629bcbc54422a0f572b97f45989b6073")
        );
        assert_eq!(
            of(Purpose::ToClient).0,
            hex("e2af0dcefac68da71a0dfbd0d1350d74")
        );
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", Key(vec![1; 16])), "Key(128 bits)");
    }

    #[test]
    fn each_purpose_and_length_has_a_different_key() {
        let derive =
            |purpose, bits| derive(&[7; 16], Dialect::Smb302, &Preauth::START, purpose, bits);
        let signing = derive(Purpose::Signing, 128);
        assert_eq!(signing.0.len(), 16);
        assert_ne!(signing, derive(Purpose::ToServer, 128));
        assert_ne!(
            derive(Purpose::ToClient, 128),
            derive(Purpose::ToServer, 128)
        );
        let long = derive(Purpose::ToServer, 256);
        assert_eq!(long.0.len(), 32);
        assert_ne!(long.0[..16], derive(Purpose::ToServer, 128).0[..]);
    }

    #[test]
    fn the_hash_depends_on_every_message_and_their_order() {
        let of = |messages: &[&[u8]]| {
            let mut hash = Preauth::START;
            messages.iter().for_each(|message| hash.add(message));
            hash
        };
        assert!(of(&[b"a", b"b"]) != of(&[b"b", b"a"]));
        assert!(of(&[b"a"]) != of(&[b"a", b""]));
    }
}
