// SPDX-License-Identifier: GPL-2.0-or-later

//! An open file of a character device that is driven by `ioctl` and shares memory by `mmap`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use memmap2::MmapOptions;

use super::Memory;

/// The fields of an argument in which a call names memory of its process, for the device to read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferField {
    /// Offset of the address, which has 8 bytes.
    pub address_at: usize,
    /// Offset of the number of elements, which has 4 bytes.
    pub count_at: usize,
    /// Length of an element, in bytes.
    pub element: usize,
}

/// Memory of this process that a call reads or writes.
#[derive(Debug)]
pub enum Buffer<'a> {
    /// The device reads the memory.
    Read(&'a [u8]),
    /// The device writes the memory.
    Written(&'a mut [u8]),
}

impl Buffer<'_> {
    const fn len(&self) -> usize {
        match self {
            Self::Read(bytes) => bytes.len(),
            Self::Written(bytes) => bytes.len(),
        }
    }

    fn address(&mut self) -> u64 {
        let start = match self {
            Self::Read(bytes) => bytes.as_ptr().expose_provenance(),
            Self::Written(bytes) => bytes.as_mut_ptr().expose_provenance(),
        };
        start as u64
    }
}

/// The `_IOC` type of the calls that [`CharDevice::call`] makes, those of the smbdirect device.
const TYPE: u32 = 0xd5;

/// An open file. No call waits, unless its argument says so.
#[derive(Debug)]
pub struct CharDevice(File);

impl CharDevice {
    /// Opens the device at `path`, for reading and, if `is_writer`, for writing. Programs that this process starts do
    /// not inherit it.
    ///
    /// # Errors
    ///
    /// The error of the system.
    pub fn open(path: &Path, is_writer: bool) -> io::Result<Self> {
        // Opening another kind of device by mistake must neither wait nor give this process a terminal.
        let flags = libc::O_CLOEXEC | libc::O_NOCTTY | libc::O_NONBLOCK;
        let mut options = OpenOptions::new();
        options.read(true).write(is_writer).custom_flags(flags);
        options.open(path).map(Self)
    }

    /// Makes the call `number` with `argument`, which the device may write, and with the memory that the argument
    /// names.
    ///
    /// # Errors
    ///
    /// The error of the device; [`io::ErrorKind::InvalidInput`]: the argument is not as long as the number says, does
    /// not have the fields, or says that there are more elements than `buffer` has.
    pub fn call(
        &self,
        number: u32,
        argument: &mut [u8],
        buffer: Option<(BufferField, Buffer<'_>)>,
    ) -> io::Result<()> {
        let length = (number >> 16 & 0x3fff) as usize;
        if length != argument.len() || number >> 8 & 0xff != TYPE {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if let Some((field, mut buffer)) = buffer {
            write_address(argument, field, &mut buffer).ok_or(io::ErrorKind::InvalidInput)?;
        }
        // SAFETY: the file is open for as long as `self` lives. The number says how many bytes the device may read or
        // write at `argument`, which has as many. The device's interface (`device::uapi`) names other memory of the
        // process only in fields of the argument, and `write_address` has set that field to memory that exists and, if
        // the device writes it, is borrowed exclusively until the call is over.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                number as libc::Ioctl,
                argument.as_mut_ptr(),
            )
        };
        match result {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }

    /// Maps `length` bytes at `offset`, shared with the device, for reading and writing.
    ///
    /// # Errors
    ///
    /// The error of the system.
    pub fn map(&self, offset: u64, length: usize) -> io::Result<Memory> {
        let map = MmapOptions::new()
            .offset(offset)
            .len(length)
            .map_raw(&self.0)?;
        Ok(Memory::from_map(map))
    }
}

/// Puts the buffer's address into the argument. Returns `None` if the argument does not have such fields, or names more
/// elements than there are.
fn write_address(argument: &mut [u8], field: BufferField, buffer: &mut Buffer<'_>) -> Option<()> {
    let (_, count) = argument.split_at_checked(field.count_at)?;
    let count = u32::from_ne_bytes(*count.first_chunk()?);
    let length = usize::try_from(count).ok()?.checked_mul(field.element)?;
    if length > buffer.len() {
        return None;
    }
    let (_, address) = argument.split_at_mut_checked(field.address_at)?;
    *address.first_chunk_mut()? = buffer.address().to_ne_bytes();
    Some(())
}

impl AsFd for CharDevice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELD: BufferField = BufferField {
        address_at: 0,
        count_at: 8,
        element: 4,
    };
    const READ_16: u32 = 2 << 30 | 16 << 16 | TYPE << 8;

    #[test]
    fn another_device_does_not_know_the_calls() {
        let device = CharDevice::open(Path::new("/dev/null"), true).unwrap();
        let error = device.call(READ_16, &mut [0; 16], None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTTY));
        let error = device.map(1 << 40, 4096).unwrap_err();
        assert!(error.raw_os_error().is_some(), "{error}");
    }

    fn is_refused(
        number: u32,
        argument: &mut [u8],
        buffer: Option<(BufferField, Buffer<'_>)>,
    ) -> bool {
        let device = CharDevice::open(Path::new("/dev/null"), false).unwrap();
        let error = device.call(number, argument, buffer).unwrap_err();
        error.kind() == io::ErrorKind::InvalidInput
    }

    #[test]
    fn an_argument_is_as_long_as_the_number_says_and_names_no_more_elements_than_there_are() {
        assert!(is_refused(READ_16, &mut [0; 15], None));
        assert!(is_refused(READ_16, &mut [0; 17], None));
        assert!(
            is_refused(READ_16 ^ 1 << 8, &mut [0; 16], None),
            "not its type"
        );
        let mut argument = [0; 16];
        argument[8] = 3;
        let mut bytes = [0; 12];
        let short = Buffer::Written(&mut bytes[..11]);
        assert!(is_refused(READ_16, &mut argument, Some((FIELD, short))));
        for field in [
            BufferField {
                address_at: 9,
                ..FIELD
            },
            BufferField {
                count_at: 13,
                ..FIELD
            },
            BufferField {
                element: usize::MAX,
                ..FIELD
            },
        ] {
            let buffer = Buffer::Read(&bytes);
            assert!(is_refused(READ_16, &mut argument, Some((field, buffer))));
        }
        let buffer = Buffer::Read(&bytes);
        assert!(!is_refused(READ_16, &mut argument, Some((FIELD, buffer))));
        let address = bytes.as_ptr().addr() as u64;
        assert_eq!(argument[..8], address.to_ne_bytes());
    }
}
