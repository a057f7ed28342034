// SPDX-License-Identifier: GPL-2.0-or-later

//! The control socket in the file system.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::broker::kept::KeptSocket;
use crate::sys::{SeqListener, SeqSocket};

/// A listening socket. Dropping it removes its file.
#[derive(Debug)]
pub(in crate::broker) struct ControlSocket {
    listener: SeqListener,
    path: PathBuf,
    /// Device and inode number of the file, so that no other file is removed.
    file: (u64, u64),
}

impl ControlSocket {
    /// Listens at `path`. Replaces the socket of a dead broker, but not that of a living one.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`]: a broker listens there, or the file is not a socket. Other errors are those of the
    /// system.
    pub(in crate::broker) fn bind(path: &Path) -> io::Result<Self> {
        let listener = match SeqListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                // The lock lets brokers replace a socket only one after the other, so the second finds the living
                // socket of the first.
                let _lock = lock_directory(path)?;
                remove_dead(path)?;
                SeqListener::bind(path)?
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

    /// Returns what another broker needs, besides the descriptor, to continue this socket.
    pub(in crate::broker) fn keep(&self) -> KeptSocket {
        KeptSocket {
            path: self.path.clone(),
            file: self.file,
        }
    }

    /// Continues a socket, to which no group may connect until it is [shared](Self::share) again. Returns `None` if its
    /// file is no longer there.
    pub(in crate::broker) fn adopt(kept: &KeptSocket, descriptor: OwnedFd) -> Option<Self> {
        let file = fs::symlink_metadata(&kept.path).ok()?;
        if (file.dev(), file.ino()) != kept.file {
            return None;
        }
        fs::set_permissions(&kept.path, Permissions::from_mode(0o600)).ok()?;
        Some(Self {
            listener: descriptor.into(),
            path: kept.path.clone(),
            file: kept.file,
        })
    }

    /// Allows the members of a group to connect, too.
    ///
    /// # Errors
    ///
    /// The system does not let this process give the file to that group.
    pub(in crate::broker) fn share(&self, group: u32) -> io::Result<()> {
        // No other user may change the directory, so the path still leads to this socket.
        unix::fs::lchown(&self.path, None, Some(group))?;
        fs::set_permissions(&self.path, Permissions::from_mode(0o660))
    }

    pub(in crate::broker) fn accept(&self) -> io::Result<SeqSocket> {
        self.listener.accept()
    }
}

impl AsFd for ControlSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for ControlSocket {
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
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => in_use("another smbdirectd is listening there"),
    }
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
