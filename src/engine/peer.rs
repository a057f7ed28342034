// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Peer`] and [`Worker`]: a process that is attached, as far as the engine knows it.

use alloc::sync::Arc;
use core::fmt;

use zerocopy::{Immutable, IntoBytes};

use super::memory::{Account, Segments};
use crate::device::{Status, abi};
use crate::shm::Doorbell;
use crate::sys::Memory;

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[cfg_attr(feature = "broker", derive(serde::Serialize, serde::Deserialize))]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// smbd's parent, which gets offers of connections.
    Listener,
    /// A child of smbd, which owns connections.
    Worker,
    /// An observer, which asks for the status.
    Observer,
}

impl Role {
    /// Returns the role with this `abi::role::*` number, or `None` if there is no such role.
    #[must_use]
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            abi::role::LISTENER => Some(Self::Listener),
            abi::role::WORKER => Some(Self::Worker),
            abi::role::OBSERVER => Some(Self::Observer),
            _ => None,
        }
    }

    /// Returns a name for logs and the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// An attached process. Clones stand for the same process.
pub trait Peer: Clone {
    /// Returns the device's number for the process.
    fn id(&self) -> u32;

    /// Returns the role of the process.
    fn role(&self) -> Role;

    /// Returns whether the process attached with the token of a connection.
    fn invited(&self) -> bool;

    /// Sends the process a message of `kind::*` that carries no memory; `cookie` is the cookie of the request that the
    /// message answers, or 0. Never waits.
    ///
    /// # Errors
    ///
    /// The message was not sent.
    fn tell<T: IntoBytes + Immutable>(
        &self,
        kind: u32,
        cookie: u64,
        body: &T,
    ) -> Result<(), Untold>;
}

/// A process that owns connections.
pub trait Worker: Peer {
    /// Memory that the process maps.
    type Pages;
    /// A queue's memory and bell, before the process gets them.
    type NewQueue;
    /// The bell with which the process wakes this side.
    type Bell: fmt::Debug;
    /// The doorbell with which this side wakes the process.
    type Doorbell: Doorbell + fmt::Debug;

    /// Returns the account for the memory of all regions of the process.
    fn account(&self) -> &Arc<Account>;

    /// Makes `length` bytes of memory for received messages.
    ///
    /// # Errors
    ///
    /// [`Status::System`]: the system has no memory.
    fn make_pages(&self, length: usize) -> Result<(Memory, Self::Pages), Status>;

    /// Hands a segment over to the process.
    ///
    /// # Errors
    ///
    /// The message was not sent.
    fn hand_over(&self, segment: &abi::Segment, pages: &Self::Pages) -> Result<(), Untold>;

    /// Makes `length` bytes of memory for a queue.
    ///
    /// # Errors
    ///
    /// [`Status::System`]: the system has no memory.
    fn make_queue(&self, length: usize) -> Result<(Memory, Self::NewQueue), Status>;

    /// Hands a queue over to the process.
    ///
    /// # Errors
    ///
    /// The message was not sent.
    fn hand_over_queue(
        &self,
        queue: &abi::Queue,
        made: Self::NewQueue,
    ) -> Result<Self::Bell, Untold>;

    /// Returns the doorbell that wakes the process.
    fn doorbell(&self) -> Self::Doorbell;

    /// Returns a copy of the list of the process's segments, as it is now.
    fn segments(&self) -> Segments;

    /// Returns a number that grows whenever a segment comes or goes, before the worker can know about the change.
    fn changes(&self) -> u64;
}

/// Why a message to a process was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// The process has gone, or no longer listens, and has to be detached. The process did not break a rule, and
    /// connections that it never used find another worker.
    Gone,
    /// The process has left too many messages unread, and has to be detached.
    Unread,
}

#[cfg(test)]
pub(super) mod fake {
    use alloc::rc::Rc;
    use core::cell::{Cell, RefCell};

    use super::*;

    /// A doorbell that counts how often it was rung.
    #[derive(Clone, Debug, Default)]
    pub(in crate::engine) struct Rings(pub(in crate::engine) Rc<Cell<usize>>);

    impl Doorbell for Rings {
        fn ring(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    /// A worker that receives every message.
    #[derive(Clone, Debug)]
    pub(in crate::engine) struct Told {
        account: Arc<Account>,
        pub(in crate::engine) rings: Rings,
        /// The memory of the worker's queue.
        pub(in crate::engine) queue: Rc<RefCell<Option<Memory>>>,
    }

    impl Told {
        /// Makes a worker that may have `limit` bytes.
        pub(in crate::engine) fn new(limit: u64) -> Self {
            Self {
                account: Account::new(limit),
                rings: Rings::default(),
                queue: Rc::default(),
            }
        }
    }

    impl Peer for Told {
        fn id(&self) -> u32 {
            1
        }

        fn role(&self) -> Role {
            Role::Worker
        }

        fn invited(&self) -> bool {
            true
        }

        fn tell<T: IntoBytes + Immutable>(&self, _: u32, _: u64, _: &T) -> Result<(), Untold> {
            Ok(())
        }
    }

    impl Worker for Told {
        type Pages = ();
        type NewQueue = Memory;
        type Bell = ();
        type Doorbell = Rings;

        fn account(&self) -> &Arc<Account> {
            &self.account
        }

        fn make_pages(&self, length: usize) -> Result<(Memory, ()), Status> {
            Ok((Memory::zeroed(length), ()))
        }

        fn hand_over(&self, _: &abi::Segment, (): &()) -> Result<(), Untold> {
            Ok(())
        }

        fn make_queue(&self, length: usize) -> Result<(Memory, Memory), Status> {
            let memory = Memory::zeroed(length);
            Ok((memory.clone(), memory))
        }

        fn hand_over_queue(&self, _: &abi::Queue, made: Memory) -> Result<(), Untold> {
            *self.queue.borrow_mut() = Some(made);
            Ok(())
        }

        fn doorbell(&self) -> Rings {
            self.rings.clone()
        }

        fn segments(&self) -> Segments {
            Segments::default()
        }

        fn changes(&self) -> u64 {
            0
        }
    }
}
