// SPDX-License-Identifier: GPL-2.0-or-later

//! Kills the broker after each step. Another broker takes its place, at the same path and port.

use std::collections::BTreeMap;

use crate::each::address;
use crate::exchange::{Cast, Exchange, STEPS, Stage, Who};
use crate::held::{Covered, During, Held, Left};
use instruments::daemon::{Daemon, Directory, Setup};

/// Runs the exchange once for each of its steps.
pub(crate) fn run() -> Covered {
    let mut daemon = Daemon::start_in(Directory::new(), &Setup::default());
    let empty = Left::empty(Held::of_new(&daemon));
    let server = address(&daemon);
    let mut cast = Cast::new(&daemon.control, server);
    for (at, step) in STEPS.iter().enumerate() {
        let during = During(format!("broker killed after {:?}", step.name));
        let mut exchange = Exchange::new(&daemon, &mut cast, at);
        for step in &STEPS[..=at] {
            exchange.run(step);
        }
        let (stages, conns) = (exchange.stages, exchange.conns.len());
        // The dead broker leaves the file of its socket, and whatever the system keeps of its connections.
        let directory = daemon.kill();
        check_ends(&mut cast, &stages, conns);
        cast.reset();
        let setup = Setup {
            listen: Some(server),
            ..Setup::default()
        };
        daemon = Daemon::start_in(directory, &setup);
        Exchange::new(&daemon, &mut cast, at).check_service(Who::Worker);
        cast.reset();
        empty.wait(&daemon, &during.0);
    }
    daemon.stop();
    Covered {
        steps: STEPS.len(),
        kills: STEPS.len(),
    }
}

/// Checks that every process learns of the broker's end, but only after the ends of everything that it had from the
/// broker.
fn check_ends(cast: &mut Cast, stages: &BTreeMap<Who, Stage>, conns: usize) {
    for (who, stage) in stages {
        match stage {
            Stage::Idle => continue,
            Stage::Connected => cast.actor(*who).ask("closed"),
            Stage::Attaching | Stage::Attached => cast.actor(*who).ask("last"),
        };
    }
    for conn in 0..conns {
        cast.actor(Who::Client).ask(&format!("closed {conn}"));
    }
}
