// SPDX-License-Identifier: GPL-2.0-or-later

//! A client that sends anything, and opens its memory to RDMA.

use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastrand::Rng;
use instruments::peer::{Options, Peer};
use smbdirect::fabric::Access;
use smbdirect::wire::BufferDescriptorV1;

use crate::tally::Tally;

/// The name of the threads whose panics are expected: the device ends their connections at any time.
const NAME: &str = "client";
/// Bytes of each window.
const WINDOW: usize = 256 << 10;

/// Keeps the panics of clients from the output.
pub(crate) fn keep_panics_quiet() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some(NAME) {
            usual(info);
        }
    }));
}

/// A client in a thread of its own, which ends when this is dropped.
pub(crate) struct Client {
    pub(crate) guid: [u8; 16],
    /// The windows that the device may read, and those that it may write.
    pub(crate) windows: Receiver<[Vec<BufferDescriptorV1>; 2]>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Client {
    pub(crate) fn start(server: SocketAddr, tally: &Arc<Tally>, mut rng: Rng) -> Self {
        let mut guid = [0; 16];
        rng.fill(&mut guid);
        let (told, windows) = mpsc::channel();
        let ends = Arc::new(AtomicBool::new(false));
        let of_thread = Arc::clone(&ends);
        let counted = Arc::clone(tally);
        let thread = tally.spawn(NAME, move || {
            let run = || send(server, (guid, &mut rng), &told, &of_thread);
            let result = panic::catch_unwind(AssertUnwindSafe(run));
            counted.count(
                "client",
                if matches!(result, Ok(true)) {
                    "served"
                } else {
                    "ended"
                },
            );
        });
        Self {
            guid,
            windows,
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // SYNC: pairs with the load in `send`; nothing else is published.
        self.ends.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects, sends messages of any length, and lets the device use its memory. Returns whether it was let in.
fn send(
    server: SocketAddr,
    (guid, rng): ([u8; 16], &mut Rng),
    told: &Sender<[Vec<BufferDescriptorV1>; 2]>,
    ends: &AtomicBool,
) -> bool {
    let mut peer = Peer::begin(server, Options::default());
    // SYNC: pairs with the store in `drop`.
    let has_ended = || ends.load(Ordering::Acquire);
    let established = peer.drive(Duration::from_secs(3), |peer| {
        has_ended()
            || peer
                .status()
                .is_some_and(|status| status.negotiated.is_some())
    });
    if !established || has_ended() {
        return false;
    }
    peer.negotiate(guid);
    let windows = [Access::RemoteRead, Access::RemoteWrite].map(|access| {
        let window = peer.window(WINDOW, access);
        let descriptors = window.descriptors(rng.u32(1..8));
        (window, descriptors)
    });
    let _ = told.send([windows[0].1.clone(), windows[1].1.clone()]);
    while !has_ended() && peer.closed().is_none() {
        peer.drive(Duration::from_millis(rng.u64(1..10)), |_| false);
        if rng.u8(..4) == 0 {
            let longest = [100, 1500, 20_000][rng.usize(..3)];
            let mut message = vec![0; rng.usize(1..longest)];
            rng.fill(&mut message);
            let _ = peer.queue(&message);
        }
        if rng.u16(..400) == 0 {
            // The connection breaks.
            return true;
        }
    }
    true
}
