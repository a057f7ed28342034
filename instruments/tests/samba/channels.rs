// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the channels of a session: all reach the same smbd, however the device finds it, and one channel can replace
//! another.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::time::Duration;

use instruments::client::{
    Channel, Config, Connection, Create, Created, Dialect, Disposition, Lease, NtStatus, Read,
    Request,
};

use crate::channel::{bind, contents, device, pattern, place, sink};
use crate::failures::wait_until;
use crate::sessions::{GUID, credentials, log_in};
use instruments::samba::{Server, Setup};

/// How long a break may take.
const BREAK: Duration = Duration::from_secs(30);

const LEASES: Setup<'static> = Setup {
    global: &["smb2 leases = yes"],
    share: &[],
    device: "",
    listen: &[],
    without_device: false,
    preload: None,
    in_memory: false,
};

fn direct(server: &Server, config: Config) -> Connection {
    Connection::smb_direct(server.smb_direct, config).expect("SMB Direct")
}

/// Reads the file by RDMA, on this channel.
fn reads(connection: &mut Connection, tree: u32, data: &[u8]) {
    let how = Create::file(Disposition::Open);
    let file = connection.create(tree, "file", &how).expect("a file").file;
    let into = sink(connection, data.len());
    let length = u32::try_from(data.len()).expect("short");
    let read = Read::direct(file, 0, length, Channel::RdmaV1, &[into.descriptor()]);
    connection.call(&read.request(tree)).expect("a READ");
    assert!(contents(&into) == data);
    connection.close(tree, file).expect("a close");
}

/// Returns the processes that serve SMB Direct connections, and checks that there are `count` connections.
fn serving(server: &Server, count: usize) -> BTreeSet<i64> {
    let status = server.device().wait_for_status(|status| {
        let all = status["connections"].as_array().expect("connections");
        all.len() == count && all.iter().all(|one| one["pid"].is_i64())
    });
    let all = status["connections"].as_array().expect("connections");
    all.iter().filter_map(|one| one["pid"].as_i64()).collect()
}

/// Returns what smbstatus reports about the only session: its process, and the transports of its channels.
fn session(server: &Server) -> (i64, Vec<String>) {
    let status = server.smbstatus();
    let sessions = status["sessions"].as_object().expect("sessions");
    assert_eq!(sessions.len(), 1, "{status}");
    let session = sessions.values().next().expect("one");
    let pid = session["server_id"]["pid"].as_str().expect("a pid");
    let channels = session["channels"].as_object().expect("channels");
    let transport = |channel: &serde_json::Value| channel["transport"].as_str().map(str::to_owned);
    let mut transports: Vec<String> = channels.values().filter_map(transport).collect();
    transports.sort();
    (pid.parse().expect("a number"), transports)
}

#[test]
fn a_session_has_channels_of_both_transports_in_one_process() {
    let server = device(Setup::default());
    let data = pattern(100_000, 1);
    place(&server, "file", &data);
    let mut tcp = log_in(&server, Config::new(GUID));
    let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
    assert_eq!(session(&server).1, ["tcp"]);
    let mut direct = bind(&server, &tcp);
    reads(&mut direct, tree, &data);
    let (pid, transports) = session(&server);
    assert_eq!(transports, ["smbdirect", "tcp"]);
    assert_eq!(serving(&server, 1), BTreeSet::from([pid]));
    // Either the device knew which smbd the connection belongs to, or another smbd told the device; in both cases, the
    // right smbd has the connection now.
    drop(tcp);
    reads(&mut direct, tree, &data);
}

/// Makes a NEGOTIATE request ([MS-SMB2] 2.2.3) for a dialect that does not exist.
fn negotiate_of_no_dialect() -> Vec<u8> {
    let mut message = vec![0; 64 + 36 + 2];
    message[..4].copy_from_slice(b"\xfeSMB");
    message[4] = 64;
    // Ask for one credit, for the next request.
    message[14] = 1;
    // StructureSize, DialectCount, SecurityMode; the dialect.
    message[64..70].copy_from_slice(&[36, 0, 1, 0, 1, 0]);
    message[100..].copy_from_slice(&0x0222_u16.to_le_bytes());
    message
}

#[test]
fn a_connection_whose_first_answer_is_not_acknowledged_yet_reaches_the_smbd_of_its_client() {
    let server = device(Setup::default());
    let data = pattern(100_000, 9);
    place(&server, "file", &data);
    for round in 0..4_u8 {
        // This dialect has no hash of the negotiation, which would include the refused request.
        let config = Config {
            dialects: vec![Dialect::Smb302],
            ..Config::new([round + 1; 16])
        };
        // smbd has not told the device about the client, so another smbd is asked, and hands the connection over.
        let mut tcp = log_in(&server, config.clone());
        let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
        let (pid, _) = session(&server);
        let refused = negotiate_of_no_dialect();
        let mut direct = Connection::smb_direct_after(&refused, server.smb_direct, config)
            .expect("the second request is answered");
        direct.bind(&tcp, &credentials(&server)).expect("a binding");
        reads(&mut direct, tree, &data);
        assert_eq!(serving(&server, 1), BTreeSet::from([pid]));
        drop((direct, tcp));
        server
            .device()
            .wait_for_status(|status| status["connections"] == serde_json::json!([]));
        wait_until("the session has ended", || {
            let status = server.smbstatus();
            status["sessions"]
                .as_object()
                .is_none_or(|all| all.is_empty())
        });
    }
}

#[test]
fn clients_that_use_only_tcp_take_up_no_workers_of_the_device() {
    let server = device(Setup {
        device: "max_workers = 1",
        ..Setup::default()
    });
    let clients: Vec<Connection> = (0..4)
        .map(|number| {
            let mut guid = GUID;
            guid[15] = number;
            let mut tcp = log_in(&server, Config::new(guid));
            let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
            let interfaces = tcp.network_interfaces(tree).expect("interfaces");
            assert!(interfaces.iter().any(|interface| interface.rdma));
            tcp
        })
        .collect();
    let workers = |status: &serde_json::Value| {
        let processes = status["processes"].as_array().expect("processes");
        let workers = processes.iter().filter(|one| one["role"] == "worker");
        workers.count()
    };
    assert_eq!(workers(&server.device().status()), 0);
    let mut other = direct(&server, Config::new(*b"another client's"));
    other.log_in(&credentials(&server)).expect("a session");
    assert_eq!(workers(&server.device().status()), 1);
    drop(clients);
}

#[test]
fn a_session_can_have_eight_channels_that_are_all_smb_direct() {
    let server = device(Setup::default());
    let data = pattern(100_000, 2);
    place(&server, "file", &data);
    let mut first = direct(&server, Config::new(GUID));
    first.log_in(&credentials(&server)).expect("a session");
    let tree = first.tree_connect(&server.share_path()).expect("a tree");
    let mut channels = vec![first];
    while channels.len() < 8 {
        let next = bind(&server, &channels[0]);
        channels.push(next);
        for channel in &mut channels {
            reads(channel, tree, &data);
        }
    }
    let (pid, transports) = session(&server);
    assert_eq!(transports, ["smbdirect"; 8]);
    assert_eq!(serving(&server, 8), BTreeSet::from([pid]));
    // Whatever the order, the last channel left still has the whole session.
    while channels.len() > 1 {
        channels.remove(channels.len() / 2);
        let last = channels.last_mut().expect("one is left");
        reads(last, tree, &data);
    }
    assert_eq!(serving(&server, 1), BTreeSet::from([pid]));
}

#[test]
fn connections_of_a_client_that_come_at_once_reach_one_process() {
    let server = device(Setup::default());
    const CHANNELS: usize = 4;
    let data = pattern(100_000, 3);
    place(&server, "file", &data);
    let mut passed_on = 0;
    for round in 0..8_u8 {
        let config = Config::new([round + 1; 16]);
        let before = server.device().status();
        let barrier = Barrier::new(CHANNELS);
        let mut channels: Vec<Connection> = std::thread::scope(|scope| {
            let connect = || {
                barrier.wait();
                direct(&server, config.clone())
            };
            let threads: Vec<_> = (0..CHANNELS).map(|_| scope.spawn(connect)).collect();
            let joined = threads.into_iter().map(|thread| thread.join());
            joined.map(|joined| joined.expect("a connection")).collect()
        });
        let mut first = channels.remove(0);
        first.log_in(&credentials(&server)).expect("a session");
        let tree = first.tree_connect(&server.share_path()).expect("a tree");
        for channel in &mut channels {
            channel
                .bind(&first, &credentials(&server))
                .expect("a binding");
            reads(channel, tree, &data);
        }
        let (pid, transports) = session(&server);
        assert_eq!(transports, ["smbdirect"; CHANNELS]);
        assert_eq!(serving(&server, CHANNELS), BTreeSet::from([pid]));
        let after = server.device().status();
        let more = |name: &str| {
            let count = |status: &serde_json::Value| status["counters"][name].as_u64();
            count(&after).unwrap_or(0) - count(&before).unwrap_or(0)
        };
        assert_eq!(more("established"), CHANNELS as u64);
        // A connection that one smbd passed to another has had two owners.
        passed_on += more("assigned") - CHANNELS as u64;
        drop((first, channels));
        nobody_is_left(&server);
    }
    assert!(passed_on > 0, "smbd's own table was never asked");
}

/// Waits until the last connection and its process have ended.
fn nobody_is_left(server: &Server) {
    server.device().wait_for_status(|status| {
        let processes = status["processes"].as_array().expect("processes");
        let totals = &status["totals"];
        !processes.iter().any(|process| process["role"] == "worker")
            && ["connections", "clients", "sessions", "registrations"]
                .iter()
                .all(|name| totals[name] == 0)
    });
}

#[test]
fn sessions_that_are_older_than_a_restarted_device_find_it() {
    let mut server = device(Setup::default());
    let data = pattern(100_000, 4);
    place(&server, "file", &data);
    let mut tcp = log_in(&server, Config::new(GUID));
    let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
    let mut lost = bind(&server, &tcp);
    reads(&mut lost, tree, &data);
    let (pid, _) = session(&server);
    server.restart_device();
    lost.echo().expect_err("its device is gone");
    tcp.echo().expect("the TCP channel");
    assert_eq!(session(&server), (pid, vec!["tcp".to_owned()]));
    // The channel may arrive before or after the session's smbd has attached again; it gets there in both cases.
    let mut direct = bind(&server, &tcp);
    reads(&mut direct, tree, &data);
    assert_eq!(session(&server).1, ["smbdirect", "tcp"]);
    assert_eq!(serving(&server, 1), BTreeSet::from([pid]));
    // The session is older than the device.
    let device = server.device();
    device.wait_for_status(|status| status["totals"]["sessions"] == 1);
}

#[test]
fn a_client_that_logs_off_or_disconnects_is_forgotten() {
    let server = device(Setup::default());
    let known = |clients: u64, sessions: u64| {
        server.device().wait_for_status(|status| {
            let totals = &status["totals"];
            totals["clients"] == clients && totals["sessions"] == sessions
        });
    };
    let count = |name: &str| server.device().status()["counters"][name].as_u64();
    let mut tcp = log_in(&server, Config::new(GUID));
    known(0, 0);
    let second = bind(&server, &tcp);
    known(1, 1);
    let before = (count("established"), count("assigned"));
    let third = bind(&server, &tcp);
    // The device knew to which smbd the connection belongs: no other process has owned it before.
    let one_more = |count: Option<u64>| count.map(|count| count + 1);
    assert_eq!(count("established"), one_more(before.0));
    assert_eq!(count("assigned"), one_more(before.1));
    let mut other = direct(&server, Config::new([7; 16]));
    known(2, 1);
    other.log_in(&credentials(&server)).expect("a session");
    known(2, 2);
    tcp.log_off().expect("a logoff");
    known(2, 1);
    drop((tcp, second, third));
    known(1, 1);
    drop(other);
    known(0, 0);
    nobody_is_left(&server);
}

/// Opens "leased" with a lease for everything.
fn lease(connection: &mut Connection, tree: u32) -> Created {
    let how = Create {
        lease: Some(Lease {
            key: [5; 16],
            state: 7,
        }),
        ..Create::file(Disposition::OpenIf)
    };
    let created = connection.create(tree, "leased", &how).expect("a file");
    assert_eq!(created.oplock, 0xff, "a lease");
    created
}

/// Makes another client open "leased". The break arrives on `channel`, and the open succeeds after the `answer`.
fn is_broken(server: &Server, channel: &mut Connection, tree: u32, created: Created) {
    let mut other = log_in(server, Config::new([8; 16]));
    let its_tree = other.tree_connect(&server.share_path()).expect("a tree");
    let how = Create::file(Disposition::Open);
    let request = Request::create(its_tree, "leased", &how).expect("encoded");
    let opening = other.send(&request).expect("sent");
    let notice = channel
        .next_break(BREAK)
        .expect("a connection")
        .expect("a break");
    assert_eq!(notice.body()[8..24], [5; 16], "the lease's key");
    channel
        .close(tree, created.file)
        .expect("a close, which answers the break");
    other
        .wait(opening)
        .and_then(instruments::client::Response::ok)
        .expect("the file");
}

#[test]
fn a_break_goes_to_an_smb_direct_channel() {
    let server = device(LEASES);
    let mut only = direct(&server, Config::new(GUID));
    only.log_in(&credentials(&server)).expect("a session");
    let tree = only.tree_connect(&server.share_path()).expect("a tree");
    let created = lease(&mut only, tree);
    is_broken(&server, &mut only, tree, created);
}

#[test]
fn a_break_goes_to_the_channel_that_is_left() {
    let server = device(LEASES);
    // SMB Direct ends, and TCP stays.
    let mut tcp = log_in(&server, Config::new(GUID));
    let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
    let mut direct = bind(&server, &tcp);
    let created = lease(&mut direct, tree);
    drop(direct);
    is_broken(&server, &mut tcp, tree, created);

    // TCP ends, and SMB Direct stays.
    let mut direct = bind(&server, &tcp);
    let created = lease(&mut tcp, tree);
    drop(tcp);
    is_broken(&server, &mut direct, tree, created);

    // One SMB Direct channel ends, and another one stays.
    let mut second = bind(&server, &direct);
    let created = lease(&mut direct, tree);
    drop(direct);
    is_broken(&server, &mut second, tree, created);
}

#[test]
fn data_that_must_be_encrypted_does_not_go_by_rdma_unencrypted() {
    let server = device(Setup {
        share: &["smb encrypt = desired"],
        ..Setup::default()
    });
    let data = pattern(100_000, 5);
    place(&server, "file", &data);
    // First the client encrypts, then the share requires it.
    for seal in [true, false] {
        let config = Config {
            seal,
            transforms: vec![],
            ..Config::new(GUID)
        };
        let mut client = crate::channel::Client::connect_with(&server, config);
        let file = client.open("file");
        for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
            let into = sink(&mut client.direct, 4096);
            let before = contents(&into);
            let read = client.get(file, 0, 4096, channel, &into.pieces(1));
            let status = crate::channel::refusal(read);
            assert_eq!(status, NtStatus::INVALID_PARAMETER);
            assert!(contents(&into) == before);
            let invalidated = client.direct.take_invalidated(into.token());
            assert_eq!(invalidated, channel == Channel::RdmaV1Invalidate);
            let from = crate::channel::source(&mut client.direct, &pattern(4096, 6));
            let written = client.put(file, 0, 4096, channel, &from.pieces(1));
            let status = crate::channel::refusal(written);
            assert_eq!(status, NtStatus::INVALID_PARAMETER);
        }
        let read = client.direct.read(client.tree, file, 0, 100_000);
        assert!(read.expect("with the message") == data);
    }
    let status = server.device().status();
    for connection in status["connections"].as_array().expect("connections") {
        assert_eq!(connection["rdma_read_bytes"], 0);
        assert_eq!(connection["rdma_write_bytes"], 0);
    }
}
