// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that `include/smbdirect.h` matches `src/ffi`, and that the libraries match the header.
//!
//! `UPDATE=1 cargo test -p instruments --test header` rewrites the header.

mod compile;
mod layout;
mod library;
mod shared;
mod uapi;
mod versions;

use std::path::Path;

use instruments::ROOT;
use instruments::c::{declared, header};

/// Returns the header as cbindgen generates it from the sources.
fn generated() -> String {
    let config = cbindgen::Config::from_file(Path::new(ROOT).join("cbindgen.toml"));
    let mut builder = cbindgen::Builder::new().with_config(config.expect("cbindgen.toml"));
    for module in ["status", "types", "device", "ask", "conn", "request"] {
        builder = builder.with_src(Path::new(ROOT).join(format!("src/ffi/{module}.rs")));
    }
    let mut text = Vec::new();
    builder
        .generate()
        .expect("src/ffi is legal")
        .write(&mut text);
    String::from_utf8(text).expect("UTF-8")
}

#[test]
fn the_header_is_what_the_sources_say() {
    let generated = generated();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(header(), &generated).expect("include is writable");
    }
    let checked_in = std::fs::read_to_string(header()).unwrap_or_default();
    for (n, (is, should)) in checked_in.lines().zip(generated.lines()).enumerate() {
        let hint = "UPDATE=1 cargo test -p instruments --test header";
        assert_eq!(is, should, "include/smbdirect.h, line {}: {hint}", n + 1);
    }
    assert_eq!(
        checked_in.len(),
        generated.len(),
        "include/smbdirect.h ends elsewhere"
    );
}

/// Returns every constant of the header that has this prefix, and its value.
fn constants(prefix: &str) -> Vec<(String, i64)> {
    let header = std::fs::read_to_string(header()).expect("include/smbdirect.h");
    let definitions = header.lines().filter_map(|line| {
        let (name, value) = line.strip_prefix("#define ")?.split_once(' ')?;
        let rest = name.strip_prefix(prefix)?;
        Some((rest.to_owned(), value.parse().expect("a number")))
    });
    definitions.collect()
}

#[test]
fn the_version_is_the_crates() {
    let numbers: Vec<i64> = constants("SMBDIRECT_VERSION_")
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    let version: Vec<i64> = env!("CARGO_PKG_VERSION")
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect();
    assert_eq!(numbers, version);
}

#[test]
fn every_status_has_a_constant_with_its_name_and_number() {
    use smbdirect::device::Status;
    let mut expected: Vec<(String, i64)> = (1..)
        .map_while(Status::from_code)
        .map(|status| (status.name().to_uppercase(), status.code().into()))
        .collect();
    let mut found = constants("SMBDIRECT_E_");
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_function_says_who_owns_what_and_when_it_may_be_called() {
    let header = std::fs::read_to_string(header()).expect("include/smbdirect.h");
    let functions = declared(&header);
    assert!(functions.len() > 15, "{functions:?}");
    for function in &functions {
        let position = header.find(&format!("{function}(")).expect("declared");
        let comment = &header[header[..position].rfind("/**").expect("a comment")..position];
        // The lines are joined, because the words may be split between two.
        for word in ["Owns:", "Threads:", "Blocks:", "Fork:", "Errors:"] {
            assert!(comment.contains(word), "{function} does not say `{word}`");
        }
    }
}
