// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Memory`]: bytes that are reached by copies and system calls, never through a reference.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::fmt;
use core::ptr::NonNull;

#[cfg(feature = "std")]
use memmap2::{MmapOptions, MmapRaw};

/// The length from which memory is a mapping of its own.
#[cfg(feature = "std")]
const MAPPED_LENGTH: usize = 64 * 1024;

/// An error: the bytes asked for do not lie in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes at {offset} do not lie in a memory of {size} bytes")]
pub struct OutOfRange {
    offset: usize,
    length: usize,
    size: usize,
}

/// A range of memory that an RDMA peer, or another process, may write at any moment.
///
/// No Rust reference ever points into it: code that uses its bytes copies them out first and checks the copy. Clones
/// share the bytes, which live as long as the last clone. Two threads that write the same bytes at once leave any
/// mixture of their data.
#[derive(Clone)]
pub struct Memory {
    backing: Arc<Backing>,
    offset: usize,
    length: usize,
}

enum Backing {
    Heap {
        start: NonNull<u8>,
        layout: Layout,
    },
    #[cfg(feature = "std")]
    Map(MmapRaw),
    /// Pages that belong to another owner, which learns when they are no longer used.
    Foreign {
        start: NonNull<u8>,
        owner: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
    },
}

// SAFETY: `Backing` owns its bytes and hands out no reference to them; all access is by raw copies
// and system calls through `Memory`, whose documentation says what racing writers leave.
unsafe impl Send for Backing {}
// SAFETY: as for `Send`.
unsafe impl Sync for Backing {}

impl Drop for Backing {
    fn drop(&mut self) {
        match self {
            // SAFETY: `Memory::zeroed` took the bytes from `alloc_zeroed` with this layout, and this is their only
            // owner.
            Self::Heap { start, layout } => unsafe { dealloc(start.as_ptr(), *layout) },
            #[cfg(feature = "std")]
            Self::Map(_) => {}
            // SAFETY: the caller of `Memory::foreign` promised that `release` may be called once with this owner, and
            // this is the only place that calls it.
            Self::Foreign { owner, release, .. } => unsafe { release(*owner) },
        }
    }
}

impl Memory {
    /// Makes `length` zeroed bytes, aligned to a cache line (64 bytes). If there is an operating system, and there are
    /// at least 64 KiB, pages that are never used cost nothing.
    #[must_use]
    pub fn zeroed(length: usize) -> Self {
        #[cfg(feature = "std")]
        if length >= MAPPED_LENGTH {
            // The allocator zeroes memory with an alignment of more than 16 bytes by hand, and so touches all of it.
            if let Ok(map) = MmapOptions::new().len(length).map_anon() {
                return Self::from_map(map.into());
            }
        }
        Self::on_heap(length)
    }

    fn on_heap(length: usize) -> Self {
        #[allow(clippy::expect_used)]
        let layout =
            Layout::from_size_align(length.max(1), 64).expect("a length of at most isize::MAX");
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let Some(start) = NonNull::new(start) else {
            handle_alloc_error(layout)
        };
        Self {
            backing: Arc::new(Backing::Heap { start, layout }),
            offset: 0,
            length,
        }
    }

    /// Makes memory of `length` bytes at `start` that belong to `owner`; `release` is called when they are no longer
    /// used.
    ///
    /// # Safety
    ///
    /// - The bytes may be read and written until `release` is called, and no reference points into them.
    /// - `release` may be called with `owner` once, from any thread.
    #[must_use]
    pub unsafe fn foreign(
        (start, length): (NonNull<u8>, usize),
        owner: *mut c_void,
        release: unsafe extern "C" fn(*mut c_void),
    ) -> Self {
        Self {
            backing: Arc::new(Backing::Foreign {
                start,
                owner,
                release,
            }),
            offset: 0,
            length,
        }
    }

    /// Makes memory from a whole mapping.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn from_map(map: MmapRaw) -> Self {
        let length = map.len();
        Self {
            backing: Arc::new(Backing::Map(map)),
            offset: 0,
            length,
        }
    }

    /// Returns the length in bytes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.length
    }

    /// Returns whether the memory is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Returns a part of the memory, which shares the bytes.
    pub fn part(&self, offset: usize, length: usize) -> Result<Self, OutOfRange> {
        self.check(offset, length)?;
        Ok(Self {
            backing: Arc::clone(&self.backing),
            offset: self.offset + offset,
            length,
        })
    }

    /// Copies `source` to `offset`.
    #[inline]
    pub fn write(&self, offset: usize, source: &[u8]) -> Result<(), OutOfRange> {
        let target = self.pointer(offset, source.len())?;
        // SAFETY: `pointer` checked that the range lies in the backing, which `self` keeps alive;
        // `source` is a reference and no reference points into the backing, so they are apart.
        unsafe { target.copy_from_nonoverlapping(source.as_ptr(), source.len()) }
        Ok(())
    }

    /// Copies from `offset` to all of `target`.
    #[inline]
    pub fn read(&self, offset: usize, target: &mut [u8]) -> Result<(), OutOfRange> {
        let source = self.pointer(offset, target.len())?;
        // SAFETY: as in `write`.
        unsafe { source.copy_to_nonoverlapping(target.as_mut_ptr(), target.len()) }
        Ok(())
    }

    /// Copies `length` bytes at `offset` to `target_offset` of `target`, which may be the same memory.
    #[inline]
    pub fn copy_to(
        &self,
        offset: usize,
        target: &Self,
        target_offset: usize,
        length: usize,
    ) -> Result<(), OutOfRange> {
        let source = self.pointer(offset, length)?;
        let target = target.pointer(target_offset, length)?;
        // SAFETY: `pointer` checked both ranges; the copy allows them to overlap.
        unsafe { source.copy_to(target, length) }
        Ok(())
    }

    /// Appends `length` bytes at `offset` to `target`.
    #[inline]
    pub fn append_to(
        &self,
        offset: usize,
        length: usize,
        target: &mut Vec<u8>,
    ) -> Result<(), OutOfRange> {
        let source = self.pointer(offset, length)?;
        target.reserve(length);
        let old_length = target.len();
        let end = target.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `reserve` made room for `length` bytes at `end`; the source as in `write`.
        unsafe { source.copy_to_nonoverlapping(end, length) }
        // SAFETY: `length` bytes after the old end were just written.
        unsafe { target.set_len(old_length + length) }
        Ok(())
    }

    /// Returns the bytes as a vector, for tests and for small messages.
    pub fn to_vec(&self, offset: usize, length: usize) -> Result<Vec<u8>, OutOfRange> {
        let mut bytes = Vec::new();
        self.append_to(offset, length, &mut bytes)?;
        Ok(bytes)
    }

    /// Calls `f` with copies of the `length` bytes at `offset`, in order, a few KiB at a time.
    pub fn for_each_chunk(
        &self,
        offset: usize,
        length: usize,
        mut f: impl FnMut(&[u8]),
    ) -> Result<(), OutOfRange> {
        let mut chunk = [0; 4096];
        self.check(offset, length)?;
        let mut done = 0;
        while done < length {
            let n = (length - done).min(chunk.len());
            self.read(offset + done, &mut chunk[..n])?;
            f(&chunk[..n]);
            done += n;
        }
        Ok(())
    }

    /// Returns the address of `length` bytes at `offset`, for a system call or a work request of an RDMA device. The
    /// bytes exist as long as a clone of this memory does.
    ///
    /// # Errors
    ///
    /// The bytes do not lie in the memory.
    #[inline]
    pub fn pointer(&self, offset: usize, length: usize) -> Result<*mut u8, OutOfRange> {
        self.check(offset, length)?;
        let start = match &*self.backing {
            Backing::Heap { start, .. } | Backing::Foreign { start, .. } => start.as_ptr(),
            #[cfg(feature = "std")]
            Backing::Map(map) => map.as_mut_ptr(),
        };
        // SAFETY: `self` lies in its backing by construction and `check` put the range in `self`.
        Ok(unsafe { start.add(self.offset + offset) })
    }

    #[inline]
    fn check(&self, offset: usize, length: usize) -> Result<(), OutOfRange> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length => Ok(()),
            _ => Err(OutOfRange {
                offset,
                length,
                size: self.length,
            }),
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.length)
    }
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    #[test]
    fn copies_in_and_out() {
        let memory = Memory::zeroed(10_000);
        memory.write(9_995, b"hello").unwrap();
        assert_eq!(memory.to_vec(9_995, 5).unwrap(), b"hello");
        let part = memory.part(9_990, 10).unwrap();
        memory.copy_to(9_995, &part, 0, 5).unwrap();
        assert_eq!(memory.to_vec(9_990, 10).unwrap(), b"hellohello");
        let mut all = Vec::new();
        memory
            .for_each_chunk(0, 10_000, |chunk| all.extend_from_slice(chunk))
            .unwrap();
        assert_eq!(all.len(), 10_000);
        assert_eq!(&all[9_990..], b"hellohello");
    }

    #[test]
    fn memory_of_another_owner_is_given_back_with_its_last_clone() {
        unsafe extern "C" fn release(owner: *mut c_void) {
            // SAFETY: `owner` is the counter below, which outlives the memory.
            let released = unsafe { &*owner.cast::<Cell<u32>>() };
            released.set(released.get() + 1);
        }
        let released = Cell::new(0);
        let owner = core::ptr::from_ref(&released).cast_mut().cast();
        let mut bytes = [0_u8; 64];
        let start = NonNull::from(&mut bytes).cast();
        // SAFETY: the array outlives the memory and is not used meanwhile; the counter outlives the memory, too.
        let memory = unsafe { Memory::foreign((start, 64), owner, release) };
        let part = memory.part(60, 4).unwrap();
        memory.write(60, b"tail").unwrap();
        drop(memory);
        assert_eq!(part.to_vec(0, 4).unwrap(), b"tail");
        assert!(part.write(1, b"tail").is_err());
        assert_eq!(released.get(), 0);
        drop(part);
        assert_eq!(released.get(), 1);
    }

    #[test]
    fn copies_in_and_out_of_a_mapping() {
        let memory = Memory::from_map(MmapRaw::from(memmap2::MmapMut::map_anon(8192).unwrap()));
        memory.write(8191, b"x").unwrap();
        assert_eq!(memory.to_vec(8190, 2).unwrap(), b"\0x");
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the system about pages")]
    fn large_memory_is_not_touched_before_it_is_used() {
        let length = 64 * MAPPED_LENGTH;
        let memory = Memory::zeroed(length);
        memory.write(length - 1, b"x").unwrap();
        // SAFETY: the call only asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let mut present = vec![0_u8; length / page];
        let start = memory.pointer(0, length).unwrap();
        // SAFETY: the mapping has `length` bytes, and `present` a byte for each of its pages.
        let result = unsafe { libc::mincore(start.cast(), length, present.as_mut_ptr()) };
        assert_eq!(result, 0);
        let touched = present.iter().filter(|page| **page & 1 != 0).count();
        // If the system makes huge pages of touched memory, there is only one of them.
        assert!(touched * page <= 2 << 20, "{touched} pages");
    }

    #[test]
    fn refuses_bytes_outside_the_memory() {
        let memory = Memory::zeroed(16);
        let part = memory.part(8, 8).unwrap();
        for (offset, length) in [(0, 9), (8, 1), (9, 0), (usize::MAX, 2), (2, usize::MAX)] {
            assert!(part.pointer(offset, length).is_err(), "{offset} {length}");
        }
        assert!(part.write(4, b"12345").is_err());
        assert!(part.read(4, &mut [0; 5]).is_err());
        assert!(part.append_to(4, 5, &mut Vec::new()).is_err());
        assert!(part.for_each_chunk(4, 5, |_| ()).is_err());
        assert!(memory.copy_to(0, &part, 1, 8).is_err());
        assert!(memory.part(9, 8).is_err());
        assert!(part.pointer(8, 0).is_ok());
    }
}
