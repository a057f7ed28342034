// SPDX-License-Identifier: GPL-2.0-or-later

//! What the doctor knows about this server. Gathering it is apart from [judging](super::checks) it, so that the tests
//! can judge servers that they cannot have.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::super::status::Device;

/// This server.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The path of the control socket.
    pub(crate) control: String,
    /// The version of this program.
    pub(crate) version: String,
    /// What the device says, or why it says nothing.
    pub(crate) device: Option<Device>,
    pub(crate) silence: Option<Silence>,
    /// Bytes that the device's process may lock; `None`: there is no limit, or it could not be read.
    pub(crate) locked_memory: Option<u64>,
    pub(crate) smbd: Option<Smbd>,
    /// The parameters of `[global]` with their defaults, by name; `None`: testparm could not be run.
    pub(crate) samba: Option<BTreeMap<String, String>>,
    pub(crate) ports: Vec<Port>,
    /// Why RDMA devices cannot be used, if there are some.
    pub(crate) no_rdma: Option<String>,
    pub(crate) interfaces: BTreeMap<String, Interface>,
    /// Whether a process listens at TCP port 5445.
    pub(crate) port_is_taken: bool,
    /// Whether the kernel's own SMB server is loaded.
    pub(crate) has_ksmbd: bool,
    pub(crate) firewall: Firewall,
    /// What connections to the announced addresses came to.
    pub(crate) probes: Vec<Probe>,
    /// Only root sees all of this.
    pub(crate) is_root: bool,
}

/// Why a device says nothing.
#[derive(Debug)]
pub(crate) struct Silence {
    pub(crate) reason: String,
    /// There is none, rather than one that does not answer this user.
    pub(crate) is_absent: bool,
}

/// The program smbd.
#[derive(Debug)]
pub(crate) struct Smbd {
    pub(crate) path: String,
    /// Such as `4.22.11`.
    pub(crate) version: String,
    /// It was built with SMB Direct.
    pub(crate) has_smb_direct: bool,
}

/// A port of an RDMA device.
#[derive(Debug, Default)]
pub(crate) struct Port {
    /// Such as `mlx5_0`.
    pub(crate) device: String,
    pub(crate) number: u32,
    /// Such as `ACTIVE`.
    pub(crate) state: String,
    pub(crate) kind: Kind,
    /// The network interface that it belongs to.
    pub(crate) interface: Option<String>,
    /// The addresses for which it has a RoCE v2 GID.
    pub(crate) roce_v2: Vec<IpAddr>,
    /// By how much each counter of losses grew while the doctor ran.
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
    /// The bridge or bond that it is a part of.
    pub(crate) master: Option<String>,
    pub(crate) has_speed: bool,
}

/// What a firewall says.
#[derive(Debug, Default)]
pub(crate) struct Firewall {
    /// `ufw status verbose`.
    pub(crate) ufw: Option<String>,
    /// `firewall-cmd --list-all`.
    pub(crate) firewalld: Option<String>,
    /// `nft list ruleset`.
    pub(crate) nft: Option<String>,
}

/// A connection of the doctor's own to an announced address.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) address: SocketAddr,
    pub(crate) fabric: String,
    /// How long SMB took to answer, or why it did not.
    pub(crate) result: Result<Duration, String>,
}
