//! Buffers against a list of who has which unit.

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
    add(&mut buffers).unwrap();
    buffers
}

fn add(buffers: &mut Buffers) -> Result<u32, AddError> {
    let length = buffers.shape().segment_length().unwrap();
    buffers.add(Memory::zeroed(length))
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
    assert_eq!(add(&mut buffers).unwrap(), 0);
    let first = buffers.allocate(8 * UNIT).unwrap();
    assert_eq!(buffers.allocate(1), Err(AllocateError::Full));
    assert_eq!(add(&mut buffers).unwrap(), 1);
    let second = buffers.allocate(8 * UNIT).unwrap();
    assert_eq!(buffers.place(second).unwrap().segment, 1);
    assert_eq!(buffers.allocate(1), Err(AllocateError::Exhausted));
    assert_eq!(add(&mut buffers).unwrap_err().name(), "limit");
    buffers.free(first).unwrap();
    let third = buffers.allocate(UNIT).unwrap();
    assert_eq!(buffers.place(third).unwrap().segment, 0);
}

#[test]
fn refuses_a_segment_of_another_length() {
    let mut buffers = Buffers::new(shape(8, 2)).unwrap();
    let error = buffers.add(Memory::zeroed(8 * UNIT - 1)).unwrap_err();
    assert_eq!((error.name(), buffers.segments()), ("wrong_length", 0));
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
    // The same place again is another buffer.
    let again = buffers.allocate(2 * UNIT).unwrap();
    assert_eq!(buffers.place(again).unwrap().offset, UNIT);
    assert_eq!(buffers.free(buffer), freed);
    for made_up in [
        0,
        u64::MAX,
        again.to_bits() + 1,            // in the middle of the run
        again.to_bits() + (1 << 16),    // a segment that does not exist
        again.to_bits() + (1 << 32),    // a generation that is still to come
        (1 << 32) | 16,                 // behind the last unit
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
fn generations_begin_again_without_a_zero() {
    let mut units = Units::new(1);
    units.starts[0].generation = u32::MAX;
    assert_eq!(units.take(1), Some((0, 1)));
    assert_eq!(units.run_of(0, 1), Ok(1));
    assert_eq!(units.run_of(0, u32::MAX), Err(BufferError::AlreadyFreed));
    assert_eq!(units.run_of(0, 2), Err(BufferError::Foreign));
}

#[test]
fn shares_its_bytes_with_who_maps_the_segment() {
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
fn refuses_shapes_that_do_not_go_together() {
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
    /// One of those in use, by a number that is taken modulo.
    Free(usize),
    /// One of those that were freed.
    FreeAgain(usize),
    FreeBits(u64),
    Grow,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (1..=LONGEST).prop_map(|units| Op::Allocate { units }),
        4 => any::<usize>().prop_map(Op::Free),
        1 => any::<usize>().prop_map(Op::FreeAgain),
        1 => any::<u64>().prop_map(Op::FreeBits),
        // Numbers that look as if: small segments, units and generations.
        1 => (0..4u64, 0..3u64, 0..80u64).prop_map(|(g, s, u)| Op::FreeBits(g << 32 | s << 16 | u)),
        1 => Just(Op::Grow),
    ]
}

/// Who has which unit, segment by segment.
struct Oracle {
    segments: Vec<Vec<Option<Buffer>>>,
    max_segments: usize,
    freed: Vec<Buffer>,
}

impl Oracle {
    fn live(&self) -> Vec<Buffer> {
        let mut live: Vec<Buffer> = self.segments.iter().flatten().copied().flatten().collect();
        live.dedup();
        live
    }

    /// The first place for a run: segment and unit.
    fn place(&self, units: usize) -> Option<(usize, usize)> {
        self.segments.iter().enumerate().find_map(|(n, segment)| {
            let is_free = |run: &[Option<Buffer>]| run.iter().all(Option::is_none);
            let unit = segment.windows(units).position(is_free)?;
            Some((n, unit))
        })
    }

    fn allocate(&mut self, buffers: &mut Buffers, units: u32) {
        let wanted = units as usize;
        let result = buffers.allocate((wanted - 1) * UNIT + 1);
        let Some((segment, unit)) = self.place(wanted) else {
            let may_grow = self.segments.len() < self.max_segments;
            let error = [AllocateError::Exhausted, AllocateError::Full][usize::from(may_grow)];
            assert_eq!(result, Err(error));
            for segment in &self.segments {
                // What the module promises of fragmentation.
                let used = segment.iter().flatten().count();
                assert!(
                    used >= segment.len() / wanted,
                    "{used} of {}",
                    segment.len()
                );
            }
            return;
        };
        let buffer = result.unwrap();
        let place = buffers.place(buffer).unwrap();
        let expected = (segment as u32, unit * UNIT, wanted * UNIT);
        assert_eq!((place.segment, place.offset, place.length), expected);
        assert!(!self.live().contains(&buffer) && !self.freed.contains(&buffer));
        self.segments[segment][unit..][..wanted].fill(Some(buffer));
    }

    fn free(&mut self, buffers: &mut Buffers, buffer: Buffer) {
        let result = buffers.free(buffer);
        if self.live().contains(&buffer) {
            assert_eq!(result, Ok(()));
            for unit in self.segments.iter_mut().flatten() {
                *unit = unit.filter(|other| *other != buffer);
            }
            self.freed.push(buffer);
        } else if self.freed.contains(&buffer) {
            assert_eq!(result, Err(BufferError::AlreadyFreed));
        } else {
            assert_eq!(result, Err(BufferError::Foreign));
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
            Op::Grow if self.segments.len() < self.max_segments => {
                let units = buffers.shape().units_per_segment as usize;
                self.segments.push(vec![None; units]);
                assert_eq!(add(buffers).unwrap() as usize + 1, self.segments.len());
            }
            Op::Grow => assert_eq!(add(buffers).unwrap_err().name(), "limit"),
        }
        let used = self.segments.iter().flatten().flatten().count();
        assert_eq!(buffers.used_units() as usize, used);
    }
}

proptest! {
    #[test]
    fn nobody_gets_what_another_has(
        units_per_segment in prop_oneof![8..20u32, 60..70u32, 128..=128u32],
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut buffers = Buffers::new(shape(units_per_segment, 3)).unwrap();
        let mut oracle = Oracle { segments: Vec::new(), max_segments: 3, freed: Vec::new() };
        for op in &ops {
            oracle.apply(&mut buffers, op);
        }
        // All that is freed comes back, in one piece.
        for buffer in oracle.live() {
            oracle.free(&mut buffers, buffer);
        }
        prop_assert_eq!(buffers.used_units(), 0);
        for _ in 0..buffers.segments() * (units_per_segment / LONGEST) {
            prop_assert!(buffers.allocate(LONGEST as usize * UNIT).is_ok());
        }
    }
}
