// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl doctor`: looks at everything on this server that SMB Direct needs, and says what to do. See
//! smbdirectctl(8).

mod checks;
mod client;
mod facts;
mod gather;
#[cfg(test)]
pub(super) mod machine;
mod probe;
pub(super) mod programs;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use smbdirect::device::DEFAULT_PATH;

use self::facts::Facts;
use super::{FAILED, print_and_exit};

/// Number of columns of the text for people.
pub(super) const COLUMNS: usize = 100;
/// Exit status: nothing failed, but there are warnings.
const WARNED: u8 = 4;

#[derive(Args)]
pub(crate) struct Options {
    /// Also say what is known about the client at this address, and what to check there
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Print a script that gathers on a client what --client-report judges
    #[arg(long, value_name = "SYSTEM", exclusive = true)]
    client_script: Option<client::System>,
    /// Also judge the output of that script; - is standard input
    #[arg(long, value_name = "FILE")]
    client_report: Option<PathBuf>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
    /// Path of smbdirectd's control socket, or of the kernel's device, /dev/smbdirect
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
    /// The program smbd [default: the one that is attached, or else the first in the path]
    #[arg(long, value_name = "PATH")]
    smbd: Option<PathBuf>,
    /// Samba's configuration file [default: that of the attached smbd, or else testparm's]
    #[arg(long, value_name = "FILE")]
    smb_conf: Option<PathBuf>,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// All is well.
    Ok,
    /// The check could not be made.
    Skipped,
    /// SMB Direct works, but not as well as it could, or not for every client.
    Warn,
    /// SMB Direct does not work.
    Fail,
}

/// A finding.
#[derive(Debug, Serialize)]
struct Finding {
    /// The name of the check.
    check: &'static str,
    result: Verdict,
    message: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    cure: Option<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match self.result {
            Verdict::Ok => "ok",
            Verdict::Skipped => "-",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        let mut begin = format!(" {result:<5} ");
        for line in wrap(&self.message, COLUMNS - begin.len()) {
            writeln!(f, "{begin}{line}")?;
            begin = " ".repeat(begin.len());
        }
        for cure in self.cure.iter().flat_map(|cure| cure.lines()) {
            let mut begin = "       -> ";
            for line in wrap(cure, COLUMNS - begin.len()) {
                writeln!(f, "{begin}{line}")?;
                begin = "          ";
            }
        }
        Ok(())
    }
}

/// Returns the words of a text in lines of at most `columns` columns; a longer word has a line of its own.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= columns => line.extend([" ", word]),
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The findings, their worst result, and the versions that the first line of the text shows.
#[derive(Debug, Serialize)]
struct Report {
    /// The worst of the findings.
    result: Verdict,
    /// The version of the device, if it answers.
    smbdirectd: Option<String>,
    /// The version of smbd, if there is one.
    smbd: Option<String>,
    findings: Vec<Finding>,
}

impl Report {
    fn new(facts: &Facts, client: Option<IpAddr>) -> Self {
        let mut findings = checks::server(facts);
        findings.extend(
            client
                .into_iter()
                .flat_map(|client| checks::client(facts, client)),
        );
        let worst = findings.iter().map(|finding| finding.result).max();
        Self {
            result: worst.unwrap_or(Verdict::Ok),
            smbdirectd: facts.device.as_ref().map(|device| device.version.clone()),
            smbd: facts.smbd.as_ref().map(|smbd| smbd.version.clone()),
            findings,
        }
    }

    /// Adds further findings.
    fn with(mut self, findings: Vec<Finding>) -> Self {
        let results = findings.iter().map(|finding| finding.result);
        self.result = results.fold(self.result, Verdict::max);
        self.findings.extend(findings);
        self
    }

    fn exit_code(&self) -> ExitCode {
        match self.result {
            Verdict::Ok | Verdict::Skipped => ExitCode::SUCCESS,
            Verdict::Warn => WARNED.into(),
            Verdict::Fail => FAILED.into(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "-".to_owned();
        let smbdirectd = self.smbdirectd.clone().unwrap_or_else(none);
        let smbd = self.smbd.clone().unwrap_or_else(none);
        writeln!(f, "smbdirectd {smbdirectd}, smbd {smbd}")?;
        self.findings
            .iter()
            .try_for_each(|finding| write!(f, "{finding}"))
    }
}

/// Examines the server, and prints the findings; or prints the script for a client.
pub(crate) fn run(options: &Options) -> ExitCode {
    if let Some(system) = options.client_script {
        return print_and_exit(&system.script(), ExitCode::SUCCESS);
    }
    let mut of_client = None;
    if let Some(path) = &options.client_report {
        match client::Report::read(path) {
            Ok(report) => of_client = Some(report),
            Err(error) => {
                eprintln!("smbdirectctl: {}: {error}", path.display());
                return FAILED.into();
            }
        }
    }
    let facts = gather::gather(options);
    let mut report = Report::new(&facts, options.client);
    if let Some(of_client) = of_client {
        report = report.with(client::judge(&of_client, &facts, options.client));
    }
    let text = if options.json {
        match serde_json::to_string(&report) {
            Ok(json) => format!("{json}\n"),
            Err(error) => {
                eprintln!("smbdirectctl: cannot write JSON: {error}");
                return FAILED.into();
            }
        }
    } else {
        report.to_string()
    };
    print_and_exit(&text, report.exit_code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_have_several_lines() {
        assert_eq!(wrap("a bc d", 4), ["a bc", "d"]);
        assert_eq!(wrap("a 123456 b", 4), ["a", "123456", "b"]);
        assert_eq!(wrap("", 4), [""]);
        let finding = Finding {
            check: "x",
            result: Verdict::Warn,
            message: "word ".repeat(40).trim().to_owned(),
            cure: Some(format!("{}\nshort", "word ".repeat(40).trim())),
        };
        let text = finding.to_string();
        assert!(text.lines().all(|line| line.len() <= COLUMNS), "{text}");
        assert!(text.starts_with(" warn  word"), "{text}");
        assert_eq!(text.matches("-> ").count(), 2, "{text}");
        assert_eq!(text.matches("word").count(), 80, "{text}");
        assert!(text.ends_with("       -> short\n"), "{text}");
    }
}
