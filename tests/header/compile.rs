//! The header compiles as C99 and as C++, and says nothing that a strict compiler warns of.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of one test's own.
pub(crate) fn directory(name: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("header-{name}"));
    fs::create_dir_all(&directory).expect("the target directory is writable");
    directory
}

/// Compiles `source` with the header's directory in the path, and fails with what the compiler says.
pub(crate) fn compile(compiler: &str, standard: &str, source: &Path, arguments: &[&str]) {
    let output = Command::new(compiler)
        .args([
            &format!("-std={standard}"),
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
        ])
        .args(["-Wshadow", "-Wconversion", "-I"])
        .arg(super::header().parent().expect("include"))
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

#[test]
fn compiles_as_c99_and_as_cpp() {
    let directory = directory("compile");
    for (compiler, standard, name) in [
        ("cc", "c99", "twice.c"),
        ("cc", "gnu11", "twice.c"),
        ("c++", "c++11", "twice.cc"),
        ("c++", "c++20", "twice.cc"),
    ] {
        let source = directory.join(format!("{standard}-{name}"));
        let text = "#include <smbdirect.h>\n#include <smbdirect.h>\nint main(void) { return 0; }\n";
        fs::write(&source, text).unwrap();
        compile(compiler, standard, &source, &["-fsyntax-only"]);
    }
}
