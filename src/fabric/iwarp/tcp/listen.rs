//! Listeners, and how many connections may wait behind them.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};

use mio::net::{TcpListener, TcpStream};

/// A listening socket.
pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) address: SocketAddr,
}

/// What `accept` found.
pub(super) enum Accepted {
    Connection(TcpStream, SocketAddr),
    /// Nobody waits.
    Nobody,
    /// One that waited is gone, or the call was interrupted.
    Lost,
    /// The system has no descriptors, or no memory, for the one that waits.
    Exhausted(io::Error),
}

impl Listener {
    pub(super) fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Self> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), None)?;
        if address.is_ipv6() {
            // IPv4 has listeners of its own.
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        if reuse_port {
            socket.set_reuse_port(true)?;
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

/// Connections that have not finished the handshake, in total and by source address.
pub(super) struct Pending {
    total: usize,
    by_source: HashMap<IpAddr, usize>,
    max_total: usize,
    max_per_source: usize,
}

impl Pending {
    pub(super) fn new(max_total: usize, max_per_source: usize) -> Self {
        Self {
            total: 0,
            by_source: HashMap::new(),
            max_total,
            max_per_source,
        }
    }

    pub(super) const fn total(&self) -> usize {
        self.total
    }

    /// Takes a place; `false` where there is none.
    pub(super) fn take(&mut self, source: IpAddr) -> bool {
        let of_source = self.by_source.get(&source).copied().unwrap_or(0);
        if self.total >= self.max_total || of_source >= self.max_per_source {
            return false;
        }
        self.total += 1;
        self.by_source.insert(source, of_source + 1);
        true
    }

    /// Gives a place back.
    pub(super) fn give(&mut self, source: IpAddr) {
        self.total = self.total.saturating_sub(1);
        if let Some(of_source) = self.by_source.get_mut(&source) {
            *of_source -= 1;
            if *of_source == 0 {
                self.by_source.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_in_total_and_by_source() {
        let mut pending = Pending::new(3, 2);
        let [a, b, c]: [IpAddr; 3] = ["10.0.0.1", "10.0.0.2", "::1"].map(|ip| ip.parse().unwrap());
        assert!(pending.take(a) && pending.take(a) && !pending.take(a));
        assert!(pending.take(b) && !pending.take(c));
        pending.give(a);
        assert!(pending.take(c) && !pending.take(a));
        for source in [a, b, c] {
            pending.give(source);
        }
        assert_eq!((pending.total(), pending.by_source.len()), (0, 0));
    }
}
