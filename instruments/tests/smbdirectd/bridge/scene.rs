// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs `smbdirectctl bridge` as a process, and clients that speak SMB over TCP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use instruments::daemon::SMBDIRECTCTL;
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take on a busy machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Bridge {
    child: Child,
    stdout: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    logger: Option<JoinHandle<()>>,
}

impl Bridge {
    pub(crate) fn to(target: SocketAddr) -> Self {
        Self::with(&target.to_string(), &[])
    }

    pub(crate) fn with(target: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(&*SMBDIRECTCTL);
        command.args(["bridge", "--json", "--listen", "127.0.0.1:0"]);
        command.args(arguments).arg(target);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("smbdirectctl starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (written, stderr) = (Arc::clone(&log), child.stderr.take().expect("a pipe"));
        let logger = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = written.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("a line");
        let rest = line.strip_prefix("listening on ");
        let address = rest.and_then(|rest| rest.split_once(", carrying to "));
        let address = address.and_then(|(address, _)| address.parse().ok());
        Self {
            address: address.unwrap_or_else(|| panic!("{line:?}; {}", log.lock().unwrap())),
            child,
            stdout,
            log,
            logger: Some(logger),
        }
    }

    pub(crate) fn client(&self) -> Client {
        let stream = TcpStream::connect(self.address).expect("a connection");
        for set in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
            set(&stream, Some(TIMEOUT)).expect("a timeout");
        }
        stream.set_nodelay(true).expect("no delay");
        Client(stream)
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn wait_for_log(&self, words: &str) {
        wait_for(
            || self.log().contains(words),
            || format!("no {words:?} in:\n{}", self.log()),
        );
    }

    /// Returns its resident memory, in bytes.
    pub(crate) fn resident(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.expect("a size").trim().trim_end_matches(" kB");
        line.parse::<usize>().expect("a number") * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a signal to a child");
    }

    /// Stops the bridge gracefully, and returns its counters.
    pub(crate) fn stop(self) -> serde_json::Value {
        self.signal(Signal::TERM);
        let (status, log, json) = self.ended();
        assert!(status.success(), "{status}; {log}");
        serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {json:?}"))
    }

    /// Waits for its end, and returns its exit status, its log, and its output.
    pub(crate) fn ended(mut self) -> (ExitStatus, String, String) {
        let mut output = String::new();
        self.stdout.read_to_string(&mut output).expect("its output");
        let status = self.child.wait().expect("its end");
        self.logger.take().expect("a thread").join().expect("a log");
        let log = self.log();
        assert!(!log.contains("panicked"), "{log}");
        (status, log, output)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a condition holds.
pub(crate) fn wait_for(is_so: impl Fn() -> bool, otherwise: impl Fn() -> String) {
    let end = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < end, "{}", otherwise());
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a length");
    [&length.to_be_bytes()[..], message].concat()
}

pub(crate) struct Client(pub(crate) TcpStream);

impl Client {
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).expect("the bridge takes it");
    }

    pub(crate) fn send(&mut self, message: &[u8]) {
        self.write(&framed(message));
    }

    pub(crate) fn receive(&mut self) -> Vec<u8> {
        let mut header = [0; 4];
        self.0.read_exact(&mut header).expect("a header");
        assert_eq!(header[0], 0, "{header:?}");
        let mut message = vec![0; u32::from_be_bytes(header) as usize];
        self.0.read_exact(&mut message).expect("a message");
        message
    }

    /// Sends a message, and expects it back.
    pub(crate) fn echo(&mut self, message: &[u8]) {
        self.send(message);
        assert!(self.receive() == message, "another message came back");
    }

    pub(crate) fn shut(&self) {
        self.0.shutdown(Shutdown::Write).expect("an open socket");
    }

    /// Expects that the bridge closes, gracefully or not, and sends nothing before that.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) => {
                let reset = std::io::ErrorKind::ConnectionReset;
                assert_eq!(error.kind(), reset, "{error}");
            }
        }
        assert_eq!(rest, b"", "something came before the end");
    }

    /// Expects that the bridge closes gracefully, and sends nothing before that.
    pub(crate) fn expect_end_in_order(&mut self) {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).expect("a graceful end");
        assert_eq!(rest, b"", "something came before the end");
    }
}
