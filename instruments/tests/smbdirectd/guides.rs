// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that the commands of the guides in `docs` do what they say, and that the guides name everything that the
//! device counts.

use std::io::Write;
use std::process::Command;

use instruments::daemon::{Daemon, SMBDIRECTCTL, SMBDIRECTD, stderr, stdout};
use instruments::guides::{blocks, program};
use instruments::peer::Peer;

#[test]
fn commands_of_the_guides_run() {
    let daemon = Daemon::start(&[]);
    let _peer = Peer::connect(daemon.address());
    let directory = daemon.control.parent().expect("a directory").parent();
    let directory = directory.expect("a directory");
    let (tool, control) = (SMBDIRECTCTL.display(), daemon.control.display());
    let script = format!("exec '{tool}' \"$@\" --control '{control}'");
    program(directory, "smbdirectctl", &script);
    let script = format!("exec '{}' \"$@\"", SMBDIRECTD.display());
    program(directory, "smbdirectd", &script);
    let has_jq = Command::new("jq").arg("--version").output().is_ok();
    let blocks = blocks("run");
    assert!(blocks.len() > 5, "{}", blocks.len());
    for block in &blocks {
        if block.commands.contains("jq") && !has_jq {
            // Do not use a macro: the test harness captures its output.
            let text = format!("\nSKIPPED: {block}: jq is not installed\n");
            let mut file = std::io::stderr();
            file.write_all(text.as_bytes()).expect("standard error");
            continue;
        }
        let output = block.run(directory);
        assert!(
            output.status.success(),
            "{block}: {}\n{}{}",
            block.commands,
            stdout(&output),
            stderr(&output)
        );
        let said = stdout(&output);
        assert!(!said.trim().is_empty(), "{block}: nothing was printed");
        // jq prints "null" for a member that does not exist; an event that has not happened yet has no counter.
        assert!(
            block.commands.contains(".counters") || !said.contains(": null"),
            "{block}: {said}"
        );
    }
}

/// `tools/docs.py` compares the page with the source; this test compares it with what a device reports.
#[test]
fn the_guide_names_every_counter_of_a_device() {
    let page = include_str!("../../../docs/counters.md");
    let daemon = Daemon::start(&[]);
    let mut peer = Peer::connect(daemon.address());
    // No process owns this connection.
    peer.negotiate([1; 16]);
    peer.wait_closed();
    let status = daemon.wait_for_status(|status| status["closes"][0].is_object());
    let names = |of: &serde_json::Value| -> Vec<String> {
        let members = of.as_object().expect("an object");
        members.keys().cloned().collect()
    };
    let counters = names(&status["counters"]);
    assert!(counters.contains(&"no_listener".to_owned()), "{counters:?}");
    assert!(counters.contains(&"transport_requested".to_owned()));
    let carried = names(&status["carried"]["software"]);
    for name in counters.iter().chain(&carried) {
        let name = name.strip_prefix("transport_").unwrap_or(name);
        assert!(page.contains(&format!("`{name}`")), "{name}");
    }
}
