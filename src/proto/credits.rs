// SPDX-License-Identifier: GPL-2.0-or-later

//! The credits of both directions ([MS-SMBD] 3.1.5.1, 3.1.5.8, 3.1.5.9).
//!
//! One ledger holds both, because the rule that prevents two peers from starving each other connects them: the number
//! of credits that may be granted depends on how much this side can still send.
//!
//! One posted receive is held back as a *reserve*: it is granted only by the message that spends the last send credit.
//! That message must grant something, and might otherwise have nothing to grant while the peer, holding everything, has
//! no reason to send. See [the module](super) for the whole argument.
//!
//! The ledger must never grant a receive that is not posted, nor the same one twice.

use super::error::ProtocolError;

/// Minimum number of receives to post, whatever the peer asks for.
///
/// One is the reserve, and an empty message uses another. The other two are for a peer that follows [MS-SMBD] to the
/// letter and has no reserve: once everything that it may post is granted, it cannot spend its last credit, so it has
/// to be left with two.
pub(super) const MIN_RECEIVES: u16 = 4;

/// How many messages each side may send the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Ledger {
    /// Number of messages that this side may send.
    send: u16,
    /// Number of receives that the owner has reported as posted and that no message has used.
    posted: u16,
    /// How many of the `posted` receives have been granted to the peer, which may send that many messages.
    granted: u16,
    /// How many credits the peer asks for; 0 until it has asked.
    requested: u16,
    /// Maximum number of receives that this side posts: at least [`MIN_RECEIVES`].
    max: u16,
}

impl Ledger {
    /// Makes a ledger with nothing granted on either side, which wants a single receive, for the negotiation.
    pub(super) const fn new(max: u16) -> Self {
        let mut ledger = Self {
            send: 0,
            posted: 0,
            granted: 0,
            requested: 0,
            max: 0,
        };
        ledger.set_max(max);
        ledger
    }

    /// Returns whether the numbers of a ledger that was written down can be right.
    #[cfg(feature = "broker")]
    pub(super) const fn is_sound(&self) -> bool {
        // The maximum may have been lowered since the receives were posted.
        self.granted <= self.posted && self.max >= MIN_RECEIVES
    }

    /// Limits the receives that this side posts from now on to `max`.
    pub(super) const fn set_max(&mut self, max: u16) {
        self.max = if max < MIN_RECEIVES {
            MIN_RECEIVES
        } else {
            max
        };
    }

    /// Returns the number of messages that this side may send.
    pub(super) const fn send(&self) -> u16 {
        self.send
    }

    /// Returns the number of messages that the peer may send.
    pub(super) const fn granted(&self) -> u16 {
        self.granted
    }

    /// Returns the number of receives that are posted.
    pub(super) const fn posted(&self) -> u16 {
        self.posted
    }

    /// Returns how many receives are missing: up to the number that the peer asks for, and at least one that is not
    /// granted, the reserve. The peer may hold more than it asks for, since it may have asked for more before; then the
    /// last send credit could not be spent without the reserve.
    pub(super) fn wanted(&self) -> u16 {
        let target = match self.requested {
            0 => 1,
            _ => self
                .allowance()
                .max(self.granted.saturating_add(1))
                .min(self.max),
        };
        target.saturating_sub(self.posted)
    }

    /// Takes the peer's `CreditsRequested`, which is absolute: how many credits it would like to
    /// hold.
    pub(super) fn set_requested(&mut self, credits_requested: u16) {
        self.requested = credits_requested;
    }

    /// Returns the maximum number of credits that this side grants of its own accord: a peer that asks for fewer than
    /// [`MIN_RECEIVES`] gets more.
    fn allowance(&self) -> u16 {
        self.requested.min(self.max).max(MIN_RECEIVES)
    }

    /// Takes note of receives that were posted. Receives beyond the maximum do not count: they are never granted. The
    /// limit is not the number wanted now, since that number may have shrunk after the owner learned of it.
    pub(super) fn add_posted(&mut self, count: u16) {
        self.posted = self.posted.saturating_add(count).min(self.max);
    }

    /// Takes note of a negotiate message, which costs no credit but uses a receive.
    pub(super) fn take_negotiate(&mut self) {
        self.posted = self.posted.saturating_sub(1);
    }

    /// Takes note of a message that the peer sent, and of the credits that it grants.
    pub(super) fn take_message(&mut self, credits_granted: u16) -> Result<(), ProtocolError> {
        self.granted = self
            .granted
            .checked_sub(1)
            .ok_or(ProtocolError::CreditsExceeded)?;
        self.posted = self.posted.saturating_sub(1);
        self.add_send(credits_granted)
    }

    /// Takes note of credits that the peer grants.
    pub(super) fn add_send(&mut self, credits_granted: u16) -> Result<(), ProtocolError> {
        self.send = self
            .send
            .checked_add(credits_granted)
            .ok_or(ProtocolError::SendCreditsOverflow)?;
        Ok(())
    }

    /// Grants credits in a negotiate response, which does not cost a send credit: everything posted, up to the number
    /// requested. That includes the reserve: until the peer has sent something, and so given one receive back, this
    /// side cannot send anything that would need it.
    pub(super) fn grant_in_response(&mut self) -> u16 {
        self.granted = self.posted.min(self.requested);
        self.granted
    }

    /// Returns how many credits the next message grants; `None` if that message must wait for a send credit or, if it
    /// would spend the last send credit, for a receive to grant. The peer gets no more than its allowance, unless the
    /// last send credit requires more.
    pub(super) fn next_grant(&self) -> Option<u16> {
        let untold = self.posted.saturating_sub(self.granted);
        let room = self.allowance().saturating_sub(self.granted);
        match (self.send, self.granted, untold) {
            (0, ..) | (1, _, 0) => None,
            (1, ..) => Some(untold.min(room).max(1)),
            // A peer that holds nothing gets everything, even the reserve.
            (_, 0, 1) => Some(1),
            _ => Some(untold.saturating_sub(1).min(room)),
        }
    }

    /// Returns whether the peer may starve, so that an empty message has to grant it credits if no other message does:
    /// the peer holds none, or it holds at most a quarter of what it could hold and there are several to grant.
    ///
    /// While the peer holds any credit, an empty message grants at least two. This ends the exchange: the message
    /// itself uses one receive of the peer, so each such message leaves fewer ungranted receives on both sides
    /// together.
    pub(super) fn owes_credits(&self) -> bool {
        match self.next_grant() {
            None | Some(0) => false,
            Some(_) if self.granted == 0 => true,
            Some(grant) => {
                grant >= 2 && self.granted <= (self.posted.min(self.allowance()) / 4).max(1)
            }
        }
    }

    /// Returns whether this side has a send credit, but lacks receives, so that the peer may not send, or this side may
    /// not send anything to it.
    pub(super) fn lacks_receives(&self) -> bool {
        self.keeps_peer_silent() || self.send > 0 && self.next_grant().is_none()
    }

    /// Returns whether the peer may not send because this side lacks receives.
    pub(super) const fn keeps_peer_silent(&self) -> bool {
        self.send > 0 && self.granted == 0
    }

    /// Spends a send credit on a message that grants `grant` credits, as `next_grant` allowed.
    pub(super) fn spend(&mut self, grant: u16) {
        self.send = self.send.saturating_sub(1);
        self.granted = self.granted.saturating_add(grant).min(self.posted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(send: u16, posted: u16, granted: u16) -> Ledger {
        Ledger {
            send,
            posted,
            granted,
            requested: 255,
            max: 255,
        }
    }

    #[test]
    fn the_last_send_credit_is_spent_only_on_a_grant() {
        assert_eq!(ledger(0, 10, 0).next_grant(), None);
        assert_eq!(ledger(1, 10, 10).next_grant(), None);
        assert_eq!(ledger(1, 10, 9).next_grant(), Some(1));
        assert_eq!(ledger(2, 10, 10).next_grant(), Some(0));
    }

    #[test]
    fn one_receive_stays_back_for_the_last_send_credit() {
        assert_eq!(ledger(2, 10, 7).next_grant(), Some(2));
        assert_eq!(ledger(2, 10, 9).next_grant(), Some(0));
        assert_eq!(ledger(1, 10, 7).next_grant(), Some(3));
    }

    #[test]
    fn a_peer_without_credits_gets_even_the_reserve() {
        assert_eq!(ledger(2, 1, 0).next_grant(), Some(1));
        assert_eq!(ledger(2, 2, 0).next_grant(), Some(1));
        assert_eq!(ledger(2, 0, 0).next_grant(), Some(0));
    }

    #[test]
    fn credits_are_owed_at_a_quarter() {
        assert!(ledger(10, 255, 63).owes_credits());
        assert!(!ledger(10, 255, 64).owes_credits());
        assert_eq!(
            ledger(10, 255, 63).next_grant(),
            Some(191),
            "Windows grants as many"
        );
        assert!(ledger(10, 1, 0).owes_credits());
        assert!(
            !ledger(0, 255, 0).owes_credits(),
            "nothing is owed without a send credit"
        );
        assert!(
            !ledger(10, 64, 63).owes_credits(),
            "the reserve is not owed"
        );
        assert!(
            !ledger(10, 0, 0).owes_credits(),
            "nothing is owed without a receive"
        );
    }

    #[test]
    fn an_empty_message_causes_another_only_if_it_took_the_last_credit() {
        // Both sides have just been granted everything; one of them sends an empty message.
        for posted in 2..=255 {
            let mut other = ledger(10, posted, posted - 1);
            assert_eq!(other.take_message(1), Ok(()));
            other.add_posted(1);
            assert_eq!(other.owes_credits(), other.granted == 0, "{posted} posted");
        }
    }

    #[test]
    fn receives_beyond_the_maximum_are_never_granted() {
        let mut ledger = Ledger::new(4);
        ledger.set_requested(100);
        assert_eq!(ledger.wanted(), 4);
        ledger.add_posted(u16::MAX);
        assert_eq!(ledger.grant_in_response(), 4);
        ledger.add_posted(1);
        assert_eq!((ledger.posted(), ledger.granted()), (4, 4));
    }

    #[test]
    fn a_peer_that_asked_for_more_gets_it_when_the_maximum_is_raised() {
        let mut ledger = Ledger::new(8);
        ledger.set_requested(100);
        ledger.add_posted(8);
        assert_eq!(ledger.grant_in_response(), 8);
        assert_eq!(ledger.take_message(10), Ok(()));
        assert_eq!((ledger.wanted(), ledger.owes_credits()), (1, false));
        ledger.set_max(255);
        assert_eq!(ledger.wanted(), 93);
        ledger.add_posted(93);
        assert_eq!(
            (ledger.owes_credits(), ledger.next_grant()),
            (true, Some(92))
        );
    }

    #[test]
    fn a_peer_gets_no_more_than_it_asks_for_unless_the_last_send_credit_demands_it() {
        let grant = |send, granted| {
            let mut ledger = ledger(send, 255, granted);
            ledger.set_requested(10);
            ledger.next_grant()
        };
        assert_eq!(grant(2, 7), Some(3));
        assert_eq!(grant(2, 10), Some(0));
        assert_eq!(grant(2, 200), Some(0));
        assert_eq!(grant(1, 7), Some(3));
        assert_eq!(grant(1, 10), Some(1));
        assert_eq!(grant(1, 200), Some(1));
    }

    #[test]
    fn there_is_a_reserve_even_if_the_peer_asks_for_less_than_it_holds() {
        let mut ledger = ledger(1, 200, 200);
        ledger.set_requested(10);
        assert_eq!(ledger.wanted(), 1);
        ledger.add_posted(1);
        assert_eq!((ledger.wanted(), ledger.next_grant()), (0, Some(1)));
    }

    #[test]
    fn receives_posted_for_a_higher_target_still_count() {
        let mut ledger = Ledger::new(10);
        ledger.set_requested(10);
        ledger.set_requested(5);
        ledger.add_posted(10);
        assert_eq!((ledger.posted(), ledger.wanted()), (10, 0));
    }

    #[test]
    fn a_peer_that_asks_for_one_credit_has_four_receives() {
        let mut ledger = Ledger::new(255);
        assert_eq!(ledger.wanted(), 1);
        ledger.set_requested(1);
        assert_eq!(ledger.wanted(), 4);
        ledger.add_posted(4);
        assert_eq!(ledger.grant_in_response(), 1);
    }

    #[test]
    fn refuses_a_message_beyond_the_grant() {
        let mut ledger = ledger(0, 2, 1);
        assert_eq!(ledger.take_message(0), Ok(()));
        assert_eq!(ledger.take_message(0), Err(ProtocolError::CreditsExceeded));
    }

    #[test]
    fn refuses_more_send_credits_than_can_be_counted() {
        let mut ledger = ledger(65_535, 2, 2);
        assert_eq!(ledger.take_message(0), Ok(()));
        assert_eq!(
            ledger.take_message(1),
            Err(ProtocolError::SendCreditsOverflow)
        );
    }
}
