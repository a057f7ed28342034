// SPDX-License-Identifier: GPL-2.0-or-later

//! A client that sends arbitrary bytes after it has logged in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use instruments::client::{
    Command, Config, Connection, Create, Disposition, Error, FileId, HEADER_LENGTH, NtStatus, Read,
    Request,
};
use smbdirect::fabric::Access;
use smbdirect::sys::Memory;

use crate::sessions::credentials;
use instruments::samba::Server;

/// The file that is attacked.
pub(super) const NAME: &str = "victim";
/// Its size.
pub(super) const SIZE: usize = 1 << 20;

/// Returns the contents of the file, which the attacks must not change.
pub(super) fn pattern() -> Vec<u8> {
    (0..SIZE).map(|n| (n * 7 + (n >> 8)) as u8).collect()
}

/// A connection that has logged in. The attacker numbers its messages itself.
pub(super) struct Attacker {
    pub(super) connection: Connection,
    pub(super) tree: u32,
    pub(super) file: FileId,
    session: u64,
    next_id: u64,
    answers: HashMap<u64, NtStatus>,
}

impl Attacker {
    /// Starts a server with the file.
    pub(super) fn server() -> Server {
        let server = Server::start();
        assert!(server.places_directly, "an smbd with SMB Direct is needed");
        let path = server.files.join(NAME);
        std::fs::write(&path, pattern()).expect("a file");
        instruments::samba::open_to_all(&path);
        server
    }

    pub(super) fn new(server: &Server) -> Self {
        // Each attacker is a client of its own, and has an smbd of its own.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mut guid = *b"hostile client. ";
        guid[12..].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        let config = Config::new(guid);
        let mut connection = Connection::smb_direct(server.smb_direct, config).expect("a server");
        connection.log_in(&credentials(server)).expect("a session");
        let tree = connection.tree_connect(&server.share_path());
        let tree = tree.expect("a tree");
        let how = Create::file(Disposition::Open);
        let file = connection.create(tree, NAME, &how).expect("a file").file;
        Self {
            session: connection.session_id(),
            next_id: connection.next_message_id(),
            connection,
            tree,
            file,
            answers: HashMap::new(),
        }
    }

    /// Makes a message of a request, with the next id.
    pub(super) fn message(&mut self, request: &Request<'_>) -> (u64, Vec<u8>) {
        let id = self.next_id;
        self.next_id += u64::from(request.credit_charge.max(1));
        let mut message = Vec::with_capacity(HEADER_LENGTH + request.body.len());
        message.extend(b"\xfeSMB");
        message.extend(64_u16.to_le_bytes());
        message.extend(request.credit_charge.to_le_bytes());
        message.extend(0_u32.to_le_bytes());
        message.extend(request.command.0.to_le_bytes());
        message.extend(request.credit_charge.max(1).to_le_bytes());
        message.extend(request.flags.to_le_bytes());
        message.extend(0_u32.to_le_bytes());
        message.extend(id.to_le_bytes());
        message.extend(0_u32.to_le_bytes());
        message.extend(request.tree_id.to_le_bytes());
        message.extend(self.session.to_le_bytes());
        message.extend([0; 16]);
        message.extend(&request.body);
        message.extend(request.data);
        (id, message)
    }

    /// Sends any bytes, and returns whether the connection is still up.
    #[must_use]
    pub(super) fn send(&mut self, message: &[u8]) -> bool {
        match self.connection.send_bytes(message) {
            Ok(()) => true,
            Err(Error::Closed(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits for the final answer to a message. `None`: the connection ends instead.
    pub(super) fn answer(&mut self, id: u64) -> Option<NtStatus> {
        loop {
            if let Some(status) = self.answers.remove(&id) {
                return Some(status);
            }
            match self.connection.receive_bytes() {
                Ok(message) => self.note(&message),
                Err(Error::Closed(_)) => return None,
                Err(error) => panic!("neither an answer nor an end: {error}"),
            }
        }
    }

    /// Records the status of each response in a message.
    fn note(&mut self, message: &[u8]) {
        let mut rest = message;
        while !rest.is_empty() {
            assert!(rest.len() >= HEADER_LENGTH, "{rest:x?}");
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four"));
            let id = u64::from_le_bytes(rest[24..32].try_into().expect("eight"));
            if NtStatus(word(8)) != NtStatus::PENDING {
                self.answers.insert(id, NtStatus(word(8)));
            }
            rest = match word(20) {
                0 => &[],
                next => &rest[next as usize..],
            };
        }
    }

    /// Sends a request and waits for its final status.
    pub(super) fn ask(&mut self, request: &Request<'_>) -> Option<NtStatus> {
        let (id, message) = self.message(request);
        if self.send(&message) {
            self.answer(id)
        } else {
            None
        }
    }

    /// Returns whether the connection is still served: an ECHO is answered.
    #[must_use]
    pub(super) fn is_served(&mut self) -> bool {
        let echo = Request::raw(Command::ECHO, 0, vec![4, 0, 0, 0]);
        self.ask(&echo).is_some()
    }
}

/// Checks that another client is served as before, and that no trace of the attackers is left once all have ended.
pub(super) fn expect_unharmed(server: &Server) {
    let mut other = Attacker::new(server);
    let (tree, file) = (other.tree, other.file);
    let data = other.connection.read(tree, file, 0, SIZE as u32 / 2);
    assert!(data.expect("a read") == pattern()[..SIZE / 2]);
    let sink = Memory::zeroed(SIZE);
    let sink = other.connection.register(&sink, Access::RemoteWrite);
    let sink = sink.expect("memory");
    let channel = instruments::client::Channel::RdmaV1;
    let read = Read::direct(file, 0, SIZE as u32, channel, &[sink.descriptor()]);
    other.connection.call(&read.request(tree)).expect("a read");
    assert!(sink.memory.to_vec(0, SIZE).expect("all of it") == pattern());
    drop(other);
    server.wait_for_device_status(|status| {
        let count = |name: &str| status[name].as_array().map_or(0, Vec::len);
        // The two processes are the listener and the observer that asks for this status.
        count("connections") == 0 && count("processes") <= 2
    });
    assert_eq!(server.panics(), Vec::<String>::new());
}
