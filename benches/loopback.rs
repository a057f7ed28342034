// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures upper-layer messages per second over the loopback fabric, on one core: all of `send`, the endpoints of both
//! sides, the fabric, `poll`, events, and giving buffers back.
//!
//! `cargo bench --bench loopback [-- SECONDS]`
//!
//! Rates are measured by the clock and, if the kernel reports it, by the processor time of this thread: on a busy
//! machine the latter shows what one core can do.

use std::time::{Duration, Instant as Clock};

use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{Access, ConnId, Region, Sge};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, SendError, Transport};
use smbdirect::units::Instant;

struct Bench {
    transport: Transport<Loopback, HeapBuffers>,
    start: Clock,
    events: Vec<Event<Vec<u8>>>,
    client: ConnId,
    region: Region,
}

fn main() {
    let seconds = std::env::args().find_map(|argument| argument.parse().ok());
    let time = Duration::from_secs_f64(seconds.unwrap_or(2.0));
    for length in [100, 1000, 4096, 65_536, 1 << 20] {
        let mut bench = Bench::new();
        bench.one_way(length, time / 10);
        let meter = Meter::start();
        let messages = bench.one_way(length, time);
        meter.report("one way", length, messages);
    }
    for length in [100, 4096] {
        let mut bench = Bench::new();
        bench.echo(length, time / 10);
        let meter = Meter::start();
        let trips = bench.echo(length, time);
        meter.report("round trips", length, trips);
    }
}

/// The clock and the processor time at the start of a measurement.
struct Meter {
    clock: Clock,
    processor: Option<Duration>,
}

impl Meter {
    fn start() -> Self {
        Self {
            clock: Clock::now(),
            processor: processor_time(),
        }
    }

    fn report(&self, what: &str, length: u32, count: u64) {
        let rate = |time: Duration| count as f64 / time.as_secs_f64();
        let wall = rate(self.clock.elapsed());
        print!("{what:<12}{length:>8} bytes: {wall:>10.0}/s");
        if let (Some(start), Some(end)) = (self.processor, processor_time()) {
            let rate = rate(end.saturating_sub(start));
            let gigabytes = rate * f64::from(length) / 1e9;
            print!(", {rate:>10.0} per second of processor time, {gigabytes:.2} GB");
        }
        println!();
    }
}

/// Returns the time that this thread has run. Linux reports it in nanoseconds as the first number.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds = text.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_nanos(nanoseconds))
}

impl Bench {
    fn new() -> Self {
        let config = Config::new(proto::Config::default(), proto::Config::initiator_default());
        let fabric = Loopback::new(LoopbackConfig::default()).expect("a fabric");
        let mut transport = Transport::new(fabric, HeapBuffers::new(), config);
        let listener = transport
            .listen("127.0.0.1:0".parse().expect("an address"))
            .expect("a listener");
        let address = transport.local_address(listener).expect("its address");
        let start = Clock::now();
        let client = transport
            .connect(Instant::ZERO, address)
            .expect("a connection");
        let (mut events, mut server) = (Vec::new(), None);
        while server.is_none() || transport.poll_timeout() == Some(Instant::ZERO) {
            transport
                .poll(Instant::ZERO, &mut events)
                .expect("progress");
            for event in events.drain(..) {
                if let Event::Established {
                    conn,
                    listener: Some(_),
                    ..
                } = event
                {
                    server = Some(conn);
                }
            }
        }
        let memory = Memory::zeroed(2 << 20);
        let region = transport
            .register(client, &memory, Access::Local)
            .expect("a region");
        let server = server.expect("the other end");
        let same = transport
            .register(server, &memory, Access::Local)
            .expect("a region");
        assert_eq!(region.id, same.id);
        Self {
            transport,
            start,
            events,
            client,
            region,
        }
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }

    /// Keeps the queue of one end full, and returns the number of messages that arrived.
    fn one_way(&mut self, length: u32, time: Duration) -> u64 {
        let source = Sge {
            region: self.region.id,
            offset: 0,
            length,
        };
        let begin = Clock::now();
        let (mut sent, mut received) = (0_u64, 0_u64);
        while begin.elapsed() < time {
            loop {
                match self.transport.send(self.client, sent, source, None) {
                    Ok(()) => sent += 1,
                    Err(SendError::QueueFull) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let now = self.now();
            self.transport
                .poll(now, &mut self.events)
                .expect("progress");
            for event in self.events.drain(..) {
                match event {
                    Event::Message { buffer, .. } => {
                        received += 1;
                        self.transport.recycle(buffer);
                    }
                    Event::Sent { result: Ok(()), .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        received
    }

    /// Sends one message there and back at a time, and returns the number of round trips.
    fn echo(&mut self, length: u32, time: Duration) -> u64 {
        let source = Sge {
            region: self.region.id,
            offset: 0,
            length,
        };
        let begin = Clock::now();
        let mut trips = 0_u64;
        self.transport
            .send(self.client, 0, source, None)
            .expect("room");
        while begin.elapsed() < time {
            let now = self.now();
            self.transport
                .poll(now, &mut self.events)
                .expect("progress");
            for event in self.events.drain(..) {
                match event {
                    Event::Message { conn, buffer, .. } => {
                        self.transport.recycle(buffer);
                        trips += u64::from(conn == self.client);
                        self.transport.send(conn, 0, source, None).expect("room");
                    }
                    Event::Sent { result: Ok(()), .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        trips
    }
}
