// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that the static library has the functions of the header, and nothing that smbd does not want.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use instruments::c::{declared, directory, header, library, link, output};

#[test]
fn exports_the_functions_of_the_header_and_pulls_in_no_thread_and_no_rdma() {
    let library = library();
    let header = fs::read_to_string(header()).unwrap();
    let symbols = output(
        "nm",
        &["--defined-only", "--extern-only", "--format=just-symbols"],
        library,
    );
    let is_ours = |symbol: &&str| symbol.starts_with("smbdirect_");
    let exported: BTreeSet<String> = symbols.lines().filter(is_ours).map(str::to_owned).collect();
    assert_eq!(exported, declared(&header));
    for crate_name in ["tracing", "mio", "crc32c", "clap", "rdma_sys"] {
        let mangled = format!("{}{crate_name}", crate_name.len());
        let found = symbols.lines().find(|symbol| symbol.contains(&mangled));
        assert_eq!(found, None, "the library contains {crate_name}");
    }

    // Link a program that uses all functions as smbd is linked.
    let directory = directory("header-library");
    let (source, program) = (directory.join("all.c"), directory.join("all"));
    let uses: String = exported
        .iter()
        .map(|name| format!("\t(function)(void *){name},\n"))
        .collect();
    let text = format!(
        "#include <stdio.h>\n#include <smbdirect.h>\ntypedef void (*function)(void);\n\
         static function volatile all[] = {{\n{uses}}};\n\
         int main(void)\n{{\n\treturn all[0] == NULL || \
         smbdirect_abi_version() != SMBDIRECT_ABI_VERSION;\n}}\n"
    );
    fs::write(&source, text).unwrap();
    // ISO C has no conversion between pointers to data and to functions, but every system that has the device has one.
    link(&source, &["-Wno-pedantic"], &program);
    assert!(Command::new(&program).status().expect("it runs").success());

    let needed = output(
        "nm",
        &["--undefined-only", "--dynamic", "--format=just-symbols"],
        &program,
    );
    for unwanted in [
        "pthread_create",
        "ibv_",
        "rdma_",
        "signal",
        "sigaction",
        "fork",
    ] {
        let found = needed.lines().find(|symbol| {
            symbol
                .trim_start()
                .trim_start_matches("U ")
                .starts_with(unwanted)
        });
        assert_eq!(found, None, "the library uses {unwanted}");
    }
    assert!(
        needed.lines().any(|symbol| symbol.contains("madvise")),
        "nothing was linked"
    );
}
