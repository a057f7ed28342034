// SPDX-License-Identifier: GPL-2.0-or-later

//! The broker's sockets in the file system.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::broker::kept::KeptSocket;
use crate::sys::{SeqListener, SeqSocket, listen_for_streams};

/// A listening socket, for messages unless `L` is a [`UnixListener`]. Dropping it removes its file.
#[derive(Debug)]
pub(in crate::broker) struct ControlSocket<L = SeqListener> {
    listener: L,
    path: PathBuf,
    /// Device and inode number of the file, so that no other file is removed.
    file: (u64, u64),
}

/// Who may connect to a socket besides its owner.
#[derive(Clone, Copy, Debug)]
pub(in crate::broker) struct Access {
    group: u32,
    mode: u32,
}

impl ControlSocket {
    /// Listens at `path`. Replaces the socket of a dead broker, but not that of a living one.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`]: a broker listens there, or the file is not a socket. Other errors are those of the
    /// system.
    pub(in crate::broker) fn bind(path: &Path) -> io::Result<Self> {
        Self::bind_with(path, SeqListener::bind)
    }

    pub(in crate::broker) fn accept(&self) -> io::Result<SeqSocket> {
        self.listener.accept()
    }

    /// Makes the kernel refuse descriptors that processes send, as [`SeqListener::refuse_descriptors`] does.
    ///
    /// # Errors
    ///
    /// Those of [`SeqListener::refuse_descriptors`].
    pub(in crate::broker) fn refuse_descriptors(&self) -> io::Result<()> {
        self.listener.refuse_descriptors()
    }

    /// Returns what another broker needs, besides the descriptor, to continue this socket.
    pub(in crate::broker) fn keep(&self) -> KeptSocket {
        KeptSocket {
            path: self.path.clone(),
            file: self.file,
        }
    }

    /// Continues a socket, to which no group may connect until it is [shared](Self::share) again. Returns `None` if its
    /// file is no longer there, or if the system does not let this process continue it.
    pub(in crate::broker) fn adopt(kept: &KeptSocket, descriptor: OwnedFd) -> Option<Self> {
        let file = fs::symlink_metadata(&kept.path).ok()?;
        if (file.dev(), file.ino()) != kept.file {
            return None;
        }
        fs::set_permissions(&kept.path, Permissions::from_mode(0o600)).ok()?;
        Some(Self {
            listener: SeqListener::adopt(descriptor).ok()?,
            path: kept.path.clone(),
            file: kept.file,
        })
    }
}

impl ControlSocket<UnixListener> {
    /// Listens at `path` for connections that carry bytes, as [`ControlSocket::bind`] does for those that carry
    /// messages.
    ///
    /// # Errors
    ///
    /// Those of [`ControlSocket::bind`].
    pub(in crate::broker) fn bind_stream(path: &Path) -> io::Result<Self> {
        Self::bind_with(path, listen_for_streams)
    }

    /// Returns the next connection, which is non-blocking.
    pub(in crate::broker) fn accept_stream(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

impl<L> ControlSocket<L> {
    fn bind_with(path: &Path, listen: fn(&Path) -> io::Result<L>) -> io::Result<Self> {
        let listener = match listen(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // The lock lets brokers replace a socket only one after the other, so the second finds the living
                // socket of the first.
                let _lock = lock_directory(path)?;
                remove_dead(path)?;
                listen(path)?
            }
            result => result?,
        };
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: (file.dev(), file.ino()),
        })
    }

    /// Allows the members of a group to connect, too, instead of those of an earlier group.
    ///
    /// # Errors
    ///
    /// The system does not let this process give the file to that group. Nothing has changed.
    pub(in crate::broker) fn share(&self, group: u32) -> io::Result<()> {
        let before = self.access()?;
        let shared = self.set_access(Access { group, mode: 0o660 });
        shared.inspect_err(|_| self.restore(before))
    }

    /// Returns who may connect.
    ///
    /// # Errors
    ///
    /// The file is no longer there.
    pub(in crate::broker) fn access(&self) -> io::Result<Access> {
        let file = fs::symlink_metadata(&self.path)?;
        Ok(Access {
            group: file.gid(),
            mode: file.mode() & 0o777,
        })
    }

    /// Lets those connect who could do so before, as far as the system allows that.
    pub(in crate::broker) fn restore(&self, before: Access) {
        if let Err(error) = self.set_access(before) {
            let (path, group) = (self.path.display(), before.group);
            tracing::error!("{path} cannot be given back to the group {group}: {error}");
        }
    }

    fn set_access(&self, access: Access) -> io::Result<()> {
        // No other user may change the directory, so the path still leads to this socket.
        unix::fs::lchown(&self.path, None, Some(access.group))?;
        fs::set_permissions(&self.path, Permissions::from_mode(access.mode))
    }
}

impl<L: AsFd> AsFd for ControlSocket<L> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl<L> Drop for ControlSocket<L> {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|file| (file.dev(), file.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// How often to try to lock a directory, and the time between two tries: other brokers hold the lock
/// while they replace a socket.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Keeps other brokers from replacing a socket in the directory of `path`, until the file is dropped.
fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = match path.parent() {
        Some(parent) if parent.as_os_str() != "" => parent,
        _ => Path::new("."),
    };
    let directory = File::open(directory)?;
    for _ in 0..LOCK_TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            result => return result.map(|()| directory).map_err(io::Error::from),
        }
    }
    Err(Errno::WOULDBLOCK.into())
}

/// Removes a socket on which no process listens.
fn remove_dead(path: &Path) -> io::Result<()> {
    let in_use = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("the file there is not a socket");
    }
    match SeqSocket::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // The file has just been removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A process listens there for connections of another kind.
        Err(error) if is_of_another_kind(&error) => in_use("another program is listening there"),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => in_use("another smbdirectd is listening there"),
    }
}

fn is_of_another_kind(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::PROTOTYPE.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let name = format!("smbdirect-control-{}-{name}", std::process::id());
        std::env::temp_dir().join(name)
    }

    #[test]
    fn replaces_the_socket_of_the_dead_and_not_of_the_living() {
        let path = path("dead");
        // The file stays, because this type does not remove it.
        drop(SeqListener::bind(&path).unwrap());
        let socket = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn sockets_for_bytes_and_for_messages_replace_each_other_only_when_dead() {
        let path = path("kinds");
        for _ in 0..2 {
            let stream = ControlSocket::bind_stream(&path).unwrap();
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            for error in [
                ControlSocket::bind_stream(&path).unwrap_err(),
                ControlSocket::bind(&path).unwrap_err(),
            ] {
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
                assert_eq!(error.to_string(), "another program is listening there");
            }
            let nobody = stream.accept_stream().unwrap_err();
            assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
            drop(stream);
            assert!(!path.exists());
            // The files stay, because this type does not remove them.
            drop(SeqListener::bind(&path).unwrap());
        }
        drop(ControlSocket::bind(&path).unwrap());
        drop(listen_for_streams(&path).unwrap());
        drop(ControlSocket::bind(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn of_many_that_replace_a_dead_socket_at_once_one_does() {
        let path = path("many");
        drop(SeqListener::bind(&path).unwrap());
        let start = std::sync::Barrier::new(8);
        let bind = || {
            start.wait();
            ControlSocket::bind(&path)
        };
        let sockets: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(bind)).collect();
            let sockets = threads.into_iter().map(|thread| thread.join().unwrap());
            sockets.collect()
        });
        let bound: Vec<_> = sockets.into_iter().filter_map(Result::ok).collect();
        assert_eq!(bound.len(), 1);
        assert!(SeqSocket::connect(&path).is_ok());
    }

    #[test]
    fn a_socket_that_continues_is_no_longer_shared() {
        let path = path("continued");
        let socket = ControlSocket::bind(&path).unwrap();
        socket.share(rustix::process::getegid().as_raw()).unwrap();
        let (kept, descriptor) = (socket.keep(), socket.as_fd().try_clone_to_owned());
        // The earlier broker does not remove the file.
        std::mem::forget(socket);
        let socket = ControlSocket::adopt(&kept, descriptor.unwrap()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(SeqSocket::connect(&path).is_ok());
        let descriptor = socket.as_fd().try_clone_to_owned().unwrap();
        drop(socket);
        assert!(ControlSocket::adopt(&kept, descriptor).is_none());
    }

    #[test]
    fn the_apparmor_profile_allows_to_lock_the_directory() {
        let profile = include_str!("../../../contrib/smbdirectd.apparmor");
        let mut lines = profile.lines().map(str::trim);
        assert!(lines.any(|line| line == "owner @{run}/smbdirect/ rwk,"));
    }

    #[test]
    fn touches_no_file_that_is_not_its_own() {
        let path = path("file");
        fs::write(&path, "text").unwrap();
        assert!(ControlSocket::bind(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"text");
        fs::remove_file(&path).unwrap();
        let socket = ControlSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(socket);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        fs::remove_file(&path).unwrap();
    }
}
