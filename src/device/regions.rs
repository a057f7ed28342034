// SPDX-License-Identifier: GPL-2.0-or-later

//! The regions whose buffers this side gives out: SEND and BULK.

use super::Status;
use super::abi::{Place, RegionShape, Release, Segment};
use crate::shm::buffers::{AllocateError, Shape};
use crate::shm::{Buffer, Buffers};
use crate::sys::Memory;

/// Returns the shape of a region as the device gave it, unchecked.
pub(super) const fn shape(shape: RegionShape) -> Shape {
    Shape {
        unit_length: shape.unit_length as usize,
        units_per_segment: shape.units_per_segment,
        longest_run: shape.longest_run,
        max_segments: shape.max_segments,
    }
}

/// Whether the device was asked for one more segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Growth {
    /// No segment is needed.
    Idle,
    /// The device should be asked.
    Wanted,
    /// The device has been asked.
    Asked,
    /// The device refused, and nothing has been freed since.
    Refused,
}

/// SEND or BULK.
#[derive(Debug)]
pub(super) struct Region {
    number: u32,
    buffers: Buffers,
    pub(super) growth: Growth,
    /// A caller found no room, and has not yet been told that there is some again.
    refused: bool,
    /// Minimum number of units of the next segment.
    wanted: u32,
    /// For each segment, by number, and each unit: how many operations use the buffer that begins there.
    uses: Vec<Box<[u32]>>,
    /// Segments that the device wants back and that have not been given back yet.
    retired: Vec<u32>,
}

impl Region {
    /// Makes an empty region; returns [`Status::Corrupt`] if its shape is invalid.
    pub(super) fn new(number: u32, limits: RegionShape) -> Result<Self, Status> {
        Ok(Self {
            number,
            buffers: Buffers::new(shape(limits)).map_err(|_| Status::Corrupt)?,
            growth: Growth::Idle,
            refused: false,
            wanted: 1,
            uses: Vec::new(),
            retired: Vec::new(),
        })
    }

    /// Allocates a buffer of at least `length` bytes. After [`Status::Again`], the caller is told when there may be
    /// room, and [`growth`](Self::growth) says whether to ask the device. [`Status::NoMemory`] means that the device
    /// refused, and that nothing of this region is in use for which the caller could wait.
    pub(super) fn allocate(&mut self, length: usize) -> Result<Buffer, Status> {
        match (self.buffers.allocate(length), self.growth) {
            (Ok(buffer), _) => return Ok(buffer),
            (Err(AllocateError::Empty), _) => return Err(Status::Invalid),
            (Err(AllocateError::TooLong { .. }), _) => return Err(Status::TooLong),
            (Err(AllocateError::Full), Growth::Refused) if self.buffers.used_units() == 0 => {
                // Nothing of this region is left to be freed, so the next call asks the device again.
                self.growth = Growth::Idle;
                return Err(Status::NoMemory);
            }
            (Err(AllocateError::Full), Growth::Idle | Growth::Wanted) => {
                self.growth = Growth::Wanted;
                // The buffer is not longer than the longest run.
                let units = length.div_ceil(self.buffers.shape().unit_length) as u32;
                self.wanted = self.wanted.max(units);
            }
            // There is no room until a buffer of this region is freed or the device answers.
            (Err(AllocateError::Full | AllocateError::Exhausted), _) => {}
        }
        self.refused = true;
        Err(Status::Again)
    }

    /// Asks for a new region's first segment in advance.
    pub(super) const fn want_first(&mut self) {
        self.growth = Growth::Wanted;
    }

    /// Returns the minimum number of units to ask the device for.
    pub(super) const fn wanted(&self) -> u32 {
        self.wanted
    }

    /// Adds the segment that the device was asked for. Returns whether a caller waits for it.
    pub(super) fn add(&mut self, segment: &Segment, memory: Memory) -> Result<bool, Status> {
        if (segment.region, segment.queue) != (self.number, 0) {
            return Err(Status::Corrupt);
        }
        let units = self.buffers.shape().units_of(memory.len());
        let units = units.filter(|units| *units >= self.wanted);
        let units = units.ok_or(Status::Corrupt)? as usize;
        let added = self.buffers.add(segment.number, memory);
        added.map_err(|_| Status::Corrupt)?;
        let index = segment.number as usize;
        if self.uses.len() <= index {
            self.uses.resize_with(index + 1, Box::default);
        }
        if let Some(uses) = self.uses.get_mut(index) {
            *uses = vec![0; units].into_boxed_slice();
        }
        self.growth = Growth::Idle;
        self.wanted = 1;
        Ok(std::mem::take(&mut self.refused))
    }

    /// Notes that the device wants a segment back. Returns [`Status::Corrupt`] if there is no such segment, or if the
    /// device has already asked for it.
    pub(super) fn reclaim(&mut self, number: u32) -> Result<(), Status> {
        if self.retired.contains(&number) || !self.buffers.retire(number) {
            return Err(Status::Corrupt);
        }
        self.retired.push(number);
        Ok(())
    }

    /// Takes out a segment that the device wants back and nothing uses. Returns the message for the device, and the
    /// segment's memory.
    pub(super) fn take_unused(&mut self) -> Option<(Release, Memory)> {
        let mut retired = self.retired.iter().copied();
        let place = retired.position(|number| self.buffers.is_unused(number))?;
        let number = self.retired.swap_remove(place);
        let memory = self.buffers.remove(number)?;
        let release = Release {
            region: self.number,
            queue: 0,
            number,
            reserved: 0,
        };
        Some((release, memory))
    }

    /// Notes that the device has no more memory for now. Returns whether a caller waits to learn that.
    pub(super) fn refuse(&mut self) -> bool {
        self.growth = Growth::Refused;
        self.wanted = 1;
        std::mem::take(&mut self.refused)
    }

    /// Returns whether a caller waits until the device may be asked for a segment again.
    pub(super) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// Returns whether a caller waits for room.
    pub(super) const fn is_wanted(&self) -> bool {
        self.refused
    }

    /// Forgets that the device refused: something was freed, so it may have memory again.
    pub(super) fn forget_refusal(&mut self) {
        if self.growth == Growth::Refused {
            self.growth = Growth::Idle;
        }
    }

    /// Frees a buffer; returns whether a caller waits for room.
    pub(super) fn free(&mut self, buffer: Buffer) -> Result<bool, Status> {
        self.buffers.place(buffer).map_err(|_| Status::NoBuffer)?;
        if self.is_held(buffer) {
            return Err(Status::Busy);
        }
        self.buffers.free(buffer).map_err(|_| Status::NoBuffer)?;
        Ok(std::mem::take(&mut self.refused))
    }

    /// Notes that an operation uses a buffer from now on.
    pub(super) fn hold(&mut self, buffer: Buffer) {
        if let Some(uses) = self.uses_of(buffer) {
            *uses = uses.saturating_add(1);
        }
    }

    /// Returns whether an operation uses a buffer.
    pub(super) fn is_held(&mut self, buffer: Buffer) -> bool {
        self.uses_of(buffer).is_some_and(|uses| *uses > 0)
    }

    /// Returns whether the device wants the segment of a buffer back.
    pub(super) fn is_wanted_back(&self, buffer: Buffer) -> bool {
        self.retired.contains(&u32::from(buffer.segment()))
    }

    /// Notes that an operation no longer uses a buffer.
    pub(super) fn release(&mut self, buffer: Buffer) {
        if let Some(uses) = self.uses_of(buffer) {
            *uses = uses.saturating_sub(1);
        }
    }

    fn uses_of(&mut self, buffer: Buffer) -> Option<&mut u32> {
        self.uses
            .get_mut(usize::from(buffer.segment()))?
            .get_mut(usize::from(buffer.unit()))
    }

    /// Returns the place of `length` bytes at `offset` of a buffer, for the device.
    pub(super) fn place(
        &self,
        buffer: Buffer,
        offset: usize,
        length: usize,
    ) -> Result<u64, Status> {
        let place = self.buffers.place(buffer).map_err(|_| Status::NoBuffer)?;
        match offset.checked_add(length) {
            Some(end) if end <= place.length => {}
            _ => return Err(Status::OutOfBounds),
        }
        // A segment has fewer than 2^48 bytes, and there are at most 2^16 segments.
        Ok(Place {
            segment: place.segment as u16,
            offset: (place.offset + offset) as u64,
        }
        .to_bits())
    }

    /// Returns the bytes of a buffer.
    pub(super) fn memory(&self, buffer: Buffer) -> Result<Memory, Status> {
        self.buffers.memory(buffer).map_err(|_| Status::NoBuffer)
    }

    /// Allocates a buffer of `length` bytes, and copies `pieces` into it, one after the other.
    pub(super) fn fill<'a>(
        &mut self,
        length: usize,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Buffer, Status> {
        let buffer = self.allocate(length)?;
        let memory = self.memory(buffer)?;
        let mut offset = 0;
        for piece in pieces {
            memory
                .write(offset, piece)
                .map_err(|_| Status::OutOfBounds)?;
            offset += piece.len();
        }
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::super::abi::region;
    use super::*;

    const SHAPE: RegionShape = RegionShape {
        unit_length: 4096,
        units_per_segment: 4,
        longest_run: 2,
        max_segments: 2,
    };

    fn region() -> Region {
        Region::new(region::BULK, SHAPE).unwrap()
    }

    fn segment(number: u32) -> Segment {
        Segment {
            region: region::BULK,
            number,
            length: 16384,
            ..Segment::new_zeroed()
        }
    }

    #[test]
    fn asks_once_and_says_whether_a_caller_waits() {
        let mut region = region();
        assert_eq!(region.allocate(0), Err(Status::Invalid));
        assert_eq!(region.allocate(8193), Err(Status::TooLong));
        assert_eq!(region.growth, Growth::Idle);
        assert_eq!(region.allocate(1), Err(Status::Again));
        assert_eq!(region.growth, Growth::Wanted);
        region.growth = Growth::Asked;
        assert_eq!(region.allocate(1), Err(Status::Again));
        assert_eq!(region.growth, Growth::Asked);
        assert_eq!(region.add(&segment(0), Memory::zeroed(16384)), Ok(true));
        assert_eq!(region.growth, Growth::Idle);
        let buffer = region.allocate(1).unwrap();
        assert_eq!(region.free(buffer), Ok(false), "nobody waits");
    }

    #[test]
    fn does_not_ask_again_before_something_was_freed() {
        let mut region = region();
        region.add(&segment(0), Memory::zeroed(16384)).unwrap();
        let buffers: Vec<_> = (0..2).map(|_| region.allocate(8192).unwrap()).collect();
        assert_eq!(region.allocate(1), Err(Status::Again));
        assert!(region.refuse());
        assert_eq!(region.allocate(1), Err(Status::Again), "what is in use");
        assert_eq!(region.growth, Growth::Refused);
        assert_eq!(region.free(buffers[0]), Ok(true));
        region.forget_refusal();
        assert!(region.allocate(8192).is_ok());
        assert_eq!(region.allocate(1), Err(Status::Again));
        region.add(&segment(1), Memory::zeroed(16384)).unwrap();
        for _ in 0..4 {
            region.allocate(1).unwrap();
        }
        assert_eq!(region.allocate(1), Err(Status::Again), "the limit");
        assert_eq!(region.free(buffers[0]), Err(Status::NoBuffer));
        assert_eq!(region.free(buffers[1]), Ok(true));
    }

    #[test]
    fn says_that_there_is_nothing_to_wait_for_and_asks_again() {
        let mut region = region();
        for _ in 0..3 {
            assert_eq!(region.allocate(1), Err(Status::Again));
            assert_eq!(region.growth, Growth::Wanted);
            region.growth = Growth::Asked;
            assert!(region.refuse());
            assert_eq!(region.allocate(1), Err(Status::NoMemory));
        }
        region.add(&segment(0), Memory::zeroed(16384)).unwrap();
        assert!(region.allocate(1).is_ok());
    }

    #[test]
    fn refuses_a_segment_that_it_did_not_ask_for() {
        let mut region = region();
        let memory = || Memory::zeroed(16384);
        let mut wrong = segment(0);
        wrong.region = region::SEND;
        assert_eq!(region.add(&wrong, memory()), Err(Status::Corrupt));
        let mut wrong = segment(0);
        wrong.queue = 1;
        assert_eq!(region.add(&wrong, memory()), Err(Status::Corrupt));
        for length in [4095, 20480] {
            let memory = Memory::zeroed(length);
            assert_eq!(region.add(&segment(0), memory), Err(Status::Corrupt));
        }
        for number in [1, 0] {
            region.add(&segment(number), memory()).unwrap();
            assert_eq!(region.add(&segment(number), memory()), Err(Status::Corrupt));
        }
        assert_eq!(region.add(&segment(2), memory()), Err(Status::Corrupt));
    }

    #[test]
    fn asks_for_what_the_longest_refused_buffer_needs() {
        let mut region = region();
        for (length, wanted) in [(1, 1), (8192, 2), (4096, 2)] {
            assert_eq!(region.allocate(length), Err(Status::Again));
            assert_eq!(region.wanted(), wanted);
        }
        let short = Memory::zeroed(4096);
        assert_eq!(region.add(&segment(0), short), Err(Status::Corrupt));
        region.add(&segment(0), Memory::zeroed(8192)).unwrap();
        region.allocate(8192).unwrap();
        assert_eq!(region.allocate(1), Err(Status::Again));
        assert_eq!(region.wanted(), 1);
    }

    #[test]
    fn gives_a_segment_back_once_nothing_uses_it() {
        let mut region = region();
        region.add(&segment(0), Memory::zeroed(4096)).unwrap();
        region.add(&segment(1), Memory::zeroed(16384)).unwrap();
        let buffer = region.allocate(8192).unwrap();
        assert_eq!(region.reclaim(1), Ok(()));
        assert_eq!(region.reclaim(1), Err(Status::Corrupt), "twice");
        assert_eq!(region.reclaim(2), Err(Status::Corrupt), "none");
        assert!(region.take_unused().is_none());
        assert_eq!(region.allocate(8192), Err(Status::Again), "nothing new");
        region.free(buffer).unwrap();
        let (release, memory) = region.take_unused().unwrap();
        assert_eq!((release.region, release.number), (region::BULK, 1));
        assert_eq!(memory.len(), 16384);
        assert!(region.take_unused().is_none());
        // Another segment may have that number now.
        region.add(&segment(1), Memory::zeroed(8192)).unwrap();
        assert_eq!(region.free(buffer), Err(Status::NoBuffer));
        assert!(region.allocate(8192).is_ok());
    }

    #[test]
    fn a_buffer_in_use_is_not_freed() {
        let mut region = region();
        region.add(&segment(0), Memory::zeroed(16384)).unwrap();
        let buffer = region.allocate(5000).unwrap();
        region.hold(buffer);
        region.hold(buffer);
        region.release(buffer);
        assert_eq!(region.free(buffer), Err(Status::Busy));
        region.release(buffer);
        assert_eq!(region.free(buffer), Ok(false));
        assert_eq!(region.free(buffer), Err(Status::NoBuffer));
    }

    #[test]
    fn gives_out_only_places_inside_a_buffer() {
        let mut region = region();
        region.add(&segment(0), Memory::zeroed(16384)).unwrap();
        region.allocate(1).unwrap();
        let buffer = region.fill(6, [&b"abc"[..], b"def"].into_iter()).unwrap();
        let memory = region.memory(buffer).unwrap();
        assert_eq!(memory.to_vec(0, 6).unwrap(), b"abcdef");
        assert_eq!(region.place(buffer, 10, 4086), Ok(4106));
        for (offset, length) in [(0, 4097), (4096, 1), (usize::MAX, 1), (1, usize::MAX)] {
            assert_eq!(
                region.place(buffer, offset, length),
                Err(Status::OutOfBounds)
            );
        }
    }
}
