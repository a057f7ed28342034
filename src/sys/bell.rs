// SPDX-License-Identifier: GPL-2.0-or-later

//! A pair of doorbells for two processes that do not trust each other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// One of the two ends of a pair of doorbells: it rings the bell of the other end, and waits for its own.
///
/// An [`EventFd`](super::EventFd) is for two threads; a `Bell` is for two processes, one of which may want the other to
/// hang. A `Bell` is a socket, and each call itself says that it must not wait, so nothing that the other process does
/// to its end can make a call here wait. The socket also shows when the other process has gone.
#[derive(Debug)]
pub struct Bell(OwnedFd);

/// The result of [`Bell::drain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The other end is closed, and will not ring again.
    Closed,
    /// The other end has not rung since this one was last drained.
    No,
    /// The other end has rung.
    Yes,
}

/// Length of an end's send buffer in bytes; each ring takes less than a thousand of these bytes.
const SEND_BUFFER: usize = 128 << 10;

/// Maximum number of bytes that one call takes away. Every ring is a byte; if there are more, the end stays readable.
const DRAINED: usize = 256;

impl Bell {
    /// Makes both ends, one of which may go to another process.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        for end in [&one, &other] {
            // The system's default, which may be anything, is not used, because a ring that finds no room is lost.
            rustix::net::sockopt::set_socket_send_buffer_size(end, SEND_BUFFER)?;
        }
        Ok((Self(one), Self(other)))
    }

    /// Makes the other end readable. If the other end is closed, nothing happens; polling this end shows that.
    pub fn ring(&self) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::net::send(&self.0, &[1], flags) {
            // The buffer is full: the other end has been rung often, and has not been drained.
            Ok(_) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes away the rings that this end has received, up to a limit, and returns whether there
    /// were any.
    ///
    /// Drain first, and look afterwards at the things for which the bell rang: in the other order, a ring for something
    /// newer may be drained unseen.
    pub fn drain(&self) -> io::Result<Rung> {
        match rustix::net::recv(&self.0, &mut [0; DRAINED], RecvFlags::DONTWAIT) {
            Ok((_, 0)) | Err(Errno::CONNRESET) => Ok(Rung::Closed),
            Ok(_) => Ok(Rung::Yes),
            Err(Errno::AGAIN) => Ok(Rung::No),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<OwnedFd> for Bell {
    /// Makes an end from a descriptor that another process sent. If it is not a socket, calls fail and do nothing else.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::wait_readable;

    #[test]
    fn rings_the_other_end_and_not_itself() {
        let (a, b) = Bell::pair().unwrap();
        assert_eq!(b.drain().unwrap(), Rung::No);
        a.ring().unwrap();
        a.ring().unwrap();
        wait_readable(b.as_fd(), None).unwrap();
        assert_eq!(b.drain().unwrap(), Rung::Yes);
        assert_eq!(
            (a.drain().unwrap(), b.drain().unwrap()),
            (Rung::No, Rung::No)
        );
    }

    #[test]
    fn never_waits_whatever_the_other_end_does() {
        let (a, b) = Bell::pair().unwrap();
        // An eventfd would hang here: its limit is reached, and the other side has made its calls blocking.
        rustix::io::ioctl_fionbio(&a, false).unwrap();
        rustix::io::ioctl_fionbio(&b, false).unwrap();
        for _ in 0..100_000 {
            a.ring().unwrap();
        }
        let mut drained = 0;
        while b.drain().unwrap() == Rung::Yes {
            drained += 1;
            assert!(drained < 100_000);
        }
        assert!(drained > 1);
        a.ring().unwrap();
        assert_eq!(b.drain().unwrap(), Rung::Yes);
    }

    #[test]
    fn tells_that_the_other_end_is_gone() {
        let (a, b) = Bell::pair().unwrap();
        b.ring().unwrap();
        drop(b);
        a.ring().unwrap();
        wait_readable(a.as_fd(), None).unwrap();
        assert_eq!(a.drain().unwrap(), Rung::Yes);
        assert_eq!(a.drain().unwrap(), Rung::Closed);
    }
}
