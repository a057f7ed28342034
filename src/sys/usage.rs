// SPDX-License-Identifier: GPL-2.0-or-later

//! What the system reports about a thread.

/// Returns how often this thread has lost its processor to another thread that wanted it.
#[must_use]
pub fn preemptions() -> u64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the pointer is to a `rusage`, which the call fills in.
    let result = unsafe { libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: all zeros are a valid `rusage`, and so is what the call wrote.
    let usage = unsafe { usage.assume_init() };
    u64::try_from(usage.ru_nivcsw).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_preemptions_never_falls() {
        let before = preemptions();
        assert!(preemptions() >= before);
    }
}
