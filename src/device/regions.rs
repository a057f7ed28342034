// SPDX-License-Identifier: GPL-2.0-or-later

//! The memory whose buffers this side gives out: SEND and BULK.

use super::Status;
use super::abi::{Place, RegionShape, Release, Segment};
use crate::shm::buffers::{AllocateError, Shape};
use crate::shm::{Buffer, Buffers};
use crate::sys::Memory;

/// What there may be of buffers, from the device's word; whether there may be such is not said.
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
    /// There is no need.
    Idle,
    /// It is to be asked.
    Wanted,
    /// It has been asked.
    Asked,
    /// It refused, and nothing was freed since.
    Refused,
}

/// SEND or BULK.
#[derive(Debug)]
pub(super) struct Region {
    number: u32,
    buffers: Buffers,
    pub(super) growth: Growth,
    /// Somebody found no room and was not told yet that there is some.
    refused: bool,
    /// Units that the next segment has to have at least.
    wanted: u32,
    /// Of each segment, by its number, operations that use the buffer that begins at a unit.
    uses: Vec<Box<[u32]>>,
    /// Segments that the device wants back, and in which something is still in use.
    retired: Vec<u32>,
}

impl Region {
    /// An empty region, or [`Status::Corrupt`] where its shape is none.
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

    /// A buffer of at least `length` bytes. [`Status::Again`]: somebody is told when there may be room,
    /// and [`growth`](Self::growth) says whether the device is to be asked. [`Status::NoMemory`]: the
    /// device refused, and nothing of this region is in use that could be waited for.
    pub(super) fn allocate(&mut self, length: usize) -> Result<Buffer, Status> {
        match (self.buffers.allocate(length), self.growth) {
            (Ok(buffer), _) => return Ok(buffer),
            (Err(AllocateError::Empty), _) => return Err(Status::Invalid),
            (Err(AllocateError::TooLong { .. }), _) => return Err(Status::TooLong),
            (Err(AllocateError::Full), Growth::Refused) if self.buffers.used_units() == 0 => {
                // Nothing of this region will be freed: the next one asks again.
                self.growth = Growth::Idle;
                return Err(Status::NoMemory);
            }
            (Err(AllocateError::Full), Growth::Idle | Growth::Wanted) => {
                self.growth = Growth::Wanted;
                // No longer than the longest run.
                let units = length.div_ceil(self.buffers.shape().unit_length) as u32;
                self.wanted = self.wanted.max(units);
            }
            // Another buffer of this region has to be freed, or the answer has to come.
            (Err(AllocateError::Full | AllocateError::Exhausted), _) => {}
        }
        self.refused = true;
        Err(Status::Again)
    }

    /// Has the device be asked for the first segment before there is need of it: of a new region.
    pub(super) const fn want_first(&mut self) {
        self.growth = Growth::Wanted;
    }

    /// Units that the device is to be asked for at least.
    pub(super) const fn wanted(&self) -> u32 {
        self.wanted
    }

    /// The answer of the device that was asked. Returns whether somebody waits for it.
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

    /// The device wants a segment back. [`Status::Corrupt`]: there is none, or it wanted it already.
    pub(super) fn reclaim(&mut self, number: u32) -> Result<(), Status> {
        if self.retired.contains(&number) || !self.buffers.retire(number) {
            return Err(Status::Corrupt);
        }
        self.retired.push(number);
        Ok(())
    }

    /// Takes a segment out that the device wants back and nothing uses: what the device is to be told,
    /// and the bytes.
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

    /// The device has no more for now. Returns whether somebody waits to learn that.
    pub(super) fn refuse(&mut self) -> bool {
        self.growth = Growth::Refused;
        self.wanted = 1;
        std::mem::take(&mut self.refused)
    }

    /// Something may be asked for that could not be before. Returns whether somebody waits for that.
    pub(super) fn has_changed(&mut self) -> bool {
        std::mem::take(&mut self.refused)
    }

    /// Whether somebody waits for room.
    pub(super) const fn is_wanted(&self) -> bool {
        self.refused
    }

    /// Something was freed somewhere: the device may think otherwise now.
    pub(super) fn forget_refusal(&mut self) {
        if self.growth == Growth::Refused {
            self.growth = Growth::Idle;
        }
    }

    /// Takes a buffer back; returns whether somebody waits for room.
    pub(super) fn free(&mut self, buffer: Buffer) -> Result<bool, Status> {
        self.buffers.place(buffer).map_err(|_| Status::NoBuffer)?;
        if self.uses_of(buffer).is_some_and(|uses| *uses > 0) {
            return Err(Status::Busy);
        }
        self.buffers.free(buffer).map_err(|_| Status::NoBuffer)?;
        Ok(std::mem::take(&mut self.refused))
    }

    /// An operation uses a buffer from now on.
    pub(super) fn hold(&mut self, buffer: Buffer) {
        if let Some(uses) = self.uses_of(buffer) {
            *uses = uses.saturating_add(1);
        }
    }

    /// An operation does not use a buffer any more.
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

    /// Where `length` bytes at `offset` of a buffer are, for the device.
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
        // Segments have less than 2^48 bytes, and there are no more than 2^16.
        Ok(Place {
            segment: place.segment as u16,
            offset: (place.offset + offset) as u64,
        }
        .to_bits())
    }

    /// The bytes of a buffer.
    pub(super) fn memory(&self, buffer: Buffer) -> Result<Memory, Status> {
        self.buffers.memory(buffer).map_err(|_| Status::NoBuffer)
    }

    /// A new buffer with copies of `pieces`, one behind the other: `length` bytes.
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
    fn asks_once_and_tells_who_was_refused() {
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
    fn asks_for_what_the_longest_that_was_refused_needs() {
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
        // The number may be that of another one now.
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
    fn knows_the_places_of_a_buffer_only() {
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
