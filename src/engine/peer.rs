// SPDX-License-Identifier: GPL-2.0-or-later

//! [`Peer`] and [`Worker`]: a process that is attached, as far as the engine knows it.

use alloc::sync::Arc;
use core::fmt;

use zerocopy::{Immutable, IntoBytes};

use super::memory::{Account, Segments};
use crate::device::{Status, abi};
use crate::shm::Doorbell;
use crate::sys::Memory;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// smbd's parent: gets offers of connections.
    Listener,
    /// smbd's child: owns connections.
    Worker,
    /// Asks for the status.
    Observer,
}

impl Role {
    /// The role of a number of `abi::role::*`.
    #[must_use]
    pub const fn of(number: u32) -> Option<Self> {
        match number {
            abi::role::LISTENER => Some(Self::Listener),
            abi::role::WORKER => Some(Self::Worker),
            abi::role::OBSERVER => Some(Self::Observer),
            _ => None,
        }
    }

    /// A name for logs and the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// An attached process. Clones stand for the same process.
pub trait Peer: Clone {
    /// The device's number for it.
    fn id(&self) -> u32;

    /// What it does.
    fn role(&self) -> Role;

    /// Whether it attached with the token of a connection.
    fn invited(&self) -> bool;

    /// Sends the process a message of `kind::*` that carries no memory; `cookie` is that of the request it answers,
    /// or 0. Never waits.
    ///
    /// # Errors
    ///
    /// The process was not told.
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
    /// A queue's memory and bell, before the process is told of them.
    type NewQueue;
    /// The process wakes this side with it.
    type Bell: fmt::Debug;
    /// This side wakes the process with it.
    type Doorbell: Doorbell + fmt::Debug;

    /// Memory of all its regions.
    fn account(&self) -> &Arc<Account>;

    /// Makes `length` bytes of memory for received messages.
    ///
    /// # Errors
    ///
    /// [`Status::System`]: the system has none.
    fn make_pages(&self, length: usize) -> Result<(Memory, Self::Pages), Status>;

    /// Tells the process of a segment.
    ///
    /// # Errors
    ///
    /// The process was not told.
    fn hand_over(&self, segment: &abi::Segment, pages: &Self::Pages) -> Result<(), Untold>;

    /// Makes `length` bytes of memory for a queue.
    ///
    /// # Errors
    ///
    /// [`Status::System`]: the system has none.
    fn make_queue(&self, length: usize) -> Result<(Memory, Self::NewQueue), Status>;

    /// Tells the process of a queue.
    ///
    /// # Errors
    ///
    /// The process was not told.
    fn hand_over_queue(
        &self,
        queue: &abi::Queue,
        made: Self::NewQueue,
    ) -> Result<Self::Bell, Untold>;

    /// The doorbell that wakes the process.
    fn doorbell(&self) -> Self::Doorbell;

    /// A copy of the list of its segments, as it is now.
    fn segments(&self) -> Segments;

    /// A number that grows whenever a segment comes or goes, before the worker can know of the change.
    fn changes(&self) -> u64;
}

/// Why a process was not told of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// It has gone, or no longer listens: it is to be detached. It broke no rule, and connections that it never used
    /// find another worker.
    Gone,
    /// It has left too many messages unread, and is to be detached.
    Unread,
}

#[cfg(test)]
pub(super) mod fake {
    use alloc::rc::Rc;
    use core::cell::{Cell, RefCell};

    use super::*;

    /// How often it was rung.
    #[derive(Clone, Debug, Default)]
    pub(in crate::engine) struct Rings(pub(in crate::engine) Rc<Cell<usize>>);

    impl Doorbell for Rings {
        fn ring(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    /// A worker that every message reaches.
    #[derive(Clone, Debug)]
    pub(in crate::engine) struct Told {
        account: Arc<Account>,
        pub(in crate::engine) rings: Rings,
        /// The memory of its queue.
        pub(in crate::engine) queue: Rc<RefCell<Option<Memory>>>,
    }

    impl Told {
        /// A worker that may have `limit` bytes.
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
