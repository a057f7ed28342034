// SPDX-License-Identifier: GPL-2.0-or-later

//! The receiving side of a connection: the slots for receives, and the message that is being reassembled.
//!
//! ```text
//!   free slots --post_recv--> posted --completion--> read by the endpoint --copied--> free
//!                                                       |  no buffer          ^
//!                                                       +----> waiting -------+
//! ```

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::{Event, MessageBuffers, Traffic};
use crate::fabric::{Access, ConnId, Fabric, FabricError, RegionId, Sge, WrId};
use crate::proto::{Endpoint, HEAD_LENGTH};
use crate::sys::Memory;

/// Memory for receives, in slots of one size, registered as one region.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) memory: Memory,
    pub(super) region: RegionId,
    /// Whether this is the pool for messages after the negotiation.
    pub(super) negotiated: bool,
    pub(super) slot_size: u32,
    /// Number of bytes from one slot to the next.
    pub(super) stride: u32,
    pub(super) free: Vec<u16>,
}

impl Pool {
    #[cold]
    fn new<F: Fabric>(
        fabric: &mut F,
        id: ConnId,
        negotiated: bool,
        slot_size: u32,
        slots: u16,
    ) -> Result<Self, FabricError> {
        let stride = slot_size
            .max(1)
            .checked_next_multiple_of(8)
            .unwrap_or(slot_size);
        // Offsets of slots are 32-bit numbers.
        let slots = u16::try_from(u32::MAX / stride)
            .map_or(slots, |most| slots.min(most))
            .max(1);
        let memory = Memory::zeroed(usize::from(slots) * stride as usize);
        let region = fabric.register(id, &memory, Access::Local)?.id;
        // Slots are taken from the end, so the first slot is used first.
        let free = (0..slots).rev().collect();
        Ok(Self {
            memory,
            region,
            negotiated,
            slot_size,
            stride,
            free,
        })
    }

    /// Returns the memory of a slot.
    #[inline]
    const fn sge(&self, slot: u16) -> Sge {
        Sge {
            region: self.region,
            offset: slot as u32 * self.stride,
            length: self.slot_size,
        }
    }
}

/// A fragment of an upper-layer message: where it is, and where it belongs.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
pub(super) struct Fragment {
    pub(super) slot: u16,
    /// Offset from the start of the slot, in bytes.
    pub(super) start: u32,
    pub(super) length: u32,
    /// Offset from the start of the message, in bytes.
    pub(super) offset: u32,
    /// Length of the message, in bytes.
    pub(super) total: u32,
}

#[derive(Debug)]
pub(super) struct Incoming<Buffer> {
    pub(super) pool: Option<Pool>,
    /// The peer's negotiate message has arrived: its receive was the last small one.
    pub(super) negotiated: bool,
    /// Fragments for which the owner has no buffer yet, and the fragments after them.
    pub(super) waiting: VecDeque<Fragment>,
    /// The message being reassembled.
    pub(super) message: Option<Buffer>,
}

impl<Buffer> Incoming<Buffer> {
    pub(super) fn new() -> Self {
        Self {
            pool: None,
            negotiated: false,
            waiting: VecDeque::new(),
            message: None,
        }
    }

    /// Returns how many fragments wait for a buffer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns the number of bytes of memory for the receives.
    pub(super) fn memory(&self) -> usize {
        self.pool.as_ref().map_or(0, |pool| pool.memory.len())
    }

    /// Returns whether the peer's negotiate message has arrived.
    #[cfg(feature = "fabric")]
    pub(super) fn has_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Returns the region of the receives.
    #[cfg(feature = "fabric")]
    pub(super) fn region(&self) -> Option<(RegionId, Memory)> {
        let pool = self.pool.as_ref()?;
        Some((pool.region, pool.memory.clone()))
    }

    /// Returns the receives that are posted.
    #[cfg(feature = "fabric")]
    pub(super) fn posted(&self) -> impl Iterator<Item = (WrId, Sge)> + '_ {
        self.pool.iter().flat_map(|pool| {
            let slots = u32::try_from(pool.memory.len()).unwrap_or(u32::MAX) / pool.stride;
            let slots = 0..u16::try_from(slots).unwrap_or(u16::MAX);
            let posted = slots.filter(|slot| {
                let waits = self.waiting.iter().any(|waiting| waiting.slot == *slot);
                !waits && !pool.free.contains(slot)
            });
            posted.map(|slot| (WrId(u64::from(slot)), pool.sge(slot)))
        })
    }

    /// Returns whether a part of a message has arrived, and has a buffer.
    pub(super) fn is_assembling(&self) -> bool {
        self.message.is_some()
    }

    /// Posts the receives that the endpoint wants: before the negotiation is complete, a single one from a pool of one
    /// slot; afterwards from a pool of `slots`.
    #[inline]
    pub(super) fn post<F: Fabric>(
        &mut self,
        fabric: &mut F,
        id: ConnId,
        endpoint: &mut Endpoint,
        slots: u16,
    ) -> Result<(), FabricError> {
        let wanted = endpoint.receives_wanted();
        if wanted == 0 {
            return Ok(());
        }
        let negotiated = self.negotiated;
        if self
            .pool
            .as_ref()
            .is_none_or(|pool| pool.negotiated != negotiated)
        {
            let slots = if negotiated {
                slots.max(wanted)
            } else {
                wanted
            };
            let pool = Pool::new(fabric, id, negotiated, endpoint.receive_size(), slots)?;
            // The negotiation's receive was used, so nothing of the old pool is posted.
            if let Some(old) = self.pool.replace(pool) {
                fabric.deregister(id, old.region)?;
            }
        }
        let Some(pool) = &mut self.pool else {
            return Ok(());
        };
        let mut posted = 0;
        while posted < wanted {
            let Some(&slot) = pool.free.last() else { break };
            match fabric.post_recv(id, WrId(u64::from(slot)), pool.sge(slot)) {
                Ok(()) => {}
                // If the fabric has less room than requested, there are just fewer credits.
                Err(FabricError::QueueFull) => break,
                Err(error) => return Err(error),
            }
            pool.free.pop();
            posted += 1;
        }
        endpoint.handle_receives_posted(posted);
        Ok(())
    }

    /// Copies the first bytes of a received message (as many as there are, up to the length of `head`) out of its slot,
    /// because a peer with real hardware could still write to the slot.
    #[inline]
    pub(super) fn peek<'a>(&self, slot: u16, length: u32, head: &'a mut [u8]) -> Option<&'a [u8]> {
        let pool = self.pool.as_ref()?;
        let head = head.get_mut(..(length as usize).min(HEAD_LENGTH))?;
        pool.memory
            .read(usize::from(slot) * pool.stride as usize, head)
            .ok()?;
        Some(head)
    }

    /// Takes note that the peer's negotiate message has arrived. The next receives have the agreed size.
    pub(super) fn end_negotiation(&mut self) {
        self.negotiated = true;
    }

    /// Frees a slot, which may then be posted again.
    #[inline]
    pub(super) fn free(&mut self, slot: u16) {
        if let Some(pool) = &mut self.pool {
            pool.free.push(slot);
        }
    }

    /// Takes a fragment, which may have to wait for a buffer of the owner.
    #[inline]
    pub(super) fn take<B: MessageBuffers<Buffer = Buffer>>(
        &mut self,
        conn: ConnId,
        fragment: Fragment,
        buffers: &mut B,
        traffic: &mut Traffic,
        events: &mut Vec<Event<Buffer>>,
    ) {
        if self.waiting.is_empty() && self.deliver(conn, fragment, buffers, traffic, events) {
            return;
        }
        traffic.buffer_waits += 1;
        self.waiting.push_back(fragment);
    }

    /// Retries waiting fragments; returns `false` if some still wait.
    pub(super) fn retry<B: MessageBuffers<Buffer = Buffer>>(
        &mut self,
        conn: ConnId,
        buffers: &mut B,
        traffic: &mut Traffic,
        events: &mut Vec<Event<Buffer>>,
    ) -> bool {
        while let Some(&fragment) = self.waiting.front() {
            if !self.deliver(conn, fragment, buffers, traffic, events) {
                return false;
            }
            self.waiting.pop_front();
        }
        true
    }

    #[inline]
    fn deliver<B: MessageBuffers<Buffer = Buffer>>(
        &mut self,
        conn: ConnId,
        fragment: Fragment,
        buffers: &mut B,
        traffic: &mut Traffic,
        events: &mut Vec<Event<Buffer>>,
    ) -> bool {
        let Some(pool) = &mut self.pool else {
            return true;
        };
        let mut buffer = match self.message.take() {
            Some(buffer) => buffer,
            None => {
                let is_whole = fragment.length >= fragment.total;
                let buffer = match is_whole {
                    true => buffers.allocate(conn, fragment.total),
                    false => buffers.begin(conn, fragment.total),
                };
                match buffer {
                    Some(buffer) => buffer,
                    None => return false,
                }
            }
        };
        let source = usize::from(fragment.slot) * pool.stride as usize + fragment.start as usize;
        buffers.fill(
            &mut buffer,
            fragment.offset,
            &pool.memory,
            source,
            fragment.length as usize,
        );
        pool.free.push(fragment.slot);
        traffic.inline_bytes_in += u64::from(fragment.length);
        if fragment.offset.saturating_add(fragment.length) < fragment.total {
            self.message = Some(buffer);
        } else {
            traffic.messages_in += 1;
            events.push(Event::Message {
                conn,
                buffer,
                length: fragment.total,
            });
        }
        true
    }

    /// Gives back the buffer of an incomplete message, because the connection has ended.
    pub(super) fn discard<B: MessageBuffers<Buffer = Buffer>>(&mut self, buffers: &mut B) {
        self.waiting.clear();
        if let Some(buffer) = self.message.take() {
            buffers.release(buffer);
        }
    }
}
