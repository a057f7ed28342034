// SPDX-License-Identifier: GPL-2.0-or-later

//! Pointers from C become values here, and a panic becomes a status.

use std::ffi::{CStr, OsStr, c_char, c_void};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::slice;

use super::types::{
    smbdirect_address, smbdirect_allowed_address, smbdirect_attach, smbdirect_buffer,
    smbdirect_conn_info, smbdirect_device, smbdirect_event, smbdirect_mem_params,
    smbdirect_parameters, smbdirect_pdu, smbdirect_rdma, smbdirect_session, smbdirect_transfer,
};
use crate::device::{Handle, Status};

/// A structure that C passes by pointer.
///
/// # Safety
///
/// It is `repr(C)`, begins with `type_size: u32`, and has a meaning (if not a legal one) whatever its
/// bytes are.
pub(super) unsafe trait Structure: Copy {}

macro_rules! structures {
    ($($name:ident)*) => {$(
        // SAFETY: `types` declares it with `type_size` first, and only with integers, arrays of
        // them, raw pointers and structures of that kind.
        unsafe impl Structure for $name {}
    )*};
}

structures! {
    smbdirect_address smbdirect_allowed_address smbdirect_attach smbdirect_buffer smbdirect_conn_info smbdirect_event smbdirect_mem_params
    smbdirect_parameters smbdirect_pdu smbdirect_rdma smbdirect_session smbdirect_transfer
}

/// More than any version of a structure will ever have: a `type_size` that was not set.
const MAX_TYPE_SIZE: usize = 4096;

/// Runs `call`; what it panics with becomes [`Status::Panic`].
pub(super) fn fence(call: impl FnOnce() -> Result<(), Status>) -> i32 {
    // What a panic leaves half done is never looked at again: see `with_device`.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => Status::Ok.code(),
        Ok(Err(status)) => status.code(),
        Err(mut payload) => {
            // Its destructor may panic in turn, with something that has one, and so on.
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
/// `device` is null or a live handle that no other thread uses meanwhile.
pub(super) unsafe fn with_device(
    device: *mut smbdirect_device,
    call: impl FnOnce(&mut Handle) -> Result<(), Status>,
) -> i32 {
    // SAFETY: the caller's promise.
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

/// The device that a new handle becomes; [`release`] takes it back.
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
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(device) });
    }
}

/// A copy of a structure, of whatever version.
///
/// # Errors
///
/// Null, `type_size` less than that of the first version, or something set that this version does
/// not know.
///
/// # Safety
///
/// `pointer` is null or leads to `type_size` readable bytes, of which the first 4 are `type_size`.
pub(super) unsafe fn input<T: Structure>(pointer: *const T) -> Result<T, Status> {
    // SAFETY: the caller's promise.
    let size = unsafe { type_size(pointer) }?;
    // SAFETY: the caller's promise, and `type_size` checked the size.
    unsafe { copy(pointer.cast(), size) }
}

/// Copies of the structures of an array, one after the other.
///
/// # Errors
///
/// As [`input`], for the first one's `type_size`.
///
/// # Safety
///
/// As [`input`], for `count` structures that are the first one's `type_size` apart.
pub(super) unsafe fn inputs<T: Structure>(
    first: *const T,
    count: u32,
) -> Result<impl Iterator<Item = Result<T, Status>>, Status> {
    // SAFETY: the caller's promise.
    let size = unsafe { type_size(first) }?;
    Ok((0..count as usize).map(move |n| {
        // SAFETY: the caller's promise: there are `count` of them.
        let pointer = unsafe { first.cast::<u8>().add(n * size) };
        // SAFETY: as above, and `type_size` checked the size.
        unsafe { copy(pointer, size) }
    }))
}

/// # Safety
///
/// `pointer` leads to `size` readable bytes, at least as many as `T` has.
unsafe fn copy<T: Structure>(pointer: *const u8, size: usize) -> Result<T, Status> {
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: the caller's promise; `value` is a local of its own.
    unsafe { pointer.copy_to_nonoverlapping(value.as_mut_ptr().cast(), size_of::<T>()) };
    // SAFETY: the caller's promise.
    let rest = unsafe { pointer.add(size_of::<T>()) };
    // SAFETY: the caller's promise.
    let rest = unsafe { slice::from_raw_parts(rest, size - size_of::<T>()) };
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Status::Invalid);
    }
    // SAFETY: all bytes are initialized, and `Structure` says that any do.
    Ok(unsafe { value.assume_init() })
}

/// Where a structure goes.
#[derive(Debug)]
pub(super) struct Output<T> {
    pointer: *mut T,
    size: usize,
}

impl<T: Structure> Output<T> {
    /// A place for `value`s that the caller has made, whose first `type_size` is set.
    ///
    /// # Errors
    ///
    /// Null, or `type_size` less than that of the first version.
    ///
    /// # Safety
    ///
    /// `pointer` is null or leads to as many bytes as it says in its first 4, for each value that
    /// [`write`](Self::write) will be called with.
    pub(super) unsafe fn new(pointer: *mut T) -> Result<Self, Status> {
        // SAFETY: the caller's promise.
        let size = unsafe { type_size(pointer) }?;
        Ok(Self { pointer, size })
    }

    /// The caller's `type_size`: what the value's own is to be.
    pub(super) const fn type_size(&self) -> u32 {
        // At most `MAX_TYPE_SIZE`.
        self.size as u32
    }

    /// Writes the `n`th value; what a newer caller has room for behind it becomes 0.
    pub(super) fn write(&mut self, n: usize, value: T) {
        // SAFETY: `new`'s caller promised room for this one.
        let target = unsafe { self.pointer.cast::<u8>().add(n * self.size) };
        let source = (&raw const value).cast::<u8>();
        // SAFETY: as above; the size is at least that of `T`, and `value` is a local of its own.
        unsafe { source.copy_to_nonoverlapping(target, size_of::<T>()) };
        // SAFETY: as above.
        let rest = unsafe { target.add(size_of::<T>()) };
        // SAFETY: as above.
        unsafe { rest.write_bytes(0, self.size - size_of::<T>()) };
    }
}

/// # Safety
///
/// `pointer` is null or leads to 4 readable bytes.
unsafe fn type_size<T: Structure>(pointer: *const T) -> Result<usize, Status> {
    if pointer.is_null() || !pointer.is_aligned() {
        return Err(Status::Invalid);
    }
    // SAFETY: not null, and the caller's promise.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    // A multiple of the alignment, or the second of an array would be out of it.
    let legal = (size_of::<T>()..=MAX_TYPE_SIZE).contains(&size) && size % align_of::<T>() == 0;
    if legal {
        Ok(size)
    } else {
        Err(Status::Invalid)
    }
}

/// Writes a number to where it is wanted.
///
/// # Safety
///
/// `pointer` is null or may be written.
pub(super) unsafe fn put<T: Copy>(pointer: *mut T, value: T) -> Result<(), Status> {
    if pointer.is_null() {
        return Err(Status::Invalid);
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { pointer.write(value) };
    Ok(())
}

/// `length` bytes; none where `length` is 0, whatever the pointer.
///
/// # Safety
///
/// `start` is null or leads to `length` readable bytes that nobody writes until the result is gone.
pub(super) unsafe fn bytes<'a>(start: *const c_void, length: u64) -> Result<&'a [u8], Status> {
    let length = usize::try_from(length).map_err(|_| Status::Invalid)?;
    match (start.is_null(), length) {
        (_, 0) => Ok(&[]),
        (true, _) => Err(Status::Invalid),
        _ if isize::try_from(length).is_err() => Err(Status::Invalid),
        // SAFETY: not null, at most isize::MAX, and the caller's promise.
        _ => Ok(unsafe { slice::from_raw_parts(start.cast::<u8>(), length) }),
    }
}

/// As [`bytes`], to be written.
///
/// # Safety
///
/// `start` is null or leads to `length` bytes that nobody else uses until the result is gone.
pub(super) unsafe fn bytes_mut<'a>(
    start: *mut c_void,
    length: u64,
) -> Result<&'a mut [u8], Status> {
    let length = usize::try_from(length).map_err(|_| Status::Invalid)?;
    match (start.is_null(), length) {
        (_, 0) => Ok(&mut []),
        (true, _) => Err(Status::Invalid),
        _ if isize::try_from(length).is_err() => Err(Status::Invalid),
        // SAFETY: not null, at most isize::MAX, and the caller's promise. What the bytes held may
        // be uninitialized: the library writes all of them or none, and never reads one.
        _ => Ok(unsafe { slice::from_raw_parts_mut(start.cast::<u8>(), length) }),
    }
}

/// 16 bytes: a token or a GUID.
///
/// # Safety
///
/// `pointer` is null or leads to 16 readable bytes.
pub(super) unsafe fn sixteen(pointer: *const u8) -> Result<[u8; 16], Status> {
    if pointer.is_null() {
        return Err(Status::Invalid);
    }
    // SAFETY: not null, and the caller's promise; bytes have no alignment.
    Ok(unsafe { pointer.cast::<[u8; 16]>().read() })
}

/// A path.
///
/// # Safety
///
/// `text` is null or ends with a 0, and nobody writes it until the result is gone.
pub(super) unsafe fn path<'a>(text: *const c_char) -> Result<Option<&'a Path>, Status> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, and the caller's promise.
    let text = unsafe { CStr::from_ptr(text) };
    Ok(Some(Path::new(OsStr::from_bytes(text.to_bytes()))))
}

/// A piece of a message, as C has it: [`pieces`] checked it.
#[repr(transparent)]
pub(super) struct Piece(libc::iovec);

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // The end of an empty one may be anywhere, also at null.
        if self.0.iov_len == 0 {
            return &[];
        }
        // SAFETY: `pieces` checked that it is not null and not too long, and its caller promised
        // the rest.
        unsafe { slice::from_raw_parts(self.0.iov_base.cast::<u8>(), self.0.iov_len) }
    }
}

/// The pieces of a message.
///
/// # Safety
///
/// `first` is null or leads to `count` entries, each with a length of 0 or memory that can be read;
/// nobody writes any of it until the result is gone.
pub(super) unsafe fn pieces<'a>(
    first: *const libc::iovec,
    count: u32,
) -> Result<&'a [Piece], Status> {
    const MAX_PIECES: u32 = 1024;
    if first.is_null() || !first.is_aligned() || count == 0 || count > MAX_PIECES {
        return Err(Status::Invalid);
    }
    // SAFETY: not null, and the caller's promise; `Piece` has the layout of what it wraps.
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
        let device = into_pointer(Handle::over(channel, Role::Worker, None).unwrap());
        let call = |call: fn(&mut Handle) -> Result<(), Status>| {
            // SAFETY: it lives until `release` below, and this is the only thread.
            unsafe { with_device(device, call) }
        };
        let not_attached = Status::NotAttached.code();
        assert_eq!(call(|handle| handle.mem_params().map(|_| ())), not_attached);
        assert_eq!(call(|_| panic!("a fault")), Status::Panic.code());
        let poisoned = call(|_| unreachable!("nothing is called any more"));
        assert_eq!(poisoned, Status::Panic.code());

        let mut buffer = [0; 64];
        far.receive(&mut buffer).expect("its request");
        let end = far.receive(&mut buffer).unwrap_err();
        assert!(end.is_would_block(), "still attached: {end}");
        // SAFETY: it came from `into_pointer`, and is not used any more.
        unsafe { release(device) };
        let end = far.receive(&mut buffer);
        assert!(matches!(end, Err(ReceiveError::Closed)), "{end:?}");
    }

    #[test]
    fn a_panic_outside_of_a_device_is_a_status_as_well() {
        struct Again;
        impl Drop for Again {
            fn drop(&mut self) {
                panic!("in the destructor of what was thrown");
            }
        }
        let status = fence(|| std::panic::panic_any(Again));
        assert_eq!(status, Status::Panic.code());
        assert_eq!(fence(|| Ok(())), Status::Ok.code());
        assert_eq!(fence(|| Err(Status::Busy)), Status::Busy.code());
    }
}
