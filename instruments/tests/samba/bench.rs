// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl bench` as people use it.

use std::process::{Command, Output};

use instruments::daemon::{SMBDIRECTCTL, stderr};
use instruments::samba::{PASSWORD, SHARE, Server, Setup};

/// Runs the benchmark with small files.
fn bench(server: &Server, password: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command
        .arg("bench")
        .arg(format!("//127.0.0.1:{}/{SHARE}", server.tcp.port()));
    command.arg("-U").arg(format!("{}%{password}", server.user));
    command.args([
        "--file-size",
        "4M",
        "--bytes",
        "4M",
        "--rounds",
        "2",
        "--size",
        "64K,4K",
        "--verify",
    ]);
    command.args(arguments).output().expect("smbdirectctl runs")
}

fn cases(output: &Output) -> Vec<serde_json::Value> {
    assert!(output.status.success(), "{}", stderr(output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["cases"].as_array().expect("cases").clone()
}

#[test]
fn measures_both_transports_and_leaves_no_file() {
    let server = Server::start();
    let direct = server.smb_direct.to_string();
    // Without a device, smbd takes data only in messages.
    let channel = if server.places_directly { "0,1,2" } else { "0" };
    let arguments = [
        "--address",
        &direct,
        "--channel",
        channel,
        "--depth",
        "1,4",
        "--json",
    ];
    for more in [&[][..], &["--no-bind"], &["--dialect", "3.0.2"]] {
        let output = bench(&server, PASSWORD, &[&arguments[..], more].concat());
        let cases = cases(&output);
        let channels = if server.places_directly { 3 } else { 1 };
        assert_eq!(cases.len(), 8 + 8 * channels, "{more:?}");
        for case in &cases {
            assert_eq!(case["bytes"], 8 << 20, "{case}");
            assert_eq!(case["rounds"], 2, "{case}");
            let speed = |name: &str| case[name].as_f64().expect("a number");
            let (least, most) = (
                speed("megabytes_per_second_least"),
                speed("megabytes_per_second_most"),
            );
            let median = speed("megabytes_per_second");
            assert!(0.0 < least && least <= median && median <= most, "{case}");
        }
    }
    let left = std::fs::read_dir(&server.files).expect("the share").count();
    assert_eq!(left, 0, "files are left");
}

/// The client runs on the server's machine, so it sees the port and the processes of the server.
#[test]
fn finds_the_device_of_its_own_machine_and_writes_a_page() {
    let server = Server::start();
    if !server.places_directly {
        return;
    }
    let page = server.directory().join("page.html");
    let (page, control) = (page.to_str().expect("UTF-8"), server.control_socket());
    let control = control.to_str().expect("UTF-8");
    let arguments = [
        "--address",
        "127.0.0.1",
        "--control",
        control,
        "--depth",
        "4",
    ];
    let arguments = [&arguments[..], &["--json", "--html", page]].concat();
    let output = bench(&server, PASSWORD, &arguments);
    let cases = cases(&output);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["smb_direct"], server.smb_direct.to_string());
    assert!(report["smbdirectd_version"].is_string(), "{report}");
    for case in &cases {
        for program in ["smbd", "smbdirectd"] {
            let cpu = &case[format!("{program}_cpu_seconds_per_gib")];
            assert!(cpu.as_f64() >= Some(0.0), "{program}: {case}");
        }
    }
    let html = std::fs::read_to_string(page).expect("the page");
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
    // Throughput and processor time of reads and of writes, and latencies and time lines of two sizes of each.
    assert_eq!(html.matches("<figure>").count(), 2 * (2 + 2 * 2));
}

#[test]
fn moves_signed_or_encrypted_data_by_rdma_with_transforms() {
    let server = Server::start();
    if !server.places_directly {
        return;
    }
    let direct = server.smb_direct.to_string();
    for protection in ["--sign", "--seal"] {
        for bound in [&[][..], &["--no-bind"]] {
            let arguments = [protection, "--address", &direct, "--depth", "4", "--json"];
            let arguments = [&arguments[..], &["--channel", "1,2"], bound].concat();
            let output = bench(&server, PASSWORD, &arguments);
            let cases = cases(&output);
            // Data that is read, and data that is read back after writing, is compared with the expected data.
            assert_eq!(cases.len(), 12);
            let placed = cases.iter().filter(|case| case["channel"] != 0);
            assert_eq!(placed.count(), 8, "{cases:?}");
        }
    }
}

#[test]
fn moves_signed_or_encrypted_data_in_messages_without_transforms_and_refuses_rdma_for_it() {
    let server = Server::start();
    let direct = server.smb_direct.to_string();
    for protection in ["--sign", "--seal"] {
        let arguments = [
            protection,
            "--no-transforms",
            "--address",
            &direct,
            "--depth",
            "4",
            "--json",
        ];
        let output = bench(&server, PASSWORD, &arguments);
        let cases = cases(&output);
        assert_eq!(cases.len(), 8);
        assert!(cases.iter().all(|case| case["channel"] == 0), "{cases:?}");
        let placed = [&arguments[..], &["--channel", "1"]].concat();
        let output = bench(&server, PASSWORD, &placed);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("--channel 0"),
            "{}",
            stderr(&output)
        );
    }
}

/// The share is encrypted, but the session as a whole is not.
#[test]
fn moves_data_of_an_encrypted_share_in_messages_without_transforms() {
    let server = Server::start_with(Setup {
        share: &["smb encrypt = required"],
        ..Setup::default()
    });
    let direct = server.smb_direct.to_string();
    let arguments = ["--no-transforms", "--address", &direct, "--depth", "4"];
    let json = [&arguments[..], &["--json"]].concat();
    let cases = cases(&bench(&server, PASSWORD, &json));
    assert_eq!(cases.len(), 8);
    assert!(cases.iter().all(|case| case["channel"] == 0), "{cases:?}");
    let output = bench(&server, PASSWORD, &arguments);
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(shown.contains(", encrypted; TCP at"), "{shown}");
}

/// An smbd with `smb encrypt = required` for the whole server does not bind a channel to an encrypted session, no
/// matter what encrypts the session.
#[test]
fn smb_direct_needs_a_session_of_its_own_if_the_server_encrypts_everything() {
    let server = Server::start_with(Setup {
        global: &["smb encrypt = required"],
        ..Setup::default()
    });
    let direct = server.smb_direct.to_string();
    let arguments = ["--address", &direct, "--depth", "4", "--json"];
    let output = bench(&server, PASSWORD, &arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("; --no-bind uses"), "{said}");
    assert!(!said.contains("--seal"), "{said}");
    let alone = [&arguments[..], &["--no-bind"]].concat();
    // If data can go by RDMA, 4 KiB are also measured in messages.
    let expected = if server.places_directly { 10 } else { 8 };
    let measured = cases(&bench(&server, PASSWORD, &alone)).len();
    assert_eq!(measured, expected);
}

#[test]
fn a_failure_is_one_line_with_a_cure() {
    let server = Server::start();
    let output = bench(&server, "wrong", &[]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(
        said.contains("STATUS_LOGON_FAILURE") && said.lines().count() == 1,
        "{said}"
    );
    if !server.places_directly {
        let output = bench(&server, PASSWORD, &["--transport", "smbdirect"]);
        assert!(
            stderr(&output).contains("smb direct = yes"),
            "{}",
            stderr(&output)
        );
    }
    let left = std::fs::read_dir(&server.files).expect("the share").count();
    assert_eq!(left, 0, "files are left");
}
