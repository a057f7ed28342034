// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests files that are closed while the server fetches the data of a WRITE from a client that does not send it. The
//! client's own CLOSE waits for the data (`storage.rs`); other ways of closing do not.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use instruments::client::{Channel, FileId, NtStatus, Write};

use super::client::{Client, Rest, content, wait_until, workers};
use crate::channel::{disk, source};
use instruments::samba::{SHARE, Server, Setup};

const LENGTH: usize = 8 << 20;
/// Shorter than any timeout of a silent client's connection.
const AT_ONCE: Duration = Duration::from_secs(10);

/// Makes a client with an outstanding WRITE, whose data the client does not send until it is called again.
fn writer(server: &Server, channel: Channel) -> (Client, FileId, u64) {
    let mut client = Client::connect(server);
    let file = client.create("file");
    let source = source(&mut client.direct, &content(1, LENGTH));
    let write = Write::direct(file, 0, LENGTH as u32, channel, &source.pieces(2));
    let id = client
        .direct
        .send(&write.request(client.tree))
        .expect("sent");
    server.wait_for_device_status(|status| {
        let all = |name: &str| status[name].as_array().expect(name).clone();
        let fetches = |one: &serde_json::Value| one["outstanding"].as_u64() > Some(0);
        let has_buffer = |one: &serde_json::Value| one["bulk_segments"].as_u64() > Some(0);
        all("connections").iter().any(fetches) && all("processes").iter().any(has_buffer)
    });
    assert!(is_held(server));
    (client, file, id)
}

/// Returns whether any smbd has a file of the share open.
fn is_held(server: &Server) -> bool {
    let is_file = |to: &PathBuf| to.starts_with(&server.files) && *to != server.files;
    workers(server).iter().any(|pid| {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()));
        let mut descriptors = descriptors.into_iter().flatten().flatten();
        descriptors.any(|entry| fs::read_link(entry.path()).is_ok_and(|to| is_file(&to)))
    })
}

/// Waits until the file is closed, which must not need the client.
fn is_closed_at_once(server: &Server, began: Instant) {
    wait_until("it is closed", || !is_held(server));
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

/// Returns the result of a WRITE.
fn end_of(client: &mut Client, id: u64) -> NtStatus {
    client.direct.wait(id).expect("an answer").status()
}

/// Does what `NetFileClose` does: Samba's RPC server sends `MSG_SMB_CLOSE_FILE` to the smbd that has a file open.
fn close_file(server: &Server, name: &str, file: FileId) {
    let about = fs::metadata(server.files.join(name)).expect("a file");
    let id = |pid: u32| {
        let mut id = u64::from(pid).to_le_bytes().to_vec();
        id.extend(0_u32.to_le_bytes());
        id.extend(u32::MAX.to_le_bytes());
        id.extend(u64::MAX.to_le_bytes());
        id
    };
    let socket = UnixDatagram::unbound().expect("a socket");
    for pid in workers(server) {
        let pid = pid.as_raw_nonzero().get().unsigned_abs();
        // In Samba 4.24, the number of an open file is the persistent half of its FileId. In 4.22, other
        // processes cannot learn it, so try all.
        let persistent = file.0.first_chunk().expect("16 bytes");
        for number in (1..100).chain([u64::from_le_bytes(*persistent)]) {
            let mut message = vec![0; 8];
            message.extend(id(pid));
            message.extend(id(std::process::id()));
            message.extend(0x0313_u32.to_le_bytes());
            for word in [about.dev(), about.ino(), 0, number] {
                message.extend(word.to_le_bytes());
            }
            message.push(0);
            let path = server.directory().join(format!("private/msg.sock/{pid}"));
            socket.send_to(&message, path).expect("a process that runs");
        }
    }
}

#[test]
fn a_share_is_closed_at_once() {
    let server = Server::start();
    let (mut client, _, id) = writer(&server, Channel::RdmaV1);
    let began = Instant::now();
    for pid in workers(&server) {
        let pid = pid.as_raw_nonzero().to_string();
        server.control(&[&pid, "close-share", SHARE]);
    }
    is_closed_at_once(&server, began);
    assert_eq!(end_of(&mut client, id), NtStatus::CANCELLED);
    client.tcp.echo().expect("the client's smbd still runs");
}

#[test]
fn a_file_that_an_administrator_closes_is_closed_at_once() {
    let server = Server::start();
    let (mut client, file, id) = writer(&server, Channel::RdmaV1);
    let began = Instant::now();
    close_file(&server, "file", file);
    is_closed_at_once(&server, began);
    assert_eq!(end_of(&mut client, id), NtStatus::CANCELLED);
    let write = client.put(file, 0, b"more").expect_err("it is closed");
    assert_eq!(write.status(), Some(NtStatus::FILE_CLOSED));
    client.copy("another", 1);
}

#[test]
fn a_file_that_an_administrator_closes_is_written_first() {
    let server = Server::start_with(Setup {
        share: &[
            "vfs objects = delay_inject",
            "delay_inject:pwrite_send = 1000",
        ],
        ..Setup::default()
    });
    let mut client = Client::connect(&server);
    let file = client.create("file");
    let data = content(2, 1 << 20);
    let write = Write::inline(file, 0, &data).request(client.tree);
    let id = client.tcp.send(&write).expect("sent");
    client.tcp.echo().expect("the WRITE has begun");
    close_file(&server, "file", file);
    let written = client.tcp.wait(id).expect("an answer").written();
    assert_eq!(written.expect("a WRITE") as usize, data.len());
    wait_until("it is closed", || !is_held(&server));
    assert!(disk(&server, "file") == data);
    client.tcp.echo().expect("the client's smbd still runs");
}

#[test]
fn a_write_can_be_cancelled_and_its_connection_goes_on() {
    let server = Server::start();
    // The answer ends the registration, so after it the server must not read the memory.
    let (mut client, file, id) = writer(&server, Channel::RdmaV1Invalidate);
    client.direct.cancel(id).expect("sent");
    assert_eq!(end_of(&mut client, id), NtStatus::CANCELLED);
    client.put(file, 0, b"something else").expect("a WRITE");
    assert!(disk(&server, "file") == b"something else");
}

#[test]
fn the_end_of_a_session_or_tree_does_not_wait_for_data() {
    type End = fn(&mut Client);
    let ends: [End; 2] = [
        |client| client.tcp.log_off().expect("a logoff"),
        |client| client.tcp.tree_disconnect(client.tree).expect("to leave"),
    ];
    let server = Server::start();
    let before = Rest::of(&server);
    for end in ends {
        let (mut client, _, id) = writer(&server, Channel::RdmaV1);
        let began = Instant::now();
        end(&mut client);
        assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
        assert!(!is_held(&server));
        // The session may have no key left to sign the answer.
        if let Ok(answer) = client.direct.wait(id) {
            assert_eq!(answer.status(), NtStatus::CANCELLED);
        }
        drop(client);
        before.wait(&server);
        fs::remove_file(server.files.join("file")).expect("a file that is not open");
    }
}
