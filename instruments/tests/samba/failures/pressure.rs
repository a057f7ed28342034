// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what happens if there are more requests than memory for them.

use std::collections::HashMap;
use std::time::Duration;

use super::client::{Client, Rest, config, content, send_get, send_put};
use crate::sessions::credentials;
use instruments::client::{Config, Connection, NtStatus};
use instruments::samba::{Server, Setup};

/// A configuration with room for three of the largest transfers at a time, and no more.
const LITTLE: &str = "
[memory.bulk]
unit_length = \"1 MiB\"
longest_run = 8
units_per_segment = 8
max_segments = 3
";

const LARGEST: usize = 8 << 20;
const REQUESTS: u64 = 24;

#[test]
fn requests_for_more_memory_than_there_is_wait_for_each_other() {
    let server = Server::start_with(Setup {
        device: LITTLE,
        ..Setup::default()
    });
    let before = Rest::of(&server);
    let mut client = Client::connect(&server);
    let how = Config {
        credits: 4096,
        ..client.tcp.config().clone()
    };
    client.direct = Connection::smb_direct(server.smb_direct, how).expect("SMB Direct");
    let bound = client.direct.bind(&client.tcp, &credentials(&server));
    bound.expect("a second channel");
    let (direct, tree) = (&mut client.direct, client.tree);
    let how = instruments::client::Create::file(instruments::client::Disposition::Create);
    let file = client.tcp.create(tree, "large", &how).expect("a file").file;
    let at = |n: u64| n * LARGEST as u64;
    let content = |n: u64| content(n, LARGEST);

    let ids: Vec<u64> = (0..REQUESTS)
        .map(|n| send_put(direct, tree, file, at(n), &content(n)).expect("sent"))
        .collect();
    // All memory that is allowed is in use, and requests wait for more.
    server.device().wait_for_status(|status| {
        let processes = status["processes"].as_array().expect("processes");
        processes
            .iter()
            .any(|process| process["bulk_segments"] == 3)
    });
    for id in ids {
        let written = direct.wait(id).and_then(|answer| answer.ok()?.written());
        assert_eq!(written.expect("a WRITE") as usize, LARGEST);
    }
    let mut sinks = HashMap::new();
    for n in 0..REQUESTS {
        let (id, memory) = send_get(direct, tree, file, at(n), LARGEST).expect("sent");
        sinks.insert(id, (n, memory));
        // Both directions compete for the same memory.
        if n % 3 == 0 {
            let end = REQUESTS + n / 3;
            let id = send_put(direct, tree, file, at(end), &content(end)).expect("sent");
            sinks.insert(id, (end, instruments::client::Memory::zeroed(0)));
        }
    }
    while !sinks.is_empty() {
        let response = direct.next_response().expect("a response");
        let (n, memory) = sinks
            .remove(&response.header.message_id)
            .expect("asked for");
        assert_eq!(response.status(), NtStatus::SUCCESS, "{n}");
        if !memory.is_empty() {
            assert!(
                memory.to_vec(0, LARGEST).expect("in range") == content(n),
                "{n}"
            );
        }
    }
    let disk = std::fs::read(server.files.join("large")).expect("a file");
    for (n, piece) in disk.chunks(LARGEST).enumerate() {
        assert!(piece == content(n as u64), "{n}");
    }
    drop(client);
    before.wait(&server);
}

#[test]
fn a_client_that_leaves_while_its_requests_wait_leaves_nothing_behind() {
    let server = Server::start_with(Setup {
        device: LITTLE,
        ..Setup::default()
    });
    let before = Rest::of(&server);
    for _ in 0..4 {
        let mut direct = Connection::smb_direct(
            server.smb_direct,
            Config {
                credits: 4096,
                ..config()
            },
        )
        .expect("SMB Direct");
        direct.log_in(&credentials(&server)).expect("a session");
        let tree = direct.tree_connect(&server.share_path()).expect("a tree");
        let how = instruments::client::Create::file(instruments::client::Disposition::OpenIf);
        let file = direct.create(tree, "large", &how).expect("a file").file;
        for n in 0..8 {
            let data = content(n, LARGEST);
            send_put(&mut direct, tree, file, n * LARGEST as u64, &data).expect("sent");
            send_get(&mut direct, tree, file, 0, LARGEST).expect("sent");
        }
        drop(direct);
        before.wait(&server);
    }
}

#[test]
fn a_request_waits_for_memory_that_another_client_has() {
    let server = Server::start_with(Setup {
        device: "reactors = 1\nmemory_limit = \"100 MiB\"\n",
        ..Setup::default()
    });
    let mut first = Client::connect(&server);
    let mut second = Client::connect(&server);
    let data = content(3, LARGEST);
    let large = first.create("first");
    first.put(large, 0, &data).expect("a WRITE");
    let file = second.create("second");
    // There may be no memory until the first client is gone, because that client holds all that is allowed.
    let (direct, tree) = (&mut second.direct, second.tree);
    let id = send_put(direct, tree, file, 0, &data).expect("sent");
    let answered = direct.wait_within(id, Duration::from_millis(500));
    drop(first);
    let answer = answered.or_else(|_| direct.wait(id));
    let written = answer.and_then(|answer| answer.ok()?.written());
    assert_eq!(written.expect("a WRITE") as usize, LARGEST);
    let read = second.get(file, 0, LARGEST);
    assert!(read.expect("a READ") == data);
}
