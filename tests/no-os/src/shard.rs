// SPDX-License-Identifier: GPL-2.0-or-later

//! Links a shard whose workers do nothing. All of it is linked; a kernel supplies real processes.

use alloc::sync::Arc;
use alloc::vec;
use core::net::SocketAddr;
use core::ops::DerefMut;
use core::ptr::NonNull;
use core::time::Duration;

use smbdirect::device::Status;
use smbdirect::device::abi::{self, Token};
use smbdirect::engine::admission::Limits;
use smbdirect::engine::memory::{Account, Segments};
use smbdirect::engine::peer::{Peer, Role, Untold, Worker};
use smbdirect::engine::pool::Pool;
use smbdirect::engine::registry::Registry;
use smbdirect::engine::shard::{Claim, Host, Notice, Rules, Scope, Shard};
use smbdirect::fabric::{ConnId, LocalAddresses};
use smbdirect::proto;
use smbdirect::sys::Memory;
use smbdirect::transport::{Config, Transport};
use smbdirect::units::Instant;
use zerocopy::{Immutable, IntoBytes};

use crate::engine::{NoBell, Nowhere};

#[derive(Clone)]
struct Nobody(Arc<Account>);

impl Peer for Nobody {
    fn id(&self) -> u32 {
        1
    }

    fn role(&self) -> Role {
        Role::Worker
    }

    fn invited(&self) -> bool {
        false
    }

    fn tell<T: IntoBytes + Immutable>(&self, _: u32, _: u64, body: &T) -> Result<(), Untold> {
        match body.as_bytes() {
            [] => Err(Untold::Gone),
            _ => Ok(()),
        }
    }
}

impl Worker for Nobody {
    type Pages = ();
    type NewQueue = ();
    type Bell = ();
    type Doorbell = NoBell;

    fn account(&self) -> &Arc<Account> {
        &self.0
    }

    fn make_pages(&self, length: usize) -> Result<(Memory, ()), Status> {
        Ok((Memory::zeroed(length), ()))
    }

    fn hand_over(&self, _: &abi::Segment, (): &()) -> Result<(), Untold> {
        Ok(())
    }

    fn make_queue(&self, length: usize) -> Result<(Memory, ()), Status> {
        self.make_pages(length)
    }

    fn hand_over_queue(&self, _: &abi::Queue, (): ()) -> Result<(), Untold> {
        Ok(())
    }

    fn doorbell(&self) -> NoBell {
        NoBell
    }

    fn segments(&self) -> Segments {
        Segments::default()
    }

    fn changes(&self) -> u64 {
        0
    }
}

/// A kernel has a lock in place of this.
struct Office(NonNull<Registry<Nobody>>);

impl Host for Office {
    type Worker = Nobody;

    fn registry(&self) -> impl DerefMut<Target = Registry<Nobody>> {
        // SAFETY: the registry outlives the shard, and only one thread uses it.
        unsafe { &mut *self.0.as_ptr() }
    }

    fn token(&self) -> Option<Token> {
        Some(Token::default())
    }
}

/// Takes a connection out, puts it in again as that of a worker, and then as one without an owner.
fn pass_on(shard: &mut Shard<Nowhere, Office>, conn: ConnId) -> usize {
    let Some(moving) = shard.take(conn) else {
        return 0;
    };
    let Err(mut moving) = shard.put(moving) else {
        return 1;
    };
    moving.refuse(Status::Detached);
    let answer = shard.put_unowned(moving);
    let worker = answer.as_ref().map_or(2, |answer| answer.worker() as usize);
    answer
        .into_iter()
        .for_each(|answer| shard.transferred(answer));
    shard.leave_totals();
    worker ^ usize::from(shard.is_empty())
}

pub(crate) fn shard(bytes: &[u8], now: Instant) -> usize {
    let total = Account::new(1 << 30);
    let rules = Rules {
        first_request_timeout: Duration::from_secs(1),
        login_timeout: Duration::from_secs(1),
        claim_timeout: Duration::from_secs(1),
        memory_idle_timeout: Duration::from_secs(1),
        queue_depth: 64,
        longest_send: 1 << 20,
        memory: Arc::clone(&total),
    };
    let shape = abi::RegionShape {
        unit_length: 4096,
        units_per_segment: 64,
        longest_run: 64,
        max_segments: 4,
    };
    let config = Config::new(proto::Config::default(), proto::Config::default());
    let pool = Pool::new(shape, Arc::clone(&total), 0);
    let transport = Transport::new(Nowhere::default(), pool, config);
    let mut registry = Registry::new(Limits::default());
    let office = Office(NonNull::from(&mut registry));
    let shard = Shard::new((0, "nowhere"), (office, rules), (transport, vec![]));
    let mut shard = shard.with_scope(match bytes.len() {
        0 => Scope::All,
        1 => Scope::Unowned,
        _ => Scope::Worker,
    });
    let (conn, worker) = (ConnId::default(), Nobody(total));
    shard.set_now(now);
    shard.claim(
        conn,
        Claim {
            worker,
            cookie: None,
        },
    );
    shard.route(conn);
    shard.decline(conn);
    shard.released(1);
    shard.unmapped(1, bytes.len() as u32);
    shard.reclaim();
    shard.set_acceptor(proto::Config::default());
    shard.admit_at(&Arc::new(LocalAddresses::All));
    shard.end_gone(|address: SocketAddr| address.port() == 1);
    let busy = shard.step().is_ok_and(|busy| busy);
    let mut sum = usize::from(busy ^ shard.is_due() ^ shard.has_submissions());
    while let Some(notice) = shard.next_notice() {
        sum ^= match notice {
            Notice::QueueMade(queue) => shard.rung(queue) as usize,
            Notice::End(place, limit) => {
                shard.end_stranger(place.conn, limit);
                1
            }
            Notice::Fault { status, .. } => status.errno() as usize,
            Notice::Leaving(conn) => pass_on(&mut shard, conn),
            _ => 2,
        };
    }
    let report = shard.report();
    shard.gone(1);
    shard.stop(now);
    let asleep = shard.announce_sleep();
    let next = shard.next_deadline();
    sum ^ report.queues.len()
        ^ usize::from(asleep ^ next.is_some() ^ shard.has_stopped())
        ^ usize::from(shard.fabric_mut().is_idle())
}
