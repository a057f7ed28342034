// SPDX-License-Identifier: GPL-2.0-or-later

//! Carries out a [`Plan`] on a running broker.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crossbeam_channel::bounded;

use super::Plan;
use super::listening::{Difference, Listening, difference, overlap};
use crate::broker::config::{Config, Listen, PORT};
use crate::broker::control::{Message, Reload, ToReactor};
use crate::broker::placement::{SMB_PORT, place_entry};
use crate::broker::quantity::Speed;
use crate::broker::reactor::Command;
use crate::broker::{Broker, STATUS_TIMEOUT, StartError, group_error, observers};
use crate::device;
use crate::fabric::{FabricKind, iwarp};

/// What a reload could not do. Everything else of its plan was done.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The broker does not accept SMB Direct on a new address of `listen`.
    #[error("listen: {entry} is not served: {why}")]
    Listen {
        /// The address, as in the configuration.
        entry: SocketAddr,
        /// What is wrong, and what helps.
        why: String,
    },
    /// The metrics are not served on the new address.
    #[error("{0}")]
    Metrics(String),
    /// The status socket cannot be given to the new group.
    #[error(transparent)]
    StatusGroup(StartError),
    /// The broker has ended, or is too busy to answer.
    #[error("the device is too busy to change its configuration now, and will do so when it can")]
    Busy,
}

impl Problem {
    /// Returns the key of the configuration that has its old value because of this problem.
    #[must_use]
    pub const fn key(&self) -> Option<&'static str> {
        match self {
            Self::Listen { .. } => Some("listen"),
            Self::Metrics(_) => Some("metrics.listen"),
            Self::StatusGroup(_) => Some("status_group"),
            Self::Busy => None,
        }
    }
}

/// What a reload did, besides the [changes](Plan::changes) of its plan.
#[derive(Debug, Default)]
pub struct Reloaded {
    /// What has changed for addresses, for people.
    pub addresses: Vec<String>,
    /// What could not be done.
    pub problems: Vec<Problem>,
}

/// Says whether the software fabric may listen on an address, and if not, why.
type MayListen<'a> = dyn FnMut(SocketAddr) -> Result<(), String> + 'a;

impl Broker {
    /// Puts the configuration of a plan into effect; the plan's [old](Plan::before) one has to be the current one. No
    /// connection ends. `fabric` is the new configuration of the fabrics; `may_listen` says whether the software fabric
    /// may listen on a new address, which it would otherwise share with another process of the same user.
    ///
    /// This waits until the broker uses the new configuration.
    pub fn reload(
        &mut self,
        plan: &Plan,
        fabric: iwarp::Config,
        may_listen: &mut MayListen<'_>,
    ) -> Reloaded {
        let (before, config) = (&plan.before().broker, &plan.settings().broker);
        let mut reloaded = Reloaded::default();
        self.drain_timeout = config.drain_timeout;
        if before.status_group != config.status_group {
            let problem = self.share_status(config).err().map(Problem::StatusGroup);
            reloaded.problems.extend(problem);
        }
        let problem = self
            .serve_metrics(config.metrics)
            .err()
            .map(Problem::Metrics);
        reloaded.problems.extend(problem);

        let entries = (&before.listen[..], &config.listen[..]);
        let mut difference = difference(&self.listening, entries, config.fabric);
        let by = Instant::now() + STATUS_TIMEOUT;
        self.begin_listening(&mut difference, config, (may_listen, by), &mut reloaded);
        let Difference { stay, end, .. } = difference;
        for now in &stay {
            let mut old = self.listening.iter();
            let old = old.find(|old| old.at.address == now.at.address);
            if old.is_some_and(|old| old.at.link_speed != now.at.link_speed) {
                let speed = now.at.link_speed.map(|speed| Speed(speed).to_string());
                let speed = speed.as_deref().unwrap_or("what the system reports");
                let address = now.at.address;
                let line = format!("listen: the link_speed of {address} is now {speed}");
                reloaded.addresses.push(line);
            }
        }
        self.listening = stay;
        for it in end {
            self.end_listening(&it);
            let address = it.at.address;
            let line = format!("listen: {address} removed; its connections stay");
            reloaded.addresses.push(line);
        }

        let listen: Vec<Listen> = self.listening.iter().map(|it| it.at).collect();
        let (sender, done) = bounded(1);
        self.control.send(Message::Reload(Box::new(Reload {
            config: Config {
                listen: listen.clone(),
                ..config.clone()
            },
            fabric,
            listen,
            done: sender,
        })));
        // The reactors answer for the status after they have got the configuration.
        let is_done = done.recv_deadline(by).is_ok() && self.status().is_ok();
        reloaded
            .problems
            .extend((!is_done).then_some(Problem::Busy));
        reloaded
    }

    /// Listens on the new addresses, and adds them to those that stay.
    fn begin_listening(
        &self,
        difference: &mut Difference,
        config: &Config,
        (may_listen, by): (&mut MayListen<'_>, Instant),
        reloaded: &mut Reloaded,
    ) {
        for entry in std::mem::take(&mut difference.begin) {
            let placed = match place_entry(&entry, config.fabric) {
                Ok(placed) => placed,
                Err(error) => {
                    reloaded.problems.push(Problem::Listen {
                        entry: entry.address,
                        why: error.to_string(),
                    });
                    continue;
                }
            };
            for listen in placed {
                let is_same = |it: &Listening| {
                    it.asked == listen.address
                        && it.at.fabric == listen.fabric
                        && listen.address.port() != 0
                };
                if difference.stay.iter().any(is_same) {
                    continue;
                }
                if let Some(same) = difference.end.iter().position(is_same) {
                    let mut same = difference.end.swap_remove(same);
                    same.at.link_speed = listen.link_speed;
                    difference.stay.push(same);
                    continue;
                }
                match self.listen_as_well(listen, (&mut *may_listen, by)) {
                    Ok(new) => {
                        let address = new.at.address;
                        reloaded.addresses.push(format!("listen: {address} added"));
                        difference.stay.push(new);
                    }
                    Err(why) => reloaded.problems.push(Problem::Listen {
                        entry: entry.address,
                        why,
                    }),
                }
            }
        }
    }

    /// Lets all reactors of a fabric listen on an address, or none of them.
    pub(super) fn listen_as_well(
        &self,
        listen: Listen,
        (may_listen, by): (&mut MayListen<'_>, Instant),
    ) -> Result<Listening, String> {
        let kind = listen.fabric.unwrap_or(FabricKind::Software);
        if self.reactors_of(kind).next().is_none() {
            return Err(format!(
                "smbdirectd makes the threads of the fabric \"{kind}\" only when it starts: restart it"
            ));
        }
        let asked = listen.address;
        let mut own = self.listening.iter();
        // The new listener may share a port with one of this broker.
        let is_ours = own.any(|own| overlap(own.at.address, asked));
        if kind == FabricKind::Software && !is_ours {
            may_listen(asked)?;
        }
        let mut at = listen;
        for reactor in self.reactors_of(kind) {
            let (sender, answer) = bounded(1);
            reactor.send(Command::Listen(at, sender));
            let real = match answer.recv_deadline(by) {
                Ok(real) => real.map_err(|error| error.to_string()),
                Err(_) => {
                    // Only the reactor will know which port stands for port 0.
                    reactor.send(Command::TakeBack(answer));
                    Err("the device is too busy to listen there: reload again".to_owned())
                }
            };
            match real {
                Ok(real) => at.address = real,
                Err(why) => {
                    self.end_listening(&Listening { asked, at });
                    return Err(why);
                }
            }
        }
        Ok(Listening { asked, at })
    }

    /// Makes the reactors stop listening on an address.
    fn end_listening(&self, it: &Listening) {
        let kind = it.at.fabric.unwrap_or(FabricKind::Software);
        let mut addresses = vec![it.at.address];
        if kind == FabricKind::Verbs && it.at.address.port() == PORT {
            let mut companion = it.at.address;
            companion.set_port(SMB_PORT);
            let mut others = self.listening.iter();
            if !others.any(|other| other.at.address == companion) {
                addresses.push(companion);
            }
        }
        for reactor in self.reactors_of(kind) {
            reactor.send(Command::Unlisten(addresses.clone()));
        }
    }

    fn reactors_of(&self, kind: FabricKind) -> impl Iterator<Item = &ToReactor> {
        let reactors = self.reactors.iter();
        reactors.filter_map(move |(of, reactor)| (*of == kind).then_some(reactor))
    }

    /// Serves the metrics on another address, or stops serving them. If that fails, they are served as before.
    fn serve_metrics(&mut self, wanted: Option<SocketAddr>) -> Result<(), String> {
        let [asked, served] = self.metrics;
        if wanted == asked && wanted.is_some() == served.is_some() {
            return Ok(());
        }
        let listener = wanted.map(observers::try_listen).transpose()?;
        let real = listener.as_ref().and_then(|it| it.local_addr().ok());
        if let Some(observers) = &self.observers {
            observers.serve_metrics(listener);
        }
        self.metrics = [wanted, real];
        Ok(())
    }

    /// Gives the status socket to the group of a configuration.
    fn share_status(&self, config: &Config) -> Result<(), StartError> {
        let (Some(group), Some(observers)) = (config.status_group_id(), &self.observers) else {
            return Ok(());
        };
        let shared = observers.share(group, STATUS_TIMEOUT);
        let path = device::status_path(&config.control);
        shared.map_err(|source: io::Error| group_error(config, ("status", &path), source))
    }
}
