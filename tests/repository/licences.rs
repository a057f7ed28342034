//! Every dependency has a licence that this GPL-3.0-or-later crate may be combined with.
//!
//! Reads the expressions that `cargo tree` reports and the list in `deny.toml`: what cargo-deny
//! does, without having to install it. Dependencies of other operating systems are not looked at.

use std::collections::BTreeSet;
use std::process::Command;

/// The licences of `[licenses] allow` in a cargo-deny configuration.
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

/// Whether an SPDX expression can be satisfied with `allowed` licences alone. `/` is an old `OR`.
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

#[test]
fn every_dependency_has_a_compatible_licence() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--workspace",
            "--all-features",
            "--edges",
            "all",
        ])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p}\t{l}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    assert!(
        tree.status.success(),
        "{}",
        String::from_utf8_lossy(&tree.stderr)
    );

    let listing = String::from_utf8(tree.stdout).expect("UTF-8");
    let packages: BTreeSet<(&str, &str)> = listing
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .collect();
    assert!(
        packages.len() > 10,
        "cargo tree lists hardly anything:\n{listing}"
    );
    assert!(
        packages
            .iter()
            .any(|(name, _)| name.starts_with("proptest ")),
        "tests' dependencies are missing"
    );

    let allowed = allowed(include_str!("../../deny.toml"));
    let refused: Vec<String> = packages
        .iter()
        .filter_map(|(name, licence)| match satisfied(licence, &allowed) {
            Ok(true) => None,
            Ok(false) => Some(format!("{name}: {licence}")),
            Err(error) => Some(format!("{name}: {licence}: {error}")),
        })
        .collect();
    assert!(
        refused.is_empty(),
        "not in the list of deny.toml:\n{}",
        refused.join("\n")
    );
}

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
