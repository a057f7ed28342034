//! The library's side of the device, against a device that does what the tests tell it to, and, where
//! the broker is built, against that.

mod calls;
#[cfg(feature = "broker")]
mod end_to_end;
mod ends;
mod events;
mod hostile;
#[allow(dead_code)]
#[cfg(feature = "broker")]
#[path = "../broker/peer.rs"]
mod peer;
#[allow(dead_code)]
#[cfg(feature = "broker")]
#[path = "../broker/raw.rs"]
mod raw;
#[allow(dead_code)]
#[cfg(feature = "broker")]
#[path = "../broker/scene.rs"]
mod scene;
mod script;
