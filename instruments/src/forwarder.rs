// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes an smbd that knows only TCP look like an SMB Direct server: each SMB Direct connection is forwarded to a TCP
//! connection. Such an smbd refuses requests with a channel; everything else works.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::{Access, ConnId, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, Transport};
use smbdirect::units::Instant;

/// How long to wait between two checks of the server's TCP side.
const PAUSE: Duration = Duration::from_millis(1);

/// A running forwarder.
pub struct Forwarder {
    /// The address at which it accepts SMB Direct.
    pub address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A TCP connection to smbd. `None` on the channel means that the connection has ended.
struct Behind {
    stream: TcpStream,
    messages: Receiver<Option<Vec<u8>>>,
}

impl Forwarder {
    /// Forwards to an smbd at `server`.
    pub fn start(server: SocketAddr) -> Self {
        let fabric = Iwarp::new(iwarp::Config {
            depths: iwarp::Depths {
                regions: 4096,
                ..iwarp::Config::default().depths
            },
            ..iwarp::Config::default()
        });
        let endpoint = proto::Config {
            max_fragmented_size: 4 << 20,
            ..proto::Config::default()
        };
        let config = Config::new(endpoint, endpoint);
        let mut transport = Transport::new(fabric.expect("a fabric"), HeapBuffers::new(), config);
        let any = "127.0.0.1:0".parse().expect("an address");
        let listener = transport.listen(any).expect("a free port");
        let address = transport.local_address(listener).expect("its address");
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || forward(transport, server, &stopping));
        Self {
            address,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let result = self.thread.take().expect("a thread").join();
        assert!(
            result.is_ok() || std::thread::panicking(),
            "the forwarder failed"
        );
    }
}

fn forward(mut transport: Transport<Iwarp, HeapBuffers>, server: SocketAddr, stop: &AtomicBool) {
    let start = Clock::now();
    let now = || Instant::ZERO + start.elapsed();
    let mut behind: HashMap<ConnId, Behind> = HashMap::new();
    let mut sending: HashMap<u64, (ConnId, Region)> = HashMap::new();
    let mut cookie = 0;
    let mut events = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        transport.poll(now(), &mut events).expect("the fabric");
        for event in events.drain(..) {
            match event {
                Event::Established { conn, .. } => {
                    behind.insert(conn, Behind::connect(server));
                }
                Event::Message { conn, buffer, .. } => {
                    let behind = behind.get_mut(&conn).expect("established");
                    let length = u32::try_from(buffer.len()).expect("short");
                    let message = [&length.to_be_bytes()[..], &buffer].concat();
                    // If this fails, the reader notices the end.
                    let _ = behind.stream.write_all(&message);
                    transport.recycle(buffer);
                }
                Event::Sent { cookie, .. } => {
                    let (conn, region) = sending.remove(&cookie).expect("sent");
                    let _ = transport.deregister(conn, region.id);
                }
                Event::Closed { conn, .. } => drop(behind.remove(&conn)),
                other => panic!("a forwarder does not do that: {other:?}"),
            }
        }
        for (conn, behind) in &behind {
            for message in behind.messages.try_iter() {
                let Some(message) = message else {
                    transport.close(*conn);
                    break;
                };
                let memory = Memory::zeroed(message.len());
                memory.write(0, &message).expect("in range");
                let region = transport
                    .register(*conn, &memory, Access::Local)
                    .expect("a region");
                cookie += 1;
                let sge = Sge {
                    region: region.id,
                    offset: 0,
                    length: u32::try_from(message.len()).expect("short"),
                };
                match transport.send(*conn, cookie, sge, None) {
                    Ok(()) => drop(sending.insert(cookie, (*conn, region))),
                    Err(_) => transport.close(*conn),
                }
            }
        }
        transport.wait(now(), Some(PAUSE)).expect("wait");
    }
}

impl Behind {
    fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).expect("smbd listens");
        let mut reader = stream.try_clone().expect("a second handle");
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            loop {
                let mut head = [0; 4];
                let read = reader.read_exact(&mut head);
                let mut message = vec![0; u32::from_be_bytes(head) as usize];
                let read = read.and_then(|()| reader.read_exact(&mut message));
                if read.is_err() || sender.send(Some(message)).is_err() {
                    let _ = sender.send(None);
                    return;
                }
            }
        });
        Self { stream, messages }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}
