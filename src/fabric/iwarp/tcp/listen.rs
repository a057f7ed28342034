// SPDX-License-Identifier: GPL-2.0-or-later

//! The listeners of the fabric.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use mio::net::{TcpListener, TcpStream};

use super::Config;

/// A listening socket.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
}

/// The result of `accept`.
pub(super) enum Accepted {
    Connection(TcpStream, SocketAddr),
    /// No connection is waiting.
    Nobody,
    /// A connection that waited has gone, or the call was interrupted.
    Lost,
    /// The system has no descriptors, or no memory, for the waiting connection.
    Exhausted(io::Error),
}

impl Listener {
    pub(super) fn bind(address: SocketAddr, config: &Config) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None)?;
        if address.is_ipv6() {
            // IPv4 has its own listeners.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        if config.reuse_port {
            socket.set_reuse_port(true)?;
        }
        match address.ip() {
            ip if !config.free_bind || ip.is_unspecified() => {}
            IpAddr::V4(_) => socket.set_freebind_v4(true)?,
            IpAddr::V6(_) => socket.set_freebind_v6(true)?,
        }
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        let socket = TcpListener::from_std(socket.into());
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    pub(super) fn accept(&self) -> Accepted {
        match self.socket.accept() {
            Ok((stream, peer)) => Accepted::Connection(stream, peer),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Accepted::Nobody,
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                    Accepted::Exhausted(error)
                }
                _ => Accepted::Lost,
            },
        }
    }
}
