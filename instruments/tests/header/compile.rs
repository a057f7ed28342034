// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that the header compiles as C99 and as C++, without warnings from a strict compiler.

use std::fs;

use instruments::c::{compile, directory};

#[test]
fn compiles_as_c99_and_as_cpp() {
    let directory = directory("header-compile");
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
