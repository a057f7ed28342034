// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that the shared library has the functions of the header, each with the version from the version script.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use smbdirect::ffi::SMBDIRECT_ABI_VERSION;

use instruments::ROOT;
use instruments::c::{declared, header, output, shared_library};

/// Returns the functions of the version script, with the version of each.
pub(crate) fn scripted() -> BTreeMap<String, String> {
    let script = Path::new(ROOT).join("src/ffi/libsmbdirect.map");
    let script = fs::read_to_string(script).expect("the version script");
    let mut version = "";
    let mut functions = BTreeMap::new();
    for line in script.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(" {") {
            version = name;
        } else if let Some(name) = line
            .strip_suffix(';')
            .filter(|name| name.starts_with("smbdirect_"))
        {
            functions.insert(name.to_owned(), version.to_owned());
        }
    }
    functions
}

#[test]
fn exports_exactly_the_functions_of_the_header_with_their_versions() {
    let arguments = [
        "--dynamic",
        "--defined-only",
        "--extern-only",
        "--with-symbol-versions",
    ];
    let symbols = output(
        "nm",
        &[&arguments[..], &["--format=just-symbols"]].concat(),
        &shared_library(),
    );
    let scripted = scripted();
    let versions = scripted.values().cloned().collect::<BTreeSet<_>>();
    // The versions themselves are also symbols.
    let exported: BTreeMap<String, String> = symbols
        .lines()
        .filter(|symbol| !versions.contains(*symbol))
        .map(|symbol| symbol.split_once("@@").unwrap_or((symbol, "")))
        .map(|(name, version)| (name.to_owned(), version.to_owned()))
        .collect();
    assert_eq!(exported, scripted);
    let header = fs::read_to_string(header()).expect("include/smbdirect.h");
    assert_eq!(
        exported.into_keys().collect::<BTreeSet<_>>(),
        declared(&header)
    );
}

#[test]
fn is_named_by_its_abi_and_needs_only_the_c_library() {
    let library = shared_library();
    let dynamic = output("readelf", &["--dynamic", "--wide"], &library);
    let values = |kind: &str| -> Vec<&str> {
        let lines = dynamic.lines().filter(|line| line.contains(kind));
        lines
            .filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
            .collect()
    };
    assert_eq!(
        values("(SONAME)"),
        [format!("libsmbdirect.so.{SMBDIRECT_ABI_VERSION}")]
    );
    for needed in values("(NEEDED)") {
        let usual = ["libc.so.", "libgcc_s.so.", "ld-linux"]
            .iter()
            .any(|name| needed.starts_with(name));
        assert!(usual, "the library needs {needed}");
    }
    // smbd runs as root, so the table through which functions are called must not stay writable.
    assert!(dynamic.contains("BIND_NOW"), "{dynamic}");
}
