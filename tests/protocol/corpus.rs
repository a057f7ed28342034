// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that the properties that the fuzz targets assert hold for the checked-in corpus, and for
//! small changes to it.
//!
//! The bodies come from `fuzz/`, without the fuzzer, so plain `cargo test` runs them.

#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, missing_debug_implementations, unreachable_pub)]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use targets::TARGETS;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// Returns the names in a directory, without `suffix`.
fn names(directory: &Path, suffix: &str) -> BTreeSet<String> {
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    entries
        .map(name)
        .filter_map(|name| name.strip_suffix(suffix).map(str::to_owned))
        .collect()
}

/// Returns the inputs of a target's corpus with their names, in order.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = fuzz().join("corpus").join(target);
    let read = |name: &String| fs::read(directory.join(name)).unwrap();
    names(&directory, "")
        .iter()
        .map(|name| (name.clone(), read(name)))
        .collect()
}

#[test]
fn every_input_of_the_corpus_passes() {
    let mut broken = Vec::new();
    for target in TARGETS {
        let (target, body) = (target.name, target.run);
        let inputs = corpus(target);
        assert!(!inputs.is_empty(), "{target} has no corpus");
        for (name, data) in inputs {
            if catch_unwind(|| body(&data)).is_err() {
                broken.push(format!("fuzz/corpus/{target}/{name}"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn small_changes_to_the_corpus_pass_too() {
    for target in TARGETS {
        let (target, body) = (target.name, target.run);
        let inputs = corpus(target);
        for seed in 0..20_000 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut data = inputs[random.usize(..inputs.len())].1.clone();
            for _ in 0..random.usize(1..8) {
                change(&mut data, &mut random);
            }
            if catch_unwind(|| body(&data)).is_err() {
                panic!("{target}, seed {seed}: {data:02x?}");
            }
        }
    }
}

/// Changes the input once, as a fuzzer would.
fn change(data: &mut Vec<u8>, random: &mut fastrand::Rng) {
    if data.is_empty() {
        return data.push(random.u8(..));
    }
    let at = random.usize(..data.len());
    match random.u8(..6) {
        0 => data[at] = random.u8(..),
        1 => data[at] ^= 1 << random.u8(..8),
        2 => data[at] = *random.choice(&[0, 1, 0x7f, 0x80, 0xff]).unwrap(),
        3 => data.insert(at, random.u8(..)),
        4 => data.truncate(at),
        _ => data.extend_from_within(at..),
    }
    data.truncate(4096);
}

#[test]
fn every_target_is_known_everywhere() {
    let listed: BTreeSet<String> = TARGETS
        .iter()
        .map(|target| target.name.to_owned())
        .collect();
    assert_eq!(listed.len(), TARGETS.len());
    assert_eq!(names(&fuzz().join("corpus"), ""), listed);
    assert_eq!(names(&fuzz().join("fuzz_targets"), ".rs"), listed);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &listed {
        assert!(
            manifest.contains(&format!("[[bin]]\nname = \"{name}\"\n")),
            "{name} is not in fuzz/Cargo.toml"
        );
        let start =
            fs::read_to_string(fuzz().join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(
            start.contains(&format!("smbdirect_fuzz::{name}(data)")),
            "{name} runs another body"
        );
    }
    assert_eq!(manifest.matches("[[bin]]").count(), listed.len());
}
