// SPDX-License-Identifier: GPL-2.0-or-later

//! Which keys of the configuration can change while the broker runs, and what a changed file changes.
//!
//! [`KEYS`] is the only place that says when a change takes effect. The manual, smbdirectd.toml(5), says the same of
//! each key, and tests compare both with the keys that a configuration file may have. A [`Plan`] compares two
//! configurations key by key, and has the configuration that is in effect after the reload: the new one, but with the
//! old values of those keys that need a restart. [`Broker::reload`](super::Broker::reload) carries it out.
//!
//! A reload ends no connection: lower limits count for newcomers, and an address that is removed keeps its connections.

mod apply;
mod listening;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use toml::{Table, Value};

pub use self::apply::{Problem, Reloaded};
pub(super) use self::listening::Listening;
use super::config::Listen;
use super::settings::{Settings, SettingsError};
use crate::fabric::FabricChoice;

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At once: for everything that begins after the reload, on connections that exist as well.
    AtOnce,
    /// For connections, and processes of smbd, that begin after the reload. What exists keeps the old value.
    NewConnections,
    /// After a restart.
    AtRestart,
}

impl Applies {
    /// Returns the words of the manual: `at once`, `new connections`, `needs a restart`.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::AtOnce => "at once",
            Self::NewConnections => "new connections",
            Self::AtRestart => "needs a restart",
        }
    }
}

use Applies::{AtOnce, AtRestart, NewConnections};

/// Says for each key of the configuration when a change takes effect.
pub const KEYS: &[(&str, Applies)] = &[
    ("log", AtOnce),
    ("log_format", AtOnce),
    // The fabric of an address that is served already needs a restart.
    ("listen", AtOnce),
    ("fabric", AtRestart),
    ("control", AtRestart),
    ("status_group", AtOnce),
    // Each reactor is a thread with its own listeners, and each process has shared a queue with some of them.
    ("reactors", AtRestart),
    ("busy_poll", AtOnce),
    ("max_connections", AtOnce),
    ("max_unnegotiated", AtOnce),
    ("max_unnegotiated_per_source", AtOnce),
    ("max_unauthenticated", AtOnce),
    ("max_undispatched", AtOnce),
    ("gateways", AtOnce),
    ("max_workers", AtOnce),
    ("max_sessions", AtOnce),
    ("memory_limit", AtOnce),
    ("memory_idle_timeout", AtOnce),
    ("first_request_timeout", AtOnce),
    ("login_timeout", AtOnce),
    ("claim_timeout", AtOnce),
    ("progress_timeout", NewConnections),
    // A process learns the length of its rings when it attaches.
    ("queue_depth", AtRestart),
    ("drain_timeout", AtOnce),
    ("metrics.listen", AtOnce),
    ("metrics.socket", AtRestart),
    ("iwarp.crc", NewConnections),
    ("acceptor.receive_credit_max", NewConnections),
    ("acceptor.send_credit_target", NewConnections),
    ("acceptor.max_send_size", NewConnections),
    ("acceptor.max_receive_size", NewConnections),
    ("acceptor.max_fragmented_size", NewConnections),
    ("acceptor.max_read_write_size", NewConnections),
    ("acceptor.negotiation_timeout", NewConnections),
    ("acceptor.idle_timeout", NewConnections),
    ("acceptor.keepalive_timeout", NewConnections),
    ("acceptor.credit_timeout", NewConnections),
    ("acceptor.message_timeout", NewConnections),
    // A process learns its limit and the shapes of its memory when it attaches. The limit is one process's own, but the
    // reactors and the processes share what depends on the shapes.
    ("memory.limit", NewConnections),
    ("memory.send.unit_length", AtRestart),
    ("memory.send.units_per_segment", AtRestart),
    ("memory.send.longest_run", AtRestart),
    ("memory.send.max_segments", AtRestart),
    ("memory.bulk.unit_length", AtRestart),
    ("memory.bulk.units_per_segment", AtRestart),
    ("memory.bulk.longest_run", AtRestart),
    ("memory.bulk.max_segments", AtRestart),
    ("memory.receive.unit_length", AtRestart),
    ("memory.receive.units_per_segment", AtRestart),
    ("memory.receive.longest_run", AtRestart),
    ("memory.receive.max_segments", AtRestart),
];

/// Returns when a change of a key takes effect. A key that is not in the table counts as one that needs a restart.
fn applies(key: &str) -> Applies {
    let found = KEYS.iter().find(|(name, _)| *name == key);
    found.map_or(AtRestart, |(_, applies)| *applies)
}

/// A key that a reload changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, as in the configuration file: `acceptor.idle_timeout`.
    pub key: String,
    /// Its old value.
    pub before: String,
    /// Its new value.
    pub after: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, before, after } = self;
        write!(f, "{key}: {before} -> {after}")?;
        match applies(key) {
            NewConnections => f.write_str(", for new connections"),
            AtOnce | AtRestart => Ok(()),
        }
    }
}

/// A key that differs in the new file, and keeps its value until a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The key, as in the configuration file, or the part of one that cannot change: `fabric of 10.0.0.1:5445`.
    pub key: String,
    /// The value in the file.
    pub wanted: String,
    /// The value that stays in effect.
    pub stays: String,
    /// The reason, if the key could change to other values.
    pub why: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, wanted, stays) = (&self.key, &self.wanted, &self.stays);
        write!(
            f,
            "{key} = {wanted} needs a restart; {stays} stays in effect"
        )?;
        match &self.why {
            Some(why) => write!(f, " ({why})"),
            None => Ok(()),
        }
    }
}

/// What a reload changes. All values of [`settings`](Self::settings) are valid together, and none of them differs from
/// the old one if a change needs a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    before: Settings,
    settings: Settings,
    changes: Vec<Change>,
    refusals: Vec<Refusal>,
}

impl Plan {
    /// Compares the settings in effect with those that a file asks for; both are valid.
    #[must_use]
    pub fn new(before: &Settings, wanted: &Settings) -> Self {
        let mut wanted = wanted.clone();
        let mut refusals = keep_fabrics(&before.broker.listen, &mut wanted.broker.listen);
        let (old, new) = (table(before), table(&wanted));
        let (values, asked) = (flat(&old), flat(&new));
        let differ = KEYS.iter().map(|(key, _)| *key);
        let differ = differ.filter(|key| values.get(*key) != asked.get(*key));
        let (fixed, open): (Vec<&str>, Vec<&str>) =
            differ.partition(|key| applies(key) == AtRestart);
        let shown = |of: &BTreeMap<String, &Value>, key: &str| {
            of.get(key).map_or_else(String::new, |it| text(it))
        };
        let refusal = |key: &str, why: Option<String>| Refusal {
            key: key.to_owned(),
            wanted: shown(&asked, key),
            stays: shown(&values, key),
            why,
        };
        refusals.extend(fixed.into_iter().map(|key| refusal(key, None)));
        let (settings, changed, invalid) = take(before, &old, &new, open);
        let invalid = invalid.into_iter();
        refusals.extend(invalid.map(|(key, error)| refusal(key, Some(reason(error)))));
        let changes = changed.into_iter().map(|key| Change {
            key: key.to_owned(),
            before: shown(&values, key),
            after: shown(&asked, key),
        });
        // The broker says which addresses it has added and removed.
        let changes = changes.filter(|change| change.key != "listen").collect();
        Self {
            before: before.clone(),
            settings,
            changes,
            refusals,
        }
    }

    /// Returns the settings before the reload.
    #[must_use]
    pub const fn before(&self) -> &Settings {
        &self.before
    }

    /// Returns the settings after the reload.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the keys that change, except for `listen`.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Returns the keys that do not change although the file asks for that.
    #[must_use]
    pub fn refusals(&self) -> &[Refusal] {
        &self.refusals
    }
}

/// Takes over the values of these keys: all of them or, if they are not valid together with the values that stay, those
/// that are. Returns the settings, the keys that they take from `new`, and the others with the reason.
fn take<'a>(
    before: &Settings,
    old: &Table,
    new: &Table,
    keys: Vec<&'a str>,
) -> (Settings, Vec<&'a str>, Vec<(&'a str, SettingsError)>) {
    if let Ok(settings) = with(old, new, &keys) {
        return (settings, keys, Vec::new());
    }
    let (mut settings, mut taken, mut left) = (before.clone(), Vec::new(), keys);
    loop {
        let (count, mut invalid) = (taken.len(), Vec::new());
        for key in left {
            taken.push(key);
            match with(old, new, &taken) {
                Ok(valid) => settings = valid,
                Err(error) => {
                    taken.pop();
                    invalid.push((key, error));
                }
            }
        }
        // A key may have become valid because of a later one.
        if taken.len() == count || invalid.is_empty() {
            return (settings, taken, invalid);
        }
        left = invalid.into_iter().map(|(key, _)| key).collect();
    }
}

/// Returns the error in words, without a line: the text that was parsed is not the administrator's file.
fn reason(error: SettingsError) -> String {
    match error {
        SettingsError::OutOfRange { error, .. } | SettingsError::Default(error) => {
            error.to_string()
        }
        SettingsError::Syntax { message, .. } => message,
        // These are about files alone.
        error @ (SettingsError::TooLong | SettingsError::NotText { .. }) => error.to_string(),
    }
}

/// Returns the settings of `old` with the values of these keys from `new`.
fn with(old: &Table, new: &Table, keys: &[&str]) -> Result<Settings, SettingsError> {
    let mut table = old.clone();
    for key in keys {
        if let Some(value) = find(new, key) {
            set(&mut table, key, value.clone());
        }
    }
    Settings::parse(&table.to_string())
}

/// Gives the addresses of `wanted` that are in `before`, too, the fabric that they have there.
fn keep_fabrics(before: &[Listen], wanted: &mut [Listen]) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    for listen in wanted {
        let mut old = before.iter();
        let old = old.find(|old| old.address == listen.address && old.address.port() != 0);
        let Some(old) = old.filter(|old| old.fabric != listen.fabric) else {
            continue;
        };
        refusals.push(Refusal {
            key: format!("fabric of {}", listen.address),
            wanted: FabricChoice(listen.fabric).to_string(),
            stays: FabricChoice(old.fabric).to_string(),
            why: None,
        });
        listen.fabric = old.fabric;
    }
    refusals
}

fn table(settings: &Settings) -> Table {
    // What `to_toml` writes is TOML.
    settings.to_toml().parse().unwrap_or_default()
}

/// Returns the values of all keys, with the names of their tables: `memory.bulk.longest_run`.
fn flat(table: &Table) -> BTreeMap<String, &Value> {
    let mut values = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                let inner = flat(inner).into_iter();
                values.extend(inner.map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            value => {
                values.insert(key.clone(), value);
            }
        }
    }
    values
}

fn find<'a>(table: &'a Table, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        Some((outer, rest)) => find(table.get(outer)?.as_table()?, rest),
        None => table.get(key),
    }
}

fn set(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((outer, rest)) => {
            if let Some(Value::Table(inner)) = table.get_mut(outer) {
                set(inner, rest, value);
            }
        }
        None => {
            table.insert(key.to_owned(), value);
        }
    }
}

/// Returns a value for people: texts without quotes, unless they are empty.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) if !text.is_empty() => text.clone(),
        value => value.to_string(),
    }
}
