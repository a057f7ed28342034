// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the status socket: a group of users may read the status there, and nothing else.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Duration;

use smbdirect::broker::events::{Events, What};
use smbdirect::device::abi::{self, encrypted, kind, note, protection, role};
use smbdirect::device::{Status, observe, observe_events, status_path};
use smbdirect::sys::wait_readable;
use zerocopy::IntoBytes;

use crate::raw::Raw;
use crate::scene::{PATIENCE, Scene};

fn status_of(scene: &Scene) -> std::path::PathBuf {
    status_path(scene.path())
}

fn attach(role: u32, version: u32) -> abi::Attach {
    abi::Attach {
        version,
        oldest_version: version,
        ..abi::Attach::new(role, [0; 16])
    }
}

#[test]
fn the_status_socket_is_beside_the_control_socket_for_a_group() {
    let is_root = rustix::process::geteuid().is_root();
    let group = if is_root {
        4242
    } else {
        rustix::process::getegid().as_raw()
    };
    let scene = Scene::with(|config| config.status_group = group.to_string());
    let file = std::fs::metadata(status_of(&scene)).unwrap();
    assert_eq!(
        (file.permissions().mode() & 0o777, file.gid()),
        (0o660, group)
    );
    let control = std::fs::metadata(scene.path()).unwrap();
    assert_eq!(control.permissions().mode() & 0o777, 0o600);
}

/// An observer may be newer than the device.
#[test]
fn skips_a_message_that_says_that_it_may_be_skipped() {
    let scene = Scene::new();
    let mut observer = Raw::attach(&status_of(&scene), role::OBSERVER);
    let optional = abi::Control {
        kind: 77 | abi::OPTIONAL,
        length: 16,
        cookie: 0,
    };
    observer.socket.send(optional.as_bytes(), &[]).unwrap();
    let answer = observer.ask(kind::STATUS_REQUEST, &abi::StatusRequest { reserved: 0 });
    assert_eq!(answer.kind, kind::STATUS_REPORT);
}

#[test]
fn answers_with_the_status_and_does_not_count_observers_as_workers() {
    let scene = Scene::with(|config| config.max_workers = 1);
    let _worker = Raw::worker(scene.path());
    for _ in 0..3 {
        let mut observer = Raw::attach(&status_of(&scene), role::OBSERVER);
        let mut answer = observer.ask(kind::STATUS_REQUEST, &abi::StatusRequest { reserved: 0 });
        assert_eq!(answer.kind, kind::STATUS_REPORT);
        let report: abi::StatusReport = answer.read();
        let json = std::fs::File::from(answer.descriptor());
        let status: serde_json::Value = {
            let mut bytes = vec![0; report.json_length as usize];
            json.read_exact_at(&mut bytes, 0).unwrap();
            serde_json::from_slice(&bytes).unwrap()
        };
        // The only process is the worker: the observer that asks is not listed.
        assert_eq!(status["processes"].as_array().unwrap().len(), 1, "{status}");
        observer.closed();
    }
}

/// Returns the events in an answer, whose memory file holds them as JSON.
/// Returns a request for a capture of all connections of a client.
fn capture(address: &str) -> abi::CaptureRequest {
    let address: std::net::Ipv4Addr = address.parse().unwrap();
    abi::CaptureRequest {
        address: address.to_ipv6_mapped().octets(),
        bytes: 0,
        port: 0,
        reserved: 0,
    }
}

#[test]
fn two_processes_capture_at_a_time_and_each_only_once() {
    let scene = Scene::new();
    let begin = |observer: &mut Raw| observer.ask(kind::CAPTURE_REQUEST, &capture("10.0.0.1"));
    let mut observers = [(); 3].map(|()| Raw::attach(scene.path(), role::OBSERVER));
    let [first, second, third] = &mut observers;
    for observer in [&mut *first, second] {
        let mut answer = begin(observer);
        assert_eq!(answer.kind, kind::CAPTURE_STARTED);
        let started: abi::CaptureStarted = answer.read();
        assert_eq!(started.interfaces, 1);
        answer.descriptor();
        assert_eq!(begin(observer).status(), Status::Busy);
    }
    assert_eq!(begin(third).status(), Status::Limit);
    // A worker has no right to do so.
    let mut worker = Raw::worker(scene.path());
    assert_eq!(begin(&mut worker).status(), Status::NotAttached);
}

fn events_in(mut answer: crate::raw::Message) -> Events {
    assert_eq!(answer.kind, kind::STATUS_REPORT);
    let report: abi::StatusReport = answer.read();
    let file = std::fs::File::from(answer.descriptor());
    let mut json = vec![0; report.json_length as usize];
    // Another process may have moved the file's position.
    file.read_exact_at(&mut json, 0).unwrap();
    serde_json::from_slice(&json).unwrap()
}

#[test]
fn tells_at_both_sockets_what_has_happened_since_an_event() {
    let scene = Scene::with(|config| config.max_workers = 1);
    let worker = Raw::worker(scene.path());
    let mut second = Raw::connect(scene.path());
    second.try_attach(abi::VERSION, role::WORKER, [0; 16]);
    assert_eq!(second.detached(), Status::Limit);
    for path in [scene.path().to_owned(), status_of(&scene)] {
        let ask = |after| {
            let mut observer = Raw::attach(&path, role::OBSERVER);
            events_in(observer.ask(kind::EVENTS_REQUEST, &abi::EventsRequest { after }))
        };
        let all = ask(0);
        assert_eq!(all.start_time_seconds, scene.status().start_time_seconds);
        let [attached, refused] = &all.events[..] else {
            panic!("observers do not count: {all:?}");
        };
        assert!(
            matches!(&attached.what, What::Attached { worker: id, role, .. }
                if *id == worker.id() && role == "worker"),
            "{attached:?}"
        );
        assert!(
            matches!(&refused.what, What::Refused { status, words, .. }
                if status == "limit" && words.contains("max_workers = 1")),
            "{refused:?}"
        );
        assert_eq!((attached.number, refused.number), (1, 2));
        assert_eq!(ask(1).events, std::slice::from_ref(refused));
        assert_eq!(ask(2).events, []);
    }
    let json = observe_events(scene.path(), 1, PATIENCE).unwrap();
    assert!(json.contains("\"refused\""), "{json}");
}

#[test]
fn tells_what_smbd_says_about_the_session_of_a_connection() {
    let scene = Scene::new();
    let listener = Raw::attach(scene.path(), role::LISTENER);
    let (_worker, _, _client) = scene.pair(1);
    let peer = scene.status().connections[0].peer;
    let said = |value| {
        let before = scene.status().connections[0].protection.clone();
        listener.note(peer, note::SESSION, value);
        let status = scene.until("it is noted", |status| {
            status.connections[0].protection != before
        });
        status.connections[0].protection.clone()
    };
    let words = said(protection::SIGNED_IN_MESSAGES);
    assert_eq!(words.as_deref(), Some("signed in messages"));
    assert_eq!(said(protection::PLAIN).as_deref(), Some("plain"));
    // This device does not know what a later smbd says.
    assert_eq!(said(99), None);
}

#[test]
fn tells_what_is_encrypted_although_the_session_does_not_demand_that() {
    let scene = Scene::new();
    let listener = Raw::attach(scene.path(), role::LISTENER);
    let (_worker, _, _client) = scene.pair(1);
    let peer = scene.status().connections[0].peer;
    let said = |value| {
        let before = scene.status().connections[0].encrypted_by.clone();
        listener.note(peer, note::ENCRYPTED, value);
        let status = scene.until("it is noted", |status| {
            status.connections[0].encrypted_by != before
        });
        status.connections[0].encrypted_by.clone()
    };
    assert_eq!(said(encrypted::BY_SHARE), ["share"]);
    // A later smbd may say more.
    assert_eq!(said(encrypted::BY_CLIENT | 1 << 31), ["share", "client"]);
    let all = ["share in messages", "client in messages"];
    assert_eq!(said(encrypted::IN_MESSAGES), all);
    assert_eq!(scene.status().connections[0].protection, None);
}

#[test]
fn an_observer_that_may_not_use_the_control_socket_is_answered_at_the_status_socket() {
    let scene = Scene::new();
    // Behave as if the control socket were gone, or closed to this user.
    std::fs::remove_file(scene.path()).unwrap();
    let json = observe(scene.path(), PATIENCE).unwrap();
    assert!(json.contains("\"processes\""), "{json}");
}

#[test]
fn no_process_becomes_a_worker_or_a_listener_at_the_status_socket() {
    let scene = Scene::new();
    let path = status_of(&scene);
    for role in [role::WORKER, role::LISTENER, 9] {
        let mut raw = Raw::connect(&path);
        raw.request(kind::ATTACH, &attach(role, abi::VERSION));
        assert_eq!(raw.detached(), Status::Denied);
    }
    let mut raw = Raw::connect(&path);
    raw.request(kind::ATTACH, &attach(role::OBSERVER, abi::VERSION + 1));
    assert_eq!(raw.detached(), Status::Version);
    // An attached observer cannot do anything else either.
    let mut observer = Raw::attach(&path, role::OBSERVER);
    observer.request(kind::CLAIM, &abi::Claim { token: [1; 16] });
    assert_eq!(observer.detached(), Status::Denied);
    // A capture holds data of clients, which a member of the group must not see.
    let mut observer = Raw::attach(&path, role::OBSERVER);
    observer.request(kind::CAPTURE_REQUEST, &capture("127.0.0.1"));
    assert_eq!(observer.detached(), Status::Denied);
    // Send what is not a message: a single byte, zeros, more bytes than any message may have, and then a descriptor.
    for bytes in [&b"x"[..], &[0; 100], &[0xff; 4097]] {
        let mut raw = Raw::connect(&path);
        raw.socket.send(bytes, &[]).unwrap();
        assert_eq!(raw.detached(), Status::Corrupt);
    }
    let mut raw = Raw::connect(&path);
    let null = std::fs::File::open("/dev/null").unwrap();
    match raw.socket.send(b"x", &[null.as_fd()]) {
        Ok(()) => assert_eq!(raw.detached(), Status::Corrupt),
        // Since Linux 6.16 the kernel refuses the descriptor.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied),
    }
    let status = scene.status();
    assert_eq!(status.processes, []);
    // Only members of a group do that, and no smbd is kept out.
    assert!(status.refused.is_empty(), "{:?}", status.refused);
}

#[test]
fn an_observer_that_says_nothing_loses_its_turn() {
    let scene = Scene::new();
    let path = status_of(&scene);
    let mut silent = Raw::connect(&path);
    let _observer = Raw::attach(&path, role::OBSERVER);
    assert_eq!(silent.detached(), Status::TimedOut);
}

#[test]
fn those_that_say_nothing_keep_nobody_waiting() {
    let scene = Scene::new();
    let path = status_of(&scene);
    // These are more than are served at a time, and would take 200 seconds one after the other.
    let _silent: Vec<Raw> = (0..100).map(|_| Raw::connect(&path)).collect();
    let mut observer = Raw::attach(&path, role::OBSERVER);
    let answer = observer.ask(kind::STATUS_REQUEST, &abi::StatusRequest { reserved: 0 });
    assert_eq!(answer.kind, kind::STATUS_REPORT);
}

#[test]
fn a_user_that_leaves_its_answers_unread_gets_no_more() {
    let scene = Scene::new();
    let path = status_of(&scene);
    let ask = || {
        let mut observer = Raw::attach(&path, role::OBSERVER);
        observer.request(kind::EVENTS_REQUEST, &abi::EventsRequest { after: 0 });
        wait_readable(observer.socket.as_fd(), Some(PATIENCE)).unwrap();
        observer
    };
    let unread: Vec<Raw> = (0..64).map(|_| ask()).collect();
    assert_eq!(ask().detached(), Status::Limit);
    drop(unread);
    let events = observe_events(scene.path(), 0, PATIENCE).unwrap();
    assert!(events.contains("start_time_seconds"), "{events}");
    let mut observer = Raw::attach(&path, role::OBSERVER);
    let answer = observer.ask(kind::STATUS_REQUEST, &abi::StatusRequest { reserved: 0 });
    assert_eq!(answer.kind, kind::STATUS_REPORT);
}

#[test]
fn a_broker_ends_while_a_client_is_served() {
    let mut scene = Scene::new();
    let mut silent = Raw::connect(&status_of(&scene));
    std::thread::sleep(Duration::from_millis(1));
    scene.broker = None;
    // The process is either told why, or never accepted.
    silent.closed();
    assert!(!status_of(&scene).exists());
}
