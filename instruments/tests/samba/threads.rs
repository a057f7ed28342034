// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests reads and writes that smbd does without a thread, as long as the file is fast (`aio inline size`).
//!
//! An idle thread ends after a second, so the number of threads shows whether one has been used.

use std::fs;
use std::path::Path;

use instruments::c::{compile, directory};
use instruments::client::{Channel, Config, FileId, Read, Write};

use crate::channel::{Client, device, pattern, place, sink, source};
use crate::failures::client::workers;
use crate::failures::wait_until;
use crate::sessions::GUID;
use instruments::ROOT;
use instruments::samba::{Server, Setup};

/// The length that `slow.c` delays.
const SLOW: u32 = 12_345;
const QUICK: u32 = 4096;
/// A length that always takes a thread.
const LONG: u32 = 300_000;
/// A few more than the number of fast operations after which smbd no longer uses a thread.
const AGAIN: usize = 80;
/// How many times a test is tried, because on a busy machine even a fast operation may take long.
const ATTEMPTS: usize = 20;

#[derive(Clone, Copy, Debug)]
enum Way {
    ReadByRdma,
    WriteByRdma,
    ReadOverTcp,
    WriteOverTcp,
}

const WAYS: [Way; 4] = [
    Way::ReadByRdma,
    Way::WriteByRdma,
    Way::ReadOverTcp,
    Way::WriteOverTcp,
];

struct Scene {
    server: Server,
    client: Client,
    file: FileId,
}

impl Scene {
    fn new(global: &[&str]) -> Self {
        let library = directory("samba").join("slow.so");
        let name = library.to_str().expect("UTF-8");
        let source = Path::new(ROOT).join("instruments/tests/samba/slow.c");
        let flags = [
            "-shared",
            "-fPIC",
            "-O2",
            "-Wno-missing-prototypes",
            "-o",
            name,
        ];
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| compile("cc", "gnu11", &source, &flags));
        let server = device(Setup {
            global,
            preload: Some(&library),
            in_memory: true,
            ..Setup::default()
        });
        place(&server, "file", &pattern(1 << 20, 1));
        let mut client = Client::connect_with(&server, Config::new(GUID));
        let file = client.open("file");
        Self {
            server,
            client,
            file,
        }
    }

    fn go(&mut self, way: Way, length: u32) {
        let (client, file) = (&mut self.client, self.file);
        let done = match way {
            Way::ReadByRdma => {
                let memory = sink(&mut client.direct, length as usize);
                let pieces = memory.pieces(1);
                let done = client.get(file, 0, length, Channel::RdmaV1, &pieces);
                client.direct.deregister(&memory).expect("memory");
                done.expect("a READ")
            }
            Way::WriteByRdma => {
                let memory = source(&mut client.direct, &pattern(length as usize, 1));
                let pieces = memory.pieces(1);
                let done = client.put(file, 0, length, Channel::RdmaV1, &pieces);
                client.direct.deregister(&memory).expect("memory");
                done.expect("a WRITE")
            }
            Way::ReadOverTcp => {
                let read = Read::inline(file, 0, length).request(client.tree);
                let response = client.tcp.call(&read).expect("a READ");
                response.read().expect("a READ").data.len() as u32
            }
            Way::WriteOverTcp => {
                let data = pattern(length as usize, 1);
                let write = Write::inline(file, 0, &data).request(client.tree);
                let response = client.tcp.call(&write).expect("a WRITE");
                response.written().expect("a WRITE")
            }
        };
        assert_eq!(done, length);
    }

    /// Returns the number of threads of the client's smbd, not counting the first.
    fn threads(&self) -> usize {
        let [pid] = workers(&self.server)[..] else {
            panic!("one smbd");
        };
        let tasks = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()));
        tasks.expect("a process that runs").count() - 1
    }

    fn wait_for_threads_to_end(&self) {
        wait_until("no thread", || self.threads() == 0);
    }

    /// Returns whether reads or writes use no thread until one is slow, and then use one.
    fn is_slow_once(&mut self, way: Way) -> bool {
        for _ in 0..AGAIN {
            self.go(way, QUICK);
        }
        self.wait_for_threads_to_end();
        for _ in 0..10 {
            self.go(way, QUICK);
        }
        self.go(way, SLOW);
        if self.threads() > 0 {
            return false;
        }
        self.go(way, QUICK);
        assert!(
            self.threads() > 0,
            "{way:?}: no thread after a slow operation"
        );
        true
    }
}

#[test]
fn a_fast_file_needs_no_thread_and_a_slow_file_does() {
    let mut scene = Scene::new(&[]);
    for way in WAYS {
        let once = (0..ATTEMPTS).any(|_| scene.is_slow_once(way));
        assert!(once, "{way:?}: always a thread");
        // Try it again: after fast operations, smbd returns to its first thread.
        let again = (0..ATTEMPTS).any(|_| scene.is_slow_once(way));
        assert!(again, "{way:?}: smbd uses a thread for ever");
        scene.wait_for_threads_to_end();
        scene.go(way, LONG);
        assert!(
            scene.threads() > 0,
            "{way:?}: a long operation used no thread"
        );
    }
    scene.client.is_alive();
}

#[test]
fn every_read_and_write_needs_a_thread_if_smb_conf_says_so() {
    let mut scene = Scene::new(&["aio inline size = 0"]);
    for way in WAYS {
        for _ in 0..AGAIN {
            scene.go(way, QUICK);
        }
        scene.wait_for_threads_to_end();
        scene.go(way, QUICK);
        assert!(scene.threads() > 0, "{way:?}");
    }
}
