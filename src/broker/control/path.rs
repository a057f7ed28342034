//! The control socket in the file system.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::sys::{SeqListener, SeqSocket};

/// A listening socket, whose file is removed with it.
#[derive(Debug)]
pub(in crate::broker) struct ControlSocket {
    listener: SeqListener,
    path: PathBuf,
    /// Device and number of the file, to remove no other's.
    file: (u64, u64),
}

impl ControlSocket {
    /// Listens at `path`. The socket of a broker that is dead is replaced, that of a living one not.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`]: a broker listens there, or it is no socket. Others as of the
    /// system.
    pub(in crate::broker) fn bind(path: &Path) -> io::Result<Self> {
        let listener = match SeqListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
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

    pub(super) fn accept(&self) -> io::Result<SeqSocket> {
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

/// Removes a socket at which nobody listens.
fn remove_dead(path: &Path) -> io::Result<()> {
    let in_use = |what: &str| {
        let text = format!("{}: {what}", path.display());
        Err(io::Error::new(io::ErrorKind::AddrInUse, text))
    };
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return in_use("there is a file that is no socket");
    }
    match SeqSocket::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        // It has just been removed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => in_use("another smbdirect device listens there"),
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
        // Its file stays: this is not the type that removes it.
        drop(SeqListener::bind(&path).unwrap());
        let socket = ControlSocket::bind(&path).unwrap();
        let error = ControlSocket::bind(&path).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(socket);
        assert!(!path.exists());
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
