// SPDX-License-Identifier: GPL-2.0-or-later

//! Lets a fabric in user space wait on one epoll instance for its own descriptors and those of its owner.

use std::io;
use std::time::Duration;

use mio::{Events, Poll, Registry, Token};

use super::wait::failed;
use super::{FabricError, Waitable};

/// Tokens with this bit belong to a fabric's owner. A fabric's own tokens never have it, because they are keys of
/// tables with fewer slots.
const OWNER_BIT: usize = 1 << 29;

/// A fabric whose owner sleeps with it, on one epoll instance instead of two nested ones.
pub trait SharedEpoll: Waitable {
    /// Returns the registry to which the owner adds its own descriptors, with tokens that [`owner_token`] makes.
    fn registry(&self) -> &Registry;

    /// Sleeps until a descriptor of the fabric or of the owner is ready, at most for `time`. The next
    /// [`poll`](super::Fabric::poll) uses the descriptors that were found, and does not look again.
    ///
    /// # Errors
    ///
    /// The errors of the system; a signal is not an error.
    fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError>;

    /// Appends the keys of the owner's descriptors that `wait` or [`poll`](super::Fabric::poll) found ready.
    fn ready(&mut self, keys: &mut Vec<u64>);
}

/// Returns the token of an owner's descriptor. The low 32 bits of an owner's key must be below 2^29.
#[must_use]
pub const fn owner_token(key: u64) -> Token {
    Token(key as usize | OWNER_BIT)
}

/// An epoll instance and the events that it found, which a fabric needs for [`SharedEpoll`].
#[derive(Debug)]
pub struct Readiness {
    poll: Poll,
    found: Events,
    /// `found` has not been taken yet.
    has_found: bool,
    keys: Vec<u64>,
}

impl Readiness {
    /// Makes an instance that watches nothing.
    ///
    /// # Errors
    ///
    /// The system has no descriptors left.
    pub fn new() -> Result<Self, FabricError> {
        let poll = Poll::new().map_err(|source| failed("create an epoll instance", source))?;
        Ok(Self {
            poll,
            found: Events::with_capacity(256),
            has_found: false,
            keys: Vec::new(),
        })
    }

    /// See [`SharedEpoll::registry`].
    #[must_use]
    pub fn registry(&self) -> &Registry {
        self.poll.registry()
    }

    /// Returns whether [`take`](Self::take) does not need a system call.
    #[must_use]
    pub const fn has_found(&self) -> bool {
        self.has_found
    }

    /// See [`SharedEpoll::wait`].
    ///
    /// # Errors
    ///
    /// The errors of the system.
    pub fn wait(&mut self, time: Option<Duration>) -> Result<(), FabricError> {
        if self.has_found {
            return Ok(());
        }
        match self.poll.poll(&mut self.found, time) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                return Err(failed("wait for work", error));
            }
            _ => {}
        }
        self.has_found = true;
        let keys = self.found.iter().filter_map(|event| key(event.token()));
        self.keys.extend(keys);
        Ok(())
    }

    /// Returns the descriptors that are ready, including the owner's ([`is_own`]), without waiting for any. They must
    /// be [put](Self::put) back.
    ///
    /// # Errors
    ///
    /// The errors of [`SharedEpoll::wait`].
    pub fn take(&mut self) -> Result<Events, FabricError> {
        self.wait(Some(Duration::ZERO))?;
        self.has_found = false;
        Ok(std::mem::replace(&mut self.found, Events::with_capacity(0)))
    }

    /// Gives back the events that [`take`](Self::take) returned.
    pub fn put(&mut self, found: Events) {
        self.found = found;
    }

    /// See [`SharedEpoll::ready`].
    pub fn ready(&mut self, keys: &mut Vec<u64>) {
        keys.append(&mut self.keys);
    }
}

/// Returns whether a token is one of the fabric's own.
#[must_use]
pub const fn is_own(token: Token) -> bool {
    token.0 & OWNER_BIT == 0
}

/// Returns the key of an owner's token.
fn key(token: Token) -> Option<u64> {
    (!is_own(token)).then_some((token.0 & !OWNER_BIT) as u64)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use mio::Interest;
    use mio::unix::SourceFd;

    use super::*;
    use crate::sys::EventFd;

    fn watch(readiness: &Readiness, bell: &EventFd, token: Token) {
        let fd = bell.as_fd().as_raw_fd();
        let registry = readiness.registry();
        let registered = registry.register(&mut SourceFd(&fd), token, Interest::READABLE);
        registered.unwrap();
    }

    /// Returns the tokens of the fabric that are ready.
    fn own(readiness: &mut Readiness) -> Vec<usize> {
        let found = readiness.take().unwrap();
        let tokens = found.iter().map(|event| event.token());
        let own = tokens.filter(|token| is_own(*token)).map(usize::from);
        let own: Vec<usize> = own.collect();
        readiness.put(found);
        own
    }

    fn keys(readiness: &mut Readiness) -> Vec<u64> {
        let mut keys = Vec::new();
        readiness.ready(&mut keys);
        keys
    }

    #[test]
    fn owner_and_fabric_get_their_own_events_whichever_of_them_polled() {
        let mut readiness = Readiness::new().unwrap();
        let (of_fabric, of_owner) = (EventFd::new().unwrap(), EventFd::new().unwrap());
        const KEY: u64 = (7 << 32) | 1;
        watch(&readiness, &of_fabric, Token(5));
        watch(&readiness, &of_owner, owner_token(KEY));
        for owner_waits in [false, true] {
            of_fabric.ring().unwrap();
            of_owner.ring().unwrap();
            if owner_waits {
                readiness.wait(None).unwrap();
                assert!(readiness.has_found());
                assert_eq!(keys(&mut readiness), [KEY]);
                // The events that were found are not lost, and the call does not wait.
                readiness.wait(None).unwrap();
                assert_eq!(own(&mut readiness), [5]);
            } else {
                assert_eq!(own(&mut readiness), [5]);
                assert_eq!(keys(&mut readiness), [KEY]);
            }
            assert!(!readiness.has_found());
            assert!(own(&mut readiness).is_empty());
            assert!(keys(&mut readiness).is_empty());
        }
    }

    #[test]
    fn the_greatest_key_of_an_owner_is_not_taken_for_a_fabrics() {
        let key = (u64::from(u32::MAX) << 32) | (OWNER_BIT as u64 - 1);
        assert!(!is_own(owner_token(key)));
        assert_eq!(super::key(owner_token(key)), Some(key));
        assert!(is_own(Token(key as usize)));
    }
}
