// SPDX-License-Identifier: GPL-2.0-or-later

//! A child that was forked from an attached worker, and does nothing but live: it keeps its dead
//! parent's socket open, and must not keep its connections.

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
    // Made before: a child copies what is there.
    let input = std::io::stdin().as_fd().try_clone_to_owned();
    let mut input = File::from(input.expect("a descriptor"));
    // SAFETY: this process has one thread, so that the child may do what it likes.
    match unsafe { libc::fork() } {
        -1 => panic!("no child: {}", std::io::Error::last_os_error()),
        0 => {
            // The parent is waiting for a command that it does not live to see.
            let mut byte = [0];
            while input.read(&mut byte).is_ok_and(|length| length > 0) {}
            // SAFETY: ends the child without running what is the parent's to run.
            unsafe { libc::_exit(0) }
        }
        child => child,
    }
}

/// Kills a worker in the middle of everything, and not its child.
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
    assert!(Path::new(&path).exists(), "the child is gone");
    let child = Pid::from_raw(child).expect("its number");
    kill_process(child, Signal::KILL).expect("a child's child");
    drop(input);
    scene.end();
    Covered { steps: 1, kills: 1 }
}
