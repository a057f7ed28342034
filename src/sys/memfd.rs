// SPDX-License-Identifier: GPL-2.0-or-later

//! Memory files that two processes map, sealed so that neither process can change their size.
//!
//! If a process touches a page of a mapping after the end of its file, it gets SIGBUS, which ends the process. So a
//! file that another process also holds may never be mapped before its size is fixed for ever: a [`Memfd`] exists only
//! for such a file, whichever process made it, and `shm::map` maps nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

/// Why a descriptor is not the expected memory file.
#[derive(Debug, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum MemfdError {
    /// The file does not have seals, or is in huge pages, whose pool may be empty when a page is touched.
    #[error("the descriptor is not a memory file of ordinary pages")]
    NotMemory,
    /// The size of the file may still change.
    #[error("the memory file is not sealed against a change of its size")]
    NotSealed,
    /// The size of the file is fixed, but differs from the one that was announced.
    #[error("the memory file has {found} bytes, not {expected}")]
    WrongSize {
        /// Number of bytes that were announced.
        expected: usize,
        /// Number of bytes of the file.
        found: u64,
    },
    /// A system call failed.
    #[error("memory file: {0}")]
    System(#[from] io::Error),
}

impl MemfdError {
    /// Returns a stable name for counters and logs, in snake case.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.into()
    }
}

impl From<Errno> for MemfdError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// A memory file of ordinary pages whose size can no longer change.
///
/// A page is taken from the system when it is first touched, and by the process that touches it. If
/// the other holder punches holes into the file, bytes become zero; that has no other effect on
/// this process.
#[derive(Debug)]
pub struct Memfd {
    descriptor: OwnedFd,
    length: usize,
}

/// Seals against a change of size in either direction, and of the seals themselves.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

impl Memfd {
    /// Makes a file of `length` zeroed bytes, more than 0. `/proc/<pid>/fd` shows `name`.
    ///
    /// # Errors
    ///
    /// [`MemfdError::System`]: there is no memory or no descriptor, or the kernel does not have memory files.
    pub fn create(name: &str, length: usize) -> Result<Self, MemfdError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
            // Linux before 6.3 does not have the flag that forbids executing the memory.
            Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
            result => result?,
        };
        if length == 0 {
            return Err(Errno::INVAL.into());
        }
        rustix::fs::ftruncate(&descriptor, length as u64)?;
        rustix::fs::fcntl_add_seals(&descriptor, SEALS)?;
        Ok(Self { descriptor, length })
    }

    /// Checks a file that another process sent, which is said to have `length` bytes.
    ///
    /// # Errors
    ///
    /// The error says how the file differs from a sealed memory file of this size.
    pub fn verify(descriptor: OwnedFd, length: usize) -> Result<Self, MemfdError> {
        // The seals are checked before the size: in the other order, the size could change in between.
        let seals = match rustix::fs::fcntl_get_seals(&descriptor) {
            Err(Errno::INVAL) => return Err(MemfdError::NotMemory),
            seals => seals?,
        };
        if rustix::fs::fstatfs(&descriptor)?.f_type != libc::TMPFS_MAGIC {
            return Err(MemfdError::NotMemory);
        }
        if !seals.contains(SEALS) {
            return Err(MemfdError::NotSealed);
        }
        let size = rustix::fs::fstat(&descriptor)?.st_size;
        let found = u64::try_from(size).map_err(|_| MemfdError::NotMemory)?;
        if length == 0 || usize::try_from(found) != Ok(length) {
            return Err(MemfdError::WrongSize {
                expected: length,
                found,
            });
        }
        Ok(Self { descriptor, length })
    }

    /// Returns the length in bytes, more than 0.
    #[must_use]
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.length
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn raw(seals: SealFlags, length: u64) -> OwnedFd {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&descriptor, length).unwrap();
        rustix::fs::fcntl_add_seals(&descriptor, seals).unwrap();
        descriptor
    }

    fn refusal(descriptor: impl Into<OwnedFd>, length: usize) -> &'static str {
        Memfd::verify(descriptor.into(), length).unwrap_err().name()
    }

    #[test]
    fn no_process_can_change_the_size_of_a_created_file() {
        let file = Memfd::create("test", 8192).unwrap();
        assert_eq!(file.len(), 8192);
        for length in [0, 4096, 8191, 8193] {
            assert_eq!(rustix::fs::ftruncate(&file, length), Err(Errno::PERM));
        }
        assert_eq!(
            rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE),
            Err(Errno::PERM)
        );
        let received = file.as_fd().try_clone_to_owned().unwrap();
        assert_eq!(Memfd::verify(received, 8192).unwrap().len(), 8192);
    }

    #[test]
    fn refuses_a_file_that_may_still_change_its_size() {
        for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
            assert_eq!(refusal(raw(SEALS - missing, 4096), 4096), "not_sealed");
        }
        assert_eq!(refusal(raw(SealFlags::empty(), 4096), 4096), "not_sealed");
    }

    #[test]
    fn refuses_a_size_that_was_not_announced() {
        for length in [0, 4095, 4097, 8192, usize::MAX] {
            assert_eq!(refusal(raw(SEALS, 4096), length), "wrong_size", "{length}");
        }
        assert_eq!(refusal(raw(SEALS, 0), 0), "wrong_size");
        assert_eq!(refusal(raw(SEALS, i64::MAX as u64), 1), "wrong_size");
    }

    #[test]
    fn refuses_files_that_are_not_memory_files() {
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(refusal(socket, 4096), "not_memory");
        assert_eq!(
            refusal(File::open("/dev/zero").unwrap(), 4096),
            "not_memory"
        );
        let this = File::open(std::env::current_exe().unwrap()).unwrap();
        assert_ne!(refusal(this, 4096), "wrong_size");
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
        match rustix::fs::memfd_create("test", flags) {
            Ok(huge) => assert_eq!(refusal(huge, 4096), "not_memory"),
            Err(error) => println!("SKIPPED: memory files in huge pages: {error}"),
        }
    }

    #[test]
    fn creates_no_file_of_0_bytes() {
        assert!(Memfd::create("test", 0).is_err());
    }
}
