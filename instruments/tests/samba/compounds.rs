// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests several requests in one message over SMB Direct, with data in the message and by RDMA.

use instruments::client::{
    Channel, Command, Config, Connection, Create, Disposition, FileId, Header, NtStatus, Read,
    Request, Response, Write,
};

use crate::channel::{Client, UNTOUCHED, contents, device, disk, pattern, place, sink, source};
use crate::sessions::GUID;
use instruments::samba::{Server, Setup};

/// Makes a request refer to the file of the request before it.
fn related(request: Request<'_>) -> Request<'_> {
    Request {
        flags: request.flags | Header::RELATED,
        ..request
    }
}

fn create(tree: u32, name: &str, disposition: Disposition) -> Request<'static> {
    Request::create(tree, name, &Create::file(disposition)).expect("encoded")
}

fn close(tree: u32) -> Request<'static> {
    related(Request::close(tree, FileId::NONE).expect("encoded"))
}

/// Sends requests as one compound, and returns all answers.
fn answers(connection: &mut Connection, requests: &[Request<'_>]) -> Vec<Response> {
    let ids = connection.send_compound(requests).expect("sent");
    let answer = |id| connection.wait(id).expect("an answer");
    ids.into_iter().map(answer).collect()
}

fn all_succeed(answers: &[Response]) {
    for answer in answers {
        let status = answer.status();
        assert_eq!(status, NtStatus::SUCCESS, "{}", answer.header.command);
    }
}

/// Connects a client for each kind of message protection.
fn clients(server: &Server) -> impl Iterator<Item = Client> {
    let ways = [(false, false), (true, false), (false, true)];
    ways.into_iter().map(|(sign, seal)| {
        let config = Config {
            sign,
            seal,
            ..Config::new(GUID)
        };
        Client::connect_with(server, config)
    })
}

#[test]
fn one_message_makes_writes_and_closes_a_file_and_another_opens_reads_and_closes_it() {
    let server = device(Setup::default());
    for mut client in clients(&server) {
        let tree = client.tree;
        let data = pattern(70_001, 1);
        let answers_of = &mut client.direct;
        let done = answers(
            answers_of,
            &[
                create(tree, "one", Disposition::OverwriteIf),
                related(Write::inline(FileId::NONE, 0, &data).request(tree)),
                close(tree),
            ],
        );
        all_succeed(&done);
        assert_eq!(done[1].written().expect("a WRITE"), 70_001);
        assert!(disk(&server, "one") == data);
        let done = answers(
            answers_of,
            &[
                create(tree, "one", Disposition::Open),
                related(Read::inline(FileId::NONE, 1, 70_000).request(tree)),
                close(tree),
            ],
        );
        all_succeed(&done);
        assert!(done[1].read().expect("a READ").data == &data[1..]);
    }
}

#[test]
fn data_in_the_middle_of_a_compound_goes_by_rdma() {
    let server = device(Setup::default());
    for mut client in clients(&server).take(1) {
        let tree = client.tree;
        for channel in [Channel::RdmaV1, Channel::RdmaV1Invalidate] {
            let invalidates = channel == Channel::RdmaV1Invalidate;
            let data = pattern(1 << 20, channel.number().into());
            let from = source(&mut client.direct, &data);
            let write = Write::direct(FileId::NONE, 0, 1 << 20, channel, &from.pieces(3));
            let done = answers(
                &mut client.direct,
                &[
                    create(tree, "one", Disposition::OverwriteIf),
                    related(write.request(tree)),
                    close(tree),
                ],
            );
            all_succeed(&done);
            assert_eq!(done[1].written().expect("a WRITE"), 1 << 20);
            assert!(disk(&server, "one") == data);
            assert_eq!(client.direct.take_invalidated(from.token()), invalidates);

            let into = sink(&mut client.direct, 1 << 20);
            let read = Read::direct(FileId::NONE, 0, 1 << 20, channel, &into.pieces(3));
            let done = answers(
                &mut client.direct,
                &[
                    create(tree, "one", Disposition::Open),
                    related(read.request(tree)),
                    close(tree),
                ],
            );
            all_succeed(&done);
            assert_eq!(done[1].read().expect("a READ").direct, 1 << 20);
            assert!(contents(&into) == data);
            assert_eq!(client.direct.take_invalidated(into.token()), invalidates);
        }
        client.is_alive();
    }
}

#[test]
fn requests_that_depend_on_a_failed_request_fail_and_move_no_data() {
    let server = device(Setup::default());
    for mut client in clients(&server).take(1) {
        let tree = client.tree;
        let into = sink(&mut client.direct, 4096);
        let channel = Channel::RdmaV1Invalidate;
        let read = Read::direct(FileId::NONE, 0, 4096, channel, &into.pieces(1));
        let done = answers(
            &mut client.direct,
            &[
                create(tree, "nowhere", Disposition::Open),
                related(read.request(tree)),
                close(tree),
            ],
        );
        for answer in &done {
            assert_eq!(answer.status(), NtStatus::OBJECT_NAME_NOT_FOUND);
        }
        assert!(contents(&into).iter().all(|byte| *byte == UNTOUCHED));
        assert!(client.direct.take_invalidated(into.token()));
        client.is_alive();
    }
}

#[test]
fn unrelated_requests_in_one_message_are_all_answered() {
    let server = device(Setup::default());
    let data = pattern(100_000, 5);
    place(&server, "file", &data);
    for mut client in clients(&server) {
        let file = client.open("file");
        let tree = client.tree;
        let missing = create(tree, "nowhere", Disposition::Open);
        let done = answers(
            &mut client.direct,
            &[
                Read::inline(file, 0, 10_001).request(tree),
                missing,
                Request::echo().expect("encoded"),
                Read::inline(file, 50_000, 50_000).request(tree),
            ],
        );
        let commands: Vec<Command> = done.iter().map(|answer| answer.header.command).collect();
        let expected = [Command::READ, Command::CREATE, Command::ECHO, Command::READ];
        assert_eq!(commands, expected);
        assert!(done[0].read().expect("a READ").data == &data[..10_001]);
        assert_eq!(done[1].status(), NtStatus::OBJECT_NAME_NOT_FOUND);
        assert_eq!(done[2].status(), NtStatus::SUCCESS);
        assert!(done[3].read().expect("a READ").data == &data[50_000..]);
    }
}

/// Makes a CREATE of the share's root, two full listings of it, and a CLOSE.
fn list_twice(tree: u32, output: u32) -> [Request<'static>; 4] {
    let root = Request::create(tree, "", &Create::directory()).expect("encoded");
    let find = Request::query_directory(tree, FileId::NONE, "*", false, output);
    let find = related(find.expect("encoded"));
    [root, find.clone(), find, close(tree)]
}

#[test]
fn responses_that_do_not_fit_into_one_message_come_in_several() {
    let server = device(Setup::default());
    for number in 0..3000 {
        place(&server, &format!("file-{number:06}"), b"");
    }
    for (sign, seal) in [(false, false), (true, false), (false, true)] {
        let mut config = Config {
            sign,
            seal,
            ..Config::new(GUID)
        };
        // Allow only the smallest messages that are possible.
        config.smb_direct.max_fragmented_size = 128 << 10;
        let mut client = Client::connect_with(&server, config);
        let tree = client.tree;
        let output = client.direct.negotiated().max_transact_size;
        let done = answers(&mut client.direct, &list_twice(tree, output));
        all_succeed(&done);
        let names: Vec<usize> = done[1..3]
            .iter()
            .map(|listing| listing.entries().expect("names").len())
            .collect();
        assert!(names.iter().all(|&count| count > 500), "{names:?}");

        // A READ that fills a message stands between other requests.
        let data = pattern(200_000, 6);
        place(&server, "whole", &data);
        let fits = (128 << 10) - 64 - 16 - if seal { 52 + 4 } else { 0 };
        let done = answers(
            &mut client.direct,
            &[
                create(tree, "whole", Disposition::Open),
                related(Read::inline(FileId::NONE, 0, fits).request(tree)),
                close(tree),
            ],
        );
        all_succeed(&done);
        assert!(done[1].read().expect("a READ").data == &data[..fits as usize]);
        client.is_alive();
    }
}

#[test]
fn a_compound_that_just_fits_into_a_message_of_an_odd_length_is_answered() {
    let server = device(Setup::default());
    let data = pattern(200_000, 7);
    place(&server, "whole", &data);
    for odd in 0..8_u32 {
        for seal in [false, true] {
            let mut config = Config {
                seal,
                ..Config::new(GUID)
            };
            let longest = (128 << 10) + odd;
            config.smb_direct.max_fragmented_size = longest;
            let mut client = Client::connect_with(&server, config);
            let tree = client.tree;
            let outside = if seal { 52 } else { 0 };
            // A READ follows a CREATE and precedes a CLOSE, padded or not: these take 152, 80 and 124 bytes.
            for less in [152 + 80, 152 + 80 + 124] {
                for spare in 0..24 {
                    let length = longest - outside - less - spare;
                    let done = answers(
                        &mut client.direct,
                        &[
                            create(tree, "whole", Disposition::Open),
                            related(Read::inline(FileId::NONE, 0, length).request(tree)),
                            close(tree),
                        ],
                    );
                    all_succeed(&done);
                    assert!(done[1].read().expect("a READ").data == &data[..length as usize]);
                }
            }
            client.is_alive();
        }
    }
}
