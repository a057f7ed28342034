// SPDX-License-Identifier: GPL-2.0-or-later

//! The kernel's side, for tests in a program: files, locks, work items, pages, and connections to peers.
//!
//! What C passes as pointers are numbers here, except for memory. Locks check that each task takes them in the order of
//! `enum sd_lock_kind`, as lockdep does in a kernel. Work items run when a test [runs](run_work) them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smbdirect::device::abi::Address;
use smbdirect::sys::Memory;

use crate::ffi::{Depths, Event, Request, kind};

/// The number of the work of a posted receive, and of a SEND.
const RECV: u32 = 0;
const SEND: u32 = 1;

/// An event, without its connection.
#[derive(Clone, Copy)]
struct Happened {
    kind: u32,
    work: u32,
    length: u32,
}

#[derive(Default)]
struct Shard {
    number: u64,
    lock: usize,
    events: VecDeque<(usize, Happened)>,
    is_stopped: bool,
}

/// A connection. The peer is the test.
#[derive(Default)]
struct Conn {
    shard: usize,
    key: u64,
    /// What happens while it is in no shard.
    events: VecDeque<Happened>,
    receives: VecDeque<(usize, u32)>,
    sent: VecDeque<Vec<u8>>,
    is_closed: bool,
    peer_port: u16,
}

/// A page. Rings have to be aligned.
#[repr(align(4096))]
#[derive(Clone)]
struct Page {
    _bytes: [u8; 4096],
}

struct Pages {
    references: usize,
    bytes: Box<[Page]>,
}

/// Everything that exists. Numbers are used once, so that nothing is taken for something else.
#[derive(Default)]
struct World {
    last: usize,
    shards: BTreeMap<usize, Shard>,
    conns: BTreeMap<usize, Conn>,
    pages: BTreeMap<usize, Pages>,
    maps: BTreeMap<usize, (usize, usize)>,
    files: BTreeMap<usize, usize>,
    /// The shards that a work item has to run.
    due: BTreeSet<u64>,
    lobby: usize,
    /// The shard that may not go on with a step, if there is one.
    gate: Option<u64>,
    /// The shard with the gate is in a step.
    is_at_gate: bool,
}

static WORLD: LazyLock<Mutex<World>> = LazyLock::new(Mutex::default);
/// Something about the gate has changed.
static GATE: Condvar = Condvar::new();
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

fn world() -> MutexGuard<'static, World> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    fn number(&mut self) -> usize {
        // The numbers are not 0, and are multiples of 8 in case they are taken for pointers.
        self.last += 8;
        self.last
    }

    fn happened(&mut self, conn: usize, event: Happened) {
        let Some(it) = self.conns.get_mut(&conn) else {
            return;
        };
        match self.shards.get_mut(&it.shard) {
            Some(shard) => {
                shard.events.push_back((conn, event));
                if !shard.is_stopped {
                    self.due.insert(shard.number);
                }
            }
            None => it.events.push_back(event),
        }
    }

    /// Checks that the caller holds the lock of a connection's shard.
    fn check(&self, conn: usize) {
        let shard = self.conns[&conn].shard;
        let lock = self.shards[&shard].lock;
        assert!(is_held(lock), "without the lock of the connection's shard");
    }
}

fn event(kind: u32, work: u32, length: u32) -> Happened {
    Happened { kind, work, length }
}

// ---- what tests do

/// Runs the work items that are due, until none is.
pub(crate) fn run_work() -> bool {
    let mut any = false;
    loop {
        let Some(shard) = world().due.pop_first() else {
            return any;
        };
        any = true;
        // SAFETY: the device exists as long as a shard is due.
        unsafe { sde_run(shard) }
    }
}

/// Runs the work item of one shard in a thread of its own, so that no other thread runs it.
pub(crate) fn start_work(shard: u64) -> std::thread::JoinHandle<()> {
    assert!(world().due.remove(&shard), "it is due");
    // SAFETY: the device exists until the thread has ended.
    std::thread::spawn(move || unsafe { sde_run(shard) })
}

/// Makes a file.
pub(crate) fn open() -> usize {
    let mut world = world();
    let number = world.number();
    world.files.insert(number, 1);
    number
}

/// Makes a peer ask for a connection.
pub(crate) fn connect(peer_port: u16) -> usize {
    let mut world = world();
    let (number, shard) = (world.number(), world.lobby);
    let conn = Conn {
        shard,
        peer_port,
        ..Conn::default()
    };
    world.conns.insert(number, conn);
    world.happened(number, event(kind::REQUEST, 0, 0));
    number
}

/// Makes a peer send a message. `false`: no receive is posted.
pub(crate) fn deliver(conn: usize, message: &[u8]) -> bool {
    let mut world = world();
    let it = world.conns.get_mut(&conn).expect("the connection");
    let Some((start, length)) = it.receives.pop_front() else {
        return false;
    };
    assert!(message.len() <= length as usize);
    // SAFETY: the receive's memory is mapped until the receive has ended.
    unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), start as *mut u8, message.len()) }
    world.happened(conn, event(kind::DONE, RECV, message.len() as u32));
    true
}

/// Takes the next message that the peer was sent.
pub(crate) fn sent(conn: usize) -> Option<Vec<u8>> {
    world().conns.get_mut(&conn)?.sent.pop_front()
}

/// Makes a peer end the connection.
pub(crate) fn disconnect(conn: usize) {
    world().happened(conn, event(kind::DOWN, 0, 0));
}

/// Lets nobody finish a step of this shard until [`open_gate`].
pub(crate) fn close_gate(shard: u64) {
    let mut world = world();
    (world.gate, world.is_at_gate) = (Some(shard), false);
}

/// Waits until somebody is in a step of the shard with the gate, and so holds its lock.
pub(crate) fn wait_at_gate() {
    let waited = GATE.wait_timeout_while(world(), Duration::from_secs(60), |it| !it.is_at_gate);
    assert!(waited.is_ok_and(|(world, _)| world.is_at_gate));
}

pub(crate) fn open_gate() {
    world().gate = None;
    GATE.notify_all();
}

/// Returns the memory that `mmap` would map.
pub(crate) fn map(client: *mut c_void, offset: u64, length: usize) -> Option<Memory> {
    // SAFETY: `client` comes from `sde_open`.
    let pages = unsafe { sde_mmap(client, offset, length as u64) } as usize;
    let start = world().pages.get(&pages)?.bytes.as_ptr().cast_mut().cast();
    let start = std::ptr::NonNull::new(start)?;
    // SAFETY: the pages have this length, and live until the reference that `sde_mmap` returned is put.
    Some(unsafe { Memory::foreign((start, length), pages as *mut c_void, sdk_pages_put) })
}

/// Returns how many connections, mappings and shards there are, and how many files and pages.
pub(crate) fn left() -> [usize; 5] {
    let world = world();
    [
        world.conns.len(),
        world.maps.len(),
        world.shards.len(),
        world.files.len(),
        world.pages.len(),
    ]
}

unsafe extern "C" {
    pub(crate) fn sde_init() -> i32;
    pub(crate) fn sde_stop();
    pub(crate) fn sde_exit();
    pub(crate) fn sde_run(shard: u64);
    pub(crate) fn sde_open(file: *mut c_void) -> *mut c_void;
    pub(crate) fn sde_release(client: *mut c_void);
    pub(crate) fn sde_ioctl(
        client: *mut c_void,
        command: u32,
        argument: *mut u8,
        writable: bool,
    ) -> i32;
    fn sde_mmap(client: *mut c_void, offset: u64, length: u64) -> *mut c_void;
}

// ---- what the engine calls

#[unsafe(no_mangle)]
extern "C" fn sdk_log(_: u32, _: *const u8, _: usize) {}

#[unsafe(no_mangle)]
extern "C" fn sdk_random(bytes: *mut u8, length: usize) {
    let number = world().number() as u64;
    for at in 0..length {
        let byte = number.to_le_bytes()[at % 8];
        // SAFETY: the caller has this many bytes.
        unsafe { bytes.add(at).write(byte) }
    }
}

#[unsafe(no_mangle)]
extern "C" fn sdk_now() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// A lock, and the rule for taking it.
struct HostLock {
    kind: u32,
    held: Mutex<bool>,
    free: Condvar,
}

thread_local! {
    /// The locks that this task holds, with their kinds.
    static HELD: RefCell<Vec<(usize, u32)>> = const { RefCell::new(Vec::new()) };
}

fn is_held(lock: usize) -> bool {
    HELD.with_borrow(|held| held.iter().any(|(it, _)| *it == lock))
}

#[unsafe(no_mangle)]
extern "C" fn sdk_lock_new(kind: u32) -> *mut c_void {
    let lock = HostLock {
        kind,
        held: Mutex::new(false),
        free: Condvar::new(),
    };
    Box::into_raw(Box::new(lock)).cast()
}

#[unsafe(no_mangle)]
extern "C" fn sdk_lock_free(lock: *mut c_void) {
    // SAFETY: the pointer comes from `sdk_lock_new`, and nothing uses the lock any longer.
    drop(unsafe { Box::from_raw(lock.cast::<HostLock>()) });
}

#[unsafe(no_mangle)]
extern "C" fn sdk_lock(lock: *mut c_void) -> bool {
    // SAFETY: the lock exists.
    let it = unsafe { &*lock.cast::<HostLock>() };
    HELD.with_borrow_mut(|held| {
        let last = held.last().map(|(_, kind)| *kind);
        assert!(
            last.is_none_or(|last| last < it.kind),
            "{last:?} is held, and {} wanted",
            it.kind
        );
        held.push((lock as usize, it.kind));
    });
    let mut held = it.held.lock().unwrap_or_else(PoisonError::into_inner);
    while *held {
        held = it.free.wait(held).unwrap_or_else(PoisonError::into_inner);
    }
    *held = true;
    true
}

#[unsafe(no_mangle)]
extern "C" fn sdk_unlock(lock: *mut c_void) {
    // SAFETY: the lock exists.
    let it = unsafe { &*lock.cast::<HostLock>() };
    HELD.with_borrow_mut(|held| held.retain(|(other, _)| *other != lock as usize));
    *it.held.lock().unwrap_or_else(PoisonError::into_inner) = false;
    it.free.notify_one();
}

#[unsafe(no_mangle)]
extern "C" fn sdk_parameter(_: u32) -> u64 {
    64 << 20
}

fn check_no_lock() {
    HELD.with_borrow(|held| assert!(held.is_empty(), "a copy under a lock"));
}

#[unsafe(no_mangle)]
extern "C" fn sdk_copy_in(to: *mut u8, from: u64, length: usize) -> i32 {
    check_no_lock();
    // SAFETY: the test has this memory.
    unsafe { std::ptr::copy_nonoverlapping(from as *const u8, to, length) }
    0
}

#[unsafe(no_mangle)]
extern "C" fn sdk_copy_out(to: u64, from: *const u8, length: usize) -> i32 {
    check_no_lock();
    // SAFETY: the test has this memory.
    unsafe { std::ptr::copy_nonoverlapping(from, to as *mut u8, length) }
    0
}

#[unsafe(no_mangle)]
extern "C" fn sdk_pages_new(length: usize, start: *mut *mut u8) -> *mut c_void {
    let mut bytes = vec![Page { _bytes: [0; 4096] }; length.div_ceil(4096)].into_boxed_slice();
    // SAFETY: the caller has room for a pointer.
    unsafe { start.write(bytes.as_mut_ptr().cast()) }
    let mut world = world();
    let number = world.number();
    let pages = Pages {
        references: 1,
        bytes,
    };
    world.pages.insert(number, pages);
    number as *mut c_void
}

#[unsafe(no_mangle)]
extern "C" fn sdk_pages_get(pages: *mut c_void) {
    let mut world = world();
    world
        .pages
        .get_mut(&(pages as usize))
        .expect("pages")
        .references += 1;
}

#[unsafe(no_mangle)]
extern "C" fn sdk_pages_put(pages: *mut c_void) {
    let mut world = world();
    let it = world.pages.get_mut(&(pages as usize)).expect("pages");
    it.references -= 1;
    if it.references == 0 {
        world.pages.remove(&(pages as usize));
    }
}

#[unsafe(no_mangle)]
extern "C" fn sdk_map(
    conn: *mut c_void,
    start: *mut u8,
    length: usize,
    error: *mut i32,
) -> *mut c_void {
    // SAFETY: the caller has room for the error.
    unsafe { error.write(0) }
    let mut world = world();
    world.check(conn as usize);
    let number = world.number();
    world.maps.insert(number, (start as usize, length));
    number as *mut c_void
}

#[unsafe(no_mangle)]
extern "C" fn sdk_unmap(map: *mut c_void) {
    assert!(world().maps.remove(&(map as usize)).is_some());
}

#[unsafe(no_mangle)]
extern "C" fn sdk_shard_new(number: u64, lock: *mut c_void) -> *mut c_void {
    let mut world = world();
    let shard = world.number();
    let it = Shard {
        number,
        lock: lock as usize,
        ..Shard::default()
    };
    world.shards.insert(shard, it);
    if number == 0 {
        world.lobby = shard;
    }
    shard as *mut c_void
}

#[unsafe(no_mangle)]
extern "C" fn sdk_shard_stop(shard: *mut c_void) {
    world()
        .shards
        .get_mut(&(shard as usize))
        .expect("a shard")
        .is_stopped = true;
}

#[unsafe(no_mangle)]
extern "C" fn sdk_shard_free(shard: *mut c_void) {
    let mut world = world();
    let it = world.shards.remove(&(shard as usize)).expect("a shard");
    assert!(it.events.is_empty());
    let mut conns = world.conns.values();
    assert!(
        conns.all(|conn| conn.shard != shard as usize),
        "a shard with connections"
    );
}

#[unsafe(no_mangle)]
extern "C" fn sdk_shard_run(shard: *mut c_void) {
    let mut world = world();
    let it = &world.shards[&(shard as usize)];
    if !it.is_stopped {
        let number = it.number;
        world.due.insert(number);
    }
}

/// No test waits for as long as the device's deadlines.
#[unsafe(no_mangle)]
extern "C" fn sdk_shard_run_after(_: *mut c_void, _: u64) {}

#[unsafe(no_mangle)]
extern "C" fn sdk_events(
    shard: *mut c_void,
    events: *mut Event,
    room: u32,
    more: *mut bool,
) -> u32 {
    let mut world = world();
    let it = &world.shards[&(shard as usize)];
    assert!(is_held(it.lock), "without the shard's lock");
    let number = it.number;
    while world.gate == Some(number) {
        world.is_at_gate = true;
        GATE.notify_all();
        world = GATE.wait(world).unwrap_or_else(PoisonError::into_inner);
    }
    let mut count = 0;
    while count < room {
        let it = world.shards.get_mut(&(shard as usize)).expect("a shard");
        let Some((conn, happened)) = it.events.pop_front() else {
            break;
        };
        let mut event = Event::EMPTY.of(conn, world.conns[&conn].key);
        (event.kind, event.work, event.length) = (happened.kind, happened.work, happened.length);
        // SAFETY: the caller has room for this event.
        unsafe { events.add(count as usize).write(event) }
        count += 1;
    }
    let it = &world.shards[&(shard as usize)];
    // SAFETY: the caller has room for this.
    unsafe { more.write(!it.events.is_empty()) }
    count
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_request(conn: *mut c_void, request: *mut Request) {
    let mut address = [0; 16];
    address[10..].copy_from_slice(&[0xff, 0xff, 10, 0, 0, 1]);
    let mut found = Request::default();
    (found.peer, found.local) = (address, address);
    found.peer_port = world().conns[&(conn as usize)].peer_port;
    found.local_port = 5445;
    (found.responder_resources, found.initiator_depth) = (16, 16);
    // SAFETY: the caller has room for a request.
    unsafe { request.write(found) }
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_setup(conn: *mut c_void, key: u64, depths: *mut Depths) -> i32 {
    let mut world = world();
    world.check(conn as usize);
    world
        .conns
        .get_mut(&(conn as usize))
        .expect("a connection")
        .key = key;
    let all = Depths {
        sends: 128,
        recvs: 320,
        reads: 32,
        initiator_depth: 16,
        responder_resources: 16,
        sends_invalidate: 1,
    };
    // SAFETY: the caller has room for this.
    unsafe { depths.write(all) }
    0
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_accept(conn: *mut c_void, _: u32, _: u32, _: *const u8, _: u32) -> i32 {
    let mut world = world();
    world.check(conn as usize);
    world.happened(conn as usize, event(kind::ESTABLISHED, 0, 0));
    0
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_reject(conn: *mut c_void) {
    sdk_conn_close(conn);
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_close(conn: *mut c_void) {
    let mut world = world();
    world.check(conn as usize);
    let it = world.conns.get_mut(&(conn as usize)).expect("a connection");
    if !std::mem::replace(&mut it.is_closed, true) {
        it.receives.clear();
        world.happened(conn as usize, event(kind::CLOSED, 0, 0));
    }
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_free(conn: *mut c_void) {
    let it = world().conns.remove(&(conn as usize));
    assert!(it.is_some_and(|it| it.is_closed));
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_own(conn: *mut c_void, _: *mut c_void) {
    let mut world = world();
    world.check(conn as usize);
    let shard = &world.shards[&world.conns[&(conn as usize)].shard];
    let number = shard.number;
    world.due.insert(number);
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_leave(conn: *mut c_void) {
    let mut world = world();
    world.check(conn as usize);
    let it = world.conns.get_mut(&(conn as usize)).expect("a connection");
    let shard = std::mem::take(&mut it.shard);
    let shard = world.shards.get_mut(&shard).expect("a shard");
    let all = std::mem::take(&mut shard.events);
    let (own, others) = all.into_iter().partition(|(of, _)| *of == conn as usize);
    let own: VecDeque<(usize, Happened)> = own;
    shard.events = others;
    let it = world.conns.get_mut(&(conn as usize)).expect("a connection");
    it.events.extend(own.into_iter().map(|(_, event)| event));
}

#[unsafe(no_mangle)]
extern "C" fn sdk_conn_join(conn: *mut c_void, shard: *mut c_void, key: u64) {
    let mut world = world();
    assert!(is_held(world.shards[&(shard as usize)].lock));
    let it = world.conns.get_mut(&(conn as usize)).expect("a connection");
    assert_eq!(it.shard, 0);
    (it.shard, it.key) = (shard as usize, key);
    for event in std::mem::take(&mut it.events) {
        world.happened(conn as usize, event);
    }
}

#[unsafe(no_mangle)]
extern "C" fn sdk_post_recv(conn: *mut c_void, map: *mut c_void, offset: u32, length: u32) -> i32 {
    let mut world = world();
    world.check(conn as usize);
    let (start, _) = world.maps[&(map as usize)];
    let it = world.conns.get_mut(&(conn as usize)).expect("a connection");
    it.receives.push_back((start + offset as usize, length));
    0
}

#[unsafe(no_mangle)]
extern "C" fn sdk_post_send(
    conn: *mut c_void,
    header: *const u8,
    header_length: u32,
    map: *mut c_void,
    offset: u32,
    length: u32,
    _: bool,
    _: u32,
) -> i32 {
    let mut world = world();
    world.check(conn as usize);
    // SAFETY: the caller has a header of this length.
    let mut message =
        unsafe { std::slice::from_raw_parts(header, header_length as usize) }.to_vec();
    if length > 0 {
        let (start, _) = world.maps[&(map as usize)];
        let payload = (start + offset as usize) as *const u8;
        // SAFETY: the payload lies in mapped memory.
        message.extend(unsafe { std::slice::from_raw_parts(payload, length as usize) });
    }
    let it = world.conns.get_mut(&(conn as usize)).expect("a connection");
    it.sent.push_back(message);
    world.happened(conn as usize, event(kind::DONE, SEND, 0));
    0
}

/// The peers of these tests have no memory to read or write.
#[unsafe(no_mangle)]
extern "C" fn sdk_post_rdma(
    _: *mut c_void,
    _: bool,
    _: *mut c_void,
    _: u32,
    _: u32,
    _: u64,
    _: u32,
) -> i32 {
    -crate::ffi::EOPNOTSUPP
}

#[unsafe(no_mangle)]
extern "C" fn sdk_listen(_: *mut c_void) -> i32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn sdk_addresses(_: *const c_void, _: *mut Address, _: u32) -> u32 {
    0
}

#[unsafe(no_mangle)]
extern "C" fn sdk_unlisten() {}

#[unsafe(no_mangle)]
extern "C" fn sdk_file_get(file: *mut c_void) {
    *world().files.get_mut(&(file as usize)).expect("a file") += 1;
}

#[unsafe(no_mangle)]
extern "C" fn sdk_file_put(file: *mut c_void) {
    let mut world = world();
    let references = world.files.get_mut(&(file as usize)).expect("a file");
    *references -= 1;
    if *references == 0 {
        world.files.remove(&(file as usize));
    }
}

#[unsafe(no_mangle)]
extern "C" fn sdk_file_net(_: *const c_void) -> u64 {
    1
}

#[unsafe(no_mangle)]
extern "C" fn sdk_file_pid(file: *const c_void) -> u32 {
    file as usize as u32
}

#[unsafe(no_mangle)]
extern "C" fn sdk_file_queue(_: *mut c_void, _: u32, _: *const u32, _: *const u32) {}

#[unsafe(no_mangle)]
extern "C" fn sdk_file_ring(_: *mut c_void) {}

#[unsafe(no_mangle)]
extern "C" fn sdk_file_messages(_: *mut c_void, _: u32) {}

#[unsafe(no_mangle)]
extern "C" fn sdk_file_detached(_: *mut c_void) {}

/// Closes a file.
pub(crate) fn put(file: usize) {
    sdk_file_put(file as *mut c_void);
}

/// A pointer for functions that take none.
pub(crate) const NOTHING: *mut u8 = null_mut();
