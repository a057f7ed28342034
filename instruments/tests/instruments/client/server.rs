// SPDX-License-Identifier: GPL-2.0-or-later

//! An SMB Direct server for one test: it accepts every login as a guest, has one file in memory, and moves data by
//! RDMA. A test can make it break rules.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::{Access, ConnId, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, Transport};
use smbdirect::units::{Instant, RemoteToken};
use smbdirect::wire::{BufferDescriptorV1, BufferDescriptors};

/// The only session, and the only file.
const SESSION: u64 = 0x77;
pub(crate) const FILE: [u8; 16] = *b"the only file...";

const MORE_PROCESSING_REQUIRED: u32 = 0xc000_0016;
const PENDING: u32 = 0x103;
const END_OF_FILE: u32 = 0xc000_0011;
const NOT_SUPPORTED: u32 = 0xc000_00bb;

/// How a server deviates from plain answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manners {
    /// It answers `STATUS_PENDING` first.
    pub(crate) pending: bool,
    /// Credits that each response grants.
    pub(crate) credits: u16,
    /// It replaces the body of an ECHO response with these bytes.
    pub(crate) echo: Option<&'static [u8]>,
    /// It sends this many oplock breaks before the response to an ECHO.
    pub(crate) breaks: usize,
    /// It does not answer ECHO.
    pub(crate) mute: bool,
}

/// A running server.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// The contents of the file.
    pub(crate) file: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn start(manners: Manners) -> Self {
        let mut fabric = iwarp::Config::default();
        fabric.depths.regions = 1024;
        let fabric = Iwarp::new(fabric).expect("a fabric");
        let endpoint = proto::Config::default();
        let config = Config::new(endpoint, endpoint);
        let mut transport = Transport::new(fabric, HeapBuffers::new(), config);
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = transport.listen(any).expect("a free port");
        let address = transport.local_address(listener).expect("its address");
        let file = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut serving = Serving {
            transport,
            file: file.clone(),
            manners,
            start: Clock::now(),
            memory: Vec::new(),
            fetching: Vec::new(),
            cookie: 0,
        };
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || serving.run(&stopping));
        Self {
            address,
            file,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().expect("a thread").join();
        assert!(
            result.is_ok() || std::thread::panicking(),
            "the server failed"
        );
    }
}

/// A WRITE whose data is being fetched.
struct Fetching {
    cookie: u64,
    conn: ConnId,
    request: Request,
    memory: Memory,
    region: Region,
}

struct Serving {
    transport: Transport<Iwarp, HeapBuffers>,
    file: Arc<Mutex<Vec<u8>>>,
    manners: Manners,
    start: Clock,
    /// Memory that is being sent.
    memory: Vec<(u64, ConnId, Region)>,
    fetching: Vec<Fetching>,
    cookie: u64,
}

/// A request, as far as this server parses it.
struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().expect("two bytes"))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().expect("eight bytes"))
    }

    fn descriptors(&self, at: usize) -> Vec<BufferDescriptorV1> {
        let (offset, length) = (self.u16(at), self.u16(at + 2));
        let list = &self.bytes[usize::from(offset)..usize::from(offset + length)];
        BufferDescriptors::parse(list)
            .expect("descriptors")
            .iter()
            .collect()
    }
}

impl Serving {
    fn run(&mut self, stop: &AtomicBool) {
        let mut events = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let now = Instant::ZERO + self.start.elapsed();
            self.transport.poll(now, &mut events).expect("the fabric");
            for event in events.drain(..) {
                match event {
                    Event::Message { conn, buffer, .. } => {
                        let bytes = buffer.clone();
                        self.transport.recycle(buffer);
                        self.serve(conn, Request { bytes });
                    }
                    Event::Sent { cookie, .. } | Event::Written { cookie, .. } => {
                        let at = self.memory.iter().position(|memory| memory.0 == cookie);
                        let (_, conn, region) = self.memory.remove(at.expect("sent"));
                        let _ = self.transport.deregister(conn, region.id);
                    }
                    Event::Read { cookie, result, .. } => self.fetched(cookie, result.is_ok()),
                    Event::Established { .. } | Event::Closed { .. } => {}
                    other @ Event::Invalidated { .. } => panic!("a client does not: {other:?}"),
                }
            }
            let time = Some(Duration::from_millis(20));
            self.transport.wait(now, time).expect("wait");
        }
    }

    fn serve(&mut self, conn: ConnId, request: Request) {
        if self.manners.pending && request.u16(12) > 3 && request.u16(12) != 12 {
            self.respond(conn, &request, PENDING, &error(), None);
        }
        match request.u16(12) {
            0 => self.respond(conn, &request, 0, &negotiate(), None),
            1 => self.session_setup(conn, &request),
            2 | 4 => self.respond(conn, &request, 0, &[4, 0, 0, 0], None),
            3 => self.respond(conn, &request, 0, &tree(), None),
            5 => self.respond(conn, &request, 0, &created(), None),
            6 => self.respond(conn, &request, 0, &closed(), None),
            8 => self.read(conn, &request),
            9 => self.write(conn, request),
            12 => {}
            13 => self.echo(conn, &request),
            _ => self.respond(conn, &request, NOT_SUPPORTED, &error(), None),
        }
    }

    fn session_setup(&mut self, conn: ConnId, request: &Request) {
        let token = &request.bytes[usize::from(request.u16(76))..];
        let first = token.windows(12).any(|w| w == b"NTLMSSP\0\x01\0\0\0");
        let status = if first { MORE_PROCESSING_REQUIRED } else { 0 };
        let token = if first { challenge() } else { Vec::new() };
        let mut body = vec![9, 0, 1, 0]; // The session is a guest's.
        body.extend(72_u16.to_le_bytes());
        body.extend((token.len() as u16).to_le_bytes());
        body.extend(token);
        self.respond(conn, request, status, &body, None);
    }

    fn read(&mut self, conn: ConnId, request: &Request) {
        let file = self.file.lock().expect("the file").clone();
        let (length, offset) = (request.u32(68) as usize, request.u64(72) as usize);
        let channel = request.u32(100);
        let end = file.len().min(offset.saturating_add(length));
        let token = |request: &Request| (channel == 2).then(|| request.descriptors(108)[0].token);
        if offset >= end {
            let token = (channel != 0).then(|| token(request)).flatten();
            return self.respond(conn, request, END_OF_FILE, &error(), token);
        }
        let data = &file[offset..end];
        let mut body = vec![17, 0, 80, 0];
        if channel == 0 {
            body.extend((data.len() as u32).to_le_bytes());
            body.extend([0; 8]);
            body.extend(data);
            return self.respond(conn, request, 0, &body, None);
        }
        let (cookie, sge) = self.outgoing(conn, data);
        let written = self
            .transport
            .write(conn, cookie, sge, request.descriptors(108));
        written.expect("an RDMA WRITE");
        body.extend(0_u32.to_le_bytes());
        body.extend((data.len() as u32).to_le_bytes());
        body.extend([0; 4]);
        self.respond(conn, request, 0, &body, token(request));
    }

    fn write(&mut self, conn: ConnId, request: Request) {
        if request.u32(96) == 0 {
            let start = usize::from(request.u16(66));
            let data = request.bytes[start..start + request.u32(68) as usize].to_vec();
            return self.written(conn, &request, &data, None);
        }
        let memory = Memory::zeroed(request.u32(100) as usize);
        let region = self
            .transport
            .register(conn, &memory, Access::RemoteWrite)
            .expect("a sink");
        self.cookie += 1;
        let sge = Sge {
            region: region.id,
            offset: 0,
            length: memory.len() as u32,
        };
        let read = self
            .transport
            .read(conn, self.cookie, sge, request.descriptors(104));
        read.expect("an RDMA READ");
        self.fetching.push(Fetching {
            cookie: self.cookie,
            conn,
            request,
            memory,
            region,
        });
    }

    fn fetched(&mut self, cookie: u64, good: bool) {
        let at = self
            .fetching
            .iter()
            .position(|fetching| fetching.cookie == cookie);
        let done = self.fetching.remove(at.expect("an RDMA READ"));
        let _ = self.transport.deregister(done.conn, done.region.id);
        if good {
            let data = done.memory.to_vec(0, done.memory.len()).expect("in range");
            let token = (done.request.u32(96) == 2).then(|| done.request.descriptors(104)[0].token);
            self.written(done.conn, &done.request, &data, token);
        }
    }

    fn written(
        &mut self,
        conn: ConnId,
        request: &Request,
        data: &[u8],
        token: Option<RemoteToken>,
    ) {
        let offset = request.u64(72) as usize;
        let mut file = self.file.lock().expect("the file");
        let end = file.len().max(offset + data.len());
        file.resize(end, 0);
        file[offset..offset + data.len()].copy_from_slice(data);
        drop(file);
        let mut body = vec![17, 0, 0, 0];
        body.extend((data.len() as u32).to_le_bytes());
        body.extend([0; 8]);
        self.respond(conn, request, 0, &body, token);
    }

    fn echo(&mut self, conn: ConnId, request: &Request) {
        for _ in 0..self.manners.breaks {
            let mut body = vec![24, 0, 1, 0, 0, 0, 0, 0];
            body.extend(FILE);
            let mut notice = header(request, 0, 0);
            notice[12..14].copy_from_slice(&18_u16.to_le_bytes());
            notice[24..32].fill(0xff);
            notice[40..48].fill(0);
            self.send(conn, &[notice, body].concat(), None);
        }
        if !self.manners.mute {
            self.respond(
                conn,
                request,
                0,
                self.manners.echo.unwrap_or(&[4, 0, 0, 0]),
                None,
            );
        }
    }

    fn respond(
        &mut self,
        conn: ConnId,
        request: &Request,
        status: u32,
        body: &[u8],
        invalidate: Option<RemoteToken>,
    ) {
        let credits = if self.manners.credits == 0 {
            64
        } else {
            self.manners.credits
        };
        let mut message = header(request, status, credits);
        message.extend(body);
        self.send(conn, &message, invalidate);
    }

    fn send(&mut self, conn: ConnId, message: &[u8], invalidate: Option<RemoteToken>) {
        let (cookie, sge) = self.outgoing(conn, message);
        // The client may already be gone.
        let _ = self.transport.send(conn, cookie, sge, invalidate);
    }

    fn outgoing(&mut self, conn: ConnId, bytes: &[u8]) -> (u64, Sge) {
        let memory = Memory::zeroed(bytes.len());
        memory.write(0, bytes).expect("in range");
        let region = self
            .transport
            .register(conn, &memory, Access::Local)
            .expect("a region");
        self.cookie += 1;
        self.memory.push((self.cookie, conn, region));
        let sge = Sge {
            region: region.id,
            offset: 0,
            length: bytes.len() as u32,
        };
        (self.cookie, sge)
    }
}

/// Makes the header of a response.
fn header(request: &Request, status: u32, credits: u16) -> Vec<u8> {
    let mut bytes = request.bytes[..64].to_vec();
    bytes[8..12].copy_from_slice(&status.to_le_bytes());
    bytes[14..16].copy_from_slice(&credits.to_le_bytes());
    bytes[16] = 1;
    bytes[40..48].copy_from_slice(&SESSION.to_le_bytes());
    if status == PENDING {
        bytes[16] = 3;
        bytes[32..40].copy_from_slice(&0x1234_u64.to_le_bytes());
    }
    bytes
}

fn error() -> Vec<u8> {
    vec![9, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn tree() -> Vec<u8> {
    let mut body = vec![16, 0, 1, 0];
    body.extend([0; 12]);
    body
}

/// Makes the CREATE response, which has the only file whatever its name.
fn created() -> Vec<u8> {
    let mut body = vec![0; 88];
    body[0] = 89;
    body[4] = 1;
    body[64..80].copy_from_slice(&FILE);
    body.push(0);
    body
}

/// Makes the CLOSE response.
fn closed() -> Vec<u8> {
    let mut body = vec![0; 60];
    body[0] = 60;
    body
}

/// Makes the NEGOTIATE response for SMB 3.0.2 without encryption.
fn negotiate() -> Vec<u8> {
    let mut body = vec![65, 0, 1, 0];
    body.extend(0x0302_u16.to_le_bytes());
    body.extend([0; 2]);
    body.extend([0x5a; 16]);
    body.extend(4_u32.to_le_bytes());
    for size in [1_u32 << 16, 1 << 20, 1 << 20] {
        body.extend(size.to_le_bytes());
    }
    body.extend([0; 16]);
    body.extend(128_u16.to_le_bytes());
    body.extend([0; 6]);
    body
}

/// Makes an NTLM challenge that has only the mandatory parts ([MS-NLMP] 2.2.1.2).
fn challenge() -> Vec<u8> {
    let mut token = b"NTLMSSP\0\x02\0\0\0".to_vec();
    token.extend([0; 8]);
    token.extend(0xe288_8215_u32.to_le_bytes());
    token.extend(*b"8 bytes.");
    token.extend([0; 8]);
    token.extend([4, 0, 4, 0, 56, 0, 0, 0]);
    token.extend([0; 8]);
    token.extend([0; 4]);
    token
}
