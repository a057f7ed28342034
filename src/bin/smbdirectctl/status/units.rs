// SPDX-License-Identifier: GPL-2.0-or-later

//! Quantities as people read them, in few columns.

use std::fmt::{self, Display};

use super::super::utc::Utc;

/// Bits per second.
pub(super) struct Speed(pub(super) u64);

impl Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 as f64 / 1e6 {
            mega if mega >= 1e6 => write!(f, "{} Tbit/s", mega / 1e6),
            mega if mega >= 1e3 => write!(f, "{} Gbit/s", mega / 1e3),
            mega => write!(f, "{mega} Mbit/s"),
        }
    }
}

/// Bytes in at most 8 columns.
pub(crate) struct Bytes(pub(crate) u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for larger in ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
            // Rounded, it would have four digits before the unit.
            if value < 999.5 {
                break;
            }
            (value, unit) = (value / 1024.0, larger);
        }
        let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
        f.pad(&format!("{value:.digits$} {unit}"))
    }
}

/// A time in seconds, in at most 7 columns.
pub(crate) struct Age(pub(crate) f64);

impl Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            s if s < 9.95 => format!("{s:.1} s"),
            s if s < 120.0 => format!("{s:.0} s"),
            s if s < 7200.0 => format!("{:.0} min", s / 60.0),
            s if s < 172_800.0 => format!("{:.0} h", s / 3600.0),
            s => format!("{:.0} d", s / 86_400.0),
        };
        f.pad(&text)
    }
}

impl Utc {
    /// Returns the time without a fraction of a second.
    pub(crate) fn to_the_second(&self) -> String {
        let text = Self(self.0.floor()).to_string();
        text.replace(".000Z", "Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_few_columns() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 KiB"),
            (1023 << 10, "1.0 MiB"),
            (102_297, "99.9 KiB"),
            (102_400, "100 KiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
        for (seconds, text) in [
            (0.0, "0.0 s"),
            (9.96, "10 s"),
            (119.0, "119 s"),
            (120.0, "2 min"),
            (7200.0, "2 h"),
            (31_536_000.0, "365 d"),
        ] {
            assert_eq!(Age(seconds).to_string(), text);
        }
    }

    #[test]
    fn times_may_lack_fractions_of_seconds() {
        let short = Utc(951_827_696.999_9).to_the_second();
        assert_eq!(short, "2000-02-29T12:34:56Z");
    }
}
