// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectd`: the smbdirect device in user space. See smbdirectd(8).

#[cfg(test)]
mod completions;
mod file;
mod log;
mod options;
mod prepare;
mod reload;
mod serve;
mod store;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use options::Options;

/// Exit status: the device could not start, or failed.
const FAILED: u8 = 1;
/// Exit status: the configuration is wrong, so a restart would not help (`EX_CONFIG` of sysexits.h).
const CONFIG: u8 = 78;

/// Why the device does not run.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration file, or an option that overrides it, is wrong.
    Config(String),
    /// Anything else failed, which may be temporary.
    Failed(String),
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self::Failed(message)
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (message, code) = match failure {
                Failure::Config(message) => (message, CONFIG),
                Failure::Failed(message) => (message, FAILED),
            };
            // With this priority, the journal also shows the message as an error.
            let priority = if log::is_journal() { "<3>" } else { "" };
            eprintln!("{priority}smbdirectd: {message}");
            code.into()
        }
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    let (settings, found) = options.settings()?;
    let filter = log::filter(&settings.log).map_err(Failure::Config)?;
    if options.check_config {
        let written = io::stdout().write_all(settings.to_toml().as_bytes());
        for address in settings.broker.missing_addresses() {
            eprintln!("smbdirectd: {}", prepare::waits_for(address));
        }
        if settings.broker.lacks_status_group() {
            let group = &settings.broker.status_group;
            eprintln!("smbdirectd: {}", prepare::lacks_group(group));
        }
        return written.map_err(|error| Failure::Failed(format!("standard output: {error}")));
    }
    let log = log::start(filter, settings.log_format);
    let reload = reload::Reload::new(options, (settings.clone(), found), log);
    serve::serve(settings, reload).map_err(Failure::Failed)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_completions_have_all_options() {
        completions::check(Options::command());
    }
}
