// SPDX-License-Identifier: GPL-2.0-or-later

//! The channel between a process and a device.
//!
//! A [`Channel`] carries control messages and, with them, doorbells and memory that both sides map. A process reaches
//! `smbdirectd` through a socket ([`SocketChannel`]), and a device in the kernel through a character device
//! ([`chardev`](super::chardev)). Submissions and completions do not go through the channel: they are in that memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use super::Status;
use super::abi::MAX_CONTROL_LENGTH;
use super::message::{Answer, read_answer};
use super::trust;
use crate::shm::{Doorbell, map};
use crate::sys::{Bell, Memfd, MemfdError, Memory, ReceiveError, SeqSocket, Waker};

/// A process's connection to a device. No call waits.
pub trait Channel {
    /// Wakes the device's side of a queue.
    type Doorbell: Doorbell;

    /// Returns a descriptor that is readable while there is a message, when the device has gone, and after
    /// [`wake`](Self::wake).
    fn event_fd(&self) -> BorrowedFd<'_>;

    /// Makes `event_fd` readable until the next [`receive`](Self::receive).
    fn wake(&mut self);

    /// Sends a control message.
    ///
    /// # Errors
    ///
    /// [`Status::Again`]: the device must receive first, see [`has_room_again`](Self::has_room_again).
    /// [`Status::Detached`]: the device has gone.
    fn send(&mut self, message: &[u8]) -> Result<(), Status>;

    /// Returns whether most of the room for messages to the device is free.
    fn is_mostly_free(&self) -> bool {
        true
    }

    /// Returns whether most of the room is free again after [`send`](Self::send) has refused a message: `true` once,
    /// and then `false` until the next refusal. `event_fd` becomes readable when a call would return `true`.
    fn has_room_again(&mut self) -> bool {
        false
    }

    /// Returns the next control message; `None` if there is none now.
    ///
    /// # Errors
    ///
    /// Each error ends the attachment. [`Status::Detached`]: the device has gone. [`Status::Corrupt`]: it sent
    /// something that is not a message, or a message that does not carry what it should. [`Status::System`]: this
    /// process cannot get more descriptors or memory.
    fn receive(&mut self) -> Result<Option<Delivery<Self::Doorbell>>, Status>;

    /// Returns whether the device has looked at everything since `event_fd` was last waited for, so that it has
    /// nothing new to say unless `event_fd` is readable again: the next [`receive`](Self::receive) can wait for that.
    /// `true` once; the caller may not take it as a promise that there is no message.
    fn has_just_looked(&mut self) -> bool {
        false
    }

    /// Ends the attachment, even if a child of this process holds a copy of the channel.
    fn close(&mut self);
}

/// A control message, and what came with it.
#[derive(Debug)]
pub struct Delivery<D> {
    /// The cookie of the request that the message answers, or 0.
    pub cookie: u64,
    /// The message.
    pub answer: Answer,
    /// The memory, for messages that carry it: exactly as many bytes as the message says.
    pub memory: Option<Memory>,
    /// The doorbell, for [`Answer::Queue`].
    pub doorbell: Option<D>,
    /// The socket, for [`Answer::Capture`].
    pub socket: Option<OwnedFd>,
}

/// A channel to `smbdirectd`.
#[derive(Debug)]
pub struct SocketChannel {
    socket: SeqSocket,
    waker: Waker,
    /// A message was refused, so that the waker watches for room.
    waits_for_room: bool,
    /// The bytes of the message that is being received.
    buffer: Box<[u8; MAX_CONTROL_LENGTH]>,
}

impl SocketChannel {
    /// Connects to the device at `path`, if the process that listens there can be trusted ([`trust`]).
    ///
    /// # Errors
    ///
    /// [`Status::NoDevice`], [`Status::Denied`], [`Status::Untrusted`], [`Status::System`].
    /// [`Status::Again`]: too many processes are connecting at this moment.
    pub fn connect(path: &Path) -> Result<Self, Status> {
        let socket = SeqSocket::connect(path).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => Status::Denied,
            // The backlog is full of connections that wait to be accepted.
            io::ErrorKind::WouldBlock => Status::Again,
            // The path does not exist, nothing listens there, or the file there is not a socket of this type.
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::InvalidInput => Status::NoDevice,
            _ if error.raw_os_error() == Some(libc::EPROTOTYPE) => Status::NoDevice,
            _ => Status::System,
        })?;
        // This check comes before anything is sent. The credentials are those with which the device began to listen.
        let device = socket.peer_credentials().map_err(|_| Status::System)?;
        if !trust::may_serve(path, device.user) {
            return Err(Status::Untrusted);
        }
        Self::new(socket).map_err(|_| Status::System)
    }

    /// Makes a channel from a connected socket.
    ///
    /// # Errors
    ///
    /// The system has no descriptors left.
    pub fn new(socket: SeqSocket) -> io::Result<Self> {
        Ok(Self {
            waker: Waker::new(socket.as_fd())?,
            waits_for_room: false,
            socket,
            buffer: Box::new([0; MAX_CONTROL_LENGTH]),
        })
    }

    /// Returns the process that serves the device, as it was when it began to listen; `None` if it is in a process
    /// namespace that is not visible from here.
    #[must_use]
    pub fn device_process(&self) -> Option<u32> {
        let device = self.socket.peer_credentials().ok()?;
        u32::try_from(device.process).ok().filter(|id| *id > 0)
    }

    fn wait_for_room(&mut self, wanted: bool) {
        // This does not fail while the socket is open.
        let watched = self.waker.watch_writable(self.socket.as_fd(), wanted);
        self.waits_for_room = wanted && watched.is_ok();
    }
}

impl Channel for SocketChannel {
    type Doorbell = Bell;

    fn event_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    fn wake(&mut self) {
        self.waker.wake();
    }

    fn send(&mut self, message: &[u8]) -> Result<(), Status> {
        match self.socket.send(message, &[]) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.wait_for_room(true);
                Err(Status::Again)
            }
            Err(_) => Err(Status::Detached),
        }
    }

    fn is_mostly_free(&self) -> bool {
        // If that cannot be found out, sending shows whether there is room.
        self.socket.is_mostly_free().unwrap_or(true)
    }

    fn has_room_again(&mut self) -> bool {
        let has_room = self.waits_for_room && self.is_mostly_free();
        if has_room {
            self.wait_for_room(false);
        }
        has_room
    }

    fn receive(&mut self) -> Result<Option<Delivery<Bell>>, Status> {
        self.waker.calm();
        let received = match self.socket.receive(self.buffer.as_mut_slice()) {
            Err(error) if error.is_would_block() => return Ok(None),
            result => result.map_err(|error| match error {
                ReceiveError::MessageTooLong { .. } => Status::Corrupt,
                // The message carries more descriptors than it should, or this process could not
                // take all of them because of its limit.
                ReceiveError::TooManyDescriptors => Status::System,
                ReceiveError::Closed | ReceiveError::System(_) => Status::Detached,
            })?,
        };
        let message = self.buffer.get(..received.length).ok_or(Status::Corrupt)?;
        let (cookie, answer) = read_answer(message).map_err(|_| Status::Corrupt)?;
        let carried = received.descriptors.len();
        if answer.descriptors().is_some_and(|meant| meant != carried) {
            return Err(Status::Corrupt);
        }
        let mut descriptors = received.descriptors.into_iter();
        let socket = match answer {
            Answer::Capture(_) => descriptors.next(),
            _ => None,
        };
        let memory = match (memory_length(&answer), descriptors.next()) {
            (Some(length), Some(file)) => Some(map_file(file, length)?),
            _ => None,
        };
        Ok(Some(Delivery {
            cookie,
            answer,
            memory,
            doorbell: descriptors.next().map(Bell::from),
            socket,
        }))
    }

    fn close(&mut self) {
        // This fails only if the socket is already closed.
        let _ = self.socket.shut_down();
    }
}

/// Returns the length of the memory file that a message says it carries, in bytes.
const fn memory_length(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Segment(segment) => Some(segment.length),
        Answer::Queue(queue) => Some(queue.length),
        Answer::Status(report) => Some(report.length),
        _ => None,
    }
}

fn map_file(file: OwnedFd, length: u64) -> Result<Memory, Status> {
    let length = usize::try_from(length).map_err(|_| Status::Corrupt)?;
    let file = Memfd::verify(file, length).map_err(|error| match error {
        MemfdError::System(_) => Status::System,
        _ => Status::Corrupt,
    })?;
    // The mapping outlives the descriptor.
    map(&file).map_err(|_| Status::System)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use zerocopy::FromZeros;

    use super::super::abi::{Attached, ClientNote, Queue, Reply, Segment, VERSION, Wake};
    use super::super::event::{Event, Role};
    use super::super::handle::Handle;
    use super::super::message::{Body, encode, read_request};
    use super::*;
    use crate::sys::{SeqListener, wait_readable};

    fn place(name: &str) -> PathBuf {
        let name = format!("smbdirect-channel-{name}-{}", std::process::id());
        std::env::temp_dir().join(name)
    }

    struct Pair {
        channel: SocketChannel,
        device: SeqSocket,
    }

    impl Pair {
        fn new() -> Self {
            let (near, device) = SeqSocket::pair().unwrap();
            let channel = SocketChannel::new(near).unwrap();
            Self { channel, device }
        }

        fn deliver<B: Body>(
            &mut self,
            body: &B,
            files: &[BorrowedFd<'_>],
        ) -> Result<Option<Delivery<Bell>>, Status> {
            let mut message = Vec::new();
            encode(3, body, &[], &mut message);
            self.device.send(&message, files).unwrap();
            wait_readable(self.channel.event_fd(), None).unwrap();
            self.channel.receive()
        }
    }

    fn segment(length: u64) -> Segment {
        Segment {
            length,
            ..Segment::new_zeroed()
        }
    }

    #[test]
    fn says_why_there_is_no_device() {
        let nothing = SocketChannel::connect(&place("nothing")).unwrap_err();
        assert_eq!(nothing, Status::NoDevice);
        let path = place("gone");
        let _ = std::fs::remove_file(&path);
        drop(SeqListener::bind(&path).unwrap());
        assert_eq!(
            SocketChannel::connect(&path).unwrap_err(),
            Status::NoDevice,
            "a socket without a listener"
        );
        std::fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(SocketChannel::connect(&path).unwrap_err(), Status::NoDevice);
        drop(other);
        std::fs::remove_file(&path).unwrap();
        let longest = PathBuf::from("x".repeat(200));
        assert!(SocketChannel::connect(&longest).is_err());
    }

    #[test]
    fn does_not_wait_if_too_many_do() {
        let path = place("crowd");
        let _ = std::fs::remove_file(&path);
        let _listener = SeqListener::bind(&path).unwrap();
        let crowd: Vec<_> = (0..1000).map(|_| SeqSocket::connect(&path)).collect();
        assert!(crowd.iter().any(Result::is_err), "the backlog has no limit");
        let refused = SocketChannel::connect(&path).unwrap_err();
        assert_eq!(refused, Status::Again);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn delivers_messages_with_their_memory_and_doorbell() {
        let mut pair = Pair::new();
        assert!(pair.channel.receive().unwrap().is_none());
        let file = Memfd::create("test", 8192).unwrap();
        let (bell, _other) = Bell::pair().unwrap();
        let queue = Queue {
            length: 8192,
            ..Queue::new_zeroed()
        };
        let delivery = pair
            .deliver(&queue, &[file.as_fd(), bell.as_fd()])
            .unwrap()
            .unwrap();
        assert_eq!(
            (delivery.cookie, delivery.answer),
            (3, Answer::Queue(queue))
        );
        assert!(delivery.doorbell.is_some());
        let memory = delivery.memory.unwrap();
        map(&file).unwrap().write(8191, b"x").unwrap();
        assert_eq!(memory.to_vec(8191, 1).unwrap(), b"x");

        let reply = Reply { status: 7, kind: 3 };
        let delivery = pair.deliver(&reply, &[]).unwrap().unwrap();
        assert_eq!(delivery.answer, Answer::Reply(reply));
        assert!(delivery.memory.is_none() && delivery.doorbell.is_none());
    }

    #[test]
    fn refuses_memory_that_is_not_as_it_was_announced() {
        let file = Memfd::create("test", 8192).unwrap();
        let files = [file.as_fd()];
        let refusal = |body: &Segment, files: &[BorrowedFd<'_>]| {
            Pair::new().deliver(body, files).map(|_| ()).unwrap_err()
        };
        assert_eq!(refusal(&segment(4096), &files), Status::Corrupt);
        assert_eq!(refusal(&segment(u64::MAX), &files), Status::Corrupt);
        assert_eq!(refusal(&segment(0), &files), Status::Corrupt);
        assert_eq!(refusal(&segment(8192), &[]), Status::Corrupt);
        let two = [file.as_fd(), file.as_fd()];
        assert_eq!(refusal(&segment(8192), &two), Status::Corrupt);
        let (bell, _other) = Bell::pair().unwrap();
        assert_eq!(refusal(&segment(8192), &[bell.as_fd()]), Status::Corrupt);
        let wake = Pair::new().deliver(&Wake::new_zeroed(), &files);
        assert_eq!(wake.map(|_| ()).unwrap_err(), Status::Corrupt);
    }

    #[test]
    fn tells_that_the_device_has_gone() {
        let Pair {
            mut channel,
            device,
        } = Pair::new();
        drop(device);
        wait_readable(channel.event_fd(), None).unwrap();
        assert_eq!(channel.receive().unwrap_err(), Status::Detached);
        assert_eq!(channel.send(b"x").unwrap_err(), Status::Detached);
    }

    #[test]
    fn sends_until_the_device_must_receive_first() {
        let mut pair = Pair::new();
        let full = (0..100_000).find_map(|_| pair.channel.send(&[0; 64]).err());
        assert_eq!(full, Some(Status::Again));
    }

    /// Makes a listener that is attached, and the other end of its socket, at which nothing receives.
    fn listener() -> (Handle<SocketChannel>, SeqSocket) {
        let Pair { channel, device } = Pair::new();
        let mut listener = Handle::over(channel, Role::Listener, None).unwrap();
        let mut buffer = [0; MAX_CONTROL_LENGTH];
        let length = device.receive(&mut buffer).unwrap().length;
        let (cookie, _) = read_request(&buffer[..length]).unwrap();
        let attached = Attached {
            version: VERSION,
            ..Attached::new_zeroed()
        };
        let mut message = Vec::new();
        encode(cookie, &attached, &[], &mut message);
        device.send(&message, &[]).unwrap();
        assert_eq!(listener.next_event(), Ok(Some(Event::Attached)));
        assert_eq!(listener.next_event(), Ok(None));
        (listener, device)
    }

    fn receive_all(device: &SeqSocket) {
        let mut buffer = [0; MAX_CONTROL_LENGTH];
        while device.receive(&mut buffer).is_ok() {}
    }

    #[test]
    fn notes_leave_room_for_requests() {
        let (mut listener, device) = listener();
        let note = ClientNote::new_zeroed();
        let refused = (0..100_000).find_map(|_| listener.note_client(&note).err());
        assert_eq!(refused, Some(Status::Again));
        assert_eq!(listener.set_addresses(1, None), Ok(()));
        assert_eq!(listener.decline(2, [1; 16]), Ok(()));
        receive_all(&device);
        assert_eq!(listener.note_client(&note), Ok(()));
        assert_eq!(listener.next_event(), Ok(None), "no request was refused");
    }

    #[test]
    fn room_is_told_although_no_answer_comes() {
        let (mut listener, device) = listener();
        while listener.channel.socket.send(&[0; 64], &[]).is_ok() {}
        for _ in 0..2 {
            assert_eq!(listener.decline(1, [1; 16]), Err(Status::Again));
        }
        assert_eq!(listener.next_event(), Ok(None));
        receive_all(&device);
        let time = Some(Duration::from_secs(10));
        wait_readable(listener.event_fd().unwrap(), time).unwrap();
        assert_eq!(listener.next_event(), Ok(Some(Event::Room)));
        assert_eq!(listener.next_event(), Ok(None), "once");
        assert_eq!(listener.decline(1, [1; 16]), Ok(()));
    }
}
