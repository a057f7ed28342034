// SPDX-License-Identifier: GPL-2.0-or-later

//! The doorbell of one process: a descriptor that is readable after it was rung.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::io::Errno;

/// A counter in the kernel that wakes every thread that polls it (`eventfd(2)`), non-blocking.
///
/// Every process that holds it can also clear `O_NONBLOCK`, which belongs to the open file that all holders share, and
/// can drive the counter to its limit; [`ring`](Self::ring) would then wait for ever. So it is for threads, and for
/// processes that trust each other with their time. Others use [`Bell`](super::Bell).
#[derive(Debug)]
pub struct EventFd(OwnedFd);

impl EventFd {
    /// Makes a doorbell that has not been rung.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self(rustix::event::eventfd(0, flags)?))
    }

    /// Returns a second descriptor of the same doorbell, which may go to another process.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    /// Makes the doorbell readable. Two rings before it is drained count as one.
    pub fn ring(&self) -> io::Result<()> {
        match rustix::io::write(&self.0, &1u64.to_ne_bytes()) {
            // A counter at its limit is already readable.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the doorbell unreadable again; returns whether it had been rung.
    ///
    /// Drain first, and look afterwards at the things for which the bell rang: in the other order, a ring for something
    /// newer may be drained unseen.
    pub fn drain(&self) -> io::Result<bool> {
        match rustix::io::read(&self.0, &mut [0; 8]) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<OwnedFd> for EventFd {
    /// Makes a doorbell from a descriptor that another process sent, which is trusted to have sent a doorbell.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for EventFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::sys::wait_readable;

    #[test]
    fn is_readable_from_the_first_ring_to_the_next_drain() {
        let bell = EventFd::new().unwrap();
        assert!(!bell.drain().unwrap());
        bell.ring().unwrap();
        bell.try_clone().unwrap().ring().unwrap();
        wait_readable(bell.as_fd(), None).unwrap();
        assert!(bell.drain().unwrap());
        assert!(!bell.drain().unwrap());
        let start = Instant::now();
        wait_readable(bell.as_fd(), Some(Duration::from_millis(10))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(10));
    }

    #[test]
    fn rings_at_the_limit_of_the_counter() {
        let bell = EventFd::new().unwrap();
        rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.ring().unwrap();
        assert!(bell.drain().unwrap());
    }

    #[test]
    fn is_closed_in_programs_that_this_process_starts() {
        let flags = rustix::io::fcntl_getfd(EventFd::new().unwrap()).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
