// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures the cost of single steps: codecs, CRC, and one message through an endpoint.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use smbdirect::fabric::iwarp::ddp::{Control, Tagged};
use smbdirect::fabric::iwarp::rdmap::Opcode;
use smbdirect::proto::{Config, Endpoint, Received};
use smbdirect::units::{Credits, Instant, RemoteToken};
use smbdirect::wire::{BufferDescriptorV1, BufferDescriptors, DataTransfer};

fn main() {
    divan::main();
}

#[divan::bench]
fn data_transfer_parse(bencher: Bencher<'_, '_>) {
    let header = DataTransfer {
        credits_requested: Credits(255),
        credits_granted: Credits(1),
        flags: 0,
        remaining_data_length: 0,
        payload: DataTransfer::payload_of(100),
    };
    let mut message = [0; 124];
    message[..24].copy_from_slice(&header.emit().0);
    bencher.bench_local(|| DataTransfer::parse(black_box(&message)));
}

#[divan::bench]
fn descriptors_check_two(bencher: Bencher<'_, '_>) {
    let bytes: Vec<u8> = [(0x1000, 0xf_ffc0), (0x20_0000, 0x40)]
        .into_iter()
        .flat_map(|(offset, length)| {
            BufferDescriptorV1 {
                offset,
                token: RemoteToken(7),
                length,
            }
            .emit()
        })
        .collect();
    bencher.bench_local(|| {
        let list = BufferDescriptors::parse(black_box(&bytes)).ok()?;
        list.pieces(1 << 20).ok().map(Iterator::count)
    });
}

#[divan::bench]
fn ddp_header_parse(bencher: Bencher<'_, '_>) {
    let control = Control {
        opcode: Opcode::Write,
        last: true,
    }
    .emit();
    let tagged = Tagged {
        stag: 7,
        offset: 1 << 40,
    }
    .emit();
    bencher.bench_local(|| {
        (
            Control::parse(black_box(control)),
            Tagged::parse(black_box(&tagged)),
        )
    });
}

#[divan::bench(args = [64, 1364, 65_536])]
fn crc32c(bencher: Bencher<'_, '_>, length: usize) {
    let bytes = vec![7; length];
    bencher
        .counter(BytesCount::new(length))
        .bench_local(|| crc32c::crc32c(black_box(&bytes)));
}

/// Makes two endpoints that have negotiated.
fn endpoints() -> [Endpoint; 2] {
    let now = Instant::ZERO;
    let mut ends = [
        Endpoint::initiator(Config::initiator_default(), now),
        Endpoint::acceptor(Config::default(), now),
    ];
    for _ in 0..4 {
        for from in [0, 1] {
            carry(&mut ends, from);
        }
    }
    ends
}

/// Carries everything that one end has to send, and returns the number of messages.
fn carry(ends: &mut [Endpoint; 2], from: usize) -> usize {
    for end in ends.iter_mut() {
        let wanted = end.receives_wanted();
        end.handle_receives_posted(wanted);
    }
    let mut messages = 0;
    while let Some(transmit) = ends[from].poll_transmit(Instant::ZERO) {
        let mut message = [0; 124];
        let header = transmit.header();
        message[..header.len()].copy_from_slice(header);
        let length = header.len() + transmit.payload.len();
        match ends[1 - from].handle_message(Instant::ZERO, &message[..length]) {
            Ok(Received::Fragment { .. }) => messages += 1,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
    messages
}

#[divan::bench]
fn endpoint_one_message_of_100_bytes(bencher: Bencher<'_, '_>) {
    let mut ends = endpoints();
    bencher.bench_local(|| {
        if let Err(error) = ends[0].start_message(100, None) {
            panic!("{error}");
        }
        assert_eq!(carry(&mut ends, 0), 1);
        carry(&mut ends, 1);
    });
}
