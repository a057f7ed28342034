// SPDX-License-Identifier: GPL-2.0-or-later

//! The program that `smbdirectctl` executes for its command `bench`, which smbdirectctl(8) describes.

mod bench;
mod measure;
mod options;
mod pattern;
mod report;

use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;

use bench::Failure;
use options::Options;

/// Exit status: something else went wrong.
const FAILED: u8 = 1;
/// Exit status: the command line is wrong.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let (message, code) = match bench::run(&Options::parse()) {
        Ok(text) => match print(&text) {
            Ok(()) => return ExitCode::SUCCESS,
            Err(error) => (format!("standard output: {error}"), FAILED),
        },
        Err(Failure::Usage(message)) => (message, USAGE),
        Err(Failure::Failed(message)) => (message, FAILED),
    };
    eprintln!("smbdirectctl: {message}");
    code.into()
}

/// Prints to standard output, which the reader may have closed early.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
