// SPDX-License-Identifier: GPL-2.0-or-later

//! Tells listeners and workers on which addresses clients reach the device: when such a process attaches, and whenever
//! these addresses change.
//!
//! The listener sets the addresses of this machine that clients may use. The addresses that were set last stay in force
//! until this or a later listener sets others, so a device that has lost its listener allows no more addresses than
//! before. The reactors let clients use no other addresses, and end the connections to addresses that the machine no
//! longer has.
//!
//! Networks change in bursts, so the system is asked once for all changes within a short time. A process whose socket
//! has no room is told later; a full socket is not a reason to detach a process.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::{Control, Peer};
use crate::broker::addresses::{Reach, Watch, reach};
use crate::broker::config::Listen;
use crate::broker::process::Process;
use crate::broker::reactor::Command;
use crate::broker::status::AddressStatus;
use crate::device::Status;
use crate::device::abi::{Address, AllowedAddress, SetAddresses};
use crate::device::message::encode_addresses;
use crate::engine::peer::Role;
use crate::fabric::{LocalAddress, LocalAddresses};
use crate::units::Instant;

/// Time to wait after a change before the system is asked for its addresses.
const SETTLE: Duration = Duration::from_millis(100);
/// Minimum time between two questions to the system, and time between two attempts to tell a process.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) const WATCH: Token = Token(usize::MAX - 2);

/// What is known about the addresses.
#[derive(Debug)]
pub(super) struct Known {
    listen: Vec<Listen>,
    /// The addresses that clients may use.
    pub(super) allowed: Arc<LocalAddresses>,
    pub(super) reach: Reach,
    /// The watch; `None` if the system cannot watch addresses, which then stay as they were at the start.
    watch: Option<Watch>,
    look_at: Option<Instant>,
    /// When the system was last asked.
    looked: Instant,
    /// When to tell the processes whose sockets had no room.
    pub(super) tell_at: Option<Instant>,
}

impl Known {
    pub(super) fn new(
        listen: Vec<Listen>,
        registry: &mio::Registry,
        now: Instant,
    ) -> io::Result<Self> {
        // The watch begins before the first look, so that no change is missed.
        let watch = Watch::new()
            .inspect_err(|error| tracing::warn!(%error, "address changes will not be noticed"))
            .ok();
        if let Some(watch) = &watch {
            let fd = watch.as_fd().as_raw_fd();
            registry.register(&mut SourceFd(&fd), WATCH, Interest::READABLE)?;
        }
        let mut known = Self {
            listen,
            allowed: Arc::default(),
            reach: Reach::default(),
            watch,
            look_at: None,
            looked: now,
            tell_at: None,
        };
        known.look();
        Ok(known)
    }

    /// Asks the system for its addresses; returns whether those on which clients reach the device have changed.
    fn look(&mut self) -> bool {
        match reach(&self.listen, &self.allowed) {
            Ok(new) => {
                let old = std::mem::replace(&mut self.reach, new);
                self.say_missing(&old);
                old.addresses != self.reach.addresses
            }
            Err(error) => {
                tracing::warn!(%error, "cannot list the addresses of this machine");
                false
            }
        }
    }

    /// Returns the addresses that clients may use, for the status; `None` stands for all.
    pub(super) fn allowed(&self) -> Option<Vec<String>> {
        match &*self.allowed {
            LocalAddresses::All => None,
            LocalAddresses::Only(addresses) => {
                Some(addresses.iter().map(LocalAddress::to_string).collect())
            }
        }
    }

    /// Logs which addresses of `listen` have become missing since `old`, and which are no longer missing.
    fn say_missing(&self, old: &Reach) {
        let missing = &self.reach.missing;
        for address in missing
            .iter()
            .filter(|address| !old.missing.contains(address))
        {
            tracing::warn!(
                "this machine does not have {address} (ip address): clients will be served there as soon \
                 as it does"
            );
        }
        for address in old
            .missing
            .iter()
            .filter(|address| !missing.contains(address))
        {
            tracing::info!("this machine now has {address}: clients are served there");
        }
    }

    /// Returns the time at which there is something to do next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.look_at.into_iter().chain(self.tell_at).min()
    }

    /// Tells a process about the addresses. Returns an error if the process cannot be told now.
    pub(super) fn tell(&self, process: &Process) -> io::Result<()> {
        let list: Vec<Address> = self
            .reach
            .addresses
            .iter()
            .map(AddressStatus::to_abi)
            .collect();
        let mut message = Vec::new();
        encode_addresses(0, &list, &mut message);
        process.socket.send(&message, &[])
    }
}

impl Control {
    /// Notes that the system has reported a possible change.
    pub(super) fn addresses_may_differ(&mut self) {
        let known = &mut self.known;
        if let Some(watch) = &known.watch {
            watch.calm();
        }
        let at = (self.now + SETTLE).max(known.looked + PAUSE);
        known.look_at.get_or_insert(at);
    }

    /// Asks the system and tells processes, when it is time to do so.
    pub(super) fn run_addresses(&mut self) {
        if self.known.look_at.is_some_and(|at| at <= self.now) {
            self.known.look_at = None;
            self.known.looked = self.now;
            if self.known.look() {
                let count = self.known.reach.addresses.len();
                tracing::info!(count, "local addresses changed");
                self.addresses_differ();
            }
            // This is done even if `listen` names no address: a client may have connected to any address of the
            // machine.
            let interfaces = Arc::clone(&self.known.reach.interfaces);
            self.command_all(|| Command::EndGone(Arc::clone(&interfaces)));
        }
        if self.known.tell_at.is_some_and(|at| at <= self.now) {
            self.tell_addresses();
        }
    }

    /// Replaces the addresses on which the device listens. Listeners and workers are told of the difference.
    pub(super) fn set_listen(&mut self, listen: Vec<Listen>) {
        if listen == self.known.listen {
            return;
        }
        self.listen = listen.iter().map(|listen| listen.address).collect();
        // The machine may still lack an address that is no longer wanted.
        let missing = &mut self.known.reach.missing;
        missing.retain(|address| self.listen.contains(address));
        self.known.listen = listen;
        if self.known.look() {
            self.addresses_differ();
        }
    }

    /// Notes that listeners and workers must be told on which addresses clients now reach the device.
    fn addresses_differ(&mut self) {
        for peer in self.peers.values_mut() {
            peer.addresses_due = peer.is_told();
        }
        self.known.tell_at = Some(self.now);
    }

    /// Sets, for the listener, the addresses that clients may use. Before the listener is answered, it is told on which
    /// addresses clients reach the device from then on.
    pub(super) fn set_addresses(
        &mut self,
        set: SetAddresses,
        list: &[AllowedAddress],
    ) -> Result<(), Status> {
        let allowed = Arc::new(allowed_of(set, list)?);
        if allowed == self.known.allowed {
            return Ok(());
        }
        self.known.allowed = Arc::clone(&allowed);
        match self.known.allowed() {
            None => tracing::info!("clients may use all addresses of this machine"),
            Some(list) if list.is_empty() => {
                tracing::warn!("clients may not use any address of this machine");
            }
            Some(list) => tracing::info!("clients may use only {}", list.join(", ")),
        }
        self.command_all(|| Command::AdmitAt(Arc::clone(&allowed)));
        if self.known.look() {
            self.addresses_differ();
            self.tell_addresses();
        }
        Ok(())
    }

    /// Finds out on which addresses clients reach the device now, and tells the processes if these are not the ones
    /// that they were `told` before a restart. Processes that were not told in time before it are told now.
    pub(super) fn adopt_addresses(&mut self, told: &[AddressStatus]) {
        self.known.look();
        if self.known.reach.addresses != told {
            self.addresses_differ();
        } else if self.peers.values().any(|peer| peer.addresses_due) {
            self.known.tell_at = Some(self.now);
        }
    }

    fn tell_addresses(&mut self) {
        let mut left = false;
        for peer in self.peers.values_mut().filter(|peer| peer.addresses_due) {
            let Some(process) = &peer.process else {
                continue;
            };
            let told = self.known.tell(process);
            // If the process has gone, its socket will show that.
            peer.addresses_due = told.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            left |= peer.addresses_due;
        }
        self.known.tell_at = left.then(|| self.now + PAUSE);
    }
}

fn allowed_of(set: SetAddresses, list: &[AllowedAddress]) -> Result<LocalAddresses, Status> {
    match set.all {
        0 if list.iter().all(AllowedAddress::is_valid) => {
            let address = |allowed: &AllowedAddress| {
                LocalAddress::new(Ipv6Addr::from(allowed.address).into(), allowed.scope_id)
            };
            Ok(LocalAddresses::Only(list.iter().map(address).collect()))
        }
        1 if list.is_empty() => Ok(LocalAddresses::All),
        _ => Err(Status::Invalid),
    }
}

impl Peer {
    /// Returns whether the process has to know on which addresses clients reach the device.
    fn is_told(&self) -> bool {
        let role = self.process.as_ref().map(|process| process.role);
        matches!(role, Some(Role::Listener | Role::Worker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::request::tests::control;
    use super::*;
    use crate::broker::process::Process;
    use crate::device::abi::MAX_CONTROL_LENGTH;
    use crate::device::message::{Answer, read_answer};
    use crate::sys::SeqSocket;

    fn told(socket: &SeqSocket) -> Vec<Answer> {
        let mut buffer = [0; MAX_CONTROL_LENGTH];
        let mut answers = Vec::new();
        while let Ok(received) = socket.receive(&mut buffer) {
            // Other messages only fill the socket.
            answers.extend(read_answer(&buffer[..received.length]).map(|(_, answer)| answer));
        }
        answers
    }

    #[test]
    fn a_process_is_told_of_a_change_once_and_later_if_it_has_no_room() {
        let (mut control, theirs, directory) = control();
        let socket = Arc::clone(&control.peers[&1].socket);
        let process = Process::new((1, 1), (Role::Worker, false), Arc::clone(&socket), 0);
        control.peers.get_mut(&1).unwrap().process = Some(Arc::new(process));
        let run = |control: &mut Control, after: Duration| {
            control.now = control.now + after;
            control.run_addresses();
        };

        // Nothing has changed.
        control.addresses_may_differ();
        run(&mut control, PAUSE);
        assert_eq!((told(&theirs), control.known.next()), (vec![], None));

        control.known.listen = vec!["127.0.0.1:5445".parse().unwrap()];
        control.addresses_may_differ();
        control.addresses_may_differ();
        run(&mut control, SETTLE / 2);
        assert_eq!(told(&theirs), [], "not so soon");
        run(&mut control, PAUSE);
        let expected = Answer::Addresses(vec![control.known.reach.addresses[0].to_abi()]);
        assert_eq!(told(&theirs), [expected]);
        assert_eq!(control.known.next(), None);

        // If there is no room, nothing happens to the process, and it is told once there is room.
        while socket.send(&[0; 64], &[]).is_ok() {}
        control.known.listen = Vec::new();
        control.addresses_may_differ();
        run(&mut control, PAUSE);
        assert!(control.peers[&1].addresses_due);
        run(&mut control, PAUSE);
        assert_eq!(told(&theirs), []);
        run(&mut control, PAUSE);
        assert_eq!(told(&theirs), [Answer::Addresses(vec![])]);
        assert_eq!(control.known.next(), None);
        drop(control);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
