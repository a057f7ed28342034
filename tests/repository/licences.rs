// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that every source file states its licence, and that every dependency has a compatible one: compatible with
//! Samba's GPL-3.0-or-later in all cases, and also with Linux's GPL-2.0-only if the engine needs the dependency.
//!
//! This reads the expressions that `cargo tree` reports and the list in `deny.toml`: it replaces cargo-deny, so that
//! cargo-deny need not be installed. Dependencies for other operating systems are ignored.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Returns the licences of `[licenses] allow` in a cargo-deny configuration.
fn allowed(configuration: &str) -> BTreeSet<&str> {
    let list = configuration
        .split("\nallow = [")
        .nth(1)
        .and_then(|rest| rest.split(']').next());
    list.expect("`allow = [` in deny.toml")
        .split('"')
        .skip(1)
        .step_by(2)
        .collect()
}

/// Returns whether an SPDX expression can be satisfied with `allowed` licences alone. `/` is an old `OR`.
fn satisfied(expression: &str, allowed: &BTreeSet<&str>) -> Result<bool, String> {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut words: Vec<&str> = spaced.split_whitespace().rev().collect();
    let value = any_of(&mut words, allowed)?;
    if words.is_empty() {
        Ok(value)
    } else {
        Err(format!("`{expression}` goes on after its end"))
    }
}

fn any_of(words: &mut Vec<&str>, allowed: &BTreeSet<&str>) -> Result<bool, String> {
    let mut value = all_of(words, allowed)?;
    while words.last() == Some(&"OR") {
        words.pop();
        value |= all_of(words, allowed)?;
    }
    Ok(value)
}

fn all_of(words: &mut Vec<&str>, allowed: &BTreeSet<&str>) -> Result<bool, String> {
    let mut value = one(words, allowed)?;
    while words.last() == Some(&"AND") {
        words.pop();
        value &= one(words, allowed)?;
    }
    Ok(value)
}

fn one(words: &mut Vec<&str>, allowed: &BTreeSet<&str>) -> Result<bool, String> {
    match words.pop() {
        Some("(") => {
            let value = any_of(words, allowed)?;
            if words.pop() == Some(")") {
                Ok(value)
            } else {
                Err("`)` is missing".into())
            }
        }
        None | Some(")" | "AND" | "OR" | "WITH") => Err("a licence is missing".into()),
        Some(licence) if words.last() == Some(&"WITH") => {
            words.pop();
            let exception = words.pop().ok_or("an exception is missing")?;
            Ok(allowed.contains(format!("{licence} WITH {exception}").as_str()))
        }
        Some(licence) => Ok(allowed.contains(licence)),
    }
}

/// Returns what `cargo tree` lists with these arguments: each package with its licence.
fn packages(arguments: &[&str]) -> BTreeSet<(String, String)> {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked"])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p}\t{l}"])
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );
    let listing = String::from_utf8(tree.stdout).expect("UTF-8");
    let lines = listing.lines().filter_map(|line| line.split_once('\t'));
    lines
        .map(|(name, licence)| (name.to_owned(), licence.to_owned()))
        .collect()
}

/// Returns the packages whose licence is not in `allowed`.
fn refused(packages: &BTreeSet<(String, String)>, allowed: &BTreeSet<&str>) -> Vec<String> {
    let judged = packages
        .iter()
        .filter_map(|(name, licence)| match satisfied(licence, allowed) {
            Ok(true) => None,
            Ok(false) => Some(format!("{name}: {licence}")),
            Err(error) => Some(format!("{name}: {licence}: {error}")),
        });
    judged.collect()
}

#[test]
fn every_dependency_has_a_compatible_licence() {
    let packages = packages(&["--workspace", "--all-features", "--edges", "all"]);
    let has = |name: &str| {
        packages
            .iter()
            .any(|(package, _)| package.starts_with(name))
    };
    assert!(packages.len() > 10 && has("proptest "), "{packages:?}");
    let refused = refused(&packages, &allowed(include_str!("../../deny.toml")));
    assert!(
        refused.is_empty(),
        "not in the list of deny.toml: {refused:?}"
    );
}

/// Licences of code that may be linked into Linux. Apache-2.0 alone is not such a licence.
const WITH_LINUX: [&str; 6] = [
    "BSD-2-Clause",
    "BSD-3-Clause",
    "GPL-2.0-or-later",
    "ISC",
    "MIT",
    "Zlib",
];

#[test]
fn crates_that_the_engine_needs_may_be_linked_into_linux() {
    let engine = ["--no-default-features", "--features", "engine"];
    let edges = ["--edges", "normal,no-proc-macro"];
    let packages = packages(&[&engine[..], &edges[..]].concat());
    let has = |name: &str| {
        packages
            .iter()
            .any(|(package, _)| package.starts_with(name))
    };
    assert!(has("smbdirect ") && has("slotmap "), "{packages:?}");
    let refused = refused(&packages, &WITH_LINUX.into());
    assert!(refused.is_empty(), "{refused:?}");
}

const SOURCES: [&str; 4] = [".rs", ".py", ".sh", ".c"];

#[test]
fn every_source_file_states_its_licence() {
    let listed = Command::new("git")
        .args(["ls-files"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let listing = match listed {
        Ok(listed) if listed.status.success() => String::from_utf8(listed.stdout).expect("UTF-8"),
        _ => return eprintln!("SKIPPED: no git, or no repository"),
    };
    let is_source = |path: &&str| SOURCES.iter().any(|end| path.ends_with(end));
    let sources: Vec<&str> = listing.lines().filter(is_source).collect();
    assert!(sources.len() > 400, "{}", sources.len());
    let says = |path: &&str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        // A listed file may have been removed since then.
        let text = fs::read_to_string(path).unwrap_or_default();
        let mut first = text.lines().take(2);
        text.is_empty() || first.any(|line| line.ends_with(SAYS))
    };
    let silent: Vec<&str> = sources.into_iter().filter(|path| !says(path)).collect();
    assert!(silent.is_empty(), "without \"{SAYS}\": {silent:?}");
}

/// The licence is in the first line, or in the second line of a script.
const SAYS: &str = "SPDX-License-Identifier: GPL-2.0-or-later";

#[test]
fn understands_licence_expressions() {
    let allowed = BTreeSet::from(["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"]);
    for good in [
        "MIT",
        "GPL-2.0-only OR MIT",
        "Other/MIT",
        "(Other OR MIT) AND Zlib",
        "Apache-2.0 WITH LLVM-exception OR Other",
        "Other AND Other OR Zlib",
    ] {
        assert_eq!(satisfied(good, &allowed), Ok(true), "{good}");
    }
    for bad in [
        "GPL-2.0-only",
        "MIT AND Other",
        "(MIT OR Zlib) AND Other",
        "Apache-2.0",
        "MIT WITH LLVM-exception",
    ] {
        assert_eq!(satisfied(bad, &allowed), Ok(false), "{bad}");
    }
    for broken in ["", "(MIT", "MIT)", "MIT OR", "MIT Zlib", "MIT WITH"] {
        assert!(satisfied(broken, &allowed).is_err(), "{broken}");
    }
}

#[test]
fn reads_the_list_of_a_configuration() {
    let text = "[licenses]\nallow = [\n    \"MIT\", # why\n    \"Zlib\",\n]\nx = [\"No\"]\n";
    assert_eq!(allowed(text), BTreeSet::from(["MIT", "Zlib"]));
}
