// SPDX-License-Identifier: GPL-2.0-or-later

//! [`OsError`]: an error of the system on which, or in which, this code runs.

use core::fmt;

/// An error of the system: an `errno` value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OsError(pub i32);

impl fmt::Display for OsError {
    #[cfg(feature = "std")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }

    #[cfg(not(feature = "std"))]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "os error {}", self.0)
    }
}

impl core::error::Error for OsError {}

#[cfg(feature = "std")]
impl From<std::io::Error> for OsError {
    /// Converts an error; one that does not come from the system becomes `EIO`.
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}
