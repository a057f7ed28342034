//! Memory that others may write at any time, and the system calls on it: the place where `unsafe`
//! is allowed.

mod memory;
mod socket;
mod wait;

pub use memory::{Memory, OutOfRange};
pub use socket::{IoVecs, MAX_IOVECS, ReceiveVec, SendVec};
pub use wait::wait_readable;
