// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures what a ring between two threads carries, and what its doorbells cost.
//!
//! `cargo bench --bench ring [-- SECONDS]`
//!
//! Two threads stand for two processes: the memory and the system calls are the same. A round trip is two wake-ups.
//! Before a thread rings, it yields its processor for a while, until the other one is asleep. The time runs from the
//! ring until the other thread is awake and has what it was woken for. The benchmark also measures how often both
//! threads really slept in a round trip, which must be close to two. Without the wait before each ring, that number is
//! not close to two, and then bare eventfds and rings cannot be compared, because their threads do not sleep equally
//! often. The kinds take turns in one run, and medians are taken over single round trips: the cost of a wake-up varies
//! on a machine by the hour, but the ratio varies less.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use smbdirect::shm::{Consumer, Doorbell, Entry, Producer, RingMemory, map, ring_length};
use smbdirect::sys::{Bell, EventFd, Memfd, wait_readable};

/// The number of turns in which round trips are measured; each kind runs once per turn.
const TURNS: u32 = 10;

/// How long a thread waits until the other one is asleep.
const HOLD: Duration = Duration::from_micros(100);

fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(1.0));
    for batch in [1, 64] {
        let rate = throughput(batch, time);
        println!(
            "batch {batch:2}: {:7.2} million entries/s, {:6.1} ns each",
            rate / 1e6,
            1e9 / rate
        );
    }
    let mut kinds = [
        ("bare eventfd", Trips::default()),
        ("ring, eventfd", Trips::default()),
        ("ring, Bell", Trips::default()),
    ];
    for _ in 0..TURNS {
        let turn = time / TURNS;
        bare_round_trips(turn, &mut kinds[0].1);
        ring_round_trips(eventfds(), turn, &mut kinds[1].1);
        ring_round_trips(bells(), turn, &mut kinds[2].1);
    }
    let bare = kinds[0].1.part(0.5);
    for (what, mut trips) in kinds {
        println!(
            "round trip, {what:13}: median {:6.2} us (10 % below {:.2}, 10 % above {:.2}), {:4.2} sleeps, \
             {:4.2} times the bare one",
            trips.part(0.5),
            trips.part(0.1),
            trips.part(0.9),
            // Do not count the two sleeps of `hold`.
            trips.sleeps as f64 / trips.times.len() as f64 - 2.0,
            trips.part(0.5) / bare
        );
    }
}

/// The round trips of one kind.
#[derive(Default)]
struct Trips {
    /// The duration of each one, in microseconds.
    times: Vec<f64>,
    /// How often one of the threads yielded its processor because it had to wait.
    sleeps: u64,
}

impl Trips {
    /// Returns the time within which this share of the trips ended.
    fn part(&mut self, part: f64) -> f64 {
        self.times.sort_by(f64::total_cmp);
        self.times[((self.times.len() - 1) as f64 * part) as usize]
    }
}

/// Waits until the other thread is asleep, and returns the time in nanoseconds. It does not spin: if both threads share
/// a processor, the other one could not go to sleep.
fn hold(clock: Instant) -> u64 {
    thread::sleep(HOLD);
    nanos(clock)
}

fn nanos(clock: Instant) -> u64 {
    clock.elapsed().as_nanos() as u64
}

/// Returns how often this thread has slept.
fn sleeps() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").expect("Linux");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok())
        .expect("a number")
}

/// Makes a new ring, mapped twice, as two processes would map it.
fn ring(capacity: u32) -> (RingMemory, RingMemory) {
    let file = Memfd::create("bench", ring_length(capacity).expect("a capacity")).expect("memory");
    let (ours, theirs) = (map(&file).expect("mapped"), map(&file).expect("mapped"));
    let created = RingMemory::create(&ours, capacity).expect("it fits");
    (created, RingMemory::open(&theirs).expect("a ring"))
}

/// Wakes neither thread, because both spin in the throughput test.
struct Silent;

impl Doorbell for Silent {
    fn ring(&self) {}
}

/// Returns the entries per second, without sleep.
fn throughput(batch: usize, time: Duration) -> f64 {
    let (ours, theirs) = ring(1024);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut producer = Producer::new(theirs, Silent);
            let entries = vec![[7; 8]; batch];
            while !stop.load(Ordering::Relaxed) {
                if producer.push(&entries).expect("honest") == 0 {
                    // If the other thread has no processor of its own, it gets this one.
                    thread::yield_now();
                }
            }
        });
        let mut consumer = Consumer::new(ours, Silent);
        let mut entries = vec![[0; 8]; batch];
        let (mut count, start) = (0_usize, Instant::now());
        while start.elapsed() < time {
            for _ in 0..64 {
                match consumer.pop(&mut entries).expect("honest") {
                    0 => thread::yield_now(),
                    popped => count += popped,
                }
            }
        }
        let rate = count as f64 / start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        rate
    })
}

/// Measures round trips with bare eventfds.
fn bare_round_trips(time: Duration, trips: &mut Trips) {
    let new = || EventFd::new().expect("an eventfd");
    let (there, back, stop) = (new(), new(), AtomicBool::new(false));
    let clock = Instant::now();
    // The time of the last ring, and how long the first half of the round trip took.
    let (rung, took) = (AtomicU64::new(0), AtomicU64::new(0));
    let ring = |bell: &EventFd| {
        rung.store(hold(clock), Ordering::Release);
        bell.ring().expect("an eventfd");
    };
    let wait = |bell: &EventFd| {
        wait_readable(bell.as_fd(), None).expect("an eventfd");
        bell.drain().expect("an eventfd");
        nanos(clock) - rung.load(Ordering::Acquire)
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let before = sleeps();
            while !stop.load(Ordering::Relaxed) {
                took.store(wait(&there), Ordering::Release);
                ring(&back);
            }
            sleeps() - before
        });
        let before = sleeps();
        while clock.elapsed() < time {
            ring(&there);
            let there_and_back = wait(&back) + took.load(Ordering::Acquire);
            trips.times.push(there_and_back as f64 / 1e3);
        }
        trips.sleeps += sleeps() - before;
        stop.store(true, Ordering::Relaxed);
        there.ring().expect("an eventfd");
        trips.sleeps += other.join().expect("it ended");
    });
}

/// The doorbells that one thread rings, and for which it waits.
trait Doorbells: Doorbell + Sync + Send {
    fn wake(&self) -> BorrowedFd<'_>;
    fn drain_own(&self);
}

struct EventFds {
    own: EventFd,
    other: EventFd,
}

impl Doorbell for EventFds {
    fn ring(&self) {
        self.other.ring().expect("an eventfd");
    }
}

impl Doorbells for EventFds {
    fn wake(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    fn drain_own(&self) {
        self.own.drain().expect("an eventfd");
    }
}

impl Doorbells for Bell {
    fn wake(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn drain_own(&self) {
        self.drain().expect("a socket");
    }
}

fn eventfds() -> (EventFds, EventFds) {
    let new = || EventFd::new().expect("an eventfd");
    let copy = |bell: &EventFd| bell.try_clone().expect("copied");
    let (one, other) = (new(), new());
    let ours = EventFds {
        own: copy(&one),
        other: copy(&other),
    };
    (
        ours,
        EventFds {
            own: other,
            other: one,
        },
    )
}

fn bells() -> (Bell, Bell) {
    Bell::pair().expect("sockets")
}

struct Ringer<'a, D>(&'a D);

impl<D: Doorbells> Doorbell for Ringer<'_, D> {
    fn ring(&self) {
        self.0.ring();
    }
}

/// Waits for one entry, and sleeps as soon as there is none.
fn receive<D: Doorbells>(consumer: &mut Consumer<Ringer<'_, D>>, bells: &D) -> Entry {
    let mut entry = [[0; 8]];
    while consumer.pop(&mut entry).expect("honest") == 0 {
        bells.drain_own();
        if consumer.announce_sleep().expect("honest") {
            wait_readable(bells.wake(), None).expect("a doorbell");
        }
    }
    entry[0]
}

/// Measures round trips of one entry through two rings. An entry contains the time at which it was sent, and an answer
/// also how long the first half of the round trip took.
fn ring_round_trips<D: Doorbells>((ours, theirs): (D, D), time: Duration, trips: &mut Trips) {
    const STOP: Entry = [u64::MAX; 8];
    let ((there, there2), (back, back2)) = (ring(64), ring(64));
    let clock = Instant::now();
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let before = sleeps();
            let mut consumer = Consumer::new(there2, Ringer(&theirs));
            let mut producer = Producer::new(back2, Ringer(&theirs));
            loop {
                let entry = receive(&mut consumer, &theirs);
                if entry == STOP {
                    return sleeps() - before;
                }
                let took = nanos(clock) - entry[0];
                let answer = [hold(clock), took, 0, 0, 0, 0, 0, 0];
                producer.push(&[answer]).expect("honest");
            }
        });
        let before = sleeps();
        let mut producer = Producer::new(there, Ringer(&ours));
        let mut consumer = Consumer::new(back, Ringer(&ours));
        while clock.elapsed() < time {
            producer.push(&[[hold(clock); 8]]).expect("honest");
            let [rung, took, ..] = receive(&mut consumer, &ours);
            let there_and_back = nanos(clock) - rung + took;
            trips.times.push(there_and_back as f64 / 1e3);
        }
        trips.sleeps += sleeps() - before;
        producer.push(&[STOP]).expect("honest");
        trips.sleeps += other.join().expect("it ended");
    });
}
