// SPDX-License-Identifier: GPL-2.0-or-later

//! Accounts for the memory that is shared with workers, and limits it.
//!
//! A [`Charge`] is a number of bytes that were given out; dropping it takes them off the accounts. A worker's memory
//! and its charge are held together, so that memory counts until its last user, which may be a connection of a dead
//! worker, has gone.
//!
//! ```text
//!   0 ......................................... limit - reserve ............... limit
//!   all of the regions of all workers           | of one worker  | of messages |
//!                                                 that waits       received
//! ```
//!
//! A part of the total, the [`Reserve`], is kept so that no worker waits for ever. The worker that has waited longest
//! may have it. The reserve is enough for that worker's largest message and transfer, so the worker can continue and
//! give back its memory.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::device::Status;
use crate::device::abi::{RegionShape, region};
use crate::shm::buffers;
use crate::sys::Memory;

/// Length of a region's first segment in bytes; it is shorter if the shape requires that.
const FIRST_LENGTH: u32 = 128 << 10;

/// The number of bytes in use, and its limit.
#[derive(Debug)]
pub struct Account {
    used: AtomicU64,
    limit: AtomicU64,
}

impl Account {
    /// Makes an account of `limit` bytes, of which none are in use.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
        })
    }

    /// Returns how many bytes are in use.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns how many bytes may be in use.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets how many bytes may be in use. If more are in use already, they stay in use, and nothing is charged until
    /// enough of them have come back.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Takes `bytes` and leaves `spare`; returns `None` if not enough are left.
    #[must_use]
    pub fn charge(self: &Arc<Self>, bytes: u64, spare: u64) -> Option<Charge> {
        let most = self.limit().saturating_sub(spare);
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= most);
        // Relaxed is enough, because no access to other memory depends on this number.
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        Some(Charge {
            account: Arc::clone(self),
            bytes,
        })
    }

    /// Returns whether this account, with `bytes` more, would use no more than it would leave of `total`, not counting
    /// `spare`. If every account keeps to this, something is always left for the next one.
    #[must_use]
    pub fn leaves_as_much(&self, bytes: u64, (total, spare): (&Self, u64)) -> bool {
        let taken = total.used().saturating_add(spare).saturating_add(bytes);
        self.used().saturating_add(bytes) <= total.limit().saturating_sub(taken)
    }

    /// Takes `bytes`, no matter how many are in use. This is for memory that is bounded elsewhere and cannot be
    /// refused.
    #[must_use]
    pub fn count(self: &Arc<Self>, bytes: u64) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge {
            account: Arc::clone(self),
            bytes,
        }
    }
}

/// Bytes that are taken from an account until this is dropped.
#[derive(Debug)]
pub struct Charge {
    account: Arc<Account>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The part of the total that is kept for workers that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Bytes for one worker's longest SEND buffer and longest BULK buffer.
    pub worker: u64,
    /// Bytes for the longest RECEIVE buffer in each shard.
    pub received: u64,
}

impl Reserve {
    /// Returns the length of the whole reserve, in bytes.
    #[must_use]
    pub const fn all(self) -> u64 {
        self.worker.saturating_add(self.received)
    }
}

/// A segment of a worker's region, and its charges.
#[derive(Debug)]
pub struct Segment {
    /// The segment's bytes.
    pub memory: Memory,
    /// A submission has used it since `take_touched`.
    touched: AtomicBool,
    /// The worker has been asked to give the segment back.
    reclaimed: AtomicBool,
    _charges: [Charge; 2],
}

impl Segment {
    /// Makes a segment of `length` bytes, charged to the account of its worker and to the total, of which `spare` bytes
    /// stay free. Also returns the pages that the worker maps; `make` makes them together with the memory.
    ///
    /// # Errors
    ///
    /// [`Status::NoMemory`]: the worker's limit is reached. [`Status::Again`]: the limit of the total is reached.
    /// Otherwise the error of `make`.
    pub fn create<Pages>(
        length: usize,
        worker: &Arc<Account>,
        (total, spare): (&Arc<Account>, u64),
        make: impl FnOnce(usize) -> Result<(Memory, Pages), Status>,
    ) -> Result<(Self, Pages), Status> {
        let charges = [
            worker.charge(length as u64, 0).ok_or(Status::NoMemory)?,
            total.charge(length as u64, spare).ok_or(Status::Again)?,
        ];
        let (memory, pages) = make(length)?;
        let segment = Self {
            memory,
            // The segment was asked for because it is needed.
            touched: AtomicBool::new(true),
            reclaimed: AtomicBool::new(false),
            _charges: charges,
        };
        Ok((segment, pages))
    }

    /// Makes a segment again that an earlier device made. It counts in these accounts, which cannot refuse it.
    #[cfg(feature = "broker")]
    #[must_use]
    pub fn adopt(memory: Memory, accounts: [&Arc<Account>; 2], is_reclaimed: bool) -> Self {
        let length = memory.len() as u64;
        Self {
            memory,
            touched: AtomicBool::new(true),
            reclaimed: AtomicBool::new(is_reclaimed),
            _charges: accounts.map(|account| account.count(length)),
        }
    }

    /// Marks the segment as used.
    #[inline]
    pub fn touch(&self) {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    /// Returns whether the segment was touched since the last call.
    #[must_use]
    pub fn take_touched(&self) -> bool {
        self.touched.swap(false, Ordering::Relaxed)
    }

    /// Returns whether the worker has been asked to give the segment back.
    #[must_use]
    pub fn is_reclaimed(&self) -> bool {
        self.reclaimed.load(Ordering::Relaxed)
    }

    /// Records that the worker has been asked to give the segment back.
    pub fn set_reclaimed(&self) {
        self.reclaimed.store(true, Ordering::Relaxed);
    }
}

/// Returns two lengths, in bytes, for the next segment of a region whose `segments` segments have `length` bytes
/// together and no room for `wanted` units: the length that the new segment should have, so that the region doubles,
/// and the length that it must have.
#[must_use]
pub fn next_length(shape: &RegionShape, (segments, length): (u32, u64), wanted: u32) -> [usize; 2] {
    let unit = shape.unit_length.max(1);
    let have = u32::try_from(length / u64::from(unit)).unwrap_or(u32::MAX);
    // No segment follows the last one, so the last one has to be long enough for everything.
    let is_last = segments.saturating_add(1) >= shape.max_segments;
    let (should, must) = if is_last {
        (shape.units_per_segment, shape.longest_run.max(wanted))
    } else {
        (have.max(FIRST_LENGTH / unit).max(wanted), wanted)
    };
    [should, must].map(|units| {
        let units = units.clamp(1, shape.units_per_segment.max(1));
        units as usize * unit as usize
    })
}

/// Returns the number of units of a region that has as many segments as it may have.
#[must_use]
pub fn most_units(shape: &RegionShape) -> u32 {
    let mut length = 0;
    for segments in 0..shape.max_segments {
        let [next, _] = next_length(shape, (segments, length), 1);
        length += next as u64;
        if length >= u64::from(shape.unit_length) * u64::from(shape.units_per_segment) {
            // All further segments have the greatest length.
            let rest = u64::from(shape.max_segments - segments - 1);
            length += rest * u64::from(shape.units_per_segment) * u64::from(shape.unit_length);
            break;
        }
    }
    u32::try_from(length / u64::from(shape.unit_length.max(1))).unwrap_or(u32::MAX)
}

/// Converts a shape for [`buffers`].
#[must_use]
pub const fn shape_of(shape: &RegionShape) -> buffers::Shape {
    buffers::Shape {
        unit_length: shape.unit_length as usize,
        units_per_segment: shape.units_per_segment,
        longest_run: shape.longest_run,
        max_segments: shape.max_segments,
    }
}

/// Segments of a region, by number.
pub type Numbered = Vec<Option<Arc<Segment>>>;

/// The segments of SEND and BULK, the regions whose buffers the worker allocates itself.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    /// The SEND segments.
    pub send: Numbered,
    /// The BULK segments.
    pub bulk: Numbered,
}

impl Segments {
    /// Returns the segments of the region with this `region::*` number, if it is SEND or BULK.
    #[must_use]
    pub fn of(&self, number: u32) -> Option<&Numbered> {
        match number {
            region::SEND => Some(&self.send),
            region::BULK => Some(&self.bulk),
            _ => None,
        }
    }

    /// Returns the segments of the region with this `region::*` number, to change them, if it is SEND or BULK.
    pub fn of_mut(&mut self, number: u32) -> Option<&mut Numbered> {
        match number {
            region::SEND => Some(&mut self.send),
            region::BULK => Some(&mut self.bulk),
            _ => None,
        }
    }

    /// Returns the number of segments of the region with this `region::*` number, and their total length in bytes.
    #[must_use]
    pub fn extent(&self, region: u32) -> (u32, u64) {
        let segments = self.of(region).into_iter().flatten().flatten();
        segments.fold((0, 0), |(count, bytes), segment| {
            (count + 1, bytes + segment.memory.len() as u64)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: RegionShape = RegionShape {
        unit_length: 64 << 10,
        units_per_segment: 64,
        longest_run: 16,
        max_segments: 8,
    };

    fn make(length: usize) -> Result<(Memory, ()), Status> {
        Ok((Memory::zeroed(length), ()))
    }

    #[test]
    fn memory_counts_until_its_last_user_is_gone() {
        let (worker, total) = (Account::new(10_000), Account::new(9_000));
        let create = |spare| Segment::create(4096, &worker, (&total, spare), make);
        let (first, ()) = create(4000).unwrap();
        let first = Arc::new(first);
        let also_first = Arc::clone(&first);
        assert_eq!(create(4000).unwrap_err(), Status::Again);
        let second = create(0).unwrap();
        assert_eq!((worker.used(), total.used()), (8192, 8192));
        assert_eq!(create(0).unwrap_err(), Status::NoMemory);
        assert_eq!((worker.used(), total.used()), (8192, 8192));
        drop(first);
        assert_eq!(total.used(), 8192);
        drop((also_first, second));
        assert_eq!((worker.used(), total.used()), (0, 0));
    }

    #[test]
    fn workers_that_take_no_more_than_they_leave_never_take_everything() {
        let total = Account::new(1100);
        let mut charges = Vec::new();
        let mut fill = || {
            let worker = Account::new(u64::MAX);
            while worker.leaves_as_much(1, (&total, 100)) {
                charges.extend([&worker, &total].map(|account| account.charge(1, 0)));
            }
            worker.used()
        };
        assert_eq!([(); 4].map(|()| fill()), [500, 250, 125, 62]);
    }

    #[test]
    fn memory_that_cannot_be_refused_counts_beyond_the_limit() {
        let total = Account::new(100);
        let charge = total.count(150);
        assert!(total.charge(1, 0).is_none());
        drop(charge);
        assert!(total.charge(100, 0).is_some());
    }

    #[test]
    fn a_lower_limit_takes_nothing_back_and_gives_nothing_until_enough_is_back() {
        let total = Account::new(100);
        let charges = [60, 40].map(|bytes| total.charge(bytes, 0).unwrap());
        total.set_limit(50);
        assert_eq!((total.used(), total.limit()), (100, 50));
        assert!(total.charge(1, 0).is_none());
        let [large, small] = charges;
        drop(large);
        assert!(total.charge(11, 0).is_none());
        let _more = total.charge(10, 0).unwrap();
        total.set_limit(200);
        assert!(total.charge(150, 0).is_some());
        drop(small);
    }

    #[test]
    fn a_segment_knows_whether_it_was_touched() {
        let (worker, total) = (Account::new(10_000), Account::new(9_000));
        let (segment, ()) = Segment::create(4096, &worker, (&total, 0), make).unwrap();
        assert!(segment.take_touched(), "a new segment counts as touched");
        assert!(!segment.take_touched());
        segment.touch();
        assert!(segment.take_touched());
    }

    #[test]
    fn a_region_begins_small_and_doubles() {
        let units = |segments, have: u64, wanted| {
            next_length(&SHAPE, (segments, have << 16), wanted).map(|length| length >> 16)
        };
        assert_eq!(units(0, 0, 1), [2, 1], "128 KiB");
        assert_eq!(units(0, 0, 16), [16, 16]);
        assert_eq!(units(1, 2, 1), [2, 1]);
        assert_eq!(units(2, 4, 3), [4, 3]);
        assert_eq!(units(5, 100, 1), [64, 1]);
        assert_eq!(
            units(7, 100, 1),
            [64, 16],
            "the last segment has to be long enough"
        );
        let single = RegionShape {
            max_segments: 1,
            ..SHAPE
        };
        let length = next_length(&single, (0, 0), 1).map(|length| length >> 16);
        assert_eq!(length, [64, 16]);
        assert_eq!(most_units(&SHAPE), 2 + 2 + 4 + 8 + 16 + 32 + 2 * 64);
        assert_eq!(most_units(&single), 64);
        let large = RegionShape {
            unit_length: 1 << 20,
            ..SHAPE
        };
        assert_eq!(next_length(&large, (0, 0), 1), [1 << 20; 2]);
    }
}
