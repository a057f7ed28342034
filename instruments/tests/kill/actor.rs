// SPDX-License-Identifier: GPL-2.0-or-later

//! A process that can be killed: this program, started again, obeys commands line by line.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use smbdirect::sys::wait_readable;

use instruments::daemon::TIMEOUT;

/// The variable with the part that such a process plays; only such processes have it.
pub(crate) const PART: &str = "SMBDIRECT_TEST_PART";
/// The variable with the path of the control socket, or with the address of the client's server.
pub(crate) const PLACE: &str = "SMBDIRECT_TEST_PLACE";

/// A process, which is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) part: &'static str,
    process: Child,
    input: Option<ChildStdin>,
    output: ChildStdout,
    /// Bytes of its output after the last line that was read.
    unread: Vec<u8>,
}

impl Actor {
    pub(crate) fn start(part: &'static str, place: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(env::current_exe().expect("a program"));
        command.env(PART, part).env(PLACE, place);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("it starts");
        Self {
            part,
            input: process.stdin.take(),
            output: process.stdout.take().expect("piped"),
            process,
            unread: Vec::new(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a command. Its answer is read later.
    pub(crate) fn tell(&mut self, command: &str) {
        let line = format!("{command}\n");
        let mut input = self.input.as_ref().expect("piped");
        let told = input.write_all(line.as_bytes());
        told.unwrap_or_else(|error| panic!("{} ended before {command:?}: {error}", self.part));
    }

    /// Sends a command and waits for the answer.
    pub(crate) fn answer(&mut self, command: &str) -> String {
        let line = self.line_within(TIMEOUT);
        line.unwrap_or_else(|| panic!("{} does not answer {command:?}", self.part))
    }

    pub(crate) fn ask(&mut self, command: &str) -> String {
        self.tell(command);
        self.answer(command)
    }

    /// Returns the next line that it writes, if that line comes within this time.
    pub(crate) fn line_within(&mut self, time: Duration) -> Option<String> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            wait_readable(self.output.as_fd(), Some(left)).expect("waited");
            if !has_input(&self.output) {
                if left.is_zero() {
                    return None;
                }
                continue;
            }
            let mut bytes = [0; 4096];
            match self.output.read(&mut bytes).expect("its output") {
                0 => return None,
                length => self.unread.extend(&bytes[..length]),
            }
        }
    }

    /// Returns whether it succeeded, if it has ended without a signal from here.
    pub(crate) fn ended(&mut self) -> Option<bool> {
        let status = self.process.try_wait().expect("a child");
        status.map(|status| status.success())
    }

    /// Kills the process, and waits until it is dead. The input of its children stays open.
    pub(crate) fn kill(&mut self) -> Option<ChildStdin> {
        self.end();
        self.input.take()
    }

    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns whether there is something to read, or the input has ended.
pub(crate) fn has_input(fd: impl AsFd) -> bool {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let now = rustix::event::Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut fds, Some(&now)).is_ok_and(|count| count > 0)
}

/// Plays a part: obeys the lines of the input until its end.
pub(crate) fn obey(mut perform: impl FnMut(&[&str]) -> String) {
    while let Some(line) = read_line() {
        let words: Vec<&str> = line.split_whitespace().collect();
        say(&perform(&words));
    }
}

/// Reads a line of the input; `None` at the end of the input. Later bytes stay where [`has_input`] sees them.
pub(crate) fn read_line() -> Option<String> {
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let mut input = File::from(input.expect("a descriptor"));
    let (mut line, mut byte) = (Vec::new(), [0]);
    while input.read(&mut byte).expect("its input") > 0 {
        if byte == *b"\n" {
            return Some(String::from_utf8(line).expect("UTF-8"));
        }
        line.extend(byte);
    }
    None
}

/// Writes a line to the process that started this one.
pub(crate) fn say(line: &str) {
    let mut output = std::io::stdout().lock();
    let written = writeln!(output, "{line}").and_then(|()| output.flush());
    // The reader may be gone.
    if written.is_err() {
        std::process::exit(0);
    }
}

/// Makes bytes that differ from offset to offset.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    const PERIOD: usize = 251;
    let once: Vec<u8> = (0..PERIOD).map(|n| (n * 7 % PERIOD) as u8).collect();
    let mut bytes = once.repeat(length.div_ceil(PERIOD));
    bytes.truncate(length);
    bytes
}

/// Parses the number at this position in a command.
pub(crate) fn number(words: &[&str], place: usize) -> usize {
    let word = words.get(place).and_then(|word| word.parse().ok());
    word.unwrap_or_else(|| panic!("a number in {words:?}"))
}

/// Parses a GUID or a token in a command.
pub(crate) fn bytes16(words: &[&str], place: usize) -> [u8; 16] {
    let number = words
        .get(place)
        .and_then(|word| u128::from_str_radix(word, 16).ok());
    let number = number.unwrap_or_else(|| panic!("32 digits in {words:?}"));
    number.to_be_bytes()
}

pub(crate) fn hex16(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}
