// SPDX-License-Identifier: GPL-2.0-or-later

//! A connection: sends requests, receives responses, and counts credits.

mod compound;
mod raw;
mod rdma;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::header::{HEADER_LENGTH, SIGNATURE_AT};
use super::keys::Preauth;
use super::link::{Deadline, Link, SmbDirect, Tcp};
use super::negotiate::{self, Negotiated};
use super::session::OnConnection;
use super::{
    Command, Config, Dialect, Error, Header, NtStatus, Protection, Request, Response, Result,
};

/// Maximum number of oplock and lease breaks that are kept until a caller takes them. No user of this client has as
/// many opens.
const MAX_BREAKS: usize = 128;
/// Maximum number of bytes of a break that are kept: the longest kind, a lease break, has 44 bytes after the header
/// ([MS-SMB2] 2.2.23.2).
const LONGEST_BREAK: usize = HEADER_LENGTH + 44;

/// What is known about a request that has not been answered.
#[derive(Clone, Copy, Debug)]
struct Outstanding {
    command: Command,
    signed: bool,
    sealed: bool,
    async_id: Option<u64>,
}

/// A connection to a server. See the [module](super).
#[derive(Debug)]
pub struct Connection {
    link: Link,
    pub(super) config: Config,
    pub(super) negotiated: Negotiated,
    pub(super) session: Option<OnConnection>,
    /// Covers NEGOTIATE, and then the SESSION_SETUPs of the session being made.
    pub(super) preauth: Preauth,
    pub(super) session_preauth: Preauth,
    /// Counts the signatures of data that goes by RDMA.
    pub(super) payload_nonce: u64,
    next_message_id: u64,
    credits: u32,
    outstanding: HashMap<u64, Outstanding>,
    ready: VecDeque<Response>,
    breaks: VecDeque<Response>,
}

impl Connection {
    /// Connects over TCP and negotiates.
    pub fn tcp(address: SocketAddr, config: Config) -> Result<Self> {
        let link = Tcp::connect(address, config.timeout)?;
        Self::negotiate(Link::Tcp(link), config, 0)
    }

    /// Connects over SMB Direct and negotiates.
    pub fn smb_direct(address: SocketAddr, config: Config) -> Result<Self> {
        let link = SmbDirect::connect(address, (config.fabric, config.smb_direct), config.timeout)?;
        Self::negotiate(Link::SmbDirect(Box::new(link)), config, 0)
    }

    fn negotiate(link: Link, config: Config, next_message_id: u64) -> Result<Self> {
        let request = negotiate::request(&config)?;
        let mut connection = Self {
            link,
            negotiated: Negotiated::none(),
            session: None,
            preauth: Preauth::START,
            session_preauth: Preauth::START,
            payload_nonce: 0,
            next_message_id,
            credits: 1,
            outstanding: HashMap::new(),
            ready: VecDeque::new(),
            breaks: VecDeque::new(),
            config,
        };
        let response = connection.call(&request)?;
        connection.negotiated = negotiate::response(&response, &connection.config)?;
        Ok(connection)
    }

    /// The server's address.
    #[must_use]
    pub const fn server(&self) -> SocketAddr {
        self.link.server()
    }

    /// The client's own address over TCP; `None` over SMB Direct.
    #[must_use]
    pub fn client(&self) -> Option<SocketAddr> {
        self.link.client()
    }

    /// What both sides agreed on.
    #[must_use]
    pub const fn negotiated(&self) -> &Negotiated {
        &self.negotiated
    }

    /// The configuration that the connection was made with.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The credits that this side holds.
    #[must_use]
    pub const fn credits(&self) -> u32 {
        self.credits
    }

    /// The number of requests without an answer.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// The largest number of bytes that one READ can return in its response.
    #[must_use]
    pub fn max_inline_read(&self) -> u32 {
        let (_, received) = self.link.message_limits();
        self.negotiated
            .max_read_size
            .min(received.saturating_sub(256))
    }

    /// The largest number of bytes that one WRITE can carry.
    #[must_use]
    pub fn max_inline_write(&self) -> u32 {
        let (sent, _) = self.link.message_limits();
        self.negotiated.max_write_size.min(sent.saturating_sub(256))
    }

    /// The largest number of bytes that one READ or WRITE can move by RDMA; `None` over TCP.
    #[must_use]
    pub fn max_direct(&self) -> Option<u32> {
        let Link::SmbDirect(link) = &self.link else {
            return None;
        };
        let rdma = link.negotiated()?.max_read_write_size;
        let smb = self
            .negotiated
            .max_read_size
            .min(self.negotiated.max_write_size);
        Some(smb.min(rdma))
    }

    /// Sends a request as soon as there are credits for it, and returns its message id.
    pub fn send(&mut self, request: &Request<'_>) -> Result<u64> {
        let deadline = Deadline::new(self.config.timeout);
        let charge = u32::from(request.credit_charge.max(1));
        self.wait_for_credits(charge, deadline)?;
        let id = self.next_message_id;
        self.transmit(request, id, None, deadline)?;
        self.next_message_id += u64::from(charge);
        self.credits -= charge;
        Ok(id)
    }

    fn wait_for_credits(&mut self, charge: u32, deadline: Deadline) -> Result<()> {
        while self.credits < charge {
            if self.outstanding.is_empty() {
                let granted = self.credits;
                return Err(Error::Credits { granted, charge });
            }
            self.receive_one(deadline)?;
        }
        Ok(())
    }

    /// Asks the server to abandon a request; the server still answers it.
    pub fn cancel(&mut self, message_id: u64) -> Result<()> {
        let deadline = Deadline::new(self.config.timeout);
        let outstanding = self.outstanding.get(&message_id);
        let async_id = outstanding.and_then(|outstanding| outstanding.async_id);
        self.transmit(&Request::cancel()?, message_id, async_id, deadline)
    }

    fn transmit(
        &mut self,
        request: &Request<'_>,
        message_id: u64,
        async_id: Option<u64>,
        deadline: Deadline,
    ) -> Result<()> {
        let (sign, seal) = self.protection(request);
        let head = self.head(request, message_id, async_id, 0, sign)?;
        match request.command {
            Command::NEGOTIATE => self.preauth.add(&[&head[..], &request.body].concat()),
            Command::SESSION_SETUP => {
                self.session_preauth
                    .add(&[&head[..], &request.body].concat());
            }
            _ => {}
        }
        if seal {
            let message = [&head[..], &request.body, request.data].concat();
            self.send_sealed(message, deadline)?;
        } else {
            self.link
                .send(&[&head, &request.body, request.data], deadline)?;
        }
        if request.command != Command::CANCEL {
            let outstanding = Outstanding {
                command: request.command,
                signed: sign,
                sealed: seal,
                async_id: None,
            };
            self.outstanding.insert(message_id, outstanding);
        }
        Ok(())
    }

    /// Encrypts a message and sends it.
    fn send_sealed(&mut self, mut message: Vec<u8>, deadline: Deadline) -> Result<()> {
        let on = self
            .session
            .as_ref()
            .ok_or(Error::NoSession("encryption"))?;
        let sealer = on.session.sealer.as_ref().ok_or(Error::NoCipher)?;
        let transform = sealer.seal(&mut message).ok_or(Error::Decrypt)?;
        self.link.send(&[&transform, &message], deadline)
    }

    /// Makes the header of a request, with its signature. `next_command`: where the next request of a compound begins;
    /// 0 in the last request.
    fn head(
        &self,
        request: &Request<'_>,
        message_id: u64,
        async_id: Option<u64>,
        next_command: u32,
        sign: bool,
    ) -> Result<[u8; HEADER_LENGTH]> {
        let wanted = u32::from(self.config.credits).saturating_sub(self.credits);
        let wanted = u16::try_from(wanted).unwrap_or(u16::MAX).min(512);
        let mut header = Header {
            credit_charge: request.credit_charge,
            status: NtStatus::SUCCESS,
            command: request.command,
            credits: if request.command == Command::CANCEL {
                0
            } else {
                wanted.max(request.credit_charge).max(1)
            },
            flags: request.flags,
            next_command,
            message_id,
            async_id: async_id.unwrap_or_else(|| u64::from(request.tree_id) << 32),
            session_id: self.session.as_ref().map_or(0, |on| on.session.id),
            signature: [0; 16],
        };
        if async_id.is_some() {
            header.flags |= Header::ASYNC;
        }
        if sign {
            header.flags |= Header::SIGNED;
        }
        let mut head = header.emit();
        if sign {
            let signer = self.session.as_ref().and_then(|on| on.signer.as_ref());
            let signer = signer.ok_or(Error::NoSession("a signature"))?;
            let padding = request.padding(next_command);
            header.signature =
                signer.signature(&header, &[&head, &request.body, request.data, padding]);
            head[SIGNATURE_AT..].copy_from_slice(&header.signature);
        }
        Ok(head)
    }

    /// Returns whether a request is signed, and whether it is encrypted.
    fn protection(&self, request: &Request<'_>) -> (bool, bool) {
        let setup = matches!(request.command, Command::NEGOTIATE | Command::SESSION_SETUP);
        let on = self.session.as_ref();
        match (request.protection, on) {
            (Protection::Plain, _) => (false, false),
            (Protection::Signed, _) => (true, false),
            (Protection::Sealed, _) => (false, true),
            (Protection::AsAgreed, Some(on)) if !setup && on.session.encrypts(request.tree_id) => {
                (false, true)
            }
            (Protection::AsAgreed, Some(on)) if !setup && on.signer.is_some() => {
                // [MS-SMB2] 3.2.4.1.1: an attacker would change this request first.
                let always = request.command == Command::TREE_CONNECT
                    && self.negotiated.dialect == Dialect::Smb311;
                (on.sign || always, false)
            }
            (Protection::AsAgreed, _) => (false, false),
        }
    }

    /// Sends a request and waits for its final response, whatever its status.
    pub fn exchange(&mut self, request: &Request<'_>) -> Result<Response> {
        let id = self.send(request)?;
        self.wait(id)
    }

    /// Sends a request and waits for its final response; an error status becomes an `Err`.
    pub fn call(&mut self, request: &Request<'_>) -> Result<Response> {
        self.exchange(request)?.ok()
    }

    /// Waits for the final response to a request, whatever its status.
    pub fn wait(&mut self, message_id: u64) -> Result<Response> {
        self.wait_within(message_id, self.config.timeout)
    }

    /// Waits as [`wait`](Self::wait) does, but with its own timeout.
    pub fn wait_within(&mut self, message_id: u64, timeout: Duration) -> Result<Response> {
        let deadline = Deadline::new(timeout);
        loop {
            let found = |response: &Response| response.header.message_id == message_id;
            if let Some(response) = self.ready.iter().position(found) {
                let response = self.ready.remove(response);
                return response.ok_or(Error::Malformed(
                    "response",
                    "it was already returned to a caller",
                ));
            }
            self.receive_one(deadline)?;
        }
    }

    /// Waits for the next final response, to any request.
    pub fn next_response(&mut self) -> Result<Response> {
        let deadline = Deadline::new(self.config.timeout);
        loop {
            if let Some(response) = self.ready.pop_front() {
                return Ok(response);
            }
            self.receive_one(deadline)?;
        }
    }

    /// Waits for the next oplock or lease break from the server ([MS-SMB2] 2.2.23). `None`: none came in time.
    pub fn next_break(&mut self, timeout: Duration) -> Result<Option<Response>> {
        let deadline = Deadline::new(timeout);
        while self.breaks.is_empty() {
            match self.receive_one(deadline) {
                Ok(()) => {}
                Err(Error::TimedOut(..)) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(self.breaks.pop_front())
    }

    /// Waits for the interim response (`STATUS_PENDING`) to a request, and returns whether it came in time.
    pub fn is_pending(&mut self, message_id: u64, timeout: Duration) -> Result<bool> {
        let deadline = Deadline::new(timeout);
        loop {
            match self.outstanding.get(&message_id) {
                Some(outstanding) if outstanding.async_id.is_some() => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
            match self.receive_one(deadline) {
                Ok(()) => {}
                Err(Error::TimedOut(..)) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives back a response, so that later responses may reuse its memory.
    pub fn recycle(&mut self, response: Response) {
        self.link.recycle(response.message);
    }

    /// Receives one message and stores its contents.
    fn receive_one(&mut self, deadline: Deadline) -> Result<()> {
        let mut message = self.link.receive(deadline)?;
        let sealed = message.starts_with(b"\xfdSMB");
        if sealed {
            let sealer = self
                .session
                .as_ref()
                .and_then(|on| on.session.sealer.as_ref());
            message = sealer
                .and_then(|sealer| sealer.open(message))
                .ok_or(Error::Decrypt)?;
        }
        loop {
            let header = Header::parse(&message)
                .ok_or(Error::Malformed("message", "it is not an SMB2 message"))?;
            // In a compound, each element is a message of its own.
            let rest = match header.next_command as usize {
                0 => None,
                next if next >= super::HEADER_LENGTH && next < message.len() => {
                    Some(message.split_off(next))
                }
                _ => return Err(Error::Malformed("compound", "NextCommand is out of range")),
            };
            self.accept(Response { header, message }, sealed)?;
            match rest {
                Some(rest) => message = rest,
                None => return Ok(()),
            }
        }
    }

    /// Keeps a break until a caller takes it. The server sends breaks unasked, so only a few short ones are kept.
    fn keep_break(&mut self, mut notice: Response) -> Result<()> {
        if self.breaks.len() >= MAX_BREAKS {
            return Err(Error::TooManyBreaks(MAX_BREAKS));
        }
        notice.message.truncate(LONGEST_BREAK);
        notice.message.shrink_to_fit();
        self.breaks.push_back(notice);
        Ok(())
    }

    fn accept(&mut self, response: Response, sealed: bool) -> Result<()> {
        let header = response.header;
        if header.flags & Header::RESPONSE == 0 {
            return Err(response.malformed("it is a request"));
        }
        if header.message_id == Header::UNASKED {
            return self.keep_break(response);
        }
        let Some(outstanding) = self.outstanding.get_mut(&header.message_id) else {
            return Err(response.malformed("its message id matches no request"));
        };
        if outstanding.command != header.command {
            return Err(response.malformed("its command differs from the request's"));
        }
        let pending = header.status == NtStatus::PENDING && header.flags & Header::ASYNC != 0;
        let expected = *outstanding;
        if pending {
            outstanding.async_id = Some(header.async_id);
        }
        if !pending && header.command != Command::SESSION_SETUP {
            self.check(&response, expected, sealed)?;
        }
        self.credits = self.credits.saturating_add(header.credits.into());
        match header.command {
            Command::NEGOTIATE => self.preauth.add(&response.message),
            Command::SESSION_SETUP if header.status == NtStatus::MORE_PROCESSING_REQUIRED => {
                self.session_preauth.add(&response.message);
            }
            _ => {}
        }
        if pending {
            self.link.recycle(response.message);
        } else {
            self.outstanding.remove(&header.message_id);
            self.ready.push_back(response);
        }
        Ok(())
    }

    /// Checks that a response is protected as its request was ([MS-SMB2] 3.2.5.1.1, 3.2.5.1.3).
    fn check(&self, response: &Response, expected: Outstanding, sealed: bool) -> Result<()> {
        let header = &response.header;
        if sealed {
            return Ok(());
        }
        // A server that has forgotten the session has no key.
        let forgotten = matches!(
            header.status,
            NtStatus::USER_SESSION_DELETED | NtStatus::NETWORK_SESSION_EXPIRED
        );
        if expected.sealed && !forgotten {
            return Err(Error::Signature(
                header.command,
                "missing (it is not encrypted)",
            ));
        }
        let signer = self.session.as_ref().and_then(|on| on.signer.as_ref());
        match (header.flags & Header::SIGNED != 0, signer) {
            (true, Some(signer)) if !signer.verify(header, &response.message) => {
                Err(Error::Signature(header.command, "wrong"))
            }
            (false, Some(_)) if expected.signed && !forgotten => {
                Err(Error::Signature(header.command, "missing"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the session of this connection, so that another connection can be bound to it.
    pub(super) fn shared_session(&self) -> Result<Arc<super::session::Session>> {
        let on = self.session.as_ref().ok_or(Error::NoSession("a binding"))?;
        Ok(on.session.clone())
    }
}
