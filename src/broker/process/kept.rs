// SPDX-License-Identifier: GPL-2.0-or-later

//! Passes an attached process on to the broker that takes the place of this one: its socket and its memory files.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Process;
use crate::broker::kept::{Descriptors, Store};
use crate::device::abi::region;
use crate::engine::memory::{Account, Numbered, Segment, Segments};
use crate::engine::peer::Role;
use crate::shm;
use crate::sys::{Memfd, Memory, SeqSocket};

/// A memory file of a process: its region (0 stands for the rings of a queue), its queue, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(in crate::broker) struct MemoryFile {
    region: u32,
    queue: u32,
    number: u32,
}

impl MemoryFile {
    /// Names a segment of SEND or BULK.
    pub(in crate::broker) const fn segment(region: u32, number: u32) -> Self {
        Self {
            region,
            queue: 0,
            number,
        }
    }

    /// Names a RECEIVE segment of a queue.
    pub(in crate::broker) const fn receive(queue: u32, number: u32) -> Self {
        Self {
            region: region::RECEIVE,
            queue,
            number,
        }
    }

    /// Names the rings of a queue.
    pub(in crate::broker) const fn queue(queue: u32) -> Self {
        Self {
            region: 0,
            queue,
            number: 0,
        }
    }

    /// Returns the name of the descriptor of this file of a process: `m`, the numbers of the process and of the region,
    /// and what distinguishes the files of the region.
    fn name(self, process: u32) -> String {
        let Self {
            region,
            queue,
            number,
        } = self;
        format!("m{process}-{region}-{queue}-{number}")
    }
}

/// The state of an attached process.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::broker) struct KeptProcess {
    role: Role,
    invited: bool,
    /// The limit of its memory, which it was told when it attached.
    limit: u64,
    send: Vec<Option<KeptSegment>>,
    bulk: Vec<Option<KeptSegment>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptSegment {
    length: usize,
    is_reclaimed: bool,
}

impl Process {
    /// Makes the process hold its memory files, if they may have to be passed on.
    pub(in crate::broker) fn with_files(self, holds_files: bool) -> Self {
        Self {
            files: holds_files.then(Mutex::default),
            ..self
        }
    }

    /// Adds a memory file that the process has got.
    pub(in crate::broker) fn add_file(&self, name: MemoryFile, file: &Arc<Memfd>) {
        if let Some(mut files) = self.files() {
            files.insert(name, Arc::clone(file));
        }
    }

    /// Removes a memory file that the process no longer uses.
    pub(in crate::broker) fn remove_file(&self, name: MemoryFile) {
        if let Some(mut files) = self.files() {
            files.remove(&name);
        }
    }

    fn files(&self) -> Option<MutexGuard<'_, BTreeMap<MemoryFile, Arc<Memfd>>>> {
        let files = self.files.as_ref()?;
        // The list is consistent at any moment.
        Some(files.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the names of the descriptors of its memory files.
    pub(in crate::broker) fn names_of_files(&self) -> Vec<String> {
        let files = self.files();
        let files = files.iter().flat_map(|files| files.keys());
        files.map(|name| name.name(self.id)).collect()
    }

    /// Returns how many queues the process has.
    pub(in crate::broker) fn count_queues(&self) -> usize {
        let files = self.files();
        let files = files.iter().flat_map(|files| files.keys());
        files.filter(|name| name.region == 0).count()
    }

    /// Writes down the state of the process, and passes on its memory files.
    ///
    /// # Errors
    ///
    /// The error of the store.
    pub(in crate::broker) fn keep(&self, store: &dyn Store) -> io::Result<KeptProcess> {
        for (name, file) in self.files().iter().flat_map(|files| files.iter()) {
            store.put(&name.name(self.id), file.as_fd())?;
        }
        let Segments { send, bulk } = self.segments();
        let segments = |segments: &Numbered| {
            let keep = |segment: &Arc<Segment>| KeptSegment {
                length: segment.memory.len(),
                is_reclaimed: segment.is_reclaimed(),
            };
            let numbered = segments.iter();
            numbered.map(|segment| segment.as_ref().map(keep)).collect()
        };
        Ok(KeptProcess {
            role: self.role,
            invited: self.invited,
            limit: self.account.limit(),
            send: segments(&send),
            bulk: segments(&bulk),
        })
    }

    /// Makes an attached process again; `total` is the account for the memory of all processes. Returns `None` if its
    /// memory is missing.
    pub(in crate::broker) fn adopt(
        (id, pid): (u32, i32),
        socket: Arc<SeqSocket>,
        kept: &KeptProcess,
        total: &Arc<Account>,
        (descriptors, holds_files): (&mut Descriptors, bool),
    ) -> Option<Self> {
        let (role, invited) = (kept.role, kept.invited);
        let mut process = Self::new((id, pid), (role, invited), socket, kept.limit);
        process = process.with_files(holds_files);
        let mut all = Segments::default();
        for (region, list) in [(region::SEND, &kept.send), (region::BULK, &kept.bulk)] {
            let segments = all.of_mut(region)?;
            for (number, kept) in (0..).zip(list) {
                let Some(kept) = kept else {
                    segments.push(None);
                    continue;
                };
                let name = MemoryFile::segment(region, number);
                let memory = process.adopt_file(name, kept.length, descriptors)?;
                let accounts = [&process.account, total];
                let segment = Segment::adopt(memory, accounts, kept.is_reclaimed);
                segments.push(Some(Arc::new(segment)));
            }
        }
        process.segments = Mutex::new(all);
        // Queues look at the segments when this differs from 0.
        process.changes = AtomicU64::new(1);
        Some(process)
    }

    /// Maps a memory file of the process again, and holds the file if the process does.
    pub(in crate::broker) fn adopt_file(
        &self,
        name: MemoryFile,
        length: usize,
        descriptors: &mut Descriptors,
    ) -> Option<Memory> {
        let file: OwnedFd = descriptors.take(&name.name(self.id))?;
        let file = Memfd::verify(file, length).ok()?;
        let memory = shm::map(&file).ok()?;
        self.add_file(name, &Arc::new(file));
        Some(memory)
    }
}
