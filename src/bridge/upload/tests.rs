// SPDX-License-Identifier: GPL-2.0-or-later

//! Compares streams of messages, cut anywhere, with what comes out of an upload.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use super::*;
use crate::bridge::framing::header;

/// An upload, the client's end of its socket, and the messages that were sent.
struct Scene {
    upload: Upload,
    vecs: IoVecs,
    socket: UnixStream,
    client: UnixStream,
    /// Whether sends end at once.
    done_at_once: bool,
    messages: Vec<Vec<u8>>,
    answers: usize,
}

impl Scene {
    fn new() -> Self {
        let (socket, client) = UnixStream::pair().unwrap();
        client.set_nonblocking(true).unwrap();
        Self {
            upload: Upload::new(),
            vecs: IoVecs::new(),
            socket,
            client,
            done_at_once: true,
            messages: Vec::new(),
            answers: 0,
        }
    }

    /// Does what the upload says until it has to wait for something.
    fn run(&mut self, limit: Option<u32>) -> Result<Next, End> {
        loop {
            match self.upload.next(limit)? {
                Next::Receive => {
                    let socket = self.socket.as_fd();
                    match self.upload.receive(&mut self.vecs, socket) {
                        Ok(0) | Err(_) => return Ok(Next::Receive),
                        Ok(_) => {}
                    }
                }
                Next::AnswerSession => self.answers += 1,
                Next::Large(length) => {
                    let piece = self.upload.spare(length).unwrap_or_else(|| Piece {
                        memory: Memory::zeroed(Upload::piece_size(length)),
                        region: RegionId(1),
                    });
                    self.upload.begin_large(piece, length).unwrap();
                }
                Next::SendWindow { offset, length } => {
                    let (offset, length) = (offset as usize, length as usize);
                    let message = self.upload.window.to_vec(offset, length).unwrap();
                    self.take(message);
                }
                Next::SendLarge => {
                    let partial = self.upload.partial.as_ref().unwrap();
                    let message = partial.piece.memory.to_vec(0, partial.length).unwrap();
                    self.take(message);
                }
                other => return Ok(other),
            }
        }
    }

    fn take(&mut self, message: Vec<u8>) {
        self.upload.sending(message.len());
        self.messages.push(message);
        if self.done_at_once {
            self.upload.sent();
        }
    }

    /// Runs while the client writes all of `bytes`.
    fn write(&mut self, bytes: &[u8], limit: Option<u32>) -> Result<Next, End> {
        let mut rest = bytes;
        loop {
            if let Ok(n) = self.client.write(rest) {
                rest = &rest[n..];
            }
            let next = self.run(limit)?;
            if rest.is_empty() || next != Next::Receive {
                return Ok(next);
            }
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&header(message.len() as u32)[..], message].concat()
}

fn message(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u8(..)).collect()
}

#[test]
fn messages_of_all_sizes_come_out_whole_and_in_order_wherever_they_are_cut() {
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut scene = Scene::new();
        let mut sent = Vec::new();
        let mut stream = Vec::new();
        for n in 0..60 {
            let most = [1, 100, 70_000, 300_000, 3 << 20][random.usize(..5)];
            let bytes = message(random.usize(1..=most), n);
            stream.extend_from_slice(&framed(&bytes));
            sent.push(bytes);
        }
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let n = random.usize(1..=rest.len().min(200_000));
            let next = scene.write(&rest[..n], Some(4 << 20)).unwrap();
            assert_eq!(next, Next::Receive, "seed {seed}");
            rest = &rest[n..];
        }
        assert!(scene.messages == sent, "seed {seed}");
        assert!(!scene.upload.is_mid_message());
        assert!(scene.upload.spares.len() <= SPARES);
    }
}

#[test]
fn nothing_more_is_read_while_too_much_is_being_sent() {
    let mut scene = Scene::new();
    scene.done_at_once = false;
    let stream = framed(&message(1 << 20, 0)).repeat(4);
    let next = scene.write(&stream, Some(4 << 20)).unwrap();
    assert_eq!((next, scene.messages.len()), (Next::Wait, 2));
    scene.upload.sent();
    assert_eq!(scene.run(Some(4 << 20)).unwrap(), Next::Receive);

    let mut scene = Scene::new();
    scene.done_at_once = false;
    let next = scene.write(&framed(b"x").repeat(1000), Some(200_000));
    assert_eq!(next.unwrap(), Next::Wait);
    assert_eq!(scene.messages.len(), MESSAGES);
}

#[test]
fn the_window_is_not_overwritten_while_it_is_being_sent() {
    let mut scene = Scene::new();
    scene.done_at_once = false;
    let stream = framed(&message(10_000, 0)).repeat(40);
    assert_eq!(
        scene.write(&stream, Some(200_000)).unwrap(),
        Next::Wait,
        "the window is full"
    );
    let count = scene.messages.len();
    assert_eq!(count, WINDOW / 10_004);
    for _ in 1..count {
        scene.upload.sent();
        assert_eq!(scene.run(Some(200_000)).unwrap(), Next::Wait);
    }
    scene.upload.sent();
    assert_eq!(scene.run(Some(200_000)).unwrap(), Next::Receive);
    // The window started over; how many more messages there are depends on the socket.
    assert!(scene.messages.iter().all(|it| *it == message(10_000, 0)));
}

#[test]
fn the_first_message_asks_for_a_server_and_nothing_is_sent_before_there_is_one() {
    let mut scene = Scene::new();
    assert_eq!(
        scene.write(&[0, 0, 0, 5, 0xFE], None).unwrap(),
        Next::Receive
    );
    assert_eq!(scene.write(b"SMB", None).unwrap(), Next::Connect);
    assert!(scene.messages.is_empty());
    assert_eq!(scene.write(b"!", Some(200_000)).unwrap(), Next::Receive);
    assert_eq!(scene.messages, [b"\xFESMB!"]);
}

#[test]
fn a_session_request_is_answered_once_and_keepalives_are_skipped() {
    let mut scene = Scene::new();
    let request = [&[0x81, 0, 0, 68][..], &[b'A'; 68]].concat();
    for byte in &request {
        assert_eq!(scene.write(&[*byte], None).unwrap(), Next::Receive);
    }
    assert_eq!(scene.answers, 1);
    let keepalive = [0x85, 0, 0, 0];
    let stream = [&keepalive[..], &framed(b""), &framed(b"one"), &keepalive].concat();
    assert_eq!(scene.write(&stream, Some(200_000)).unwrap(), Next::Receive);
    assert_eq!((scene.messages.len(), scene.answers), (1, 1));
    let again = scene.write(&request, Some(200_000));
    assert!(matches!(again, Err(End::NotSmb([0x81, 0, 0, 68]))));
}

#[test]
fn smb1_garbage_and_too_long_messages_end_the_connection() {
    let cases: [(&[u8], &str); 3] = [
        (b"\0\0\0\x20\xFFSMB\x72", "client spoke SMB1"),
        (b"GET / HTTP/1.1\r\n", "does not speak SMB"),
        (
            &[0, 3, 0xD, 0x41, 0xFE, b'S', b'M', b'B'],
            "200001 bytes, but the server takes at most 200000",
        ),
    ];
    for (bytes, words) in cases {
        let end = Scene::new().write(bytes, Some(200_000)).unwrap_err();
        assert!(end.to_string().contains(words), "{end}");
    }
    // Only the first message of a client is checked for SMB1.
    let mut scene = Scene::new();
    let stream = [framed(b"\xFESMB"), framed(&SMB1)].concat();
    scene.write(&stream, Some(200_000)).unwrap();
    assert_eq!(scene.messages.len(), 2);
}
