// SPDX-License-Identifier: GPL-2.0-or-later

//! An open file of the device, its mappings, and memory at addresses that the kernel may not use.

use std::ffi::CString;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use smbdirect::device::abi;
use smbdirect::device::uapi::{AttachCall, Call};
use zerocopy::{FromZeros, IntoBytes};

use crate::tally::{Tally, fail};

pub(crate) const PAGE: usize = 4096;

/// The numbers with which a call may be refused, as `device::uapi` says; `EOPNOTSUPP` is SUBMIT's. `EIO` is not among
/// them: the device has failed.
const REFUSALS: [i32; 11] = [
    libc::ENOTTY,
    libc::EFAULT,
    libc::EINVAL,
    libc::EBADF,
    libc::EACCES,
    libc::EBUSY,
    libc::ESHUTDOWN,
    libc::ENOMEM,
    libc::EINTR,
    libc::EOPNOTSUPP,
    // A file of another kind, after `dup2` or `close`.
    libc::EPERM,
];

/// An open file of the device.
#[derive(Debug)]
pub(crate) struct File(OwnedFd);

impl File {
    pub(crate) fn open(path: &Path, tally: &Tally, writable: bool) -> Self {
        let name = CString::new(path.as_os_str().as_bytes()).expect("a path");
        let how = if writable {
            libc::O_RDWR
        } else {
            libc::O_RDONLY
        };
        loop {
            // SAFETY: the path ends with a zero byte.
            let fd = unsafe { libc::open(name.as_ptr(), how | libc::O_CLOEXEC) };
            if fd >= 0 {
                // SAFETY: `open` has just returned it.
                return Self(unsafe { OwnedFd::from_raw_fd(fd) });
            }
            let error = Error::last_os_error();
            if !tally.faults || error.raw_os_error() != Some(libc::ENOMEM) {
                fail(&format!("open: {error}"));
            }
        }
    }

    pub(crate) fn number(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn duplicate(&self) -> Self {
        Self(self.0.try_clone().expect("a descriptor"))
    }

    /// Makes a call whose argument is at any address.
    pub(crate) fn raw(&self, command: u32, address: usize) -> std::result::Result<(), i32> {
        // SAFETY: the kernel checks the address; callers let it write only to memory that no reference covers, or that
        // they lend exclusively.
        let result = unsafe { libc::ioctl(self.number(), command.into(), address) };
        match result {
            0 => Ok(()),
            -1 => Err(Error::last_os_error().raw_os_error().unwrap_or(0)),
            other => fail(&format!("ioctl {command:#x} returned {other}")),
        }
    }

    /// Makes a call with these words as its argument, and checks what must hold for all calls.
    pub(crate) fn call(
        &self,
        tally: &Tally,
        what: &'static str,
        (command, argument): (u32, &mut [u64]),
    ) -> std::result::Result<(), i32> {
        let before = argument.to_vec();
        let address = argument.as_mut_ptr() as usize;
        let result = tally.timed(what, || self.raw(command, address));
        tally.count(what, result.map_or_else(name, |()| "ok".to_owned()));
        if let Err(number) = result {
            if !REFUSALS.contains(&number) {
                fail(&format!("{what} {before:x?}: {}", name(number)));
            }
            if *argument != before[..] {
                fail(&format!(
                    "{what} failed, but changed {before:x?} to {argument:x?}"
                ));
            }
        }
        result
    }

    /// Makes a call with a structure as its argument.
    pub(crate) fn make<C: Call>(
        &self,
        tally: &Tally,
        what: &'static str,
        call: &mut C,
    ) -> std::result::Result<(), i32> {
        let mut words = words(call);
        let result = self.call(tally, what, (C::NUMBER, &mut words));
        let bytes = words.as_bytes();
        *call = C::read_from_bytes(&bytes[..size_of::<C>()]).expect("its length");
        result
    }

    /// Attaches, and returns the status: a `Status` as a number.
    pub(crate) fn attach(&self, tally: &Tally, role: u32, token: abi::Token) -> i32 {
        let mut call = AttachCall {
            attach: abi::Attach::new(role, token),
            ..AttachCall::new_zeroed()
        };
        match self.make(tally, "attach", &mut call) {
            Ok(()) => call.status,
            Err(number) => -number,
        }
    }

    /// Waits until it is readable, for at most this many milliseconds. Returns whether it is.
    pub(crate) fn wait(&self, tally: &Tally, milliseconds: i32) -> bool {
        let mut polled = libc::pollfd {
            fd: self.number(),
            events: libc::POLLIN,
            revents: 0,
        };
        let address = &raw mut polled;
        // SAFETY: there is one structure.
        let found = tally.timed("poll", || unsafe { libc::poll(address, 1, milliseconds) });
        found > 0
    }

    pub(crate) fn map(&self, length: usize, offset: u64) -> Result<Mapping> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        Mapping::new(Some(self), length, (protection, flags), offset)
    }
}

/// Returns the argument of a call as words, whose number is rounded up.
pub(crate) fn words<C: IntoBytes + zerocopy::Immutable>(call: &C) -> Vec<u64> {
    let mut words = vec![0; size_of::<C>().div_ceil(8)];
    words.as_mut_bytes()[..size_of::<C>()].copy_from_slice(call.as_bytes());
    words
}

/// Returns the name of an error, such as EINVAL.
pub(crate) fn name(number: i32) -> String {
    let text = match number {
        libc::ENOTTY => "ENOTTY",
        libc::EFAULT => "EFAULT",
        libc::EINVAL => "EINVAL",
        libc::EBADF => "EBADF",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::ESHUTDOWN => "ESHUTDOWN",
        libc::ENOMEM => "ENOMEM",
        libc::EINTR => "EINTR",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EIO => "EIO",
        other => return format!("errno-{other}"),
    };
    text.to_owned()
}

/// Mapped memory, which any thread may write at any time.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory is only read and written by volatile access, so it may belong to any thread.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps memory of a file, or new memory.
    pub(crate) fn new(
        file: Option<&File>,
        length: usize,
        (protection, flags): (i32, i32),
        offset: u64,
    ) -> Result<Self> {
        let (fd, flags) = match file {
            Some(file) => (file.number(), flags),
            None => (-1, flags | libc::MAP_ANONYMOUS),
        };
        let offset = offset as libc::off_t;
        // SAFETY: the system chooses the address.
        let start = unsafe { libc::mmap(ptr::null_mut(), length, protection, flags, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).expect("not at 0");
        Ok(Self { start, length })
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn address(&self) -> usize {
        self.start.as_ptr() as usize
    }

    pub(crate) fn read(&self, offset: usize) -> u32 {
        assert!(offset % 4 == 0 && offset + 4 <= self.length);
        // SAFETY: the word lies in the mapping.
        let word = unsafe { self.start.byte_add(offset).cast::<u32>() };
        // SAFETY: as above, and it is aligned.
        unsafe { word.read_volatile() }
    }

    pub(crate) fn write(&self, offset: usize, value: u32) {
        assert!(offset % 4 == 0 && offset + 4 <= self.length);
        // SAFETY: the word lies in the mapping.
        let word = unsafe { self.start.byte_add(offset).cast::<u32>() };
        // SAFETY: as above, and it is aligned.
        unsafe { word.write_volatile(value) }
    }

    /// Writes any bytes, word by word; the last word is filled with zeros.
    pub(crate) fn write_all(&self, offset: usize, bytes: &[u8]) {
        for (at, chunk) in bytes.chunks(4).enumerate() {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write(offset + 4 * at, u32::from_le_bytes(word));
        }
    }

    /// Reads any bytes, word by word.
    pub(crate) fn read_all(&self, offset: usize, length: usize) -> Vec<u8> {
        let words = (0..length.div_ceil(4)).flat_map(|at| self.read(offset + 4 * at).to_le_bytes());
        words.take(length).collect()
    }

    /// Changes what the process may do with a part.
    pub(crate) fn protect(&self, offset: usize, length: usize, protection: i32) -> bool {
        assert!(offset + length <= self.length);
        let start = self.start.as_ptr().wrapping_byte_add(offset).cast();
        // SAFETY: the part lies in the mapping, which no reference covers.
        unsafe { libc::mprotect(start, length, protection) == 0 }
    }

    /// Makes the mapping longer or shorter, perhaps elsewhere.
    pub(crate) fn resize(mut self, length: usize) -> Self {
        // SAFETY: this is all of the mapping, which no reference covers.
        let start = unsafe {
            libc::mremap(
                self.start.as_ptr().cast(),
                self.length,
                length,
                libc::MREMAP_MAYMOVE,
            )
        };
        if start != libc::MAP_FAILED {
            (self.start, self.length) = (NonNull::new(start.cast()).expect("not at 0"), length);
        }
        self
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nobody uses the mapping any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
