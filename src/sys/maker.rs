// SPDX-License-Identifier: GPL-2.0-or-later

//! Tells which process made something, even after a `fork`.

use std::io;
use std::process;

use memmap2::{MmapMut, MmapRaw};

use super::Memory;

/// Remembers the process that made this value.
///
/// The value is a page that the kernel wipes in a child (`MADV_WIPEONFORK`, Linux 4.14), so asking does not cost a
/// system call. If there is no such page, process ids are compared instead.
#[derive(Debug)]
pub struct Maker {
    /// The page, whose first byte is 1, except in a child.
    page: Option<Memory>,
    process: u32,
}

impl Maker {
    /// Remembers this process.
    ///
    /// # Errors
    ///
    /// The system has no memory.
    pub fn new() -> io::Result<Self> {
        // The system rounds the length up to a page.
        let map = MmapRaw::from(MmapMut::map_anon(1)?);
        // SAFETY: the range is that of the mapping, which nothing else knows; its content is zero, so wiping it changes
        // nothing but what is written below.
        let result =
            unsafe { libc::madvise(map.as_mut_ptr().cast(), map.len(), libc::MADV_WIPEONFORK) };
        let page = (result == 0).then(|| Memory::from_map(map));
        if let Some(page) = &page {
            page.write(0, &[1]).map_err(io::Error::other)?;
        }
        Ok(Self {
            page,
            process: process::id(),
        })
    }

    /// Returns whether this is the process that made this value.
    #[must_use]
    pub fn is_here(&self) -> bool {
        let Some(page) = &self.page else {
            return process::id() == self.process;
        };
        let mut mark = [0];
        page.read(0, &mut mark).is_ok() && mark == [1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_here_with_and_without_a_page() {
        let with = Maker::new().unwrap();
        assert!(with.is_here());
        let mut without = Maker::new().unwrap();
        without.page = None;
        assert!(without.is_here());
        without.process += 1;
        assert!(!without.is_here());
    }
}
