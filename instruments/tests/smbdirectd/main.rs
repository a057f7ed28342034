// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the programs as an administrator uses them: with real processes, sockets and signals.

mod bridge;
mod capture;
mod commands;
mod doctor;
mod drain;
mod events;
mod guides;
mod install;
mod life;
mod log;
mod manual;
mod metrics;
mod privileges;
mod reload;
mod restart;
mod status;
mod top;

use std::ffi::OsStr;
use std::process::Command;

/// Copies a program that a test is going to run.
///
/// Another process does this. If this process had the copy open for writing, then a child that another test starts at
/// that moment could have it open as well, and until it executes its own program, nobody could execute the copy.
fn copy_program(from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.expect("cp").success());
}
