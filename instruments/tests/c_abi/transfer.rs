// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests moving a connection from one worker to another.

use crate::requests::{command, status};
use instruments::c::programs::Build;
use instruments::c::smbd::Smbd;
use instruments::peer::{Peer, smb2};

/// Makes a message that gives its connection away, with an echo request for its next owner.
fn transfer(command: u16, client_guid: [u8; 16], echo: &[u8]) -> Vec<u8> {
    let body = [&client_guid[..], echo].concat();
    smb2::request(command, 1, 0, &body)
}

/// Checks that the worker `owner` echoes a message.
fn expect_owner(smbd: &Smbd, peer: &mut Peer, owner: i64) {
    let message = smb2::request(command::ECHO, 3, 0, &[0x5a; 70_000]);
    peer.send(&message);
    assert!(peer.receive() == message);
    assert!(smbd.connections().contains_key(&owner));
}

#[test]
fn a_connection_moves_to_the_worker_that_has_registered_its_client() {
    for build in Build::ALL {
        let smbd = Smbd::start(build, "");
        let mut one = smbd.client([1; 16]);
        let first = *smbd.connections().keys().next().expect("a worker");
        let mut two = smbd.client([2; 16]);
        let mut connections = smbd.connections();
        connections.remove(&first);
        let second = *connections.keys().next().expect("another worker");

        // No worker has registered this GUID, so the connection stays, and its owner says why.
        let echo = smb2::request(command::ECHO, 2, 0, &[1; 5000]);
        one.send(&transfer(command::TRANSFER, [9; 16], &echo));
        let answer = one.receive();
        let expected = smbdirect::device::Status::NoOwner.code();
        assert_eq!(status(&answer), expected);

        one.send(&transfer(command::TRANSFER, [2; 16], &echo));
        assert!(one.receive() == echo, "answered by its new owner");
        assert!(smbd.connections().into_iter().eq([(second, 2)]));
        expect_owner(&smbd, &mut one, second);
        expect_owner(&smbd, &mut two, second);
        one.close();
        two.close();
        smbd.finish();
    }
}

#[test]
fn a_connection_moves_to_the_worker_that_learns_its_token() {
    for build in Build::ALL {
        let mut smbd = Smbd::start(build, "");
        let mut one = smbd.client([1; 16]);
        let first = *smbd.connections().keys().next().expect("a worker");
        let mut two = smbd.client([2; 16]);
        let mut connections = smbd.connections();
        connections.remove(&first);
        let second = *connections.keys().next().expect("another worker");

        let echo = smb2::request(command::ECHO, 2, 0, &[1; 5000]);
        one.send(&transfer(command::TRANSFER_TOKEN, [0; 16], &echo));
        let line = smbd
            .program
            .wait_for_line("transferred", |line| line.contains(" transferred "));
        let token = line.rsplit(' ').next().expect("a token");
        let token: Vec<u8> = (0..token.len() / 2)
            .map(|n| u8::from_str_radix(&token[2 * n..2 * n + 2], 16).expect("a number"))
            .collect();
        // The connection waits, although the worker that gave it away has ended.
        let waits = |status: &serde_json::Value| {
            status["totals"]["offered"] == 1 && status["processes"].as_array().unwrap().len() == 3
        };
        smbd.daemon.wait_for_status(waits);

        let claim = smb2::request(command::CLAIM, 4, 0, &token);
        two.send(&claim);
        assert!(two.receive() == claim);
        assert!(one.receive() == echo, "answered by its new owner");
        assert!(smbd.connections().into_iter().eq([(second, 2)]));
        expect_owner(&smbd, &mut one, second);
        one.close();
        two.close();
        smbd.finish();
    }
}
