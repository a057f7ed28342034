//! The connections of a transport by their number.
//!
//! A map with a hash of its own, because both alternatives are wrong or slow. A table by the place
//! of a [`ConnId`] has room for one connection in each, and a fabric gives a place away again as
//! soon as it is done with a connection, which may be before its owner was told: the old one would
//! vanish without an event. The standard hash withstands those who choose their keys, which costs
//! more than the rest of a look-up, and there are several for each message; nobody chooses a
//! [`ConnId`].

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::connection::Connection;
use crate::fabric::ConnId;

pub(super) type Table<Buffer> =
    HashMap<ConnId, Box<Connection<Buffer>>, BuildHasherDefault<PlainHasher>>;

/// Multiplies by an odd number with many bits, so that the upper half depends on all of the key.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PlainHasher(u64);

impl Hasher for PlainHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    #[inline]
    fn write_u64(&mut self, key: u64) {
        self.0 = (self.0 ^ key)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(32);
    }
}
