// SPDX-License-Identifier: GPL-2.0-or-later

//! A TCP proxy that writes what passes through it to a capture, with one MPA frame or FPDU in each packet. It looks
//! only at lengths, and leaves everything else to tshark.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use smbdirect::fabric::pcap::{Direction, PcapWriter, StreamId};
use smbdirect::units::Instant;

type Capture = Arc<Mutex<(PcapWriter<Vec<u8>>, StreamId, std::time::Instant)>>;

/// A proxy for one connection.
pub(crate) struct Wiretap {
    /// The address to connect to instead of the server's.
    pub(crate) address: SocketAddr,
    thread: JoinHandle<Vec<u8>>,
}

impl Wiretap {
    /// Starts a proxy in front of `server`.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((server.ip(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || relay(&listener, server));
        Self { address, thread }
    }

    /// Returns the capture file, once both ends have closed.
    pub(crate) fn capture(self) -> Vec<u8> {
        self.thread.join().unwrap()
    }
}

fn relay(listener: &TcpListener, server: SocketAddr) -> Vec<u8> {
    let (client, client_address) = listener.accept().unwrap();
    let server = TcpStream::connect(server).unwrap();
    for stream in [&client, &server] {
        stream.set_nodelay(true).unwrap();
    }
    let mut writer = PcapWriter::new(Vec::new()).unwrap();
    let stream = writer
        .stream(client_address, server.peer_addr().unwrap())
        .unwrap();
    let capture = Arc::new(Mutex::new((writer, stream, std::time::Instant::now())));
    let back = {
        let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let capture = Arc::clone(&capture);
        std::thread::spawn(move || forward(from, to, Direction::ToClient, &capture))
    };
    forward(client, server, Direction::ToServer, &capture);
    back.join().unwrap();
    let (writer, ..) = Arc::into_inner(capture).unwrap().into_inner().unwrap();
    writer.into_inner()
}

fn forward(mut from: TcpStream, mut to: TcpStream, direction: Direction, capture: &Capture) {
    let mut rest = Vec::new();
    let mut chunk = vec![0; 64 * 1024];
    let mut handshake = true;
    loop {
        let n = from.read(&mut chunk).unwrap_or(0);
        if n == 0 {
            break;
        }
        rest.extend_from_slice(&chunk[..n]);
        while let Some(length) =
            frame_length(&rest, handshake).filter(|length| *length <= rest.len())
        {
            let mut capture = capture.lock().unwrap();
            let (writer, stream, start) = &mut *capture;
            let now = Instant::ZERO + start.elapsed();
            writer
                .data(*stream, direction, now, &rest[..length])
                .unwrap();
            rest.drain(..length);
            handshake = false;
        }
        if to.write_all(&chunk[..n]).is_err() {
            break;
        }
    }
    assert!(rest.is_empty(), "the stream ends inside a frame");
    let _ = to.shutdown(Shutdown::Write);
}

/// Returns the length of the frame with which `bytes` begin, once its length field is there.
fn frame_length(bytes: &[u8], handshake: bool) -> Option<usize> {
    let number = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *bytes.get(at)?,
            *bytes.get(at + 1)?,
        ])))
    };
    if handshake {
        return Some(20 + number(18)?);
    }
    Some((2 + number(0)?).next_multiple_of(4) + 4)
}
