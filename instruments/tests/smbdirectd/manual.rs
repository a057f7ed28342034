// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that the manual, the example and the programs agree on each option, each key and each default.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use instruments::ROOT;
use instruments::daemon::{Daemon, SMBDIRECTCTL, SMBDIRECTD};
use smbdirect::broker::status::ClientStatus;
use smbdirect::broker::{Applies, KEYS, Settings};

const SMBDIRECTD_PAGE: &str = include_str!("../../../docs/man/smbdirectd.8");
const SMBDIRECTCTL_PAGE: &str = include_str!("../../../docs/man/smbdirectctl.8");
const CONFIGURATION: &str = include_str!("../../../docs/man/smbdirectd.toml.5");
const EXAMPLE: &str = include_str!("../../../contrib/smbdirectd.toml");

/// Returns the words after `--` in the help of a program.
fn options_of(program: &Path, arguments: &[&str]) -> BTreeSet<String> {
    let output = Command::new(program)
        .args(arguments)
        .arg("--help")
        .output()
        .expect("the program runs");
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let words = help.split(|c: char| !c.is_ascii_lowercase() && c != '-');
    words
        .filter_map(|word| word.strip_prefix("--"))
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Returns the words after `Fl -` in a page of the manual.
fn flags_in(page: &str) -> BTreeSet<String> {
    let mut flags = BTreeSet::new();
    for line in page.lines().filter(|line| line.contains("Fl ")) {
        let words = line.split_whitespace();
        flags.extend(
            words
                .filter_map(|word| word.strip_prefix('-'))
                .map(str::to_owned),
        );
    }
    flags
}

/// Returns the keys of a configuration without their tables, and their values as people write them.
fn keys(toml: &str) -> Vec<(&str, String)> {
    let lines = toml.lines().filter_map(|line| line.split_once(" = "));
    lines
        .map(|(key, value)| (key, value.replace('"', "")))
        .collect()
}

#[test]
fn the_manual_has_every_option_and_no_other() {
    let smbdirectd = options_of(&SMBDIRECTD, &[]);
    assert!(smbdirectd.contains("check-config"), "{smbdirectd:?}");
    // The page also names options of another program.
    let mut flags = flags_in(SMBDIRECTD_PAGE);
    flags.retain(|flag| flag.len() > 1);
    assert_eq!(flags, smbdirectd);

    let program = &*SMBDIRECTCTL;
    let mut smbdirectctl = options_of(program, &[]);
    for command in [
        "status", "top", "events", "metrics", "capture", "doctor", "bridge", "bench",
    ] {
        smbdirectctl.append(&mut options_of(program, &[command]));
    }
    assert!(smbdirectctl.contains("json"), "{smbdirectctl:?}");
    assert_eq!(flags_in(SMBDIRECTCTL_PAGE), smbdirectctl);
}

/// Lists each command: the program, and the words that select the command.
fn commands() -> Vec<(&'static Path, Vec<String>)> {
    let mut found: Vec<(&Path, Vec<String>)> =
        vec![(&SMBDIRECTD, Vec::new()), (&SMBDIRECTCTL, Vec::new())];
    let mut next = 0;
    while let Some((program, words)) = found.get(next).cloned() {
        next += 1;
        let help = help(program, &words);
        let Some((_, commands)) = help.split_once("\nCommands:\n") else {
            continue;
        };
        let commands = commands.lines().take_while(|line| !line.is_empty());
        // If a description takes more lines, they are indented further.
        let commands = commands.filter_map(|line| line.strip_prefix("  "));
        for command in commands.filter(|line| !line.starts_with(' ')) {
            let name = command.split(' ').next().expect("a word").to_owned();
            if name != "help" {
                found.push((program, [words.clone(), vec![name]].concat()));
            }
        }
    }
    found
}

fn help(program: &Path, words: &[String]) -> String {
    let mut command = Command::new(program);
    // Use a wide terminal.
    command.args(words).arg("--help").env("COLUMNS", "300");
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn the_help_of_each_command_fits_100_columns() {
    let commands = commands();
    assert!(commands.len() >= 5, "{commands:?}");
    for (program, words) in commands {
        for line in help(program, &words).lines() {
            assert!(line.chars().count() <= 100, "{words:?}: {line}");
        }
    }
}

#[test]
fn the_manual_has_every_command() {
    let commands = commands();
    let commands = commands.iter().filter(|(_, words)| !words.is_empty());
    let names: BTreeSet<&str> = commands.map(|(_, words)| words[0].as_str()).collect();
    assert!(names.contains("status"), "{names:?}");
    for name in names {
        let synopsis = format!("\n.Nm\n.Cm {name}\n");
        let description = format!("\n.It Cm {name}\n");
        for wanted in [synopsis, description] {
            assert!(SMBDIRECTCTL_PAGE.contains(&wanted), "{wanted}");
        }
    }
}

#[test]
fn the_manual_has_every_member_of_the_status() {
    let mut sections = SMBDIRECTCTL_PAGE.split("\n.Ss ");
    let section = sections.find(|it| it.starts_with("JSON of the status\n"));
    let section = section.expect("a section");
    let items = section.lines().filter_map(|it| it.strip_prefix(".It "));
    let items: BTreeSet<&str> = items.flat_map(|names| names.split(" , ")).collect();
    let status = Daemon::start(&[]).status();
    for name in status.as_object().expect("an object").keys() {
        assert!(items.contains(name.as_str()), "{name}");
    }
    let client = serde_json::json!({
        "address": "10.0.0.1", "at_seconds": 1.0, "asked": 0, "withheld": 0, "refused": 0,
    });
    let client: ClientStatus = serde_json::from_value(client).expect("a client");
    let client = serde_json::to_value(client).expect("JSON");
    let words: BTreeSet<&str> = section.split_whitespace().collect();
    for name in client.as_object().expect("an object").keys() {
        assert!(words.contains(name.as_str()) || name == "address", "{name}");
    }
}

#[test]
fn the_manual_has_every_key_and_no_other() {
    let toml = Settings::default().to_toml();
    let keys: BTreeSet<&str> = keys(&toml).into_iter().map(|(key, _)| key).collect();
    let items = CONFIGURATION.lines();
    let items: BTreeSet<&str> = items
        .filter_map(|line| line.strip_prefix(".It Cm "))
        .collect();
    assert_eq!(items, keys);
    for table in toml.lines().filter_map(|line| line.strip_prefix('[')) {
        let table = table.trim_end_matches(']');
        let named = [format!(".Ss Table {table}\n"), format!("\n.Cm {table}\n")];
        assert!(
            named.iter().any(|text| CONFIGURATION.contains(text)),
            "{table}"
        );
    }
}

#[test]
fn the_manual_has_the_real_defaults() {
    let toml = Settings::default().to_toml();
    let mut checked = 0;
    for (key, value) in keys(&toml) {
        // Skip values that depend on the machine, or that are described in words.
        if [
            "reactors",
            "memory_limit",
            "status_group",
            "listen",
            "gateways",
        ]
        .contains(&key)
        {
            continue;
        }
        let items = CONFIGURATION.split("\n.It Cm ");
        let item = items.filter(|item| item.lines().next() == Some(key)).last();
        let item = item.expect("every key is there");
        let (_, default) = item.split_once("Default:").expect("a default");
        assert!(default.contains(&value), "{key}: {value}");
        checked += 1;
    }
    assert!(checked > 30, "{checked}");
}

/// Returns the name of the section of the manual that has the keys of a table, and the name of the key there.
fn place_of(key: &str) -> (String, &str) {
    match key.rsplit_once('.') {
        None => ("General".to_owned(), key),
        Some((table, name)) => {
            let outer = table.split('.').next().expect("a name");
            (format!("Table {outer}"), name)
        }
    }
}

#[test]
fn the_manual_says_of_each_key_when_a_change_takes_effect() {
    for (key, applies) in KEYS {
        let (section, name) = place_of(key);
        let mut sections = CONFIGURATION.split("\n.Ss ");
        let found = sections.find(|it| it.lines().next() == Some(section.as_str()));
        let found = found.and_then(|it| it.split("\n.Sh ").next());
        let mut items = found.expect("a section").split("\n.It Cm ");
        let item = items.find(|item| item.lines().next() == Some(name));
        let item = item.unwrap_or_else(|| panic!("no {name} in {section}"));
        let said: Vec<&str> = item
            .lines()
            .filter(|line| line.starts_with("Reload: "))
            .collect();
        assert_eq!(said, [format!("Reload: {}.", applies.words())], "{key}");
    }
}

#[test]
fn the_example_says_which_keys_need_a_restart() {
    let (mut table, mut comment, mut is_comment) = (String::new(), String::new(), false);
    let mut checked = 0;
    for line in EXAMPLE.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            if !is_comment {
                comment.clear();
            }
            is_comment = true;
            comment.push_str(text);
            comment.push(' ');
            continue;
        }
        is_comment = false;
        let Some(line) = line.strip_prefix('#') else {
            continue;
        };
        match line.split_once(" = ") {
            None => table = line.replace('[', "").replace(']', "."),
            Some((key, _)) => {
                let key = format!("{table}{key}");
                let applies = KEYS.iter().find(|(name, _)| *name == key);
                let (_, applies) = applies.expect("every key is classified");
                let says = comment.contains("Needs a restart.");
                assert_eq!(says, *applies == Applies::AtRestart, "{key}: {comment}");
                checked += 1;
            }
        }
    }
    assert_eq!(checked, KEYS.len());
}

#[test]
fn the_example_has_every_key_with_its_default() {
    assert_eq!(
        Settings::parse(EXAMPLE),
        Ok(Settings::default()),
        "every key is commented out"
    );
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()))
        .collect();
    let text = uncommented.join("\n");
    let default = Settings::default();
    let mut example = Settings::parse(&text).expect("legal");
    example.broker.reactors = default.broker.reactors;
    example.broker.memory_limit = default.broker.memory_limit;
    assert_eq!(example, default);

    let in_order = |toml: &str| -> BTreeSet<String> {
        let mut table = String::new();
        let mut found = BTreeSet::new();
        for line in toml.lines() {
            match line.split_once(" = ") {
                Some((key, _)) => drop(found.insert(format!("{table}{key}"))),
                None => table = line.to_owned(),
            }
        }
        found
    };
    assert_eq!(in_order(&text), in_order(&default.to_toml()));
}

#[test]
fn the_manual_is_well_formed() {
    for name in ["smbdirectd.8", "smbdirectctl.8", "smbdirectd.toml.5"] {
        let page = format!("{ROOT}/docs/man/{name}");
        let Ok(output) = Command::new("mandoc")
            .args(["-Tlint", "-Wwarning", &page])
            .output()
        else {
            // Do not use a macro: the test harness captures its output.
            let text = "\nSKIPPED: the form of the manual: mandoc is not installed\n";
            std::io::stderr()
                .write_all(text.as_bytes())
                .expect("standard error");
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}
