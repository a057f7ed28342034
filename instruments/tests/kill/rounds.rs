// SPDX-License-Identifier: GPL-2.0-or-later

//! Clients of a worker that serves without commands (`load`): they compare what comes back.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use smbdirect::fabric::Access;
use smbdirect::transport::CloseReason;

use crate::actor::{bytes16, has_input, pattern, read_line, say};
use crate::load::{ANSWER, LENGTH, ORDER};
use instruments::daemon::TIMEOUT;
use instruments::peer::{Options, Peer, emit, smb2};

/// A client that checks the answers.
pub(crate) struct Rounds {
    peer: Peer,
    number: usize,
}

/// The connection has ended, which is not an error if its worker has been killed.
#[derive(Debug)]
pub(crate) struct Ended(#[allow(dead_code)] pub(crate) Option<CloseReason>);

impl Rounds {
    pub(crate) fn begin(server: SocketAddr, guid: [u8; 16]) -> Result<Self, Ended> {
        let peer = Peer::try_connect(server, Options::default());
        let mut this = Self {
            peer: peer.map_err(|reason| Ended(Some(reason)))?,
            number: 0,
        };
        let request = smb2::negotiate_request(guid);
        this.send(&request)?;
        assert!(this.receive()? == request, "other bytes came back");
        Ok(this)
    }

    /// Sends messages of all lengths, and makes the worker move data by RDMA in both directions.
    pub(crate) fn next(&mut self) -> Result<(), Ended> {
        self.number += 1;
        let mut message = pattern(1 + self.number * 7919 % 100_000);
        message[0] = 0xfe;
        self.send(&message)?;
        self.turn()?;
        Ok(())
    }

    fn turn(&mut self) -> Result<(), Ended> {
        if let Some(reason) = self.peer.closed() {
            return Err(Ended(Some(reason)));
        }
        let source = self.peer.window(LENGTH, Access::RemoteRead);
        let target = self.peer.window(LENGTH, Access::RemoteWrite);
        let content = pattern(LENGTH);
        source.memory.write(0, &content).expect("in range");
        let pieces = [source.descriptors(3), target.descriptors(3)].concat();
        self.send(&[&[ORDER], &emit(&pieces)[..]].concat())?;
        let mut echo = pattern(1 + self.number * 7919 % 100_000);
        echo[0] = 0xfe;
        // A short answer may overtake a long one that waits for memory.
        let mut received = [self.receive()?, self.receive()?];
        received.sort_by_key(|message| *message == ANSWER);
        assert!(received[0] == echo, "other bytes came back");
        assert_eq!(received[1], ANSWER);
        let turned: Vec<u8> = content.iter().map(|byte| !byte).collect();
        assert!(target.bytes() == turned, "other bytes were written");
        assert_eq!(self.peer.take_invalidated(), [source.token()]);
        if self.peer.status().is_some() {
            self.peer.deregister(&target);
            self.peer.deregister(&source);
        }
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> Result<(), Ended> {
        match self.peer.closed() {
            None => self.peer.queue(message).map_err(|_| Ended(None)),
            reason => Err(Ended(reason)),
        }
    }

    fn receive(&mut self) -> Result<Vec<u8>, Ended> {
        match self.peer.receive_within(TIMEOUT) {
            Some(message) => Ok(message),
            None => {
                let closed = self.peer.closed();
                assert!(closed.is_some(), "no answer; {:?}", self.peer);
                Err(Ended(closed))
            }
        }
    }

    /// Sends no requests for a time.
    pub(crate) fn rest(&mut self, time: Duration) {
        self.peer.drive(time, |_| false);
    }

    pub(crate) fn end(self) {
        self.peer.close();
    }
}

/// Plays a client that connects again and again. For each line of its input, it prints `ok` once a round that began
/// after that line has ended.
pub(crate) fn play_client(server: SocketAddr) {
    let line = read_line().expect("a GUID");
    let guid = bytes16(&["", &line], 1);
    say("ok");
    let mut connection = None;
    loop {
        let start = Instant::now();
        let asked = has_input(std::io::stdin());
        if asked && read_line().is_none() {
            return;
        }
        let mut is_served = false;
        while !is_served {
            assert!(start.elapsed() < 2 * TIMEOUT, "no worker serves");
            let served = match &mut connection {
                None => Rounds::begin(server, guid).map(|rounds| connection = Some(rounds)),
                Some(rounds) => {
                    let served = rounds.next();
                    is_served = served.is_ok();
                    served
                }
            };
            if served.is_err() {
                connection = None;
                // A server that returns does not announce itself, so poll.
                std::thread::sleep(Duration::from_millis(1));
            }
            is_served |= !asked;
        }
        if asked {
            say("ok");
        }
    }
}
