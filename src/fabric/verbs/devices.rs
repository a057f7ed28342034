// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds the RDMA devices, and checks what they need from the system.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use rustix::process::{Resource, getrlimit};

use super::failed;
use super::ffi::{Channel, CmId};
use crate::fabric::FabricError;
use crate::sys::Memory;

/// The RDMA device of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceKind {
    /// The name, such as `mlx5_0` or `siw0`.
    pub name: String,
    /// Whether the device speaks iWARP, and so shares TCP's ports; RoCE and InfiniBand have ports of their own.
    pub is_iwarp: bool,
}

/// Returns the names of this system's RDMA devices, whether they can be used or not.
#[must_use]
pub fn device_names() -> Vec<String> {
    let devices = std::fs::read_dir("/sys/class/infiniband");
    let devices = devices.into_iter().flatten().flatten();
    let mut names: Vec<String> = devices
        .map(|device| device.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Checks whether RDMA devices can be used here.
///
/// # Errors
///
/// There are no RDMA devices, rdma-core is missing, or the system does not let this process use them.
pub fn check() -> Result<(), FabricError> {
    channel().map(drop)
}

/// Makes an event channel.
pub(super) fn channel() -> Result<Arc<Channel>, FabricError> {
    if device_names().is_empty() {
        let source = io::Error::from_raw_os_error(libc::ENODEV);
        return Err(failed("use RDMA: the system has no RDMA device", source));
    }
    Channel::new().map_err(|source| {
        let what = match source.kind() {
            io::ErrorKind::NotFound => "load rdma-core",
            _ => "use RDMA (/dev/infiniband/rdma_cm)",
        };
        failed(what, source)
    })
}

/// Returns the RDMA device to which a local address belongs, or `None`.
///
/// # Errors
///
/// RDMA cannot be used, or the system does not answer.
pub fn device_of(ip: IpAddr) -> Result<Option<DeviceKind>, FabricError> {
    if device_names().is_empty() || ip.is_unspecified() || ip.is_loopback() {
        return Ok(None);
    }
    let channel = channel()?;
    let id = CmId::new(&channel).map_err(|source| failed("use RDMA", source))?;
    // Port 0 takes any port, and binding selects the device.
    let bound = id.bind(SocketAddr::new(ip, 0));
    let device = bound.and_then(|()| id.device());
    Ok(device.ok().map(|device| DeviceKind {
        name: device.name,
        is_iwarp: device.is_iwarp,
    }))
}

/// Returns the local address from which the system reaches another address. Nothing is sent.
///
/// # Errors
///
/// The system cannot reach the other address.
pub fn source_for(address: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Datagrams cannot go to port 0.
    let port = if address.port() == 0 {
        9
    } else {
        address.port()
    };
    let mut target = address;
    target.set_port(port);
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// Returns the maximum number of bytes that this process may have registered (`RLIMIT_MEMLOCK`); `None` if there is no
/// limit.
#[must_use]
pub fn memory_lock_limit() -> Option<u64> {
    getrlimit(Resource::Memlock).current
}

/// Returns the error for memory that was not registered, with the limit that is usually the reason.
pub(super) fn not_registered(memory: &Memory, error: io::Error) -> FabricError {
    let bytes = memory.len();
    let limit = memory_lock_limit().filter(|_| error.kind() == io::ErrorKind::OutOfMemory);
    let hint = limit.map_or_else(String::new, |limit| {
        format!(
            " (the limit of locked memory, {limit} bytes, covers all registrations of this process \
             together: set LimitMEMLOCK=infinity in its unit, or ulimit -l unlimited)"
        )
    });
    failed(
        &format!("register {bytes} bytes with an RDMA device{hint}"),
        error,
    )
}
