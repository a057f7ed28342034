// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests a program outside this tree that finds the installed library with pkg-config.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::example::{extracted, serves};
use instruments::c::{built, output, shared_library};
use instruments::daemon::Directory;
use instruments::install::make;

/// Returns the output of pkg-config about the library that is installed below `root`.
fn pkg_config(root: &Path, libdir: &str, arguments: &[&str]) -> String {
    let output = Command::new("pkg-config")
        .env("PKG_CONFIG_SYSROOT_DIR", root)
        .env(
            "PKG_CONFIG_LIBDIR",
            format!("{}{libdir}/pkgconfig", root.display()),
        )
        .args(arguments)
        .arg("smbdirect")
        .output()
        .expect("pkg-config is installed");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .expect("UTF-8")
        .trim()
        .to_owned()
}

#[test]
fn a_program_builds_by_pkg_config_and_runs_with_the_shared_library() {
    let directory = Directory::new();
    let root = directory.0.join("root");
    // Use other directories than the defaults, so that smbdirect.pc must name them.
    let (prefix, libdir) = ("/opt/smbdirect", "/opt/smbdirect/lib/some-triplet");
    let built = built().to_str().expect("UTF-8");
    let variables = [("PREFIX", prefix), ("LIBDIR", libdir), ("BUILT", built)];
    make("install-library", &root, &variables);

    let version = pkg_config(&root, libdir, &["--modversion"]);
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    let flags = pkg_config(&root, libdir, &["--cflags", "--libs"]);
    let (source, program) = (
        directory.file("example.c", &extracted()),
        directory.0.join("example"),
    );
    let shared = root.join(&libdir[1..]);
    let compiled = Command::new("cc")
        .current_dir(&directory.0)
        .args(["-Wall", "-Werror", "-o"])
        .args([&program, &source])
        .args(flags.split_whitespace())
        .arg(format!("-Wl,-rpath,{}", shared.display()))
        .output()
        .expect("a C compiler");
    assert!(compiled.status.success(), "{compiled:?}");

    // If there were no shared library, the compiler would take the static one.
    let dynamic = output("readelf", &["--dynamic", "--wide"], &program);
    let name = shared_library();
    let needed = format!(
        "Shared library: [{}]",
        name.file_name().expect("a name").to_str().expect("UTF-8")
    );
    assert!(dynamic.contains(&needed), "{dynamic}");
    serves(&program);

    make("uninstall", &root, &variables);
    assert_eq!(instruments::install::files(&root), [""; 0]);
    let without = Command::new(&program)
        .arg("/nonexistent")
        // cargo sets this variable to directories of its own builds, where the library may be.
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .expect("it starts");
    assert!(!fs::exists(shared.join("libsmbdirect.so")).expect("a folder"));
    assert_eq!(
        without.status.code(),
        Some(127),
        "it runs without the library: {without:?}"
    );
}
