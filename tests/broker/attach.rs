// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests which processes may attach, and what the device tells the others.

use std::collections::BTreeMap;

use smbdirect::device::Status;
use smbdirect::device::abi::{self, kind, role};
use zerocopy::IntoBytes;

use crate::raw::Raw;
use crate::scene::Scene;

#[test]
fn tells_a_worker_the_version_the_memory_and_the_queue_depth() {
    let scene = Scene::new();
    let worker = Raw::worker(scene.path());
    let attached = worker.attached.unwrap();
    assert_eq!(attached.version, abi::VERSION);
    assert_eq!(attached.memory, scene.config.memory);
    assert_eq!(attached.submissions_outstanding, scene.config.queue_depth);
    let status = scene.status();
    assert_eq!(status.processes.len(), 1);
    assert_eq!(status.processes[0].role, "worker");
    assert_eq!(status.processes[0].pid, std::process::id() as i32);
}

#[test]
fn refuses_a_process_of_another_version() {
    let scene = Scene::new();
    for version in [0, abi::VERSION + 1] {
        let mut raw = Raw::connect(scene.path());
        let attach = abi::Attach {
            version,
            oldest_version: version,
            ..abi::Attach::new(role::WORKER, [0; 16])
        };
        raw.request(kind::ATTACH, &attach);
        let answer = raw.message(|_| true);
        assert_eq!((answer.kind, answer.cookie), (kind::DETACHED, 0));
        let detached = answer.read::<abi::Detached>();
        assert_eq!(detached.status, Status::Version.code());
        assert_eq!(detached.version, abi::VERSION, "the device's version");
    }
}

#[test]
fn each_process_that_may_not_attach_is_counted_once() {
    let scene = Scene::with(|config| config.max_workers = 1);
    let _worker = Raw::worker(scene.path());
    let mut raw = Raw::connect(scene.path());
    raw.try_attach(abi::VERSION, role::WORKER, [0; 16]);
    assert_eq!(raw.detached(), Status::Limit);
    let mut raw = Raw::connect(scene.path());
    raw.request(kind::ATTACH, &abi::Attach::new(role::WORKER, [7; 16]));
    assert_eq!(raw.detached(), Status::NoToken);
    let mut raw = Raw::connect(scene.path());
    raw.socket.send(b"not a message", &[]).unwrap();
    assert_eq!(raw.detached(), Status::Corrupt);
    let status = scene.status();
    let once = ["corrupt", "limit", "no_token"].map(|name| (name.to_owned(), 1));
    assert_eq!(status.refused, BTreeMap::from(once));
    assert_eq!(status.counters["refused_attach"], 3);
}

/// smbd and the device are restarted at different times, so the newer side speaks the older side's version.
#[test]
fn speaks_with_a_newer_process_the_version_that_both_know() {
    let scene = Scene::new();
    let mut raw = Raw::connect(scene.path());
    let attach = abi::Attach {
        version: abi::VERSION + 4,
        oldest_version: abi::VERSION,
        features: !0,
        ..abi::Attach::new(role::WORKER, [0; 16])
    };
    let answer = raw.ask(kind::ATTACH, &attach);
    assert_eq!(answer.kind, kind::ATTACHED);
    let attached: abi::Attached = answer.read();
    assert_eq!(attached.version, abi::VERSION);
    assert_eq!(attached.features, abi::FEATURES, "no other features");
}

#[test]
fn refuses_a_process_that_is_too_new_or_too_old_whatever_it_sends() {
    let scene = Scene::new();
    let other = |version, oldest_version| abi::Attach {
        version,
        oldest_version,
        ..abi::Attach::new(role::WORKER, [0; 16])
    };
    let newer = abi::VERSION + 1;
    for attach in [other(newer, newer), other(newer + 3, newer), other(2, 2)] {
        for length in [16, 40, 48] {
            let mut raw = Raw::connect(scene.path());
            let mut body = attach.as_bytes().to_vec();
            // Another version's message may have another length.
            body.resize(length, 0);
            let control = abi::Control {
                kind: kind::ATTACH,
                length: 16 + length as u32,
                cookie: 1,
            };
            let message = [control.as_bytes(), &body].concat();
            raw.socket.send(&message, &[]).unwrap();
            assert_eq!(raw.detached(), Status::Version);
        }
    }
}

#[test]
fn skips_messages_and_entries_that_say_that_they_may_be_skipped() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    let control = abi::Control {
        kind: 77 | abi::OPTIONAL,
        length: 24,
        cookie: 0,
    };
    let message = [control.as_bytes(), &[0xff; 8]].concat();
    worker.socket.send(&message, &[]).unwrap();
    let queue = worker.queues.get_mut(&0).unwrap();
    let mut entry = smbdirect::shm::Entry::default();
    entry.as_mut_bytes().fill(0xff);
    queue.submissions.push(&[entry]).unwrap();
    worker.reply(conn, b"goes on");
    assert_eq!(client.message(), b"goes on");
    // Only this bit allows the device to skip a message, and only if the message needs no answer.
    let control = abi::Control {
        cookie: 1,
        ..control
    };
    let message = [control.as_bytes(), &[0xff; 8]].concat();
    worker.socket.send(&message, &[]).unwrap();
    assert_eq!(worker.detached(), Status::Corrupt);
}

#[test]
fn takes_one_listener_at_a_time() {
    let scene = Scene::new();
    let first = Raw::attach(scene.path(), role::LISTENER);
    let mut second = Raw::connect(scene.path());
    let answer = second.try_attach(abi::VERSION, role::LISTENER, [0; 16]);
    assert_eq!(answer.status(), Status::Taken);
    assert_eq!(second.detached(), Status::Taken);
    drop(first);
    scene.until("the listener is gone", |status| status.processes.is_empty());
    Raw::attach(scene.path(), role::LISTENER);
}

#[test]
fn takes_no_more_workers_than_it_may() {
    let scene = Scene::with(|config| config.max_workers = 2);
    let workers = [Raw::worker(scene.path()), Raw::worker(scene.path())];
    let mut third = Raw::connect(scene.path());
    let answer = third.try_attach(abi::VERSION, role::WORKER, [0; 16]);
    assert_eq!(answer.status(), Status::Limit);
    // Other processes can still attach.
    Raw::attach(scene.path(), role::OBSERVER);
    drop(workers);
    scene.until("the workers are gone", |status| status.processes.is_empty());
    Raw::worker(scene.path());
}

#[test]
fn detaches_processes_whose_first_message_is_not_a_valid_attach() {
    let scene = Scene::new();
    let mut raw = Raw::connect(scene.path());
    raw.request(kind::CLAIM, &abi::Claim { token: [1; 16] });
    assert_eq!(raw.detached(), Status::Corrupt);
    for bytes in [&b"x"[..], &[0; 100], &[0xff; 4097]] {
        let mut raw = Raw::connect(scene.path());
        raw.socket.send(bytes, &[]).unwrap();
        assert_eq!(raw.detached(), Status::Corrupt);
        let mut worker = Raw::worker(scene.path());
        worker.socket.send(bytes, &[]).unwrap();
        assert_eq!(worker.detached(), Status::Corrupt);
    }
    scene.until("all are gone", |status| status.processes.is_empty());
}

#[test]
fn requests_out_of_role_are_refused_and_nothing_else() {
    let scene = Scene::new();
    let mut worker = Raw::worker(scene.path());
    let ask = abi::StatusRequest { reserved: 0 };
    let answer = worker.ask(kind::STATUS_REQUEST, &ask);
    assert_eq!(answer.status(), Status::NotAttached);
    assert_eq!(worker.register([1; 16], 1), Status::Ok);
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    assert_eq!(listener.register([2; 16], 1), Status::NotAttached);
    assert_eq!(listener.claim([2; 16]), Status::NotAttached);
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.decline([2; 16]), Status::NotAttached);
    assert_eq!(listener.grow(1), Status::NotAttached);
}

#[test]
fn registers_sessions_up_to_a_limit_and_for_one_worker_only() {
    let scene = Scene::with(|config| config.max_sessions = 2);
    let mut worker = Raw::worker(scene.path());
    let mut other = Raw::worker(scene.path());
    assert_eq!(worker.register([1; 16], 1), Status::Ok);
    assert_eq!(worker.register([1; 16], 2), Status::Ok);
    assert_eq!(worker.register([1; 16], 3), Status::Limit);
    assert_eq!(worker.register([0; 16], 3), Status::Invalid);
    assert_eq!(other.register([1; 16], 4), Status::Taken);
    assert_eq!(other.set_session([1; 16], 0, 1), Status::NoOwner);
    assert_eq!(worker.set_session([1; 16], 0, 2), Status::Invalid);
    assert_eq!(worker.set_session([1; 16], 0, 1), Status::Ok);
    assert_eq!(other.register([1; 16], 1), Status::Ok);
    drop(other);
    scene.until("the worker is gone", |status| status.processes.len() == 1);
    assert_eq!(worker.register([1; 16], 1), Status::Ok);
}

#[test]
fn detaches_processes_that_do_not_attach_in_time() {
    let scene = Scene::new();
    let mut raw = Raw::connect(scene.path());
    assert_eq!(raw.detached(), Status::TimedOut);
}

/// A worker may ask for memory right after it asks to attach.
#[test]
fn a_worker_may_ask_for_memory_at_once() {
    let scene = Scene::new();
    let attach = abi::Attach::new(role::WORKER, [0; 16]);
    let mut worker = Raw::connect(scene.path());
    let attached = worker.request(kind::ATTACH, &attach);
    for (units, expected) in [(1, kind::SEGMENT), (17, kind::REPLY)] {
        let region = abi::region::SEND;
        let grown = worker.request(kind::GROW, &abi::Grow { region, units });
        if units == 1 {
            let first = worker.message(|_| true);
            assert_eq!((first.kind, first.cookie), (kind::ATTACHED, attached));
        }
        let answer = worker.message(|_| true);
        assert_eq!((answer.kind, answer.cookie), (expected, grown));
    }
}

#[test]
fn listeners_and_workers_know_where_clients_reach_the_device_and_observers_do_not_ask() {
    let scene = Scene::with(|config| {
        config.listen.push("[::1]:0".parse().unwrap());
        config.listen[1].link_speed = Some(25_000_000_000);
    });
    let ports: Vec<u16> = scene
        .broker()
        .addresses()
        .iter()
        .map(|a| a.port())
        .collect();
    let status = scene.status();
    let shown: Vec<_> = status.addresses.iter().map(|a| a.address).collect();
    assert_eq!(shown, scene.broker().addresses());
    for role in [role::LISTENER, role::WORKER] {
        let raw = Raw::attach(scene.path(), role);
        let [list] = raw.addresses.as_slice() else {
            panic!("once, and before the attachment: {:?}", raw.addresses);
        };
        let [four, six] = list.as_slice() else {
            panic!("{list:?}");
        };
        assert_eq!(
            four.address,
            [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1]
        );
        assert_eq!((four.port, six.port), (ports[0], ports[1]));
        assert_eq!(six.link_speed, 25_000_000_000);
        assert!(four.link_speed > 0 && four.interface > 0);
        assert_eq!(four.interface, six.interface, "both are loopback");
    }
    let observer = Raw::attach(scene.path(), role::OBSERVER);
    assert!(observer.addresses.is_empty());
}

#[test]
fn the_clients_of_a_worker_that_has_gone_are_free_at_once() {
    let scene = Scene::new();
    let mut last = Raw::worker(scene.path());
    for round in 0..100 {
        let mut next = Raw::worker(scene.path());
        assert_eq!(last.register([1; 16], 7), Status::Ok, "{round}");
        assert_eq!(next.register([1; 16], 7), Status::Taken);
        // The clients are free no matter how many requests the worker has sent without reading the answers.
        let set = abi::SetSessionId {
            session_id: 8,
            client_guid: [1; 16],
            remove: 0,
            reserved: 0,
        };
        for _ in 0..(round % 3) * 40 {
            last.request(kind::SET_SESSION_ID, &set);
        }
        // The library does the same: it shuts the socket down, because a process that is being started may hold a copy.
        last.socket.shut_down().unwrap();
        assert_eq!(next.register([1; 16], 7), Status::Ok, "{round}");
        last = next;
    }
}

#[test]
fn a_request_with_a_reserved_field_ends_the_process() {
    let scene = Scene::new();
    let mut worker = Raw::worker(scene.path());
    let session = abi::SetSessionId {
        session_id: 0,
        client_guid: [1; 16],
        remove: 0,
        reserved: 1,
    };
    worker.request(kind::SET_SESSION_ID, &session);
    assert_eq!(worker.detached(), Status::Corrupt);
}
