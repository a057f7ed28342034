// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the example of `docs/device.md`, unchanged.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use instruments::ROOT;
use instruments::c::directory;
use instruments::c::programs::{Build, Running, program};
use instruments::daemon::{Daemon, Directory, Setup};
use instruments::peer::{Peer, smb2};

/// Returns the program in the only C block of the page.
pub(crate) fn extracted() -> String {
    let path = Path::new(ROOT).join("docs/device.md");
    let page = fs::read_to_string(path).expect("docs/device.md");
    let (_, rest) = page.split_once("```c\n").expect("an example");
    let (code, rest) = rest.split_once("```\n").expect("its end");
    assert!(!rest.contains("```c\n"), "a second example");
    code.to_owned()
}

/// Sends many messages, all under way at once, which the program echoes.
fn echo(mut peer: Peer, client: u8) {
    peer.negotiate([client; 16]);
    let negotiate = peer.receive();
    assert_eq!(negotiate, smb2::negotiate_request([client; 16]));
    let message = |n: usize| smb2::request(0x0d, n as u64, 0, &vec![client; 100 * n]);
    for n in 0..200 {
        peer.queue(&message(n)).expect("room");
    }
    for n in 0..200 {
        assert!(peer.receive() == message(n), "{n}");
    }
    // Together, these messages are longer than the memory that a worker may have at a time.
    let long = vec![client; 1 << 20];
    for _ in 0..20 {
        peer.queue(&long).expect("room");
    }
    for _ in 0..20 {
        assert!(peer.receive() == long);
    }
    peer.flush();
    peer.close();
}

/// Runs the program with its own daemon and clients.
pub(crate) fn serves(program: &Path) {
    let daemon = Daemon::start_in(Directory::new(), &Setup::default());
    let control = daemon.control.to_str().expect("UTF-8").to_owned();
    let mut example = Running::start(program, &[&control]);
    // The program prints nothing when it is attached.
    daemon.wait_for_status(|status| status["processes"][0]["role"] == "listener");
    let clients = [1, 2].map(|client| {
        let peer = Peer::connect(daemon.address());
        thread::spawn(move || echo(peer, client))
    });
    for client in clients {
        client.join().expect("served");
    }
    // The program's children end with their clients, and the parent with the device.
    let left = |status: &serde_json::Value| status["processes"].as_array().unwrap().len() == 2;
    daemon.wait_for_status(left);
    daemon.stop();
    let ended = example.line_within(Duration::from_secs(10));
    assert!(ended.is_err(), "{ended:?}");
    example.finish();
}

#[test]
fn the_example_of_the_documentation_serves_clients() {
    let code = extracted();
    let source = directory("c-abi").join("example.c");
    fs::write(&source, code).expect("the target directory is writable");
    for build in Build::ALL {
        serves(&program(&source, build));
    }
}
