// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl doctor` with and without a daemon. The doctor's own unit tests cover what this machine does not
//! have.

mod client;
mod machine;
mod server;

use std::path::Path;
use std::process::{Command, Output};

use instruments::daemon::{Daemon, Directory, SMBDIRECTCTL, Setup, stderr, stdout};
use instruments::peer::Peer;
use serde_json::Value;
use smbdirect::device::{Handle, Role};

/// Examines the server of this control socket. There is no smbd.
fn doctor(control: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.args(["doctor", "--smbd", "/nowhere/smbd", "--control"]);
    let output = command.arg(control).args(arguments).output();
    output.expect("smbdirectctl runs")
}

/// Returns the text for people without its line breaks.
fn text(output: &Output) -> String {
    let said = stdout(output);
    let words: Vec<&str> = said.split_whitespace().collect();
    words.join(" ")
}

/// Returns the findings of a check.
fn findings<'a>(report: &'a Value, check: &str) -> Vec<&'a Value> {
    let all = report["findings"].as_array().expect("findings").iter();
    all.filter(|finding| finding["check"] == check).collect()
}

#[test]
fn says_that_the_daemon_does_not_run() {
    let directory = Directory::new();
    let output = doctor(&directory.control(), &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stdout(&output);
    assert!(said.starts_with("smbdirectd -, smbd -\n"), "{said}");
    assert!(
        said.contains(" FAIL  smbdirectd does not answer on "),
        "{said}"
    );
    assert!(
        said.contains("       -> systemctl start smbdirectd"),
        "{said}"
    );
    let output = doctor(&directory.control(), &["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["result"], "fail", "{report}");
    assert_eq!(findings(&report, "device")[0]["result"], "fail", "{report}");
}

#[test]
fn says_that_no_smbd_is_attached_and_what_is_known_of_a_client() {
    let daemon = Daemon::start(&[]);
    let mut peer = Peer::connect(daemon.address());
    let about_client = ["--json", "--client", "127.0.0.1"];
    let examine = || {
        let output = doctor(&daemon.control, &about_client);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let report = examine();
    assert_eq!(report["smbdirectd"], env!("CARGO_PKG_VERSION"), "{report}");
    assert_eq!(findings(&report, "device")[0]["result"], "ok", "{report}");
    let smbd = findings(&report, "smbd")[0];
    assert_eq!(smbd["result"], "fail", "{report}");
    let cure = smbd["cure"].as_str().expect("a cure");
    assert!(cure.contains("install and start smbd"), "{cure}");
    let client = findings(&report, "client")[0]["message"].as_str();
    assert!(
        client.is_some_and(|it| it.contains("nobody has logged in")),
        "{report}"
    );

    peer.negotiate([1; 16]);
    peer.wait_closed();
    daemon.wait_for_status(|status| status["closes"][0].is_object());
    let report = examine();
    let client = findings(&report, "client")[0]["message"].as_str();
    assert!(
        client.is_some_and(|it| it.contains(": no_listener")),
        "{report}"
    );
}

/// The device names the process of smbd, and root must not run whatever it names: here it is this test program.
#[test]
fn runs_no_other_program_than_smbd() {
    let directory = Directory::new();
    directory.file("smbdirectd.toml", "claim_timeout = \"100 ms\"");
    let daemon = Daemon::start_in(directory, &Setup::default());
    let _listener = Handle::attach(&daemon.control, Role::Listener, None).expect("a listener");
    daemon.wait_for_status(|status| status["processes"][0]["role"] == "listener");
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.args(["doctor", "--json", "--control"]);
    let output = command.arg(&daemon.control).output().expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["smbd"], Value::Null, "{report}");
    let [attached, not_examined] = findings(&report, "smbd")[..] else {
        panic!("two findings in {report}");
    };
    assert_eq!(attached["result"], "ok", "{report}");
    assert_eq!(not_examined["result"], "skipped", "{report}");
    let said = not_examined["message"].as_str().expect("a message");
    assert!(said.contains("is not called smbd"), "{said}");
    assert_eq!(
        findings(&report, "smb.conf")[0]["result"],
        "skipped",
        "{report}"
    );
}

#[test]
fn refuses_a_client_that_is_not_an_address() {
    let output = doctor(Path::new("/nowhere/control"), &["--client", "somewhere"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(stderr(&output).contains("somewhere"));
}
