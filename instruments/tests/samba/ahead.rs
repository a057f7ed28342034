// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that the device fetches the data of a WRITE before it tells smbd of the request.

use instruments::client::{Channel, Config, Create, Disposition, NtStatus};

use crate::channel::{Client, device, disk, pattern, place, refusal, source};
use crate::sessions::GUID;
use instruments::samba::{Server, Setup};

fn start(global: &[&str]) -> (Server, Client) {
    let server = device(Setup {
        global,
        ..Setup::default()
    });
    let client = Client::connect_with(&server, Config::new(GUID));
    (server, client)
}

/// Returns how many WRITEs reached smbd together with their data.
fn ahead(server: &Server) -> u64 {
    let status = server.device().status();
    status["counters"]["fetched_ahead"].as_u64().unwrap_or(0)
}

/// Sends one WRITE of each of `lengths`, one after another in the file, and then checks the file.
fn write(server: &Server, client: &mut Client, name: &str, lengths: &[u32]) {
    let file = client.open(name);
    let mut expected = Vec::new();
    for (n, &length) in lengths.iter().enumerate() {
        let data = pattern(length as usize, n as u64);
        let from = source(&mut client.direct, &data);
        let channel = [Channel::RdmaV1, Channel::RdmaV1Invalidate][n % 2];
        let offset = expected.len() as u64;
        let written = client.put(file, offset, length, channel, &from.pieces(3.min(length)));
        assert_eq!(written.expect("a WRITE"), length);
        expected.extend_from_slice(&data);
        client.direct.deregister(&from).ok();
    }
    client.tcp.close(client.tree, file).expect("a close");
    assert!(disk(server, name) == expected);
}

#[test]
fn writes_that_follow_each_other_come_with_their_data() {
    let (server, mut client) = start(&[]);
    write(&server, &mut client, "equal", &[4096; 20]);
    assert_eq!(ahead(&server), 19);
    // The first length exceeds the buffer that was lent, and the last two are too long to be fetched ahead.
    let lengths = [256 << 10, 1, 65_537, 256 << 10, 4095, 1 << 20, 1 << 20];
    write(&server, &mut client, "other", &lengths);
    assert_eq!(ahead(&server), 19 + 4);
}

#[test]
fn nothing_is_fetched_ahead_if_smb_conf_switches_it_off() {
    let (server, mut client) = start(&["smbdirect:fetch ahead = no"]);
    write(&server, &mut client, "file", &[4096; 10]);
    assert_eq!(ahead(&server), 0);
}

#[test]
fn data_that_was_fetched_for_a_refused_write_is_not_written() {
    let (server, mut client) = start(&[]);
    write(&server, &mut client, "file", &[8192, 8192]);
    assert_eq!(ahead(&server), 1);
    let old = pattern(10_000, 6);
    place(&server, "old", &old);
    let how = Create {
        access: Create::READ,
        ..Create::file(Disposition::Open)
    };
    let file = client.tcp.create(client.tree, "old", &how);
    let file = file.expect("a file").file;
    let from = source(&mut client.direct, &pattern(8192, 7));
    let written = client.put(file, 0, 8192, Channel::RdmaV1, &from.pieces(2));
    assert_eq!(refusal(written), NtStatus::ACCESS_DENIED);
    assert_eq!(ahead(&server), 2, "the WRITE came with its data");
    client.tcp.close(client.tree, file).expect("a close");
    let written = client.put(file, 0, 8192, Channel::RdmaV1, &from.pieces(2));
    assert_eq!(refusal(written), NtStatus::FILE_CLOSED);
    assert!(disk(&server, "old") == old);
    // The buffer is not lost.
    write(&server, &mut client, "again", &[8192; 3]);
    client.is_alive();
}
