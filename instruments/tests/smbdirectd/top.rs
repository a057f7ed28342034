// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl top` in a pseudo terminal, with a daemon.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use instruments::daemon::{Daemon, Directory, SMBDIRECTCTL, Setup, TIMEOUT, stderr};
use instruments::peer::Peer;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{LocalModes, OptionalActions, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

/// What switches to the alternate screen, and back.
const SWITCHES: [&str; 2] = ["\x1b[?1049h", "\x1b[?1049l"];

/// A `smbdirectctl top` in a terminal of its own.
struct Top {
    child: Child,
    master: File,
    terminal: OwnedFd,
    /// All that it has sent to the terminal.
    sent: String,
    /// The lines on the screen.
    lines: BTreeMap<usize, String>,
    /// How much of `sent` is in `lines`.
    drawn: usize,
}

impl Top {
    fn start(control: &Path, interval: &str, arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).expect("a pseudo terminal");
        unlockpt(&master).expect("its other end");
        let terminal = ioctl_tiocgptpeer(&master, flags).expect("its other end");
        resize(&terminal, 24, 100);
        let end = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        // It becomes the controlling terminal, which signals resizes.
        let mut command = Command::new("setsid");
        command.arg("--ctty").arg(&*SMBDIRECTCTL);
        command.args(["top", "--interval", interval, "--control"]);
        command.arg(control).args(arguments);
        command.env("TERM", "xterm").env_remove("NO_COLOR");
        command.stdin(end()).stdout(end()).stderr(end());
        Self {
            child: command.spawn().expect("setsid(1) of util-linux"),
            master: File::from(master),
            terminal,
            sent: String::new(),
            lines: BTreeMap::new(),
            drawn: 0,
        }
    }

    fn press(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("keys");
    }

    /// Returns the text on the screen.
    fn screen(&self) -> String {
        let lines = self.lines.values().map(|line| line.trim_end());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Waits until the screen is as wanted.
    fn wait(&mut self, what: &str, is_so: impl Fn(&str) -> bool) {
        let end = Instant::now() + TIMEOUT;
        while !is_so(&self.screen()) {
            assert!(Instant::now() < end, "no {what}:\n{}", self.screen());
            self.read();
            self.draw();
        }
    }

    /// Reads what comes within a moment.
    fn read(&mut self) {
        let mut ready = [PollFd::new(&self.master, PollFlags::IN)];
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 20_000_000,
        };
        if poll(&mut ready, Some(&moment)).expect("poll") > 0 {
            let mut buffer = [0; 65_536];
            let length = self.master.read(&mut buffer).expect("its output");
            let text = String::from_utf8(buffer[..length].to_vec());
            self.sent += &text.expect("ASCII, since no name here is anything else");
        }
    }

    /// Draws what has come in whole lines: `ESC [ row ; 1 H`, and the text up to the next ESC [ 0 m.
    fn draw(&mut self) {
        while let Some(next) = self.sent[self.drawn..].find(";1H") {
            let at = self.drawn + next;
            let row = self.sent[..at].rsplit("\x1b[").next().expect("a row");
            let row: usize = row.parse().expect("a number");
            let text = &self.sent[at + 3..];
            if let Some(below) = text.strip_prefix("\x1b[J") {
                self.lines.retain(|known, _| *known < row);
                self.drawn = self.sent.len() - below.len();
                continue;
            }
            let Some(length) = text.find("\x1b[0m") else {
                return;
            };
            let styled = &text[..length];
            let text = match styled.strip_prefix("\x1b[") {
                Some(styled) => styled.split_once('m').expect("a style").1,
                None => styled,
            };
            self.lines.insert(row, text.to_owned());
            self.drawn = at + 3 + length;
        }
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.terminal).expect("modes").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO)
    }

    /// Waits until it has ended, and checks that it has restored the terminal.
    fn end(mut self) -> ExitStatus {
        let end = Instant::now() + TIMEOUT;
        let status = loop {
            self.read();
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < end, "it goes on:\n{}", self.screen());
        };
        self.read();
        assert!(!self.is_raw());
        let [to, back] = SWITCHES.map(|switch| self.sent.rfind(switch));
        assert!(to.is_some() && back > to, "{:?}", self.sent);
        assert!(self.sent.ends_with(SWITCHES[1]), "{:?}", self.sent);
        assert!(
            self.sent.rfind("\x1b[?25l") < self.sent.rfind("\x1b[?25h"),
            "the cursor"
        );
        status
    }
}

fn resize(terminal: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).expect("a size");
}

/// Returns the first column of the only connection of a daemon.
fn client(daemon: &Daemon) -> String {
    let status = daemon.status();
    let peer = status["connections"][0]["peer"].as_str();
    peer.expect("a connection").to_owned()
}

#[test]
fn shows_connections_until_q_is_pressed() {
    let daemon = Daemon::start(&[]);
    let peer = Peer::connect(daemon.address());
    let client = client(&daemon);
    let mut top = Top::start(&daemon.control, "0.1", &[]);
    top.wait("connection", |screen| screen.contains(&client));
    assert!(top.is_raw());
    let shown = top.screen();
    assert!(shown.starts_with("smbdirect "), "{shown}");
    assert!(
        shown.contains("1 of 1 ") || shown.contains("1-1 of 1"),
        "{shown}"
    );
    top.wait("rates", |screen| {
        screen.contains("software: 0 B/s in, 0 B/s out")
    });

    top.press("c");
    top.wait("client", |screen| {
        screen.contains("\n127.0.0.1 ") && screen.contains("conns")
    });
    top.press("cs");
    top.wait("order", |screen| {
        screen.contains("s sort: in") && screen.contains(&client)
    });
    top.press("h");
    top.wait("help", |screen| screen.contains("q, Ctrl-C"));
    top.press("\x1b");
    top.wait("table", |screen| !screen.contains("q, Ctrl-C"));
    top.press("p");
    top.wait("pause", |screen| screen.contains("paused; p goes on"));
    drop(peer);
    daemon.wait_for_status(|status| status["closes"][0].is_object());
    assert!(top.screen().contains(&client), "it is paused");
    top.press("p");
    top.wait("end of the connection", |screen| !screen.contains(&client));
    top.press("q");
    assert!(top.end().success());
}

#[test]
fn follows_the_size_of_the_terminal() {
    let daemon = Daemon::start(&[]);
    let _peer = Peer::connect(daemon.address());
    // It redraws at once, and not only when the next look at the device is due.
    let mut top = Top::start(&daemon.control, "3600", &[]);
    top.wait("rates", |screen| screen.contains("software: 0 B/s in"));
    top.wait("all columns", |screen| screen.contains("process"));
    resize(&top.terminal, 12, 44);
    top.wait("few columns", |screen| {
        screen.contains("out/s") && !screen.contains("process")
    });
    let widest = top.lines.iter().filter(|(row, _)| **row <= 12);
    assert!(widest.clone().count() == 12, "{:?}", top.lines);
    assert!(
        widest
            .map(|(_, line)| line.len())
            .all(|length| length <= 44)
    );
    top.press("q");
    assert!(top.end().success());
}

#[test]
fn goes_on_after_a_restart_of_the_device() {
    let daemon = Daemon::start(&[]);
    let address: SocketAddr = daemon.address();
    let mut top = Top::start(&daemon.control, "0.1", &[]);
    top.wait("rates", |screen| screen.contains("software: 0 B/s in"));
    let directory = daemon.kill();
    top.wait("silence", |screen| {
        screen.contains("the device does not answer; waiting for it")
    });
    let setup = Setup {
        listen: Some(address),
        ..Setup::default()
    };
    let _daemon = Daemon::start_in(directory, &setup);
    top.wait("restart", |screen| {
        screen.contains("the device was restarted at ") && !screen.contains("does not answer")
    });
    top.wait("rates", |screen| screen.contains("software: 0 B/s in"));
    top.press("\x03");
    assert!(top.end().success(), "Ctrl-C");
}

#[test]
fn signals_end_it_and_leave_the_terminal_as_it_was() {
    let daemon = Daemon::start(&[]);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let mut top = Top::start(&daemon.control, "0.1", &["--sort", "age"]);
        top.wait("order", |screen| screen.contains("s sort: age"));
        let pid = Pid::from_child(&top.child);
        kill_process(pid, signal).expect("a signal");
        assert!(top.end().success(), "{signal:?}");
    }
}

#[test]
fn takes_the_terminal_again_after_a_stop_that_it_could_not_prepare_for() {
    let daemon = Daemon::start(&[]);
    let mut top = Top::start(&daemon.control, "0.1", &[]);
    top.wait("rates", |screen| screen.contains("software: 0 B/s in"));
    assert!(top.is_raw());
    let mut usual = tcgetattr(&top.terminal).expect("modes");
    usual.local_modes |= LocalModes::ICANON | LocalModes::ECHO;
    let pid = Pid::from_child(&top.child);
    kill_process(pid, Signal::STOP).expect("a signal");
    // As a shell does. Most of them also draw something.
    tcsetattr(&top.terminal, OptionalActions::Now, &usual).expect("modes");
    top.read();
    let before = top.sent.matches(SWITCHES[0]).count();
    kill_process(pid, Signal::CONT).expect("a signal");
    let end = Instant::now() + TIMEOUT;
    while !top.is_raw() || top.sent.matches(SWITCHES[0]).count() == before {
        assert!(Instant::now() < end, "the terminal is the shell's still");
        top.read();
    }
    top.lines.clear();
    top.draw();
    top.wait("rates", |screen| screen.contains("software: 0 B/s in"));
    top.press("q");
    assert!(top.end().success());
}

#[test]
fn without_a_terminal_it_names_another_command() {
    let daemon = Daemon::start(&[]);
    let run = |control: &Path, arguments: &[&str]| {
        let mut command = Command::new(&*SMBDIRECTCTL);
        command.args(["top", "--control"]).arg(control);
        command.args(arguments).stdin(Stdio::null());
        command.output().expect("smbdirectctl runs")
    };
    let output = run(&daemon.control, &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("smbdirectctl status --watch"), "{said}");
    for wrong in [&["--interval", "0"], &["--sort", "nonsense"]] {
        let output = run(&daemon.control, wrong);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn without_a_device_it_leaves_the_terminal_alone() {
    let directory = Directory::new();
    let mut top = Top::start(&directory.control(), "0.1", &[]);
    let end = Instant::now() + TIMEOUT;
    let status = loop {
        top.read();
        if let Some(status) = top.child.try_wait().expect("a child") {
            break status;
        }
        assert!(Instant::now() < end, "it goes on");
        std::thread::sleep(Duration::from_millis(5));
    };
    top.read();
    assert_eq!(status.code(), Some(3), "{:?}", top.sent);
    assert!(
        top.sent.contains("no smbdirect device at this path"),
        "{:?}",
        top.sent
    );
    assert!(!top.sent.contains(SWITCHES[0]), "{:?}", top.sent);
}
