//! [`Peer`]: a process that is attached, as far as the engine knows it.

use crate::device::abi;

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
