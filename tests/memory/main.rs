// SPDX-License-Identifier: GPL-2.0-or-later

//! How much memory connections take over the iWARP fabric, counted by an allocator that knows each thread's share.

mod idle;
mod mpa;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Resident memory includes all tests of this process, so one is measured at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
