// SPDX-License-Identifier: GPL-2.0-or-later

//! Messages with file descriptors between processes of one machine (`SOCK_SEQPACKET`, `unix(7)`).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketFlags,
    SocketType,
};

use super::socket::unacknowledged;

/// Maximum number of file descriptors that one message can carry.
pub const MAX_DESCRIPTORS: usize = 8;

/// Whether a socket receives descriptors. The libc crate does not have this option for all machines.
const SO_PASSRIGHTS: libc::c_int = match cfg!(any(target_arch = "sparc", target_arch = "sparc64")) {
    true => 0x5c,
    false => 83,
};

/// Why nothing was received. Any descriptors that came along are closed.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum ReceiveError {
    /// The other side closed its end, or sent an empty message, which has no meaning.
    #[error("the other side closed the connection")]
    Closed,
    /// The message is longer than the buffer; the rest is lost.
    #[error("the message is longer than the buffer of {room} bytes")]
    MessageTooLong {
        /// Length of the buffer in bytes.
        room: usize,
    },
    /// The message carries more than [`MAX_DESCRIPTORS`] descriptors, or more than this process may have open.
    #[error("the message carries too many file descriptors")]
    TooManyDescriptors,
    /// There is no message now, or a system call failed.
    #[error("receiving failed: {0}")]
    System(#[from] io::Error),
}

impl ReceiveError {
    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// Returns whether there is just no message yet.
    #[must_use]
    pub fn is_would_block(&self) -> bool {
        matches!(self, Self::System(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A message that was received.
#[derive(Debug)]
pub struct Received {
    /// Number of bytes of the message, more than 0, at the start of the buffer.
    pub length: usize,
    /// The descriptors that the message carried, in the sender's order, at most [`MAX_DESCRIPTORS`]. Programs that this
    /// process starts do not inherit them.
    pub descriptors: Vec<OwnedFd>,
}

/// The process that connected or listened, as it was at that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process's id; 0 if the process is in a process namespace that is not visible from here.
    pub process: i32,
    /// Its effective user.
    pub user: u32,
    /// Its effective group.
    pub group: u32,
}

/// Number of connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A socket in the file system that others connect to.
#[derive(Debug)]
pub struct SeqListener(OwnedFd);

impl SeqListener {
    /// Listens at `path`, for this user only (mode 0600). The path must not exist; the owner of the directory removes
    /// what an earlier process left.
    pub fn bind(path: &Path) -> io::Result<Self> {
        Ok(Self(listen(path, SocketType::SEQPACKET)?))
    }

    /// Makes a socket from one that another process has made in the same way. Processes that connect from now on see
    /// this process at the other end ([`SeqSocket::peer_credentials`]), no longer the other one, which may have ended.
    pub fn adopt(descriptor: OwnedFd) -> io::Result<Self> {
        // The kernel notes which process called this last.
        rustix::net::listen(&descriptor, BACKLOG)?;
        Ok(Self(descriptor))
    }

    /// Makes the kernel refuse descriptors that processes send to connections made from now on: sending fails with
    /// [`io::ErrorKind::PermissionDenied`]. Descriptors can still be sent to those processes.
    ///
    /// # Errors
    ///
    /// The kernel is older than Linux 6.16.
    pub fn refuse_descriptors(&self) -> io::Result<()> {
        let no: libc::c_int = 0;
        // SAFETY: the option is an int, and `no` is one that outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PASSRIGHTS,
                (&raw const no).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Returns the next connection; [`io::ErrorKind::WouldBlock`] if there is none.
    pub fn accept(&self) -> io::Result<SeqSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(SeqSocket(rustix::net::accept_with(&self.0, flags)?))
    }
}

impl AsFd for SeqListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A connection that carries messages, whole and in order. No call waits.
#[derive(Debug)]
pub struct SeqSocket(OwnedFd);

impl SeqSocket {
    /// Connects to the process that listens at `path`; fails with [`io::ErrorKind::WouldBlock`] if so many others wait
    /// to be accepted that the caller must try again later.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let socket = socket(SocketType::SEQPACKET)?;
        rustix::net::connect(&socket, &address)?;
        Ok(Self(socket))
    }

    /// Makes both ends of a connection.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        Ok((Self(one), Self(other)))
    }

    /// Sends one message, whole or not at all, with copies of up to [`MAX_DESCRIPTORS`]
    /// descriptors.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`]: there are no bytes, or too many descriptors. [`io::ErrorKind::WouldBlock`]: the
    /// other side has to receive first.
    pub fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        if bytes.is_empty() || descriptors.len() > MAX_DESCRIPTORS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits =
            descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors));
        if !fits {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, flags)
        })?;
        Ok(())
    }

    /// Returns whether the other side has received so much that at least three quarters of the room for messages are
    /// free: only then is a socket of this kind writable for `poll`, while [`send`](Self::send) takes messages until
    /// nothing is free. It is also `true` if the other side has gone.
    pub fn is_mostly_free(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::OUT)];
        Ok(poll(&mut fds, Some(&Timespec::default()))? > 0)
    }

    /// Returns whether the other side has received all that was sent to it, or can never receive it.
    pub fn is_all_received(&self) -> io::Result<bool> {
        Ok(unacknowledged(self.0.as_fd())? == 0)
    }

    /// Sends nothing more: the other side finds the end of the connection after the messages that were sent before.
    pub fn finish(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.0, Shutdown::Write)?)
    }

    /// Returns whether nothing can be sent in either direction any longer: the other side has closed its end, or both
    /// sides have [finished](Self::finish).
    pub fn is_over(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.0, PollFlags::empty())];
        poll(&mut fds, Some(&Timespec::default()))?;
        Ok(fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP)))
    }

    /// Receives one message into `buffer`.
    ///
    /// # Errors
    ///
    /// The error says what is wrong with the message, all of whose descriptors are then closed. Closing a descriptor
    /// can take as long as a hostile sender likes (a TCP socket that lingers, a file of FUSE), so a process that also
    /// serves others accepts connections only from users that it trusts in this
    /// ([`peer_credentials`](Self::peer_credentials)).
    pub fn receive(&self, buffer: &mut [u8]) -> Result<Received, ReceiveError> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        self.receive_with(buffer, RecvAncillaryBuffer::new(&mut space))
    }

    /// Receives one message without descriptors into `buffer`, and returns its length. The kernel gives this process
    /// none of the descriptors that come along, but still closes them during this call, or when the socket is dropped
    /// before they are received: [`SeqListener::refuse_descriptors`] prevents that.
    ///
    /// # Errors
    ///
    /// The error says what is wrong with the message: [`ReceiveError::TooManyDescriptors`] if it carries any.
    pub fn receive_bytes(&self, buffer: &mut [u8]) -> Result<usize, ReceiveError> {
        let received = self.receive_with(buffer, RecvAncillaryBuffer::default())?;
        Ok(received.length)
    }

    fn receive_with(
        &self,
        buffer: &mut [u8],
        mut control: RecvAncillaryBuffer<'_>,
    ) -> Result<Received, ReceiveError> {
        let room = buffer.len();
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut message = || {
            rustix::io::retry_on_intr(|| {
                let mut pieces = [IoSliceMut::new(buffer)];
                rustix::net::recvmsg(&self.0, &mut pieces, &mut control, flags)
            })
        };
        let message = match message() {
            // The other side closed with messages unread. The kernel reports that once, before the messages that the
            // other side had sent, such as why it closes.
            Err(Errno::CONNRESET) => message(),
            result => result,
        };
        let message = message.map_err(io::Error::from)?;
        // The descriptors are taken before any check: every return after this drops them, and so closes them.
        let mut descriptors = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = part {
                descriptors.extend(received);
            }
        }
        // Both checks are needed: alignment may leave room for more descriptors than intended.
        if message.flags.contains(ReturnFlags::CTRUNC) || descriptors.len() > MAX_DESCRIPTORS {
            return Err(ReceiveError::TooManyDescriptors);
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(ReceiveError::MessageTooLong { room });
        }
        if message.bytes == 0 {
            return Err(ReceiveError::Closed);
        }
        Ok(Received {
            length: message.bytes,
            descriptors,
        })
    }

    /// Ends the connection for both sides, even if other processes hold copies of this end.
    pub fn shut_down(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.0, Shutdown::Both)?)
    }

    /// Returns the process at the other end, as the kernel recorded it when the connection was made.
    pub fn peer_credentials(&self) -> io::Result<Credentials> {
        let mut found = libc::ucred {
            pid: 0,
            uid: u32::MAX,
            gid: u32::MAX,
        };
        let mut length = size_of::<libc::ucred>() as libc::socklen_t;
        // This is done by hand, since rustix assumes that the process id cannot be 0. SAFETY: `found` and `length`
        // outlive the call, and `length` is the size of `found`.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut found).cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Credentials {
            process: found.pid,
            user: found.uid,
            group: found.gid,
        })
    }
}

/// Takes a descriptor, which should be a socket of this kind; all calls on another kind fail, and do nothing else.
impl From<OwnedFd> for SeqSocket {
    fn from(socket: OwnedFd) -> Self {
        Self(socket)
    }
}

impl AsFd for SeqSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Listens at `path` for connections that carry bytes (`SOCK_STREAM`), for this user only, as [`SeqListener::bind`] does.
/// The listener is non-blocking.
pub fn listen_for_streams(path: &Path) -> io::Result<UnixListener> {
    Ok(listen(path, SocketType::STREAM)?.into())
}

fn listen(path: &Path, kind: SocketType) -> io::Result<OwnedFd> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket(kind)?;
    // The file that `bind` makes inherits the mode of the socket, so it never has wider permissions, and the umask of
    // the process, which other threads use, stays as it is.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        kind,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Makes pairs of streams. Each stream of the second list is at its end once all copies of its partner are closed.
    fn streams(count: usize) -> (Vec<UnixStream>, Vec<UnixStream>) {
        (0..count).map(|_| UnixStream::pair().unwrap()).unzip()
    }

    fn at_end(mut stream: &UnixStream) -> bool {
        stream.set_nonblocking(true).unwrap();
        matches!(stream.read(&mut [0]), Ok(0))
    }

    #[test]
    fn carries_whole_messages_and_descriptors_in_order() {
        let (a, b) = SeqSocket::pair().unwrap();
        let (mine, theirs) = streams(MAX_DESCRIPTORS);
        let borrowed: Vec<_> = theirs.iter().map(|stream| stream.as_fd()).collect();
        a.send(b"first", &borrowed).unwrap();
        a.send(b"second", &[]).unwrap();

        let mut buffer = [0; 16];
        let received = b.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..received.length], b"first");
        for (n, (mut mine, descriptor)) in mine.iter().zip(received.descriptors).enumerate() {
            let flags = rustix::io::fcntl_getfd(&descriptor).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            File::from(descriptor).write_all(&[n as u8]).unwrap();
            let mut byte = [0xff];
            mine.read_exact(&mut byte).unwrap();
            assert_eq!(byte, [n as u8]);
        }
        let received = b.receive(&mut buffer).unwrap();
        assert_eq!(&buffer[..received.length], b"second");
        assert!(received.descriptors.is_empty());
        assert!(b.receive(&mut buffer).unwrap_err().is_would_block());
        drop(a);
        assert_eq!(b.receive(&mut buffer).unwrap_err().name(), "closed");
    }

    #[test]
    fn closes_the_descriptors_of_a_message_that_is_too_long() {
        let (a, b) = SeqSocket::pair().unwrap();
        let (mine, theirs) = streams(1);
        a.send(b"too long", &[theirs[0].as_fd()]).unwrap();
        drop(theirs);
        assert!(!at_end(&mine[0]));
        let error = b.receive(&mut [0; 7]).unwrap_err();
        assert_eq!(error.name(), "message_too_long");
        assert!(at_end(&mine[0]));
    }

    #[test]
    fn closes_all_descriptors_if_there_are_too_many() {
        for count in MAX_DESCRIPTORS + 1..MAX_DESCRIPTORS + 6 {
            let (a, b) = SeqSocket::pair().unwrap();
            let (mine, theirs) = streams(count);
            let borrowed: Vec<_> = theirs.iter().map(|stream| stream.as_fd()).collect();
            assert!(a.send(b"x", &borrowed).is_err());
            let mut space = [MaybeUninit::uninit(); 256];
            let mut control = SendAncillaryBuffer::new(&mut space);
            assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
            let bytes = [IoSlice::new(b"x")];
            rustix::net::sendmsg(&a, &bytes, &mut control, SendFlags::empty()).unwrap();
            drop(theirs);
            let error = b.receive(&mut [0; 7]).unwrap_err();
            assert_eq!(error.name(), "too_many_descriptors");
            assert!(mine.iter().all(at_end), "{count}");
        }
    }

    #[test]
    fn receives_bytes_alone_and_closes_descriptors() {
        let (a, b) = SeqSocket::pair().unwrap();
        let (mine, theirs) = streams(1);
        a.send(b"bytes", &[]).unwrap();
        a.send(b"more", &[theirs[0].as_fd()]).unwrap();
        drop(theirs);
        let mut buffer = [0; 8];
        assert_eq!(b.receive_bytes(&mut buffer).unwrap(), 5);
        assert_eq!(&buffer[..5], b"bytes");
        let error = b.receive_bytes(&mut buffer).unwrap_err();
        assert_eq!(error.name(), "too_many_descriptors");
        assert!(at_end(&mine[0]));
        assert!(b.receive_bytes(&mut buffer).unwrap_err().is_would_block());
    }

    #[test]
    fn refuses_descriptors_that_processes_send_to_a_listener() {
        let name = format!("smbdirect-seqpacket-refuses-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = SeqListener::bind(&path).unwrap();
        let refused = listener.refuse_descriptors();
        let client = SeqSocket::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        if let Err(error) = refused {
            println!("SKIPPED: SO_PASSRIGHTS: {error}");
            return;
        }
        let server = listener.accept().unwrap();
        let (_mine, theirs) = streams(1);
        let sent = client.send(b"x", &[theirs[0].as_fd()]);
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        client.send(b"request", &[]).unwrap();
        assert_eq!(server.receive_bytes(&mut [0; 8]).unwrap(), 7);
        server.send(b"answer", &[theirs[0].as_fd()]).unwrap();
        let received = client.receive(&mut [0; 8]).unwrap();
        assert_eq!(received.descriptors.len(), 1);
    }

    #[test]
    fn receives_what_was_sent_before_the_other_side_closed_with_messages_unread() {
        let (a, b) = SeqSocket::pair().unwrap();
        a.send(b"unread", &[]).unwrap();
        b.send(b"why", &[]).unwrap();
        drop(b);
        let mut buffer = [0; 16];
        assert_eq!(a.receive(&mut buffer).unwrap().length, 3);
        assert_eq!(&buffer[..3], b"why");
        assert_eq!(a.receive(&mut buffer).unwrap_err().name(), "closed");
    }

    #[test]
    fn takes_an_empty_message_for_the_end() {
        let (a, b) = SeqSocket::pair().unwrap();
        assert_eq!(
            a.send(b"", &[]).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        rustix::net::send(&a, b"", SendFlags::empty()).unwrap();
        assert_eq!(b.receive(&mut [0; 7]).unwrap_err().name(), "closed");
    }

    #[test]
    fn shuts_down_although_another_process_holds_a_copy() {
        let (a, b) = SeqSocket::pair().unwrap();
        let copy = a.as_fd().try_clone_to_owned().unwrap();
        a.shut_down().unwrap();
        assert_eq!(b.receive(&mut [0; 8]).unwrap_err().name(), "closed");
        assert!(a.send(b"x", &[]).is_err());
        drop(copy);
    }

    #[test]
    fn knows_what_the_other_side_has_received() {
        let (a, b) = SeqSocket::pair().unwrap();
        assert!(a.is_all_received().unwrap());
        a.send(b"answer", &[]).unwrap();
        a.finish().unwrap();
        assert!(!a.is_all_received().unwrap() && !a.is_over().unwrap());
        // The other side says that it has finished, but has not received anything.
        b.shut_down().unwrap();
        assert!(!a.is_all_received().unwrap() && a.is_over().unwrap());
        assert_eq!(b.receive(&mut [0; 8]).unwrap().length, 6);
        assert!(a.is_all_received().unwrap());
        assert_eq!(b.receive(&mut [0; 8]).unwrap_err().name(), "closed");

        let (a, b) = SeqSocket::pair().unwrap();
        a.send(b"answer", &[]).unwrap();
        a.finish().unwrap();
        drop(b);
        assert!(a.is_all_received().unwrap() && a.is_over().unwrap());
    }

    #[test]
    fn sends_without_waiting() {
        let (a, b) = SeqSocket::pair().unwrap();
        let mut taken = 0;
        while a.is_mostly_free().unwrap() {
            a.send(&[0; 4096], &[]).unwrap();
            taken += 1;
        }
        let mut more = 0;
        let full = loop {
            match a.send(&[0; 4096], &[]) {
                Ok(()) => more += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
        assert!(more > taken, "{taken} and then {more}");
        for _ in 0..more {
            b.receive(&mut [0; 4096]).unwrap();
        }
        assert!(!a.is_mostly_free().unwrap());
        b.receive(&mut [0; 4096]).unwrap();
        assert!(a.is_mostly_free().unwrap());
        drop(b);
        assert!(a.is_mostly_free().unwrap());
        let gone = a.send(b"x", &[]).unwrap_err().kind();
        assert_ne!(gone, io::ErrorKind::WouldBlock);
    }

    #[test]
    fn listens_for_its_own_user_only_and_identifies_processes() {
        let name = format!("smbdirect-seqpacket-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_file(&path);
        let listener = SeqListener::bind(&path).unwrap();
        let file = std::fs::metadata(&path).unwrap();
        assert!(file.file_type().is_socket());
        assert_eq!(file.mode() & 0o777, 0o600);
        assert!(
            SeqListener::bind(&path).is_err(),
            "another socket listens at this path"
        );
        assert_eq!(
            listener.accept().unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );

        let client = SeqSocket::connect(&path).unwrap();
        let server = listener.accept().unwrap();
        let this = Credentials {
            process: i32::try_from(std::process::id()).unwrap(),
            user: file.uid(),
            group: server.peer_credentials().unwrap().group,
        };
        assert_eq!(server.peer_credentials().unwrap(), this);
        assert_eq!(client.peer_credentials().unwrap(), this);
        client.send(b"hello", &[]).unwrap();
        assert_eq!(server.receive(&mut [0; 8]).unwrap().length, 5);
        std::fs::remove_file(&path).unwrap();
        drop(listener);
        assert!(SeqSocket::connect(&path).is_err());
    }
}
