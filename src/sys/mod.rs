//! Memory that others may write at any time, and the system calls on it: the place where `unsafe`
//! is allowed.

#[cfg(feature = "shm")]
mod bell;
#[cfg(feature = "shm")]
mod eventfd;
#[cfg(feature = "shm")]
mod maker;
#[cfg(feature = "shm")]
mod memfd;
mod memory;
#[cfg(feature = "shm")]
mod seqpacket;
mod socket;
mod usage;
mod wait;
#[cfg(feature = "shm")]
mod waker;

#[cfg(feature = "shm")]
pub use bell::{Bell, Rung};
#[cfg(feature = "shm")]
pub use eventfd::EventFd;
#[cfg(feature = "shm")]
pub use maker::Maker;
#[cfg(feature = "shm")]
pub use memfd::{Memfd, MemfdError};
pub use memory::{Memory, OutOfRange};
#[cfg(feature = "shm")]
pub use seqpacket::{Credentials, MAX_DESCRIPTORS, ReceiveError, Received, SeqListener, SeqSocket};
pub use socket::{IoVecs, MAX_IOVECS, ReceiveVec, SendVec, unacknowledged};
pub use usage::preemptions;
pub use wait::wait_readable;
#[cfg(feature = "shm")]
pub use waker::Waker;
