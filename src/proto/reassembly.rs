// SPDX-License-Identifier: GPL-2.0-or-later

//! Reassembles upper-layer messages from fragments ([MS-SMBD] 3.1.5.8).
//!
//! This is only the arithmetic: the bytes belong to the owner. Each fragment has to continue exactly where the one
//! before it ended; if it does not, the connection ends. Some peers are known to be lax here, and without this check, a
//! message assembled from the wrong parts would reach the upper layer.

use super::error::ProtocolError;

/// The progress of the message in reassembly; all zero if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Reassembly {
    /// Number of bytes that have arrived.
    received: u32,
    /// Number of bytes still to come; 0 if no message is in reassembly.
    remaining: u32,
}

/// The place of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    /// The offset of the fragment's first byte in the upper-layer message.
    pub(super) offset: u32,
    /// Length of the whole message, in bytes.
    pub(super) total: u32,
}

impl Reassembly {
    /// Returns whether a message has begun and is not complete.
    pub(super) const fn is_incomplete(&self) -> bool {
        self.remaining != 0
    }

    /// Returns whether a message of at most `max_fragmented_size` bytes can be in this state.
    #[cfg(feature = "broker")]
    pub(super) fn is_sound(&self, max_fragmented_size: u32) -> bool {
        let total = self.received.checked_add(self.remaining);
        total.is_some_and(|total| total <= max_fragmented_size)
    }

    /// Takes a fragment of `data_length` bytes, after which, according to the peer, `remaining_data_length` bytes are
    /// to come; at least one of the two numbers is not 0. The whole message may have up to `max_fragmented_size` bytes.
    pub(super) fn take(
        &mut self,
        data_length: u32,
        remaining_data_length: u32,
        max_fragmented_size: u32,
    ) -> Result<Placed, ProtocolError> {
        let rest = data_length
            .checked_add(remaining_data_length)
            .filter(|&rest| rest <= max_fragmented_size)
            .ok_or(ProtocolError::FragmentedSizeExceeded)?;
        if self.remaining != 0 && rest != self.remaining {
            return Err(ProtocolError::RemainingMismatch);
        }
        let offset = self.received;
        // The sum is what the first fragment announced, so it cannot overflow.
        let total = offset.saturating_add(rest);
        self.remaining = remaining_data_length;
        self.received = if remaining_data_length == 0 {
            0
        } else {
            offset.saturating_add(data_length)
        };
        Ok(Placed { offset, total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 131_072;

    fn placed(offset: u32, total: u32) -> Result<Placed, ProtocolError> {
        Ok(Placed { offset, total })
    }

    #[test]
    fn puts_fragments_of_any_length_together() {
        let mut reassembly = Reassembly::default();
        for total in [1, 2, 3, 100, MAX] {
            assert_eq!(reassembly.take(1, total - 1, MAX), placed(0, total));
            if total > 2 {
                assert_eq!(reassembly.take(1, total - 2, MAX), placed(1, total));
                assert_eq!(reassembly.take(total - 2, 0, MAX), placed(2, total));
            } else if total == 2 {
                assert_eq!(reassembly.take(1, 0, MAX), placed(1, total));
            }
            assert_eq!(reassembly, Reassembly::default());
        }
    }

    #[test]
    fn fragments_without_bytes_begin_and_continue_a_message() {
        let mut reassembly = Reassembly::default();
        for (length, remaining, offset) in [
            (0, 100, 0),
            (0, 100, 0),
            (60, 40, 0),
            (0, 40, 60),
            (40, 0, 60),
        ] {
            assert_eq!(reassembly.take(length, remaining, MAX), placed(offset, 100));
        }
        assert_eq!(reassembly, Reassembly::default());
    }

    #[test]
    fn refuses_a_message_larger_than_agreed() {
        for (length, remaining) in [
            (0, MAX + 1),
            (0, u32::MAX),
            (1, MAX),
            (MAX, 1),
            (MAX + 1, 0),
            (1, u32::MAX),
            (u32::MAX, 1),
        ] {
            let result = Reassembly::default().take(length, remaining, MAX);
            assert_eq!(result, Err(ProtocolError::FragmentedSizeExceeded));
        }
    }

    #[test]
    fn refuses_a_fragment_that_does_not_continue_the_message() {
        // [MS-SMBD] 3.1.5.8: the message ends too early or too late, or the fragment begins another one.
        for (length, remaining) in [
            (10, 0),
            (10, 79),
            (10, 81),
            (10, 90),
            (100, 0),
            (5, 1000),
            (0, 89),
            (0, 91),
        ] {
            let mut reassembly = Reassembly::default();
            assert_eq!(reassembly.take(10, 90, MAX), placed(0, 100));
            let result = reassembly.take(length, remaining, MAX);
            assert_eq!(result, Err(ProtocolError::RemainingMismatch));
        }
    }
}
