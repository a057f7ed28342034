//! The modules depend on each other only in the direction that `CONTRIBUTING.md` draws, the
//! protocol layers use no `std`, and `unsafe` stays in `sys`.
//!
//! Reads the paths in `src/` (`crate::…`, `super::…`, `std::…`) and compares them with [`LAYERS`].
//! It is a reader of tokens, not of Rust: a path that only a macro builds, or the compiler infers,
//! is not seen. Code under `#[cfg(test)]` may use what it likes, except `unsafe`.

#[path = "layering/self_test.rs"]
mod self_test;
#[path = "layering/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use source::{Source, paths};

/// What a module, with everything below it, may use of the crate besides itself.
struct Layer {
    module: &'static str,
    may_use: &'static [&'static str],
    /// Builds for a target without an operating system: `core`, and `alloc` in constructors.
    needs_no_os: bool,
}

const fn protocol(module: &'static str, may_use: &'static [&'static str]) -> Layer {
    Layer {
        module,
        may_use,
        needs_no_os: true,
    }
}

const fn hosted(module: &'static str, may_use: &'static [&'static str]) -> Layer {
    Layer {
        module,
        may_use,
        needs_no_os: false,
    }
}

/// The layers; of those that match a module, the longest name counts.
const LAYERS: &[Layer] = &[
    protocol("units", &[]),
    protocol("wire", &["units"]),
    protocol("proto", &["wire", "units"]),
    // `fabric` itself: the plain types that the iWARP codecs share with the trait.
    protocol("fabric", &["units"]),
    protocol("fabric::iwarp", &["units", PLAIN_TYPES]),
    hosted("fabric::iwarp::tcp", FABRIC),
    hosted("fabric::regions", FABRIC),
    hosted("fabric::traits", FABRIC),
    hosted("fabric::loopback", FABRIC),
    hosted("fabric::fault", FABRIC),
    hosted("sys", &[]),
    hosted("transport", &["proto", "fabric", "sys", "units", "wire"]),
];

const FABRIC: &[&str] = &["fabric", "units", "sys"];

/// Stands for what `src/fabric/mod.rs` defines itself, in contrast to what it re-exports.
const PLAIN_TYPES: &str = "fabric's own types";
const PLAIN_TYPES_MODULE: &str = "fabric";

/// The layer of a module, as a path from the root of the crate.
fn layer_of(module: &[String]) -> Option<&'static Layer> {
    let matches = |layer: &&Layer| layer.module.split("::").zip(module).all(|(a, b)| a == b);
    let long_enough = |layer: &&Layer| layer.module.split("::").count() <= module.len();
    LAYERS
        .iter()
        .filter(long_enough)
        .filter(matches)
        .max_by_key(|layer| layer.module.len())
}

/// Everything that the files do and may not: one line each.
fn violations(files: &[Source], hosted_crates: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    let modules: BTreeSet<&[String]> = files.iter().map(|file| file.module.as_slice()).collect();
    let plain_types: BTreeSet<&str> = files
        .iter()
        .filter(|file| file.module == [PLAIN_TYPES_MODULE])
        .flat_map(Source::defined)
        .collect();
    for file in files {
        if !file.is_in("sys") && file.tokens.iter().any(|token| token == "unsafe") {
            found.push(format!("{}: `unsafe` outside of sys", file.name));
        }
        let unsafe_allowed = file
            .tokens
            .windows(3)
            .filter(|w| *w == ["allow", "(", "unsafe_code"])
            .count();
        if unsafe_allowed > usize::from(file.module.is_empty()) {
            found.push(format!("{}: allows unsafe_code", file.name));
        }
        if file.module.is_empty() {
            continue; // The root declares the modules; whom they serve is not its business.
        }
        let Some(layer) = layer_of(&file.module) else {
            found.push(format!("{}: its module is in no layer", file.name));
            continue;
        };
        if file.is_test() {
            continue;
        }
        for path in paths(&file.code(), &file.module) {
            let below = |target: &[String]| target.starts_with(&file.module);
            if let Some(why) = refusal(layer, &path, below, &modules, &plain_types, hosted_crates) {
                found.push(format!(
                    "{}: {} uses {}: {why}",
                    file.name,
                    layer.module,
                    path.join("::")
                ));
            }
        }
    }
    found
}

/// Why a layer may not use a path; the path begins with `crate` or the name of another crate.
fn refusal(
    layer: &Layer,
    path: &[String],
    below: impl Fn(&[String]) -> bool,
    modules: &BTreeSet<&[String]>,
    plain_types: &BTreeSet<&str>,
    hosted_crates: &BTreeSet<String>,
) -> Option<String> {
    let [first, rest @ ..] = path else {
        return None;
    };
    if first != "crate" {
        let needs_os = first == "std" || hosted_crates.contains(first);
        return (layer.needs_no_os && needs_os)
            .then(|| "it must do without an operating system".into());
    }
    // The module that the path leads to: its longest beginning that is one.
    let length = (0..=rest.len())
        .rev()
        .find(|n| modules.contains(&rest[..*n]))
        .unwrap_or(0);
    let (module, item) = rest.split_at(length);
    let Some(target) = layer_of(module) else {
        return Some("name the module".into());
    };
    let is_below =
        |name: &str| target.module == name || target.module.starts_with(&format!("{name}::"));
    let own = target.module == layer.module;
    let plain = layer.may_use.contains(&PLAIN_TYPES)
        && module == [PLAIN_TYPES_MODULE]
        && item
            .first()
            .is_some_and(|name| plain_types.contains(name.as_str()));
    // A parent may re-export its children, whatever their layer.
    let child = !module.is_empty() && below(module);
    let allowed = layer.may_use.iter().any(|name| is_below(name));
    (!own && !plain && !child && !allowed)
        .then(|| format!("it may use {}", layer.may_use.join(", ")))
}

/// The dependencies that only the feature `fabric` brings.
fn optional_dependencies(manifest: &str) -> BTreeSet<String> {
    let optional = manifest
        .lines()
        .filter(|line| line.contains("optional = true"));
    optional
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

fn read(directory: &Path, root: &Path, files: &mut Vec<Source>) {
    let entries = fs::read_dir(directory).expect("src is readable");
    for path in entries.map(|entry| entry.expect("src is readable").path()) {
        if path.is_dir() {
            read(&path, root, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .to_str()
                .expect("UTF-8");
            files.push(Source::new(
                name,
                &fs::read_to_string(&path).expect("UTF-8"),
            ));
        }
    }
}

#[test]
fn modules_depend_in_one_direction_and_unsafe_stays_in_sys() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read(&root.join("src"), &root.join("src"), &mut files);
    let hosted_crates = optional_dependencies(include_str!("../Cargo.toml"));
    assert!(
        hosted_crates.contains("libc") && files.len() > 5,
        "nothing was read"
    );

    let library = files
        .iter()
        .find(|file| file.module.is_empty())
        .expect("src/lib.rs");
    let deny = ["#", "!", "[", "deny", "(", "unsafe_code", ")", "]"];
    assert!(
        library.tokens.windows(deny.len()).any(|w| w == deny),
        "src/lib.rs must deny unsafe_code"
    );

    let found = violations(&files, &hosted_crates);
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
