// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs an smbd for one test, with its own directories, ports and users.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Signal, getuid, kill_process, kill_process_group, test_kill_process_group,
};

use crate::daemon::{self, Daemon, Directory, TIMEOUT};
use crate::forwarder::Forwarder;

/// The user that may log in: every Debian has it, and file permissions apply to it.
const USER: &str = "daemon";
/// The user's password.
pub const PASSWORD: &str = "pass-1word";
/// The part of `[global]` that every smbd of a test has.
const COMMON: &str = include_str!("../smb.conf");
/// The share.
pub const SHARE: &str = "share";

/// The location of Samba: a build tree, or `/usr` if it is installed.
pub struct Samba {
    root: PathBuf,
}

impl Samba {
    /// Takes the location from the environment.
    pub fn from_environment() -> Self {
        let root = std::env::var_os("SMBDIRECT_SAMBA").unwrap_or_else(|| {
            panic!("SMBDIRECT_SAMBA is not set: set it to a Samba build tree, or to /usr if Samba is installed")
        });
        Self { root: root.into() }
    }

    /// Returns the path of one of Samba's programs.
    pub fn program(&self, name: &str) -> PathBuf {
        let places = ["bin", "sbin"].map(|place| self.root.join(place).join(name));
        let found = places.iter().find(|path| path.exists());
        found
            .unwrap_or_else(|| panic!("no {name} in {}", self.root.display()))
            .clone()
    }

    /// Returns whether its smbd can use the smbdirect device.
    pub fn has_smb_direct(&self) -> bool {
        matches!(self.default("smb direct").as_str(), "No" | "Yes")
    }

    /// Returns whether its `server smb transports` parameter exists, as in Samba 4.24.
    pub fn has_transports(&self) -> bool {
        self.default("server smb transports").contains("tcp")
    }

    /// Returns a parameter's default, or an empty string if Samba does not know the parameter.
    fn default(&self, parameter: &str) -> String {
        let mut command = Command::new(self.program("testparm"));
        command.args(["-s", &format!("--parameter-name={parameter}"), "/dev/null"]);
        let output = command.output().expect("testparm runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

/// How a server is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// Lines for `[global]`.
    pub global: &'a [&'a str],
    /// Lines for the share.
    pub share: &'a [&'a str],
    /// The configuration file of smbdirectd.
    pub device: &'a str,
    /// Addresses at which smbdirectd listens besides the first.
    pub listen: &'a [&'a str],
    /// Whether smbdirectd stays stopped until [`Server::start_device`].
    pub without_device: bool,
    /// A library to preload into smbd.
    pub preload: Option<&'a Path>,
    /// Whether the files are in memory.
    pub in_memory: bool,
}

/// A running server.
pub struct Server {
    child: Child,
    /// The address at which smbd serves TCP.
    pub tcp: SocketAddr,
    /// The address of SMB Direct: the device's, or a forwarder's if smbd cannot use the device.
    pub smb_direct: SocketAddr,
    /// Whether READ and WRITE with a channel reach smbd.
    pub places_directly: bool,
    /// The user that may log in.
    pub user: String,
    /// The directory that is shared.
    pub files: PathBuf,
    root: PathBuf,
    samba: Samba,
    config: PathBuf,
    control: Option<PathBuf>,
    _forwarder: Option<Forwarder>,
    daemon: Option<Daemon>,
    /// The directory of a device that is not running.
    resting: Option<Directory>,
    _directory: Directory,
}

impl Server {
    /// Starts a server with the default configuration.
    pub fn start() -> Self {
        Self::start_with(Setup::default())
    }

    /// Starts a server with additions to its configuration.
    pub fn start_with(setup: Setup<'_>) -> Self {
        let mut server = Self::spawn(setup);
        server.wait_until_it_listens();
        if server.daemon.is_some() {
            server.wait_for_device();
        } else if !server.places_directly {
            let forwarder = Forwarder::start(server.tcp);
            server.smb_direct = forwarder.address;
            server._forwarder = Some(forwarder);
        }
        server
    }

    /// Starts the device, and then smbd.
    fn spawn(setup: Setup<'_>) -> Self {
        let samba = Samba::from_environment();
        let directory = if setup.in_memory {
            Directory::in_memory()
        } else {
            Directory::new()
        };
        let root = directory.0.clone();
        let user = user();
        let files = root.join("files");
        for name in [
            "files", "private", "lock", "state", "cache", "pid", "ncalrpc", "log",
        ] {
            fs::create_dir(root.join(name)).expect("a directory");
        }
        // The users that log in must be able to get to the files.
        open_to_all(&files);
        let places_directly = samba.has_smb_direct();
        let mut resting = places_directly.then(Directory::new);
        let control = resting.as_ref().map(Directory::control);
        let mut daemon = None;
        if let Some(directory) = &resting {
            directory.file("smbdirectd.toml", setup.device);
        }
        if !setup.without_device {
            let also: Vec<&str> = setup
                .listen
                .iter()
                .flat_map(|at| ["--listen", at])
                .collect();
            let setup = daemon::Setup {
                arguments: &also,
                ..daemon::Setup::default()
            };
            let start = |directory| Daemon::start_in(directory, &setup);
            daemon = resting.take().map(start);
        }
        // smbd could bind a port on which the device already listens, so choose a port that differs from the device's.
        let smb_direct = daemon.as_ref().map_or_else(free_port, Daemon::address);
        let mut tcp = free_port();
        while tcp == smb_direct {
            tcp = free_port();
        }
        let text = configuration(&root, tcp, setup, control.as_deref());
        let config = directory.file("smb.conf", &text);
        add_user(&samba, &config, &user);
        Self {
            child: run_smbd(&samba, &config, &root, setup.preload),
            tcp,
            smb_direct,
            places_directly,
            user,
            files,
            root,
            samba,
            config,
            control,
            _forwarder: None,
            daemon,
            resting,
            _directory: directory,
        }
    }

    /// The directory that holds all of the server's files.
    pub fn directory(&self) -> &Path {
        &self.root
    }

    /// smbd's parent process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Stops smbd, and waits until it has ended.
    pub fn stop_smbd(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).expect("a signal to a child");
        self.wait_for_end()
    }

    /// Starts smbd again after it has ended.
    pub fn start_smbd(&mut self) {
        self.child = run_smbd(&self.samba, &self.config, &self.root, None);
        self.wait_until_it_listens();
        self.wait_for_device();
    }

    /// Sends smbd a message with `smbcontrol`.
    pub fn control(&self, arguments: &[&str]) {
        let mut command = Command::new(self.samba.program("smbcontrol"));
        command.arg("-s").arg(&self.config).args(arguments);
        let output = command.output().expect("smbcontrol runs");
        assert!(output.status.success(), "{output:?}");
    }

    /// Makes smbd read its configuration again, after replacing `old` with `new` in it.
    pub fn reconfigure(&self, old: &str, new: &str) {
        let text = fs::read_to_string(&self.config).expect("its configuration");
        assert!(text.contains(old), "{text}");
        fs::write(&self.config, text.replace(old, new)).expect("written");
        self.control(&["smbd", "reload-config"]);
    }

    /// Runs testparm on the server's configuration, and returns the standard error and whether testparm succeeded.
    pub fn testparm(&self) -> (bool, String) {
        let mut command = Command::new(self.samba.program("testparm"));
        let output = command.arg("-s").arg(&self.config).output();
        let output = output.expect("testparm runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    }

    /// Returns the path of one of the programs of this smbd's Samba.
    pub fn program(&self, name: &str) -> PathBuf {
        self.samba.program(name)
    }

    /// Its smb.conf.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The running device.
    pub fn device(&self) -> &Daemon {
        self.daemon.as_ref().expect("a device")
    }

    /// Kills the device, which then cannot tidy up.
    pub fn kill_device(&mut self) {
        self.resting = self.daemon.take().map(Daemon::kill);
    }

    /// Waits until the device, which was told to stop, has exited cleanly.
    pub fn wait_for_end_of_device(&mut self) {
        self.resting = self.daemon.take().map(Daemon::ended);
    }

    /// Starts the device in its directory, and waits until smbd uses it.
    pub fn start_device(&mut self) {
        let setup = daemon::Setup {
            listen: Some(self.smb_direct),
            ..daemon::Setup::default()
        };
        let start = |directory| Daemon::start_in(directory, &setup);
        self.daemon = self.resting.take().map(start);
        self.wait_for_device();
    }

    /// `\\host\share`, as clients name it.
    pub fn share_path(&self) -> String {
        format!(r"\\127.0.0.1\{SHARE}")
    }

    /// Returns the output of smbstatus.
    pub fn smbstatus(&self) -> serde_json::Value {
        self.smbstatus_of(&[])
    }

    /// Returns what smbd has counted; `smbd profiling level` must be `count` or `on`.
    pub fn profile(&self) -> serde_json::Value {
        self.smbstatus_of(&["--profile"])
    }

    fn smbstatus_of(&self, arguments: &[&str]) -> serde_json::Value {
        let mut command = Command::new(Samba::from_environment().program("smbstatus"));
        command.arg("-s").arg(self.root.join("smb.conf"));
        let output = command.arg("--json").args(arguments).output();
        let output = output.expect("smbstatus runs");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Returns the path at which smbd looks for its device.
    pub fn control_socket(&self) -> &Path {
        self.control.as_deref().expect("an smbd with SMB Direct")
    }

    /// Kills the device, starts it again in the same place, and waits until smbd is its listener again.
    pub fn restart_device(&mut self) {
        self.kill_device();
        self.start_device();
    }

    /// Waits until `smbdirectctl status --json` shows the wanted status of its device.
    pub fn wait_for_device_status(
        &self,
        is_so: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        self.device().wait_for_status(is_so)
    }

    /// Returns the contents of the server's logs.
    pub fn log(&self) -> String {
        let mut text = String::new();
        let entries = fs::read_dir(self.root.join("log"))
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries {
            let log = fs::read(entry.path()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.len().saturating_sub(400);
            let _ = writeln!(text, "-- {}", entry.path().display());
            let _ = writeln!(text, "{}", lines[tail..].join("\n"));
        }
        if let Some(daemon) = &self.daemon {
            let _ = writeln!(text, "-- smbdirectd\n{}", daemon.log());
        }
        text
    }

    /// Returns the lines of the server's logs that report a bug in smbd.
    pub fn panics(&self) -> Vec<String> {
        let logs = fs::read_dir(self.root.join("log")).expect("its logs");
        let mut found = Vec::new();
        for entry in logs.flatten() {
            let log = fs::read(entry.path()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let bad = |line: &&str| line.contains("PANIC") || line.contains("INTERNAL ERROR");
            found.extend(log.lines().filter(bad).map(str::to_owned));
        }
        found
    }

    fn wait_for_end(&mut self) -> ExitStatus {
        let end = Instant::now() + TIMEOUT;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < end, "smbd did not exit in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn wait_until_it_listens(&mut self) {
        let end = Instant::now() + TIMEOUT;
        while TcpStream::connect(self.tcp).is_err() || !self.has_notifyd() {
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none(), "smbd ended: {ended:?}; {}", self.log());
            assert!(Instant::now() < end, "smbd does not listen; {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns whether smbd's change-notify process runs: smbd listens before that process runs, and refuses shares
    /// until it does.
    fn has_notifyd(&self) -> bool {
        let name = b"notify-daemon";
        let names = fs::read(self.root.join("lock/names.tdb"));
        names.is_ok_and(|names| names.windows(name.len()).any(|part| part == name))
    }

    /// Waits until smbd is the device's listener.
    fn wait_for_device(&self) {
        self.device().wait_for_status(|status| {
            let processes = status["processes"].as_array();
            processes.is_some_and(|all| all.iter().any(|process| process["role"] == "listener"))
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        if panicking {
            // The test harness shows only the output that it has captured.
            let _ = std::io::stdout().flush();
            println!("{}", self.log());
        }
        // The parent leads the process group of all its children.
        let group = self.pid();
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill_process(group, Signal::TERM);
        }
        let end = Instant::now() + TIMEOUT;
        loop {
            let ended = !matches!(self.child.try_wait(), Ok(None));
            let alone = test_kill_process_group(group).is_err();
            if ended && alone {
                break;
            }
            if Instant::now() >= end {
                let _ = kill_process_group(group, Signal::KILL);
                let _ = self.child.wait();
                assert!(panicking, "smbd, or a child of it, did not end");
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if !panicking {
            let panics = self.panics();
            assert!(panics.is_empty(), "{panics:?}; {}", self.log());
        }
    }
}

fn run_smbd(samba: &Samba, config: &Path, root: &Path, preload: Option<&Path>) -> Child {
    let mut command = Command::new(samba.program("smbd"));
    command
        .args(["--foreground", "--no-process-group", "-s"])
        .arg(config);
    command.arg("-l").arg(root.join("log"));
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    // When smbd ends, it sends a signal to its whole process group.
    command.process_group(0);
    // Not a pipe, because smbd ends when its input does.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(fs::File::create(root.join("log/stderr")).expect("a log"));
    command.spawn().expect("smbd starts")
}

/// Returns the user that smbd accepts: it must be a user of this machine, and without root only the current one works.
pub fn user() -> String {
    if getuid().is_root() {
        return USER.to_owned();
    }
    std::env::var("USER").expect("USER names the current user")
}

pub fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("permissions");
}

/// Finds a port that was free a moment ago, below the range from which the system assigns ports: a connection to a
/// listener in that range could even connect to itself.
fn free_port() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(101);
    loop {
        let number = start.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let port = 20_000 + u16::try_from(number).expect("less than 12,000");
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("its address");
        }
    }
}

fn configuration(root: &Path, tcp: SocketAddr, setup: Setup<'_>, control: Option<&Path>) -> String {
    let common = COMMON.replace("DIRECTORY", root.to_str().expect("UTF-8"));
    let common = common.replace("PORT", &tcp.port().to_string());
    let own = [
        "workgroup = TEST",
        "interfaces = lo",
        "bind interfaces only = yes",
        "smbd:FSCTL_SMBTORTURE = yes",
        "kernel oplocks = no",
    ];
    let mut lines = vec![common.trim_end().to_owned()];
    lines.extend(own.map(str::to_owned));
    if let Some(control) = control {
        lines.push("smb direct = yes".to_owned());
        lines.push(format!("smb direct device = {}", control.display()));
    }
    lines.extend(setup.global.iter().map(|line| (*line).to_owned()));
    lines.push(format!("[{SHARE}]"));
    lines.push(format!("path = {}", root.join("files").display()));
    lines.push("read only = no".to_owned());
    lines.push("posix locking = no".to_owned());
    lines.push("kernel share modes = no".to_owned());
    lines.extend(setup.share.iter().map(|line| (*line).to_owned()));
    lines.join("\n") + "\n"
}

fn add_user(samba: &Samba, config: &Path, user: &str) {
    let mut command = Command::new(samba.program("smbpasswd"));
    let arguments: [OsString; 5] = [
        "-c".into(),
        config.into(),
        "-s".into(),
        "-a".into(),
        user.into(),
    ];
    command.args(arguments).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("smbpasswd starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    write!(stdin, "{PASSWORD}\n{PASSWORD}\n").expect("smbpasswd reads");
    drop(stdin);
    let output = child.wait_with_output().expect("smbpasswd ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "smbpasswd -a {user}: {said}");
}
