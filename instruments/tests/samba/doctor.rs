// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl doctor` with a real smbd: first all is well, and then something is not.

use std::path::Path;
use std::process::Command;

use instruments::client::{Config, Connection, Credentials, TransformType};
use instruments::daemon::{Directory, SMBDIRECTCTL};
use instruments::samba::{Samba, Server, Setup};
use serde_json::Value;

use crate::channel::{Client, device};
use crate::sessions::{GUID, credentials, log_in};

fn examine(server: &Server, control: &Path) -> Value {
    examine_with(server, control, &[])
}

fn examine_with(server: &Server, control: &Path, arguments: &[&str]) -> Value {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.args(["doctor", "--json"]).args(arguments);
    command.arg("--control").arg(control);
    command.arg("--smbd").arg(server.program("smbd"));
    command.arg("--smb-conf").arg(server.config());
    let output = command.output().expect("smbdirectctl runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Returns what the doctor says about this machine as a client.
fn said_about_this_machine(server: &Server) -> String {
    let report = examine_with(server, &server.device().control, &["--client", "127.0.0.1"]);
    let all = report["findings"].as_array().expect("findings").iter();
    let mut messages = all
        .filter(|it| it["check"] == "client")
        .map(|it| &it["message"]);
    let said = messages.next().and_then(Value::as_str);
    said.unwrap_or_else(|| panic!("nothing about the client in {report}"))
        .to_owned()
}

/// Returns the findings with this result: all of them, or those of one check.
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
    // Clients are told only of loopback, and this machine may have a firewall: both cause warnings.
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
        said.iter()
            .any(|it| it.contains("only for clients with RDMA transforms")),
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
            .any(|it| it.contains("is off: smbd serves TCP only")),
        "{report}"
    );
}

/// The program that reads smb.conf here is the real testparm.
#[test]
fn the_doctor_says_which_parameter_of_smb_conf_is_in_the_way() {
    let samba = Samba::from_environment();
    if !samba.has_smb_direct() {
        println!("this smbd has no SMB Direct");
        return;
    }
    let directory = Directory::new();
    for (parameter, line) in [
        ("smb direct = no", "FAIL  \"smb direct\" is not \"yes\""),
        (
            "server multi channel support = no",
            "FAIL  \"server multi channel support\" is off",
        ),
        (
            "server max protocol = SMB2",
            "FAIL  \"server max protocol\" is smb2",
        ),
        (
            "server signing = mandatory",
            "warn  \"server signing\" is required",
        ),
        (
            "server smb encrypt = required",
            "warn  \"server smb encrypt\" is required",
        ),
        (
            "smb direct device = /other",
            "warn  \"smb direct device\" is /other",
        ),
        ("log level = 1", "ok    smb.conf has what SMB Direct needs"),
    ] {
        // testparm fails if one of these directories does not exist.
        let own = directory.0.display();
        let directories = [
            "lock directory",
            "state directory",
            "cache directory",
            "pid directory",
            "private dir",
        ];
        let directories = directories.map(|name| format!("{name} = {own}\n")).concat();
        let config = format!(
            "[global]\n{directories}smb direct = yes\nsmb direct device = /nowhere\n{parameter}\n"
        );
        let config = directory.file("smb.conf", &config);
        let mut command = Command::new(&*SMBDIRECTCTL);
        command.args(["doctor", "--control", "/nowhere", "--smbd"]);
        command.arg(samba.program("smbd"));
        let output = command.arg("--smb-conf").arg(config).output();
        let output = output.expect("smbdirectctl runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(line), "{parameter}: {line}: {said}");
    }
}

#[test]
fn smbd_tells_the_device_what_decides_whether_a_client_uses_rdma() {
    let server = device(Setup::default());
    let client = |status: &Value| status["clients"][0].clone();
    let after = |is_so: &dyn Fn(&Value) -> bool| {
        let status = server
            .device()
            .wait_for_status(|status| is_so(&client(status)));
        client(&status)
    };
    let config = Config {
        transforms: vec![],
        ..Config::new(GUID)
    };
    let mut tcp = log_in(&server, config.clone());
    let told = after(&|it| it["dialect"] == "3.1.1");
    assert_eq!(told["address"], "127.0.0.1");
    assert_eq!(told["multichannel"], true);
    assert_eq!(told["asked"], 0);
    let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
    let interfaces = tcp.network_interfaces(tree).expect("interfaces");
    let rdma = interfaces.iter().filter(|it| it.rdma).count();
    let told = after(&|it| it["asked"] == 1);
    assert_eq!(told["told"], rdma);
    // The doctor repeats smbd's finding.
    let said = said_about_this_machine(&server);
    assert!(
        said.contains("it asked for the server's interfaces"),
        "{said}"
    );
    // Make a connection that is not bound, because the password is wrong.
    let mut direct = Connection::smb_direct(server.smb_direct, config.clone()).expect("SMB Direct");
    let wrong = Credentials {
        password: "wrong".to_owned(),
        ..credentials(&server)
    };
    direct.bind(&tcp, &wrong).expect_err("no binding");
    let told = after(&|it| it["refused"] == 1);
    assert_eq!(told["refusal"], "0xc000006d");
    drop((tcp, direct));
    // Check what happens to the data on a connection.
    for (sign, seal, transforms, protection) in [
        (false, false, vec![], "plain"),
        (true, false, vec![], "signed in messages"),
        (true, false, vec![TransformType::Signing], "signed"),
    ] {
        let config = Config {
            sign,
            seal,
            transforms,
            ..config.clone()
        };
        let one = Client::connect_with(&server, config);
        let is_so = |status: &Value| {
            let mut connections = status["connections"].as_array().expect("a list").iter();
            connections.any(|it| it["protection"] == protection)
        };
        server.device().wait_for_status(is_so);
        drop(one);
        server
            .device()
            .wait_for_status(|status| status["connections"] == Value::Array(vec![]));
    }
    // The server itself is not among the clients that stay with TCP, although smbd tells about the doctor's
    // connections, too.
    for _ in 0..2 {
        let report = examine(&server, &server.device().control);
        assert!(with(&report, "ok", Some("clients")).is_empty(), "{report}");
    }
}

#[test]
fn the_doctor_says_why_smbd_did_not_announce_rdma() {
    let server = device(Setup::default());
    let wait_for = |count: &str| {
        let is_so = |status: &Value| status["clients"][0][count] == 1;
        server.device().wait_for_status(is_so);
    };
    let ask = |sign: bool| {
        let config = Config {
            sign,
            transforms: vec![],
            ..Config::new(GUID)
        };
        let mut tcp = log_in(&server, config);
        let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
        tcp.network_interfaces(tree).expect("interfaces");
    };
    ask(false);
    wait_for("asked");
    // A client that signs and has no RDMA transform for that is told of no RDMA, which is what counts from then on.
    ask(true);
    wait_for("withheld");
    let said = said_about_this_machine(&server);
    assert!(said.contains("does not support RDMA transforms"), "{said}");
}
