// SPDX-License-Identifier: GPL-2.0-or-later

//! The program that `smbdirectctl` executes for its command `bench`, which smbdirectctl(8) describes.

mod bench;
mod chart;
mod compare;
mod histogram;
mod html;
mod json;
mod machine;
mod measure;
mod options;
mod pattern;
mod progress;
mod report;
mod server;
mod timeline;
#[path = "../../../../src/bin/smbdirectctl/utc.rs"]
mod utc;

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use clap::Parser;

use bench::{Failure, Results};
use options::Options;

/// Exit status: something else went wrong.
const FAILED: u8 = 1;
/// Exit status: the command line is wrong.
const USAGE: u8 = 2;

/// Exit status: the throughput of a case is worse than in the run with which it is compared.
const WORSE: u8 = 5;

fn main() -> ExitCode {
    let (message, code) = match bench::run(&Options::parse()) {
        Ok(results) => match put_out(&results) {
            Ok(()) if results.is_worse => return WORSE.into(),
            Ok(()) => return ExitCode::SUCCESS,
            Err(message) => (message, FAILED),
        },
        Err(Failure::Usage(message)) => (message, USAGE),
        Err(Failure::Failed(message)) => (message, FAILED),
    };
    eprintln!("smbdirectctl: {message}");
    code.into()
}

/// Prints the results, and writes the page. If one of the two fails, the other is still done.
fn put_out(results: &Results) -> Result<(), String> {
    let printed = print(&results.text).map_err(|error| format!("standard output: {error}"));
    if let Some((file, page)) = &results.page {
        fs::write(file, page).map_err(|error| format!("--html: {}: {error}", file.display()))?;
    }
    printed
}

/// Prints to standard output, which the reader may have closed early.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}
