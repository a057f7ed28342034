// SPDX-License-Identifier: GPL-2.0-or-later

//! The events of a scenario, all drawn from the seed before it begins.

use std::time::Duration;

use fastrand::Rng;
use smbdirect::proto::Config;
use smbdirect::units::{Credits, Instant, RemoteToken};

/// The acceptor's index in every pair.
pub(crate) const ACCEPTOR: usize = 0;

/// The initiator's index.
pub(crate) const INITIATOR: usize = 1;

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;

/// A scenario.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) configs: [Config; 2],
    /// The number of receive buffers that each owner has.
    pub(crate) buffers: [u16; 2],
    /// The longest time of a message on the link, in nanoseconds.
    pub(crate) delay: u64,
    /// The longest time that an owner takes to look at what has arrived, in nanoseconds.
    pub(crate) slowness: u64,
    /// The longest time for which an owner keeps the buffer of a message after looking at it.
    pub(crate) hold: u64,
    /// What each side sends.
    pub(crate) messages: [Vec<Message>; 2],
    pub(crate) shortages: Vec<Shortage>,
    pub(crate) freezes: Vec<Freeze>,
    pub(crate) cut: Option<Cut>,
    /// The end that closes the connection, and the time.
    pub(crate) close: Option<(usize, Instant)>,
    /// Whether each end changes its request for credits with every message.
    pub(crate) fickle: [bool; 2],
    /// Whether timeouts may happen, because something lasts longer than a peer has to tolerate.
    pub(crate) hard: bool,
    /// The time after which nothing is planned.
    pub(crate) end: Instant,
}

/// An upper-layer message to send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) at: Instant,
    pub(crate) length: u32,
    pub(crate) invalidate: Option<RemoteToken>,
}

/// For a time, an owner has only this many buffers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shortage {
    pub(crate) end: usize,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
    pub(crate) buffers: u16,
}

/// For a time, an owner does not run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freeze {
    pub(crate) end: usize,
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

/// The link stops carrying anything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) at: Instant,
    /// Whether each end learns of the cut from a failed completion.
    pub(crate) told: [bool; 2],
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let configs = [config(&mut rng, 5), config(&mut rng, 120)];
        let delay = *pick(
            &mut rng,
            &[
                MICROSECOND,
                50 * MICROSECOND,
                2 * MILLISECOND,
                20 * MILLISECOND,
            ],
        );
        let mut plan = Self {
            seed,
            configs,
            buffers: [0, 1].map(|_| match rng.u8(..4) {
                0 => rng.u16(2..8),
                1 => rng.u16(4..64),
                _ => 300,
            }),
            delay,
            slowness: if rng.bool() {
                0
            } else {
                rng.u64(1..=delay * 4)
            },
            hold: if rng.bool() {
                0
            } else {
                rng.u64(1..=delay * 10)
            },
            messages: [Vec::new(), Vec::new()],
            shortages: Vec::new(),
            freezes: Vec::new(),
            cut: None,
            close: None,
            fickle: [false; 2],
            hard: false,
            end: Instant::ZERO,
        };
        plan.draw_messages(&mut rng);
        plan.draw_faults(&mut rng);
        if plan.hard {
            let seconds = if seed % 2 == 0 { 3 } else { 30 };
            let timeout = Duration::from_secs(seconds);
            for config in &mut plan.configs {
                config.message_timeout = timeout;
            }
        }
        plan.fickle = [0, 1].map(|_| rng.u8(..6) == 0);
        plan
    }

    /// Draws bursts of messages on either side or both, with idle phases of up to ten minutes in between.
    fn draw_messages(&mut self, rng: &mut Rng) {
        let mut at = 0;
        for _ in 0..rng.u8(1..6) {
            at += match rng.u8(..8) {
                0..3 => rng.u64(..=10 * MILLISECOND),
                3..6 => rng.u64(..=10 * SECOND),
                _ => rng.u64(..=600 * SECOND),
            };
            let sides = rng.u8(1..4);
            for side in [ACCEPTOR, INITIATOR] {
                if sides >> side & 1 == 0 {
                    continue;
                }
                for _ in 0..rng.u8(1..8) {
                    at += rng.u64(..=self.delay * 2) * rng.u64(..2);
                    let message = Message {
                        at: Instant::from_nanos(at),
                        length: self.length(rng, side),
                        invalidate: (rng.u8(..4) == 0).then(|| RemoteToken(rng.u32(..))),
                    };
                    self.messages[side].push(message);
                }
            }
        }
        self.end = Instant::from_nanos(at);
    }

    /// Draws a length around the fragment borders. Few messages are long.
    fn length(&self, rng: &mut Rng, side: usize) -> u32 {
        let payload = self.configs[side]
            .max_send_size
            .min(self.configs[1 - side].max_receive_size)
            - 24;
        let length = match rng.u8(..8) {
            0..3 => rng.u32(1..=100),
            3 => payload,
            4 => payload * rng.u32(1..4) + rng.u32(..3) - 1,
            5 | 6 => rng.u32(1..=payload * 8),
            _ => rng.u32(1..=payload * 64),
        };
        if self.seed % 64 == 0 && rng.u8(..8) == 0 {
            131_072
        } else {
            length.clamp(1, 131_072)
        }
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        let last = self.end.as_nanos();
        for _ in 0..rng.u8(..5) {
            let from = near(rng, last);
            let long = rng.u8(..10) == 0;
            self.hard |= long;
            let length = if long {
                rng.u64(..200 * SECOND)
            } else {
                rng.u64(..2 * SECOND)
            };
            // If each side has one buffer, the only credit goes back and forth, so this must not last long.
            let (buffers, length) = match rng.u8(..4) {
                0 => (1, length.min(MILLISECOND)),
                1 => (rng.u16(2..8), length),
                _ => (0, length),
            };
            self.shortages.push(Shortage {
                end: rng.usize(..2),
                from: Instant::from_nanos(from),
                until: Instant::from_nanos(from + length),
                buffers,
            });
        }
        for _ in 0..rng.u8(..3) {
            let from = near(rng, last);
            let long = rng.u8(..10) == 0;
            self.hard |= long;
            let length = if long {
                rng.u64(..300 * SECOND)
            } else {
                rng.u64(..SECOND)
            };
            self.freezes.push(Freeze {
                end: rng.usize(..2),
                from: Instant::from_nanos(from),
                until: Instant::from_nanos(from + length),
            });
        }
        match rng.u8(..12) {
            0 => {
                let told = [rng.bool(), rng.bool()];
                self.cut = Some(Cut {
                    at: Instant::from_nanos(near(rng, last)),
                    told,
                });
                self.hard |= told != [true, true];
            }
            1 => self.close = Some((rng.usize(..2), Instant::from_nanos(near(rng, last)))),
            _ => {}
        }
        let shortages = self
            .shortages
            .iter()
            .map(|shortage| (shortage.from, shortage.until));
        let freezes = self
            .freezes
            .iter()
            .map(|freeze| (freeze.from, freeze.until));
        let mut together = Duration::ZERO;
        for (from, until) in shortages.chain(freezes) {
            together += until - from;
            self.end = self.end.max(until);
        }
        self.hard |= together > Duration::from_secs(4);
    }
}

/// Draws any time, but often one at the very beginning, during the negotiation.
fn near(rng: &mut Rng, last: u64) -> u64 {
    match rng.u8(..4) {
        0 => 0,
        1 => rng.u64(..=2 * MILLISECOND),
        _ => rng.u64(..=last + 1),
    }
}

fn pick<'a, T>(rng: &mut Rng, choices: &'a [T]) -> &'a T {
    &choices[rng.usize(..choices.len())]
}

fn config(rng: &mut Rng, negotiation: u64) -> Config {
    let credits = |rng: &mut Rng| match rng.u8(..4) {
        0 => Credits(rng.u16(1..4)),
        1 => Credits(rng.u16(1..16)),
        2 => Credits(rng.u16(1..=255)),
        _ => Credits(255),
    };
    let sizes = [128, 129, 200, 512, 1364, 1364, 4096, 8192];
    Config {
        receive_credit_max: credits(rng),
        send_credit_target: credits(rng),
        max_send_size: *pick(rng, &sizes),
        max_receive_size: *pick(rng, &sizes),
        max_fragmented_size: *pick(rng, &[131_072, 173_910, 1 << 20]),
        max_read_write_size: 1 << 20,
        negotiation_timeout: Duration::from_secs(negotiation),
        idle_timeout: Duration::from_secs(*pick(rng, &[120, 120, 20])),
        keepalive_timeout: Duration::from_secs(5),
        credit_timeout: Duration::from_secs(*pick(rng, &[120, 30])),
        // A long message in small fragments takes its time: see `Plan::new`.
        message_timeout: Duration::from_secs(3600),
    }
}
