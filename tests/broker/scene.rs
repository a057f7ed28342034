// SPDX-License-Identifier: GPL-2.0-or-later

//! A broker for the tests, and the steps that they share.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use smbdirect::broker::{Broker, Config, iwarp_config, status::Status};
use smbdirect::device::abi::{MemParams, RegionShape};
use smbdirect::fabric::iwarp::Iwarp;
use smbdirect::proto;

use crate::peer::{Client, Peers};
use crate::raw::Raw;

/// The time after which a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A broker with low limits, in its own directory.
pub(crate) struct Scene {
    pub(crate) broker: Option<Broker>,
    pub(crate) config: Config,
    directory: PathBuf,
    pub(crate) peers: Peers,
}

pub(crate) fn config() -> Config {
    const fn shape(units_per_segment: u32, longest_run: u32, max_segments: u32) -> RegionShape {
        RegionShape {
            unit_length: 64 << 10,
            units_per_segment,
            longest_run,
            max_segments,
        }
    }
    Config {
        fabric: None,
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        control: PathBuf::new(),
        status_group: String::new(),
        metrics: None,
        metrics_socket: None,
        reactors: 1,
        busy_poll: Duration::from_micros(50),
        acceptor: proto::Config {
            max_read_write_size: 1 << 20,
            ..proto::Config::default()
        },
        max_connections: 100,
        max_unnegotiated: 100,
        max_unnegotiated_per_source: 100,
        max_unauthenticated: 100,
        max_undispatched: 40,
        gateways: vec!["127.0.0.1".parse().unwrap()],
        first_request_timeout: Duration::from_secs(20),
        login_timeout: Duration::from_secs(60),
        claim_timeout: Duration::from_secs(20),
        progress_timeout: Duration::from_secs(60),
        max_workers: 10,
        max_sessions: 10,
        memory: MemParams {
            send: shape(16, 16, 2),
            bulk: shape(16, 16, 2),
            // The segments have 2, 2, 4, 8 and 16 units.
            receive: shape(16, 16, 5),
            limit: 16 << 20,
            reserved: 0,
        },
        memory_limit: 64 << 20,
        memory_idle_timeout: Duration::from_secs(3600),
        queue_depth: 64,
        drain_timeout: Duration::from_secs(5),
        keep_connections: false,
    }
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("smbdirect-broker-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        // A device starts only in a directory to which others cannot write, whatever the umask is.
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .unwrap();
        let mut config = config();
        config.control = directory.join("control");
        change(&mut config);
        let mut scene = Self {
            broker: None,
            config,
            directory,
            peers: Peers::start(),
        };
        scene.start();
        scene
    }

    pub(crate) fn start(&mut self) {
        let iwarp = iwarp_config(&self.config);
        let fabric = move |_| Iwarp::new(iwarp).map_err(std::io::Error::other);
        self.broker = Some(Broker::start(self.config.clone(), fabric).unwrap());
    }

    pub(crate) fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.broker().addresses()[0]
    }

    pub(crate) fn path(&self) -> &Path {
        &self.config.control
    }

    pub(crate) fn status(&self) -> Status {
        self.broker().status().unwrap()
    }

    /// Waits until the status is as wanted.
    pub(crate) fn until(&self, what: &str, mut wanted: impl FnMut(&Status) -> bool) -> Status {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "never: {what}: {status:#?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Connects client number `guid`, whose first request is under way.
    pub(crate) fn client(&self, guid: u8) -> Client {
        let client = self.peers.connect(self.address());
        client.send(&negotiate(guid));
        client
    }

    /// Makes a worker with one connection of a client that has logged in.
    pub(crate) fn pair(&self, guid: u8) -> (Raw, u64, Client) {
        let mut worker = Raw::worker(self.path());
        assert_eq!(
            worker.register([guid; 16], 0),
            smbdirect::device::Status::Ok
        );
        let client = self.client(guid);
        let info = worker.connection();
        assert_eq!(worker.pdu(info.conn), negotiate(guid));
        (worker, info.conn, client)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.broker = None;
        if !std::thread::panicking() {
            assert!(!self.path().exists(), "the control socket is removed");
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Makes a NEGOTIATE request of the client with this number.
pub(crate) fn negotiate(guid: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64 + 36];
    bytes[..6].copy_from_slice(b"\xfeSMB\x40\x00");
    bytes[64] = 36;
    // The request has one dialect: 3.0.
    bytes[66] = 1;
    bytes[76..92].copy_from_slice(&[guid; 16]);
    bytes.extend_from_slice(&0x0300u16.to_le_bytes());
    bytes
}
