// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that a reload changes what it says, and disturbs no client.

use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use smbdirect::device::{Event, Handle, Role, Status};
use smbdirect::units::Credits;

use crate::drain::{dispatched, event};
use instruments::daemon::{Daemon, Directory, Setup, TIMEOUT};
use instruments::peer::{Options, Peer};

/// Starts a daemon with this configuration, which also has its addresses.
fn configured(text: &str) -> Daemon {
    let directory = Directory::new();
    directory.file("smbdirectd.toml", text);
    let setup = Setup {
        listen_in_file: true,
        ..Setup::default()
    };
    Daemon::start_in(directory, &setup)
}

/// One address with a free port.
const LISTEN: &str = "listen = [\"127.0.0.1:0\"]\ngateways = [\"127.0.0.1\"]\n";

/// A client with a worker that has its connection.
struct Client {
    worker: Handle,
    peer: Peer,
    conn: u64,
}

impl Client {
    fn of(daemon: &Daemon) -> Self {
        let (mut worker, peer, conn) = dispatched(daemon, Peer::connect(daemon.address()));
        worker.set_authenticated(conn).unwrap();
        Self { worker, peer, conn }
    }

    /// Checks that messages still go both ways.
    fn still_works(&mut self) {
        let response = [IoSlice::new(b"response")];
        while let Err(status) = self.worker.send_pdu(self.conn, 3, &response, None) {
            assert_eq!(status, Status::Again);
            while event(&mut self.worker) != Event::Room {}
        }
        assert_eq!(self.peer.receive(), b"response");
        self.peer.send(b"request");
        loop {
            if let Event::Pdu { pdu, .. } = event(&mut self.worker) {
                break self.worker.take_pdu(pdu, &mut []).unwrap();
            }
        }
    }
}

/// Returns the addresses in the status.
fn listen(status: &Value) -> Vec<SocketAddr> {
    let listen = status["listen"].as_array().unwrap().iter();
    let addresses = listen.map(|address| address.as_str().unwrap());
    addresses.map(|address| address.parse().unwrap()).collect()
}

fn is_refused(address: SocketAddr) -> bool {
    let connected = TcpStream::connect(address);
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

#[test]
fn says_what_has_changed_and_what_needs_a_restart() {
    let mut daemon = configured(LISTEN);
    let mut client = Client::of(&daemon);
    let text = format!(
        "{LISTEN}max_connections = 7\nmax_undispatched = 6\nmax_unauthenticated = 5\nmax_sessions = 3\n\
         memory_limit = \"1 GiB\"\nbusy_poll = \"0 s\"\nqueue_depth = 512\ncontrol = \"/tmp/none\"\n\
         memory.limit = \"900 MiB\"\nmemory.bulk.max_segments = 17"
    );
    let said = daemon.reload(&text);
    let status = daemon.status();
    let limits = &status["limits"];
    for (name, value) in [
        ("connections", 7_u64),
        ("undispatched", 6),
        ("unauthenticated", 5),
        ("sessions_of_worker", 3),
        ("memory", 1 << 30),
        ("memory_of_worker", 900 << 20),
        // This one needs a restart.
        ("queue_depth", 256),
    ] {
        assert_eq!(limits[name], value, "{name}");
    }
    let log = daemon.log();
    for line in [
        " INFO max_connections: 4096 -> 7\n",
        " INFO busy_poll: 50 us -> 0 s\n",
        " INFO memory.limit: 2 GiB -> 900 MiB, for new connections\n",
        " WARN queue_depth = 512 needs a restart; 256 stays in effect\n",
        " WARN memory.bulk.max_segments = 17 needs a restart; 16 stays in effect\n",
    ] {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
    // The command line has the path of the control socket.
    assert!(!log.contains("/tmp/none"), "{log}");
    let says = "; queue_depth = 512 needs a restart; 256 stays in effect; memory.bulk.max_segments";
    assert!(said.contains(says), "{said}");
    client.still_works();

    // The status has no such words once the file is as the daemon is.
    let said = daemon.reload(LISTEN);
    let address = daemon.address();
    let line = format!("STATUS=listening on {address}");
    assert!(said.lines().any(|said| said == line), "{said}");
    assert_eq!(daemon.status()["limits"]["connections"], 4096);
    client.still_works();
}

#[test]
fn a_wrong_file_changes_nothing_and_is_named_with_its_line() {
    let mut daemon = configured(LISTEN);
    let mut client = Client::of(&daemon);
    let before = daemon.status()["limits"].clone();
    for (text, why) in [
        (
            "max_connections = 7\nreactors = 65",
            "line 2: reactors is 65, and must be 1 to 64",
        ),
        ("max_connection = 7", "did you mean max_connections?"),
        (
            "log = \"verbose\"",
            "line 1: log is \"verbose\", and must be a level",
        ),
        ("listen = [\n\"localhost\"]", "line 2 (`\"localhost\"]`)"),
        ("listen = [", "line 1"),
        ("", "the file is empty now"),
    ] {
        let said = daemon.reload(text);
        let begin = "the new configuration is wrong, and was not loaded: ";
        let status = said.lines().find(|line| line.starts_with("STATUS="));
        let status = status.unwrap_or_else(|| panic!("{said}"));
        assert!(status.contains(begin) && status.contains(why), "{said}");
        let log = daemon.log();
        let line = log
            .lines()
            .rfind(|line| line.contains("ERROR not reloaded"));
        let line = line.unwrap_or_else(|| panic!("{log}"));
        assert!(
            line.contains("smbdirectd.toml: ") && line.contains(why),
            "{line}"
        );
        assert_eq!(daemon.status()["limits"], before, "{text}");
        client.still_works();
    }
    let said = daemon.reload(&format!("{LISTEN}max_connections = 7"));
    assert!(!said.contains("wrong"), "{said}");
    assert_eq!(daemon.status()["limits"]["connections"], 7);
    client.still_works();
}

#[test]
fn lower_limits_count_for_newcomers_and_end_no_client() {
    let mut daemon = configured(LISTEN);
    let mut client = Client::of(&daemon);
    let mut other = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    assert_eq!(event(&mut other), Event::Attached);
    daemon.reload(&format!("{LISTEN}max_connections = 1\nmax_workers = 1"));
    if let Ok(mut newcomer) = Peer::try_connect(daemon.address(), Options::default()) {
        newcomer.wait_closed();
    }
    daemon.wait_for_log("max_connections = 1 was reached");
    let mut refused = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    let status = Status::Limit;
    assert_eq!(event(&mut refused), Event::Detached { status });
    daemon.wait_for_log("max_workers = 1 reached");
    client.still_works();

    daemon.reload(LISTEN);
    let _newcomer = Peer::connect(daemon.address());
    daemon.wait_for_status(|status| status["totals"]["connections"] == 2);
    let mut third = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    assert_eq!(event(&mut third), Event::Attached);
    client.still_works();
}

#[test]
fn timeouts_count_for_what_begins_after_the_reload() {
    let mut daemon = configured(&format!("{LISTEN}first_request_timeout = \"1 h\""));
    let mut early = Peer::connect(daemon.address());
    daemon.wait_for_status(|status| status["totals"]["connections"] == 1);
    daemon.reload(&format!("{LISTEN}first_request_timeout = \"100 ms\""));
    let mut late = Peer::connect(daemon.address());
    late.wait_closed();
    daemon.wait_for_log("its first request did not come in time");
    early.drive(Duration::from_millis(300), |_| false);
    assert!(early.closed().is_none());
}

#[test]
fn addresses_begin_and_end_and_keep_their_clients() {
    let mut daemon = configured(LISTEN);
    let mut client = Client::of(&daemon);
    let first = daemon.address();
    let both =
        "listen = [\"127.0.0.1:0\", {address = \"127.0.0.2:0\", link_speed = \"3 Gbit/s\"}]\n";
    daemon.reload(both);
    let status = daemon.status();
    let [same, second] = listen(&status)[..] else {
        panic!("{status}");
    };
    assert_eq!(same, first);
    assert_eq!(status["addresses"][1]["address"], second.to_string());
    assert_eq!(status["addresses"][1]["link_speed"], 3_000_000_000_u64);
    assert!(
        daemon
            .log()
            .contains(&format!(" INFO listen: {second} added\n"))
    );
    // All reactors listen there.
    for _ in 0..20 {
        drop(Peer::connect(second));
    }
    // smbd is told.
    let end = Instant::now() + TIMEOUT;
    while client.worker.addresses().unwrap().len() < 2 {
        assert_eq!(client.worker.next_event().unwrap(), None);
        assert!(Instant::now() < end, "smbd is not told");
        std::thread::sleep(Duration::from_millis(5));
    }

    let said = daemon.reload("listen = [{address = \"127.0.0.2:0\", link_speed = \"4 Gbit/s\"}]");
    assert_eq!(listen(&daemon.status()), [second]);
    assert!(
        said.contains(&format!("STATUS=listening on {second}\n")),
        "{said}"
    );
    let log = daemon.log();
    for line in [
        format!(" INFO listen: {first} removed; its connections stay\n"),
        format!(" INFO listen: the link_speed of {second} is now 4 Gbit/s\n"),
    ] {
        assert!(log.contains(&line), "no {line:?} in {log}");
    }
    assert!(is_refused(first));
    client.still_works();
    drop(Peer::connect(second));
}

/// The address watcher waits for addresses that come with a reload, too, and forgets those that go with one.
#[test]
fn an_address_that_the_machine_lacks_is_waited_for_until_it_is_removed() {
    let mut daemon = configured(LISTEN);
    let said = daemon.reload("listen = [\"127.0.0.1:0\", \"192.0.2.77:0\"]");
    assert!(said.contains("; waiting for 192.0.2.77:"), "{said}");
    daemon.wait_for_log("this machine does not have 192.0.2.77:");
    let said = daemon.reload(LISTEN);
    assert!(!said.contains("waiting"), "{said}");
    let log = daemon.log();
    assert!(!log.contains("this machine now has"), "{log}");
}

#[test]
fn an_address_that_another_process_has_is_named_and_tried_again() {
    let mut daemon = configured(LISTEN);
    let mut client = Client::of(&daemon);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!("max_workers = 7\nlisten = [\"127.0.0.1:0\", \"{address}\"]");
    let said = daemon.reload(&text);
    let why = format!(
        "listen: {address} is not served: cannot listen on {address}: Address already in use"
    );
    assert!(said.contains(&why), "{said}");
    assert!(
        daemon.log().contains(&format!("ERROR {why}")),
        "{}",
        daemon.log()
    );
    let status = daemon.status();
    assert_eq!(
        (listen(&status).len(), &status["limits"]["workers"]),
        (1, &7.into())
    );
    drop(taken);
    let said = daemon.reload(&text);
    assert!(!said.contains("not served"), "{said}");
    assert_eq!(listen(&daemon.status()).len(), 2);
    drop(Peer::connect(address));
    client.still_works();
}

/// The unspecified address and one of its addresses share a port, and one can follow the other.
#[test]
fn all_addresses_and_one_of_them_replace_each_other() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let one = format!("listen = [\"127.0.0.1:{port}\"]");
    let all = format!("listen = [\"0.0.0.0:{port}\"]");
    let mut daemon = configured(&one);
    let mut client = Client::of(&daemon);
    let other: SocketAddr = ([127, 0, 0, 2], port).into();
    assert!(is_refused(other));
    daemon.reload(&all);
    assert_eq!(
        listen(&daemon.status()),
        [SocketAddr::from(([0, 0, 0, 0], port))]
    );
    drop(Peer::connect(other));
    client.still_works();
    daemon.reload(&one);
    assert_eq!(
        listen(&daemon.status()),
        [SocketAddr::from(([127, 0, 0, 1], port))]
    );
    assert!(is_refused(other));
    drop(Peer::connect(daemon.address()));
    client.still_works();
}

/// Returns how many lines of the log contain these words.
fn lines(daemon: &Daemon, words: &str) -> usize {
    daemon.log().matches(words).count()
}

fn attach(daemon: &Daemon) {
    let mut worker = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    assert_eq!(event(&mut worker), Event::Attached);
}

#[test]
fn the_log_has_another_level_and_another_form() {
    let mut daemon = configured(&format!("{LISTEN}log = \"warn\""));
    attach(&daemon);
    assert_eq!(daemon.log(), "");
    daemon.reload(&format!("{LISTEN}log = \"info\""));
    assert_eq!(lines(&daemon, " INFO log: warn -> info\n"), 1);
    attach(&daemon);
    daemon.wait_for_log(" detached");
    daemon.reload(&format!("{LISTEN}log = \"error\""));
    assert_eq!(lines(&daemon, " INFO log: info -> error\n"), 1);
    let before = daemon.log();
    attach(&daemon);
    daemon.status();
    assert_eq!(daemon.log(), before);
    daemon.reload(&format!("{LISTEN}log_format = \"json\""));
    daemon.wait_for_log("log_format: text -> json");
    let log = daemon.log();
    let new = log.strip_prefix(&before).unwrap();
    for line in new.lines() {
        let object: Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["level"], "INFO", "{line}");
    }
    assert!(new.lines().count() >= 3, "{new}");
}

/// Returns the answer of the metrics' server.
fn scrape(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_metrics_are_served_at_another_address_and_no_longer() {
    let [old, new] = [(), ()].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [first, second] = [&old, &new].map(|it| it.local_addr().unwrap().to_string());
    drop(old);
    let mut daemon = configured(LISTEN);
    daemon.reload(&format!("{LISTEN}metrics.listen = \"{first}\""));
    assert!(scrape(&first).starts_with("HTTP/1.0 200 OK\r\n"));
    // Another program still has the other address.
    let text = format!("{LISTEN}metrics.listen = \"{second}\"");
    let said = daemon.reload(&text);
    assert!(
        said.contains(&format!(
            "; metrics.listen {second}: Address already in use"
        )),
        "{said}"
    );
    assert!(scrape(&first).starts_with("HTTP/1.0 200 OK\r\n"));
    drop(new);
    daemon.reload(&text);
    let line = format!(" INFO metrics.listen: {first} -> {second}\n");
    assert_eq!(lines(&daemon, &line), 1, "{}", daemon.log());
    assert!(scrape(&second).starts_with("HTTP/1.0 200 OK\r\n"));
    assert!(is_refused(first.parse().unwrap()));
    daemon.reload(LISTEN);
    assert!(is_refused(second.parse().unwrap()));
    // The same thread still serves the status socket.
    assert_eq!(daemon.status()["stopping"], false);
}

#[test]
fn the_status_socket_goes_to_another_group() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: another group needs root");
        return;
    }
    let mut daemon = configured(LISTEN);
    let socket = daemon.control.with_file_name("status");
    let group = || socket.metadata().unwrap().gid();
    assert_eq!(group(), rustix::process::getegid().as_raw());
    daemon.reload(&format!("{LISTEN}status_group = \"1\""));
    assert_eq!(group(), 1);
    assert_eq!(lines(&daemon, " INFO status_group: \"\" -> 1\n"), 1);
    let said = daemon.reload(&format!("{LISTEN}status_group = \"no-such-group\""));
    assert!(said.contains("status_group is \"no-such-group\""), "{said}");
    assert_eq!(group(), 1);
}

#[test]
fn new_connections_negotiate_the_new_values() {
    let mut daemon = configured(LISTEN);
    let mut client = Client::of(&daemon);
    daemon.reload(&format!("{LISTEN}acceptor.receive_credit_max = 2000"));
    let mut endpoint = smbdirect::proto::Config::initiator_default();
    endpoint.send_credit_target = Credits(2000);
    let options = Options {
        endpoint,
        ..Options::default()
    };
    let mut peer = Peer::try_connect(daemon.address(), options).unwrap();
    let mut worker = Handle::attach(&daemon.control, Role::Worker, None).unwrap();
    assert_eq!(event(&mut worker), Event::Attached);
    let guid = [6; 16];
    worker.set_session_id(1, guid, 0, false).unwrap();
    assert!(matches!(event(&mut worker), Event::Reply { .. }));
    peer.negotiate(guid);
    let conn = loop {
        if let Event::Connection { info } = event(&mut worker) {
            break info.conn;
        }
    };
    worker.set_authenticated(conn).unwrap();
    let granted = |peer: &Peer| peer.status().unwrap().send_credits.0;
    // Some of the credits are in use.
    let all = |peer: &mut Peer| (1990..=2000).contains(&granted(peer));
    assert!(peer.drive(TIMEOUT, all), "{} credits", granted(&peer));
    assert!(granted(&client.peer) < 256);
    client.still_works();
}

/// Returns whether the daemon asks a new client for CRCs: bit C of its reply (RFC 5044 7.1).
fn asks_for_crcs(address: SocketAddr) -> bool {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(TIMEOUT)).unwrap();
    // Revision 1, without markers, CRCs and private data.
    stream
        .write_all(b"MPA ID Req Frame\x00\x01\x00\x00")
        .unwrap();
    let mut reply = [0; 20];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply[..16], b"MPA ID Rep Frame");
    reply[16] & 0x40 != 0
}

#[test]
fn new_connections_are_asked_for_crcs() {
    let mut daemon = configured(LISTEN);
    let mut client = Client::of(&daemon);
    let address = daemon.address();
    assert!(!asks_for_crcs(address));
    daemon.reload(&format!("{LISTEN}iwarp.crc = true"));
    for _ in 0..10 {
        assert!(asks_for_crcs(address), "at all reactors");
    }
    client.still_works();
    daemon.reload(LISTEN);
    assert!(!asks_for_crcs(address));
}

#[test]
fn options_still_override_the_file() {
    let mut daemon = Daemon::start(&["--log", "info"]);
    let address = daemon.address();
    let said = daemon.reload("log = \"error\"\nlisten = [\"127.0.0.2:0\"]\nreactors = 9");
    assert!(
        said.contains(&format!("STATUS=listening on {address}\n")),
        "{said}"
    );
    daemon.wait_for_log("reloaded: the configuration is as before");
}

#[test]
fn many_requests_at_once_are_a_few_reloads() {
    let mut daemon = configured(LISTEN);
    let mut client = Client::of(&daemon);
    for round in 0..50 {
        daemon.signal(Signal::HUP);
        if round % 10 == 0 {
            client.still_works();
        }
    }
    daemon.reload(&format!("{LISTEN}max_connections = 7"));
    daemon.wait_for_status(|status| status["limits"]["connections"] == 7);
    client.still_works();
}
