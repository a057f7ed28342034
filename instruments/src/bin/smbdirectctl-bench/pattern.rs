// SPDX-License-Identifier: GPL-2.0-or-later

//! Generates and checks file data in which every eight bytes say where in the file they belong.

use instruments::client::Memory;

/// Odd, so that no two offsets have the same word.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
/// Bytes that are generated or compared at a time.
const CHUNK: usize = 16 * 1024;

/// The pattern of one run: data that an earlier run left in a file does not match it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pattern {
    seed: u64,
}

/// The first byte that differs from the pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mismatch {
    /// Its distance in bytes from the start of the comparison.
    pub(crate) at: usize,
    /// Where in the file the eight bytes around it belong, if they are of this pattern.
    pub(crate) belongs_to: Option<u64>,
}

impl Pattern {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed }
    }

    const fn word(self, offset: u64) -> [u8; 8] {
        ((offset / 8).wrapping_mul(FACTOR) ^ self.seed).to_le_bytes()
    }

    /// Fills `bytes` with the pattern for `offset` of the file.
    pub(crate) fn fill(self, bytes: &mut [u8], offset: u64) {
        let (first, rest) = bytes.split_at_mut(until_word(offset).min(bytes.len()));
        first.copy_from_slice(&self.word(offset)[(offset % 8) as usize..][..first.len()]);
        let offset = offset + first.len() as u64;
        for (at, word) in (offset..).step_by(8).zip(rest.chunks_mut(8)) {
            let bytes = self.word(at);
            word.copy_from_slice(bytes.split_at(word.len()).0);
        }
    }

    /// Does the same as `fill`, in registered memory.
    pub(crate) fn fill_memory(self, memory: &Memory, length: usize, offset: u64) {
        let mut chunk = vec![0; CHUNK.min(length)];
        for start in (0..length).step_by(CHUNK) {
            let part = chunk.split_at_mut(CHUNK.min(length - start)).0;
            self.fill(part, offset + start as u64);
            // In range: the caller's length is at most the memory's.
            let _ = memory.write(start, part);
        }
    }

    /// Finds the first mismatch in `bytes`, which came from `offset` of the file.
    pub(crate) fn check(self, bytes: &[u8], offset: u64) -> Result<(), Mismatch> {
        let (first, rest) = bytes.split_at(until_word(offset).min(bytes.len()));
        let expected = &self.word(offset)[(offset % 8) as usize..];
        if let Some(at) = first.iter().zip(expected).position(|(a, b)| a != b) {
            let belongs_to = None;
            return Err(Mismatch { at, belongs_to });
        }
        for (at, word) in (first.len()..).step_by(8).zip(rest.chunks(8)) {
            let expected = self.word(offset + at as u64);
            let differs = word.iter().zip(expected).position(|(a, b)| *a != b);
            if let Some(byte) = differs {
                return Err(Mismatch {
                    at: at + byte,
                    belongs_to: self.place(word),
                });
            }
        }
        Ok(())
    }

    /// Does the same as `check`, in registered memory.
    pub(crate) fn check_memory(
        self,
        memory: &Memory,
        length: usize,
        offset: u64,
    ) -> Result<(), Mismatch> {
        let mut chunk = vec![0; CHUNK.min(length)];
        for start in (0..length).step_by(CHUNK) {
            let part = chunk.split_at_mut(CHUNK.min(length - start)).0;
            // In range, as in `fill_memory`. Bytes that cannot be read stay unchanged, and so they differ.
            let _ = memory.read(start, part);
            self.check(part, offset + start as u64)
                .map_err(|mismatch| Mismatch {
                    at: start + mismatch.at,
                    ..mismatch
                })?;
        }
        Ok(())
    }

    /// Returns the offset at which a word of this pattern belongs, in a file of less than 2^48 bytes.
    fn place(self, word: &[u8]) -> Option<u64> {
        // Computes the factor's inverse modulo 2^64 by Newton's method: each step doubles the number of right bits.
        let inverse = (0..6).fold(FACTOR, |inverse, _| {
            inverse.wrapping_mul(2_u64.wrapping_sub(FACTOR.wrapping_mul(inverse)))
        });
        let word = u64::from_le_bytes(word.try_into().ok()?) ^ self.seed;
        let place = word.wrapping_mul(inverse);
        (place < 1 << 45).then(|| place * 8)
    }
}

/// Returns the number of bytes from an offset to the next word.
const fn until_word(offset: u64) -> usize {
    (offset.wrapping_neg() % 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_matches_only_at_its_own_offset_and_in_its_own_run() {
        let pattern = Pattern::new(77);
        let mut bytes = vec![0; 100];
        pattern.fill(&mut bytes, 4096);
        assert_eq!(pattern.check(&bytes, 4096), Ok(()));
        let elsewhere = pattern.check(&bytes, 8192).expect_err("at another offset");
        assert_eq!(elsewhere.belongs_to, Some(4096));
        let another = Pattern::new(78);
        assert!(another.check(&bytes, 4096).is_err(), "data of another run");
    }

    #[test]
    fn data_may_begin_and_end_anywhere() {
        let pattern = Pattern::new(77);
        let mut whole = vec![0; 100];
        pattern.fill(&mut whole, 4096);
        for (start, end) in [(0, 1), (1, 2), (3, 8), (3, 9), (7, 100), (8, 99), (13, 13)] {
            let mut part = vec![0; end - start];
            let offset = 4096 + start as u64;
            pattern.fill(&mut part, offset);
            assert_eq!(part, whole[start..end], "{start}..{end}");
            assert_eq!(pattern.check(&part, offset), Ok(()));
            for at in 0..part.len() {
                part[at] ^= 1;
                let found = pattern.check(&part, offset).expect_err("a wrong byte");
                assert_eq!(found.at, at, "{start}..{end}");
                part[at] ^= 1;
            }
        }
    }

    #[test]
    fn a_single_wrong_byte_is_found() {
        let pattern = Pattern::new(1);
        for at in [0, 1, 7, 8, 50, 99] {
            let mut bytes = vec![0; 100];
            pattern.fill(&mut bytes, 0);
            bytes[at] ^= 0x40;
            let mismatch = pattern.check(&bytes, 0).expect_err("wrong");
            assert_eq!(mismatch.at, at);
        }
    }

    #[test]
    fn swapped_pieces_say_where_they_belong() {
        let pattern = Pattern::new(5);
        let memory = Memory::zeroed(3 * CHUNK);
        pattern.fill_memory(&memory, 3 * CHUNK, 0);
        assert_eq!(pattern.check_memory(&memory, 3 * CHUNK, 0), Ok(()));
        let mut piece = vec![0; CHUNK];
        pattern.fill(&mut piece, 0);
        memory.write(CHUNK, &piece).expect("in range");
        let mismatch = pattern
            .check_memory(&memory, 3 * CHUNK, 0)
            .expect_err("swapped");
        // Two different words may have a byte in common.
        assert_eq!((mismatch.at / 8 * 8, mismatch.belongs_to), (CHUNK, Some(0)));
    }
}
