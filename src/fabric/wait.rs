// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Waitable`]: fabrics that a thread can wait for.

use std::io;
use std::os::fd::BorrowedFd;

use super::{Fabric, FabricError};

/// A [`Fabric`] whose owner is a thread that sleeps while there is nothing to do. A kernel waits in other ways.
pub trait Waitable: Fabric {
    /// Returns a descriptor that is readable whenever `poll` has something to do that did not come from a call on this
    /// object; `None` if that cannot happen.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// Returns the error for something that cannot be done, with everything that is known about the reason.
pub(super) fn failed(context: &str, source: io::Error) -> FabricError {
    match source.raw_os_error() {
        Some(_) => FabricError::Os {
            context: context.to_owned(),
            source: source.into(),
        },
        None => FabricError::Library(format!("{context}: {source}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_reason_of_the_loader_or_of_the_system() {
        let missing = io::Error::new(io::ErrorKind::NotFound, "libibverbs.so.1: not there");
        for (error, text) in [
            (missing, "cannot load it: libibverbs.so.1: not there"),
            (
                io::Error::from_raw_os_error(13),
                "cannot load it: Permission denied (os error 13)",
            ),
        ] {
            assert_eq!(failed("load it", error).to_string(), text);
        }
    }
}
