// SPDX-License-Identifier: GPL-2.0-or-later

//! The quantities that all layers share, as types that cannot be confused.

#[cfg(feature = "broker")]
pub(crate) mod hex;

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

/// A number of SMB Direct credits: messages that one side may send, because the other has posted that many receives
/// ([MS-SMBD] 3.1.1.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Credits(pub u16);

impl Credits {
    /// No credits.
    pub const ZERO: Self = Self(0);

    /// Returns `self + other`, or `None` if the sum would exceed 65,535.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// Returns `self - other`, or `None` if `other` is larger.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// Returns `self - other`, or zero if `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Credits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The steering token of remotely accessible memory: the `Token` of a buffer descriptor ([MS-SMBD] 2.2.3.1), the rkey
/// of verbs, and the STag of iWARP, all of which are the same 32-bit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct RemoteToken(pub u32);

impl fmt::Display for RemoteToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#010x}", self.0)
    }
}

/// A moment of a monotonic clock, in nanoseconds since a start that the owner of the clock chose.
///
/// Nothing in this crate below `transport` reads a clock: time always comes in as an argument, so that a test can play
/// two hours of the protocol in a millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub struct Instant(u64);

impl Instant {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);

    /// Returns the moment `nanos` nanoseconds after the start of the clock.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Returns the nanoseconds since the start of the clock.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Adds a time; saturates at the end of the clock, 584 years after its start.
    fn add(self, time: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
}

impl Sub for Instant {
    type Output = Duration;

    /// Returns the same as [`Instant::saturating_since`].
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_since(earlier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_never_wrap() {
        assert_eq!(Credits(65_535).checked_add(Credits(1)), None);
        assert_eq!(Credits(1).checked_sub(Credits(2)), None);
        assert_eq!(Credits(1).saturating_sub(Credits(2)), Credits::ZERO);
    }

    #[test]
    fn time_saturates_instead_of_running_backwards() {
        let late = Instant::from_nanos(u64::MAX) + Duration::from_secs(1);
        assert_eq!(late.as_nanos(), u64::MAX);
        assert_eq!(Instant::ZERO - late, Duration::ZERO);
    }
}
