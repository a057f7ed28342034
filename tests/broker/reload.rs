// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that a reload reaches what waits, and leaves what smbd has set.

use std::time::Duration;

use smbdirect::broker::{Config, Plan, Settings, iwarp_config};
use smbdirect::device::Status;
use smbdirect::device::abi::{self, kind, region, role};
use zerocopy::FromBytes;

use crate::raw::Raw;
use crate::scene::{Scene, negotiate};

/// Changes the configuration of a running broker.
pub(crate) fn reload(scene: &mut Scene, change: impl FnOnce(&mut Config)) {
    let settings = |broker: &Config| Settings {
        broker: broker.clone(),
        ..Settings::default()
    };
    let before = settings(&scene.config);
    change(&mut scene.config);
    let plan = Plan::new(&before, &settings(&scene.config));
    assert_eq!(plan.settings().broker, scene.config, "{plan:?}");
    let fabric = iwarp_config(&scene.config);
    let broker = scene.broker.as_mut().unwrap();
    let reloaded = broker.reload(&plan, fabric, &mut |_| Ok(()));
    assert!(reloaded.problems.is_empty(), "{reloaded:?}");
}

#[test]
fn connections_that_wait_for_an_offer_get_it_when_the_limit_rises() {
    let mut scene = Scene::with(|config| config.max_undispatched = 1);
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let clients: Vec<_> = (1..=3).map(|guid| scene.client(guid)).collect();
    listener.offer();
    scene.until("they wait", |status| {
        status.counters.get("waited_for_offer") == Some(&2)
    });
    assert!(listener.is_quiet(Duration::from_millis(20)));
    reload(&mut scene, |config| config.max_undispatched = 3);
    for _ in 0..2 {
        listener.offer();
    }
    assert_eq!(scene.status().totals.dispatching, clients.len());
}

#[test]
fn a_worker_that_waits_for_memory_gets_it_when_the_limit_rises() {
    let mut scene = Scene::with(|config| config.memory_limit = 6 << 20);
    let mut hog = Raw::worker(scene.path());
    for region in [region::BULK, region::BULK, region::SEND, region::SEND] {
        assert_eq!(hog.grow(region), Status::Ok);
    }
    let mut worker = Raw::worker(scene.path());
    assert_eq!(worker.register([1; 16], 0), Status::Ok);
    let _client = scene.client(1);
    assert!(worker.is_quiet(Duration::from_millis(50)));
    reload(&mut scene, |config| config.memory_limit = 64 << 20);
    let conn = worker.connection().conn;
    assert_eq!(worker.pdu(conn), negotiate(1));
}

#[test]
fn a_lower_limit_of_memory_takes_none_away() {
    let mut scene = Scene::new();
    let (mut worker, conn, client) = scene.pair(1);
    for region in [region::BULK, region::BULK, region::SEND] {
        assert_eq!(worker.grow(region), Status::Ok);
    }
    let used = scene.status().totals.memory;
    let least = scene.config.least_memory();
    reload(&mut scene, |config| config.memory_limit = least);
    assert!(scene.status().totals.memory >= used);
    worker.reply(conn, b"hello");
    assert_eq!(client.message(), b"hello");
}

/// smbd sets its values when it attaches, and does not know that the device reads its file again.
#[test]
fn what_smbd_has_lowered_stays_lowered() {
    let mut scene = Scene::new();
    let mut listener = Raw::attach(scene.path(), role::LISTENER);
    let set = abi::SetParameters {
        receive_credit_max: 20,
        max_fragmented_size: 200_000,
        ..abi::SetParameters::read_from_bytes(&[0; 64]).unwrap()
    };
    let answer = listener.ask(kind::SET_PARAMETERS, &set);
    assert_eq!(answer.status(), Status::Ok);
    let longest = |scene: &Scene, guid: u8| {
        let mut worker = Raw::worker(scene.path());
        assert_eq!(worker.register([guid; 16], 0), Status::Ok);
        let _client = scene.client(guid);
        worker.connection().max_fragmented_receive_size
    };
    reload(&mut scene, |config| {
        config.acceptor.max_fragmented_size = 500_000;
        config.acceptor.idle_timeout = Duration::from_secs(7);
    });
    assert_eq!(longest(&scene, 1), 200_000);
    reload(&mut scene, |config| {
        config.acceptor.max_fragmented_size = 150_000
    });
    assert_eq!(longest(&scene, 2), 150_000);
}
