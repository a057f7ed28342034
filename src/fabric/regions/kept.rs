// SPDX-License-Identifier: GPL-2.0-or-later

//! The table of regions, without the memory.

use serde::{Deserialize, Serialize};

use super::{Access, RegionId, Regions, RemoteAddress, Slot};
use crate::sys::Memory;

/// See the [module](self).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::fabric) struct KeptRegions(Vec<KeptSlot>);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct KeptSlot {
    generation: u32,
    registered: bool,
    length: u32,
    access: Access,
    remote: RemoteAddress,
}

impl Regions<Memory> {
    /// Returns the state of the table.
    pub(in crate::fabric) fn keep(&self) -> KeptRegions {
        let Self { slots, capacity: _ } = self;
        let keep = |slot: &Slot<Memory>| {
            let Slot {
                generation,
                ref memory,
                length,
                access,
                remote,
            } = *slot;
            KeptSlot {
                generation,
                registered: memory.is_some(),
                length,
                access,
                remote,
            }
        };
        KeptRegions(slots.iter().map(keep).collect())
    }

    /// Makes the table again. A region whose memory has gone counts as deregistered. Returns `None` if memory has
    /// another length.
    pub(in crate::fabric) fn adopt(
        kept: KeptRegions,
        capacity: usize,
        memory: &mut dyn FnMut(RegionId) -> Option<Memory>,
    ) -> Option<Self> {
        let mut regions = Self::new(capacity.max(kept.0.len()));
        for (number, slot) in (0..).zip(kept.0) {
            let found = slot.registered.then(|| memory(RegionId(number))).flatten();
            let is_sound = |memory: &Memory| memory.len() == slot.length as usize;
            if !found.iter().all(is_sound) {
                return None;
            }
            regions.slots.push(Slot {
                generation: slot.generation,
                memory: found,
                length: slot.length,
                access: slot.access,
                remote: slot.remote,
            });
        }
        Some(regions)
    }
}
