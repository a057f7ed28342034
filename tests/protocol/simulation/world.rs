// SPDX-License-Identifier: GPL-2.0-or-later

//! The link, the clock, and the order of events.
//!
//! A step is one event of an end and everything that this end then sends. After each step: no more messages are on
//! their way to an end than it has receives posted (otherwise one would be refused: RNR); both ledgers agree with what
//! is on the link; and nothing that could continue stands still.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::AddAssign;
use std::time::Duration;

use fastrand::Rng;
use smbdirect::proto::State;
use smbdirect::units::Instant;

use super::end::{Arrival, End};
use super::plan::{ACCEPTOR, INITIATOR, Plan};

/// How long a connection without faults may make no progress before it counts as stuck. This is far longer than any
/// delay, and far shorter than any timer that could restart the connection.
const STUCK: Duration = Duration::from_secs(6);

/// How long a scenario continues after the last planned event.
const QUIET: Duration = Duration::from_secs(400);

/// More steps than any scenario takes.
const STEPS: usize = 200_000;

/// Counts of what has happened, over many scenarios.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Summary {
    pub(crate) steps: usize,
    pub(crate) delivered: usize,
    pub(crate) fragments: usize,
    pub(crate) empty: usize,
    pub(crate) asked: usize,
    pub(crate) last_credits: usize,
    pub(crate) invalidated: usize,
    pub(crate) starved: usize,
    pub(crate) short: usize,
    pub(crate) closed: usize,
    pub(crate) negotiation_timeouts: usize,
    pub(crate) keepalive_timeouts: usize,
    pub(crate) credit_timeouts: usize,
    pub(crate) message_timeouts: usize,
    pub(crate) stood_still: usize,
    pub(crate) spared: usize,
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.delivered += other.delivered;
        self.fragments += other.fragments;
        self.empty += other.empty;
        self.asked += other.asked;
        self.last_credits += other.last_credits;
        self.invalidated += other.invalidated;
        self.starved += other.starved;
        self.short += other.short;
        self.closed += other.closed;
        self.negotiation_timeouts += other.negotiation_timeouts;
        self.keepalive_timeouts += other.keepalive_timeouts;
        self.credit_timeouts += other.credit_timeouts;
        self.message_timeouts += other.message_timeouts;
        self.stood_still += other.stood_still;
        self.spared += other.spared;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The first item on the link to this end arrives.
    Arrive(usize),
    /// The owner of this end looks at all arrivals.
    Run(usize),
    Close(usize),
    Cut,
}

#[derive(Debug)]
pub(crate) struct World {
    plan: Plan,
    /// Used only for delays, so that the plan does not depend on what happens.
    rng: Rng,
    now: Instant,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    event_count: u64,
    ends: [End; 2],
    /// The items on their way to each end, in order, and the time at which the last of them arrives.
    links: [VecDeque<Arrival>; 2],
    last_arrival: [Instant; 2],
    /// The time at which the timer of each end will expire.
    armed: [Option<Instant>; 2],
    cut: bool,
    /// Whether an end has vanished, or was told to close.
    broken: bool,
    /// The last time at which there was progress, or at which none could be expected.
    progress: Instant,
    /// The last time at which a fragment was sent or arrived.
    active: Instant,
    /// The number of messages that were sent while there was nothing to do, and of keepalive questions among them.
    quiet_messages: usize,
    quiet_asked: usize,
    sum: Summary,
    verbose: bool,
}

impl World {
    pub(crate) fn new(plan: Plan, verbose: bool) -> Self {
        let now = Instant::from_nanos(0);
        let end = |side: usize| End::new(side, plan.configs[side], &plan.messages[side], now);
        let mut world = Self {
            rng: Rng::with_seed(!plan.seed),
            now,
            events: BinaryHeap::new(),
            event_count: 0,
            ends: [end(ACCEPTOR), end(INITIATOR)],
            links: [VecDeque::new(), VecDeque::new()],
            last_arrival: [now; 2],
            armed: [None; 2],
            cut: false,
            broken: false,
            progress: now,
            active: now,
            quiet_messages: 0,
            quiet_asked: 0,
            sum: Summary::default(),
            verbose,
            plan,
        };
        if verbose {
            println!("{:#?}", world.plan);
        }
        world.schedule_plan();
        world
    }

    fn schedule_plan(&mut self) {
        // A connection is accepted only if a receive is posted for the request.
        self.ends[ACCEPTOR].post(1);
        let mut events = vec![
            (Instant::ZERO, Event::Run(ACCEPTOR)),
            (Instant::ZERO, Event::Run(INITIATOR)),
        ];
        for side in [ACCEPTOR, INITIATOR] {
            events.extend(
                self.plan.messages[side]
                    .iter()
                    .map(|m| (m.at, Event::Run(side))),
            );
        }
        for shortage in &self.plan.shortages {
            events.push((shortage.until, Event::Run(shortage.end)));
        }
        events.extend(
            self.plan
                .freezes
                .iter()
                .map(|f| (f.until, Event::Run(f.end))),
        );
        events.extend(self.plan.close.map(|(side, at)| (at, Event::Close(side))));
        events.extend(self.plan.cut.map(|cut| (cut.at, Event::Cut)));
        for (at, event) in events {
            self.schedule(at, event);
        }
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.event_count += 1;
        self.events.push(Reverse((at, self.event_count, event)));
    }

    /// Runs the scenario to its end. Panics if a rule is broken.
    pub(crate) fn run(mut self) -> Summary {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            if at > self.plan.end.max(self.active) + QUIET || self.ends.iter().all(|end| end.ended)
            {
                break;
            }
            self.sum.steps += 1;
            assert!(self.sum.steps < STEPS, "the scenario does not end");
            self.now = at;
            self.step(event);
            self.check();
        }
        self.check_end();
        self.sum
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive(side) => self.arrive(side),
            Event::Run(side) => self.run_owner(side),
            Event::Close(side) => {
                self.say(side, || "closes".into());
                self.ends[side].endpoint.close();
                self.broken = true;
                self.run_owner(side);
            }
            Event::Cut => {
                self.cut = true;
                self.links.iter_mut().for_each(VecDeque::clear);
                for side in [ACCEPTOR, INITIATOR] {
                    if self.plan.cut.is_some_and(|cut| cut.told[side]) {
                        self.ends[side].inbox.push_back(Arrival::Gone);
                        self.run_owner(side);
                    }
                }
            }
        }
    }

    fn arrive(&mut self, side: usize) {
        // The link is empty after a cut.
        let Some(arrival) = self.links[side].pop_front() else {
            return;
        };
        let end = &mut self.ends[side];
        if end.ended {
            return;
        }
        if let Arrival::Message(bytes) = &arrival {
            let size = end.posted.pop_front().expect("no receive is posted (RNR)");
            assert!(bytes.len() <= size as usize, "the receive is too small");
        }
        end.inbox.push_back(arrival);
        let slowness = self.rng.u64(..=self.plan.slowness);
        self.schedule(self.now + Duration::from_nanos(slowness), Event::Run(side));
    }

    fn run_owner(&mut self, side: usize) {
        if self.ends[side].ended || self.frozen(side) {
            return;
        }
        while let Some(arrival) = self.ends[side].inbox.pop_front() {
            match arrival {
                Arrival::Message(bytes) => self.handle(side, &bytes),
                Arrival::Gone => {
                    self.say(side, || "learns that the connection is gone".into());
                    return self.end(side);
                }
            }
        }
        if let Err(error) = self.ends[side].timeout(self.now, &mut self.sum) {
            self.say(side, || format!("gives up: {error}"));
            assert!(self.plan.hard, "gave up without a reason: {error}");
            assert_eq!(self.ends[side].endpoint.state(), State::Closed);
            return self.end(side);
        }
        self.post(side);
        self.send(side);
        self.ends[side].check_idle(self.now, &mut self.sum);
        if self.ends[side].endpoint.state() == State::Closed {
            self.say(side, || "is closed".into());
            self.sum.closed += 1;
            return self.end(side);
        }
        self.arm(side);
    }

    fn handle(&mut self, side: usize, bytes: &[u8]) {
        let held = self.ends[side].held.len();
        self.say(side, || format!("has {}", describe(bytes)));
        self.ends[side].handle(self.now, bytes, &mut self.sum);
        if bytes.len() > 20 {
            self.progress = self.now;
            self.active = self.now;
        }
        // If few buffers are left, the owner gives them back at once.
        if self.plan.hold > 0 && self.budget(side) >= held + 4 && self.rng.bool() {
            let until = self.now + Duration::from_nanos(self.rng.u64(1..=self.plan.hold));
            self.ends[side].held.push(until);
            self.schedule(until, Event::Run(side));
        }
    }

    fn post(&mut self, side: usize) {
        let now = self.now;
        self.ends[side].held.retain(|&until| until > now);
        let end = &self.ends[side];
        let used = end.posted.len() + end.held.len();
        let free = self.budget(side).saturating_sub(used);
        let wanted = usize::from(end.endpoint.receives_wanted());
        if free < wanted {
            self.sum.short += 1;
        }
        let count = self.ends[side].post(u16::try_from(free).unwrap_or(u16::MAX));
        if count > 0 {
            self.say(side, || format!("posts {count}"));
        }
    }

    fn send(&mut self, side: usize) {
        loop {
            while let Some(transmit) = self.ends[side].endpoint.poll_transmit(self.now) {
                let bytes = self.ends[side].transmit(self.now, &transmit, &mut self.sum);
                self.say(side, || format!("sends {}", describe(&bytes)));
                if !transmit.payload.is_empty() {
                    self.progress = self.now;
                    self.active = self.now;
                } else if self.now > self.plan.end.max(self.active) + STUCK {
                    self.quiet_messages += 1;
                    self.quiet_asked += usize::from(bytes[4]);
                }
                let bytes = self.fickle(side, bytes);
                self.push(1 - side, Arrival::Message(bytes));
            }
            let (acceptor, initiator) = self.ends.split_at_mut(1);
            let (end, other) = match side {
                ACCEPTOR => (&mut acceptor[0], &mut initiator[0]),
                _ => (&mut initiator[0], &mut acceptor[0]),
            };
            if !end.start(self.now, other) {
                break;
            }
        }
    }

    /// Returns the message, which now asks for another number of credits if this side is fickle.
    fn fickle(&mut self, side: usize, mut bytes: Vec<u8>) -> Vec<u8> {
        if self.plan.fickle[side] && self.ends[side].cost_and_grant(&bytes).0 == 1 {
            let requested = [1, 2, 3, 10, 255, u16::MAX][self.rng.usize(..6)];
            bytes[..2].copy_from_slice(&u16::to_le_bytes(requested));
        }
        bytes
    }

    fn push(&mut self, to: usize, arrival: Arrival) {
        if self.cut {
            return;
        }
        let delay = Duration::from_nanos(self.rng.u64(1..=self.plan.delay));
        let at = (self.now + delay).max(self.last_arrival[to]);
        self.last_arrival[to] = at;
        self.links[to].push_back(arrival);
        self.schedule(at, Event::Arrive(to));
    }

    fn end(&mut self, side: usize) {
        self.ends[side].ended = true;
        self.broken = true;
        self.push(1 - side, Arrival::Gone);
    }

    fn arm(&mut self, side: usize) {
        let Some(at) = self.ends[side].endpoint.poll_timeout() else {
            return;
        };
        if self.armed[side].is_none_or(|armed| armed > at || armed <= self.now) {
            self.armed[side] = Some(at);
            self.schedule(at, Event::Run(side));
        }
    }

    /// Returns the number of buffers that the owner has at present.
    fn budget(&self, side: usize) -> usize {
        let shortages = self.plan.shortages.iter();
        let active = shortages
            .filter(|shortage| shortage.end == side)
            .filter(|shortage| shortage.from <= self.now && self.now < shortage.until);
        let least = active.map(|shortage| shortage.buffers).min();
        least
            .unwrap_or(u16::MAX)
            .min(self.plan.buffers[side])
            .into()
    }

    fn frozen(&self, side: usize) -> bool {
        let mut freezes = self.plan.freezes.iter().filter(|freeze| freeze.end == side);
        freezes.any(|freeze| freeze.from <= self.now && self.now < freeze.until)
    }

    fn disturbed(&self) -> bool {
        let shortage = self
            .plan
            .shortages
            .iter()
            .any(|s| s.from <= self.now && self.now <= s.until);
        shortage
            || self
                .plan
                .freezes
                .iter()
                .any(|f| f.from <= self.now && self.now <= f.until)
    }

    fn check(&mut self) {
        for side in [ACCEPTOR, INITIATOR] {
            let (end, peer) = (&self.ends[side], &self.ends[1 - side]);
            if end.ended || self.broken || self.cut {
                continue;
            }
            end.check();
            assert!(
                self.links[side].len() <= end.posted.len(),
                "more messages are on their way than receives are posted (RNR)"
            );
            // The credits that this end has granted are those that the peer holds, those spent on messages that are on
            // their way or not looked at yet, and those in grants that are on their way to the peer.
            let (mut used, mut told) = (0, 0);
            for arrival in self.links[side].iter().chain(&end.inbox) {
                if let Arrival::Message(bytes) = arrival {
                    used += peer.cost_and_grant(bytes).0;
                }
            }
            for arrival in self.links[1 - side].iter().chain(&peer.inbox) {
                if let Arrival::Message(bytes) = arrival {
                    told += end.cost_and_grant(bytes).1;
                }
            }
            assert_eq!(
                end.credits().1,
                peer.credits().0 + used + told,
                "credits were lost"
            );
        }
        self.check_progress();
    }

    fn check_progress(&mut self) {
        let [acceptor, initiator] = &self.ends;
        let done = acceptor.delivered_to(initiator, self.now)
            && initiator.delivered_to(acceptor, self.now);
        if done || self.disturbed() || self.cut || self.broken {
            self.progress = self.now;
        }
        assert!(
            self.now - self.progress < STUCK,
            "there is no more progress"
        );
    }

    fn check_end(&self) {
        let [acceptor, initiator] = &self.ends;
        if self.cut {
            assert!(
                acceptor.ended && initiator.ended,
                "a dead connection was not given up"
            );
            return;
        }
        if !self.broken {
            assert!(
                acceptor.delivered_to(initiator, self.now),
                "not everything has arrived"
            );
            assert!(
                initiator.delivered_to(acceptor, self.now),
                "not everything has arrived"
            );
            assert!(
                self.quiet_messages <= 200,
                "{} messages without a reason",
                self.quiet_messages
            );
            return;
        }
        if let Some((side, _)) = self.plan.close.filter(|_| !self.plan.hard) {
            let (closer, other) = (&self.ends[side], &self.ends[1 - side]);
            assert!(closer.ended && other.ended, "the connection was not closed");
            assert!(
                closer.begun_arrived_at(other),
                "the message in progress was cut off"
            );
        }
    }

    fn say(&self, side: usize, what: impl FnOnce() -> String) {
        if self.verbose {
            let (name, end) = (["acceptor ", "initiator"][side], &self.ends[side]);
            let (send, granted) = (end.endpoint.send_credits(), end.endpoint.receive_credits());
            let posted = end.endpoint.receives_posted();
            let at = self.now.as_nanos() as f64 / 1e9;
            println!(
                "{at:14.9} {name} [send {send} granted {granted} of {posted}] {}",
                what()
            );
        }
    }
}

fn describe(bytes: &[u8]) -> String {
    let number = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    format!(
        "{} bytes, granting {}, flags {}",
        bytes.len(),
        number(2),
        number(4)
    )
}
