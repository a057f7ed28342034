// SPDX-License-Identifier: GPL-2.0-or-later

//! Closes sockets whose connections have ended.
//!
//! If a socket with unread bytes is closed, the bytes that were sent last are discarded. So the sending half is shut
//! down first, and bytes that the peer still sends are dropped until it shuts down its half, too. Time, the number of
//! sockets, and bytes per turn are bounded, so a peer that continues to send does not keep other connections waiting.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use slotmap::SlotMap;

use super::token::Target;
use crate::units::Instant;

/// Maximum number of sockets at a time. Further peers are cut off at once.
const MAX_LINGERING: usize = 1024;
/// Number of bytes dropped from one socket before other sockets get their turn.
const BUDGET: usize = 512 * 1024;

slotmap::new_key_type! {
    /// A socket that is being closed.
    pub(super) struct LingerId;
}

pub(super) struct Lingering {
    sockets: SlotMap<LingerId, TcpStream>,
    /// The sockets by deadline: all linger for the same time. The deadline is `None` until the time is known, because
    /// closing may begin in a call that does not know the time. Sockets that have been closed may still be listed.
    order: VecDeque<(LingerId, Option<Instant>)>,
    time: Duration,
}

impl Lingering {
    pub(super) fn new(time: Duration) -> Self {
        Self {
            sockets: SlotMap::with_key(),
            order: VecDeque::new(),
            time,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Shuts down the sending half. The socket must no longer be registered.
    pub(super) fn add(&mut self, mut stream: TcpStream, registry: &Registry) {
        if stream.shutdown(Shutdown::Write).is_err() || self.sockets.len() >= MAX_LINGERING {
            return;
        }
        let added = self.sockets.try_insert_with_key(|id| {
            let token = Target::Linger(id).token();
            registry.register(&mut stream, token, Interest::READABLE)?;
            Ok::<_, std::io::Error>(stream)
        });
        self.order.extend(added.ok().map(|id| (id, None)));
    }

    /// Drops bytes that a peer has sent. `chunk` is scratch space.
    pub(super) fn drop_input(&mut self, id: LingerId, registry: &Registry, chunk: &mut [u8]) {
        let Some(stream) = self.sockets.get_mut(id) else {
            return;
        };
        let mut budget = BUDGET;
        let open = loop {
            match stream.read(chunk) {
                Ok(n) if n > 0 => budget = budget.saturating_sub(n),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                _ => break false,
            }
            if budget == 0 {
                // There may be more bytes, which would not be announced again.
                let token = Target::Linger(id).token();
                let again = registry.reregister(stream, token, Interest::READABLE);
                break again.is_ok();
            }
        };
        if !open {
            self.sockets.remove(id);
        }
    }

    /// Closes the sockets whose time is up, and starts the time of those that came since the last
    /// call.
    pub(super) fn expire(&mut self, now: Instant) {
        let new = self.order.iter_mut().rev();
        for (_, deadline) in new.take_while(|(_, deadline)| deadline.is_none()) {
            *deadline = Some(now + self.time);
        }
        while let Some(&(id, deadline)) = self.order.front() {
            let in_time = deadline.is_some_and(|deadline| deadline > now);
            if in_time && self.sockets.contains_key(id) {
                break;
            }
            self.order.pop_front();
            self.sockets.remove(id);
        }
    }

    /// Returns when [`Self::expire`] has something to do; `now` if a deadline is still `None`.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.order.back()? {
            (_, None) => Some(now),
            _ => self.order.front()?.1,
        }
    }
}
