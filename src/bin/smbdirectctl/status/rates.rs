// SPDX-License-Identifier: GPL-2.0-or-later

//! Computes rates per second from two statuses of a device.

use std::collections::HashMap;

use super::{Carried, Connection, Device};

/// The traffic of a fabric per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    /// Bytes from clients.
    pub(crate) received: f64,
    /// Bytes to clients.
    pub(crate) sent: f64,
    /// Messages from clients, and to them.
    pub(crate) messages: f64,
    /// RDMA READs and WRITEs.
    pub(crate) transfers: f64,
}

impl Device {
    /// Turns the bytes of connections into bytes per second since the status `before`, sorts the busiest connections to
    /// the top, and adds the rates of each fabric. Does nothing if the device has been restarted between the two
    /// statuses.
    pub(crate) fn since(mut self, before: &Self) -> Self {
        let seconds = self.uptime_seconds - before.uptime_seconds;
        if self.start_time_seconds != before.start_time_seconds || seconds <= 0.0 {
            return self;
        }
        let fabrics = self.carried.iter().map(|(fabric, carried)| {
            let of_fabric = before.carried.get(fabric);
            (fabric.clone(), carried.rates(of_fabric, seconds))
        });
        self.rates = Some(fabrics.collect());
        let known: HashMap<Ends<'_>, &Connection> = before
            .connections
            .iter()
            .map(|connection| (connection.ends(), connection))
            .collect();
        for connection in &mut self.connections {
            let known = known.get(&connection.ends()).copied();
            // If the connection is younger than before, it is a new connection with the address of one that has ended.
            let known = known.filter(|known| known.age_seconds <= connection.age_seconds);
            connection.become_rates(known, seconds);
        }
        self.connections
            .sort_by_key(|connection| std::cmp::Reverse(connection.all_bytes()));
        self
    }
}

impl Carried {
    /// Returns the traffic per second since `before`.
    fn rates(&self, before: Option<&Self>, seconds: f64) -> Rates {
        let rate = |of: fn(&Self) -> u64| {
            let before = before.map_or(0, of);
            of(self).saturating_sub(before) as f64 / seconds
        };
        Rates {
            received: rate(|c| c.inline_bytes_in.saturating_add(c.rdma_read_bytes)),
            sent: rate(|c| c.inline_bytes_out.saturating_add(c.rdma_write_bytes)),
            messages: rate(|c| c.messages_in.saturating_add(c.messages_out)),
            transfers: rate(|c| c.rdma_reads.saturating_add(c.rdma_writes)),
        }
    }
}

/// What tells a connection from all others of its time: the client's address, this machine's, and the fabric.
type Ends<'a> = (&'a str, Option<&'a str>, &'a str);

impl Connection {
    fn ends(&self) -> Ends<'_> {
        let (peer, fabric) = (self.peer.as_str(), self.fabric.as_str());
        (peer, self.local.as_deref(), fabric)
    }

    /// Turns the bytes into bytes per second.
    fn become_rates(&mut self, before: Option<&Self>, seconds: f64) {
        let rate = |now: u64, before: Option<u64>| {
            let moved = now.saturating_sub(before.unwrap_or_default());
            (moved as f64 / seconds).round() as u64
        };
        for (now, before) in [
            (
                &mut self.inline_bytes_in,
                before.map(|before| before.inline_bytes_in),
            ),
            (
                &mut self.inline_bytes_out,
                before.map(|before| before.inline_bytes_out),
            ),
            (
                &mut self.rdma_read_bytes,
                before.map(|before| before.rdma_read_bytes),
            ),
            (
                &mut self.rdma_write_bytes,
                before.map(|before| before.rdma_write_bytes),
            ),
        ] {
            *now = rate(*now, before);
        }
    }

    /// Returns the sum of all bytes, by which connections are sorted.
    fn all_bytes(&self) -> u64 {
        [
            self.inline_bytes_in,
            self.inline_bytes_out,
            self.rdma_read_bytes,
            self.rdma_write_bytes,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(uptime: f64, bytes: [u64; 2], age: f64) -> Device {
        let connection = |peer: &str, bytes: u64, age: f64| {
            serde_json::json!({"peer": peer, "state": "owned", "inline_bytes_in": 7, "rdma_write_bytes": bytes,
                               "age_seconds": age, "local": "10.0.9.1:5445", "fabric": "software"})
        };
        let json = serde_json::json!({
            "uptime_seconds": uptime, "start_time_seconds": 1.0,
            "carried": {"software": {"inline_bytes_in": 14, "rdma_write_bytes": bytes[0] + bytes[1], "messages_in": 2,
                                     "rdma_writes": bytes[0]}},
            "connections": [connection("10.0.0.1:1", bytes[0], 100.0), connection("10.0.0.2:1", bytes[1], age)],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn rates_are_what_moved_in_each_second() {
        let before = device(10.0, [1000, 5000], 100.0);
        let shown = device(12.0, [3000, 9000], 102.0).since(&before);
        let rates = shown.rates.as_ref().unwrap()["software"];
        assert_eq!((rates.received, rates.sent), (0.0, 3000.0));
        assert_eq!((rates.messages, rates.transfers), (0.0, 1000.0));
        let bytes = |shown: &Device| -> Vec<u64> {
            let connections = shown.connections.iter();
            connections.map(|of| of.rdma_write_bytes).collect()
        };
        assert_eq!(bytes(&shown), [2000, 1000], "the busiest first");
        let text = shown.to_string();
        assert!(
            text.contains("Traffic      software: 0 B/s received, 2.9 KiB/s sent, 0 messages/s"),
            "{text}"
        );
        assert!(text.contains("bytes per second"), "{text}");
        // The second connection has ended, and a new one has its address.
        let shown = device(12.0, [3000, 600], 1.0).since(&before);
        assert_eq!(bytes(&shown), [1000, 300]);
    }

    #[test]
    fn numbers_of_a_device_may_be_of_any_size() {
        let mut before = device(10.0, [1000, 5000], 100.0);
        let mut huge = device(12.0, [3000, 9000], 102.0);
        for carried in before.carried.values_mut().chain(huge.carried.values_mut()) {
            carried.inline_bytes_in = u64::MAX;
            carried.rdma_read_bytes = u64::MAX;
        }
        let shown = huge.since(&before);
        assert_eq!(shown.rates.unwrap()["software"].received, 0.0);
    }

    #[test]
    fn a_device_that_was_started_anew_has_no_rates_yet() {
        let shown = device(1.0, [5, 6], 1.0).since(&device(10.0, [0, 0], 1.0));
        assert!(shown.rates.is_none());
        assert!(!shown.to_string().contains("per second"));
        // The new device may already have been up for longer than the old one had been.
        let mut later = device(20.0, [5, 6], 1.0);
        later.start_time_seconds = Some(2.0);
        assert!(later.since(&device(10.0, [0, 0], 1.0)).rates.is_none());
    }

    #[test]
    fn connections_from_one_port_are_told_from_each_other() {
        let changes: [fn(&mut Connection); 2] = [
            |connection| connection.local = Some("10.0.9.2:5445".to_owned()),
            |connection| connection.fabric = "verbs".to_owned(),
        ];
        for change in changes {
            let of_one_port = |uptime, bytes| {
                let mut device = device(uptime, bytes, 100.0);
                device.connections[1].peer = "10.0.0.1:1".to_owned();
                change(&mut device.connections[1]);
                device
            };
            let shown = of_one_port(11.0, [1100, 5020]).since(&of_one_port(10.0, [1000, 5000]));
            let rates = shown.connections.iter().map(|of| of.rdma_write_bytes);
            assert_eq!(rates.collect::<Vec<_>>(), [100, 20]);
        }
    }
}
