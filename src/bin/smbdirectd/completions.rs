// SPDX-License-Identifier: GPL-2.0-or-later

//! Compares the completions for shells in contrib/completions with the options of a program. They are checked in, so that
//! neither the programs nor their builds need what makes them.
//!
//! `UPDATE=1 cargo test --bins completions` makes them again.

use std::fs;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/completions");

/// Panics unless the files of a program are those of its options.
pub(crate) fn check(mut command: Command) {
    let name = command.get_name().to_owned();
    for (shell, file) in [
        (Shell::Bash, format!("{name}.bash")),
        (Shell::Zsh, format!("_{name}")),
        (Shell::Fish, format!("{name}.fish")),
    ] {
        let mut made = Vec::new();
        generate(shell, &mut command, &name, &mut made);
        let made = with_licence(&String::from_utf8(made).expect("UTF-8"));
        let path = Path::new(DIRECTORY).join(file);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &made).expect("a file that can be written");
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            found == made,
            "{} is out of date: UPDATE=1 cargo test --bins completions",
            path.display()
        );
    }
}

/// Adds the line that each file of this project begins with, after the one that zsh wants first.
fn with_licence(made: &str) -> String {
    const LICENCE: &str = "# SPDX-License-Identifier: GPL-2.0-or-later\n";
    let first = match made.starts_with("#compdef") {
        true => made.find('\n').map_or(0, |end| end + 1),
        false => 0,
    };
    let (first, rest) = made.split_at(first);
    let lines = rest.lines().map(str::trim_end);
    let rest: String = lines.flat_map(|line| [line, "\n"]).collect();
    format!("{first}{LICENCE}{rest}")
}
