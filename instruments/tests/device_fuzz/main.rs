// SPDX-License-Identifier: GPL-2.0-or-later

//! Breaks the rules of `/dev/smbdirect`, the device in the kernel, in every way that a process can: needs root, and runs
//! only on request, in the guest of `tests/kernel/device.py`.
//!
//! ```text
//!   calls     every call with every field at its edges, then anything: two threads with one open file
//!   worker    a worker that has a connection, whose rings another thread overwrites while the device reads them
//!   listener  a listener that is offered the connections, and gives their tokens to the workers
//!   clients   one for each worker, which sends, and opens its memory to RDMA
//! ```
//!
//! A call must be refused with one of the numbers of `device::uapi`, and then must leave its argument as it was; the
//! device must not fail, and every call must end. What the kernel says meanwhile is for the caller of this program to
//! check, and so is what is left when the module is unloaded. A seed repeats the choices, not their order in time.

mod calls;
mod client;
mod file;
mod listener;
mod tally;
mod worker;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use fastrand::Rng;
use smbdirect::device::abi::Token;

use crate::tally::Tally;

/// Breaks the rules of the smbdirect device in the kernel in every way that a process can.
#[derive(Debug, Parser)]
#[command(name = "device_fuzz")]
struct Options {
    /// The device
    #[arg(long, default_value = smbdirect::device::uapi::PATH)]
    device: PathBuf,
    /// Where clients reach it
    #[arg(long)]
    server: SocketAddr,
    /// How long to go on, in seconds
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Repeats the choices of an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// How many seconds a single call may take
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// The kernel makes allocations and copies fail at random: take any refusal
    #[arg(long)]
    faults: bool,
}

/// The tokens of the connections that were offered, by the client's GUID.
type Tokens = Mutex<HashMap<[u8; 16], Token>>;

/// The number of threads that play a worker, and of open files that get arbitrary calls.
const WORKERS: u64 = 2;
const CALLERS: u64 = 2;

fn main() {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| Rng::new().u64(..));
    println!("seed {seed}");
    client::keep_panics_quiet();
    let tally = Arc::new(Tally::new(
        Duration::from_secs(options.patience),
        options.faults,
    ));
    if !options.faults {
        calls::edges(&options.device, &tally);
    }
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let tokens = Arc::new(Tokens::default());
    let mut threads = Vec::new();
    let place = |number| {
        let rng = Rng::with_seed(seed.wrapping_add(number));
        let (tally, tokens) = (Arc::clone(&tally), Arc::clone(&tokens));
        (options.device.clone(), tally, rng, tokens)
    };
    let (device, of_thread, rng, offered) = place(0);
    threads.push(tally.spawn("listener", move || {
        listener::play(&device, &of_thread, rng, (&offered, end));
    }));
    for number in 0..WORKERS {
        let (device, of_thread, rng, offered) = place(1 + number);
        let server = options.server;
        threads.push(tally.spawn("worker", move || {
            worker::play((&device, server), &of_thread, rng, (&offered, end));
        }));
    }
    for number in 0..CALLERS {
        let (device, of_thread, rng, _) = place(1 + WORKERS + number);
        threads.push(tally.spawn("calls", move || {
            calls::play(&device, &of_thread, rng, end);
        }));
    }
    tally.watch(threads);
    println!("{tally}");
}
