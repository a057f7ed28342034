// SPDX-License-Identifier: GPL-2.0-or-later

//! One connection's objects on its device: protection domain, memory regions, queues.

use std::collections::VecDeque;
use std::ffi::{c_int, c_uint};
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use super::abi;
use super::cm::{CmId, Device, check, do_not_wait, no_device};
use super::objects::{CompletionChannel, Cq, Mr, Pd, Qp, create_qp};
use crate::fabric::{Access, MAX_SEND_HEADER};
use crate::sys::Memory;

/// Maximum number of completions taken in one call.
const BATCH: usize = 64;
/// Number of notifications that are acknowledged together, because acknowledging takes a lock.
const ACKNOWLEDGE: u32 = 256;

const QP_FATAL: c_uint = 1;
const QP_REQUEST_ERROR: c_uint = 2;
const QP_ACCESS_ERROR: c_uint = 3;
pub(super) const COMM_EST: c_uint = 4;
const DEVICE_FATAL: c_uint = 8;
const CQ_ERROR: c_uint = 0;

/// How a work request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Completed {
    pub(in super::super) wr_id: u64,
    /// The status: `enum ibv_wc_status`.
    pub(in super::super) status: u32,
    /// Length of the message in bytes, for a receive that succeeded.
    pub(in super::super) length: u32,
    /// The key of the region that the peer has invalidated, if the device reports it.
    pub(in super::super) invalidated: Option<u32>,
}

/// What a work request of the send queue does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Operation {
    Send { invalidate: Option<u32> },
    Write { address: u64, key: u32 },
    Read { address: u64, key: u32 },
}

/// A piece of a region.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Piece {
    /// The number that [`Endpoint::register`] gave the region.
    pub(in super::super) region: usize,
    pub(in super::super) offset: u32,
    pub(in super::super) length: u32,
}

/// A work request of the send queue.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct WorkRequest {
    pub(in super::super) wr_id: u64,
    pub(in super::super) operation: Operation,
    /// The slot and the length of a header that precedes the data.
    pub(in super::super) header: Option<(u32, u32)>,
    pub(in super::super) memory: Option<Piece>,
}

/// An error: some work requests were not posted.
#[derive(Debug)]
pub(in super::super) struct PostFailed {
    /// Number of work requests that were posted before the one that failed.
    pub(in super::super) posted: usize,
    pub(in super::super) error: io::Error,
}

/// The kind of an asynchronous event of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum AsyncKind {
    /// A queue pair or completion queue has failed.
    Fatal,
    /// The peer asked for something that this queue pair cannot do; for example, it sent a message without a receive.
    InvalidRequest,
    /// The peer asked for memory that it may not access.
    AccessError,
    /// Data arrived before the connection manager knew about the connection.
    Established,
    /// The device has failed as a whole.
    DeviceFatal,
    Other(u32),
}

/// An asynchronous event of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct AsyncEvent {
    pub(in super::super) kind: AsyncKind,
    /// The object of the event: see [`Endpoint::owns`].
    pub(in super::super) element: usize,
}

/// A connection with its queue pair, its protection domain and its registrations.
pub(in super::super) struct Endpoint {
    // The objects are in the order in which they end: see `into_id`.
    qp: Qp,
    cq: Cq,
    channel: CompletionChannel,
    regions: Vec<Option<Mr>>,
    /// Sinks of outstanding RDMA READs to which the peer writes, in the order of posting.
    sinks: VecDeque<Mr>,
    /// How many sinks at the front have had their READ posted.
    sinks_used: usize,
    headers: Mr,
    pd: Pd,
    id: CmId,
    context: NonNull<abi::ibv_context>,
    has_inline: bool,
    requests: Vec<abi::ibv_send_wr>,
    sges: Vec<[abi::ibv_sge; 2]>,
    completions: Box<[abi::ibv_wc; BATCH]>,
}

// SAFETY: the library's functions on all of these may be called from any thread; between calls nothing uses the
// pointers in `requests`.
unsafe impl Send for Endpoint {}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Makes the objects of a connection whose device is known, with room for this many work requests.
    pub(in super::super) fn new(
        id: CmId,
        device: &Device,
        sends: u32,
        recvs: u32,
    ) -> io::Result<Self> {
        let context = id.context().ok_or_else(no_device)?;
        // SAFETY: the identifier keeps the context.
        let pd = unsafe { abi::ibv_alloc_pd(context.as_ptr()) };
        let pd = Pd(NonNull::new(pd).ok_or_else(io::Error::last_os_error)?);
        let headers = Memory::zeroed(sends as usize * MAX_SEND_HEADER);
        let headers = Mr::new(&pd, &headers, abi::IBV_ACCESS_LOCAL_WRITE)?;
        // SAFETY: as above.
        let channel = unsafe { abi::ibv_create_comp_channel(context.as_ptr()) };
        let channel =
            CompletionChannel(NonNull::new(channel).ok_or_else(io::Error::last_os_error)?);
        let entries = sends.saturating_add(recvs).min(device.max_cqe);
        // SAFETY: the channel is one of this context.
        let cq = unsafe {
            abi::ibv_create_cq(
                context.as_ptr(),
                c_int::try_from(entries).unwrap_or(c_int::MAX),
                ptr::null_mut(),
                channel.0.as_ptr(),
                0,
            )
        };
        let cq = Cq {
            cq: NonNull::new(cq).ok_or_else(io::Error::last_os_error)?,
            unacknowledged: 0,
        };
        let inline = MAX_SEND_HEADER as u32;
        let with_inline = create_qp(&id, (&pd, &cq), (sends, recvs), inline);
        let has_inline = with_inline.is_ok();
        let qp = match with_inline {
            Ok(qp) => qp,
            Err(_) => create_qp(&id, (&pd, &cq), (sends, recvs), 0)?,
        };
        let endpoint = Self {
            qp,
            cq,
            channel,
            regions: Vec::new(),
            sinks: VecDeque::new(),
            sinks_used: 0,
            headers,
            pd,
            id,
            context,
            has_inline,
            requests: Vec::new(),
            sges: Vec::new(),
            completions: Box::new([abi::ibv_wc::default(); BATCH]),
        };
        do_not_wait(endpoint.completion_fd())?;
        do_not_wait(endpoint.async_fd())?;
        endpoint.arm()?;
        Ok(endpoint)
    }

    /// Returns the identifier.
    pub(in super::super) const fn id(&self) -> &CmId {
        &self.id
    }

    /// Ends everything except the identifier. The device does not touch memory of this connection afterwards.
    pub(in super::super) fn into_id(self) -> CmId {
        let Self {
            qp,
            cq,
            channel,
            regions,
            sinks,
            headers,
            pd,
            id,
            ..
        } = self;
        drop(qp);
        drop(cq);
        drop(channel);
        drop((regions, sinks, headers));
        drop(pd);
        id
    }

    /// Returns a number that identifies the device within this process.
    pub(in super::super) fn device_key(&self) -> usize {
        self.context.addr().get()
    }

    /// Returns a descriptor that is readable when completions may have arrived, once after each [`Self::arm`].
    pub(in super::super) fn completion_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `self` owns the channel, and the library does not change its descriptor.
        let fd = unsafe { self.channel.0.as_ref() }.fd;
        // SAFETY: the descriptor is open as long as the channel.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Returns a descriptor that is readable when the device has asynchronous events, for all of its users in this
    /// process.
    pub(in super::super) fn async_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the identifier keeps the context, whose descriptors do not change.
        let fd = unsafe { self.context.as_ref() }.async_fd;
        // SAFETY: the descriptor is open as long as the context.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }

    /// Returns the next asynchronous event of the device, if there is one.
    pub(in super::super) fn next_async_event(&self) -> Option<AsyncEvent> {
        let mut event = abi::ibv_async_event {
            element: ptr::null_mut(),
            event_type: 0,
        };
        // SAFETY: the context is as above; the event is written on success only. The descriptor does not block.
        let result = unsafe { abi::ibv_get_async_event(self.context.as_ptr(), &raw mut event) };
        if result != 0 {
            return None;
        }
        let taken = AsyncEvent {
            kind: match event.event_type {
                QP_FATAL | CQ_ERROR => AsyncKind::Fatal,
                QP_REQUEST_ERROR => AsyncKind::InvalidRequest,
                QP_ACCESS_ERROR => AsyncKind::AccessError,
                COMM_EST => AsyncKind::Established,
                DEVICE_FATAL => AsyncKind::DeviceFatal,
                other => AsyncKind::Other(other),
            },
            element: event.element.addr(),
        };
        // SAFETY: the event is acknowledged once, and before its object ends.
        unsafe { abi::ibv_ack_async_event(&raw mut event) };
        Some(taken)
    }

    /// Returns whether an event is about this connection's queues.
    pub(in super::super) fn owns(&self, event: AsyncEvent) -> bool {
        let queues = [self.qp.qp.addr().get(), self.cq.cq.addr().get()];
        queues.contains(&event.element)
    }

    /// Registers memory, and returns its number for [`Self::region`].
    pub(in super::super) fn register(
        &mut self,
        memory: &Memory,
        access: Access,
    ) -> io::Result<usize> {
        let access = abi::IBV_ACCESS_LOCAL_WRITE
            | match access {
                // If the peer has to write to a sink, `open_sink` lets it write only to that sink.
                Access::Local | Access::ReadSink => 0,
                Access::RemoteRead => abi::IBV_ACCESS_REMOTE_READ,
                Access::RemoteWrite => abi::IBV_ACCESS_REMOTE_WRITE,
            };
        let region = Mr::new(&self.pd, memory, access)?;
        let free = self.regions.iter().position(Option::is_none);
        let number = free.unwrap_or(self.regions.len());
        match self.regions.get_mut(number) {
            Some(slot) => *slot = Some(region),
            None => self.regions.push(Some(region)),
        }
        Ok(number)
    }

    /// Returns a registration.
    pub(in super::super) fn region(&self, number: usize) -> Option<&Mr> {
        self.regions.get(number)?.as_ref()
    }

    /// Returns the number of registrations.
    pub(in super::super) fn regions(&self) -> usize {
        self.regions.iter().flatten().count()
    }

    /// Ends a registration. The device does not touch the memory through it afterwards.
    pub(in super::super) fn deregister(&mut self, number: usize) -> bool {
        let region = self.regions.get_mut(number).and_then(Option::take);
        region.is_some()
    }

    /// Lets the peer write to the sink of the next RDMA READ that is posted, and to nothing else. On
    /// iWARP a READ names its sink to the peer, which writes to it.
    pub(in super::super) fn open_sink(&mut self, sink: Piece) -> io::Result<()> {
        let region = self.region(sink.region);
        let region = region.ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        let access = abi::IBV_ACCESS_LOCAL_WRITE | abi::IBV_ACCESS_REMOTE_WRITE;
        let sink = region.part(&self.pd, sink.offset, sink.length, access)?;
        self.sinks.push_back(sink);
        Ok(())
    }

    /// Closes the sink of the oldest RDMA READ, which has ended: the peer can no longer reach it.
    pub(in super::super) fn close_sink(&mut self) {
        self.sinks.pop_front();
        self.sinks_used = self.sinks_used.saturating_sub(1);
    }

    /// Puts a header into its slot, where it stays until the request that uses it has completed.
    pub(in super::super) fn write_header(&self, slot: u32, header: &[u8]) -> io::Result<()> {
        let at = slot as usize * MAX_SEND_HEADER;
        self.headers
            .memory
            .write(at, header)
            .map_err(io::Error::other)
    }

    /// Posts a receive.
    pub(in super::super) fn post_recv(&self, wr_id: u64, target: Piece) -> io::Result<()> {
        let mut sge = self.sge(target)?;
        let mut request = abi::ibv_recv_wr {
            wr_id,
            next: ptr::null_mut(),
            sg_list: &raw mut sge,
            // libsiw does not accept a receive without an element.
            num_sge: 1,
        };
        let mut bad = ptr::null_mut();
        // SAFETY: the identifier keeps the context, and the provider's functions in it do not change.
        let post_recv = unsafe { self.context.as_ref() }.ops.post_recv;
        // SAFETY: the queue pair is of this context; the request and its element are read during
        // the call. The element lies in a region that is held until it is deregistered.
        let result = unsafe { post_recv(self.qp.qp.as_ptr(), &raw mut request, &raw mut bad) };
        match result {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error.abs())),
        }
    }

    /// Posts work requests of the send queue, all at once.
    pub(in super::super) fn post_send(
        &mut self,
        work: impl IntoIterator<Item = WorkRequest>,
    ) -> Result<(), PostFailed> {
        let nothing = |error| PostFailed { posted: 0, error };
        self.requests.clear();
        self.sges.clear();
        for request in work {
            let (request, sges) = self.translate(request).map_err(nothing)?;
            self.requests.push(request);
            self.sges.push(sges);
        }
        // Neither vector moves after this.
        let mut next = ptr::null_mut();
        for (request, sges) in self.requests.iter_mut().zip(&mut self.sges).rev() {
            request.sg_list = sges.as_mut_ptr();
            request.next = next;
            next = ptr::from_mut(request);
        }
        if next.is_null() {
            return Ok(());
        }
        let first = next;
        let mut bad = ptr::null_mut();
        // SAFETY: the identifier keeps the context, and the provider's functions in it do not change.
        let post_send = unsafe { self.context.as_ref() }.ops.post_send;
        // SAFETY: the queue pair is of this context; requests and elements are read during the call.
        // Elements lie in regions that are held until they are deregistered, or in the headers'.
        let result = unsafe { post_send(self.qp.qp.as_ptr(), first, &raw mut bad) };
        if result == 0 {
            return Ok(());
        }
        let is_bad = |request: &abi::ibv_send_wr| ptr::eq(request, bad);
        Err(PostFailed {
            posted: self.requests.iter().position(is_bad).unwrap_or(0),
            error: io::Error::from_raw_os_error(result.abs()),
        })
    }

    fn sge(&self, piece: Piece) -> io::Result<abi::ibv_sge> {
        let region = self.region(piece.region);
        let region = region.ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        match region.mr {
            Some(_) => region.sge(piece.offset, piece.length),
            // Neither the region nor the piece has bytes, so any registration will do.
            None => self.headers.sge(0, 0),
        }
    }

    fn translate(
        &mut self,
        work: WorkRequest,
    ) -> io::Result<(abi::ibv_send_wr, [abi::ibv_sge; 2])> {
        let mut request = abi::ibv_send_wr {
            wr_id: work.wr_id,
            send_flags: abi::IBV_SEND_SIGNALED,
            ..Default::default()
        };
        let mut is_read = false;
        match work.operation {
            Operation::Send { invalidate: None } => request.opcode = abi::IBV_WR_SEND,
            Operation::Send {
                invalidate: Some(key),
            } => {
                request.opcode = abi::IBV_WR_SEND_WITH_INV;
                request.invalidate_rkey = key;
                // siw's provider reads the key here.
                request.rkey = key;
            }
            Operation::Write { address, key } => {
                request.opcode = abi::IBV_WR_RDMA_WRITE;
                (request.remote_addr, request.rkey) = (address, key);
            }
            Operation::Read { address, key } => {
                request.opcode = abi::IBV_WR_RDMA_READ;
                (request.remote_addr, request.rkey) = (address, key);
                is_read = true;
            }
        }
        let mut sges = [abi::ibv_sge::default(); 2];
        let mut count = 0;
        if let Some((slot, length)) = work.header {
            sges[0] = self.headers.sge(slot * MAX_SEND_HEADER as u32, length)?;
            count = 1;
            // siw fails if a SEND that invalidates is inline.
            let is_plain = matches!(work.operation, Operation::Send { invalidate: None });
            if work.memory.is_none() && is_plain && self.has_inline {
                request.send_flags |= abi::IBV_SEND_INLINE;
            }
        }
        // An RDMA READ needs a sink even for 0 bytes, because iWARP names it to the peer.
        if let Some(piece) = work.memory.filter(|piece| piece.length > 0 || is_read) {
            let sink = self.sinks.get(self.sinks_used).filter(|_| is_read);
            sges[count] = match sink.filter(|_| piece.length > 0) {
                Some(sink) => sink.sge(0, piece.length)?,
                None => self.sge(piece)?,
            };
            self.sinks_used += usize::from(sink.is_some());
            count += 1;
        }
        request.num_sge = count as c_int;
        Ok((request, sges))
    }

    /// Takes the notifications that have arrived, so that the descriptor is no longer readable. Returns whether there
    /// were any: if so, [`Self::arm`] asks for the next notification.
    pub(in super::super) fn take_notifications(&mut self) -> bool {
        let before = self.cq.unacknowledged;
        loop {
            let (mut of, mut context) = (ptr::null_mut(), ptr::null_mut());
            let channel = self.channel.0.as_ptr();
            // SAFETY: `self` owns the channel, which does not block; both are written on success.
            let result = unsafe { abi::ibv_get_cq_event(channel, &raw mut of, &raw mut context) };
            if result != 0 {
                break;
            }
            self.cq.unacknowledged += 1;
        }
        let any = self.cq.unacknowledged > before;
        if self.cq.unacknowledged >= ACKNOWLEDGE {
            self.cq.acknowledge();
        }
        any
    }

    /// Makes the descriptor become readable at the next completion. Completions that have already arrived do not count.
    pub(in super::super) fn arm(&self) -> io::Result<()> {
        // SAFETY: the identifier keeps the context, and the provider's functions in it do not change.
        let req_notify_cq = unsafe { self.context.as_ref() }.ops.req_notify_cq;
        // SAFETY: the completion queue is of this context.
        let result = unsafe { req_notify_cq(self.cq.cq.as_ptr(), 0) };
        check(if result == 0 { 0 } else { -1 })
    }

    /// Takes some completions; returns `true` if there may be more.
    pub(in super::super) fn poll(&mut self, completed: &mut Vec<Completed>) -> io::Result<bool> {
        // SAFETY: the identifier keeps the context, and the provider's functions in it do not change.
        let poll_cq = unsafe { self.context.as_ref() }.ops.poll_cq;
        let room = self.completions.as_mut_ptr();
        // SAFETY: the completion queue is of this context, and there is room for `BATCH` completions.
        let count = unsafe { poll_cq(self.cq.cq.as_ptr(), BATCH as c_int, room) };
        let count = usize::try_from(count).map_err(|_| io::Error::other("ibv_poll_cq failed"))?;
        completed.extend(self.completions.iter().take(count).map(|wc| Completed {
            wr_id: wc.wr_id,
            status: wc.status,
            length: wc.byte_len,
            invalidated: (wc.wc_flags & abi::IBV_WC_WITH_INV != 0).then_some(wc.invalidated_rkey),
        }));
        Ok(count == BATCH)
    }
}
