// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests directories, data and names, and proves that only SMB Direct carried them.

use std::collections::BTreeSet;
use std::fs;

use smb::{
    CreateOptions, Dialect, DirAccessMask, Error, FileAccessMask, FileAttributes,
    FileBothDirectoryInformation, FileCreateArgs, FileDispositionInformation,
    FileRenameInformation, GetLen, Status,
};

use crate::user::{User, config};
use instruments::samba::Server;

/// Bytes per READ or WRITE: an SMB Direct server takes less than 1 MiB in a message.
const CHUNK: usize = 512 << 10;

/// Returns the number of TCP connections that a port of this machine has now.
fn tcp_connections(port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    let port = format!(":{port:04X}");
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|path| {
            let table = fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<String> = table.lines().map(str::to_owned).collect();
            lines
        })
        .filter(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.len() > 3 && fields[1].ends_with(&port) && fields[3] == ESTABLISHED
        })
        .count()
}

#[test]
fn twenty_mib_are_written_and_read_back_and_smb_direct_alone_carries_them() {
    let server = Server::start();
    let user = User::new(&server, config(Dialect::Smb0311));
    let mut random = 1_u64;
    let data: Vec<u8> = (0..20 << 20)
        .map(|_| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            (random >> 56) as u8
        })
        .collect();
    let how = FileCreateArgs::make_create_new(FileAttributes::new(), CreateOptions::new());
    let file = user.tree.create("large", &how).expect("a file");
    let file = file.unwrap_file();
    for (at, chunk) in data.chunks(CHUNK).enumerate() {
        let written = file.write_block(chunk, (at * CHUNK) as u64, None);
        assert_eq!(written.expect("a write"), chunk.len());
    }
    file.flush().expect("a flush");
    file.close().expect("a close");
    let disk = fs::read(server.files.join("large")).expect("a file");
    assert!(disk == data, "{} bytes on the disk", disk.len());

    let access = FileAccessMask::new().with_generic_read(true);
    let file = user.tree.open_existing("large", access).expect("a file");
    let file = file.unwrap_file();
    assert_eq!(file.get_len().expect("its size"), data.len() as u64);
    let mut back = vec![0; data.len()];
    for (at, chunk) in back.chunks_mut(CHUNK).enumerate() {
        let wanted = chunk.len();
        let read = file.read_block(chunk, (at * CHUNK) as u64, None, false);
        assert_eq!(read.expect("a read"), wanted);
    }
    assert!(back == data, "other data came back");
    file.close().expect("a close");

    assert_eq!(tcp_connections(server.tcp.port()), 0, "smbd serves no TCP");
    // The device has counted everything that the library sent and received, and nothing else.
    let (sent, received) = (user.carried.sent().bytes, user.carried.received().bytes);
    assert!(sent > 20 << 20 && received > 20 << 20);
    server.wait_for_device_status(|status| {
        let [connection] = &status["connections"].as_array().expect("connections")[..] else {
            return false;
        };
        connection["inline_bytes_in"] == sent
            && connection["inline_bytes_out"] == received
            && connection["rdma_read_bytes"] == 0
            && connection["rdma_write_bytes"] == 0
    });
}

#[test]
fn a_directory_of_500_entries_is_listed() {
    let server = Server::start();
    let names: BTreeSet<String> = (0..500).map(|n| format!("entry-{n:03}-{n:040}")).collect();
    let inside = server.files.join("many");
    fs::create_dir(&inside).expect("a directory");
    for name in &names {
        fs::write(inside.join(name), name).expect("a file");
    }
    let user = User::new(&server, config(Dialect::Smb0311));
    let access = DirAccessMask::new()
        .with_list_directory(true)
        .with_synchronize(true);
    let directory = user.tree.open_existing("many", access.into());
    let directory = directory.expect("a directory").unwrap_dir();
    let found = directory.query::<FileBothDirectoryInformation>("entry-*");
    let mut listed = BTreeSet::new();
    for entry in found.expect("a list") {
        let entry = entry.expect("an entry");
        let name = entry.file_name.to_string();
        assert_eq!(entry.end_of_file, name.len() as u64, "{name}");
        assert!(listed.insert(name), "twice in the list");
    }
    assert!(listed == names, "{} names", listed.len());
    directory.close().expect("a close");
}

#[test]
fn a_file_is_renamed_and_deleted() {
    let server = Server::start();
    let user = User::new(&server, config(Dialect::Smb0311));
    let how = FileCreateArgs::make_create_new(FileAttributes::new(), CreateOptions::new());
    let file = user.tree.create("before", &how).expect("a file");
    let file = file.unwrap_file();
    assert_eq!(file.write_block(b"data", 0, None).expect("a write"), 4);
    let renamed = file.set_info(FileRenameInformation {
        replace_if_exists: false.into(),
        root_directory: 0,
        file_name: "after".into(),
    });
    renamed.expect("another name");
    assert!(!server.files.join("before").exists());
    assert_eq!(
        fs::read(server.files.join("after")).expect("a file"),
        b"data"
    );

    let deleted = file.set_info(FileDispositionInformation::default());
    deleted.expect("to delete it");
    file.close().expect("a close");
    assert!(!server.files.join("after").exists());
    let access = FileAccessMask::new().with_generic_read(true);
    match user.tree.open_existing("after", access).err() {
        Some(Error::UnexpectedMessageStatus(status) | Error::ReceivedErrorMessage(status, _)) => {
            assert_eq!(status, Status::ObjectNameNotFound as u32);
        }
        other => panic!("{other:?}"),
    }
}
