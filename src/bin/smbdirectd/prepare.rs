// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks what has to be right before the device starts: descriptors, the control socket's directory, the addresses.
//! Each message says what is wrong and how to cure it.

use std::fs::DirBuilder;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use smbdirect::broker::{self, Config, Kept, Listen};
use smbdirect::fabric::{FabricKind, verbs};
use socket2::{Domain, Socket, Type};
use tracing::{info, warn};

/// Number of descriptors besides those of connections and processes: for listeners, threads and the log.
const OTHERS: u64 = 256;
/// Number of descriptors of an attached process, besides a doorbell for each reactor: its socket, its pidfd, and memory
/// files that are being handed over.
const OF_PROCESS: u64 = 4;
/// Number of memory files of a process, besides those of each reactor, if connections are kept at a restart; and of
/// each reactor.
const FILES_OF_PROCESS: u64 = 4;
const FILES_OF_REACTOR: u64 = 3;

/// Raises the limit of open files as far as this process may, and warns if it is too low.
pub(crate) fn descriptors(config: &Config) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!("cannot raise the limit of open files: {error}");
    }
    let (connections, workers) = (config.max_connections as u64, config.max_workers as u64);
    let reactors = config.reactors as u64;
    let unnegotiated = config.max_unnegotiated as u64 * reactors;
    let files = match config.keep_connections {
        true => FILES_OF_PROCESS + FILES_OF_REACTOR * reactors,
        false => 0,
    };
    let of_process = OF_PROCESS + reactors + files;
    let wanted = connections + unnegotiated + of_process * workers + OTHERS;
    // `None` means no limit.
    if let Some(limit) = getrlimit(Resource::Nofile)
        .current
        .filter(|limit| *limit < wanted)
    {
        warn!(
            "the limit of open files, {limit}, is too low for max_connections = {connections} and \
             max_workers = {workers}: about {wanted} are needed (LimitNOFILE= of the unit, \
             ulimit -Hn)"
        );
    }
}

/// Raises the limit of locked memory as far as this process may, if RDMA devices are used, and checks that it is not
/// too low.
///
/// # Errors
///
/// The error is a message for people: the limit is too low for a single connection.
pub(crate) fn locked_memory(config: &Config) -> Result<(), String> {
    let has_devices = config
        .listen
        .iter()
        .any(|listen| listen.fabric == Some(FabricKind::Verbs));
    if !has_devices || may_lock_memory() {
        return Ok(());
    }
    let maximum = getrlimit(Resource::Memlock).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Memlock, raised) {
        warn!("cannot raise the limit of locked memory: {error}");
    }
    // `None` means no limit.
    let Some(limit) = getrlimit(Resource::Memlock).current else {
        return Ok(());
    };
    let (one, all) = (config.least_memory(), config.memory_limit);
    let what = format!(
        "the limit of locked memory, {limit} bytes, is too low for RDMA devices, which lock all memory of each \
         connection"
    );
    let advice = "LimitMEMLOCK=infinity in the unit, ulimit -l unlimited, or fabric = \"software\"";
    if limit < one {
        return Err(format!(
            "{what}: one connection needs about {one} bytes ({advice})"
        ));
    }
    if limit < all {
        warn!("{what}: about {all} bytes are needed if each process has one connection ({advice})");
    }
    Ok(())
}

/// Returns whether this process is exempt from the limit of locked memory (`CAP_IPC_LOCK`).
fn may_lock_memory() -> bool {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
    effective.is_some_and(|effective| effective & CAP_IPC_LOCK != 0)
}

/// Makes the directory of the control socket if it is missing: for this user only, unless a group may ask for the
/// status there.
///
/// # Errors
///
/// The error says what is wrong, as a message for people.
pub(crate) fn control_directory(config: &Config) -> Result<(), String> {
    // The path is absolute and so has a parent, except for `/`, at which `bind` fails.
    let Some(directory) = config.control.parent() else {
        return Ok(());
    };
    let mode = if config.status_group.is_empty() {
        0o700
    } else {
        0o755
    };
    match DirBuilder::new().mode(mode).create(directory) {
        Ok(()) => {
            info!("made {}", directory.display());
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        // On a read-only file system the directory may exist all the same.
        Err(_) if directory.is_dir() => Ok(()),
        Err(error) => {
            let hint = match error.kind() {
                ErrorKind::NotFound => "only the last directory is made; its parent has to exist",
                _ => "run as root, or give a path of your own with --control",
            };
            let directory = directory.display();
            Err(format!(
                "cannot make {directory} for the control socket: {error}; {hint}"
            ))
        }
    }
}

/// Checks that the directory of `metrics.socket` exists. That of the control socket may be missing, because the service
/// manager or [`control_directory`] makes it.
///
/// # Errors
///
/// The error says what is wrong, as a message for people.
pub(crate) fn metrics_directory(config: &Config) -> Result<(), String> {
    let Some(path) = &config.metrics_socket else {
        return Ok(());
    };
    let directory = path.parent();
    let Some(directory) = directory.filter(|it| config.control.parent() != Some(*it)) else {
        return Ok(());
    };
    let why = match directory.metadata() {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => "is not a directory",
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => "does not exist",
            // The user of this process may not look there, but the user of the daemon may.
            _ => return Ok(()),
        },
    };
    let (path, directory) = (path.display(), directory.display());
    Err(format!(
        "metrics.socket is \"{path}\", and must be in an existing directory, such as /run/smbdirect: {directory} {why}"
    ))
}

/// Returns the message about a `status_group` of which the user of this process is not a member.
pub(crate) fn lacks_group(group: &str) -> String {
    let user = own_user();
    format!(
        "status_group is \"{group}\", but user {user} is not a member of that group: smbdirectd does not start as a \
         user that is neither a member (usermod -aG) nor root"
    )
}

/// Returns the name of the user of this process, or the user's number if there is no name.
pub(crate) fn own_user() -> String {
    let user = nix::unistd::geteuid();
    let found = nix::unistd::User::from_uid(user).ok().flatten();
    found.map_or_else(|| user.to_string(), |found| found.name)
}

/// Leaves out the default IPv6 address if the system has no IPv6, and checks that no other process listens: the
/// listeners of the reactors share their ports, so they would also share those of another daemon. The broker waits for
/// addresses that this machine does not have yet. Closes the listeners in `kept` that serve none of the addresses.
///
/// # Errors
///
/// The error says what is wrong, as a message for people.
pub(crate) fn addresses(config: &mut Config, mut kept: Option<&mut Kept>) -> Result<(), String> {
    let is_default = config.listen == Config::default().listen;
    config.place().map_err(|error| error.to_string())?;
    if let Some(kept) = kept.as_mut() {
        let addresses: Vec<SocketAddr> = config.listen.iter().map(|at| at.address).collect();
        kept.close_listeners_except(&addresses);
    }
    let kept = kept.as_deref();
    let mut without_ipv6 = Vec::new();
    let software = config.listen.iter();
    let software = software.filter(|listen| listen.fabric != Some(FabricKind::Verbs));
    // A listener that was passed on to this process is not one of another process.
    let is_own = |listen: &&Listen| kept.is_some_and(|kept| kept.listens_at(listen.address));
    let software = software.filter(|listen| !is_own(listen));
    for Listen { address, .. } in software {
        match try_address(*address) {
            Err(error) if is_default && address.is_ipv6() && lacks_family(&error) => {
                info!("the system has no IPv6: not listening on {address}");
                without_ipv6.push(*address);
            }
            Err(error) => return Err(not_listening(*address, &error)),
            Ok(()) => {}
        }
    }
    config
        .listen
        .retain(|listen| !without_ipv6.contains(&listen.address));
    Ok(())
}

/// Logs which RDMA devices of this machine are not used, and why: otherwise software would silently serve clients that
/// a device could serve.
pub(crate) fn unused_devices(config: &Config) {
    let names = broker::unused_devices(config);
    if names.is_empty() {
        return;
    }
    let what = format!("RDMA devices not in use: {}", names.join(", "));
    match (config.fabric, verbs::check()) {
        (Some(FabricKind::Software), _) => info!("{what}; fabric = \"software\""),
        (_, Err(error)) => warn!("{what}; {error}"),
        (_, Ok(())) => warn!(
            "{what}; no address in \"listen\" belongs to them, or none did when smbdirectd started (rdma link, ip \
             address)"
        ),
    }
}

/// Checks that no other process listens on an address, as [`addresses`] does for all.
///
/// # Errors
///
/// The error says what is wrong, as a message for people.
pub(crate) fn address(address: SocketAddr) -> Result<(), String> {
    try_address(address).map_err(|error| not_listening(address, &error))
}

/// Binds a socket to an address, listens on it, and closes it again.
fn try_address(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // As in the broker, the machine need not have the address yet.
    match address.ip() {
        ip if ip.is_unspecified() => {}
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => socket.set_freebind_v6(true)?,
    }
    // Connections of an earlier daemon may still linger.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    // With reuse of addresses, two sockets may bind, but only one may listen.
    socket.listen(1)
}

/// Returns the message about an address of `listen` that this machine does not have.
pub(crate) fn waits_for(address: SocketAddr) -> String {
    format!(
        "\"listen\" contains {address}, but this machine does not have that address now (ip address): smbdirectd \
         starts without it, and serves clients there once this machine has it"
    )
}

fn lacks_family(error: &io::Error) -> bool {
    let code = error
        .raw_os_error()
        .map(rustix::io::Errno::from_raw_os_error);
    error.kind() == ErrorKind::AddrNotAvailable || code == Some(rustix::io::Errno::AFNOSUPPORT)
}

fn not_listening(address: SocketAddr, error: &io::Error) -> String {
    let hint = match error.kind() {
        ErrorKind::AddrInUse => "is another smbdirectd or ksmbd running? (ss -ltnp)",
        ErrorKind::PermissionDenied => {
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; SMB Direct over iWARP uses 5445"
        }
        _ if lacks_family(error) => "the system does not support this kind of address",
        _ => "give other addresses with --listen",
    };
    format!("cannot listen on {address}: {error}; {hint}")
}
