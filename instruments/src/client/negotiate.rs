// SPDX-License-Identifier: GPL-2.0-or-later

//! NEGOTIATE: what server and client agree on ([MS-SMB2] 2.2.3, 2.2.4, 3.2.5.2).

use smb_msg::{
    Dialect as MsgDialect, EncryptionCapabilities, EncryptionCipher, GlobalCapabilities,
    HashAlgorithm, NegotiateRequest, NegotiateSecurityMode, PreauthIntegrityCapabilities,
    RdmaTransformCapabilities, RdmaTransformId, SigningAlgorithmId, SigningCapabilities,
};

use super::bytes::{array_at, slice_at, u16_at, u32_at};
use super::{
    CipherAlgorithm, Command, Config, Error, Request, Response, Result, SigningAlgorithm,
    TransformType,
};

/// A version of SMB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dialect {
    /// 3.0
    Smb300,
    /// 3.0.2
    Smb302,
    /// 3.1.1
    Smb311,
}

impl Dialect {
    const fn of_number(number: u16) -> Option<Self> {
        match number {
            0x0300 => Some(Self::Smb300),
            0x0302 => Some(Self::Smb302),
            0x0311 => Some(Self::Smb311),
            _ => None,
        }
    }
}

/// What both sides agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// The version.
    pub dialect: Dialect,
    /// Whether the server requires signatures.
    pub signing_required: bool,
    /// The server's capabilities.
    pub capabilities: u32,
    /// The server's GUID.
    pub server_guid: [u8; 16],
    /// Largest output of an IOCTL, a query or a listing, in bytes.
    pub max_transact_size: u32,
    /// Largest READ, in bytes.
    pub max_read_size: u32,
    /// Largest WRITE, in bytes.
    pub max_write_size: u32,
    /// How messages are encrypted, if they can be.
    pub cipher: Option<CipherAlgorithm>,
    /// How messages are signed.
    pub signing: SigningAlgorithm,
    /// The transforms that may protect data that goes by RDMA.
    pub transforms: Vec<TransformType>,
}

impl Negotiated {
    /// In `capabilities`: requests may exceed 64 KiB.
    pub const LARGE_MTU: u32 = 0x4;
    /// In `capabilities`: a session may have several connections.
    pub const MULTI_CHANNEL: u32 = 0x8;
    /// In `capabilities`: the peer can encrypt, in SMB 3.0 and 3.0.2.
    pub const ENCRYPTION: u32 = 0x40;

    /// The state before the negotiation.
    pub(super) const fn none() -> Self {
        Self {
            dialect: Dialect::Smb300,
            signing_required: false,
            capabilities: 0,
            server_guid: [0; 16],
            max_transact_size: 0,
            max_read_size: 0,
            max_write_size: 0,
            cipher: None,
            signing: SigningAlgorithm::AesCmac,
            transforms: Vec::new(),
        }
    }
}

pub(super) fn request(config: &Config) -> Result<Request<'static>> {
    let dialects = config.dialects.iter().map(|dialect| match dialect {
        Dialect::Smb300 => MsgDialect::Smb030,
        Dialect::Smb302 => MsgDialect::Smb0302,
        Dialect::Smb311 => MsgDialect::Smb0311,
    });
    let mut salt = vec![0; 32];
    getrandom::fill(&mut salt).map_err(|error| Error::Encode("a salt", error.to_string()))?;
    let mut contexts = vec![
        PreauthIntegrityCapabilities {
            hash_algorithms: vec![HashAlgorithm::Sha512],
            salt,
        }
        .into(),
    ];
    if !config.ciphers.is_empty() {
        let ciphers = config.ciphers.iter().map(|cipher| match cipher {
            CipherAlgorithm::Aes128Ccm => EncryptionCipher::Aes128Ccm,
            CipherAlgorithm::Aes128Gcm => EncryptionCipher::Aes128Gcm,
            CipherAlgorithm::Aes256Ccm => EncryptionCipher::Aes256Ccm,
            CipherAlgorithm::Aes256Gcm => EncryptionCipher::Aes256Gcm,
        });
        contexts.push(
            EncryptionCapabilities {
                ciphers: ciphers.collect(),
            }
            .into(),
        );
    }
    if !config.signing.is_empty() {
        let signing_algorithms = config.signing.iter().map(|algorithm| match algorithm {
            SigningAlgorithm::HmacSha256 => SigningAlgorithmId::HmacSha256,
            SigningAlgorithm::AesCmac => SigningAlgorithmId::AesCmac,
            SigningAlgorithm::AesGmac => SigningAlgorithmId::AesGmac,
        });
        let signing_algorithms = signing_algorithms.collect();
        contexts.push(SigningCapabilities { signing_algorithms }.into());
    }
    if !config.transforms.is_empty() {
        let transforms = config.transforms.iter().map(|transform| match transform {
            TransformType::Encryption => RdmaTransformId::Encryption,
            TransformType::Signing => RdmaTransformId::Signing,
        });
        let transforms = transforms.collect();
        contexts.push(RdmaTransformCapabilities { transforms }.into());
    }
    let body = NegotiateRequest {
        security_mode: NegotiateSecurityMode::new()
            .with_signing_enabled(true)
            .with_signing_required(config.sign),
        capabilities: GlobalCapabilities::new()
            .with_leasing(true)
            .with_large_mtu(true)
            .with_multi_channel(true)
            .with_encryption(config.encryption_capability && !config.ciphers.is_empty()),
        client_guid: config.client_guid.into(),
        dialects: dialects.collect(),
        negotiate_context_list: config
            .dialects
            .contains(&Dialect::Smb311)
            .then_some(contexts),
    };
    let request = Request::encode(Command::NEGOTIATE, 0, "NEGOTIATE", &body)?;
    Ok(Request {
        credit_charge: 0,
        ..request
    })
}

pub(super) fn response(response: &Response, config: &Config) -> Result<Negotiated> {
    let body = response.checked(65)?;
    let fields = || {
        Some((
            u16_at(body, 4)?,
            Negotiated {
                signing_required: u16_at(body, 2)? & 2 != 0,
                server_guid: array_at(body, 8)?,
                capabilities: u32_at(body, 24)?,
                max_transact_size: u32_at(body, 28)?,
                max_read_size: u32_at(body, 32)?,
                max_write_size: u32_at(body, 36)?,
                ..Negotiated::none()
            },
        ))
    };
    let (dialect, mut negotiated) =
        fields().ok_or_else(|| response.malformed("it is too short"))?;
    negotiated.dialect = Dialect::of_number(dialect)
        .filter(|dialect| config.dialects.contains(dialect))
        .ok_or(Error::Dialect(dialect))?;
    if negotiated.dialect == Dialect::Smb311 {
        contexts(response, config, &mut negotiated)?;
    } else if negotiated.capabilities & Negotiated::ENCRYPTION != 0 {
        negotiated.cipher = Some(CipherAlgorithm::Aes128Ccm);
    }
    Ok(negotiated)
}

/// Parses the contexts of SMB 3.1.1 ([MS-SMB2] 2.2.4.1).
fn contexts(response: &Response, config: &Config, negotiated: &mut Negotiated) -> Result<()> {
    let malformed = || response.malformed("a negotiate context is malformed");
    let body = response.body();
    let mut at = u32_at(body, 60).ok_or_else(malformed)? as usize;
    for _ in 0..u16_at(body, 6).ok_or_else(malformed)? {
        let message = &response.message;
        let kind = u16_at(message, at).ok_or_else(malformed)?;
        let length = usize::from(u16_at(message, at + 2).ok_or_else(malformed)?);
        let data = slice_at(message, at + 8, length).ok_or_else(malformed)?;
        match kind {
            // The context has one cipher; 0 means none.
            2 => {
                let cipher = u16_at(data, 2).ok_or_else(malformed)?;
                negotiated.cipher = CipherAlgorithm::of_number(cipher);
            }
            // The ids begin at byte 8; 0 means none ([MS-SMB2] 3.2.5.2).
            7 => {
                for n in 0..usize::from(u16_at(data, 0).ok_or_else(malformed)?) {
                    let id = u16_at(data, 8 + 2 * n).ok_or_else(malformed)?;
                    match TransformType::of_number(id) {
                        Some(transform) if config.transforms.contains(&transform) => {
                            negotiated.transforms.push(transform);
                        }
                        None if id == 0 => {}
                        _ => {
                            return Err(
                                response.malformed("it has an RDMA transform that was not offered")
                            );
                        }
                    }
                }
            }
            8 => {
                let signing = u16_at(data, 2).and_then(SigningAlgorithm::of_number);
                negotiated.signing = signing.ok_or_else(malformed)?;
            }
            _ => {}
        }
        at = (at + 8 + length).next_multiple_of(8);
    }
    Ok(())
}
