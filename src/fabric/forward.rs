// SPDX-License-Identifier: GPL-2.0-or-later

//! Helps fabrics to forward some of their methods to another fabric.

/// Implements the named methods of [`Fabric`](crate::fabric::Fabric) by calling those of the fabric after `=>`:
/// `forward_fabric!(self => self.inner; listen, unlisten);` in the `impl`.
#[macro_export]
macro_rules! forward_fabric {
    ($self:ident => $inner:expr; $($method:ident),* $(,)?) => {
        $($crate::fabric::forward_fabric! { @$method $self $inner })*
    };
    (@listen $self:ident $inner:expr) => {
        fn listen(
            &mut $self,
            address: ::core::net::SocketAddr,
        ) -> Result<$crate::fabric::ListenerId, $crate::fabric::FabricError> {
            $inner.listen(address)
        }
    };
    (@local_address $self:ident $inner:expr) => {
        fn local_address(
            &$self,
            listener: $crate::fabric::ListenerId,
        ) -> Option<::core::net::SocketAddr> {
            $inner.local_address(listener)
        }
    };
    (@conn_local_address $self:ident $inner:expr) => {
        fn conn_local_address(
            &$self,
            conn: $crate::fabric::ConnId,
        ) -> Option<::core::net::SocketAddr> {
            $inner.conn_local_address(conn)
        }
    };
    (@regions_may_be_invalidated $self:ident $inner:expr) => {
        fn regions_may_be_invalidated(&$self, conn: $crate::fabric::ConnId) -> bool {
            $inner.regions_may_be_invalidated(conn)
        }
    };
    (@unlisten $self:ident $inner:expr) => {
        fn unlisten(&mut $self, listener: $crate::fabric::ListenerId) {
            $inner.unlisten(listener);
        }
    };
    (@admit_at $self:ident $inner:expr) => {
        fn admit_at(&mut $self, addresses: &::std::sync::Arc<$crate::fabric::LocalAddresses>) {
            $inner.admit_at(addresses);
        }
    };
    (@connect $self:ident $inner:expr) => {
        fn connect(
            &mut $self,
            address: ::core::net::SocketAddr,
            limits: $crate::fabric::ReadLimits,
        ) -> Result<$crate::fabric::ConnId, $crate::fabric::FabricError> {
            $inner.connect(address, limits)
        }
    };
    (@accept $self:ident $inner:expr) => {
        fn accept(
            &mut $self,
            conn: $crate::fabric::ConnId,
            limits: $crate::fabric::ReadLimits,
        ) -> Result<(), $crate::fabric::FabricError> {
            $inner.accept(conn, limits)
        }
    };
    (@reject $self:ident $inner:expr) => {
        fn reject(&mut $self, conn: $crate::fabric::ConnId) {
            $inner.reject(conn);
        }
    };
    (@close $self:ident $inner:expr) => {
        fn close(&mut $self, conn: $crate::fabric::ConnId) {
            $inner.close(conn);
        }
    };
    (@register $self:ident $inner:expr) => {
        fn register(
            &mut $self,
            conn: $crate::fabric::ConnId,
            memory: &$crate::sys::Memory,
            access: $crate::fabric::Access,
        ) -> Result<$crate::fabric::Region, $crate::fabric::FabricError> {
            $inner.register(conn, memory, access)
        }
    };
    (@deregister $self:ident $inner:expr) => {
        fn deregister(
            &mut $self,
            conn: $crate::fabric::ConnId,
            region: $crate::fabric::RegionId,
        ) -> Result<(), $crate::fabric::FabricError> {
            $inner.deregister(conn, region)
        }
    };
    (@post_recv $self:ident $inner:expr) => {
        fn post_recv(
            &mut $self,
            conn: $crate::fabric::ConnId,
            wr_id: $crate::fabric::WrId,
            memory: $crate::fabric::Sge,
        ) -> Result<(), $crate::fabric::FabricError> {
            $inner.post_recv(conn, wr_id, memory)
        }
    };
    (@post_send $self:ident $inner:expr) => {
        fn post_send(
            &mut $self,
            conn: $crate::fabric::ConnId,
            wr_id: $crate::fabric::WrId,
            header: &[u8],
            payload: Option<$crate::fabric::Sge>,
            invalidate: Option<$crate::units::RemoteToken>,
        ) -> Result<(), $crate::fabric::FabricError> {
            $inner.post_send(conn, wr_id, header, payload, invalidate)
        }
    };
    (@post_write $self:ident $inner:expr) => {
        fn post_write(
            &mut $self,
            conn: $crate::fabric::ConnId,
            wr_id: $crate::fabric::WrId,
            source: $crate::fabric::Sge,
            target: $crate::fabric::RemoteAddress,
        ) -> Result<(), $crate::fabric::FabricError> {
            $inner.post_write(conn, wr_id, source, target)
        }
    };
    (@post_read $self:ident $inner:expr) => {
        fn post_read(
            &mut $self,
            conn: $crate::fabric::ConnId,
            wr_id: $crate::fabric::WrId,
            sink: $crate::fabric::Sge,
            source: $crate::fabric::RemoteAddress,
        ) -> Result<(), $crate::fabric::FabricError> {
            $inner.post_read(conn, wr_id, sink, source)
        }
    };
    (@moved $self:ident $inner:expr) => {
        fn moved(&$self, conn: $crate::fabric::ConnId) -> $crate::fabric::Moved {
            $inner.moved(conn)
        }
    };
    (@poll $self:ident $inner:expr) => {
        fn poll(
            &mut $self,
            now: $crate::units::Instant,
            events: &mut Vec<$crate::fabric::Event>,
        ) -> Result<(), $crate::fabric::FabricError> {
            $inner.poll(now, events)
        }
    };
    (@poll_timeout $self:ident $inner:expr) => {
        fn poll_timeout(&$self) -> Option<$crate::units::Instant> {
            $inner.poll_timeout()
        }
    };
}

pub use forward_fabric;
