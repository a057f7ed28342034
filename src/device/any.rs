// SPDX-License-Identifier: GPL-2.0-or-later

//! A channel to the device at a path: smbdirectd behind a socket, or the kernel's as a character device.

use std::os::fd::BorrowedFd;
use std::path::Path;

use super::Status;
use super::channel::{Channel, Delivery, SocketChannel};
use super::chardev::{CharChannel, Kick, is_char_device};
use crate::shm::Doorbell;
use crate::sys::{Bell, CharDevice};

/// A channel to either device.
#[derive(Debug)]
pub enum AnyChannel {
    /// A channel to smbdirectd.
    Socket(SocketChannel),
    /// A channel to the device in the kernel.
    Char(CharChannel),
}

impl AnyChannel {
    /// Connects to the device at `path`. A character device leads to the kernel's device; anything else, or nothing,
    /// leads to smbdirectd.
    ///
    /// # Errors
    ///
    /// Fails as [`SocketChannel::connect`] and [`CharChannel::open`] do.
    pub fn connect(path: &Path) -> Result<Self, Status> {
        match is_char_device(path) {
            true => CharChannel::open(path).map(Self::Char),
            false => SocketChannel::connect(path).map(Self::Socket),
        }
    }
}

impl From<SocketChannel> for AnyChannel {
    fn from(channel: SocketChannel) -> Self {
        Self::Socket(channel)
    }
}

/// The bell of a queue of either device.
#[derive(Debug)]
pub enum AnyBell {
    /// The bell of a queue of smbdirectd.
    Socket(Bell),
    /// The bell of a queue of the device in the kernel.
    Char(Kick<CharDevice>),
}

impl Doorbell for AnyBell {
    fn ring(&self) {
        match self {
            Self::Socket(bell) => Doorbell::ring(bell),
            Self::Char(bell) => bell.ring(),
        }
    }
}

/// Returns the same delivery with its bell in another type.
fn with_bell<D>(delivery: Delivery<D>, bell: fn(D) -> AnyBell) -> Delivery<AnyBell> {
    Delivery {
        cookie: delivery.cookie,
        answer: delivery.answer,
        memory: delivery.memory,
        doorbell: delivery.doorbell.map(bell),
        socket: delivery.socket,
    }
}

impl Channel for AnyChannel {
    type Doorbell = AnyBell;

    fn event_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(channel) => channel.event_fd(),
            Self::Char(channel) => channel.event_fd(),
        }
    }

    fn wake(&mut self) {
        match self {
            Self::Socket(channel) => channel.wake(),
            Self::Char(channel) => channel.wake(),
        }
    }

    fn send(&mut self, message: &[u8]) -> Result<(), Status> {
        match self {
            Self::Socket(channel) => channel.send(message),
            Self::Char(channel) => channel.send(message),
        }
    }

    fn is_mostly_free(&self) -> bool {
        match self {
            Self::Socket(channel) => channel.is_mostly_free(),
            Self::Char(channel) => channel.is_mostly_free(),
        }
    }

    fn has_room_again(&mut self) -> bool {
        match self {
            Self::Socket(channel) => channel.has_room_again(),
            Self::Char(channel) => channel.has_room_again(),
        }
    }

    fn receive(&mut self) -> Result<Option<Delivery<AnyBell>>, Status> {
        match self {
            Self::Socket(channel) => {
                let delivery = channel.receive()?;
                Ok(delivery.map(|delivery| with_bell(delivery, AnyBell::Socket)))
            }
            Self::Char(channel) => {
                let delivery = channel.receive()?;
                Ok(delivery.map(|delivery| with_bell(delivery, AnyBell::Char)))
            }
        }
    }

    fn has_just_looked(&mut self) -> bool {
        match self {
            Self::Socket(channel) => channel.has_just_looked(),
            Self::Char(channel) => channel.has_just_looked(),
        }
    }

    fn close(&mut self) {
        match self {
            Self::Socket(channel) => channel.close(),
            Self::Char(channel) => channel.close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Handle, Role};

    #[test]
    fn the_kind_of_the_file_decides() {
        let null = AnyChannel::connect(Path::new("/dev/null"));
        // /dev/null cannot be polled, but the channel has to poll.
        assert!(matches!(null, Err(Status::NoDevice)), "{null:?}");
        let zero = Handle::attach(Path::new("/dev/random"), Role::Worker, None);
        assert_eq!(zero.map(drop), Err(Status::NoDevice), "another device");
        for nothing in [
            "/dev/smbdirect-that-is-not-there",
            "/dev/shm",
            "/etc/hostname",
        ] {
            let found = AnyChannel::connect(Path::new(nothing));
            assert!(
                matches!(found, Err(Status::NoDevice)),
                "{nothing} {found:?}"
            );
        }
    }
}
