// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures operations through the device and back: submit, broker, loopback fabric, event. They are small RDMA WRITEs,
//! because the end of a SEND alone does not wake a sleeping worker at once.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant as Clock};

use smbdirect::device::{Direction, Event, Status};
use smbdirect::sys::wait_readable;

use super::process::{BUSY_POLL, BrokerProcess, Worker, receive_eventfds, share_eventfds};
use super::stream::{buffer, message};
use super::{Figure, Goal};

/// The number of rounds. Each kind is measured once in a round.
const ROUNDS: u32 = 5;

/// The length of each operation, in bytes.
const LENGTH: usize = 100;

/// What to write, and where.
struct Target {
    conn: u64,
    buffer: u64,
    descriptor: Vec<u8>,
}

pub(crate) fn measure(time: Duration) -> Vec<Figure> {
    let broker = BrokerProcess::start("loopback");
    let mut worker = broker.worker();
    // The client is in the broker's process and connects by itself.
    let (conn, _first) = message(&mut worker);
    let (_, descriptor) = message(&mut worker);
    let target = Target {
        conn,
        buffer: buffer(&mut worker).number,
        descriptor,
    };
    let (mut bare, mut sleeping, mut looking, mut batch) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        bare.push(ping_pong(time / ROUNDS));
        worker.looks_for(Duration::ZERO);
        sleeping.push(one_at_a_time(&mut worker, &target, time / ROUNDS));
        worker.looks_for(BUSY_POLL);
        looking.push(one_at_a_time(&mut worker, &target, time / ROUNDS));
        batch.push(at_a_time(&mut worker, &target, 64, time / ROUNDS));
    }
    let (bare, sleeping) = (median(bare), median(sleeping));
    let (looking, batch) = (median(looking), median(batch));
    let figure = |what: &str, value, ratio, goal| Figure {
        what: what.into(),
        value,
        unit: "us",
        ratio,
        goal,
    };
    let goal = Some(Goal::AtMost(1.5));
    vec![
        figure("eventfd ping-pong of two processes", bare, None, None),
        figure(
            "one operation, worker sleeps",
            sleeping,
            Some(sleeping / bare),
            goal,
        ),
        figure(
            "one operation, worker looks for 50 us first",
            looking,
            Some(looking / bare),
            goal,
        ),
        Figure {
            what: "64 operations at a time".into(),
            value: batch / 1e6,
            unit: "million/s",
            ratio: None,
            goal: Some(Goal::AtLeast(1.0)),
        },
    ]
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns the microseconds of a round trip between two processes with bare eventfds.
fn ping_pong(time: Duration) -> f64 {
    let (_process, there, back) = share_eventfds(&["--pong"]);
    let trip = || {
        there.ring().expect("write");
        wait_readable(back.as_fd(), None).expect("poll");
        back.drain().expect("read");
    };
    (0..100).for_each(|_| trip());
    let start = Clock::now();
    let mut trips = 0;
    while start.elapsed() < time {
        trip();
        trips += 1;
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(trips)
}

/// Plays the other process of [`ping_pong`], until its standard input ends.
pub(crate) fn pong(path: &Path) {
    let [there, back] = receive_eventfds(path).map(File::from);
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    loop {
        wait_readable(there.as_fd(), None).expect("poll");
        if (&there).read(&mut [0; 8]).is_ok() {
            (&back).write_all(&1_u64.to_ne_bytes()).expect("write");
        }
    }
}

/// Returns the microseconds of one operation.
fn one_at_a_time(worker: &mut Worker, target: &Target, time: Duration) -> f64 {
    let start = Clock::now();
    let mut operations = 0;
    while start.elapsed() < time {
        let mut done = submit(worker, target);
        while done == 0 {
            done += u64::from(is_done(worker.next()));
        }
        operations += 1;
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(operations)
}

/// Returns the operations per second, with `outstanding` at a time.
fn at_a_time(worker: &mut Worker, target: &Target, outstanding: u32, time: Duration) -> f64 {
    let start = Clock::now();
    let (mut submitted, mut done) = (0_u64, 0_u64);
    while start.elapsed() < time {
        while submitted - done < u64::from(outstanding) {
            done += submit(worker, target);
            submitted += 1;
        }
        done += u64::from(is_done(worker.next()));
        while let Some(event) = worker.handle.peek_event().expect("attached") {
            done += u64::from(is_done(event));
        }
    }
    let rate = done as f64 / start.elapsed().as_secs_f64();
    while done < submitted {
        done += u64::from(is_done(worker.next()));
    }
    rate
}

/// Submits one operation, and returns how many ended while there was no room for it.
fn submit(worker: &mut Worker, target: &Target) -> u64 {
    let (conn, buffer) = (target.conn, target.buffer);
    let mut done = 0;
    loop {
        let write = Direction::Write;
        let handle = &mut worker.handle;
        match handle.rdma(write, conn, 1, buffer, 0, LENGTH, &target.descriptor) {
            Ok(()) => return done,
            Err(Status::Again) => loop {
                match worker.next() {
                    Event::Room => break,
                    event => done += u64::from(is_done(event)),
                }
            },
            Err(status) => panic!("{status}"),
        }
    }
}

fn is_done(event: Event) -> bool {
    match event {
        Event::RdmaDone {
            status: Status::Ok, ..
        } => true,
        Event::Room => false,
        other => panic!("{other:?}"),
    }
}
