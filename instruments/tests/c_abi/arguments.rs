// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests arguments that calls refuse, and callers that are newer than the library.

use std::fs;

use crate::errors::Others;
use instruments::c::programs::{Build, Running, program, source};
use instruments::c::{declared, header};

#[test]
fn null_pointers_and_unknown_structures_are_refused_and_newer_callers_are_served() {
    for build in Build::ALL {
        let mut others = Others::new();
        let arguments = program(&source("arguments.c"), build);
        let running = Running::start(&arguments, &[others.control()]);
        others.play(running, "done");
    }
}

#[test]
fn no_function_and_no_structure_of_the_header_is_left_out() {
    let header = fs::read_to_string(header()).expect("the header");
    let text = fs::read_to_string(source("arguments.c")).expect("the program");
    let functions = declared(&header);
    let structures = header
        .lines()
        .filter_map(|line| line.strip_prefix("struct ")?.strip_suffix(" {"));
    for name in functions.iter().map(String::as_str).chain(structures) {
        assert!(text.contains(name), "{name} is not in arguments.c");
    }
}
