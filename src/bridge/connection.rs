// SPDX-License-Identifier: GPL-2.0-or-later

//! A client and its own SMB Direct connection.
//!
//! ```text
//!   link:    None --first message--> Connecting --> Up --end--> Closing --> Gone
//!                                        '---------- server closed ----------^
//!   client:  reading, writing -> writing -> shut: input is thrown away -> gone
//! ```
//!
//! Whichever side ends, earlier messages are delivered first: the client's messages are queued before the link is
//! closed, and after the link has gone the client still gets the server's messages. SMB Direct cannot close half of a
//! connection: for the server, a client that will send no more has gone.

use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use mio::net::TcpStream;

use super::download::{Buffers, Download, Message};
use super::framing::SESSION_RESPONSE;
use super::reason::End;
use super::statistics::{Statistics, Traffic};
use super::upload::{Next, Piece, Upload};
use crate::fabric::{self, Access, AnyFabric, ConnId, FabricError, RegionId, Sge, WrError};
use crate::sys::{IoVecs, Memory};
use crate::transport::{CloseReason, SendError, Transport};
use crate::units::Instant;

/// Time within which a client must send its first message.
const FIRST_MESSAGE: Duration = Duration::from_secs(60);
/// Time within which a client must take at least some of the data that the server sent before the server closed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Time within which a client must close after this side has closed.
const LINGER: Duration = Duration::from_secs(2);
/// Maximum number of connections to the server that are being made at a time. Servers limit how many connections from
/// one address have not negotiated, and all clients of a bridge have the bridge's address.
const CONNECTING: usize = 16;
/// Number of system calls that discard input before other clients get their turn.
const DISCARDS: usize = 16;

/// The state that all connections share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) transport: Transport<AnyFabric, Buffers>,
    pub(super) vecs: IoVecs,
    pub(super) now: Instant,
    /// Addresses of the server, in the order in which they are tried.
    pub(super) target: Vec<SocketAddr>,
    /// How many connections to the server are being made: at most [`CONNECTING`].
    connecting: usize,
    pub(super) statistics: Statistics,
}

impl Context {
    pub(super) fn new(transport: Transport<AnyFabric, Buffers>, target: Vec<SocketAddr>) -> Self {
        Self {
            transport,
            vecs: IoVecs::new(),
            now: Instant::ZERO,
            target,
            connecting: 0,
            statistics: Statistics::default(),
        }
    }

    /// Returns how many more connections to the server may be made now.
    pub(super) const fn places(&self) -> usize {
        CONNECTING.saturating_sub(self.connecting)
    }
}

/// The SMB Direct connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    None,
    /// A connection to the address with this index is being made.
    Connecting(ConnId, usize),
    /// The connection is up, and the server accepts messages of up to this many bytes.
    Up(ConnId, u32),
    Closing(ConnId),
    Gone,
}

/// The state of the output to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    Open,
    Shut,
    Dead,
}

/// The result of a connection's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is nothing to do until something happens.
    Rest,
    /// There is more to do.
    Again,
    /// There is nothing to do until [`Context::places`] returns more than 0.
    AwaitPlace,
    /// The connection is over.
    Done,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    /// The client is in the list of clients that have something to do.
    pub(super) queued: bool,
    /// The client is in the line of clients that wait until they may connect to the server.
    pub(super) in_line: bool,
    pub(super) deadline: Option<Instant>,
    pub(super) to_server: Traffic,
    pub(super) to_client: Traffic,
    readable: bool,
    writable: bool,
    /// Whether the client's messages are read.
    reading: bool,
    /// The client has sent everything.
    at_end: bool,
    /// The client's first message has come, but too many connections are being made.
    awaits_place: bool,
    output: Output,
    link: Link,
    window: Option<RegionId>,
    upload: Upload,
    download: Download,
    end: Option<End>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, now: Instant) -> Self {
        Self {
            stream,
            peer,
            queued: false,
            in_line: false,
            deadline: Some(now + FIRST_MESSAGE),
            to_server: Traffic::default(),
            to_client: Traffic::default(),
            readable: true,
            writable: true,
            reading: true,
            at_end: false,
            awaits_place: false,
            output: Output::Open,
            link: Link::None,
            window: None,
            upload: Upload::new(),
            download: Download::default(),
            end: None,
        }
    }

    /// Returns why the connection ended, or is about to end.
    pub(super) fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Returns the SMB Direct connection, if the transport still has it.
    pub(super) fn link(&self) -> Option<ConnId> {
        match self.link {
            Link::Connecting(conn, _) | Link::Up(conn, _) | Link::Closing(conn) => Some(conn),
            Link::None | Link::Gone => None,
        }
    }

    /// Takes note that the socket is ready for something.
    pub(super) fn ready(&mut self, event: &mio::event::Event) {
        // An error shows in the next attempt.
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Stops reading messages of the client. The first reason is kept.
    pub(super) fn stop_reading(&mut self, end: End) {
        self.reading = false;
        self.end.get_or_insert(end);
    }

    /// Handles the successful end of the SMB Direct negotiation.
    pub(super) fn established(&mut self, conn: ConnId, cx: &mut Context) {
        if !matches!(self.link, Link::Connecting(..)) {
            return;
        }
        cx.connecting -= 1;
        let negotiated = cx
            .transport
            .status(conn)
            .and_then(|status| status.negotiated);
        let limit = negotiated.map_or(0, |negotiated| negotiated.max_fragmented_send_size);
        self.link = Link::Up(conn, limit);
        match cx
            .transport
            .register(conn, &self.upload.window, Access::Local)
        {
            Ok(region) => self.window = Some(region.id),
            Err(error) => self.stop_reading(error.into()),
        }
    }

    /// Handles a message that the server sent.
    pub(super) fn message(&mut self, message: Message, cx: &mut Context) {
        if self.output == Output::Open {
            self.download.push(message);
        } else {
            cx.transport.recycle(message);
        }
    }

    /// Handles the completion of one of the client's messages, which was sent or will never be sent.
    pub(super) fn sent(&mut self, conn: ConnId, result: Result<(), WrError>, cx: &mut Context) {
        let (bytes, memory) = self.upload.sent();
        if let Some(region) = memory {
            // Deregistering fails only if the connection has gone, and its registrations with it.
            let _ = cx.transport.deregister(conn, region);
        }
        if result.is_ok() {
            self.to_server.count(bytes);
            cx.statistics.to_server.count(bytes);
        }
    }

    /// Handles the end of the SMB Direct connection. If it was never up, tries the next address, and returns the new
    /// connection if there is one.
    pub(super) fn closed(&mut self, reason: CloseReason, cx: &mut Context) -> Option<ConnId> {
        let link = std::mem::replace(&mut self.link, Link::Gone);
        let end = match (link, reason) {
            (Link::Connecting(_, at), reason) => {
                cx.connecting -= 1;
                if self.reading && cx.target.len() > at + 1 {
                    return self.connect(at + 1, cx);
                }
                End::NotConnected(reason)
            }
            (_, CloseReason::Fabric(fabric::CloseReason::Peer)) => End::Server,
            (_, reason) => End::ServerFailed(reason),
        };
        self.stop_reading(end);
        None
    }

    fn connect(&mut self, at: usize, cx: &mut Context) -> Option<ConnId> {
        let address = *cx.target.get(at)?;
        match cx.transport.connect(cx.now, address) {
            Ok(conn) => {
                self.link = Link::Connecting(conn, at);
                cx.connecting += 1;
                Some(conn)
            }
            Err(error) => {
                self.stop_reading(error.into());
                None
            }
        }
    }

    /// Moves as much data as it can, within bounds.
    pub(super) fn turn(&mut self, cx: &mut Context) -> Turn {
        let more = self.reading && self.carry(cx);
        // `flush` comes after `carry`, which may queue the answer to a session request.
        let more = self.flush(cx) || more;
        self.advance(cx);
        match (self.link, self.output) {
            (Link::Gone, Output::Dead) => Turn::Done,
            (Link::Gone, Output::Shut) => self.discard_input(),
            _ if self.awaits_place => Turn::AwaitPlace,
            _ if more => Turn::Again,
            _ => Turn::Rest,
        }
    }

    /// Carries messages to the server; returns whether there may be more at once.
    fn carry(&mut self, cx: &mut Context) -> bool {
        let limit = match self.link {
            Link::None => None,
            Link::Up(_, limit) => Some(limit),
            _ => return false,
        };
        let mut received = false;
        loop {
            let next = match self.upload.next(limit) {
                Ok(Next::Receive) if self.at_end => Err(if self.upload.is_mid_message() {
                    End::ClientMidMessage
                } else {
                    End::Client
                }),
                next => next,
            };
            let done = match next {
                Ok(Next::Receive) if !self.readable => return false,
                // Other clients get their turn.
                Ok(Next::Receive) if received => return true,
                Ok(Next::Receive) => {
                    received = true;
                    self.receive(cx)
                }
                Ok(Next::Wait) => return false,
                Ok(Next::Connect) => {
                    self.awaits_place = cx.places() == 0;
                    self.deadline = None;
                    if !self.awaits_place {
                        self.connect(0, cx);
                    }
                    return false;
                }
                Ok(Next::AnswerSession) => {
                    self.download.push(Message::own(&SESSION_RESPONSE));
                    Ok(())
                }
                Ok(Next::Large(length)) => self.begin_large(length, cx),
                Ok(Next::SendWindow { offset, length }) => {
                    let memory = self.window.map(|region| Sge {
                        region,
                        offset,
                        length,
                    });
                    self.send(memory, cx)
                }
                Ok(Next::SendLarge) => self.send(self.upload.large(), cx),
                Err(end) => Err(end),
            };
            if let Err(end) = done {
                self.stop_reading(end);
                return false;
            }
        }
    }

    fn receive(&mut self, cx: &mut Context) -> Result<(), End> {
        match self.upload.receive(&mut cx.vecs, self.stream.as_fd()) {
            Ok(0) => self.at_end = true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                self.at_end = true;
                return Err(End::ClientFailed(error));
            }
        }
        Ok(())
    }

    fn begin_large(&mut self, length: usize, cx: &mut Context) -> Result<(), End> {
        let Link::Up(conn, _) = self.link else {
            return Err(SendError::NotEstablished.into());
        };
        let piece = match self.upload.spare(length) {
            Some(piece) => piece,
            None => {
                let memory = Memory::zeroed(Upload::piece_size(length));
                let region = cx.transport.register(conn, &memory, Access::Local)?.id;
                Piece { memory, region }
            }
        };
        let begun = self.upload.begin_large(piece, length);
        begun.map_err(|_| FabricError::LocalProtection.into())
    }

    fn send(&mut self, memory: Option<Sge>, cx: &mut Context) -> Result<(), End> {
        let (Link::Up(conn, _), Some(memory)) = (self.link, memory) else {
            return Err(SendError::NotEstablished.into());
        };
        // Sends complete in the order in which they are posted, so no cookie is needed to tell them apart.
        cx.transport.send(conn, 0, memory, None)?;
        self.upload.sending(memory.length as usize);
        Ok(())
    }

    /// Sends the client the server's messages; returns whether the client may take more at once.
    fn flush(&mut self, cx: &mut Context) -> bool {
        if self.output != Output::Open || !self.writable || self.download.is_empty() {
            return false;
        }
        match self.download.send(&mut cx.vecs, self.stream.as_fd()) {
            Ok(mut sent) => {
                self.writable = !sent.full;
                if sent.bytes > 0 && self.link == Link::Gone {
                    self.deadline = Some(cx.now + PATIENCE);
                }
                while let Some((message, bytes)) = self.download.take_sent(&mut sent.bytes) {
                    if message.is_of_server() {
                        self.to_client.count(bytes);
                        cx.statistics.to_client.count(bytes);
                    }
                    cx.transport.recycle(message);
                }
                self.writable && !self.download.is_empty()
            }
            Err(error) => {
                self.at_end = true;
                self.stop_reading(End::ClientFailed(error));
                self.give_up(cx);
                false
            }
        }
    }

    /// Gives up on a client that will take nothing more.
    pub(super) fn give_up(&mut self, cx: &mut Context) {
        self.output = Output::Dead;
        while let Some(message) = self.download.discard() {
            cx.transport.recycle(message);
        }
    }

    /// Takes the next step towards the end of the connection, if it is time for that step.
    fn advance(&mut self, cx: &mut Context) {
        if !self.reading {
            self.awaits_place = false;
            match self.link {
                Link::None => self.link = Link::Gone,
                Link::Connecting(conn, _) => {
                    cx.connecting -= 1;
                    cx.transport.abort(conn);
                    self.link = Link::Closing(conn);
                }
                Link::Up(conn, _) => {
                    cx.transport.close(conn);
                    self.link = Link::Closing(conn);
                }
                Link::Closing(_) | Link::Gone => {}
            }
        }
        if self.link != Link::Gone || self.output != Output::Open {
            return;
        }
        if !self.download.is_empty() {
            self.deadline.get_or_insert(cx.now + PATIENCE);
        } else if self.at_end || self.stream.shutdown(Shutdown::Write).is_err() {
            self.output = Output::Dead;
        } else {
            // If a socket with unread input were closed, the client would lose the data that it has not read yet.
            self.output = Output::Shut;
            self.deadline = Some(cx.now + LINGER);
        }
    }

    /// Waits for the client to close, too.
    fn discard_input(&mut self) -> Turn {
        let mut chunk = [0; 16 << 10];
        for _ in 0..DISCARDS {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Turn::Done,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Turn::Rest,
                Err(_) => return Turn::Done,
            }
        }
        Turn::Again
    }

    /// Handles a deadline that has passed.
    pub(super) fn expire(&mut self, cx: &mut Context) {
        self.deadline = None;
        match (self.link, self.output) {
            (Link::None, _) => {
                self.stop_reading(End::Silent);
                self.give_up(cx);
            }
            (Link::Gone, output) => {
                if output == Output::Open {
                    // This reason says more than the earlier one, which is that the server closed.
                    self.end = Some(End::DoesNotRead);
                }
                self.give_up(cx);
            }
            _ => {}
        }
    }
}
