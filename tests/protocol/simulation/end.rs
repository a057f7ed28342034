// SPDX-License-Identifier: GPL-2.0-or-later

//! One end of the connection: the endpoint, its owner, and the true state.
//!
//! The true state is computed from the bytes that were sent and handled, with arithmetic of its own. Each method
//! asserts the rules that it can check.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::time::Duration;

use smbdirect::proto::{Config, Endpoint, ProtocolError, Received, State, Transmit};
use smbdirect::units::Instant;

use super::plan::{INITIATOR, Message};
use super::world::Summary;

/// The bytes of all messages: each message is a piece of them.
static CONTENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = fastrand::Rng::with_seed(1);
    (0..1 << 18).map(|_| rng.u8(..)).collect()
});

/// What comes in from the link.
#[derive(Debug)]
pub(crate) enum Arrival {
    Message(Vec<u8>),
    /// The connection is gone: a failed completion or the fabric says so.
    Gone,
}

/// A message that is being sent, or that has yet to arrive at the other end.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// The offset in [`CONTENT`] at which the message begins.
    start: usize,
    message: Message,
    done: u32,
}

#[derive(Debug)]
pub(crate) struct End {
    pub(crate) side: usize,
    config: Config,
    pub(crate) endpoint: Endpoint,
    /// The sizes of posted receives that no message has used yet.
    pub(crate) posted: VecDeque<u32>,
    /// Arrivals that the owner has not looked at yet.
    pub(crate) inbox: VecDeque<Arrival>,
    /// The time at which each held buffer is given back.
    pub(crate) held: Vec<Instant>,
    /// The messages to send.
    pub(crate) queue: VecDeque<Message>,
    sending: Option<Progress>,
    /// Messages that the other end has begun to send.
    expected: VecDeque<Progress>,
    pub(crate) ended: bool,
    truth: Truth,
}

/// What the endpoint should believe.
#[derive(Debug)]
struct Truth {
    start: Instant,
    /// Whether this side's negotiate message was sent, and whether the other side's was handled.
    negotiate: [bool; 2],
    send: u32,
    granted: u32,
    /// The credits for which the other end last asked.
    requested: u32,
    granted_ever: bool,
    /// The bytes of the message in progress that a sent fragment announced and that are still to come.
    remaining: u32,
    heard: Instant,
    /// The time at which the idle timer started: `heard`, or later if this side kept the peer from sending.
    quiet: Instant,
    asked: Option<Instant>,
    /// Whether the keepalive question is still to be sent.
    ask: bool,
    /// Whether the other end has asked for a message.
    answer: bool,
    starving: Option<Instant>,
    /// The time at which the message in reassembly began, shifted by the time during which its timer stood still, and
    /// its length.
    begun: Option<(Instant, u32)>,
    /// The time since which this side has kept the other side from sending.
    silent: Option<Instant>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

impl End {
    pub(crate) fn new(side: usize, config: Config, queue: &[Message], now: Instant) -> Self {
        let endpoint = if side == INITIATOR {
            Endpoint::initiator(config, now)
        } else {
            Endpoint::acceptor(config, now)
        };
        Self {
            side,
            config,
            endpoint,
            posted: VecDeque::new(),
            inbox: VecDeque::new(),
            held: Vec::new(),
            queue: queue.iter().copied().collect(),
            sending: None,
            expected: VecDeque::new(),
            ended: false,
            truth: Truth {
                start: now,
                negotiate: [false; 2],
                send: 0,
                granted: 0,
                requested: 0,
                granted_ever: false,
                remaining: 0,
                heard: now,
                quiet: now,
                asked: None,
                ask: false,
                answer: false,
                starving: None,
                begun: None,
                silent: None,
            },
        }
    }

    fn established(&self) -> bool {
        self.truth.negotiate == [true; 2]
    }

    /// Returns the number of receives that the endpoint knows of and that no handled message has used.
    pub(crate) fn posted_or_unread(&self) -> usize {
        let unread = self
            .inbox
            .iter()
            .filter(|arrival| matches!(arrival, Arrival::Message(_)));
        self.posted.len() + unread.count()
    }

    /// Returns whether everything that this side should have sent by now has arrived at `other`.
    pub(crate) fn delivered_to(&self, other: &Self, now: Instant) -> bool {
        self.sending.is_none()
            && other.expected.is_empty()
            && self.queue.front().is_none_or(|message| message.at > now)
    }

    /// Returns whether every message that this side has begun has arrived at `other`.
    pub(crate) fn begun_arrived_at(&self, other: &Self) -> bool {
        self.sending.is_none() && other.expected.is_empty()
    }

    pub(crate) fn post(&mut self, free: u16) -> u16 {
        let count = self.endpoint.receives_wanted().min(free);
        let size = self.endpoint.receive_size();
        for _ in 0..count {
            self.posted.push_back(size);
        }
        self.endpoint.handle_receives_posted(count);
        count
    }

    /// Begins the next message, if it is time for one and the endpoint accepts it.
    pub(crate) fn start(&mut self, now: Instant, other: &mut Self) -> bool {
        let due = self
            .queue
            .front()
            .filter(|message| message.at <= now)
            .copied();
        let Some(message) = due else { return false };
        let result = self
            .endpoint
            .start_message(message.length, message.invalidate);
        let may = self.endpoint.state() == State::Established && self.sending.is_none();
        assert_eq!(result.is_ok(), may, "{result:?}");
        if may {
            self.queue.pop_front();
            let start = (message.length as usize * 31 + self.queue.len() * 1009) % (1 << 16);
            let progress = Progress {
                start,
                message,
                done: 0,
            };
            self.sending = Some(progress);
            other.expected.push_back(progress);
        }
        may
    }

    /// Takes the next arrival, which is a message.
    pub(crate) fn handle(&mut self, now: Instant, bytes: &[u8], sum: &mut Summary) {
        let received = match self.endpoint.handle_message(now, bytes) {
            Ok(received) => received,
            Err(error) => panic!("side {} refuses what its peer sent: {error}", self.side),
        };
        if self.endpoint.state() == State::Closed {
            return;
        }
        let truth = &mut self.truth;
        (truth.heard, truth.quiet) = (now, now);
        if !truth.negotiate[1] {
            truth.negotiate[1] = true;
            assert_eq!(received, Received::Negotiate);
            if self.side == INITIATOR {
                truth.send += u32::from(u16_at(bytes, 10));
            }
            let at = if self.side == INITIATOR { 8 } else { 6 };
            truth.requested = u16_at(bytes, at).into();
            return;
        }
        truth.granted = truth
            .granted
            .checked_sub(1)
            .expect("a message beyond the grant");
        let granted = u16_at(bytes, 2);
        truth.send += u32::from(granted);
        truth.requested = u16_at(bytes, 0).into();
        if granted > 0 {
            truth.starving = None;
        }
        truth.asked = None;
        truth.ask = false;
        truth.answer |= u16_at(bytes, 4) & 1 != 0;
        match received {
            Received::Negotiate => panic!("negotiated twice"),
            Received::Credits => assert_eq!(bytes.len(), 20),
            Received::Fragment {
                payload,
                offset,
                total,
            } => {
                let progress = self
                    .expected
                    .front_mut()
                    .expect("a message that was not sent");
                assert_eq!((offset, total), (progress.done, progress.message.length));
                let payload = &bytes[payload.start as usize..payload.end as usize];
                let start = progress.start + offset as usize;
                assert!(
                    payload == &CONTENT[start..start + payload.len()],
                    "wrong bytes"
                );
                progress.done += payload.len() as u32;
                truth.begun.get_or_insert((now, total));
                if progress.done == total {
                    truth.begun = None;
                    self.expected.pop_front();
                    sum.delivered += 1;
                }
            }
        }
        if truth.send > 0 && truth.granted == 0 {
            truth.silent.get_or_insert(now);
        }
    }

    /// Checks a message that is to be sent, and assembles its bytes.
    pub(crate) fn transmit(
        &mut self,
        now: Instant,
        transmit: &Transmit,
        sum: &mut Summary,
    ) -> Vec<u8> {
        let mut bytes = transmit.header().to_vec();
        if self.truth.negotiate[0] {
            assert!(
                self.established(),
                "data before the negotiation is complete"
            );
            self.check_credits(now, &bytes, sum);
            self.check_keepalive(now, &bytes, sum);
            self.check_fragment(transmit, &mut bytes, sum);
        } else {
            self.check_negotiate(now, &bytes);
        }
        bytes
    }

    fn check_negotiate(&mut self, now: Instant, bytes: &[u8]) {
        self.truth.negotiate[0] = true;
        if self.side == INITIATOR {
            assert_eq!(bytes.len(), 20);
            assert!(!self.posted.is_empty(), "no receive for the response");
            return;
        }
        assert!(self.truth.negotiate[1], "a response before the request");
        assert_eq!((bytes.len(), u32_at(bytes, 12)), (32, 0));
        self.truth.granted = u32::from(u16_at(bytes, 10));
        self.truth.granted_ever = true;
        (self.truth.heard, self.truth.quiet) = (now, now);
        assert!(self.truth.granted > 0, "a response without a grant");
        assert!(
            self.truth.granted as usize <= self.posted.len(),
            "over-granted"
        );
    }

    fn check_credits(&mut self, now: Instant, bytes: &[u8], sum: &mut Summary) {
        let granted = u32::from(u16_at(bytes, 2));
        assert_eq!(u16_at(bytes, 0), self.config.send_credit_target.0);
        assert!(self.truth.send > 0, "sent without a credit");
        let room = self.allowance().saturating_sub(self.truth.granted);
        if self.truth.send == 1 {
            assert!(granted > 0, "spent the last credit without a grant");
            sum.last_credits += 1;
        }
        let beyond = u32::from(self.truth.send == 1);
        assert!(
            granted <= room.max(beyond),
            "granted more than the peer asks for"
        );
        self.truth.send -= 1;
        self.truth.granted += granted;
        self.truth.granted_ever |= granted > 0;
        assert!(self.truth.granted_ever, "the peer still cannot send");
        if self.truth.granted > 0 {
            let stood_still = self.truth.silent.take().map(|since| now - since);
            let (begun, time) = (&mut self.truth.begun, stood_still.unwrap_or_default());
            *begun = begun.map(|(begun, length)| (begun + time, length));
            sum.stood_still += usize::from(begun.is_some() && !time.is_zero());
        }
        assert!(
            self.truth.granted as usize <= self.posted_or_unread(),
            "over-granted"
        );
    }

    fn check_keepalive(&mut self, now: Instant, bytes: &[u8], sum: &mut Summary) {
        let flags = u16_at(bytes, 4);
        assert_eq!(
            flags,
            u16::from(self.truth.ask),
            "asks for a message without a reason, or fails to ask"
        );
        if self.truth.ask {
            assert!(now - self.truth.heard >= self.config.idle_timeout);
            sum.asked += 1;
        }
        self.truth.ask = false;
        self.truth.answer = false;
    }

    fn check_fragment(&mut self, transmit: &Transmit, bytes: &mut Vec<u8>, sum: &mut Summary) {
        let (remaining, offset, length) = (u32_at(bytes, 8), u32_at(bytes, 12), u32_at(bytes, 16));
        assert_eq!(length as usize, transmit.payload.len());
        if length == 0 {
            assert_eq!((bytes.len(), remaining, offset), (20, 0, 0));
            assert_eq!(
                self.truth.remaining, 0,
                "an empty message between fragments"
            );
            assert!(!transmit.ends_message && transmit.invalidate.is_none());
            sum.empty += 1;
            return;
        }
        sum.fragments += 1;
        assert_eq!((bytes.len(), offset), (24, 24));
        let progress = self.sending.as_mut().expect("a fragment without a message");
        let message = progress.message;
        assert_eq!(transmit.payload.start, progress.done);
        assert_eq!(remaining, message.length - transmit.payload.end);
        progress.done = transmit.payload.end;
        let start = progress.start + transmit.payload.start as usize;
        bytes.extend_from_slice(&CONTENT[start..start + length as usize]);
        let agreed = self.endpoint.negotiated().expect("established");
        assert!(bytes.len() <= agreed.max_send_size as usize);
        assert!(remaining == 0 || bytes.len() == agreed.max_send_size as usize);
        assert_eq!(transmit.ends_message, remaining == 0);
        assert_eq!(
            transmit.invalidate,
            message.invalidate.filter(|_| remaining == 0)
        );
        sum.invalidated += usize::from(transmit.invalidate.is_some());
        self.truth.remaining = remaining;
        if remaining == 0 {
            self.sending = None;
        }
    }

    /// Tells the endpoint the time. The endpoint must do what the true state requires, and nothing else.
    pub(crate) fn timeout(&mut self, now: Instant, sum: &mut Summary) -> Result<(), ProtocolError> {
        let expected = if self.endpoint.state() == State::Closed {
            Ok(())
        } else if self.starved_until().is_some_and(|until| until <= now) {
            sum.credit_timeouts += 1;
            Err(ProtocolError::CreditTimeout)
        } else if self.late_at().is_some_and(|at| at <= now) {
            sum.message_timeouts += 1;
            Err(ProtocolError::MessageTimeout)
        } else if self.alive_until() > now {
            Ok(())
        } else if !self.established() {
            sum.negotiation_timeouts += 1;
            Err(ProtocolError::NegotiationTimeout)
        } else if self.truth.asked.is_some() {
            sum.keepalive_timeouts += 1;
            Err(ProtocolError::KeepaliveTimeout)
        } else if self.lacks_receives() {
            sum.spared += 1;
            self.truth.ask = true;
            self.truth.quiet = now;
            Ok(())
        } else {
            self.truth.asked = Some(now);
            self.truth.ask = true;
            Ok(())
        };
        let result = self.endpoint.handle_timeout(now);
        assert_eq!(result, expected);
        result
    }

    /// Returns the credits that the peer may hold: as many as it asks for, but at least four.
    fn allowance(&self) -> u32 {
        let max = u32::from(self.config.receive_credit_max.0);
        self.truth.requested.min(max).max(4)
    }

    /// Returns whether the peer cannot send, or cannot be asked, because this side's owner has too few receives.
    fn lacks_receives(&self) -> bool {
        let told = self.truth.granted as usize == self.posted_or_unread();
        self.truth.send > 0 && (self.truth.granted == 0 || self.truth.send == 1 && told)
    }

    /// Returns the time at which the message in reassembly becomes late; `None` if there is none, or if this side keeps
    /// the peer from sending.
    fn late_at(&self) -> Option<Instant> {
        let may_speak = self.truth.silent.is_none();
        let (begun, length) = self.truth.begun.filter(|_| may_speak)?;
        let longer = Duration::from_secs(u64::from(length >> 16));
        Some(begun + self.config.message_timeout + longer)
    }

    fn starved_until(&self) -> Option<Instant> {
        self.truth
            .starving
            .map(|since| since + self.config.credit_timeout)
    }

    fn alive_until(&self) -> Instant {
        match self.truth.asked {
            _ if !self.established() => self.truth.start + self.config.negotiation_timeout,
            None => self.truth.quiet + self.config.idle_timeout,
            Some(asked) => asked + self.config.keepalive_timeout,
        }
    }

    /// Checks that nothing is left to do, after `poll_transmit` has said so.
    pub(crate) fn check_idle(&mut self, now: Instant, sum: &mut Summary) {
        if self.endpoint.state() == State::Closed {
            return;
        }
        let posted = self.posted_or_unread() as u32;
        let allowance = self.allowance();
        let truth = &mut self.truth;
        if self.sending.is_some() && truth.send == 0 && truth.starving.is_none() {
            truth.starving = Some(now);
            sum.starved += 1;
        }
        // Sending is blocked without a credit, or if the last credit would go without a grant.
        let blocked =
            truth.send == 0 || truth.granted == posted && (truth.send == 1 || !truth.granted_ever);
        if !blocked {
            assert!(self.sending.is_none(), "a message waits for nothing");
            assert!(!truth.answer, "the peer waits for an answer");
            assert!(!truth.ask, "the question was not asked");
            assert!(truth.granted > 0 || posted == 0, "the peer starves");
            // The reserve is kept back as long as there is another send credit.
            let ungranted = (posted - truth.granted)
                .saturating_sub(u32::from(truth.send > 1))
                .min(allowance.saturating_sub(truth.granted));
            let low = truth.granted <= (posted.min(allowance) / 4).max(1);
            assert!(
                !low || ungranted < 2,
                "the peer is low on credits and was not granted more"
            );
        }
        self.check();
        let beside = [self.starved_until(), self.late_at()];
        let beside = beside.into_iter().flatten();
        let next = beside.fold(self.alive_until(), Instant::min);
        assert_eq!(self.endpoint.poll_timeout(), Some(next));
        let max = self.config.receive_credit_max.0.max(4);
        assert!(posted <= u32::from(max), "more receives than configured");
    }

    /// Checks that the endpoint's state is the true state.
    pub(crate) fn check(&self) {
        assert_eq!(
            u32::from(self.endpoint.send_credits().0),
            self.truth.send,
            "send credits"
        );
        let granted = u32::from(self.endpoint.receive_credits().0);
        assert_eq!(granted, self.truth.granted, "receive credits");
        assert_eq!(
            usize::from(self.endpoint.receives_posted()),
            self.posted_or_unread()
        );
        assert_eq!(self.endpoint.is_sending(), self.sending.is_some());
    }

    /// Returns the number of credits that a message on its way to the other end costs, and the number that it grants.
    pub(crate) fn cost_and_grant(&self, bytes: &[u8]) -> (u32, u32) {
        match bytes.len() {
            32 if self.side != INITIATOR && u16_at(bytes, 0) == 0x0100 => {
                (0, u16_at(bytes, 10).into())
            }
            20 if self.side == INITIATOR && u16_at(bytes, 0) == 0x0100 => (0, 0),
            _ => (1, u16_at(bytes, 2).into()),
        }
    }

    pub(crate) fn credits(&self) -> (u32, u32) {
        (self.truth.send, self.truth.granted)
    }
}
