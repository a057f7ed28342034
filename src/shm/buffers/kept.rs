// SPDX-License-Identifier: GPL-2.0-or-later

//! Which buffers are in use, so that another process can take them back.
//!
//! The other side may still name any buffer that was ever given out, so generations continue: each buffer in use keeps
//! its own, and all other units of a segment continue after the last one of the segment.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Buffers, Segment, Shape, Slot, Units};
use crate::sys::Memory;

/// The state of the segments that have had the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptSegment {
    /// The last generation that was given out in earlier segments.
    generation: u32,
    /// The last generation that was given out in the segment, or in earlier ones.
    last: u32,
    /// The length of the segment with this number now, in bytes; `None` if there is none.
    pub(crate) length: Option<usize>,
    /// Buffers are given out in the segment.
    pub(crate) is_open: bool,
    /// The buffers in use: the first unit, the number of units, and the generation of each.
    runs: Vec<(u32, u32, u32)>,
}

impl Buffers {
    /// Returns the state of all segments, by number.
    pub(crate) fn keep(&self) -> Vec<KeptSegment> {
        let Self {
            shape: _,
            segment_length: _,
            slots,
            open,
        } = self;
        let keep = |(number, slot): (u32, &Slot)| {
            let Slot {
                segment,
                generation,
            } = slot;
            let Some(Segment { memory, units }) = segment else {
                return KeptSegment {
                    generation: *generation,
                    last: *generation,
                    length: None,
                    is_open: false,
                    runs: Vec::new(),
                };
            };
            KeptSegment {
                generation: *generation,
                last: units.last_generation(*generation),
                length: Some(memory.len()),
                is_open: open.contains(&number),
                runs: units.runs(),
            }
        };
        (0..).zip(slots).map(keep).collect()
    }

    /// Makes the buffers again; `memory` returns the memory of the segment with a number. Returns `None` if the state
    /// does not fit the shape, or memory is missing.
    pub(crate) fn adopt(
        shape: Shape,
        kept: &[KeptSegment],
        mut memory: impl FnMut(u32) -> Option<Memory>,
    ) -> Option<Self> {
        let mut buffers = Self::new(shape).ok()?;
        for (number, kept) in (0..).zip(kept) {
            if let Some(length) = kept.length {
                let memory = memory(number).filter(|memory| memory.len() == length)?;
                buffers.add(number, memory).ok()?;
                if !kept.is_open {
                    buffers.retire(number);
                }
            }
            let index = number as usize;
            if buffers.slots.len() <= index {
                buffers.slots.resize_with(index + 1, Slot::default);
            }
            let slot = buffers.slots.get_mut(index)?;
            slot.generation = kept.generation;
            if let Some(segment) = &mut slot.segment {
                segment.units = segment.units.with(kept)?;
            }
        }
        (buffers.slots.len() <= shape.max_segments as usize).then_some(buffers)
    }
}

impl Buffers {
    /// Returns whether a buffer in use begins with this unit of a segment.
    pub(crate) fn is_used(&self, segment: u32, unit: u32) -> bool {
        let slot = self.slots.get(segment as usize);
        let segment = slot.and_then(|slot| slot.segment.as_ref());
        let start = segment.and_then(|segment| segment.units.starts.get(unit as usize));
        start.is_some_and(|start| start.count > 0)
    }
}

impl Units {
    fn runs(&self) -> Vec<(u32, u32, u32)> {
        let starts = (0..).zip(&self.starts).filter(|(_, start)| start.count > 0);
        let run = |(unit, start): (u32, &super::Start)| (unit, start.count, start.generation);
        starts.map(run).collect()
    }

    /// Returns as many units, of which those that the state names are in use.
    fn with(&self, kept: &KeptSegment) -> Option<Self> {
        let count = u32::try_from(self.starts.len()).ok()?;
        let mut units = Self::new(count, kept.last);
        let mut end = 0;
        for (unit, length, generation) in kept.runs.iter().copied() {
            let next = unit.checked_add(length).filter(|next| *next <= count)?;
            // The runs are in order, and do not overlap.
            if unit < end || length == 0 || generation == 0 {
                return None;
            }
            end = next;
            let start = units.starts.get_mut(unit as usize)?;
            (start.count, start.generation) = (length, generation);
            units.mark(unit, length, true);
            units.free -= length;
        }
        Some(units)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::buffers::BufferError;

    const SHAPE: Shape = Shape {
        unit_length: 64,
        units_per_segment: 16,
        longest_run: 4,
        max_segments: 4,
    };

    fn again(buffers: &Buffers) -> Buffers {
        let text = serde_json::to_string(&buffers.keep()).unwrap();
        let kept: Vec<KeptSegment> = serde_json::from_str(&text).unwrap();
        let memory = |number| buffers.segment(number).cloned();
        Buffers::adopt(SHAPE, &kept, memory).unwrap()
    }

    #[test]
    fn buffers_in_use_come_back_once_and_earlier_ones_not_at_all() {
        let mut buffers = Buffers::new(SHAPE).unwrap();
        for number in 0..2 {
            buffers.add(number, Memory::zeroed(64 * 8)).unwrap();
        }
        let freed = buffers.allocate(64).unwrap();
        buffers.free(freed).unwrap();
        let held: Vec<_> = [100, 64, 256, 200, 64, 130]
            .map(|length| buffers.allocate(length).unwrap())
            .into();
        buffers.retire(1);
        let places: Vec<_> = held.iter().map(|buffer| buffers.place(*buffer)).collect();
        let mut buffers = again(&buffers);
        assert_eq!(buffers.keep(), again(&buffers).keep());
        let now: Vec<_> = held.iter().map(|buffer| buffers.place(*buffer)).collect();
        assert_eq!(now, places);
        assert_eq!(buffers.free(freed), Err(BufferError::AlreadyFreed));
        for buffer in &held {
            buffers.free(*buffer).unwrap();
            assert_eq!(buffers.free(*buffer), Err(BufferError::AlreadyFreed));
        }
        // Nothing is given out in the retired segment, and no number comes a second time.
        for _ in 0..8 {
            let new = buffers.allocate(64).unwrap();
            assert_eq!(new.segment(), 0);
            assert!(!held.contains(&new) && new != freed);
        }
        assert!(buffers.allocate(64).is_err());
    }

    #[test]
    fn a_segment_that_has_gone_is_remembered_by_its_last_generation() {
        let mut buffers = Buffers::new(SHAPE).unwrap();
        buffers.add(0, Memory::zeroed(64)).unwrap();
        let old = buffers.allocate(64).unwrap();
        buffers.free(old).unwrap();
        buffers.remove(0).unwrap();
        let mut buffers = again(&buffers);
        assert_eq!(buffers.free(old), Err(BufferError::AlreadyFreed));
        buffers.add(0, Memory::zeroed(64)).unwrap();
        assert_ne!(buffers.allocate(64).unwrap(), old);
    }

    #[test]
    fn refuses_a_state_that_does_not_fit() {
        let mut buffers = Buffers::new(SHAPE).unwrap();
        buffers.add(0, Memory::zeroed(64 * 8)).unwrap();
        buffers.allocate(128).unwrap();
        let good = buffers.keep();
        let adopt = |kept: &KeptSegment, length| {
            let memory = |_| Some(Memory::zeroed(length));
            Buffers::adopt(SHAPE, std::slice::from_ref(kept), memory)
        };
        assert!(adopt(&good[0], 64 * 8).is_some());
        assert!(adopt(&good[0], 64 * 7).is_none(), "other memory");
        for runs in [
            vec![(7, 2, 1)],
            vec![(0, 0, 1)],
            vec![(0, 1, 0)],
            vec![(0, 2, 1), (1, 1, 1)],
            vec![(u32::MAX, 2, 1)],
        ] {
            let kept = KeptSegment {
                runs,
                ..good[0].clone()
            };
            assert!(adopt(&kept, 64 * 8).is_none(), "{kept:?}");
        }
        let many = vec![good[0].clone(); 5];
        assert!(Buffers::adopt(SHAPE, &many, |_| Some(Memory::zeroed(512))).is_none());
    }
}
