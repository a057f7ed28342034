// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests work whose regions have gone when its turn comes, while other regions have taken their
//! numbers.

use super::*;

/// Deregisters a region, and registers others until one of them has its place.
fn replace(end: &mut End, gone: &Region) -> Vec<Region> {
    end.deregister(gone);
    let mut others = Vec::new();
    while end.qp.regions().has_room() {
        others.push(end.register(gone.bytes().len(), Access::RemoteWrite));
    }
    others
}

fn untouched(regions: &[Region]) {
    for region in regions {
        region.holds(0, &[]);
    }
}

#[test]
fn a_receive_takes_nothing_once_its_region_is_gone() {
    let mut end = End::new(AGREED, 1440);
    let gone = end.register(100, Access::Local);
    end.qp.post_recv(WrId(1), gone.all()).unwrap();
    let others = replace(&mut end, &gone);
    let send = fpdu(&[&untagged([0x41, 0x43], 0, 0, 1, 0), b"message"]);
    let error = Err(IwarpError::LocalRegionGone);
    assert_eq!(end.receive(&send, 100), error);
    untouched(&[others, vec![gone]].concat());
    assert_eq!(end.flush(), [1]);
}

#[test]
fn a_message_stops_when_its_receive_is_deregistered() {
    let mut end = End::new(AGREED, 1440);
    let gone = end.register(100, Access::Local);
    end.qp.post_recv(WrId(1), gone.all()).unwrap();
    let send = fpdu(&[&untagged([0x41, 0x43], 0, 0, 1, 0), b"message"]);
    let (part, rest) = send.split_at(24);
    end.receive(part, 100).unwrap();
    let others = replace(&mut end, &gone);
    let error = Err(IwarpError::LocalRegionGone);
    assert_eq!(end.receive(rest, 100), error);
    gone.holds(0, b"mess");
    untouched(&others);
    assert_eq!(end.flush(), [1]);
}

#[test]
fn a_write_stops_when_its_target_is_deregistered() {
    for cut in [0, 16, 18] {
        let mut end = End::new(AGREED, 1440);
        let gone = end.register(100, Access::RemoteWrite);
        let RemoteAddress { token, address } = gone.remote;
        let write = fpdu(&[&tagged([0xc1, 0x40], token.0, address), b"message"]);
        let (part, rest) = write.split_at(cut);
        end.receive(part, 100).unwrap();
        let others = replace(&mut end, &gone);
        let error = Err(IwarpError::DdpInvalidStag);
        assert_eq!(end.receive(rest, 100), error, "{cut}");
        gone.holds(0, &b"message"[..cut.saturating_sub(16)]);
        untouched(&others);
    }
}

#[test]
fn a_read_places_nothing_once_its_sink_is_gone() {
    for cut in [0, 16, 18] {
        let mut pair = Pair::new(1, false, 1440);
        let source = pair.server.register_bytes(vec![1; 7], Access::RemoteRead);
        let gone = pair.client.register(7, Access::Local);
        let qp = &mut pair.client.qp;
        qp.post_read(WrId(1), gone.all(), source.remote(0)).unwrap();
        let request = pair.client.next_fpdu().unwrap().unwrap();
        pair.server.receive(&request, 100).unwrap();
        let response = pair.server.next_fpdu().unwrap().unwrap();
        let (part, rest) = response.split_at(cut);
        pair.client.receive(part, 100).unwrap();
        let others = replace(&mut pair.client, &gone);
        let error = Err(IwarpError::LocalRegionGone);
        assert_eq!(pair.client.receive(rest, 100), error, "{cut}");
        gone.holds(0, &[1; 7][..cut.saturating_sub(16)]);
        untouched(&others);
        assert_eq!(pair.client.flush(), [1]);
    }
}

#[test]
fn a_read_whose_sink_is_gone_is_not_asked_for() {
    let mut end = End::new(AGREED, 1440);
    let gone = end.register(7, Access::Local);
    end.qp.post_read(WrId(1), gone.all(), gone.remote).unwrap();
    replace(&mut end, &gone);
    assert!(end.qp.has_segment());
    assert_eq!(end.next_fpdu(), Err(IwarpError::LocalRegionGone));
    assert_eq!(end.flush(), [1]);
}

#[test]
fn posted_work_whose_region_is_gone_is_not_sent_and_still_completes() {
    let mut end = End::new(AGREED, 128);
    let gone = end.register(300, Access::Local);
    let qp = &mut end.qp;
    qp.post_write(WrId(1), gone.all(), gone.remote).unwrap();
    qp.post_send(WrId(2), b"", Some(gone.all()), None).unwrap();
    // One FPDU of the RDMA WRITE is under way.
    let segment = end.qp.next_segment().unwrap().unwrap();
    assert!(end.qp.payload(&segment).is_ok());
    replace(&mut end, &gone);
    assert_eq!(
        end.qp.payload(&segment).map(|_| ()),
        Err(IwarpError::LocalRegionGone)
    );
    assert_eq!(end.next_fpdu(), Err(IwarpError::LocalRegionGone));
    assert_eq!(end.next_fpdu(), Err(IwarpError::LocalRegionGone));
    assert_eq!(end.flush(), [1, 2]);
}

/// Makes an end that answers a READ of 300 bytes, of which one FPDU was made.
fn answers() -> (End, Region, Segment) {
    let mut end = End::new(AGREED, 128);
    let source = end.register(300, Access::RemoteRead);
    let RemoteAddress { token, address } = source.remote;
    let request = [
        &[0; 12][..],
        &300_u32.to_be_bytes(),
        &token.0.to_be_bytes(),
        &address.to_be_bytes(),
    ];
    let request = fpdu(&[&untagged([0x41, 0x41], 0, 1, 1, 0), &request.concat()]);
    end.receive(&request, 100).unwrap();
    let segment = end.qp.next_segment().unwrap().unwrap();
    assert!(end.qp.payload(&segment).is_ok());
    (end, source, segment)
}

#[test]
fn a_peer_reads_nothing_of_a_region_that_was_deregistered() {
    let (mut end, source, segment) = answers();
    replace(&mut end, &source);
    let error = Err(IwarpError::RdmapInvalidStag);
    assert_eq!(end.qp.payload(&segment).map(|_| ()), error);
    assert_eq!(end.next_fpdu().map(|_| ()), error);
    assert_eq!(
        end.qp.failed_segment(),
        (0, &[][..]),
        "no segment is at fault"
    );
}

#[test]
fn a_peer_reads_nothing_of_a_region_whose_token_it_revoked() {
    let (mut end, source, segment) = answers();
    let token = source.remote.token.0;
    let buffer = end.register(1, Access::Local);
    end.qp.post_recv(WrId(1), buffer.all()).unwrap();
    let send = fpdu(&[&untagged([0x41, 0x44], token, 0, 1, 0)]);
    end.receive(&send, 100).unwrap();
    let error = Err(IwarpError::RdmapInvalidStag);
    assert_eq!(end.qp.payload(&segment).map(|_| ()), error);
    assert_eq!(end.next_fpdu().map(|_| ()), error);
    // For posted work, the region still exists.
    end.qp
        .post_write(WrId(2), source.all(), source.remote)
        .unwrap();
    let whole = end.qp.regions().look_up(source.all()).unwrap();
    assert!(end.qp.memory(whole).is_ok());
}
