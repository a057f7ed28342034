//! An observer beside devices that answer, and others.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};

use super::*;
use crate::device::abi::MemParams;
use crate::sys::SeqListener;

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
    /// The next request: its beginning and what follows.
    fn request(&self) -> (Control, Vec<u8>) {
        let mut buffer = [0; MAX_CONTROL_LENGTH];
        loop {
            wait_readable(self.0.as_fd(), Some(TIMEOUT)).unwrap();
            if let Ok(received) = self.0.receive(&mut buffer) {
                let (control, body) =
                    Control::read_from_prefix(&buffer[..received.length]).unwrap();
                assert_eq!(control.length as usize, received.length);
                return (control, body.to_vec());
            }
        }
    }

    fn answer(&self, kind: u32, cookie: u64, body: &[u8], files: &[BorrowedFd<'_>]) {
        let length = (size_of::<Control>() + body.len()) as u32;
        let control = Control {
            kind,
            length,
            cookie,
        };
        let message = [control.as_bytes(), body].concat();
        self.0.send(&message, files).unwrap();
    }

    /// Lets the observer attach; returns the cookie of its next request.
    fn attach(&self) -> u64 {
        let (control, body) = self.request();
        assert_eq!(control.kind, kind::ATTACH);
        let attach = Attach::read_from_bytes(&body).unwrap();
        assert_eq!((attach.version, attach.role), (VERSION, role::OBSERVER));
        self.answer(
            kind::ATTACHED,
            control.cookie,
            attached(VERSION).as_bytes(),
            &[],
        );
        let (control, _) = self.request();
        assert_eq!(control.kind, kind::STATUS_REQUEST);
        control.cookie
    }

    fn report(&self, length: u64, json_length: u64, files: &[BorrowedFd<'_>]) {
        let cookie = self.attach();
        let report = StatusReport {
            length,
            json_length,
        };
        self.answer(kind::STATUS_REPORT, cookie, report.as_bytes(), files);
    }
}

fn attached(version: u32) -> Attached {
    Attached {
        version,
        worker: 7,
        memory: MemParams::read_from_bytes(&[0; size_of::<MemParams>()]).unwrap(),
        submissions_outstanding: 1,
        max_read_write_size: 1,
        reserved: [0; 6],
    }
}

fn file(bytes: &[u8]) -> Memfd {
    let file = Memfd::create("status", bytes.len()).unwrap();
    shm::map(&file).unwrap().write(0, bytes).unwrap();
    file
}

/// What an observer finds at a device that behaves so.
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
    let found = observe(&path, timeout);
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
fn tells_a_path_without_a_device_from_one_that_is_not_permitted() {
    let path = fresh_path();
    assert_eq!(observe(&path, TIMEOUT), Err(Status::NoDevice));
    drop(SeqListener::bind(&path).unwrap());
    assert_eq!(
        observe(&path, TIMEOUT),
        Err(Status::NoDevice),
        "left behind"
    );
    assert_eq!(observe(&path.join("x"), TIMEOUT), Err(Status::NoDevice));
    std::fs::remove_file(&path).unwrap();
    let _stream = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert_eq!(
        observe(&path, TIMEOUT),
        Err(Status::NoDevice),
        "of another kind"
    );
    std::fs::remove_file(&path).unwrap();
    let denied = refused(&io::Error::from_raw_os_error(libc::EACCES));
    assert_eq!(denied, Status::Denied);
    let full = refused(&io::Error::from_raw_os_error(libc::EAGAIN));
    assert_eq!(full, Status::Limit);
}

#[test]
fn passes_on_why_the_device_refuses() {
    let detached = at(|device| {
        let body = Detached {
            status: Status::Version.code(),
            reserved: 0,
        };
        device.answer(kind::DETACHED, 0, body.as_bytes(), &[]);
    });
    assert_eq!(detached, Err(Status::Version));
    let replied = at(|device| {
        let reply = Reply {
            status: Status::Limit.code(),
            kind: kind::STATUS_REQUEST,
        };
        let cookie = device.attach();
        device.answer(kind::REPLY, cookie, reply.as_bytes(), &[]);
    });
    assert_eq!(replied, Err(Status::Limit));
    assert_eq!(at(drop), Err(Status::Detached));
    let other = at(|device| {
        let (control, _) = device.request();
        device.answer(kind::ATTACHED, control.cookie, attached(2).as_bytes(), &[]);
    });
    assert_eq!(other, Err(Status::Version));
}

#[test]
fn takes_nothing_that_is_no_status() {
    type Behaviour = fn(Device);
    let cases: [(&str, Behaviour); 12] = [
        ("not a message", |device| device.0.send(b"?", &[]).unwrap()),
        ("another length", |device| {
            let control = Control {
                kind: kind::ATTACHED,
                length: 17,
                cookie: 1,
            };
            device.0.send(control.as_bytes(), &[]).unwrap();
        }),
        ("too long", |device| device.0.send(&[0; 5000], &[]).unwrap()),
        ("another cookie", |device| {
            device.answer(kind::ATTACHED, 77, attached(VERSION).as_bytes(), &[]);
        }),
        ("another kind", |device| {
            let (control, _) = device.request();
            device.answer(
                kind::QUEUE,
                control.cookie,
                attached(VERSION).as_bytes(),
                &[],
            );
        }),
        ("a body of another length", |device| {
            let (control, _) = device.request();
            device.answer(kind::ATTACHED, control.cookie, b"short", &[]);
        }),
        ("refused for nothing", |device| {
            let (control, _) = device.request();
            let reply = Reply {
                status: 0,
                kind: kind::ATTACH,
            };
            device.answer(kind::REPLY, control.cookie, reply.as_bytes(), &[]);
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
        // Answers nothing, and stays until the observer has gone.
        wait_readable(device.0.as_fd(), Some(TIMEOUT)).unwrap();
        assert_eq!(device.0.receive(&mut [0]).unwrap_err().name(), "closed");
    });
    assert_eq!(found, Err(Status::TimedOut));
}
