// SPDX-License-Identifier: GPL-2.0-or-later

//! Gathers the facts for the doctor from the device, from /proc and /sys, and from testparm, smbd and the firewalls.
//!
//! A fact that cannot be read is left out, and the check that needs it says so. Nothing is changed, and only the
//! connections of [probe](super::probe) reach the network.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use smbdirect::broker::PORT;
use smbdirect::device::chardev::is_char_device;
use smbdirect::device::{Status, uapi};
use smbdirect::fabric::{FabricKind, verbs};

use super::super::status::Device;
use super::super::{ask_process, read};
use super::Options;
use super::facts::{Facts, Firewall, Interface, Kind, Port, Probe, Silence, Smbd};
use super::probe::probe;

/// Maximum number of addresses to try; each may take some seconds.
const MOST_PROBES: usize = 8;
/// How long to watch the loss counters.
const LOSS_TIME: Duration = Duration::from_secs(1);

/// The counters of an RDMA device that grow when the network loses something, or a receiver has no buffer. Their names
/// differ between makers; a device has some of them.
const LOSSES: [&str; 6] = [
    "out_of_sequence",
    "packet_seq_err",
    "local_ack_timeout_err",
    "rnr_nak_retry_err",
    "out_of_buffer",
    "rx_icrc_encapsulated",
];

/// Gathers all facts that can be found out.
pub(super) fn gather(options: &Options) -> Facts {
    let root = Path::new("/");
    let mut facts = Facts {
        control: options.control.display().to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        is_root: rustix::process::geteuid().is_root(),
        is_kernel: is_char_device(&options.control) || options.control == Path::new(uapi::PATH),
        ports: ports(root),
        interfaces: interfaces(root),
        port_is_taken: listens(root, PORT),
        has_ksmbd: root.join("sys/class/ksmbd-control").exists(),
        firewall: firewall(),
        ..Facts::default()
    };
    if !facts.ports.is_empty() {
        facts.no_rdma = verbs::check().err().map(|error| error.to_string());
    }
    match ask(&options.control) {
        Ok((device, process)) => {
            facts.locked_memory = process.and_then(|pid| locked_memory(root, pid));
            facts.device = Some(device);
        }
        Err(silence) => facts.silence = Some(silence),
    }
    let listener = facts.device.as_ref().and_then(listener);
    let smbd = options.smbd.clone();
    let smbd = smbd.or_else(|| fs::read_link(format!("/proc/{}/exe", listener?)).ok());
    let smbd = smbd.or_else(|| find("smbd"));
    if let Some(path) = smbd {
        let config = options.smb_conf.clone();
        let config = config.or_else(|| config_of(root, listener?));
        facts.samba = parameters(&path, config.as_deref());
        facts.smbd = program(&path);
    }
    let before: Vec<_> = facts.ports.iter().map(|port| losses(root, port)).collect();
    // Without smbd no address would answer; another check reports that.
    let has_smbd = |device: &Device| device.processes.iter().any(|it| it.role == "listener");
    if facts.device.as_ref().is_some_and(has_smbd) {
        match facts.no_rdma.clone().filter(|_| facts.is_kernel) {
            Some(reason) => drop(facts.unknown.insert("end to end", reason)),
            None => facts.probes = probes(facts.device.as_ref()),
        }
    }
    if !facts.ports.is_empty() {
        std::thread::sleep(LOSS_TIME);
    }
    for (port, before) in facts.ports.iter_mut().zip(before) {
        port.losses = growth(&before, &losses(root, port));
    }
    facts
}

/// Returns the device, and the process that serves it, if there is one, and it is visible from here.
fn ask(control: &Path) -> Result<(Device, Option<u32>), Silence> {
    let (json, process) = ask_process(control).map_err(|(status, reason)| Silence {
        reason,
        is_absent: status == Status::NoDevice,
    })?;
    let device = read(&json).map_err(|error| Silence {
        reason: format!("cannot parse its status: {error}"),
        is_absent: false,
    })?;
    Ok((device, process))
}

/// Returns the process of smbd's parent, if this process can see it.
fn listener(device: &Device) -> Option<i32> {
    let listener = device.processes.iter().find(|it| it.role == "listener")?;
    (listener.pid > 0).then_some(listener.pid)
}

fn probes(device: Option<&Device>) -> Vec<Probe> {
    let addresses = device.into_iter().flat_map(|device| &device.addresses);
    let addresses = addresses.take(MOST_PROBES).filter_map(|at| {
        let address: SocketAddr = at.address.parse().ok()?;
        let kind = match at.fabric.as_str() {
            "verbs" => FabricKind::Verbs,
            _ => FabricKind::Software,
        };
        Some(Probe {
            address,
            fabric: at.fabric.clone(),
            result: probe(address, kind),
        })
    });
    addresses.collect()
}

/// Finds a program that administrators run.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/samba/sbin"].map(PathBuf::from);
    let places = std::env::split_paths(&path).chain(usual);
    let mut found = places.map(|place| place.join(name));
    found.find(|path| path.is_file())
}

/// Returns what a program prints, if it succeeds.
fn output(program: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    let output = command.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}

fn program(path: &Path) -> Option<Smbd> {
    let version = output(path, &["--version"])?;
    Some(Smbd {
        path: path.display().to_string(),
        // The text is "Version 4.22.11".
        version: version.trim().replace("Version ", ""),
        has_smb_direct: output(path, &["-b"])?.contains("WITH_SMBDIRECT"),
    })
}

/// Returns the configuration file that a running smbd was given.
fn config_of(root: &Path, pid: i32) -> Option<PathBuf> {
    let line = fs::read(root.join(format!("proc/{pid}/cmdline"))).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    let mut words = line.split('\0');
    while let Some(word) = words.next() {
        if let Some(path) = word.strip_prefix("--configfile=") {
            return Some(path.into());
        }
        if word == "-s" || word == "--configfile" {
            return words.next().map(PathBuf::from);
        }
    }
    None
}

/// Returns the parameters of `[global]`, from the testparm that belongs to this smbd.
fn parameters(smbd: &Path, config: Option<&Path>) -> Option<BTreeMap<String, String>> {
    let beside = smbd.parent().map(|directory| directory.join("testparm"));
    let bin = smbd
        .ancestors()
        .nth(2)
        .map(|prefix| prefix.join("bin/testparm"));
    let mut places = [beside, bin].into_iter().flatten();
    let testparm = places
        .find(|path| path.is_file())
        .or_else(|| find("testparm"))?;
    let config = config.map(|path| path.display().to_string());
    let arguments = ["--suppress-prompt", "--verbose"].into_iter();
    let arguments: Vec<&str> = arguments.chain(config.as_deref()).collect();
    output(&testparm, &arguments).map(|text| global(&text))
}

/// Returns the section `[global]` of testparm's output.
fn global(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().skip_while(|line| line.trim() != "[global]");
    let lines = lines.skip(1).take_while(|line| !line.starts_with('['));
    let pairs = lines.filter_map(|line| line.split_once(" = ").or_else(|| line.split_once(" =")));
    let own = |(name, value): (&str, &str)| (name.trim().to_owned(), value.trim().to_owned());
    pairs.map(own).collect()
}

fn firewall() -> Firewall {
    let ask = |name: &str, arguments: &[&str]| output(&find(name)?, arguments);
    Firewall {
        ufw: ask("ufw", &["status", "verbose"]),
        firewalld: ask("firewall-cmd", &["--list-all"]),
        nft: ask("nft", &["list", "ruleset"]),
    }
}

/// Returns the names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Returns the content of a file of one line; empty if it cannot be read.
fn line(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

/// Returns the ports of all RDMA devices.
fn ports(root: &Path) -> Vec<Port> {
    let devices = root.join("sys/class/infiniband");
    let mut found = Vec::new();
    for device in names(&devices) {
        let ports = devices.join(&device).join("ports");
        for number in names(&ports) {
            let port = ports.join(&number);
            // The text is "4: ACTIVE".
            let state = line(&port.join("state"));
            let state = state.rsplit(' ').next().unwrap_or_default().to_owned();
            let is_iwarp = line(&devices.join(&device).join("node_type")).contains("RNIC");
            let interfaces = names(&devices.join(&device).join("device/net"));
            let of_gids = port.join("gid_attrs/ndevs/0");
            let interface = Some(line(&of_gids)).filter(|name| !name.is_empty());
            found.push(Port {
                state,
                kind: match line(&port.join("link_layer")).as_str() {
                    _ if is_iwarp => Kind::Iwarp,
                    "InfiniBand" => Kind::InfiniBand,
                    _ => Kind::Roce,
                },
                interface: interface.or_else(|| interfaces.into_iter().next()),
                roce_v2: roce_v2(&port),
                number: number.parse().unwrap_or_default(),
                device: device.clone(),
                losses: BTreeMap::new(),
            });
        }
    }
    found
}

/// Returns the addresses for which a port has a RoCE v2 GID.
fn roce_v2(port: &Path) -> Vec<IpAddr> {
    let types = port.join("gid_attrs/types");
    let found = names(&types).into_iter().filter_map(|index| {
        if line(&types.join(&index)) != "RoCE v2" {
            return None;
        }
        let gid: Ipv6Addr = line(&port.join("gids").join(&index)).parse().ok()?;
        Some(gid.to_ipv4_mapped().map_or(IpAddr::V6(gid), IpAddr::V4))
    });
    found.collect()
}

fn losses(root: &Path, port: &Port) -> BTreeMap<String, u64> {
    let path = format!(
        "sys/class/infiniband/{}/ports/{}/hw_counters",
        port.device, port.number
    );
    let path = root.join(path);
    let counters = LOSSES.iter().filter_map(|name| {
        let count = line(&path.join(name)).parse().ok()?;
        Some(((*name).to_owned(), count))
    });
    counters.collect()
}

/// Returns the counters that grew, and how much.
fn growth(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let grown = after.iter().filter_map(|(name, count)| {
        let more = count.saturating_sub(*before.get(name)?);
        (more > 0).then(|| (name.clone(), more))
    });
    grown.collect()
}

fn interfaces(root: &Path) -> BTreeMap<String, Interface> {
    let directory = root.join("sys/class/net");
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for name in names(&directory) {
        let path = directory.join(&name);
        let master = fs::read_link(path.join("master")).ok();
        let master = master.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
        let interface = Interface {
            addresses: Vec::new(),
            is_bridge: path.join("bridge").exists(),
            master,
            has_speed: line(&path.join("speed"))
                .parse()
                .is_ok_and(|speed: i64| speed > 0),
        };
        found.insert(name, interface);
    }
    for entry in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = entry.address else {
            continue;
        };
        let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(address), _) => IpAddr::V4(address.ip()),
            (None, Some(address)) => IpAddr::V6(address.ip()),
            (None, None) => continue,
        };
        let name = entry.interface_name.split(':').next().unwrap_or_default();
        if let Some(interface) = found.get_mut(name) {
            interface.addresses.push(ip);
        }
    }
    found
}

/// Returns whether a process listens on a TCP port of this machine.
fn listens(root: &Path, port: u16) -> bool {
    const LISTEN: &str = "0A";
    ["proc/net/tcp", "proc/net/tcp6"].into_iter().any(|name| {
        let text = fs::read_to_string(root.join(name)).unwrap_or_default();
        text.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, state) = (words.next().unwrap_or_default(), words.nth(1));
            let of = local.rsplit(':').next().unwrap_or_default();
            u16::from_str_radix(of, 16) == Ok(port) && state == Some(LISTEN)
        })
    })
}

/// Returns the number of bytes that a process may lock; `None` if there is no limit for it, or it cannot be read.
fn locked_memory(root: &Path, pid: u32) -> Option<u64> {
    const CAP_IPC_LOCK: u64 = 1 << 14;
    let process = root.join(format!("proc/{pid}"));
    let status = fs::read_to_string(process.join("status")).ok()?;
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    if u64::from_str_radix(effective.trim(), 16).ok()? & CAP_IPC_LOCK != 0 {
        return None;
    }
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests;
