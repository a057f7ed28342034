// SPDX-License-Identifier: GPL-2.0-or-later

//! The cases of Microsoft's MS-SMBD suite for SMB2 over SMB Direct, under the suite's names. `ms_transform.rs` has the
//! cases about RDMA transforms.
#![allow(non_snake_case)] // The suite chose the names.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use instruments::client::{
    Channel, Config, Connection, Create, Dialect, Disposition, FileId, NtStatus, Read,
    Registration, Write,
};
use smbdirect::units::RemoteToken;
use smbdirect::wire::BufferDescriptorV1;

use crate::channel::{Client, bind, contents, device, disk, pattern, place, refusal, sink, source};
use crate::sessions::{GUID, credentials, log_in};
use instruments::samba::{Server, Setup};

/// The largest length that one operation of the suite moves.
const MIB: u32 = 1 << 20;

fn start() -> Server {
    device(Setup::default())
}

fn with_dialect(server: &Server, dialect: Dialect) -> Client {
    let config = Config {
        dialects: vec![dialect],
        ..Config::new(GUID)
    };
    Client::connect_with(server, config)
}

// Smb2MultiChannelOverRdma

#[test]
fn BVT_Smb2MultipleChannel_2Channels_DiffNicTypeDiffTransport() {
    let server = start();
    let mut tcp = log_in(&server, Config::new(GUID));
    let tree = tcp.tree_connect(&server.share_path()).expect("a tree");
    let interfaces = tcp.network_interfaces(tree).expect("interfaces");
    let rdma = interfaces.iter().find(|interface| interface.rdma);
    // The interface is in the first answer, even if smbd is not attached to its device yet.
    let address = rdma.expect("an RDMA interface").address;
    let how = Create::file(Disposition::Create);
    let file = tcp.create(tree, "two", &how).expect("a file").file;
    let data = pattern(100_000, 1);
    tcp.write(tree, file, 0, &data).expect("a write");

    // The interface names no port; clients know the port.
    let address = SocketAddr::new(address, server.smb_direct.port());
    let mut direct = Connection::smb_direct(address, Config::new(GUID)).expect("SMB Direct");
    direct.bind(&tcp, &credentials(&server)).expect("a binding");
    let inline = direct.read(tree, file, 0, 100_000).expect("a read");
    assert!(inline == data);
    let into = sink(&mut direct, 100_000);
    let read = Read::direct(file, 0, 100_000, Channel::RdmaV1, &[into.descriptor()]);
    direct.call(&read.request(tree)).expect("a READ by RDMA");
    assert!(contents(&into) == data);
}

#[test]
fn Smb2Multichannel_2Channels_DiffTransport() {
    let server = start();
    // Both channels use the same address, with SMB Direct first.
    let mut direct =
        Connection::smb_direct(server.smb_direct, Config::new(GUID)).expect("SMB Direct");
    direct.log_in(&credentials(&server)).expect("a session");
    let tree = direct.tree_connect(&server.share_path()).expect("a tree");
    let mut tcp = Connection::tcp(server.tcp, Config::new(GUID)).expect("TCP");
    tcp.bind(&direct, &credentials(&server)).expect("a binding");
    let how = Create::file(Disposition::Create);
    let file = direct.create(tree, "two", &how).expect("a file").file;
    let data = pattern(100_000, 2);
    let from = source(&mut direct, &data);
    let write = Write::direct(file, 0, 100_000, Channel::RdmaV1, &from.pieces(2));
    direct.call(&write.request(tree)).expect("a WRITE by RDMA");
    assert!(tcp.read(tree, file, 0, 100_000).expect("a read") == data);
    // The session outlives the channel on which it was made.
    drop(direct);
    assert!(tcp.read(tree, file, 0, 100_000).expect("a read") == data);
}

// Smb2OverRdmaChannel

#[test]
fn BVT_Smb2OverRdmaChannel_ReadLargeFile() {
    let server = start();
    let mut client = Client::connect(&server);
    let largest = client.direct.max_direct().expect("SMB Direct");
    assert!(largest >= MIB, "{largest}");
    let data = pattern(largest as usize, 3);
    place(&server, "large", &data);
    let file = client.open("large");
    let into = sink(&mut client.direct, largest as usize);
    let read = client.get(file, 0, largest, Channel::RdmaV1, &[into.descriptor()]);
    assert_eq!(read.expect("a READ"), largest);
    assert!(contents(&into) == data);
}

#[test]
fn BVT_Smb2OverRdmaChannel_WriteLargeFile() {
    let server = start();
    let mut client = Client::connect(&server);
    let largest = client.direct.max_direct().expect("SMB Direct");
    let data = pattern(largest as usize, 4);
    let file = client.open("large");
    let from = source(&mut client.direct, &data);
    let written = client.put(file, 0, largest, Channel::RdmaV1, &[from.descriptor()]);
    assert_eq!(written.expect("a WRITE"), largest);
    assert!(disk(&server, "large") == data);
}

/// The number of parts of a file that are moved at the same time.
const OPERATIONS: u32 = 10;

#[test]
fn Smb2OverRdmaChannel_ReadMultipleOperation() {
    let server = start();
    let mut client = Client::connect(&server);
    let data = pattern((OPERATIONS * MIB) as usize, 5);
    place(&server, "parts", &data);
    let file = client.open("parts");
    let into = sink(&mut client.direct, data.len());
    let ids: Vec<u64> = (0..OPERATIONS)
        .map(|n| {
            let piece = [into.piece(n * MIB, MIB)];
            let read = Read::direct(file, (n * MIB).into(), MIB, Channel::RdmaV1, &piece);
            client
                .direct
                .send(&read.request(client.tree))
                .expect("sent")
        })
        .collect();
    for id in ids {
        let response = client.direct.wait(id).expect("an answer").ok();
        let response = response.expect("a READ");
        assert_eq!(response.read().expect("a READ").direct, MIB);
    }
    assert!(contents(&into) == data);
}

#[test]
fn Smb2OverRdmaChannel_WriteMultipleOperation() {
    let server = start();
    let mut client = Client::connect(&server);
    let data = pattern((OPERATIONS * MIB) as usize, 6);
    let file = client.open("parts");
    let from = source(&mut client.direct, &data);
    let ids: Vec<u64> = (0..OPERATIONS)
        .map(|n| {
            let piece = [from.piece(n * MIB, MIB)];
            let write = Write::direct(file, (n * MIB).into(), MIB, Channel::RdmaV1, &piece);
            let request = write.request(client.tree);
            client.direct.send(&request).expect("sent")
        })
        .collect();
    for id in ids {
        let response = client.direct.wait(id).expect("an answer").ok();
        assert_eq!(
            response.and_then(|response| response.written()).ok(),
            Some(MIB)
        );
    }
    assert!(disk(&server, "parts") == data);
}

#[test]
fn Smb2OverRdmaChannel_ReadWriteMultipleBufferDescriptorList() {
    let server = start();
    let mut client = Client::connect(&server);
    // The length field has 16 bits, so this is the largest number of descriptors.
    let count = u32::from(u16::MAX) / 16;
    assert_eq!(count, 4095);
    let data = pattern(MIB as usize + 1, 7);
    let file = client.open("pieces");
    let from = source(&mut client.direct, &data);
    let written = client.put(file, 0, MIB + 1, Channel::RdmaV1, &from.pieces(count));
    assert_eq!(written.expect("a WRITE"), MIB + 1);
    assert!(disk(&server, "pieces") == data);
    let into = sink(&mut client.direct, data.len());
    let read = client.get(file, 0, MIB + 1, Channel::RdmaV1, &into.pieces(count));
    assert_eq!(read.expect("a READ"), MIB + 1);
    assert!(contents(&into) == data);
}

/// The length of the memory that a wrong descriptor names, in bytes.
const LENGTH: u32 = 8192;

/// Sends a READ and a WRITE with a descriptor of memory that the server may not access. Each is refused or ends the
/// connection. The server continues to serve others, even the same session.
fn a_wrong_descriptor_harms_no_other_client(
    spoil: impl Fn(&mut Connection, &Registration) -> BufferDescriptorV1,
) {
    let server = start();
    let mut client = Client::connect(&server);
    let before = pattern(LENGTH as usize * 4, 8);
    place(&server, "victim", &before);
    let file = client.open("victim");
    for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
        let into = sink(&mut client.direct, LENGTH as usize);
        let wrong = spoil(&mut client.direct, &into);
        let read = client.get(file, 0, LENGTH, channel, &[wrong]);
        // The server may respond to a READ before it learns of the failure; then the connection ends afterwards.
        if read.is_ok() {
            let end = client.direct.echo();
            assert!(end.is_err(), "a READ was served: {wrong:?}");
        }
        serves(&server, &mut client, file);

        let from = source(&mut client.direct, &pattern(LENGTH as usize, 9));
        let wrong = spoil(&mut client.direct, &from);
        let written = client.put(file, 0, LENGTH, channel, &[wrong]);
        written.expect_err("there is nothing that could be written");
        assert!(disk(&server, "victim") == before, "it was written");
        serves(&server, &mut client, file);
    }
}

/// Returns the GUID of a new client.
fn another_client() -> [u8; 16] {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    let mut guid = *b"another client..";
    guid[8..].copy_from_slice(&COUNT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    guid
}

/// Checks that a new channel of the session works, and also a session of another client.
fn serves(server: &Server, client: &mut Client, file: FileId) {
    client.tcp.echo().expect("the other channel lives");
    client.direct = bind(server, &client.tcp);
    let into = sink(&mut client.direct, LENGTH as usize);
    let read = client.get(file, 0, LENGTH, Channel::RdmaV1, &[into.descriptor()]);
    assert_eq!(read.expect("a READ"), LENGTH);
    assert!(contents(&into) == disk(server, "victim")[..LENGTH as usize]);

    let other = Config::new(another_client());
    let mut other = Connection::smb_direct(server.smb_direct, other).expect("SMB Direct");
    other.log_in(&credentials(server)).expect("a session");
}

#[test]
fn Smb2OverRdmaChannel_InvalidBufferDescriptor_Offset() {
    a_wrong_descriptor_harms_no_other_client(|_, memory| BufferDescriptorV1 {
        offset: memory.descriptor().offset + u64::from(LENGTH) + 1,
        ..memory.descriptor()
    });
}

#[test]
fn Smb2OverRdmaChannel_InvalidBufferDescriptor_Length() {
    // The client has registered only half of the memory that the descriptor names.
    a_wrong_descriptor_harms_no_other_client(|_, memory| memory.piece(LENGTH / 2, LENGTH));
}

#[test]
fn Smb2OverRdmaChannel_InvalidBufferDescriptor_Token() {
    a_wrong_descriptor_harms_no_other_client(|_, memory| BufferDescriptorV1 {
        token: RemoteToken(memory.token().0 ^ 1),
        ..memory.descriptor()
    });
}

#[test]
fn Smb2OverRdmaChannel_InvalidBufferDescriptor_DeregisteredBuffer() {
    a_wrong_descriptor_harms_no_other_client(|connection, memory| {
        connection.deregister(memory).expect("it is registered");
        memory.descriptor()
    });
}

// Smb2OverRdmaChannelRemoteInvalidation

#[test]
fn BVT_Smb2OverRdma_Smb302_Write_SMB2_CHANNEL_RDMA_V1_INVALIDATE() {
    let server = start();
    let mut client = with_dialect(&server, Dialect::Smb302);
    let file = client.open("invalidated");
    let from = source(&mut client.direct, &pattern(LENGTH as usize, 10));
    let piece = [from.descriptor()];
    let written = client.put(file, 0, LENGTH, Channel::RdmaV1Invalidate, &piece);
    assert_eq!(written.expect("a WRITE"), LENGTH);
    assert!(client.direct.take_invalidated(from.token()));
    let again = client.put(file, 0, LENGTH, Channel::RdmaV1Invalidate, &piece);
    again.expect_err("the token is dead");
    client.direct.echo().expect_err("so is the connection");
    client.tcp.echo().expect("the other channel lives");
}

#[test]
fn BVT_Smb2OverRdma_Smb302_Read_SMB2_CHANNEL_RDMA_V1_INVALIDATE() {
    let server = start();
    let mut client = with_dialect(&server, Dialect::Smb302);
    let data = pattern(LENGTH as usize, 11);
    place(&server, "invalidated", &data);
    let file = client.open("invalidated");
    let into = sink(&mut client.direct, LENGTH as usize);
    let piece = [into.descriptor()];
    let read = client.get(file, 0, LENGTH, Channel::RdmaV1Invalidate, &piece);
    assert_eq!(read.expect("a READ"), LENGTH);
    assert!(contents(&into) == data);
    assert!(client.direct.take_invalidated(into.token()));
    // The server may respond before it learns of the failure; then the connection ends afterwards.
    let _ = client.get(file, 0, LENGTH, Channel::RdmaV1Invalidate, &piece);
    client.direct.echo().expect_err("the connection ended");
    client.tcp.echo().expect("the other channel lives");
}

#[test]
fn Smb2OverRdma_Write_SMB2_CHANNEL_RDMA_V1() {
    let server = start();
    for dialect in [Dialect::Smb300, Dialect::Smb302, Dialect::Smb311] {
        let mut client = with_dialect(&server, dialect);
        let file = client.open("reused");
        let from = source(&mut client.direct, &pattern(LENGTH as usize, 12));
        for round in 0..4 {
            let data = pattern(LENGTH as usize, 100 + round);
            from.memory.write(0, &data).expect("in range");
            let piece = [from.descriptor()];
            let written = client.put(file, 0, LENGTH, Channel::RdmaV1, &piece);
            assert_eq!(written.expect("a WRITE"), LENGTH);
            assert!(!client.direct.take_invalidated(from.token()));
            assert!(disk(&server, "reused") == data, "round {round}");
        }
    }
}

#[test]
fn Smb2OverRdma_Read_SMB2_CHANNEL_RDMA_V1() {
    let server = start();
    for dialect in [Dialect::Smb300, Dialect::Smb302, Dialect::Smb311] {
        let mut client = with_dialect(&server, dialect);
        let into = sink(&mut client.direct, LENGTH as usize);
        for round in 0..4 {
            let data = pattern(LENGTH as usize, 200 + round);
            place(&server, "reused", &data);
            let file = client.open("reused");
            let piece = [into.descriptor()];
            let read = client.get(file, 0, LENGTH, Channel::RdmaV1, &piece);
            assert_eq!(read.expect("a READ"), LENGTH);
            assert!(!client.direct.take_invalidated(into.token()));
            assert!(contents(&into) == data, "round {round}");
        }
    }
}

#[test]
fn Smb2OverRdma_Smb300_Write_SMB2_CHANNEL_RDMA_V1_INVALIDATE() {
    let server = start();
    let mut client = with_dialect(&server, Dialect::Smb300);
    let file = client.open("too-old");
    let data = pattern(LENGTH as usize, 13);
    let from = source(&mut client.direct, &data);
    let piece = [from.descriptor()];
    let written = client.put(file, 0, LENGTH, Channel::RdmaV1Invalidate, &piece);
    assert_eq!(refusal(written), NtStatus::INVALID_PARAMETER);
    assert!(!client.direct.take_invalidated(from.token()));
    assert_eq!(disk(&server, "too-old"), b"");
    let written = client.put(file, 0, LENGTH, Channel::RdmaV1, &piece);
    assert_eq!(written.expect("the token is good"), LENGTH);
    assert!(disk(&server, "too-old") == data);
}

#[test]
fn Smb2OverRdma_Smb300_Read_SMB2_CHANNEL_RDMA_V1_INVALIDATE() {
    let server = start();
    let mut client = with_dialect(&server, Dialect::Smb300);
    let data = pattern(LENGTH as usize, 14);
    place(&server, "too-old", &data);
    let file = client.open("too-old");
    let into = sink(&mut client.direct, LENGTH as usize);
    let before = contents(&into);
    let piece = [into.descriptor()];
    let read = client.get(file, 0, LENGTH, Channel::RdmaV1Invalidate, &piece);
    assert_eq!(refusal(read), NtStatus::INVALID_PARAMETER);
    assert!(!client.direct.take_invalidated(into.token()));
    assert!(contents(&into) == before, "it was written all the same");
    let read = client.get(file, 0, LENGTH, Channel::RdmaV1, &piece);
    assert_eq!(read.expect("the token is good"), LENGTH);
    assert!(contents(&into) == data);
}
