// SPDX-License-Identifier: GPL-2.0-or-later

//! Identifies the socket to which an event of the poll belongs, by one number for the keys of all three maps.

use mio::Token;
use slotmap::{Key, KeyData};

use super::linger::LingerId;
use crate::fabric::{ConnId, ListenerId};

/// Slot numbers of the three maps stay below these bits, because memory would run out first.
const LISTENER_BIT: u64 = 1 << 31;
const LINGER_BIT: u64 = 1 << 30;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a mio Token must hold a 64-bit key");

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    Listener(ListenerId),
    Linger(LingerId),
    Conn(ConnId),
}

impl Target {
    pub(super) fn token(&self) -> Token {
        Token(match self {
            Self::Listener(id) => id.data().as_ffi() | LISTENER_BIT,
            Self::Linger(id) => id.data().as_ffi() | LINGER_BIT,
            Self::Conn(id) => id.data().as_ffi(),
        } as usize)
    }

    pub(super) fn of(token: Token) -> Self {
        let data = token.0 as u64;
        let key = KeyData::from_ffi(data & !(LISTENER_BIT | LINGER_BIT));
        match data {
            data if data & LISTENER_BIT != 0 => Self::Listener(key.into()),
            data if data & LINGER_BIT != 0 => Self::Linger(key.into()),
            _ => Self::Conn(key.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_maps_apart() {
        let key = KeyData::from_ffi(0x1234_5679_0000_0007);
        for target in [
            Target::Listener(key.into()),
            Target::Linger(key.into()),
            Target::Conn(key.into()),
        ] {
            assert_eq!(Target::of(target.token()), target);
        }
    }
}
