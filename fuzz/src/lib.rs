// SPDX-License-Identifier: GPL-2.0-or-later

//! Properties that must hold for any bytes, with one function for each fuzz target.
//!
//! A body panics if a property is broken: a parsed message can be encoded to the same bytes, the parts of a view lie
//! within the bytes, an endpoint keeps its credits right. Nothing here needs the fuzzer, so `tests/protocol/corpus.rs`
//! runs the same bodies on the checked-in corpus.

mod device;
mod endpoint;
mod input;
mod iwarp;
mod owner;
mod pair;
mod rules;
mod side;
mod stream;
mod wire;

pub use device::device_message;
pub use endpoint::endpoint;
pub use iwarp::{ddp_rdmap, mpa};
pub use owner::iwarp_owner;
pub use pair::endpoint_pair;
pub use stream::iwarp_stream;
pub use wire::{
    wire_buffer_descriptor, wire_data_transfer, wire_negotiate, wire_rdma_transform, wire_smb2,
};

/// A fuzz target.
pub struct Target {
    /// Its name, which is also the name of its corpus.
    pub name: &'static str,
    /// Its body.
    pub run: fn(&[u8]),
}

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// Every target.
pub const TARGETS: &[Target] = &[
    target("ddp_rdmap", ddp_rdmap),
    target("device_message", device_message),
    target("endpoint", endpoint),
    target("endpoint_pair", endpoint_pair),
    target("iwarp_owner", iwarp_owner),
    target("iwarp_stream", iwarp_stream),
    target("mpa", mpa),
    target("wire_buffer_descriptor", wire_buffer_descriptor),
    target("wire_data_transfer", wire_data_transfer),
    target("wire_negotiate", wire_negotiate),
    target("wire_rdma_transform", wire_rdma_transform),
    target("wire_smb2", wire_smb2),
];
