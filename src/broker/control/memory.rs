// SPDX-License-Identifier: GPL-2.0-or-later

//! Gives out workers' memory, lets workers wait for it, and takes it back.
//!
//! ```text
//!   Grow --fits--> Segment                        a look, now and then:  idle segments -> Reclaim
//!     '--does not fit--> waits ---memory came---> Segment        Release -> free for others
//!                          '--- for too long ---> Reply
//! ```
//!
//! Now and then, the control thread looks for idle memory, and asks each worker to give back the segments that the
//! worker has not used since the last look. While any worker waits, the control thread looks more often, and if a
//! waiting worker has less than an equal share, the thread asks workers that have more than that for the excess. A
//! worker gives a segment back when its operations in the segment have ended. The worker that has waited longest may
//! have the reserved part of the total (see [`Reserve`](crate::engine::memory::Reserve)).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Control;
use super::request::{Answer, Refusal, answered, reply};
use crate::broker::process::{MemoryFile, Process};
use crate::broker::reactor::Command;
use crate::broker::segment::create_segment;
use crate::device::Status;
use crate::device::abi::{self, RegionShape, kind, region};
use crate::engine::memory::{Segment, next_length};
use crate::engine::peer::Role;
use crate::units::Instant;

/// Time after which a worker that waits for other workers' memory learns that there is none.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Time between attempts to serve workers that wait; nothing tells this thread when memory becomes free.
const RETRY: Duration = Duration::from_millis(5);

/// Time between two looks for idle memory while any worker waits.
const URGENT_LOOK: Duration = Duration::from_millis(50);

/// The regions whose segments the control thread gives out.
const REGIONS: [u32; 2] = [region::SEND, region::BULK];

/// A worker that waits for other workers' memory.
#[derive(Debug)]
struct Waiting {
    process: Arc<Process>,
    cookie: u64,
    grow: abi::Grow,
    since: Instant,
}

/// The workers that wait for memory, and the time at which to look for idle memory.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// The workers that wait; the one that has waited longest comes first.
    waiting: VecDeque<Waiting>,
    /// The worker that has the reserved part of the total.
    holder: Option<u32>,
    /// When to look for idle memory; `None` if no worker has memory that could be taken back.
    look_at: Option<Instant>,
    /// Whether a worker has found no memory since the last look.
    pressed: bool,
}

/// The workers that wait for memory, as they are passed on.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(in crate::broker) struct KeptExchange {
    waiting: Vec<KeptWaiting>,
    holder: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptWaiting {
    process: u32,
    cookie: u64,
    region: u32,
    units: u32,
    since: Instant,
}

impl Exchange {
    /// Returns the workers that wait.
    pub(super) fn keep(&self) -> KeptExchange {
        let keep = |waiting: &Waiting| KeptWaiting {
            process: waiting.process.id,
            cookie: waiting.cookie,
            region: waiting.grow.region,
            units: waiting.grow.units,
            since: waiting.since,
        };
        KeptExchange {
            waiting: self.waiting.iter().map(keep).collect(),
            holder: self.holder,
        }
    }

    /// Returns the time at which there is something to do next.
    pub(super) fn next(&self, now: Instant) -> Option<Instant> {
        let retry = (!self.waiting.is_empty()).then(|| now + RETRY);
        [retry, self.look_at].into_iter().flatten().min()
    }

    /// Forgets a process that has gone.
    fn forget(&mut self, process: u32) {
        self.waiting.retain(|waiting| waiting.process.id != process);
        // The memory itself counts until its last user has gone.
        self.holder = self.holder.filter(|holder| *holder != process);
    }
}

impl Control {
    /// Gives a worker one more segment, now or as soon as there is memory for it.
    pub(super) fn grow(
        &mut self,
        process: &Arc<Process>,
        cookie: u64,
        grow: abi::Grow,
    ) -> Result<Answer, Refusal> {
        let Some(shape) = self.shape_of(grow.region) else {
            return Ok(Answer::Now(Err(Status::Invalid)));
        };
        if !(1..=shape.longest_run).contains(&grow.units) {
            return Ok(Answer::Now(Err(Status::Invalid)));
        }
        let of = |waiting: &Waiting| waiting.process.id == process.id;
        let mut waiting = self.exchange.waiting.iter();
        if waiting.any(|waiting| of(waiting) && waiting.grow.region == grow.region) {
            return Ok(Answer::Now(Err(Status::Busy)));
        }
        match self.give_segment(process, cookie, grow, self.shared.reserve.all())? {
            Ok(()) => return Ok(Answer::Other),
            Err(Status::Again) => {}
            Err(status) => {
                self.shared.registry().count("refused_memory");
                return Ok(Answer::Now(Err(status)));
            }
        }
        self.exchange.waiting.push_back(Waiting {
            process: Arc::clone(process),
            cookie,
            grow,
            since: self.now,
        });
        self.shared.registry().count("waited_for_memory");
        self.press();
        Ok(Answer::Other)
    }

    /// Takes back a segment that a worker no longer uses.
    pub(super) fn release(
        &mut self,
        process: &Arc<Process>,
        release: abi::Release,
    ) -> Result<(), Refusal> {
        const UNKNOWN: Refusal = (
            Status::Corrupt,
            Cow::Borrowed("it gave back a segment that it does not have"),
        );
        let id = process.id;
        if release.region == region::RECEIVE {
            let reactor = self.reactors.get(release.queue as usize);
            let number = release.number;
            process.remove_file(MemoryFile::receive(release.queue, number));
            reactor
                .ok_or(UNKNOWN)?
                .send(Command::Unmapped { id, number });
            return Ok(());
        }
        if release.queue != 0 || !process.release(release.region, release.number) {
            return Err(UNKNOWN);
        }
        self.command_all(|| Command::Released(id));
        Ok(())
    }

    /// Forgets the requests of a process that has gone.
    pub(super) fn forget_waiting(&mut self, process: u32) {
        self.exchange.forget(process);
    }

    /// Continues with the workers of an earlier broker that wait, and looks for idle memory later.
    pub(super) fn adopt_exchange(&mut self, kept: KeptExchange) {
        for waiting in kept.waiting {
            let peer = self.peers.get(&waiting.process);
            let Some(process) = peer.and_then(|peer| peer.process.clone()) else {
                continue;
            };
            let grow = abi::Grow {
                region: waiting.region,
                units: waiting.units,
            };
            self.exchange.waiting.push_back(Waiting {
                process,
                cookie: waiting.cookie,
                grow,
                since: waiting.since,
            });
        }
        self.exchange.holder = kept.holder;
        self.look_within(self.shared.config().memory_idle_timeout);
    }

    /// Looks for memory soon, because a worker found none.
    pub(super) fn press(&mut self) {
        self.exchange.pressed = true;
        self.look_within(URGENT_LOOK);
    }

    /// Gives memory to the workers that wait for it, and looks for idle memory.
    pub(super) fn run_memory(&mut self) {
        self.serve_waiting();
        if self.exchange.look_at.is_some_and(|at| at <= self.now) {
            self.look();
        }
    }

    pub(super) fn look_within(&mut self, time: Duration) {
        let at = self.now + time;
        let look_at = &mut self.exchange.look_at;
        *look_at = Some(look_at.map_or(at, |before| before.min(at)));
    }

    fn shape_of(&self, region: u32) -> Option<RegionShape> {
        match region {
            region::SEND => Some(self.shared.config().memory.send),
            region::BULK => Some(self.shared.config().memory.bulk),
            _ => None,
        }
    }

    /// Gives a worker a segment of the length that its region should get next or, failing that, of the length that it
    /// needs ([`next_length`]). Returns [`Status::Again`] if neither would leave `spare` bytes of the total.
    fn give_segment(
        &mut self,
        process: &Arc<Process>,
        cookie: u64,
        grow: abi::Grow,
        spare: u64,
    ) -> Result<Result<(), Status>, Refusal> {
        let (name, shape) = match (grow.region, self.shape_of(grow.region)) {
            (region::SEND, Some(shape)) => ("smbdirect-send", shape),
            (_, Some(shape)) => ("smbdirect-bulk", shape),
            (_, None) => return Ok(Err(Status::Invalid)),
        };
        let extent = process.segments().extent(grow.region);
        if extent.0 >= shape.max_segments {
            return Ok(Err(Status::NoMemory));
        }
        let [should, must] = next_length(&shape, extent, grow.units);
        let total = &self.shared.memory;
        let create = |length| create_segment(name, length, &process.account, (total, spare));
        let (segment, file) = match create(should).or_else(|_| create(must)) {
            Ok(made) => made,
            Err(status) => return Ok(Err(status)),
        };
        let added = process.add_segment(grow.region, segment, shape.max_segments);
        let Some(number) = added else {
            return Ok(Err(Status::NoMemory));
        };
        let answer = abi::Segment {
            region: grow.region,
            queue: 0,
            number,
            reserved: 0,
            length: file.len() as u64,
        };
        answered(process.send(kind::SEGMENT, cookie, &answer, &[file.as_fd()]))?;
        process.add_file(MemoryFile::segment(grow.region, number), &Arc::new(file));
        self.look_within(self.shared.config().memory_idle_timeout);
        Ok(Ok(()))
    }

    /// Tries again to give memory to each worker that waits; the first worker may have the reserved part.
    fn serve_waiting(&mut self) {
        let reserve = self.shared.reserve;
        let ordinary = self.shared.memory.limit().saturating_sub(reserve.all());
        if self.shared.memory.used() <= ordinary {
            // The reserved part is complete again.
            self.exchange.holder = None;
        }
        let mut still = VecDeque::new();
        while let Some(waiting) = self.exchange.waiting.pop_front() {
            let id = waiting.process.id;
            let is_first = still.is_empty();
            let holder = self.exchange.holder;
            let may_hold = holder == Some(id) || (is_first && holder.is_none());
            let mut result = self.try_again(&waiting, reserve.all());
            if may_hold && matches!(result, Ok(Err(Status::Again))) {
                result = self.try_again(&waiting, reserve.received);
                if matches!(result, Ok(Ok(()))) {
                    self.exchange.holder = Some(id);
                }
            }
            let is_late = self.now.saturating_since(waiting.since) >= LONGEST_WAIT;
            match result {
                Ok(Ok(())) => {}
                Ok(Err(Status::Again)) if !is_late => still.push_back(waiting),
                Ok(Err(_)) => {
                    self.shared.registry().count("refused_memory");
                    let refused = Err(Status::NoMemory);
                    if reply(&waiting.process, waiting.cookie, kind::GROW, refused).is_err() {
                        self.unread(id);
                    }
                }
                Err(_) => self.unread(id),
            }
        }
        self.exchange.waiting.extend(still);
    }

    fn try_again(&mut self, waiting: &Waiting, spare: u64) -> Result<Result<(), Status>, Refusal> {
        self.give_segment(&waiting.process, waiting.cookie, waiting.grow, spare)
    }

    fn unread(&mut self, id: u32) {
        self.detach(id, Some(Status::Again), "it does not read its answers");
    }

    /// Asks workers for idle memory. If a waiting worker has less than an equal share, also asks workers that have more
    /// than that for the excess.
    fn look(&mut self) {
        let registry = self.shared.registry();
        let is_worker = |process: &&Arc<Process>| process.role == Role::Worker;
        let workers: Vec<_> = registry.processes().filter(is_worker).cloned().collect();
        drop(registry);
        let mut more = false;
        for worker in &workers {
            more |= reclaim_idle(worker);
        }
        self.exchange.look_at = None;
        if self.exchange.waiting.is_empty() && !self.exchange.pressed {
            if more {
                self.look_within(self.shared.config().memory_idle_timeout);
            }
            return;
        }
        self.exchange.pressed = false;
        self.command_all(|| Command::Reclaim);
        let is_waiting = |id| {
            self.exchange
                .waiting
                .iter()
                .any(|waiting| waiting.process.id == id)
        };
        let users = workers
            .iter()
            .filter(|worker| worker.account.used() > 0 || is_waiting(worker.id));
        let reserve = self.shared.reserve.all();
        let ordinary = self.shared.memory.limit().saturating_sub(reserve);
        let share = ordinary / (users.count() as u64).max(1);
        let mut waiting = self.exchange.waiting.iter();
        if waiting.any(|waiting| waiting.process.account.used() < share) {
            for worker in &workers {
                reclaim_to(worker, share);
            }
        }
        self.look_within(URGENT_LOOK);
    }
}

/// Returns the segments that a worker has not been asked to give back, the longest first, with their region and number.
fn segments(process: &Process) -> Vec<(u32, u32, Arc<Segment>)> {
    let all = process.segments();
    let mut found = Vec::new();
    for region in REGIONS {
        let numbered = (0..).zip(all.of(region).into_iter().flatten());
        for (number, segment) in numbered {
            let segment = segment.as_ref().filter(|segment| !segment.is_reclaimed());
            found.extend(segment.map(|segment| (region, number, Arc::clone(segment))));
        }
    }
    found.sort_by_key(|(_, _, segment)| std::cmp::Reverse(segment.memory.len()));
    // The shortest SEND segment stays, so that small responses can always go out.
    let kept = found
        .iter()
        .rposition(|(region, ..)| *region == region::SEND);
    kept.map(|kept| found.remove(kept));
    found
}

/// Asks a worker to give back the segments that it has not touched since the last call; returns whether the worker
/// keeps segments that it was not asked for.
fn reclaim_idle(process: &Process) -> bool {
    let mut more = false;
    for (region, number, segment) in segments(process) {
        let asked = !segment.take_touched() && reclaim(process, region, number, &segment).is_ok();
        more |= !asked;
    }
    more
}

/// Asks a worker to give back its longest segments, until the rest is no longer than `share`.
fn reclaim_to(process: &Process, share: u64) {
    let mut left = process.account.used();
    let all = process.segments();
    let asked = REGIONS
        .into_iter()
        .flat_map(|region| all.of(region))
        .flatten()
        .flatten();
    let asked = asked.filter(|segment| segment.is_reclaimed());
    left = left.saturating_sub(asked.map(|segment| segment.memory.len() as u64).sum());
    for (region, number, segment) in segments(process) {
        if left <= share {
            return;
        }
        if reclaim(process, region, number, &segment).is_ok() {
            left = left.saturating_sub(segment.memory.len() as u64);
        }
    }
}

/// Asks a worker to give back a segment. If its socket has no room for the message, the worker is asked again later.
fn reclaim(process: &Process, region: u32, number: u32, segment: &Segment) -> io::Result<()> {
    let message = abi::Reclaim {
        region,
        queue: 0,
        number,
        reserved: 0,
    };
    process.send(kind::RECLAIM, 0, &message, &[])?;
    segment.set_reclaimed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::SeqSocket;

    #[test]
    fn a_process_that_has_gone_neither_waits_nor_keeps_others_from_the_reserve() {
        let waiting = |id| {
            let socket = Arc::new(SeqSocket::pair().unwrap().0);
            Waiting {
                process: Arc::new(Process::new((id, 1), (Role::Worker, true), socket, 0)),
                cookie: 1,
                grow: abi::Grow {
                    region: region::BULK,
                    units: 1,
                },
                since: Instant::ZERO,
            }
        };
        let mut exchange = Exchange {
            waiting: [1, 2].map(waiting).into(),
            holder: Some(1),
            ..Exchange::default()
        };
        exchange.forget(2);
        assert_eq!((exchange.waiting.len(), exchange.holder), (1, Some(1)));
        exchange.forget(1);
        assert_eq!((exchange.waiting.len(), exchange.holder), (0, None));
    }
}
