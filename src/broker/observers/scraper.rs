// SPDX-License-Identifier: GPL-2.0-or-later

//! A client that has connected to the address or to the socket of the metrics: it sends one request of HTTP, and takes
//! one answer.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::PollFlags;

use super::http::{Asked, answer};
use super::{Answers, Client};
use crate::broker::control::ControlSocket;
use crate::broker::metrics;
use crate::device::Status;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Scraper<S> {
    stream: S,
    /// The part of the request that has come.
    request: Vec<u8>,
    /// The part of the answer that is not sent yet, once the request is complete.
    answer: Option<Vec<u8>>,
}

impl Scraper<TcpStream> {
    /// Accepts the next client of the address.
    pub(super) fn accept(listener: &TcpListener) -> io::Result<Self> {
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok(Self::new(stream))
    }
}

impl Scraper<UnixStream> {
    /// Accepts the next client of the socket in the file system.
    pub(super) fn accept_at(socket: &ControlSocket<UnixListener>) -> io::Result<Self> {
        socket.accept_stream().map(Self::new)
    }
}

impl<S: Read + Write> Scraper<S> {
    const fn new(stream: S) -> Self {
        Self {
            stream,
            request: Vec::new(),
            answer: None,
        }
    }

    /// Reads the request and sends the answer, as far as that is possible without waiting. Returns once the client has
    /// its answer, or has gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::WouldBlock`]: the answer is not complete yet. Other errors end the connection.
    fn serve(&mut self, answers: &mut Answers<'_>) -> io::Result<()> {
        let mut left = match self.answer.take() {
            Some(left) => left,
            None => {
                let Some(asked) = self.read()? else {
                    return Ok(());
                };
                answer(asked, metrics::CONTENT_TYPE, || answers.metrics())
            }
        };
        while !left.is_empty() {
            match self.stream.write(&left) {
                Ok(0) => return Ok(()),
                Ok(sent) => drop(left.drain(..sent)),
                Err(error) => {
                    self.answer = Some(left);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Reads the request; `None` if the client closes the connection before the request is complete.
    fn read(&mut self) -> io::Result<Option<Asked>> {
        let mut bytes = [0; 1024];
        loop {
            if let Some(asked) = Asked::read(&self.request) {
                return Ok(Some(asked));
            }
            match self.stream.read(&mut bytes)? {
                0 => return Ok(None),
                length => self.request.extend(bytes.iter().take(length)),
            }
        }
    }
}

impl<S: Read + Write + AsFd> Client for Scraper<S> {
    fn waits_for(&self) -> PollFlags {
        match self.answer {
            Some(_) => PollFlags::OUT,
            None => PollFlags::IN,
        }
    }

    fn step(&mut self, answers: &mut Answers<'_>) -> bool {
        let served = self.serve(answers).map_err(|error| error.kind());
        matches!(served, Err(ErrorKind::WouldBlock | ErrorKind::Interrupted))
    }

    /// Closing the connection is all that there is to say.
    fn dismiss(&self, _: Status) {}
}

impl<S: AsFd> AsFd for Scraper<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
