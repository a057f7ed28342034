// SPDX-License-Identifier: GPL-2.0-or-later

//! The metrics, as Prometheus and the textfile collector of node_exporter get them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use instruments::daemon::{Daemon, Directory, SMBDIRECTCTL, stderr, stdout};
use instruments::peer::Peer;

fn metrics(control: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.arg("metrics").arg("--control").arg(control);
    command.args(arguments).output().expect("smbdirectctl runs")
}

/// The value of a series.
fn value(text: &str, series: &str) -> f64 {
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let value = found.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    value.parse().expect("a number")
}

#[test]
fn count_connections_and_why_they_ended() {
    let daemon = Daemon::start(&[]);
    let text = stdout(&metrics(&daemon.control, &[]));
    assert_eq!(value(&text, "smbdirect_up"), 1.0);
    assert_eq!(value(&text, "smbdirect_listener_attached"), 0.0);
    assert!(value(&text, "process_open_fds") > 5.0);
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value(&text, "smbdirect_start_time_seconds") > 1.7e9);

    let mut peer = Peer::connect(daemon.address());
    let fresh = "smbdirect_connections{fabric=\"software\",state=\"fresh\"}";
    let text = stdout(&metrics(&daemon.control, &["--connections"]));
    assert_eq!(value(&text, fresh), 1.0);
    assert!(text.contains(",peer=\"127.0.0.1:"), "{text}");
    // No process owns it.
    peer.negotiate([1; 16]);
    peer.wait_closed();
    daemon.wait_for_status(|status| status["closes"][0].is_object());
    let text = stdout(&metrics(&daemon.control, &[]));
    assert_eq!(value(&text, fresh), 0.0);
    for (series, expected) in [
        (
            "smbdirect_connections_accepted_total{fabric=\"software\"}",
            1.0,
        ),
        (
            "smbdirect_connections_negotiated_total{fabric=\"software\"}",
            1.0,
        ),
        (
            "smbdirect_connections_closed_total{fabric=\"software\",reason=\"no_listener\"}",
            1.0,
        ),
        (
            "smbdirect_messages_total{fabric=\"software\",direction=\"in\"}",
            1.0,
        ),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    assert!(!text.contains("peer=\""), "{text}");
}

#[test]
fn a_file_has_them_whole_and_says_when_the_device_is_gone() {
    let daemon = Daemon::start(&[]);
    let directory = Directory::new();
    let file = directory.0.join("smbdirect.prom");
    let textfile = ["--textfile", file.to_str().unwrap()];
    let output = metrics(&daemon.control, &textfile);
    assert!(
        output.status.success() && output.stdout.is_empty(),
        "{output:?}"
    );
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(value(&text, "smbdirect_up"), 1.0);

    let gone = daemon.kill();
    let output = metrics(&gone.control(), &textfile);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(
        stderr(&output).contains("no smbdirect device"),
        "{output:?}"
    );
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().last(), Some("smbdirect_up 0"), "{text}");
    assert_eq!(
        std::fs::read_dir(&directory.0).unwrap().count(),
        1,
        "no other file"
    );

    let output = metrics(&gone.control(), &["--textfile", "/nowhere/at.prom"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        stderr(&output).contains("/nowhere/at.prom: No such file"),
        "{output:?}"
    );
}

#[test]
fn promtool_finds_no_fault_with_them() {
    let daemon = Daemon::start(&[]);
    let text = metrics(&daemon.control, &["--connections"]).stdout;
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let Ok(mut promtool) = command.spawn() else {
        // Not with a macro, whose output the test harness captures.
        let text = "\nSKIPPED: the form of the metrics: promtool is not installed\n";
        std::io::stderr()
            .write_all(text.as_bytes())
            .expect("standard error");
        return;
    };
    promtool.stdin.take().unwrap().write_all(&text).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}
