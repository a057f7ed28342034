//! The smbdirect device as the processes see that use it: smbd's parent and its children.
//!
//! [`abi`] is what both sides say to each other, [`Status`] what anything ends with. The device
//! itself is elsewhere (`broker`, or a kernel).

pub mod abi;
pub mod channel;
mod completion;
mod control;
mod event;
mod handle;
pub mod message;
mod observe;
mod queue;
mod regions;
pub mod request;
mod slots;
mod status;
pub mod trust;
mod worker;

pub use event::{BulkBuffer, ConnCounts, Direction, Event, Role};
pub use handle::Handle;
pub use observe::{NotObserved, observe, status_path};
pub use status::Status;

/// Where the device is, unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/run/smbdirect/control";
