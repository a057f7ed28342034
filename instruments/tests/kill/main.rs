// SPDX-License-Identifier: GPL-2.0-or-later

//! Kills each process at each step of an exchange with `kill -9`: no other process is disturbed, the dead one's place
//! is free at once, and nothing of it is left.
//!
//! ```text
//!   this program -- starts --> smbdirectd
//!        |---------- commands --> itself as listener, worker, heir: `process`
//!        |---------- commands --> itself as client:                 `client`
//!        '-- a bystander's client --> itself as the bystander's worker: `rounds`, `load`
//! ```
//!
//! `exchange` has the steps. After each of them, `each` kills one of the processes, and `broker` kills the broker.
//! `inherit` kills a worker whose child lives on, and `soak` kills any process at any time. `held` compares what
//! processes hold before and after.
//!
//! With a device in the kernel (`SMBDIRECT_TEST_DEVICE`), only the last of these runs, on that device.

mod actor;
mod broker;
mod bystander;
mod client;
mod each;
mod exchange;
mod held;
mod inherit;
mod load;
mod process;
mod rounds;
mod soak;

use std::env;
use std::path::PathBuf;
use std::time::Instant;

use smbdirect::device::Role;

use crate::held::Covered;

fn main() {
    if let Ok(part) = env::var(actor::PART) {
        let place = env::var(actor::PLACE).expect("a place");
        return play(&part, &place);
    }
    type Test = (&'static str, fn() -> Covered);
    let of_kernel: [Test; 1] = [(
        "random kills of processes of a device in the kernel leave nothing",
        soak::run_in_kernel,
    )];
    let of_broker: [Test; 4] = [
        (
            "a dead process disturbs no other, and nothing of it is left",
            each::run,
        ),
        (
            "the broker notices a dead worker although its child lives on",
            inherit::run,
        ),
        (
            "all processes go on with the next broker after one was killed",
            broker::run,
        ),
        ("random kills under load leave nothing", soak::run),
    ];
    // As in other tests, words on the command line select tests by name.
    let wanted: Vec<String> = env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let mut sum = Covered::default();
    let all = match soak::has_kernel() {
        true => &of_kernel[..],
        false => &of_broker[..],
    };
    for (name, run) in all {
        if wanted.iter().all(|word| name.contains(word.as_str())) {
            let start = Instant::now();
            let covered = run();
            let (kills, time) = (covered.kills, start.elapsed().as_secs_f64());
            println!("test {name} ... ok ({kills} kills, {time:.1} s)");
            sum.kills += kills;
            sum.steps = sum.steps.max(covered.steps);
        }
    }
    println!("{} steps, {} kills covered", sum.steps, sum.kills);
}

/// Plays a part, if another process of this program has started this one.
fn play(part: &str, place: &str) {
    let path = || PathBuf::from(place);
    let server = || place.parse().expect("an address");
    match part {
        "listener" => process::play(path(), Role::Listener),
        "worker" => process::play(path(), Role::Worker),
        "client" => client::play(server()),
        "server" => load::play_server(&path()),
        "load-client" => rounds::play_client(server()),
        "load-listener" => soak::play_listener(&path()),
        other => panic!("what is {other:?}?"),
    }
}
