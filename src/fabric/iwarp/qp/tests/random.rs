// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests what holds for any stream, however it is cut.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Both ends' completions of each kind, and the contents of their memories.
type Outcome = ([Vec<(u64, Done)>; 2], [Vec<Vec<u8>>; 2]);

/// Posts the work for which `work` is the seed at both ends, and carries it out while `cuts`, another seed, decides how
/// the streams are cut.
fn outcome(work: u64, cuts: u64) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(work);
    let max_ulpdu = *rng.choice(&[128, 600, 1440, 65_532]).unwrap();
    let crc = rng.bool();
    let mut pair = Pair::new(work, crc, max_ulpdu);
    pair.rng = fastrand::Rng::with_seed(cuts);
    const SIZE: usize = 20_000;
    let mut regions = [true, false].map(|is_client| {
        let (end, _) = pair.ends(is_client);
        let bytes = |n| pattern(work + n, SIZE);
        [
            end.register_bytes(bytes(1), Access::Local),
            end.register_bytes(bytes(2), Access::RemoteWrite),
            end.register_bytes(bytes(3), Access::RemoteRead),
            end.register(16 * 4_000, Access::Local),
            end.register(16 * 4_000, Access::Local),
        ]
    });
    for (client_acts, turn) in [(true, 0), (false, 1)] {
        let (from, to) = pair.ends(client_acts);
        let [own, .., sinks] = &regions[turn];
        let [_, writable, readable, inbox, _] = &regions[1 - turn];
        for n in 0..rng.u64(1..16) {
            let length = rng.usize(0..4_000);
            let at = rng.usize(0..SIZE - 4_000);
            let (source, slot) = (own.sge(at, length), n as usize * 4_000);
            match rng.u8(0..3) {
                0 => {
                    let header = pattern(n, rng.usize(0..=32).min(4_000 - length));
                    to.qp.post_recv(WrId(n), inbox.sge(slot, 4_000)).unwrap();
                    from.qp
                        .post_send(WrId(n), &header, Some(source), None)
                        .unwrap();
                }
                1 => {
                    let target = writable.remote(at);
                    from.qp.post_write(WrId(n), source, target).unwrap();
                }
                _ => {
                    let sink = sinks.sge(slot, length);
                    let source = readable.remote(at);
                    from.qp.post_read(WrId(n), sink, source).unwrap();
                }
            }
        }
    }
    pair.run();
    let kind = |done: &Done| match done {
        Done::Recv { .. } => 0,
        Done::Send | Done::Write => 1,
        Done::Read => 2,
    };
    let done = [&mut pair.client, &mut pair.server].map(|end| {
        let mut done = end.take_done();
        done.sort_by_key(|(_, done)| kind(done));
        assert!(end.flush().is_empty());
        done
    });
    let bytes = regions
        .each_mut()
        .map(|regions| regions.iter().map(Region::bytes).collect());
    (done, bytes)
}

/// Makes an end with something for each kind of FPDU, and its regions: one that must not be touched, one to be written,
/// one to receive into, and one to read into.
fn target(agreed: Agreed) -> (End, [Region; 4]) {
    let mut end = End::new(agreed, 1440);
    let accesses = [
        Access::RemoteRead,
        Access::RemoteWrite,
        Access::Local,
        Access::Local,
    ];
    let regions = accesses.map(|access| end.register(1_000, access));
    for n in 0..8 {
        let inbox = regions[2].sge(100, 500);
        end.qp.post_recv(WrId(n), inbox).unwrap();
        let sink = regions[3].sge(100, 500);
        end.qp.post_read(WrId(n), sink, regions[3].remote).unwrap();
    }
    if end.qp.has_segment() {
        end.send_all();
    }
    (end, regions)
}

/// Makes header fields that are sometimes right.
fn number(right: impl Strategy<Value = u32>) -> impl Strategy<Value = u32> {
    prop_oneof![4 => right, 1 => any::<u32>()]
}

fn some_fpdu() -> impl Strategy<Value = Vec<u8>> {
    let control = prop_oneof![
        9 => prop::sample::select(vec![
            [0xc1, 0x40], [0x81, 0x40], [0x41, 0x41], [0xc1, 0x42], [0x81, 0x42], [0x41, 0x43],
            [0x01, 0x43], [0x41, 0x44], [0x01, 0x44], [0x41, 0x45], [0x41, 0x46], [0x41, 0x47],
        ]),
        1 => any::<[u8; 2]>(),
    ];
    let stag = number(0..0x1006_u32);
    let offset = prop_oneof![
        (0..5_u64, 0..1_100_u64).prop_map(|(n, at)| ((0x1001 + n) << 20) + at),
        0..600_u64,
        any::<u64>()
    ];
    let length = prop_oneof![Just(0), Just(28), Just(500), 0..600_usize];
    (
        control,
        (stag, offset),
        (number(0..3_u32), number(1..9_u32), number(0..2_u32)),
        length,
    )
        .prop_map(|(control, (stag, offset), (queue, msn, mo), length)| {
            let read = [
                &[0; 12][..],
                &100_u32.to_be_bytes(),
                &stag.to_be_bytes(),
                &offset.to_be_bytes(),
            ]
            .concat();
            let payload = match (control[1] & 0x0f, length) {
                (1, 28) => read,
                _ => vec![0x55; length],
            };
            let header = match control[0] & 0x80 {
                0 => untagged(control, stag, queue, msn, mo),
                _ => tagged(control, stag, offset),
            };
            fpdu(&[&header, &payload])
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_cutting_of_the_stream_gives_the_same_outcome(work in any::<u64>(), cuts in any::<u64>()) {
        let work = work >> 1;
        let (done, bytes) = outcome(work, 0);
        let (other_done, other_bytes) = outcome(work, cuts);
        prop_assert_eq!(done, other_done);
        prop_assert!(bytes == other_bytes);
    }

    #[test]
    fn no_stream_of_fpdus_reaches_memory_that_it_may_not_reach(
        fpdus in vec(prop_oneof![8 => some_fpdu(), 1 => vec(any::<u8>(), 0..100)], 0..12),
        (ready, silent) in any::<(bool, bool)>(),
        piece in 1..700_usize,
    ) {
        let agreed = Agreed { ready_to_receive_send: ready, peer_speaks_first: silent, ..AGREED };
        let (mut end, regions) = target(agreed);
        let bytes = fpdus.concat();
        let failed = bytes.chunks(piece).find_map(|piece| end.receive(piece, 64).err());
        while let Ok(Some(fpdu)) = end.next_fpdu() {
            // Only data that the peer may read is sent.
            if fpdu[3] & 0x0f == 2 {
                let payload = usize::from(u16::from_be_bytes([fpdu[0], fpdu[1]])) - 14;
                prop_assert!(fpdu[16..16 + payload].iter().all(|byte| *byte == UNTOUCHED));
            }
        }
        let [kept, _, inbox, sink] = regions.each_ref().map(Region::bytes);
        prop_assert!(kept.iter().all(|byte| *byte == UNTOUCHED));
        for around in [inbox, sink] {
            prop_assert!(around[..100].iter().chain(&around[600..]).all(|byte| *byte == UNTOUCHED));
        }
        // Each request ends once.
        let done = end.take_done();
        let (mut ended, flushed) = ([[0; 8]; 2], core::iter::from_fn(|| end.qp.flush()));
        let flushed: Vec<_> = flushed.map(|c| (c.wr_id.0, c.done)).collect();
        for (id, done) in done.into_iter().chain(flushed) {
            ended[usize::from(done == Done::Read)][id as usize] += 1;
        }
        prop_assert_eq!(ended, [[1; 8]; 2], "{:?}", failed);
    }

    #[test]
    fn garbage_never_panics(
        bytes in vec(any::<u8>(), 0..300),
        (crc, ready, piece) in (any::<bool>(), any::<bool>(), 1..100_usize),
    ) {
        let agreed = Agreed { crc, ready_to_receive_send: ready, ..AGREED };
        let (mut end, regions) = target(agreed);
        for piece in bytes.chunks(piece) {
            let _ = end.receive(piece, 10);
        }
        let _ = end.qp.failed_segment();
        regions[0].holds(0, &[]);
    }
}
