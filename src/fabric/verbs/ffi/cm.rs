// SPDX-License-Identifier: GPL-2.0-or-later

//! The connection manager: event channels, identifiers, events.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockAddr;

use super::abi;

/// How often a queue pair tries again before it gives up on a peer that does not answer.
const RETRY_COUNT: u8 = 7;

/// Returns the result of a call that reports errors by -1 and `errno`.
pub(super) fn check(result: c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes a descriptor of the libraries non-blocking.
pub(super) fn do_not_wait(fd: BorrowedFd<'_>) -> io::Result<()> {
    rustix::io::ioctl_fionbio(fd, true).map_err(io::Error::from)
}

/// The channel on which events of identifiers arrive. Its descriptor does not block.
pub(in super::super) struct Channel(NonNull<abi::rdma_event_channel>);

// SAFETY: the library's functions on a channel may be called from any thread.
unsafe impl Send for Channel {}
// SAFETY: as for `Send`; each event is taken by a system call of its own.
unsafe impl Sync for Channel {}

impl Channel {
    /// Makes a channel without identifiers.
    pub(in super::super) fn new() -> io::Result<Arc<Self>> {
        abi::load()?;
        // SAFETY: the call takes no arguments.
        let channel = unsafe { abi::rdma_create_event_channel() };
        let channel = NonNull::new(channel).ok_or_else(io::Error::last_os_error)?;
        let channel = Arc::new(Self(channel));
        do_not_wait(channel.as_fd())?;
        Ok(channel)
    }

    /// Returns the next event, if there is one.
    pub(in super::super) fn next_event(self: &Arc<Self>) -> io::Result<Option<CmEvent>> {
        let mut event = ptr::null_mut();
        // SAFETY: the channel lives as long as `self`; `event` is written on success only.
        let result = unsafe { abi::rdma_get_cm_event(self.0.as_ptr(), &raw mut event) };
        if let Err(error) = check(result) {
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: a successful call gives an event, which this function owns until it is
        // acknowledged below; nothing else has a pointer to it.
        let taken = CmEvent::copy(self, unsafe { &*event });
        // SAFETY: the event is acknowledged once, and the reference above no longer exists.
        unsafe { abi::rdma_ack_cm_event(event) };
        Ok(Some(taken))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the library made the channel and does not change its descriptor.
        let fd = unsafe { self.0.as_ref() }.fd;
        // SAFETY: the descriptor is open as long as the channel, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: each identifier holds the channel, so there is none left.
        unsafe { abi::rdma_destroy_event_channel(self.0.as_ptr()) }
    }
}

/// The kind of an event (`enum rdma_cm_event_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Kind {
    AddressResolved,
    RouteResolved,
    /// The address or the route was not found.
    NotResolved,
    ConnectRequest,
    /// No connection was established: the peer was unreachable, or did not answer.
    NotConnected,
    Rejected,
    Established,
    Disconnected,
    DeviceRemoval,
    /// The peer has forgotten the connection: nothing more of it arrives.
    TimeWaitExit,
    Other(c_uint),
}

impl Kind {
    const fn new(kind: c_uint) -> Self {
        match kind {
            0 => Self::AddressResolved,
            2 => Self::RouteResolved,
            1 | 3 => Self::NotResolved,
            4 => Self::ConnectRequest,
            6 | 7 => Self::NotConnected,
            8 => Self::Rejected,
            9 => Self::Established,
            10 => Self::Disconnected,
            11 => Self::DeviceRemoval,
            15 => Self::TimeWaitExit,
            other => Self::Other(other),
        }
    }
}

/// Numbers of RDMA READs at a time, in the connection manager's terms: 255 at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Depths {
    pub(in super::super) responder_resources: u8,
    pub(in super::super) initiator_depth: u8,
}

/// An event, copied.
#[derive(Debug)]
pub(in super::super) struct CmEvent {
    /// [`CmId::key`] of the event's identifier; for a request, that of the listener.
    pub(in super::super) key: usize,
    pub(in super::super) kind: Kind,
    /// The status: 0, a negative `errno`, or, with `Rejected`, the transport's reason.
    pub(in super::super) status: i32,
    pub(in super::super) depths: Depths,
    pub(in super::super) private_data: Vec<u8>,
    /// With `ConnectRequest`, the identifier of the new connection.
    pub(in super::super) id: Option<CmId>,
}

impl CmEvent {
    fn copy(channel: &Arc<Channel>, event: &abi::rdma_cm_event) -> Self {
        let kind = Kind::new(event.event);
        let is_request = kind == Kind::ConnectRequest;
        let id = NonNull::new(event.id).filter(|_| is_request);
        let conn = &event.conn;
        let private_data = match kind {
            Kind::ConnectRequest | Kind::Established if !conn.private_data.is_null() => {
                let (start, length) = (conn.private_data.cast(), conn.private_data_len.into());
                // SAFETY: with these events the library keeps `private_data_len` bytes there until
                // the event is acknowledged, which the caller does after this.
                unsafe { std::slice::from_raw_parts::<u8>(start, length) }.to_vec()
            }
            _ => Vec::new(),
        };
        let about = if is_request {
            event.listen_id
        } else {
            event.id
        };
        Self {
            key: about.addr(),
            kind,
            status: event.status,
            depths: Depths {
                responder_resources: conn.responder_resources,
                initiator_depth: conn.initiator_depth,
            },
            private_data,
            id: id.map(|id| CmId {
                id,
                _channel: Arc::clone(channel),
            }),
        }
    }
}

/// The properties of a device that a fabric has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Device {
    /// The name, such as `mlx5_0` or `siw0`.
    pub(in super::super) name: String,
    pub(in super::super) is_iwarp: bool,
    /// Whether the device can carry out a SEND that invalidates (`IBV_DEVICE_MEM_MGT_EXTENSIONS`).
    pub(in super::super) sends_invalidate: bool,
    pub(in super::super) max_qp_wr: u32,
    pub(in super::super) max_cqe: u32,
    /// Maximum numbers of RDMA READs that the device serves, and that it has outstanding, at a time.
    pub(in super::super) max_depths: Depths,
}

/// An identifier (`rdma_cm_id`): a listener, or a connection.
pub(in super::super) struct CmId {
    id: NonNull<abi::rdma_cm_id>,
    /// The channel, which outlives the identifier.
    _channel: Arc<Channel>,
}

// SAFETY: the library's functions on an identifier may be called from any thread.
unsafe impl Send for CmId {}

impl std::fmt::Debug for CmId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CmId({:#x})", self.key())
    }
}

impl Drop for CmId {
    fn drop(&mut self) {
        // SAFETY: `self` owns the identifier, whose events are acknowledged as they are taken, and the queue pair that
        // depends on the identifier is owned by a value that ends before it.
        let result = unsafe { abi::rdma_destroy_id(self.id.as_ptr()) };
        if let Err(error) = check(result) {
            tracing::debug!(%error, "rdma_destroy_id");
        }
    }
}

impl CmId {
    /// Makes an identifier without an address.
    pub(in super::super) fn new(channel: &Arc<Channel>) -> io::Result<Self> {
        let mut id = ptr::null_mut();
        // SAFETY: the identifier that this makes holds the channel.
        let result = unsafe {
            abi::rdma_create_id(
                channel.0.as_ptr(),
                &raw mut id,
                ptr::null_mut(),
                abi::RDMA_PS_TCP,
            )
        };
        check(result)?;
        let id = NonNull::new(id).ok_or_else(|| io::Error::other("no rdma_cm_id"))?;
        Ok(Self {
            id,
            _channel: Arc::clone(channel),
        })
    }

    /// Returns the number that names the identifier in events.
    pub(in super::super) fn key(&self) -> usize {
        self.id.addr().get()
    }

    pub(super) fn as_ptr(&self) -> *mut abi::rdma_cm_id {
        self.id.as_ptr()
    }

    /// Binds to a local address. Any address except an unspecified one selects the device.
    pub(in super::super) fn bind(&self, address: SocketAddr) -> io::Result<()> {
        if address.is_ipv6() {
            let mut only: c_int = 1;
            let value: *mut c_int = &raw mut only;
            // SAFETY: the option is an `int`, which `value` points to during the call.
            let result = unsafe {
                abi::rdma_set_option(
                    self.as_ptr(),
                    abi::RDMA_OPTION_ID,
                    abi::RDMA_OPTION_ID_AFONLY,
                    value.cast::<c_void>(),
                    size_of::<c_int>(),
                )
            };
            check(result)?;
        }
        let address = SockAddr::from(address);
        let pointer = address.as_ptr().cast_mut().cast::<libc::sockaddr>();
        // SAFETY: the address is read, as long as its family says, during the call.
        check(unsafe { abi::rdma_bind_addr(self.as_ptr(), pointer) })
    }

    /// Starts to listen.
    pub(in super::super) fn listen(&self, backlog: i32) -> io::Result<()> {
        // SAFETY: `self` owns the identifier.
        check(unsafe { abi::rdma_listen(self.as_ptr(), backlog) })
    }

    /// Starts to resolve a peer's address: `AddressResolved` or `NotResolved` follows.
    pub(in super::super) fn resolve_address(
        &self,
        address: SocketAddr,
        time: Duration,
    ) -> io::Result<()> {
        let address = SockAddr::from(address);
        let pointer = address.as_ptr().cast_mut().cast::<libc::sockaddr>();
        // SAFETY: the address is read during the call; without a source, the bound address is used.
        let result = unsafe {
            abi::rdma_resolve_addr(self.as_ptr(), ptr::null_mut(), pointer, milliseconds(time))
        };
        check(result)
    }

    /// Starts to resolve the route to a peer: `RouteResolved` or `NotResolved` follows.
    pub(in super::super) fn resolve_route(&self, time: Duration) -> io::Result<()> {
        // SAFETY: `self` owns the identifier.
        check(unsafe { abi::rdma_resolve_route(self.as_ptr(), milliseconds(time)) })
    }

    /// Asks the peer for a connection: `Established`, `Rejected` or `NotConnected` follows.
    pub(in super::super) fn connect(&self, depths: Depths, private_data: &[u8]) -> io::Result<()> {
        let mut parameters = parameters(depths, private_data)?;
        // SAFETY: the parameters, and the data to which they point, are read during the call.
        check(unsafe { abi::rdma_connect(self.as_ptr(), &raw mut parameters) })
    }

    /// Accepts a request: `Established` follows.
    pub(in super::super) fn accept(&self, depths: Depths, private_data: &[u8]) -> io::Result<()> {
        let mut parameters = parameters(depths, private_data)?;
        // SAFETY: as in `connect`.
        check(unsafe { abi::rdma_accept(self.as_ptr(), &raw mut parameters) })
    }

    /// Turns a request away.
    pub(in super::super) fn reject(&self) -> io::Result<()> {
        // SAFETY: no private data is read if its length is 0.
        check(unsafe { abi::rdma_reject(self.as_ptr(), ptr::null(), 0) })
    }

    /// Ends a connection, and answers a peer that has ended it.
    pub(in super::super) fn disconnect(&self) -> io::Result<()> {
        // SAFETY: `self` owns the identifier.
        check(unsafe { abi::rdma_disconnect(self.as_ptr()) })
    }

    /// Tells the connection manager that data has arrived on a connection that it does not know to
    /// be established yet.
    pub(in super::super) fn notify_established(&self) {
        // SAFETY: `self` owns the identifier.
        let result = unsafe { abi::rdma_notify(self.as_ptr(), super::endpoint::COMM_EST) };
        if let Err(error) = check(result) {
            tracing::debug!(%error, "rdma_notify");
        }
    }

    fn fields(&self) -> &abi::rdma_cm_id {
        // SAFETY: `self` owns the identifier, and the library changes these fields only during its
        // own calls, which take `self`, or an event of it, on the same thread.
        unsafe { self.id.as_ref() }
    }

    /// Returns this side's address, once there is one.
    pub(in super::super) fn local_address(&self) -> Option<SocketAddr> {
        address(&self.fields().src_addr)
    }

    /// Returns the peer's address, once there is one.
    pub(in super::super) fn peer_address(&self) -> Option<SocketAddr> {
        address(&self.fields().dst_addr)
    }

    pub(super) fn context(&self) -> Option<NonNull<abi::ibv_context>> {
        NonNull::new(self.fields().verbs)
    }

    /// Returns the queue pair, or null before there is one.
    pub(super) fn queue_pair(&self) -> *mut abi::ibv_qp {
        self.fields().qp
    }

    /// Returns the device, once it is known.
    pub(in super::super) fn device(&self) -> io::Result<Device> {
        let context = self.context().ok_or_else(no_device)?;
        // SAFETY: the context belongs to the library, which keeps it as long as an identifier has
        // that device; its fields do not change.
        let device = unsafe { context.as_ref() }.device;
        let device = NonNull::new(device).ok_or_else(no_device)?;
        // SAFETY: as for the context, which has the device.
        let device = unsafe { device.as_ref() };
        // SAFETY: the structure consists of numbers, for which zeros are valid.
        let mut attributes: abi::ibv_device_attr = unsafe { std::mem::zeroed() };
        // SAFETY: the context is as above; the call writes `attributes`.
        let result = unsafe { abi::ibv_query_device(context.as_ptr(), &raw mut attributes) };
        if result != 0 {
            return Err(io::Error::from_raw_os_error(result.abs()));
        }
        let name: Vec<u8> = device.name.iter().map(|c| c.to_ne_bytes()[0]).collect();
        let name = CStr::from_bytes_until_nul(&name).map_or("", |name| name.to_str().unwrap_or(""));
        let narrow = |depth: c_int| u8::try_from(depth.max(0)).unwrap_or(u8::MAX);
        Ok(Device {
            name: name.to_owned(),
            is_iwarp: device.transport_type == abi::IBV_TRANSPORT_IWARP,
            sends_invalidate: attributes.device_cap_flags & abi::IBV_DEVICE_MEM_MGT_EXTENSIONS != 0,
            max_qp_wr: u32::try_from(attributes.max_qp_wr).unwrap_or(0),
            max_cqe: u32::try_from(attributes.max_cqe).unwrap_or(0),
            max_depths: Depths {
                responder_resources: narrow(attributes.max_qp_rd_atom),
                initiator_depth: narrow(attributes.max_qp_init_rd_atom),
            },
        })
    }
}

pub(super) fn no_device() -> io::Error {
    io::Error::from_raw_os_error(libc::ENODEV)
}

fn milliseconds(time: Duration) -> c_int {
    c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX)
}

fn parameters(depths: Depths, private_data: &[u8]) -> io::Result<abi::rdma_conn_param> {
    let length = u8::try_from(private_data.len());
    Ok(abi::rdma_conn_param {
        private_data: private_data.as_ptr().cast(),
        private_data_len: length.map_err(io::Error::other)?,
        responder_resources: depths.responder_resources,
        initiator_depth: depths.initiator_depth,
        flow_control: 0,
        retry_count: RETRY_COUNT,
        // SMB Direct never sends a message for which there is no receive; a peer that sends such a message ends the
        // connection.
        rnr_retry_count: 0,
        srq: 0,
        qp_num: 0,
    })
}

/// Converts a `sockaddr`; returns `None` if it is empty, or of another family.
fn address(address: &abi::Address) -> Option<SocketAddr> {
    let bytes = &address.0;
    let family = i32::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok();
    match family {
        libc::AF_INET => {
            let ip: [u8; 4] = word(4)?;
            Some((Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope_id = u32::from_ne_bytes(word(24)?);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope_id).into())
        }
        _ => None,
    }
}
