// SPDX-License-Identifier: GPL-2.0-or-later

//! Gathers the facts for the doctor from the device, from /proc and /sys, and from programs
//! ([`programs`]): testparm, smbd and those of firewalls.
//!
//! A fact that cannot be read is left out, and the check that needs it says so. Nothing is changed, and only the
//! connections of [probe](super::probe) reach the network.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{self, Path, PathBuf};
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
use super::programs;

/// Maximum number of addresses to try; each may take some seconds.
const MOST_PROBES: usize = 8;
/// How long to watch the loss counters.
const LOSS_TIME: Duration = Duration::from_secs(1);

/// The counters of an RDMA device that grow when the network loses something, or a receiver has no buffer. Their names
/// differ between vendors; a device has some of them.
const LOSSES: [&str; 6] = [
    "out_of_sequence",
    "packet_seq_err",
    "local_ack_timeout_err",
    "rnr_nak_retry_err",
    "out_of_buffer",
    "rx_icrc_encapsulated",
];

/// Gathers all facts that this process can find out.
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
        ..Facts::default()
    };
    facts.firewall = firewall(&mut facts.unknown);
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
    samba(root, options, &mut facts);
    let before: Vec<_> = facts.ports.iter().map(|port| losses(root, port)).collect();
    // Without smbd no address would answer; another check reports that.
    if facts.device.as_ref().and_then(listener).is_some() {
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

/// Returns the device, and the process that serves it, if there is such a process and it is visible from here.
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

/// Returns the process of the parent smbd, if it is attached; 0 if the device cannot see that process.
fn listener(device: &Device) -> Option<i32> {
    device.listener().map(|it| it.pid)
}

/// Examines smbd and smb.conf: those that the options name, or those of the smbd that is attached, or, if no smbd is
/// attached, the first smbd in the path. If one is attached, another smbd would say nothing about this server.
fn samba(root: &Path, options: &Options, facts: &mut Facts) {
    let listener = facts.device.as_ref().and_then(listener);
    let attached = listener.map(|pid| programs::attached(root, pid));
    let absolute = |named: &Path| path::absolute(named).map(Some).map_err(|e| e.to_string());
    let (config, given) = match (&options.smb_conf, listener, &attached) {
        (Some(named), _, _) => (absolute(named), Vec::new()),
        (None, Some(pid), Some(Ok(_))) => (
            programs::config_of(root, pid),
            programs::options_of(root, pid),
        ),
        _ => (Ok(None), Vec::new()),
    };
    let smbd = match (&options.smbd, attached) {
        (Some(named), _) => absolute(named),
        (None, Some(attached)) => attached.map(Some),
        (None, None) => Ok(programs::find("smbd")),
    };
    match smbd.and_then(|path| path.map(examine).transpose()) {
        Ok(Some((path, smbd))) => {
            facts.smbd = Some(smbd);
            let is_named = options.smbd.is_some();
            let of_attached = listener.filter(|_| !is_named);
            let started_as = of_attached.and_then(|pid| programs::started_as(root, pid));
            let read = |config: Option<PathBuf>| {
                let testparm =
                    programs::companion("testparm", &path, started_as.as_deref(), is_named)?;
                let testparm = testparm.ok_or_else(|| {
                    format!(
                        "no testparm was found beside {} or in the path",
                        path.display()
                    )
                })?;
                parameters(&testparm, given, config)
            };
            match config.and_then(read) {
                Ok(samba) => facts.samba = Some(samba),
                Err(reason) => drop(facts.unknown.insert("smb.conf", reason)),
            }
        }
        Ok(None) => {}
        Err(reason) => drop(facts.unknown.insert("smbd", reason)),
    }
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

/// Asks an smbd what it is.
fn examine(path: PathBuf) -> Result<(PathBuf, Smbd), String> {
    let ask = |option: &str| {
        let said = programs::output(&path, &[option])?;
        said.ok_or_else(|| format!("{} {option} failed", path.display()))
    };
    let (version, built_with) = (ask("--version")?, ask("-b")?);
    let smbd = Smbd {
        path: path.display().to_string(),
        // The text is "Version 4.22.11".
        version: version.trim().replace("Version ", ""),
        has_smb_direct: built_with.contains("WITH_SMBDIRECT"),
    };
    Ok((path, smbd))
}

/// Returns the parameters of `[global]` as testparm prints them. `given` are options that go before the parameters of
/// the configuration file.
fn parameters(
    testparm: &Path,
    given: Vec<OsString>,
    config: Option<PathBuf>,
) -> Result<BTreeMap<String, String>, String> {
    let usual = ["--suppress-prompt", "--verbose"].map(OsString::from);
    let mut arguments: Vec<OsString> = usual.into_iter().chain(given).collect();
    let mut command = format!("{} -s", testparm.display());
    if let Some(config) = config {
        command = format!("{command} {}", config.display());
        arguments.push(config.into_os_string());
    }
    let text = programs::output(testparm, &arguments)?;
    let text = text.ok_or_else(|| format!("testparm failed: \"{command}\" says why"))?;
    Ok(global(&text))
}

/// Returns the section `[global]` of testparm's output.
fn global(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().skip_while(|line| line.trim() != "[global]");
    let lines = lines.skip(1).take_while(|line| !line.starts_with('['));
    let pairs = lines.filter_map(|line| line.split_once(" = ").or_else(|| line.split_once(" =")));
    let own = |(name, value): (&str, &str)| (name.trim().to_owned(), value.trim().to_owned());
    pairs.map(own).collect()
}

fn firewall(unknown: &mut BTreeMap<&'static str, String>) -> Firewall {
    let mut ask = |name: &str, arguments: &[&str]| {
        let output = programs::output(&programs::find(name)?, arguments);
        output.unwrap_or_else(|reason| {
            unknown.insert("firewall", reason);
            None
        })
    };
    let firewall = Firewall {
        ufw: ask("ufw", &["status", "verbose"]),
        firewalld: ask("firewall-cmd", &["--list-all-zones"]),
        default_zone: ask("firewall-cmd", &["--get-default-zone"]),
        nft: ask("nft", &["list", "ruleset"]),
    };
    if firewall.nft.is_none() && programs::find("nft").is_some() {
        let reason = || "nft failed: it needs root and, in a container, CAP_NET_ADMIN".to_owned();
        unknown.entry("firewall").or_insert_with(reason);
    }
    firewall
}

/// Returns the names in a directory, sorted.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Returns the content of a file that has one line; an empty string if it cannot be read.
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
                // Only rxe names the interface on which it was made.
                is_rxe: devices.join(&device).join("parent").exists(),
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
