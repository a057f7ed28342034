// SPDX-License-Identifier: GPL-2.0-or-later

//! Everything that a device says about one connection, in words: what limits it, and what to do about that.

use std::fmt::{self, Display};
use std::net::{IpAddr, SocketAddr};

use super::super::doctor::{COLUMNS, wrap};
use super::super::utc::Utc;
use super::{Age, Bytes, Connection, Device, process};

/// What to do if data goes in messages because the client does not support RDMA transforms.
pub(crate) const WITHOUT_TRANSFORMS: &str = "use Windows 11 or Server 2022 as the client, or, if you trust \
    the network, turn signing and encryption off";

/// Returns the address and the port that the text of a socket's address names, if it is one.
pub(crate) fn endpoint(text: &str) -> Option<(IpAddr, u16)> {
    let address: SocketAddr = text.parse().ok()?;
    Some((address.ip().to_canonical(), address.port()))
}

/// The connections that the command line names: those of a client, or the one from this port of the client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Wanted {
    address: IpAddr,
    port: Option<u16>,
}

impl Wanted {
    /// Parses an address, with or without a port.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some((address, port)) = endpoint(text) {
            let port = Some(port);
            return Ok(Self { address, port });
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let address = bare.split('%').next().unwrap_or_default();
        let address: IpAddr = address.parse().map_err(|_| {
            "a client is an address, or an address and a port, such as 10.0.0.5:49152".to_owned()
        })?;
        Ok(Self {
            address: address.to_canonical(),
            port: None,
        })
    }

    /// Returns whether these are connections of the client at this address and port.
    pub(crate) fn is(&self, peer: &str) -> bool {
        endpoint(peer).is_some_and(|(address, port)| {
            address == self.address && self.port.is_none_or(|wanted| wanted == port)
        })
    }
}

impl Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port)),
            None => write!(f, "{}", self.address),
        }
    }
}

impl Device {
    /// Returns everything about the wanted connections.
    ///
    /// # Errors
    ///
    /// There is no such connection. The error says what is known about the last one, as a message for people.
    pub(crate) fn details(&self, wanted: &Wanted) -> Result<String, String> {
        let connections = self.connections.iter().filter(|it| wanted.is(&it.peer));
        let texts: Vec<String> = connections
            .map(|connection| {
                let device = self;
                Detail { device, connection }.to_string()
            })
            .collect();
        if !texts.is_empty() {
            return Ok(texts.join("\n"));
        }
        let last = self.closes.iter().rfind(|close| wanted.is(&close.peer));
        Err(match last {
            Some(close) => {
                let ago = Age((self.uptime_seconds - close.at_seconds).max(0.0));
                format!(
                    "{wanted} is not connected over SMB Direct; its last connection ended {ago} ago: {}",
                    close.reason
                )
            }
            None => format!(
                "{wanted} is not connected over SMB Direct: smbdirectctl status lists the connections"
            ),
        })
    }
}

/// A connection of a device.
struct Detail<'a> {
    device: &'a Device,
    connection: &'a Connection,
}

impl Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection {
            peer,
            local,
            fabric,
            send_credits,
            receive_credits,
            receives_posted,
            messages_in,
            messages_out,
            ..
        } = self.connection;
        write!(f, "Connection   {peer}")?;
        if let Some(local) = local {
            write!(f, " to {local}")?;
        }
        writeln!(f, ", {fabric}")?;
        self.client(f)?;
        self.user(f)?;
        self.process(f)?;
        self.state(f)?;
        self.since(f)?;
        self.data(f)?;
        writeln!(
            f,
            "Credits      {send_credits} to send, {receive_credits} granted, {receives_posted} receives posted"
        )?;
        if *send_credits == 0 {
            cure(f, "if this stays 0, the client does not read")?;
        }
        let bytes_in = Bytes(self.connection.inline_bytes_in);
        let bytes_out = Bytes(self.connection.inline_bytes_out);
        writeln!(
            f,
            "Messages     {bytes_in} in {messages_in} received, {bytes_out} in {messages_out} sent"
        )?;
        let read = Bytes(self.connection.rdma_read_bytes);
        let written = Bytes(self.connection.rdma_write_bytes);
        writeln!(f, "RDMA         {read} read, {written} written")?;
        self.waiting(f)
    }
}

/// Writes what to do about the line above.
fn cure(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let mut begin = "             -> ";
    for line in wrap(text, COLUMNS - begin.len()) {
        writeln!(f, "{begin}{line}")?;
        begin = "                ";
    }
    Ok(())
}

impl Detail<'_> {
    /// Shows what smbd has said about the client.
    fn client(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((address, _)) = endpoint(&self.connection.peer) else {
            return Ok(());
        };
        let mut clients = self.device.clients.iter();
        let is_it = |text: &str| {
            let text = text.split('%').next().unwrap_or_default();
            text.parse()
                .is_ok_and(|it: IpAddr| it.to_canonical() == address)
        };
        let Some(client) = clients.find(|client| is_it(&client.address)) else {
            return Ok(());
        };
        let dialect = client.dialect.as_deref().unwrap_or("?");
        let multichannel = match client.multichannel {
            Some(true) => ", multichannel",
            Some(false) => ", no multichannel",
            None => "",
        };
        writeln!(
            f,
            "Client       SMB {dialect}{multichannel}, {} SMB Direct sessions since the start",
            client.direct
        )
    }

    fn user(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device.users {
            None => Ok(()),
            Some(Err(reason)) => writeln!(f, "User         unknown: {reason}"),
            Some(Ok(())) => {
                let user = self.connection.user.as_deref().unwrap_or("-");
                writeln!(f, "User         {user}")
            }
        }
    }

    fn process(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection {
            pid, worker, id, ..
        } = self.connection;
        let Some(pid) = pid else {
            return writeln!(f, "Process      none yet");
        };
        let worker = worker.unwrap_or_default();
        write!(f, "Process      {}, worker {worker}", process(*pid, worker))?;
        match id {
            Some(id) => writeln!(f, ", which knows it as {id:#x}"),
            None => writeln!(f),
        }
    }

    fn state(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.connection.state.as_str();
        let words = match state {
            "fresh" => ": the client's first request has not come",
            "offered" => ": no process of smbd has taken it yet",
            "owned" => ": it belongs to a process of smbd",
            "ending" => ": it closes once what is under way has finished",
            _ => "",
        };
        writeln!(f, "State        {state}{words}")?;
        match self.connection.authenticated {
            Some(false) => {
                writeln!(f, "             Nobody has logged in yet.")?;
                cure(
                    f,
                    "look for its login in the log of smbd; after login_timeout the connection ends",
                )
            }
            _ => Ok(()),
        }
    }

    fn since(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let age = self.connection.age_seconds;
        f.write_str("Age          ")?;
        match self.device.start_time_seconds {
            Some(start) => {
                let began = Utc(start + self.device.uptime_seconds - age).to_the_second();
                writeln!(f, "{}, since {began}", Age(age))
            }
            None => writeln!(f, "{}", Age(age)),
        }
    }

    /// Shows how file data is protected, and why it does not go by RDMA.
    fn data(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection {
            authenticated,
            protection,
            rdma_read_bytes,
            rdma_write_bytes,
            ..
        } = self.connection;
        let Some(how) = protection.as_deref() else {
            return match authenticated {
                Some(true) => writeln!(
                    f,
                    "Data         unknown: smbd has not said how it is protected"
                ),
                _ => Ok(()),
            };
        };
        if let Some(how) = how.strip_suffix(" in messages") {
            writeln!(
                f,
                "Data         {how}, all of it in messages: the client does not support RDMA transforms"
            )?;
            return cure(f, WITHOUT_TRANSFORMS);
        }
        let and = match how {
            "plain" => "",
            _ => ", with RDMA transforms",
        };
        writeln!(f, "Data         {how}, may go by RDMA{and}")?;
        for by in &self.connection.encrypted_by {
            let (who, where_it_goes, is_limited) = match by.strip_suffix(" in messages") {
                Some(who) => (who, "in messages", true),
                None => (by.as_str(), "by RDMA, with RDMA transforms", false),
            };
            writeln!(
                f,
                "             The {who} encrypts some of it, which goes {where_it_goes}."
            )?;
            if is_limited {
                cure(f, WITHOUT_TRANSFORMS)?;
            }
        }
        match (rdma_read_bytes, rdma_write_bytes) {
            (0, 0) => writeln!(
                f,
                "             Nothing has gone by RDMA so far: small reads and writes go in messages."
            ),
            _ => Ok(()),
        }
    }

    /// Shows what waits, and for what.
    fn waiting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connection {
            queued,
            outstanding,
            starved,
            ..
        } = self.connection;
        writeln!(
            f,
            "Waiting      {queued} operations to be posted, {outstanding} requests of smbd, \
             {starved} fragments for memory"
        )?;
        match starved {
            0 => Ok(()),
            _ => cure(
                f,
                "if this stays above 0, smbd is too slow for the client, or memory_limit is used up",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(connection: serde_json::Value) -> Device {
        let mut whole = serde_json::json!({
            "peer": "10.0.0.5:49152", "local": "10.0.0.1:5445", "fabric": "verbs", "state": "owned", "worker": 7,
            "pid": 1234, "id": 65_537, "send_credits": 255, "receive_credits": 254, "receives_posted": 255,
            "inline_bytes_in": 1 << 20, "inline_bytes_out": 2 << 20, "messages_in": 12, "messages_out": 40,
            "rdma_read_bytes": 5_u64 << 40, "rdma_write_bytes": 1, "queued": 1, "outstanding": 2, "starved": 0,
            "authenticated": true, "protection": "plain", "age_seconds": 60.0,
        });
        let members = connection.as_object().unwrap().clone();
        whole.as_object_mut().unwrap().extend(members);
        serde_json::from_value(serde_json::json!({
            "uptime_seconds": 100.0, "start_time_seconds": 951_827_600.0,
            "connections": [whole, {"peer": "[::ffff:10.0.0.6]:1"}, {"peer": "[fe80::1%2]:9"}],
            "clients": [{"address": "10.0.0.5", "dialect": "3.1.1", "multichannel": true, "direct": 3}],
            "closes": [{"peer": "10.0.0.7:9", "reason": "peer", "at_seconds": 40.0}],
        }))
        .unwrap()
    }

    fn shown(connection: serde_json::Value) -> String {
        let wanted = Wanted::parse("10.0.0.5:49152").unwrap();
        let shown = device(connection).details(&wanted).unwrap();
        assert!(shown.lines().all(|line| line.len() <= 100), "{shown}");
        shown
    }

    #[test]
    fn shows_everything_about_a_connection() {
        let mut device = device(serde_json::json!({}));
        device.users = Some(Ok(()));
        device.connections[0].user = Some("EXAMPLE\\alice".to_owned());
        let shown = device.details(&Wanted::parse("10.0.0.5").unwrap()).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines,
            [
                "Connection   10.0.0.5:49152 to 10.0.0.1:5445, verbs",
                "Client       SMB 3.1.1, multichannel, 3 SMB Direct sessions since the start",
                "User         EXAMPLE\\alice",
                "Process      1234, worker 7, which knows it as 0x10001",
                "State        owned: it belongs to a process of smbd",
                "Age          60 s, since 2000-02-29T12:34:00Z",
                "Data         plain, may go by RDMA",
                "Credits      255 to send, 254 granted, 255 receives posted",
                "Messages     1.0 MiB in 12 received, 2.0 MiB in 40 sent",
                "RDMA         5.0 TiB read, 1 B written",
                "Waiting      1 operations to be posted, 2 requests of smbd, 0 fragments for memory",
            ]
        );
        device.users = Some(Err("only root can ask".to_owned()));
        let shown = device.details(&Wanted::parse("10.0.0.5").unwrap()).unwrap();
        assert!(
            shown.contains("\nUser         unknown: only root can ask\n"),
            "{shown}"
        );
    }

    #[test]
    fn names_a_cure_for_each_limit() {
        for (change, words) in [
            (
                serde_json::json!({"protection": "encrypted in messages"}),
                [
                    "Data         encrypted, all of it in messages: the client does not support",
                    "             -> use Windows 11 or Server 2022 as the client",
                ],
            ),
            (
                serde_json::json!({"send_credits": 0}),
                ["0 to send", "-> if this stays 0, the client does not read"],
            ),
            (
                serde_json::json!({"starved": 4}),
                ["4 fragments for memory", "memory_limit is used up"],
            ),
            (
                serde_json::json!({"authenticated": false, "protection": null}),
                [
                    "Nobody has logged in yet.",
                    "-> look for its login in the log of smbd",
                ],
            ),
            (
                serde_json::json!({"protection": "signed", "rdma_read_bytes": 0, "rdma_write_bytes": 0}),
                [
                    "signed, may go by RDMA, with RDMA transforms",
                    "Nothing has gone by RDMA so far",
                ],
            ),
            (
                serde_json::json!({"encrypted_by": ["share in messages"]}),
                [
                    "The share encrypts some of it, which goes in messages.",
                    "             -> use Windows 11 or Server 2022 as the client",
                ],
            ),
            (
                serde_json::json!({"protection": null, "state": "offered", "pid": null}),
                ["Process      none yet", "Data         unknown"],
            ),
        ] {
            let shown = shown(change);
            for words in words {
                assert!(shown.contains(words), "no {words:?} in\n{shown}");
            }
        }
        let shown = shown(serde_json::json!({}));
        assert!(!shown.contains("->"), "nothing limits it: {shown}");
    }

    #[test]
    fn connections_are_named_by_address_and_by_port() {
        let wanted = |text: &str| Wanted::parse(text).unwrap();
        assert!(wanted("10.0.0.5").is("10.0.0.5:1"));
        assert!(wanted("10.0.0.5:1").is("[::ffff:10.0.0.5]:1"));
        assert!(!wanted("10.0.0.5:1").is("10.0.0.5:2"));
        assert!(!wanted("10.0.0.5").is("10.0.0.50:1"));
        assert!(wanted("[fe80::1]").is("[fe80::1%2]:9"));
        assert!(wanted("fe80::1%2").is("[fe80::1%2]:9"));
        assert!(wanted("[fe80::1]:9").is("[fe80::1%2]:9"));
        for text in ["", "somewhere", "10.0.0.5:", "10.0.0.5:99999"] {
            assert!(Wanted::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn says_what_became_of_a_connection_that_is_not_there() {
        let device = device(serde_json::json!({}));
        let said = |text: &str| device.details(&Wanted::parse(text).unwrap()).unwrap_err();
        assert_eq!(
            said("10.0.0.7"),
            "10.0.0.7 is not connected over SMB Direct; its last connection ended 60 s ago: peer"
        );
        assert!(said("10.0.0.8:1").starts_with("10.0.0.8:1 is not connected over SMB Direct: "));
    }
}
