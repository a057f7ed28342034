//! `smbdirectd`: the smbdirect device in user space. See smbdirectd(8).

mod log;
mod options;
mod prepare;
mod serve;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use options::Options;

/// Exit status: the configuration is wrong, or the device could not start, or failed.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // In the journal it is an error, too.
            let priority = if log::is_journal() { "<3>" } else { "" };
            eprintln!("{priority}smbdirectd: {message}");
            FAILED.into()
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let settings = options.settings()?;
    let filter = log::filter(&settings.log)?;
    if options.check_config {
        let written = io::stdout().write_all(settings.to_toml().as_bytes());
        for address in settings.broker.missing_addresses() {
            eprintln!("smbdirectd: {}", prepare::waits_for(address));
        }
        return written.map_err(|error| format!("standard output: {error}"));
    }
    log::start(filter, settings.log_format);
    serve::serve(settings)
}
