// SPDX-License-Identifier: GPL-2.0-or-later

//! The C programs, built once for all tests.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::ROOT;
use crate::c::{directory, link, output};
use crate::daemon::TIMEOUT;

/// How a program is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    Plain,
    /// With sanitizers for addresses (which also find leaks) and for undefined behaviour.
    Sanitized,
}

impl Build {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Sanitized];

    /// Chooses one of two numbers, because sanitized programs are slower.
    pub const fn choose(self, plain: usize, sanitized: usize) -> usize {
        match self {
            Self::Plain => plain,
            Self::Sanitized => sanitized,
        }
    }
}

/// Returns the program that is built from `source`; it is linked once per run.
pub fn program(source: &Path, build: Build) -> PathBuf {
    static BUILT: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    let name = source.file_stem().expect("a name").to_str().expect("UTF-8");
    let directory = directory("c-abi");
    let program = directory.join(format!("{name}-{build:?}").to_lowercase());
    if built.contains(&program) {
        return program;
    }
    let flags: &[&str] = match build {
        Build::Plain => &["-O2", "-g"],
        Build::Sanitized => &[
            "-O1",
            "-g",
            "-fno-omit-frame-pointer",
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
        ],
    };
    link(source, flags, &program);
    let symbols = output("nm", &["--undefined-only", "--dynamic"], &program);
    for sanitizer in ["__asan_init", "__ubsan_handle"] {
        let is_there = symbols.contains(sanitizer);
        assert_eq!(is_there, build == Build::Sanitized, "{name}: {sanitizer}");
    }
    built.push(program.clone());
    program
}

/// Returns the path of a source in `instruments/tests/c`.
pub fn source(name: &str) -> PathBuf {
    Path::new(ROOT).join("instruments/tests/c").join(name)
}

/// A running program, which ends when this is dropped.
pub struct Running {
    child: Child,
    pub stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    /// The lines that it has written so far.
    heard: Vec<String>,
    errors: Option<JoinHandle<String>>,
}

impl Running {
    pub fn start(program: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0")
            .env("UBSAN_OPTIONS", "print_stacktrace=1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr: ChildStderr = child.stderr.take().expect("a pipe");
        let errors = thread::spawn(|| std::io::read_to_string(stderr).unwrap_or_default());
        Self {
            stdin: child.stdin.take(),
            child,
            lines,
            heard: Vec::new(),
            errors: Some(errors),
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the next line, if one comes within `time`. An error can also mean that the program's output has ended.
    pub fn line_within(&mut self, time: Duration) -> Result<String, RecvTimeoutError> {
        let line = self.lines.recv_timeout(time)?;
        self.heard.push(line.clone());
        Ok(line)
    }

    /// Waits for a line for which `is_it` holds, and skips the lines before it.
    pub fn wait_for_line(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let end = Instant::now() + TIMEOUT;
        loop {
            let rest = end.saturating_duration_since(Instant::now());
            match self.line_within(rest) {
                Ok(line) if is_it(&line) => return line,
                Ok(_) => {}
                Err(_) => panic!("no {what:?} in {}", self.end()),
            }
        }
    }

    /// Closes the program's input, and waits until it has ended without a failure.
    pub fn finish(mut self) {
        self.stdin = None;
        let status = self.wait();
        // Anything that a child writes to standard error is an error, too.
        let errors = self.errors();
        let heard = &self.heard;
        assert!(
            status.success() && errors.is_empty(),
            "{status}: {heard:?}\n{errors}"
        );
    }

    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < end, "it did not exit: {}", self.end());
            // Waiting for a child cannot have a time limit, so poll.
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns all of its standard error, once the program and its children have ended.
    pub fn errors(&mut self) -> String {
        let errors = self.errors.take().map(JoinHandle::join);
        errors.map_or_else(String::new, |errors| errors.expect("a thread that reads"))
    }

    /// Kills the program and returns its output so far.
    pub fn end(&mut self) -> String {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its children end with their connections. If they do not, do not wait for the thread that reads their output.
        let done = self.errors.take().filter(JoinHandle::is_finished);
        let errors = done.and_then(|errors| errors.join().ok());
        format!("{:?}\n{}", self.heard, errors.unwrap_or_default())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
