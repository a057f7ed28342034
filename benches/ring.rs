//! What a ring between two threads carries, and what its doorbells cost.
//!
//! `cargo bench --bench ring [-- SECONDS]`
//!
//! Two threads stand for two processes: the memory and the system calls are the same. Round trips
//! are compared with those of two threads that do nothing but write and read an eventfd, in turns of
//! the same run: what a machine makes of a wake-up differs by the hour, the ratio less.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use smbdirect::shm::{Consumer, Doorbell, Entry, Producer, RingMemory, map, ring_length};
use smbdirect::sys::{Bell, EventFd, Memfd, wait_readable};

/// Turns in which round trips are measured, each kind once in each.
const TURNS: u32 = 5;

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
    let mut trips = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..TURNS {
        let turn = time / TURNS;
        trips[0].push(bare_round_trip(turn));
        trips[1].push(ring_round_trip(eventfds(), turn));
        trips[2].push(ring_round_trip(bells(), turn));
    }
    let medians = trips.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    for (what, median) in ["bare eventfd", "ring, eventfd", "ring, Bell"]
        .into_iter()
        .zip(medians)
    {
        println!(
            "round trip, both asleep, {what:13}: {median:6.2} us, {:4.2} times the bare one",
            median / medians[0]
        );
    }
}

/// A new ring, mapped twice as by two processes.
fn ring(capacity: u32) -> (RingMemory, RingMemory) {
    let file = Memfd::create("bench", ring_length(capacity).expect("a capacity")).expect("memory");
    let (ours, theirs) = (map(&file).expect("mapped"), map(&file).expect("mapped"));
    let created = RingMemory::create(&ours, capacity).expect("it fits");
    (created, RingMemory::open(&theirs).expect("a ring"))
}

/// Wakes nobody: both threads of the throughput spin.
struct Silent;

impl Doorbell for Silent {
    fn ring(&self) {}
}

/// Entries per second, without sleep.
fn throughput(batch: usize, time: Duration) -> f64 {
    let (ours, theirs) = ring(1024);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut producer = Producer::new(theirs, Silent);
            let entries = vec![[7; 8]; batch];
            while !stop.load(Ordering::Relaxed) {
                if producer.push(&entries).expect("honest") == 0 {
                    // Where the other thread has no processor of its own it gets this one's.
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

/// Microseconds of a round trip by eventfds alone.
fn bare_round_trip(time: Duration) -> f64 {
    let new = || EventFd::new().expect("an eventfd");
    let (there, back, stop) = (new(), new(), AtomicBool::new(false));
    let wait = |bell: &EventFd| {
        wait_readable(bell.as_fd(), None).expect("an eventfd");
        bell.drain().expect("an eventfd");
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                wait(&there);
                back.ring().expect("an eventfd");
            }
        });
        let (mut count, start) = (0, Instant::now());
        while start.elapsed() < time {
            there.ring().expect("an eventfd");
            wait(&back);
            count += 1;
        }
        let elapsed = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        there.ring().expect("an eventfd");
        elapsed.as_secs_f64() * 1e6 / f64::from(count)
    })
}

/// What one thread rings and waits for.
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

/// Waits for one entry, asleep as soon as there is none.
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

/// Microseconds of a round trip of one entry through two rings.
fn ring_round_trip<D: Doorbells>((ours, theirs): (D, D), time: Duration) -> f64 {
    const STOP: Entry = [u64::MAX; 8];
    let ((there, there2), (back, back2)) = (ring(64), ring(64));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut consumer = Consumer::new(there2, Ringer(&theirs));
            let mut producer = Producer::new(back2, Ringer(&theirs));
            loop {
                let entry = receive(&mut consumer, &theirs);
                if entry == STOP {
                    break;
                }
                producer.push(&[entry]).expect("honest");
            }
        });
        let mut producer = Producer::new(there, Ringer(&ours));
        let mut consumer = Consumer::new(back, Ringer(&ours));
        let (mut count, start) = (0_u32, Instant::now());
        while start.elapsed() < time {
            let entry = [u64::from(count); 8];
            producer.push(&[entry]).expect("honest");
            assert_eq!(receive(&mut consumer, &ours), entry);
            count += 1;
        }
        let elapsed = start.elapsed();
        producer.push(&[STOP]).expect("honest");
        elapsed.as_secs_f64() * 1e6 / f64::from(count)
    })
}
