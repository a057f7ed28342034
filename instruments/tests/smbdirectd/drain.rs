// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests how the daemon ends while a worker has something under way.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use smbdirect::device::{Direction, Event, Handle, Role, Status};
use smbdirect::fabric::Access;
use smbdirect::sys::wait_readable;

use instruments::daemon::{Daemon, TIMEOUT, smbdirectctl, stdout};
use instruments::peer::{Peer, Window, emit};

const GUID: [u8; 16] = [5; 16];

/// Waits for the next event of a worker.
pub(crate) fn event(worker: &mut Handle) -> Event {
    let end = Instant::now() + TIMEOUT;
    loop {
        if let Some(event) = worker.next_event().unwrap() {
            return event;
        }
        let left = end.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no event");
        wait_readable(worker.event_fd().unwrap(), Some(left)).unwrap();
    }
}

/// Returns a worker that has taken the first request of a new client.
fn connected(daemon: &Daemon) -> (Handle, Peer, u64) {
    dispatched(daemon, Peer::connect(daemon.address()))
}

/// Returns a worker that has taken the first request of `peer`, which sends it now.
pub(crate) fn dispatched(daemon: &Daemon, mut peer: Peer) -> (Handle, Peer, u64) {
    let mut worker = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    assert!(matches!(event(&mut worker), Event::Attached));
    worker.set_session_id(1, GUID, 0, false).unwrap();
    let Event::Reply { status, .. } = event(&mut worker) else {
        panic!("an answer");
    };
    assert_eq!(status, Status::Ok);

    peer.negotiate(GUID);
    let Event::Connection { info } = event(&mut worker) else {
        panic!("a connection");
    };
    assert_eq!(info.client_guid, GUID);
    let Event::Pdu { pdu, .. } = event(&mut worker) else {
        panic!("the first request");
    };
    worker.take_pdu(pdu, &mut []).unwrap();
    (worker, peer, info.conn)
}

/// Returns a worker that has begun to read memory of a client. The client serves that memory only when it is driven
/// again.
fn reading(daemon: &Daemon) -> (Handle, Peer, Window) {
    let (mut worker, mut peer, conn) = connected(daemon);
    let window = peer.window(1 << 20, Access::RemoteRead);
    // The worker must ask for its first memory.
    assert_eq!(worker.allocate(1 << 20), Err(Status::Again));
    assert_eq!(event(&mut worker), Event::Room);
    let buffer = worker.allocate(1 << 20).unwrap();
    let number = buffer.number;
    let descriptors = emit(&window.descriptors(3));
    worker
        .rdma(Direction::Read, conn, 2, number, 0, 1 << 20, &descriptors)
        .unwrap();
    (worker, peer, window)
}

#[test]
fn lets_a_worker_finish_what_is_under_way() {
    let mut daemon = Daemon::start(&[]);
    let (mut worker, mut peer, window) = reading(&daemon);
    window.memory.write(7, b"content").unwrap();
    let pid = std::process::id().to_string();
    let shown = stdout(&smbdirectctl(&daemon.control, &[]));
    let is_owned = |line: &str| line.contains(" owned* ") && line.contains(&pid);
    assert!(shown.lines().any(is_owned), "{shown}");

    daemon.signal(Signal::TERM);
    daemon.wait_for_notification("STOPPING=1");
    peer.wait_closed();
    let Event::RdmaDone { status, cookie, .. } = event(&mut worker) else {
        panic!("the end of the RDMA READ");
    };
    assert_eq!((status, cookie), (Status::Ok, 2));
    assert!(daemon.wait().success(), "{}", daemon.log());
}

/// smbd has the request, and the device has all of its memory back: only smbd knows that there is work under way.
#[test]
fn lets_a_worker_answer_a_request_that_it_has_taken() {
    let mut daemon = Daemon::start(&[]);
    let (mut worker, mut peer, conn) = connected(&daemon);
    daemon.signal(Signal::TERM);
    daemon.wait_for_notification("STOPPING=1");
    let status = daemon.wait_for_status(|status| status["stopping"] == true);
    assert_eq!(status["connections"][0]["state"], "owned", "{status}");
    // The device refuses new processes, except observers.
    let mut late = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    assert_eq!(
        event(&mut late),
        Event::Detached {
            status: Status::Stopping
        }
    );
    // The worker works on the request for this long.
    assert_eq!(peer.receive_within(Duration::from_millis(300)), None);
    assert!(peer.closed().is_none());
    let response = [IoSlice::new(b"response")];
    while let Err(status) = worker.send_pdu(conn, 3, &response, None) {
        assert_eq!(status, Status::Again);
        assert_eq!(event(&mut worker), Event::Room);
    }
    assert_eq!(peer.receive(), b"response");
    peer.wait_closed();
    drop(worker);
    assert!(daemon.wait().success(), "{}", daemon.log());
}

#[test]
fn ends_at_once_at_a_second_signal() {
    let mut daemon = Daemon::start(&[]);
    let _reading = reading(&daemon);
    daemon.signal(Signal::TERM);
    daemon.wait_for_notification("STOPPING=1");
    // A second signal does not count if it comes at the same time as the first.
    std::thread::sleep(Duration::from_millis(600));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(1), "{}", daemon.log());
    assert!(daemon.log().contains("ended at once"), "{}", daemon.log());
}

/// timeout(1) sends one signal to its child and one to the process group.
#[test]
fn signals_that_come_together_are_one() {
    let mut daemon = Daemon::start(&[]);
    let (mut worker, mut peer, window) = reading(&daemon);
    window.memory.write(7, b"content").unwrap();
    let begin = Instant::now();
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::INT);
    if begin.elapsed() > Duration::from_millis(250) {
        eprintln!("a machine too busy to send two signals together");
        return;
    }
    daemon.wait_for_notification("STOPPING=1");
    peer.wait_closed();
    let Event::RdmaDone { status, .. } = event(&mut worker) else {
        panic!("the end of the RDMA READ");
    };
    assert_eq!(status, Status::Ok);
    assert!(daemon.wait().success(), "{}", daemon.log());
}
