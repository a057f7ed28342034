// SPDX-License-Identifier: GPL-2.0-or-later

//! Two endpoints, an acceptor and an initiator, on a model of a link, in virtual time.
//!
//! Every scenario follows from a seed: configurations, messages both ways, delays, owners that are slow, short of
//! buffers or stuck for minutes, connections that end or go dead. A model parses the messages on the link itself. After
//! every step the endpoints' state is compared with the model, and the rules of [MS-SMBD] 3.1.5 and 3.1.6 are checked;
//! `world` says which rules.
//!
//! `SMBDIRECT_SEED=n cargo test --test protocol simulation` runs one scenario and prints what happens in it;
//! `SMBDIRECT_SEEDS=n` sets how many are run.

mod end;
mod hostile;
mod plan;
mod world;

use std::panic::catch_unwind;

use plan::Plan;
use world::{Summary, World};

/// The number of scenarios in one test run.
const SEEDS: u64 = 10_000;

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {value}")),
    )
}

/// Runs `scenario` for every seed. After a failure, prints how to repeat it.
fn for_each_seed(mut scenario: impl FnMut(u64, bool) + Copy + std::panic::UnwindSafe) {
    if let Some(seed) = number("SMBDIRECT_SEED") {
        return scenario(seed, true);
    }
    for seed in 0..number("SMBDIRECT_SEEDS").unwrap_or(SEEDS) {
        if let Err(panic) = catch_unwind(move || scenario(seed, false)) {
            eprintln!(
                "\nseed {seed} failed: SMBDIRECT_SEED={seed} cargo test --test protocol simulation\n"
            );
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn two_endpoints_keep_every_rule_in_every_scenario() {
    for_each_seed(|seed, verbose| {
        World::new(Plan::new(seed), verbose).run();
    });
}

#[test]
fn a_hostile_peer_gets_an_error_and_never_more_than_its_credits() {
    for_each_seed(|seed, _| hostile::attack(seed));
}

/// A simulation in which nothing happens would find nothing.
#[test]
fn the_scenarios_are_worth_running() {
    let mut sum = Summary::default();
    for seed in 0..500 {
        sum += World::new(Plan::new(seed), false).run();
    }
    println!("{sum:?}");
    assert!(sum.fragments > 10_000 && sum.delivered > 2_000, "{sum:?}");
    assert!(
        sum.empty > 1_000 && sum.asked > 100 && sum.last_credits > 1_000,
        "{sum:?}"
    );
    assert!(
        sum.negotiation_timeouts > 5 && sum.keepalive_timeouts > 20,
        "{sum:?}"
    );
    assert!(
        sum.credit_timeouts > 0 && sum.message_timeouts > 0 && sum.closed > 20,
        "{sum:?}"
    );
    assert!(sum.stood_still > 5, "{sum:?}");
    assert!(
        sum.starved > 500 && sum.short > 500 && sum.invalidated > 100,
        "{sum:?}"
    );
}
