// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the library's side of the device, with a device that follows the tests' script. The broker's tests run the
//! library with a real device.

mod ahead;
mod calls;
mod ends;
mod events;
mod hostile;
mod no_alloc;
mod script;
