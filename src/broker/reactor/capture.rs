// SPDX-License-Identifier: GPL-2.0-or-later

//! Begins and ends captures of a reactor's connections.

use std::sync::Arc;

use super::Reactor;
use crate::broker::capture::Order;
use crate::fabric::Keep;

impl<F: Keep> Reactor<F> {
    /// Begins a capture. If it is about a single connection that this reactor does not drive, does nothing.
    pub(super) fn begin_capture(&mut self, order: Arc<Order>) {
        let underway = self.shard.underway(|peer| order.target.admits(peer));
        // There are as many interfaces as reactors.
        let interface = u32::try_from(self.number).unwrap_or(u32::MAX);
        let tap = self.shard.fabric_mut();
        tap.begin(order, interface, self.now, underway);
    }

    /// Ends the capture of a process that has detached.
    pub(super) fn end_capture(&mut self, process: u32) {
        self.shard.fabric_mut().end(process, self.now);
    }
}
