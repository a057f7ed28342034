// SPDX-License-Identifier: GPL-2.0-or-later

//! What `apt update` says about a Samba that is newer than the one of `samba-smbdirect`.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, id};

const SCRIPT: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/contrib/packaging/debian-samba/newer"
);

/// Writes a program. Another process does it: as long as this one had the file open for writing, nobody could run it.
fn program(file: &Path, text: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", r#"printf '%s' "$1" >"$0" && chmod 755 "$0""#]);
    let status = command.arg(file).arg(text).status().expect("sh runs");
    assert!(status.success(), "{}", file.display());
}

/// Returns what the script says if this version of Samba is installed, and apt knows these with these priorities.
fn said(directory: &Path, installed: &str, known: &[(&str, i32)]) -> String {
    let query = format!("#!/bin/sh\nprintf '%s' '{installed}'\n");
    program(&directory.join("dpkg-query"), &query);
    let lines = known.iter().map(|(version, priority)| {
        let mark = if *version == installed { "***" } else { "   " };
        format!(
            " {mark} {version} {priority}\n        500 http://mirror trixie/main amd64 Packages\n"
        )
    });
    let lines: Vec<String> = lines.collect();
    let cache = format!(
        "#!/bin/sh\n[ \"$*\" = 'policy samba' ] || exit 1\ncat <<'END'\nsamba:\n  Installed: {installed}\n  \
         Candidate: {installed}\n  Version table:\n{}END\n",
        lines.concat()
    );
    program(&directory.join("apt-cache"), &cache);
    let path = env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", directory.display());
    let output = Command::new("sh").arg(SCRIPT).env("PATH", path).output();
    let output = output.expect("sh runs");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn apt_update_tells_of_each_newer_samba_that_lacks_smb_direct() {
    if Command::new("dpkg").arg("--version").output().is_err() {
        // Do not use a macro: the test harness captures its output.
        let text = b"\nSKIPPED: what apt update says about a newer Samba: dpkg is not installed\n";
        std::io::Write::write_all(&mut std::io::stderr(), text).expect("standard error");
        return;
    }
    let directory = env::temp_dir().join(format!("smbdirect-newer-{}", id()));
    fs::create_dir_all(&directory).expect("a directory");
    let ours = "2:4.22.8-1+0smbdirect1";
    for (known, newer) in [
        (&[ours, "2:4.22.8-1"][..], None),
        (&[], None),
        (&[ours, "2:4.22.8-2", "2:4.22.8-1"], Some("2:4.22.8-2")),
        // An update that only appends to the version.
        (&[ours, "2:4.22.8-1+deb13u1"], Some("2:4.22.8-1+deb13u1")),
        // A build of the same source.
        (&[ours, "2:4.22.8-1+b1"], None),
        (&["2:4.22.8-1+0smbdirect2", ours, "2:4.22.8-1+b2"], None),
        // apt installs this one.
        (&["2:4.22.8-2+0smbdirect1", "2:4.22.8-2", ours], None),
        (&["2:4.22.8-2", "2:4.22.8-2+0smbdirect1"], None),
        (
            &["2:4.22.8-2+0smbdirect1", "2:4.22.9-1"],
            Some("2:4.22.9-1"),
        ),
        (&[ours, "2:4.21.9-1"], None),
    ] {
        let priority = |version: &str| {
            if version.contains("+0smbdirect") {
                995
            } else {
                500
            }
        };
        let known: Vec<_> = known.iter().map(|it| (*it, priority(it))).collect();
        let said = said(&directory, ours, &known);
        let Some(newer) = newer else {
            assert_eq!(said, "", "{known:?}");
            continue;
        };
        let line = format!("there is a newer Samba without SMB Direct, {newer}. ");
        assert!(said.contains(&line), "{known:?}: {said}");
    }
    // apt installs these only if a person asks for them: from backports, from experimental, and what is kept out.
    let known = [
        (ours, 995),
        ("2:4.23.1-1~bpo13+1", 100),
        ("2:4.24.0-1", 1),
        ("2:4.25.0-1", -1),
        ("2:4.22.8-1", 500),
    ];
    assert_eq!(said(&directory, ours, &known), "");
    fs::remove_dir_all(&directory).expect("the directory goes away");
}
