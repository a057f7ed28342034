// SPDX-License-Identifier: GPL-2.0-or-later

//! Quantities as people read them, in few columns.

use std::fmt::{self, Display};

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

/// A time in seconds since 1970, which is shown in the form of RFC 3339.
pub(crate) struct Utc(pub(crate) f64);

impl Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = (self.0 * 1e3).round().max(0.0) as u64;
        let (seconds, milliseconds) = (milliseconds / 1000, milliseconds % 1000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z"
        )
    }
}

impl Utc {
    /// Returns the time without a fraction of a second.
    pub(crate) fn to_the_second(&self) -> String {
        let text = Self(self.0.floor()).to_string();
        text.replace(".000Z", "Z")
    }
}

/// Returns the year, month and day of the day with this number, counted from 1 January 1970. The function counts years
/// from March, so that the leap day is the last day of a year, and days in eras of 400 years, which all have the same
/// length.
const fn date(days: u64) -> (u64, u64, u64) {
    // 719,468 days lie between 1 March of the year 0 and 1 January 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Of each five months from March on, three have 31 days, so the five have 153.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (year + era * 400 + next, month, day)
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
    fn times_are_dates() {
        for (seconds, text) in [
            (0.0, "1970-01-01T00:00:00.000Z"),
            (951_827_696.5, "2000-02-29T12:34:56.500Z"),
            (1_709_251_199.999_9, "2024-03-01T00:00:00.000Z"),
            (1_709_164_800.0, "2024-02-29T00:00:00.000Z"),
            (1_767_225_599.0, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400.0, "2100-03-01T00:00:00.000Z"),
            (-5.0, "1970-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(Utc(seconds).to_string(), text);
        }
        let short = Utc(951_827_696.999_9).to_the_second();
        assert_eq!(short, "2000-02-29T12:34:56Z");
    }
}
