//! Memory that is shared with workers, and how much of it there may be.
//!
//! A [`Charge`] is a number of bytes that somebody has been given; it is taken off the accounts
//! when it is dropped. Whoever holds memory of a worker holds the charge along with it, so that
//! memory counts until its last user, which may be a connection of a dead worker, is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::Status;
use crate::device::abi::RegionShape;
use crate::shm::{self, buffers};
use crate::sys::{Memfd, Memory};

/// Bytes in use, and how many there may be.
#[derive(Debug)]
pub(super) struct Account {
    used: AtomicU64,
    limit: u64,
}

impl Account {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicU64::new(0),
            limit,
        })
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that there may be.
    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Takes `bytes`; `None` where that would be more than there may be.
    pub(super) fn charge(self: &Arc<Self>, bytes: u64) -> Option<Charge> {
        let add = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        // Relaxed: nothing is read because of the number.
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add)
            .ok()?;
        Some(Charge {
            account: Arc::clone(self),
            bytes,
        })
    }
}

/// Bytes taken from an account until this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    account: Arc<Account>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A segment of a worker's region, and what it counts.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) memory: Memory,
    _charges: [Charge; 2],
}

impl Segment {
    /// A new one of `shape`, charged to both accounts, and the file that the worker gets.
    ///
    /// # Errors
    ///
    /// [`Status::NoMemory`]: a limit. [`Status::System`]: the system's.
    pub(super) fn create(
        name: &str,
        shape: &RegionShape,
        accounts: [&Arc<Account>; 2],
    ) -> Result<(Self, Memfd), Status> {
        let length = shape_of(shape).segment_length().ok_or(Status::System)?;
        let [worker, total] = accounts.map(|account| account.charge(length as u64));
        let charges = [
            worker.ok_or(Status::NoMemory)?,
            total.ok_or(Status::NoMemory)?,
        ];
        let file = Memfd::create(name, length).map_err(|_| Status::System)?;
        let memory = shm::map(&file).map_err(|_| Status::System)?;
        let segment = Self {
            memory,
            _charges: charges,
        };
        Ok((segment, file))
    }
}

/// The same shape for [`buffers`].
pub(super) const fn shape_of(shape: &RegionShape) -> buffers::Shape {
    buffers::Shape {
        unit_length: shape.unit_length as usize,
        units_per_segment: shape.units_per_segment,
        longest_run: shape.longest_run,
        max_segments: shape.max_segments,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_until_its_last_user_is_gone() {
        let (worker, total) = (Account::new(10_000), Account::new(9_000));
        let shape = RegionShape {
            unit_length: 1024,
            units_per_segment: 4,
            longest_run: 1,
            max_segments: 8,
        };
        let create = || Segment::create("test", &shape, [&worker, &total]);
        let (first, _file) = create().unwrap();
        let first = Arc::new(first);
        let also_first = Arc::clone(&first);
        let second = create().unwrap();
        assert_eq!((worker.used(), total.used()), (8192, 8192));
        assert_eq!(create().unwrap_err(), Status::NoMemory);
        assert_eq!((worker.used(), total.used()), (8192, 8192));
        drop(first);
        assert_eq!(total.used(), 8192);
        drop((also_first, second));
        assert_eq!((worker.used(), total.used()), (0, 0));
    }
}
