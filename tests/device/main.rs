// SPDX-License-Identifier: GPL-2.0-or-later

//! The library's side of the device, against a device that does what the tests tell it to. Against a real one it is among
//! the tests of the broker.

mod calls;
mod ends;
mod events;
mod hostile;
mod no_alloc;
mod script;
