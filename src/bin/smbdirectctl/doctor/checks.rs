// SPDX-License-Identifier: GPL-2.0-or-later

//! Judges the facts: each check says that all is well, or what is wrong and what to do.
//!
//! A check whose facts are missing says that it was skipped, or says nothing if an earlier finding is the reason.
//!
//! The file is long because it has nearly all checks; none needs the others.

mod firewall;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use self::firewall::firewall;
use super::super::printable;
use super::super::status::{Address, Client, Connection, Device, WITHOUT_TRANSFORMS};
use super::facts::{Facts, Kind, Port, Smbd};
use super::{Finding, Verdict};

/// A limit that is used by this many percent or more deserves a warning.
const NEARLY_ALL: u64 = 90;

/// The findings so far.
#[derive(Debug, Default)]
pub(super) struct Findings(pub(super) Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &'static str, result: Verdict, message: String, cure: Option<&str>) {
        self.0.push(Finding {
            check,
            result,
            // The message may name a file of another user, who chose its name.
            message: printable(&message),
            cure: cure.map(str::to_owned),
        });
    }

    pub(super) fn ok(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Verdict::Ok, message.into(), None);
    }

    pub(super) fn skip(&mut self, check: &'static str, message: impl Into<String>) {
        self.add(check, Verdict::Skipped, message.into(), None);
    }

    pub(super) fn warn(&mut self, check: &'static str, message: impl Into<String>, cure: &str) {
        self.add(check, Verdict::Warn, message.into(), Some(cure));
    }

    pub(super) fn fail(&mut self, check: &'static str, message: impl Into<String>, cure: &str) {
        self.add(check, Verdict::Fail, message.into(), Some(cure));
    }
}

/// Runs all checks on this server.
pub(super) fn server(facts: &Facts) -> Vec<Finding> {
    let mut found = Findings::default();
    device(facts, &mut found);
    let mut of_conf = Findings::default();
    smb_conf(facts, &mut of_conf);
    smbd(facts, &of_conf, &mut found);
    found.0.append(&mut of_conf.0);
    addresses(facts, &mut found);
    rdma(facts, &mut found);
    losses(facts, &mut found);
    port(facts, &mut found);
    firewall(facts, &mut found);
    limits(facts, &mut found);
    end_to_end(facts, &mut found);
    clients(facts, &mut found);
    found.0
}

/// Checks that the daemon runs, answers, and has this program's release.
fn device(facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "device";
    let control = &facts.control;
    let name = match facts.is_kernel {
        true => "the kernel's device",
        false => "smbdirectd",
    };
    let Some(device) = &facts.device else {
        let silence = facts.silence.as_ref();
        let reason = silence.map_or("", |silence| silence.reason.as_str());
        let message = format!("{name} does not answer on {control}: {reason}");
        if silence.is_some_and(|silence| !silence.is_absent) {
            let cure = match facts.is_root {
                true => log(facts),
                false => "run this as root",
            };
            return found.fail(CHECK, message, cure);
        }
        let cure = match facts.port_is_taken {
            _ if facts.is_kernel => {
                "modprobe smbdirectk; journalctl -k -g smbdirect says why it does not work"
            }
            true => {
                "another program has TCP port 5445 (ss -ltnp 'sport = :5445'): stop it, then \
                     systemctl start smbdirectd; if it still does not run, see journalctl -u smbdirectd"
            }
            false => {
                "systemctl start smbdirectd; journalctl -u smbdirectd says why it is not running"
            }
        };
        return found.fail(CHECK, message, cure);
    };
    let (running, version) = (&device.version, &facts.version);
    if device.stopping {
        let cure = match facts.is_kernel {
            true => "modprobe smbdirectk",
            false => "systemctl start smbdirectd",
        };
        found.fail(CHECK, format!("{name} is being stopped"), cure);
    } else if running == version {
        let interface = device.interface;
        found.ok(
            CHECK,
            format!("{name} runs, version {running}, interface {interface}"),
        );
    } else {
        let message = format!("{name} {running} is running, but {version} is installed");
        let cure = match facts.is_kernel {
            true => "stop smbd, modprobe -r smbdirectk, modprobe smbdirectk, and start smbd",
            false => "systemctl restart smbdirectd, and then smbd",
        };
        found.warn(CHECK, message, cure);
    }
}

/// Returns the command that shows the log of the device.
const fn log(facts: &Facts) -> &'static str {
    match facts.is_kernel {
        true => "journalctl -k -g smbdirect",
        false => "journalctl -u smbdirectd",
    }
}

/// Checks that an smbd is attached, and was built with SMB Direct. `of_conf` are the findings about smb.conf.
fn smbd(facts: &Facts, of_conf: &Findings, found: &mut Findings) {
    const CHECK: &str = "smbd";
    let without = facts.smbd.as_ref().filter(|smbd| !smbd.has_smb_direct);
    if let Some(Smbd { path, version, .. }) = without {
        let message = format!("{path} {version} was built without SMB Direct");
        return found.fail(
            CHECK,
            message,
            "install a Samba with this project's patches; an upgrade of the distribution's samba package replaces it",
        );
    }
    if let Some(device) = &facts.device {
        attached(device, facts, of_conf, found);
    }
    if let Some(reason) = facts.unknown.get(CHECK) {
        let message = format!("smbd was not examined: {reason} (--smbd names one that may be run)");
        found.skip(CHECK, message);
    }
}

fn attached(device: &Device, facts: &Facts, of_conf: &Findings, found: &mut Findings) {
    const CHECK: &str = "smbd";
    let is_ruled_out = of_conf.0.iter().any(|it| it.result == Verdict::Fail);
    match device.listener() {
        Some(listener) if listener.pid == 0 => {
            found.ok(CHECK, "smbd is attached, from a container")
        }
        Some(listener) => found.ok(
            CHECK,
            format!("smbd, process {}, is attached", listener.pid),
        ),
        None => {
            let cure = match &facts.smbd {
                None => "install and start smbd; --smbd names it if it is not in the path",
                Some(_) if is_ruled_out => "see what is said about smb.conf below",
                Some(_) if facts.samba.is_some() && facts.is_kernel => {
                    "systemctl restart smbd; if that does not help, the log of smbd says why it is not attached"
                }
                Some(_) if facts.samba.is_some() => {
                    "systemctl restart smbd; if that does not help, the logs of smbd and smbdirectd (\"process \
                     refused\") say why it is not attached"
                }
                Some(_) if facts.is_kernel => {
                    "set smb direct = yes and smb direct device = /dev/smbdirect in smb.conf, then systemctl restart \
                     smbd; the log of smbd says why it is not attached"
                }
                Some(_) => {
                    "set smb direct = yes in smb.conf, then systemctl restart smbd; the logs of smbd and smbdirectd \
                     (\"process refused\") say why it is not attached"
                }
            };
            found.fail(CHECK, "no smbd is attached: no client is served", cure);
        }
    }
}

/// Checks the settings in smb.conf.
fn smb_conf(facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "smb.conf";
    let Some(samba) = &facts.samba else {
        let of_smbd = || facts.unknown.get("smbd");
        let reason = facts.unknown.get(CHECK).or_else(of_smbd);
        let reason = reason.map_or("there is no smbd", String::as_str);
        let message = format!("smb.conf was not read: {reason} (--smbd, --smb-conf)");
        return found.skip(CHECK, message);
    };
    let value = |name: &str| {
        samba
            .get(name)
            .map(|value| value.to_lowercase())
            .unwrap_or_default()
    };
    let before = found.0.len();
    // Samba 4.24 can also list SMB Direct in `server smb transports`.
    let transports = value("server smb transports");
    let mut transports = transports.split([' ', ',']);
    let is_transport = transports.any(|it| it == "smbdirect" || it.starts_with("smbdirect:"));
    if value("smb direct") != "yes" && !is_transport {
        let cure = "set smb direct = yes in [global], then smbcontrol smbd reload-config";
        found.fail(CHECK, "\"smb direct\" is not \"yes\"", cure);
    }
    if value("server multi channel support") != "yes" {
        let cure = "set server multi channel support = yes (the default) in [global]";
        found.fail(
            CHECK,
            "\"server multi channel support\" is off: smbd serves TCP only",
            cure,
        );
    }
    let protocol = value("server max protocol");
    if !protocol.starts_with("smb3") && protocol != "default" {
        let message = format!("\"server max protocol\" is {protocol}: smbd serves TCP only");
        found.fail(
            CHECK,
            message,
            "set server max protocol = SMB3 (the default) in [global]",
        );
    }
    let wanted = samba
        .get("smb direct device")
        .filter(|wanted| **wanted != facts.control);
    if let Some(wanted) = wanted {
        let message = format!(
            "\"smb direct device\" is {wanted}, but this device is at {}",
            facts.control
        );
        let cure = match facts.is_kernel {
            true => {
                "set \"smb direct device\" in smb.conf to that path, or examine the other device (--control)"
            }
            false => {
                "set \"smb direct device\" in smb.conf and \"control\" in smbdirectd.toml to the same path"
            }
        };
        // If no smbd is attached, this is a reason for that.
        match &facts.device {
            Some(device) if device.listener().is_none() => found.fail(CHECK, message, cure),
            _ => found.warn(CHECK, message, cure),
        }
    }
    let signing = value("server signing");
    if ["mandatory", "required", "forced", "force", "enforced"].contains(&signing.as_str()) {
        found.warn(
            CHECK,
            format!("\"server signing\" is {signing}: {ONLY_WITH_TRANSFORMS}"),
            "set server signing = default if you trust the network",
        );
    }
    let encryption = value("server smb encrypt");
    if encryption == "required" {
        found.warn(
            CHECK,
            format!("\"server smb encrypt\" is required: {ONLY_WITH_TRANSFORMS}"),
            "encrypt only the shares that need it (smb encrypt = required in their sections) if you trust the network",
        );
    }
    if found.0.len() == before {
        found.ok(CHECK, "smb.conf has what SMB Direct needs");
    }
}

/// Says which clients' data goes by RDMA if all data must be signed or encrypted.
const ONLY_WITH_TRANSFORMS: &str = "data goes by RDMA only for clients with RDMA transforms (Windows 11, Server 2022); \
    smbd does not announce RDMA to others";

/// Checks the addresses that the device serves, and whether smbd announces them to clients.
fn addresses(facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "addresses";
    let Some(device) = &facts.device else {
        return;
    };
    for missing in &device.missing {
        let message = format!("\"listen\" contains {missing}, but this machine does not have it");
        found.warn(
            CHECK,
            message,
            "add the address (ip address), or change \"listen\" in smbdirectd.toml",
        );
    }
    if device.allowed.as_ref().is_some_and(Vec::is_empty) {
        let cure = "change \"interfaces\" and \"bind interfaces only\" in smb.conf: together they exclude every \
                    address of this machine";
        return found.fail(CHECK, "smbd does not allow any address", cure);
    }
    if device.addresses.is_empty() {
        let cure = match facts.is_kernel {
            true => {
                "rdma link shows which interfaces have an RDMA device; give one of them an address, and restart smbd"
            }
            false => {
                "check \"listen\" in smbdirectd.toml and the output of \"ip address\"; link-local addresses and \
                 loopback are never announced"
            }
        };
        return found.fail(CHECK, "there is no address for clients", cure);
    }
    for address in &device.addresses {
        served(address, device, facts, found);
    }
}

/// Returns the address without its port.
pub(super) fn ip_of(address: &str) -> Option<IpAddr> {
    Some(address.parse::<SocketAddr>().ok()?.ip())
}

/// Returns the ports of RDMA devices that belong to an address.
pub(super) fn ports_of<'a>(address: &Address, facts: &'a Facts) -> Vec<&'a Port> {
    let interface = address.interface.as_deref();
    let ports = facts.ports.iter();
    let of =
        ports.filter(|port| port.interface.is_some() && port.interface.as_deref() == interface);
    of.collect()
}

/// Returns whether smb.conf has `interfaces` that leave an address out, so that smbd does not announce it.
fn is_left_out(address: &Address, facts: &Facts) -> bool {
    let samba = facts.samba.as_ref();
    let interfaces = samba.and_then(|samba| samba.get("interfaces"));
    let (Some(interfaces), Some(ip)) = (interfaces, ip_of(&address.address)) else {
        return false;
    };
    // testparm separates elements by ", ". An element may be in quotes, and have options, which commas separate.
    let elements = interfaces.split_whitespace().map(|element| {
        let element = element.trim_matches(['"', ',']);
        element.split(';').next().unwrap_or_default()
    });
    let mut elements = elements.filter(|element| !element.is_empty()).peekable();
    let interface = address.interface.as_deref();
    elements.peek().is_some()
        && !elements.any(|element| covers(element, ip.to_canonical(), interface, facts))
}

/// Returns whether an element of `interfaces` covers an address of an interface. An element that is neither an
/// interface of this machine nor an address or network may be a name or have wildcards, and counts as one that does.
fn covers(element: &str, ip: IpAddr, interface: Option<&str>, facts: &Facts) -> bool {
    if facts.interfaces.contains_key(element) {
        // An address with a label has an interface such as eth0:1.
        let name = interface.and_then(|name| name.split(':').next());
        return name.is_none_or(|name| name == element);
    }
    let (base, mask) = match element.split_once('/') {
        Some((base, mask)) => (base, Some(mask)),
        None => (element, None),
    };
    match (base.parse::<IpAddr>(), ip) {
        (Ok(IpAddr::V4(base)), IpAddr::V4(ip)) => {
            let mask = mask.map_or(Some(u32::MAX), |mask| match mask.parse::<Ipv4Addr>() {
                Ok(mask) => Some(u32::from(mask)),
                Err(_) => {
                    let zeros = 32_u32.checked_sub(mask.parse::<u32>().ok()?)?;
                    Some(u32::MAX.checked_shl(zeros).unwrap_or(0))
                }
            });
            mask.is_none_or(|mask| (u32::from(base) ^ u32::from(ip)) & mask == 0)
        }
        (Ok(IpAddr::V6(base)), IpAddr::V6(ip)) => {
            let mask = mask.map_or(Some(u128::MAX), |mask| {
                let zeros = 128_u32.checked_sub(mask.parse::<u32>().ok()?)?;
                Some(u128::MAX.checked_shl(zeros).unwrap_or(0))
            });
            mask.is_none_or(|mask| (u128::from(base) ^ u128::from(ip)) & mask == 0)
        }
        (Ok(_), _) => false,
        (Err(_), _) => true,
    }
}

/// Says whether clients can use an address, and what serves it.
fn served(address: &Address, device: &Device, facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "addresses";
    let Address {
        address: at,
        interface,
        fabric,
        ..
    } = address;
    let name = interface.as_deref().unwrap_or("?");
    let is_virtual = [
        "docker", "virbr", "veth", "cni", "flannel", "podman", "lxdbr",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix));
    let is_loopback = ip_of(at).is_some_and(|ip| ip.is_loopback());
    let server = match facts.is_kernel {
        true => "the kernel's device",
        false => "smbdirectd",
    };
    // Without smbd, no address is announced.
    if device.listener().is_some() && is_left_out(address, facts) {
        let message = format!(
            "{server} serves {at} ({name}), but smbd does not announce it: \"interfaces\" in smb.conf leaves it out"
        );
        if is_virtual || is_loopback {
            // Other machines cannot reach it.
            return found.ok(CHECK, message);
        }
        let cure = match facts.is_kernel {
            true => "add the address to \"interfaces\", if clients are to use SMB Direct there",
            false => {
                "add the address to \"interfaces\", or exclude it with \"listen\" in smbdirectd.toml"
            }
        };
        return found.warn(CHECK, message, cure);
    }
    if is_virtual || is_loopback {
        let message = format!("{server} serves {at} of {name}, which other machines cannot reach");
        return found.warn(
            CHECK,
            message,
            "exclude it with \"interfaces\" in smb.conf, or with \"listen\" in smbdirectd.toml",
        );
    }
    let ports = ports_of(address, facts);
    if let (Some(port), "software") = (ports.first(), fabric.as_str()) {
        if port.kind == Kind::Iwarp {
            let message = format!("{at} is on {} (iWARP), but software serves it", port.device);
            return found.warn(CHECK, message, &use_device(facts));
        }
        let message = format!(
            "{at} is on {}, but software iWARP serves it: clients try RDMA port 445 there, and stay with TCP",
            port.device
        );
        return found.fail(CHECK, message, &use_device(facts));
    }
    let how = match (fabric.as_str(), ports.first()) {
        ("verbs", Some(port)) => format!("by {}", port.device),
        ("verbs", None) => "by an RDMA device".to_owned(),
        _ => "by iWARP in software".to_owned(),
    };
    found.ok(CHECK, format!("{server} serves {at} ({name}) {how}"));
    let has_no_speed = facts.interfaces.get(name).is_some_and(|it| !it.has_speed);
    if fabric == "verbs" && has_no_speed && !facts.is_kernel {
        let message = format!("{name} reports no speed, so that of {at} counts as 10 Gbit/s");
        found.warn(
            CHECK,
            message,
            "set link_speed for that address in \"listen\" of smbdirectd.toml",
        );
    }
}

/// Returns the cure if an RDMA device does not serve its addresses.
fn use_device(facts: &Facts) -> String {
    match &facts.no_rdma {
        _ if facts.is_kernel => format!("{} says why; restart smbd after a change", log(facts)),
        Some(reason) => format!("apt-get install librdmacm1 ibverbs-providers, and restart smbdirectd ({reason})"),
        None => "set fabric = \"auto\" or \"verbs\" in smbdirectd.toml, and restart smbdirectd: it looks for devices \
                 when it starts"
            .to_owned(),
    }
}

/// Checks the ports of RDMA devices, and whether the devices are used.
fn rdma(facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "rdma";
    if facts.ports.is_empty() && facts.is_kernel {
        return found.fail(
            CHECK,
            "no RDMA device: the kernel's device serves no address without one",
            "use smbdirectd, or add an adapter, siw or rxe (docs/kernel.md)",
        );
    }
    if facts.ports.is_empty() {
        return found.ok(
            CHECK,
            "no RDMA device: iWARP in software serves all addresses",
        );
    }
    for port in &facts.ports {
        let name = format!("{} port {}", port.device, port.number);
        if port.state != "ACTIVE" {
            let cure = "run \"rdma link\", check the cable and the switch, and run \"ip link set ... up\"; for \
                        InfiniBand, check the subnet manager";
            found.warn(CHECK, format!("{name} is {}", port.state), cure);
            continue;
        }
        let interface = port.interface.as_deref().unwrap_or_default();
        let state = facts.interfaces.get(interface);
        if let Some(master) = state.and_then(|it| it.master.as_ref()) {
            let kind = match facts.interfaces.get(master).is_some_and(|it| it.is_bridge) {
                true => "bridge",
                false => "bond or team",
            };
            found.warn(
                CHECK,
                format!("{interface} of {name} is part of the {kind} {master}, whose addresses may not support RDMA"),
                "give the address to the adapter's own interface, or to a VLAN on it",
            );
        }
        if port.kind == Kind::Roce {
            no_gid(port, facts, found);
        }
        let addresses = facts.device.iter().flat_map(|device| &device.addresses);
        let mut addresses = addresses.filter(|it| it.interface.as_deref() == Some(interface));
        if facts.device.is_none() || addresses.any(|it| it.fabric == "verbs") {
            found.ok(CHECK, format!("{name} is active"));
        } else if state.is_none_or(|it| it.addresses.iter().all(is_link_local)) {
            let message = format!("{name} is not used: its interface {interface} has no address");
            let cure = match facts.is_kernel {
                true => "add an address (ip address add; InfiniBand needs IPoIB), and restart smbd",
                false => {
                    "add an address (ip address add; InfiniBand needs IPoIB), and restart smbdirectd"
                }
            };
            found.warn(CHECK, message, cure);
        } else {
            let message = format!("{name} is not used: it serves no address of {interface}");
            found.warn(CHECK, message, &use_device(facts));
        }
    }
}

/// Returns whether an address is link-local, and therefore never announced.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// Checks that the addresses of a RoCE port have RoCE v2 GIDs.
fn no_gid(port: &Port, facts: &Facts, found: &mut Findings) {
    let addresses = facts.device.iter().flat_map(|device| &device.addresses);
    let addresses = addresses.filter(|it| it.fabric == "verbs" && it.interface == port.interface);
    for ip in addresses.filter_map(|it| ip_of(&it.address)) {
        if !port.roce_v2.contains(&ip) {
            found.fail(
                "rdma",
                format!("{} has no RoCE v2 GID for {ip}", port.device),
                "the adapter needs RoCE v2: check \"rdma link\", \"show_gids\" or \
                 /sys/class/infiniband/*/ports/*/gid_attrs/types",
            );
        }
    }
}

/// Checks whether RDMA devices lost packets while the doctor ran.
fn losses(facts: &Facts, found: &mut Findings) {
    for port in facts.ports.iter().filter(|port| !port.losses.is_empty()) {
        let losses: Vec<String> = port
            .losses
            .iter()
            .map(|(name, more)| format!("{more} {name}"))
            .collect();
        let message = format!(
            "{} port {} counted these losses while the doctor ran: {}",
            port.device,
            port.number,
            losses.join(", ")
        );
        let cure = match port.kind {
            Kind::Roce => {
                "RoCE loses packets: configure PFC or ECN on server, switches and clients (docs/roce.md)"
            }
            Kind::InfiniBand | Kind::Iwarp => {
                "check \"rdma statistic show\", the cable and the switch"
            }
        };
        found.warn("losses", message, cure);
    }
}

/// Checks whether another server takes the same ports.
fn port(facts: &Facts, found: &mut Findings) {
    if facts.has_ksmbd {
        found.warn(
            "ports",
            "ksmbd, the kernel's own SMB server, is loaded: it takes the same ports",
            "systemctl stop ksmbd; modprobe -r ksmbd",
        );
    }
}

/// Returns where the limits are set.
const fn place_of_limits(facts: &Facts) -> &'static str {
    match facts.is_kernel {
        true => "among the parameters of the module smbdirectk (modinfo smbdirectk)",
        false => "in smbdirectd.toml (docs/tuning.md)",
    }
}

/// Checks whether a limit is nearly used up, or has just ended connections.
fn limits(facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "limits";
    let Some(device) = &facts.device else {
        return;
    };
    let (limits, totals) = (&device.limits, &device.totals);
    let workers = device
        .processes
        .iter()
        .filter(|it| it.role == "worker" && !it.invited);
    // The kernel's module counts memory in MiB.
    let memory = match facts.is_kernel {
        true => ("memory_mb", totals.memory >> 20, limits.memory >> 20),
        false => ("memory_limit", totals.memory, limits.memory),
    };
    let used = [
        ("max_connections", totals.connections, limits.connections),
        (
            "max_unauthenticated",
            totals.unauthenticated,
            limits.unauthenticated,
        ),
        ("max_workers", workers.count() as u64, limits.workers),
        memory,
    ];
    let place = place_of_limits(facts);
    let before = found.0.len();
    for (key, used, limit) in used {
        if limit > 0 && used.saturating_mul(100) >= limit.saturating_mul(NEARLY_ALL) {
            let cure = format!("raise {key} {place}");
            found.warn(CHECK, format!("{used} of {key} = {limit} are used"), &cure);
        }
    }
    ended_by_limit(device, facts, found);
    let uses_devices = device.addresses.iter().any(|it| it.fabric == "verbs");
    if let Some(locked) = facts
        .locked_memory
        .filter(|locked| uses_devices && *locked < limits.memory)
    {
        let message = format!(
            "smbdirectd may lock only {locked} bytes, but RDMA devices need all of its memory_limit ({} bytes) locked",
            limits.memory
        );
        found.warn(CHECK, message, "set LimitMEMLOCK=infinity in its unit");
    }
    if found.0.len() == before {
        found.ok(
            CHECK,
            "no limit is nearly used up, and none has ended one of the last connections",
        );
    }
}

/// Warns of limits that ended some of the last connections. They may no longer be used up.
fn ended_by_limit(device: &Device, facts: &Facts, found: &mut Findings) {
    for (key, reason, reason_of_source) in [
        (
            "max_connections",
            "too_many_connections",
            "too_many_connections_of_source",
        ),
        (
            "max_unauthenticated",
            "too_many_unauthenticated",
            "too_many_unauthenticated_of_source",
        ),
    ] {
        let ended_for = |reason: &str| {
            let ended = device.closes.iter().filter(|it| it.reason == reason);
            let last = device.closes.iter().rfind(|it| it.reason == reason)?;
            let ago = (device.uptime_seconds - last.at_seconds).max(0.0);
            let times = format!("{} of the last connections that ended", ended.count());
            Some((last, format!("{times}, the last one {ago:.0} s ago")))
        };
        if let Some((_, ended)) = ended_for(reason) {
            let cure = format!("raise {key} {}", place_of_limits(facts));
            found.warn(
                "limits",
                format!("{key} was reached: it ended {ended}"),
                &cure,
            );
        }
        if let Some((last, ended)) = ended_for(reason_of_source) {
            let source = ip_of(&last.peer)
                .map_or_else(|| last.peer.clone(), |ip| ip.to_canonical().to_string());
            let message = format!("{source} had a quarter of {key}: that ended {ended}");
            let raise = format!("raise {key} {}", place_of_limits(facts));
            let cure = match facts.is_kernel {
                true => raise,
                false => format!(
                    "if many clients share {source}, add it to gateways in smbdirectd.toml; or {raise}"
                ),
            };
            found.warn("limits", message, &cure);
        }
    }
}

/// Reports the results of the doctor's own connections.
fn end_to_end(facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "end to end";
    if let Some(reason) = facts.unknown.get(CHECK) {
        found.skip(CHECK, format!("no connection was made: {reason}"));
    }
    for probe in &facts.probes {
        let (address, fabric) = (probe.address, &probe.fabric);
        match &probe.result {
            Ok(time) => {
                let time = time.as_secs_f64() * 1e3;
                let message = format!(
                    "smbd answers over SMB Direct on {address} ({fabric}) within {time:.1} ms"
                );
                found.ok(CHECK, message);
            }
            Err(reason) => found.fail(
                CHECK,
                format!("smbd does not answer over SMB Direct on {address} ({fabric}): {reason}"),
                &format!(
                    "see why connections ended: smbdirectctl status, {}, the log of smbd",
                    log(facts)
                ),
            ),
        }
    }
}

/// Returns what is known about one client.
pub(super) fn client(facts: &Facts, client: IpAddr) -> Vec<Finding> {
    let mut found = Findings::default();
    match &facts.device {
        Some(device) => of_client(device, client, &mut found),
        None => found.skip(
            "client",
            format!("nothing is known about {client} without the device"),
        ),
    }
    found.0
}

/// Maximum number of clients that are shown without an SMB Direct connection.
const CLIENTS: usize = 16;

/// What to check on a client that has not connected.
const ON_THE_CLIENT: &str = "Windows: Get-SmbClientNetworkInterface (RDMA Capable), Get-NetAdapterRdma (Enabled)\n\
    Windows: Get-SmbClientConfiguration (EnableMultiChannel True, RequireSecuritySignature False)\n\
    Windows: Get-WindowsOptionalFeature -Online -FeatureName SMBDirect (Enabled; Pro may not have it)\n\
    Linux: mount -t cifs -o rdma (the option cannot be added to an existing mount)\n\
    both: does it reach RDMA port 445 (RoCE, InfiniBand) or TCP port 5445 (iWARP)? docs/troubleshooting.md\n\
    both: smbdirectctl doctor --client-script windows (or linux) prints a script that looks at all of this";

fn of_client(device: &Device, client: IpAddr, found: &mut Findings) {
    const CHECK: &str = "client";
    let is_of =
        |peer: &str| ip_of(peer).is_some_and(|ip| ip.to_canonical() == client.to_canonical());
    let live: Vec<&Connection> = device
        .connections
        .iter()
        .filter(|it| is_of(&it.peer))
        .collect();
    let sum =
        |of: fn(&Connection) -> u64| live.iter().map(|it| of(it)).fold(0, u64::saturating_add);
    let rdma = sum(|it| it.rdma_read_bytes).saturating_add(sum(|it| it.rdma_write_bytes));
    let messages = sum(|it| it.inline_bytes_in).saturating_add(sum(|it| it.inline_bytes_out));
    let count = live.len();
    if live.iter().any(|it| it.authenticated == Some(false)) {
        let cure = "look for its login in the log of smbd; after login_timeout the connection ends";
        found.warn(
            CHECK,
            format!("{client} is connected over SMB Direct, but nobody has logged in yet"),
            cure,
        );
    } else if rdma > 0 {
        let how = live.iter().find_map(|it| it.protection.as_deref());
        let how = how.map(|how| format!(", {how}")).unwrap_or_default();
        found.ok(
            CHECK,
            format!("{client} uses RDMA{how}: {count} connections, {rdma} bytes"),
        );
    } else if count > 0 {
        let in_messages = live.iter().find_map(|it| it.in_messages());
        let (why, cure) = match in_messages {
            Some(how) => (
                format!(": its data is {how}, and it does not support RDMA transforms"),
                WITHOUT_TRANSFORMS,
            ),
            None => (
                " so far".to_owned(),
                "small reads and writes go in messages; smbstatus shows whether its data may go by RDMA",
            ),
        };
        found.warn(
            CHECK,
            format!("{client} uses SMB Direct, but only messages{why}: {messages} bytes"),
            cure,
        );
    }
    let last = device.closes.iter().rfind(|close| is_of(&close.peer));
    if let Some(close) = last.filter(|_| count == 0) {
        let ago = (device.uptime_seconds - close.at_seconds).max(0.0);
        let message = format!(
            "{client} is not connected over SMB Direct; its last connection ended {ago:.0} s ago: {}",
            close.reason
        );
        found.warn(
            CHECK,
            message,
            "docs/counters.md says what the reason means",
        );
    } else if count == 0 {
        let noted = device.clients.iter().find(|noted| {
            let ip = noted.address.parse::<IpAddr>();
            ip.is_ok_and(|ip| ip.to_canonical() == client.to_canonical())
        });
        let unknown = || {
            let why = "none of the last connections was from this client";
            Some((why.to_owned(), ON_THE_CLIENT))
        };
        match noted.map_or_else(unknown, why_tcp) {
            Some((why, cure)) => {
                let message = format!("{client} is not connected over SMB Direct: {why}");
                found.warn(CHECK, message, cure);
            }
            None => {
                let at = noted.and_then(|noted| noted.direct_at_seconds);
                let ago =
                    at.map(|at| format!(" {:.0} s ago", (device.uptime_seconds - at).max(0.0)));
                let ago = ago.unwrap_or_default();
                let message = format!(
                    "{client} is not connected over SMB Direct now; it last logged in over SMB Direct{ago}"
                );
                found.ok(CHECK, message);
            }
        }
    }
}

/// Returns why a client without an SMB Direct connection stays with TCP, as far as smbd knows, and what to do; `None`
/// if the client has used SMB Direct, and nothing that is known keeps it from doing so again.
fn why_tcp(noted: &Client) -> Option<(String, &'static str)> {
    const MULTICHANNEL: &str = "Windows: Set-SmbClientConfiguration -EnableMultiChannel $true\n\
        Linux: mount -t cifs -o rdma (the option cannot be added to an existing mount)";
    let dialect = noted.dialect.as_deref().unwrap_or("?");
    if dialect.starts_with('2') {
        let why = format!("it speaks SMB {dialect}, but SMB Direct needs SMB 3");
        let cure = "use a client with SMB 3: Windows 8 or Server 2012, or newer";
        return Some((why, cure));
    }
    // The client's next SMB Direct session clears the refusal.
    if let Some(status) = &noted.refusal {
        let times = noted.refused;
        let why = format!(
            "smbd refused {times} times to bind a connection to its session, last with {status}"
        );
        let cure = "the log of smbd, with log level = 3 smb2:5, says why";
        return Some((why, cure));
    }
    if noted.direct > 0 {
        return None;
    }
    Some(match noted.told {
        Some(0) => (
            "it asked for the server's interfaces, but none of them has RDMA".to_owned(),
            "see the lines above about the addresses that are announced to clients",
        ),
        Some(told) => (
            format!(
                "it asked for the server's interfaces, got {told} addresses with RDMA, but has not logged in over \
                 SMB Direct"
            ),
            ON_THE_CLIENT,
        ),
        None if noted.withheld > 0 => (
            "its data must be signed or encrypted, but it does not support RDMA transforms, so smbd announced no RDMA \
             to it"
                .to_owned(),
            WITHOUT_TRANSFORMS,
        ),
        None if noted.multichannel == Some(false) => (
            "multichannel is off on the client, or the client does not support it".to_owned(),
            MULTICHANNEL,
        ),
        None => ("it never asked for the server's interfaces".to_owned(), MULTICHANNEL),
    })
}

/// Reports why the last clients without an SMB Direct connection have none. smbd does not tell when a client has gone,
/// so these clients need not be connected over TCP any more.
fn clients(facts: &Facts, found: &mut Findings) {
    let Some(device) = &facts.device else {
        return;
    };
    let is_connected = |ip: IpAddr| {
        let mut peers = device.connections.iter().map(|it| ip_of(&it.peer));
        peers.any(|peer| peer.is_some_and(|peer| peer.to_canonical() == ip))
    };
    // smbd also tells about the doctor's own connections, and those of other programs on this machine.
    let is_own = |ip: IpAddr| {
        let of_interfaces = facts.interfaces.values().flat_map(|it| &it.addresses);
        let announced = device.addresses.iter().filter_map(|it| ip_of(&it.address));
        let mut own = of_interfaces.copied().chain(announced);
        ip.is_loopback() || own.any(|own| own.to_canonical() == ip)
    };
    let without = device.clients.iter().filter_map(|client| {
        let ip = client.address.parse::<IpAddr>().ok()?.to_canonical();
        let (why, _) = why_tcp(client)?;
        (!is_connected(ip) && !is_own(ip)).then_some((client, why))
    });
    for (client, why) in without.take(CLIENTS) {
        let ago = (device.uptime_seconds - client.at_seconds).max(0.0);
        let message = format!(
            "{}, {ago:.0} s ago: no SMB Direct connection: {why}",
            client.address
        );
        found.ok("clients", message);
    }
}
