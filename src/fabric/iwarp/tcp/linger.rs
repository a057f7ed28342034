// SPDX-License-Identifier: GPL-2.0-or-later

//! Sockets whose connections are gone.
//!
//! Closing a socket with bytes unread takes back what was sent last, so the sending half is ended
//! first and what the peer still sends is dropped, until it ends its half too. That is for a
//! bounded time, for a bounded number of sockets, and for so many bytes at a time: a peer that
//! goes on sending keeps nobody else waiting.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Interest, Registry};
use slotmap::SlotMap;

use super::token::Target;
use crate::units::Instant;

/// Sockets at a time. The peers of further ones are cut off at once.
const MAX_LINGERING: usize = 1024;
/// Bytes dropped of one socket before others have their turn.
const BUDGET: usize = 512 * 1024;

slotmap::new_key_type! {
    /// A socket that is being closed.
    pub(super) struct LingerId;
}

pub(super) struct Lingering {
    sockets: SlotMap<LingerId, TcpStream>,
    /// By deadline: all linger for the same time. It is `None` until the time is known, as closing
    /// may begin in a call that does not know it. Of sockets that are gone some may still be here.
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

    /// Ends the sending half. The socket is not registered any more.
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

    /// Drops what a peer has sent. `chunk` is room for anything.
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
                // More may be there, and nothing would say so again.
                let token = Target::Linger(id).token();
                let again = registry.reregister(stream, token, Interest::READABLE);
                break again.is_ok();
            }
        };
        if !open {
            self.sockets.remove(id);
        }
    }

    /// Closes what has had its time, and starts the time of what came since the last call.
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

    /// When [`Self::expire`] has something to do; `now` where it must be told the time.
    pub(super) fn deadline(&self, now: Instant) -> Option<Instant> {
        match self.order.back()? {
            (_, None) => Some(now),
            _ => self.order.front()?.1,
        }
    }
}
