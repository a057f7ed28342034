// SPDX-License-Identifier: GPL-2.0-or-later

//! Two queue pairs, joined in memory by a stream that is cut at random.

mod errors;
mod order;
mod pair;
mod random;
mod regions;
mod vectors;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::{Completion, Depths, Done, Qp, Segment, Step};
use crate::fabric::iwarp::IwarpError;
use crate::fabric::iwarp::handshake::Agreed;
use crate::fabric::iwarp::mpa;
use crate::fabric::regions::{AccessFault, Piece};
use crate::fabric::{Access, RegionId, RemoteAddress, Sge, WrId};
use crate::units::RemoteToken;

const DEPTHS: Depths = Depths {
    sends: 16,
    recvs: 16,
    reads: 16,
    responses: 8,
    regions: 16,
};

const AGREED: Agreed = Agreed {
    crc: false,
    ird: 8,
    ord: 8,
    peer_speaks_first: false,
    ready_to_receive_send: false,
};

/// The contents of memory before anything is written.
const UNTOUCHED: u8 = 0xaa;

/// Computes CRC32C, byte by byte.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = (value >> 1) ^ if value & 1 == 1 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!crc, |crc, byte| {
        (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)]
    })
}

/// Returns random bytes, which are the same for the same seed.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

#[derive(Clone, Debug)]
struct Mem(Rc<RefCell<Vec<u8>>>);

/// Registered memory.
#[derive(Clone, Debug)]
struct Region {
    memory: Mem,
    id: RegionId,
    remote: RemoteAddress,
}

impl Region {
    fn sge(&self, offset: usize, length: usize) -> Sge {
        Sge {
            region: self.id,
            offset: offset as u32,
            length: length as u32,
        }
    }

    fn all(&self) -> Sge {
        self.sge(0, self.memory.0.borrow().len())
    }

    fn remote(&self, offset: usize) -> RemoteAddress {
        RemoteAddress {
            address: self.remote.address + offset as u64,
            ..self.remote
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.memory.0.borrow().clone()
    }

    /// Asserts that the region holds `bytes` at `offset`, and that nothing was written around them.
    fn holds(&self, offset: usize, bytes: &[u8]) {
        let all = self.bytes();
        let (before, rest) = all.split_at(offset);
        let (inside, behind) = rest.split_at(bytes.len());
        assert!(inside == bytes, "wrong bytes at {offset}");
        assert!(before.iter().chain(behind).all(|byte| *byte == UNTOUCHED));
    }
}

/// A queue pair and its owner's state.
struct End {
    qp: Qp<Mem>,
    done: Vec<Completion>,
    /// Bytes that were sent and have not arrived at the other end.
    sent: Vec<u8>,
    next_token: u32,
}

impl End {
    fn new(agreed: Agreed, max_ulpdu: u16) -> Self {
        let mut qp = Qp::new(DEPTHS, crc32c);
        qp.establish(agreed, max_ulpdu);
        Self {
            qp,
            done: Vec::new(),
            sent: Vec::new(),
            next_token: 0x1000,
        }
    }

    fn register_bytes(&mut self, bytes: Vec<u8>, access: Access) -> Region {
        self.next_token += 1;
        let remote = RemoteAddress {
            token: RemoteToken(self.next_token),
            address: u64::from(self.next_token) << 20,
        };
        let length = bytes.len() as u32;
        let memory = Mem(Rc::new(RefCell::new(bytes)));
        let id = self
            .qp
            .regions_mut()
            .register(memory.clone(), length, access, remote)
            .unwrap();
        Region { memory, id, remote }
    }

    fn register(&mut self, length: usize, access: Access) -> Region {
        self.register_bytes(vec![UNTOUCHED; length], access)
    }

    fn deregister(&mut self, region: &Region) {
        assert!(self.qp.regions_mut().deregister(region.id).is_some());
    }

    /// Returns the bytes of the next FPDU.
    fn next_fpdu(&mut self) -> Result<Option<Vec<u8>>, IwarpError> {
        let Some(segment) = self.qp.next_segment()? else {
            return Ok(None);
        };
        let bytes = self.fpdu(&segment);
        self.done.extend(segment.completes);
        Ok(Some(bytes))
    }

    fn fpdu(&self, segment: &Segment) -> Vec<u8> {
        let mut bytes = segment.header().to_vec();
        let memory = self.qp.payload(segment).unwrap();
        assert_eq!(memory.is_some(), segment.payload.length > 0);
        if let Some(memory) = memory {
            let Piece { offset, length, .. } = segment.payload;
            bytes.extend(&memory.0.borrow()[offset as usize..][..length as usize]);
        }
        assert_eq!(bytes.len() - 2, segment.ulpdu_length());
        seal(bytes, self.qp.agreed().crc)
    }

    /// Receives all of `input`, in pieces of at most `piece` bytes.
    fn receive(&mut self, mut input: &[u8], piece: usize) -> Result<(), IwarpError> {
        loop {
            match self.qp.receive(&mut input)? {
                Step::More => {
                    assert!(input.is_empty());
                    return Ok(());
                }
                Step::Completed(completion) => self.done.push(completion),
                Step::Place(_) if input.is_empty() => return Ok(()),
                Step::Place(target) => {
                    assert_eq!(self.qp.target(), Ok(Some(target)));
                    let length = piece.min(input.len()).min(target.length as usize);
                    let (payload, rest) = input.split_at(length);
                    let memory = self.qp.memory(target).unwrap();
                    memory.0.borrow_mut()[target.offset as usize..][..length]
                        .copy_from_slice(payload);
                    let crc = self.qp.crc().map_or(0, |crc| crc32c(crc, payload));
                    self.qp.placed(length as u32, crc);
                    input = rest;
                }
            }
        }
    }

    /// Sends all that it can; returns the opcodes of the FPDUs.
    fn send_all(&mut self) -> Vec<u8> {
        let mut opcodes = Vec::new();
        while let Some(fpdu) = self.next_fpdu().unwrap() {
            opcodes.push(fpdu[3] & 0x0f);
            self.sent.extend(fpdu);
        }
        opcodes
    }

    fn take_done(&mut self) -> Vec<(u64, Done)> {
        let done = core::mem::take(&mut self.done);
        done.into_iter().map(|c| (c.wr_id.0, c.done)).collect()
    }

    fn flush(&mut self) -> Vec<u64> {
        core::iter::from_fn(|| self.qp.flush())
            .map(|completion| completion.wr_id.0)
            .collect()
    }
}

/// Completes an FPDU that lacks its padding and CRC.
fn seal(mut bytes: Vec<u8>, crc: bool) -> Vec<u8> {
    bytes.resize(bytes.len() + mpa::pad(bytes.len() - 2), 0);
    let sum = if crc { crc32c(0, &bytes) } else { 0 };
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// Makes an FPDU without a CRC, around a ULPDU.
fn fpdu(ulpdu: &[&[u8]]) -> Vec<u8> {
    let ulpdu = ulpdu.concat();
    let mut bytes = (ulpdu.len() as u16).to_be_bytes().to_vec();
    bytes.extend(ulpdu);
    seal(bytes, false)
}

/// Makes the headers of an untagged segment.
fn untagged(control: [u8; 2], token: u32, queue: u32, msn: u32, mo: u32) -> Vec<u8> {
    let numbers = [token, queue, msn, mo].map(u32::to_be_bytes);
    [&control[..], numbers.as_flattened()].concat()
}

/// Makes the headers of a tagged segment.
fn tagged(control: [u8; 2], stag: u32, offset: u64) -> Vec<u8> {
    [&control[..], &stag.to_be_bytes(), &offset.to_be_bytes()].concat()
}

/// Two ends, and how the streams between them are cut.
struct Pair {
    client: End,
    server: End,
    rng: fastrand::Rng,
}

impl Pair {
    fn new(seed: u64, crc: bool, max_ulpdu: u16) -> Self {
        let agreed = Agreed { crc, ..AGREED };
        let responder = Agreed {
            peer_speaks_first: true,
            ..agreed
        };
        let mut pair = Self {
            client: End::new(agreed, max_ulpdu),
            server: End::new(responder, max_ulpdu),
            rng: fastrand::Rng::with_seed(seed),
        };
        let buffer = pair.server.register(1, Access::Local);
        pair.server.qp.post_recv(WrId(0), buffer.all()).unwrap();
        pair.client.qp.post_send(WrId(0), b"!", None, None).unwrap();
        pair.run();
        assert_eq!(pair.client.take_done(), [(0, Done::Send)]);
        let length = 1;
        let invalidated = None;
        let recv = Done::Recv {
            length,
            invalidated,
        };
        assert_eq!(pair.server.take_done(), [(0, recv)]);
        pair.server.deregister(&buffer);
        pair
    }

    /// Returns the end that acts, and the other end.
    fn ends(&mut self, client_acts: bool) -> (&mut End, &mut End) {
        match client_acts {
            true => (&mut self.client, &mut self.server),
            false => (&mut self.server, &mut self.client),
        }
    }

    /// Continues until nothing moves.
    fn run(&mut self) {
        self.try_run().unwrap();
    }

    fn try_run(&mut self) -> Result<(), IwarpError> {
        let mut rng = self.rng.clone();
        // This is more than enough for what the tests send; a livelock would need more.
        for _ in 0..1_000_000 {
            let client_acts = rng.bool();
            let (from, to) = self.ends(client_acts);
            if from.sent.is_empty() || rng.bool() {
                for _ in 0..rng.usize(1..4) {
                    let fpdu = from.next_fpdu()?;
                    from.sent.extend(fpdu.unwrap_or_default());
                }
            }
            let most = *rng.choice(&[1, 3, 20, 2_000, 100_000]).unwrap();
            let length = rng.usize(0..=most).min(from.sent.len());
            let rest = from.sent.split_off(length);
            let bytes = core::mem::replace(&mut from.sent, rest);
            to.receive(&bytes, rng.usize(1..5_000))?;
            let quiet = |end: &End| end.sent.is_empty() && !end.qp.has_segment();
            if quiet(&self.client) && quiet(&self.server) {
                self.rng = rng;
                return Ok(());
            }
        }
        panic!("the two ends never came to rest");
    }
}
