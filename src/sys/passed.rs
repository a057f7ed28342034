// SPDX-License-Identifier: GPL-2.0-or-later

//! Descriptors that the service manager passes to a program (`sd_listen_fds(3)`).

use std::env;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};

/// The first of them.
const FIRST: RawFd = 3;

/// Takes the descriptors, with their names. Programs that this process starts do not inherit them. Returns none if
/// there are none, or if they have been taken before.
///
/// Call this before anything else opens a descriptor: the environment says how many there are.
///
/// # Errors
///
/// The environment names a descriptor that is not open. Nothing is taken then.
pub fn passed_descriptors() -> io::Result<Vec<(String, OwnedFd)>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| env::var(name).ok()?.parse::<u32>().ok();
    let count = number("LISTEN_FDS").unwrap_or(0);
    if number("LISTEN_PID") != Some(process::id()) || TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(Vec::new());
    }
    let count = RawFd::try_from(count).unwrap_or(RawFd::MAX - FIRST);
    let all = FIRST..FIRST.saturating_add(count);
    for descriptor in all.clone() {
        // SAFETY: the call only sets a flag of a descriptor, and fails if the number is not that of a descriptor.
        let result = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let take = |descriptor| {
        // SAFETY: the descriptor is open, as was just checked. The service manager has opened it for this very process,
        // whose id is in the environment, and only the first call comes here: nothing else owns it.
        let taken = unsafe { OwnedFd::from_raw_fd(descriptor) };
        (names.next().unwrap_or_default(), taken)
    };
    Ok(all.map(take).collect())
}
