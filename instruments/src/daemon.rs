// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs a `smbdirectd` for one test: with a directory, a control socket, free ports, and a service manager to which it
//! reports.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};

use crate::ROOT;

/// The programs under test.
pub static SMBDIRECTD: LazyLock<PathBuf> = LazyLock::new(|| program("smbdirectd"));
pub static SMBDIRECTCTL: LazyLock<PathBuf> = LazyLock::new(|| program("smbdirectctl"));

/// How long anything may take on a busy machine.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Finds a program of the product: at the path that the environment gives, or in the directory above the test's.
///
/// cargo builds the program with the workspace's tests, but not for a test of this package alone, which may then run an
/// old program. So this function prints a warning if the program is older than a source.
fn program(name: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(format!("CARGO_BIN_EXE_{name}")) {
        return path.into();
    }
    let test = std::env::current_exe().expect("the path of the test");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/test");
    let program = profile.join(name);
    let built = program.metadata().and_then(|file| file.modified());
    let built = built.unwrap_or_else(|error| panic!("{}: {error}: {CURE}", program.display()));
    if is_newer(&Path::new(ROOT).join("src"), built) {
        // Do not use a macro: the test harness captures its output.
        let text = format!("\n{} is older than src: {CURE}\n", program.display());
        std::io::stderr()
            .write_all(text.as_bytes())
            .expect("standard error");
    }
    program
}

const CURE: &str = "cargo build --workspace makes it, with the profile of the test";

/// Returns whether anything in a directory was changed after `than`.
fn is_newer(directory: &Path, than: SystemTime) -> bool {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut files = entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    files.any(|(path, file)| {
        if file.is_dir() {
            is_newer(&path, than)
        } else {
            file.modified().is_ok_and(|changed| changed > than)
        }
    })
}

/// A directory that is deleted when this is dropped.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new() -> Self {
        Self::within(&std::env::temp_dir())
    }

    /// Makes a directory in memory, so that no disk slows down its files.
    pub fn in_memory() -> Self {
        Self::within(Path::new("/dev/shm"))
    }

    fn within(parent: &Path) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("smbdirectd-{}-{count}", std::process::id());
        let path = parent.join(name);
        let made = fs::DirBuilder::new().mode(0o755).create(&path);
        made.expect("a directory of its own");
        Self(path)
    }

    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("write a file");
        path
    }

    /// Returns where the daemon makes its control socket; the daemon makes the socket's directory, too.
    pub fn control(&self) -> PathBuf {
        self.0.join("run/control")
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Receives what a daemon reports to its service manager.
struct ServiceManager {
    socket: UnixDatagram,
    path: PathBuf,
}

impl ServiceManager {
    fn new(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).expect("a socket for notifications");
        let time = Some(Duration::from_millis(50));
        socket.set_read_timeout(time).expect("a timeout");
        Self { socket, path }
    }

    /// Waits for the next notification, which has several lines.
    fn next(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    manager: ServiceManager,
    /// The notification with which it reported that it was ready.
    pub ready: String,
    pub control: PathBuf,
    log: PathBuf,
    directory: Directory,
}

/// How a daemon is started.
#[derive(Default)]
pub struct Setup<'a> {
    /// Arguments besides those for a control socket in its directory, an address, and two reactors.
    pub arguments: &'a [&'a str],
    /// Its first address; by default a free IPv4 port.
    pub listen: Option<SocketAddr>,
    /// The configuration file has all its addresses.
    pub listen_in_file: bool,
    pub environment: &'a [(&'a str, &'a str)],
    /// The limit of open files, soft and hard.
    pub descriptors: Option<u32>,
}

impl Setup<'_> {
    fn command(&self, own: &[&OsStr]) -> Command {
        let mut command = match self.descriptors {
            Some(limit) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
                shell.args(["-c", &script]).arg(&*SMBDIRECTD);
                shell
            }
            None => Command::new(&*SMBDIRECTD),
        };
        command.args(own).args(self.arguments);
        command.env_remove("JOURNAL_STREAM");
        command.envs(self.environment.iter().copied());
        command
    }
}

/// Runs the daemon to its end, without a service manager.
pub fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(&*SMBDIRECTD);
    command.args(arguments).env_remove("NOTIFY_SOCKET");
    command.output().expect("smbdirectd runs")
}

impl Daemon {
    /// Starts a daemon with these arguments, and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let setup = Setup {
            arguments,
            ..Setup::default()
        };
        Self::start_in(Directory::new(), &setup)
    }

    /// Starts a daemon in a directory that an earlier daemon may have left.
    pub fn start_in(directory: Directory, setup: &Setup<'_>) -> Self {
        let path = directory.0.join("notify");
        let _ = fs::remove_file(&path);
        let manager = ServiceManager::new(path);
        let log = directory.0.join("log");
        let control = directory.control();
        // A test must not read the configuration of this machine's own daemon.
        let config = directory.0.join("smbdirectd.toml");
        if !config.exists() {
            directory.file("smbdirectd.toml", "");
        }
        let listen = setup.listen.map(|address| address.to_string());
        let listen = listen.as_deref().unwrap_or("127.0.0.1:0");
        let own = ["--listen", listen, "--reactors", "2", "--config"].map(OsStr::new);
        let own = own.get(if setup.listen_in_file { 2.. } else { 0.. });
        let own = own.unwrap_or_default();
        let paths = [
            config.as_os_str(),
            OsStr::new("--control"),
            control.as_os_str(),
        ];
        let mut command = setup.command(&[own, &paths].concat());
        command
            .env("NOTIFY_SOCKET", &manager.path)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log"));
        let mut daemon = Self {
            child: command.spawn().expect("smbdirectd starts"),
            manager,
            ready: String::new(),
            control,
            log,
            directory,
        };
        daemon.ready = daemon.wait_for_notification("READY=1");
        daemon
    }

    /// Waits for a notification that contains this line, and returns all of it.
    pub fn wait_for_notification(&mut self, line: &str) -> String {
        let end = Instant::now() + TIMEOUT;
        while Instant::now() < end {
            match self.manager.next() {
                Some(said) if said.lines().any(|said| said == line) => return said,
                Some(_) => {}
                // The daemon has ended, so the notification will not come.
                None if self.has_ended() => break,
                None => {}
            }
        }
        panic!("no {line}; the log:\n{}", self.log());
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("a signal to a child");
    }

    /// Writes another configuration, tells the daemon to reload it, and returns the notification with which the daemon
    /// reports that it has done so.
    pub fn reload(&mut self, text: &str) -> String {
        self.directory.file("smbdirectd.toml", text);
        self.signal(Signal::HUP);
        let said = self.wait_for_notification("RELOADING=1");
        let mut lines = said.lines();
        let has_time = lines.any(|line| line.starts_with("MONOTONIC_USEC="));
        assert!(has_time, "{said}");
        self.wait_for_notification("READY=1")
    }

    /// Waits until the daemon has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(
                Instant::now() < end,
                "it is still running; the log:\n{}",
                self.log()
            );
            // Waiting for a child cannot have a time limit, so poll.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops the daemon, and checks that it exits cleanly. Keeps its directory.
    pub fn stop(self) -> Directory {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Checks that the daemon, which was told to stop, exits cleanly. Keeps its directory.
    pub fn ended(mut self) -> Directory {
        let status = self.wait();
        assert!(status.success(), "{status}; the log:\n{}", self.log());
        std::mem::take(&mut self.directory)
    }

    /// Kills the daemon, which then cannot tidy up. Keeps its directory.
    pub fn kill(mut self) -> Directory {
        self.signal(Signal::KILL);
        self.wait();
        std::mem::take(&mut self.directory)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("its log")
    }

    /// Waits until the log contains these words.
    pub fn wait_for_log(&self, words: &str) {
        let end = Instant::now() + TIMEOUT;
        while !self.log().contains(words) {
            assert!(Instant::now() < end, "no {words:?} in:\n{}", self.log());
            // A file does not report that it has grown, so poll.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Returns the output of `smbdirectctl status --json`.
    pub fn status(&self) -> serde_json::Value {
        let output = smbdirectctl(&self.control, &["--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Waits until `is_so` holds for the status, and returns the status.
    pub fn wait_for_status(&self, is_so: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let end = Instant::now() + TIMEOUT;
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            assert!(Instant::now() < end, "{status}; the log:\n{}", self.log());
            // Leave the processor to the processes that this waits for.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its first address.
    pub fn address(&self) -> SocketAddr {
        let status = self.status();
        let address = status["listen"][0].as_str().expect("an address");
        address.parse().expect("an address")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `smbdirectctl status`.
pub fn smbdirectctl(control: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.arg("status").arg("--control").arg(control);
    command.args(arguments).output().expect("smbdirectctl runs")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}
