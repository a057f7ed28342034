// SPDX-License-Identifier: GPL-2.0-or-later

//! The service manager's descriptor store (`sd_notify(3)`, `FileDescriptorStoreMax=` of `systemd.service(5)`), in which
//! a restart leaves its connections.
//!
//! A daemon that stops puts its descriptors in, and the state last. The daemon that starts gets them all, takes them
//! out of the store before it uses them, the state first, and so no later start finds them again: they would have
//! become stale. Before it takes out anything, it handles signals: otherwise, one that stops it would end everything.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fmt};

use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use smbdirect::broker::{Kept, Store, passed_descriptors};
use tracing::{info, warn};

/// The name of the state.
const STATE: &str = "state";

/// Length of the longest list of names that the service manager can pass on, in bytes: a variable of the environment
/// has less than 128 KiB.
const LONGEST_NAMES: usize = (128 << 10) - 64;

/// Maximum number of descriptors that a restart leaves, whatever the store has room for. systemd compares each new
/// descriptor with all that it has, so the time grows with the square of their number; with this many, it is a few
/// seconds, in which everything stands still. `FileDescriptorStoreMax=` of the unit is the same number.
const MOST: usize = 4096;

/// Time that the service manager gets for taking a message, and for emptying the store when the daemon starts.
const SEND_TIME: Duration = Duration::from_secs(2);
const START_TIME: Duration = Duration::from_secs(10);

/// Time that the service manager gets for taking everything, from the first descriptor on; and for giving it up again.
/// Both, and twice `drain_timeout`, are less than `TimeoutStopSec=` of the unit.
const KEEP_TIME: Duration = Duration::from_secs(10);
const UNDO_TIME: Duration = Duration::from_secs(5);

/// The store of this process.
pub(crate) struct FdStore {
    socket: UnixDatagram,
    /// Number of descriptors that it takes.
    limit: usize,
    put: Mutex<Put>,
}

/// What was put in.
#[derive(Default)]
struct Put {
    names: Vec<String>,
    /// Until when the service manager has to have taken everything.
    until: Option<Instant>,
    /// Nothing may be put in any longer, because it was given up.
    is_over: bool,
}

impl fmt::Debug for FdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FdStore").finish_non_exhaustive()
    }
}

impl FdStore {
    /// Returns the store, if the service manager has one for this process. It says so from systemd 254 on.
    pub(crate) fn find() -> Option<Self> {
        // A child of a service inherits the environment, but the store is not the child's.
        let service = env::var("SYSTEMD_EXEC_PID").ok();
        if service.is_some_and(|service| service != std::process::id().to_string()) {
            return None;
        }
        let limit = env::var("FDSTORE").ok()?.parse().ok()?;
        let path = env::var_os("NOTIFY_SOCKET")?;
        let connected = connect(path.as_bytes());
        let socket = connected
            .inspect_err(|error| warn!("no descriptor store: {path:?}: {error}"))
            .ok()?;
        (limit > 0).then_some(Self {
            socket,
            limit,
            put: Mutex::default(),
        })
    }

    /// Puts the state in, after everything else, and waits until the service manager has taken everything.
    ///
    /// # Errors
    ///
    /// The service manager does not take it.
    pub(crate) fn finish(&self, state: BorrowedFd<'_>) -> io::Result<()> {
        self.store(STATE, state)?;
        let until = self.lock().until;
        self.wait(until.unwrap_or_else(|| Instant::now() + KEEP_TIME))
    }

    /// Takes out again what was put in. Nothing can be put in afterwards.
    pub(crate) fn undo(&self) {
        let mut put = self.lock();
        put.is_over = true;
        let names = std::mem::take(&mut put.names);
        drop(put);
        if names.is_empty() {
            return;
        }
        let until = Instant::now() + UNDO_TIME;
        if let Err(error) = self.remove(names.iter().rev().map(String::as_str), until) {
            warn!("cannot empty the descriptor store: {error}");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Put> {
        // The list is consistent at any moment.
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let mut put = self.lock();
        if put.is_over {
            return Err(io::Error::other("the descriptor store was given up"));
        }
        let length: usize = put.names.iter().map(|name| name.len() + 1).sum();
        // What was counted before may have become more.
        self.check(put.names.len() + 1, length + name.len() + 1)?;
        let now = Instant::now();
        if *put.until.get_or_insert(now + KEEP_TIME) <= now {
            return Err(too_slow());
        }
        self.send(
            &format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"),
            &[descriptor],
        )?;
        put.names.push(name.to_owned());
        Ok(())
    }

    /// Checks whether there is room for this many descriptors, and for the list of their names.
    fn check(&self, descriptors: usize, list: usize) -> io::Result<()> {
        let why = if descriptors > MOST {
            format!("a restart keeps at most {MOST} descriptors, and {descriptors} are in use")
        } else if descriptors > self.limit {
            format!(
                "the store has room for {} descriptors, and {descriptors} are in use: raise FileDescriptorStoreMax= \
                 of the unit, up to {MOST}",
                self.limit
            )
        } else if list > LONGEST_NAMES {
            format!(
                "the names of {descriptors} descriptors have {list} bytes, and systemd can pass on {LONGEST_NAMES}"
            )
        } else {
            return Ok(());
        };
        Err(io::Error::other(why))
    }

    fn remove<'a>(&self, names: impl Iterator<Item = &'a str>, until: Instant) -> io::Result<()> {
        for name in names {
            if Instant::now() >= until {
                return Err(too_slow());
            }
            self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])?;
        }
        self.wait(until)
    }

    /// Waits until the service manager has handled everything before, by closing the descriptor that it gets.
    fn wait(&self, until: Instant) -> io::Result<()> {
        let (mut ours, theirs) = UnixStream::pair()?;
        self.send("BARRIER=1\n", &[theirs.as_fd()])?;
        drop(theirs);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(too_slow());
            }
            ours.set_read_timeout(Some(left))?;
            match ours.read(&mut [0]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Err(too_slow()),
                // A signal came. The kernel does not go on by itself with a read that has a timeout (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let bytes = [IoSlice::new(text.as_bytes())];
        rustix::io::retry_on_intr(|| {
            sendmsg(&self.socket, &bytes, &mut control, SendFlags::NOSIGNAL)
        })?;
        Ok(())
    }
}

impl Store for FdStore {
    fn has_room(&self, descriptors: usize, name_bytes: usize) -> io::Result<()> {
        // The state comes last, and a list has a separator after each name.
        self.check(descriptors + 1, name_bytes + descriptors + STATE.len() + 1)
    }

    fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.store(name, descriptor)
    }
}

fn too_slow() -> io::Error {
    io::Error::other("the service manager does not answer in time")
}

fn connect(path: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_write_timeout(Some(SEND_TIME))?;
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Descriptors with their names.
type Passed = Vec<(String, OwnedFd)>;

/// Returns what an earlier daemon has left in the store. The store still has all of it. Call this before anything else
/// opens a descriptor.
pub(crate) fn passed() -> Passed {
    let passed = passed_descriptors().inspect_err(|error| {
        warn!("the descriptors of the service manager cannot be taken: {error}");
    });
    passed.unwrap_or_default()
}

/// Empties the store, from which these descriptors come. Returns `None` if there is nothing that can be continued; the
/// log then says why.
///
/// Call this only while signals that stop the daemon are handled.
pub(crate) fn take(store: Option<&FdStore>, passed: Passed) -> Option<Kept> {
    if passed.is_empty() {
        return None;
    }
    let Some(store) = store else {
        // The next start would find them again, and continue from a state that is over.
        let count = passed.len();
        warn!(
            "connections end with this restart: closes {count} descriptors of the service manager, which says nothing of \
             a store (FDSTORE, NOTIFY_SOCKET) that could be emptied"
        );
        Kept::discard(passed);
        return None;
    };
    // Without its state, nothing else can be continued: a daemon that is killed from now on loses the connections.
    let names = passed.iter().map(|(name, _)| name.as_str());
    let others = names.filter(|name| *name != STATE);
    let until = Instant::now() + START_TIME;
    let removed = store.remove([STATE].into_iter().chain(others), until);
    if let Err(error) = removed {
        warn!("connections end with this restart: the descriptor store cannot be emptied: {error}");
        Kept::discard(passed);
        return None;
    }
    let mut others = passed;
    let state = others.iter().position(|(name, _)| name == STATE);
    let Some((_, state)) = state.map(|place| others.swap_remove(place)) else {
        let count = others.len();
        warn!("closes {count} descriptors of the service manager, which come without a state");
        Kept::discard(others);
        return None;
    };
    let kept = Kept::read(state, others.into_iter().collect());
    let kept = kept.inspect_err(|why| warn!("connections end with this restart: {why}"));
    let kept = kept.ok()?;
    info!("continues where smbdirectd stood still");
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(limit: usize) -> (FdStore, UnixDatagram) {
        let (socket, manager) = UnixDatagram::pair().unwrap();
        let store = FdStore {
            socket,
            limit,
            put: Mutex::default(),
        };
        (store, manager)
    }

    #[test]
    fn has_room_for_as_many_as_systemd_takes_in_time_and_can_name() {
        let (large, _manager) = store(2 * MOST);
        assert!(large.has_room(MOST - 1, 10).is_ok());
        let error = large.has_room(MOST, 10).unwrap_err().to_string();
        assert!(error.contains("at most 4096 descriptors"), "{error}");
        let error = large.has_room(1000, LONGEST_NAMES).unwrap_err().to_string();
        assert!(error.contains("systemd can pass on"), "{error}");
        let (small, _manager) = store(100);
        assert!(small.has_room(99, 10).is_ok());
        let error = small.has_room(100, 10).unwrap_err().to_string();
        assert!(error.contains("raise FileDescriptorStoreMax="), "{error}");
    }

    #[test]
    fn takes_nothing_after_it_was_given_up() {
        let (store, _manager) = store(100);
        let (descriptor, _other) = UnixStream::pair().unwrap();
        store.put("c0-0", descriptor.as_fd()).unwrap();
        // Otherwise, this would wait for a service manager.
        store.lock().names.clear();
        store.undo();
        let error = store.put("c0-1", descriptor.as_fd()).unwrap_err();
        assert!(error.to_string().contains("given up"), "{error}");
        let error = store.finish(descriptor.as_fd()).unwrap_err();
        assert!(error.to_string().contains("given up"), "{error}");
    }

    #[test]
    fn gives_up_when_the_time_for_all_descriptors_is_over() {
        let (store, _manager) = store(100);
        let (descriptor, _other) = UnixStream::pair().unwrap();
        store.lock().until = Some(Instant::now());
        let error = store.put("c0-0", descriptor.as_fd()).unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
    }

    /// The unit is a part of the package, and says what the texts here say.
    #[test]
    fn the_unit_agrees_with_the_limits() {
        let unit = include_str!("../../../contrib/smbdirectd.service");
        let value = |key: &str| {
            let line = unit.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap().trim_end_matches('s').parse::<u64>().unwrap()
        };
        assert_eq!(value("FileDescriptorStoreMax="), MOST as u64);
        let drain = smbdirect::broker::Config::default().drain_timeout;
        // Each time may be exceeded by one message that the service manager does not take.
        let longest = 2 * drain + KEEP_TIME + UNDO_TIME + 3 * SEND_TIME;
        assert!(longest < Duration::from_secs(value("TimeoutStopSec=")));
    }
}
