// SPDX-License-Identifier: GPL-2.0-or-later

//! Lets a thread wait for a transport.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use super::{MessageBuffers, Transport};
use crate::fabric::Waitable;
use crate::sys;
use crate::units::Instant;

impl<F: Waitable, B: MessageBuffers> Transport<F, B> {
    /// Returns a descriptor that is readable whenever `poll` has something to do that did not come from a call on this
    /// object; `None` if that cannot happen.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.fabric.event_fd()
    }

    /// Sleeps until `poll` has something to do, for at most `timeout`. Returns at once if nothing
    /// could ever wake it.
    pub fn wait(&self, now: Instant, timeout: Option<Duration>) -> io::Result<()> {
        let deadline = self.poll_timeout().map(|at| at.saturating_since(now));
        let time = [deadline, timeout].into_iter().flatten().min();
        match (self.event_fd(), time) {
            (_, Some(Duration::ZERO)) | (None, None) => {}
            (Some(fd), time) => sys::wait_readable(fd, time)?,
            (None, Some(time)) => std::thread::sleep(time),
        }
        Ok(())
    }
}
