// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests comparisons with files that are whole, changed, broken, and hostile.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use instruments::client::Channel;
use serde_json::{Value, json};

use super::*;
use crate::report::tests::{parameters, report, row};

/// A file that is deleted when this is dropped.
struct Temporary(PathBuf);

impl Temporary {
    fn new(text: &[u8]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("smbdirect-bench-{}-{count}.json", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn read(text: &[u8]) -> Result<Earlier, String> {
    let file = Temporary::new(text);
    Earlier::read(&file.0, &parameters())
}

/// Reads the results of the test's report after a change.
fn read_with(change: impl FnOnce(&mut Value)) -> Result<Earlier, String> {
    let mut value = serde_json::to_value(report()).unwrap();
    change(&mut value);
    read(value.to_string().as_bytes())
}

#[test]
fn a_file_with_very_many_cases_is_refused_before_they_take_memory() {
    let with = |count: usize| {
        read_with(|all| {
            let case = all["cases"][0].clone();
            all["cases"] = vec![case; count].into();
        })
    };
    assert!(with(MOST_CASES).is_ok());
    let error = with(MOST_CASES + 1).unwrap_err();
    assert!(
        error.contains("invalid length 1025, expected at most 1024 cases"),
        "{error}"
    );
}

/// Compares the test's report with one in which reads by TCP and by RDMA had these speeds.
pub(crate) fn comparison(tcp: &[u64], rdma: &[u64]) -> Comparison {
    let mut earlier = report();
    earlier.cases = vec![
        row(Transport::Tcp, Channel::None, tcp),
        row(Transport::SmbDirect, Channel::RdmaV1, rdma),
    ];
    let text = serde_json::to_string(&earlier).unwrap();
    read(text.as_bytes()).unwrap().compare(&report())
}

#[test]
fn a_run_is_the_same_as_itself() {
    let found = read_with(|_| {}).unwrap();
    assert_eq!(found.check_session(&report()), Ok(()));
    let comparison = found.compare(&report());
    assert_eq!(comparison.count(Verdict::Same), 2);
    assert!(comparison.only_now.is_empty() && comparison.only_earlier.is_empty());
    for case in &comparison.cases {
        for change in [
            case.megabytes_per_second,
            case.latency_p50_microseconds,
            case.latency_p99_microseconds,
            case.latency_p99_9_microseconds,
            case.client_cpu_seconds_per_gib,
        ] {
            // A number may change a little in the last place on its way through JSON.
            let ratio = change.ratio.unwrap();
            assert!((ratio - 1.0).abs() < 1e-9, "{case:?}");
        }
    }
}

#[test]
fn rounds_that_do_not_overlap_make_a_difference() {
    // The report has 100 to 120 MB/s over TCP, and 200 to 220 MB/s by RDMA.
    let comparison = comparison(&[90, 80, 99], &[230, 221, 250]);
    let verdicts: Vec<_> = comparison
        .cases
        .iter()
        .map(|case| {
            (
                case.megabytes_per_second.verdict,
                case.latency_p99_microseconds.verdict,
            )
        })
        .collect();
    let (better, worse) = (Some(Verdict::Better), Some(Verdict::Worse));
    assert_eq!(verdicts, [(better, better), (worse, worse)]);
    let tcp = comparison.cases[0].megabytes_per_second;
    assert_eq!((tcp.earlier.round(), tcp.now.round()), (90.0, 110.0));
    assert_eq!(tcp.ratio(), "1.22");
    let text = comparison.to_string();
    assert!(
        text.contains("1 better and 1 worse beyond the spread of the rounds, 0 the same"),
        "{text}"
    );
    assert!(text.contains(" 1.22 better "), "{text}");
    assert!(text.contains(" 0.91 worse "), "{text}");
    assert!(text.contains("2025-12-31T23:59:59"), "{text}");
}

#[test]
fn rounds_that_overlap_and_single_rounds_make_none() {
    assert_eq!(comparison(&[90, 100], &[220, 400]).count(Verdict::Same), 2);
    let single = comparison(&[50], &[400]);
    assert_eq!(single.count(Verdict::Unknown), 2);
    assert!(
        single
            .summary()
            .contains("2 unknown because there was a single round")
    );
}

#[test]
fn cases_of_one_run_only_are_named() {
    let found = read_with(|value| {
        value["cases"][1]["size"] = json!(999_424);
    });
    let comparison = found.unwrap().compare(&report());
    assert_eq!(comparison.cases.len(), 1);
    let text = comparison.to_string();
    let now = "smbdirect read channel 1, 1000000 x 1: only in this run";
    let then =
        "smbdirect read channel 1, 1000000 x 1 (in requests of 999424): only in the earlier run";
    assert!(text.contains(now) && text.contains(then), "{text}");
}

#[test]
fn a_run_with_other_options_is_refused() {
    for (name, value, words) in [
        (
            "operations",
            json!(["write", "read"]),
            "--operations read,write, now read",
        ),
        ("size", json!([4096]), "--size 4K, now 1000000"),
        ("depth", json!([8, 1]), "--depth 1,8, now 1"),
        ("channel", json!([0, 2]), "--channel 0,2, now by default"),
        (
            "transport",
            json!(["tcp"]),
            "--transport tcp, now tcp,smbdirect",
        ),
        ("seconds", json!(2.5), "--seconds 2.5, now 1"),
        ("seconds", json!(null), "--seconds none, now 1"),
        ("bytes", json!(1 << 30), "--bytes 1G, now none"),
        ("file_size", json!(1 << 20), "--file-size 1M, now 256M"),
        ("verify", json!(true), "--verify given, now not given"),
        ("no_bind", json!(true), "--no-bind given, now not given"),
    ] {
        let found = read_with(|all| all["parameters"][name] = value);
        let error = found.unwrap_err();
        assert!(error.contains(words), "{error}");
        assert!(
            error.contains("repeat the run with the same options"),
            "{error}"
        );
    }
    // Neither the order of a list nor a repetition changes what is measured.
    let same = read_with(|all| all["parameters"]["transport"] = json!(["smbdirect", "tcp", "tcp"]));
    assert!(same.is_ok());
}

#[test]
fn a_session_with_another_protection_is_refused() {
    for (name, value, words) in [
        (
            "encrypted",
            json!(true),
            "SMB 3.1.1, encrypted, but this session is SMB 3.1.1, not",
        ),
        ("signed", json!(true), "SMB 3.1.1, signed, but"),
        (
            "dialect",
            json!("3.0\u{1b}[2J"),
            "SMB 3.0?[2J, not protected, but",
        ),
    ] {
        let found = read_with(|all| all[name] = value).unwrap();
        let error = found.check_session(&report()).unwrap_err();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_file_of_another_form_is_refused() {
    for (text, words) in [
        (&b""[..], "not the output of smbdirectctl bench --json"),
        (b"[1, 2]", "not the output of smbdirectctl bench --json"),
        (
            b"{\"cases\": [",
            "not the output of smbdirectctl bench --json",
        ),
        (b"\xff\xfe{}", "UTF-8"),
        (b"{}", "no schema_version: measure again"),
        (b"{\"cases\": []}", "no schema_version: measure again"),
        (
            b"{\"schema_version\": 2}",
            "form 2 of the JSON, not 1: measure again",
        ),
        (b"{\"schema_version\": 1}", "missing field"),
        (b"{\"schema_version\": -1}", "not the output"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.contains(words), "{error}");
        assert!(error.starts_with("--compare: /"), "{error}");
    }
    // Nested too deeply for a parser that calls itself.
    assert!(read(&b"[".repeat(1 << 20)).is_err());
    let error = Earlier::read(Path::new("/nowhere/file"), &parameters()).unwrap_err();
    assert!(
        error.starts_with("--compare: /nowhere/file: No such file"),
        "{error}"
    );
    let endless = Earlier::read(Path::new("/dev/zero"), &parameters()).unwrap_err();
    assert!(endless.contains("longer than the 16 MiB"), "{endless}");
}

#[test]
fn impossible_numbers_are_refused() {
    let changed =
        |name: &str, value: Value| read_with(|all| all["cases"][0][name] = value).map(drop);
    assert_eq!(changed("megabytes_per_second", json!(5)), Ok(()));
    for (name, value, words) in [
        (
            "megabytes_per_second",
            json!(-1.0),
            "tcp read channel 0, 1000000 x 1 has a number",
        ),
        ("megabytes_per_second", json!(1e300), "out of range"),
        ("megabytes_per_second", json!(null), "invalid type"),
        ("latency_p99_microseconds", json!(-0.5), "out of range"),
        ("client_cpu_seconds_per_gib", json!(-0.5), "out of range"),
        ("runs", json!([]), "has no runs"),
        ("requests", json!(331), "another number of requests"),
        ("depth", json!(65_536), "invalid value"),
        (
            "transport",
            json!("quic\u{1b}[2J"),
            "unknown variant `quic?[2J`",
        ),
        ("channel", json!(-1), "invalid value"),
        (
            "latency_histogram",
            json!({"longest_nanoseconds": 1, "buckets": "99999999x1"}),
            "a bucket is out of range",
        ),
    ] {
        let error = changed(name, value).unwrap_err();
        assert!(error.contains(words), "{name}: {error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    let run = read_with(|all| all["cases"][0]["runs"][2]["latency_p99_microseconds"] = json!(-1));
    assert!(run.unwrap_err().contains("out of range"));
    // JSON has neither infinity nor not-a-number.
    let text = serde_json::to_string(&report()).unwrap();
    for number in ["1e999", "NaN", "Infinity"] {
        let text = text.replacen("\"requests\":330", &format!("\"requests\":{number}"), 1);
        assert!(read(text.as_bytes()).is_err(), "{number}");
    }
}

#[test]
fn texts_of_the_file_do_not_control_the_terminal() {
    let found = read_with(|all| all["share"] = json!("//evil\u{1b}[2J\n/share"));
    let text = found.unwrap().compare(&report()).to_string();
    assert!(text.contains("//evil?[2J?/share"), "{text}");
    let is_printed = |c: char| c == '\n' || !c.is_control();
    assert!(text.chars().all(is_printed), "{text:?}");
}
