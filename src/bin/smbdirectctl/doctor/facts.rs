// SPDX-License-Identifier: GPL-2.0-or-later

//! The facts that the doctor knows about this server. They are gathered and [judged](super::checks) separately, so that
//! the tests can judge servers that do not exist.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::status::Device;

/// The facts about this server.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The path of the control socket.
    pub(crate) control: String,
    /// The version of this program.
    pub(crate) version: String,
    /// What the device reports, or why it does not report anything.
    pub(crate) device: Option<Device>,
    pub(crate) silence: Option<Silence>,
    /// Number of bytes that the device's process may lock; `None` if there is no limit, or it could not be read.
    pub(crate) locked_memory: Option<u64>,
    pub(crate) smbd: Option<Smbd>,
    /// The parameters of `[global]` with their defaults, by name; `None` if testparm did not print them.
    pub(crate) samba: Option<BTreeMap<String, String>>,
    pub(crate) ports: Vec<Port>,
    /// Why the RDMA devices of this server cannot be used.
    pub(crate) no_rdma: Option<String>,
    pub(crate) interfaces: BTreeMap<String, Interface>,
    /// Whether a process listens on TCP port 5445.
    pub(crate) port_is_taken: bool,
    /// Whether the kernel's own SMB server is loaded.
    pub(crate) has_ksmbd: bool,
    pub(crate) firewall: Firewall,
    /// The results of connections to the announced addresses.
    pub(crate) probes: Vec<Probe>,
    /// Whether this program runs as root: only root sees all of these facts.
    pub(crate) is_root: bool,
    /// Whether the device is, or would be, the kernel's.
    pub(crate) is_kernel: bool,
    /// Why the facts for a check could not be gathered, by the name of the check.
    pub(crate) unknown: BTreeMap<&'static str, String>,
}

/// Why a device does not report anything.
#[derive(Debug)]
pub(crate) struct Silence {
    pub(crate) reason: String,
    /// Whether there is no device, rather than one that does not answer this user.
    pub(crate) is_absent: bool,
}

/// The program smbd.
#[derive(Debug)]
pub(crate) struct Smbd {
    pub(crate) path: String,
    /// The version, such as `4.22.11`.
    pub(crate) version: String,
    /// Whether it was built with SMB Direct.
    pub(crate) has_smb_direct: bool,
}

/// A port of an RDMA device.
#[derive(Debug, Default)]
pub(crate) struct Port {
    /// The name of the device, such as `mlx5_0`.
    pub(crate) device: String,
    pub(crate) number: u32,
    /// The state, such as `ACTIVE`.
    pub(crate) state: String,
    pub(crate) kind: Kind,
    /// Whether the device is RoCE in software (rxe), whose packets the system's firewall sees.
    pub(crate) is_rxe: bool,
    /// The network interface of the port.
    pub(crate) interface: Option<String>,
    /// The addresses for which the port has a RoCE v2 GID.
    pub(crate) roce_v2: Vec<IpAddr>,
    /// How much each loss counter grew while the doctor ran.
    pub(crate) losses: BTreeMap<String, u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    InfiniBand,
    #[default]
    Roce,
    Iwarp,
}

/// A network interface.
#[derive(Debug, Default)]
pub(crate) struct Interface {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) is_bridge: bool,
    /// The bridge or bond of which it is a part.
    pub(crate) master: Option<String>,
    pub(crate) has_speed: bool,
}

/// The rules of firewalls.
#[derive(Debug, Default)]
pub(crate) struct Firewall {
    /// The output of `ufw status verbose`.
    pub(crate) ufw: Option<String>,
    /// The output of `firewall-cmd --list-all-zones`.
    pub(crate) firewalld: Option<String>,
    /// The output of `firewall-cmd --get-default-zone`.
    pub(crate) default_zone: Option<String>,
    /// The output of `nft list ruleset`.
    pub(crate) nft: Option<String>,
}

/// One of the doctor's own connections to an announced address.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) address: SocketAddr,
    pub(crate) fabric: String,
    /// How long SMB took to answer, or why it did not.
    pub(crate) result: Result<Duration, String>,
}
