// SPDX-License-Identifier: GPL-2.0-or-later

//! Messages from the client to the server, which are sent from the memory into which the socket put them.
//!
//! ```text
//!   window    | sent, not done | start: not parsed | end: room ...       |
//!   large     [ a message of its own, filled ...          ]   then: the window
//! ```
//!
//! The socket is read into a registered window, and complete messages are sent from there. A message that is too large
//! for the window gets memory of its own, which the socket then fills before the window in the same call. The window
//! starts over once nothing in it is being sent. A connection holds at most the window, [`LIMIT`] bytes of large
//! messages and one more such message, and [`SPARES`] pieces of spare memory.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use super::framing::{Frame, HEADER_LENGTH, SMB1};
use super::reason::End;
use crate::fabric::{RegionId, Sge};
use crate::sys::{IoVecs, Memory, OutOfRange};

/// Number of bytes of a window.
const WINDOW: usize = 256 << 10;
/// A message of more bytes than this does not wait in the window until it is complete.
const LARGE: usize = 64 << 10;
/// Nothing more is read while more bytes than this are being sent.
const LIMIT: usize = 2 << 20;
/// Nothing more is read while this many messages are being sent; a transport queues more than that.
const MESSAGES: usize = 128;
/// Memory of large messages that is kept for later ones: the number of pieces, and the bytes of the largest.
const SPARES: usize = 2;
const LARGEST_SPARE: usize = 2 << 20;

/// Memory for a large message, registered with the connection.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) memory: Memory,
    pub(super) region: RegionId,
}

/// A large message that has not arrived completely.
#[derive(Debug)]
struct Partial {
    piece: Piece,
    filled: usize,
    length: usize,
}

/// A message that is being sent.
#[derive(Debug)]
struct Flight {
    length: usize,
    /// The memory of the message, if it is not in the window.
    piece: Option<Piece>,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read from the socket.
    Receive,
    /// Wait until something has been sent.
    Wait,
    /// The first message has come: connect to the server.
    Connect,
    /// Answer a NetBIOS session request.
    AnswerSession,
    /// Find memory for a message of this many bytes: [`Upload::spare`] or new, then [`Upload::begin_large`].
    Large(usize),
    /// Send this part of the window, then call [`Upload::sending`].
    SendWindow {
        /// Offset from the start of the window, in bytes.
        offset: u32,
        /// Number of bytes.
        length: u32,
    },
    /// Send the large message: [`Upload::large`], then call [`Upload::sending`].
    SendLarge,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) window: Memory,
    /// Number of bytes of the window that were parsed.
    start: usize,
    /// Number of bytes of the window that were received.
    end: usize,
    /// Number of bytes of a session request that are still to come.
    skip: usize,
    session_answered: bool,
    /// The first message has been looked at, and is not SMB1.
    first_seen: bool,
    partial: Option<Partial>,
    flights: VecDeque<Flight>,
    /// Number of bytes of `flights`.
    flying: usize,
    /// Number of flights in the window.
    in_window: usize,
    spares: Vec<Piece>,
}

impl Upload {
    pub(super) fn new() -> Self {
        Self {
            window: Memory::zeroed(WINDOW),
            start: 0,
            end: 0,
            skip: 0,
            session_answered: false,
            first_seen: false,
            partial: None,
            flights: VecDeque::new(),
            flying: 0,
            in_window: 0,
            spares: Vec::new(),
        }
    }

    /// Reads the bytes that have come; returns 0 at the end of the stream. There may be more bytes even if not all of
    /// the room was used: only an error says that there are none.
    pub(super) fn receive(
        &mut self,
        vecs: &mut IoVecs,
        socket: BorrowedFd<'_>,
    ) -> io::Result<usize> {
        let mut into = vecs.receive();
        let lies = "within the memory";
        let pushed = match &self.partial {
            Some(Partial {
                piece,
                filled,
                length,
            }) => into.push_memory(&piece.memory, *filled, length - filled),
            None => Ok(()),
        };
        let room = WINDOW - self.end;
        let pushed = pushed.and_then(|()| into.push_memory(&self.window, self.end, room));
        pushed.map_err(|error| io::Error::other(format!("{lies}: {error}")))?;
        let received = into.receive(socket)?;
        let mut rest = received;
        if let Some(partial) = &mut self.partial {
            let missing = partial.length - partial.filled;
            partial.filled += missing.min(rest);
            rest = rest.saturating_sub(missing);
        }
        self.end += rest;
        Ok(received)
    }

    /// Returns whether part of a message has arrived, but not all of it.
    pub(super) fn is_mid_message(&self) -> bool {
        self.start < self.end || self.partial.is_some()
    }

    /// Returns what to do next; `limit` is the longest message that the server accepts, in bytes, once that is known.
    pub(super) fn next(&mut self, limit: Option<u32>) -> Result<Next, End> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(self.end - self.start);
                self.skip -= skipped;
                self.start += skipped;
                if self.skip > 0 {
                    return Ok(self.make_room());
                }
                return Ok(Next::AnswerSession);
            }
            if self.flights.len() >= MESSAGES || self.flying >= LIMIT {
                return Ok(Next::Wait);
            }
            if let Some(partial) = &self.partial {
                let whole = partial.filled == partial.length;
                return Ok(if whole {
                    Next::SendLarge
                } else {
                    self.make_room()
                });
            }
            let Some(header) = self.peek::<HEADER_LENGTH>(0) else {
                return Ok(self.make_room());
            };
            match Frame::parse(header) {
                Some(Frame::KeepAlive | Frame::Message(0)) => self.start += HEADER_LENGTH,
                Some(Frame::SessionRequest(length)) if !self.session_answered => {
                    if self.first_seen {
                        return Err(End::NotSmb(header));
                    }
                    self.session_answered = true;
                    self.start += HEADER_LENGTH;
                    self.skip = length as usize;
                    if length == 0 {
                        return Ok(Next::AnswerSession);
                    }
                }
                Some(Frame::Message(length)) => return self.message(length, limit),
                Some(Frame::SessionRequest(_)) | None => return Err(End::NotSmb(header)),
            }
        }
    }

    /// Handles a message of `length` bytes that begins at `start`.
    fn message(&mut self, length: u32, limit: Option<u32>) -> Result<Next, End> {
        if !self.first_seen && length as usize >= SMB1.len() {
            let Some(begin) = self.peek::<{ SMB1.len() }>(HEADER_LENGTH) else {
                return Ok(self.make_room());
            };
            if begin == SMB1 {
                return Err(End::Smb1);
            }
        }
        self.first_seen = true;
        let Some(limit) = limit else {
            return Ok(Next::Connect);
        };
        if length > limit {
            return Err(End::TooLong { length, limit });
        }
        let whole = HEADER_LENGTH + length as usize;
        if self.end - self.start >= whole {
            return Ok(Next::SendWindow {
                // The offset lies within the window, which is small.
                offset: (self.start + HEADER_LENGTH) as u32,
                length,
            });
        }
        if length as usize > LARGE {
            return Ok(Next::Large(length as usize));
        }
        Ok(self.make_room())
    }

    /// Returns the bytes at `offset` after `start`, if they have come.
    fn peek<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.start + offset;
        if self.end < at + N {
            return None;
        }
        let mut bytes = [0; N];
        self.window.read(at, &mut bytes).ok()?;
        Some(bytes)
    }

    /// Starts the window over if that is possible and useful.
    fn make_room(&mut self) -> Next {
        let rest = self.end - self.start;
        if self.in_window == 0 && (rest == 0 || self.end == WINDOW) && self.start > 0 {
            // The rest is at most a small message, or the beginning of a large one.
            let moved = self.window.copy_to(self.start, &self.window, 0, rest);
            debug_assert!(moved.is_ok(), "both lie in the window");
            (self.start, self.end) = (0, rest);
        }
        let for_large = self
            .partial
            .as_ref()
            .is_some_and(|partial| partial.filled < partial.length);
        if self.end == WINDOW && !for_large {
            Next::Wait
        } else {
            Next::Receive
        }
    }

    /// Returns memory of an earlier message that has room for `length` bytes.
    pub(super) fn spare(&mut self, length: usize) -> Option<Piece> {
        let fits = |piece: &Piece| piece.memory.len() >= length;
        let at = self.spares.iter().position(fits)?;
        Some(self.spares.swap_remove(at))
    }

    /// Returns the size of new memory for a message; later messages may use it, too.
    pub(super) const fn piece_size(length: usize) -> usize {
        if length >= LARGEST_SPARE {
            length
        } else {
            length.next_power_of_two()
        }
    }

    /// Puts the message at `start`, of `length` bytes, into memory of its own.
    pub(super) fn begin_large(&mut self, piece: Piece, length: usize) -> Result<(), OutOfRange> {
        let begin = self.start + HEADER_LENGTH;
        let filled = self.end.saturating_sub(begin).min(length);
        self.window.copy_to(begin, &piece.memory, 0, filled)?;
        self.start = self.end;
        self.partial = Some(Partial {
            piece,
            filled,
            length,
        });
        Ok(())
    }

    /// Returns the large message.
    pub(super) fn large(&self) -> Option<Sge> {
        self.partial.as_ref().map(|partial| Sge {
            region: partial.piece.region,
            offset: 0,
            length: partial.length as u32,
        })
    }

    /// Takes note that the message that `next` returned is being sent: `length` bytes of the window, or the large
    /// message.
    pub(super) fn sending(&mut self, length: usize) {
        let flight = match self.partial.take() {
            Some(partial) => Flight {
                length: partial.length,
                piece: Some(partial.piece),
            },
            None => {
                self.start += HEADER_LENGTH + length;
                self.in_window += 1;
                Flight {
                    length,
                    piece: None,
                }
            }
        };
        self.flying += flight.length;
        self.flights.push_back(flight);
    }

    /// Takes note that the oldest message being sent was sent, or will never be sent; returns the number of its bytes,
    /// and the region to deregister, if there is one.
    pub(super) fn sent(&mut self) -> (usize, Option<RegionId>) {
        let Some(flight) = self.flights.pop_front() else {
            return (0, None);
        };
        self.flying = self.flying.saturating_sub(flight.length);
        let Some(piece) = flight.piece else {
            self.in_window = self.in_window.saturating_sub(1);
            return (flight.length, None);
        };
        if piece.memory.len() > LARGEST_SPARE {
            return (flight.length, Some(piece.region));
        }
        self.spares.push(piece);
        let surplus = (self.spares.len() > SPARES).then(|| self.spares.remove(0).region);
        (flight.length, surplus)
    }
}

#[cfg(test)]
mod tests;
