//! The smbdirect device as the processes see that use it: smbd's parent and its children.
//!
//! [`abi`] is what both sides say to each other, [`Status`] what anything ends with. The device
//! itself is elsewhere (`broker`, or a kernel).

pub mod abi;
mod handle;
pub mod message;
mod observe;
mod status;

pub use handle::{BulkBuffer, ConnCounts, Direction, Event, Handle, Role};
pub use observe::observe;
pub use status::Status;

/// Where the device is, unless somebody says otherwise.
pub const DEFAULT_PATH: &str = "/run/smbdirect/control";
