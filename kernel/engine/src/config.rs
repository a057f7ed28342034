// SPDX-License-Identifier: GPL-2.0-or-later

//! What the device allows: the module's parameters, and the numbers that are always the same.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::time::Duration;

use smbdirect::device::abi::{MemParams, RegionShape};
use smbdirect::engine::admission::{Limit, Limits};
use smbdirect::engine::memory::{Account, Reserve};
use smbdirect::engine::shard::Rules;
use smbdirect::fabric::ReadLimits;
use smbdirect::proto;
use smbdirect::transport;
use smbdirect::units::Credits;

use crate::ffi::{self, parameter};

/// Number of entries of a ring.
pub(crate) const QUEUE_DEPTH: u32 = 256;
/// Maximum number of credits of a client that has not logged in.
const RECEIVES_OF_STRANGERS: Credits = Credits(8);

/// What the device allows.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) acceptor: proto::Config,
    pub(crate) limits: Limits,
    pub(crate) max_workers: usize,
    pub(crate) memory: MemParams,
    /// Maximum memory of all workers together, in bytes.
    pub(crate) total: u64,
}

impl Config {
    /// Makes what the module's parameters say.
    pub(crate) fn new() -> Self {
        let number = |number| usize::try_from(ffi::module_parameter(number)).unwrap_or(usize::MAX);
        let messages = RegionShape {
            unit_length: 8 << 10,
            units_per_segment: 2048,
            longest_run: 1152,
            max_segments: 10,
        };
        Self {
            // Clients that do not use RDMA for data put as much into a message as RDMA would carry: 8 MiB and a header.
            acceptor: proto::Config {
                max_fragmented_size: 9 << 20,
                ..proto::Config::default()
            },
            limits: Limits {
                max_connections: number(parameter::MAX_CONNECTIONS),
                max_unauthenticated: number(parameter::MAX_UNAUTHENTICATED),
                max_undispatched: number(parameter::MAX_UNDISPATCHED),
                gateways: Vec::new(),
            },
            max_workers: number(parameter::MAX_WORKERS),
            memory: MemParams {
                send: messages,
                bulk: RegionShape {
                    unit_length: 64 << 10,
                    units_per_segment: 1024,
                    longest_run: 128,
                    max_segments: 16,
                },
                receive: messages,
                limit: ffi::module_parameter(parameter::WORKER_MEMORY),
                reserved: 0,
            },
            total: ffi::module_parameter(parameter::MEMORY),
        }
    }

    /// Computes the part of all memory that is set aside so that no worker waits for ever.
    pub(crate) fn reserve(&self) -> Reserve {
        let longest =
            |shape: &RegionShape| u64::from(shape.unit_length) * u64::from(shape.longest_run);
        Reserve {
            worker: longest(&self.memory.send) + longest(&self.memory.bulk),
            received: longest(&self.memory.receive),
        }
    }

    pub(crate) fn rules(&self, memory: &Arc<Account>) -> Rules {
        let send = &self.memory.send;
        Rules {
            first_request_timeout: Duration::from_secs(5),
            login_timeout: Duration::from_secs(45),
            claim_timeout: Duration::from_secs(10),
            memory_idle_timeout: Duration::from_secs(5),
            queue_depth: QUEUE_DEPTH,
            longest_send: send.unit_length.saturating_mul(send.longest_run),
            memory: Arc::clone(memory),
        }
    }

    pub(crate) fn transport(&self) -> transport::Config {
        transport::Config {
            acceptor: self.acceptor,
            first_receive_credit_max: RECEIVES_OF_STRANGERS,
            initiator: proto::Config::initiator_default(),
            limits: ReadLimits::default(),
            max_unnegotiated: 1024,
            max_unnegotiated_per_source: 256,
            max_connections: self.limits.max_connections.saturating_add(1024),
            send_queue: QUEUE_DEPTH as usize,
            progress_timeout: Duration::from_secs(60),
        }
    }
}

/// Returns the module parameter that sets a limit.
pub(crate) const fn parameter_of(limit: Limit) -> &'static str {
    match limit {
        Limit::Connections | Limit::ConnectionsOfSource => "max_connections",
        Limit::Unauthenticated | Limit::UnauthenticatedOfSource => "max_unauthenticated",
    }
}
