// SPDX-License-Identifier: GPL-2.0-or-later

//! Segments of workers' memory: sealed memory files.

use std::sync::Arc;

use crate::device::Status;
use crate::engine::memory::{Account, Segment};
use crate::shm;
use crate::sys::{Memfd, Memory};

/// Makes a segment of `length` bytes ([`Segment::create`]), and the file that its worker gets.
pub(super) fn create_segment(
    name: &str,
    length: usize,
    worker: &Arc<Account>,
    total: (&Arc<Account>, u64),
) -> Result<(Segment, Memfd), Status> {
    Segment::create(length, worker, total, |length| pages(name, length))
}

/// Makes a memory file and maps it.
pub(super) fn pages(name: &str, length: usize) -> Result<(Memory, Memfd), Status> {
    let file = Memfd::create(name, length).map_err(|_| Status::System)?;
    let memory = shm::map(&file).map_err(|_| Status::System)?;
    Ok((memory, file))
}
