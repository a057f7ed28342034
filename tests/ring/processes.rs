// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests two processes: this test, and the same program again, which sends everything back.
//!
//! Each is the producer of one ring and the consumer of the other, and sleeps whenever it finds nothing to do. Entries
//! must come back in order, and neither process may sleep while there is work.

use std::collections::VecDeque;
use std::env;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fastrand::Rng;
use smbdirect::shm::{Consumer, Doorbell, Entry, Producer, RingMemory, map, ring_length};
use smbdirect::sys::{
    Bell, EventFd, Memfd, Memory, Received, Rung, SeqListener, SeqSocket, wait_readable,
};

const CAPACITY: u32 = 32;
const ENTRIES: u64 = 1_000_000;
const SOCKET: &str = "SMBDIRECT_TEST_SOCKET";
/// Longer than anything takes, even on a busy machine.
const FOR_EVER: Duration = Duration::from_secs(60);

/// The doorbells of a process.
trait Doorbells: Doorbell + Sized {
    /// Returns the descriptor that becomes readable when the other side rings.
    fn wake(&self) -> BorrowedFd<'_>;
    fn drain_own(&self);
    /// Makes both ends, and returns the descriptors of the second one.
    fn make() -> (Self, Vec<OwnedFd>);
    fn from_descriptors(descriptors: Vec<OwnedFd>) -> Self;
}

/// A doorbell for each direction.
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

    fn make() -> (Self, Vec<OwnedFd>) {
        let new = || EventFd::new().expect("an eventfd");
        let (own, other) = (new(), new());
        let theirs = [&other, &own].map(|bell| bell.as_fd().try_clone_to_owned().expect("copied"));
        (Self { own, other }, theirs.into())
    }

    fn from_descriptors(descriptors: Vec<OwnedFd>) -> Self {
        let mut bells = descriptors.into_iter().map(EventFd::from);
        let own = bells.next().expect("two");
        let other = bells.next().expect("two");
        Self { own, other }
    }
}

impl Doorbells for Bell {
    fn wake(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn drain_own(&self) {
        assert_ne!(self.drain().expect("a socket"), Rung::Closed);
    }

    fn make() -> (Self, Vec<OwnedFd>) {
        let (ours, theirs) = Self::pair().expect("sockets");
        let theirs = theirs.as_fd().try_clone_to_owned().expect("copied");
        (ours, vec![theirs])
    }

    fn from_descriptors(descriptors: Vec<OwnedFd>) -> Self {
        descriptors.into_iter().next().expect("one").into()
    }
}

/// One process's half of both rings.
struct End<'a, D> {
    producer: Producer<&'a Ringer<D>>,
    consumer: Consumer<&'a Ringer<D>>,
    bells: &'a Ringer<D>,
    sleeps: u64,
}

/// Lets both rings use the same doorbells.
struct Ringer<D>(D);

impl<D: Doorbells> Doorbell for &Ringer<D> {
    fn ring(&self) {
        self.0.ring();
    }
}

impl<D: Doorbells> End<'_, D> {
    /// Sleeps until there may be something to pop or, with `wants_room`, room to push.
    fn sleep(&mut self, wants_room: bool) {
        self.bells.0.drain_own();
        let empty = self.consumer.announce_sleep().expect("honest");
        let full = !wants_room || self.producer.announce_sleep().expect("honest");
        if empty && full {
            self.sleeps += 1;
            let start = Instant::now();
            wait_readable(self.bells.0.wake(), Some(FOR_EVER)).expect("a doorbell");
            assert!(start.elapsed() < FOR_EVER, "a wake-up was lost");
        }
    }
}

fn entry(number: u64) -> Entry {
    std::array::from_fn(|word| number.rotate_left(word as u32 * 8))
}

/// Returns the memory of each ring: the rings lie one after the other.
fn parts(memory: &Memory) -> [Memory; 2] {
    let length = ring_length(CAPACITY).expect("a capacity");
    [0, length].map(|offset| memory.part(offset, length).expect("room for two"))
}

fn run_parent<D: Doorbells>(kind: &str) {
    let name = format!("smbdirect-ring-{kind}-{}", std::process::id());
    let path = env::temp_dir().join(name);
    let _ = std::fs::remove_file(&path);
    let listener = SeqListener::bind(&path).expect("listen");
    let mut child = Command::new(env::current_exe().expect("this program"))
        .args(["--exact", "processes::other_process", "--nocapture"])
        // The report of its test run does not matter, but its errors do.
        .stdout(Stdio::null())
        .env(SOCKET, format!("{kind}:{}", path.display()))
        .spawn()
        .expect("the same program again");
    let socket = accept(&listener, &mut child);
    std::fs::remove_file(&path).expect("it was there");
    let peer = socket.peer_credentials().expect("connected");
    assert_eq!(u32::try_from(peer.process), Ok(child.id()));

    let length = 2 * ring_length(CAPACITY).expect("a capacity");
    let file = Memfd::create("test-rings", length).expect("memory");
    let [there, back] = parts(&map(&file).expect("mapped"));
    let create = |memory| RingMemory::create(memory, CAPACITY).expect("it fits");
    let (there, back) = (create(&there), create(&back));
    let (bells, theirs) = D::make();
    let mut descriptors = vec![file.as_fd()];
    descriptors.extend(theirs.iter().map(AsFd::as_fd));
    socket.send(b"rings", &descriptors).expect("sent");
    drop(descriptors);
    drop(theirs);

    let bells = Ringer(bells);
    let mut end = End {
        producer: Producer::new(there, &bells),
        consumer: Consumer::new(back, &bells),
        bells: &bells,
        sleeps: 0,
    };
    send_and_expect_back(&mut end);
    let (sleeps, status) = (end.sleeps, child.wait().expect("it ran"));
    assert!(status.success(), "{status}");
    println!("{kind}: {ENTRIES} entries there and back, {sleeps} sleeps");
    assert!(sleeps > 100, "hardly any sleep: {sleeps}");
}

fn accept(listener: &SeqListener, child: &mut Child) -> SeqSocket {
    let start = Instant::now();
    loop {
        wait_readable(listener.as_fd(), Some(Duration::from_millis(100))).expect("a socket");
        if let Ok(socket) = listener.accept() {
            return socket;
        }
        let ended = child.try_wait().expect("it ran");
        assert!(ended.is_none() && start.elapsed() < FOR_EVER, "{ended:?}");
    }
}

fn send_and_expect_back<D: Doorbells>(end: &mut End<'_, D>) {
    let mut rng = Rng::with_seed(1);
    let (mut sent, mut expected) = (0, 0);
    let mut entries = [[0; 8]; 16];
    while expected < ENTRIES {
        let batch = rng.u64(1..=16).min(ENTRIES - sent);
        let out: Vec<Entry> = (sent..sent + batch).map(entry).collect();
        let pushed = end.producer.push(&out).expect("honest");
        sent += pushed as u64;
        let room = rng.usize(1..=16);
        let popped = end.consumer.pop(&mut entries[..room]).expect("honest");
        for found in &entries[..popped] {
            assert_eq!(*found, entry(expected));
            expected += 1;
        }
        if pushed + popped == 0 {
            end.sleep(sent < ENTRIES);
        }
    }
}

/// Sends back everything that it gets.
fn run_child<D: Doorbells>(path: PathBuf) {
    let socket = SeqSocket::connect(&path).expect("connect");
    wait_readable(socket.as_fd(), Some(FOR_EVER)).expect("a socket");
    let Received { descriptors, .. } = socket.receive(&mut [0; 16]).expect("a message");
    let mut descriptors = descriptors.into_iter();
    let length = 2 * ring_length(CAPACITY).expect("a capacity");
    let file = Memfd::verify(descriptors.next().expect("memory"), length).expect("sealed");
    let [there, back] = parts(&map(&file).expect("mapped"));
    let bells = Ringer(D::from_descriptors(descriptors.collect()));
    let open = |memory| RingMemory::open(memory).expect("a ring");
    let mut end = End {
        producer: Producer::new(open(&back), &bells),
        consumer: Consumer::new(open(&there), &bells),
        bells: &bells,
        sleeps: 0,
    };
    let mut rng = Rng::with_seed(2);
    let mut waiting = VecDeque::new();
    let (mut received, mut entries) = (0, [[0; 8]; 16]);
    while received < ENTRIES || !waiting.is_empty() {
        let room = rng.usize(1..=16);
        let mut popped = 0;
        if waiting.is_empty() {
            popped = end.consumer.pop(&mut entries[..room]).expect("honest");
            received += popped as u64;
            waiting.extend(&entries[..popped]);
        }
        let pushed = end
            .producer
            .push(waiting.make_contiguous())
            .expect("honest");
        waiting.drain(..pushed);
        if popped + pushed == 0 {
            end.sleep(!waiting.is_empty());
        }
    }
}

/// Does nothing unless another test has started this program.
#[test]
fn other_process() {
    let Ok(value) = env::var(SOCKET) else { return };
    let (kind, path) = value.split_once(':').expect("what and where");
    match kind {
        "eventfd" => run_child::<EventFds>(path.into()),
        _ => run_child::<Bell>(path.into()),
    }
}

#[test]
fn millions_of_entries_come_back_in_order_by_eventfds() {
    run_parent::<EventFds>("eventfd");
}

#[test]
fn millions_of_entries_come_back_in_order_by_bells() {
    run_parent::<Bell>("bell");
}
