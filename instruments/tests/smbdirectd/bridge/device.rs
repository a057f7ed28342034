// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the bridge in front of the smbdirect device, with a C program that answers.

use super::scene::Bridge;
use instruments::c::programs::Build;
use instruments::c::smbd::Smbd;
use instruments::peer::smb2::negotiate_request;

#[test]
fn clients_of_tcp_reach_an_smbd_behind_the_device() {
    let smbd = Smbd::start(Build::Plain, "");
    let bridge = Bridge::to(smbd.daemon.address());
    let mut clients: Vec<_> = (1..=5).map(|n| (n, bridge.client())).collect();
    for (n, client) in &mut clients {
        let request = negotiate_request([*n; 16]);
        client.send(&request);
        assert_eq!(client.receive(), request, "its worker sends it back");
    }
    assert_eq!(smbd.connections().values().sum::<usize>(), 5);
    drop(clients);
    smbd.wait_for_connections(0);
    smbd.finish();
    assert_eq!(bridge.stop()["to_client"]["messages"], 5);
}
