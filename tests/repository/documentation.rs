// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that `tools/docs.py` finds nothing wrong with the documentation.

use std::io::Write;
use std::process::Command;

#[test]
fn links_spelling_and_names_in_the_documentation_are_right() {
    let root = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new("python3");
    command.arg("tools/docs.py").current_dir(root);
    let said = match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "tools/docs.py:\n{said}{output:?}");
            said
        }
        Err(error) => format!("SKIPPED: links and spelling: python3: {error}\n"),
    };
    // Report what was skipped. Do not use a macro: the test harness captures its output.
    for line in said.lines().filter(|line| line.starts_with("SKIPPED: ")) {
        let text = format!("\n{line}\n");
        let mut file = std::io::stderr();
        file.write_all(text.as_bytes()).expect("standard error");
    }
}
