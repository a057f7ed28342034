// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests files that cannot be written, or that are closed too early.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use instruments::client::{Create, Disposition, Error, FileId, NtStatus, Request};

use super::client::{Client, PIECE, bind, content, put, send_put};
use instruments::samba::{Server, Setup};

/// A small file system, mounted over a directory.
struct Mount(PathBuf);

impl Mount {
    fn over(directory: &Path, size: &str) -> Self {
        let options = format!("size={size},mode=0777");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &options, "none"]);
        let output = command.arg(directory).output().expect("mount runs");
        assert!(
            output.status.success(),
            "this test needs root, to mount a small file system: {output:?}"
        );
        Self(directory.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Unmount the file system even if it is in use.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Returns the number of bytes that the device's connections have fetched by RDMA READ.
fn fetched(server: &Server) -> u64 {
    let status = server.device().status();
    let connections = status["connections"].as_array().expect("connections");
    connections
        .iter()
        .map(|connection| connection["rdma_read_bytes"].as_u64().expect("a number"))
        .sum()
}

#[test]
fn a_full_disk_is_reported_and_once_there_is_room_the_write_succeeds() {
    let server = Server::start();
    let _mount = Mount::over(&server.files, "8m");
    let ballast = server.files.join("ballast");
    std::fs::write(&ballast, vec![1; 5 << 20]).expect("room for it");
    let mut client = Client::connect(&server);
    let file = client.create("full");
    let data = content(1, 6 * PIECE);
    let mut written = 0;
    let full = loop {
        match client.put(file, written as u64, &data[written..][..PIECE]) {
            // The count may be lower than requested.
            Ok(count) => written += count as usize,
            Err(error) => break error,
        }
        assert!(written <= 3 << 20, "more than there was room for");
    };
    assert_eq!(full.status(), Some(NtStatus::DISK_FULL), "{full}");
    // A WRITE with its data in the message gets the same error, and neither channel is harmed.
    let inline = client
        .direct
        .write(client.tree, file, written as u64, &data[..PIECE / 2]);
    let status = inline.expect_err("the disk is full").status();
    assert_eq!(status, Some(NtStatus::DISK_FULL));
    let read = client.get(file, 0, written).expect("a READ");
    assert!(read == data[..written], "the answered WRITEs are not there");

    std::fs::remove_file(&ballast).expect("a file");
    while written < data.len() {
        let end = (written + PIECE).min(data.len());
        let count = client.put(file, written as u64, &data[written..end]);
        written += count.expect("a WRITE") as usize;
    }
    client.direct.flush(client.tree, file).expect("a flush");
    client.direct.close(client.tree, file).expect("a close");
    let disk = std::fs::read(server.files.join("full")).expect("a file");
    assert!(disk == data);
}

#[test]
fn data_that_may_not_be_written_is_not_fetched() {
    let server = Server::start();
    let mut client = Client::connect(&server);
    let data = content(2, PIECE);
    std::fs::write(server.files.join("closed"), &data).expect("a file");
    let how = Create {
        access: Create::READ,
        ..Create::file(Disposition::Open)
    };
    let file = client.tcp.create(client.tree, "closed", &how);
    let file = file.expect("a file").file;
    let refused = client.put(file, 0, &data).expect_err("it is open to read");
    assert_eq!(refused.status(), Some(NtStatus::ACCESS_DENIED));
    client.tcp.close(client.tree, file).expect("a close");
    let refused = client.put(file, 0, &data).expect_err("it is closed");
    assert_eq!(refused.status(), Some(NtStatus::FILE_CLOSED));
    assert_eq!(fetched(&server), 0);
    // The connection works as before.
    client.copy("open", 2);
    assert_eq!(fetched(&server), 2 * PIECE as u64);
}

#[test]
fn a_read_only_share_is_read_by_rdma_and_not_written() {
    let server = Server::start_with(Setup {
        share: &["read only = yes"],
        ..Setup::default()
    });
    let data = content(3, PIECE);
    std::fs::write(server.files.join("old"), &data).expect("a file");
    let mut client = Client::connect(&server);
    let (tree, tcp) = (client.tree, &mut client.tcp);
    for (name, disposition) in [("new", Disposition::Create), ("old", Disposition::Open)] {
        let refused = tcp.create(tree, name, &Create::file(disposition));
        let status = refused.expect_err("the share is read-only").status();
        let refusals = [NtStatus::ACCESS_DENIED, NtStatus::MEDIA_WRITE_PROTECTED];
        assert!(refusals.map(Some).contains(&status), "{name}: {status:?}");
    }
    let how = Create {
        access: Create::READ,
        ..Create::file(Disposition::Open)
    };
    let file = tcp.create(tree, "old", &how).expect("a file").file;
    let refused = client.put(file, 0, &data).expect_err("a WRITE");
    assert_eq!(refused.status(), Some(NtStatus::ACCESS_DENIED));
    assert_eq!(fetched(&server), 0);
    assert!(client.get(file, 0, PIECE).expect("a READ") == data);
}

/// Sends a WRITE of 8 MiB, but not its data, and waits until the server fetches it.
fn wait_for_data(server: &Server, client: &mut Client, file: FileId, data: &[u8]) -> u64 {
    let write = send_put(&mut client.direct, client.tree, file, 0, data).expect("sent");
    server.device().wait_for_status(|status| {
        let connections = status["connections"].as_array().expect("connections");
        connections
            .iter()
            .any(|connection| connection["outstanding"] != 0)
    });
    write
}

#[test]
fn a_close_waits_for_data_that_is_being_fetched() {
    let server = Server::start();
    let mut client = Client::connect(&server);
    let file = client.create("closed-early");
    let data = content(4, 8 << 20);
    let write = wait_for_data(&server, &mut client, file, &data);
    let close = Request::close(client.tree, file).expect("encoded");
    let close = client.tcp.send(&close).expect("sent");
    let closed = client.tcp.wait_within(close, Duration::from_secs(1));
    assert!(matches!(closed, Err(Error::TimedOut(..))), "{closed:?}");
    // Meanwhile this smbd answers other requests.
    client.tcp.echo().expect("an ECHO");
    let written = client
        .direct
        .wait(write)
        .and_then(|answer| answer.ok()?.written());
    assert_eq!(written.expect("a WRITE") as usize, data.len());
    client
        .tcp
        .wait(close)
        .and_then(|answer| answer.ok())
        .expect("a close");
    let disk = std::fs::read(server.files.join("closed-early")).expect("a file");
    assert!(disk == data);
    client.copy("another", 2);
}

#[test]
fn a_write_and_a_close_behind_it_both_end_in_order() {
    let server = Server::start();
    let mut client = Client::connect(&server);
    let tree = client.tree;
    for round in 0..30 {
        let name = format!("behind-{round}");
        let file = client.create(&name);
        let data = content(round, PIECE);
        let write = send_put(&mut client.direct, tree, file, 0, &data).expect("sent");
        let close = Request::close(tree, file).expect("encoded");
        let close = client.direct.send(&close).expect("sent");
        let close = client.direct.wait(close).and_then(|answer| answer.ok());
        close.expect("a close");
        let written = client
            .direct
            .wait(write)
            .and_then(|answer| answer.ok()?.written());
        assert_eq!(written.expect("a WRITE") as usize, data.len());
        let disk = std::fs::read(server.files.join(&name)).expect("a file");
        assert!(disk == data, "round {round}");
    }
    // The CLOSE also succeeds if the channel of the WRITE ends in the meantime.
    let file = client.create("left");
    send_put(&mut client.direct, tree, file, 0, &content(9, 8 << 20)).expect("sent");
    let close = Request::close(tree, file).expect("encoded");
    let close = client.tcp.send(&close).expect("sent");
    client.direct = bind(&server, &client.tcp);
    client
        .tcp
        .wait(close)
        .and_then(|answer| answer.ok())
        .expect("a close");
    let file = client.create("after");
    put(&mut client.direct, tree, file, 0, &content(9, PIECE)).expect("a WRITE");
}
