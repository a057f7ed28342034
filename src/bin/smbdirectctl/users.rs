// SPDX-License-Identifier: GPL-2.0-or-later

//! Names the users of connections: joins the device's connections with the sessions that smbstatus(1) of Samba reports.
//!
//! Only Samba knows users, and only root may ask it. A session and a connection belong together if they have the same
//! process, and if one of the session's channels comes from the address and port of the connection's client.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::doctor::programs;
use super::read;
use super::status::{Device, endpoint};

/// Why smbstatus is not asked: there is none that may be run.
const NO_SMBSTATUS: &str =
    "found no smbstatus, beside smbd or in the path, that only root can change";

/// What smbstatus reports.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sessions {
    sessions: BTreeMap<String, Session>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Session {
    server_id: Process,
    username: String,
    channels: BTreeMap<String, Channel>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    pid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Channel {
    transport: String,
    /// An address in Samba's own form, such as `ipv4:10.0.0.5:49152` or `ipv6:fe80::1%eth0:49152`.
    remote_address: String,
}

/// Asks smbstatus for the sessions.
///
/// # Errors
///
/// The error says why the users are not known, as a message for people.
pub(crate) fn ask(device: &Device) -> Result<Sessions, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can ask smbstatus for them".to_owned());
    }
    ask_of(Path::new("/"), device)
}

/// Asks the smbstatus that belongs to the attached smbd, with the configuration of that smbd. Without an attached smbd,
/// this is the first smbstatus in the path.
fn ask_of(root: &Path, device: &Device) -> Result<Sessions, String> {
    let listener = device.listener().map(|listener| listener.pid);
    let mut arguments = ["--json", "--processes"].map(OsString::from).to_vec();
    let program = match listener {
        Some(pid) => {
            let smbd = programs::attached(root, pid)?;
            arguments.extend(programs::options_of(root, pid));
            if let Some(config) = programs::config_of(root, pid)? {
                arguments.extend([OsString::from("-s"), config.into_os_string()]);
            }
            let started_as = programs::started_as(root, pid);
            programs::companion("smbstatus", &smbd, started_as.as_deref(), false)?
        }
        None => programs::find("smbstatus"),
    };
    let program = program.ok_or(NO_SMBSTATUS)?;
    let said = programs::output(&program, &arguments)?;
    let said = said.ok_or_else(|| format!("{} failed", program.display()))?;
    read(&said)
        .map_err(|error| format!("cannot parse the output of {}: {error}", program.display()))
}

/// Names the users of a device's connections, or keeps the reason why they are not known.
pub(crate) fn name(device: &mut Device, sessions: &Result<Sessions, String>) {
    device.users = Some(match sessions {
        Ok(sessions) => {
            for connection in &mut device.connections {
                connection.user = sessions.user(connection.pid, &connection.peer);
            }
            Ok(())
        }
        Err(reason) => Err(reason.clone()),
    });
}

/// Adds the member `user` to each connection in the JSON of a device.
pub(crate) fn add_to(json: &mut Value, device: &Device) {
    let found = json.get_mut("connections").and_then(Value::as_array_mut);
    let pairs = found.into_iter().flatten().zip(&device.connections);
    for (connection, named) in pairs {
        if let Some(members) = connection.as_object_mut() {
            members.insert("user".to_owned(), named.user.clone().into());
        }
    }
}

impl Sessions {
    /// Returns the users who are logged in on a connection.
    fn user(&self, pid: Option<i32>, peer: &str) -> Option<String> {
        let pid = pid?.to_string();
        let peer = endpoint(peer)?;
        let of_process = self.sessions.values();
        let of_process = of_process.filter(|session| session.server_id.pid == pid);
        let names: BTreeSet<&str> = of_process
            .filter(|session| session.has(peer))
            .map(|session| session.username.as_str())
            .filter(|name| !name.is_empty())
            .collect();
        let names: Vec<&str> = names.into_iter().collect();
        (!names.is_empty()).then(|| names.join(", "))
    }
}

impl Session {
    /// Returns whether a connection from this address and port is one of the session's channels. An smbstatus that
    /// does not know channels reports none: then all connections of the process count, which serves one client.
    fn has(&self, peer: (IpAddr, u16)) -> bool {
        let mut channels = self.channels.values();
        self.channels.is_empty()
            || channels.any(|channel| channel.transport != "tcp" && channel.end() == Some(peer))
    }
}

impl Channel {
    /// Returns the client's address and port.
    fn end(&self) -> Option<(IpAddr, u16)> {
        let (_, end) = self.remote_address.split_once(':')?;
        let (address, port) = end.rsplit_once(':')?;
        let address = address.split('%').next()?;
        let address: IpAddr = address.parse().ok()?;
        Some((address.to_canonical(), port.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::doctor::machine::{Machine, alone};
    use super::*;

    const SESSIONS: &str = r#"{"timestamp": "2026-11-30", "sessions": {
        "1": {"session_id": "1", "server_id": {"pid": "100", "task_id": "0"}, "username": "alice", "uid": 1000,
              "channels": {"1": {"transport": "tcp", "remote_address": "ipv4:10.0.0.5:1000"},
                           "2": {"transport": "smbdirect", "remote_address": "ipv4:10.0.0.5:2000"}}},
        "2": {"server_id": {"pid": "100"}, "username": "EXAMPLE\\bob",
              "channels": {"1": {"transport": "smbdirect", "remote_address": "ipv4:10.0.0.5:2000"},
                           "2": {"transport": "smbdirect", "remote_address": "ipv6:fe80::1%eth0:3000"}}},
        "3": {"server_id": {"pid": "200"}, "username": "car\u001bol", "channels": {}}}}"#;

    fn device() -> Device {
        let connection =
            |pid: Option<i32>, peer: &str| serde_json::json!({"pid": pid, "peer": peer});
        let json = serde_json::json!({
            "processes": [{"pid": 99, "role": "listener"}],
            "connections": [
                connection(Some(100), "10.0.0.5:2000"),
                connection(Some(100), "10.0.0.5:1000"),
                connection(Some(100), "[fe80::1%2]:3000"),
                connection(Some(200), "10.0.0.6:1"),
                connection(Some(300), "10.0.0.5:2000"),
                connection(None, "10.0.0.5:2000"),
            ],
        });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_user_belongs_to_the_process_and_the_channel() {
        let mut device = device();
        name(&mut device, &Ok(read(SESSIONS).unwrap()));
        assert_eq!(device.users, Some(Ok(())));
        let users = device.connections.iter().map(|it| it.user.as_deref());
        assert_eq!(
            users.collect::<Vec<_>>(),
            [
                Some("EXAMPLE\\bob, alice"),
                None,
                Some("EXAMPLE\\bob"),
                Some("car?ol"),
                None,
                None
            ],
            "the second has the port of a TCP channel"
        );
        let mut json = serde_json::json!({"connections": [{"peer": "a"}, {"peer": "b"}]});
        add_to(&mut json, &device);
        assert_eq!(
            json["connections"],
            serde_json::json!([{"peer": "a", "user": "EXAMPLE\\bob, alice"}, {"peer": "b", "user": null}])
        );
        // A list of members in their order is the status of a device, too, as serde reads it.
        let mut list = serde_json::json!([]);
        add_to(&mut list, &device);
        assert_eq!(list, serde_json::json!([]));
    }

    #[test]
    fn the_smbstatus_of_the_attached_smbd_is_asked_with_its_configuration() {
        let _alone = alone();
        let machine = Machine::new("users");
        let smbd = machine.program("sbin/smbd", "");
        machine.process(99, &smbd);
        let config = machine.file("etc/smb.conf", "");
        let config = config.display();
        let line = format!("smbd\0--option=state directory=/s\0-s\0{config}\0");
        machine.file("proc/99/cmdline", &line);
        let script = format!(
            "[ \"$*\" = '--json --processes --option=state directory=/s -s {config}' ] && cat <<'END'\n{SESSIONS}\nEND"
        );
        machine.program("bin/smbstatus", &script);
        let mut device = device();
        let sessions = ask_of(&machine.0, &device);
        name(&mut device, &sessions);
        assert_eq!(device.users, Some(Ok(())));
        assert_eq!(device.connections[2].user.as_deref(), Some("EXAMPLE\\bob"));
    }

    #[test]
    fn says_why_users_are_not_known() {
        let _alone = alone();
        let machine = Machine::new("no-users");
        let smbd = machine.program("sbin/smbd", "");
        let ask = || ask_of(&machine.0, &device()).unwrap_err();
        assert!(ask().contains("process 99 cannot be seen"), "{}", ask());
        machine.process(99, &smbd);
        machine.program("bin/smbstatus", "exit 1");
        assert!(ask().ends_with("bin/smbstatus failed"), "{}", ask());
        machine.program("bin/smbstatus", "echo nonsense");
        assert!(
            ask().starts_with("cannot parse the output of "),
            "{}",
            ask()
        );
        machine.mode("bin/smbstatus", 0o777);
        assert!(ask().contains("other users can change"), "{}", ask());
        let mut device = device();
        name(&mut device, &Err("why".to_owned()));
        assert!(
            device.to_string().contains("\nUsers        unknown: why\n"),
            "{device}"
        );
        assert!(
            !device.to_string().contains("credits"),
            "users have their column"
        );
    }
}
