// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a child that was forked from an attached worker and then only lives on: it keeps its dead parent's socket
//! open, but must not keep the parent's connections.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::each::Scene;
use crate::exchange::{Exchange, STEPS, Step, Who};
use crate::held::Covered;

/// Forks a child that holds copies of all descriptors until the input of this process ends.
pub(crate) fn fork() -> libc::pid_t {
    // Make this before the fork, because a child copies what exists.
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let mut input = File::from(input.expect("a descriptor"));
    // SAFETY: this process has one thread, so the child may call anything.
    match unsafe { libc::fork() } {
        -1 => panic!("no child: {}", std::io::Error::last_os_error()),
        0 => {
            // The parent waits for a command, and is killed first.
            let mut byte = [0];
            while input.read(&mut byte).is_ok_and(|length| length > 0) {}
            // SAFETY: ends the child without running the parent's destructors and exit handlers.
            unsafe { libc::_exit(0) }
        }
        child => child,
    }
}

/// Kills a worker in the middle of everything, but not the worker's child.
pub(crate) fn run() -> Covered {
    let mut scene = Scene::start();
    let (base, daemon) = (scene.base.clone(), &scene.daemon);
    let mut exchange = Exchange::new(daemon, &mut scene.cast, 0);
    let several = |step: &&Step| step.name != "several of all done";
    for step in STEPS.iter().take_while(several) {
        exchange.run(step);
    }
    let child: i32 = exchange
        .actor(Who::Worker)
        .ask("fork")
        .parse()
        .expect("its number");
    let input = exchange.kill(Who::Worker);
    for conn in ["closed 0", "closed 1"] {
        exchange.ask(Who::Client, conn);
    }
    scene.cast.reset();
    base.wait(&scene.daemon, "the worker's child lives");
    let path = format!("/proc/{child}/fd");
    assert!(Path::new(&path).exists(), "the child has ended");
    let child = Pid::from_raw(child).expect("its number");
    kill_process(child, Signal::KILL).expect("a child's child");
    drop(input);
    scene.end();
    Covered { steps: 1, kills: 1 }
}
