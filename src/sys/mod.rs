// SPDX-License-Identifier: GPL-2.0-or-later

//! Memory that others may write at any time, and the system calls on it. This is one of the few places where `unsafe`
//! is allowed.

#[cfg(feature = "shm")]
mod bell;
#[cfg(feature = "shm")]
mod chardev;
mod error;
#[cfg(feature = "shm")]
mod eventfd;
#[cfg(feature = "shm")]
mod maker;
#[cfg(feature = "shm")]
mod memfd;
mod memory;
#[cfg(feature = "broker")]
mod passed;
#[cfg(feature = "shm")]
mod seqpacket;
#[cfg(feature = "std")]
mod socket;
#[cfg(feature = "std")]
mod usage;
#[cfg(feature = "std")]
mod wait;
#[cfg(feature = "shm")]
mod waker;

#[cfg(feature = "shm")]
pub use bell::{Bell, Rung};
#[cfg(feature = "shm")]
pub use chardev::{Buffer, BufferField, CharDevice};
pub use error::OsError;
#[cfg(feature = "shm")]
pub use eventfd::EventFd;
#[cfg(feature = "shm")]
pub use maker::Maker;
#[cfg(feature = "shm")]
pub use memfd::{Memfd, MemfdError};
pub use memory::{Memory, OutOfRange};
#[cfg(feature = "broker")]
pub use passed::passed_descriptors;
#[cfg(feature = "shm")]
pub use seqpacket::{
    Credentials, MAX_DESCRIPTORS, ReceiveError, Received, SeqListener, SeqSocket,
    listen_for_streams,
};
#[cfg(feature = "std")]
pub use socket::{ACCEPT_PAUSE, IoVecs, MAX_IOVECS, ReceiveVec, SendVec, unacknowledged};
#[cfg(feature = "std")]
pub use usage::preemptions;
#[cfg(feature = "std")]
pub use wait::wait_readable;
#[cfg(feature = "shm")]
pub use waker::Waker;
