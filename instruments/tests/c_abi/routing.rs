// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests which worker gets a connection.

use rustix::process::{Pid, Signal, kill_process};

use instruments::c::programs::Build;
use instruments::c::smbd::Smbd;
use instruments::peer::{Peer, smb2};

#[test]
fn all_connections_of_an_unknown_client_go_to_one_child_of_its_own() {
    for build in Build::ALL {
        let smbd = Smbd::start(build, "");
        let first = smbd.client([1; 16]);
        let one: Vec<_> = smbd.connections().into_iter().collect();
        let (child, parent) = (one[0].0, i64::from(smbd.program.id()));
        assert!(one.len() == 1 && child != parent, "{one:?}");

        let second = smbd.client([1; 16]);
        assert!(smbd.connections().into_iter().eq([(child, 2)]));

        let other = smbd.client([2; 16]);
        let connections = smbd.connections();
        assert_eq!(connections.get(&child), Some(&2), "{connections:?}");
        assert_eq!(connections.len(), 2, "{connections:?}");

        // The child ends with the last of its connections, and then the device no longer knows the client.
        first.close();
        smbd.wait_for_connections(2);
        let third = smbd.client([1; 16]);
        assert_eq!(smbd.connections().get(&child), Some(&2));
        second.close();
        third.close();
        let gone = |status: &serde_json::Value| status["totals"]["clients"] == 1;
        smbd.daemon.wait_for_status(gone);
        let again = smbd.client([1; 16]);
        assert_eq!(smbd.connections().get(&child), None, "another process");
        again.close();
        other.close();
        smbd.finish();
    }
}

/// The number of unauthenticated connections of one client at once: as many as one address may have.
const AT_ONCE: usize = 15;

#[test]
fn connections_that_a_new_client_makes_at_once_come_to_one_child() {
    for build in Build::ALL {
        let smbd = Smbd::start(build, "");
        // Stop the parent, so that it forks a child for each connection only once all of them are offered.
        let parent = i32::try_from(smbd.program.id())
            .ok()
            .and_then(Pid::from_raw);
        let signal = |signal| kill_process(parent.expect("a process"), signal).expect("a child");
        signal(Signal::STOP);
        let mut peers: Vec<Peer> = (0..AT_ONCE)
            .map(|_| Peer::connect(smbd.daemon.address()))
            .collect();
        for peer in &mut peers {
            peer.negotiate([1; 16]);
        }
        let offered = |status: &serde_json::Value| status["totals"]["offered"] == AT_ONCE;
        smbd.daemon.wait_for_status(offered);
        signal(Signal::CONT);
        let request = smb2::negotiate_request([1; 16]);
        for peer in &mut peers {
            assert_eq!(peer.receive(), request);
        }
        let connections: Vec<usize> = smbd.connections().into_values().collect();
        assert_eq!(connections, [AT_ONCE], "one child owns all of them");
        for peer in peers {
            peer.close();
        }
        smbd.finish();
    }
}
