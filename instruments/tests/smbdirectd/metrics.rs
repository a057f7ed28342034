// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the metrics as Prometheus and node_exporter's textfile collector get them.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use instruments::daemon::{
    Daemon, Directory, SMBDIRECTCTL, SMBDIRECTD, Setup, TIMEOUT, stderr, stdout,
};
use instruments::peer::Peer;
use rustix::process::{Resource, getrlimit, setrlimit};

fn metrics(control: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(&*SMBDIRECTCTL);
    command.arg("metrics").arg("--control").arg(control);
    command.args(arguments).output().expect("smbdirectctl runs")
}

/// Returns the value of a series.
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
    // No process owns the connection, so it ends.
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

/// Sends a request as an HTTP client, and returns the answer.
fn http(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn prometheus_gets_them_by_http() {
    let (daemon, address) = with_metrics("");
    let answer = http(&address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", text.len())),
        "{head}"
    );
    assert_eq!(value(text, "smbdirect_up"), 1.0);
    let answer = http(&address, "GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 404 "), "{answer}");
    let answer = http(&address, "nonsense\n\n");
    assert!(answer.starts_with("HTTP/1.0 400 "), "{answer}");
    // The same thread still serves the status socket.
    assert!(metrics(&daemon.control, &[]).status.success());

    // A daemon whose port is taken serves its clients all the same.
    let other = Directory::new();
    let text = format!("metrics.listen = \"{address}\"");
    other.file("smbdirectd.toml", &text);
    let other = Daemon::start_in(other, &Setup::default());
    other.wait_for_log("another program listens there");
    drop(Peer::connect(other.address()));
}

/// Any user of the machine can connect to that address.
#[test]
fn clients_that_say_nothing_keep_nobody_waiting() {
    let (daemon, address) = with_metrics("");
    let connect = |_| TcpStream::connect(&address).expect("a connection");
    // These are more than are served at a time, and would take 200 seconds one after the other.
    let silent: Vec<TcpStream> = (0..100).map(connect).collect();
    let answer = http(&address, "GET /metrics HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    // The same thread serves the status socket.
    std::fs::remove_file(&daemon.control).expect("a control socket");
    let output = metrics(&daemon.control, &[]);
    assert!(output.status.success(), "{output:?}");
    // They do not stay.
    for mut client in silent {
        client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("an end");
        assert!(rest.is_empty(), "{rest:?}");
    }
}

#[test]
fn agents_get_them_at_a_socket() {
    let directory = Directory::new();
    let socket = directory.control().with_file_name("metrics");
    let text = format!("metrics.socket = \"{}\"", socket.display());
    directory.file("smbdirectd.toml", &text);
    let daemon = Daemon::start_in(directory, &Setup::default());
    let said = format!(
        "metrics at {0}: curl --unix-socket {0} http://",
        socket.display()
    );
    daemon.wait_for_log(&said);
    let mut stream = UnixStream::connect(&socket).expect("a connection");
    stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert_eq!(value(text, "smbdirect_up"), 1.0);

    // Another daemon does not take it, and says what to do.
    let other = Directory::new();
    let file = other.file(
        "smbdirectd.toml",
        &format!("metrics.socket = \"{}\"", socket.display()),
    );
    let mut command = Command::new(&*SMBDIRECTD);
    command
        .args(["--listen", "127.0.0.1:0", "--control"])
        .arg(other.control());
    let output = command
        .arg("--config")
        .arg(file)
        .output()
        .expect("smbdirectd runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stderr(&output);
    for part in [
        "another program is listening there",
        "give metrics.socket another path",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

/// Starts a daemon that serves metrics, and returns it with the address of the metrics.
fn with_metrics(configuration: &str) -> (Daemon, String) {
    let directory = Directory::new();
    let text = format!("{configuration}\nmetrics.listen = \"127.0.0.1:0\"");
    directory.file("smbdirectd.toml", &text);
    let daemon = Daemon::start_in(directory, &Setup::default());
    daemon.wait_for_log("/metrics");
    let log = daemon.log();
    let (_, address) = log.split_once("metrics at http://").unwrap();
    let (address, _) = address.split_once("/metrics").unwrap();
    (daemon, address.to_owned())
}

/// Starts a daemon that serves metrics and has 1000 clients, and returns both, with the address of the metrics.
fn with_a_thousand_clients() -> (Daemon, String, Vec<Peer>) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("more descriptors");
    let (daemon, address) = with_metrics(
        "gateways = [\"127.0.0.1\"]\nfirst_request_timeout = \"1 h\"\nlogin_timeout = \"1 h\"",
    );
    let listen = daemon.address();
    let peers = (0..1000).map(|_| Peer::connect(listen)).collect();
    (daemon, address, peers)
}

/// However often a client asks, the metrics are made at most once a second: each time costs all reactors a report.
#[test]
fn many_scrapes_get_few_texts() {
    let (_daemon, address, _peers) = with_a_thousand_clients();
    // Each text has the processor time that smbdirectd had used when it was made.
    let scrape = |_| http(&address, "GET /metrics HTTP/1.0\r\n\r\n");
    let texts: BTreeSet<String> = (0..100).map(scrape).collect();
    assert!(texts.len() < 50, "{} texts", texts.len());
    let fresh = "smbdirect_connections{fabric=\"software\",state=\"fresh\"}";
    assert!(texts.iter().any(|text| value(text, fresh) == 1000.0));
}

/// Prints what share of a processor smbdirectd takes with 1000 clients, without scrapes and with one each second. The
/// machine and what else it does decide the numbers, so this checks nothing, and runs only on request:
///
/// ```text
///   cargo test -p instruments --test smbdirectd -- --ignored --nocapture measures_a_scrape
/// ```
#[test]
#[ignore = "measures processor time"]
fn measures_a_scrape_each_second_with_a_thousand_clients() {
    const SECONDS: u32 = 30;
    let (_daemon, address, _peers) = with_a_thousand_clients();
    let scrape = || http(&address, "GET /metrics HTTP/1.0\r\n\r\n");
    let second = || std::thread::sleep(Duration::from_millis(1050));
    let used = || value(&scrape(), "process_cpu_seconds_total");
    let share = |scrapes: bool| {
        second();
        let (before, began) = (used(), Instant::now());
        for _ in 0..SECONDS {
            second();
            if scrapes {
                scrape();
            }
        }
        second();
        let time = began.elapsed().as_secs_f64();
        (used() - before) / time * 100.0
    };
    let (idle, scraped) = (share(false), share(true));
    let length = scrape().len();
    println!(
        "1000 clients: {idle:.3} % of a processor, {scraped:.3} % with a scrape of {length} bytes each second"
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
        // The test harness would capture the output of a macro.
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
