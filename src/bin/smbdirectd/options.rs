// SPDX-License-Identifier: GPL-2.0-or-later

//! The command line, and the settings that result from it and the configuration file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{ArgAction, Parser};
use smbdirect::broker::{Listen, Settings};
use smbdirect::fabric::FabricChoice;

use super::file::{ConfigFile, Found};
use super::{Failure, prepare};

#[cfg(test)]
mod tests;

/// The configuration file unless `--config` names another; it may be missing.
pub(crate) const DEFAULT_FILE: &str = "/etc/smbdirect/smbdirectd.toml";

/// The smbdirect device: accepts SMB Direct connections and hands them to smbd
#[derive(Debug, Default, Parser)]
#[command(name = "smbdirectd", version, max_term_width = 100)]
#[command(after_help = "Options override the configuration file. See smbdirectd(8).")]
pub(crate) struct Options {
    /// Read this configuration file [default: /etc/smbdirect/smbdirectd.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Accept SMB Direct on this address, port 5445 unless it names one; may be given more than once
    #[arg(long, value_name = "ADDRESS", value_parser = Listen::from_str)]
    listen: Vec<Listen>,
    /// Fabric of addresses that have none in the configuration file: software, verbs (RDMA devices), or auto: the RDMA
    /// device that an address belongs to, otherwise software
    #[arg(long, value_name = "FABRIC", value_parser = FabricChoice::from_str)]
    fabric: Option<FabricChoice>,
    /// Path of the control socket
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Number of reactor threads, which carry the connections
    #[arg(long, value_name = "COUNT")]
    reactors: Option<usize>,
    /// What to log: a level (error, warn, info, debug, trace), or levels for modules
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Ask iWARP peers for CRCs
    #[arg(long, overrides_with_all = ["crc", "no_crc"])]
    crc: bool,
    /// Use CRCs with iWARP only if the peer asks for them
    #[arg(long, overrides_with_all = ["crc", "no_crc"])]
    no_crc: bool,
    /// Print the configuration as it would be used, check it, and exit
    #[arg(long, action = ArgAction::SetTrue)]
    pub(crate) check_config: bool,
}

impl Options {
    /// Returns the settings for a daemon that starts, and what they are from.
    ///
    /// # Errors
    ///
    /// The error says what is wrong and where, as a message for people.
    pub(crate) fn settings(&self) -> Result<(Settings, Found), Failure> {
        self.complete(self.file().read()?)
    }

    /// Returns the settings for a daemon that runs; `before` is what its settings are from.
    ///
    /// # Errors
    ///
    /// Those of [`settings`](Self::settings), and of [`ConfigFile::read_again`].
    pub(crate) fn settings_again(&self, before: Found) -> Result<(Settings, Found), Failure> {
        self.complete(self.file().read_again(before)?)
    }

    fn complete(
        &self,
        (mut settings, found): (Settings, Found),
    ) -> Result<(Settings, Found), Failure> {
        self.override_in(&mut settings);
        // The file was valid by itself, so the mistake is in an option.
        settings.validate().map_err(|error| {
            let options = ["listen", "fabric", "control", "reactors", "log"];
            let is_option = options.contains(&error.key.as_str());
            Failure::Config(format!("{}{error}", if is_option { "--" } else { "" }))
        })?;
        prepare::metrics_directory(&settings.broker).map_err(|why| self.file().wrong(why))?;
        Ok((settings, found))
    }

    fn file(&self) -> ConfigFile<'_> {
        let path = self.config.as_deref();
        ConfigFile {
            path: path.unwrap_or_else(|| Path::new(DEFAULT_FILE)),
            may_be_missing: path.is_none(),
        }
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
