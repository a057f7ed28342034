// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures how much memory connections take over the iWARP fabric, with an allocator that counts for each thread.

mod idle;
mod mpa;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Measures one test at a time, because resident memory includes all tests of this process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
