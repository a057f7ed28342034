// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the socket of the metrics: the group that may read the status gets them there by HTTP.

use std::fs::{self, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use smbdirect::broker::{Broker, Config, StartError, iwarp_config};
use smbdirect::device::status_path;
use smbdirect::fabric::iwarp::Iwarp;

use crate::scene::{PATIENCE, Scene};

/// Returns the path of a socket beside the control socket.
fn beside(config: &Config) -> PathBuf {
    config.control.with_file_name("metrics")
}

fn scene() -> (Scene, PathBuf) {
    let scene = Scene::with(|config| config.metrics_socket = Some(beside(config)));
    let path = beside(&scene.config);
    (scene, path)
}

/// Starts a broker that is expected not to start, with a control socket of its own.
fn refusal(config: &Config) -> StartError {
    let config = Config {
        control: config.control.with_file_name("other"),
        ..config.clone()
    };
    let iwarp = iwarp_config(&config);
    let fabric = move |_| Iwarp::new(iwarp).map_err(io::Error::other);
    let error = Broker::start(config.clone(), fabric).map(drop).unwrap_err();
    for path in [&config.control, &status_path(&config.control)] {
        assert!(!path.exists(), "{} is left", path.display());
    }
    error
}

fn get(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn metrics_are_at_a_socket_for_the_group_of_the_status() {
    let is_root = rustix::process::geteuid().is_root();
    let group = if is_root {
        4242
    } else {
        rustix::process::getegid().as_raw()
    };
    let scene = Scene::with(|config| {
        config.metrics_socket = Some(beside(config));
        config.status_group = group.to_string();
    });
    let path = beside(&scene.config);
    let file = fs::metadata(&path).expect("a socket");
    assert_eq!(
        (file.permissions().mode() & 0o777, file.gid()),
        (0o660, group)
    );
    let answer = get(&path, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(text.contains("\nsmbdirect_up 1\n"), "{text}");
    let answer = get(&path, "GET / HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 404 "), "{answer}");
}

#[test]
fn without_the_key_there_is_no_socket_for_metrics() {
    let scene = Scene::new();
    assert!(!beside(&scene.config).exists());
}

#[test]
fn the_socket_of_the_metrics_is_removed_at_the_end_and_that_of_the_dead_is_replaced() {
    let (mut scene, path) = scene();
    scene.broker = None;
    assert!(!path.exists());
    // The file stays, as after a crash, because this type does not remove it.
    drop(UnixListener::bind(&path).expect("a socket"));
    scene.start();
    assert!(get(&path, "HEAD /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));
}

#[test]
fn the_socket_of_another_daemon_is_not_taken_and_no_other_file_either() {
    let (scene, path) = scene();
    let error = refusal(&scene.config);
    let expected = format!(
        "metrics.socket {}: another program is listening there",
        path.display()
    );
    assert_eq!(error.to_string(), expected);
    assert!(get(&path, "HEAD /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 200 "));

    let file = path.with_file_name("file");
    fs::write(&file, "text").expect("a file");
    let mut config = scene.config.clone();
    config.metrics_socket = Some(file.clone());
    let error = refusal(&config).to_string();
    assert!(error.contains("the file there is not a socket"), "{error}");
    assert_eq!(fs::read(&file).expect("the file"), b"text");
}

#[test]
fn a_directory_in_which_others_can_replace_the_socket_of_the_metrics_is_refused() {
    let scene = Scene::new();
    let directory = scene.path().with_file_name("open");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, Permissions::from_mode(0o777)).expect("permissions");
    let mut config = scene.config.clone();
    config.metrics_socket = Some(directory.join("metrics"));
    let error = refusal(&config);
    assert!(
        matches!(error, StartError::MetricsDirectory { .. }),
        "{error}"
    );
    let said = error.to_string();
    for part in [
        "and has mode 0777, so other users could replace the socket",
        &format!("chmod go-w {}", directory.display()),
        "another path with metrics.socket",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(!directory.join("metrics").exists());
    config.metrics_socket = Some(scene.path().with_file_name("nowhere").join("metrics"));
    let said = refusal(&config).to_string();
    assert!(
        said.contains("nowhere: No such file or directory"),
        "{said}"
    );
}

#[test]
fn clients_of_the_metrics_that_say_nothing_keep_nobody_waiting() {
    let (_scene, path) = scene();
    // These are more than are served at a time, and would take 200 seconds one after the other.
    let connect = |_| UnixStream::connect(&path).expect("a connection");
    let silent: Vec<UnixStream> = (0..100).map(connect).collect();
    let answer = get(&path, "GET /metrics HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    for mut client in silent {
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("an end");
        assert!(rest.is_empty(), "{rest:?}");
    }
}
