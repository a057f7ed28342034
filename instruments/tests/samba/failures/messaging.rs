// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that an smbd that ends leaves nothing of its messaging: for each process, Samba has a socket in the private
//! directory and a lock file in the lock directory, both named by its number. The files of the dead slow down smbcontrol
//! and each message to all processes, and a later process with such a number would find them.
//!
//! Only the smbds with clients and their parent are looked at: smbd-notifyd and smbd-cleanupd do not handle SIGTERM, so
//! Samba itself leaves their files to the next smbd.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process, test_kill_process_group};

use super::client::{Client, content, number, send_put, wait_until, workers};
use instruments::samba::Server;

/// Returns the files that Samba's messaging has for these processes.
fn files_of(server: &Server, pids: &[Pid]) -> Vec<PathBuf> {
    let paths = pids.iter().flat_map(|pid| {
        let number = pid.as_raw_nonzero();
        ["private/msg.sock", "lock/msg.lock"].map(|directory| {
            let directory = server.directory().join(directory);
            directory.join(number.to_string())
        })
    });
    paths
        .filter(|path| path.symlink_metadata().is_ok())
        .collect()
}

/// Connects clients, each of which gets an smbd of its own, and copies files. The last client has a WRITE under way.
fn busy_clients(server: &Server) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..3).map(|_| Client::connect(server)).collect();
    for client in &mut clients {
        client.copy(&format!("copy-{}", number()), 2);
    }
    let client = clients.last_mut().expect("a client");
    let file = client.create(&format!("under-way-{}", number()));
    let data = content(9, 8 << 20);
    send_put(&mut client.direct, client.tree, file, 0, &data).expect("sent");
    clients
}

#[test]
fn an_smbd_that_is_told_to_end_leaves_no_file_of_its_messaging_and_its_children_do_not_either() {
    let mut server = Server::start();
    let clients = busy_clients(&server);
    let mut pids = workers(&server);
    assert_eq!(pids.len(), clients.len());
    pids.push(server.pid());
    let before = files_of(&server, &pids);
    assert_eq!(before.len(), 2 * pids.len(), "{before:?}");
    server.stop_smbd();
    // The parent leads the process group of all its children.
    let group = server.pid();
    wait_until("all smbds have ended", || {
        test_kill_process_group(group).is_err()
    });
    let left = files_of(&server, &pids);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn one_smbd_of_many_that_is_told_to_end_or_killed_leaves_no_file_of_its_messaging() {
    let server = Server::start();
    let clients = busy_clients(&server);
    let pids = workers(&server);
    assert_eq!(pids.len(), clients.len());
    // The killed one cannot tidy up: smbd-cleanupd does that.
    for (pid, signal) in pids.iter().zip([Signal::TERM, Signal::KILL]) {
        assert_eq!(files_of(&server, &[*pid]).len(), 2);
        kill_process(*pid, signal).expect("a signal to smbd");
        wait_until("its files are gone", || {
            files_of(&server, &[*pid]).is_empty()
        });
    }
    let others = [pids[2], server.pid()];
    assert_eq!(files_of(&server, &others).len(), 4, "they still run");
    Client::connect(&server).copy("after", 1);
}
