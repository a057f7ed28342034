// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests how connections, clients and daemons end, with and without operations under way.

use rustix::process::{Pid, Signal, kill_process};
use smbdirect::fabric::Access;

use crate::requests::{Io, command};
use instruments::c::programs::Build;
use instruments::c::smbd::Smbd;
use instruments::daemon::{Daemon, Setup};
use instruments::peer::{Peer, smb2};

/// The device must not wait for connections that do not end by themselves.
const CONFIG: &str = "drain_timeout = \"100 ms\"";

/// Leaves many operations under way: messages that the peer does not receive, and RDMA that it does not serve, because
/// a peer does nothing unless it is called.
fn leave_operations(peer: &mut Peer) {
    for n in 0..64 {
        let window = peer.window(1 << 20, Access::RemoteRead);
        let io = Io {
            command: command::WRITE,
            message_id: n,
            channel: 1,
            offset: 0,
            length: 1 << 20,
        };
        peer.queue(&io.request(&window.descriptors(3)))
            .expect("room");
    }
    for n in 0..16 {
        let echo = smb2::request(command::ECHO, n, 0, &[0; 200_000]);
        peer.queue(&echo).expect("room");
    }
    peer.flush();
}

/// Waits until the device has unfinished operations of a worker.
fn wait_until_outstanding(smbd: &Smbd) {
    smbd.daemon.wait_for_status(|status| {
        let connection = &status["connections"][0];
        connection["outstanding"].as_u64() > Some(0)
    });
}

fn disconnected(smbd: &mut Smbd, text: &str) {
    let expected = format!(" disconnected: {text}");
    smbd.program
        .wait_for_line(text, |line| line.ends_with(&expected));
}

#[test]
fn each_side_can_disconnect() {
    for build in Build::ALL {
        let mut smbd = Smbd::start(build, "");
        let peer = smbd.client([1; 16]);
        peer.close();
        disconnected(&mut smbd, "closed by the peer");

        let mut peer = smbd.client([2; 16]);
        peer.send(&smb2::request(command::LOGOFF, 1, 0, &[]));
        assert_eq!(peer.wait_closed().name(), "peer");
        disconnected(&mut smbd, "closed by this side");
        smbd.finish();
    }
}

#[test]
fn a_client_that_vanishes_leaves_nothing_behind() {
    for build in Build::ALL {
        let mut smbd = Smbd::start(build, "");
        for guid in 1..4 {
            let mut peer = smbd.client([guid; 16]);
            leave_operations(&mut peer);
            wait_until_outstanding(&smbd);
            drop(peer);
            smbd.program
                .wait_for_line("disconnected", |line| line.contains(" disconnected: "));
        }
        let gone = |status: &serde_json::Value| {
            status["totals"]["memory"] == 0 && status["totals"]["registrations"] == 0
        };
        smbd.daemon.wait_for_status(gone);
        smbd.finish();
    }
}

#[test]
fn a_killed_worker_ends_only_its_own_connections() {
    for build in Build::ALL {
        let smbd = Smbd::start(build, "");
        let mut peer = smbd.client([1; 16]);
        let child = *smbd.connections().keys().next().expect("a worker");
        let other = smbd.client([2; 16]);
        leave_operations(&mut peer);
        let pid = Pid::from_raw(i32::try_from(child).expect("a process")).expect("a process");
        kill_process(pid, Signal::KILL).expect("a worker");
        peer.wait_closed();
        let mut again = smbd.client([1; 16]);
        again.send(&smb2::request(command::ECHO, 7, 0, &[]));
        assert_eq!(again.receive().len(), 64);
        again.close();
        other.close();
        let mut program = smbd.program;
        program.stdin = None;
        assert!(program.wait().success());
        let errors = program.errors();
        assert_eq!(errors, "a worker ended with 0x9\n");
        smbd.daemon.stop();
    }
}

/// Ends a daemon while operations are under way, and checks that smbd attaches to the next one.
fn ends_with(
    build: Build,
    reason: &str,
    end: impl FnOnce(Daemon) -> instruments::daemon::Directory,
) {
    let mut smbd = Smbd::start(build, CONFIG);
    let mut peer = smbd.client([1; 16]);
    leave_operations(&mut peer);
    wait_until_outstanding(&smbd);

    let directory = end(smbd.daemon);
    // The worker and the listener are detached, in either order.
    let expected = format!(" detached: {reason}");
    for _ in 0..2 {
        smbd.program
            .wait_for_line(&expected, |line| line.ends_with(&expected));
    }
    peer.wait_closed();

    smbd.daemon = Daemon::start_in(directory, &Setup::default());
    smbd.program
        .wait_for_line("attached", |line| line.ends_with(" attached"));
    let mut peer = smbd.client([1; 16]);
    peer.send(&smb2::request(command::ECHO, 7, 0, &[]));
    assert_eq!(peer.receive().len(), 64);
    peer.close();
    smbd.finish();
}

#[test]
fn a_stopped_daemon_says_so_and_another_takes_its_place() {
    for build in Build::ALL {
        ends_with(build, "the smbdirect device is being stopped", Daemon::stop);
    }
}

#[test]
fn smbd_notices_a_killed_daemon_and_another_takes_its_place() {
    for build in Build::ALL {
        ends_with(build, "detached from the smbdirect device", Daemon::kill);
    }
}
