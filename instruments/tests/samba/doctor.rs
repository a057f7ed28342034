// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl doctor` beside a real smbd: all is well, and then something is not.

use std::path::Path;
use std::process::Command;

use instruments::daemon::SMBDIRECTCTL;
use instruments::samba::{Server, Setup};
use serde_json::Value;

fn examine(server: &Server, control: &Path) -> Value {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.args(["doctor", "--json", "--control"]);
    command.arg(control);
    command.arg("--smbd").arg(server.program("smbd"));
    command.arg("--smb-conf").arg(server.config());
    let output = command.output().expect("smbdirectctl runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// The findings with this result; of a check, if one is named.
fn with(report: &Value, result: &str, check: Option<&str>) -> Vec<String> {
    let all = report["findings"].as_array().expect("findings").iter();
    let of =
        all.filter(|it| it["result"] == result && check.is_none_or(|check| it["check"] == check));
    of.map(|it| it["message"].to_string()).collect()
}

#[test]
fn the_doctor_finds_nothing_wrong_and_smbd_answers_it_by_smb_direct() {
    let server = Server::start();
    if !server.places_directly {
        println!("this smbd has no SMB Direct");
        return;
    }
    let report = examine(&server, &server.device().control);
    // Clients are told of loopback, and this machine may have a firewall of its own: both are warnings.
    assert!(with(&report, "fail", None).is_empty(), "{report}");
    for check in ["device", "smbd", "smb.conf", "end to end"] {
        assert!(
            !with(&report, "ok", Some(check)).is_empty(),
            "{check}: {report}"
        );
    }
    assert!(
        report["smbd"]
            .as_str()
            .is_some_and(|it| it.starts_with("4.")),
        "{report}"
    );
}

#[test]
fn the_doctor_says_that_data_must_be_signed() {
    let server = Server::start_with(Setup {
        global: &["server signing = mandatory"],
        ..Setup::default()
    });
    if !server.places_directly {
        println!("this smbd has no SMB Direct");
        return;
    }
    let report = examine(&server, &server.device().control);
    let said = with(&report, "warn", Some("smb.conf"));
    assert!(
        said.iter().any(|it| it.contains("no data goes by RDMA")),
        "{report}"
    );
}

#[test]
fn the_doctor_says_that_multichannel_is_off_even_without_a_device() {
    let server = Server::start_with(Setup {
        global: &["server multi channel support = no"],
        without_device: true,
        ..Setup::default()
    });
    if !server.places_directly {
        println!("this smbd has no SMB Direct");
        return;
    }
    let report = examine(&server, Path::new("/nowhere/control"));
    let said = with(&report, "fail", Some("smb.conf"));
    assert!(
        said.iter()
            .any(|it| it.contains("multi channel support is off")),
        "{report}"
    );
}
