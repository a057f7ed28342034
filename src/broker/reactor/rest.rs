//! What a reactor does when there is nothing to do: it looks for a while, then announces to all
//! workers that it sleeps, and does.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Registry};
use slotmap::{Key, KeyData};

use super::Reactor;
use super::busy_poll::BusyPoll;
use crate::engine::pool::QueueId;
use crate::fabric::{FabricError, SharedEpoll, owner_token};
use crate::sys::{self, Bell};
use crate::units::Instant;

/// The key of the waker of the commands. No queue has it.
pub(in crate::broker) const WAKER: u64 = 0;

/// Time after which a queue without work is not looked at any more, even by a busy reactor.
const QUEUE_IDLE: Duration = Duration::from_micros(200);
/// A shorter sleep was none: there was something to do already.
const AT_ONCE: Duration = Duration::from_micros(3);
/// Rings after which a bell is drained. Each tells of itself, and its socket has room for more.
const RINGS: u32 = 16;
/// Looks at the rings of active queues, which cost no system call, for one at all the rest.
const LOOKS: u32 = 8;
/// Pauses of the processor between two of them: some tenths of a microsecond.
const PAUSES: u32 = 8;

/// Knows how long it is worth while to look before waiting.
#[derive(Debug)]
pub(super) struct Sleeper {
    /// Since when there was nothing to do.
    idle_since: Option<Instant>,
    busy_poll: BusyPoll,
    /// What woke the reactor.
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

/// Wakes for a queue's bell.
pub(super) fn watch(registry: &Registry, bell: &Bell, queue: QueueId) -> std::io::Result<()> {
    let token = owner_token(queue.data().as_ffi());
    let fd = bell.as_fd().as_raw_fd();
    registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
}

pub(super) fn unwatch(registry: &Registry, bell: &Bell) {
    let fd = bell.as_fd().as_raw_fd();
    let _ = registry.deregister(&mut SourceFd(&fd));
}

impl<F: SharedEpoll> Reactor<F> {
    /// Sleeps if there is nothing to do, and has not been for long enough.
    pub(super) fn rest(&mut self, busy: bool) -> Result<(), FabricError> {
        self.retire_queues();
        let next = self.transport.poll_timeout();
        let is_due = next.is_some_and(|at| at <= self.now);
        let sleeper = &mut self.sleeper;
        let since = *sleeper.idle_since.get_or_insert(self.now);
        if busy || is_due {
            sleeper.idle_since = None;
        }
        if is_due {
            return Ok(());
        }
        // Without a window it sleeps as soon as nothing is left: what comes then wakes it.
        let window = sleeper.busy_poll.window();
        if !window.is_zero() && (busy || self.now.saturating_since(since) < window) {
            if !busy {
                self.watch_rings();
            }
            return Ok(());
        }
        if !self.announce_sleep() || !self.commands.is_empty() {
            return Ok(());
        }
        // The round before may have taken long, and a queue may have been found corrupt.
        self.now = self.shared.now();
        let next = self.transport.poll_timeout();
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let all = [
            next,
            deadline,
            self.retry_at,
            self.look_at,
            self.next_wake(),
            self.next_stop(),
        ];
        let next = all.into_iter().flatten().min();
        // A moment that has passed is one of `next_stop`: the end is near, and looked for often.
        let time = next.map(|at| at.saturating_since(self.now));
        let time = time.map(|time| time.max(Duration::from_micros(100)));
        self.transport.fabric_mut().wait(time)?;
        let slept = self.shared.now().saturating_since(self.now);
        if slept >= AT_ONCE {
            self.sleeper.busy_poll.slept(slept, sys::preemptions);
        }
        self.sleeper.idle_since = None;
        Ok(())
    }

    /// Looks whether workers submit anything, for a few microseconds.
    fn watch_rings(&mut self) {
        for _ in 1..LOOKS {
            for id in &self.active {
                // A corrupt ring is met again in the next round.
                let queue = self.queues.get_mut(*id);
                if queue.is_some_and(|queue| queue.has_submissions()) {
                    return;
                }
            }
            for _ in 0..PAUSES {
                std::hint::spin_loop();
            }
        }
    }

    /// Leaves queues alone that nobody has used for a while.
    fn retire_queues(&mut self) {
        let now = self.now;
        let (queues, buffers) = (&mut self.queues, self.transport.buffers());
        let mut corrupt = Vec::new();
        self.active.retain(|&id| {
            let Some(queue) = queues.get_mut(id) else {
                return false;
            };
            if now.saturating_since(queue.used) < QUEUE_IDLE {
                return true;
            }
            match queue.announce_sleep(buffers.is_wanting(id)) {
                Ok(asleep) => queue.active = !asleep,
                Err(error) => corrupt.push((id, error)),
            }
            queue.active
        });
        for (id, error) in corrupt {
            self.violated(id, error.into());
        }
    }

    /// Announces sleep to all workers; `false`: one of them has something to do.
    fn announce_sleep(&mut self) -> bool {
        for id in &self.active {
            if let Some(queue) = self.queues.get_mut(*id) {
                queue.used = Instant::ZERO;
            }
        }
        self.retire_queues();
        self.active.is_empty()
    }

    /// Looks at what woke the reactor.
    pub(super) fn run_bells(&mut self) {
        let mut keys = std::mem::take(&mut self.sleeper.keys);
        self.transport.fabric_mut().ready(&mut keys);
        for key in keys.drain(..).filter(|key| *key != WAKER) {
            self.rung(QueueId::from(KeyData::from_ffi(key)));
        }
        self.sleeper.keys = keys;
    }

    /// A worker has rung.
    fn rung(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else {
            return;
        };
        queue.rings = queue.rings.wrapping_add(1);
        if queue.rings % RINGS == 0 {
            // Whatever it finds, and what it leaves where a worker rings for ever: the queue has its
            // turn. The end of its process is told by its control socket.
            let _ = queue.bell.drain();
        }
        self.activate(id);
    }
}
