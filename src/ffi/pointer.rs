// SPDX-License-Identifier: GPL-2.0-or-later

//! Turns pointers from C into values, and a panic into a status.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::slice;

use super::types::{
    smbdirect_address, smbdirect_allowed_address, smbdirect_attach, smbdirect_buffer,
    smbdirect_client_note, smbdirect_conn_info, smbdirect_device, smbdirect_event,
    smbdirect_mem_params, smbdirect_parameters, smbdirect_pdu, smbdirect_rdma, smbdirect_session,
    smbdirect_transfer, smbdirect_transform,
};
use crate::device::{Handle, Status};

/// A structure that C passes by pointer.
///
/// # Safety
///
/// It is `repr(C)`, begins with `type_size: u32`, and any bytes are a valid value of it (if not a
/// legal one).
pub(super) unsafe trait Structure: Copy {}

macro_rules! structures {
    ($($name:ident)*) => {$(
        // SAFETY: `types` declares it with `type_size` first, and only with integers, arrays of
        // them, raw pointers and structures of that kind.
        unsafe impl Structure for $name {}
    )*};
}

structures! {
    smbdirect_address smbdirect_allowed_address smbdirect_attach smbdirect_buffer smbdirect_client_note smbdirect_conn_info smbdirect_event smbdirect_mem_params
    smbdirect_parameters smbdirect_pdu smbdirect_rdma smbdirect_session smbdirect_transfer smbdirect_transform
}

/// A length that no version of a structure will ever reach: if `type_size` is larger, the caller has not set it.
const MAX_TYPE_SIZE: usize = 4096;

/// Runs `call`; a panic in it becomes [`Status::Panic`].
pub(super) fn fence(call: impl FnOnce() -> Result<(), Status>) -> i32 {
    // Nothing uses the state that a panic leaves half changed: see `with_device`.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Status::Ok.code(),
        Ok(Err(status)) => status.code(),
        Err(mut payload) => {
            // The payload's destructor may panic as well, with another such payload, and so on.
            while let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                payload = again;
            }
            Status::Panic.code()
        }
    }
}

/// Runs `call` on a device, unless an earlier call panicked on it.
///
/// # Safety
///
/// `device` is null or a live handle that no other thread uses during the call.
pub(super) unsafe fn with_device(
    device: *mut smbdirect_device,
    call: impl FnOnce(&mut Handle) -> Result<(), Status>,
) -> i32 {
    // SAFETY: `device` is null or a live handle that no other thread uses, as `# Safety` demands.
    let Some(device) = (unsafe { device.as_mut() }) else {
        return Status::Invalid.code();
    };
    if device.poisoned {
        return Status::Panic.code();
    }
    let status = fence(|| call(&mut device.handle));
    device.poisoned = status == Status::Panic.code();
    status
}

/// Makes a device from a new handle; [`release`] frees it.
pub(super) fn into_pointer(handle: Handle) -> *mut smbdirect_device {
    Box::into_raw(Box::new(smbdirect_device {
        handle,
        poisoned: false,
    }))
}

/// Frees a device.
///
/// # Safety
///
/// `device` is null or came from [`into_pointer`] and was not released before.
pub(super) unsafe fn release(device: *mut smbdirect_device) {
    if !device.is_null() {
        // SAFETY: it came from `into_pointer` and was not released before, as `# Safety` demands.
        drop(unsafe { Box::from_raw(device) });
    }
}

/// Copies a structure of any version.
///
/// # Errors
///
/// The pointer is null, `type_size` is less than that of the first version, or a field that this
/// version does not know is not 0.
///
/// # Safety
///
/// `pointer` is null or points to `type_size` readable bytes, of which the first 4 are `type_size`.
pub(super) unsafe fn input<T: Structure>(pointer: *const T) -> Result<T, Status> {
    // SAFETY: `pointer` is null or points to `type_size` bytes, as `# Safety` demands.
    let size = unsafe { type_size(pointer) }?;
    // SAFETY: `type_size` checked that `pointer` is not null and that `size` is at least the size of `T`; `size` bytes
    // are readable, as `# Safety` demands.
    unsafe { copy(pointer.cast(), size) }
}

/// Copies the structures of an array, one after the other.
///
/// # Errors
///
/// As [`input`], for the `type_size` of the first structure.
///
/// # Safety
///
/// As [`input`], for `count` structures at intervals of the first one's `type_size`.
pub(super) unsafe fn inputs<T: Structure>(
    first: *const T,
    count: u32,
) -> Result<impl Iterator<Item = Result<T, Status>>, Status> {
    // SAFETY: `first` is null or points to `type_size` bytes, as `# Safety` demands.
    let size = unsafe { type_size(first) }?;
    Ok((0..count as usize).map(move |n| {
        // SAFETY: there are `count` structures of `size` bytes, as `# Safety` demands.
        let pointer = unsafe { first.cast::<u8>().add(n * size) };
        // SAFETY: as above, and `type_size` checked the size.
        unsafe { copy(pointer, size) }
    }))
}

/// # Safety
///
/// `pointer` points to `size` readable bytes, at least as many as `T` has.
unsafe fn copy<T: Structure>(pointer: *const u8, size: usize) -> Result<T, Status> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: `pointer` points to at least as many bytes as `T` has, as `# Safety` demands; `value`
    // is a local, so the two do not overlap.
    unsafe { pointer.copy_to_nonoverlapping(value.as_mut_ptr().cast(), size_of::<T>()) };
    // SAFETY: `size` is at least the size of `T`, as `# Safety` demands.
    let rest = unsafe { pointer.add(size_of::<T>()) };
    // SAFETY: `pointer` points to `size` readable bytes, as `# Safety` demands.
    let rest = unsafe { slice::from_raw_parts(rest, size - size_of::<T>()) };
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Status::Invalid);
    }
    // SAFETY: all bytes are initialized, and any bytes are a valid `Structure`.
    Ok(unsafe { value.assume_init() })
}

/// The place to which structures are written.
#[derive(Debug)]
pub(super) struct Output<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Structure> Output<T> {
    /// Takes a place that the caller provides; the `type_size` of its first structure is set.
    ///
    /// # Errors
    ///
    /// The pointer is null, or `type_size` is less than that of the first version.
    ///
    /// # Safety
    ///
    /// `pointer` is null, or its first 4 bytes are `type_size`, and it points to that many writable
    /// bytes for each value that [`write`](Self::write) will be called with.
    pub(super) unsafe fn new(pointer: *mut T) -> Result<Self, Status> {
        // SAFETY: `pointer` is null or begins with `type_size`, as `# Safety` demands.
        let size = unsafe { type_size(pointer) }?;
        Ok(Self { pointer, size })
    }

    /// Returns the caller's `type_size`, which a written value repeats.
    pub(super) const fn type_size(&self) -> u32 {
        // The size is at most `MAX_TYPE_SIZE`.
        self.size as u32
    }

    /// Writes the `n`th value, and 0 into the fields after it that only a newer caller knows.
    pub(super) fn write(&mut self, n: usize, value: T) {
        // SAFETY: there is room for this value, as `# Safety` of `new` demands.
        let target = unsafe { self.pointer.cast::<u8>().add(n * self.size) };
        let source = (&raw const value).cast::<u8>();
        // SAFETY: as above; `self.size` is at least the size of `T`, as `new` checked, and `value` is
        // a local, so the two do not overlap.
        unsafe { source.copy_to_nonoverlapping(target, size_of::<T>()) };
        // SAFETY: `self.size` is at least the size of `T`, as `new` checked.
        let rest = unsafe { target.add(size_of::<T>()) };
        // SAFETY: there are `self.size` writable bytes at `target`, as `# Safety` of `new` demands.
        unsafe { rest.write_bytes(0, self.size - size_of::<T>()) };
    }
}

/// Reads and checks `type_size`.
///
/// # Safety
///
/// `pointer` is null or points to 4 readable bytes.
unsafe fn type_size<T: Structure>(pointer: *const T) -> Result<usize, Status> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Status::Invalid);
    }
    // SAFETY: it is not null, so it points to 4 readable bytes, as `# Safety` demands.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    // It must be a multiple of the alignment, or the second element of an array would not be aligned.
    let legal = (size_of::<T>()..=MAX_TYPE_SIZE).contains(&size) && size % align_of::<T>() == 0;
    if legal {
        Ok(size)
    } else {
        Err(Status::Invalid)
    }
}

/// Writes an output.
///
/// # Safety
///
/// `pointer` is null or may be written.
pub(super) unsafe fn put<T: Copy>(pointer: *mut T, value: T) -> Result<(), Status> {
    if pointer.is_null() {
        return Err(Status::Invalid);
    }
    // SAFETY: it is not null, so it may be written, as `# Safety` demands.
    unsafe { pointer.write(value) };
    Ok(())
}

/// Returns the `length` bytes at `start`; if `length` is 0, `start` may be anything.
///
/// # Safety
///
/// `start` is null or points to `length` readable bytes that nothing writes while the result lives.
pub(super) unsafe fn bytes<'a>(start: *const c_void, length: u64) -> Result<&'a [u8], Status> {
    let length = usize::try_from(length).map_err(|_| Status::Invalid)?;
    match (start.is_null(), length) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Status::Invalid),
        _ if isize::try_from(length).is_err() => Err(Status::Invalid),
        // SAFETY: not null and at most isize::MAX; `length` bytes are readable, as `# Safety` demands.
        _ => Ok(unsafe { slice::from_raw_parts(start.cast::<u8>(), length) }),
    }
}

/// Returns bytes as [`bytes`] does, for writing.
///
/// # Safety
///
/// `start` is null or points to `length` bytes that nothing else uses while the result lives.
pub(super) unsafe fn bytes_mut<'a>(
    start: *mut c_void,
    length: u64,
) -> Result<&'a mut [u8], Status> {
    let length = usize::try_from(length).map_err(|_| Status::Invalid)?;
    match (start.is_null(), length) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Status::Invalid),
        _ if isize::try_from(length).is_err() => Err(Status::Invalid),
        // SAFETY: not null and at most isize::MAX; nothing else uses the `length` bytes, as `# Safety` demands. They
        // may be uninitialized: the library writes all of them or none, and never reads them.
        _ => Ok(unsafe { slice::from_raw_parts_mut(start.cast::<u8>(), length) }),
    }
}

/// Reads 16 bytes: a token or a GUID.
///
/// # Safety
///
/// `pointer` is null or points to 16 readable bytes.
pub(super) unsafe fn sixteen(pointer: *const u8) -> Result<[u8; 16], Status> {
    if pointer.is_null() {
        return Err(Status::Invalid);
    }
    // SAFETY: it is not null, so it points to 16 readable bytes, as `# Safety` demands; bytes need no
    // alignment.
    Ok(unsafe { pointer.cast::<[u8; 16]>().read() })
}

/// Reads a path; `None` for a null pointer.
///
/// # Safety
///
/// `text` is null or a string that ends with a 0, and nothing writes it while the result lives.
pub(super) unsafe fn path<'a>(text: *const c_char) -> Result<Option<&'a Path>, Status> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not null, so it ends with a 0, as `# Safety` demands.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(Some(Path::new(OsStr::from_bytes(text.to_bytes()))))
}

/// A piece of a message, as C passes it, after [`pieces`] has checked it.
#[repr(transparent)]
pub(super) struct Piece(libc::iovec);

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // An empty piece may point anywhere, even to null.
        if self.0.iov_len == 0 {
            return &[];
        }
        // SAFETY: `pieces` checked that it is not null and not too long; it is readable memory that
        // nothing writes, as `# Safety` of `pieces` demands.
        unsafe { slice::from_raw_parts(self.0.iov_base.cast::<u8>(), self.0.iov_len) }
    }
}

/// Checks the pieces of a message.
///
/// # Safety
///
/// `first` is null or points to `count` entries, each with a length of 0 or readable memory;
/// nothing writes any of it while the result lives.
pub(super) unsafe fn pieces<'a>(
    first: *const libc::iovec,
    count: u32,
) -> Result<&'a [Piece], Status> {
    const MAX_PIECES: u32 = 1024;
    if first.is_null() || !first.is_aligned() || count == 0 || count > MAX_PIECES {
        return Err(Status::Invalid);
    }
    // SAFETY: it is not null, so it points to `count` entries, as `# Safety` demands; `Piece` has the
    // layout of what it wraps.
    let pieces = unsafe { slice::from_raw_parts(first.cast::<Piece>(), count as usize) };
    let is_legal = |Piece(vector): &Piece| {
        let is_there = !vector.iov_base.is_null() || vector.iov_len == 0;
        is_there && isize::try_from(vector.iov_len).is_ok()
    };
    if pieces.iter().all(is_legal) {
        Ok(pieces)
    } else {
        Err(Status::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Role;
    use crate::device::channel::SocketChannel;
    use crate::sys::{ReceiveError, SeqSocket};

    #[test]
    fn a_panic_poisons_its_device_which_can_still_be_freed() {
        let (near, far) = SeqSocket::pair().unwrap();
        let channel = SocketChannel::new(near).unwrap();
        let device = into_pointer(Handle::over(channel.into(), Role::Worker, None).unwrap());
        let call = |call: fn(&mut Handle) -> Result<(), Status>| {
            // SAFETY: the device lives until `release` below, and only this thread uses it.
            unsafe { with_device(device, call) }
        };
        let not_attached = Status::NotAttached.code();
        assert_eq!(call(|handle| handle.mem_params().map(|_| ())), not_attached);
        assert_eq!(call(|_| panic!("a fault")), Status::Panic.code());
        let poisoned = call(|_| unreachable!("a poisoned handle is never called"));
        assert_eq!(poisoned, Status::Panic.code());

        let mut buffer = [0; 64];
        far.receive(&mut buffer).expect("its request");
        let end = far.receive(&mut buffer).unwrap_err();
        assert!(end.is_would_block(), "still attached: {end}");
        // SAFETY: it came from `into_pointer`, and is not used afterwards.
        unsafe { release(device) };
        let end = far.receive(&mut buffer);
        assert!(matches!(end, Err(ReceiveError::Closed)), "{end:?}");
    }

    #[test]
    fn a_panic_in_a_call_without_a_device_becomes_a_status_as_well() {
        struct Again;
        impl Drop for Again {
            fn drop(&mut self) {
                panic!("in the destructor of the first panic's payload");
            }
        }
        let status = fence(|| std::panic::panic_any(Again));
        assert_eq!(status, Status::Panic.code());
        assert_eq!(fence(|| Ok(())), Status::Ok.code());
        assert_eq!(fence(|| Err(Status::Busy)), Status::Busy.code());
    }
}
