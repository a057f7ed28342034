// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests requests over SMB Direct that wait, such as notifications and locks, and how the waiting ends.

use std::time::{Duration, Instant};

use instruments::client::{
    Channel, Command, Config, Connection, Create, Disposition, FileId, NtStatus, Read, Request,
    Write,
};

use crate::channel::{Client, device, disk, pattern, place, source};
use crate::sessions::{GUID, credentials};
use instruments::samba::{Server, Setup};

/// How long an interim response may take.
const INTERIM: Duration = Duration::from_secs(30);

/// Connects a client that uses only SMB Direct.
fn connect(server: &Server, guid: [u8; 16]) -> (Connection, u32) {
    let mut direct =
        Connection::smb_direct(server.smb_direct, Config::new(guid)).expect("SMB Direct");
    direct.log_in(&credentials(server)).expect("a session");
    let tree = direct.tree_connect(&server.share_path()).expect("a tree");
    (direct, tree)
}

/// Makes a CHANGE_NOTIFY about names in a directory ([MS-SMB2] 2.2.35).
fn change_notify(tree: u32, directory: FileId) -> Request<'static> {
    let mut body = Vec::new();
    body.extend(32_u16.to_le_bytes());
    body.extend(0_u16.to_le_bytes());
    body.extend(4096_u32.to_le_bytes());
    body.extend(directory.0);
    // FILE_NOTIFY_CHANGE_FILE_NAME
    body.extend(1_u32.to_le_bytes());
    body.extend([0; 4]);
    Request::raw(Command::CHANGE_NOTIFY, tree, body)
}

/// Makes a LOCK that locks the first ten bytes exclusively or unlocks them ([MS-SMB2] 2.2.26).
fn lock(tree: u32, file: FileId, flags: u32) -> Request<'static> {
    let mut body = Vec::new();
    body.extend(48_u16.to_le_bytes());
    body.extend(1_u16.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    body.extend(file.0);
    body.extend(0_u64.to_le_bytes());
    body.extend(10_u64.to_le_bytes());
    body.extend(flags.to_le_bytes());
    body.extend([0; 4]);
    Request::raw(Command::LOCK, tree, body)
}

const EXCLUSIVE: u32 = 2;
const UNLOCK: u32 = 4;

fn new_file(connection: &mut Connection, tree: u32, name: &str) -> FileId {
    let how = Create::file(Disposition::OpenIf);
    connection.create(tree, name, &how).expect("a file").file
}

#[test]
fn a_notification_reports_a_change_and_can_be_cancelled() {
    // The kernel's notifications are lost, over TCP as well, until smbd's notify daemon has begun to watch.
    let server = device(Setup {
        global: &["kernel change notify = no"],
        ..Setup::default()
    });
    let (mut connection, tree) = connect(&server, GUID);
    let root = connection
        .create(tree, "", &Create::directory())
        .expect("the root")
        .file;
    let request = change_notify(tree, root);
    let first = connection.send(&request).expect("sent");
    assert!(connection.is_pending(first, INTERIM).expect("a connection"));
    // The waiting request does not hold up other requests.
    connection.echo().expect("an echo");
    let file = new_file(&mut connection, tree, "news");
    let told = connection.wait(first).expect("an answer").ok();
    let told = told.expect("a change");
    // FILE_NOTIFY_INFORMATION: next, action, length, name.
    let name: Vec<u8> = "news".bytes().flat_map(|byte| [byte, 0]).collect();
    let output = &told.body()[8..];
    assert_eq!(output[4..8], 1_u32.to_le_bytes(), "FILE_ACTION_ADDED");
    assert_eq!(output[12..20], name);

    let second = connection.send(&request).expect("sent");
    assert!(
        connection
            .is_pending(second, INTERIM)
            .expect("a connection")
    );
    connection.cancel(second).expect("sent");
    let given_up = connection.wait(second).expect("an answer");
    assert_eq!(given_up.status(), NtStatus::CANCELLED);
    connection.close(tree, file).expect("a close");

    let third = connection.send(&request).expect("sent");
    assert!(connection.is_pending(third, INTERIM).expect("a connection"));
    connection.close(tree, root).expect("a close");
    let cleaned_up = connection.wait(third).expect("an answer");
    assert_eq!(cleaned_up.status(), NtStatus::NOTIFY_CLEANUP);
}

#[test]
fn a_lock_is_pending_until_it_is_free_or_given_up() {
    let server = device(Setup::default());
    let (mut holder, tree) = connect(&server, GUID);
    let file = new_file(&mut holder, tree, "locked");
    holder.call(&lock(tree, file, EXCLUSIVE)).expect("a lock");
    let (mut other, its_tree) = connect(&server, [3; 16]);
    let its_file = new_file(&mut other, its_tree, "locked");
    let request = lock(its_tree, its_file, EXCLUSIVE);

    let waiting = other.send(&request).expect("sent");
    assert!(other.is_pending(waiting, INTERIM).expect("a connection"));
    other.cancel(waiting).expect("sent");
    let given_up = other.wait(waiting).expect("an answer");
    assert_eq!(given_up.status(), NtStatus::CANCELLED);

    let waiting = other.send(&request).expect("sent");
    assert!(other.is_pending(waiting, INTERIM).expect("a connection"));
    other.echo().expect("an echo");
    holder.call(&lock(tree, file, UNLOCK)).expect("an unlock");
    let locked = other.wait(waiting).expect("an answer");
    assert_eq!(locked.status(), NtStatus::SUCCESS);
}

#[test]
fn a_client_that_disconnects_while_something_waits_leaves_nothing_behind() {
    let server = device(Setup::default());
    let (mut holder, tree) = connect(&server, GUID);
    let file = new_file(&mut holder, tree, "locked");
    holder.call(&lock(tree, file, EXCLUSIVE)).expect("a lock");
    {
        let (mut other, its_tree) = connect(&server, [3; 16]);
        let its_file = new_file(&mut other, its_tree, "locked");
        let request = lock(its_tree, its_file, EXCLUSIVE);
        let waiting = other.send(&request).expect("sent");
        assert!(other.is_pending(waiting, INTERIM).expect("a connection"));
    }
    server
        .device()
        .wait_for_status(|status| status["totals"]["clients"] == 1);
    // The cancelled request does not get the lock when the lock becomes free.
    holder.call(&lock(tree, file, UNLOCK)).expect("an unlock");
    holder.call(&lock(tree, file, EXCLUSIVE)).expect("a lock");
}

/// How long a READ or WRITE by RDMA takes before the client is told that it is pending.
const PATIENCE: Duration = Duration::from_secs(1);

#[test]
fn a_client_is_told_that_a_transfer_is_pending_after_a_second_and_not_before() {
    let server = device(Setup::default());
    let mut client = Client::connect(&server);
    let file = client.open("file");
    let data = pattern(8 << 20, 1);
    let from = source(&mut client.direct, &data);
    let write = Write::direct(file, 0, 8 << 20, Channel::RdmaV1, &from.pieces(2));
    let write = write.request(client.tree);
    let mut quick = 0;
    while quick < 3 {
        let began = Instant::now();
        let before = client.direct.traffic().messages_in;
        let id = client.direct.send(&write).expect("sent");
        // The client waits before it serves its memory, and the server waits for the client.
        std::thread::sleep(PATIENCE / 10);
        let written = client.direct.wait(id).expect("an answer").written();
        assert_eq!(written.expect("a WRITE"), 8 << 20);
        let messages = client.direct.traffic().messages_in - before;
        // On a busy machine the WRITE may have taken longer.
        if began.elapsed() < PATIENCE {
            assert_eq!(messages, 1, "an interim response");
            quick += 1;
        }
    }
    let id = client.direct.send(&write).expect("sent");
    std::thread::sleep(PATIENCE + PATIENCE / 2);
    assert!(client.direct.is_pending(id, INTERIM).expect("a connection"));
    let written = client.direct.wait(id).expect("an answer").written();
    assert_eq!(written.expect("a WRITE"), 8 << 20);
    assert!(disk(&server, "file") == data);
}

#[test]
fn reads_in_messages_wait_until_earlier_responses_free_memory() {
    let server = device(Setup::default());
    let data = pattern(32 << 20, 2);
    place(&server, "file", &data);
    for seal in [false, true] {
        let config = Config {
            seal,
            ..Config::new(GUID)
        };
        let mut client = Client::connect_with(&server, config);
        let file = client.open("file");
        let length = 1 << 20;
        let length = length - 4096;
        // The responses exceed what the device holds for messages of one process, and the client does not take them.
        let ids: Vec<u64> = (0..32)
            .map(|n| {
                let read = Read::inline(file, n << 20, length).request(client.tree);
                client.direct.send(&read).expect("sent")
            })
            .collect();
        for (n, id) in ids.into_iter().enumerate() {
            let response = client.direct.wait(id).expect("an answer");
            let at = n << 20;
            let read = response.read().expect("a READ");
            assert!(read.data == &data[at..at + length as usize], "{n}");
        }
        client.is_alive();
    }
}
