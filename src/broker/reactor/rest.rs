//! What a reactor does when there is nothing to do: it looks for a while, then announces to all
//! workers that it sleeps, and does.

use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};
use rustix::event::epoll;
use slotmap::{Key, KeyData};

use super::Reactor;
use super::busy_poll::BusyPoll;
use crate::broker::pool::QueueId;
use crate::fabric::{FabricError, Waitable};
use crate::sys::{self, Bell};
use crate::units::Instant;

/// The waker of the commands. No queue has this number.
pub(in crate::broker) const WAKER: Token = Token(usize::MAX);
const TRANSPORT: Token = Token(usize::MAX - 1);

/// Time after which a queue without work is not looked at any more, even by a busy reactor.
const QUEUE_IDLE: Duration = Duration::from_micros(200);
/// Rounds of a busy reactor after which it looks at bells.
const ROUNDS: u32 = 16;
/// Looks at the rings of active queues, which cost no system call, for one at all the rest.
const LOOKS: u32 = 8;
/// Pauses of the processor between two of them: some tenths of a microsecond.
const PAUSES: u32 = 8;

/// Waits, and knows how long it is worth while to look before.
#[derive(Debug)]
pub(super) struct Sleeper {
    poll: mio::Poll,
    ready: mio::Events,
    /// Since when there was nothing to do.
    idle_since: Option<Instant>,
    busy_poll: BusyPoll,
    rounds: u32,
    /// The transport's descriptor is watched. It is readable for as long as it has something, not once.
    watched: bool,
}

impl Sleeper {
    pub(super) fn new(poll: mio::Poll, longest: Duration) -> Self {
        Self {
            poll,
            ready: mio::Events::with_capacity(256),
            idle_since: None,
            busy_poll: BusyPoll::new(longest),
            rounds: 0,
            watched: false,
        }
    }

    /// Wakes for a queue's bell.
    pub(super) fn watch(&self, bell: &Bell, queue: QueueId) -> std::io::Result<()> {
        let token = Token(queue.data().as_ffi() as usize);
        let fd = bell.as_fd().as_raw_fd();
        let registry = self.poll.registry();
        registry.register(&mut SourceFd(&fd), token, Interest::READABLE)
    }

    pub(super) fn unwatch(&self, bell: &Bell) {
        let fd = bell.as_fd().as_raw_fd();
        let _ = self.poll.registry().deregister(&mut SourceFd(&fd));
    }

    /// Wakes for the transport.
    fn watch_transport<F: Waitable>(&mut self, fabric: &F) -> std::io::Result<()> {
        if let (false, Some(fd)) = (self.watched, fabric.event_fd()) {
            let data = epoll::EventData::new_u64(TRANSPORT.0 as u64);
            epoll::add(self.poll.registry(), fd, data, epoll::EventFlags::IN)?;
            self.watched = true;
        }
        Ok(())
    }
}

impl<F: Waitable> Reactor<F> {
    /// Sleeps if there is nothing to do, and has not been for long enough.
    pub(super) fn rest(&mut self, busy: bool) -> Result<(), FabricError> {
        self.retire_queues();
        let next = self.transport.poll_timeout();
        let sleeper = &mut self.sleeper;
        sleeper.rounds = sleeper.rounds.wrapping_add(1);
        let is_due = next.is_some_and(|at| at <= self.now);
        let since = *sleeper.idle_since.get_or_insert(self.now);
        if busy || is_due {
            sleeper.idle_since = None;
        }
        if busy || is_due || self.now.saturating_since(since) < sleeper.busy_poll.window() {
            if sleeper.rounds % ROUNDS == 0 {
                self.wait(Some(Duration::ZERO))?;
            } else if !busy && !is_due {
                self.watch_rings();
            }
            return Ok(());
        }
        if !self.announce_sleep() || !self.commands.is_empty() {
            return Ok(());
        }
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
        self.wait(time)?;
        let slept = self.shared.now().saturating_since(self.now);
        self.sleeper.busy_poll.slept(slept, sys::preemptions);
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

    fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError> {
        let failed = |source: std::io::Error| FabricError::Os {
            context: "wait for work".to_owned(),
            source: source.into(),
        };
        let sleeper = &mut self.sleeper;
        sleeper
            .watch_transport(self.transport.fabric())
            .map_err(failed)?;
        match sleeper.poll.poll(&mut sleeper.ready, time) {
            Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                return Err(failed(error));
            }
            _ => {}
        }
        let ready = std::mem::replace(&mut sleeper.ready, mio::Events::with_capacity(0));
        self.now = self.shared.now();
        for event in &ready {
            if event.token() != WAKER && event.token() != TRANSPORT {
                let id = QueueId::from(KeyData::from_ffi(event.token().0 as u64));
                self.rung(id);
            }
        }
        self.sleeper.ready = ready;
        Ok(())
    }

    /// A worker has rung.
    fn rung(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get(id) else {
            return;
        };
        // Whatever it finds, and what it leaves where a worker rings for ever: the queue has its turn,
        // and one more ring is told again. The end of its process is told by its control socket.
        let _ = queue.bell.drain();
        self.activate(id);
    }
}
