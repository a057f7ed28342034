// SPDX-License-Identifier: GPL-2.0-or-later

//! Decides which fabric serves each address: the one that is configured, or else an RDMA device if the address has one,
//! or software if not.
//!
//! | `listen` names | with RDMA devices | without |
//! |---|---|---|
//! | an address | its device, if it has one; else software | software |
//! | all addresses of a family | a device for each that has one, software for the others | software for all |
//!
//! iWARP devices share the ports of TCP. So beside an iWARP device, software cannot listen on the unspecified address:
//! software takes the other addresses one by one, except for those that no other machine can reach. An iWARP device
//! never takes port 445, which smbd uses. RoCE and InfiniBand have ports of their own; their clients try SMB Direct on
//! port 445 as well as on port 5445. The system is asked for its addresses and devices once, when the broker starts.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::addresses::{Local, is_near, locals};
use super::config::{Config, Listen, PORT};
use crate::fabric::FabricKind;

/// The port of SMB, on which RoCE and InfiniBand devices accept SMB Direct as well.
pub(super) const SMB_PORT: u16 = 445;

/// An error: the fabric that the configuration asks for is not available.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotPlaced(String);

/// The RDMA device of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) is_iwarp: bool,
}

/// Finds the device of an address.
type Devices<'a> = dyn Fn(IpAddr) -> Result<Option<Device>, NotPlaced> + 'a;

impl Config {
    /// Decides for each address of `listen` which fabric serves it. A second call has no effect.
    ///
    /// # Errors
    ///
    /// The configuration asks for RDMA devices that cannot be used. The error's text is a message for people.
    pub fn place(&mut self) -> Result<(), NotPlaced> {
        let locals = machine()?;
        if self
            .listen
            .iter()
            .all(|listen| listen.fabric.is_some_and(|_| !is_wild(listen)))
        {
            // There is nothing left to decide, but the devices that are asked for have to exist.
            for listen in &self.listen {
                if listen.fabric == Some(FabricKind::Verbs) {
                    needed(listen, &locals, &device_of)?;
                }
            }
            return Ok(());
        }
        self.listen = place(&self.listen, self.fabric, &locals, &device_of)?;
        Ok(())
    }
}

/// Returns the names of this machine's RDMA devices that do not serve an address of a [placed](Config::place)
/// configuration.
#[must_use]
pub fn unused_devices(config: &Config) -> Vec<String> {
    let is_verbs = |listen: &&Listen| listen.fabric == Some(FabricKind::Verbs);
    let used = config.listen.iter().filter(is_verbs);
    let used = used.filter_map(|listen| device_of(listen.address.ip()).ok().flatten());
    let used: Vec<String> = used.map(|device| device.name).collect();
    let mut names = crate::fabric::verbs::device_names();
    names.retain(|name| !used.contains(name));
    names
}

/// Returns whether an address still has to be replaced by addresses of this machine.
fn is_wild(listen: &Listen) -> bool {
    listen.address.ip().is_unspecified() && listen.fabric == Some(FabricKind::Verbs)
}

fn place(
    listen: &[Listen],
    default: Option<FabricKind>,
    locals: &[Local],
    devices: &Devices<'_>,
) -> Result<Vec<Listen>, NotPlaced> {
    let mut placed: Vec<Listen> = Vec::new();
    for listen in listen {
        let kind = listen.fabric.or(default);
        let found = match (kind, listen.address.ip().is_unspecified()) {
            (Some(FabricKind::Software), _) => vec![of_kind(listen, FabricKind::Software)],
            (Some(FabricKind::Verbs), false) => {
                needed(listen, locals, devices)?;
                vec![of_kind(listen, FabricKind::Verbs)]
            }
            (None, false) => {
                let kind = match device(listen, devices) {
                    Ok(Some(_)) => FabricKind::Verbs,
                    // RDMA errors are reported elsewhere, together with the devices that are not used.
                    Ok(None) | Err(_) => FabricKind::Software,
                };
                vec![of_kind(listen, kind)]
            }
            (_, true) => every(listen, kind, locals, devices)?,
        };
        for found in found {
            let is_known = |known: &&Listen| {
                known.address == found.address
                    && known.fabric == found.fabric
                    && found.address.port() != 0
            };
            if !placed.iter().any(|known| is_known(&known)) {
                placed.push(found);
            }
        }
    }
    if placed.is_empty() {
        let all: Vec<String> = listen
            .iter()
            .map(|listen| listen.address.to_string())
            .collect();
        return Err(NotPlaced(format!(
            "no address of {} belongs to an RDMA device (rdma link, ip address)",
            all.join(", ")
        )));
    }
    Ok(placed)
}

/// Decides for one entry of `listen` which fabric serves it, as [`Config::place`] does for all.
pub(super) fn place_entry(
    entry: &Listen,
    default: Option<FabricKind>,
) -> Result<Vec<Listen>, NotPlaced> {
    place(&[*entry], default, &machine()?, &device_of)
}

fn machine() -> Result<Vec<Local>, NotPlaced> {
    locals().map_err(|error| {
        NotPlaced(format!(
            "cannot list the addresses of this machine: {error}"
        ))
    })
}

fn of_kind(listen: &Listen, kind: FabricKind) -> Listen {
    Listen {
        fabric: Some(kind),
        ..*listen
    }
}

/// Replaces an unspecified address by all addresses of its family.
fn every(
    listen: &Listen,
    kind: Option<FabricKind>,
    locals: &[Local],
    devices: &Devices<'_>,
) -> Result<Vec<Listen>, NotPlaced> {
    let family = locals
        .iter()
        .filter(|local| local.ip.is_ipv4() == listen.address.is_ipv4());
    let (mut with_device, mut others, mut any_iwarp) = (Vec::new(), Vec::new(), false);
    for local in family {
        let address = match local.ip {
            IpAddr::V4(ip) => (ip, listen.address.port()).into(),
            IpAddr::V6(ip) => {
                SocketAddrV6::new(ip, listen.address.port(), 0, local.scope_id).into()
            }
        };
        let at = Listen { address, ..*listen };
        if is_near(local.ip) {
            // No other machine can reach this address; a configuration that needs it can name it.
            continue;
        }
        let found = match device(&at, devices) {
            Err(_) if kind.is_none() => None,
            found => found?,
        };
        match found {
            // This TCP port belongs to smbd.
            Some(device) if device.is_iwarp && address.port() == SMB_PORT => {}
            Some(device) => {
                any_iwarp |= device.is_iwarp;
                with_device.push(of_kind(&at, FabricKind::Verbs));
            }
            None => others.push(of_kind(&at, FabricKind::Software)),
        }
    }
    match kind {
        Some(FabricKind::Verbs) => Ok(with_device),
        _ if any_iwarp => Ok([with_device, others].concat()),
        _ => {
            with_device.push(of_kind(listen, FabricKind::Software));
            Ok(with_device)
        }
    }
}

fn device(listen: &Listen, devices: &Devices<'_>) -> Result<Option<Device>, NotPlaced> {
    devices(listen.address.ip())
}

/// Checks that an RDMA device can serve an address: the address belongs to such a device, or may do so once this
/// machine has the address.
fn needed(listen: &Listen, locals: &[Local], devices: &Devices<'_>) -> Result<(), NotPlaced> {
    let address = listen.address;
    match device(listen, devices)? {
        None if locals.iter().all(|local| local.ip != address.ip()) => Ok(()),
        None => Err(NotPlaced(format!(
            "{address} does not belong to an RDMA device (rdma link, ip address)"
        ))),
        Some(device) if device.is_iwarp && address.port() == SMB_PORT => Err(NotPlaced(format!(
            "{address} belongs to {}, an iWARP device: it shares TCP's ports, and smbd uses port 445; \
             SMB Direct over iWARP uses {PORT}",
            device.name
        ))),
        Some(_) => Ok(()),
    }
}

fn device_of(ip: IpAddr) -> Result<Option<Device>, NotPlaced> {
    let device = crate::fabric::verbs::device_of(ip);
    let device = device.map_err(|error| NotPlaced(error.to_string()))?;
    Ok(device.map(|device| Device {
        name: device.name,
        is_iwarp: device.is_iwarp,
    }))
}

/// Returns the second address on which the device that serves `listen` accepts SMB Direct, if there is one.
pub(super) fn companion(listen: &Listen) -> Option<SocketAddr> {
    let is_verbs = listen.fabric == Some(FabricKind::Verbs);
    if !is_verbs || listen.address.port() != PORT {
        return None;
    }
    let device = device_of(listen.address.ip()).ok().flatten()?;
    let mut address = listen.address;
    address.set_port(SMB_PORT);
    (!device.is_iwarp).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(ip: &str) -> Local {
        Local {
            ip: ip.parse().unwrap(),
            scope_id: 0,
            interface: "eth0".to_owned(),
            index: 1,
            speed: None,
            is_up: true,
        }
    }

    /// Finds devices: 10.0.x.x belongs to a RoCE device, 10.1.x.x to an iWARP device. For 10.9.x.x, the
    /// search fails.
    fn devices(ip: IpAddr) -> Result<Option<Device>, NotPlaced> {
        let IpAddr::V4(ip) = ip else {
            return Ok(None);
        };
        Ok(match ip.octets() {
            [10, 9, ..] => return Err(NotPlaced("no rdma-core".to_owned())),
            [10, is_iwarp @ (0 | 1), ..] => Some(Device {
                name: "dev".to_owned(),
                is_iwarp: is_iwarp == 1,
            }),
            _ => None,
        })
    }

    fn placed(
        listen: &[&str],
        default: Option<FabricKind>,
        locals: &[&str],
    ) -> Result<Vec<String>, String> {
        let listen: Vec<Listen> = listen.iter().map(|text| text.parse().unwrap()).collect();
        let locals: Vec<Local> = locals.iter().map(|ip| local(ip)).collect();
        let placed = place(&listen, default, &locals, &devices);
        let shown = |listen: &Listen| format!("{} {}", listen.address, listen.fabric.unwrap());
        placed
            .map(|placed| placed.iter().map(shown).collect())
            .map_err(|error| error.to_string())
    }

    fn auto(listen: &[&str], locals: &[&str]) -> Vec<String> {
        placed(listen, None, locals).unwrap()
    }

    #[test]
    fn an_address_is_served_by_its_device() {
        assert_eq!(
            auto(&["10.0.0.1", "10.1.0.1:5446", "10.2.0.1"], &[]),
            [
                "10.0.0.1:5445 verbs",
                "10.1.0.1:5446 verbs",
                "10.2.0.1:5445 software"
            ]
        );
    }

    #[test]
    fn where_rdma_cannot_be_used_software_serves_unless_devices_are_asked_for() {
        assert_eq!(auto(&["10.9.0.1"], &[]), ["10.9.0.1:5445 software"]);
        assert_eq!(
            auto(&["0.0.0.0"], &["10.9.0.1", "10.2.0.1"]),
            ["0.0.0.0:5445 software"]
        );
        for listen in ["10.9.0.1", "0.0.0.0"] {
            let asked_for = placed(&[listen], Some(FabricKind::Verbs), &["10.9.0.1"]);
            assert_eq!(asked_for, Err("no rdma-core".to_owned()));
        }
    }

    #[test]
    fn without_devices_software_has_all_addresses() {
        assert_eq!(
            auto(
                &["0.0.0.0", "[::]"],
                &["127.0.0.1", "10.2.0.1", "2001:db8::1"]
            ),
            ["0.0.0.0:5445 software", "[::]:5445 software"]
        );
    }

    #[test]
    fn software_has_all_addresses_beside_devices_with_ports_of_their_own() {
        assert_eq!(
            auto(&["0.0.0.0"], &["127.0.0.1", "10.0.0.1", "10.2.0.1"]),
            ["10.0.0.1:5445 verbs", "0.0.0.0:5445 software"]
        );
    }

    #[test]
    fn software_leaves_the_addresses_of_iwarp_devices() {
        assert_eq!(
            auto(&["0.0.0.0"], &["127.0.0.1", "10.1.0.1", "10.2.0.1"]),
            ["10.1.0.1:5445 verbs", "10.2.0.1:5445 software"]
        );
    }

    #[test]
    fn no_iwarp_device_takes_the_port_of_smb() {
        let verbs = Some(FabricKind::Verbs);
        let error = placed(&["10.1.0.1:445"], verbs, &[]).unwrap_err();
        assert!(error.contains("iWARP") && error.contains("5445"), "{error}");
        assert_eq!(
            placed(&["0.0.0.0:445"], verbs, &["10.0.0.1", "10.1.0.1"]).unwrap(),
            ["10.0.0.1:445 verbs"]
        );
    }

    #[test]
    fn what_is_asked_for_and_not_there_is_an_error() {
        let verbs = Some(FabricKind::Verbs);
        for listen in ["10.2.0.1", "0.0.0.0"] {
            let error = placed(&[listen], verbs, &["10.2.0.1"]).unwrap_err();
            assert!(error.contains("RDMA device"), "{error}");
        }
        assert_eq!(
            placed(&["10.2.0.9"], verbs, &["10.2.0.1"]).unwrap(),
            ["10.2.0.9:5445 verbs"],
            "an address that may come"
        );
        let software = Some(FabricKind::Software);
        assert_eq!(
            placed(&["10.0.0.1", "0.0.0.0"], software, &["10.0.0.1"]).unwrap(),
            ["10.0.0.1:5445 software", "0.0.0.0:5445 software"]
        );
    }
}
