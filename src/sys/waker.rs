// SPDX-License-Identifier: GPL-2.0-or-later

//! A descriptor that shows when another one is ready, and wake-ups by its own process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll;

use super::EventFd;

/// A descriptor that is readable while another descriptor is, or after [`wake`](Self::wake).
///
/// A `Waker` is for a process that sleeps on one descriptor and may have its own reasons to wake
/// up.
#[derive(Debug)]
pub struct Waker {
    epoll: OwnedFd,
    bell: EventFd,
    awake: bool,
}

impl Waker {
    /// Watches `other` for as long as `other` is open.
    ///
    /// # Errors
    ///
    /// The system has no descriptors left, or `other` cannot be watched.
    pub fn new(other: BorrowedFd<'_>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = EventFd::new()?;
        for watched in [other, bell.as_fd()] {
            let nothing = epoll::EventData::new_u64(0);
            epoll::add(&epoll, watched, nothing, epoll::EventFlags::IN)?;
        }
        Ok(Self {
            epoll,
            bell,
            awake: false,
        })
    }

    /// Also makes the descriptor readable while `other`, the descriptor that [`new`](Self::new) got, is writable, or no
    /// longer does so.
    ///
    /// # Errors
    ///
    /// Fails only if `other` is closed.
    pub fn watch_writable(&self, other: BorrowedFd<'_>, wanted: bool) -> io::Result<()> {
        let mut events = epoll::EventFlags::IN;
        events.set(epoll::EventFlags::OUT, wanted);
        let nothing = epoll::EventData::new_u64(0);
        Ok(epoll::modify(&self.epoll, other, nothing, events)?)
    }

    /// Makes the descriptor readable.
    pub fn wake(&mut self) {
        if !self.awake {
            // No other process has this bell, so it cannot be full.
            self.awake = self.bell.ring().is_ok();
        }
    }

    /// Undoes [`wake`](Self::wake); makes no system call if there is nothing to undo.
    pub fn calm(&mut self) {
        if self.awake {
            self.awake = self.bell.drain().is_err();
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;
    use crate::sys::wait_readable;

    fn is_readable(waker: &Waker) -> bool {
        let mut fds = [PollFd::new(waker, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn is_readable_while_the_other_descriptor_is_or_after_wake() {
        let other = EventFd::new().unwrap();
        let mut waker = Waker::new(other.as_fd()).unwrap();
        assert!(!is_readable(&waker));
        other.ring().unwrap();
        wait_readable(waker.as_fd(), Some(Duration::from_secs(10))).unwrap();
        assert!(is_readable(&waker));
        other.drain().unwrap();
        assert!(!is_readable(&waker));
        waker.wake();
        waker.wake();
        assert!(is_readable(&waker));
        waker.calm();
        assert!(!is_readable(&waker));
        // An eventfd is writable.
        waker.watch_writable(other.as_fd(), true).unwrap();
        assert!(is_readable(&waker));
        waker.watch_writable(other.as_fd(), false).unwrap();
        assert!(!is_readable(&waker));
    }
}
