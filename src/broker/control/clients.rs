// SPDX-License-Identifier: GPL-2.0-or-later

//! Keeps what smbd says about its clients, for people who ask why a client does not use RDMA.
//!
//! A client is an address. The addresses about which smbd said something last are kept.

use std::collections::HashMap;
use std::net::Ipv6Addr;

use crate::broker::status::{self, ClientStatus};
use crate::device::abi::{ClientNote, note};
use crate::units::Instant;

/// Maximum number of addresses.
const MOST: usize = 1024;

/// Notes about one client.
#[derive(Debug, Default)]
struct Client {
    /// The number of the last note about it.
    last: u64,
    /// When that note came.
    at: Instant,
    /// The value of the last [`note::NEGOTIATED`].
    negotiated: Option<u32>,
    asked: u64,
    /// The value of the last [`note::ASKED`].
    told: Option<u32>,
    withheld: u64,
    refused: u64,
    /// The value of the last [`note::REFUSED`].
    refusal: Option<u32>,
}

/// The register of clients.
#[derive(Debug, Default)]
pub(super) struct Clients {
    known: HashMap<Ipv6Addr, Client>,
    notes: u64,
}

impl Clients {
    /// Records a note. A note of a kind that is not known here changes nothing.
    pub(super) fn note(&mut self, note: &ClientNote, now: Instant) {
        if !(note::NEGOTIATED..=note::REFUSED).contains(&note.note) {
            return;
        }
        let address = Ipv6Addr::from(note.address);
        if self.known.len() >= MOST && !self.known.contains_key(&address) {
            let oldest = self.known.iter().min_by_key(|(_, client)| client.last);
            let oldest = oldest.map(|(address, _)| *address);
            oldest.and_then(|oldest| self.known.remove(&oldest));
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
            note::WITHHELD => client.withheld += 1,
            note::SESSION => {}
            _ => {
                client.refused += 1;
                client.refusal = Some(note.value);
            }
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
    use super::*;

    fn note(address: u32, note: u16, value: u32) -> ClientNote {
        let address = std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets();
        ClientNote {
            address,
            note,
            port: 0,
            value,
        }
    }

    #[test]
    fn tells_what_was_said_last() {
        let mut clients = Clients::default();
        let now = Instant::ZERO;
        clients.note(&note(1, note::NEGOTIATED, 0x0311 | note::MULTICHANNEL), now);
        clients.note(&note(1, note::ASKED, 3), now);
        clients.note(&note(1, note::ASKED, 2), now);
        clients.note(&note(2, note::NEGOTIATED, 0x0210), now);
        clients.note(&note(2, note::WITHHELD, 0), now);
        clients.note(&note(2, note::REFUSED, 0xc000_000d), now);
        clients.note(&note(3, 99, 0), now);
        let [second, first] = &clients.status()[..] else {
            panic!("two clients");
        };
        assert_eq!(first.address.to_string(), "0.0.0.1");
        assert_eq!(first.dialect.as_deref(), Some("3.1.1"));
        assert_eq!(first.multichannel, Some(true));
        assert_eq!((first.asked, first.told), (2, Some(2)));
        assert_eq!(second.dialect.as_deref(), Some("2.1"));
        assert_eq!(second.multichannel, Some(false));
        assert_eq!((second.withheld, second.refused), (1, 1));
        assert_eq!(second.refusal.as_deref(), Some("0xc000000d"));
    }

    #[test]
    fn keeps_the_addresses_of_the_newest_notes_only() {
        let mut clients = Clients::default();
        let most = MOST as u32;
        for address in 0..most {
            clients.note(&note(address, note::ASKED, 0), Instant::ZERO);
        }
        clients.note(&note(0, note::ASKED, 0), Instant::ZERO);
        clients.note(&note(most, note::ASKED, 0), Instant::ZERO);
        let status = clients.status();
        assert_eq!(status.len(), MOST);
        let has = |address: &str| status.iter().any(|it| it.address.to_string() == address);
        assert!(has("0.0.0.0") && !has("0.0.0.1") && has("0.0.4.0"));
    }
}
