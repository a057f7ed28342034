// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that the modules depend on each other only in the directions that `CONTRIBUTING.md` lists, that the protocol
//! layers and the engine do not use `std`, that the engine names nothing that belongs to a process, and that `unsafe`
//! stays in [`UNSAFE`].
//!
//! This reads the paths in `src/` (`crate::…`, `super::…`, `std::…`) and compares them with [`LAYERS`]. It reads
//! tokens, not Rust, so it does not see a path that only a macro builds or that the compiler infers. The programs in
//! `src/bin` are a layer, too: they call the library `smbdirect::…`. Code under `#[cfg(test)]` may use anything except
//! `unsafe`. Code under `#[cfg(feature = "…")]` may use `std`, unless `engine` is among the features, because such code
//! does not exist without an operating system.

mod self_test;
mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use source::{Source, paths};

/// What a module, with everything below it, may use of the crate besides itself.
struct Layer {
    module: &'static str,
    may_use: &'static [&'static str],
    /// Whether it builds for a target without an operating system: with only `core` and `alloc`, except for modules and
    /// items under features that need an operating system.
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

/// The layers. If several match a module, the longest name counts.
const LAYERS: &[Layer] = &[
    protocol("units", &[]),
    protocol("wire", &["units"]),
    protocol("proto", &["wire", "units"]),
    // `fabric` itself has the plain types that the iWARP codecs share with the trait.
    protocol("fabric", &["units"]),
    protocol("fabric::regions", &["units", PLAIN_TYPES]),
    protocol("fabric::iwarp", &["units", "fabric::regions", PLAIN_TYPES]),
    protocol("sys", &[]),
    protocol("shm", &["units", "sys"]),
    protocol("device", &["wire", "shm", "sys", "units"]),
    protocol("transport", &["proto", "fabric", "sys", "units", "wire"]),
    protocol(
        ENGINE,
        &[
            "device",
            "transport",
            "proto",
            "fabric",
            "shm",
            "sys",
            "wire",
            "units",
        ],
    ),
    hosted("ffi", &["device"]),
    hosted(
        "broker",
        &[
            ENGINE,
            "device",
            "transport",
            "proto",
            "fabric",
            "shm",
            "sys",
            "wire",
            "units",
        ],
    ),
    hosted(
        "bridge",
        &["transport", "proto", "fabric", "sys", "wire", "units"],
    ),
    hosted(
        "bin",
        &[
            "bridge",
            "broker",
            "device",
            "transport",
            "proto",
            "fabric",
            "units",
        ],
    ),
];

/// The part of `fabric` that exists only with a feature that needs an operating system (`#[cfg(feature = "fabric")] mod
/// …`): the fabrics.
const FABRICS: Layer = hosted("fabric::*", &["fabric", "units", "sys"]);

/// The part of `fabric` that exists only with the feature `engine`: the trait, which names no fabric.
const TRAIT: Layer = protocol("fabric::trait", &["fabric", "units", "sys"]);

const ENGINE: &str = "engine";

/// Words that do not occur in names in the engine, such as in `file_of` or `SpawnThread`.
const OF_PROCESSES: &[&str] = &[
    "thread", "threads", "socket", "sockets", "file", "files", "fd", "path", "json", "serde",
];

/// The modules that may use `unsafe`, with everything below them.
const UNSAFE: &[&str] = &["sys", "shm::map", "fabric::verbs::ffi", "ffi"];

/// This stands for the items that `src/fabric/mod.rs` defines itself, as opposed to items that it re-exports.
const PLAIN_TYPES: &str = "fabric's own types";

/// All files, and what is needed to judge each.
struct Tree<'a> {
    files: &'a [Source],
    modules: BTreeSet<&'a [String]>,
    /// Modules that exist only with a feature, and whether that feature needs an operating system.
    featured: BTreeMap<Vec<String>, bool>,
    plain_types: BTreeSet<&'a str>,
    /// Dependencies that need an operating system.
    hosted_crates: &'a BTreeSet<String>,
}

impl<'a> Tree<'a> {
    fn new(files: &'a [Source], hosted_crates: &'a BTreeSet<String>) -> Self {
        let fabric = files.iter().filter(|file| file.module == ["fabric"]);
        Self {
            files,
            modules: files.iter().map(|file| file.module.as_slice()).collect(),
            featured: files.iter().flat_map(Source::featured_modules).collect(),
            plain_types: fabric.flat_map(Source::defined).collect(),
            hosted_crates,
        }
    }

    /// Returns the layer of a module, which is a path from the root of the crate.
    fn layer_of(&self, module: &[String]) -> Option<&'static Layer> {
        let is_in = |layer: &&Layer| {
            let mut name = layer.module.split("::");
            let begins = name.by_ref().zip(module).all(|(a, b)| a == b);
            begins && layer.module.split("::").count() <= module.len()
        };
        let layer = LAYERS
            .iter()
            .filter(is_in)
            .max_by_key(|layer| layer.module.len())?;
        let is_fabric = layer.module.starts_with("fabric");
        Some(match self.hosted(module) {
            Some(true) if is_fabric => &FABRICS,
            Some(false) if is_fabric => &TRAIT,
            _ => layer,
        })
    }

    /// Returns whether the module, or a module that contains it, needs an operating system; `None` if it exists with
    /// any features.
    fn hosted(&self, module: &[String]) -> Option<bool> {
        (1..=module.len())
            .filter_map(|n| self.featured.get(&module[..n]).copied())
            .max()
    }

    /// Returns everything that the files do but may not do, one line for each.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for file in self.files {
            if let Some(what) = unsafe_code(file) {
                found.push(format!("{}: {what}", file.name));
            }
            if file.module.is_empty() {
                continue; // The root only declares the modules.
            }
            let Some(layer) = self.layer_of(&file.module) else {
                found.push(format!("{}: its module is not in a layer", file.name));
                continue;
            };
            if file.is_test() {
                continue;
            }
            let needs_no_os = layer.needs_no_os && self.hosted(&file.module) != Some(true);
            if needs_no_os {
                let code = file.code_without_os();
                for path in paths(&code, &file.module) {
                    if path[0] == "std" || self.hosted_crates.contains(&path[0]) {
                        let (name, path) = (&file.name, path.join("::"));
                        let why = "it must do without an operating system";
                        found.push(format!("{name}: {} uses {path}: {why}", layer.module));
                    }
                }
                let of_process = |word: &&String| layer.module == ENGINE && is_of_process(word);
                for word in code.iter().filter(of_process) {
                    let why = "the engine knows no process";
                    found.push(format!("{}: {word}: {why}", file.name));
                }
            }
            for mut path in paths(&file.code(), &file.module) {
                // The programs refer to this crate by its name.
                if layer.module == "bin" && path[0] == env!("CARGO_PKG_NAME") {
                    path[0] = "crate".to_owned();
                }
                if let Some(why) = self.refusal(layer, &file.module, &path) {
                    let (name, path) = (&file.name, path.join("::"));
                    found.push(format!("{name}: {} uses {path}: {why}", layer.module));
                }
            }
        }
        found
    }

    /// Returns why a module of a layer may not use a path, which begins with `crate` or with another crate.
    fn refusal(&self, layer: &Layer, user: &[String], path: &[String]) -> Option<String> {
        let [first, rest @ ..] = path else {
            return None;
        };
        if first != "crate" {
            return None;
        }
        // Find the module to which the path leads: the path's longest prefix that is a module.
        let is_module = |n: &usize| self.modules.contains(&rest[..*n]);
        let (module, item) = rest.split_at((0..=rest.len()).rev().find(is_module).unwrap_or(0));
        let Some(target) = self.layer_of(module) else {
            return Some("name the module".into());
        };
        if layer.module == TRAIT.module && target.module == "fabric::iwarp" {
            return Some("the trait may not name a fabric".into());
        }
        let may_use =
            |name: &&str| target.module == *name || target.module.starts_with(&format!("{name}::"));
        let plain_type = module == ["fabric"]
            && item
                .first()
                .is_some_and(|name| self.plain_types.contains(name.as_str()));
        let allowed = target.module == layer.module
            || layer.may_use.iter().any(may_use)
            || layer.may_use.contains(&PLAIN_TYPES) && plain_type
            // A parent may re-export its children, whatever their layer.
            || module.starts_with(user);
        (!allowed).then(|| format!("it may use {}", layer.may_use.join(", ")))
    }
}

/// Finds `unsafe` that is in the wrong place, or permission for it.
fn unsafe_code(file: &Source) -> Option<&'static str> {
    let module = file.module.join("::");
    let is_below = |name: &&str| {
        let rest = module.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    if !UNSAFE.iter().any(is_below) && file.tokens.iter().any(|token| token == "unsafe") {
        return Some("`unsafe` outside the modules that may use it");
    }
    let leave = ["allow", "(", "unsafe_code"];
    let leaves = file.tokens.windows(3).filter(|w| *w == leave).count();
    // Only the parent that declares such a module may permit `unsafe`.
    let is_declared = |name: &&&str| match name.rsplit_once("::") {
        Some((parent, _)) => parent == module,
        None => module.is_empty(),
    };
    let expected = UNSAFE.iter().filter(is_declared).count();
    (leaves > expected).then_some("allows unsafe_code")
}

/// Returns whether a name contains a word that belongs to a process. `SocketAddr` is a value.
fn is_of_process(name: &str) -> bool {
    let mut words = String::new();
    for c in name.replace("SocketAddr", "").chars() {
        if c.is_uppercase() {
            words.push('_');
        }
        words.extend(c.to_lowercase());
    }
    words.split('_').any(|word| OF_PROCESSES.contains(&word))
}

/// Returns the dependencies that only a feature brings, except those of the feature `engine`.
fn optional_dependencies(manifest: &str) -> BTreeSet<String> {
    let engine = manifest.lines().find(|line| line.starts_with("engine = "));
    let engine = engine.unwrap_or_default();
    let optional = manifest
        .lines()
        .filter(|line| line.contains("optional = true"));
    optional
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| !engine.contains(&format!("\"dep:{name}\"")))
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
fn modules_depend_in_one_direction_and_unsafe_stays_where_it_may_be() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    read(&root.join("src"), &root.join("src"), &mut files);
    let hosted_crates = optional_dependencies(include_str!("../../Cargo.toml"));
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

    let found = Tree::new(&files, &hosted_crates).violations();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}
