//! The timers of a connection ([MS-SMBD] 3.1.2, 3.1.6).
//!
//! Negotiation, idle and keepalive follow each other, so they are one timer with three meanings; the
//! wait for send credits and the time of an incomplete message, which is not in [MS-SMBD], run beside
//! it. Time comes in as an argument and must not run backwards.

use crate::units::Instant;

/// What the timer of the connection's liveness means at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// The negotiation must be complete.
    Negotiation,
    /// The peer has been silent for long: it has to be asked for a message.
    Idle,
    /// It has been asked, and has to have sent one.
    Keepalive,
}

/// When what has to have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timers {
    /// What `deadline` means.
    pub(super) liveness: Liveness,
    /// When it is reached.
    pub(super) deadline: Instant,
    /// When a message will have waited too long for send credits, if one waits.
    pub(super) credits: Option<Instant>,
    /// When the message in reassembly has to be complete, if there is one.
    pub(super) message: Option<Instant>,
}

impl Timers {
    /// Starts with the negotiation.
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

    /// The next moment at which something has to be done.
    pub(super) fn next(&self) -> Instant {
        let beside = [self.credits, self.message].into_iter().flatten();
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
        timers.message = Some(Instant::from_nanos(1));
        assert_eq!(timers.next(), Instant::from_nanos(1));
    }
}
