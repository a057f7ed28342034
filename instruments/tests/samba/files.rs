// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests files, directories, breaks, and what the server reports about itself.

use std::time::Duration;

use instruments::client::{
    Channel, Config, Connection, Create, Disposition, Lease, NtStatus, Read, Request, Write,
};
use smbdirect::fabric::Access;
use smbdirect::sys::Memory;

use crate::sessions::{GUID, credentials, log_in};
use instruments::samba::{Server, Setup};

/// How long a break may take.
const BREAK: Duration = Duration::from_secs(30);

/// Makes a session over TCP, with a tree.
fn connect(server: &Server) -> (Connection, u32) {
    let mut connection = log_in(server, Config::new(GUID));
    let tree = connection
        .tree_connect(&server.share_path())
        .expect("a tree");
    (connection, tree)
}

#[test]
fn created_files_are_listed_and_deleted_files_are_not() {
    let server = Server::start();
    let (mut connection, tree) = connect(&server);
    let names: Vec<String> = (0..700).map(|n| format!("file-{n:03}")).collect();
    for name in &names {
        let how = Create::file(Disposition::Create);
        let file = connection.create(tree, name, &how).expect("a file").file;
        connection.close(tree, file).expect("a close");
    }
    let root = connection
        .create(tree, "", &Create::directory())
        .expect("the root")
        .file;
    let mut found = connection.list(tree, root, "file-*").expect("a list");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(
        found.iter().map(|entry| &entry.name).eq(&names),
        "{} names",
        found.len()
    );
    assert!(
        connection
            .list(tree, root, "other-*")
            .expect("a list")
            .is_empty()
    );

    let how = Create {
        options: Create::NON_DIRECTORY | Create::DELETE_ON_CLOSE,
        ..Create::file(Disposition::Open)
    };
    let file = connection
        .create(tree, "file-000", &how)
        .expect("a file")
        .file;
    connection.close(tree, file).expect("a close");
    let error = connection
        .create(tree, "file-000", &how)
        .expect_err("it is gone");
    assert_eq!(error.status(), Some(NtStatus::OBJECT_NAME_NOT_FOUND));
}

#[test]
fn a_file_has_the_size_that_was_set_and_the_disk_has_the_same_bytes() {
    let server = Server::start();
    let (mut connection, tree) = connect(&server);
    let how = Create::file(Disposition::Create);
    let file = connection.create(tree, "sized", &how).expect("a file").file;
    connection
        .write(tree, file, 0, b"0123456789")
        .expect("a write");
    connection.set_end_of_file(tree, file, 4).expect("shorter");
    assert_eq!(connection.end_of_file(tree, file).expect("its size"), 4);
    connection.set_end_of_file(tree, file, 6).expect("longer");
    connection.flush(tree, file).expect("a flush");
    assert_eq!(
        connection.read(tree, file, 0, 100).expect("a read"),
        b"0123\0\0"
    );
    assert_eq!(connection.read(tree, file, 6, 100).expect("the end"), b"");
    assert_eq!(connection.close(tree, file).expect("a close"), 6);
    let disk = std::fs::read(server.files.join("sized")).expect("a file");
    assert_eq!(disk, b"0123\0\0");
}

#[test]
fn a_lease_is_broken_by_another_client() {
    let server = Server::start_with(instruments::samba::Setup {
        global: &["smb2 leases = yes"],
        ..Default::default()
    });
    let (mut first, tree) = connect(&server);
    let how = Create {
        lease: Some(Lease {
            key: [5; 16],
            state: 7,
        }),
        ..Create::file(Disposition::OpenIf)
    };
    let file = first.create(tree, "leased", &how).expect("a file");
    assert_eq!(file.oplock, 0xff, "a lease");

    let other = Config::new([8; 16]);
    let mut second = Connection::tcp(server.tcp, other).expect("TCP");
    second.log_in(&credentials(&server)).expect("a session");
    let its_tree = second.tree_connect(&server.share_path()).expect("a tree");
    let how = Create::file(Disposition::Open);
    let request = Request::create(its_tree, "leased", &how).expect("encoded");
    let opening = second.send(&request).expect("sent");
    let notice = first
        .next_break(BREAK)
        .expect("a connection")
        .expect("a break");
    assert_eq!(notice.body()[8..24], [5; 16], "the lease's key");
    first
        .close(tree, file.file)
        .expect("a close, which answers the break");
    second
        .wait(opening)
        .expect("an answer")
        .ok()
        .expect("the file");
}

#[test]
fn the_server_announces_its_interfaces() {
    let server = Server::start();
    let (mut connection, tree) = connect(&server);
    let interfaces = connection.network_interfaces(tree).expect("interfaces");
    assert!(!interfaces.is_empty());
    let rdma = interfaces.iter().filter(|interface| interface.rdma);
    assert_eq!(rdma.count() > 0, server.places_directly, "{interfaces:?}");
}

#[test]
fn smbstatus_tells_of_opens_with_all_rights() {
    let server = crate::channel::device(Setup::default());
    let (mut connection, tree) = connect(&server);
    let how = Create {
        // This is all of FILE_ALL_ACCESS, as for full control; WRITE_OWNER used to crash smbstatus.
        access: 0x001f_01ff,
        ..Create::file(Disposition::Create)
    };
    connection.create(tree, "all", &how).expect("a file");
    let status = server.smbstatus();
    let file = &status["open_files"].as_object().expect("files")[&path(&server, "all")];
    let opens = file["opens"].as_object().expect("opens");
    let rights = &opens.values().next().expect("one")["access_mask"];
    assert_eq!(rights["WRITE_OWNER"], true, "{rights}");
    assert_eq!(rights["UNKNOWN"], serde_json::Value::Null, "{rights}");
}

/// Returns the path of a file of the share, as smbd names it.
fn path(server: &Server, name: &str) -> String {
    server.files.join(name).display().to_string()
}

#[test]
fn a_channel_is_refused_over_tcp() {
    let server = Server::start();
    let (mut connection, tree) = connect(&server);
    let how = Create::file(Disposition::Create);
    let file = connection
        .create(tree, "tcp-only", &how)
        .expect("a file")
        .file;
    let descriptor = smbdirect::wire::BufferDescriptorV1 {
        offset: 0,
        token: smbdirect::units::RemoteToken(1),
        length: 4096,
    };
    let write = Write::direct(file, 0, 4096, Channel::RdmaV1, &[descriptor]);
    let error = connection
        .call(&write.request(tree))
        .expect_err("there is no RDMA");
    assert_eq!(error.status(), Some(NtStatus::INVALID_PARAMETER));
    connection
        .echo()
        .expect("the connection is as good as before");
}

#[test]
fn data_is_placed_directly_by_both_channels_or_refused() {
    let server = Server::start();
    let (mut tcp, tree) = connect(&server);
    let how = Create::file(Disposition::Create);
    let file = tcp.create(tree, "placed", &how).expect("a file").file;
    let mut direct =
        Connection::smb_direct(server.smb_direct, Config::new(GUID)).expect("SMB Direct");
    direct.bind(&tcp, &credentials(&server)).expect("a binding");
    let data: Vec<u8> = (0..1 << 20).map(|n: u32| (n % 253) as u8).collect();
    for (round, channel) in [Channel::RdmaV1, Channel::RdmaV1Invalidate]
        .into_iter()
        .enumerate()
    {
        let offset = (round as u64) << 20;
        let source = Memory::zeroed(1 << 20);
        source.write(0, &data).expect("in range");
        let source = direct
            .register(&source, Access::RemoteRead)
            .expect("memory");
        let write = Write::direct(file, offset, 1 << 20, channel, &source.pieces(3));
        let written = direct
            .call(&write.request(tree))
            .and_then(|response| response.written());
        if !server.places_directly {
            let status = written.expect_err("it is behind a forwarder").status();
            assert_eq!(status, Some(NtStatus::INVALID_PARAMETER));
            continue;
        }
        assert_eq!(written.expect("a count"), 1 << 20);
        let invalidated = channel == Channel::RdmaV1Invalidate;
        assert_eq!(direct.take_invalidated(source.token()), invalidated);
        let sink = direct
            .register(&Memory::zeroed(1 << 20), Access::RemoteWrite)
            .expect("memory");
        let read = Read::direct(file, offset, 1 << 20, channel, &sink.pieces(5));
        let response = direct.call(&read.request(tree)).expect("a READ");
        assert_eq!(response.read().expect("a READ").direct, 1 << 20);
        assert_eq!(direct.take_invalidated(sink.token()), invalidated);
        assert!(
            sink.memory.to_vec(0, 1 << 20).expect("in range") == data,
            "{channel:?}"
        );
    }
    let disk = std::fs::read(server.files.join("placed")).expect("a file");
    let expected = if server.places_directly {
        [&data[..], &data].concat()
    } else {
        Vec::new()
    };
    assert!(disk == expected);
}
