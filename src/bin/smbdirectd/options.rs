// SPDX-License-Identifier: GPL-2.0-or-later

//! The command line, and what it and the configuration file make together.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgAction, Parser};
use smbdirect::broker::{Listen, Settings};
use smbdirect::fabric::FabricChoice;

use super::Failure;

#[cfg(test)]
mod tests;

/// The configuration file where `--config` names no other; it may be missing.
pub(crate) const DEFAULT_FILE: &str = "/etc/smbdirect/smbdirectd.toml";

/// The smbdirect device: takes SMB Direct connections and gives them to smbd
#[derive(Debug, Default, Parser)]
#[command(name = "smbdirectd", version, max_term_width = 100)]
#[command(after_help = "Options go before what the configuration file says. See smbdirectd(8).")]
pub(crate) struct Options {
    /// Reads this configuration file [default: /etc/smbdirect/smbdirectd.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accepts SMB Direct here, port 5445 where none is named; may be given more than once
    #[arg(long, value_name = "ADDRESS", value_parser = Listen::from_str)]
    listen: Vec<Listen>,
    /// Who serves addresses that do not say it in the configuration file: software, verbs (RDMA devices),
    /// or auto: RDMA devices those that they have, software the others
    #[arg(long, value_name = "FABRIC", value_parser = FabricChoice::from_str)]
    fabric: Option<FabricChoice>,
    /// Path of the control socket
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Number of reactor threads, which carry the connections
    #[arg(long, value_name = "COUNT")]
    reactors: Option<usize>,
    /// What to log: a level (error, warn, info, debug, trace), or levels of modules
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Asks iWARP peers for CRCs
    #[arg(long, overrides_with_all = ["crc", "no_crc"])]
    crc: bool,
    /// Uses CRCs with iWARP only where the peer asks for them
    #[arg(long, overrides_with_all = ["crc", "no_crc"])]
    no_crc: bool,
    /// Prints the configuration as it would be used, checks it, and ends
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) check_config: bool,
}

impl Options {
    /// What the daemon is to do.
    ///
    /// # Errors
    ///
    /// What is wrong, and where, for people.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let (path, may_be_missing) = match &self.config {
            Some(path) => (path.as_path(), false),
            None => (Path::new(DEFAULT_FILE), true),
        };
        let text = match fs::read_to_string(path) {
            Err(error) if may_be_missing && error.kind() == ErrorKind::NotFound => String::new(),
            result => result.map_err(|error| format!("{}: {error}", path.display()))?,
        };
        let file = Settings::parse(&text);
        let mut settings =
            file.map_err(|error| Failure::Config(format!("{}: {error}", path.display())))?;
        self.override_in(&mut settings);
        // The file was legal by itself: what is wrong now came from here.
        settings.validate().map_err(|error| {
            let options = ["listen", "fabric", "control", "reactors", "log"];
            let is_option = options.contains(&error.key.as_str());
            Failure::Config(format!("{}{error}", if is_option { "--" } else { "" }))
        })?;
        Ok(settings)
    }

    fn override_in(&self, settings: &mut Settings) {
        let broker = &mut settings.broker;
        if !self.listen.is_empty() {
            broker.listen.clone_from(&self.listen);
        }
        if let Some(FabricChoice(fabric)) = self.fabric {
            broker.fabric = fabric;
        }
        if let Some(control) = &self.control {
            broker.control.clone_from(control);
        }
        if let Some(reactors) = self.reactors {
            broker.reactors = reactors;
        }
        if let Some(log) = &self.log {
            settings.log.clone_from(log);
        }
        if self.crc || self.no_crc {
            settings.crc = self.crc;
        }
    }
}
