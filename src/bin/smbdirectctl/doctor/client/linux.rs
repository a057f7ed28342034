// SPDX-License-Identifier: GPL-2.0-or-later

//! Judges the report of a Linux client. docs/linux-clients.md and docs/interop.md say where the rules come from.

use super::super::facts::{Facts, Kind};
use super::fact::Fact;
use super::{Findings, is_this_server, protocol};

/// The faults of cifs.ko over SMB Direct that we have seen, by the beginning of the kernel's version.
const FAULTS: [(&str, &str); 2] = [
    (
        "6.12.",
        "a mount may hang after the server died; buffered writes at offsets that are not a multiple of 4 KiB may be \
         lost; with seal, large writes end the connection",
    ),
    ("7.2.", "with seal, large writes end the connection"),
];

pub(super) fn judge(report: Fact<'_>, facts: &Facts, found: &mut Findings) {
    let can = kernel(report, found);
    let devices = devices(report, facts, found);
    // If the kernel does not have SMB Direct, its mounts say nothing new.
    if can && mounts(report, facts, &devices, found) {
        connections(report, found);
        faults(report, found);
    }
}

/// Checks that the kernel has SMB Direct; returns whether it may have it.
fn kernel(report: Fact<'_>, found: &mut Findings) -> bool {
    const CHECK: &str = "client kernel";
    let version = report.at("kernel").text().unwrap_or_default();
    let debug_data = report.at("debug_data").items().unwrap_or_default();
    let features = debug_data.iter().filter_map(Fact::text);
    let features = features
        .filter_map(|line| line.strip_prefix("Features:").map(str::to_owned))
        .next();
    let of_module = features.map(|list| list.split(',').any(|it| it.trim() == "SMB_DIRECT"));
    let of_config = match report.at("smb_direct").text().as_deref() {
        Some("y" | "m") => Some(true),
        Some("n") => Some(false),
        _ => None,
    };
    let is_absent = report.at("cifs").text().as_deref() == Some("absent");
    // What the loaded module says about itself takes precedence, because it may come from elsewhere than the kernel.
    match of_module.or(of_config) {
        Some(false) => {
            found.fail(
                CHECK,
                format!("the client's kernel {version} was built without CONFIG_CIFS_SMB_DIRECT"),
                "use a kernel with this option, which those of Debian 12 and 13 do not have (docs/linux-clients.md)",
            );
            return false;
        }
        _ if of_module.is_none() && is_absent => {
            found.fail(
                CHECK,
                format!("the client does not have the module cifs for its kernel {version}"),
                "install the package with the kernel's other modules, such as linux-modules-extra on Ubuntu",
            );
            return false;
        }
        None => found.skip(
            CHECK,
            "the script could not read whether the client's kernel has CONFIG_CIFS_SMB_DIRECT",
        ),
        Some(true) => found.ok(
            CHECK,
            format!("the client's kernel {version} has SMB Direct"),
        ),
    }
    true
}

/// Checks the RDMA devices; returns the names of the interfaces that have one.
fn devices(report: Fact<'_>, facts: &Facts, found: &mut Findings) -> Vec<String> {
    const CHECK: &str = "client rdma";
    let Some(devices) = report.at("devices").items() else {
        found.skip(CHECK, "the client's RDMA devices were not read");
        return Vec::new();
    };
    if devices.is_empty() {
        found.fail(
            CHECK,
            "the client has no RDMA device",
            "load the driver of its adapter; without an adapter: modprobe siw; rdma link add siw0 type siw netdev eth0 \
             (docs/linux-clients.md)",
        );
    }
    let mut interfaces = Vec::new();
    let mut kinds = Vec::new();
    for device in &devices {
        let text = |name: &str| device.at(name).text().unwrap_or_default();
        let name = format!("{} port {}", text("name"), text("port"));
        let interface = text("interface");
        // The text is "4: ACTIVE".
        let state = text("state");
        let state = state.rsplit(' ').next().unwrap_or_default();
        if state != "ACTIVE" {
            found.warn(
                CHECK,
                format!("the client's RDMA device {name} is {state}"),
                "run \"rdma link\" on the client, check the cable and the switch, and run \"ip link set ... up\"",
            );
            continue;
        }
        kinds.push(match text("link_layer").as_str() {
            _ if text("node_type").contains("RNIC") => Kind::Iwarp,
            "InfiniBand" => Kind::InfiniBand,
            _ => Kind::Roce,
        });
        let on = match interface.is_empty() {
            true => String::new(),
            false => format!(" on {interface}"),
        };
        found.ok(
            CHECK,
            format!("the client's RDMA device {name}{on} is active"),
        );
        interfaces.push(interface);
    }
    protocol(&kinds, facts, found);
    interfaces
}

/// How to get a mount that uses SMB Direct.
const MOUNT: &str = "mount the share with -t cifs -o rdma,vers=3.1.1 (after unmounting it: a mount without rdma never \
    changes to RDMA)";

/// Checks the mounts of this server's shares; returns whether one of them has the option `rdma`.
fn mounts(report: Fact<'_>, facts: &Facts, devices: &[String], found: &mut Findings) -> bool {
    const CHECK: &str = "client mount";
    let Some(mounts) = report.at("mounts").items() else {
        found.skip(CHECK, "the client's mounts were not read");
        return false;
    };
    let is_ours = |mount: &&Fact<'_>| {
        let server = mount.at("address").address();
        server.is_none_or(|ip| is_this_server(ip, facts))
    };
    let ours: Vec<&Fact<'_>> = mounts.iter().filter(is_ours).collect();
    if ours.is_empty() {
        found.warn(
            CHECK,
            "the client has mounted no share of this server",
            MOUNT,
        );
    }
    let mut has_rdma = false;
    for mount in ours {
        let options = mount.at("options").text().unwrap_or_default();
        let options: Vec<&str> = options.split(',').collect();
        if options.contains(&"rdma") {
            has_rdma = true;
            with_rdma(*mount, &options, found);
        } else {
            without_rdma(*mount, devices, found);
        }
    }
    has_rdma
}

fn without_rdma(mount: Fact<'_>, devices: &[String], found: &mut Findings) {
    const CHECK: &str = "client mount";
    let text = |name: &str| mount.at(name).text().unwrap_or_default();
    let source = text("source");
    found.fail(
        CHECK,
        format!("{source} is mounted without the option rdma"),
        MOUNT,
    );
    let interface = text("interface");
    let is_known = !interface.is_empty() && devices.iter().any(|it| !it.is_empty());
    if is_known && !devices.contains(&interface) {
        found.fail(
            CHECK,
            format!(
                "the client reaches {} over {interface}, which has no RDMA device (those are on {})",
                text("address"),
                devices.join(", ")
            ),
            "mount an address of this server that the client reaches over an interface with an RDMA device",
        );
    }
}

fn with_rdma(mount: Fact<'_>, options: &[&str], found: &mut Findings) {
    const CHECK: &str = "client mount";
    let source = mount.at("source").text().unwrap_or_default();
    let value = |name: &str| {
        let mut options = options.iter().filter_map(|option| option.split_once('='));
        options.find_map(|(key, value)| (key == name).then_some(value))
    };
    let sealed = options.contains(&"seal");
    // If cifs.ko signs, the last letter of `sec` is an i, as in `ntlmsspi`.
    let signed = options.contains(&"sign")
        || value("sec")
            .is_some_and(|sec| sec.starts_with("ntlm") && sec.ends_with('i') || sec == "krb5i");
    if !sealed && !signed {
        let version = value("vers").unwrap_or("?");
        return found.ok(
            CHECK,
            format!("{source} is mounted with rdma, SMB {version}"),
        );
    }
    let how = if sealed { "encrypted" } else { "signed" };
    let cure = match sealed && value("rsize") != Some("131072") {
        true => {
            "leave seal out if you trust the network; otherwise add rsize=131072 (docs/linux-clients.md)"
        }
        false => "leave sign and seal out if you trust the network",
    };
    found.warn(
        CHECK,
        format!(
            "{source} is mounted with rdma, but its data is {how}, and therefore goes in messages"
        ),
        cure,
    );
}

/// Reports what cifs.ko says about its SMB Direct connections.
fn connections(report: Fact<'_>, found: &mut Findings) {
    const CHECK: &str = "client connections";
    let debug_data = report.at("debug_data").items().unwrap_or_default();
    let lines: Vec<String> = debug_data.iter().filter_map(Fact::text).collect();
    let count = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    let gone = count("SMBDirect transport not available");
    let all = count("SMBDirect protocol version") + count("SMBDirect (in hex) protocol version");
    if gone > 0 {
        found.warn(
            CHECK,
            format!("{gone} mounts of the client have lost their SMB Direct connections"),
            "see why they ended: smbdirectctl status, and dmesg on the client; if a mount hangs, reboot the client",
        );
    }
    if all > 0 {
        found.ok(
            CHECK,
            format!("the client has {all} SMB Direct connections"),
        );
    }
}

fn faults(report: Fact<'_>, found: &mut Findings) {
    let version = report.at("kernel").text().unwrap_or_default();
    let known = FAULTS.iter().find(|(begin, _)| version.starts_with(begin));
    if let Some((_, faults)) = known {
        found.warn(
            "client faults",
            format!("Linux {version} has known faults over SMB Direct: {faults}"),
            "docs/linux-clients.md has cures",
        );
    }
}
