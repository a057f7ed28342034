// SPDX-License-Identifier: GPL-2.0-or-later

//! The objects of a connection on its device, each owned by one value.

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::ptr::{self, NonNull};

use super::abi;
use super::cm::{CmId, check, no_device};
use crate::sys::Memory;

/// A memory region, and the memory that it keeps alive. `mr` is `None` for a region of 0 bytes, which devices do not
/// register.
pub(in super::super) struct Mr {
    pub(super) mr: Option<NonNull<abi::ibv_mr>>,
    pub(super) memory: Memory,
}

// SAFETY: the library's functions on a memory region may be called from any thread.
unsafe impl Send for Mr {}

impl Mr {
    pub(super) fn new(pd: &Pd, memory: &Memory, access: c_int) -> io::Result<Self> {
        let length = memory.len();
        if length == 0 {
            let memory = memory.clone();
            return Ok(Self { mr: None, memory });
        }
        let start = memory.pointer(0, length).map_err(io::Error::other)?;
        // SAFETY: the memory is held until the registration has ended, and there are no references
        // into it: all code that writes to it does so by copies. The caller holds the domain.
        let mr = unsafe { abi::ibv_reg_mr(pd.0.as_ptr(), start.cast(), length, access) };
        let mr = NonNull::new(mr).ok_or_else(io::Error::last_os_error)?;
        let memory = memory.clone();
        let mr = Some(mr);
        Ok(Self { mr, memory })
    }

    /// Registers a part of the memory again, with its own access.
    pub(super) fn part(
        &self,
        pd: &Pd,
        offset: u32,
        length: u32,
        access: c_int,
    ) -> io::Result<Self> {
        let part = self.memory.part(offset as usize, length as usize);
        Self::new(pd, &part.map_err(io::Error::other)?, access)
    }

    fn fields(&self) -> Option<&abi::ibv_mr> {
        // SAFETY: the library made the region and changes none of its fields.
        self.mr.as_ref().map(|mr| unsafe { mr.as_ref() })
    }

    /// Returns the length in bytes.
    pub(in super::super) fn len(&self) -> usize {
        self.memory.len()
    }

    /// Returns the key by which the peer names the region.
    pub(in super::super) fn remote_key(&self) -> u32 {
        self.fields().map_or(0, |mr| mr.rkey)
    }

    /// Returns the remote address of the region's first byte.
    pub(in super::super) fn remote_address(&self) -> u64 {
        self.fields().map_or(0, |mr| mr.addr.addr() as u64)
    }

    pub(super) fn sge(&self, offset: u32, length: u32) -> io::Result<abi::ibv_sge> {
        let start = self.memory.pointer(offset as usize, length as usize);
        Ok(abi::ibv_sge {
            addr: start.map_err(io::Error::other)?.addr() as u64,
            length,
            lkey: self.fields().map_or(0, |mr| mr.lkey),
        })
    }
}

impl Drop for Mr {
    fn drop(&mut self) {
        let Some(mr) = self.mr else {
            return;
        };
        // SAFETY: `self` owns the registration.
        let result = unsafe { abi::ibv_dereg_mr(mr.as_ptr()) };
        if result != 0 {
            // The device may continue to write there, so the memory must never be reused.
            tracing::error!(error = result, "cannot deregister a memory region");
            std::mem::forget(self.memory.clone());
        }
    }
}

impl fmt::Debug for Mr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mr({} bytes)", self.memory.len())
    }
}

/// A queue pair of an identifier. [`Endpoint`](super::Endpoint) holds the identifier longer.
pub(super) struct Qp {
    pub(super) qp: NonNull<abi::ibv_qp>,
    id: *mut abi::rdma_cm_id,
}

// SAFETY: the library's functions on a queue pair may be called from any thread.
unsafe impl Send for Qp {}

impl Drop for Qp {
    fn drop(&mut self) {
        // SAFETY: the identifier is alive, and has this queue pair.
        unsafe { abi::rdma_destroy_qp(self.id) }
    }
}

/// A completion queue, and how many of its notifications were taken and not acknowledged.
pub(super) struct Cq {
    pub(super) cq: NonNull<abi::ibv_cq>,
    pub(super) unacknowledged: u32,
}

// SAFETY: the library's functions on a completion queue may be called from any thread.
unsafe impl Send for Cq {}

impl Cq {
    pub(super) fn acknowledge(&mut self) {
        // SAFETY: this many were taken, and none of them is acknowledged twice.
        unsafe { abi::ibv_ack_cq_events(self.cq.as_ptr(), self.unacknowledged) }
        self.unacknowledged = 0;
    }
}

impl Drop for Cq {
    fn drop(&mut self) {
        self.acknowledge();
        // SAFETY: `self` owns the queue; the queue pair that used it has ended.
        ended("completion queue", unsafe {
            abi::ibv_destroy_cq(self.cq.as_ptr())
        });
    }
}

/// The channel on which notifications of completions arrive.
pub(super) struct CompletionChannel(pub(super) NonNull<abi::ibv_comp_channel>);

// SAFETY: the library's functions on a channel may be called from any thread.
unsafe impl Send for CompletionChannel {}

impl Drop for CompletionChannel {
    fn drop(&mut self) {
        // SAFETY: `self` owns the channel; the completion queue that used it has ended.
        let result = unsafe { abi::ibv_destroy_comp_channel(self.0.as_ptr()) };
        ended("completion channel", result);
    }
}

/// A protection domain.
pub(super) struct Pd(pub(super) NonNull<abi::ibv_pd>);

// SAFETY: the library's functions on a domain may be called from any thread.
unsafe impl Send for Pd {}

impl Drop for Pd {
    fn drop(&mut self) {
        // SAFETY: `self` owns the domain; the queue pair and the regions in it have ended.
        ended("protection domain", unsafe {
            abi::ibv_dealloc_pd(self.0.as_ptr())
        });
    }
}

fn ended(what: &str, result: c_int) {
    if result != 0 {
        tracing::debug!(error = result, "cannot destroy a {what}");
    }
}

/// Makes the queue pair of an identifier, with room for this many sends and receives.
pub(super) fn create_qp(
    id: &CmId,
    (pd, cq): (&Pd, &Cq),
    (sends, recvs): (u32, u32),
    inline: u32,
) -> io::Result<Qp> {
    let mut attributes = abi::ibv_qp_init_attr {
        qp_context: ptr::null_mut(),
        send_cq: cq.cq.as_ptr(),
        recv_cq: cq.cq.as_ptr(),
        srq: ptr::null_mut(),
        cap: abi::ibv_qp_cap {
            max_send_wr: sends,
            max_recv_wr: recvs,
            max_send_sge: 2,
            max_recv_sge: 1,
            max_inline_data: inline,
        },
        qp_type: abi::IBV_QPT_RC,
        sq_sig_all: 0,
    };
    // SAFETY: domain and completion queue are of the identifier's device; the attributes are read,
    // and written, during the call.
    let result = unsafe { abi::rdma_create_qp(id.as_ptr(), pd.0.as_ptr(), &raw mut attributes) };
    check(result)?;
    let qp = NonNull::new(id.queue_pair()).ok_or_else(no_device)?;
    Ok(Qp {
        qp,
        id: id.as_ptr(),
    })
}
