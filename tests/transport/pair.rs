// SPDX-License-Identifier: GPL-2.0-or-later

//! Two ends of one connection, in one transport.

use std::net::SocketAddr;
use std::time::Duration;

use smbdirect::fabric::fault::{Fault, FaultPlan};
use smbdirect::fabric::loopback::{Loopback, LoopbackConfig};
use smbdirect::fabric::{Access, ConnId, Fabric, ReadLimits, Region, Sge, WrId};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Event, HeapBuffers, Transport};
use smbdirect::units::Instant;

use crate::messages::NEGOTIATE_REQUEST;

/// A transport with a listener, and the events that have not been taken yet.
pub(crate) struct Net<F = Loopback> {
    pub(crate) transport: Transport<F, HeapBuffers>,
    pub(crate) now: Instant,
    pub(crate) address: SocketAddr,
    pub(crate) events: Vec<Event<Vec<u8>>>,
}

/// One end: its connection, and a region of memory that the peer may access.
pub(crate) struct End {
    pub(crate) conn: ConnId,
    pub(crate) memory: Memory,
    pub(crate) region: Region,
}

pub(crate) fn config() -> Config {
    Config::new(proto::Config::default(), proto::Config::initiator_default())
}

impl Net<Loopback> {
    pub(crate) fn new() -> Self {
        Self::with(config(), LoopbackConfig::default(), HeapBuffers::new())
    }

    pub(crate) fn with(config: Config, loopback: LoopbackConfig, buffers: HeapBuffers) -> Self {
        Self::on(Loopback::new(loopback).unwrap(), config, buffers)
    }
}

impl Net<Fault<Loopback>> {
    /// Makes a transport whose peers can be stalled.
    pub(crate) fn with_faults() -> Self {
        let fabric = Loopback::new(LoopbackConfig::default()).unwrap();
        let fabric = Fault::new(fabric, FaultPlan::default());
        Self::on(fabric, config(), HeapBuffers::new())
    }
}

impl<F: Fabric> Net<F> {
    fn on(fabric: F, config: Config, buffers: HeapBuffers) -> Self {
        let mut transport = Transport::new(fabric, buffers, config);
        let listener = transport.listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = transport.local_address(listener).unwrap();
        Self {
            transport,
            now: Instant::ZERO + Duration::from_secs(1000),
            address,
            events: Vec::new(),
        }
    }

    /// Polls until there is nothing to do at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            self.transport.poll(self.now, &mut self.events).unwrap();
            if self.transport.poll_timeout().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!("still busy after many polls");
    }

    /// Lets time pass, and stops whenever the transport wants to be called.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(at) = self.transport.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Makes an established connection: a client and a server, whose events are taken.
    pub(crate) fn establish(&mut self) -> (End, End) {
        let client = self.transport.connect(self.now, self.address).unwrap();
        self.settle();
        let mut server = None;
        let mut both = 0;
        for event in self.events.drain(..) {
            match event {
                Event::Established { conn, listener, .. } => {
                    assert_eq!(listener.is_none(), conn == client);
                    if listener.is_some() {
                        server = Some(conn);
                    }
                    both += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(both, 2);
        (
            self.end(client, 2 << 20),
            self.end(server.unwrap(), 2 << 20),
        )
    }

    pub(crate) fn end(&mut self, conn: ConnId, length: usize) -> End {
        self.end_with(conn, length, Access::RemoteWrite)
    }

    pub(crate) fn end_with(&mut self, conn: ConnId, length: usize, access: Access) -> End {
        let memory = Memory::zeroed(length);
        let region = self.transport.register(conn, &memory, access).unwrap();
        End {
            conn,
            memory,
            region,
        }
    }

    /// Makes a peer that uses the fabric directly: a connection without an endpoint, and its own region. The transport
    /// does not know this peer.
    pub(crate) fn raw_peer(&mut self) -> End {
        let fabric = self.transport.fabric_mut();
        let conn = fabric.connect(self.address, ReadLimits::default()).unwrap();
        let memory = Memory::zeroed(4096);
        let region = fabric.register(conn, &memory, Access::Local).unwrap();
        self.settle();
        End {
            conn,
            memory,
            region,
        }
    }

    /// Takes the messages that have arrived at one end, and gives their buffers back. Other events stay.
    pub(crate) fn take_messages(&mut self, at: &End) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        for event in std::mem::take(&mut self.events) {
            match event {
                Event::Message {
                    conn,
                    buffer,
                    length,
                } if conn == at.conn => {
                    assert_eq!(buffer.len(), length as usize);
                    messages.push(buffer.clone());
                    self.transport.recycle(buffer);
                }
                other => self.events.push(other),
            }
        }
        messages
    }

    /// Takes the successful `Sent` events.
    pub(crate) fn take_sent(&mut self) -> Vec<u64> {
        let mut sent = Vec::new();
        self.events.retain(|event| match event {
            Event::Sent { cookie, result, .. } => {
                assert_eq!(*result, Ok(()));
                sent.push(*cookie);
                false
            }
            _ => true,
        });
        sent
    }

    /// Takes the closed events, with the names of their reasons.
    pub(crate) fn take_closed(&mut self) -> Vec<(ConnId, &'static str)> {
        let mut closed = Vec::new();
        self.events.retain(|event| match event {
            Event::Closed { conn, reason, .. } => {
                closed.push((*conn, reason.name()));
                false
            }
            _ => true,
        });
        closed
    }
}

impl End {
    /// Makes a raw peer negotiate: it asks for 10 credits, and has `receives` receives.
    pub(crate) fn negotiate<F: Fabric>(&self, net: &mut Net<F>, receives: u64) {
        for slot in 0..receives {
            net.transport
                .fabric_mut()
                .post_recv(self.conn, WrId(slot), self.at(0, 1364))
                .unwrap();
        }
        self.post(net, &NEGOTIATE_REQUEST);
    }

    /// Makes a raw peer send an empty message that grants `credits`.
    pub(crate) fn grant<F: Fabric>(&self, net: &mut Net<F>, credits: u8) {
        let mut message = [0; 20];
        (message[0], message[2]) = (10, credits);
        self.post(net, &message);
    }

    /// Makes a raw peer send these bytes, as far as it still can.
    pub(crate) fn post<F: Fabric>(&self, net: &mut Net<F>, message: &[u8]) {
        let fabric = net.transport.fabric_mut();
        let _ = fabric.post_send(self.conn, WrId(0), message, None, None);
        net.settle();
    }

    pub(crate) fn at(&self, offset: u32, length: u32) -> Sge {
        Sge {
            region: self.region.id,
            offset,
            length,
        }
    }
}
