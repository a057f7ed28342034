// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the script for clients and what the doctor says about their reports, as an administrator sees it. The cases are
//! those that users of SMB Direct have reported.

use std::fs::File;
use std::process::{Command, Output, Stdio};

use instruments::daemon::{Directory, SMBDIRECTCTL, stderr, stdout};
use serde_json::{Value, json};

use super::{doctor, findings, text};

/// Makes the report of a Windows client on which only this is wrong.
fn windows(wrong: Value) -> String {
    let mut report = json!({
        "smbdirect_client_report": 1, "system": "windows", "time": "2026-11-30T12:00:00Z", "host": "PC1",
        "privileged": true, "edition": "Enterprise", "build": 26100, "name": "Microsoft Windows 11 Enterprise",
        "is_server": false, "feature": "Enabled", "network_direct": "Enabled",
        "configuration": {"multichannel": true, "require_signing": true},
        "interfaces": [{"name": "RDMA1", "rdma": true, "addresses": ["10.0.0.21"]}],
        "adapters": [{"name": "RDMA1", "enabled": true, "operational": true, "technology": "4"}],
        "channels": [], "events": [], "unread": [],
    });
    change(&mut report, wrong);
    report.to_string()
}

/// Makes the report of a Linux client on which only this is wrong.
fn linux(wrong: Value) -> String {
    let mut report = json!({
        "smbdirect_client_report": 1, "system": "linux", "time": "2026-11-30T12:00:00Z", "host": "pc2",
        "privileged": true, "kernel": "6.17.4-200.fc43", "smb_direct": "y", "cifs": "loaded",
        "devices": [{"name": "mlx5_0", "port": "1", "state": "4: ACTIVE", "link_layer": "Ethernet",
                     "node_type": "1: CA", "interface": "eth1"}],
        "mounts": [{"source": "//10.0.0.1/share", "options": "vers=3.1.1,addr=10.0.0.1,rdma", "address": "10.0.0.1",
                    "interface": "eth1"}],
        "addresses": ["10.0.0.22"], "debug_data": [], "unread": [],
    });
    change(&mut report, wrong);
    report.to_string()
}

fn change(report: &mut Value, wrong: Value) {
    let wrong = wrong.as_object().expect("members").clone();
    report.as_object_mut().expect("an object").extend(wrong);
}

/// Runs the doctor for the report in a file. There is neither smbdirectd nor smbd.
fn judge(directory: &Directory, report: &str, arguments: &[&str]) -> Output {
    let file = directory.file("report.json", report);
    let arguments = [
        &["--client-report", file.to_str().expect("a path")],
        arguments,
    ]
    .concat();
    doctor(&directory.control(), &arguments)
}

#[test]
fn the_cases_of_public_reports_end_in_the_right_line() {
    let directory = Directory::new();
    let multichannel = json!({"configuration": {"multichannel": false}});
    let edition =
        json!({"edition": "Professional", "name": "Microsoft Windows 10 Pro", "feature": "Absent"});
    let not_capable =
        json!({"interfaces": [{"name": "Ethernet", "rdma": false, "addresses": ["10.0.0.21"]}]});
    let off = json!({"adapters": [{"name": "RDMA1", "enabled": false, "operational": false}]});
    let firewall =
        json!({"server": {"address": "10.0.0.1", "tcp_445": "open", "tcp_5445": "silent"}});
    let no_option = json!({"mounts": [{"source": "//10.0.0.1/share", "options": "vers=3.1.1,addr=10.0.0.1",
                                       "address": "10.0.0.1", "interface": "eth1"}]});
    let wrong_way = json!({"mounts": [{"source": "//192.168.1.1/share", "options": "vers=3.1.1",
                                       "address": "192.168.1.1", "interface": "eth0"}]});
    for (report, line, cure) in [
        (
            windows(multichannel),
            "FAIL SMB multichannel is off on the client",
            "-> Set-SmbClientConfiguration -EnableMultiChannel $true",
        ),
        (
            windows(edition),
            "FAIL Microsoft Windows 10 Pro has no SMB Direct client",
            "-> use Windows Pro for Workstations, Enterprise, Education, or Windows Server",
        ),
        (
            windows(json!({"feature": "Disabled"})),
            "FAIL the client's Windows feature SMBDirect is off",
            "-> Enable-WindowsOptionalFeature -Online -FeatureName SMBDirect",
        ),
        (
            windows(not_capable),
            "FAIL no interface of the client has RDMA for SMB: Ethernet (10.0.0.21)",
            "-> give an address to the adapter with RDMA itself",
        ),
        (
            windows(off),
            "FAIL RDMA is off on the client's adapter RDMA1",
            "-> Enable-NetAdapterRdma",
        ),
        (
            windows(json!({"build": 19045})),
            "warn the client requires signing, but has no RDMA transforms (build 19045)",
            "-> use Windows 11 or Server 2022",
        ),
        (
            windows(firewall.clone()),
            "FAIL nothing answers the client at TCP port 5445 of 10.0.0.1: a firewall drops its packets",
            "-> open TCP port 5445",
        ),
        (
            linux(json!({"smb_direct": "n"})),
            "FAIL the client's kernel 6.17.4-200.fc43 was built without CONFIG_CIFS_SMB_DIRECT",
            "-> use a kernel with this option",
        ),
        (
            linux(json!({"cifs": "absent"})),
            "FAIL the client does not have the module cifs",
            "-> install the package with the kernel's other modules",
        ),
        (
            linux(json!({"devices": []})),
            "FAIL the client has no RDMA device",
            "modprobe siw",
        ),
        (
            linux(no_option),
            "FAIL //10.0.0.1/share is mounted without the option rdma",
            "-> mount the share with -t cifs -o rdma",
        ),
        (
            linux(wrong_way),
            "FAIL the client reaches 192.168.1.1 over eth0, which has no RDMA device (those are on eth1)",
            "-> mount an address of this server",
        ),
        (
            linux(firewall),
            "FAIL nothing answers the client at TCP port 5445 of 10.0.0.1",
            "-> open TCP port 5445",
        ),
    ] {
        let output = judge(&directory, &report, &[]);
        let said = text(&output);
        let (_, rest) = said
            .split_once(line)
            .unwrap_or_else(|| panic!("no {line:?} in {said}"));
        assert!(rest.contains(cure), "{cure:?}: {said}");
        // The server's checks are there as well, and say that smbdirectd does not run.
        assert!(said.contains("FAIL smbdirectd does not answer"), "{said}");
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            stdout(&output)
                .lines()
                .all(|line| line.chars().count() <= 100),
            "{said}"
        );
    }
    for healthy in [windows(json!({})), linux(json!({}))] {
        let said = text(&judge(&directory, &healthy, &[]));
        let (_, of_client) = said.split_once("the report is about").expect("a line");
        assert!(
            !of_client.contains("FAIL") && !of_client.contains("warn"),
            "{said}"
        );
    }
}

#[test]
fn the_report_may_come_as_powershell_writes_it_and_from_standard_input() {
    let directory = Directory::new();
    let report = windows(json!({"feature": "Disabled"}));
    let units = "\u{feff}".encode_utf16().chain(report.encode_utf16());
    let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
    let file = directory.0.join("report.json");
    std::fs::write(&file, bytes).expect("write a file");
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.args([
        "doctor",
        "--smbd",
        "/nowhere/smbd",
        "--json",
        "--client",
        "10.0.0.9",
    ]);
    command
        .args(["--client-report", "-", "--control"])
        .arg(directory.control());
    command.stdin(File::open(&file).expect("a file"));
    let output = command.output().expect("it runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let feature = findings(&report, "client feature");
    assert_eq!(feature[0]["result"], "fail", "{report}");
    assert_eq!(
        findings(&report, "client report")[1]["result"],
        "warn",
        "{report}"
    );
    assert_eq!(
        findings(&report, "client")[0]["result"],
        "skipped",
        "{report}"
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_report_that_cannot_be_read_is_refused() {
    let directory = Directory::new();
    for (report, words) in [
        ("", "not JSON"),
        ("{}", "not the report of a client"),
        (&" ".repeat((1 << 20) + 1), "larger than 1048576 bytes"),
    ] {
        let output = judge(&directory, report, &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(words), "{output:?}");
        assert_eq!(stdout(&output), "");
    }
    let missing = ["--client-report", "/nowhere/report.json"];
    let output = doctor(&directory.control(), &missing);
    assert!(
        stderr(&output).contains("/nowhere/report.json: No such file"),
        "{output:?}"
    );
    assert_eq!(output.status.code(), Some(1));
    // It does not wait for the end of a file that has none.
    let output = doctor(&directory.control(), &["--client-report", "/dev/zero"]);
    assert!(stderr(&output).contains("larger than"), "{output:?}");
}

#[test]
fn the_script_is_printed_and_its_output_is_a_report() {
    let directory = Directory::new();
    let script = |system: &str| {
        let mut command = Command::new(&*SMBDIRECTCTL);
        let output = command.args(["doctor", "--client-script", system]).output();
        output.expect("it runs")
    };
    let windows = script("windows");
    assert!(windows.status.success(), "{windows:?}");
    assert!(stdout(&windows).contains("Get-SmbClientConfiguration"));
    let linux = script("linux");
    assert!(linux.status.success(), "{linux:?}");
    let file = directory.file("check.sh", &stdout(&linux));
    let mut check = Command::new("sh");
    let check = check
        .arg(file)
        .stderr(Stdio::inherit())
        .output()
        .expect("sh runs");
    let output = judge(&directory, &stdout(&check), &[]);
    let said = text(&output);
    assert!(said.contains("the report is about"), "{said}");
    assert!(said.contains("Linux "), "{said}");
    for arguments in [
        &["--client-script", "macos"][..],
        &["--client-script", "linux", "--json"],
    ] {
        let mut command = Command::new(&*SMBDIRECTCTL);
        let output = command
            .arg("doctor")
            .args(arguments)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn the_script_tells_a_name_without_an_address_from_a_refused_connection() {
    let directory = Directory::new();
    let mut script = Command::new(&*SMBDIRECTCTL);
    let script = script.args(["doctor", "--client-script", "linux"]).output();
    let script = directory.file("check.sh", &stdout(&script.expect("it runs")));
    let path = std::env::var("PATH").expect("a path");
    let path = format!("{}:{path}", directory.0.display());
    // What bash says about a connection that fails, with glibc and with musl.
    for (said, answer) in [
        ("srv: line 1: srv: Name or service not known", "unresolved"),
        (
            "srv: line 1: srv: Temporary failure in name resolution",
            "unresolved",
        ),
        (
            "srv: line 1: srv: No address associated with hostname",
            "unresolved",
        ),
        ("srv: srv: Name does not resolve", "unresolved"),
        ("srv: srv: Try again", "unresolved"),
        ("srv: connect: Connection refused", "refused"),
        ("srv: connect: No route to host", "refused"),
    ] {
        let bash = directory.0.join("bash");
        // Another process writes the program, so that this one never has it open for writing.
        let mut write = Command::new("sh");
        write.args(["-c", "printf '%s' \"$1\" >\"$0\" && chmod 755 \"$0\""]);
        write
            .arg(&bash)
            .arg(format!("#!/bin/sh\necho '{said}' >&2\nexit 1\n"));
        assert!(write.status().expect("sh runs").success());
        let mut check = Command::new("sh");
        let check = check.arg(&script).arg("srv").env("PATH", &path).output();
        let report: Value =
            serde_json::from_slice(&check.expect("sh runs").stdout).expect("a report");
        assert_eq!(report["server"]["tcp_5445"], answer, "{said}");
        assert_eq!(report["server"]["tcp_445"], answer, "{said}");
    }
}
