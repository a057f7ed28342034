// SPDX-License-Identifier: GPL-2.0-or-later

//! The timers of a connection ([MS-SMBD] 3.1.2, 3.1.6).
//!
//! Negotiation, idle and keepalive follow each other, so they are one timer with three meanings; the wait for send
//! credits and the time of an incomplete message, which is not in [MS-SMBD], run beside that timer. Time comes in as an
//! argument and must not run backwards.

use core::time::Duration;

use crate::units::Instant;

/// The current meaning of the connection's liveness timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum Liveness {
    /// The negotiation must be complete.
    Negotiation,
    /// The peer has been silent for a long time, and has to be asked for a message.
    Idle,
    /// The peer has been asked, and must have sent a message.
    Keepalive,
}

/// The time of the message in reassembly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) enum MessageTime {
    /// The message has to be complete by this time.
    Until(Instant),
    /// The peer may not send. Once it may again, it has this much time.
    Left(Duration),
}

/// The deadlines of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Timers {
    /// The meaning of `deadline`.
    pub(super) liveness: Liveness,
    /// The deadline itself.
    pub(super) deadline: Instant,
    /// The time by which send credits must come, if a message waits for them.
    pub(super) credits: Option<Instant>,
    /// The time of the message in reassembly, if there is one.
    pub(super) message: Option<MessageTime>,
}

impl Timers {
    /// Makes the timers, which start with the negotiation.
    pub(super) const fn new(deadline: Instant) -> Self {
        Self {
            liveness: Liveness::Negotiation,
            deadline,
            credits: None,
            message: None,
        }
    }

    /// Gives the liveness timer a new meaning.
    pub(super) fn start(&mut self, liveness: Liveness, deadline: Instant) {
        self.liveness = liveness;
        self.deadline = deadline;
    }

    /// Takes note that the peer may not send, or may send again, from `now` on: while it may not, the time of a message
    /// stops.
    #[inline]
    pub(super) fn set_silent(&mut self, now: Instant, silent: bool) {
        self.message = self.message.map(|message| match message {
            MessageTime::Until(deadline) if silent => {
                MessageTime::Left(deadline.saturating_since(now))
            }
            MessageTime::Left(time) if !silent => MessageTime::Until(now + time),
            unchanged => unchanged,
        });
    }

    /// Returns when the message in reassembly has to be complete, if its time is running.
    pub(super) fn message_deadline(&self) -> Option<Instant> {
        match self.message {
            Some(MessageTime::Until(deadline)) => Some(deadline),
            Some(MessageTime::Left(_)) | None => None,
        }
    }

    /// Returns the next moment at which something has to be done.
    pub(super) fn next(&self) -> Instant {
        let beside = [self.credits, self.message_deadline()];
        let beside = beside.into_iter().flatten();
        beside.fold(self.deadline, Instant::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_deadline_is_next() {
        let mut timers = Timers::new(Instant::from_nanos(5));
        assert_eq!(timers.next(), Instant::from_nanos(5));
        timers.credits = Some(Instant::from_nanos(3));
        assert_eq!(timers.next(), Instant::from_nanos(3));
        timers.start(Liveness::Idle, Instant::from_nanos(2));
        assert_eq!(timers.next(), Instant::from_nanos(2));
        timers.message = Some(MessageTime::Until(Instant::from_nanos(1)));
        assert_eq!(timers.next(), Instant::from_nanos(1));
    }

    #[test]
    fn the_time_of_a_message_does_not_pass_while_the_peer_may_not_speak() {
        let mut timers = Timers::new(Instant::from_nanos(1000));
        timers.message = Some(MessageTime::Until(Instant::from_nanos(30)));
        timers.set_silent(Instant::from_nanos(10), true);
        timers.set_silent(Instant::from_nanos(20), true);
        assert_eq!(timers.next(), Instant::from_nanos(1000));
        timers.set_silent(Instant::from_nanos(100), false);
        timers.set_silent(Instant::from_nanos(110), false);
        assert_eq!(timers.next(), Instant::from_nanos(120));
    }
}
