// SPDX-License-Identifier: GPL-2.0-or-later

//! Counts what calls returned, and ends the program if one returned what it must not, or does not return.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// What has happened, and what happens now.
#[derive(Debug)]
pub(crate) struct Tally {
    patience: Duration,
    /// Whether the kernel makes allocations and copies fail at random.
    pub(crate) faults: bool,
    counts: Mutex<BTreeMap<(&'static str, String), u64>>,
    /// The calls under way, by thread.
    now: Mutex<BTreeMap<u32, (&'static str, Instant)>>,
    last: AtomicU32,
}

impl Tally {
    pub(crate) fn new(patience: Duration, faults: bool) -> Self {
        Self {
            patience,
            faults,
            counts: Mutex::default(),
            now: Mutex::default(),
            last: AtomicU32::new(0),
        }
    }

    pub(crate) fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> JoinHandle<()> {
        let builder = thread::Builder::new().name(name.to_owned());
        builder.spawn(body).expect("a thread")
    }

    pub(crate) fn count(&self, what: &'static str, result: impl Into<String>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry((what, result.into())).or_default() += 1;
    }

    /// Runs something that must end.
    pub(crate) fn timed<T>(&self, what: &'static str, run: impl FnOnce() -> T) -> T {
        // SYNC: a number that no other thread has; nothing is published by it.
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let now = || self.now.lock().unwrap_or_else(PoisonError::into_inner);
        now().insert(number, (what, Instant::now()));
        let result = run();
        now().remove(&number);
        result
    }

    /// Waits for all threads, and ends the program if one of them fails or is stuck in a call.
    pub(crate) fn watch(&self, threads: Vec<JoinHandle<()>>) {
        while !threads.iter().all(JoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(100));
            let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
            let stuck = now
                .values()
                .find(|(_, since)| since.elapsed() > self.patience);
            if let Some((what, _)) = stuck {
                fail(&format!("{what} takes more than {:?}", self.patience));
            }
        }
        for thread in threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                fail(&format!("the thread {name} failed"));
            }
        }
    }
}

/// Says what is wrong and where all threads are, and ends the program without waiting for any of them.
pub(crate) fn fail(why: &str) -> ! {
    println!("FAILED: {why}");
    for task in fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten()
    {
        let stack = fs::read_to_string(task.path().join("stack")).unwrap_or_default();
        println!("{}:\n{stack}", task.path().display());
    }
    // SAFETY: ends the process at once, whatever its threads do.
    unsafe { libc::_exit(1) }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut last = "";
        for ((what, result), count) in &*counts {
            if *what != last {
                write!(f, "{}{what}:", if last.is_empty() { "" } else { "\n" })?;
                last = what;
            }
            write!(f, " {result} {count}")?;
        }
        Ok(())
    }
}
