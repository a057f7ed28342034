//! The library's side of the device, against a device that does what the tests tell it to.

mod calls;
mod ends;
mod events;
mod hostile;
mod script;
