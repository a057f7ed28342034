// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl`: queries smbdirectd or the kernel's device, examines the server, bridges TCP clients to SMB Direct,
//! and measures a share. See smbdirectctl(8).
//!
//! `smbdirectctl bench` is a program of its own, `smbdirectctl-bench`, so that a server can do without its SMB client.

mod bridge;
mod doctor;
mod kernel;
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
use smbdirect::device::chardev::is_char_device;
use smbdirect::device::{self, DEFAULT_PATH, Status};

/// Exit status: something else went wrong.
const FAILED: u8 = 1;
/// Exit status: there is no device.
const NO_DEVICE: u8 = 3;

/// Query the smbdirect device, examine a server, benchmark a share, or bridge TCP clients to SMB Direct
#[derive(Parser)]
#[command(name = "smbdirectctl", version, max_term_width = 100)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show connections, processes, and why connections ended
    Status(StatusOptions),
    /// Examine this server: what keeps clients from using RDMA, and what to do
    Doctor(doctor::Options),
    /// Measure how fast a share is read and written, over TCP and over SMB Direct
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
    /// Accept SMB over TCP and carry it over SMB Direct to a server, until a signal ends it
    Bridge(bridge::Options),
}

#[derive(Args)]
struct StatusOptions {
    /// Print everything the device reports, as JSON
    #[arg(long)]
    json: bool,
    /// Path of smbdirectd's control socket, or of the kernel's device, /dev/smbdirect
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

/// How long the device may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Status(options) => show_status(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Bench { arguments } => become_bench(&arguments),
        Command::Bridge(options) => bridge::run(&options).unwrap_or_else(|message| {
            eprintln!("smbdirectctl: {message}");
            FAILED.into()
        }),
    }
}

/// The program that this one becomes for `bench`: the one in its own directory, or the first in the path.
const BENCH: &str = "smbdirectctl-bench";

/// Replaces this program by that one; returns only if that fails.
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
    let asked = match is_char_device(&options.control) {
        true => kernel::status(&options.control),
        false => ask_smbdirectd(&options.control),
    };
    let json = match asked {
        Ok(json) => json,
        Err((status, message)) => {
            eprintln!("smbdirectctl: {control}: {message}");
            let code = match status {
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
            eprintln!("smbdirectctl: {control}: cannot parse the device's status: {error}");
            FAILED.into()
        }
    }
}

/// Returns the status of smbdirectd, or the reason why there is none, with a cure.
fn ask_smbdirectd(control: &Path) -> Result<String, (Status, String)> {
    device::observe(control, TIMEOUT).map_err(|error| {
        let hint = match error.status {
            Status::Denied => who_may_ask(control),
            Status::Untrusted => " (ls -ld and ss -xlp show its user)".to_owned(),
            Status::NoDevice => kernel::hint(control),
            _ => String::new(),
        };
        (error.status, format!("{error}{hint}"))
    })
}

/// Returns a hint for users whom the device does not answer: their group has its own socket, but needs access to the
/// directory, too.
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

/// Prints to standard output, which its reader may have closed after reading enough.
fn print(text: &str) -> ExitCode {
    print_and_exit(text, ExitCode::SUCCESS)
}

/// Prints in the same way, and returns this exit status if that succeeds.
fn print_and_exit(text: &str, code: ExitCode) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("smbdirectctl: standard output: {error}");
            FAILED.into()
        }
        _ => code,
    }
}
