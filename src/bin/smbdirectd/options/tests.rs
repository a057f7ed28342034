// SPDX-License-Identifier: GPL-2.0-or-later

use std::path::PathBuf;

use super::*;

fn options(arguments: &[&str]) -> Options {
    Options::try_parse_from([&["smbdirectd"], arguments].concat()).unwrap()
}

/// A file that is removed when this is dropped.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("smbdirectd-options-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn argument(&self) -> String {
        format!("--config={}", self.0.display())
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn options_go_before_the_file() {
    let file = File::new(
        "before",
        "listen = [\"10.0.0.1\"]\nlog = \"debug\"\nreactors = 2\niwarp.crc = true\nmax_workers = 3",
    );
    let alone = options(&[&file.argument()]).settings().unwrap().0;
    assert_eq!(alone.broker.listen, ["10.0.0.1".parse().unwrap()]);
    assert!(alone.crc && alone.log == "debug" && alone.broker.reactors == 2);

    let arguments = [
        "--listen",
        "::1",
        "--listen=127.0.0.1:0",
        "--control=/c",
        "--log=warn",
    ];
    let file_argument = file.argument();
    let all = [
        &arguments[..],
        &["--reactors=1", "--no-crc", &file_argument],
    ]
    .concat();
    let both = options(&all).settings().unwrap().0;
    let listen = ["[::1]:5445", "127.0.0.1:0"].map(|address| address.parse().unwrap());
    assert_eq!(both.broker.listen, listen);
    assert_eq!(both.broker.control, Path::new("/c"));
    assert_eq!((both.broker.reactors, both.log.as_str()), (1, "warn"));
    assert!(!both.crc);
    assert_eq!(both.broker.max_workers, 3, "as in the file");
}

#[test]
fn of_crc_and_no_crc_the_last_counts() {
    let file = File::new("crc", "");
    for (arguments, crc) in [
        (["--crc", "--crc"], true),
        (["--crc", "--no-crc"], false),
        (["--no-crc", "--crc"], true),
    ] {
        let file = file.argument();
        let all = [&arguments[..], &[&file]].concat();
        assert_eq!(options(&all).settings().unwrap().0.crc, crc);
    }
}

/// Returns what is wrong in a configuration.
fn wrong_in(settings: Result<(Settings, Found), Failure>) -> String {
    match settings {
        Err(Failure::Config(said)) => said,
        other => panic!("{other:?}"),
    }
}

#[test]
fn says_what_is_wrong_and_where() {
    let missing = options(&["--config=/nowhere/at.toml"]).settings();
    assert!(
        matches!(&missing, Err(Failure::Failed(said)) if said.starts_with("/nowhere/at.toml: No such file")),
        "{missing:?}"
    );
    let file = File::new("wrong", "\nreactors = 0");
    let wrong = wrong_in(options(&[&file.argument()]).settings());
    let expected = format!(
        "{}: line 2: reactors is 0, and must be 1 to 64",
        file.0.display()
    );
    assert_eq!(wrong, expected);
    let file = File::new("right", "");
    for (argument, message) in [
        ("--reactors=65", "--reactors is 65, and must be 1 to 64"),
        (
            "--control=here",
            "--control is \"here\", and must be an absolute path of at most 100 bytes",
        ),
    ] {
        let wrong = options(&[argument, &file.argument()]).settings();
        assert_eq!(wrong_in(wrong), message);
    }
    let place = file.0.display().to_string();
    for (directory, why) in [
        ("/nowhere", "/nowhere does not exist"),
        (place.as_str(), "is not a directory"),
    ] {
        let text = format!("metrics.socket = \"{directory}/metrics\"");
        let file = File::new("metrics", &text);
        let wrong = wrong_in(options(&[&file.argument()]).settings());
        let expected = format!("{}: metrics.socket is \"{directory}/", file.0.display());
        assert!(
            wrong.starts_with(&expected) && wrong.ends_with(why),
            "{wrong}"
        );
        // The directory of the control socket is made at the start.
        let control = format!("--control={directory}/control");
        assert!(options(&[&file.argument(), &control]).settings().is_ok());
    }
    let wrong = Options::try_parse_from(["smbdirectd", "--listen=host"]).unwrap_err();
    assert!(
        wrong.to_string().contains("an address is numeric"),
        "{wrong}"
    );
}
