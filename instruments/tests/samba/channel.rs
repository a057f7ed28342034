// SPDX-License-Identifier: GPL-2.0-or-later

//! Sets up most tests of SMB Direct: a session over TCP, and an SMB Direct channel of it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use instruments::client::{
    Channel, Config, Connection, Create, Disposition, FileId, Memory, NtStatus, Read, Registration,
    Result, Write,
};
use smbdirect::fabric::Access;
use smbdirect::wire::BufferDescriptorV1;

use crate::sessions::{GUID, credentials, log_in};
use instruments::samba::{Server, Setup};

/// Fills memory before a server writes into it; no `pattern` contains it.
pub(crate) const UNTOUCHED: u8 = 0xee;

/// Starts a server with a device, which smbd must be able to use.
pub(crate) fn device(setup: Setup<'_>) -> Server {
    let server = Server::start_with(setup);
    assert!(server.places_directly, "an smbd with SMB Direct is needed");
    server
}

/// A client with two channels.
pub(crate) struct Client {
    pub(crate) tcp: Connection,
    pub(crate) direct: Connection,
    pub(crate) tree: u32,
}

impl Client {
    pub(crate) fn connect(server: &Server) -> Self {
        Self::connect_with(server, Config::new(GUID))
    }

    pub(crate) fn connect_with(server: &Server, config: Config) -> Self {
        let mut tcp = log_in(server, config);
        let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
        let direct = bind(server, &tcp);
        Self { tcp, direct, tree }
    }

    /// Opens a new file, or an old one.
    pub(crate) fn open(&mut self, name: &str) -> FileId {
        let how = Create::file(Disposition::OpenIf);
        let created = self.tcp.create(self.tree, name, &how);
        created.expect("a file").file
    }

    /// Sends a READ by RDMA, and returns the number of bytes that the server says it placed.
    pub(crate) fn get(
        &mut self,
        file: FileId,
        offset: u64,
        length: u32,
        channel: Channel,
        into: &[BufferDescriptorV1],
    ) -> Result<u32> {
        let read = Read::direct(file, offset, length, channel, into);
        let response = self.direct.call(&read.request(self.tree))?;
        let read = response.read()?;
        assert_eq!(read.data.len(), 0, "data in the message, too");
        Ok(read.direct)
    }

    /// Sends a WRITE by RDMA, and returns the number of bytes that the server says it wrote.
    pub(crate) fn put(
        &mut self,
        file: FileId,
        offset: u64,
        length: u32,
        channel: Channel,
        from: &[BufferDescriptorV1],
    ) -> Result<u32> {
        let write = Write::direct(file, offset, length, channel, from);
        self.direct.call(&write.request(self.tree))?.written()
    }

    /// Checks that both channels work as before.
    pub(crate) fn is_alive(&mut self) {
        self.tcp.echo().expect("the TCP channel");
        self.direct.echo().expect("the SMB Direct channel");
    }
}

/// Makes another channel of a session.
pub(crate) fn bind(server: &Server, of: &Connection) -> Connection {
    let mut direct =
        Connection::smb_direct(server.smb_direct, of.config().clone()).expect("SMB Direct");
    direct.bind(of, &credentials(server)).expect("a binding");
    direct
}

/// Registers memory that the server may read.
pub(crate) fn source(connection: &mut Connection, data: &[u8]) -> Registration {
    let memory = Memory::zeroed(data.len());
    memory.write(0, data).expect("in range");
    connection
        .register(&memory, Access::RemoteRead)
        .expect("memory")
}

/// Registers memory that the server may write, filled with [`UNTOUCHED`].
pub(crate) fn sink(connection: &mut Connection, length: usize) -> Registration {
    let memory = Memory::zeroed(length);
    memory.write(0, &vec![UNTOUCHED; length]).expect("in range");
    connection
        .register(&memory, Access::RemoteWrite)
        .expect("memory")
}

/// Divides `length` bytes of the memory into pieces of very different lengths. Between two pieces there is a byte that
/// belongs to neither.
pub(crate) fn uneven(memory: &Registration, length: u32) -> Vec<BufferDescriptorV1> {
    let (mut at, mut left, mut next) = (0, length, 1);
    let mut pieces = Vec::new();
    while left > 0 {
        let piece = left.min(next);
        pieces.push(memory.piece(at, piece));
        at += piece + 1;
        left -= piece;
        next = 3 * next + 2;
    }
    pieces
}

/// Returns the room that the pieces of [`uneven`] need.
pub(crate) const fn room(length: u32) -> usize {
    length as usize + 32
}

/// Returns the bytes of the memory that `pieces` name, and the other bytes.
pub(crate) fn gather(memory: &Registration, pieces: &[BufferDescriptorV1]) -> (Vec<u8>, Vec<u8>) {
    let mut others = contents(memory);
    let mut named = Vec::new();
    let base = memory.descriptor().offset;
    for piece in pieces.iter().rev() {
        let at = (piece.offset - base) as usize;
        let part: Vec<u8> = others.splice(at..at + piece.length as usize, []).collect();
        named.insert(0, part);
    }
    (named.concat(), others)
}

/// Returns all bytes of the memory.
pub(crate) fn contents(registration: &Registration) -> Vec<u8> {
    let memory = &registration.memory;
    memory.to_vec(0, memory.len()).expect("in range")
}

/// Makes bytes in which no two runs of 200 bytes are the same, and which do not contain [`UNTOUCHED`].
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let byte = |n: u64| {
        let block = (n / 200)
            .wrapping_add(seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((n % 200).wrapping_add(block >> 40) % 211) as u8
    };
    (0..length as u64).map(byte).collect()
}

/// Puts a file that every user may read and write into the share.
pub(crate) fn place(server: &Server, name: &str, data: &[u8]) {
    let path = server.files.join(name);
    fs::write(&path, data).expect("a file");
    fs::set_permissions(&path, Permissions::from_mode(0o666)).expect("permissions");
}

/// Returns the contents of the file on disk.
pub(crate) fn disk(server: &Server, name: &str) -> Vec<u8> {
    fs::read(server.files.join(name)).expect("a file")
}

/// Returns the status with which a request was refused. Any other result fails the test.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T>) -> NtStatus {
    let error = result.expect_err("it should be refused");
    error
        .status()
        .unwrap_or_else(|| panic!("no status: {error}"))
}
