// SPDX-License-Identifier: GPL-2.0-or-later

//! How a connection behaves.

use std::time::Duration;

use super::{CipherAlgorithm, Dialect, SigningAlgorithm, TransformType};
use smbdirect::fabric::FabricKind;
use smbdirect::proto;

/// How a connection behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// The dialects to offer.
    pub dialects: Vec<Dialect>,
    /// Ciphers offered for SMB 3.1.1, the best first.
    pub ciphers: Vec<CipherAlgorithm>,
    /// Sets `SMB2_GLOBAL_CAP_ENCRYPTION` if there are ciphers, as SMB 3.0 and 3.0.2 need it. SMB 3.1.1 does not.
    pub encryption_capability: bool,
    /// Signing algorithms offered for SMB 3.1.1, the best first; empty means AES-CMAC.
    pub signing: Vec<SigningAlgorithm>,
    /// RDMA transforms offered for SMB 3.1.1. If empty, signed or encrypted data does not go by RDMA.
    pub transforms: Vec<TransformType>,
    /// The client's GUID, the same on all of its connections: a device uses it to find the session's process.
    pub client_guid: [u8; 16],
    /// Signs everything, even if the server does not require it.
    pub sign: bool,
    /// Encrypts everything, even if the server does not require it.
    pub seal: bool,
    /// Credits to ask for and hold.
    pub credits: u16,
    /// How long the server may take to answer.
    pub timeout: Duration,
    /// The fabric that carries SMB Direct; `None`: an RDMA device if one reaches the server, otherwise software.
    pub fabric: Option<FabricKind>,
    /// What this side offers in the SMB Direct negotiation.
    pub smb_direct: proto::Config,
}

impl Config {
    /// Offers all dialects, ciphers, algorithms and RDMA transforms; signs or encrypts as the server requires; asks for
    /// 1,024 credits; waits 30 s; allows messages of up to 8 MiB and 64 KiB over SMB Direct.
    #[must_use]
    pub fn new(client_guid: [u8; 16]) -> Self {
        Self {
            dialects: vec![Dialect::Smb300, Dialect::Smb302, Dialect::Smb311],
            ciphers: vec![
                CipherAlgorithm::Aes128Gcm,
                CipherAlgorithm::Aes128Ccm,
                CipherAlgorithm::Aes256Gcm,
                CipherAlgorithm::Aes256Ccm,
            ],
            encryption_capability: true,
            signing: vec![SigningAlgorithm::AesGmac, SigningAlgorithm::AesCmac],
            transforms: vec![TransformType::Encryption, TransformType::Signing],
            client_guid,
            sign: false,
            seal: false,
            credits: 1024,
            timeout: Duration::from_secs(30),
            fabric: None,
            smb_direct: proto::Config {
                max_fragmented_size: (8 << 20) + (64 << 10),
                ..proto::Config::initiator_default()
            },
        }
    }
}
