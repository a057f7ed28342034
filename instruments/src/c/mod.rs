// SPDX-License-Identifier: GPL-2.0-or-later

//! The libraries, and C programs that link the static one as smbd does.

pub mod programs;
pub mod smbd;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::ROOT;

/// Returns the path of the header.
pub fn header() -> PathBuf {
    Path::new(ROOT).join("include/smbdirect.h")
}

/// Returns the functions that the header declares.
pub fn declared(header: &str) -> BTreeSet<String> {
    let words = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '(');
    let functions = words.filter_map(|word| {
        let (name, _) = word.split_once('(')?;
        name.starts_with("smbdirect_").then(|| name.to_owned())
    });
    functions.collect()
}

/// The arguments that a program is linked with after its own objects.
const LIBRARIES: [&str; 3] = ["-Wl,--gc-sections", "-lgcc_s", "-lc"];

/// Returns the directory that cargo keeps for tests: `tmp` in the target directory of the running test.
fn temporary() -> PathBuf {
    let test = std::env::current_exe().expect("the path of the test");
    let is_target = |path: &&Path| path.join("CACHEDIR.TAG").exists();
    let target = test.ancestors().find(is_target);
    target.expect("a target directory").join("tmp")
}

/// Makes a directory for one test.
pub fn directory(name: &str) -> PathBuf {
    let directory = temporary().join(name);
    fs::create_dir_all(&directory).expect("the target directory is writable");
    directory
}

/// Compiles `source` with the header's directory in the path, and fails with the compiler's output.
pub fn compile(compiler: &str, standard: &str, source: &Path, arguments: &[&str]) {
    let output = Command::new(compiler)
        .args([
            &format!("-std={standard}"),
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
        ])
        .args(["-Wshadow", "-Wconversion", "-I"])
        .arg(header().parent().expect("include"))
        .arg(source)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}: a C compiler is needed"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{compiler} -std={standard}: {messages}"
    );
}

/// Compiles and links a program with the library.
pub fn link(source: &Path, arguments: &[&str], program: &Path) {
    let library = library();
    let paths = [library.to_str(), program.to_str()].map(|path| path.expect("UTF-8"));
    let output = [&[paths[0]], &LIBRARIES[..], &["-o", paths[1]]].concat();
    compile("cc", "gnu11", source, &[arguments, &output].concat());
}

/// Returns `libsmbdirect.a` as smbd links it.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| built().join("libsmbdirect.a"))
}

/// Returns the path of the shared library, under the name with which programs load it.
pub fn shared_library() -> PathBuf {
    let header = fs::read_to_string(header()).expect("include/smbdirect.h");
    let mut words = header.split_whitespace();
    let abi = words.by_ref().find(|&word| word == "SMBDIRECT_ABI_VERSION");
    let number = abi.and_then(|_| words.next()).expect("its number");
    built().join(format!("libsmbdirect.so.{number}"))
}

/// Returns the directory that contains both libraries, built as for installation.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // All tests that need the libraries share this directory; cargo rebuilds only what has changed.
        let target = temporary().join("staticlib");
        let output = Command::new(Path::new(ROOT).join("tools/build.sh"))
            .arg("library")
            .env("CARGO_TARGET_DIR", &target)
            .env_remove("CARGO_BUILD_TARGET")
            .output()
            .expect("tools/build.sh");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "the libraries do not build: {said}"
        );
        target.join("release")
    })
}

/// Runs a program on a file, and returns its standard output.
pub fn output(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {}", file.display());
    String::from_utf8(output.stdout).expect("UTF-8")
}
