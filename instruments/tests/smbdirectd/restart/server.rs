// SPDX-License-Identifier: GPL-2.0-or-later

//! A worker that serves clients as smbd does, and clients that check every byte.
//!
//! A request is a letter, a number, and descriptors of the client's memory: `E` is answered with the same bytes, `R`
//! has the worker read the memory and check it, and `W` has the worker write it. Each answer begins with the letter.

use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use instruments::peer::{Peer, emit};
use smbdirect::device::{BulkBuffer, Direction, Event, Handle, Role, Status};
use smbdirect::fabric::Access;
use smbdirect::sys::wait_readable;

use crate::drain::event;

/// Number of bytes of an RDMA transfer.
pub(crate) const LENGTH: usize = 700_000;

/// Returns the bytes for a number.
pub(crate) fn pattern(number: u64) -> Vec<u8> {
    let byte = |place: u64| (place.wrapping_mul(31).wrapping_add(number * 7) >> 3) as u8;
    (0..LENGTH as u64).map(byte).collect()
}

/// Something that the worker has to do as soon as the library takes it.
enum Task {
    Transfer(Direction, u64, u64, Vec<u8>),
    Answer(u64, Vec<u8>),
}

/// A transfer under way.
struct Transfer {
    direction: Direction,
    conn: u64,
    number: u64,
    buffer: BulkBuffer,
}

struct Server {
    handle: Handle,
    tasks: VecDeque<Task>,
    transfers: HashMap<u64, Transfer>,
    cookie: u64,
    /// Whether clients may close their connections.
    clients_end: Arc<AtomicBool>,
}

/// Attaches a worker for the clients with this GUID, and serves them in a thread until the second flag; its clients
/// work until the first one.
pub(crate) fn serve(
    control: &Path,
    guid: [u8; 16],
    [clients_end, stop]: &[Arc<AtomicBool>; 2],
) -> JoinHandle<()> {
    let (control, stop) = (control.to_owned(), Arc::clone(stop));
    let clients_end = Arc::clone(clients_end);
    let (sender, attached) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        // A handle belongs to the thread that uses it.
        let handle = attach(&control, guid);
        sender.send(()).unwrap();
        let mut server = Server {
            handle,
            tasks: VecDeque::new(),
            transfers: HashMap::new(),
            cookie: 1,
            clients_end,
        };
        while !stop.load(Ordering::Relaxed) {
            server.step();
        }
    });
    attached.recv().expect("the worker attaches");
    thread
}

/// Attaches a worker that gets the connections of a client.
pub(crate) fn attach(control: &Path, guid: [u8; 16]) -> Handle {
    let mut handle = Handle::attach(control, Role::Worker, None).unwrap();
    assert!(matches!(event(&mut handle), Event::Attached));
    handle.set_session_id(1, guid, 0, false).unwrap();
    let Event::Reply { status, .. } = event(&mut handle) else {
        panic!("an answer");
    };
    assert_eq!(status, Status::Ok);
    handle
}

impl Server {
    fn step(&mut self) {
        while let Some(event) = self.handle.next_event().unwrap() {
            self.handle(event);
        }
        while let Some(task) = self.tasks.pop_front() {
            if let Some(task) = self.run(task) {
                self.tasks.push_front(task);
                break;
            }
        }
        let time = Some(Duration::from_millis(20));
        wait_readable(self.handle.event_fd().unwrap(), time).unwrap();
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Connection { .. } | Event::Room => {}
            Event::Pdu {
                conn, pdu, length, ..
            } => {
                let mut bytes = vec![0; length as usize];
                self.handle.take_pdu(pdu, &mut bytes).unwrap();
                self.request(conn, bytes);
            }
            Event::Sent { status, .. } => assert_eq!(status, Status::Ok),
            Event::RdmaDone { cookie, status, .. } => {
                assert_eq!(status, Status::Ok);
                let transfer = self
                    .transfers
                    .remove(&cookie)
                    .expect("a transfer under way");
                self.transferred(&transfer);
            }
            Event::Disconnected { status, .. } if self.clients_end.load(Ordering::Relaxed) => {
                assert_eq!(status, Status::ClosedByPeer);
            }
            other => panic!("{other:?}"),
        }
    }

    fn request(&mut self, conn: u64, bytes: Vec<u8>) {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes[1..9].try_into().unwrap());
        match bytes[0] {
            b'E' => self.tasks.push_back(Task::Answer(conn, bytes)),
            b'R' | b'W' => {
                let direction = match bytes[0] {
                    b'R' => Direction::Read,
                    _ => Direction::Write,
                };
                let (number, list) = (number(&bytes), bytes[9..].to_vec());
                self.tasks
                    .push_back(Task::Transfer(direction, conn, number, list));
            }
            _ => {
                // The NEGOTIATE request of SMB2.
                self.handle.set_authenticated(conn).unwrap();
                self.tasks.push_back(Task::Answer(conn, b"N".to_vec()));
            }
        }
    }

    /// Does something, or returns it if the library does not take it now.
    fn run(&mut self, task: Task) -> Option<Task> {
        self.cookie += 1;
        let cookie = self.cookie;
        match task {
            Task::Answer(conn, ref bytes) => {
                let sent = self
                    .handle
                    .send_pdu(conn, cookie, &[IoSlice::new(bytes)], None);
                (!taken(sent)).then_some(task)
            }
            Task::Transfer(direction, conn, number, ref list) => {
                let buffer = match self.handle.allocate(LENGTH) {
                    Err(Status::Again) => return Some(task),
                    buffer => buffer.unwrap(),
                };
                if direction == Direction::Write {
                    let bytes = pattern(number);
                    // SAFETY: the buffer has `LENGTH` bytes, is mapped while the handle lives, and belongs to this
                    // thread until the transfer begins.
                    unsafe {
                        buffer
                            .start
                            .copy_from_nonoverlapping(bytes.as_ptr(), LENGTH)
                    };
                }
                let begun =
                    self.handle
                        .rdma(direction, conn, cookie, buffer.number, 0, LENGTH, list);
                if !taken(begun) {
                    self.handle.free(buffer.number).unwrap();
                    return Some(task);
                }
                let transfer = Transfer {
                    direction,
                    conn,
                    number,
                    buffer,
                };
                self.transfers.insert(cookie, transfer);
                None
            }
        }
    }

    fn transferred(&mut self, transfer: &Transfer) {
        let letter = match transfer.direction {
            Direction::Read => {
                let mut bytes = vec![0; LENGTH];
                // SAFETY: as in `run`; the transfer has ended.
                unsafe {
                    transfer
                        .buffer
                        .start
                        .copy_to_nonoverlapping(bytes.as_mut_ptr(), LENGTH)
                };
                assert!(
                    bytes == pattern(transfer.number),
                    "read {}",
                    transfer.number
                );
                b'R'
            }
            Direction::Write => b'W',
        };
        self.handle.free(transfer.buffer.number).unwrap();
        self.tasks
            .push_back(Task::Answer(transfer.conn, vec![letter]));
    }
}

fn taken(result: Result<(), Status>) -> bool {
    match result {
        Err(Status::Again) => false,
        result => {
            result.unwrap();
            true
        }
    }
}

/// Makes a client work until `stop`, in a thread; `done` counts its rounds.
pub(crate) fn work(
    address: SocketAddr,
    guid: [u8; 16],
    (stop, done): (&Arc<AtomicBool>, &Arc<AtomicU64>),
) -> JoinHandle<()> {
    let (stop, done) = (Arc::clone(stop), Arc::clone(done));
    std::thread::spawn(move || {
        let mut peer = Peer::connect(address);
        peer.negotiate(guid);
        assert_eq!(peer.receive(), b"N");
        let source = peer.window(LENGTH, Access::RemoteRead);
        let target = peer.window(LENGTH, Access::RemoteWrite);
        let mut number = u64::from(guid[0]);
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            source.memory.write(0, &pattern(number)).unwrap();
            let request =
                |letter: u8, rest: &[u8]| [&[letter][..], &number.to_le_bytes(), rest].concat();
            let echo = request(b'E', &pattern(number)[..50_000]);
            let requests = [
                request(b'R', &emit(&source.descriptors(5))),
                request(b'W', &emit(&target.descriptors(3))),
                echo.clone(),
            ];
            for request in &requests {
                peer.queue(request).unwrap();
            }
            let mut letters: Vec<u8> = Vec::new();
            while letters.len() < requests.len() {
                let answer = peer.receive();
                letters.push(answer[0]);
                if answer[0] == b'E' {
                    assert!(answer == echo, "echo {number}");
                }
            }
            letters.sort_unstable();
            assert_eq!(letters, b"ERW");
            assert!(target.bytes() == pattern(number), "written {number}");
            done.fetch_add(1, Ordering::Relaxed);
        }
    })
}
