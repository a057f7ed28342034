// SPDX-License-Identifier: GPL-2.0-or-later

//! Shows progress on a terminal.

use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, Instant};

/// How often a progress line changes.
const PROGRESS: Duration = Duration::from_millis(200);

/// A line on a terminal that shows progress.
pub(crate) struct Line {
    what: String,
    shown: Option<Instant>,
    terminal: bool,
}

impl Line {
    pub(crate) fn new(what: String) -> Self {
        Self {
            what,
            shown: None,
            terminal: io::stderr().is_terminal(),
        }
    }

    pub(crate) fn show(&mut self, bytes: u64, time: Duration) {
        let recent = self.shown.is_some_and(|shown| shown.elapsed() < PROGRESS);
        if !self.terminal || recent {
            return;
        }
        self.shown = Some(Instant::now());
        let speed = bytes as f64 / 1e6 / time.as_secs_f64().max(1e-3);
        let seconds = time.as_secs();
        let _ = write!(
            io::stderr(),
            "\r\x1b[K{}: {speed:.0} MB/s, {seconds} s",
            self.what
        );
    }

    pub(crate) fn clear(&self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
