// SPDX-License-Identifier: GPL-2.0-or-later

//! The state that all threads of a broker share.
//!
//! One mutex protects the registry, and another the events; each mutex is held for one look-up, change or copy, and
//! never across a system call or while a text is made. The same holds for the lock of the configuration.

use std::ops::DerefMut;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use super::config::Config;
use super::events::{self, KeptEvents, Rings, What};
use super::kinds_of_reactors;
use super::process::Process;
use crate::device::abi::Token;
use crate::engine::memory::{Account, Reserve};
use crate::engine::registry::Registry;
use crate::engine::shard::{Host, Rules};
use crate::fabric::FabricKind;
use crate::units::Instant;

/// The state that all threads of a broker share.
#[derive(Debug)]
pub(super) struct Shared {
    /// The configuration, which a reload replaces.
    config: RwLock<Arc<Config>>,
    /// The account for the memory of all workers.
    pub(super) memory: Arc<Account>,
    /// The part of the memory of all workers that is kept for workers that wait.
    pub(super) reserve: Reserve,
    /// The fabric of each reactor. A reload makes and ends none, whatever it listens on.
    pub(super) reactors: Vec<FabricKind>,
    start: std::time::Instant,
    /// The clock when this broker started: what it was when an earlier broker stood still.
    before: Duration,
    start_time: SystemTime,
    registry: Mutex<Registry<Arc<Process>>>,
    events: Mutex<Rings>,
}

impl Shared {
    /// Makes the state of a broker whose clock shows `now`: where the clock of an earlier broker stood still, or the
    /// start of the clock.
    pub(super) fn new(config: Config, now: Instant) -> Self {
        let before = now.saturating_since(Instant::ZERO);
        let start_time = SystemTime::now();
        let start_time = start_time.checked_sub(before).unwrap_or(start_time);
        Self {
            memory: Account::new(config.memory_limit),
            reserve: config.reserve(),
            reactors: kinds_of_reactors(&config),
            registry: Mutex::new(Registry::new(config.limits())),
            events: Mutex::new(Rings::new(seconds(start_time))),
            config: RwLock::new(Arc::new(config)),
            start: std::time::Instant::now(),
            before,
            start_time,
        }
    }

    /// Returns the configuration in effect.
    pub(super) fn config(&self) -> Arc<Config> {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&config)
    }

    /// Puts another configuration into effect, for everything that reads it from now on.
    pub(super) fn set_config(&self, config: Config) {
        self.memory.set_limit(config.memory_limit);
        let mut current = self.config.write().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(config);
    }

    /// Returns the time since the broker started, by the clock of all its threads. If it continues where an earlier
    /// broker stood still, this is the time for which both of them ran.
    pub(super) fn now(&self) -> Instant {
        Instant::ZERO + self.before + self.start.elapsed()
    }

    /// Returns the time at which the broker started, in seconds since 1970. If it continues where an earlier broker
    /// stood still, this is the start of the earlier one, and the time of the standstill later.
    pub(super) fn start_time_seconds(&self) -> Option<f64> {
        seconds(self.start_time)
    }

    /// Returns the registry. The guard must not be held across anything that waits.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry<Arc<Process>>> {
        // The registry's methods do not panic, so they leave nothing half done.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event for processes that ask for events.
    pub(super) fn record(&self, what: What) {
        self.events().add(what);
    }

    /// Returns the events after the one with this number, as JSON.
    pub(super) fn events_json(&self, after: u64) -> serde_json::Result<Vec<u8>> {
        let rings = self.events();
        let (began, events) = (rings.began(), rings.after(after));
        // The events are not locked while the text is written.
        drop(rings);
        events::to_json(began, &events)
    }

    /// Returns the events, to pass them on.
    pub(super) fn keep_events(&self) -> KeptEvents {
        self.events().keep()
    }

    /// Continues with the events of an earlier broker.
    pub(super) fn adopt_events(&self, kept: KeptEvents) {
        self.events().adopt(kept);
    }

    fn events(&self) -> MutexGuard<'_, Rings> {
        // The rings are consistent after each step of their methods.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the rules for shards.
    pub(super) fn rules(&self) -> Rules {
        let config = self.config();
        let send = &config.memory.send;
        Rules {
            first_request_timeout: config.first_request_timeout,
            login_timeout: config.login_timeout,
            claim_timeout: config.claim_timeout,
            memory_idle_timeout: config.memory_idle_timeout,
            queue_depth: config.queue_depth,
            longest_send: send.unit_length.saturating_mul(send.longest_run),
            memory: Arc::clone(&self.memory),
        }
    }

    /// Warns, once in a while, that clients or processes have reached a limit.
    pub(super) fn limit_met(&self, key: &'static str, limit: usize, (times, what): (u64, &str)) {
        let met = self.registry().warnings.met(key, times, self.now());
        if let Some(times) = met {
            tracing::warn!(times, "{key} = {limit} was reached: {what}");
            self.record(What::LimitMet {
                key: key.into(),
                limit: limit as u64,
                times,
                words: what.to_owned(),
            });
        }
    }
}

/// Returns a time as seconds since 1970, or `None` if the machine's clock was before 1970. It is a whole number of
/// milliseconds: readers of JSON, who tell a restart by this time, may not read more digits exactly.
fn seconds(time: SystemTime) -> Option<f64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.ok().map(|since| since.as_millis() as f64 / 1e3)
}

impl Host for Arc<Shared> {
    type Worker = Arc<Process>;

    fn registry(&self) -> impl DerefMut<Target = Registry<Arc<Process>>> {
        Shared::registry(self)
    }

    fn token(&self) -> Option<Token> {
        let mut token = Token::default();
        getrandom::fill(&mut token).ok()?;
        Some(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_without_addresses_of_a_fabric_changes_no_reactor() {
        let config = Config {
            reactors: 3,
            ..Config::default()
        };
        let shared = Shared::new(config, Instant::ZERO);
        shared.set_config(Config {
            listen: Vec::new(),
            ..(*shared.config()).clone()
        });
        assert_eq!(shared.reactors, [FabricKind::Software; 3]);
    }
}
