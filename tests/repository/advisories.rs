// SPDX-License-Identifier: GPL-2.0-or-later

//! Crates that are built have no vulnerability known to RustSec's database, except those listed here with a reason.
//!
//! The test does not query the database, because tests access only package registries. `advisories.txt` has the
//! database's entries for our crates, as of the date in it; `tools/advisories.py` updates it.

use std::fs;
use std::process::Command;

const ADVISORIES: &str = include_str!("advisories.txt");

/// Advisories that do not matter here, and why.
const EXCEPTIONS: [(&str, &str); 2] = [
    (
        "RUSTSEC-2026-0009",
        "time, by smb-dtyp: parsing of RFC 2822 dates exhausts the stack. It is in the feature `parsing`, which is not \
         built (see below); 0.3.47 needs Rust 1.88",
    ),
    (
        "RUSTSEC-2023-0071",
        "rsa, by the SMB library of tests/smb-rs: keys leak by timing. Tests alone, without keys of anybody; no version \
         mends it",
    ),
];

/// Crates of a lock file, with their versions.
fn crates(lock: &str) -> Vec<(&str, &str)> {
    let value = |entry: &'static str, package: &'_ str| -> Option<(usize, usize)> {
        let start = package.find(entry)? + entry.len();
        let end = start + package.get(start..)?.find('"')?;
        Some((start, end))
    };
    let packages = lock.split("[[package]]").skip(1);
    packages
        .filter_map(|package| {
            let (start, end) = value("name = \"", package)?;
            let (from, to) = value("version = \"", package)?;
            Some((&package[start..end], &package[from..to]))
        })
        .collect()
}

/// The three numbers of a version.
fn version(text: &str) -> [u64; 3] {
    let release = text.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = release.split('.').map(|number| number.parse().unwrap_or(0));
    std::array::from_fn(|_| numbers.next().unwrap_or(0))
}

/// Whether a version meets a requirement such as `>= 1.2, < 2`.
fn fits(have: [u64; 3], requirement: &str) -> bool {
    requirement.split(',').all(|part| {
        let part = part.trim();
        let number = part.trim_start_matches(['<', '>', '=', '^', '~']);
        let wanted = version(number.trim());
        let compatible = match wanted {
            [0, 0, _] => have == wanted,
            [0, minor, _] => have[..2] == [0, minor],
            [major, ..] => have[0] == major,
        };
        match &part[..part.len() - number.len()] {
            ">=" => have >= wanted,
            "<=" => have <= wanted,
            ">" => have > wanted,
            "<" => have < wanted,
            "=" => have == wanted,
            "~" => have >= wanted && have[..2] == wanted[..2],
            _ => have >= wanted && compatible,
        }
    })
}

/// The advisories that concern crates of a lock file.
fn found(lock: &str) -> Vec<String> {
    let crates = crates(lock);
    assert!(crates.len() > 20, "{} crates", crates.len());
    let mut found = Vec::new();
    for line in ADVISORIES.lines().filter(|line| !line.starts_with('#')) {
        let (id, rest) = line.split_once(' ').expect("an advisory");
        let (name, good) = rest
            .split_once(": ")
            .unwrap_or_else(|| (rest.trim_end_matches(':'), ""));
        for (_, have) in crates.iter().filter(|(found, _)| *found == name) {
            let is_good =
                |requirement: &str| !requirement.is_empty() && fits(version(have), requirement);
            if !good.split(" || ").any(is_good) {
                found.push(format!("{id} {name} {have}, good: {good}"));
            }
        }
    }
    found
}

#[test]
fn no_crate_has_a_known_fault_without_a_reason() {
    let mut all = Vec::new();
    for lock in ["Cargo.lock", "fuzz/Cargo.lock", "tests/smb-rs/Cargo.lock"] {
        let path = format!("{}/{lock}", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        all.extend(
            found(&text)
                .into_iter()
                .map(|line| format!("{lock}: {line}")),
        );
    }
    let excused = |line: &&String| EXCEPTIONS.iter().any(|(id, _)| line.contains(id));
    let (known, new): (Vec<&String>, Vec<&String>) = all.iter().partition(excused);
    assert!(
        new.is_empty(),
        "update these, or name them in tests/repository/advisories.rs with a reason: {new:#?}"
    );
    for (id, reason) in EXCEPTIONS {
        let is_found = known.iter().any(|line| line.contains(id));
        assert!(
            is_found,
            "{id} is no longer found: remove its exception ({reason})"
        );
    }
}

/// The reason for which RUSTSEC-2026-0009 does not matter.
#[test]
fn time_is_built_without_its_parsers() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--workspace",
            "--all-features",
            "--edges",
            "features",
            "--invert",
            "time",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    let tree = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.contains("time feature \"std\""), "{tree}");
    assert!(!tree.contains("time feature \"parsing\""), "{tree}");
}

#[test]
fn understands_requirements() {
    for (have, requirement, expected) in [
        ("0.3.45", ">= 0.3.47", false),
        ("0.3.47", ">= 0.3.47", true),
        ("0.3.5", "< 0.3.6", true),
        ("0.3.4", "^0.3.4", true),
        ("0.4.0", "^0.3.4", false),
        ("1.9.0", "^1.2", true),
        ("2.0.0", "^1.2", false),
        ("0.9.18", "< 0.10.0, >= 0.9.18", true),
        ("0.9.17", "< 0.10.0, >= 0.9.18", false),
        ("1.0.0-rc.1", ">= 1.0.0", true),
    ] {
        assert_eq!(
            fits(version(have), requirement),
            expected,
            "{have} {requirement}"
        );
    }
    let lock = "[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"b\"\nversion = \"2.0.0\"\n";
    assert_eq!(crates(lock), [("a", "1.0.0"), ("b", "2.0.0")]);
}
