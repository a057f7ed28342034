// SPDX-License-Identifier: GPL-2.0-or-later

//! Compares the buffers with a list that says which buffer has which unit.

use proptest::prelude::*;

use super::*;

const UNIT: usize = 4096;
const LONGEST: u32 = 8;

fn shape(units_per_segment: u32, max_segments: u32) -> Shape {
    Shape {
        unit_length: UNIT,
        units_per_segment,
        longest_run: LONGEST.min(units_per_segment),
        max_segments,
    }
}

fn grown(shape: Shape) -> Buffers {
    let mut buffers = Buffers::new(shape).unwrap();
    add(&mut buffers, shape.units_per_segment).unwrap();
    buffers
}

/// Adds a segment of `units`, under the next number.
fn add(buffers: &mut Buffers, units: u32) -> Result<u32, AddError> {
    let number = buffers
        .free_number()
        .unwrap_or_else(|| buffers.shape().max_segments);
    let length = buffers.shape().unit_length * units as usize;
    buffers.add(number, Memory::zeroed(length))?;
    Ok(number)
}

#[test]
fn gives_the_first_place_that_fits() {
    let mut buffers = grown(shape(16, 1));
    let a = buffers.allocate(8 * UNIT).unwrap();
    let b = buffers.allocate(UNIT + 1).unwrap();
    let c = buffers.allocate(1).unwrap();
    let place = |buffers: &Buffers, buffer| {
        let place = buffers.place(buffer).unwrap();
        (place.segment, place.offset / UNIT, place.length / UNIT)
    };
    assert_eq!(place(&buffers, a), (0, 0, 8));
    assert_eq!(place(&buffers, b), (0, 8, 2));
    assert_eq!(place(&buffers, c), (0, 10, 1));
    assert_eq!(buffers.used_units(), 11);
    buffers.free(b).unwrap();
    let d = buffers.allocate(3 * UNIT).unwrap();
    assert_eq!(place(&buffers, d), (0, 11, 3));
    let e = buffers.allocate(2 * UNIT).unwrap();
    assert_eq!(place(&buffers, e), (0, 8, 2));
    assert_eq!(buffers.allocate(3 * UNIT), Err(AllocateError::Exhausted));
}

#[test]
fn says_whether_to_grow_or_to_wait() {
    let mut buffers = Buffers::new(shape(8, 2)).unwrap();
    assert_eq!(buffers.allocate(1), Err(AllocateError::Full));
    assert_eq!(add(&mut buffers, 8).unwrap(), 0);
    let first = buffers.allocate(8 * UNIT).unwrap();
    assert_eq!(buffers.allocate(1), Err(AllocateError::Full));
    assert_eq!(add(&mut buffers, 8).unwrap(), 1);
    let second = buffers.allocate(8 * UNIT).unwrap();
    assert_eq!(buffers.place(second).unwrap().segment, 1);
    assert_eq!(buffers.allocate(1), Err(AllocateError::Exhausted));
    assert_eq!(add(&mut buffers, 8).unwrap_err().name(), "limit");
    buffers.free(first).unwrap();
    let third = buffers.allocate(UNIT).unwrap();
    assert_eq!(buffers.place(third).unwrap().segment, 0);
}

#[test]
fn refuses_a_segment_of_a_wrong_length_or_number() {
    let mut buffers = Buffers::new(shape(8, 2)).unwrap();
    for length in [0, 1, 8 * UNIT - 1, 9 * UNIT] {
        let error = buffers.add(0, Memory::zeroed(length)).unwrap_err();
        assert_eq!((error.name(), buffers.segments()), ("wrong_length", 0));
    }
    buffers.add(1, Memory::zeroed(UNIT)).unwrap();
    let error = buffers.add(1, Memory::zeroed(UNIT)).unwrap_err();
    assert_eq!(error.name(), "taken");
    let error = buffers.add(2, Memory::zeroed(UNIT)).unwrap_err();
    assert_eq!(error.name(), "limit");
    assert_eq!((buffers.free_number(), buffers.segments()), (Some(0), 1));
}

#[test]
fn short_segments_fill_first_so_that_long_ones_stay_empty() {
    let mut buffers = Buffers::new(shape(16, 3)).unwrap();
    for units in [16, 2, 4] {
        add(&mut buffers, units).unwrap();
    }
    let mut segments = [0; 4];
    for segment in &mut segments {
        let buffer = buffers.allocate(2 * UNIT).unwrap();
        *segment = buffers.place(buffer).unwrap().segment;
    }
    assert_eq!(segments, [1, 2, 2, 0]);
    assert_eq!((buffers.units(), buffers.used_units()), (22, 8));
}

#[test]
fn a_retired_segment_can_be_removed_once_all_its_units_are_free() {
    let mut buffers = Buffers::new(shape(16, 2)).unwrap();
    add(&mut buffers, 2).unwrap();
    add(&mut buffers, 8).unwrap();
    let kept = buffers.allocate(2 * UNIT).unwrap();
    let buffer = buffers.allocate(2 * UNIT).unwrap();
    assert_eq!(buffers.allocate(8 * UNIT), Err(AllocateError::Exhausted));
    assert!(buffers.retire(1) && !buffers.retire(2));
    assert!(buffers.remove(1).is_none() && !buffers.is_unused(1));
    assert_eq!(buffers.allocate(UNIT), Err(AllocateError::Exhausted));
    buffers.free(buffer).unwrap();
    assert_eq!(buffers.allocate(UNIT), Err(AllocateError::Exhausted));
    assert_eq!(buffers.remove(1).unwrap().len(), 8 * UNIT);
    assert_eq!(buffers.allocate(UNIT), Err(AllocateError::Full));
    assert_eq!(buffers.free(buffer), Err(BufferError::AlreadyFreed));
    // A later segment with this number does not mistake the old buffer for its own.
    assert_eq!(add(&mut buffers, 16).unwrap(), 1);
    assert_eq!(buffers.free(buffer), Err(BufferError::AlreadyFreed));
    let new = buffers.allocate(2 * UNIT).unwrap();
    assert_eq!((new.segment(), new.unit()), (1, 0));
    assert_eq!(buffers.free(buffer), Err(BufferError::AlreadyFreed));
    assert_eq!(buffers.free(new), Ok(()));
    assert_eq!(buffers.free(kept), Ok(()));
}

#[test]
fn refuses_a_length_that_no_buffer_has() {
    let mut buffers = grown(Shape::default());
    assert_eq!(buffers.allocate(0).unwrap_err().name(), "empty");
    for length in [(8 << 20) + 1, usize::MAX] {
        assert_eq!(buffers.allocate(length).unwrap_err().name(), "too_long");
    }
    let longest = buffers.allocate(8 << 20).unwrap();
    assert_eq!(buffers.place(longest).unwrap().length, 8 << 20);
}

#[test]
fn tells_a_double_free_from_a_foreign_number() {
    let mut buffers = grown(shape(16, 2));
    let other = buffers.allocate(1).unwrap();
    let buffer = buffers.allocate(2 * UNIT).unwrap();
    let bits = buffer.to_bits();
    assert_eq!(Buffer::from_bits(bits), buffer);
    buffers.free(buffer).unwrap();
    let freed = Err(BufferError::AlreadyFreed);
    assert_eq!(buffers.free(buffer), freed);
    assert_eq!(buffers.memory(buffer).unwrap_err().name(), "already_freed");
    // A later buffer in the same place is another buffer.
    let again = buffers.allocate(2 * UNIT).unwrap();
    assert_eq!(buffers.place(again).unwrap().offset, UNIT);
    assert_eq!(buffers.free(buffer), freed);
    for made_up in [
        0,
        u64::MAX,
        again.to_bits() + 1,            // in the middle of the run
        again.to_bits() + (1 << 16),    // a segment that does not exist
        again.to_bits() + (1 << 32),    // a generation that is still to come
        (1 << 32) | 16,                 // after the last unit
        buffer.to_bits() & 0xffff_ffff, // no generation
    ] {
        let buffer = Buffer::from_bits(made_up);
        assert_eq!(
            buffers.free(buffer),
            Err(BufferError::Foreign),
            "{made_up:x}"
        );
    }
    assert_eq!(buffers.used_units(), 3);
    buffers.free(other).unwrap();
    buffers.free(again).unwrap();
    assert_eq!(buffers.used_units(), 0);
}

#[test]
fn generations_wrap_around_to_1_and_not_to_0() {
    let mut units = Units::new(1, 0);
    units.starts[0].generation = u32::MAX;
    assert_eq!(units.take(1), Some((0, 1)));
    assert_eq!(units.run_of(0, 1), Ok(1));
    assert_eq!(units.run_of(0, u32::MAX), Err(BufferError::AlreadyFreed));
    assert_eq!(units.run_of(0, 2), Err(BufferError::Foreign));
    assert_eq!(units.last_generation(u32::MAX - 5), 1);
}

#[test]
fn shares_its_bytes_with_a_process_that_maps_the_segment() {
    let mut buffers = grown(shape(16, 1));
    let _first = buffers.allocate(UNIT).unwrap();
    let buffer = buffers.allocate(UNIT).unwrap();
    let theirs = buffers.segment(0).unwrap().clone();
    let ours = buffers.memory(buffer).unwrap();
    ours.write(7, b"hello").unwrap();
    let offset = buffers.place(buffer).unwrap().offset;
    assert_eq!(theirs.to_vec(offset + 7, 5).unwrap(), b"hello");
    assert!(buffers.segment(1).is_none());
}

#[test]
fn slots_are_runs_of_one_unit() {
    let mut buffers = grown(Shape::slots(8192, 100, 1));
    let slots: Vec<Buffer> = (0..100).map(|_| buffers.allocate(8192).unwrap()).collect();
    assert_eq!(buffers.allocate(1), Err(AllocateError::Exhausted));
    assert_eq!(buffers.allocate(8193).unwrap_err().name(), "too_long");
    buffers.free(slots[42]).unwrap();
    let again = buffers.allocate(1).unwrap();
    assert_eq!(buffers.place(again).unwrap().offset, 42 * 8192);
}

#[test]
fn refuses_shapes_whose_values_do_not_fit_each_other() {
    let good = shape(64, 4);
    assert!(Buffers::new(good).is_ok());
    for bad in [
        Shape {
            unit_length: 0,
            ..good
        },
        Shape {
            unit_length: usize::MAX,
            ..good
        },
        Shape {
            unit_length: isize::MAX as usize / 63,
            ..good
        },
        Shape {
            units_per_segment: 0,
            ..good
        },
        Shape {
            units_per_segment: 65_537,
            ..good
        },
        Shape {
            longest_run: 0,
            ..good
        },
        Shape {
            longest_run: 65,
            ..good
        },
        Shape {
            max_segments: 0,
            ..good
        },
        Shape {
            max_segments: 65_537,
            ..good
        },
    ] {
        assert_eq!(Buffers::new(bad).unwrap_err(), BadShape, "{bad:?}");
    }
}

#[derive(Clone, Debug)]
enum Op {
    Allocate {
        units: u32,
    },
    /// One of the buffers in use, by a number that is taken modulo the number of buffers.
    Free(usize),
    /// One of the buffers that were freed.
    FreeAgain(usize),
    FreeBits(u64),
    /// Adds a segment of at most this many units.
    Grow(u32),
    /// Retires a segment, and removes it if it can.
    Retire(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..=LONGEST).prop_map(|units| Op::Allocate { units }),
        4 => any::<usize>().prop_map(Op::Free),
        1 => any::<usize>().prop_map(Op::FreeAgain),
        1 => any::<u64>().prop_map(Op::FreeBits),
        // These numbers look plausible: small segments, units and generations.
        1 => (0..4u64, 0..3u64, 0..80u64).prop_map(|(g, s, u)| Op::FreeBits(g << 32 | s << 16 | u)),
        1 => (1..=128u32).prop_map(Op::Grow),
        1 => (0..4u32).prop_map(Op::Retire),
    ]
}

/// A segment, with the buffer that has each unit.
#[derive(Clone)]
struct Model {
    units: Vec<Option<Buffer>>,
    retired: bool,
}

/// The buffer that has each unit, for each segment.
struct Oracle {
    segments: Vec<Option<Model>>,
    freed: Vec<Buffer>,
}

impl Oracle {
    fn models(&self) -> impl Iterator<Item = &Model> {
        self.segments.iter().flatten()
    }

    fn live(&self) -> Vec<Buffer> {
        let units = self.models().flat_map(|model| &model.units);
        let mut live: Vec<Buffer> = units.copied().flatten().collect();
        live.dedup();
        live
    }

    /// Returns the first place for a run: the segment and the unit.
    fn place(&self, units: usize) -> Option<(usize, usize)> {
        let places = self.segments.iter().enumerate().filter_map(|(n, model)| {
            let model = model.as_ref().filter(|model| !model.retired)?;
            let is_free = |run: &[Option<Buffer>]| run.iter().all(Option::is_none);
            let unit = model.units.windows(units).position(is_free)?;
            Some((model.units.len(), n, unit))
        });
        places.min().map(|(_, segment, unit)| (segment, unit))
    }

    fn allocate(&mut self, buffers: &mut Buffers, units: u32) {
        let wanted = units as usize;
        let result = buffers.allocate((wanted - 1) * UNIT + 1);
        let Some((segment, unit)) = self.place(wanted) else {
            let may_grow = self.segments.iter().any(Option::is_none);
            let error = [AllocateError::Exhausted, AllocateError::Full][usize::from(may_grow)];
            assert_eq!(result, Err(error));
            for model in self.models().filter(|model| !model.retired) {
                // The module promises this about fragmentation.
                let used = model.units.iter().flatten().count();
                let all = model.units.len();
                assert!(used >= all / wanted, "{used} of {all}");
            }
            return;
        };
        let buffer = result.unwrap();
        let place = buffers.place(buffer).unwrap();
        let expected = (segment as u32, unit * UNIT, wanted * UNIT);
        assert_eq!((place.segment, place.offset, place.length), expected);
        assert!(!self.live().contains(&buffer) && !self.freed.contains(&buffer));
        let model = self.segments[segment].as_mut().unwrap();
        model.units[unit..][..wanted].fill(Some(buffer));
    }

    fn free(&mut self, buffers: &mut Buffers, buffer: Buffer) {
        let result = buffers.free(buffer);
        if self.live().contains(&buffer) {
            assert_eq!(result, Ok(()));
            for model in self.segments.iter_mut().flatten() {
                for unit in &mut model.units {
                    *unit = unit.filter(|other| *other != buffer);
                }
            }
            self.freed.push(buffer);
        } else if self.freed.contains(&buffer) {
            assert_eq!(result, Err(BufferError::AlreadyFreed));
        } else {
            // If the segment replaced an earlier one, a number that was never given out may look like that of an
            // earlier buffer.
            assert!(result.is_err());
        }
    }

    fn grow(&mut self, buffers: &mut Buffers, units: u32) {
        let units = units.min(buffers.shape().units_per_segment);
        let free = self.segments.iter().position(Option::is_none);
        let Some(number) = free else {
            assert_eq!(add(buffers, units).unwrap_err().name(), "limit");
            return;
        };
        assert_eq!(add(buffers, units).unwrap() as usize, number);
        self.segments[number] = Some(Model {
            units: vec![None; units as usize],
            retired: false,
        });
    }

    fn retire(&mut self, buffers: &mut Buffers, number: u32) {
        let slot = self.segments.get_mut(number as usize);
        let model = slot.as_ref().and_then(|slot| slot.as_ref());
        assert_eq!(buffers.retire(number), model.is_some());
        let is_free = model.is_some_and(|model| model.units.iter().all(Option::is_none));
        assert_eq!(buffers.remove(number).is_some(), is_free);
        if let Some(slot) = slot {
            match slot {
                Some(model) if !is_free => model.retired = true,
                _ => *slot = None,
            }
        }
    }

    fn apply(&mut self, buffers: &mut Buffers, op: &Op) {
        let nth = |list: &[Buffer], n: usize| (!list.is_empty()).then(|| list[n % list.len()]);
        match *op {
            Op::Allocate { units } => self.allocate(buffers, units),
            Op::Free(n) => {
                if let Some(buffer) = nth(&self.live(), n) {
                    self.free(buffers, buffer);
                }
            }
            Op::FreeAgain(n) => {
                if let Some(buffer) = nth(&self.freed, n) {
                    self.free(buffers, buffer);
                }
            }
            Op::FreeBits(bits) => self.free(buffers, Buffer::from_bits(bits)),
            Op::Grow(units) => self.grow(buffers, units),
            Op::Retire(number) => self.retire(buffers, number),
        }
        let units = self.models().flat_map(|model| &model.units);
        assert_eq!(buffers.used_units() as usize, units.flatten().count());
        let units = self.models().map(|model| model.units.len()).sum::<usize>();
        assert_eq!(buffers.units() as usize, units);
        assert_eq!(buffers.segments() as usize, self.models().count());
    }
}

proptest! {
    #[test]
    fn no_two_buffers_in_use_share_a_unit(
        units_per_segment in prop_oneof![8..20u32, 60..70u32, 128..=128u32],
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut buffers = Buffers::new(shape(units_per_segment, 3)).unwrap();
        let mut oracle = Oracle { segments: vec![None, None, None], freed: Vec::new() };
        for op in &ops {
            oracle.apply(&mut buffers, op);
        }
        // Everything that is freed comes back, in one piece.
        for buffer in oracle.live() {
            oracle.free(&mut buffers, buffer);
        }
        prop_assert_eq!(buffers.used_units(), 0);
        let open = oracle.models().filter(|model| !model.retired);
        let longest_runs: u32 = open.map(|model| model.units.len() as u32 / LONGEST).sum();
        for _ in 0..longest_runs {
            prop_assert!(buffers.allocate(LONGEST as usize * UNIT).is_ok());
        }
    }
}
