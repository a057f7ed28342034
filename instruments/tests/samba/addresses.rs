// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests two things: which addresses serve SMB Direct, and which of these are announced to clients. smb.conf decides
//! both, as it does for TCP.

use std::net::{IpAddr, SocketAddr, TcpStream};

use instruments::client::{Config, Connection, Interface};

use crate::channel::device;
use crate::failures::wait_until;
use crate::sessions::{GUID, log_in};
use instruments::samba::{Server, Setup};

/// The loopback interface has only this address, so `interfaces = lo` does not cover `LEFT_OUT`. Both can be connected
/// to, because all of 127/8 works.
const NAMED: &str = "127.0.0.1";
const LEFT_OUT: &str = "127.0.0.7";

const BOTH: Setup<'static> = Setup {
    global: &[],
    share: &[],
    device: "",
    listen: &["127.0.0.7:0"],
    without_device: false,
    preload: None,
    in_memory: false,
};

/// Returns the address at which the device listens besides the first.
fn left_out(server: &Server) -> SocketAddr {
    let status = server.device().status();
    let address = status["listen"][1].as_str().expect("an address");
    let address: SocketAddr = address.parse().expect("an address");
    assert_eq!(address.ip(), LEFT_OUT.parse::<IpAddr>().expect("one"));
    address
}

fn announced(server: &Server) -> Vec<Interface> {
    let mut tcp = log_in(server, Config::new(GUID));
    let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
    tcp.network_interfaces(tree).expect("interfaces")
}

/// Returns the addresses at which clients are told to find SMB Direct.
fn rdma(server: &Server) -> Vec<IpAddr> {
    let all = announced(server).into_iter();
    all.filter(|one| one.rdma).map(|one| one.address).collect()
}

fn is_served(address: SocketAddr) -> bool {
    Connection::smb_direct(address, Config::new(GUID)).is_ok()
}

#[test]
fn bind_interfaces_only_holds_for_smb_direct() {
    let server = device(BOTH);
    let left_out = left_out(&server);
    let tcp = SocketAddr::new(left_out.ip(), server.tcp.port());
    assert!(TcpStream::connect(tcp).is_err(), "smbd listens there");
    assert!(!is_served(left_out), "SMB Direct is served there");
    assert!(is_served(server.smb_direct));
    assert_eq!(rdma(&server), [NAMED.parse::<IpAddr>().expect("one")]);

    // The restriction also holds for a client whose smbd the device knows, although the device does not ask the
    // parent about such a client.
    let tcp = log_in(&server, Config::new(GUID));
    let mut bound = crate::channel::bind(&server, &tcp);
    assert!(!is_served(left_out), "SMB Direct is served there");
    bound.echo().expect("an ECHO");
}

#[test]
fn without_bind_interfaces_only_all_addresses_are_served_until_a_reload_sets_it() {
    let server = device(Setup {
        global: &["bind interfaces only = no"],
        ..BOTH
    });
    let left_out = left_out(&server);
    assert!(is_served(left_out));
    // Only the addresses of `interfaces` are announced.
    assert_eq!(rdma(&server), [NAMED.parse::<IpAddr>().expect("one")]);

    server.reconfigure("bind interfaces only = no", "bind interfaces only = yes");
    wait_until("the other address is off", || !is_served(left_out));
    assert!(is_served(server.smb_direct));
}

#[test]
fn speed_and_capability_in_interfaces_are_announced_instead_of_the_devices() {
    let speed = r#"interfaces = "lo;speed=123000000""#;
    let server = device(Setup {
        global: &[speed],
        ..Setup::default()
    });
    let of_lo = |server: &Server| {
        let address: IpAddr = NAMED.parse().expect("one");
        let mut all = announced(server).into_iter();
        all.find(|one| one.address == address).expect("the address")
    };
    let one = of_lo(&server);
    assert!(one.rdma && one.speed == 123_000_000, "{one:?}");

    server.reconfigure(speed, r#"interfaces = "lo;capability=RSS""#);
    wait_until("lo is not RDMA capable", || !of_lo(&server).rdma);
    let one = of_lo(&server);
    assert!(one.rss, "{one:?}");
}

#[test]
fn without_a_session_the_interfaces_have_no_rdma() {
    let server = device(Setup::default());
    let tcp = Connection::tcp(server.tcp, Config::new(GUID));
    let direct = Connection::smb_direct(server.smb_direct, Config::new(GUID));
    for connection in [tcp, direct] {
        let mut connection = connection.expect("a connection");
        let interfaces = connection.network_interfaces(0).expect("interfaces");
        assert!(interfaces.iter().all(|it| !it.rdma));
        connection.echo().expect("the connection lives");
    }
}
