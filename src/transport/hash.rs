// SPDX-License-Identifier: GPL-2.0-or-later

//! A hash function for numbers that no peer can choose.

use core::hash::Hasher;

/// Multiplies by an odd number with many bits set, so that the upper half depends on all of the key.
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
