// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests an observer against devices that answer as they should, and against devices that do not.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use zerocopy::FromZeros;

use super::*;
use crate::device::abi::{
    Attached, Control, Detached, MAX_CONTROL_LENGTH, Reply, Segment, kind, region,
};
use crate::device::message::{Request, read_request};
use crate::shm;
use crate::sys::{Memfd, SeqListener, SeqSocket};

const TIMEOUT: Duration = Duration::from_secs(10);

fn fresh_path() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("smbdirect-observe-{}-{count}", std::process::id());
    std::env::temp_dir().join(name)
}

/// One connection of a device.
struct Device(SeqSocket);

impl Device {
    /// Returns the next request, as bytes.
    fn request(&self) -> Vec<u8> {
        let mut buffer = [0; MAX_CONTROL_LENGTH];
        loop {
            wait_readable(self.0.as_fd(), Some(TIMEOUT)).unwrap();
            if let Ok(received) = self.0.receive(&mut buffer) {
                return buffer[..received.length].to_vec();
            }
        }
    }

    fn answer(&self, cookie: u64, body: &impl Body, files: &[BorrowedFd<'_>]) {
        let mut message = Vec::new();
        encode(cookie, body, &[], &mut message);
        self.0.send(&message, files).unwrap();
    }

    /// Takes the first request, and returns its cookie.
    fn attach_request(&self) -> u64 {
        let bytes = self.request();
        let (cookie, Request::Attach(attach)) = read_request(&bytes).unwrap() else {
            panic!("an observer attaches first");
        };
        assert_eq!((attach.version, attach.role), (VERSION, role::OBSERVER));
        cookie
    }

    /// Lets the observer attach, and returns the cookie of its next request.
    fn attach(&self) -> u64 {
        self.answer(self.attach_request(), &attached(VERSION), &[]);
        let bytes = self.request();
        let (cookie, Request::Status(_)) = read_request(&bytes).unwrap() else {
            panic!("an observer asks for the status");
        };
        cookie
    }

    fn report(&self, length: u64, json_length: u64, files: &[BorrowedFd<'_>]) {
        let cookie = self.attach();
        let report = StatusReport {
            length,
            json_length,
        };
        self.answer(cookie, &report, files);
    }
}

fn attached(version: u32) -> Attached {
    Attached {
        version,
        ..Attached::new_zeroed()
    }
}

fn file(bytes: &[u8]) -> Memfd {
    let file = Memfd::create("status", bytes.len()).unwrap();
    shm::map(&file).unwrap().write(0, bytes).unwrap();
    file
}

/// Returns what an observer gets from a device that does `behave`.
fn at(behave: impl FnOnce(Device) + Send + 'static) -> Result<String, Status> {
    at_for(TIMEOUT, behave)
}

fn at_for(
    timeout: Duration,
    behave: impl FnOnce(Device) + Send + 'static,
) -> Result<String, Status> {
    let path = fresh_path();
    let listener = SeqListener::bind(&path).unwrap();
    let device: JoinHandle<()> = thread::spawn(move || {
        wait_readable(listener.as_fd(), Some(TIMEOUT)).unwrap();
        behave(Device(listener.accept().unwrap()));
    });
    let found = observe(&path, timeout).map_err(|error| error.status);
    device.join().unwrap();
    std::fs::remove_file(&path).unwrap();
    found
}

#[test]
fn reads_the_json_of_a_device() {
    let json = at(|device| {
        let file = file(b"{\"connections\":[]}....");
        device.report(22, 18, &[file.as_fd()]);
    });
    assert_eq!(json.as_deref(), Ok("{\"connections\":[]}"));
}

#[test]
fn names_the_process_that_listens() {
    let path = fresh_path();
    let listener = SeqListener::bind(&path).unwrap();
    let device = thread::spawn(move || {
        wait_readable(listener.as_fd(), Some(TIMEOUT)).unwrap();
        let device = Device(listener.accept().unwrap());
        device.report(2, 2, &[file(b"{}").as_fd()]);
    });
    let found = observe_process(&path, TIMEOUT);
    device.join().unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(found, Ok(("{}".to_owned(), Some(std::process::id()))));
}

#[test]
fn tells_a_path_without_a_device() {
    let path = fresh_path();
    assert_eq!(observe(&path, TIMEOUT), Err(Status::NoDevice.into()));
    drop(SeqListener::bind(&path).unwrap());
    assert_eq!(
        observe(&path, TIMEOUT),
        Err(Status::NoDevice.into()),
        "left behind"
    );
    assert_eq!(
        observe(&path.join("x"), TIMEOUT),
        Err(Status::NoDevice.into())
    );
    std::fs::remove_file(&path).unwrap();
    let _stream = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(
        observe(&path, TIMEOUT),
        Err(Status::NoDevice.into()),
        "of another kind"
    );
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn passes_on_why_the_device_refuses() {
    let detached = at(|device| {
        let status = Status::Version.code();
        let body = Detached { status, version: 9 };
        device.answer(0, &body, &[]);
    });
    assert_eq!(detached, Err(Status::Version));
    let replied = at(|device| {
        let reply = Reply {
            status: Status::Limit.code(),
            kind: kind::STATUS_REQUEST,
        };
        let cookie = device.attach();
        device.answer(cookie, &reply, &[]);
    });
    assert_eq!(replied, Err(Status::Limit));
    assert_eq!(at(drop), Err(Status::Detached));
    let other = at(|device| device.answer(device.attach_request(), &attached(VERSION + 1), &[]));
    assert_eq!(other, Err(Status::Version));
    let text = other_version(9).to_string();
    let own = format!("version 9 of the interface, this program version {VERSION}");
    assert!(text.contains(&own), "{text}");
}

#[test]
fn takes_nothing_that_is_not_a_status() {
    type Behaviour = fn(Device);
    let cases: [(&str, Behaviour); 11] = [
        ("not a message", |device| device.0.send(b"?", &[]).unwrap()),
        ("another length", |device| {
            device.0.send(&[0xff; size_of::<Control>()], &[]).unwrap();
        }),
        ("too long", |device| device.0.send(&[0; 5000], &[]).unwrap()),
        ("another cookie", |device| {
            device.answer(77, &attached(VERSION), &[]);
        }),
        ("another kind", |device| {
            let segment = Segment {
                region: region::SEND,
                length: 1,
                ..Segment::new_zeroed()
            };
            device.answer(device.attach_request(), &segment, &[file(b"1").as_fd()]);
        }),
        ("refused for nothing", |device| {
            device.answer(device.attach_request(), &Reply::new_zeroed(), &[]);
        }),
        ("no file", |device| device.report(2, 2, &[])),
        ("two files", |device| {
            let file = file(b"{}");
            device.report(2, 2, &[file.as_fd(), file.as_fd()]);
        }),
        ("a file of another length", |device| {
            device.report(3, 2, &[file(b"{}").as_fd()])
        }),
        ("more than the file", |device| {
            device.report(2, 3, &[file(b"{}").as_fd()])
        }),
        ("not text", |device| {
            device.report(2, 2, &[file(&[0xff; 2]).as_fd()])
        }),
    ];
    for (name, behaviour) in cases {
        assert_eq!(at(behaviour), Err(Status::Corrupt), "{name}");
    }
    let huge = at(|device| device.report(u64::MAX, u64::MAX, &[file(b"{}").as_fd()]));
    assert_eq!(huge, Err(Status::Corrupt));
}

#[test]
fn waits_no_longer_than_it_was_told() {
    let found = at_for(Duration::from_millis(20), |device| {
        device.request();
        // Does not answer, and stays until the observer has gone.
        wait_readable(device.0.as_fd(), Some(TIMEOUT)).unwrap();
        assert_eq!(device.0.receive(&mut [0]).unwrap_err().name(), "closed");
    });
    assert_eq!(found, Err(Status::TimedOut));
}
