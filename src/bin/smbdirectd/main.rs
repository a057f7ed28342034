//! `smbdirectd`: the smbdirect device in user space. See smbdirectd(8).

mod log;
mod options;
mod prepare;

use std::process::ExitCode;

use clap::Parser;
use options::Options;
use smbdirect::broker::Settings;

/// Exit status: the configuration is wrong, or the device could not start, or failed.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("smbdirectd: {message}");
            FAILED.into()
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let settings = options.settings()?;
    let filter = log::filter(&settings.log)?;
    if options.check_config {
        print!("{}", settings.to_toml());
        return Ok(());
    }
    log::start(filter);
    serve(settings)
}

fn serve(mut settings: Settings) -> Result<(), String> {
    prepare::descriptors(&settings.broker);
    prepare::addresses(&mut settings.broker)?;
    prepare::control_directory(&settings.broker.control)?;
    Err("there is no broker yet".to_owned())
}
