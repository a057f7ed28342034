// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that the checker finds what it must find, and nothing else.

use std::collections::BTreeSet;

use super::Tree;
use super::source::{Source, paths, tokens};

/// Returns what the checker finds in one file, besides the modules to which the file may refer.
fn found(name: &str, text: &str) -> Vec<String> {
    let others = [
        (
            "lib.rs",
            "#![deny(unsafe_code)] #[allow(unsafe_code)] pub mod sys;",
        ),
        ("units.rs", ""),
        ("wire/mod.rs", ""),
        ("proto/mod.rs", ""),
        (
            "fabric/mod.rs",
            "#[cfg(feature = \"engine\")] mod traits; pub use traits::*; pub struct Sge; pub enum Access {} pub const MAX: usize = 1; \
             #[cfg(all(feature = \"fabric\", unix))] #[allow(dead_code)] pub(crate) mod loopback;",
        ),
        ("fabric/traits.rs", ""),
        ("fabric/loopback.rs", ""),
        (
            "fabric/iwarp/mod.rs",
            "pub mod ddp; #[cfg(feature = \"fabric\")] mod pump;",
        ),
        ("fabric/iwarp/pump.rs", ""),
        ("fabric/iwarp/ddp.rs", ""),
        ("sys/mod.rs", "#[cfg(feature = \"shm\")] mod memfd;"),
        ("sys/memfd.rs", ""),
        (
            "shm/mod.rs",
            "#[allow(unsafe_code)] mod map; mod ring; #[cfg(any(feature = \"engine\", feature = \"shm\"))] mod layout;",
        ),
        ("shm/map.rs", ""),
        ("shm/ring.rs", ""),
        ("transport/mod.rs", ""),
        ("device/mod.rs", ""),
        ("engine/mod.rs", ""),
        ("broker/mod.rs", ""),
        ("bin/daemon/main.rs", ""),
    ];
    let mut files: Vec<Source> = others
        .iter()
        .filter(|(other, _)| *other != name)
        .map(|(other, text)| Source::new(other, text))
        .collect();
    files.push(Source::new(name, text));
    Tree::new(&files, &BTreeSet::from(["tracing".to_owned()])).violations()
}

#[test]
fn finds_everything_that_a_module_may_not_do() {
    for (name, text) in [
        ("wire/negotiate.rs", "use crate::proto::Endpoint;"),
        ("wire/mod.rs", "use crate::{units::Credits, fabric::Sge};"),
        (
            "wire/mod.rs",
            "use crate::{units::{Credits, Instant}, sys::Memory as M};",
        ),
        (
            "wire/smb2/read.rs",
            "use super::super::super::transport::Server;",
        ),
        ("wire/mod.rs", "fn f() -> u8 { super::sys::g() }"),
        ("wire/mod.rs", "mod inner { use super::super::proto::X; }"),
        (
            "wire/mod.rs",
            "macro_rules! m { () => { $crate::proto::X } }",
        ),
        ("wire/mod.rs", "use crate as all;"),
        ("wire/mod.rs", "use crate::*;"),
        ("units.rs", "use crate::wire::X;"),
        ("sys/mod.rs", "use crate::units::Instant;"),
        ("proto/mod.rs", "use crate::fabric::Sge;"),
        ("fabric/loopback.rs", "use crate::proto::State;"),
        ("fabric/loopback.rs", "use crate::transport::X;"),
        ("fabric/iwarp/mpa.rs", "use crate::sys::Memory;"),
        ("fabric/iwarp/qp.rs", "use super::super::Event;"),
        ("fabric/iwarp/qp.rs", "use crate::fabric::{Sge, Fabric};"),
        ("fabric/iwarp/qp.rs", "use crate::fabric::traits::Event;"),
        ("fabric/traits.rs", "use std::io;"),
        ("fabric/traits.rs", "use super::iwarp::ddp::Tagged;"),
        ("sys/mod.rs", "use std::io;"),
        ("shm/layout.rs", "use std::io;"),
        (
            "shm/ring.rs",
            "#[cfg(feature = \"shm\")] fn f() { std::thread::yield_now() } use std::io;",
        ),
        (
            "transport/mod.rs",
            "#[cfg(not(feature = \"std\"))] use std::io;",
        ),
        (
            "proto/mod.rs",
            "#[cfg_attr(feature = \"engine\", derive(tracing::Value))] struct A;",
        ),
        (
            "proto/mod.rs",
            "#[cfg_attr(not(feature = \"engine\"), derive(tracing::Value))] struct A;",
        ),
        ("transport/mod.rs", "use crate::engine::X;"),
        ("engine/pool.rs", "use std::collections::HashMap;"),
        ("engine/pool.rs", "use crate::broker::X;"),
        ("engine/pool.rs", "fn f(text: SomeJson) {}"),
        ("engine/pool.rs", "fn f(event_fd: u32) {}"),
        ("fabric/iwarp/qp/read.rs", "use crate::fabric::loopback::X;"),
        ("fabric/mod.rs", "use crate::sys::Memory;"),
        ("wire/mod.rs", "use std::vec::Vec;"),
        (
            "wire/mod.rs",
            "fn f() { let now = ::std::time::Instant::now(); }",
        ),
        ("wire/mod.rs", "use ::std::io;"),
        ("proto/timers.rs", "fn f() { std::thread::yield_now() }"),
        ("proto/mod.rs", "use {core::fmt, std::net::TcpStream};"),
        ("proto/mod.rs", "fn f() { tracing::debug!(\"no\"); }"),
        ("fabric/iwarp/ddp.rs", "use std::io;"),
        ("fabric/mod.rs", "use std::io;"),
        ("fabric/iwarp/pump.rs", "use crate::proto::X;"),
        ("fabric/iwarp/qp.rs", "use super::pump::Pump;"),
        ("fabric/regions.rs", "use std::io;"),
        ("wire/mod.rs", "fn f() { unsafe { g() } }"),
        (
            "transport/mod.rs",
            "#[cfg(test)] mod tests { unsafe fn f() {} }",
        ),
        ("transport/mod.rs", "#![allow(unsafe_code)]"),
        ("shm/ring.rs", "fn f() { unsafe { g() } }"),
        ("shm/mod.rs", "fn f() { unsafe { g() } }"),
        ("shm/mapper.rs", "fn f() { unsafe { g() } }"),
        (
            "shm/mod.rs",
            "#[allow(unsafe_code)] mod map; #[allow(unsafe_code)] mod ring;",
        ),
        ("shm/ring.rs", "use crate::fabric::Sge;"),
        ("sys/mod.rs", "use crate::shm::map;"),
        ("bin/daemon/main.rs", "use smbdirect::sys::Memory;"),
        ("bin/daemon/log.rs", "fn f() { smbdirect::wire::g() }"),
        ("bin/daemon/log.rs", "fn f() { unsafe { g() } }"),
        ("somewhere/mod.rs", ""),
    ] {
        assert_eq!(
            found(name, text).len(),
            1,
            "{name}: {text}: {:?}",
            found(name, text)
        );
    }
}

#[test]
fn accepts_everything_that_a_module_may_do() {
    for (name, text) in [
        (
            "wire/negotiate.rs",
            "use super::{Error, smb2::read}; use crate::units::{self, Credits}; use core::fmt;",
        ),
        (
            "wire/mod.rs",
            "pub(crate) mod a; pub(super) fn f() {} pub(in crate::wire) fn g() {} mod b { use super::x; }",
        ),
        (
            "wire/mod.rs",
            "// use crate::proto::X;\n/* unsafe /* std::io */ */\n/// [`crate::fabric`]\nfn f() {}",
        ),
        (
            "wire/mod.rs",
            r##"const A: &str = "crate::proto \" std::io"; const B: &str = r#"unsafe " std::io"#;"##,
        ),
        (
            "wire/mod.rs",
            r"const A: (char, char, u8) = ('\'', '{', b'}'); fn f<'a>(x: &'a str) -> &'a str { x }",
        ),
        (
            "wire/mod.rs",
            "fn f() {}\n#[cfg(test)]\nmod tests { use std::io; use crate::proto::X; fn g() { {} } }",
        ),
        ("wire/mod.rs", "#[cfg(test)]\nuse std::vec::Vec;\nfn f() {}"),
        (
            "proto/mod.rs",
            "#[cfg_attr(feature = \"broker\", derive(tracing::Value))] struct A;",
        ),
        ("wire/tests.rs", "use std::io; use crate::proto::X;"),
        (
            "bin/daemon/main.rs",
            "use smbdirect::broker::Broker; mod options; use std::io; use options::Options;",
        ),
        (
            "proto/credits.rs",
            "use crate::wire::negotiate::Request; use super::State; use alloc::vec::Vec;",
        ),
        (
            "fabric/mod.rs",
            "use crate::units::RemoteToken; pub use self::traits::*; pub use iwarp::IwarpError;",
        ),
        (
            "fabric/traits.rs",
            "use alloc::vec::Vec; use super::Sge; use crate::sys::Memory;",
        ),
        (
            "fabric/iwarp/qp.rs",
            "use crate::fabric::{Access, MAX, Sge}; use super::ddp::Tagged; use super::super::Sge;",
        ),
        (
            "fabric/iwarp/pump.rs",
            "use std::net::TcpStream; use super::ddp; use crate::{sys::Memory, fabric::Fabric};",
        ),
        (
            "transport/mod.rs",
            "use core::net::SocketAddr; use crate::{proto, fabric::Fabric, sys::Memory, wire::X, units::Y};",
        ),
        (
            "engine/pool.rs",
            "use core::net::SocketAddr; use crate::{device::X, transport::Y}; fn profile(threadbare: Pathos) {}",
        ),
        (
            "sys/memory.rs",
            "use super::OutOfRange; fn f() { unsafe { g() } }",
        ),
        ("sys/memfd.rs", "use std::io; use super::OutOfRange;"),
        (
            "shm/map.rs",
            "#[cfg(feature = \"shm\")] use std::io; use super::ring::X; use crate::sys::Memory; fn f() { unsafe { g() } }",
        ),
        ("wire/mod.rs", "#[cfg(not(test))] fn f() { my::std::x() }"),
    ] {
        assert_eq!(found(name, text), Vec::<String>::new(), "{name}: {text}");
    }
}

#[test]
fn continues_to_read_after_the_tests() {
    assert_eq!(
        found(
            "wire/mod.rs",
            "#[cfg(test)] mod tests { fn f() {} }\nuse std::io;"
        )
        .len(),
        1
    );
    assert_eq!(
        found("wire/mod.rs", "#[cfg(not(test))]\nuse std::io;").len(),
        1
    );
}

#[test]
fn splits_the_trees_of_use_declarations() {
    let here = ["wire".to_owned(), "smb2".to_owned()];
    let text = "use crate::{a::{self, B as C}, d::*}; use super::{super::e, f}; x(self::g::<u8>::h(), T::<u8>::new());";
    let found: Vec<String> = paths(&tokens(text), &here)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    let expected = [
        "crate::a",
        "crate::a::B",
        "crate::d::*",
        "crate::e",
        "crate::wire::f",
    ];
    assert_eq!(found[..expected.len()], expected);
    assert_eq!(found[expected.len()..], ["crate::wire::smb2::g", "T"]);
}
