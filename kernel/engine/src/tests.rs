// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the device in a program, through the functions that C calls: two workers in two threads, with work items in a
//! third. [`host`] checks the order of locks.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use smbdirect::device::abi::{
    Attach, Completion, Control, Grow, Offer, Queue, Segment, SetSessionId, Submission, Token,
    TransferSubmission, event, kind, op, region, role,
};
use smbdirect::device::uapi::{
    ALL_QUEUES, AttachCall, Call, ClaimCall, EnterCall, GetEventsCall, GrowCall, MAP_QUEUE,
    SetSessionIdCall, answer, enter, map_offset, number,
};
use smbdirect::shm::{Consumer, Doorbell, Entry, Producer, RingMemory};
use smbdirect::sys::Memory;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, transmute};

use crate::host;

/// Long enough for anything that does not wait for another worker.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client's offer to negotiate.
const NEGOTIATE: [u8; 20] = [
    0x00, 0x01, 0x00, 0x01, 0, 0, 10, 0, 0x54, 0x05, 0, 0, 0x54, 0x05, 0, 0, 0, 0, 2, 0,
];

/// There is one device, so tests take turns.
static TURN: Mutex<()> = Mutex::new(());

/// The device. At its end, nothing may be left.
struct Device(#[allow(dead_code)] MutexGuard<'static, ()>);

impl Device {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: there is no device yet.
        assert_eq!(unsafe { host::sde_init() }, 0);
        Self(turn)
    }

    /// Ends the device, after all files were closed.
    fn end(self) {
        loop {
            // SAFETY: the device exists.
            unsafe { host::sde_stop() }
            host::run_work();
            if host::left()[0] == 0 {
                break;
            }
        }
        // SAFETY: no thread uses the device.
        unsafe { host::sde_exit() }
        assert_eq!(host::left(), [0; 5]);
    }
}

struct NoBell;

impl Doorbell for NoBell {
    fn ring(&self) {}
}

/// A process with an open file.
struct Process {
    /// The client of the device, and the file.
    client: usize,
    file: usize,
    /// The device's number for the process.
    number: u32,
    rings: Option<(Producer<NoBell>, Consumer<NoBell>)>,
    receive: BTreeMap<u32, Memory>,
    send: Option<Memory>,
    offers: Vec<Token>,
    claimed: Vec<i32>,
}

impl Process {
    fn attach(role: u32, token: Token) -> Self {
        let file = host::open();
        // SAFETY: the file is open.
        let client = unsafe { host::sde_open(file as *mut c_void) } as usize;
        let mut process = Self {
            client,
            file,
            number: 0,
            rings: None,
            receive: BTreeMap::new(),
            send: None,
            offers: Vec::new(),
            claimed: Vec::new(),
        };
        let mut call = AttachCall {
            attach: Attach::new(role, token),
            ..AttachCall::new_zeroed()
        };
        assert_eq!((process.call(&mut call), call.status), (0, 0));
        process.number = call.attached.worker;
        process
    }

    /// Makes a worker that has registered a client.
    fn worker(guid: u8) -> Self {
        let worker = Self::attach(role::WORKER, Token::default());
        let mut call = SetSessionIdCall {
            session: SetSessionId {
                client_guid: [guid; 16],
                session_id: guid.into(),
                ..SetSessionId::new_zeroed()
            },
            ..SetSessionIdCall::new_zeroed()
        };
        assert_eq!((worker.call(&mut call), call.status), (0, 0));
        worker
    }

    fn call<C: Call>(&self, call: &mut C) -> i32 {
        let argument = call.as_mut_bytes().as_mut_ptr();
        // SAFETY: the client exists, and the argument has the length that the number says.
        unsafe { host::sde_ioctl(self.client as *mut c_void, C::NUMBER, argument, true) }
    }

    fn detach(&self) {
        // SAFETY: the client exists, and the call has no argument.
        let done = unsafe {
            host::sde_ioctl(
                self.client as *mut c_void,
                number::DETACH,
                host::NOTHING,
                true,
            )
        };
        assert_eq!(done, 0);
    }

    fn close(mut self) {
        (self.rings, self.send) = (None, None);
        self.receive.clear();
        // SAFETY: nothing uses the client any longer.
        unsafe { host::sde_release(self.client as *mut c_void) }
        host::put(self.file);
    }

    fn map(&self, region: u32, number: u32, length: usize) -> Memory {
        let offset = map_offset(region, number).unwrap();
        host::map(self.client as *mut c_void, offset, length).unwrap()
    }

    fn enter(&self) -> i32 {
        self.call(&mut EnterCall {
            queue: ALL_QUEUES,
            flags: enter::LOOK,
            ..EnterCall::new_zeroed()
        })
    }

    /// Reads all messages.
    fn read(&mut self) {
        let mut buffer = vec![0_u8; 1 << 16];
        let mut call = GetEventsCall {
            buffer: buffer.as_mut_ptr() as u64,
            length: 1 << 16,
            ..GetEventsCall::new_zeroed()
        };
        assert_eq!(self.call(&mut call), 0);
        let mut rest = &buffer[..call.filled as usize];
        while let Ok((control, _)) = Control::read_from_prefix(rest) {
            let (message, next) = rest.split_at(control.length as usize);
            rest = next;
            let body = &message[size_of::<Control>()..];
            match control.kind {
                kind::QUEUE => {
                    let queue: Queue = read(body);
                    let memory = self.map(MAP_QUEUE, queue.queue, queue.length as usize);
                    let at = queue.completion_offset as usize;
                    let second = memory.part(at, memory.len() - at).unwrap();
                    let [submissions, completions] =
                        [&memory, &second].map(|memory| RingMemory::open(memory).unwrap());
                    self.rings = Some((
                        Producer::new(submissions, NoBell),
                        Consumer::new(completions, NoBell),
                    ));
                }
                kind::SEGMENT => {
                    let segment: Segment = read(body);
                    let memory = self.map(segment.region, segment.number, segment.length as usize);
                    self.receive.insert(segment.number, memory);
                }
                kind::OFFER => self.offers.push(read::<Offer>(body).token),
                kind::REPLY => self.claimed.push(i32::read_from_prefix(body).unwrap().0),
                _ => {}
            }
        }
    }

    /// Enters, and takes all completions.
    fn look(&mut self) -> Vec<Completion> {
        assert_eq!(self.enter(), 0);
        self.read();
        let mut all = Vec::new();
        let mut entries = [Entry::default(); 32];
        while let Some((_, completions)) = &mut self.rings {
            let count = completions.pop(&mut entries).unwrap();
            all.extend(
                entries[..count]
                    .iter()
                    .map(|entry| -> Completion { transmute!(*entry) }),
            );
            if count == 0 {
                break;
            }
        }
        all
    }

    /// Looks until there is a completion of this kind; takes no others with it.
    fn wait(&mut self, event: u32) -> Completion {
        let end = Instant::now() + PATIENCE;
        loop {
            let all = self.look();
            if let [one, ..] = all[..] {
                assert_eq!((one.event, all.len()), (event, 1), "{all:?}");
                return one;
            }
            assert!(Instant::now() < end, "no completion {event}");
            host::run_work();
        }
    }

    fn submit(&mut self, entry: Entry) {
        let (submissions, _) = self.rings.as_mut().unwrap();
        assert_eq!(submissions.push(&[entry]).unwrap(), 1);
    }

    /// Copies a message, and gives its buffer back.
    fn take(&mut self, pdu: &Completion) -> Vec<u8> {
        let (segment, unit) = (pdu.buffer >> 16 & 0xffff, pdu.buffer & 0xffff);
        let memory = &self.receive[&(segment as u32)];
        let bytes = memory
            .to_vec(unit as usize * 8192, pdu.length as usize)
            .unwrap();
        self.submit(transmute!(Submission {
            op: op::RECYCLE,
            place: pdu.buffer,
            ..Submission::new_zeroed()
        }));
        bytes
    }

    fn send(&mut self, conn: u64, message: &[u8]) {
        if self.send.is_none() {
            let mut call = GrowCall {
                cookie: 1,
                grow: Grow {
                    region: region::SEND,
                    units: 1,
                },
                ..GrowCall::new_zeroed()
            };
            assert_eq!((self.call(&mut call), call.status), (0, 0));
            let length = call.segment.length as usize;
            self.send = Some(self.map(region::SEND, call.segment.number, length));
        }
        let memory = self.send.as_ref().unwrap();
        memory.write(0, message).unwrap();
        self.submit(transmute!(Submission {
            op: op::SEND_PDU,
            conn,
            length: message.len() as u32,
            ..Submission::new_zeroed()
        }));
    }

    fn transfer(&mut self, conn: u64, guid: u8) {
        self.submit(transmute!(TransferSubmission {
            op: op::TRANSFER,
            conn,
            client_guid: [guid; 16],
            ..TransferSubmission::new_zeroed()
        }));
    }
}

fn read<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> T {
    T::read_from_prefix(body).unwrap().0
}

/// A client. Its connection has negotiated.
#[derive(Clone, Copy)]
struct Client(usize);

impl Client {
    /// Connects a client that has sent its first request.
    fn connect(port: u16, guid: u8) -> Self {
        let client = Self(host::connect(port));
        host::run_work();
        assert!(host::deliver(client.0, &NEGOTIATE));
        host::run_work();
        assert_eq!(
            host::sent(client.0).map(|response| response.len()),
            Some(32)
        );
        let mut request = vec![0; 64 + 36];
        request[..6].copy_from_slice(b"\xfeSMB\x40\x00");
        (request[64], request[66]) = (36, 1);
        request[76..92].copy_from_slice(&[guid; 16]);
        request.extend(0x0300_u16.to_le_bytes());
        assert!(client.send(&request));
        client
    }

    /// Sends a message, with which the client also grants credits.
    fn send(self, message: &[u8]) -> bool {
        let mut bytes = vec![0; 24];
        (bytes[0], bytes[2], bytes[12]) = (10, 4, 24);
        bytes[16..20].copy_from_slice(&(message.len() as u32).to_le_bytes());
        bytes.extend_from_slice(message);
        host::deliver(self.0, &bytes)
    }

    /// Takes the next message that is not empty.
    fn received(self) -> Option<Vec<u8>> {
        loop {
            let message = host::sent(self.0)?;
            if message.len() > 24 {
                return Some(message[24..].to_vec());
            }
        }
    }
}

/// Makes a client whose connection its worker has, and returns the worker's number for the connection.
fn served(worker: &mut Process, port: u16, guid: u8) -> (Client, u64) {
    let client = Client::connect(port, guid);
    host::run_work();
    let all = worker.look();
    let [conn, pdu] = all[..] else {
        panic!("{all:?}");
    };
    assert_eq!((conn.event, pdu.event), (event::CONNECTION, event::PDU));
    assert_eq!(worker.take(&pdu).len(), 102);
    worker.take(&conn);
    (client, conn.conn)
}

/// Runs `action` in another thread. Fails if it does not end: then it waits for something that it must not wait for.
fn ends<T: Send + 'static>(what: &str, action: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || done.send(action()));
    let result = is_done.recv_timeout(PATIENCE);
    result.unwrap_or_else(|_| panic!("{what} waits for another worker"))
}

#[test]
fn a_worker_in_a_long_step_holds_up_nobody_else() {
    let device = Device::new();
    let mut listener = Process::attach(role::LISTENER, Token::default());
    let (mut stuck, mut worker) = (Process::worker(1), Process::worker(2));
    let (lost, _) = served(&mut stuck, 1, 1);
    let (client, conn) = served(&mut worker, 2, 2);
    host::close_gate(u64::from(stuck.number));
    let client_of_stuck = stuck.client;
    let enters = std::thread::spawn(move || {
        let mut call = EnterCall {
            queue: ALL_QUEUES,
            flags: enter::LOOK,
            ..EnterCall::new_zeroed()
        };
        let argument = call.as_mut_bytes().as_mut_ptr();
        // SAFETY: the client exists until this thread has ended.
        unsafe {
            host::sde_ioctl(
                client_of_stuck as *mut c_void,
                EnterCall::NUMBER,
                argument,
                true,
            )
        }
    });
    host::wait_at_gate();
    // The messages of the client of the stuck worker wait. Its work item waits, too, and that holds up nothing.
    assert!(lost.send(b"waits"));
    let item = host::start_work(u64::from(stuck.number));
    let (mut worker, count) = ends("traffic of another worker", move || {
        let mut count = 0;
        for round in 0..100_u32 {
            assert!(client.send(&round.to_le_bytes()));
            let pdu = worker.wait(event::PDU);
            assert_eq!(worker.take(&pdu), round.to_le_bytes());
            worker.send(conn, &round.to_le_bytes());
            assert_eq!(worker.wait(event::SENT).status, 0);
            assert_eq!(client.received(), Some(round.to_le_bytes().to_vec()));
            count += 1;
        }
        (worker, count)
    });
    assert_eq!(count, 100);
    let (mut worker, next) = ends("a new client", move || {
        let next = Client::connect(3, 9);
        host::run_work();
        listener.read();
        let token = listener.offers.pop().expect("an offer");
        let mut call = ClaimCall {
            cookie: 7,
            ..ClaimCall::new_zeroed()
        };
        call.claim.token = token;
        assert_eq!((worker.call(&mut call), call.status), (0, answer::LATER));
        let end = Instant::now() + PATIENCE;
        let mut all = Vec::new();
        while all.len() < 2 && Instant::now() < end {
            all.extend(worker.look());
        }
        assert_eq!(
            (all[0].event, all[1].event),
            (event::CONNECTION, event::PDU)
        );
        assert_eq!(worker.claimed, [0]);
        (listener.close(), (worker, next)).1
    });
    // Neither the end of the stuck worker waits for its step, nor does one of another process.
    let stuck = ends("a detach", move || {
        stuck.detach();
        stuck
    });
    worker.transfer(conn, 1);
    let refused = worker.wait(event::TRANSFERRED);
    assert_ne!(
        refused.status, 0,
        "nobody has registered this client any longer"
    );
    host::open_gate();
    assert_eq!(enters.join().unwrap(), 0);
    item.join().unwrap();
    host::run_work();
    // The stuck worker had not touched its client's connection, but the client has said more.
    assert!(lost.received().is_none());
    host::disconnect(next.0);
    host::run_work();
    assert_eq!(worker.wait(event::DISCONNECTED).conn & 0xff, 2);
    stuck.close();
    worker.close();
    device.end();
}

/// Two workers answer their clients at the same time, and pass a third client's connection to and fro. Each message of
/// that client reaches one of them, in order.
#[test]
fn two_workers_work_at_once_while_a_connection_moves_between_them() {
    const ROUNDS: u32 = 300;
    let device = Device::new();
    let (mut first, mut second) = (Process::worker(1), Process::worker(2));
    let pairs = [served(&mut first, 1, 1), served(&mut second, 2, 2)];
    let (moving, conn) = served(&mut first, 3, 1);
    first.transfer(conn, 2);
    let seen = Mutex::new(Vec::new());
    let (is_over, moves) = (AtomicBool::new(false), Mutex::new([0; 2]));
    std::thread::scope(|scope| {
        let serve = |mut worker: Process, number: usize| {
            let ((client, own), other) = (pairs[number], [2, 1][number]);
            let (seen, moves) = (&seen, &moves);
            scope.spawn(move || {
                let end = Instant::now() + PATIENCE;
                let mut round = 0_u32;
                let mut guest = None;
                assert!(client.send(&round.to_le_bytes()));
                while round < ROUNDS {
                    assert!(Instant::now() < end, "round {round}");
                    let mut wants_to_pass_on = None;
                    for completion in worker.look() {
                        match completion.event {
                            event::CONNECTION => {
                                worker.take(&completion);
                                guest = Some(completion.conn);
                                wants_to_pass_on = guest;
                            }
                            event::PDU if completion.conn == own => {
                                let bytes = worker.take(&completion);
                                assert_eq!(bytes, round.to_le_bytes());
                                worker.send(own, &bytes);
                            }
                            event::PDU => {
                                let bytes = worker.take(&completion);
                                seen.lock().unwrap().push(bytes);
                            }
                            event::SENT => {
                                assert_eq!(completion.status, 0);
                                assert_eq!(client.received(), Some(round.to_le_bytes().to_vec()));
                                round += 1;
                                if round < ROUNDS {
                                    assert!(client.send(&round.to_le_bytes()));
                                }
                            }
                            event::TRANSFERRED if completion.status == 0 => {
                                moves.lock().unwrap()[number] += 1;
                                // It may be back already.
                                if guest == Some(completion.conn) {
                                    guest = None;
                                }
                            }
                            // A message has come before.
                            event::TRANSFERRED => wants_to_pass_on = guest,
                            other => panic!("{other}: {completion:?}"),
                        }
                    }
                    if let Some(conn) = wants_to_pass_on {
                        worker.transfer(conn, other);
                    }
                }
                worker
            })
        };
        let threads = [serve(first, 0), serve(second, 1)];
        let items = scope.spawn(|| {
            let mut count = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                if !host::run_work() {
                    std::thread::yield_now();
                }
                if count < 1000 && moving.send(&count.to_le_bytes()) {
                    count += 1;
                }
            }
            count
        });
        let [first, second] = threads.map(|thread| thread.join().unwrap());
        is_over.store(true, Ordering::Relaxed);
        let count = items.join().unwrap();
        // What is on its way arrives at one of them.
        let mut workers = [first, second];
        let end = Instant::now() + PATIENCE;
        while seen.lock().unwrap().len() < count as usize {
            assert!(Instant::now() < end, "a message is lost");
            host::run_work();
            for worker in &mut workers {
                for completion in worker.look() {
                    if completion.event == event::PDU {
                        let bytes = worker.take(&completion);
                        seen.lock().unwrap().push(bytes);
                    }
                }
            }
        }
        let expected: Vec<_> = (0..count)
            .map(|number| number.to_le_bytes().to_vec())
            .collect();
        assert_eq!(*seen.lock().unwrap(), expected);
        let moves = *moves.lock().unwrap();
        assert!(moves.iter().all(|moves| *moves > 10), "{moves:?}");
        workers.into_iter().for_each(Process::close);
    });
    device.end();
}
