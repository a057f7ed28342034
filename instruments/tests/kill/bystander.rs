// SPDX-License-Identifier: GPL-2.0-or-later

//! A worker and a client that have nothing to do with the killed process, and that work all the time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::actor::{Actor, hex16};
use crate::rounds::{Ended, Rounds};
use instruments::daemon::TIMEOUT;

/// The number of rounds of the client, and whether it has to go on.
#[derive(Debug, Default)]
struct Progress {
    rounds: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Progress {
    /// Counts a round. `false`: it was the last one.
    fn count(&self) -> bool {
        let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
        rounds.0 += 1;
        self.changed.notify_all();
        !rounds.1
    }
}

/// The bystander's worker and client. In each round they compare what they send, read and write.
pub(crate) struct Bystander {
    worker: Actor,
    client: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
}

impl Bystander {
    pub(crate) const GUID: [u8; 16] = [0xb5; 16];

    /// Starts both. The client tries to connect this many times.
    pub(crate) fn start(control: &Path, server: SocketAddr, tries: usize) -> Self {
        let mut worker = Actor::start("server", control);
        worker.ask(&format!("serve {}", hex16(&Self::GUID)));
        let progress = Arc::new(Progress::default());
        let of_client = Arc::clone(&progress);
        let client = std::thread::spawn(move || {
            let mut begun = (0..tries).map(|_| Rounds::begin(server, Self::GUID));
            let refused = |why: &Ended| eprintln!("the bystander is not let in: {why:?}");
            let mut rounds = begun
                .find_map(|begun| begun.inspect_err(refused).ok())
                .expect("let in");
            loop {
                rounds.next().expect("served");
                if !of_client.count() {
                    break;
                }
                // Other processes need the processors, too.
                rounds.rest(Duration::from_millis(1));
            }
            rounds.end();
        });
        Self {
            worker,
            client: Some(client),
            progress,
        }
    }

    /// Waits until rounds that begin after this call have ended.
    pub(crate) fn wait_for_rounds(&mut self) {
        let rounds = self
            .progress
            .rounds
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // The current round may be half done, so wait for two.
        let target = rounds.0 + 2;
        let (rounds, _) = self
            .progress
            .changed
            .wait_timeout_while(rounds, TIMEOUT, |rounds| rounds.0 < target)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(rounds.0 >= target, "the bystander is not served");
        drop(rounds);
        assert_eq!(self.worker.ended(), None, "the bystander's worker");
    }

    /// Ends both cleanly: the client first.
    pub(crate) fn stop(mut self) {
        let mut rounds = self
            .progress
            .rounds
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        rounds.1 = true;
        drop(rounds);
        let client = self.client.take().expect("once");
        client.join().expect("a client that was served well");
        self.worker.ask("end");
    }
}
