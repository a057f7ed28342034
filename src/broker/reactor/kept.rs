// SPDX-License-Identifier: GPL-2.0-or-later

//! Lets a reactor stand still, writes down its shard, and continues a shard.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::{Command, Notice, Reactor};
use crate::broker::kept::{Descriptors, KeptListener, Store, names};
use crate::broker::process::{MemoryFile, Process};
use crate::engine::peer::Role;
use crate::engine::queue::KeptQueue;
use crate::engine::shard::{KeptShard, Source};
use crate::fabric::{Keep, LocalAddresses, Reconfigure};
use crate::proto;
use crate::sys::{Bell, Memory};

/// What a reactor writes down.
#[derive(Debug)]
pub(in crate::broker) struct KeptReactor {
    pub(in crate::broker) shard: KeptShard,
    pub(in crate::broker) listeners: Vec<KeptListener>,
}

impl<F: Keep + Reconfigure> Reactor<F> {
    /// Writes down the shard and passes on its descriptors, reports that to the control thread, and stands still until
    /// the control thread says that the reactor has to go on after all.
    pub(super) fn keep(&mut self, store: &dyn Store) {
        self.look_at_clock();
        self.shard.freeze();
        self.run_notices();
        let kept = self.pass_on(store);
        self.control
            .notice(Notice::Kept(self.number, kept.map(Box::new)));
        let mut others = Vec::new();
        loop {
            match self.commands.recv() {
                Ok(Command::GoOn) | Err(_) => break,
                Ok(other) => others.push(other),
            }
        }
        self.look_at_clock();
        for command in others {
            self.run_command(command);
        }
    }

    fn pass_on(&self, store: &dyn Store) -> Result<KeptReactor, String> {
        let cannot = |error: std::io::Error| format!("a descriptor is not taken: {error}");
        let (shard, conns, queues) = self.shard.keep();
        for (place, conn) in conns.into_iter().enumerate() {
            store
                .put(&names::conn(self.number, place), conn)
                .map_err(cannot)?;
        }
        for (kept, queue) in shard.queues.iter().zip(queues) {
            let bell = self.shard.bell(queue).ok_or("a queue has no bell")?;
            let name = names::bell(kept.worker, kept.number);
            store.put(&name, bell.as_fd()).map_err(cannot)?;
        }
        let mut listeners = Vec::new();
        for (number, (address, listener)) in self.shard.listeners().enumerate() {
            let name = names::listener(self.number, number);
            store.put(&name, listener).map_err(cannot)?;
            listeners.push(KeptListener {
                reactor: self.number,
                address,
                name,
            });
        }
        Ok(KeptReactor { shard, listeners })
    }

    /// Takes over what a listener had set.
    pub(in crate::broker) fn set_up(
        &mut self,
        acceptor: Option<proto::Config>,
        allowed: &Arc<LocalAddresses>,
    ) {
        if let Some(acceptor) = acceptor {
            self.shard.set_acceptor(acceptor);
        }
        self.shard.admit_at(allowed);
    }

    /// Continues a shard; returns how many connections go on.
    pub(in crate::broker) fn adopt(
        &mut self,
        kept: KeptShard,
        descriptors: &mut Descriptors,
    ) -> usize {
        self.look_at_clock();
        let mut workers = Workers {
            reactor: self.number,
            processes: self.workers(),
            descriptors,
        };
        let continued = self.shard.adopt(kept, &mut workers);
        self.run_notices();
        continued
    }

    fn workers(&self) -> Vec<Arc<Process>> {
        let registry = self.shared.registry();
        let is_worker = |process: &&Arc<Process>| process.role == Role::Worker;
        registry.processes().filter(is_worker).cloned().collect()
    }
}

/// The attached workers, and the descriptors that were passed on.
struct Workers<'a> {
    reactor: usize,
    /// The workers by number.
    processes: Vec<Arc<Process>>,
    descriptors: &'a mut Descriptors,
}

impl Source<Arc<Process>> for Workers<'_> {
    fn worker(&mut self, id: u32) -> Option<Arc<Process>> {
        let found = self
            .processes
            .binary_search_by_key(&id, |process| process.id);
        self.processes.get(found.ok()?).cloned()
    }

    fn queue(&mut self, queue: &KeptQueue) -> Option<(Memory, Bell)> {
        let worker = self.worker(queue.worker)?;
        let bell = self
            .descriptors
            .take(&names::bell(queue.worker, queue.number));
        let name = MemoryFile::queue(queue.number);
        let memory = worker.adopt_file(name, queue.length()?, self.descriptors)?;
        Some((memory, bell?.into()))
    }

    fn segment(&mut self, queue: &KeptQueue, number: u32, length: usize) -> Option<Memory> {
        let worker = self.worker(queue.worker)?;
        let name = MemoryFile::receive(queue.number, number);
        worker.adopt_file(name, length, self.descriptors)
    }

    fn conn(&mut self, place: usize) -> Option<OwnedFd> {
        self.descriptors.take(&names::conn(self.reactor, place))
    }
}
