// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds the blocks of commands in `docs` that tests run unchanged.
//!
//! A block that begins with three backticks and `sh run` is run with a smbdirectd, and one with `sh run-samba` is run
//! with a real smbd. The commands find scripts that have the programs' names and add what a test needs: another control
//! socket or another configuration.

use std::fmt;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::ROOT;

/// A block of commands.
pub struct Block {
    /// The page that it is on.
    pub page: String,
    pub line: usize,
    pub commands: String,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "docs/{}:{}", self.page, self.line)
    }
}

/// Returns the blocks that have this word after `sh`, page by page.
pub fn blocks(marker: &str) -> Vec<Block> {
    let pages = fs::read_dir(Path::new(ROOT).join("docs")).expect("docs");
    let mut pages: Vec<PathBuf> = pages.map(|entry| entry.expect("a page").path()).collect();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    let mut blocks = Vec::new();
    for page in pages {
        let text = fs::read_to_string(&page).expect("a page");
        let name = page.file_name().expect("a name").to_string_lossy();
        blocks.extend(blocks_of(&name, &text, marker));
    }
    blocks
}

fn blocks_of(page: &str, text: &str, marker: &str) -> Vec<Block> {
    let begin = format!("```sh {marker}");
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line, text) in (1..).zip(text.lines()) {
        match &mut open {
            Some(_) if text == "```" => blocks.extend(open.take()),
            Some(block) => block.commands.extend([text, "\n"]),
            None if text == begin => {
                open = Some(Block {
                    page: page.to_owned(),
                    line,
                    commands: String::new(),
                });
            }
            None => {}
        }
    }
    assert!(open.is_none(), "{page}: a block does not end");
    blocks
}

/// Makes a program for the commands: a shell script.
pub fn program(directory: &Path, name: &str, script: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("an executable script");
}

impl Block {
    /// Runs the commands with the programs of a directory in front of all others, and stops at the first that fails.
    pub fn run(&self, directory: &Path) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-e", "-o", "pipefail", "-c", &self.commands]);
        command.env("PATH", format!("{}:{path}", directory.display()));
        command.output().expect("bash runs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_its_place_and_its_commands() {
        let text = "# A\n\n```sh run\na\nb\n```\n\n```sh\nc\n```\n\n```sh run-samba\nd\n```\n";
        let found = blocks_of("x.md", text, "run");
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].commands, "a\nb\n");
        assert_eq!(found[0].to_string(), "docs/x.md:3");
        assert_eq!(blocks_of("x.md", text, "run-samba")[0].commands, "d\n");
    }

    #[test]
    fn a_block_ends_with_the_first_command_that_fails() {
        let run = |commands: &str| {
            let block = Block {
                page: "x.md".to_owned(),
                line: 1,
                commands: commands.to_owned(),
            };
            block.run(Path::new("/nowhere")).status.success()
        };
        assert!(run("true\ntrue | cat\n"));
        assert!(!run("false\ntrue\n"));
        assert!(!run("false | cat\n"));
    }
}
