// SPDX-License-Identifier: GPL-2.0-or-later

//! Vectored socket calls that mix [`Memory`] and slices, and other calls on sockets.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use super::{Memory, OutOfRange};

/// Time for which nothing is accepted after the system ran out of descriptors.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Maximum number of pieces in one system call. Linux takes up to 1024.
pub const MAX_IOVECS: usize = 256;

/// Room for the pieces of a vectored system call, which is reused from call to call.
pub struct IoVecs(Vec<libc::iovec>);

// SAFETY: between calls the pointers in the list are never used: `send` and `receive` start by clearing the list.
unsafe impl Send for IoVecs {}

/// The pieces to send in one system call, in order. Pieces beyond [`MAX_IOVECS`] are not taken.
pub struct SendVec<'a> {
    pieces: &'a mut Vec<libc::iovec>,
    total: usize,
    borrowed: PhantomData<&'a [u8]>,
}

/// The pieces to receive into with one system call, in order.
pub struct ReceiveVec<'a> {
    pieces: &'a mut Vec<libc::iovec>,
    total: usize,
    borrowed: PhantomData<&'a mut [u8]>,
}

impl IoVecs {
    /// Makes room for [`MAX_IOVECS`] pieces.
    #[must_use]
    pub fn new() -> Self {
        Self(Vec::with_capacity(MAX_IOVECS))
    }

    /// Begins a list of pieces to send.
    pub fn send(&mut self) -> SendVec<'_> {
        self.0.clear();
        SendVec {
            pieces: &mut self.0,
            total: 0,
            borrowed: PhantomData,
        }
    }

    /// Begins a list of pieces to receive into.
    pub fn receive(&mut self) -> ReceiveVec<'_> {
        self.0.clear();
        ReceiveVec {
            pieces: &mut self.0,
            total: 0,
            borrowed: PhantomData,
        }
    }
}

impl Default for IoVecs {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for IoVecs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IoVecs")
    }
}

impl<'a> SendVec<'a> {
    /// Adds bytes.
    pub fn push(&mut self, bytes: &'a [u8]) {
        self.add(bytes.as_ptr().cast_mut(), bytes.len());
    }

    /// Adds `length` bytes at `offset` of a memory.
    pub fn push_memory(
        &mut self,
        memory: &'a Memory,
        offset: usize,
        length: usize,
    ) -> Result<(), OutOfRange> {
        self.add(memory.pointer(offset, length)?, length);
        Ok(())
    }

    /// Returns how many pieces can still be added.
    #[must_use]
    pub fn room(&self) -> usize {
        MAX_IOVECS - self.pieces.len()
    }

    /// Returns the number of bytes of all pieces.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Sends as much as the socket takes without waiting; returns the number of bytes.
    pub fn send(self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let message = header(self.pieces);
        // SAFETY: each piece lies in a slice or a memory that `'a` keeps borrowed, and the kernel
        // only reads them.
        let sent = unsafe {
            libc::sendmsg(
                socket.as_raw_fd(),
                &message,
                libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    fn add(&mut self, start: *mut u8, length: usize) {
        if length > 0 && self.room() > 0 {
            self.pieces.push(libc::iovec {
                iov_base: start.cast(),
                iov_len: length,
            });
            self.total += length;
        }
    }
}

impl<'a> ReceiveVec<'a> {
    /// Adds room in a slice.
    pub fn push(&mut self, bytes: &'a mut [u8]) {
        self.add(bytes.as_mut_ptr(), bytes.len());
    }

    /// Adds `length` bytes at `offset` of a memory.
    pub fn push_memory(
        &mut self,
        memory: &'a Memory,
        offset: usize,
        length: usize,
    ) -> Result<(), OutOfRange> {
        self.add(memory.pointer(offset, length)?, length);
        Ok(())
    }

    /// Returns whether some of these bytes are already in the list: the data received into them first would be lost.
    pub fn contains(
        &self,
        memory: &Memory,
        offset: usize,
        length: usize,
    ) -> Result<bool, OutOfRange> {
        let start = memory.pointer(offset, length)?.addr();
        let overlaps = |piece: &libc::iovec| {
            let base = piece.iov_base.addr();
            length > 0 && base < start + length && start < base + piece.iov_len
        };
        Ok(self.pieces.iter().any(overlaps))
    }

    /// Returns how many pieces can still be added.
    #[must_use]
    pub fn room(&self) -> usize {
        MAX_IOVECS - self.pieces.len()
    }

    /// Returns the number of bytes of all pieces.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Receives the bytes that have come, without waiting; returns their number, 0 at the end of the stream.
    pub fn receive(self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let mut message = header(self.pieces);
        // SAFETY: each piece lies in a slice that `'a` keeps mutably borrowed, or in a `Memory`,
        // which others may write at any time.
        let received =
            unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    fn add(&mut self, start: *mut u8, length: usize) {
        if length > 0 && self.room() > 0 {
            self.pieces.push(libc::iovec {
                iov_base: start.cast(),
                iov_len: length,
            });
            self.total += length;
        }
    }
}

impl fmt::Debug for SendVec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SendVec({} bytes in {} pieces)",
            self.total,
            self.pieces.len()
        )
    }
}

impl fmt::Debug for ReceiveVec<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ReceiveVec({} bytes in {} pieces)",
            self.total,
            self.pieces.len()
        )
    }
}

fn header(pieces: &mut Vec<libc::iovec>) -> libc::msghdr {
    // SAFETY: all of `msghdr` may be zero: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = pieces.as_mut_ptr();
    message.msg_iovlen = pieces.len() as _;
    message
}

/// Returns how many bytes were given to a TCP socket and have not been acknowledged by its peer, or how much memory holds
/// what was given to a local socket and has not been received.
///
/// # Errors
///
/// The error of the system.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ, which sockets call SIOCOUTQ, writes one int, and `bytes` is one.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    match result {
        0 => Ok(usize::try_from(bytes).unwrap_or(0)),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn carries_slices_and_memory_in_order() {
        let (a, b) = UnixStream::pair().unwrap();
        let memory = Memory::zeroed(8);
        memory.write(2, b"cde").unwrap();
        let mut vecs = IoVecs::new();
        let mut out = vecs.send();
        out.push(b"ab");
        out.push_memory(&memory, 2, 3).unwrap();
        out.push(b"");
        out.push(b"fg");
        assert_eq!((out.total(), out.room()), (7, MAX_IOVECS - 3));
        assert_eq!(out.send(a.as_fd()).unwrap(), 7);

        let (mut head, mut tail) = ([0; 3], [0; 9]);
        let mut input = vecs.receive();
        input.push(&mut head);
        input.push_memory(&memory, 6, 2).unwrap();
        input.push(&mut tail);
        assert_eq!(input.receive(b.as_fd()).unwrap(), 7);
        assert_eq!(
            (&head, &memory.to_vec(6, 2).unwrap()[..], &tail[..2]),
            (b"abc", &b"de"[..], &b"fg"[..])
        );
        let mut input = vecs.receive();
        input.push(&mut head);
        assert_eq!(
            input.receive(b.as_fd()).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }

    #[test]
    fn knows_which_memory_it_receives_into() {
        let memory = Memory::zeroed(30);
        let alias = memory.part(10, 10).unwrap();
        let mut vecs = IoVecs::new();
        let mut input = vecs.receive();
        assert!(!input.contains(&memory, 0, 30).unwrap());
        input.push_memory(&memory, 5, 10).unwrap();
        for (offset, length, contained) in [
            (0, 5, false),
            (0, 6, true),
            (14, 1, true),
            (15, 15, false),
            (8, 0, false),
        ] {
            assert_eq!(input.contains(&memory, offset, length), Ok(contained));
        }
        assert_eq!(input.contains(&alias, 0, 5), Ok(true));
        assert_eq!(input.contains(&alias, 5, 5), Ok(false));
        assert_eq!(input.contains(&Memory::zeroed(30), 0, 30), Ok(false));
        assert!(input.contains(&alias, 5, 6).is_err());
    }

    #[test]
    fn takes_no_more_pieces_than_a_call_may_have() {
        let memory = Memory::zeroed(1);
        let mut vecs = IoVecs::new();
        let mut out = vecs.send();
        for _ in 0..MAX_IOVECS + 1 {
            out.push_memory(&memory, 0, 1).unwrap();
        }
        assert_eq!(out.total(), MAX_IOVECS);
        assert!(out.push_memory(&memory, 1, 1).is_err());
    }
}
