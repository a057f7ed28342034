// SPDX-License-Identifier: GPL-2.0-or-later

//! Judges the report of a Windows client. docs/windows.md says where the rules come from.

use super::super::facts::{Facts, Kind};
use super::fact::Fact;
use super::{Findings, GUIDES, is_this_server, protocol};

/// The first build that can sign and encrypt data that goes by RDMA: Windows Server 2022. Those of Windows 11 are
/// larger, those of Windows 10 smaller.
const FIRST_WITH_TRANSFORMS: u64 = 20_348;
/// The beginnings of the names of editions with an SMB Direct client, as the registry has them.
const EDITIONS: [&str; 5] = [
    "Enterprise",
    "IoTEnterprise",
    "Education",
    "ProfessionalWorkstation",
    "Server",
];
/// The event "RDMA interfaces are available but the client failed to connect to the server over RDMA transport".
const NOT_BY_RDMA: u64 = 30_818;

pub(super) fn judge(report: Fact<'_>, facts: &Facts, found: &mut Findings) {
    edition(report, found);
    feature(report, found);
    multichannel(report, found);
    signing(report, found);
    adapters(report, facts, found);
    channels(report, facts, found);
    firewall(report, found);
    events(report, found);
}

fn edition(report: Fact<'_>, found: &mut Findings) {
    const CHECK: &str = "client edition";
    const CURE: &str = "use Windows Pro for Workstations, Enterprise, Education, or Windows Server (docs/windows.md)";
    let Some(edition) = report.at("edition").text() else {
        return found.skip(CHECK, "the edition of Windows was not read");
    };
    let name = report.at("name").text().unwrap_or_else(|| edition.clone());
    let is_listed = EDITIONS.iter().any(|known| edition.starts_with(known));
    if is_listed || report.at("is_server").flag() == Some(true) {
        return found.ok(CHECK, format!("{name} has an SMB Direct client"));
    }
    match report.at("feature").text().as_deref() {
        Some("Enabled" | "Disabled") => found.warn(
            CHECK,
            format!(
                "{name} has the Windows feature SMBDirect, but Microsoft's pages disagree on whether this edition can \
                 use it"
            ),
            &format!("if the client stays with TCP, {CURE}"),
        ),
        _ => found.fail(CHECK, format!("{name} has no SMB Direct client"), CURE),
    }
}

fn feature(report: Fact<'_>, found: &mut Findings) {
    const CHECK: &str = "client feature";
    const CURE: &str = "Enable-WindowsOptionalFeature -Online -FeatureName SMBDirect";
    match report.at("feature").text().as_deref() {
        Some("Enabled") => found.ok(CHECK, "the client's Windows feature SMBDirect is on"),
        Some("Disabled") => {
            found.fail(CHECK, "the client's Windows feature SMBDirect is off", CURE)
        }
        Some("Absent") => found.fail(
            CHECK,
            "the client does not have the Windows feature SMBDirect",
            CURE,
        ),
        _ => found.skip(
            CHECK,
            "the state of the Windows feature SMBDirect was not read",
        ),
    }
    if report.at("network_direct").text().as_deref() == Some("Disabled") {
        found.fail(
            CHECK,
            "NetworkDirect, which all RDMA needs, is off on the client",
            "Set-NetOffloadGlobalSetting -NetworkDirect Enabled",
        );
    }
}

fn multichannel(report: Fact<'_>, found: &mut Findings) {
    const CHECK: &str = "client multichannel";
    match report.at("configuration").at("multichannel").flag() {
        Some(true) => found.ok(CHECK, "SMB multichannel is enabled on the client"),
        Some(false) => found.fail(
            CHECK,
            "SMB multichannel is off on the client: without it, Windows does not look for RDMA",
            "Set-SmbClientConfiguration -EnableMultiChannel $true",
        ),
        None => found.skip(
            CHECK,
            "the client's configuration of SMB multichannel was not read",
        ),
    }
}

fn signing(report: Fact<'_>, found: &mut Findings) {
    const CHECK: &str = "client signing";
    let configuration = report.at("configuration");
    let requires = |name: &str| configuration.at(name).flag() == Some(true);
    let (what, setting) = match (requires("require_encryption"), requires("require_signing")) {
        (true, _) => ("encryption", "-RequireEncryption $false"),
        (false, true) => ("signing", "-RequireSecuritySignature $false"),
        (false, false) => return,
    };
    match report.at("build").number() {
        Some(build) if build < FIRST_WITH_TRANSFORMS => found.warn(
            CHECK,
            format!(
                "the client requires {what}, but has no RDMA transforms (build {build}): smbd does not announce RDMA to it"
            ),
            &format!(
                "use Windows 11 or Server 2022 as the client, or, if you trust the network, Set-SmbClientConfiguration \
                 {setting}"
            ),
        ),
        Some(_) => {
            found.ok(CHECK, format!("the client requires {what}, and has RDMA transforms for that"));
        }
        None => found.skip(
            CHECK,
            format!("the client requires {what}; its build of Windows, on which RDMA then depends, was not read"),
        ),
    }
}

/// Returns the protocol that a value of the adapters' setting `*NetworkDirectTechnology` stands for.
fn technology(value: &str) -> Option<Kind> {
    match value {
        "1" => Some(Kind::Iwarp),
        "2" => Some(Kind::InfiniBand),
        "3" | "4" => Some(Kind::Roce),
        _ => None,
    }
}

fn name_of(adapter: Fact<'_>) -> String {
    adapter.at("name").text().unwrap_or_else(|| "?".to_owned())
}

fn adapters(report: Fact<'_>, facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "client rdma";
    let Some(adapters) = report.at("adapters").items() else {
        return found.skip(CHECK, "the client's RDMA adapters were not read");
    };
    if adapters.is_empty() {
        return found.fail(
            CHECK,
            "no network adapter of the client has RDMA",
            "Windows needs an adapter with RDMA and its vendor's driver; RDMA of a virtual adapter has to be enabled",
        );
    }
    let is = |adapter: &Fact<'_>, name: &str| adapter.at(name).flag() != Some(false);
    let of_use = |adapter: &&Fact<'_>| is(adapter, "enabled") && is(adapter, "operational");
    let usable: Vec<&Fact<'_>> = adapters.iter().filter(of_use).collect();
    for adapter in &adapters {
        let (message, cure) = match (is(adapter, "enabled"), is(adapter, "operational")) {
            (false, _) => (
                format!("RDMA is off on the client's adapter {}", name_of(*adapter)),
                "Enable-NetAdapterRdma -Name \"NAME OF THE ADAPTER\"",
            ),
            (true, false) => (
                format!(
                    "RDMA does not work on the client's adapter {}: it is not operational",
                    name_of(*adapter)
                ),
                "check the adapter's link and driver, and Get-NetAdapterRdma",
            ),
            (true, true) => continue,
        };
        match usable.is_empty() {
            true => found.fail(CHECK, message, cure),
            false => found.warn(CHECK, message, cure),
        }
    }
    if usable.is_empty() {
        return;
    }
    interfaces(report, found);
    let kinds = usable
        .iter()
        .map(|it| technology(&it.at("technology").text()?));
    if let Some(kinds) = kinds.collect::<Option<Vec<Kind>>>() {
        protocol(&kinds, facts, found);
    }
}

/// Checks that the client's SMB can use an interface with RDMA.
fn interfaces(report: Fact<'_>, found: &mut Findings) {
    const CHECK: &str = "client rdma";
    let Some(interfaces) = report.at("interfaces").items() else {
        return found.skip(CHECK, "the interfaces of the SMB client were not read");
    };
    let with_addresses = |interface: &Fact<'_>| {
        let addresses = interface.at("addresses").addresses();
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("{} ({})", name_of(*interface), addresses.join(", "))
    };
    let capable = interfaces
        .iter()
        .filter(|it| it.at("rdma").flag() == Some(true));
    let capable: Vec<String> = capable.map(with_addresses).collect();
    if !capable.is_empty() {
        let message = format!("the client has RDMA for SMB on {}", capable.join(", "));
        return found.ok(CHECK, message);
    }
    let all: Vec<String> = interfaces.iter().map(with_addresses).collect();
    let message = format!(
        "no interface of the client has RDMA for SMB: {}",
        all.join(", ")
    );
    found.fail(
        CHECK,
        message,
        "give an address to the adapter with RDMA itself, not to a team, bridge or virtual switch; then \
         Get-SmbClientNetworkInterface must show RDMA Capable: True",
    );
}

/// Checks the connections that the client's SMB multichannel has made to this server.
fn channels(report: Fact<'_>, facts: &Facts, found: &mut Findings) {
    const CHECK: &str = "client channels";
    let Some(channels) = report.at("channels").items() else {
        return found.skip(
            CHECK,
            "the client's SMB multichannel connections were not read",
        );
    };
    let is_ours = |channel: &Fact<'_>| {
        let server = channel.at("server_address").address();
        server.is_some_and(|ip| is_this_server(ip, facts))
    };
    let ours: Vec<Fact<'_>> = channels.into_iter().filter(is_ours).collect();
    if ours.is_empty() {
        return found.skip(
            CHECK,
            "the client had no SMB multichannel connection to this server when the script ran (copy a large file \
             meanwhile)",
        );
    }
    let uses_rdma = ours.iter().find(|channel| is_rdma(**channel));
    if let Some(channel) = uses_rdma {
        let (client, server) = path(*channel);
        found.ok(
            CHECK,
            format!("the client uses RDMA from {client} to {server}"),
        );
    }
    let failed = ours
        .iter()
        .find(|it| could_be_rdma(**it) && it.at("failed").flag() == Some(true));
    if let Some(channel) = failed {
        let (client, server) = path(*channel);
        let message = format!(
            "the client failed to connect from {client} to {server}, although both have RDMA"
        );
        let cure = format!(
            "look for a firewall at RDMA port 445 (RoCE, InfiniBand) or TCP port 5445 (iWARP), for RoCE v1 on one \
             side, and for lost packets: {GUIDES}"
        );
        return match uses_rdma {
            Some(_) => found.warn(CHECK, message, &cure),
            None => found.fail(CHECK, message, &cure),
        };
    }
    if uses_rdma.is_none() {
        for channel in ours {
            only_tcp(channel, found);
        }
    }
}

/// Returns whether both ends of a connection have RDMA.
fn could_be_rdma(channel: Fact<'_>) -> bool {
    channel.at("client_rdma").flag() == Some(true) && channel.at("server_rdma").flag() == Some(true)
}

fn is_rdma(channel: Fact<'_>) -> bool {
    // Older versions of Windows do not count the RDMA connections separately.
    let rdma = channel.at("rdma_channels").number();
    let count = rdma.or_else(|| channel.at("channels").number());
    could_be_rdma(channel) && channel.at("failed").flag() != Some(true) && count > Some(0)
}

/// Returns the addresses of the client and of the server.
fn path(channel: Fact<'_>) -> (String, String) {
    let address = |name: &str| channel.at(name).text().unwrap_or_else(|| "?".to_owned());
    (address("client_address"), address("server_address"))
}

/// Says why a connection does not use RDMA.
fn only_tcp(channel: Fact<'_>, found: &mut Findings) {
    const CHECK: &str = "client channels";
    let (client, server) = path(channel);
    if channel.at("server_rdma").flag() != Some(true) {
        found.warn(
            CHECK,
            format!("the client was told that {server} has no RDMA"),
            "see the lines about the addresses that are announced to clients, and about signing and encryption",
        );
    } else if channel.at("client_rdma").flag() != Some(true) {
        found.fail(
            CHECK,
            format!("the client reaches {server} from {client}, whose interface has no RDMA"),
            "connect the client's RDMA adapter to this network, or use an address of this server that the adapter \
             reaches",
        );
    } else {
        found.warn(
            CHECK,
            format!("the client has no RDMA connection from {client} to {server} yet"),
            "run the script while the client copies a large file",
        );
    }
}

fn firewall(report: Fact<'_>, found: &mut Findings) {
    let profiles = report.at("firewall").items().unwrap_or_default();
    let blocks = |it: &&Fact<'_>| {
        it.at("enabled").flag() == Some(true)
            && it.at("outbound").text().as_deref() == Some("Block")
    };
    for profile in profiles.iter().filter(blocks) {
        let name = profile
            .at("profile")
            .text()
            .unwrap_or_else(|| "?".to_owned());
        found.warn(
            "client firewall",
            format!("the client's firewall blocks outgoing connections by default, in its profile {name}"),
            "allow TCP port 5445 to this server (New-NetFirewallRule -Direction Outbound)",
        );
    }
}

fn events(report: Fact<'_>, found: &mut Findings) {
    const CHECK: &str = "client events";
    let events = report.at("events").items().unwrap_or_default();
    let is_of =
        |event: &Fact<'_>, log: &str| event.at("log").text().is_some_and(|it| it.contains(log));
    let (mut failures, mut others) = (Vec::new(), Vec::new());
    for event in &events {
        let Some(id) = event.at("id").number() else {
            continue;
        };
        let count = event.at("count").number().unwrap_or(1);
        if is_of(event, "Connectivity") && id == NOT_BY_RDMA {
            failures.push(format!(
                "{count} times, last at {}",
                event.at("last").text().unwrap_or_default()
            ));
        } else if is_of(event, "SMBDirect") {
            others.push(format!("{count} x {id}"));
        }
    }
    for times in failures {
        found.warn(
            CHECK,
            format!(
                "the client could not connect by RDMA and used TCP ({times}, event {NOT_BY_RDMA})"
            ),
            &format!("the server may not have been this one; otherwise {GUIDES}"),
        );
    }
    if !others.is_empty() {
        let message = format!(
            "the client's event log Microsoft-Windows-SMBDirect/Admin has warnings or errors of the last 7 days: {}",
            others.join(", ")
        );
        found.warn(
            CHECK,
            message,
            "Get-WinEvent Microsoft-Windows-SMBDirect/Admin shows their texts",
        );
    }
}
