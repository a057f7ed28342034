// SPDX-License-Identifier: GPL-2.0-or-later

//! What can go wrong, with causes and cures.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::{Command, NtStatus};
use smbdirect::fabric::FabricError;
use smbdirect::transport::{CloseReason, SendError};

/// Why a call of the client failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// TCP could not connect.
    #[error("cannot connect to {address} over TCP: {source}; is an SMB server there?")]
    Connect {
        /// The server's address.
        address: SocketAddr,
        /// As the operating system reported it.
        source: io::Error,
    },
    /// SMB Direct could not connect.
    #[error(
        "cannot connect to {address} over SMB Direct: {reason}; is an SMB Direct server (smbdirectd) there?"
    )]
    ConnectSmbDirect {
        /// The server's address.
        address: SocketAddr,
        /// The transport's reason.
        reason: String,
    },
    /// The connection ended.
    #[error("the connection ended: {0}")]
    Closed(String),
    /// The server did not answer.
    #[error("the server did not answer within {0:?} ({1}): the server or the network hangs")]
    TimedOut(Duration, &'static str),
    /// The operating system failed.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The fabric failed.
    #[error("the RDMA fabric: {0}")]
    Fabric(#[from] FabricError),
    /// The transport refused a message.
    #[error("a message of {length} bytes cannot be sent over SMB Direct: {reason}")]
    Send {
        /// Bytes of the message.
        length: usize,
        /// Why the transport refused it.
        reason: SendError,
    },
    /// Memory can be registered only on SMB Direct connections.
    #[error(
        "this connection is TCP: direct placement (--channel 1 or 2) needs --transport smbdirect"
    )]
    NoRdma,
    /// The server refused the request.
    #[error("{command}: {status}{}", hint(*status))]
    Status {
        /// The request's command.
        command: Command,
        /// The status of the response.
        status: NtStatus,
    },
    /// The server broke the protocol.
    #[error("the server's {0} breaks the protocol: {1}")]
    Malformed(&'static str, &'static str),
    /// The server chose a dialect that was not offered.
    #[error("the server chose dialect {0:#06x}, which was not offered")]
    Dialect(u16),
    /// The signature of a response is wrong, or missing.
    #[error("the signature of the response to {0} is {1}: the keys differ, or it was altered")]
    Signature(Command, &'static str),
    /// A message cannot be decrypted.
    #[error("a message from the server cannot be decrypted: the keys differ, or it was altered")]
    Decrypt,
    /// Encryption is needed, but the two sides have no cipher in common.
    #[error("the server offers no encryption that this client knows (AES-CCM, AES-GCM)")]
    NoCipher,
    /// The session has no keys: there is no login, or only one as a guest.
    #[error("{0} needs a session with keys: log in first, and not as a guest")]
    NoSession(&'static str),
    /// The server's NTLM challenge could not be parsed.
    #[error("NTLM: {0}; this client knows only user and password (NTLMv2), not Kerberos")]
    Ntlm(String),
    /// The server granted too few credits.
    #[error(
        "the server granted {granted} credits, and the request takes {charge}: use a smaller size"
    )]
    Credits {
        /// The credits that this side holds.
        granted: u32,
        /// The credits that the request needs.
        charge: u32,
    },
    /// The server sent more breaks than this client keeps.
    #[error(
        "the server sent more than {0} oplock or lease breaks, although hardly anything is open: the server is \
         broken or hostile"
    )]
    TooManyBreaks(usize),
    /// A request could not be encoded.
    #[error("cannot encode {0}: {1}")]
    Encode(&'static str, String),
}

fn hint(status: NtStatus) -> String {
    match status.cure() {
        "" => String::new(),
        cure => format!(": {cure}"),
    }
}

impl Error {
    /// Returns the status with which the server refused a request.
    #[must_use]
    pub const fn status(&self) -> Option<NtStatus> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub(super) fn closed(reason: &CloseReason) -> Self {
        Self::Closed(reason.to_string())
    }
}

/// The result of the client's calls.
pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_says_what_to_check() {
        let error = Error::Status {
            command: Command::SESSION_SETUP,
            status: NtStatus::LOGON_FAILURE,
        };
        let text = error.to_string();
        assert!(
            text.starts_with("SESSION_SETUP: STATUS_LOGON_FAILURE: check user"),
            "{text}"
        );
        assert_eq!(error.status(), Some(NtStatus::LOGON_FAILURE));
    }
}
