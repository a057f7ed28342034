// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests rings in shared memory: with an oracle, with a hostile other side, and between two processes.
//!
//! `tests/ring_loom.rs` tests what two threads may see of each other, in every order that the memory model allows.

use std::cell::Cell;
use std::rc::Rc;

use smbdirect::shm::Doorbell;

mod hostile;
mod oracle;
mod processes;

/// A doorbell that counts.
#[derive(Clone, Debug, Default)]
struct Rings(Rc<Cell<u32>>);

impl Doorbell for Rings {
    fn ring(&self) {
        self.0.set(self.0.get() + 1);
    }
}
