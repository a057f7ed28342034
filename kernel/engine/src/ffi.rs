// SPDX-License-Identifier: GPL-2.0-or-later

//! The C side of the module: the declarations of `kernel/glue/glue.h`, and safe types for them.
//!
//! Every structure here mirrors one of `glue.h`, field by field. Locks, files, pages, mappings and connections are
//! types that own what they name, so the rest of the crate needs no `unsafe`.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
#[cfg(not(test))]
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ffi::c_void;
use core::fmt;
use core::ops::{Deref, DerefMut};
#[cfg(not(test))]
use core::panic::PanicInfo;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use smbdirect::device::abi::{Address, MAX_ADDRESSES};
use smbdirect::shm::Doorbell;
use smbdirect::sys::Memory;
use smbdirect::units::Instant;
use zerocopy::FromZeros;

use crate::calls;
use crate::device::Device;
use crate::process::Client;

/// An `errno` value.
pub(crate) type Errno = i32;

/// The kinds of [`Event`].
pub(crate) mod kind {
    pub(crate) const REQUEST: u32 = 1;
    pub(crate) const ESTABLISHED: u32 = 2;
    pub(crate) const DOWN: u32 = 3;
    pub(crate) const DONE: u32 = 4;
    pub(crate) const CLOSED: u32 = 5;
}

/// The status of [`kind::DOWN`], if it is not an `errno` value.
pub(crate) mod down {
    pub(crate) const PEER: i32 = 1;
    pub(crate) const REJECTED: i32 = 2;
    pub(crate) const DEVICE: i32 = 3;
}

/// Numbers of the module's parameters.
pub(crate) mod parameter {
    pub(crate) const MAX_CONNECTIONS: u32 = 0;
    pub(crate) const MAX_UNAUTHENTICATED: u32 = 1;
    pub(crate) const MAX_UNDISPATCHED: u32 = 2;
    pub(crate) const MAX_WORKERS: u32 = 3;
    pub(crate) const WORKER_MEMORY: u32 = 4;
    pub(crate) const MEMORY: u32 = 5;
}

/// `struct sd_event`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    conn: *mut c_void,
    pub(crate) key: u64,
    pub(crate) kind: u32,
    pub(crate) work: u32,
    pub(crate) status: i32,
    pub(crate) length: u32,
    pub(crate) token: u32,
    pub(crate) has_token: u32,
}

impl Event {
    pub(crate) const EMPTY: Self = Self {
        conn: null_mut(),
        key: 0,
        kind: 0,
        work: 0,
        status: 0,
        length: 0,
        token: 0,
        has_token: 0,
    };

    /// Returns this event as one of a connection.
    #[cfg(test)]
    pub(crate) fn of(self, conn: usize, key: u64) -> Self {
        let conn = conn as *mut c_void;
        Self { conn, key, ..self }
    }

    /// Returns whether this is an event of that connection.
    pub(crate) fn is_of(&self, conn: &Conn) -> bool {
        self.conn == conn.0.as_ptr()
    }

    /// Returns the connection of a request, which belongs to the caller from now on.
    pub(crate) fn conn(&self) -> Option<Conn> {
        NonNull::new(self.conn).map(Conn)
    }
}

/// `struct sd_request`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Request {
    pub(crate) peer: [u8; 16],
    pub(crate) local: [u8; 16],
    pub(crate) peer_scope: u32,
    pub(crate) local_scope: u32,
    pub(crate) peer_port: u16,
    pub(crate) local_port: u16,
    pub(crate) responder_resources: u8,
    pub(crate) initiator_depth: u8,
    pub(crate) is_iwarp: u8,
    private_data_length: u8,
    private_data: PrivateData,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct PrivateData([u8; 56]);

impl Default for PrivateData {
    fn default() -> Self {
        Self([0; 56])
    }
}

impl Request {
    pub(crate) fn private_data(&self) -> &[u8] {
        let length = usize::from(self.private_data_length);
        self.private_data.0.get(..length).unwrap_or_default()
    }
}

/// `struct sd_depths`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Depths {
    pub(crate) sends: u32,
    pub(crate) recvs: u32,
    pub(crate) reads: u32,
    pub(crate) initiator_depth: u32,
    pub(crate) responder_resources: u32,
    pub(crate) sends_invalidate: u32,
}

unsafe extern "C" {
    #[cfg(not(test))]
    fn sdk_alloc(size: usize, align: usize) -> *mut u8;
    #[cfg(not(test))]
    fn sdk_free(start: *mut u8, size: usize);
    #[cfg(not(test))]
    fn sdk_panic(file: *const u8, length: usize, line: u32) -> !;
    fn sdk_log(level: u32, text: *const u8, length: usize);
    fn sdk_random(bytes: *mut u8, length: usize);
    safe fn sdk_now() -> u64;
    safe fn sdk_lock_new(kind: u32) -> *mut c_void;
    fn sdk_lock_free(lock: *mut c_void);
    fn sdk_lock(lock: *mut c_void) -> bool;
    fn sdk_unlock(lock: *mut c_void);
    safe fn sdk_parameter(number: u32) -> u64;
    fn sdk_copy_in(to: *mut u8, from: u64, length: usize) -> i32;
    fn sdk_copy_out(to: u64, from: *const u8, length: usize) -> i32;

    fn sdk_pages_new(length: usize, start: *mut *mut u8) -> *mut c_void;
    fn sdk_pages_get(pages: *mut c_void);
    fn sdk_pages_put(pages: *mut c_void);
    fn sdk_map(conn: *mut c_void, start: *mut u8, length: usize, error: *mut i32) -> *mut c_void;
    fn sdk_unmap(map: *mut c_void);

    fn sdk_shard_new(number: u64, lock: *mut c_void) -> *mut c_void;
    fn sdk_shard_stop(shard: *mut c_void);
    fn sdk_shard_free(shard: *mut c_void);
    fn sdk_shard_run(shard: *mut c_void);
    fn sdk_shard_run_after(shard: *mut c_void, delay: u64);
    fn sdk_events(shard: *mut c_void, events: *mut Event, room: u32, more: *mut bool) -> u32;
    fn sdk_conn_leave(conn: *mut c_void);
    fn sdk_conn_join(conn: *mut c_void, shard: *mut c_void, key: u64);
    fn sdk_conn_request(conn: *mut c_void, request: *mut Request);
    fn sdk_conn_setup(conn: *mut c_void, key: u64, depths: *mut Depths) -> i32;
    fn sdk_conn_accept(
        conn: *mut c_void,
        responder_resources: u32,
        initiator_depth: u32,
        data: *const u8,
        length: u32,
    ) -> i32;
    fn sdk_conn_reject(conn: *mut c_void);
    fn sdk_conn_close(conn: *mut c_void);
    fn sdk_conn_free(conn: *mut c_void);
    fn sdk_conn_own(conn: *mut c_void, file: *mut c_void);
    fn sdk_post_recv(conn: *mut c_void, map: *mut c_void, offset: u32, length: u32) -> i32;
    fn sdk_post_send(
        conn: *mut c_void,
        header: *const u8,
        header_length: u32,
        map: *mut c_void,
        offset: u32,
        length: u32,
        invalidate: bool,
        token: u32,
    ) -> i32;
    fn sdk_post_rdma(
        conn: *mut c_void,
        read: bool,
        map: *mut c_void,
        offset: u32,
        length: u32,
        address: u64,
        token: u32,
    ) -> i32;
    fn sdk_listen(file: *mut c_void) -> i32;
    fn sdk_addresses(file: *const c_void, addresses: *mut Address, room: u32) -> u32;
    safe fn sdk_unlisten();

    fn sdk_file_get(file: *mut c_void);
    fn sdk_file_put(file: *mut c_void);
    fn sdk_file_net(file: *const c_void) -> u64;
    fn sdk_file_pid(file: *const c_void) -> u32;
    fn sdk_file_queue(file: *mut c_void, queue: u32, producer: *const u32, consumer: *const u32);
    fn sdk_file_ring(file: *mut c_void);
    fn sdk_file_messages(file: *mut c_void, count: u32);
    fn sdk_file_detached(file: *mut c_void);
}

/// Turns `0` or a negative `errno` value into a result.
const fn result(code: i32) -> Result<(), Errno> {
    match code {
        0 => Ok(()),
        code => Err(code.saturating_neg()),
    }
}

// ---- what a program without an operating system must provide

#[cfg(not(test))]
struct Allocator;

// SAFETY: `sdk_alloc` returns null or as many bytes as asked for, aligned as asked for, and nothing else uses them
// until `sdk_free`.
#[cfg(not(test))]
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: `sdk_alloc` accepts any numbers.
        unsafe { sdk_alloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // `sdk_alloc` has rounded the size up to this.
        let size = match layout.align() {
            ..=8 => layout.size(),
            align => layout.size().max(align).next_power_of_two(),
        };
        // SAFETY: the caller promises that `start` comes from `alloc` with this layout.
        unsafe { sdk_free(start, size) }
    }
}

#[cfg(not(test))]
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

#[cfg(not(test))]
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let (file, line) = info
        .location()
        .map_or(("?", 0), |at| (at.file(), at.line()));
    // SAFETY: the pointer and the length are those of `file`.
    unsafe { sdk_panic(file.as_ptr(), file.len(), line) }
}

/// The severity of a line in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    Warning = 1,
    Info = 2,
}

pub(crate) fn write(level: Level, arguments: fmt::Arguments<'_>) {
    let text: String = alloc::fmt::format(arguments);
    // SAFETY: the pointer and the length are those of `text`.
    unsafe { sdk_log(level as u32, text.as_ptr(), text.len()) }
}

/// Logs a line: `log!(Info, "{peer}: ...")`.
macro_rules! log {
    ($level:ident, $($arguments:tt)*) => {
        crate::ffi::write(crate::ffi::Level::$level, format_args!($($arguments)*))
    };
}

pub(crate) use log;

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // SAFETY: the pointer and the length are those of the array.
    unsafe { sdk_random(bytes.as_mut_ptr(), N) }
    bytes
}

/// Returns the time on the clock that the whole device uses.
pub(crate) fn now() -> Instant {
    Instant::from_nanos(sdk_now())
}

pub(crate) fn module_parameter(number: u32) -> u64 {
    sdk_parameter(number)
}

/// Copies from the memory of the process that makes the current call. No lock may be held.
pub(crate) fn copy_in(target: &mut [u8], address: u64) -> Result<(), Errno> {
    // SAFETY: the pointer and the length are those of `target`; the kernel checks the address.
    result(unsafe { sdk_copy_in(target.as_mut_ptr(), address, target.len()) })
}

/// Copies to the memory of the process that makes the current call. No lock may be held.
pub(crate) fn copy_out(address: u64, source: &[u8]) -> Result<(), Errno> {
    // SAFETY: the pointer and the length are those of `source`; the kernel checks the address.
    result(unsafe { sdk_copy_out(address, source.as_ptr(), source.len()) })
}

// ---- locks

/// The engine has failed, so the lock will never be free.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dead;

/// `enum sd_lock_kind`: what a lock guards. A task takes locks in this order, and never two of the same kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Which processes attach, and where the device listens.
    Control = 0,
    /// A shard.
    Shard = 1,
    /// The registry.
    Registry = 2,
    /// One process's or one shard's list.
    Leaf = 3,
}

/// A sleeping lock without a value.
#[derive(Debug)]
pub(crate) struct RawLock(*mut c_void);

impl RawLock {
    pub(crate) fn new(kind: Kind) -> Self {
        Self(sdk_lock_new(kind as u32))
    }
}

impl Drop for RawLock {
    fn drop(&mut self) {
        // SAFETY: the lock is free, because guards borrow the `Lock` that has it.
        unsafe { sdk_lock_free(self.0) }
    }
}

/// A value behind a sleeping lock.
pub(crate) struct Lock<T> {
    lock: RawLock,
    value: UnsafeCell<T>,
}

// SAFETY: only one task at a time reaches the value, and it does not matter which one.
unsafe impl<T> Send for Lock<T> {}
// SAFETY: as for `Send`.
unsafe impl<T> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) fn new(kind: Kind, value: T) -> Self {
        Self::with(RawLock::new(kind), value)
    }

    /// Puts a value behind a lock, which has guarded nothing so far.
    pub(crate) fn with(lock: RawLock, value: T) -> Self {
        Self {
            lock,
            value: UnsafeCell::new(value),
        }
    }

    pub(crate) fn lock(&self) -> Result<Guard<'_, T>, Dead> {
        // SAFETY: the lock lives as long as `self`.
        match unsafe { sdk_lock(self.lock.0) } {
            true => Ok(Guard(self)),
            false => Err(Dead),
        }
    }

    /// Takes a lock under which nothing can fail. If the engine failed while the lock is held, the next caller would
    /// wait for ever.
    pub(crate) fn always(&self) -> Guard<'_, T> {
        loop {
            if let Ok(guard) = self.lock() {
                return guard;
            }
        }
    }
}

impl<T> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

/// The value of a lock that is held.
#[derive(Debug)]
pub(crate) struct Guard<'a, T>(&'a Lock<T>);

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard is borrowed exclusively.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        // SAFETY: `Lock::lock` took it.
        unsafe { sdk_unlock(self.0.lock.0) }
    }
}

// ---- memory

/// Pages that a process can map.
#[derive(Debug)]
pub(crate) struct Pages(NonNull<c_void>);

impl Pages {
    /// Allocates zeroed pages, and also returns them as memory. `None`: memory is short.
    pub(crate) fn make(length: usize) -> Option<(Self, Memory)> {
        let mut start = null_mut();
        // SAFETY: `start` has room for a pointer.
        let pages = NonNull::new(unsafe { sdk_pages_new(length, &mut start) })?;
        let pages = Self(pages);
        let start = NonNull::new(start)?;
        let other = pages.clone();
        let owner = other.0.as_ptr();
        core::mem::forget(other);
        // SAFETY: there are at least `length` bytes, which live until `other`'s reference is put.
        let memory = unsafe { Memory::foreign((start, length), owner, sdk_pages_put) };
        Some((pages, memory))
    }

    /// Hands the reference to C, which puts it.
    fn into_raw(self) -> *mut c_void {
        let raw = self.0.as_ptr();
        core::mem::forget(self);
        raw
    }
}

impl Clone for Pages {
    fn clone(&self) -> Self {
        // SAFETY: `self` holds a reference.
        unsafe { sdk_pages_get(self.0.as_ptr()) }
        Self(self.0)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: `self` holds this reference.
        unsafe { sdk_pages_put(self.0.as_ptr()) }
    }
}

/// Memory that is mapped for DMA by a connection, and that the mapping keeps alive. Drop it before its connection.
#[derive(Debug)]
pub(crate) struct Map {
    raw: NonNull<c_void>,
    memory: Memory,
}

impl Map {
    pub(crate) fn length(&self) -> u64 {
        self.memory.len() as u64
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping has not been unmapped yet, and its connection still exists.
        unsafe { sdk_unmap(self.raw.as_ptr()) }
    }
}

// ---- connections

/// The kernel's side of a shard: the events of its connections, and its work items. Dropping it frees it, so drop it only
/// when no connection is in the shard.
pub(crate) struct Events(NonNull<c_void>);

// SAFETY: any task may call the functions of C, which take their own lock.
unsafe impl Send for Events {}
// SAFETY: as for `Send`.
unsafe impl Sync for Events {}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Makes the kernel's side of the shard with this number, which this lock will guard. New connections are those of
    /// shard 0. `None` never happens.
    pub(crate) fn new(number: u64, lock: &RawLock) -> Option<Self> {
        // SAFETY: C uses the lock only to check that it is held.
        NonNull::new(unsafe { sdk_shard_new(number, lock.0) }).map(Self)
    }

    /// Fills `events` with what has happened to the shard's connections; also returns whether there is more.
    pub(crate) fn take(&self, events: &mut [Event]) -> (usize, bool) {
        let mut more = false;
        // A batch is short, so its length fits in 32 bits.
        let room = events.len() as u32;
        // SAFETY: `events` has room for `room` events; the shard exists until `self` is dropped.
        let count = unsafe { sdk_events(self.0.as_ptr(), events.as_mut_ptr(), room, &mut more) };
        (count as usize, more)
    }

    /// Makes a work item run the shard.
    pub(crate) fn run(&self) {
        // SAFETY: as in `take`.
        unsafe { sdk_shard_run(self.0.as_ptr()) }
    }

    /// Makes a work item run the shard after this time, unless an earlier run is already due.
    pub(crate) fn run_after(&self, time: core::time::Duration) {
        let delay = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: as in `take`.
        unsafe { sdk_shard_run_after(self.0.as_ptr(), delay) }
    }

    /// Keeps work items from running the shard, and waits for those that do. No work item may call this.
    pub(crate) fn stop(&self) {
        // SAFETY: as in `take`.
        unsafe { sdk_shard_stop(self.0.as_ptr()) }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: no connection is in the shard, and nothing uses `self` any longer.
        unsafe { sdk_shard_free(self.0.as_ptr()) }
    }
}

/// A connection of the connection manager. Dropping it frees it, so drop it only after `CLOSED` has come.
#[derive(Debug)]
pub(crate) struct Conn(NonNull<c_void>);

impl Conn {
    pub(crate) fn request(&self) -> Request {
        let mut request = Request::default();
        // SAFETY: the connection exists until `self` is dropped.
        unsafe { sdk_conn_request(self.0.as_ptr(), &mut request) }
        request
    }

    pub(crate) fn setup(&self, key: u64) -> Result<Depths, Errno> {
        let mut depths = Depths::default();
        // SAFETY: as in `request`.
        result(unsafe { sdk_conn_setup(self.0.as_ptr(), key, &mut depths) })?;
        Ok(depths)
    }

    pub(crate) fn accept(
        &self,
        responder_resources: u16,
        initiator_depth: u16,
        data: &[u8],
    ) -> Result<(), Errno> {
        let (ird, ord) = (responder_resources.into(), initiator_depth.into());
        // SAFETY: as in `request`; the pointer and the length are those of `data`.
        result(unsafe {
            sdk_conn_accept(self.0.as_ptr(), ird, ord, data.as_ptr(), data.len() as u32)
        })
    }

    /// Rejects the request and ends the connection: `CLOSED` follows.
    pub(crate) fn reject(&self) {
        // SAFETY: as in `request`.
        unsafe { sdk_conn_reject(self.0.as_ptr()) }
    }

    /// Ends the connection: `CLOSED` follows.
    pub(crate) fn close(&self) {
        // SAFETY: as in `request`.
        unsafe { sdk_conn_close(self.0.as_ptr()) }
    }

    /// From now on the connection's completions wake the process of this file or, with `None`, run a work item.
    pub(crate) fn own(&self, file: Option<&FileRef>) {
        let file = file.map_or(null_mut(), |file| file.0.as_ptr());
        // SAFETY: as in `request`; C takes a reference of its own.
        unsafe { sdk_conn_own(self.0.as_ptr(), file) }
    }

    /// Takes the connection out of its shard.
    pub(crate) fn leave(&self) {
        // SAFETY: as in `request`.
        unsafe { sdk_conn_leave(self.0.as_ptr()) }
    }

    /// Puts the connection into a shard, after it has left another. Its events carry this key from now on.
    pub(crate) fn join(&self, shard: &Events, key: u64) {
        // SAFETY: as in `request`; the shard exists until its connections have left or ended.
        unsafe { sdk_conn_join(self.0.as_ptr(), shard.0.as_ptr(), key) }
    }

    pub(crate) fn map(&self, memory: &Memory) -> Result<Map, Errno> {
        let start = memory.pointer(0, memory.len()).map_err(|_| EINVAL)?;
        let mut error = 0;
        // SAFETY: as in `request`; the bytes live as long as `memory`, and the mapping keeps a clone of it.
        let raw = unsafe { sdk_map(self.0.as_ptr(), start, memory.len(), &mut error) };
        result(error)?;
        let raw = NonNull::new(raw).ok_or(ENOMEM)?;
        let memory = memory.clone();
        Ok(Map { raw, memory })
    }

    pub(crate) fn post_recv(&self, (map, offset, length): (&Map, u32, u32)) -> Result<(), Errno> {
        // SAFETY: as in `request`; the mapping belongs to this connection, and C checks the bounds.
        result(unsafe { sdk_post_recv(self.0.as_ptr(), map.raw.as_ptr(), offset, length) })
    }

    pub(crate) fn post_send(
        &self,
        header: &[u8],
        payload: Option<(&Map, u32, u32)>,
        invalidate: Option<u32>,
    ) -> Result<(), Errno> {
        let (map, offset, length) = payload.map_or((null_mut(), 0, 0), |(map, offset, length)| {
            (map.raw.as_ptr(), offset, length)
        });
        let token = invalidate.unwrap_or(0);
        // SAFETY: as in `post_recv`; C copies the header.
        result(unsafe {
            sdk_post_send(
                self.0.as_ptr(),
                header.as_ptr(),
                header.len() as u32,
                map,
                offset,
                length,
                invalidate.is_some(),
                token,
            )
        })
    }

    pub(crate) fn post_rdma(
        &self,
        read: bool,
        (map, offset, length): (&Map, u32, u32),
        address: u64,
        token: u32,
    ) -> Result<(), Errno> {
        // SAFETY: as in `post_recv`.
        result(unsafe {
            sdk_post_rdma(
                self.0.as_ptr(),
                read,
                map.raw.as_ptr(),
                offset,
                length,
                address,
                token,
            )
        })
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        // SAFETY: `CLOSED` has come, and no mapping of the connection is left.
        unsafe { sdk_conn_free(self.0.as_ptr()) }
    }
}

/// Listens in the network namespace of a file.
pub(crate) fn listen(file: &FileRef) -> Result<(), Errno> {
    // SAFETY: `file` holds a reference.
    result(unsafe { sdk_listen(file.0.as_ptr()) })
}

pub(crate) fn unlisten() {
    sdk_unlisten();
}

// ---- files

/// A reference to an open file of the device, or to one that was open.
pub(crate) struct FileRef(NonNull<c_void>);

// SAFETY: C counts the references atomically, and any task may call the functions of C.
unsafe impl Send for FileRef {}
// SAFETY: as for `Send`.
unsafe impl Sync for FileRef {}

impl Clone for FileRef {
    fn clone(&self) -> Self {
        // SAFETY: `self` holds a reference.
        unsafe { sdk_file_get(self.0.as_ptr()) }
        Self(self.0)
    }
}

impl Drop for FileRef {
    fn drop(&mut self) {
        // SAFETY: `self` holds this reference.
        unsafe { sdk_file_put(self.0.as_ptr()) }
    }
}

impl fmt::Debug for FileRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileRef")
    }
}

impl FileRef {
    /// Returns a number that differs between network namespaces.
    pub(crate) fn net(&self) -> u64 {
        // SAFETY: `self` holds a reference.
        unsafe { sdk_file_net(self.0.as_ptr()) }
    }

    /// Returns the addresses at which clients can reach the device in the file's network namespace. Waits for the lock
    /// of network interfaces.
    pub(crate) fn addresses(&self) -> Vec<Address> {
        let mut addresses = vec![Address::new_zeroed(); MAX_ADDRESSES];
        // SAFETY: `self` holds a reference; the list has room for as many addresses as C may write.
        let count = unsafe {
            sdk_addresses(
                self.0.as_ptr(),
                addresses.as_mut_ptr(),
                MAX_ADDRESSES as u32,
            )
        };
        addresses.truncate(count as usize);
        addresses
    }

    /// Returns the number of the process that opened the file.
    pub(crate) fn pid(&self) -> u32 {
        // SAFETY: `self` holds a reference.
        unsafe { sdk_file_pid(self.0.as_ptr()) }
    }

    /// Tells C that the process has a queue. The queue's completion ring begins at `offset` in `memory`, which must
    /// live as long as the file is open.
    pub(crate) fn set_queue(
        &self,
        queue: u32,
        memory: &Memory,
        offset: usize,
    ) -> Result<(), Errno> {
        const PRODUCER: usize = 128;
        const CONSUMER: usize = 256;
        let at = |word: usize| {
            let pointer = memory.pointer(offset + word, size_of::<u32>());
            pointer.map(|pointer| pointer.cast_const().cast::<u32>())
        };
        let (producer, consumer) = (
            at(PRODUCER).map_err(|_| EINVAL)?,
            at(CONSUMER).map_err(|_| EINVAL)?,
        );
        if queue >= QUEUES || !producer.is_aligned() {
            return Err(EINVAL);
        }
        // SAFETY: `self` holds a reference; both words lie in the memory.
        unsafe { sdk_file_queue(self.0.as_ptr(), queue, producer, consumer) }
        Ok(())
    }

    /// Tells C how many messages the process can read.
    pub(crate) fn set_messages(&self, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        // SAFETY: `self` holds a reference.
        unsafe { sdk_file_messages(self.0.as_ptr(), count) }
    }

    /// Tells C that the process is no longer attached.
    pub(crate) fn set_detached(&self) {
        // SAFETY: `self` holds a reference.
        unsafe { sdk_file_detached(self.0.as_ptr()) }
    }
}

impl Doorbell for FileRef {
    fn ring(&self) {
        // SAFETY: `self` holds a reference.
        unsafe { sdk_file_ring(self.0.as_ptr()) }
    }
}

/// The number of queues of a process.
pub(crate) const QUEUES: u32 = 1;

pub(crate) const EIO: Errno = 5;
pub(crate) const EBADF: Errno = 9;
pub(crate) const ENOMEM: Errno = 12;
pub(crate) const EACCES: Errno = 13;
pub(crate) const EBUSY: Errno = 16;
pub(crate) const ENODEV: Errno = 19;
pub(crate) const EINVAL: Errno = 22;
pub(crate) const ENOTTY: Errno = 25;
pub(crate) const EPIPE: Errno = 32;
pub(crate) const EOPNOTSUPP: Errno = 95;
pub(crate) const ESHUTDOWN: Errno = 108;
pub(crate) const ETIMEDOUT: Errno = 110;
pub(crate) const ECONNABORTED: Errno = 103;
pub(crate) const ECONNRESET: Errno = 104;
pub(crate) const ECONNREFUSED: Errno = 111;
pub(crate) const EAGAIN: Errno = 11;

impl From<Dead> for Errno {
    fn from(_: Dead) -> Self {
        EIO
    }
}

// ---- functions that C calls

/// The device, from `sde_init` to `sde_exit`.
static DEVICE: AtomicPtr<Device> = AtomicPtr::new(null_mut());

/// Returns the device, if it exists. C calls nothing after `sde_exit`.
fn device() -> Option<&'static Device> {
    // SAFETY: the pointer is null or comes from `Box::into_raw`, and only `sde_exit` frees the device.
    unsafe { DEVICE.load(Ordering::Acquire).as_ref() }
}

/// # Safety
///
/// Call it once, before every other entry.
#[unsafe(no_mangle)]
unsafe extern "C" fn sde_init() -> i32 {
    let Some(device) = Device::new() else {
        return -ENOMEM;
    };
    DEVICE.store(Box::into_raw(Box::new(device)), Ordering::Release);
    0
}

/// Ends all connections, as far as they have ended: call it until none is left.
///
/// # Safety
///
/// Call it between `sde_init` and `sde_exit`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sde_stop() {
    if let Some(device) = device() {
        device.stop();
    }
}

/// # Safety
///
/// Call it once, when no other entry but `sde_run` runs or will be called.
#[unsafe(no_mangle)]
unsafe extern "C" fn sde_exit() {
    if let Some(device) = self::device() {
        device.quiet();
    }
    let device = DEVICE.swap(null_mut(), Ordering::AcqRel);
    if !device.is_null() {
        // SAFETY: `device` comes from `Box::into_raw`, and the caller promises that no other entry uses it.
        drop(unsafe { Box::from_raw(device) });
    }
}

/// # Safety
///
/// Call it between `sde_init` and `sde_exit`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sde_run(shard: u64) {
    if let (Some(device), Ok(shard)) = (device(), usize::try_from(shard)) {
        device.run(shard);
    }
}

/// # Safety
///
/// `file` is an open file. The result is for the other entries, until `sde_release`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sde_open(file: *mut c_void) -> *mut c_void {
    let Some(file) = NonNull::new(file) else {
        return null_mut();
    };
    // SAFETY: the caller promises that this is an open file.
    unsafe { sdk_file_get(file.as_ptr()) }
    let client = Box::new(Client::new(FileRef(file)));
    Box::into_raw(client).cast()
}

/// # Safety
///
/// `client` comes from `sde_open`, and no entry uses it now or later.
#[unsafe(no_mangle)]
unsafe extern "C" fn sde_release(client: *mut c_void) {
    // SAFETY: the caller promises that `client` comes from `sde_open` and that no entry uses it.
    let client = unsafe { Box::from_raw(client.cast::<Client>()) };
    if let Some(device) = device() {
        // If the engine has failed, nothing is left to do.
        let _ = device.detach(&client);
    }
}

/// # Safety
///
/// `client` comes from `sde_open`. `argument` has as many bytes as the number of the call says, is aligned to 8, and
/// nothing else uses it.
#[unsafe(no_mangle)]
unsafe extern "C" fn sde_ioctl(
    client: *mut c_void,
    command: u32,
    argument: *mut u8,
    writable: bool,
) -> i32 {
    // SAFETY: the caller promises that `client` comes from `sde_open`.
    let client = unsafe { &*client.cast::<Client>() };
    let length = (command >> 16 & 0x3fff) as usize;
    let argument = match length {
        0 => &mut [][..],
        // SAFETY: the caller promises the length and the alignment, and that nothing else uses the bytes.
        _ => unsafe { core::slice::from_raw_parts_mut(argument, length) },
    };
    let Some(device) = device() else {
        return -ENODEV;
    };
    match calls::call(device, client, command, argument, writable) {
        Ok(()) => 0,
        Err(errno) => -errno,
    }
}

/// # Safety
///
/// `client` comes from `sde_open`.
#[unsafe(no_mangle)]
unsafe extern "C" fn sde_mmap(client: *mut c_void, offset: u64, length: u64) -> *mut c_void {
    // SAFETY: the caller promises that `client` comes from `sde_open`.
    let client = unsafe { &*client.cast::<Client>() };
    client
        .pages(offset, length)
        .map_or(null_mut(), Pages::into_raw)
}

const _: () = {
    assert!(size_of::<Event>() == 40);
    assert!(size_of::<Request>() == 104);
    assert!(size_of::<Depths>() == 24);
    assert!(size_of::<Address>() == 40);
};
