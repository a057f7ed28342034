// SPDX-License-Identifier: GPL-2.0-or-later

//! Gives out buffers in memory that another process has mapped, too, and takes them back.
//!
//! Memory comes in *segments*, each a sealed memory file; a segment consists of *units*, and a buffer is a run of
//! consecutive units in one segment. Only this side knows which units are in use, in its private memory: writes of the
//! other process into the shared bytes change contents, never ownership.
//!
//! ```text
//!   segment 0   [a a . c . . . .]                     a: 2 units   b: 8   c: 1   .: free
//!   segment 1   [b b b b b b b b . . . . . . . .]     added when segment 0 was full
//! ```
//!
//! Segments may differ in length, and come and go: once a segment is *retired*, nothing more is given out in it, and it
//! is removed when all of its units are free. Its number may be used again.
//!
//! A run goes into the first place where it fits, in the shortest segment that has one, so that longer segments stay
//! empty as long as they can. That bounds the cost of fragmentation: a run of `n` units is refused only if no segment
//! has `n` free units in a row, hence only if in each segment of `s` units at least `s / n` (rounded down) are in use.
//! Single units are refused only when all are in use.
//!
//! A [`Buffer`] is a number that may go to the other process and come back. It names the segment, the first unit and a
//! generation. The generation changes each time a unit is given out, even if the unit lies in a later segment with the
//! same number, so a number that is made up, or comes back twice, differs from one that is in use.
//!
//! Buffers of one size, such as those for the messages of a connection, have a longest run of one unit:
//! [`Shape::slots`]. There is no second allocator. This module must never wait, and never grow by itself: a new segment
//! is of no use until the other process has mapped it, and the owner of the buffers has to arrange that.

#[cfg(feature = "broker")]
mod kept;

use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroUsize;

use crate::sys::Memory;

#[cfg(feature = "broker")]
pub(crate) use self::kept::KeptSegment;

#[cfg(test)]
mod tests;

/// The shape of the memory: how much there is, and in what pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Length of a unit, in bytes: 1 or more; a multiple of the page size if buffers have to begin at page boundaries.
    pub unit_length: usize,
    /// Number of units in the longest segment: 1 to 65,536.
    pub units_per_segment: u32,
    /// Number of units in the longest buffer: 1 to `units_per_segment`.
    pub longest_run: u32,
    /// Maximum number of segments at a time: 1 to 65,536.
    pub max_segments: u32,
}

impl Default for Shape {
    /// Returns a shape of at most 8 segments of 64 units of 1 MiB, for buffers of up to 8 MiB.
    fn default() -> Self {
        Self {
            unit_length: 1 << 20,
            units_per_segment: 64,
            longest_run: 8,
            max_segments: 8,
        }
    }
}

impl Shape {
    /// Returns the shape for buffers of `length` bytes each, with `count` of them in a segment.
    #[must_use]
    pub const fn slots(length: usize, count: u32, max_segments: u32) -> Self {
        Self {
            unit_length: length,
            units_per_segment: count,
            longest_run: 1,
            max_segments,
        }
    }

    /// Returns the length of the longest segment, in bytes; `None` if no buffers can have this shape.
    #[must_use]
    pub fn segment_length(&self) -> Option<usize> {
        let numbers = 1..=1 << 16;
        let legal = self.unit_length > 0
            && numbers.contains(&self.units_per_segment)
            && numbers.contains(&self.max_segments)
            && (1..=self.units_per_segment).contains(&self.longest_run);
        let length = self
            .unit_length
            .checked_mul(self.units_per_segment as usize)?;
        (legal && isize::try_from(length).is_ok()).then_some(length)
    }

    /// Returns the number of units of a segment of `length` bytes; `None` if no segment can have this length.
    #[must_use]
    pub fn units_of(&self, length: usize) -> Option<u32> {
        let whole = length.checked_rem(self.unit_length)? == 0;
        let units = u32::try_from(length / self.unit_length).ok()?;
        (whole && (1..=self.units_per_segment).contains(&units)).then_some(units)
    }
}

/// A buffer that was given out, as a number that any process may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    segment: u16,
    /// The first unit of the buffer.
    unit: u16,
    /// How often a buffer has begun at this unit; 0 stands for no buffer.
    generation: u32,
}

impl Buffer {
    /// Returns the number, which is never 0: the generation in the high bits, then the segment, then the unit.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | (self.segment as u64) << 16 | self.unit as u64
    }

    /// Decodes a number, which need not be that of a buffer.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            segment: (bits >> 16) as u16,
            unit: bits as u16,
            generation: (bits >> 32) as u32,
        }
    }

    /// Returns the segment that the number names.
    #[must_use]
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// Returns the first unit that the number names.
    #[must_use]
    pub const fn unit(self) -> u16 {
        self.unit
    }
}

/// The place of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The number of the buffer's segment.
    pub segment: u32,
    /// Offset from the start of the segment, in bytes.
    pub offset: usize,
    /// Length in bytes: whole units, so at least as many as were asked for.
    pub length: usize,
}

/// An error: no buffers can have this shape, because a value is 0, too large, or does not fit another value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid buffer shape")]
pub struct BadShape;

/// Why there is no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum AllocateError {
    /// A buffer of 0 bytes was asked for.
    #[error("cannot allocate a buffer of 0 bytes")]
    Empty,
    /// The length exceeds that of the longest buffer.
    #[error("a buffer of {length} bytes exceeds the limit of {longest} bytes")]
    TooLong {
        /// Number of bytes that were asked for.
        length: usize,
        /// Number of bytes of the longest buffer.
        longest: usize,
    },
    /// There is no room now; [`Buffers::add`] makes room.
    #[error("no room for the buffer in the existing segments")]
    Full,
    /// There is no room, and no further segment is allowed now: wait until a buffer is freed.
    #[error("no room for the buffer, and no further segment is allowed")]
    Exhausted,
}

/// Why a segment was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum AddError {
    /// The number is out of range: it must be less than [`Shape::max_segments`].
    #[error("segment {0} is beyond the number of segments allowed")]
    Limit(u32),
    /// A segment already has this number.
    #[error("segment {0} exists already")]
    Taken(u32),
    /// The segment does not consist of whole units, or is longer than the shape allows.
    #[error("a segment of {found} bytes is not in whole units, or exceeds {longest} bytes")]
    WrongLength {
        /// Number of bytes of the longest segment.
        longest: usize,
        /// Number of bytes of this segment.
        found: usize,
    },
}

/// Why a number does not name a buffer in use. No buffer has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum BufferError {
    /// The buffer was in use, and has been freed.
    #[error("the buffer has been freed already")]
    AlreadyFreed,
    /// The number never named one of these buffers.
    #[error("the buffer was never given out here")]
    Foreign,
}

impl AllocateError {
    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

impl AddError {
    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

impl BufferError {
    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

/// The buffers of one owner.
#[derive(Debug)]
pub struct Buffers {
    shape: Shape,
    segment_length: usize,
    /// The segments, indexed by number.
    slots: Vec<Slot>,
    /// Numbers of the segments in which buffers may be given out, the shortest first.
    open: Vec<u32>,
}

/// The state of the segments that have had the same number.
#[derive(Debug, Default)]
struct Slot {
    segment: Option<Segment>,
    /// The last generation in the segments that were removed.
    generation: u32,
}

#[derive(Debug)]
struct Segment {
    memory: Memory,
    units: Units,
}

impl Buffers {
    /// Makes the buffers without a segment.
    pub fn new(shape: Shape) -> Result<Self, BadShape> {
        Ok(Self {
            shape,
            segment_length: shape.segment_length().ok_or(BadShape)?,
            slots: Vec::new(),
            open: Vec::new(),
        })
    }

    /// Returns the shape with which the buffers were made.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Returns the lowest number that no segment has; `None` if there are as many as allowed.
    #[must_use]
    pub fn free_number(&self) -> Option<u32> {
        let free = self.slots.iter().position(|slot| slot.segment.is_none());
        let number = free.unwrap_or(self.slots.len()) as u32;
        (number < self.shape.max_segments).then_some(number)
    }

    /// Adds a segment under an unused number; nothing is given out in it yet.
    ///
    /// The other process has to map it before it learns about buffers in it.
    ///
    /// # Errors
    ///
    /// The number or the length is out of range ([`Shape::units_of`]), or the number is in use.
    pub fn add(&mut self, number: u32, memory: Memory) -> Result<(), AddError> {
        if number >= self.shape.max_segments {
            return Err(AddError::Limit(number));
        }
        let Some(units) = self.shape.units_of(memory.len()) else {
            return Err(AddError::WrongLength {
                longest: self.segment_length,
                found: memory.len(),
            });
        };
        let index = number as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Slot::default);
        }
        match self.slots.get_mut(index) {
            Some(slot) if slot.segment.is_none() => {
                let units = Units::new(units, slot.generation);
                slot.segment = Some(Segment { memory, units });
            }
            _ => return Err(AddError::Taken(number)),
        }
        let place = self.open.partition_point(|other| {
            let others = self.segment(*other).map_or(0, Memory::len);
            (others, *other) < (self.shape.unit_length * units as usize, number)
        });
        self.open.insert(place, number);
        Ok(())
    }

    /// Stops giving out buffers in a segment; returns whether there is a segment with this number.
    pub fn retire(&mut self, number: u32) -> bool {
        self.open.retain(|other| *other != number);
        self.segment(number).is_some()
    }

    /// Returns whether there is a segment with this number, and nothing is given out in it.
    #[must_use]
    pub fn is_unused(&self, number: u32) -> bool {
        let segment = self.slots.get(number as usize);
        let segment = segment.and_then(|slot| slot.segment.as_ref());
        segment.is_some_and(|segment| segment.units.used_count() == 0)
    }

    /// Removes a segment in which nothing is given out, and returns its bytes. Returns `None` if there is no such
    /// segment.
    pub fn remove(&mut self, number: u32) -> Option<Memory> {
        if !self.is_unused(number) {
            return None;
        }
        self.retire(number);
        let slot = self.slots.get_mut(number as usize)?;
        let segment = slot.segment.take()?;
        slot.generation = segment.units.last_generation(slot.generation);
        Some(segment.memory)
    }

    /// Returns the bytes of a segment.
    #[must_use]
    pub fn segment(&self, number: u32) -> Option<&Memory> {
        let slot = self.slots.get(number as usize)?;
        Some(&slot.segment.as_ref()?.memory)
    }

    /// Returns the numbers of all segments, including retired ones.
    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        let numbered = (0..).zip(&self.slots);
        numbered.filter_map(|(number, slot)| slot.segment.as_ref().map(|_| number))
    }

    /// Returns the number of segments, including retired ones.
    #[must_use]
    pub fn segments(&self) -> u32 {
        self.numbers().count() as u32
    }

    /// Returns how many units `length` bytes take; saturates at `u32::MAX`.
    #[inline]
    #[must_use]
    pub fn units_of(&self, length: usize) -> u32 {
        let unit = NonZeroUsize::new(self.shape.unit_length).unwrap_or(NonZeroUsize::MIN);
        u32::try_from(length.div_ceil(unit.get())).unwrap_or(u32::MAX)
    }

    /// Returns the number of units of all segments.
    #[must_use]
    pub fn units(&self) -> u32 {
        let count = |segment: &Segment| segment.units.starts.len() as u32;
        self.all().map(count).sum()
    }

    /// Returns the number of units in use in all segments.
    #[must_use]
    pub fn used_units(&self) -> u32 {
        self.all().map(|segment| segment.units.used_count()).sum()
    }

    fn all(&self) -> impl Iterator<Item = &Segment> {
        self.slots.iter().filter_map(|slot| slot.segment.as_ref())
    }

    /// Allocates a buffer of at least `length` bytes. The buffer still holds the data that an earlier owner left in it.
    ///
    /// # Errors
    ///
    /// `length` is out of range, or there is no room ([`AllocateError`] names the cure).
    pub fn allocate(&mut self, length: usize) -> Result<Buffer, AllocateError> {
        // The length is at most that of a segment.
        let longest = self.shape.unit_length * self.shape.longest_run as usize;
        if length == 0 {
            return Err(AllocateError::Empty);
        }
        if length > longest {
            return Err(AllocateError::TooLong { length, longest });
        }
        let count = self.units_of(length);
        for number in &self.open {
            let segment = self.slots.get_mut(*number as usize);
            let segment = segment.and_then(|slot| slot.segment.as_mut());
            if let Some((unit, generation)) = segment.and_then(|segment| segment.units.take(count))
            {
                // A shape has at most 65,536 segments and units.
                return Ok(Buffer {
                    segment: *number as u16,
                    unit: unit as u16,
                    generation,
                });
            }
        }
        if self.free_number().is_some() {
            Err(AllocateError::Full)
        } else {
            Err(AllocateError::Exhausted)
        }
    }

    /// Takes a buffer back.
    ///
    /// # Errors
    ///
    /// The buffer is not in use here; nothing has changed.
    pub fn free(&mut self, buffer: Buffer) -> Result<(), BufferError> {
        let count = self.run_of(buffer)?;
        let slot = self.slots.get_mut(usize::from(buffer.segment));
        if let Some(segment) = slot.and_then(|slot| slot.segment.as_mut()) {
            segment.units.give_back(buffer.unit.into(), count);
        }
        Ok(())
    }

    /// Returns the place of a buffer.
    ///
    /// # Errors
    ///
    /// The buffer is not in use here.
    pub fn place(&self, buffer: Buffer) -> Result<Place, BufferError> {
        let count = self.run_of(buffer)?;
        Ok(Place {
            segment: buffer.segment.into(),
            offset: usize::from(buffer.unit) * self.shape.unit_length,
            length: count as usize * self.shape.unit_length,
        })
    }

    /// Returns the bytes of a buffer, which the other process may write at any time.
    ///
    /// The bytes stay mapped as long as the [`Memory`] lives, even after the buffer was freed and given out again: drop
    /// the [`Memory`] before you free the buffer.
    ///
    /// # Errors
    ///
    /// The buffer is not in use here.
    pub fn memory(&self, buffer: Buffer) -> Result<Memory, BufferError> {
        let place = self.place(buffer)?;
        let segment = self.segment(buffer.segment.into());
        segment
            .and_then(|memory| memory.part(place.offset, place.length).ok())
            .ok_or(BufferError::Foreign)
    }

    /// Returns the number of units of a buffer that is in use.
    fn run_of(&self, buffer: Buffer) -> Result<u32, BufferError> {
        let slot = self.slots.get(usize::from(buffer.segment));
        let slot = slot.ok_or(BufferError::Foreign)?;
        let found = match &slot.segment {
            Some(segment) => segment.units.run_of(buffer.unit.into(), buffer.generation),
            None => Err(BufferError::Foreign),
        };
        // A buffer of a removed segment may name a unit after the end of the segment's successor.
        match found {
            Err(_) if is_earlier(buffer.generation, slot.generation) => {
                Err(BufferError::AlreadyFreed)
            }
            found => found,
        }
    }
}

/// Returns whether a generation is `last` or came before it. Half of the numbers count as earlier, so that the result
/// is still right when the numbers wrap.
const fn is_earlier(generation: u32, last: u32) -> bool {
    generation != 0 && last != 0 && last.wrapping_sub(generation) <= u32::MAX / 2
}

/// The state of the units of a segment.
#[derive(Debug)]
struct Units {
    /// A bit for each unit, 1 while it is in use.
    used: Vec<u64>,
    starts: Vec<Start>,
    /// Number of units not in use.
    free: u32,
}

/// The state of the runs that begin at a unit.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    /// Number of units of the run that begins here now, or 0.
    count: u32,
    /// The generation of the last run that began here, or in an earlier segment with the same number; 0 only if none
    /// has.
    generation: u32,
}

impl Units {
    /// Makes a segment whose units are all free; `generation` is the last that was given out.
    fn new(count: u32, generation: u32) -> Self {
        let start = Start {
            count: 0,
            generation,
        };
        Self {
            used: vec![0; count.div_ceil(64) as usize],
            starts: vec![start; count as usize],
            free: count,
        }
    }

    /// Returns the number of units in use.
    fn used_count(&self) -> u32 {
        self.starts.len() as u32 - self.free
    }

    /// Returns the last generation that was given out, if all units began with the generation `first`.
    fn last_generation(&self, first: u32) -> u32 {
        let generations = self.starts.iter().map(|start| start.generation);
        let last = generations.max_by_key(|generation| generation.wrapping_sub(first));
        last.unwrap_or(first)
    }

    /// Takes the first run of `count` free units; returns the first of them and its generation.
    fn take(&mut self, count: u32) -> Option<(u32, u32)> {
        let unit = self.find(count)?;
        let start = self.starts.get_mut(unit as usize)?;
        start.count = count;
        // This wraps to 1, because 0 stands for a unit that was never given out.
        start.generation = start.generation.checked_add(1).unwrap_or(1);
        let generation = start.generation;
        self.mark(unit, count, true);
        self.free -= count;
        Some((unit, generation))
    }

    /// Frees the run of `count` units that begins at `unit`, which `run_of` has found.
    fn give_back(&mut self, unit: u32, count: u32) {
        if let Some(start) = self.starts.get_mut(unit as usize) {
            start.count = 0;
            self.mark(unit, count, false);
            self.free += count;
        }
    }

    fn run_of(&self, unit: u32, generation: u32) -> Result<u32, BufferError> {
        let start = self.starts.get(unit as usize).ok_or(BufferError::Foreign)?;
        match start.count {
            _ if !is_earlier(generation, start.generation) => Err(BufferError::Foreign),
            count if generation == start.generation && count > 0 => Ok(count),
            _ => Err(BufferError::AlreadyFreed),
        }
    }

    /// Returns the first unit of the first `count` free units in a row.
    fn find(&self, count: u32) -> Option<u32> {
        if count > self.free {
            return None;
        }
        let mut from = 0;
        loop {
            let first = self.next(from, false)?;
            let end = self.next(first, true).unwrap_or(self.starts.len() as u32);
            if end - first >= count {
                return Some(first);
            }
            from = end;
        }
    }

    /// Returns the first unit, starting at `from`, that is in use or, if `used` is `false`, free.
    fn next(&self, from: u32, used: bool) -> Option<u32> {
        let flip = if used { 0 } else { u64::MAX };
        let first_word = from as usize / 64;
        let mut mask = u64::MAX << (from % 64);
        for (number, word) in self.used.iter().enumerate().skip(first_word) {
            let found = (word ^ flip) & mask;
            if found != 0 {
                let unit = number as u32 * 64 + found.trailing_zeros();
                // The last word has bits that do not stand for a unit and are never set.
                return (unit < self.starts.len() as u32).then_some(unit);
            }
            mask = u64::MAX;
        }
        None
    }

    fn mark(&mut self, first: u32, count: u32, used: bool) {
        for unit in first..first + count {
            if let Some(word) = self.used.get_mut(unit as usize / 64) {
                let bit = 1 << (unit % 64);
                *word = if used { *word | bit } else { *word & !bit };
            }
        }
    }
}
