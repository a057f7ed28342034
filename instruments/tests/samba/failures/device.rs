// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what happens when smbdirectd ends and starts again.

use std::time::Duration;

use instruments::client::{Connection, Create, Disposition, Error, FileId, Result};
use rustix::process::Signal;

use super::client::{
    Client, PIECE, bind, children, config, content, get, number, put, send_get, send_put,
    wait_until,
};
use crate::sessions::credentials;
use instruments::daemon::TIMEOUT;
use instruments::samba::Server;

/// The number of pieces of a copy.
const PIECES: usize = 48;
const DEPTH: usize = 4;

/// Waits until the server announces SMB Direct to clients.
fn wait_for_interface(client: &mut Client) {
    wait_until("an RDMA interface", || {
        let interfaces = client.tcp.network_interfaces(client.tree);
        interfaces
            .expect("interfaces")
            .iter()
            .any(|interface| interface.rdma)
    });
}

/// Writes pieces over SMB Direct until the connection ends, and records which ones were answered.
fn write_until_it_ends(
    client: &mut Client,
    file: FileId,
    data: &[u8],
    written: &mut [bool],
    mut between: impl FnMut(usize),
) -> Result<()> {
    let (direct, tree) = (&mut client.direct, client.tree);
    for (batch, pieces) in data.chunks(DEPTH * PIECE).enumerate() {
        let first = batch * DEPTH;
        let mut ids = Vec::new();
        for (n, piece) in pieces.chunks(PIECE).enumerate() {
            let offset = ((first + n) * PIECE) as u64;
            ids.push(send_put(direct, tree, file, offset, piece)?);
        }
        between(batch);
        for (n, id) in ids.into_iter().enumerate() {
            let count = direct.wait(id)?.ok()?.written()?;
            assert_eq!(count as usize, PIECE);
            written[first + n] = true;
        }
    }
    Ok(())
}

#[test]
fn a_copy_to_the_server_goes_on_over_tcp_while_the_device_is_gone_and_then_by_rdma() {
    let mut server = Server::start();
    let mut client = Client::connect(&server);
    let file = client.create("copy");
    let data = content(1, PIECES * PIECE);
    let mut written = [false; PIECES];
    let ended = write_until_it_ends(&mut client, file, &data, &mut written, |batch| {
        if batch == 5 {
            server.kill_device();
        }
    });
    assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
    let done = written.iter().filter(|written| **written).count();
    assert!((5 * DEPTH..6 * DEPTH).contains(&done), "{done}");

    // No answered piece is lost. TCP carries the pieces before the last quarter that were not answered.
    let tree = client.tree;
    for (piece, bytes) in data.chunks(PIECE).enumerate().take(PIECES * 3 / 4) {
        if !written[piece] {
            let count = client.tcp.write(tree, file, (piece * PIECE) as u64, bytes);
            assert_eq!(count.expect("a WRITE") as usize, PIECE);
        }
    }
    let interfaces = client.tcp.network_interfaces(tree).expect("interfaces");
    assert!(interfaces.iter().all(|interface| !interface.rdma));

    server.start_device();
    wait_for_interface(&mut client);
    let mut direct = bind(&server, &client.tcp);
    for piece in PIECES * 3 / 4..PIECES {
        let bytes = &data[piece * PIECE..][..PIECE];
        let count = put(&mut direct, tree, file, (piece * PIECE) as u64, bytes);
        assert_eq!(count.expect("a WRITE") as usize, PIECE);
    }
    for (piece, bytes) in data.chunks(PIECE).enumerate() {
        let read = get(&mut direct, tree, file, (piece * PIECE) as u64, PIECE);
        assert!(read.expect("a READ") == bytes, "piece {piece}");
    }
    client.tcp.close(tree, file).expect("a close");
    let disk = std::fs::read(server.files.join("copy")).expect("a file");
    assert!(disk == data);
    // A new client finds SMB Direct, too.
    Client::connect(&server).copy("another", 4);
}

#[test]
fn a_copy_from_the_server_goes_on_over_tcp_while_the_device_is_gone_and_then_by_rdma() {
    let mut server = Server::start();
    let data = content(2, PIECES * PIECE);
    std::fs::write(server.files.join("copy"), &data).expect("a file");
    let mut client = Client::connect(&server);
    let how = Create {
        access: Create::READ,
        ..Create::file(Disposition::Open)
    };
    let tree = client.tree;
    let file = client.tcp.create(tree, "copy", &how).expect("a file").file;
    let mut next = 0;
    loop {
        let (direct, first) = (&mut client.direct, next);
        let mut sent = Vec::new();
        for piece in first..first + DEPTH {
            let read = send_get(direct, tree, file, (piece * PIECE) as u64, PIECE);
            sent.extend(read.ok());
        }
        if first == 5 * DEPTH {
            server.kill_device();
        }
        for (id, memory) in sent {
            let Ok(response) = direct.wait(id) else {
                break;
            };
            let read = response.ok().expect("a READ");
            assert_eq!(read.read().expect("a READ").direct as usize, PIECE);
            let bytes = memory.to_vec(0, PIECE).expect("in range");
            assert!(bytes == data[next * PIECE..][..PIECE], "piece {next}");
            next += 1;
        }
        if next < first + DEPTH {
            break;
        }
    }
    assert!((5 * DEPTH..7 * DEPTH).contains(&next), "{next}");
    for (piece, bytes) in data.chunks(PIECE).enumerate().skip(next).take(DEPTH) {
        let read = client
            .tcp
            .read(tree, file, (piece * PIECE) as u64, PIECE as u32);
        assert!(read.expect("a READ") == bytes, "piece {piece}");
    }
    server.start_device();
    wait_for_interface(&mut client);
    let mut direct = bind(&server, &client.tcp);
    for (piece, bytes) in data.chunks(PIECE).enumerate().skip(next + DEPTH) {
        let read = get(&mut direct, tree, file, (piece * PIECE) as u64, PIECE);
        assert!(read.expect("a READ") == bytes, "piece {piece}");
    }
}

#[test]
fn a_client_without_tcp_logs_in_anew_after_the_device_was_killed() {
    let mut server = Server::start();
    for round in 0..3 {
        let rest = children(server.pid()).len();
        let mut direct = Connection::smb_direct(server.smb_direct, config()).expect("SMB Direct");
        direct.log_in(&credentials(&server)).expect("a session");
        direct.tree_connect(&server.share_path()).expect("a tree");
        server.kill_device();
        assert!(direct.echo().is_err(), "round {round}");
        // This client's smbd has no clients left.
        wait_until("the client's smbd ends", || {
            children(server.pid()).len() <= rest
        });
        server.start_device();
    }
}

#[test]
fn whatever_is_under_way_when_the_device_is_killed_the_smbd_of_the_client_goes_on() {
    let mut server = Server::start();
    let mut client = Client::connect(&server);
    let tree = client.tree;
    let file = client.create("both-ways");
    let data = content(4, 8 << 20);
    for round in 0..8 {
        let direct = &mut client.direct;
        for n in 0..4 {
            send_put(direct, tree, file, n << 23, &data).expect("sent");
            send_get(direct, tree, file, n << 23, data.len()).expect("sent");
        }
        // From round to round, the device dies later: from the first message to about the last.
        direct
            .serve(Duration::from_millis(round * 4))
            .expect("a connection");
        server.kill_device();
        client.tcp.echo().expect("the client's smbd still runs");
        let written = client.tcp.write(tree, file, 0, &data);
        assert_eq!(written.expect("a WRITE") as usize, data.len());
        let read = client.tcp.read(tree, file, 0, 8 << 20);
        assert!(read.expect("a READ") == data, "round {round}");
        server.start_device();
        wait_for_interface(&mut client);
        client.direct = bind(&server, &client.tcp);
    }
    client.tcp.close(tree, file).expect("a close");
}

#[test]
fn a_device_that_is_told_to_end_lets_smbd_answer_a_request_first() {
    let mut server = Server::start();
    let mut client = Client::connect(&server);
    let file = client.create("last");
    let data = content(3, 8 << 20);
    let id = send_put(&mut client.direct, client.tree, file, 0, &data).expect("sent");
    server.device().wait_for_status(|status| {
        let connections = status["connections"].as_array().expect("connections");
        connections
            .iter()
            .any(|connection| connection["outstanding"] != 0)
    });
    server.device().signal(Signal::TERM);
    server.device().wait_for_log("stopping;");
    let written = client
        .direct
        .wait(id)
        .and_then(|answer| answer.ok()?.written());
    assert_eq!(written.expect("a WRITE") as usize, data.len());
    let ended = client.direct.serve(TIMEOUT);
    assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
    let read = client.tcp.read(client.tree, file, 0, 8 << 20);
    assert!(read.expect("a READ over TCP") == data);
    server.wait_for_end_of_device();

    server.start_device();
    wait_for_interface(&mut client);
    client.direct = bind(&server, &client.tcp);
    client.copy(&format!("again-{}", number()), 4);
}
