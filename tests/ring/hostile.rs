// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a ring whose other side writes what it likes, wherever and whenever it likes.
//!
//! The ring may return results that an honest other side could have caused, too, or `RingCorrupt`, and from then on
//! always the same error. It must not touch anything outside the ring, panic, loop for ever, or ring a doorbell more
//! often than the ring was used. Run this with an address sanitizer, too.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use smbdirect::shm::{
    Consumer, Entry, FIRST_INDEX, HEADER_LENGTH, Producer, RingCorrupt, RingMemory, map,
    ring_length,
};
use smbdirect::sys::{Memfd, Memory};

use super::Rings;

const GUARD: usize = 64;

/// One side of a ring, which must stay sane.
enum Victim {
    Producer(Producer<Rings>),
    Consumer(Consumer<Rings>),
}

impl Victim {
    fn new(memory: &Memory, producer: bool, bell: &Rings) -> Self {
        let ring = RingMemory::open(memory).expect("a ring");
        if producer {
            Self::Producer(Producer::new(ring, bell.clone()))
        } else {
            Self::Consumer(Consumer::new(ring, bell.clone()))
        }
    }

    /// Makes one call of any kind, and returns how many entries moved.
    fn step(&mut self, rng: &mut Rng) -> Result<usize, RingCorrupt> {
        let mut entries = vec![[7; 8]; rng.usize(0..12)];
        let (moved, most) = match (self, rng.u8(0..6)) {
            (Self::Producer(producer), 0) => {
                let room = producer.room()?;
                assert!(room <= producer.capacity());
                return Ok(0);
            }
            (Self::Producer(producer), 1) => return producer.announce_sleep().map(|_| 0),
            (Self::Producer(producer), 2) => return producer.wake().map(|()| 0),
            (Self::Producer(producer), 3) => {
                (producer.push_quietly(&entries)?, producer.capacity())
            }
            (Self::Consumer(consumer), 2) => return consumer.announce_deep_sleep().map(|_| 0),
            (Self::Consumer(consumer), 0 | 1) => return consumer.announce_sleep().map(|_| 0),
            (Self::Producer(producer), _) => (producer.push(&entries)?, producer.capacity()),
            (Self::Consumer(consumer), _) => (consumer.pop(&mut entries)?, consumer.capacity()),
        };
        assert!(moved <= entries.len() && moved <= most as usize);
        Ok(moved)
    }
}

/// Writes a word somewhere in the ring that begins at `start`.
fn attack(memory: &Memory, start: usize, length: usize, near: &mut u32, rng: &mut Rng) {
    let (offset, value) = match rng.u8(0..8) {
        // Change any word.
        0..2 => (rng.usize(0..length / 4) * 4, rng.u32(..)),
        // Change a word of the header.
        2 => (rng.usize(0..HEADER_LENGTH / 4) * 4, rng.u32(..)),
        // Change a sleep word.
        3 => (*rng.choice(&[384, 512]).expect("two"), rng.u32(0..9)),
        // Change an index to a value that is exactly or almost right.
        _ => {
            *near = near
                .wrapping_add(rng.u32(0..4))
                .wrapping_sub(rng.u32(0..50) / 49 * 4);
            (*rng.choice(&[128, 256]).expect("two"), *near)
        }
    };
    memory
        .write(start + offset, &value.to_ne_bytes())
        .expect("in range");
}

fn one_life(seed: u64) -> Option<&'static str> {
    let mut rng = Rng::with_seed(seed);
    let capacity = 1 << rng.u32(0..5);
    let length = ring_length(capacity).expect("a capacity");
    let all = Memory::zeroed(length + 2 * GUARD);
    all.write(0, &vec![0xaa; length + 2 * GUARD])
        .expect("in range");
    let memory = all.part(GUARD, length).expect("in range");
    RingMemory::create(&memory, capacity).expect("it fits");
    let bell = Rings::default();
    let mut victim = Victim::new(&memory, rng.bool(), &bell);

    let (mut near, mut end) = (FIRST_INDEX, None);
    for step in 0..200 {
        for _ in 0..rng.u32(0..3) {
            attack(&all, GUARD, length, &mut near, &mut rng);
        }
        match (victim.step(&mut rng), end) {
            (Err(corrupt), None) => end = Some(corrupt),
            (result, Some(corrupt)) => assert_eq!(result, Err(corrupt), "seed {seed}"),
            (Ok(_), None) => {}
        }
        assert!(bell.0.get() <= step + 1, "seed {seed}");
    }
    for guard in [0, GUARD + length] {
        let bytes = all.to_vec(guard, GUARD).expect("in range");
        assert_eq!(bytes, [0xaa; GUARD], "seed {seed}");
    }
    end.map(|corrupt| corrupt.name())
}

#[test]
fn random_words_between_steps_end_in_an_error_at_worst() {
    let first = std::env::var("RING_SEED").ok().and_then(|s| s.parse().ok());
    let seeds = first.map_or(0..20_000, |seed: u64| seed..seed + 1);
    let ends: Vec<_> = seeds.map(one_life).collect();
    if first.is_none() {
        for end in [Some("producer_index"), Some("consumer_index"), None] {
            let count = ends.iter().filter(|other| **other == end).count();
            assert!(count > 50, "only {count} lives ended in {end:?}");
        }
    }
}

#[test]
fn random_words_at_any_moment_end_in_an_error_at_worst() {
    let capacity = 16;
    let length = ring_length(capacity).expect("a capacity");
    let file = Memfd::create("test", length).expect("memory");
    // Map the file twice, because another process would have it at its own address.
    let (ours, theirs) = (map(&file).expect("mapped"), map(&file).expect("mapped"));
    let done = AtomicBool::new(false);
    let (mut lives, mut deaths) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut rng, mut near) = (Rng::with_seed(1), FIRST_INDEX);
            while !done.load(Ordering::Relaxed) {
                attack(&theirs, 0, length, &mut near, &mut rng);
            }
        });
        let mut rng = Rng::with_seed(2);
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            // The memory may already hold a ring, which may be corrupt.
            RingMemory::create(&ours, capacity).expect("it fits");
            let bell = Rings::default();
            let Ok(ring) = RingMemory::open(&ours) else {
                continue;
            };
            let mut victim = if rng.bool() {
                Victim::Producer(Producer::new(ring, bell))
            } else {
                Victim::Consumer(Consumer::new(ring, bell))
            };
            lives += 1;
            let corrupt = (0..1000).find_map(|_| victim.step(&mut rng).err());
            deaths += u32::from(corrupt.is_some());
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(deaths > 0, "{lives} lives");
}

/// Returns the result of the other side's next call after the index at `offset` was overwritten. Before that, three
/// entries went in and one came out.
fn after(offset: usize, index: u32) -> Result<usize, RingCorrupt> {
    let memory = Memory::zeroed(ring_length(4).expect("a capacity"));
    let ring = RingMemory::create(&memory, 4).expect("it fits");
    let mut producer = Producer::new(ring.clone(), Rings::default());
    let mut consumer = Consumer::new(ring, Rings::default());
    let entries: [Entry; 4] = [[1; 8]; 4];
    assert_eq!(producer.push(&entries[..3]), Ok(3));
    assert_eq!(consumer.pop(&mut [[0; 8]]), Ok(1));
    assert_eq!(producer.room(), Ok(2));
    let index = FIRST_INDEX.wrapping_add(index).to_ne_bytes();
    memory.write(offset, &index).expect("in range");
    match offset {
        128 => consumer.pop(&mut [[0; 8]; 9]),
        _ => producer.push(&entries),
    }
}

#[test]
fn an_index_may_not_go_back_or_too_far() {
    // The consumer is at 1 and has seen 3. The producer may go from there up to 5.
    for (index, popped) in [(3, 2), (4, 3), (5, 4)] {
        assert_eq!(after(128, index), Ok(popped), "{index}");
    }
    for index in [2, 1, 0, u32::MAX, 6, 7, 1 << 31, (1 << 31) + 3] {
        let corrupt = after(128, index).expect_err("impossible");
        assert_eq!(corrupt.name(), "producer_index", "{index}");
    }
    // The producer is at 3 and has seen the consumer at 1, which may go up to 3.
    for (index, pushed) in [(1, 2), (2, 3), (3, 4)] {
        assert_eq!(after(256, index), Ok(pushed), "{index}");
    }
    for index in [0, u32::MAX, 4, 5, 1 << 31, (1 << 31) + 1] {
        let corrupt = after(256, index).expect_err("impossible");
        assert_eq!(corrupt.name(), "consumer_index", "{index}");
    }
}

#[test]
fn a_side_is_not_deceived_if_its_own_words_are_overwritten() {
    let memory = Memory::zeroed(ring_length(4).expect("a capacity"));
    let ring = RingMemory::create(&memory, 4).expect("it fits");
    let mut producer = Producer::new(ring, Rings::default());
    assert_eq!(producer.push(&[[1; 8]; 3]), Ok(3));
    memory.write(128, &[0xff; 4]).expect("in range");
    memory.write(16, &[0xff; 4]).expect("in range"); // the capacity
    assert_eq!(producer.capacity(), 4);
    assert_eq!(producer.push(&[[2; 8]; 3]), Ok(1));
    let index = memory.to_vec(128, 4).expect("in range");
    assert_eq!(index, FIRST_INDEX.wrapping_add(4).to_ne_bytes());
}
