// SPDX-License-Identifier: GPL-2.0-or-later

//! A client with several connections, which serves the server only when it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use smbdirect::fabric::Access;

use crate::actor::{bytes16, has_input, number, obey, pattern};
use crate::held::Held;
use instruments::peer::{Options, Peer, Window, emit, smb2};

struct Client {
    address: SocketAddr,
    peers: Vec<Peer>,
    /// The window that the last request named.
    window: Option<Window>,
    /// What this process held before the first command.
    empty: Option<Held>,
}

/// Obeys commands until the input ends.
pub(crate) fn play(address: SocketAddr) {
    let mut client = Client {
        address,
        peers: Vec::new(),
        window: None,
        empty: None,
    };
    obey(|words| client.perform(words));
}

impl Client {
    fn perform(&mut self, words: &[&str]) -> String {
        self.empty.get_or_insert_with(|| Held::of("self"));
        let at = || number(words, 1);
        match words[0] {
            "begin" => self.begin(),
            "established" => self.peers[at()].wait_established().expect("let in"),
            "negotiate" => self.peers[at()].negotiate(bytes16(words, 2)),
            "request-read" => self.request(at(), number(words, 2), Access::RemoteRead),
            "request-write" => self.request(at(), number(words, 2), Access::RemoteWrite),
            "check" => self.check(),
            "receive" => {
                let message = self.peers[at()].receive();
                assert!(message == pattern(number(words, 2)), "other bytes arrived");
            }
            "half" => self.send_half(at(), number(words, 2)),
            "flush" => self.peers[at()].flush(),
            "invalidated" => {
                let token = self.window.as_ref().expect("a request").token();
                self.peers[at()].wait_invalidated(token);
            }
            "serve" => self.serve(),
            "stop" => {}
            "closed" => {
                self.peers[at()].wait_closed();
            }
            "alive" => {
                let reason = self.peers[at()].closed();
                assert!(reason.is_none(), "closed: {reason:?}");
            }
            "close" => {
                self.peers.remove(at()).close();
            }
            "reset" => self.reset(),
            other => panic!("what is {other:?}?"),
        }
        "ok".to_owned()
    }

    /// Begins to connect.
    fn begin(&mut self) {
        let mut peer = Peer::begin(self.address, Options::default());
        assert!(peer.closed().is_none());
        self.peers.push(peer);
    }

    /// Asks the server to read or write a whole new window.
    fn request(&mut self, at: usize, length: usize, access: Access) {
        let peer = &mut self.peers[at];
        let window = peer.window(length, access);
        if access == Access::RemoteRead {
            window.memory.write(0, &pattern(length)).expect("in range");
        }
        peer.send(&emit(&window.descriptors(4)));
        self.window = Some(window);
    }

    fn check(&self) {
        let window = self.window.as_ref().expect("a request");
        assert!(
            window.bytes() == pattern(window.memory.len()),
            "other bytes"
        );
    }

    /// Begins to send a message that needs more credits than there are.
    fn send_half(&mut self, at: usize, length: usize) {
        let peer = &mut self.peers[at];
        peer.queue(&pattern(length)).expect("room");
        assert!(peer.closed().is_none());
        assert_eq!(peer.unsent(), 1, "all of it was sent");
    }

    /// Serves all connections until the next command.
    fn serve(&mut self) {
        while !has_input(std::io::stdin()) {
            for peer in &mut self.peers {
                peer.drive(Duration::from_millis(1), |_| false);
            }
        }
    }

    fn reset(&mut self) {
        self.peers.clear();
        self.window = None;
        assert_eq!(Some(Held::of("self")), self.empty, "something is left");
    }
}

/// Returns the length of a first request, as the worker sees it.
pub(crate) fn first_request_length() -> usize {
    smb2::negotiate_request([1; 16]).len()
}
