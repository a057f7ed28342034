// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that smbdirectctl names the users of a real smbd.

use std::process::{Command, Output};

use instruments::client::Config;
use instruments::daemon::{SMBDIRECTCTL, stderr, stdout};
use instruments::samba::{Server, Setup};
use serde_json::Value;

use crate::channel::{bind, device};
use crate::sessions::{GUID, log_in};

/// Shows the status with users. In a build tree of Samba, smbstatus is not beside smbd. So it is in the path.
fn status(server: &Server, arguments: &[&str]) -> Output {
    let smbstatus = server.program("smbstatus");
    let directory = smbstatus.parent().expect("a directory");
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.args(["status", "--users", "--control"]);
    command.arg(&server.device().control).args(arguments);
    let output = command.env("PATH", directory).output();
    let output = output.expect("smbdirectctl runs");
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn status_names_the_user_of_a_connection() {
    let server = device(Setup::default());
    let tcp = log_in(&server, Config::new(GUID));
    let _direct = bind(&server, &tcp);
    let output = status(&server, &["--json"]);
    let said = stderr(&output);
    // Neither another user nor a Samba that other users can change may be asked.
    if said.contains("only root") || said.contains("other users can change") {
        return println!("SKIPPED: {said}");
    }
    assert_eq!(said, "");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let connections = json["connections"].as_array().expect("connections");
    assert_eq!(connections.len(), 1, "{json}");
    assert_eq!(connections[0]["user"], server.user, "{json}");
    let shown = stdout(&status(&server, &["127.0.0.1"]));
    let line = format!("\nUser         {}\n", server.user);
    assert!(shown.contains(&line), "{shown}");
    let shown = stdout(&status(&server, &[]));
    assert!(shown.contains(&format!(" {} ", server.user)), "{shown}");
}
