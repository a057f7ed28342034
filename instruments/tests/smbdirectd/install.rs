// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests `make install` and `make uninstall`, in a directory.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};

use instruments::c::{built, shared_library};
use instruments::daemon::{Directory, SMBDIRECTCTL, SMBDIRECTD, stdout};
use instruments::install::{files, make};

const CONFIGURATION: &str = "etc/smbdirect/smbdirectd.toml";

/// Makes a directory with the programs under test and the libraries, as tools/build.sh leaves them.
fn all_that_is_built(directory: &Directory) -> String {
    let folder = directory.0.join("built");
    fs::create_dir(&folder).expect("a folder");
    let bench = SMBDIRECTD.with_file_name("smbdirectctl-bench");
    let shared = shared_library();
    for program in [
        &*SMBDIRECTD,
        &*SMBDIRECTCTL,
        &bench,
        &shared,
        &built().join("libsmbdirect.a"),
    ] {
        symlink(program, folder.join(program.file_name().expect("a name"))).expect("a link");
    }
    folder.to_str().expect("UTF-8").to_owned()
}

/// Returns the paths that must exist if the default directories are used.
fn expected() -> Vec<String> {
    let shared = shared_library();
    let shared = shared.file_name().expect("a name").to_str().expect("UTF-8");
    let mut expected = [
        CONFIGURATION,
        "usr/local/include/smbdirect.h",
        "usr/local/lib/libsmbdirect.a",
        "usr/local/lib/libsmbdirect.so",
        "usr/local/lib/pkgconfig/smbdirect.pc",
        "usr/local/lib/systemd/system/smbdirectd.service",
        "usr/local/lib/sysusers.d/smbdirectd.conf",
        "usr/local/sbin/smbdirectctl",
        "usr/local/sbin/smbdirectctl-bench",
        "usr/local/sbin/smbdirectd",
        "usr/local/share/bash-completion/completions/smbdirectctl",
        "usr/local/share/bash-completion/completions/smbdirectd",
        "usr/local/share/fish/vendor_completions.d/smbdirectctl.fish",
        "usr/local/share/fish/vendor_completions.d/smbdirectd.fish",
        "usr/local/share/man/man5/smbdirectd.toml.5",
        "usr/local/share/man/man8/smbdirectctl.8",
        "usr/local/share/man/man8/smbdirectd.8",
        "usr/local/share/zsh/site-functions/_smbdirectctl",
        "usr/local/share/zsh/site-functions/_smbdirectd",
    ]
    .map(str::to_owned)
    .to_vec();
    expected.push(format!("usr/local/lib/{shared}"));
    expected.push(format!(
        "usr/local/lib/{shared}.{}",
        env!("CARGO_PKG_VERSION")
    ));
    expected.sort();
    expected
}

#[test]
fn installed_files_fit_together_and_are_removed_again() {
    let directory = Directory::new();
    let built = all_that_is_built(&directory);
    let root = directory.0.join("root");
    let variables = [("BUILT", &built[..])];
    make("install", &root, &variables);
    assert_eq!(files(&root), expected());

    let run = |program: &str, arguments: &[&str]| -> Output {
        let mut command = Command::new(root.join("usr/local/sbin").join(program));
        command.args(arguments).output().expect("it starts")
    };
    let version = stdout(&run("smbdirectd", &["--version"]));
    assert_eq!(
        version,
        concat!("smbdirectd ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let configuration = root.join(CONFIGURATION);
    let path = configuration.to_str().expect("UTF-8");
    let checked = run("smbdirectd", &["--check-config", "--config", path]);
    assert!(checked.status.success(), "{checked:?}");
    // smbdirectctl-bench is a separate program, which smbdirectctl finds beside itself.
    let bench = run("smbdirectctl", &["bench", "--help"]);
    assert!(
        bench.status.success() && stdout(&bench).contains("--transport"),
        "{bench:?}"
    );

    let unit = root.join("usr/local/lib/systemd/system/smbdirectd.service");
    let unit = fs::read_to_string(unit).expect("the unit");
    let start = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/"));
    let start = start.expect("the path of the program");
    assert!(root.join(start).is_file(), "there is no {start}");

    // Another installation keeps an administrator's file, and so does uninstalling.
    fs::write(&configuration, "reactors = 1\n").expect("the configuration");
    make("install", &root, &variables);
    make("uninstall", &root, &variables);
    assert_eq!(files(&root), [CONFIGURATION]);
    assert_eq!(
        fs::read_to_string(configuration).expect("the configuration"),
        "reactors = 1\n"
    );
}

#[test]
fn installing_before_building_fails() {
    let directory = Directory::new();
    let output = Command::new("make")
        .current_dir(instruments::ROOT)
        .args(["install", "BUILT=/nonexistent"])
        .arg(format!("DESTDIR={}", directory.0.join("root").display()))
        .output()
        .expect("make is installed");
    assert!(!output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("make build"), "{said}");
}
