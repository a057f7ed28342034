// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl`: queries smbdirectd or the kernel's device, examines the server, bridges TCP clients to SMB Direct,
//! and measures a share. See smbdirectctl(8).
//!
//! `smbdirectctl bench` is a program of its own, `smbdirectctl-bench`, so that a server can do without its SMB client.

mod bridge;
mod capture;
#[cfg(test)]
#[path = "../smbdirectd/completions.rs"]
mod completions;
mod doctor;
mod events;
mod kernel;
#[path = "../smbdirectd/log.rs"]
mod log;
mod metrics;
mod status;
mod top;
mod users;
mod utc;

use std::env;
use std::ffi::OsString;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::mem;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde::de::DeserializeOwned;
use serde_json::Value;
use smbdirect::device::chardev::is_char_device;
use smbdirect::device::{self, DEFAULT_PATH, NotObserved, Status};

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
    /// Show the current traffic on the whole screen, until q is pressed
    Top(top::Options),
    /// Show what has happened: connections, processes, limits
    Events(events::Options),
    /// Print the device's metrics for Prometheus, or write them to a file
    Metrics(metrics::Options),
    /// Write the traffic of a client, or of one connection, to a file for Wireshark
    Capture(capture::Options),
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
    /// Show everything about the connections of this client: its address, with or without a port
    #[arg(value_name = "CONNECTION", value_parser = status::Wanted::parse, conflicts_with = "watch")]
    connection: Option<status::Wanted>,
    /// Show the users of the connections, as smbstatus reports them (only as root)
    #[arg(long)]
    users: bool,
    /// Print everything the device reports, as JSON
    #[arg(long)]
    json: bool,
    /// Show rates per second until interrupted, updated every SECONDS (default 2)
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2")]
    #[arg(value_parser = parse_interval)]
    watch: Option<Duration>,
    /// Path of smbdirectd's control socket, or of the kernel's device, /dev/smbdirect
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

/// Parses the time between two looks at the device.
fn parse_interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.filter(|seconds| (0.1..=86_400.0).contains(seconds));
    let seconds = seconds.ok_or("an interval is a number of seconds from 0.1 to 86400")?;
    Ok(Duration::from_secs_f64(seconds))
}

/// How long the device may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match Options::parse().command {
        Command::Status(options) => match options.watch {
            Some(interval) => watch_status(&options, interval),
            None => show_status(&options),
        },
        Command::Top(options) => top::run(&options),
        Command::Events(options) => events::run(&options),
        Command::Metrics(options) => metrics::run(&options),
        Command::Capture(options) => capture::run(&options),
        Command::Doctor(options) => doctor::run(&options),
        Command::Bench { arguments } => become_bench(&arguments),
        Command::Bridge(options) => bridge::run(&options).unwrap_or_else(|message| {
            eprintln!("smbdirectctl: {message}");
            FAILED.into()
        }),
    }
}

/// The program that `smbdirectctl bench` executes: the one beside smbdirectctl, or else the first in PATH.
const BENCH: &str = "smbdirectctl-bench";

/// Replaces this program by [`BENCH`]; returns only if that fails.
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
    let json = match ask(&options.control) {
        Ok(json) => json,
        Err(failure) => return failed(&options.control, &failure),
    };
    match options.render(&json) {
        Ok(Ok(text)) => print(&text),
        Ok(Err(message)) => {
            eprintln!("smbdirectctl: {message}");
            FAILED.into()
        }
        Err(error) => unreadable(&options.control, &error),
    }
}

impl StatusOptions {
    /// Returns the text to print for the JSON of a device, or why the wanted connection is not there.
    fn render(&self, json: &str) -> serde_json::Result<Result<String, String>> {
        if self.json && !self.users && self.connection.is_none() {
            return Ok(Ok(format!("{}\n", json.trim_end())));
        }
        let device = self.device(json)?;
        let Some(wanted) = &self.connection else {
            return Ok(Ok(match self.json {
                true => self.with_users(json, &device)?.to_string() + "\n",
                false => device.to_string(),
            }));
        };
        let details = device.details(wanted);
        if !self.json || details.is_err() {
            return Ok(details);
        }
        let mut value = self.with_users(json, &device)?;
        let connections = value.get_mut("connections").map(Value::take);
        let mut connections = connections.unwrap_or_default();
        if let Some(connections) = connections.as_array_mut() {
            connections.retain(|it| it["peer"].as_str().is_some_and(|peer| wanted.is(peer)));
        }
        Ok(Ok(format!("{connections}\n")))
    }

    /// Parses the status of a device, and names the users if they are wanted.
    fn device(&self, json: &str) -> serde_json::Result<status::Device> {
        let mut device: status::Device = read(json)?;
        if self.users {
            let sessions = users::ask(&device);
            users::name(&mut device, &sessions);
        }
        Ok(device)
    }

    /// Returns the JSON of a device with its users, if they are wanted. If they are not known, this prints why.
    fn with_users(&self, json: &str, device: &status::Device) -> serde_json::Result<Value> {
        let mut value = serde_json::from_str(json)?;
        // Control characters that were escaped in the text of the device need not be escaped any more.
        make_printable(&mut value);
        if let Some(known) = &device.users {
            if let Err(reason) = known {
                eprintln!("smbdirectctl: the users are unknown: {reason}");
            }
            users::add_to(&mut value, device);
        }
        Ok(value)
    }
}

/// Shows the status again and again. Except as JSON, the first status is not shown, because rates need two.
fn watch_status(options: &StatusOptions, interval: Duration) -> ExitCode {
    let mut before = None;
    loop {
        let json = match ask(&options.control) {
            Ok(json) => json,
            Err(failure) => return failed(&options.control, &failure),
        };
        let text = if options.json {
            options.render(&json).map(Result::unwrap_or_default)
        } else {
            options.device(&json).map(|device| {
                let before = before.replace(device.clone());
                before.map_or_else(String::new, |before| screen(&device.since(&before)))
            })
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => return unreadable(&options.control, &error),
        };
        if let Err(error) = io::stdout().write_all(text.as_bytes()) {
            return not_printed(&error);
        }
        thread::sleep(interval);
    }
}

/// Returns the text of one update. On a terminal, the text overwrites the previous update; elsewhere, it comes after
/// the previous update.
fn screen(device: &status::Device) -> String {
    match io::stdout().is_terminal() {
        true => format!("\x1b[H\x1b[2J{device}"),
        false => format!("{device}\n"),
    }
}

/// The reason why a device does not give its status, with a cure.
type Failure = (Status, String);

/// Returns the status of a device as JSON.
fn ask(control: &Path) -> Result<String, Failure> {
    ask_process(control).map(|(json, _)| json)
}

/// Asks as `ask` does, and also returns the process that serves the device, if there is such a process and it is
/// visible from here.
fn ask_process(control: &Path) -> Result<(String, Option<u32>), Failure> {
    let (json, process) = match is_char_device(control) {
        true => (kernel::status(control)?, None),
        false => {
            device::observe_process(control, TIMEOUT).map_err(|error| with_cure(control, error))?
        }
    };
    // The device may run as another user, and must not control the terminal of the user who asks. JSON has no other
    // control characters than these two.
    let is_foreign = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    Ok((json.replace(is_foreign, "?"), process))
}

/// Parses the JSON of a device. Control characters that are escaped in its texts are replaced, too.
fn read<T: DeserializeOwned>(json: &str) -> serde_json::Result<T> {
    let mut value = serde_json::from_str(json)?;
    make_printable(&mut value);
    serde_json::from_value(value)
}

fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text),
        Value::Array(values) => values.iter_mut().for_each(make_printable),
        Value::Object(members) => {
            let printed = mem::take(members).into_iter().map(|(name, mut value)| {
                make_printable(&mut value);
                (printable(&name), value)
            });
            *members = printed.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns a text without the characters with which it could control a terminal, look like several lines, or be shown
/// in another order: a user may have chosen his name for that.
fn printable(text: &str) -> String {
    let is_foreign =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.replace(is_foreign, "?")
}

/// Says why there is no status.
fn failed(control: &Path, (status, message): &Failure) -> ExitCode {
    eprintln!("smbdirectctl: {}: {message}", control.display());
    let code = match status {
        Status::NoDevice => NO_DEVICE,
        _ => FAILED,
    };
    code.into()
}

/// Says that the status is not in the form that this program knows.
fn unreadable(control: &Path, error: &serde_json::Error) -> ExitCode {
    let control = control.display();
    eprintln!(
        "smbdirectctl: {control}: cannot parse the device's status: {error} (is the device of another release? \
         restart it after an upgrade)"
    );
    FAILED.into()
}

/// Adds a cure to the reason why a device does not answer.
fn with_cure(control: &Path, error: NotObserved) -> Failure {
    let hint = match error.status {
        Status::Denied => who_may_ask(control),
        Status::Untrusted => " (ls -ld and ss -xlp show its user)".to_owned(),
        Status::NoDevice => kernel::hint(control),
        _ => String::new(),
    };
    (error.status, format!("{error}{hint}"))
}

/// Returns a hint for users whom the device does not answer: members of `status_group` have the status socket, but they
/// also need access to its directory.
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

/// Prints as `print` does, and returns the exit status `code` if printing succeeds.
fn print_and_exit(text: &str, code: ExitCode) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => not_printed(&error),
        _ => code,
    }
}

/// Says that standard output cannot be written, unless its reader has closed it, and returns the exit status.
fn not_printed(error: &io::Error) -> ExitCode {
    if error.kind() == ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    eprintln!("smbdirectctl: standard output: {error}");
    FAILED.into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_completions_have_all_options() {
        completions::check(Options::command());
    }

    #[test]
    fn texts_of_a_device_do_not_control_the_terminal() {
        let json = r#"{"carried": {"soft\u001bware": {}},
                       "closes": [{"peer": "10.0.0.1:1", "reason": "a\u001b[2Jb\nc\u009bd\u007f\u202e\u2066"}]}"#;
        let device: status::Device = read(json).unwrap();
        assert_eq!(device.closes[0].reason, "a?[2Jb?c?d???");
        let shown = device.to_string();
        assert!(shown.contains("soft?ware"), "{shown}");
        let is_printed = |c: char| c == '\n' || !c.is_control();
        assert!(shown.chars().all(is_printed), "{shown:?}");
        let error = read::<status::Device>(r#"{"uptime_seconds": "\u001b[2J"}"#).unwrap_err();
        assert!(!error.to_string().contains('\x1b'), "{error:?}");
    }

    #[test]
    fn the_json_of_a_connection_does_not_control_the_terminal() {
        let options = StatusOptions {
            connection: Some(status::Wanted::parse("10.0.0.5").unwrap()),
            users: false,
            json: true,
            watch: None,
            control: PathBuf::new(),
        };
        let json = r#"{"connections": [{"peer": "10.0.0.5:1", "state": "a\u009b2J"}, {"peer": "10.0.0.6:1"}]}"#;
        let shown = options.render(json).unwrap().unwrap();
        assert_eq!(shown, "[{\"peer\":\"10.0.0.5:1\",\"state\":\"a?2J\"}]\n");
    }
}
