//! Buffers in memory that another process has mapped too, given out and taken back here.
//!
//! Memory comes in *segments* of one size, each a sealed memory file; a segment consists of *units*,
//! and a buffer is a run of units that follow each other in one segment. Which units are in use is
//! known to this side alone, in its private memory: what the other process writes into the shared
//! bytes changes contents, never ownership.
//!
//! ```text
//!   segment 0   [a a a a a a a a b b . c . . . .]     a: 8 units   b: 2   c: 1   .: free
//!   segment 1   [. . . . . . . . . . . . . . . .]     added when segment 0 was full
//! ```
//!
//! A run goes into the first place where it fits, from the first segment on, so that later segments
//! stay empty as long as they can. That bounds what fragmentation can cost: a run of `n` units is
//! refused only if no segment has `n` free units in a row, hence only if in each segment of `s` units
//! at least `s / n` (rounded down) are in use. Single units are refused only when all are in use, and
//! with runs of up to 8 units an eighth of the memory is always of use.
//!
//! A [`Buffer`] is a number that may go to the other process and come back. It names the segment, the
//! first unit and a generation, which is another one each time a unit is given out; so one that is
//! made up, or comes back twice, is told from one that is in use.
//!
//! Buffers of one size, such as for the messages of a connection, are the same with a longest run of
//! one unit: [`Shape::slots`]. There is no second allocator.
//!
//! This module must never wait, and never grow by itself: a new segment is of no use before the
//! other process has mapped it, and that is its owner's to arrange.

use crate::sys::Memory;

#[cfg(test)]
mod tests;

/// How much memory there is, and in what pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of a unit: 1 or more, a multiple of the page where buffers are to begin at pages.
    pub unit_length: usize,
    /// Units of a segment: from 1 to 65,536.
    pub units_per_segment: u32,
    /// Units of the longest buffer: from 1 to `units_per_segment`.
    pub longest_run: u32,
    /// Segments that there may ever be: from 1 to 65,536.
    pub max_segments: u32,
}

impl Default for Shape {
    /// Segments of 64 units of 1 MiB, for buffers of up to 8 MiB; at most 8 segments.
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
    /// Buffers of `length` bytes each, `count` of them in a segment.
    #[must_use]
    pub const fn slots(length: usize, count: u32, max_segments: u32) -> Self {
        Self {
            unit_length: length,
            units_per_segment: count,
            longest_run: 1,
            max_segments,
        }
    }

    /// Bytes of a segment, or `None` where the shape is none.
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
}

/// A buffer that was given out, as a number that any process may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Buffer {
    segment: u16,
    /// Its first.
    unit: u16,
    /// How often a buffer began at this unit; 0 is none.
    generation: u32,
}

impl Buffer {
    /// The number: the generation above the segment above the unit; never 0.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.generation as u64) << 32 | (self.segment as u64) << 16 | self.unit as u64
    }

    /// What a number means, which may be no buffer at all.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            segment: (bits >> 16) as u16,
            unit: bits as u16,
            generation: (bits >> 32) as u32,
        }
    }

    /// The segment that the number names.
    #[must_use]
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// The first unit that the number names.
    #[must_use]
    pub const fn unit(self) -> u16 {
        self.unit
    }
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its segment, counted from 0 in the order of [`Buffers::add`].
    pub segment: u32,
    /// Bytes from the start of the segment.
    pub offset: usize,
    /// Bytes: whole units, so at least as many as were asked for.
    pub length: usize,
}

/// There cannot be buffers of this shape: a number is 0, too large, or does not go with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there cannot be buffers of this shape")]
pub struct BadShape;

/// Why there is no buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum AllocateError {
    /// A buffer of no bytes.
    #[error("a buffer of no bytes")]
    Empty,
    /// Longer than any buffer can be.
    #[error("a buffer of {length} bytes, and {longest} is the limit")]
    TooLong {
        /// Bytes asked for.
        length: usize,
        /// Bytes of the longest buffer.
        longest: usize,
    },
    /// Nowhere now; [`Buffers::add`] makes room.
    #[error("no room for the buffer in the segments there are")]
    Full,
    /// Nowhere, and there may be no further segment: wait until a buffer is freed.
    #[error("no room for the buffer, and no further segment allowed")]
    Exhausted,
}

/// Why a segment was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum AddError {
    /// There are as many as there may be.
    #[error("no further segment allowed")]
    Limit,
    /// Segments have one length.
    #[error("a segment of {found} bytes, not {expected}")]
    WrongLength {
        /// Bytes of a segment.
        expected: usize,
        /// Bytes that this one has.
        found: usize,
    },
}

/// A number is not that of a buffer in use. Nothing happened to any buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, thiserror::Error)]
#[strum(serialize_all = "snake_case")]
pub enum BufferError {
    /// It was one, and has been freed.
    #[error("the buffer has been freed already")]
    AlreadyFreed,
    /// It never was one of these buffers.
    #[error("the buffer was never given out here")]
    Foreign,
}

impl AllocateError {
    /// A stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

impl AddError {
    /// A stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

impl BufferError {
    /// A stable name for counters and logs, in snake case.
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
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Segment {
    memory: Memory,
    units: Units,
}

impl Buffers {
    /// No segments yet.
    pub fn new(shape: Shape) -> Result<Self, BadShape> {
        Ok(Self {
            shape,
            segment_length: shape.segment_length().ok_or(BadShape)?,
            segments: Vec::new(),
        })
    }

    /// What it was made with.
    #[must_use]
    pub const fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Adds a segment, in which nothing is given out yet; returns its number.
    ///
    /// The other process has to map it before it is told of buffers there.
    ///
    /// # Errors
    ///
    /// There may be no more, or it has another length than [`Shape::segment_length`].
    pub fn add(&mut self, memory: Memory) -> Result<u32, AddError> {
        let number = self.segments.len() as u32;
        if number >= self.shape.max_segments {
            return Err(AddError::Limit);
        }
        if memory.len() != self.segment_length {
            return Err(AddError::WrongLength {
                expected: self.segment_length,
                found: memory.len(),
            });
        }
        self.segments.push(Segment {
            memory,
            units: Units::new(self.shape.units_per_segment),
        });
        Ok(number)
    }

    /// The bytes of a segment.
    #[must_use]
    pub fn segment(&self, number: u32) -> Option<&Memory> {
        Some(&self.segments.get(number as usize)?.memory)
    }

    /// Segments there are.
    #[must_use]
    pub fn segments(&self) -> u32 {
        self.segments.len() as u32
    }

    /// Units in use in all segments.
    #[must_use]
    pub fn used_units(&self) -> u32 {
        let all = self.shape.units_per_segment;
        self.segments
            .iter()
            .map(|segment| all - segment.units.free)
            .sum()
    }

    /// A buffer of at least `length` bytes. What an earlier owner left in it is still there.
    ///
    /// # Errors
    ///
    /// `length` is no length of a buffer, or there is no room ([`AllocateError`] says what helps).
    pub fn allocate(&mut self, length: usize) -> Result<Buffer, AllocateError> {
        // At most the length of a segment.
        let longest = self.shape.unit_length * self.shape.longest_run as usize;
        if length == 0 {
            return Err(AllocateError::Empty);
        }
        if length > longest {
            return Err(AllocateError::TooLong { length, longest });
        }
        let count = length.div_ceil(self.shape.unit_length) as u32;
        for (number, segment) in self.segments.iter_mut().enumerate() {
            if let Some((unit, generation)) = segment.units.take(count) {
                // A shape has no more than 65,536 segments and units.
                return Ok(Buffer {
                    segment: number as u16,
                    unit: unit as u16,
                    generation,
                });
            }
        }
        if self.segments() < self.shape.max_segments {
            Err(AllocateError::Full)
        } else {
            Err(AllocateError::Exhausted)
        }
    }

    /// Takes a buffer back.
    ///
    /// # Errors
    ///
    /// It is not in use here, and nothing happened.
    pub fn free(&mut self, buffer: Buffer) -> Result<(), BufferError> {
        let count = self.run_of(buffer)?;
        if let Some(segment) = self.segments.get_mut(usize::from(buffer.segment)) {
            segment.units.give_back(buffer.unit.into(), count);
        }
        Ok(())
    }

    /// Where a buffer lies.
    ///
    /// # Errors
    ///
    /// It is not in use here.
    pub fn place(&self, buffer: Buffer) -> Result<Place, BufferError> {
        let count = self.run_of(buffer)?;
        Ok(Place {
            segment: buffer.segment.into(),
            offset: usize::from(buffer.unit) * self.shape.unit_length,
            length: count as usize * self.shape.unit_length,
        })
    }

    /// The bytes of a buffer, which the other process may write at any time.
    ///
    /// They stay mapped as long as the [`Memory`] lives, also after the buffer was freed and became
    /// another: whoever frees it drops this first.
    ///
    /// # Errors
    ///
    /// It is not in use here.
    pub fn memory(&self, buffer: Buffer) -> Result<Memory, BufferError> {
        let place = self.place(buffer)?;
        let segment = self.segments.get(usize::from(buffer.segment));
        segment
            .and_then(|segment| segment.memory.part(place.offset, place.length).ok())
            .ok_or(BufferError::Foreign)
    }

    /// Units of a buffer that is in use.
    fn run_of(&self, buffer: Buffer) -> Result<u32, BufferError> {
        self.segments
            .get(usize::from(buffer.segment))
            .ok_or(BufferError::Foreign)?
            .units
            .run_of(buffer.unit.into(), buffer.generation)
    }
}

/// What is known of the units of a segment.
#[derive(Debug)]
struct Units {
    /// A bit for each unit, 1 while it is in use.
    used: Vec<u64>,
    starts: Vec<Start>,
    /// Units not in use.
    free: u32,
}

/// What is known of the runs that begin at a unit.
#[derive(Clone, Copy, Debug, Default)]
struct Start {
    /// Units of the run that begins here now, or 0.
    count: u32,
    /// How many have begun here; 0 only if none has.
    generation: u32,
}

impl Units {
    fn new(count: u32) -> Self {
        Self {
            used: vec![0; count.div_ceil(64) as usize],
            starts: vec![Start::default(); count as usize],
            free: count,
        }
    }

    /// Takes the first run of `count` free units; returns the first of them and its generation.
    fn take(&mut self, count: u32) -> Option<(u32, u32)> {
        let unit = self.find(count)?;
        let start = self.starts.get_mut(unit as usize)?;
        start.count = count;
        // Past the last number comes 1: 0 stays what never was.
        start.generation = start.generation.checked_add(1).unwrap_or(1);
        let generation = start.generation;
        self.mark(unit, count, true);
        self.free -= count;
        Some((unit, generation))
    }

    /// The run that begins at `unit` is free again; `run_of` said that there is one, of this count.
    fn give_back(&mut self, unit: u32, count: u32) {
        if let Some(start) = self.starts.get_mut(unit as usize) {
            start.count = 0;
            self.mark(unit, count, false);
            self.free += count;
        }
    }

    fn run_of(&self, unit: u32, generation: u32) -> Result<u32, BufferError> {
        let start = self.starts.get(unit as usize).ok_or(BufferError::Foreign)?;
        // Half of the numbers are taken for earlier ones, so that this holds when they begin again.
        let age = start.generation.wrapping_sub(generation);
        match start.count {
            _ if generation == 0 || start.generation == 0 || age > u32::MAX / 2 => {
                Err(BufferError::Foreign)
            }
            count if age == 0 && count > 0 => Ok(count),
            _ => Err(BufferError::AlreadyFreed),
        }
    }

    /// The first unit of the first `count` that are free in a row.
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

    /// The first unit from `from` on that is used, or is not.
    fn next(&self, from: u32, used: bool) -> Option<u32> {
        let flip = if used { 0 } else { u64::MAX };
        let first_word = from as usize / 64;
        let mut mask = u64::MAX << (from % 64);
        for (number, word) in self.used.iter().enumerate().skip(first_word) {
            let found = (word ^ flip) & mask;
            if found != 0 {
                let unit = number as u32 * 64 + found.trailing_zeros();
                // The last word has bits that stand for no unit, and are never used.
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
