// SPDX-License-Identifier: GPL-2.0-or-later

//! The library's side of the device, against a device that follows the tests' script. The broker's tests run it against
//! a real device.

mod ahead;
mod calls;
mod ends;
mod events;
mod hostile;
mod no_alloc;
mod script;
