// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks the filter, from a configuration file or a command line, that decides what is logged.
//!
//! `tracing_subscriber::EnvFilter`, which parses the result, takes every word that is not a level for the name of a
//! module, so a program with `log = "verbose"` would log nothing at all. Therefore this module checks the words first.
//! It also accepts the levels of syslog.

use super::suggest::nearest;

/// The form of the lines of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people.
    #[default]
    Text,
    /// JSON for programs, with an object in each line.
    Json,
}

/// Levels as users write them, each with the filter's name for it.
const LEVELS: [(&str, &str); 16] = [
    ("error", "error"),
    ("warn", "warn"),
    ("info", "info"),
    ("debug", "debug"),
    ("trace", "trace"),
    ("off", "off"),
    ("emerg", "error"),
    ("alert", "error"),
    ("crit", "error"),
    ("critical", "error"),
    ("err", "error"),
    ("warning", "warn"),
    ("notice", "info"),
    ("information", "info"),
    ("informational", "info"),
    ("none", "off"),
];

/// The names of programs, and of the modules of the library.
const MODULES: [&str; 16] = [
    "smbdirect",
    "smbdirectd",
    "smbdirectctl",
    "smbdirect::bridge",
    "smbdirect::broker",
    "smbdirect::client",
    "smbdirect::device",
    "smbdirect::engine",
    "smbdirect::fabric",
    "smbdirect::ffi",
    "smbdirect::proto",
    "smbdirect::shm",
    "smbdirect::sys",
    "smbdirect::transport",
    "smbdirect::units",
    "smbdirect::wire",
];

/// The allowed values, for errors.
const ALLOWED: &str = "a level, such as info (error, warn, info, debug, trace, off), or levels of modules, such as \
                       info,smbdirect::broker=debug";

/// Returns the text of a filter for `tracing_subscriber::EnvFilter`.
///
/// # Errors
///
/// The error says what is allowed, and suggests what may have been meant.
pub fn log_filter(text: &str) -> Result<String, String> {
    // Spans and their fields are in the filter's own syntax, which the filter checks.
    if text.contains('[') {
        return Ok(text.to_owned());
    }
    let directives: Result<Vec<String>, String> = text.split(',').map(directive).collect();
    Ok(directives?.join(","))
}

fn directive(text: &str) -> Result<String, String> {
    let text = text.trim();
    match text.split_once('=') {
        Some((module, word)) => {
            let module = known_module(module.trim())
                .ok_or_else(|| refused(module.trim(), MODULES.as_slice()))?;
            let level = level(word.trim()).ok_or_else(|| refused(word.trim(), &words()))?;
            Ok(format!("{module}={level}"))
        }
        None => {
            let known = level(text).or_else(|| known_module(text));
            let all = || [words().as_slice(), MODULES.as_slice()].concat();
            known
                .map(str::to_owned)
                .ok_or_else(|| refused(text, &all()))
        }
    }
}

fn words() -> Vec<&'static str> {
    LEVELS.iter().map(|(word, _)| *word).collect()
}

fn level(text: &str) -> Option<&'static str> {
    let word = text.to_ascii_lowercase();
    let known = LEVELS.iter().find(|(name, _)| *name == word);
    known.map(|(_, level)| *level)
}

/// Returns `text` if it names a program, a module of the library, or a module within one of these.
fn known_module(text: &str) -> Option<&str> {
    let mut parts = text.splitn(3, "::");
    let (root, module) = (parts.next()?, parts.next());
    let name = match (root, module) {
        ("smbdirect", Some(module)) => format!("{root}::{module}"),
        _ => root.to_owned(),
    };
    MODULES.contains(&name.as_str()).then_some(text)
}

fn refused(text: &str, known: &[&str]) -> String {
    match nearest(text, known) {
        Some(meant) => format!("{ALLOWED}: did you mean \"{meant}\"?"),
        None => ALLOWED.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_of_syslog_too() {
        for (text, filter) in [
            ("info", "info"),
            ("warning", "warn"),
            ("Err", "error"),
            ("notice", "info"),
            ("off", "off"),
            (
                "warning, smbdirect::broker = debug",
                "warn,smbdirect::broker=debug",
            ),
            ("smbdirectd=info", "smbdirectd=info"),
            (
                "smbdirect::broker::reactor=trace",
                "smbdirect::broker::reactor=trace",
            ),
            ("info,smbdirectctl", "info,smbdirectctl"),
            ("[span{field=1}]=debug", "[span{field=1}]=debug"),
        ] {
            assert_eq!(log_filter(text).as_deref(), Ok(filter), "{text}");
        }
    }

    #[test]
    fn a_word_that_means_nothing_is_refused_with_what_was_meant() {
        for (text, meant) in [
            ("wern", Some("warn")),
            ("debugg", Some("debug")),
            ("info,smbdirct=debug", Some("smbdirect")),
            ("smbdirect::brokr=debug", Some("smbdirect::broker")),
            ("info,smbdirect=wran", Some("warn")),
            ("verbose", None),
            ("nonsense=nonsense", None),
            ("", None),
            ("info,", None),
            ("info,smbdirect==debug", Some("debug")),
        ] {
            let error = log_filter(text).unwrap_err();
            assert!(error.contains("such as info"), "{text}: {error}");
            match meant {
                Some(meant) => assert!(
                    error.ends_with(&format!("did you mean \"{meant}\"?")),
                    "{text}: {error}"
                ),
                None => assert!(!error.contains("did you mean"), "{text}: {error}"),
            }
        }
    }

    #[test]
    fn knows_the_modules_of_the_library() {
        let library = include_str!("../lib.rs");
        let modules = library
            .lines()
            .filter_map(|line| line.strip_prefix("pub mod "));
        for module in modules.map(|rest| rest.trim_end_matches(';')) {
            let name = format!("smbdirect::{module}");
            assert!(MODULES.contains(&name.as_str()), "{name}");
        }
    }
}
