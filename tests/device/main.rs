//! The library's side of the device, against a device that does what the tests tell it to, and, where
//! the broker is built, against that.

mod calls;
mod ends;
mod events;
mod hostile;
mod script;
