// SPDX-License-Identifier: GPL-2.0-or-later

//! Sizes, times and speeds as people write them: `64 MiB`, `50 us`, `25 Gbit/s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A size in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64);

/// A size in bytes that is counted in 32 bits, less than 4 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Size", into = "Size")]
pub(super) struct Length(pub(super) u32);

/// A time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

/// A speed in bits per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Speed(pub(super) u64);

/// Units with their bytes, the largest first.
const SIZES: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Units with their nanoseconds, the largest first.
const TIMES: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("min", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Units with their bits per second, the largest first.
const SPEEDS: [(&str, u64); 5] = [
    ("Tbit/s", 1_000_000_000_000),
    ("Gbit/s", 1_000_000_000),
    ("Mbit/s", 1_000_000),
    ("kbit/s", 1_000),
    ("bit/s", 1),
];

/// An error: the text is not a size, a time or a speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoQuantity {
    /// The text is not a size.
    #[error("a size is a whole number with a unit (B, KiB, MiB, GiB or TiB): \"64 MiB\"")]
    Size,
    /// The size is 4 GiB or more.
    #[error("this size must be less than 4 GiB")]
    Length,
    /// The text is not a time.
    #[error("a time is a whole number with a unit (ns, us, ms, s, min or h): \"50 us\"")]
    Time,
    /// The text is not a speed.
    #[error(
        "a speed is a whole number with a unit (bit/s, kbit/s, Mbit/s, Gbit/s or Tbit/s): \"25 Gbit/s\""
    )]
    Speed,
}

/// Parses a whole number and a unit, with or without a space between the two.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// Writes a number in the largest unit that leaves it whole.
fn write(
    f: &mut fmt::Formatter<'_>,
    value: u64,
    units: &[(&str, u64)],
    of_zero: &str,
) -> fmt::Result {
    let fitting = units.iter().find(|(_, factor)| value % factor == 0);
    match fitting {
        Some((unit, factor)) if value > 0 => write!(f, "{} {unit}", value / factor),
        _ => write!(f, "{value} {of_zero}"),
    }
}

impl FromStr for Size {
    type Err = NoQuantity;

    fn from_str(text: &str) -> Result<Self, NoQuantity> {
        parse(text, &SIZES).map(Self).ok_or(NoQuantity::Size)
    }
}

impl FromStr for Time {
    type Err = NoQuantity;

    fn from_str(text: &str) -> Result<Self, NoQuantity> {
        let nanoseconds = parse(text, &TIMES).ok_or(NoQuantity::Time)?;
        Ok(Self(Duration::from_nanos(nanoseconds)))
    }
}

impl FromStr for Speed {
    type Err = NoQuantity;

    fn from_str(text: &str) -> Result<Self, NoQuantity> {
        parse(text, &SPEEDS).map(Self).ok_or(NoQuantity::Speed)
    }
}

impl TryFrom<String> for Speed {
    type Error = NoQuantity;

    fn try_from(text: String) -> Result<Self, NoQuantity> {
        text.parse()
    }
}

impl From<Speed> for String {
    fn from(speed: Speed) -> Self {
        speed.to_string()
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &SPEEDS, "bit/s")
    }
}

impl TryFrom<Size> for Length {
    type Error = NoQuantity;

    fn try_from(size: Size) -> Result<Self, NoQuantity> {
        u32::try_from(size.0)
            .map(Self)
            .map_err(|_| NoQuantity::Length)
    }
}

impl From<Length> for Size {
    fn from(length: Length) -> Self {
        Self(length.0.into())
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(f, self.0, &SIZES, "B")
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // More than 584 years is shown as 584 years.
        let nanoseconds = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        write(f, nanoseconds, &TIMES, "s")
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, or a size such as \"64 MiB\"")
            }

            fn visit_i64<E: Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes)
                    .map(Size)
                    .map_err(|_| E::custom(NoQuantity::Size))
            }

            fn visit_u64<E: Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TimeVisitor;

        impl Visitor<'_> for TimeVisitor {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time with its unit, such as \"50 us\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(TimeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_the_same() {
        for (text, bytes) in [
            ("0 B", 0),
            ("1 B", 1),
            ("1364 B", 1364),
            ("8 KiB", 8192),
            ("64 MiB", 64 << 20),
            ("3 GiB", 3 << 30),
            ("2 TiB", 2 << 40),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!("64MiB".parse(), Ok(Size(64 << 20)));
        for bad in [
            "",
            "64",
            "MiB",
            "-1 B",
            "1.5 MiB",
            "64 MB",
            "64 mib",
            "64 MiB ",
            "16777216 TiB",
        ] {
            assert_eq!(bad.parse::<Size>(), Err(NoQuantity::Size), "{bad}");
        }
    }

    #[test]
    fn times_are_read_and_written_the_same() {
        for (text, nanoseconds) in [
            ("0 s", 0),
            ("1 ns", 1),
            ("50 us", 50_000),
            ("20 ms", 20_000_000),
            ("90 s", 90_000_000_000),
            ("2 min", 120_000_000_000),
            ("1 h", 3_600_000_000_000),
        ] {
            let time = Time(Duration::from_nanos(nanoseconds));
            assert_eq!(text.parse(), Ok(time));
            assert_eq!(time.to_string(), text);
        }
        for bad in ["", "5", "s", "5 sec", "5 m", "0.5 s", "99999999999 s"] {
            assert_eq!(bad.parse::<Time>(), Err(NoQuantity::Time), "{bad}");
        }
    }

    #[test]
    fn speeds_are_read_and_written_the_same() {
        for (text, bits) in [
            ("0 bit/s", 0),
            ("9600 bit/s", 9600),
            ("56 kbit/s", 56_000),
            ("2500 Mbit/s", 2_500_000_000),
            ("25 Gbit/s", 25_000_000_000),
            ("1 Tbit/s", 1_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Speed(bits)));
            assert_eq!(Speed(bits).to_string(), text);
        }
        for bad in [
            "",
            "10",
            "Gbit/s",
            "10 Gb/s",
            "10 gbit/s",
            "2.5 Gbit/s",
            "20000000 Tbit/s",
        ] {
            assert_eq!(bad.parse::<Speed>(), Err(NoQuantity::Speed), "{bad}");
        }
    }
}
