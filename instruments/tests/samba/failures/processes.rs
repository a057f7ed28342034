// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that one smbd of many dies, hangs, or gets a message.

use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use instruments::client::Error;
use rustix::process::{Pid, Signal, kill_process};

use super::client::{Client, Rest, content, number, send_put, wait_until, workers};
use instruments::daemon::TIMEOUT;
use instruments::samba::Server;

/// Copies until it is told to stop, and counts the copies.
fn keep_copying(server: &Server, stop: &AtomicBool, done: &AtomicBool) -> usize {
    let mut client = Client::connect(server);
    let mut copies = 0;
    while !stop.load(Ordering::Relaxed) {
        client.copy(&format!("kept-{}", number()), 4);
        copies += 1;
        done.store(true, Ordering::Relaxed);
    }
    copies
}

/// Does something while two other clients copy. They must not notice it.
fn while_others_copy(server: &Server, doing: impl FnOnce(&dyn Fn())) {
    let stop = AtomicBool::new(false);
    let done = [AtomicBool::new(false), AtomicBool::new(false)];
    std::thread::scope(|scope| {
        let stop = &stop;
        let clients = done
            .each_ref()
            .map(|done| scope.spawn(move || keep_copying(server, stop, done)));
        // Waits until each client has completed copies that it began after this call.
        let others_go_on = || {
            for (done, client) in done.iter().zip(&clients) {
                // The copy in progress began earlier, so wait for two.
                for _ in 0..2 {
                    done.store(false, Ordering::Relaxed);
                    wait_until("another client copies", || {
                        done.load(Ordering::Relaxed) || client.is_finished()
                    });
                }
            }
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            others_go_on();
            doing(&others_go_on);
        }));
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("another client") > 1);
        }
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Connects the only client, and returns it and the smbd that serves it.
fn one_client(server: &Server) -> (Client, Pid) {
    let client = Client::connect(server);
    let workers = workers(server);
    assert_eq!(workers.len(), 1);
    (client, workers[0])
}

#[test]
fn an_smbd_that_is_killed_takes_only_its_own_client_with_it() {
    let server = Server::start();
    let before = Rest::of(&server);
    for round in 0..3 {
        let (mut client, pid) = one_client(&server);
        let file = client.create(&format!("lost-{round}"));
        while_others_copy(&server, |others_go_on| {
            let data = content(5, 8 << 20);
            let id = send_put(&mut client.direct, client.tree, file, 0, &data).expect("sent");
            kill_process(pid, Signal::KILL).expect("a signal to smbd");
            let ended = client.direct.wait(id);
            assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
            assert!(client.tcp.echo().is_err());
            others_go_on();
        });
        // The client returns with the GUID that the dead smbd had registered.
        let config = client.tcp.config().clone();
        drop(client);
        let again = instruments::client::Connection::smb_direct(server.smb_direct, config);
        let mut again = again.expect("SMB Direct");
        again
            .log_in(&crate::sessions::credentials(&server))
            .expect("a session");
        drop(again);
        before.wait(&server);
    }
}

/// Continues the process when dropped, whatever happened in the meantime.
pub(super) struct Stopped(Pid);

impl Stopped {
    pub(super) fn new(pid: Pid) -> Self {
        kill_process(pid, Signal::STOP).expect("a signal");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

#[test]
fn an_smbd_that_stands_still_keeps_only_its_own_client_waiting() {
    let server = Server::start();
    let (mut client, pid) = one_client(&server);
    let file = client.create("slow");
    let data = content(6, 8 << 20);
    while_others_copy(&server, |others_go_on| {
        let stopped = Stopped::new(pid);
        let (direct, tree) = (&mut client.direct, client.tree);
        let ids: Vec<u64> = (0..4)
            .map(|n| send_put(direct, tree, file, n << 23, &data).expect("sent"))
            .collect();
        others_go_on();
        let waited = direct.wait_within(ids[0], Duration::from_secs(3));
        assert!(matches!(waited, Err(Error::TimedOut(..))), "{waited:?}");
        others_go_on();
        drop(stopped);
        for id in ids {
            let written = direct.wait(id).and_then(|answer| answer.ok()?.written());
            assert_eq!(written.expect("a WRITE") as usize, data.len());
        }
    });
    for n in 0..4 {
        let read = client.get(file, n << 23, data.len()).expect("a READ");
        assert!(read == data, "{n}");
    }
}

#[test]
fn a_configuration_that_is_read_again_breaks_nothing() {
    let server = Server::start();
    let (mut client, pid) = one_client(&server);
    while_others_copy(&server, |others_go_on| {
        for _ in 0..5 {
            kill_process(server.pid(), Signal::HUP).expect("a signal to smbd");
            kill_process(pid, Signal::HUP).expect("a signal to smbd");
            client.copy(&format!("hup-{}", number()), 2);
            server.control(&["all", "reload-config"]);
            client.copy(&format!("reload-{}", number()), 2);
        }
        others_go_on();
        Client::connect(&server).copy("one-more", 2);
    });
    // The smbds of the other clients end once they see that their clients are gone.
    wait_until("the smbds of others ended", || workers(&server) == [pid]);
}

#[test]
fn an_smbd_that_is_told_to_end_ends_and_the_device_serves_the_next_smbd() {
    let mut server = Server::start();
    let mut client = Client::connect(&server);
    let file = client.create("last");
    let data = content(8, 8 << 20);
    send_put(&mut client.direct, client.tree, file, 0, &data).expect("sent");
    // The signal goes to smbd's whole process group, so it also ends the parent.
    let status = server.stop_smbd();
    let signal = status.signal();
    let in_order = status.success() || signal == Some(Signal::TERM.as_raw());
    assert!(in_order, "{status}");
    let ended = client.direct.serve(TIMEOUT);
    assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
    server.device().wait_for_status(|status| {
        let processes = status["processes"].as_array().expect("processes");
        // The process that asks for the status is the observer.
        let asks = |process: &serde_json::Value| process["role"] == "observer";
        processes.iter().all(asks)
            && status["connections"] == serde_json::json!([])
            && status["totals"]["memory"] == 0
    });
    server.start_smbd();
    Client::connect(&server).copy("first", 4);
}
