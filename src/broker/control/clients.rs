// SPDX-License-Identifier: GPL-2.0-or-later

//! Keeps what smbd says about its clients, for people who ask why a client does not use RDMA.
//!
//! A client is an address. When there are too many addresses, the source that has the most loses the address about
//! which smbd has said nothing for the longest time. smbd speaks of everyone who connects to it, so without this rule,
//! a host with many addresses could make the device forget all other clients.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::broker::status::{self, ClientStatus};
use crate::device::abi::{ClientNote, note};
use crate::fabric::{Source, Sources};
use crate::units::Instant;

/// Maximum number of addresses.
const MOST: usize = 1024;

/// Notes about one client.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Client {
    /// The number of the last note about the client.
    last: u64,
    /// When that note came.
    at: Instant,
    /// The value of the last [`note::NEGOTIATED`].
    negotiated: Option<u32>,
    asked: u64,
    /// The value of the last [`note::ASKED`], if no [`note::WITHHELD`] came after that note.
    told: Option<u32>,
    withheld: u64,
    /// The number of the client's SMB Direct sessions; `direct_at` is when the note about the last session came.
    direct: u64,
    direct_at: Option<Instant>,
    refused: u64,
    /// The value of the last [`note::REFUSED`], if no [`note::SESSION`] came after that note.
    refusal: Option<u32>,
}

/// The register of clients.
#[derive(Debug, Default)]
pub(super) struct Clients {
    known: HashMap<Ipv6Addr, Client>,
    /// The addresses in `known`; the address with the newest note is the youngest.
    sources: Sources<Ipv6Addr>,
    notes: u64,
}

/// The register of clients, as it is passed on.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::broker) struct KeptClients(Vec<(Ipv6Addr, Client)>);

impl Clients {
    /// Returns all clients; the one with the oldest note comes first.
    pub(super) fn keep(&self) -> KeptClients {
        let known = self.known.iter();
        let mut all: Vec<_> = known
            .map(|(address, client)| (*address, client.clone()))
            .collect();
        all.sort_unstable_by_key(|(_, client)| client.last);
        KeptClients(all)
    }

    /// Continues with the clients of an earlier broker.
    pub(super) fn adopt(&mut self, KeptClients(all): KeptClients) {
        for (address, client) in all.into_iter().take(MOST) {
            self.sources.add(address, Source::of(IpAddr::V6(address)));
            self.notes = self.notes.max(client.last);
            self.known.insert(address, client);
        }
    }

    /// Records a note. If notes contradict each other, the last one decides. A note of a kind that is not known here
    /// changes nothing.
    pub(super) fn note(&mut self, note: &ClientNote, now: Instant) {
        if !(note::NEGOTIATED..=note::ENCRYPTED).contains(&note.note) {
            return;
        }
        let address = Ipv6Addr::from(note.address);
        self.sources.add(address, Source::of(IpAddr::V6(address)));
        if self.sources.total() > MOST {
            if let Some(oldest) = self.sources.oldest_of_greediest() {
                self.sources.remove(&oldest);
                self.known.remove(&oldest);
            }
        }
        self.notes += 1;
        let client = self.known.entry(address).or_default();
        (client.last, client.at) = (self.notes, now);
        match note.note {
            note::NEGOTIATED => client.negotiated = Some(note.value),
            note::ASKED => {
                client.asked += 1;
                client.told = Some(note.value);
            }
            note::WITHHELD => {
                client.withheld += 1;
                client.told = None;
            }
            note::SESSION => {
                client.direct += 1;
                client.direct_at = Some(now);
                client.refusal = None;
            }
            note::REFUSED => {
                client.refused += 1;
                client.refusal = Some(note.value);
            }
            // The note is about a connection, which keeps it.
            _ => {}
        }
    }

    /// Returns all clients; the client with the newest note comes first.
    pub(super) fn status(&self) -> Vec<ClientStatus> {
        let mut clients: Vec<_> = self.known.iter().collect();
        clients.sort_unstable_by_key(|(_, client)| std::cmp::Reverse(client.last));
        let status = |(address, client): (&Ipv6Addr, &Client)| ClientStatus {
            address: address.to_canonical(),
            at_seconds: status::seconds(client.at),
            dialect: client.negotiated.map(dialect),
            multichannel: client
                .negotiated
                .map(|value| value & note::MULTICHANNEL != 0),
            asked: client.asked,
            told: client.told,
            withheld: client.withheld,
            direct: client.direct,
            direct_at_seconds: client.direct_at.map(status::seconds),
            refused: client.refused,
            refusal: client.refusal.map(|status| format!("{status:#010x}")),
        };
        clients.into_iter().map(status).collect()
    }
}

/// Returns the name of the dialect in the value of [`note::NEGOTIATED`].
fn dialect(value: u32) -> String {
    match value & 0xffff {
        0x0202 => "2.0.2".to_owned(),
        0x0210 => "2.1".to_owned(),
        0x0300 => "3.0".to_owned(),
        0x0302 => "3.0.2".to_owned(),
        0x0311 => "3.1.1".to_owned(),
        other => format!("{other:#06x}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use zerocopy::FromZeros;

    use super::*;

    fn note(address: &str, note: u16, value: u32) -> ClientNote {
        let address = match address.parse::<IpAddr>().unwrap() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        ClientNote {
            address: address.octets(),
            note,
            value,
            ..ClientNote::new_zeroed()
        }
    }

    /// Records these notes about one client, one each second, and returns what is known then.
    fn after(notes: &[(u16, u32)]) -> ClientStatus {
        let mut clients = Clients::default();
        let mut now = Instant::ZERO;
        for (kind, value) in notes {
            now = now + Duration::from_secs(1);
            clients.note(&note("10.0.0.1", *kind, *value), now);
        }
        clients.status().remove(0)
    }

    #[test]
    fn tells_what_was_said_last() {
        let mut clients = Clients::default();
        let now = Instant::ZERO;
        let first = |kind, value| note("10.0.0.1", kind, value);
        let second = |kind, value| note("2001:db8::2", kind, value);
        clients.note(&first(note::NEGOTIATED, 0x0311 | note::MULTICHANNEL), now);
        clients.note(&first(note::ASKED, 3), now);
        clients.note(&first(note::ASKED, 2), now);
        clients.note(&second(note::NEGOTIATED, 0x0210), now);
        clients.note(&second(note::REFUSED, 0xc000_000d), now);
        clients.note(&note("10.0.0.3", 99, 0), now);
        let [second, first] = &clients.status()[..] else {
            panic!("two clients");
        };
        assert_eq!(first.address.to_string(), "10.0.0.1");
        assert_eq!(first.dialect.as_deref(), Some("3.1.1"));
        assert_eq!(first.multichannel, Some(true));
        assert_eq!((first.asked, first.told), (2, Some(2)));
        assert_eq!((first.direct, first.direct_at_seconds), (0, None));
        assert_eq!(second.address.to_string(), "2001:db8::2");
        assert_eq!(second.dialect.as_deref(), Some("2.1"));
        assert_eq!(second.multichannel, Some(false));
        assert_eq!(second.refused, 1);
        assert_eq!(second.refusal.as_deref(), Some("0xc000000d"));
    }

    #[test]
    fn each_answer_about_interfaces_replaces_the_one_before() {
        let (asked, withheld) = ((note::ASKED, 2), (note::WITHHELD, 0));
        let client = after(&[asked, withheld]);
        assert_eq!((client.asked, client.withheld, client.told), (1, 1, None));
        assert_eq!(client.at_seconds, 2.0);
        let client = after(&[withheld, asked, (note::NEGOTIATED, 0x0311)]);
        let counts = (client.asked, client.withheld, client.told);
        assert_eq!(counts, (1, 1, Some(2)));
        assert_eq!(client.at_seconds, 3.0);
    }

    #[test]
    fn a_session_ends_the_refusals_before_it() {
        let (refused, session) = ((note::REFUSED, 0xc000_006d), (note::SESSION, 0));
        let client = after(&[refused, session, session, (note::ASKED, 1)]);
        assert_eq!((client.refused, client.refusal), (1, None));
        assert_eq!((client.direct, client.direct_at_seconds), (2, Some(3.0)));
        let client = after(&[session, refused]);
        assert_eq!(client.refusal.as_deref(), Some("0xc000006d"));
        assert_eq!((client.direct, client.direct_at_seconds), (1, Some(1.0)));
    }

    #[test]
    fn what_is_encrypted_on_a_connection_changes_only_when_the_client_was_last_mentioned() {
        let client = after(&[(note::SESSION, 0), (note::ENCRYPTED, 1)]);
        assert_eq!((client.direct, client.direct_at_seconds), (1, Some(1.0)));
        assert_eq!((client.refused, client.refusal), (0, None));
        assert_eq!(client.at_seconds, 2.0);
    }

    #[test]
    fn keeps_the_addresses_of_the_newest_notes_only() {
        let mut clients = Clients::default();
        let mut asked = |number: usize| {
            let address = format!("10.0.{}.{}", number / 256, number % 256);
            clients.note(&note(&address, note::ASKED, 0), Instant::ZERO);
        };
        (0..MOST).for_each(&mut asked);
        asked(0);
        asked(MOST);
        let status = clients.status();
        assert_eq!(status.len(), MOST);
        let has = |address: &str| status.iter().any(|it| it.address.to_string() == address);
        assert!(has("10.0.0.0") && !has("10.0.0.1") && has("10.0.4.0"));
    }

    #[test]
    fn a_host_with_many_addresses_loses_its_own() {
        let mut clients = Clients::default();
        let mut asked = |address: &str| {
            clients.note(&note(address, note::ASKED, 0), Instant::ZERO);
        };
        asked("10.0.0.1");
        asked("2001:db8:2::1");
        for number in 0..2 * MOST {
            asked(&format!("2001:db8:1::{number:x}"));
        }
        let status = clients.status();
        assert_eq!(status.len(), MOST);
        let has = |address: &str| status.iter().any(|it| it.address.to_string() == address);
        assert!(has("10.0.0.1") && has("2001:db8:2::1"));
        assert!(!has("2001:db8:1::1") && has("2001:db8:1::7ff"));
    }
}
