// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests the SMB client with the test's own server: direct placement, credits, and what servers may and may not do.
//! `instruments/tests/samba` tests it with a real smbd.

pub(crate) mod server;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use instruments::client::{
    Channel, Command, Config, Connection, Credentials, Dialect, Error, FileId, NtStatus, Read,
    Request, Write,
};
use smbdirect::fabric::Access;
use smbdirect::sys::Memory;

use server::{FILE, Manners, Server};

const ID: FileId = FileId(FILE);

/// Logs in, and connects to a tree.
fn connect(server: &Server) -> (Connection, u32) {
    let mut connection =
        Connection::smb_direct(server.address, Config::new([1; 16])).expect("SMB Direct");
    assert_eq!(connection.negotiated().dialect, Dialect::Smb302);
    let credentials = Credentials {
        user: "anybody".to_owned(),
        password: "anything".to_owned(),
        domain: String::new(),
    };
    connection.log_in(&credentials).expect("a session");
    let tree = connection.tree_connect(r"\\server\share").expect("a tree");
    (connection, tree)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n % 249) as u8).collect()
}

#[test]
fn data_is_placed_by_rdma_in_both_directions_and_by_any_number_of_descriptors() {
    let server = Server::start(Manners::default());
    let (mut client, tree) = connect(&server);
    let data = pattern(300_000);
    for (round, pieces) in [1, 2, 7, 100].into_iter().enumerate() {
        let offset = 1000 * round as u64;
        let source = Memory::zeroed(300_000);
        source.write(0, &data).expect("in range");
        let source = client
            .register(&source, Access::RemoteRead)
            .expect("memory");
        let write = Write::direct(ID, offset, 300_000, Channel::RdmaV1, &source.pieces(pieces));
        let written = client
            .call(&write.request(tree))
            .expect("a WRITE")
            .written();
        assert_eq!(written.expect("a count"), 300_000);
        let file = server.file.lock().expect("the file").clone();
        assert!(file[offset as usize..] == data, "{pieces} pieces");

        let sink = client
            .register(&Memory::zeroed(300_000), Access::RemoteWrite)
            .expect("memory");
        let read = Read::direct(ID, offset, 300_000, Channel::RdmaV1, &sink.pieces(pieces));
        let response = client.call(&read.request(tree)).expect("a READ");
        let done = response.read().expect("a READ");
        assert_eq!((done.direct, done.data), (300_000, &[][..]));
        assert!(
            sink.memory.to_vec(0, 300_000).expect("in range") == data,
            "{pieces} pieces"
        );
        assert!(
            !client.take_invalidated(sink.token()),
            "channel 1 invalidates nothing"
        );
        client.deregister(&source).expect("registered");
        client.deregister(&sink).expect("registered");
    }
}

#[test]
fn channel_2_invalidates_the_first_token_with_every_final_response() {
    let server = Server::start(Manners {
        pending: true,
        ..Manners::default()
    });
    let (mut client, tree) = connect(&server);
    let source = client
        .register(&Memory::zeroed(5000), Access::RemoteRead)
        .expect("memory");
    let second = client
        .register(&Memory::zeroed(5000), Access::RemoteRead)
        .expect("memory");
    let list = [source.piece(0, 2000), second.piece(0, 3000)];
    let write = Write::direct(ID, 0, 5000, Channel::RdmaV1Invalidate, &list);
    client.call(&write.request(tree)).expect("a WRITE");
    assert!(client.take_invalidated(source.token()));
    assert!(!client.take_invalidated(source.token()), "reported once");
    assert!(!client.take_invalidated(second.token()), "only the first");

    let sink = client
        .register(&Memory::zeroed(5000), Access::RemoteWrite)
        .expect("memory");
    let read = Read::direct(
        ID,
        9000,
        5000,
        Channel::RdmaV1Invalidate,
        &[sink.descriptor()],
    );
    let error = client
        .call(&read.request(tree))
        .expect_err("behind the end");
    assert_eq!(error.status(), Some(NtStatus::END_OF_FILE));
    assert!(client.take_invalidated(sink.token()), "also with an error");
    // Invalidated memory can be registered again.
    client.deregister(&sink).expect("registered");
    let sink = client
        .register(&sink.memory, Access::RemoteWrite)
        .expect("memory");
    let read = Read::direct(ID, 0, 5000, Channel::RdmaV1Invalidate, &[sink.descriptor()]);
    let response = client.call(&read.request(tree)).expect("a READ");
    assert_eq!(response.read().expect("a READ").direct, 5000);
}

#[test]
fn data_goes_in_messages_too() {
    let server = Server::start(Manners::default());
    let (mut client, tree) = connect(&server);
    let data = pattern(200_000);
    assert_eq!(client.write(tree, ID, 5, &data).expect("a WRITE"), 200_000);
    assert!(client.read(tree, ID, 5, 200_000).expect("a READ") == data);
    assert_eq!(client.read(tree, ID, 1 << 30, 10).expect("the end"), b"");
    assert_eq!(client.traffic().rdma_read_bytes, 0);
}

#[test]
fn many_requests_are_under_way_and_wait_for_credits() {
    let server = Server::start(Manners {
        credits: 3,
        ..Manners::default()
    });
    let (mut client, tree) = connect(&server);
    *server.file.lock().expect("the file") = pattern(64 * 100);
    let mut ids = Vec::new();
    for n in 0..100 {
        let read = Read::inline(ID, 64 * n, 64);
        ids.push(
            client
                .send(&read.request(tree))
                .expect("credits, in the end"),
        );
    }
    // Wait for the responses in a different order from that of the requests.
    for (n, id) in ids.iter().enumerate().rev() {
        let response = client.wait(*id).expect("a response").ok().expect("a READ");
        assert_eq!(
            response.read().expect("a READ").data,
            &pattern(6400)[64 * n..64 * n + 64]
        );
    }
    assert_eq!(client.outstanding(), 0);
}

#[test]
fn a_request_that_takes_more_credits_than_the_server_grants_is_not_sent() {
    let server = Server::start(Manners {
        credits: 1,
        ..Manners::default()
    });
    let (mut client, tree) = connect(&server);
    let read = Read::inline(ID, 0, 1 << 20);
    let error = client.send(&read.request(tree)).expect_err("16 credits");
    assert!(
        matches!(error, Error::Credits { charge: 16, .. }),
        "{error}"
    );
    client.echo().expect("the connection is as good as before");
}

#[test]
fn a_pending_request_is_known_as_such_and_answered_in_the_end() {
    let server = Server::start(Manners {
        pending: true,
        mute: true,
        ..Manners::default()
    });
    let (mut client, _) = connect(&server);
    let id = client
        .send(&Request::echo().expect("encoded"))
        .expect("sent");
    assert!(
        client
            .is_pending(id, Duration::from_secs(30))
            .expect("a connection")
    );
    client.cancel(id).expect("sent");
    let start = Instant::now();
    let error = client
        .wait_within(id, Duration::from_millis(50))
        .expect_err("no answer");
    assert!(matches!(error, Error::TimedOut(..)), "{error}");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_break_is_not_taken_for_an_answer() {
    let server = Server::start(Manners {
        breaks: 1,
        ..Manners::default()
    });
    let (mut client, _) = connect(&server);
    client.echo().expect("an answer");
    let notice = client
        .next_break(Duration::from_secs(30))
        .expect("a connection");
    let notice = notice.expect("a break");
    assert_eq!(notice.header.command, Command::OPLOCK_BREAK);
    assert_eq!(notice.body()[8..24], FILE);
    assert!(
        client
            .next_break(Duration::from_millis(10))
            .expect("a connection")
            .is_none()
    );
}

#[test]
fn the_client_gives_up_a_server_that_sends_breaks_without_end() {
    let server = Server::start(Manners {
        breaks: 130,
        ..Manners::default()
    });
    let (mut client, _) = connect(&server);
    let error = client.echo().expect_err("too many breaks");
    assert!(matches!(error, Error::TooManyBreaks(128)), "{error}");
}

#[test]
fn a_token_that_is_not_registered_ends_the_connection_and_says_so() {
    let server = Server::start(Manners::default());
    let (mut client, tree) = connect(&server);
    let source = client
        .register(&Memory::zeroed(100), Access::RemoteRead)
        .expect("memory");
    client.deregister(&source).expect("registered");
    let write = Write::direct(ID, 0, 100, Channel::RdmaV1, &[source.descriptor()]);
    let error = client
        .call(&write.request(tree))
        .expect_err("no such memory");
    assert!(matches!(error, Error::Closed(_)), "{error}");
    // Other clients notice nothing.
    connect(&server).0.echo().expect("a server");
}

#[test]
fn memory_needs_smb_direct_and_an_unused_port_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let error = Connection::tcp(address, Config::new([1; 16])).expect_err("no server there");
    assert!(error.to_string().contains("over TCP"), "{error}");
    let error = Connection::smb_direct(address, Config::new([1; 16])).expect_err("no server there");
    assert!(
        error
            .to_string()
            .contains("over SMB Direct: connection refused"),
        "{error}"
    );
}

/// Leaves the first connection without an answer, and forwards the second one to the server.
fn deaf_at_first(server: SocketAddr) -> (SocketAddr, JoinHandle<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let carrier = std::thread::spawn(move || {
        let (unanswered, _) = listener.accept().expect("a connection");
        let (client, _) = listener.accept().expect("another one");
        let server = TcpStream::connect(server).expect("the server");
        let pump = |mut from: TcpStream, mut to: TcpStream| {
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Write);
            })
        };
        let back = (
            server.try_clone().expect("a descriptor"),
            client.try_clone().expect("a descriptor"),
        );
        pump(client, server);
        pump(back.0, back.1);
        unanswered
    });
    (address, carrier)
}

#[test]
fn an_acceptor_that_misses_a_connection_gets_another_one() {
    let server = Server::start(Manners::default());
    let (address, carrier) = deaf_at_first(server.address);
    let connection = Connection::smb_direct(address, Config::new([1; 16])).expect("SMB Direct");
    assert_eq!(connection.negotiated().dialect, Dialect::Smb302);
    drop(carrier.join().expect("the carrier"));
}
