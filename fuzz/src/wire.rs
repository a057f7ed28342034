// SPDX-License-Identifier: GPL-2.0-or-later

//! The messages of SMB Direct, and the part of SMB2 that the device reads.

use smbdirect::units::Credits;
use smbdirect::wire::{
    BufferDescriptorV1, BufferDescriptors, DataTransfer, NegotiateRequest, NegotiateResponse,
    WireError, smb2,
};

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

/// Returns whether `part` lies in `whole`, as memory.
fn lies_in(part: &[u8], whole: &[u8]) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}

/// Checks both negotiate messages: a parsed message is encoded to the same bytes, except that reserved bytes become
/// zeros. A message passes the check if and only if a second implementation finds it legal.
pub fn wire_negotiate(data: &[u8]) {
    let request = NegotiateRequest::parse(data);
    assert_eq!(request.is_ok(), data.len() >= 20);
    if let Ok(request) = request {
        let mut expected: [u8; 20] = data[..20].try_into().unwrap();
        expected[4..6].fill(0);
        assert_eq!(request.emit(), expected);
        let legal = u16_at(data, 6) > 0 && u32_at(data, 12) >= 128 && u32_at(data, 16) >= 131_072;
        assert_eq!(request.check().is_ok(), legal);
        assert_eq!(
            request.offers_version(),
            (u16_at(data, 0)..=u16_at(data, 2)).contains(&0x0100)
        );
    }
    let response = NegotiateResponse::parse(data);
    assert_eq!(response.is_ok(), data.len() >= 32);
    if let Ok(response) = response {
        let mut expected: [u8; 32] = data[..32].try_into().unwrap();
        expected[6..8].fill(0);
        assert_eq!(response.emit(), expected);
        // The offer of this side follows the message.
        let own_max_receive_size = if data.len() < 36 {
            1364
        } else {
            u32_at(data, 32)
        };
        let legal = u16_at(data, 4) == 0x0100
            && u16_at(data, 8) > 0
            && u16_at(data, 10) > 0
            && u32_at(data, 12) == 0
            && u32_at(data, 20) <= own_max_receive_size
            && u32_at(data, 24) >= 128
            && u32_at(data, 28) >= 131_072;
        assert_eq!(response.check(own_max_receive_size).is_ok(), legal);
    }
}

/// Returns what [MS-SMBD] 3.1.5.8 accepts, implemented a second time and in 64 bits.
fn is_legal_data_transfer(data: &[u8]) -> bool {
    if data.len() < 20 {
        return false;
    }
    let [offset, length] = [12, 16].map(|at| u64::from(u32_at(data, at)));
    let has_place = length == 0 || offset >= 24;
    u16_at(data, 0) > 0 && offset % 8 == 0 && offset + length <= data.len() as u64 && has_place
}

/// Checks the data transfer message: it is legal if and only if the oracle says so, its payload is in bounds, and it is
/// the same when it is written and read again.
pub fn wire_data_transfer(data: &[u8]) {
    let parsed = DataTransfer::parse(data);
    assert_eq!(parsed.is_ok(), is_legal_data_transfer(data), "{parsed:?}");
    let Ok(message) = parsed else { return };
    assert_eq!(message.credits_requested, Credits(u16_at(data, 0)));
    assert_eq!(message.credits_granted, Credits(u16_at(data, 2)));
    assert_eq!(message.flags, u16_at(data, 4));
    assert_eq!(message.response_requested(), data[4] & 1 == 1);
    assert_eq!(message.data_length(), u32_at(data, 16));
    assert_eq!(
        message.total_length(),
        u64::from(u32_at(data, 8)) + u64::from(u32_at(data, 16))
    );
    let payload = &data[message.payload.start as usize..message.payload.end as usize];

    let (header, header_length) = message.emit();
    assert_eq!(header_length, if payload.is_empty() { 20 } else { 24 });
    let again = [&header[..header_length], payload].concat();
    let moved = DataTransfer {
        payload: DataTransfer::payload_of(message.data_length()),
        ..message
    };
    assert_eq!(DataTransfer::parse(&again), Ok(moved));
}

/// Checks a list of buffer descriptors, which follows the length of a transfer in the input: the pieces cover the
/// transfer in order, within the described memory, and nothing else is accepted.
pub fn wire_buffer_descriptor(data: &[u8]) {
    assert_eq!(BufferDescriptorV1::parse(data).is_ok(), data.len() >= 16);
    if let Ok(descriptor) = BufferDescriptorV1::parse(data) {
        assert_eq!(descriptor.emit(), data[..16]);
    }
    let Some((length, list)) = data.split_at_checked(4) else {
        return;
    };
    let length = u32_at(length, 0);
    let described: Vec<BufferDescriptorV1> = list
        .chunks_exact(16)
        .map(|bytes| BufferDescriptorV1::parse(bytes).unwrap())
        .collect();
    let wraps =
        |d: &BufferDescriptorV1| u128::from(d.offset) + u128::from(d.length) > u128::from(u64::MAX);
    let parsed = BufferDescriptors::parse(list);
    let legal = !list.is_empty()
        && list.len() % 16 == 0
        && !described.iter().any(|d| d.length == 0 || wraps(d));
    assert_eq!(parsed.is_ok(), legal, "{parsed:?}");
    if let Ok(descriptors) = parsed {
        assert!(descriptors.iter().eq(described.iter().copied()));
        assert_eq!(
            (descriptors.len(), descriptors.first()),
            (described.len(), described[0])
        );
        check_pieces(&descriptors, length);
    }
}

fn check_pieces(descriptors: &BufferDescriptors<'_>, length: u32) {
    let total: u64 = descriptors.iter().map(|d| u64::from(d.length)).sum();
    assert_eq!(descriptors.total_length(), total);
    let pieces = match descriptors.pieces(length) {
        Ok(pieces) => pieces,
        Err(error) => {
            return assert!(error == WireError::DescriptorsTooSmall && total < u64::from(length));
        }
    };
    assert!(total >= u64::from(length));
    let mut position = 0_u64;
    let mut given = descriptors.iter();
    for piece in pieces {
        let from = given.next().expect("a piece for each descriptor at most");
        assert_eq!(u64::from(piece.position), position);
        assert_eq!(
            (piece.remote.offset, piece.remote.token),
            (from.offset, from.token)
        );
        assert!((1..=from.length).contains(&piece.remote.length));
        position += u64::from(piece.remote.length);
        let is_whole = piece.remote.length == from.length;
        assert!(
            is_whole || position == u64::from(length),
            "a gap before the end"
        );
    }
    assert_eq!(position, u64::from(length));
}

/// Returns where the buffer descriptors lie, if [MS-SMB2] 3.3.5.13 accepts the channel information of a WRITE. This is
/// a second implementation.
fn legal_transform(info: &[u8]) -> Option<std::ops::Range<usize>> {
    let number = |at: usize| {
        info.get(at..at + 2)
            .map(|bytes| usize::from(u16_at(bytes, 0)))
    };
    let channel = u32_at(info.get(4..8)?, 0);
    let (signature, nonce) = (number(18)?, number(20)?);
    info.get(22..24)?;
    let used = 24 + signature + nonce;
    let begin = used.div_ceil(8) * 8;
    let legal = number(8)? == 1
        && (1..=2).contains(&number(16)?)
        && (1..=2).contains(&channel)
        && used <= info.len()
        && number(0)? == begin;
    let end = begin + number(2)?;
    (legal && end <= info.len()).then_some(begin..end)
}

/// Checks an RDMA transform: it is legal if and only if a second implementation says so, its parts are in bounds, and
/// it is the same when it is written and read again.
pub fn wire_rdma_transform(data: &[u8]) {
    let parsed = smb2::RdmaTransform::parse(data);
    let place = legal_transform(data);
    let legal = |place| BufferDescriptors::parse(&data[place]).is_ok();
    assert_eq!(
        parsed.is_ok(),
        place.clone().is_some_and(legal),
        "{parsed:?}"
    );
    let token = smb2::RdmaTransform::token_to_invalidate(data);
    if let Ok(transform) = parsed {
        let (crypto, descriptors) = (transform.crypto(), transform.descriptors());
        assert_eq!(
            Some(descriptors.as_bytes()),
            place.map(|place| &data[place])
        );
        assert!(crypto.signature.is_empty() || lies_in(crypto.signature, data));
        assert!(crypto.nonce.is_empty() || lies_in(crypto.nonce, data));
        let invalidates = transform.channel() == smb2::Channel::RdmaV1Invalidate;
        assert_eq!(token, invalidates.then_some(descriptors.first().token));
        let mut out = vec![0xff; data.len()];
        let length = crypto.emit(transform.channel(), descriptors.as_bytes(), &mut out);
        let length = length.expect("what was read fits where it was read from");
        let again = smb2::RdmaTransform::parse(&out[..length]).unwrap();
        assert_eq!(
            (again.crypto(), again.channel()),
            (crypto, transform.channel())
        );
        assert_eq!(again.descriptors().as_bytes(), descriptors.as_bytes());
    }
    if let Ok(crypto) = smb2::CryptoTransform::parse(data) {
        assert_eq!(u32_at(data, 4), 0, "no channel");
        let mut out = vec![0xff; crypto.length()];
        assert_eq!(
            crypto.emit(smb2::Channel::None, &[], &mut out),
            Some(out.len())
        );
        assert_eq!(smb2::CryptoTransform::parse(&out), Ok(crypto));
    }
}

/// Checks SMB2: the elements of a compound follow each other, and every view lies in its element.
pub fn wire_smb2(data: &[u8]) {
    let kind = smb2::MessageKind::of(data);
    let mut position = 0;
    let mut requests = smb2::Requests::new(data);
    for request in requests.by_ref() {
        let Ok(request) = request else {
            let fits = position == 0 || request.is_err_and(|error| error != WireError::TooShort);
            assert!(fits, "an element that has no room for its header");
            break;
        };
        assert_eq!(kind, Ok(smb2::MessageKind::Plain));
        let bytes = request.bytes();
        assert!(bytes.len() >= smb2::Header::LENGTH);
        assert_eq!(bytes.as_ptr(), data[position..].as_ptr());
        position += bytes.len();
        assert!(position <= data.len());
        let header = request.header();
        assert_eq!(header.tree_id().is_none(), header.async_id().is_some());
        negotiate(request);
        session_setup(request);
        read(request);
        write(request);
    }
    assert!(
        requests.next().is_none(),
        "nothing follows an error or the end"
    );
}

fn negotiate(request: smb2::Request<'_>) {
    let Ok(negotiate) = smb2::NegotiateRequest::parse(request) else {
        return;
    };
    assert_eq!(request.header().command(), smb2::Header::NEGOTIATE);
    let dialects: Vec<u16> = negotiate.dialects().collect();
    assert_eq!(dialects.len(), usize::from(u16_at(request.bytes(), 66)));
    let start = request.bytes().as_ptr() as usize;
    let mut count = 0;
    for context in negotiate.contexts() {
        assert!(lies_in(context.data, request.bytes()));
        assert_eq!(
            (context.data.as_ptr() as usize - start) % 8,
            0,
            "contexts are aligned"
        );
        count += 1;
    }
    let expected = if dialects.contains(&smb2::DIALECT_0311) {
        u16_at(request.bytes(), 96)
    } else {
        0
    };
    assert_eq!(count, expected, "the contexts were checked as a whole");
    assert_eq!(negotiate.client_guid(), request.bytes()[76..92]);
}

fn session_setup(request: smb2::Request<'_>) {
    let Ok(setup) = smb2::SessionSetupRequest::parse(request) else {
        return;
    };
    assert_eq!(setup.is_binding(), setup.flags() & 1 != 0);
    let buffer = setup.security_buffer();
    assert!(buffer.is_empty() || lies_in(buffer, &request.bytes()[88..]));
    assert_eq!(buffer.len(), usize::from(u16_at(request.bytes(), 78)));
}

fn read(request: smb2::Request<'_>) {
    let Ok(read) = smb2::ReadRequest::parse(request) else {
        return;
    };
    let token = read.token_to_invalidate().map(|token| token.0);
    if let Ok(Some(transfer)) = read.transfer() {
        assert_eq!(transfer.length(), read.length());
        check_info(request, 108);
        check_transfer(&transfer, token);
    }
}

fn write(request: smb2::Request<'_>) {
    let Ok(write) = smb2::WriteRequest::parse(request) else {
        return;
    };
    let token = write.token_to_invalidate().map(|token| token.0);
    if let Ok(Some(transfer)) = write.transfer() {
        assert_eq!(
            (transfer.length(), write.length(), write.data_offset()),
            (write.remaining_bytes(), 0, 0)
        );
        check_info(request, 104);
        check_transfer(&transfer, token);
    }
    if let Ok(transfer) = write.transform() {
        assert_eq!(
            (transfer.length(), write.length(), write.data_offset()),
            (write.remaining_bytes(), 0, 0)
        );
        assert_eq!(write.channel(), 3);
        check_info(request, 104);
        assert!(transfer.length() > 0);
        check_pieces(&transfer.descriptors(), transfer.length());
    }
}

/// Checks that the channel information, whose offset is at `at`, lies between the fixed part and the end.
fn check_info(request: smb2::Request<'_>, at: usize) {
    let [offset, length] = [at, at + 2].map(|at| usize::from(u16_at(request.bytes(), at)));
    assert!(offset >= 112 && offset + length <= request.bytes().len());
}

/// Checks that a transfer has at least one byte and no more than its descriptors describe, and that its token is the
/// one that the client has asked to invalidate, if the client has asked for that.
fn check_transfer(transfer: &smb2::ChannelTransfer<'_>, token: Option<u32>) {
    assert!(transfer.length() > 0);
    let first = transfer.descriptors().first().token.0;
    let invalidates = transfer.channel() == smb2::Channel::RdmaV1Invalidate;
    assert_eq!(token, invalidates.then_some(first));
    let sum: u64 = transfer
        .pieces(transfer.length())
        .unwrap()
        .map(|piece| u64::from(piece.remote.length))
        .sum();
    assert_eq!(sum, u64::from(transfer.length()));
    check_pieces(&transfer.descriptors(), transfer.length());
}
