// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures one case: requests of one kind and size, a fixed number of them at a time, for a given time or number of
//! bytes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use instruments::client::{
    Channel, Connection, Error, FileId, Memory, Read, Registration, Request, Response,
    TransformType, Write,
};
use rustix::time::{ClockId, clock_gettime};
use smbdirect::fabric::Access;

use crate::histogram::Histogram;
use crate::options::{End, Operation};
use crate::pattern::{Mismatch, Pattern};
use crate::timeline::{Series, Timeline};

/// What is measured: an operation, and how its requests are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) operation: Operation,
    pub(crate) channel: Channel,
    /// Bytes per request.
    pub(crate) size: u32,
    /// The number of requests that are outstanding at a time.
    pub(crate) depth: u16,
    pub(crate) end: End,
    pub(crate) verify: bool,
}

/// A file, and the connection to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct File {
    pub(crate) tree: u32,
    pub(crate) id: FileId,
    pub(crate) size: u64,
    pub(crate) pattern: Pattern,
}

/// The result.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) bytes: u64,
    pub(crate) time: Duration,
    /// Processor time that this process used.
    pub(crate) cpu: Duration,
    pub(crate) latencies: Histogram,
    pub(crate) timeline: Series,
}

impl Measured {
    /// Returns the speed in 10^6 bytes per second.
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Why a case was not completed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] Error),
    #[error("the server moved {moved} of {size} bytes at offset {offset} of the file")]
    Short { offset: u64, moved: u32, size: u32 },
    #[error("wrong data: byte {} of the data at offset {offset} of the file{}", .mismatch.at, belongs(.mismatch))]
    Wrong { offset: u64, mismatch: Mismatch },
    #[error("the memory of a request is shorter than the request: this is a bug of the benchmark")]
    Memory,
    #[error(
        "the server did not invalidate the memory of a request with channel 2 ([MS-SMB2] 3.3.4.1)"
    )]
    NotInvalidated,
}

fn belongs(mismatch: &Mismatch) -> String {
    mismatch.belongs_to.map_or_else(String::new, |place| {
        format!(", which belongs at offset {place}")
    })
}

/// One of the requests that are outstanding at the same time.
struct Slot {
    /// Holds the data of this slot if RDMA carries it.
    memory: Option<Registration>,
    /// The data to write, if it goes in messages or is encrypted or signed before it goes by RDMA; or a protected
    /// read's data. Each slot has its own data, as it has its own registered memory, because the processor's caches
    /// matter.
    data: Vec<u8>,
    /// The last READ response, if data goes in messages. Each slot keeps its own for the same reason.
    read: Option<Response>,
    offset: u64,
    sent: Instant,
}

/// Returns the processor time of this process.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Runs a case on one connection, and tells `progress` the bytes moved so far.
pub(crate) fn run(
    connection: &mut Connection,
    file: File,
    case: Case,
    mut progress: impl FnMut(u64, Duration),
) -> Result<Measured, Failure> {
    let mut run = Run::new(connection, file, case)?;
    let (mut latencies, mut timeline) = (Histogram::new(), Timeline::new());
    let (start, cpu_start) = (Instant::now(), cpu());
    let depth = u64::from(case.depth);
    let (mut begun, mut done) = (0, 0);
    let more = |begun: u64| match case.end {
        End::After(time) => start.elapsed() < time,
        End::Bytes(bytes) => begun * u64::from(case.size) < bytes,
    };
    while begun < depth && more(begun) {
        run.begin(begun as usize)?;
        begun += 1;
    }
    while done < begun {
        let (slot, latency) = run.finish()?;
        let now = start.elapsed();
        latencies.record(latency);
        timeline.add(now, case.size.into(), latency);
        done += 1;
        progress(done * u64::from(case.size), now);
        if more(begun) {
            run.begin(slot)?;
            begun += 1;
        }
    }
    let (time, cpu) = (start.elapsed(), cpu().saturating_sub(cpu_start));
    run.end()?;
    Ok(Measured {
        bytes: done * u64::from(case.size),
        time,
        cpu,
        latencies,
        timeline: timeline.finish(time),
    })
}

struct Run<'a> {
    connection: &'a mut Connection,
    file: File,
    case: Case,
    slots: Vec<Slot>,
    under_way: HashMap<u64, usize>,
    next_offset: u64,
    /// How data that goes by RDMA is protected, if it has to be.
    transform: Option<TransformType>,
}

impl<'a> Run<'a> {
    fn new(connection: &'a mut Connection, file: File, case: Case) -> Result<Self, Failure> {
        let mut slots = Vec::with_capacity(case.depth.into());
        let placed = case.channel != Channel::None;
        let transform = placed.then(|| connection.transform(file.tree)).flatten();
        for _ in 0..case.depth {
            let memory = if case.channel == Channel::None {
                None
            } else {
                let memory = Memory::zeroed(case.size as usize);
                file.pattern.fill_memory(&memory, memory.len(), 0);
                Some(connection.register(&memory, access(case.operation))?)
            };
            let mut data = Vec::new();
            let writes_data = memory.is_none() && case.operation == Operation::Write;
            if writes_data || transform.is_some() {
                data.resize(case.size as usize, 0);
                file.pattern.fill(&mut data, 0);
            }
            slots.push(Slot {
                memory,
                data,
                read: None,
                offset: 0,
                sent: Instant::now(),
            });
        }
        Ok(Self {
            connection,
            file,
            case,
            slots,
            under_way: HashMap::new(),
            next_offset: 0,
            transform,
        })
    }

    /// Returns the offset of the next request. The offsets go through the file, and start again at 0 after its end.
    fn advance(&mut self) -> u64 {
        let size = u64::from(self.case.size);
        if self.next_offset + size > self.file.size {
            self.next_offset = 0;
        }
        let offset = self.next_offset;
        self.next_offset += size;
        offset
    }

    fn begin(&mut self, at: usize) -> Result<(), Failure> {
        let offset = self.advance();
        let Case {
            operation,
            channel,
            size,
            verify,
            ..
        } = self.case;
        let Some(slot) = self.slots.get_mut(at) else {
            return Ok(());
        };
        slot.offset = offset;
        if verify && operation == Operation::Write {
            match &slot.memory {
                Some(memory) if self.transform.is_none() => {
                    self.file
                        .pattern
                        .fill_memory(&memory.memory, size as usize, offset);
                }
                _ => self.file.pattern.fill(&mut slot.data, offset),
            }
        }
        let (tree, file) = (self.file.tree, self.file.id);
        let protected = match (self.transform, operation, &slot.memory) {
            (Some(transform), Operation::Write, Some(memory)) => {
                // Copy the data, as a program would, so that its own data stays unchanged.
                let mut data = slot.data.clone();
                let transform = self.connection.protect(transform, &mut data)?;
                memory.memory.write(0, &data).map_err(|_| Failure::Memory)?;
                Some(transform)
            }
            _ => None,
        };
        let request: Request<'_> = match (operation, &slot.memory) {
            (Operation::Read, None) => Read::inline(file, offset, size).request(tree),
            (Operation::Write, None) => Write::inline(file, offset, &slot.data).request(tree),
            (Operation::Read, Some(memory)) => {
                Read::direct(file, offset, size, channel, &[memory.descriptor()]).request(tree)
            }
            (Operation::Write, Some(memory)) => {
                let descriptors = [memory.descriptor()];
                match &protected {
                    Some(transform) => {
                        Write::transformed(file, offset, size, transform, channel, &descriptors)
                    }
                    None => Write::direct(file, offset, size, channel, &descriptors),
                }
                .request(tree)
            }
        };
        slot.sent = Instant::now();
        let id = self.connection.send(&request)?;
        self.under_way.insert(id, at);
        Ok(())
    }

    /// Waits for a response; returns its slot, and how long it took.
    fn finish(&mut self) -> Result<(usize, Duration), Failure> {
        let response = self.connection.next_response()?.ok()?;
        let at = self
            .under_way
            .remove(&response.header.message_id)
            .unwrap_or(0);
        let Some(slot) = self.slots.get_mut(at) else {
            return Ok((at, Duration::ZERO));
        };
        if let (Some(_), Operation::Read, Some(memory)) =
            (self.transform, self.case.operation, &slot.memory)
        {
            let read = memory.memory.read(0, &mut slot.data);
            read.map_err(|_| Failure::Memory)?;
            self.connection
                .unprotect(self.file.tree, &response, &mut slot.data)?;
        }
        let latency = slot.sent.elapsed();
        check(&self.file, &self.case, self.transform, slot, &response)?;
        let done = match (self.case.operation, &slot.memory) {
            (Operation::Read, None) => slot.read.replace(response),
            _ => Some(response),
        };
        if let Some(done) = done {
            self.connection.recycle(done);
        }
        // The client must register memory again after using it with channel 2: that is part of the cost.
        if let Some(used) = slot.memory.take() {
            slot.memory = Some(if self.case.channel == Channel::RdmaV1Invalidate {
                if !self.connection.take_invalidated(used.token()) {
                    return Err(Failure::NotInvalidated);
                }
                self.connection.deregister(&used)?;
                self.connection
                    .register(&used.memory, access(self.case.operation))?
            } else {
                used
            });
        }
        Ok((at, latency))
    }

    fn end(self) -> Result<(), Failure> {
        for memory in self.slots.iter().filter_map(|slot| slot.memory.as_ref()) {
            self.connection.deregister(memory)?;
        }
        Ok(())
    }
}

const fn access(operation: Operation) -> Access {
    match operation {
        Operation::Read => Access::RemoteWrite,
        Operation::Write => Access::RemoteRead,
    }
}

/// Checks that a response is correct.
fn check(
    file: &File,
    case: &Case,
    transform: Option<TransformType>,
    slot: &Slot,
    response: &Response,
) -> Result<(), Failure> {
    let (offset, size) = (slot.offset, case.size);
    let (moved, data) = match case.operation {
        Operation::Write => (response.written()?, &[][..]),
        Operation::Read if slot.memory.is_some() => (response.read()?.direct, &[][..]),
        Operation::Read => {
            let data = response.read()?.data;
            (u32::try_from(data.len()).unwrap_or(u32::MAX), data)
        }
    };
    if moved != size {
        return Err(Failure::Short {
            offset,
            moved,
            size,
        });
    }
    if case.verify && case.operation == Operation::Read {
        let checked = match &slot.memory {
            Some(_) if transform.is_some() => file.pattern.check(&slot.data, offset),
            Some(memory) => file
                .pattern
                .check_memory(&memory.memory, size as usize, offset),
            None => file.pattern.check(data, offset),
        };
        checked.map_err(|mismatch| Failure::Wrong { offset, mismatch })?;
    }
    Ok(())
}
