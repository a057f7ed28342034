// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `smbdirectctl-bench` from its command line to its page, with the server of the client's tests. The bridge
//! carries that server's TCP. `instruments/tests/samba` tests it with a real smbd.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread::JoinHandle;

use instruments::daemon::{Daemon, Directory, stderr, stdout};
use smbdirect::bridge::{Bridge, Config, Stopper};

use crate::client::server::{Manners, Server};

/// A server over TCP and over SMB Direct.
struct Scene {
    server: Server,
    tcp: SocketAddr,
    stopper: Stopper,
    bridge: Option<JoinHandle<()>>,
    directory: Directory,
}

impl Scene {
    fn new() -> Self {
        let server = Server::start(Manners::default());
        let any = "127.0.0.1:0".parse().expect("an address");
        let bridge = Bridge::bind(Config::new(vec![any], vec![server.address]));
        let bridge = bridge.expect("a bridge");
        Self {
            tcp: bridge.addresses()[0],
            stopper: bridge.stopper(),
            bridge: Some(std::thread::spawn(|| {
                bridge.run().expect("the bridge");
            })),
            server,
            directory: Directory::new(),
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    /// Runs the benchmark with a small file.
    fn bench(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_smbdirectctl-bench"));
        command.arg(format!("//{}/a <b>", self.tcp));
        command.args(["-U", "me%se&cret", "--no-bind"]);
        command.args(["--file-size", "256K", "--bytes", "1M", "--rounds", "2"]);
        command.args(["--size", "64K,4K", "--depth", "1,4"]);
        command.args(arguments).output().expect("the program runs")
    }

    fn bench_both(&self, arguments: &[&str]) -> Output {
        let direct = self.server.address.to_string();
        // A device of this machine's own is not the server's.
        let own = ["--address", &direct, "--control", "/nowhere"];
        self.bench(&[&own[..], arguments].concat())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stopper.stop();
        let ended = self.bridge.take().expect("a thread").join();
        assert!(
            ended.is_ok() || std::thread::panicking(),
            "the bridge failed"
        );
    }
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn results_are_json_and_a_page_and_can_be_compared_later() {
    let scene = Scene::new();
    let (page, results) = (scene.file("page.html"), scene.file("results.json"));
    let page = page.to_str().expect("UTF-8");
    let output = scene.bench_both(&["--json", "--html", page]);
    let report = json(&output);
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["fabric"], "software");
    assert_eq!(report["parameters"]["depth"], serde_json::json!([1, 4]));
    let command = report["command"].as_str().expect("a text");
    assert!(command.contains(" -U me%... --no-bind "), "{command}");
    let cases = report["cases"].as_array().expect("cases");
    // Over TCP and by RDMA; requests of 4 KiB also in messages.
    assert_eq!(cases.len(), 2 * 2 * (2 + 3), "{report}");
    for case in cases {
        let size = case["size"].as_u64().expect("a size");
        assert_eq!(case["requests"].as_u64(), Some((2 << 20) / size), "{case}");
        let latency = |name: &str| {
            case[format!("latency_{name}_microseconds")]
                .as_f64()
                .expect(name)
        };
        let ascending = ["p50", "p90", "p99", "max"].map(latency);
        assert!(ascending[0] > 0.0 && ascending.is_sorted(), "{case}");
        assert!(latency("p99_9") <= latency("max"), "{case}");
        assert!(
            case["latency_histogram"]["buckets"]
                .as_str()
                .is_some_and(|it| !it.is_empty())
        );
        let runs = case["runs"].as_array().expect("runs");
        assert_eq!(runs.len(), 2, "{case}");
        for run in runs {
            let series = &run["timeline"]["megabytes_per_second"];
            let series = series.as_array().expect("a time line");
            assert!(!series.is_empty() && series.iter().all(|speed| speed.as_f64() >= Some(0.0)));
        }
        // The process at the other end of the TCP connection is this test, in which the bridge runs. It is not known
        // which process serves the other session.
        let is_tcp = case["transport"] == "tcp";
        assert_eq!(
            case["smbd_cpu_seconds_per_gib"].is_number(),
            is_tcp,
            "{case}"
        );
    }
    let html = fs::read_to_string(page).expect("the page");
    for secret in ["se&cret", "se&amp;cret"] {
        assert!(!html.contains(secret) && !stdout(&output).contains(secret));
    }
    assert!(
        html.contains("/a &lt;b&gt;</h1>") && !html.contains("<b>"),
        "{html}"
    );
    assert_eq!(html.matches("<figure>").count(), 2 * (2 + 4 * 2), "{html}");

    fs::write(&results, &output.stdout).expect("written");
    let results = results.to_str().expect("UTF-8");
    let again = scene.bench_both(&["--compare", results, "--html", page]);
    let text = stdout(&again);
    let worse = text.contains(" 0 worse beyond the spread of the rounds");
    assert_eq!(
        again.status.code(),
        Some(if worse { 0 } else { 5 }),
        "{text}{}",
        stderr(&again)
    );
    assert!(text.contains("Throughput of 20 cases: "), "{text}");
    let html = fs::read_to_string(page).expect("the page");
    assert!(
        html.contains("<h2>Compared with an earlier run</h2>"),
        "{html}"
    );
}

#[test]
fn a_case_that_has_become_slower_or_faster_decides_the_exit_status() {
    let scene = Scene::new();
    let results = scene.file("results.json");
    let path = results.to_str().expect("UTF-8").to_owned();
    let mut report = json(&scene.bench_both(&["--json"]));
    let mut compare_with = |factor: f64| {
        for case in report["cases"].as_array_mut().expect("cases") {
            for run in case["runs"].as_array_mut().expect("runs") {
                let speed = run["megabytes_per_second"].as_f64().expect("a speed");
                run["megabytes_per_second"] = (speed * factor).into();
            }
        }
        fs::write(&results, report.to_string()).expect("written");
        scene.bench_both(&["--compare", &path, "--json"])
    };
    let slower = compare_with(1e4);
    assert_eq!(slower.status.code(), Some(5), "{}", stderr(&slower));
    let compared: serde_json::Value = serde_json::from_slice(&slower.stdout).expect("JSON");
    let cases = compared["comparison"]["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 20);
    for case in cases {
        assert_eq!(case["megabytes_per_second"]["verdict"], "worse", "{case}");
    }
    let faster = compare_with(1e-8);
    assert_eq!(faster.status.code(), Some(0), "{}", stderr(&faster));
}

#[test]
fn nothing_is_measured_if_the_results_could_not_be_compared_or_written() {
    let scene = Scene::new();
    let results = scene.file("results.json");
    fs::write(&results, json(&scene.bench_both(&["--json"])).to_string()).expect("written");
    let results = results.to_str().expect("UTF-8");
    scene.stopper.stop();
    for (arguments, code, words) in [
        (
            &["--compare", results, "--verify"][..],
            1,
            "--verify not given, now given",
        ),
        (
            &["--compare", "/nowhere"],
            1,
            "--compare: /nowhere: No such file",
        ),
        (
            &["--html", "/nowhere/page"],
            2,
            "--html: /nowhere/page: its directory does not exist",
        ),
        (&["--html", "/"], 2, "is a directory"),
    ] {
        let output = scene.bench_both(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && said.lines().count() == 1, "{said}");
    }
}

#[test]
fn the_port_of_a_device_on_this_machine_is_found() {
    let scene = Scene::new();
    let device = Daemon::start(&[]);
    let control = device.control.to_str().expect("UTF-8");
    let arguments = ["--address", "127.0.0.1", "--transport", "smbdirect"];
    // The device accepts the connection and then ends it, because no smbd is attached.
    let found = scene.bench(&[&arguments[..], &["--control", control]].concat());
    let said = stderr(&found);
    assert_eq!(found.status.code(), Some(1), "{said}");
    device.wait_for_status(|status| status["carried"]["software"]["requested"] == 1);
}
