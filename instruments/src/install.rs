// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs `make install` into a directory for one test.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::ROOT;

/// Runs `make` with an install goal. If that fails, panics with its output.
pub fn make(goal: &str, root: &Path, variables: &[(&str, &str)]) {
    let mut command = Command::new("make");
    command
        .current_dir(ROOT)
        .arg(goal)
        .arg(format!("DESTDIR={}", root.display()))
        .args(
            variables
                .iter()
                .map(|(name, value)| format!("{name}={value}")),
        );
    // The test may itself run under `make test`.
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL"] {
        command.env_remove(name);
    }
    let output = command.output().expect("make is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "make {goal}: {said}");
}

/// Lists all files and links below a directory, as paths relative to it, in order.
pub fn files(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in fs::read_dir(next).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                left.push(path);
            } else {
                let within = path.strip_prefix(directory).expect("below it");
                found.push(within.to_str().expect("UTF-8").to_owned());
            }
        }
    }
    found.sort();
    found
}
