// SPDX-License-Identifier: GPL-2.0-or-later

//! The doorbells for rings.

use std::sync::Arc;

use super::ring::Doorbell;
use crate::sys::{Bell, EventFd};

impl Doorbell for EventFd {
    /// Rings for threads, or for a process that is allowed to make this process wait; see
    /// [`EventFd`].
    fn ring(&self) {
        // This fails only if the descriptor is not a doorbell: see `Doorbell::ring`.
        let _ = Self::ring(self);
    }
}

impl Doorbell for Bell {
    fn ring(&self) {
        // As for `EventFd`.
        let _ = Self::ring(self);
    }
}

impl<D: Doorbell> Doorbell for Arc<D> {
    fn ring(&self) {
        self.as_ref().ring();
    }
}
