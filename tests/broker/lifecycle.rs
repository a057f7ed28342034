// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests how workers and brokers end, and start again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use smbdirect::broker::status::Status as Report;
use smbdirect::device::Status;
use smbdirect::device::abi;
use smbdirect::device::abi::{Place, event, kind, op, region, role};
use smbdirect::fabric::Access;
use smbdirect::shm;
use smbdirect::sys::Memfd;

use crate::peer::Client;
use crate::raw::Raw;
use crate::scene::Scene;

/// Returns the parts of a report that must be the same as before.
fn held(report: &Report) -> impl PartialEq + std::fmt::Debug + use<> {
    (
        report.totals.clone(),
        report.connections.len(),
        report.processes.len(),
    )
}

#[test]
fn a_worker_that_dies_with_everything_under_way_leaves_nothing() {
    let scene = Scene::with(|config| config.reactors = 2);
    let (_other, _, _client) = scene.pair(9);
    let before = scene.until("it has logged in", |status| {
        status.totals.unauthenticated == 0
    });
    let before = held(&before);
    for round in 0..10 {
        let (mut worker, conn, client) = scene.pair(1);
        assert_eq!(worker.grow(region::BULK), Status::Ok);
        let more = scene.client(1);
        let source = client.register(1 << 20, Access::RemoteRead);
        let target = client.register(1 << 20, Access::RemoteWrite);
        let place = Place {
            segment: 0,
            offset: 0,
        };
        for _ in 0..round {
            worker.rdma(
                op::RDMA_READ,
                (conn, 1),
                (place, 1 << 20),
                &[source.part(0, 1 << 20)],
            );
            worker.rdma(
                op::RDMA_WRITE,
                (conn, 1),
                (place, 1 << 20),
                &[target.part(0, 1 << 20)],
            );
            worker.send_pdu(conn, 1, &[0; 50_000]);
            client.send(&[7; 60_000]);
        }
        drop(worker);
        client.closed();
        more.closed();
        scene.until("all is as before", |status| held(status) == before);
    }
}

#[test]
fn operations_under_way_are_answered_before_the_end_of_their_connection() {
    let scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    assert_eq!(worker.grow(region::BULK), Status::Ok);
    let source = client.register(1 << 20, Access::RemoteRead);
    let place = Place {
        segment: 0,
        offset: 0,
    };
    for cookie in 0..20 {
        worker.rdma(
            op::RDMA_READ,
            (conn, cookie),
            (place, 1 << 20),
            &[source.part(0, 1 << 20)],
        );
    }
    client.close();
    let mut cookies = Vec::new();
    loop {
        let completion = worker.completion();
        match completion.event {
            event::RDMA_DONE => cookies.push(completion.cookie),
            event::DISCONNECTED => break,
            other => panic!("{other}"),
        }
        let status = Status::from_code(completion.status).unwrap();
        assert!(matches!(status, Status::Ok | Status::Flushed), "{status}");
    }
    // Operations that are submitted after the end are answered after the end.
    while cookies.len() < 20 {
        cookies.push(worker.expect(event::RDMA_DONE).0.cookie);
    }
    cookies.sort_unstable();
    assert!(cookies.into_iter().eq(0..20));
}

/// Returns a worker with clients at both reactors, and these clients with the numbers of their connections.
fn at_both_reactors(scene: &Scene) -> (Raw, Vec<(u64, Client)>) {
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([1; 16], 0), Status::Ok);
    let mut clients = Vec::new();
    // The kernel distributes connections between the reactors.
    while worker.queues.len() < 2 {
        assert!(clients.len() < 90, "all are at one reactor");
        let client = scene.client(1);
        let conn = worker.connection().conn;
        worker.pdu(conn);
        clients.push((conn, client));
    }
    (worker, clients)
}

#[test]
fn a_worker_has_a_queue_with_each_reactor_that_serves_it() {
    let scene = Scene::with(|config| config.reactors = 2);
    let (mut worker, clients) = at_both_reactors(&scene);
    for (conn, client) in &clients {
        worker.reply(*conn, &conn.to_ne_bytes());
        assert_eq!(client.message(), conn.to_ne_bytes());
    }
    let status = scene.status();
    assert_eq!(status.processes[0].queues.len(), 2);
    assert_eq!(status.processes[0].connections, clients.len());
    for connection in &status.connections {
        assert_eq!(
            abi::queue_of(connection.id.unwrap()) as usize,
            connection.reactor
        );
    }
}

#[test]
fn an_observer_reads_the_status() {
    let scene = Scene::new();
    let (worker, conn, _client) = scene.pair(1);
    let mut observer = Raw::attach(scene.path(), role::OBSERVER);
    for _ in 0..3 {
        let mut answer = observer.ask(kind::STATUS_REQUEST, &abi::StatusRequest { reserved: 0 });
        let report: abi::StatusReport = answer.read();
        let file = Memfd::verify(answer.descriptor(), report.length as usize).unwrap();
        let memory = shm::map(&file).unwrap();
        let json = memory.to_vec(0, report.json_length as usize).unwrap();
        let status: Report = serde_json::from_slice(&json).unwrap();
        assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
        assert_eq!(status.listen, scene.broker().addresses());
        assert_eq!(status.connections[0].id, Some(conn));
        assert_eq!(status.connections[0].worker, Some(worker.id()));
        assert_eq!(status.processes.len(), 2);
    }
}

#[test]
fn a_broker_that_stops_waits_for_what_is_under_way() {
    let mut scene = Scene::new();
    let (mut worker, _, idle) = scene.pair(1);
    let client = scene.client(1);
    let conn = worker.connection().conn;
    let (pdu, _) = worker.expect(event::PDU);
    scene.broker().stop();
    idle.closed();
    let (gone, status) = worker.expect(event::DISCONNECTED);
    assert_eq!(status, Status::Stopping);
    assert_ne!(gone.conn, conn);
    // Observers may stay until the end.
    Raw::attach(scene.path(), role::OBSERVER);
    let mut late = Raw::connect(scene.path());
    let answer = late.try_attach(abi::VERSION, role::WORKER, [0; 16]);
    assert_eq!(answer.status(), Status::Stopping);
    // The client's first request has not been answered yet.
    worker.reply(conn, b"hello");
    assert_eq!(client.message(), b"hello");
    worker.recycle(&pdu);
    client.closed();
    let (gone, status) = worker.expect(event::DISCONNECTED);
    assert_eq!((gone.conn, status), (conn, Status::Stopping));
    assert_eq!(worker.detached(), Status::Stopping);
    scene.broker.take().unwrap().wait().unwrap();
}

/// A program that computes rates from two looks takes a number that falls for a device that has been started anew.
#[test]
fn no_count_falls_while_reactors_end_one_after_the_other() {
    let scene = Scene::with(|config| {
        config.reactors = 2;
        config.drain_timeout = Duration::from_secs(3600);
    });
    let (mut worker, clients) = at_both_reactors(&scene);
    // One connection stays busy, because this message is not given back.
    clients[0].1.send(b"under way");
    let (_pdu, _) = worker.expect(event::PDU);
    let mut before = counts(&scene.status());
    scene.broker().stop();
    let mut looks = 0;
    scene.until("only that connection is left for a while", |status| {
        let now = counts(status);
        for (name, count) in &before {
            assert!(
                now.get(name) >= Some(count),
                "{name} fell from {count}: {now:?}"
            );
        }
        before = now;
        looks += u32::from(status.connections.len() == 1);
        looks == 50
    });
}

/// Returns all numbers of a status that only grow.
fn counts(status: &Report) -> BTreeMap<String, u64> {
    let mut counts = status.counters.clone();
    for (fabric, carried) in &status.carried {
        let carried = serde_json::to_value(carried).unwrap();
        for (name, count) in carried.as_object().unwrap() {
            counts.insert(format!("{fabric} {name}"), count.as_u64().unwrap());
        }
    }
    counts
}

#[test]
fn a_broker_that_stops_does_not_wait_for_ever() {
    let mut scene = Scene::with(|config| config.drain_timeout = Duration::from_millis(50));
    let (mut worker, conn, client) = scene.pair(1);
    client.send(b"hello");
    let (_pdu, _) = worker.expect(event::PDU);
    scene.broker().stop();
    client.closed();
    let (gone, status) = worker.expect(event::DISCONNECTED);
    assert_eq!((gone.conn, status), (conn, Status::Stopping));
    assert_eq!(worker.detached(), Status::Stopping);
    scene.broker.take().unwrap().wait().unwrap();
}

#[test]
fn workers_attach_again_when_the_broker_is_back() {
    let mut scene = Scene::new();
    let (mut worker, _, client) = scene.pair(1);
    scene.broker = None;
    client.closed();
    assert_eq!(worker.detached(), Status::Stopping);
    scene.start();
    let (mut worker, conn, client) = scene.pair(1);
    worker.reply(conn, b"hello");
    assert_eq!(client.message(), b"hello");
}

/// A worker in a separate process; environment variables tell it what to do.
#[test]
#[ignore = "started by other tests"]
fn another_process() {
    let Ok(path) = std::env::var("SMBDIRECT_TEST_CONTROL") else {
        return;
    };
    let mut worker = Raw::connect(Path::new(&path));
    if std::env::var_os("SMBDIRECT_TEST_DENIED").is_some() {
        assert_eq!(worker.detached(), Status::Denied);
        println!("denied");
        return;
    }
    let answer = worker.try_attach(abi::VERSION, role::WORKER, [0; 16]);
    assert_eq!(answer.kind, kind::ATTACHED);
    assert_eq!(worker.register([1; 16], 0), Status::Ok);
    // Let the child of this process keep the socket open.
    rustix::io::fcntl_setfd(&worker.socket, rustix::io::FdFlags::empty()).unwrap();
    let child = Command::new("sleep")
        .arg("1000")
        .stdout(Stdio::null())
        .spawn();
    println!("\nchild {}", child.unwrap().id());
    loop {
        std::thread::park();
    }
}

fn other_process(scene: &Scene) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "lifecycle::another_process",
        ])
        .env("SMBDIRECT_TEST_CONTROL", scene.path())
        .stdout(Stdio::piped());
    command
}

#[test]
fn the_device_notices_a_dead_worker_although_its_child_keeps_the_socket() {
    let scene = Scene::new();
    let mut process = other_process(&scene).spawn().unwrap();
    let lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    let child = lines.find_map(|line| line.strip_prefix("child ").map(str::to_owned));
    let child: i32 = child.unwrap().parse().unwrap();
    let client = scene.client(1);
    scene.until("it has a connection", |status| {
        status.totals.connections == 1 && status.totals.undispatched == 0
    });
    process.kill().unwrap();
    process.wait().unwrap();
    client.closed();
    let gone = scene.until("the worker is gone", |status| status.processes.is_empty());
    assert_eq!((gone.totals.connections, gone.totals.memory), (0, 0));
    assert!(Path::new(&format!("/proc/{child}")).exists());
    let child = rustix::process::Pid::from_raw(child).unwrap();
    rustix::process::kill_process(child, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn refuses_a_user_that_may_not_attach() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: another user needs root");
        return;
    }
    let scene = Scene::new();
    let directory = scene.path().parent().unwrap();
    for (path, mode) in [(directory, 0o755), (scene.path(), 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    // Make a copy in a place that the other user can read.
    let program = directory.join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new(&program);
    command
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "lifecycle::another_process",
        ])
        .env("SMBDIRECT_TEST_CONTROL", scene.path())
        .env("SMBDIRECT_TEST_DENIED", "1")
        .current_dir("/")
        .uid(65_534);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("denied"), "{text}");
    let status = scene.status();
    assert_eq!(status.counters["refused_process"], 1);
    assert_eq!(status.refused["denied"], 1);
}

#[test]
fn a_sleeping_worker_is_woken_and_wakes_the_device() {
    let scene = Scene::with(|config| config.busy_poll = Duration::ZERO);
    let (mut worker, conn, client) = scene.pair(1);
    for n in 0..200u32 {
        client.send(&n.to_ne_bytes());
        // The worker sleeps until there is something to do, and so does the device.
        assert_eq!(worker.pdu(conn), n.to_ne_bytes());
        worker.reply(conn, b"x");
        assert_eq!(client.message(), b"x");
    }
}
