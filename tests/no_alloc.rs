// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that the protocol layers allocate nothing once they are constructed.
//!
//! The global allocator of this program counts the requests of each thread. Every test builds what it needs, and then
//! does the work inside [`counted`], which fails on the first allocation, growth or release.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use smbdirect::fabric::iwarp::IwarpError;
use smbdirect::fabric::iwarp::ddp::{Control, Tagged, Untagged};
use smbdirect::fabric::iwarp::handshake::{Agreed, Offer, Request, handle_reply, request};
use smbdirect::fabric::iwarp::mpa::{self, Frame, FrameKind, LegacyReadDepths, ReadDepths};
use smbdirect::fabric::iwarp::qp::{Depths, Done, Qp, Step};
use smbdirect::fabric::iwarp::rdmap::{Opcode, ReadRequest, Terminate};
use smbdirect::fabric::{Access, RegionId, RemoteAddress, Sge, WrId};
use smbdirect::proto::{Config, Endpoint, Received, State};
use smbdirect::units::{Credits, Instant, RemoteToken};
use smbdirect::wire::{
    BufferDescriptorV1, BufferDescriptors, DataTransfer, NegotiateRequest, NegotiateResponse, smb2,
};

struct Counting;

thread_local! {
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending no longer has a counter, and nothing to count.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: all memory comes from the system's allocator. Counting does not touch the memory, and a counter that is
// constant-initialized and has no destructor does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(start, layout, size) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        count();
        // SAFETY: as above.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `work`, and returns the number of its allocator calls on this thread.
fn calls<T>(work: impl FnOnce() -> T) -> (usize, T) {
    let before = CALLS.get();
    let result = work();
    (CALLS.get() - before, result)
}

/// Runs `work`, which must not call the allocator.
fn counted<T>(work: impl FnOnce() -> T) -> T {
    let (calls, result) = calls(work);
    assert_eq!(calls, 0, "the allocator was called");
    result
}

#[test]
fn the_count_sees_every_kind_of_call() {
    assert_eq!(calls(|| drop(std::hint::black_box(Box::new(1)))).0, 2);
    assert_eq!(calls(|| drop(std::hint::black_box(vec![0_u8; 100]))).0, 2);
    let mut grows = Vec::with_capacity(1);
    assert_eq!(calls(|| grows.extend([1_u8, 2, 3, 4, 5, 6, 7, 8, 9])).0, 1);
    assert_eq!(calls(|| std::hint::black_box([0_u8; 100])).0, 0);
}

/// Makes arbitrary bytes: different in each round, the same in each run.
fn noise(round: u64) -> [u8; 600] {
    let mut random = fastrand::Rng::with_seed(round);
    let mut bytes = [0; 600];
    bytes.fill_with(|| random.u8(..));
    bytes
}

#[test]
fn messages_are_read_and_written_without_allocation() {
    let request = NegotiateRequest {
        min_version: 0x0100,
        max_version: 0x0100,
        credits_requested: Credits(255),
        preferred_send_size: 1364,
        max_receive_size: 8192,
        max_fragmented_size: 1 << 20,
    };
    counted(|| {
        assert_eq!(NegotiateRequest::parse(&request.emit()), Ok(request));
        assert!(request.check().is_ok() && request.offers_version());
        let refusal = NegotiateResponse::refusal(0xC000_00BB);
        assert_eq!(NegotiateResponse::parse(&refusal.emit()), Ok(refusal));
        assert_eq!(refusal.check(128).unwrap_err().name(), "status_not_success");
    });
    let mut read = 0;
    for round in 0..2_000 {
        let mut message = noise(round);
        message[2..20].fill(0);
        (message[12], message[17]) = (24, (round % 4) as u8);
        counted(|| {
            let Ok(data) = DataTransfer::parse(&message) else {
                return;
            };
            let (header, length) = data.emit();
            assert_eq!(DataTransfer::parse(&header[..20]).is_ok(), length == 20);
            read += 1;
        });
    }
    assert!(read > 1_000, "{read}");
}

#[test]
fn buffer_descriptors_are_laid_out_without_allocation() {
    let mut list = [0; 64];
    for (n, bytes) in list.chunks_exact_mut(16).enumerate() {
        let (offset, token) = (n as u64 * 0x1_0000, RemoteToken(7));
        bytes.copy_from_slice(
            &BufferDescriptorV1 {
                offset,
                token,
                length: 1000,
            }
            .emit(),
        );
    }
    counted(|| {
        let descriptors = BufferDescriptors::parse(&list).unwrap();
        for length in 1..=4000 {
            let sum: u32 = descriptors
                .pieces(length)
                .unwrap()
                .map(|piece| piece.remote.length)
                .sum();
            assert_eq!(sum, length);
        }
        assert!(descriptors.pieces(4001).is_err() && BufferDescriptors::parse(&list[1..]).is_err());
    });
}

#[test]
fn smb2_requests_are_read_without_allocation() {
    let mut kinds = [0; 4];
    for round in 0..4_000 {
        let mut message = noise(round);
        message[..6].copy_from_slice(b"\xfeSMB\x40\x00");
        let (command, size) = [(0, 36), (1, 25), (8, 49), (9, 49)][round as usize % 4];
        (message[12], message[13], message[64], message[65]) = (command, 0, size, 0);
        message[20..24].fill(0);
        counted(|| {
            for request in smb2::Requests::new(&message).flatten() {
                kinds[0] += usize::from(smb2::NegotiateRequest::parse(request).is_ok());
                kinds[1] += usize::from(smb2::SessionSetupRequest::parse(request).is_ok());
                if let Ok(read) = smb2::ReadRequest::parse(request) {
                    kinds[2] += 1;
                    let _ = (read.transfer(), read.token_to_invalidate());
                }
                if let Ok(write) = smb2::WriteRequest::parse(request) {
                    kinds[3] += 1;
                    let _ = (write.transfer(), write.token_to_invalidate());
                }
            }
        });
    }
    assert!(kinds[2] == 1_000 && kinds[3] == 1_000, "{kinds:?}");
}

#[test]
fn iwarp_headers_are_read_and_written_without_allocation() {
    let mut out = [0; 532];
    for round in 0..2_000 {
        let bytes = noise(round);
        counted(|| {
            let _ = Frame::parse(FrameKind::Request, &bytes).map_err(IwarpError::name);
            let control = Control {
                opcode: Opcode::SendInvalidate,
                last: true,
            };
            assert_eq!(Control::parse(control.emit()), Ok(control));
            let tagged = Tagged::parse(bytes.first_chunk().unwrap());
            assert_eq!(Tagged::parse(&tagged.emit()), tagged);
            let untagged = Untagged::parse(bytes.first_chunk().unwrap());
            assert_eq!(Untagged::parse(&untagged.emit()), untagged);
            let read = ReadRequest::parse(bytes.first_chunk().unwrap());
            assert_eq!(ReadRequest::parse(&read.emit()), read);
            let code = Terminate::parse(&bytes).unwrap();
            let terminate = Terminate::on_segment(code, 600, &bytes);
            assert_eq!(Terminate::parse(terminate.emit()), Ok(terminate.code()));
            let frame = Frame {
                kind: FrameKind::Reply,
                markers: false,
                crc: true,
                reject: false,
                revision: 2,
                enhanced: bytes.first_chunk().map(|depths| ReadDepths::parse(*depths)),
                private_data: &bytes[..round as usize % 500],
            };
            let length = frame.emit(&mut out).unwrap();
            assert_eq!(Frame::parse(FrameKind::Reply, &out[..length]), Ok(frame));
            let _ = LegacyReadDepths::parse(&bytes[..8]);
        });
    }
}

/// Two endpoints, with room for one message between them.
struct Pair {
    ends: [Endpoint; 2],
    message: [u8; 8192],
    now: Instant,
    /// The number of bytes of upper-layer messages that have arrived at each end.
    arrived: [u64; 2],
}

impl Pair {
    fn new(config: Config) -> Self {
        Self {
            ends: [
                Endpoint::initiator(config, Instant::ZERO),
                Endpoint::acceptor(config, Instant::ZERO),
            ],
            message: [0; 8192],
            now: Instant::ZERO,
            arrived: [0; 2],
        }
    }

    /// Serves both ends until neither has anything to send, and returns the number of messages.
    fn settle(&mut self) -> usize {
        for count in 0.. {
            let mut quiet = true;
            for from in [0, 1] {
                for end in &mut self.ends {
                    end.handle_receives_posted(end.receives_wanted());
                }
                quiet &= !self.carry(from);
            }
            if quiet {
                return count;
            }
        }
        unreachable!()
    }

    /// Carries one message from one end to the other, if there is one.
    fn carry(&mut self, from: usize) -> bool {
        let Some(transmit) = self.ends[from].poll_transmit(self.now) else {
            return false;
        };
        let header = transmit.header();
        self.message[..header.len()].copy_from_slice(header);
        let length = header.len() + transmit.payload.len();
        let received = self.ends[1 - from]
            .handle_message(self.now, &self.message[..length])
            .unwrap();
        if let Received::Fragment { payload, .. } = received {
            self.arrived[1 - from] += payload.len() as u64;
        }
        true
    }
}

#[test]
fn a_connection_lives_and_ends_without_allocation() {
    for (credits, size) in [(255, 1364), (2, 128), (1, 8192)] {
        let config = Config {
            receive_credit_max: Credits(credits),
            send_credit_target: Credits(credits),
            max_send_size: size,
            max_receive_size: size,
            ..Config::default()
        };
        counted(|| {
            let mut pair = Pair::new(config);
            pair.settle();
            assert!(
                pair.ends
                    .iter()
                    .all(|end| end.state() == State::Established)
            );
            let mut sent = [0; 2];
            for n in 0..2_000_u32 {
                let length = 1 + n * 7 % 5_000;
                for (from, end) in pair.ends.iter_mut().enumerate() {
                    end.start_message(length, (n % 2 == 0).then_some(RemoteToken(n)))
                        .unwrap();
                    sent[1 - from] += u64::from(length);
                }
                pair.settle();
            }
            assert_eq!(pair.arrived, sent);
            // Both sides are silent for ten minutes, and probe each other now and then.
            for _ in 0..10 {
                pair.now = pair
                    .ends
                    .iter()
                    .filter_map(Endpoint::poll_timeout)
                    .min()
                    .unwrap();
                for end in &mut pair.ends {
                    end.handle_timeout(pair.now).unwrap();
                }
                pair.settle();
            }
            pair.ends[0].start_message(9_000, None).unwrap();
            pair.ends[0].close();
            pair.settle();
            assert_eq!(pair.ends[0].state(), State::Closed);
            pair.ends[1].close();
            assert_eq!(pair.ends[1].state(), State::Closed);
            assert_eq!(pair.arrived[1], sent[1] + 9_000);
        });
    }
}

#[test]
fn a_peer_that_breaks_the_rules_causes_no_allocation() {
    for round in 0..2_000 {
        let bytes = noise(round);
        counted(|| {
            let mut pair = Pair::new(Config::default());
            pair.settle();
            let error = pair.ends[1]
                .handle_message(pair.now, &bytes[..round as usize % 600])
                .unwrap_err();
            assert!(!error.name().is_empty());
            assert_eq!(pair.ends[1].state(), State::Closed);
        });
    }
}

const REGION: u32 = 8192;

/// Two queue pairs, and space for one FPDU on its way from one to the other. Each queue pair has a buffer, which is
/// registered for reads and for writes.
struct QueuePairs {
    ends: [Qp<()>; 2],
    memory: [Vec<u8>; 2],
    fpdu: Vec<u8>,
    completed: [usize; 4],
}

fn sum(crc: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(crc, |sum, byte| {
        sum.wrapping_mul(31).wrapping_add(u32::from(*byte))
    })
}

impl QueuePairs {
    fn new(agreed: [Agreed; 2]) -> Self {
        let depths = Depths {
            sends: 4,
            recvs: 4,
            reads: 4,
            responses: 4,
            regions: 2,
        };
        let access = [Access::RemoteRead, Access::RemoteWrite];
        let end = |agreed| {
            let mut qp = Qp::new(depths, sum);
            for (access, token) in access.into_iter().zip([1, 2]) {
                let remote = RemoteAddress {
                    token: RemoteToken(token),
                    address: 0,
                };
                qp.regions_mut()
                    .register((), REGION, access, remote)
                    .expect("room for two regions");
            }
            qp.establish(agreed, 1460);
            qp
        };
        Self {
            ends: agreed.map(end),
            memory: [0, 1].map(|n| vec![n; REGION as usize]),
            fpdu: vec![0; 2048],
            completed: [0; 4],
        }
    }

    /// Carries FPDUs both ways in pieces of 100 bytes, until there are none.
    fn settle(&mut self) {
        while self.carry(0) | self.carry(1) {}
    }

    fn carry(&mut self, from: usize) -> bool {
        let Some(segment) = self.ends[from].next_segment().unwrap() else {
            return false;
        };
        let (header, payload) = (segment.header(), segment.payload);
        let source = &self.memory[from][payload.offset as usize..][..payload.length as usize];
        let end = header.len() + source.len();
        let pad = mpa::pad(segment.ulpdu_length());
        self.fpdu[..header.len()].copy_from_slice(header);
        self.fpdu[header.len()..end].copy_from_slice(source);
        self.fpdu[end..end + pad].fill(0);
        let crc = sum(0, &self.fpdu[..end + pad]).to_le_bytes();
        self.fpdu[end + pad..end + pad + 4].copy_from_slice(&crc);
        if let Some(completion) = segment.completes {
            self.completed[kind(completion.done)] += 1;
        }
        for mut piece in self.fpdu[..end + pad + 4].chunks(100) {
            while let Some(done) = receive(
                &mut self.ends[1 - from],
                &mut self.memory[1 - from],
                &mut piece,
            ) {
                self.completed[kind(done)] += 1;
            }
        }
        true
    }
}

fn kind(done: Done) -> usize {
    match done {
        Done::Recv { .. } => 0,
        Done::Send => 1,
        Done::Write => 2,
        Done::Read => 3,
    }
}

/// Takes a piece of the stream up to the next completion, if there is one.
fn receive(qp: &mut Qp<()>, memory: &mut [u8], piece: &mut &[u8]) -> Option<Done> {
    loop {
        match qp.receive(piece).expect("a peer that keeps the rules") {
            Step::More => return None,
            Step::Completed(completion) => return Some(completion.done),
            Step::Place(_) if piece.is_empty() => return None,
            Step::Place(place) => {
                let (now, later) = piece.split_at(piece.len().min(place.length as usize));
                memory[place.offset as usize..][..now.len()].copy_from_slice(now);
                *piece = later;
                qp.placed(now.len() as u32, sum(qp.crc().unwrap_or(0), now));
            }
        }
    }
}

/// Does both sides of a handshake, with CRCs.
fn shake_hands() -> [Agreed; 2] {
    let offer = Offer {
        crc: true,
        ird: 4,
        ord: 2,
    };
    let mut out = [0; 32];
    let length = request(offer).emit(&mut out).unwrap();
    let asked = Request::new(&Frame::parse(FrameKind::Request, &out[..length]).unwrap()).unwrap();
    let (reply, responder) = asked.accept(offer);
    let length = reply.emit(&mut out).unwrap();
    let reply = Frame::parse(FrameKind::Reply, &out[..length]).unwrap();
    [handle_reply(&reply, offer).unwrap(), responder]
}

#[test]
fn queue_pairs_move_data_without_allocation() {
    let agreed = counted(shake_hands);
    let mut pairs = QueuePairs::new(agreed);
    counted(|| {
        for round in 0..500 {
            let part = |length| Sge {
                region: RegionId(1),
                offset: round % 7 * 100,
                length,
            };
            let peer = |token| RemoteAddress {
                token: RemoteToken(token),
                address: u64::from(round),
            };
            for n in [0, 1] {
                let end = &mut pairs.ends[n];
                end.post_recv(WrId(1), part(4000)).unwrap();
                end.post_write(WrId(2), part(5000), peer(2)).unwrap();
                end.post_read(WrId(3), part(3000), peer(1)).unwrap();
            }
            for end in &mut pairs.ends {
                end.post_send(WrId(4), b"twenty bytes of head", Some(part(3000)), None)
                    .unwrap();
            }
            pairs.settle();
        }
        assert_eq!(pairs.completed, [1000; 4]);
        for end in &mut pairs.ends {
            end.post_recv(
                WrId(1),
                Sge {
                    region: RegionId(0),
                    offset: 0,
                    length: 1,
                },
            )
            .unwrap();
            let mut bad = &b"\x00\x02\xff\xff"[..];
            assert_eq!(end.receive(&mut bad).unwrap_err().name(), "ddp_version");
            while end.flush().is_some() {}
        }
    });
}
