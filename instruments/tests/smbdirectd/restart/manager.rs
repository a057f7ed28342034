// SPDX-License-Identifier: GPL-2.0-or-later

//! A service manager with a descriptor store, which restarts a daemon as systemd does.

use std::fs::OpenOptions;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process};

use instruments::daemon::{Directory, SMBDIRECTD, TIMEOUT, smbdirectctl};

/// What the manager has heard.
#[derive(Default)]
struct Heard {
    store: Vec<(String, OwnedFd)>,
    is_ready: bool,
    /// Do not go on after the next barrier for now.
    holds: bool,
    /// A barrier has come meanwhile.
    has_met: bool,
    ended: bool,
}

impl Heard {
    /// Returns whether a barrier that has come has to wait.
    fn is_held(&mut self) -> bool {
        self.has_met |= self.holds;
        self.holds && !self.ended
    }
}

/// See the [module](self).
pub(crate) struct Manager {
    pub(crate) directory: Directory,
    heard: Arc<Mutex<Heard>>,
    thread: Option<JoinHandle<()>>,
    pub(crate) limit: usize,
    /// Where the daemon listens from its next start on.
    pub(crate) listen: String,
    child: Option<Child>,
}

impl Manager {
    /// Starts a daemon with this configuration, whose store has room for `limit` descriptors.
    pub(crate) fn start(configuration: &str, limit: usize) -> Self {
        let directory = Directory::new();
        directory.file("smbdirectd.toml", configuration);
        let socket = UnixDatagram::bind(directory.0.join("notify")).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let for_thread = Arc::clone(&heard);
        let thread = std::thread::spawn(move || listen(&socket, &for_thread, limit));
        let mut manager = Self {
            directory,
            heard,
            thread: Some(thread),
            limit,
            listen: "127.0.0.1:0".to_owned(),
            child: None,
        };
        manager.begin();
        manager
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.directory.control()
    }

    /// Returns the number of the daemon's process.
    pub(crate) fn process(&self) -> i32 {
        Pid::from_child(self.child.as_ref().unwrap()).as_raw_pid()
    }

    /// Starts the daemon with what is in the store, and waits until it is ready.
    pub(crate) fn begin(&mut self) {
        self.spawn();
        self.wait_for(|heard| heard.is_ready);
    }

    /// Starts the daemon, and tells it to stop while it waits until everything has been taken out of the store. Waits
    /// for its end.
    pub(crate) fn begin_and_stop(&mut self) -> ExitStatus {
        self.heard.lock().unwrap().holds = true;
        self.spawn();
        self.wait_for(|heard| heard.has_met);
        // It waits as soon as the barrier is sent.
        std::thread::sleep(Duration::from_millis(50));
        assert!(self.stored().is_empty(), "{:?}", self.stored());
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), Signal::TERM).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        self.heard.lock().unwrap().holds = false;
        self.ended()
    }

    fn wait_for(&self, until: impl Fn(&Heard) -> bool) {
        let end = Instant::now() + TIMEOUT;
        while !until(&self.heard.lock().unwrap()) {
            assert!(Instant::now() < end, "not so far: {}", self.log());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn spawn(&mut self) {
        self.heard.lock().unwrap().is_ready = false;
        let (names, descriptors) = self.passed();
        let mut log = OpenOptions::new();
        let log = log.create(true).append(true);
        let log = log.open(self.directory.0.join("log")).unwrap();
        // The process that the shell becomes keeps the shell's number.
        let mut command = Command::new("sh");
        let script = "LISTEN_PID=$$ exec \"$0\" \"$@\"";
        command.args(["-c", script]).arg(&*SMBDIRECTD);
        command.args(["--listen", &self.listen, "--reactors", "2", "--config"]);
        command.arg(self.directory.0.join("smbdirectd.toml"));
        command.arg("--control").arg(self.control());
        command
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stderr(log);
        command.env_remove("SYSTEMD_EXEC_PID");
        command.env("NOTIFY_SOCKET", self.directory.0.join("notify"));
        command.env("FDSTORE", self.limit.to_string());
        command.env("LISTEN_FDS", descriptors.len().to_string());
        command.env("LISTEN_FDNAMES", names.join(":"));
        let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let pass = move || {
            for (number, descriptor) in (3..).zip(&raw) {
                // SAFETY: both are numbers of this process. What has the new number is below all of `raw`, and nothing
                // else uses it after the fork.
                if unsafe { libc::dup2(*descriptor, number) } == -1 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: the closure only calls dup2, which is allowed after a fork.
        unsafe { command.pre_exec(pass) };
        self.child = Some(command.spawn().unwrap());
        // The daemon has its own copies now.
        drop(descriptors);
    }

    /// Returns copies of the descriptors in the store, with great numbers, and their names.
    pub(crate) fn passed(&self) -> (Vec<String>, Vec<OwnedFd>) {
        let heard = self.heard.lock().unwrap();
        let copy = |descriptor: &OwnedFd| {
            rustix::io::fcntl_dupfd_cloexec(descriptor, 600).expect("room for a descriptor")
        };
        let names = heard.store.iter().map(|(name, _)| name.clone()).collect();
        let all = heard.store.iter().map(|(_, descriptor)| copy(descriptor));
        (names, all.collect())
    }

    /// Tells the daemon to stop, and waits for its end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), Signal::TERM).unwrap();
        self.ended()
    }

    /// Waits for the end of the daemon.
    fn ended(&mut self) -> ExitStatus {
        let status = self.child.take().unwrap().wait().unwrap();
        // The thread may still have something to read.
        std::thread::sleep(Duration::from_millis(50));
        status
    }

    /// Restarts the daemon; returns for how long there was none that served.
    pub(crate) fn restart(&mut self) -> Duration {
        let begin = Instant::now();
        let mut child = self.child.take().unwrap();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.log());
        self.begin();
        begin.elapsed()
    }

    /// Lets the daemon read its configuration again, and waits for this line in its log.
    pub(crate) fn reload(&self, line: &str) {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), Signal::HUP).unwrap();
        let end = Instant::now() + TIMEOUT;
        while !self.log().contains(line) {
            assert!(Instant::now() < end, "no {line}: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Drops a descriptor from the store.
    pub(crate) fn remove(&self, name: &str) {
        let mut heard = self.heard.lock().unwrap();
        heard.store.retain(|(stored, _)| stored != name);
    }

    /// Replaces a descriptor in the store.
    pub(crate) fn replace(&self, name: &str, descriptor: OwnedFd) {
        let mut heard = self.heard.lock().unwrap();
        let place = heard.store.iter_mut().find(|(stored, _)| stored == name);
        place.expect("a descriptor with this name").1 = descriptor;
    }

    /// Returns the content of a file in the store.
    pub(crate) fn content(&self, name: &str) -> Vec<u8> {
        let heard = self.heard.lock().unwrap();
        let found = heard.store.iter().find(|(stored, _)| stored == name);
        let copy = found.expect("a descriptor with this name").1.try_clone();
        let file = std::fs::File::from(copy.unwrap());
        let length = file.metadata().unwrap().len() as usize;
        let mut content = vec![0; length];
        file.read_exact_at(&mut content, 0).unwrap();
        content
    }

    /// Returns the names in the store.
    pub(crate) fn stored(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        heard.store.iter().map(|(name, _)| name.clone()).collect()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.0.join("log")).unwrap()
    }

    pub(crate) fn status(&self) -> serde_json::Value {
        let output = smbdirectctl(&self.control(), &["--json"]);
        assert!(output.status.success(), "{output:?}: {}", self.log());
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.status()["listen"][0]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.heard.lock().unwrap().ended = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Returns whether two descriptors are the same open file, of which systemd stores only the first.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    // From linux/kcmp.h.
    const KCMP_FILE: libc::c_int = 0;
    let process = std::process::id();
    let (one, other) = (one.as_raw_fd(), other.as_raw_fd());
    // SAFETY: the call compares two numbers of this process, and changes nothing.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, process, process, KCMP_FILE, one, other) };
    // It is negative if the kernel does not offer the comparison.
    order == 0
}

/// Handles notifications until the manager ends.
fn listen(socket: &UnixDatagram, heard: &Mutex<Heard>, limit: usize) {
    while !heard.lock().unwrap().ended {
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(253))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut buffer)];
        let received = recvmsg(socket, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC);
        let Ok(received) = received else { continue };
        let mut descriptors = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(some) = part {
                descriptors.extend(some);
            }
        }
        let text = String::from_utf8_lossy(&buffer[..received.bytes]).into_owned();
        let has = |line: &str| text.lines().any(|said| said == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME="));
        while has("BARRIER=1") && heard.lock().unwrap().is_held() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut heard = heard.lock().unwrap();
        heard.is_ready |= has("READY=1");
        if has("FDSTORE=1") {
            assert!(has("FDPOLL=0"), "{text}");
            for descriptor in descriptors {
                let stored = |(_, stored): &(_, OwnedFd)| is_same(stored, &descriptor);
                if heard.store.len() < limit && !heard.store.iter().any(stored) {
                    let name = name.unwrap_or("stored").to_owned();
                    heard.store.push((name, descriptor));
                }
            }
        } else if has("FDSTOREREMOVE=1") {
            heard
                .store
                .retain(|(stored, _)| Some(stored.as_str()) != name);
        }
        // A barrier ends when its descriptor is closed.
    }
}
