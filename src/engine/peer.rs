//! [`Peer`] and [`Worker`]: a process that is attached, as far as the engine knows it.

use alloc::sync::Arc;

use super::memory::Account;
use crate::device::{Status, abi};
use crate::sys::Memory;

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Role {
    /// smbd's parent: is offered connections.
    Listener,
    /// Its child: has connections.
    Worker,
    /// Asks for the status.
    Observer,
}

impl Role {
    /// That of `abi::role::*`.
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

/// A process that is attached. Clones are the same one.
pub trait Peer: Clone {
    /// The device's number for it.
    fn id(&self) -> u32;

    /// What it does.
    fn role(&self) -> Role;

    /// Whether it attached with the token of a connection.
    fn invited(&self) -> bool;
}

/// A process that owns connections.
pub trait Worker: Peer {
    /// What the process maps.
    type Pages;

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
    /// It does not know of it.
    fn hand_over(&self, segment: &abi::Segment, pages: &Self::Pages) -> Result<(), Untold>;

    /// Asks the process for a segment.
    ///
    /// # Errors
    ///
    /// It does not know of that.
    fn reclaim(&self, reclaim: &abi::Reclaim) -> Result<(), Untold>;
}

/// Why a process was not told of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// It has gone, of which the device is told elsewhere. Nothing is wrong with the process, and connections that
    /// it never used find another.
    Gone,
    /// It has left too many messages unread, and is to be detached.
    Unread,
}
