// SPDX-License-Identifier: GPL-2.0-or-later

use super::*;
use crate::fabric::iwarp::Depths;
use crate::fabric::{Access, RegionId, RemoteAddress, Sge, WrId};
use crate::units::RemoteToken;

const DEPTHS: Depths = Depths {
    sends: 4,
    recvs: 4,
    reads: 4,
    responses: 4,
    regions: 4,
};

/// Makes an established connection and the peer's socket.
fn pair(crc: bool, max_ulpdu: u16) -> (Conn, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, address) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(stream);
    let mut conn = Conn::new(stream, address, Stage::AwaitsRequest, Some(max_ulpdu));
    conn.qp = Some(Box::new(Qp::new(DEPTHS, crc32c)));
    conn.establish(Agreed {
        crc,
        ird: 4,
        ord: 4,
        ..Agreed::default()
    });
    conn.writable = true;
    (conn, peer)
}

/// Posts an RDMA WRITE of 100 bytes, which is one FPDU of 120.
fn post_write(conn: &mut Conn) -> RegionId {
    let memory = Memory::zeroed(100);
    memory.write(0, &[7; 100]).unwrap();
    let target = RemoteAddress {
        token: RemoteToken(1),
        address: 2,
    };
    let qp = conn.qp.as_mut().unwrap();
    let region = qp
        .regions_mut()
        .register(memory, 100, Access::Local, target)
        .unwrap();
    let all = Sge {
        region,
        offset: 0,
        length: 100,
    };
    qp.post_write(WrId(1), all, target).unwrap();
    region
}

fn rest_of(mut peer: std::net::TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    peer.read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn fpdus_fit_into_one_tcp_segment() {
    for mss in 200..9216 {
        let ulpdu = usize::from(ulpdu_for_mss(mss));
        for shorter in 0..4 {
            assert!(mpa::fpdu_length(ulpdu - shorter) <= mss as usize, "{mss}");
        }
        assert!(mpa::fpdu_length(ulpdu + 4) > mss as usize, "{mss}");
    }
    assert_eq!(ulpdu_for_mss(1448), 1440);
    assert_eq!(ulpdu_for_mss(65_483), MAX_ULPDU);
    assert_eq!(ulpdu_for_mss(0), 0);
}

#[test]
fn sending_goes_on_wherever_the_socket_was_full() {
    for crc in [false, true] {
        let whole = {
            let (mut conn, peer) = pair(crc, 128);
            post_write(&mut conn);
            conn.transfer(Instant::ZERO, &mut Scratch::new(), &mut Vec::new())
                .unwrap();
            drop(conn);
            rest_of(peer)
        };
        assert_eq!(whole.len(), 120);
        let crc_is = if crc { crc32c(0, &whole[..116]) } else { 0 };
        assert_eq!(whole[116..], crc_is.to_le_bytes());
        for sent in 0..whole.len() {
            let (mut conn, peer) = pair(crc, 128);
            post_write(&mut conn);
            conn.fill_batch().unwrap();
            conn.out_sent = sent;
            let mut completions = Vec::new();
            conn.transfer(Instant::ZERO, &mut Scratch::new(), &mut completions)
                .unwrap();
            assert_eq!((conn.out_sent, completions.len()), (0, 1));
            drop(conn);
            assert_eq!(rest_of(peer), whole[sent..], "{sent}");
        }
    }
}

#[test]
fn a_terminate_follows_the_rest_of_a_begun_fpdu() {
    let terminate = |error: IwarpError| {
        let terminate = Terminate::new(error.terminate_code().unwrap());
        fpdu::terminate_fpdu(&terminate, false)
    };
    for sent in 0..120 {
        let (mut conn, peer) = pair(false, 128);
        post_write(&mut conn);
        conn.fill_batch().unwrap();
        conn.out_sent = sent;
        conn.send_terminate(IwarpError::DdpNoBuffer, &mut Scratch::new());
        drop(conn);
        let bytes = rest_of(peer);
        let missing = if sent == 0 { 0 } else { 120 - sent };
        assert_eq!(bytes.len(), missing + 28);
        assert_eq!(bytes[missing..], terminate(IwarpError::DdpNoBuffer));
    }
}

#[test]
fn a_stream_that_cannot_be_completed_carries_no_terminate() {
    let (mut conn, peer) = pair(false, 128);
    let region = post_write(&mut conn);
    conn.fill_batch().unwrap();
    conn.out_sent = 1;
    conn.qp.as_mut().unwrap().regions_mut().deregister(region);
    let error = CloseReason::from(IwarpError::LocalRegionGone);
    let result = conn.transfer(Instant::ZERO, &mut Scratch::new(), &mut Vec::new());
    assert_eq!(result, Err(error));
    conn.send_terminate(IwarpError::LocalRegionGone, &mut Scratch::new());
    let flushed = conn.flush_output();
    assert_eq!(flushed.map(|completion| completion.wr_id), Some(WrId(1)));
    drop(conn);
    assert_eq!(rest_of(peer), b"");
}

/// Registers `length` bytes with a connection.
fn register(conn: &mut Conn, length: u32, access: Access, remote: RemoteAddress) -> Sge {
    let regions = conn.qp.as_mut().unwrap().regions_mut();
    let memory = Memory::zeroed(length as usize);
    let region = regions.register(memory, length, access, remote).unwrap();
    Sge {
        region,
        offset: 0,
        length,
    }
}

#[test]
fn knows_when_bytes_moved_last_in_either_direction() {
    const LENGTH: u32 = 64 << 20;
    let remote = RemoteAddress {
        token: RemoteToken(5),
        address: 4096,
    };
    let at = |seconds| Instant::ZERO + std::time::Duration::from_secs(seconds);
    let (mut conn, peer) = pair(false, MAX_ULPDU);
    peer.set_nonblocking(true).unwrap();
    let address = peer.peer_addr().unwrap();
    let stream = TcpStream::from_std(peer);
    let mut other = Conn::new(stream, address, Stage::AwaitsRequest, Some(MAX_ULPDU));
    other.qp = Some(Box::new(Qp::new(DEPTHS, crc32c)));
    other.establish(*conn.qp.as_ref().unwrap().agreed());
    other.writable = true;
    register(&mut other, LENGTH, Access::RemoteRead, remote);
    let sink = register(&mut conn, LENGTH, Access::Local, remote);
    let step = |conn: &mut Conn, now: Instant| {
        (conn.readable, conn.writable) = (true, true);
        conn.transfer(now, &mut Scratch::new(), &mut Vec::new())
            .unwrap();
        conn.moved
    };
    let qp = conn.qp.as_mut().unwrap();
    qp.post_read(WrId(1), sink, remote).unwrap();
    // The request is sent, and is taken at once.
    let moved = step(&mut conn, at(1));
    assert_eq!((moved.sends, moved.reads), (at(0), at(0)));
    // A part of the answer is sent; the rest does not fit into the sockets.
    step(&mut other, at(2));
    assert_eq!(step(&mut conn, at(3)).reads, at(3));
    for _ in 0..8 {
        step(&mut other, at(4));
        step(&mut other, at(4));
    }
    // The socket is full.
    let before = step(&mut other, at(5)).sends;
    assert!(before < at(5));
    assert_eq!(step(&mut conn, at(6)).reads, at(6));
    assert_eq!(step(&mut other, at(7)).sends, at(7));
}

#[test]
fn a_send_ends_when_the_peer_has_acknowledged_it_not_when_the_socket_has_taken_it() {
    const LENGTH: u32 = 64 * 1024;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener)
        .set_recv_buffer_size(4096)
        .unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    socket2::SockRef::from(&stream)
        .set_send_buffer_size(1 << 20)
        .unwrap();
    let (mut peer, address) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let stream = TcpStream::from_std(stream);
    let mut conn = Conn::new(stream, address, Stage::AwaitsRequest, Some(MAX_ULPDU));
    conn.qp = Some(Box::new(Qp::new(DEPTHS, crc32c)));
    conn.establish(Agreed::default());
    conn.unacknowledged = Some(Unacknowledged::default());
    conn.writable = true;
    let remote = RemoteAddress {
        token: RemoteToken(5),
        address: 4096,
    };
    let payload = register(&mut conn, LENGTH, Access::Local, remote);
    let qp = conn.qp.as_mut().unwrap();
    for number in 0..4 {
        let posted = qp.post_send(WrId(number), &[1; 24], Some(payload), None);
        posted.unwrap();
    }
    let (mut scratch, mut ended) = (Scratch::new(), Vec::new());
    conn.readable = false;
    conn.transfer(Instant::ZERO, &mut scratch, &mut ended)
        .unwrap();
    assert!(conn.out.is_empty(), "the socket has taken everything");
    assert_eq!(ended, []);
    conn.ask_acknowledged(Instant::ZERO, &mut ended);
    assert!(ended.len() < 4, "the peer's buffer does not hold all bytes");
    assert!(conn.awaits_acknowledgement());
    let mut rest = conn.position as usize;
    let mut bytes = vec![0; 64 * 1024];
    while rest > 0 {
        rest -= peer.read(&mut bytes).unwrap();
    }
    // The peer may acknowledge the last bytes late.
    while conn.awaits_acknowledgement() {
        std::thread::sleep(std::time::Duration::from_millis(1));
        conn.ask_acknowledged(Instant::ZERO, &mut ended);
    }
    let numbers: Vec<_> = ended.iter().map(|done| (done.wr_id.0, done.done)).collect();
    assert_eq!(numbers, [0, 1, 2, 3].map(|number| (number, Done::Send)));
}
