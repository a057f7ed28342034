// SPDX-License-Identifier: GPL-2.0-or-later

//! A client with two channels, and a record of what a server holds for all clients.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use instruments::client::{
    Channel, Config, Connection, Create, Disposition, FileId, Memory, Read, Registration, Result,
    Write,
};
use rustix::process::Pid;
use smbdirect::fabric::Access;

use crate::sessions::credentials;
use instruments::daemon::TIMEOUT;
use instruments::samba::Server;

/// Bytes per piece of a copy.
pub(super) const PIECE: usize = 1 << 20;

/// Returns a number that no other test gets.
pub(crate) fn number() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

/// Returns the configuration of a new and patient client.
pub(crate) fn config() -> Config {
    let mut guid = *b"failing client 0";
    guid[12..].copy_from_slice(&number().to_le_bytes());
    Config {
        timeout: 2 * TIMEOUT,
        ..Config::new(guid)
    }
}

/// Makes bytes that differ from place to place, and from one `seed` to another.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// A session over TCP, and an SMB Direct channel of it.
pub(super) struct Client {
    pub(super) tcp: Connection,
    pub(super) direct: Connection,
    pub(super) tree: u32,
}

impl Client {
    pub(super) fn connect(server: &Server) -> Self {
        let config = config();
        let mut tcp = Connection::tcp(server.tcp, config).expect("TCP");
        tcp.log_in(&credentials(server)).expect("a session");
        let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
        let direct = bind(server, &tcp);
        Self { tcp, direct, tree }
    }

    /// Creates a file.
    pub(super) fn create(&mut self, name: &str) -> FileId {
        let how = Create::file(Disposition::Create);
        let created = self.tcp.create(self.tree, name, &how);
        created.expect("a file").file
    }

    /// Writes by RDMA.
    pub(super) fn put(&mut self, file: FileId, offset: u64, data: &[u8]) -> Result<u32> {
        put(&mut self.direct, self.tree, file, offset, data)
    }

    /// Reads by RDMA.
    pub(super) fn get(&mut self, file: FileId, offset: u64, length: usize) -> Result<Vec<u8>> {
        get(&mut self.direct, self.tree, file, offset, length)
    }

    /// Writes a file and reads it back by RDMA.
    pub(super) fn copy(&mut self, name: &str, pieces: usize) {
        let file = self.create(name);
        let data = content(number().into(), pieces * PIECE);
        for (piece, data) in data.chunks(PIECE).enumerate() {
            let offset = (piece * PIECE) as u64;
            assert_eq!(
                self.put(file, offset, data).expect("a WRITE") as usize,
                PIECE
            );
            assert!(self.get(file, offset, PIECE).expect("a READ") == data);
        }
        self.tcp.close(self.tree, file).expect("a close");
    }
}

/// Makes an SMB Direct channel of another connection's session.
pub(super) fn bind(server: &Server, other: &Connection) -> Connection {
    let config = other.config().clone();
    let mut direct = Connection::smb_direct(server.smb_direct, config).expect("SMB Direct");
    direct
        .bind(other, &credentials(server))
        .expect("a second channel");
    direct
}

/// Sends a WRITE of `data` by RDMA without waiting for the answer. The memory stays registered.
pub(crate) fn send_put(
    direct: &mut Connection,
    tree: u32,
    file: FileId,
    offset: u64,
    data: &[u8],
) -> Result<u64> {
    start_put(direct, tree, file, offset, data).map(|(id, _)| id)
}

fn start_put(
    direct: &mut Connection,
    tree: u32,
    file: FileId,
    offset: u64,
    data: &[u8],
) -> Result<(u64, Registration)> {
    let memory = Memory::zeroed(data.len());
    memory.write(0, data).expect("in range");
    let source = direct.register(&memory, Access::RemoteRead)?;
    let length = u32::try_from(data.len()).expect("short");
    let write = Write::direct(
        file,
        offset,
        length,
        Channel::RdmaV1Invalidate,
        &source.pieces(2),
    );
    Ok((direct.send(&write.request(tree))?, source))
}

pub(crate) fn put(
    direct: &mut Connection,
    tree: u32,
    file: FileId,
    offset: u64,
    data: &[u8],
) -> Result<u32> {
    let (id, source) = start_put(direct, tree, file, offset, data)?;
    let written = direct.wait(id)?.ok()?.written()?;
    direct.deregister(&source)?;
    Ok(written)
}

/// Sends a READ of `length` bytes by RDMA without waiting for the answer. The memory stays registered.
pub(crate) fn send_get(
    direct: &mut Connection,
    tree: u32,
    file: FileId,
    offset: u64,
    length: usize,
) -> Result<(u64, Memory)> {
    start_get(direct, tree, file, offset, length).map(|(id, sink)| (id, sink.memory))
}

fn start_get(
    direct: &mut Connection,
    tree: u32,
    file: FileId,
    offset: u64,
    length: usize,
) -> Result<(u64, Registration)> {
    let sink = direct.register(&Memory::zeroed(length), Access::RemoteWrite)?;
    let length = u32::try_from(length).expect("short");
    let read = Read::direct(
        file,
        offset,
        length,
        Channel::RdmaV1Invalidate,
        &sink.pieces(2),
    );
    Ok((direct.send(&read.request(tree))?, sink))
}

pub(crate) fn get(
    direct: &mut Connection,
    tree: u32,
    file: FileId,
    offset: u64,
    length: usize,
) -> Result<Vec<u8>> {
    let (id, sink) = start_get(direct, tree, file, offset, length)?;
    let placed = direct.wait(id)?.ok()?.read()?.direct;
    direct.deregister(&sink)?;
    Ok(sink.memory.to_vec(0, placed as usize).expect("in range"))
}

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not so");
        // Not every condition raises an event, so poll.
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns the children of a process.
pub(super) fn children(parent: Pid) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that has ended in the meantime is not a child.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let its_parent = behind_name.split(' ').nth(1);
        if its_parent.and_then(|pid| pid.parse().ok()) == Some(parent.as_raw_nonzero().get()) {
            found.push(pid);
        }
    }
    found
}

/// Returns how many descriptors a process has open.
fn descriptors(pid: impl std::fmt::Display) -> usize {
    let directory = fs::read_dir(format!("/proc/{pid}/fd"));
    directory.expect("a process that runs").count()
}

/// Returns the processes that are workers of the device.
pub(crate) fn workers(server: &Server) -> Vec<Pid> {
    let status = server.device().status();
    let processes = status["processes"].as_array().expect("processes");
    let workers = processes
        .iter()
        .filter(|process| process["role"] == "worker");
    let pid = |process: &serde_json::Value| process["pid"].as_i64().expect("a pid");
    workers
        .map(|process| Pid::from_raw(pid(process) as i32).expect("a pid"))
        .collect()
}

/// What the server and the device hold when no client is connected.
#[derive(Debug)]
pub(super) struct Rest {
    totals: serde_json::Value,
    workers: usize,
    children: usize,
    descriptors_of_smbd: usize,
    descriptors_of_device: usize,
}

impl Rest {
    fn now(server: &Server) -> Self {
        Self {
            totals: server.device().status()["totals"].clone(),
            workers: workers(server).len(),
            children: children(server.pid()).len(),
            descriptors_of_smbd: descriptors(server.pid()),
            descriptors_of_device: descriptors(server.device().id()),
        }
    }

    /// Returns whether no more is held than `before`. Fewer children and descriptors are fine, because smbd's parent
    /// closes late what it used at its start.
    fn is_within(&self, before: &Self) -> bool {
        self.totals == before.totals
            && self.workers == before.workers
            && self.children <= before.children
            && self.descriptors_of_smbd <= before.descriptors_of_smbd
            && self.descriptors_of_device <= before.descriptors_of_device
    }

    /// Reads the numbers after a first client has come and gone, because some things are made only once.
    pub(super) fn of(server: &Server) -> Self {
        Client::connect(server).copy(&format!("first-{}", number()), 1);
        wait_until("all clients are gone", || {
            let now = Self::now(server);
            now.workers == 0 && now.totals["connections"] == 0
        });
        // smbd's parent learns later than the device that a child has ended.
        let mut last = Self::now(server);
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = Self::now(server);
            if now.is_within(&last) && last.is_within(&now) {
                return now;
            }
            last = now;
        }
    }

    /// Waits until the server and the device hold no more than this again.
    pub(super) fn wait(&self, server: &Server) {
        let end = Instant::now() + TIMEOUT;
        loop {
            let now = Self::now(server);
            if now.is_within(self) {
                return;
            }
            assert!(Instant::now() < end, "{now:?} is left, not {self:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
