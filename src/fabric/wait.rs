//! [`Waitable`]: fabrics that a thread can wait for.

use std::os::fd::BorrowedFd;

use super::Fabric;

/// A [`Fabric`] whose owner is a thread that sleeps while there is nothing to do. A kernel has its own ways.
pub trait Waitable: Fabric {
    /// Readable whenever `poll` has something to do that did not come from a call on this object.
    /// `None` if that cannot happen.
    fn event_fd(&self) -> Option<BorrowedFd<'_>>;
}
