// SPDX-License-Identifier: GPL-2.0-or-later

//! Reads the configuration again while the device runs, and says what has changed and what needs a restart.
//!
//! A wrong file changes nothing. The log names the mistake, and so does the status that the service manager shows.

use sd_notify::NotifyState;
use smbdirect::broker::{Broker, Plan, Problem, Settings};
use tracing::{Level, enabled, error, info, warn};

use super::file::Found;
use super::log::{Change, filter};
use super::options::Options;
use super::serve::{fabric_config, not_started, notify, whereabouts};
use super::{Failure, prepare};

/// What is needed to reload the configuration.
pub(crate) struct Reload<'a> {
    options: &'a Options,
    /// The settings in effect, as the file and the command line had them.
    settings: Settings,
    /// What the settings are from.
    found: Found,
    change_log: Change,
    /// What the service manager shows besides the addresses.
    note: Option<String>,
}

impl<'a> Reload<'a> {
    pub(crate) fn new(
        options: &'a Options,
        (settings, found): (Settings, Found),
        change_log: Change,
    ) -> Self {
        Self {
            options,
            settings,
            found,
            change_log,
            note: None,
        }
    }

    /// Reloads the configuration, and tells the service manager about it. Returns the text that the service manager now
    /// shows.
    pub(crate) fn run(&mut self, broker: &mut Broker) -> String {
        // The service manager compares the time with that of its request.
        let now = NotifyState::monotonic_usec_now();
        let states: Vec<NotifyState<'_>> =
            [NotifyState::Reloading].into_iter().chain(now).collect();
        notify(&states);
        self.note = match self.reload(broker) {
            Ok(note) => note,
            Err(Failure::Config(why) | Failure::Failed(why)) => {
                error!("not reloaded, and nothing has changed: {why}");
                Some(format!(
                    "the new configuration is wrong, and was not loaded: {why}"
                ))
            }
        };
        let status = broker.status();
        let missing = status.map_or_else(|_| Vec::new(), |status| status.missing);
        let said = self.note(whereabouts(&broker.addresses(), &missing));
        notify(&[NotifyState::Ready, NotifyState::Status(&said)]);
        said
    }

    /// Adds to the text for the service manager what the last reload could not do.
    pub(crate) fn note(&self, said: String) -> String {
        match &self.note {
            // The text ends at the end of the line.
            Some(note) => format!("{said}; {}", note.replace('\n', " ")),
            None => said,
        }
    }

    /// Returns what could not be done, if there was anything.
    fn reload(&mut self, broker: &mut Broker) -> Result<Option<String>, Failure> {
        let (wanted, found) = self.options.settings_again(self.found)?;
        filter(&wanted.log).map_err(Failure::Config)?;
        let plan = Plan::new(&self.settings, &wanted);
        let mut settings = plan.settings().clone();
        let reloaded = broker.reload(&plan, fabric_config(&settings), &mut prepare::address);
        for problem in &reloaded.problems {
            let (old, new) = (&self.settings.broker, &mut settings.broker);
            match problem {
                // The next reload tries again.
                Problem::Listen { entry, .. } => {
                    new.listen.retain(|listen| listen.address != *entry)
                }
                Problem::Metrics(_) => new.metrics = old.metrics,
                Problem::StatusGroup(_) => new.status_group.clone_from(&old.status_group),
                Problem::Busy => {}
            }
        }
        let failed = |key: &str| {
            let mut problems = reloaded.problems.iter();
            problems.any(|problem| problem.key() == Some(key))
        };
        let changes = plan.changes().iter();
        let changes = changes.filter(|change| !failed(&change.key));
        let mut lines: Vec<String> = changes.map(ToString::to_string).collect();
        lines.extend(reloaded.addresses);
        let refusals: Vec<String> = plan.refusals().iter().map(ToString::to_string).collect();
        let problems: Vec<String> = reloaded.problems.iter().map(words).collect();
        let say = || {
            match (lines.is_empty(), refusals.is_empty() && problems.is_empty()) {
                (true, true) => info!("reloaded: the configuration is as before"),
                (true, false) => info!("reloaded: nothing has changed"),
                (false, _) => info!("reloaded"),
            }
            lines.iter().for_each(|line| info!("{line}"));
            refusals.iter().for_each(|line| warn!("{line}"));
            problems.iter().for_each(|line| error!("{line}"));
        };
        // The lines are logged by the old filter or by the new one, whichever lets them through.
        let is_said = enabled!(Level::INFO);
        if is_said {
            say();
        }
        if (&settings.log, settings.log_format) != (&self.settings.log, self.settings.log_format) {
            let filter = filter(&settings.log).map_err(Failure::Config)?;
            (self.change_log)(filter, settings.log_format);
        }
        if !is_said {
            say();
        }
        if settings.broker != self.settings.broker {
            prepare::descriptors(&settings.broker);
        }
        (self.settings, self.found) = (settings, found);
        let all = [refusals, problems].concat();
        Ok((!all.is_empty()).then(|| all.join("; ")))
    }
}

/// Returns the words for a problem, with the cure.
fn words(problem: &Problem) -> String {
    match problem {
        Problem::StatusGroup(error) => not_started(error),
        problem => problem.to_string(),
    }
}
