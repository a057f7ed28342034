// SPDX-License-Identifier: GPL-2.0-or-later

//! The service manager's descriptor store (`sd_notify(3)`, `FileDescriptorStoreMax=` of `systemd.service(5)`), in which
//! a restart leaves its connections.
//!
//! A daemon that stops puts its descriptors in, and the state last. The daemon that starts gets them all, takes them
//! out of the store before it uses them, the state first, and so no later start finds them again: they would have
//! become stale.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
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

/// Time that the service manager gets for taking a descriptor, and for taking all of them.
const SEND_TIME: Duration = Duration::from_secs(2);
const BARRIER_TIME: Duration = Duration::from_secs(10);

/// The store of this process.
pub(crate) struct FdStore {
    socket: UnixDatagram,
    /// Number of descriptors that it takes.
    limit: usize,
    put: Mutex<Vec<String>>,
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
        self.store(STATE, state, self.limit)?;
        self.wait()
    }

    /// Takes out again what was put in.
    pub(crate) fn undo(&self) {
        let names = std::mem::take(&mut *self.names());
        if let Err(error) = self.remove(names.iter().rev().map(String::as_str)) {
            warn!("cannot empty the descriptor store: {error}");
        }
    }

    fn names(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        // The list is consistent at any moment.
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(&self, name: &str, descriptor: BorrowedFd<'_>, limit: usize) -> io::Result<()> {
        let mut names = self.names();
        let length: usize = names.iter().map(|name| name.len() + 1).sum();
        if names.len() >= limit {
            let why = format!(
                "the store has room for {} (FileDescriptorStoreMax=)",
                self.limit
            );
            return Err(io::Error::other(why));
        }
        if length + name.len() >= LONGEST_NAMES {
            return Err(io::Error::other("there are too many for a restart"));
        }
        self.send(
            &format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0\n"),
            &[descriptor],
        )?;
        names.push(name.to_owned());
        Ok(())
    }

    fn remove<'a>(&self, names: impl Iterator<Item = &'a str>) -> io::Result<()> {
        for name in names {
            self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])?;
        }
        self.wait()
    }

    /// Waits until the service manager has handled everything before, by closing the descriptor that it gets.
    fn wait(&self) -> io::Result<()> {
        let (mut ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(BARRIER_TIME))?;
        self.send("BARRIER=1\n", &[theirs.as_fd()])?;
        drop(theirs);
        match ours.read(&mut [0]) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                Err(io::Error::other("the service manager does not answer"))
            }
            Err(error) => Err(error),
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
    fn put(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        // One place is for the state.
        self.store(name, descriptor, self.limit.saturating_sub(1))
    }
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

/// Takes what an earlier daemon has left in the store, and empties the store. Returns `None` if there is nothing, or
/// nothing that can be continued; the log then says why.
pub(crate) fn take(store: Option<&FdStore>) -> Option<Kept> {
    let passed = match passed_descriptors() {
        Ok(passed) => passed,
        Err(error) => {
            warn!("the descriptors of the service manager cannot be taken: {error}");
            return None;
        }
    };
    if passed.is_empty() {
        return None;
    }
    // Without its state, nothing else can be continued any more: a daemon that is killed now loses the connections.
    let names = passed.iter().map(|(name, _)| name.as_str());
    let others = names.filter(|name| *name != STATE);
    let removed = store.map_or(Ok(()), |store| {
        store.remove([STATE].into_iter().chain(others))
    });
    let mut descriptors: BTreeMap<String, OwnedFd> = passed.into_iter().collect();
    let Some(state) = descriptors.remove(STATE) else {
        let count = descriptors.len();
        warn!("closes {count} descriptors of the service manager, which come without a state");
        return None;
    };
    let kept = Kept::read(state, descriptors).map_err(|error| error.to_string());
    let removed =
        removed.map_err(|error| format!("the descriptor store cannot be emptied: {error}"));
    let kept = removed.and(kept);
    let kept = kept.inspect_err(|why| warn!("connections end with this restart: {why}"));
    let kept = kept.ok()?;
    info!("continues where smbdirectd stood still");
    Some(kept)
}
