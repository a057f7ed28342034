// SPDX-License-Identifier: GPL-2.0-or-later

//! Continues shards without their reactors, and closes what nobody continues.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::broker::control::Message;
use crate::broker::reactor::{Notice, Reactor, ToControl};
use crate::broker::shared::Shared;
use crate::device::Status;
use crate::engine::registry::KeptCarried;
use crate::fabric::AnyFabric;

#[test]
fn detaches_the_workers_of_a_reactor_that_is_missing_after_the_restart() {
    let half = json!({"own": 0, "peer": 0, "announced": 0, "rung": 0});
    let arena = json!({"segments": [], "holds": [], "wanting": false, "is_deaf": false});
    let queue = json!({
        "worker": 7, "number": 3, "depth": 16, "submissions": half, "completions": half, "pending": [],
        "outstanding": 0, "last_serial": 0, "arena": arena,
    });
    let shard = |number: usize, queues: serde_json::Value, lost: &[u32]| {
        let shard = json!({
            "number": number, "conns": [], "queues": queues, "ended": [], "lost": lost,
            "carried": KeptCarried::default(), "counters": {},
        });
        serde_json::from_value::<KeptShard>(shard).unwrap()
    };
    let shards = vec![shard(3, json!([queue]), &[9]), shard(4, json!([]), &[])];
    let shared = Shared::new(Config::default(), Instant::ZERO);
    let poll = mio::Poll::new().unwrap();
    let (sender, messages) = crossbeam_channel::unbounded();
    let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
    let control = ToControl {
        sender,
        waker: Arc::new(waker),
    };
    let mut none: [Reactor<AnyFabric>; 0] = [];
    let all = (shards, &mut Descriptors::default());
    crate::broker::continue_shards(&mut none, all, (&shared, &control));
    let detached = messages.try_iter().map(|message| match message {
        Message::Notice(Notice::Fault {
            process,
            status,
            why,
        }) => {
            assert!(why.contains("reactor 3 is missing"), "{why}");
            (process, status)
        }
        other => panic!("{other:?}"),
    });
    let expected = [(7, Status::System), (9, Status::System)];
    assert_eq!(detached.collect::<Vec<_>>(), expected);
}

#[test]
fn closes_discarded_sockets_of_one_name_for_everybody() {
    let (mut ends, mut copies, mut passed) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        copies.push(theirs.try_clone().unwrap());
        passed.push(("c0-0".to_owned(), theirs.into()));
        ends.push(ours);
    }
    Kept::discard(passed);
    for mut end in ends {
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }
}
