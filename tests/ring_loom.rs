// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the ring in every order of two threads' loads and stores that the memory model allows.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release --test ring_loom`
//!
//! This compiles `src/shm/ring.rs` itself, with `map` replaced by a model of the memory: the words are loom's atomics,
//! an entry is a cell in which loom detects two threads at once, and loom knows how to wait for a doorbell. A lost
//! wake-up is a deadlock, which loom reports. The last tests remove the ring's fences and orderings and check that loom
//! notices.

#![cfg(loom)]
#![allow(dead_code, unreachable_pub)]

#[path = "../src/shm/layout.rs"]
mod layout;
#[path = "ring_loom/map.rs"]
mod map;
#[path = "../src/shm/ring.rs"]
mod ring;

use std::sync::Arc;

use layout::Entry;
use loom::model::Builder;
use loom::sync::Notify;
use loom::thread;
use map::{Flaw, RingMemory};
use ring::{Consumer, Doorbell, Producer};

#[derive(Clone, Debug)]
struct LoomBell(Arc<Notify>);

impl LoomBell {
    fn new() -> Self {
        Self(Arc::new(Notify::new()))
    }
}

impl Doorbell for LoomBell {
    fn ring(&self) {
        self.0.notify();
    }
}

fn entry(number: u64) -> Entry {
    [number; 8]
}

/// When the consumer is woken for a push.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wakes {
    AtOnce,
    /// The consumer is woken when the producer is done.
    Late,
    /// The consumer is woken when the producer is done, no matter how the consumer sleeps.
    Deferred,
}

/// Sends `count` entries in batches. Both sides sleep whenever they can.
fn transfer(capacity: u32, count: u64, batch: usize, wakes: Wakes) {
    let memory = RingMemory::new(capacity);
    let (producer_bell, consumer_bell) = (LoomBell::new(), LoomBell::new());
    let mut producer = Producer::new(memory.clone(), consumer_bell.clone());
    let wake_producer = producer_bell.clone();
    let thread = thread::spawn(move || {
        let entries: Vec<Entry> = (0..count).map(entry).collect();
        let mut sent = 0;
        while sent < entries.len() {
            let end = entries.len().min(sent + batch);
            let pushed = match wakes {
                Wakes::AtOnce => producer.push(&entries[sent..end]),
                Wakes::Late => producer.push_quietly(&entries[sent..end]),
                Wakes::Deferred => producer.push_deferred(&entries[sent..end]),
            };
            let pushed = pushed.expect("honest");
            sent += pushed;
            if pushed == 0 {
                producer.wake().expect("honest");
                if producer.announce_sleep().expect("honest") {
                    wake_producer.0.wait();
                }
            }
        }
        producer.wake().expect("honest");
    });
    let mut consumer = Consumer::new(memory, producer_bell);
    let mut expected = 0;
    while expected < count {
        let mut entries = vec![[u64::MAX; 8]; batch];
        let popped = consumer.pop(&mut entries).expect("honest");
        for found in &entries[..popped] {
            assert_eq!(*found, entry(expected));
            expected += 1;
        }
        if popped == 0 {
            let sleeps = match wakes {
                Wakes::AtOnce | Wakes::Deferred => consumer.announce_sleep(),
                Wakes::Late => consumer.announce_deep_sleep(),
            };
            if sleeps.expect("honest") {
                consumer_bell.0.wait();
            }
        }
    }
    thread.join().expect("the producer ended");
}

fn check(flaw: Flaw, preemptions: Option<usize>, capacity: u32, count: u64, batch: usize) {
    check_with(Wakes::AtOnce, flaw, preemptions, (capacity, count, batch));
}

fn check_with(wakes: Wakes, flaw: Flaw, preemptions: Option<usize>, of: (u32, u64, usize)) {
    let (capacity, count, batch) = of;
    let mut builder = Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(move || {
        flaw.set();
        transfer(capacity, count, batch, wakes);
    });
}

#[test]
fn a_consumer_that_is_woken_late_gets_every_entry() {
    check_with(Wakes::Late, Flaw::None, Some(4), (2, 2, 1));
    check_with(Wakes::Late, Flaw::None, Some(3), (1, 2, 1));
    check_with(Wakes::Deferred, Flaw::None, Some(4), (2, 2, 1));
    check_with(Wakes::Deferred, Flaw::None, Some(3), (1, 2, 1));
}

#[test]
fn one_slot_hands_over_every_entry() {
    check(Flaw::None, Some(4), 1, 2, 1);
}

#[test]
fn two_slots_hand_over_every_entry() {
    check(Flaw::None, Some(3), 2, 3, 1);
}

#[test]
fn batches_hand_over_every_entry() {
    check(Flaw::None, Some(3), 2, 4, 2);
}

#[test]
#[should_panic(expected = "deadlock")]
fn without_fences_a_wake_up_is_lost() {
    check(Flaw::NoFence, Some(4), 1, 2, 1);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn without_acquire_and_release_an_entry_is_read_too_early() {
    check(Flaw::AllRelaxed, Some(4), 1, 2, 1);
}
