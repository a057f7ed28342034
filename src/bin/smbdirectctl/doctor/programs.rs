// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds and runs the programs that the doctor needs: smbd, testparm, and those of firewalls. Also finds and runs
//! smbstatus, which knows the users.
//!
//! Root runs the doctor, which reads the status of a device that may run as another user. So neither that user nor any
//! other may choose what runs here. A program, or a configuration for Samba, is [`trusted`] only if root or the user
//! who runs the doctor owns it and every directory above it, and nobody else can write to them. Of a process that the
//! device names, the user, the program and its name are checked, too. The command line may name any file: that is the
//! choice of the user who runs the doctor.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use smbdirect::device::trust::{UnsafeDirectory, check_directory};

#[cfg(test)]
mod tests;

/// How long a program may take.
const TIME: Duration = Duration::from_secs(10);
/// Time between two looks at whether a program has ended.
const PAUSE: Duration = Duration::from_millis(5);
/// Where programs look for other programs.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// Where administrators' programs are, even if PATH does not name these directories.
const USUAL: [&str; 2] = ["/usr/sbin", "/usr/local/samba/sbin"];
/// Write permission of the group and of others.
const WRITABLE: u32 = 0o022;
/// Maximum number of symbolic links that lead to a file, as in the kernel.
const MOST_LINKS: usize = 40;

/// Returns whether a user is root, or runs this program.
fn is_root_or_own(user: u32) -> bool {
    user == 0 || user == rustix::process::geteuid().as_raw()
}

/// Returns the real path of a file that only root and the user of this program can change, replace, or lead elsewhere.
///
/// # Errors
///
/// The error says who else can change the file, as a message for people.
fn trusted(path: &Path) -> Result<PathBuf, String> {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        check_directory(&path).map_err(refusal)?;
        let failed = |error: io::Error| cannot(&path, &error);
        let file = path.symlink_metadata().map_err(failed)?;
        if file.is_symlink() {
            let target = fs::read_link(&path).map_err(failed)?;
            path.pop();
            path.push(target);
        } else if !file.is_file() {
            return Err(format!("{} is not a file", path.display()));
        } else if is_root_or_own(file.uid()) && file.mode() & WRITABLE == 0 {
            return fs::canonicalize(&path).map_err(failed);
        } else {
            return Err(others_can_change(&path));
        }
    }
    Err(format!("too many links lead to {}", path.display()))
}

fn refusal(error: UnsafeDirectory) -> String {
    match error {
        UnsafeDirectory::Writable { path, .. } => others_can_change(&path),
        UnsafeDirectory::System { path, source } => cannot(&path, &source),
    }
}

fn others_can_change(path: &Path) -> String {
    format!("other users can change {}", path.display())
}

fn cannot(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Finds a trusted program that administrators run.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(USUAL.map(PathBuf::from));
    find_in(places, name)
}

fn find_in(places: impl Iterator<Item = PathBuf>, name: &str) -> Option<PathBuf> {
    // A relative place is one of the current directory, which may be anyone's.
    let mut places = places.filter(|place| place.is_absolute());
    places.find_map(|place| trusted(&place.join(name)).ok())
}

/// Returns the program of an smbd that is attached to the device. `pid` is its process, as the device reports it.
///
/// # Errors
///
/// The error says why the program is not to be run, as a message for people.
pub(crate) fn attached(root: &Path, pid: i32) -> Result<PathBuf, String> {
    if pid <= 0 {
        return Err("it runs in a container that cannot be seen from here".to_owned());
    }
    let process = root.join(format!("proc/{pid}"));
    // This directory belongs to the effective user of the process, whatever the process does to hide itself.
    let directory = process.metadata();
    let user = directory.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            format!("process {pid} cannot be seen from here: it runs outside of this container, or has ended")
        }
        _ => cannot(&process, &error),
    });
    let user = user?.uid();
    if !is_root_or_own(user) {
        return Err(format!("user {user}, not root, runs process {pid}"));
    }
    let link = process.join("exe");
    let path = fs::read_link(&link).map_err(|error| cannot(&link, &error))?;
    // The link leads to the program itself, and its text is the program's path in the namespace of the process.
    let file = |path: &Path| path.metadata().ok().map(|file| (file.dev(), file.ino()));
    if file(&link).is_none() || file(&link) != file(&path) {
        return Err(format!(
            "process {pid} runs in a container, or its program {} has been replaced since it started",
            path.display()
        ));
    }
    // Root runs other programs, too, to which the same options may mean something else.
    if path.file_name() != Some(OsStr::new("smbd")) {
        return Err(format!("{} is not called smbd", path.display()));
    }
    trusted(&path)
}

/// Returns the configuration file that an attached smbd was given on its command line, if it was given one.
///
/// # Errors
///
/// The error says why the file is not to be read, as a message for people.
pub(crate) fn config_of(root: &Path, pid: i32) -> Result<Option<PathBuf>, String> {
    let process = root.join(format!("proc/{pid}"));
    let Some(mut config) = named_config(&command_line(root, pid)) else {
        return Ok(None);
    };
    if config.is_relative() {
        let link = process.join("cwd");
        let directory = fs::read_link(&link).map_err(|error| cannot(&link, &error))?;
        config = directory.join(config);
    }
    trusted(&config).map(Some)
}

/// Returns the parameters that an attached smbd was given on its command line, as testparm and smbstatus take them:
/// `--option=smb direct=yes`. They go before those of the configuration file.
pub(crate) fn options_of(root: &Path, pid: i32) -> Vec<OsString> {
    let line = command_line(root, pid);
    let mut words = line.split(|byte| *byte == 0);
    let mut options = Vec::new();
    while let Some(word) = words.next() {
        let option = match word {
            b"--option" => words.next(),
            word => word.strip_prefix(b"--option="),
        };
        if let Some(option) = option {
            options.push(OsString::from_vec([b"--option=", option].concat()));
        }
    }
    options
}

/// Returns the path by which an attached smbd was started, if it is absolute. In a build tree it is a link to the
/// program, and the other programs have links beside it.
pub(crate) fn started_as(root: &Path, pid: i32) -> Option<PathBuf> {
    let line = command_line(root, pid);
    let first = line.split(|byte| *byte == 0).next()?;
    let path = PathBuf::from(OsStr::from_bytes(first));
    path.is_absolute().then_some(path)
}

/// Returns the words of a process's command line, each with a zero byte at its end.
fn command_line(root: &Path, pid: i32) -> Vec<u8> {
    fs::read(root.join(format!("proc/{pid}/cmdline"))).unwrap_or_default()
}

/// Returns the configuration file in the command line of an smbd.
fn named_config(line: &[u8]) -> Option<PathBuf> {
    let path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
    let mut words = line.split(|byte| *byte == 0);
    while let Some(word) = words.next() {
        if word == b"-s" || word == b"--configfile" {
            return words.next().map(path);
        }
        if let Some(value) = word.strip_prefix(b"--configfile=") {
            return Some(path(value));
        }
        if let Some(value) = word.strip_prefix(b"-s") {
            return Some(path(value.strip_prefix(b"=").unwrap_or(value)));
        }
    }
    None
}

/// Returns the program of Samba with this name, such as testparm, that belongs to an smbd, or else the first in the path.
/// `started_as` is another path of this smbd.
///
/// # Errors
///
/// The error says why the program is not to be run, as a message for people.
pub(crate) fn companion(
    name: &str,
    smbd: &Path,
    started_as: Option<&Path>,
    is_named: bool,
) -> Result<Option<PathBuf>, String> {
    let beside = |smbd: &Path| {
        let prefix = smbd.ancestors().nth(2);
        let bin = prefix.map(|prefix| prefix.join("bin").join(name));
        [Some(smbd.with_file_name(name)), bin]
    };
    let smbds = [Some(smbd), started_as].into_iter().flatten();
    let mut places = smbds.flat_map(beside).flatten();
    match places.find(|path| path.is_file()) {
        Some(path) if is_named && have_one_owner(smbd, &path) => Ok(Some(path)),
        Some(path) => trusted(&path).map(Some),
        None => Ok(find(name)),
    }
}

/// Returns whether a file, and the link that leads to it if there is one, belong to the owner of a program.
fn have_one_owner(program: &Path, file: &Path) -> bool {
    let owner = |file: io::Result<Metadata>| file.ok().map(|file| file.uid());
    let owners = [file.metadata(), file.symlink_metadata()].map(owner);
    let wanted = owner(program.metadata());
    wanted.is_some() && owners.iter().all(|owner| *owner == wanted)
}

/// Returns what a program prints, or `None` if it fails.
///
/// # Errors
///
/// The program could not be run, or took too long; the error is a message for people.
pub(crate) fn output(
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
) -> Result<Option<String>, String> {
    output_within(TIME, program, arguments)
}

fn output_within(
    limit: Duration,
    program: &Path,
    arguments: &[impl AsRef<OsStr>],
) -> Result<Option<String>, String> {
    let end = Instant::now() + limit;
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", PATH);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let failed = |error: io::Error| cannot(program, &error);
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let (sender, receiver) = mpsc::channel();
    // This thread ends with the program, and so perhaps after the doctor.
    let mut pipe = child.stdout.take();
    thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(pipe) = &mut pipe {
            let _ = pipe.read_to_end(&mut text);
        }
        let _ = sender.send(text);
    });
    let text = receiver.recv_timeout(limit).ok();
    loop {
        match (child.try_wait().map_err(failed)?, &text) {
            (Some(status), Some(text)) => {
                let text = String::from_utf8_lossy(text).into_owned();
                return Ok(status.success().then_some(text));
            }
            (None, Some(_)) if Instant::now() < end => thread::sleep(PAUSE),
            _ => {
                // Do not wait for its end: a killed program that waits for a disk ends only after that wait.
                let _ = child.kill();
                // But `top`, which goes on, must not collect zombies.
                thread::spawn(move || child.wait());
                return Err(format!(
                    "{} did not end within {limit:?}",
                    program.display()
                ));
            }
        }
    }
}
