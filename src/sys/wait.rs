// SPDX-License-Identifier: GPL-2.0-or-later

//! Lets a thread sleep until a file descriptor is readable.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

/// Waits until `fd` is readable, a signal arrives or `timeout` has passed; `None` means no limit.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let time = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: `poll` is one entry, `time` is null or points to a value that outlives the call, and
    // the signal mask may be null.
    let result = unsafe { libc::ppoll(&mut poll, 1, time, std::ptr::null()) };
    if result >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    #[test]
    fn wakes_for_bytes_or_at_the_end_of_the_time() {
        let (a, mut b) = UnixStream::pair().unwrap();
        let start = Instant::now();
        wait_readable(a.as_fd(), Some(Duration::from_millis(20))).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
        b.write_all(b"x").unwrap();
        wait_readable(a.as_fd(), None).unwrap();
    }
}
