// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl`: asks the smbdirect device how it is, brings clients of TCP to SMB Direct, and measures. See
//! smbdirectctl(8).
//!
//! `smbdirectctl bench` is a program of its own, `smbdirectctl-bench`: a server does without the SMB client in it.

mod bridge;
#[path = "../smbdirectd/log.rs"]
mod log;
mod status;

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use smbdirect::device::{self, DEFAULT_PATH, Status};

/// Exit status: something else went wrong.
const FAILED: u8 = 1;
/// Exit status: there is no device.
const NO_DEVICE: u8 = 3;

/// Query smbdirectd, benchmark a share, or bridge TCP clients to SMB Direct
#[derive(Parser)]
#[command(name = "smbdirectctl", version, max_term_width = 100)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Shows connections, processes and the reasons for which connections ended
    Status(StatusOptions),
    /// Measures how fast a share is read and written, over TCP and over SMB Direct
    #[command(disable_help_flag = true)]
    Bench {
        /// The options of smbdirectctl-bench; see smbdirectctl bench --help
        #[arg(
            value_name = "ARGUMENTS",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        arguments: Vec<OsString>,
    },
    /// Accepts SMB over TCP and carries it over SMB Direct to a server, until a signal ends it
    Bridge(bridge::Options),
}

#[derive(Args)]
struct StatusOptions {
    /// Prints everything the device says, as JSON
    #[arg(long)]
    json: bool,
    /// Path of the device's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

/// How long the device may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Status(options) => show_status(&options),
        Command::Bench { arguments } => become_bench(&arguments),
        Command::Bridge(options) => bridge::run(&options).unwrap_or_else(|message| {
            eprintln!("smbdirectctl: {message}");
            FAILED.into()
        }),
    }
}

/// The program that this one becomes for `bench`: the one beside it, or the first in the path.
const BENCH: &str = "smbdirectctl-bench";

/// Becomes that program, and returns only where it is missing.
fn become_bench(arguments: &[OsString]) -> ExitCode {
    let here = env::current_exe().map(|program| program.with_file_name(BENCH));
    let beside = here.ok().filter(|program| program.exists());
    let program = beside.unwrap_or_else(|| PathBuf::from(BENCH));
    let error = process::Command::new(&program).args(arguments).exec();
    if error.kind() == ErrorKind::NotFound {
        eprintln!(
            "smbdirectctl: bench needs the program {BENCH}, which is not installed \
             (cargo build --release --package instruments)"
        );
    } else {
        eprintln!("smbdirectctl: {}: {error}", program.display());
    }
    FAILED.into()
}

fn show_status(options: &StatusOptions) -> ExitCode {
    let control = options.control.display();
    let json = match device::observe(&options.control, TIMEOUT) {
        Ok(json) => json,
        Err(error) => {
            let hint = match error.status {
                Status::Denied => who_may_ask(&options.control),
                Status::Untrusted => " (ls -ld and ss -xlp show whose it is)".to_owned(),
                _ => String::new(),
            };
            eprintln!("smbdirectctl: {control}: {error}{hint}");
            let code = match error.status {
                Status::NoDevice => NO_DEVICE,
                _ => FAILED,
            };
            return code.into();
        }
    };
    if options.json {
        return print(&format!("{}\n", json.trim_end()));
    }
    match serde_json::from_str::<status::Device>(&json) {
        Ok(device) => print(&device.to_string()),
        Err(error) => {
            eprintln!("smbdirectctl: {control}: the device's status is not understood: {error}");
            FAILED.into()
        }
    }
}

/// What helps whom the device does not answer: the group has a socket of its own, and has to get at its directory.
fn who_may_ask(control: &Path) -> String {
    let is_closed = |path: &Path| {
        let found = path.symlink_metadata();
        found.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
    };
    if !is_closed(control) {
        return ": run this as root, as the user of the device, or as a member of its status_group"
            .to_owned();
    }
    let obstacle = control.ancestors().find(|path| !is_closed(path));
    let obstacle = obstacle.unwrap_or(control).display();
    format!(": {obstacle} is closed to this user: run this as root, or as the user of the device")
}

/// Prints to standard output, which may have been closed by who has read enough.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("smbdirectctl: standard output: {error}");
            FAILED.into()
        }
        _ => ExitCode::SUCCESS,
    }
}
