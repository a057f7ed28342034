// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures what idle processes cost a broker, without connections and with one connection each.

use std::thread::sleep;
use std::time::Duration;

use smbdirect::device::Event;
use smbdirect::transport;

use super::process::BrokerProcess;
use super::stream::{End, first_request};
use super::{Figure, Goal};

pub(crate) fn measure(count: usize, time: Duration) -> Vec<Figure> {
    let broker = BrokerProcess::start("iwarp");
    // The first worker has one-time costs, so it is not counted.
    let mut workers = vec![broker.bare_worker()];
    let (before, _) = broker.process.usage();
    workers.extend((0..count).map(|_| broker.bare_worker()));
    let (after, busy) = broker.process.usage();
    let each = (after.saturating_sub(before)) as f64 / count as f64 / 1024.0;
    let time = time.max(Duration::from_secs(1)) * 2;
    sleep(time);
    let (_, later) = broker.process.usage();
    let load = (later - busy) / time.as_secs_f64() * 100.0;
    drop(workers);
    let (connection, connection_load) = connections(count, time);
    vec![
        Figure {
            what: format!("broker memory for each of {count} idle workers"),
            value: each,
            unit: "KiB",
            ratio: None,
            goal: Some(Goal::AtMost(64.0)),
        },
        Figure {
            what: format!("broker load with {count} idle workers"),
            value: load,
            unit: "% of a core",
            ratio: None,
            goal: Some(Goal::AtMost(0.5)),
        },
        Figure {
            what: format!("broker memory for each of {count} idle connections"),
            value: connection,
            unit: "KiB",
            ratio: None,
            goal: Some(Goal::AtMost(400.0)),
        },
        Figure {
            what: format!("broker load with {count} idle connections"),
            value: connection_load,
            unit: "% of a core",
            ratio: None,
            goal: Some(Goal::AtMost(0.5)),
        },
    ]
}

/// Returns the KiB of the broker for each connection of one worker, and the broker's load while the connections are
/// idle.
fn connections(count: usize, time: Duration) -> (f64, f64) {
    /// Fewer than the number that may be connecting at the same time.
    const AT_A_TIME: usize = 16;
    let broker = BrokerProcess::start("iwarp");
    let mut worker = broker.worker();
    let mut client = End::new();
    let mut before = None;
    for n in (0..count + 1).step_by(AT_A_TIME) {
        let begun = AT_A_TIME.min(count + 1 - n);
        for _ in 0..begun {
            client.connect(broker.address);
        }
        let (mut sent, mut taken) = (0, 0);
        while sent < begun {
            match client.next() {
                transport::Event::Established { conn, .. } => client.send(conn, &first_request()),
                transport::Event::Sent { .. } => sent += 1,
                _ => {}
            }
        }
        while taken < begun {
            // The first connection also pays for its queue and first buffers, so it is not counted.
            if let Event::Pdu { pdu, .. } = worker.next() {
                worker.handle.take_pdu(pdu, &mut []).expect("a message");
                taken += 1;
            }
        }
        before.get_or_insert_with(|| (n + begun, broker.process.usage().0));
    }
    let (first, before) = before.expect("at least one");
    let (after, busy) = broker.process.usage();
    sleep(time);
    let load = (broker.process.usage().1 - busy) / time.as_secs_f64() * 100.0;
    let each = after.saturating_sub(before) as f64 / (count + 1 - first) as f64 / 1024.0;
    (each, load)
}
