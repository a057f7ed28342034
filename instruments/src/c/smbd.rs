// SPDX-License-Identifier: GPL-2.0-or-later

//! A daemon, and `tests/c/smbd.c`, which plays smbd and its children.

use std::collections::BTreeMap;

use crate::c::programs::{Build, Running, program, source};
use crate::daemon::{Daemon, Directory, Setup};
use crate::peer::Peer;

/// A daemon, and a parent smbd that is attached to it.
pub struct Smbd {
    pub daemon: Daemon,
    pub program: Running,
}

impl Smbd {
    /// Starts a parent smbd that takes its events one at a time, as smbd does.
    pub fn start(build: Build, config: &str) -> Self {
        Self::start_with(build, config, &[])
    }

    /// Starts a parent smbd that takes many events at a time and looks for more before it sleeps.
    pub fn start_taking_batches(build: Build) -> Self {
        Self::start_with(build, "", &["batches"])
    }

    fn start_with(build: Build, config: &str, arguments: &[&str]) -> Self {
        let directory = Directory::new();
        directory.file("smbdirectd.toml", config);
        let daemon = Daemon::start_in(directory, &Setup::default());
        let control = daemon.control.to_str().expect("UTF-8").to_owned();
        let arguments = [&[&control[..]], arguments].concat();
        let mut program = Running::start(&program(&source("smbd.c"), build), &arguments);
        program.wait_for_line("attached", |line| line.ends_with(" attached"));
        Self { daemon, program }
    }

    /// Connects a client, and waits until a worker has answered it.
    pub fn client(&self, client_guid: [u8; 16]) -> Peer {
        let mut peer = Peer::connect(self.daemon.address());
        peer.negotiate(client_guid);
        let answer = peer.receive();
        assert_eq!(answer, crate::peer::smb2::negotiate_request(client_guid));
        peer
    }

    /// Returns the number of connections of each worker, by process.
    pub fn connections(&self) -> BTreeMap<i64, usize> {
        let status = self.daemon.status();
        let mut connections = BTreeMap::new();
        for connection in status["connections"].as_array().expect("a list") {
            let pid = connection["pid"].as_i64().expect("an owner");
            *connections.entry(pid).or_default() += 1;
        }
        connections
    }

    /// Waits until there are this many connections: the two sides do not see the end of a connection at the same time.
    pub fn wait_for_connections(&self, count: usize) {
        let is_so = |status: &serde_json::Value| status["totals"]["connections"] == count;
        self.daemon.wait_for_status(is_so);
    }

    /// Ends smbd once its clients are gone, and checks that neither smbd nor the daemon reported a fault.
    pub fn finish(self) {
        self.program.finish();
        let log = self.daemon.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        self.daemon.stop();
    }
}
