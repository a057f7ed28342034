// SPDX-License-Identifier: GPL-2.0-or-later

//! Counts the messages of a connection by how they were protected.

use std::sync::{Arc, Mutex, PoisonError};

/// The protocol id of an encrypted message ([MS-SMB2] 2.2.41).
const SEALED: [u8; 4] = *b"\xfdSMB";
/// The protocol id of a message in the clear ([MS-SMB2] 2.2.1).
const CLEAR: [u8; 4] = *b"\xfeSMB";
/// `SMB2_FLAGS_SIGNED`, in the first byte of the flags.
const SIGNED: u8 = 0x08;
/// The offset of the flags.
const FLAGS: usize = 16;
/// The offset of the status.
const STATUS: std::ops::Range<usize> = 8..12;
/// `STATUS_PENDING`: the response comes later, and this one has no signature ([MS-SMB2] 3.2.5.1.3).
const PENDING: [u8; 4] = [0x03, 0x01, 0, 0];

/// Numbers of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Messages {
    /// Encrypted.
    pub sealed: u64,
    /// Signed, but not encrypted.
    pub signed: u64,
    /// Unprotected messages that announce a later response.
    pub pending: u64,
    /// All other unprotected messages.
    pub plain: u64,
    /// The bytes of all of these messages.
    pub bytes: u64,
}

impl Messages {
    fn count(&mut self, message: &[u8]) {
        self.bytes += message.len() as u64;
        if message.starts_with(&SEALED) {
            self.sealed += 1;
        } else if message.starts_with(&CLEAR)
            && message.get(FLAGS).is_some_and(|flags| flags & SIGNED != 0)
        {
            self.signed += 1;
        } else if message.get(STATUS) == Some(&PENDING) {
            self.pending += 1;
        } else {
            self.plain += 1;
        }
    }
}

/// The numbers of messages that a connection carried in each direction.
#[derive(Clone, Debug, Default)]
pub struct Carried(Arc<Mutex<[Messages; 2]>>);

impl Carried {
    /// Returns the counts of messages to the server.
    #[must_use]
    pub fn sent(&self) -> Messages {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[0]
    }

    /// Returns the counts of messages from the server.
    #[must_use]
    pub fn received(&self) -> Messages {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[1]
    }

    pub(crate) fn count_sent(&self, message: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[0].count(message);
    }

    pub(crate) fn count_received(&self, message: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[1].count(message);
    }
}
