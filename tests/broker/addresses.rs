// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the addresses at which clients are served: those that the listener allows and the machine has.

use std::env;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use smbdirect::device::Status;
use smbdirect::device::abi::{AllowedAddress, event, role};

use crate::peer::Client;
use crate::raw::Raw;
use crate::scene::{PATIENCE, Scene, negotiate};

const FIRST: [u8; 4] = [127, 0, 0, 1];
const SECOND: [u8; 4] = [127, 0, 0, 2];
const ONLY_FIRST: &[(&str, u32)] = &[("::ffff:127.0.0.1", 0)];

/// Starts a broker that listens on all IPv4 addresses.
fn scene() -> Scene {
    Scene::with(|config| config.listen = vec!["0.0.0.0:0".parse().unwrap()])
}

fn at(scene: &Scene, ip: [u8; 4]) -> SocketAddr {
    (ip, scene.address().port()).into()
}

/// Returns a worker, its connection, which came in at `ip`, and the client.
fn pair_at(scene: &Scene, guid: u8, ip: [u8; 4]) -> (Raw, u64, Client) {
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([guid; 16], 0), Status::Ok);
    let client = scene.peers.connect(at(scene, ip));
    client.send(&negotiate(guid));
    let info = worker.connection();
    assert_eq!(
        info.local_address,
        Ipv4Addr::from(ip).to_ipv6_mapped().octets()
    );
    assert_eq!(worker.pdu(info.conn), negotiate(guid));
    (worker, info.conn, client)
}

/// Returns whether a silent client is turned away.
fn is_refused(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let read = stream.read(&mut [0]);
    matches!(read, Err(error) if error.kind() == ErrorKind::ConnectionReset)
}

#[test]
fn connections_at_addresses_that_are_no_longer_allowed_end_and_others_live() {
    let scene = scene();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let (mut first, conn, client) = pair_at(&scene, 1, FIRST);
    let (mut second, other, gone) = pair_at(&scene, 2, SECOND);
    assert_eq!(scene.status().allowed, None);
    let twice = [ONLY_FIRST, ONLY_FIRST].concat();
    assert_eq!(listener.allow(&twice), Status::Ok);
    let completion = second.completion();
    assert_eq!(
        (completion.event, completion.conn),
        (event::DISCONNECTED, other)
    );
    assert_eq!(completion.status, Status::Address.code());
    gone.closed();
    first.reply(conn, b"hello");
    assert_eq!(client.message(), b"hello");
    let status = scene.status();
    assert_eq!(
        status.allowed.as_deref(),
        Some(&["127.0.0.1".to_owned()][..])
    );
    assert_eq!(status.closes.last().unwrap().reason, "address_not_allowed");
}

#[test]
fn clients_at_other_addresses_are_refused_before_they_say_anything() {
    let scene = scene();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    // A connection that has been silent so far ends when the first reactor learns of the change.
    let mut waiting = TcpStream::connect(at(&scene, SECOND)).unwrap();
    waiting.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(listener.allow(ONLY_FIRST), Status::Ok);
    assert!(matches!(waiting.read(&mut [0]), Ok(0) | Err(_)));
    // Once a client is refused, all reactors know of the change.
    assert!(is_refused(at(&scene, SECOND)));
    assert_eq!(scene.peers.dial(at(&scene, SECOND)).closed(), "reset");
    let (_worker, ..) = pair_at(&scene, 1, FIRST);
    scene.until("counted", |status| {
        let refused = status.counters.get("transport_address_not_allowed");
        refused.is_some_and(|count| *count >= 3)
    });
}

#[test]
fn the_allowed_addresses_outlive_the_listener_that_set_them() {
    let scene = scene();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    assert_eq!(listener.allow(&[]), Status::Ok);
    assert_eq!(scene.status().allowed, Some(Vec::new()));
    drop(listener);
    scene.until("the listener is gone", |status| status.processes.is_empty());
    let refused = |ip| scene.peers.dial(at(&scene, ip)).closed() == "reset";
    assert!(refused(FIRST) && refused(SECOND));
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    assert!(refused(FIRST));
    assert_eq!(listener.allow_all(), Status::Ok);
    scene.until("all are allowed", |status| status.allowed.is_none());
    let (_worker, ..) = pair_at(&scene, 1, SECOND);
}

#[test]
fn only_allowed_addresses_are_announced_and_are_so_before_the_listener_gets_its_answer() {
    let scene = Scene::with(|config| {
        config.listen = ["127.0.0.1:0", "127.0.0.2:0"]
            .map(|at| at.parse().unwrap())
            .into();
    });
    let mut worker = Raw::worker(scene.path());
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let known = |raw: &Raw| -> Vec<u8> {
        let list = raw.addresses.last().unwrap();
        list.iter().map(|address| address.address[15]).collect()
    };
    assert_eq!(known(&listener), [1, 2]);
    for (allowed, told) in [
        (&[("::ffff:127.0.0.2", 0)][..], &[2][..]),
        (&[("2001:db8::1", 0)], &[]),
        (ONLY_FIRST, &[1]),
    ] {
        assert_eq!(listener.allow(allowed), Status::Ok);
        assert_eq!(known(&listener), told);
    }
    assert_eq!(listener.allow_all(), Status::Ok);
    assert_eq!(known(&listener), [1, 2]);
    assert_eq!(worker.register([1; 16], 0), Status::Ok);
    let all: Vec<usize> = worker.addresses.iter().map(Vec::len).collect();
    assert_eq!(all, [2, 1, 0, 1, 2]);
}

#[test]
fn an_invalid_list_changes_nothing() {
    let scene = scene();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    assert_eq!(listener.allow(ONLY_FIRST), Status::Ok);
    for wrong in [
        // This is not an address of a host.
        ("::", 0),
        ("::ffff:0.0.0.0", 0),
        ("ff02::1", 0),
        ("::ffff:224.0.0.1", 0),
        ("::ffff:255.255.255.255", 0),
        // These are a scope with an address that has none, and a missing scope.
        ("::ffff:127.0.0.2", 1),
        ("2001:db8::1", 1),
        ("fe80::1", 0),
    ] {
        let list = [("::ffff:127.0.0.2", 0), wrong];
        assert_eq!(listener.allow(&list), Status::Invalid, "{wrong:?}");
    }
    let some = AllowedAddress {
        address: Ipv4Addr::from(SECOND).to_ipv6_mapped().octets(),
        scope_id: 0,
        reserved: 0,
    };
    assert_eq!(listener.set_addresses(1, &[some]), Status::Invalid);
    assert_eq!(listener.set_addresses(2, &[]), Status::Invalid);
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.set_addresses(1, &[]), Status::NotAttached);
    let status = scene.status();
    assert_eq!(
        status.allowed.as_deref(),
        Some(&["127.0.0.1".to_owned()][..])
    );
    // A link-local address with its scope is allowed. As many addresses as fit are allowed, but no more.
    assert_eq!(listener.allow(&[("fe80::1", 3), ("::1", 0)]), Status::Ok);
    let status = scene.status();
    assert_eq!(status.allowed.unwrap(), ["::1", "fe80::1%3"]);
    assert_eq!(listener.set_addresses(0, &[some; 128]), Status::Ok);
    let bytes = [some; 129];
    listener.send_addresses(0, &bytes);
    assert_eq!(listener.detached(), Status::Corrupt);
}

/// The variable that is set for a test which runs in its own network namespace.
const INSIDE: &str = "SMBDIRECT_TEST_NETWORK";

/// Runs the test of this name in its own network namespace, which has only a loopback interface.
fn in_a_network_of_its_own(name: &str, test: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        return test();
    }
    let unshare = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("unshare");
        if !rustix::process::geteuid().is_root() {
            command.arg("--map-root-user");
        }
        command
            .args(["--net", program])
            .args(arguments)
            .env(INSIDE, "1");
        command.output().expect("unshare(1) of util-linux")
    };
    let probe = unshare("true", &[]);
    if !probe.status.success() {
        let why = String::from_utf8_lossy(&probe.stderr).into_owned();
        return println!("SKIPPED: no network namespace: {why}");
    }
    let program = env::current_exe().unwrap();
    let output = unshare(program.to_str().unwrap(), &["--exact", name, "--nocapture"]);
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{error}"
    );
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.expect("ip(8) of iproute2").success(), "{arguments}");
}

#[test]
fn a_connection_ends_when_the_machine_loses_its_address() {
    let name = "addresses::a_connection_ends_when_the_machine_loses_its_address";
    in_a_network_of_its_own(name, || {
        ip("address add 10.9.0.1/32 dev lo");
        ip("address add 10.9.0.2/32 dev lo");
        let scene = scene();
        let (mut first, conn, client) = pair_at(&scene, 1, [10, 9, 0, 1]);
        let (mut second, other, _gone) = pair_at(&scene, 2, [10, 9, 0, 2]);
        // All of 127.0.0.0/8 belongs to this machine, although not every address is on an interface.
        let (mut third, routed, loopback) = pair_at(&scene, 3, SECOND);
        ip("address del 10.9.0.2/32 dev lo");
        let completion = second.completion();
        assert_eq!(
            (completion.event, completion.conn),
            (event::DISCONNECTED, other)
        );
        assert_eq!(completion.status, Status::Address.code());
        first.reply(conn, b"hello");
        assert_eq!(client.message(), b"hello");
        third.reply(routed, b"hello");
        assert_eq!(loopback.message(), b"hello");
        let status = scene.status();
        let reasons: Vec<_> = status.closes.iter().map(|close| &close.reason).collect();
        assert_eq!(reasons, ["address_gone"]);
    });
}

#[test]
fn the_device_waits_for_an_address_that_comes_later() {
    let name = "addresses::the_device_waits_for_an_address_that_comes_later";
    in_a_network_of_its_own(name, || {
        let scene = Scene::with(|config| config.listen = vec!["10.9.0.1:0".parse().unwrap()]);
        let address = scene.address();
        let status = scene.status();
        assert_eq!((status.missing, status.addresses), (vec![address], vec![]));
        let worker = Raw::worker(scene.path());
        assert_eq!(worker.addresses, [vec![]]);
        ip("address add 10.9.0.1/32 dev lo");
        scene.until("the address is there", |status| status.missing.is_empty());
        assert_eq!(scene.status().addresses[0].address, address);
        let _pair = pair_at(&scene, 1, [10, 9, 0, 1]);
        ip("address del 10.9.0.1/32 dev lo");
        scene.until("the address has gone", |status| status.missing == [address]);
        scene.until("so have its connections", |status| {
            status.connections.is_empty()
        });
    });
}
