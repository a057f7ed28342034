// SPDX-License-Identifier: GPL-2.0-or-later

//! Interprets bytes as a list of decisions.

use core::time::Duration;

/// Takes numbers from the front of the input. After its end, all numbers are zero.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else {
            return 0;
        };
        self.rest = rest;
        *first
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// Takes up to `length` bytes.
    pub(crate) fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// Takes a time from zero to two and a half minutes, often a short one.
    pub(crate) fn duration(&mut self) -> Duration {
        let number = u64::from(self.u8());
        match number >> 6 {
            0 => Duration::from_nanos(number),
            1 => Duration::from_millis(number),
            2 => Duration::from_secs(number - 127),
            _ => Duration::from_secs((number - 191) * 2 + 20),
        }
    }
}
