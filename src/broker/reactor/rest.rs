// SPDX-License-Identifier: GPL-2.0-or-later

//! Lets a reactor rest when there is nothing to do: it polls for a while, then announces to all workers that it will
//! sleep, and sleeps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::Interest;
use mio::unix::SourceFd;
use slotmap::{Key, KeyData};

use super::Reactor;
use super::busy_poll::BusyPoll;
use crate::engine::pool::QueueId;
use crate::fabric::{FabricError, Keep, Reconfigure, SharedEpoll, owner_token};
use crate::sys;
use crate::units::Instant;

/// The key of the waker for commands, which no queue has.
pub(in crate::broker) const WAKER: u64 = 0;

/// A sleep shorter than this does not count, because there already was something to do when it began.
const AT_ONCE: Duration = Duration::from_micros(3);
/// Number of rings after which a bell is drained. Each ring makes its own event, and the socket has room for more.
const RINGS: u32 = 16;
/// Number of looks at the rings of active queues for each look at everything else. A look at the rings does not cost a
/// system call.
const LOOKS: u32 = 8;
/// Number of pause instructions between two looks at the rings: a few tenths of a microsecond.
const PAUSES: u32 = 8;

/// Decides how long to poll before sleeping.
#[derive(Debug)]
pub(super) struct Sleeper {
    /// The time since which there has been nothing to do.
    idle_since: Option<Instant>,
    busy_poll: BusyPoll,
    /// The keys of the sources that woke the reactor.
    keys: Vec<u64>,
}

impl Sleeper {
    pub(super) const fn new(longest: Duration) -> Self {
        Self {
            idle_since: None,
            busy_poll: BusyPoll::new(longest),
            keys: Vec::new(),
        }
    }
}

impl<F: Keep + Reconfigure> Reactor<F> {
    /// Lets a queue's bell wake the reactor, until the bell is closed.
    pub(super) fn watch(&self, queue: QueueId) -> io::Result<()> {
        let Some(bell) = self.shard.bell(queue) else {
            return Ok(());
        };
        let token = owner_token(queue.data().as_ffi());
        let fd = bell.as_fd().as_raw_fd();
        let registry = self.shard.fabric().registry();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    /// Sleeps if there has been nothing to do for long enough.
    pub(super) fn rest(&mut self, busy: bool) -> Result<(), FabricError> {
        self.shard.retire_queues();
        let is_due = self.shard.is_due();
        let sleeper = &mut self.sleeper;
        let since = *sleeper.idle_since.get_or_insert(self.now);
        if busy || is_due {
            sleeper.idle_since = None;
        }
        if is_due {
            return Ok(());
        }
        // Without a window, the reactor sleeps as soon as nothing is left to do; new work wakes it.
        let window = sleeper.busy_poll.window();
        if !window.is_zero() && (busy || self.now.saturating_since(since) < window) {
            if !busy {
                self.watch_rings();
            }
            return Ok(());
        }
        if !self.shard.announce_sleep() || !self.commands.is_empty() {
            return Ok(());
        }
        // The last round may have taken long, and `announce_sleep` may have found that a queue is corrupt.
        self.look_at_clock();
        self.run_notices();
        let next = self.shard.next_deadline();
        let time = next.map(|at| at.saturating_since(self.now));
        self.shard.fabric_mut().wait(time)?;
        let slept = self.shared.now().saturating_since(self.now);
        if slept >= AT_ONCE {
            self.sleeper.busy_poll.slept(slept, sys::preemptions);
        }
        self.sleeper.idle_since = None;
        Ok(())
    }

    /// Polls for submissions of workers for a few microseconds.
    fn watch_rings(&mut self) {
        for _ in 1..LOOKS {
            if self.shard.has_submissions() {
                return;
            }
            for _ in 0..PAUSES {
                std::hint::spin_loop();
            }
        }
    }

    /// Handles the sources that woke the reactor.
    pub(super) fn run_bells(&mut self) {
        let mut keys = std::mem::take(&mut self.sleeper.keys);
        self.shard.fabric_mut().ready(&mut keys);
        for key in keys.drain(..).filter(|key| *key != WAKER) {
            self.rung(QueueId::from(KeyData::from_ffi(key)));
        }
        self.sleeper.keys = keys;
    }

    /// Handles the ring of a worker.
    fn rung(&mut self, queue: QueueId) {
        let rings = self.shard.rung(queue);
        if let Some(bell) = self.shard.bell(queue).filter(|_| rings % RINGS == 0) {
            // The result does not matter, nor do rings that are left because a worker never stops ringing: the queue
            // gets its turn. The control socket shows when the process ends.
            let _ = bell.drain();
        }
    }
}
