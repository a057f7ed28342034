// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs one list of operations on a ring and on a queue that is obviously correct.

use std::collections::VecDeque;

use proptest::prelude::*;
use smbdirect::shm::{Consumer, Entry, Producer, RingCorrupt, RingMemory, ring_length};
use smbdirect::sys::Memory;

use super::Rings;

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    PushQuietly(usize),
    PushDeferred(usize),
    Wake,
    Pop(usize),
    Room,
    ProducerSleeps,
    ConsumerSleeps { deeply: bool },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..20usize).prop_map(Op::Push),
        2 => (0..20usize).prop_map(Op::PushQuietly),
        2 => (0..20usize).prop_map(Op::PushDeferred),
        1 => Just(Op::Wake),
        4 => (0..20usize).prop_map(Op::Pop),
        1 => Just(Op::Room),
        1 => Just(Op::ProducerSleeps),
        2 => any::<bool>().prop_map(|deeply| Op::ConsumerSleeps { deeply }),
    ]
}

/// A model of the ring.
#[derive(Default)]
struct Oracle {
    capacity: usize,
    queue: VecDeque<u64>,
    next: u64,
    /// Whether each side sleeps and has not been rung for since then.
    producer_waits: bool,
    consumer_waits: bool,
    consumer_is_deep: bool,
    /// How many times each side was rung for.
    producer_rung: u32,
    consumer_rung: u32,
}

struct Ring {
    producer: Producer<Rings>,
    consumer: Consumer<Rings>,
    producer_bell: Rings,
    consumer_bell: Rings,
}

impl Ring {
    fn new(capacity: u32) -> Self {
        let memory = Memory::zeroed(ring_length(capacity).expect("a capacity"));
        let created = RingMemory::create(&memory, capacity).expect("it fits");
        let opened = RingMemory::open(&memory).expect("just created");
        let (producer_bell, consumer_bell) = (Rings::default(), Rings::default());
        Self {
            producer: Producer::new(created, consumer_bell.clone()),
            consumer: Consumer::new(opened, producer_bell.clone()),
            producer_bell,
            consumer_bell,
        }
    }
}

fn entry(number: u64) -> Entry {
    std::array::from_fn(|word| number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word as u64)
}

impl Oracle {
    fn apply(&mut self, ring: &mut Ring, op: &Op) {
        match *op {
            Op::Push(wanted) => {
                if self.push(ring, wanted, Producer::push) > 0 {
                    self.wake_consumer();
                }
            }
            Op::PushQuietly(wanted) => {
                if self.push(ring, wanted, Producer::push_quietly) > 0 && !self.consumer_is_deep {
                    self.wake_consumer();
                }
            }
            Op::PushDeferred(wanted) => {
                self.push(ring, wanted, Producer::push_deferred);
            }
            Op::Wake => {
                assert_eq!(ring.producer.wake(), Ok(()));
                if !self.queue.is_empty() {
                    self.wake_consumer();
                }
            }
            Op::Pop(wanted) => self.pop(ring, wanted),
            Op::Room => {
                let room = self.capacity - self.queue.len();
                assert_eq!(ring.producer.room(), Ok(room as u32));
            }
            Op::ProducerSleeps => {
                let full = self.queue.len() == self.capacity;
                assert_eq!(ring.producer.announce_sleep(), Ok(full));
                self.producer_waits = true;
            }
            Op::ConsumerSleeps { deeply } => {
                let empty = self.queue.is_empty();
                let announced = if deeply {
                    ring.consumer.announce_deep_sleep()
                } else {
                    ring.consumer.announce_sleep()
                };
                assert_eq!(announced, Ok(empty));
                self.consumer_waits = true;
                self.consumer_is_deep = deeply;
            }
        }
        assert_eq!(ring.producer_bell.0.get(), self.producer_rung);
        assert_eq!(ring.consumer_bell.0.get(), self.consumer_rung);
    }

    fn wake_consumer(&mut self) {
        self.consumer_rung += u32::from(std::mem::take(&mut self.consumer_waits));
    }

    fn push(
        &mut self,
        ring: &mut Ring,
        wanted: usize,
        push: fn(&mut Producer<Rings>, &[Entry]) -> Result<usize, RingCorrupt>,
    ) -> usize {
        let entries: Vec<Entry> = (self.next..).take(wanted).map(entry).collect();
        let count = wanted.min(self.capacity - self.queue.len());
        assert_eq!(push(&mut ring.producer, &entries), Ok(count));
        self.queue.extend((self.next..).take(count));
        self.next += count as u64;
        self.producer_waits = false;
        count
    }

    fn pop(&mut self, ring: &mut Ring, wanted: usize) {
        const UNTOUCHED: Entry = [0xdead_beef; 8];
        let mut entries = vec![UNTOUCHED; wanted];
        let count = wanted.min(self.queue.len());
        assert_eq!(ring.consumer.pop(&mut entries), Ok(count));
        let expected: Vec<Entry> = self.queue.drain(..count).map(entry).collect();
        assert_eq!(entries[..count], expected);
        assert!(entries[count..].iter().all(|entry| *entry == UNTOUCHED));
        self.consumer_waits = false;
        if count > 0 && std::mem::take(&mut self.producer_waits) {
            self.producer_rung += 1;
        }
    }
}

proptest! {
    // Rings begin 256 before the last index, so most of these lists of operations go past that
    // index.
    #[test]
    fn a_ring_is_a_queue_and_rings_once_for_each_sleep(
        power in 0..5u32,
        ops in prop::collection::vec(op(), 0..300),
    ) {
        let capacity = 1 << power;
        let mut ring = Ring::new(capacity);
        let mut oracle = Oracle { capacity: capacity as usize, ..Oracle::default() };
        for op in &ops {
            oracle.apply(&mut ring, op);
        }
    }
}

#[test]
fn goes_past_the_last_index() {
    for capacity in [1, 2, 64, 1024] {
        let mut ring = Ring::new(capacity);
        let mut oracle = Oracle {
            capacity: capacity as usize,
            ..Oracle::default()
        };
        for _ in 0..2000 {
            oracle.apply(&mut ring, &Op::Push(3));
            oracle.apply(&mut ring, &Op::Pop(2));
        }
        assert!(oracle.next > 1000);
    }
}
