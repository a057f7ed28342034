// SPDX-License-Identifier: GPL-2.0-or-later

//! Puts another configuration into effect: for the control thread itself, and for all reactors.

use crossbeam_channel::Sender;

use super::Control;
use crate::broker::config::{Config, Listen};
use crate::broker::reactor::{Command, Tuning};
use crate::broker::transport_config;
use crate::engine::parameters::reduced;
use crate::fabric::iwarp;

/// Another configuration, whose changes can all be made while the device runs.
#[derive(Debug)]
pub(in crate::broker) struct Reload {
    pub(in crate::broker) config: Config,
    /// The configuration of the fabrics.
    pub(in crate::broker) fabric: iwarp::Config,
    /// The addresses on which the reactors listen now, with real ports.
    pub(in crate::broker) listen: Vec<Listen>,
    /// Gets a message once the configuration is in effect here, and on its way to the reactors.
    pub(in crate::broker) done: Sender<()>,
}

impl Control {
    pub(super) fn reload(&mut self, mut reload: Reload) {
        let shared = &self.shared;
        // This is not a key of the file.
        reload.config.keep_connections = shared.config().keep_connections;
        let (memory_idle_timeout, limits) =
            (reload.config.memory_idle_timeout, reload.config.limits());
        let mut transport = transport_config(&reload.config);
        // The listener's own values still apply. They were legal with other values of the device, so they are checked
        // again.
        let of_listener = self
            .parameters
            .map(|set| reduced(&transport.acceptor, &set));
        let of_listener = of_listener.filter(|acceptor| acceptor.validate().is_ok());
        transport.acceptor = of_listener.unwrap_or(transport.acceptor);
        let busy_poll = reload.config.busy_poll;
        shared.set_config(reload.config);
        let tuning = Box::new(Tuning {
            rules: shared.rules(),
            transport,
            fabric: reload.fabric,
            busy_poll,
        });
        self.command_all(|| Command::Configure(tuning.clone()));
        let offers = self.shared.registry().set_limits(limits);
        for offer in offers {
            if let Some(reactor) = self.reactors.get(offer.shard) {
                reactor.send(Command::Offer(offer.conn));
            }
        }
        self.look_within(memory_idle_timeout);
        self.set_listen(reload.listen);
        // If the owner no longer waits, that is fine.
        let _ = reload.done.try_send(());
    }
}
