// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that each crate is built in one version, except those listed here with a reason: two generations of a library
//! are twice its code, and their types are incompatible. The programs and libraries that users get contain no
//! duplicates at all.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use super::advisories::{crates, lock};

/// Crates that the workspace needs in several versions, and why.
const EXCEPTIONS: [(&str, &str); 8] = [
    ("getrandom", OLD_RANDOM),
    ("rand", OLD_RANDOM),
    ("rand_chacha", OLD_RANDOM),
    ("rand_core", OLD_RANDOM),
    (
        "syn",
        "macros by different authors; they are not part of any program",
    ),
    ("toml", OLD_TOML),
    ("toml_datetime", OLD_TOML),
    ("winnow", OLD_TOML),
];
const OLD_RANDOM: &str =
    "ntlmssp and smb-dtyp use rand 0.8, proptest uses 0.9; instruments and tests need all three";
const OLD_TOML: &str = "cbindgen uses toml 0.9; only the test of the header needs it";

/// Returns the crates that a lock file has several times.
fn duplicates(lock: &str) -> BTreeSet<&str> {
    let mut versions = BTreeMap::<&str, usize>::new();
    for (name, _) in crates(lock) {
        *versions.entry(name).or_default() += 1;
    }
    versions
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn each_crate_has_one_version() {
    for path in ["Cargo.lock", "fuzz/Cargo.lock"] {
        let text = lock(path);
        let found = duplicates(&text);
        let new: Vec<&&str> = found
            .iter()
            .filter(|name| EXCEPTIONS.iter().all(|(known, _)| known != *name))
            .collect();
        assert!(
            new.is_empty(),
            "{path} has several versions of {new:?}: see `cargo tree --duplicates`; take one version, or name the crate \
             in tests/repository/duplicates.rs with a reason"
        );
        for (name, reason) in EXCEPTIONS.iter().filter(|_| path == "Cargo.lock") {
            assert!(
                found.contains(name),
                "{name} has one version now: remove its exception ({reason})"
            );
        }
    }
}

#[test]
fn the_product_has_no_duplicates() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--package",
            "smbdirect",
            "--edges",
            "normal,no-proc-macro",
        ])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    let tree = String::from_utf8_lossy(&tree.stdout);
    // Lines look like "clap v4.6.9", and end with "(*)" if the crate's dependencies have been listed before.
    let once: BTreeSet<&str> = tree
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .collect();
    assert!(once.len() > 20, "{tree}");
    let mut names = BTreeSet::new();
    for package in once {
        let name = package.split(' ').next().unwrap_or_default();
        assert!(
            names.insert(name),
            "several versions of {name}: cargo tree --package smbdirect --duplicates"
        );
    }
}

#[test]
fn finds_a_crate_in_two_versions() {
    let package = |name: &str, version: &str| {
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"registry\"\n\n"
        )
    };
    let lock = package("nix", "0.31.3") + &package("rustix", "1.1.6") + &package("nix", "0.32.0");
    assert_eq!(duplicates(&lock), BTreeSet::from(["nix"]));
}
