// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl metrics`: prints the device's metrics for Prometheus, or writes them to a file.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use clap::Args;
use smbdirect::broker::metrics::{self, PerConnection};
use smbdirect::broker::status::Status;
use smbdirect::device::DEFAULT_PATH;

use super::{FAILED, Failure, ask, failed, print_and_exit, read, unreadable};

#[derive(Args)]
pub(crate) struct Options {
    /// Replace this file in one step instead of printing, for the textfile collector of node_exporter
    #[arg(long, value_name = "FILE")]
    textfile: Option<PathBuf>,
    /// Add series for each connection, with the client's address and port as a label
    #[arg(long)]
    connections: bool,
    /// Path of smbdirectd's control socket, or of the kernel's device, /dev/smbdirect
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

/// Prints or writes the metrics once. If there is no answer that this program can read, the metrics say so, and an
/// alert can notice that.
pub(crate) fn run(options: &Options) -> ExitCode {
    let per_connection = match options.connections {
        true => PerConnection::Included,
        false => PerConnection::LeftOut,
    };
    let (text, code) = text_of(ask(&options.control), &options.control, per_connection);
    let Some(file) = &options.textfile else {
        return print_and_exit(&text, code);
    };
    match replace(file, &text) {
        Ok(()) => code,
        Err(error) => {
            eprintln!("smbdirectctl: {}: {error}", file.display());
            FAILED.into()
        }
    }
}

/// Returns the metrics, and the exit status.
fn text_of(
    answer: Result<String, Failure>,
    control: &Path,
    per_connection: PerConnection,
) -> (String, ExitCode) {
    match answer {
        Ok(json) => match read::<Status>(&json) {
            Ok(status) => (metrics::of(&status, per_connection), ExitCode::SUCCESS),
            Err(error) => (metrics::of_silence(), unreadable(control, &error)),
        },
        Err(failure) => (metrics::of_silence(), failed(control, &failure)),
    }
}

/// Replaces a file in one step, so that its readers see the old text or the new one, and never a part.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let Some(name) = file.file_name() else {
        return Err(io::Error::other("not the name of a file"));
    };
    // The new file is in the same directory, because a file cannot be renamed into another file system. The collector
    // reads only files whose names end in .prom, so it skips this one.
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", process::id()));
    let beside = file.with_file_name(beside);
    let written = write(&beside, text).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Writes a new file that every user can read.
fn write(path: &Path, text: &str) -> io::Result<()> {
    // This removes the file of an earlier process with the same number, and a link that another user may have put
    // there, so that the link is not followed.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    // The collector runs as another user.
    file.set_permissions(Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use smbdirect::device;

    use super::*;

    #[test]
    fn an_answer_of_another_release_counts_as_none() {
        let text = |answer| text_of(answer, Path::new("/nowhere"), PerConnection::LeftOut).0;
        let silence = text(Err((device::Status::NoDevice, "no device".to_owned())));
        assert_eq!(silence.lines().last(), Some("smbdirect_up 0"));
        for json in ["{}", "no JSON"] {
            assert_eq!(text(Ok(json.to_owned())), silence);
        }
    }

    #[test]
    fn replaces_a_file_as_a_whole_or_not_at_all() {
        let name = format!("smbdirectctl-metrics-{}", process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let file = directory.join("smbdirect.prom");
        for text in ["one\n", "another\n"] {
            replace(&file, text).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
        // A directory cannot be replaced by a file, and nothing is left behind.
        fs::create_dir(directory.join("taken")).unwrap();
        replace(&directory.join("taken"), "x").unwrap_err();
        replace(&directory.join("none/x.prom"), "x").unwrap_err();
        replace(Path::new("/"), "x").unwrap_err();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        fs::remove_dir_all(directory).unwrap();
    }
}
