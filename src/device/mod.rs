// SPDX-License-Identifier: GPL-2.0-or-later

//! The smbdirect device as its users see it: the parent smbd and its children.
//!
//! [`abi`] is what both sides say to each other, and [`Status`] is how a call, an operation or a connection ends. The
//! device itself is elsewhere (`engine` with `broker`, or with a kernel) and uses only these two, [`message`] and, in a
//! kernel, [`uapi`].

pub mod abi;
#[cfg(feature = "shm")]
mod any;
#[cfg(feature = "shm")]
pub mod channel;
#[cfg(feature = "shm")]
pub mod chardev;
#[cfg(feature = "shm")]
mod completion;
#[cfg(feature = "shm")]
mod control;
#[cfg(any(test, not(feature = "std")))]
mod errno;
#[cfg(feature = "shm")]
mod event;
#[cfg(feature = "shm")]
mod handle;
pub mod message;
#[cfg(feature = "shm")]
mod observe;
#[cfg(feature = "shm")]
mod queue;
#[cfg(feature = "shm")]
mod regions;
#[cfg(feature = "shm")]
pub mod request;
#[cfg(feature = "shm")]
mod slots;
mod status;
#[cfg(feature = "shm")]
pub mod trust;
pub mod uapi;
#[cfg(feature = "shm")]
mod worker;

#[cfg(feature = "shm")]
pub use any::{AnyBell, AnyChannel};
#[cfg(feature = "shm")]
pub use event::{BulkBuffer, ConnCounts, Direction, Event, Fetched, Role};
#[cfg(feature = "shm")]
pub use handle::Handle;
#[cfg(feature = "broker")]
pub use observe::capture;
#[cfg(feature = "shm")]
pub use observe::{NotObserved, observe, observe_events, observe_process, status_path};
pub use status::Status;

/// The default path of the device.
pub const DEFAULT_PATH: &str = "/run/smbdirect/control";
