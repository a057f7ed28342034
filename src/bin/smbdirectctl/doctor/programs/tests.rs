// SPDX-License-Identifier: GPL-2.0-or-later

use std::os::unix::fs::chown;

use super::super::machine::{Machine, alone};
use super::*;

/// A user that runs no test.
const OTHER: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn trusts_only_what_no_other_user_can_change() {
    let machine = Machine::new("trusted");
    let program = machine.program("bin/smbd", "");
    let real = fs::canonicalize(&program).expect("a path");
    let link = machine.link("sbin/smbd", Path::new("../bin/smbd"));
    assert_eq!(trusted(&program).as_ref(), Ok(&real));
    assert_eq!(trusted(&link).as_ref(), Ok(&real));
    // The program, its directory, the directory of the link, and the directory above both.
    for changed in ["bin/smbd", "bin", "sbin", ""] {
        for mode in [0o775, 0o757, 0o777] {
            machine.mode(changed, mode);
            let said = trusted(&link).unwrap_err();
            assert!(said.contains("other users can change"), "{changed}: {said}");
        }
        machine.mode(changed, 0o755);
    }
    // In a sticky directory to which all can write, others could make a program first.
    machine.mode("bin", 0o1777);
    assert!(trusted(&link).is_err());
    machine.mode("bin", 0o755);
    assert!(trusted(&link).is_ok());
    for path in ["bin/smbd", "bin", "sbin"] {
        if !is_root() {
            break;
        }
        chown(machine.0.join(path), Some(OTHER), None).expect("another owner");
        assert!(trusted(&link).is_err(), "{path}");
        chown(machine.0.join(path), Some(0), None).expect("root again");
    }
    let said = trusted(&machine.0.join("bin")).unwrap_err();
    assert!(said.ends_with("bin is not a file"), "{said}");
    let circle = machine.link("sbin/circle", Path::new("circle"));
    let said = trusted(&circle).unwrap_err();
    assert!(said.starts_with("too many links"), "{said}");
    assert!(trusted(Path::new("/nowhere/smbd")).is_err());
}

#[test]
fn finds_programs_in_places_of_root_only() {
    let machine = Machine::new("find");
    machine.program("open/ufw", "");
    machine.mode("open", 0o777);
    let program = machine.program("closed/ufw", "");
    let [open, closed] = ["open", "closed"].map(|place| machine.0.join(place));
    let found = find_in([open.clone(), closed].into_iter(), "ufw");
    assert_eq!(found, fs::canonicalize(program).ok());
    assert_eq!(find_in([open].into_iter(), "ufw"), None);
    // Both places mean the current directory, which contains Cargo.toml.
    let here = ["", "."].map(PathBuf::from).into_iter();
    assert_eq!(find_in(here, "Cargo.toml"), None);
}

#[test]
fn believes_a_number_of_a_process_only_if_root_runs_smbd_there() {
    let machine = Machine::new("attached");
    let program = machine.program("sbin/smbd", "");
    machine.process(77, &program);
    let refused = |pid| attached(&machine.0, pid).expect_err("a reason");
    assert_eq!(
        attached(&machine.0, 77).ok(),
        fs::canonicalize(&program).ok()
    );
    for pid in [0, -1] {
        assert!(refused(pid).contains("in a container"), "{pid}");
    }
    assert!(
        refused(78).contains("process 78 cannot be seen from here"),
        "{}",
        refused(78)
    );
    machine.process(79, &machine.program("sbin/reboot", ""));
    assert!(
        refused(79).ends_with("is not called smbd"),
        "{}",
        refused(79)
    );
    // The kernel's link leads to the program of the container, while its text is a path that means another file here.
    // A relative link does the same.
    machine.link("proc/80/exe", Path::new("../../sbin/smbd"));
    assert!(refused(80).contains("runs in a container, or its program"));
    machine.process(81, Path::new("/nowhere/smbd"));
    assert!(refused(81).contains("has been replaced"), "{}", refused(81));
    machine.mode("sbin/smbd", 0o777);
    assert!(refused(77).starts_with("other users can change"));
    machine.mode("sbin/smbd", 0o755);
    assert!(attached(&machine.0, 77).is_ok());
    if is_root() {
        chown(machine.0.join("proc/77"), Some(OTHER), None).expect("another user's process");
        assert_eq!(refused(77), "user 65534, not root, runs process 77");
    }
}

#[test]
fn finds_the_configuration_of_a_running_smbd() {
    for (line, expected) in [
        ("smbd\0-F\0-s\0/a/smb.conf\0", Some("/a/smb.conf")),
        ("smbd\0-s/a/smb.conf\0", Some("/a/smb.conf")),
        ("smbd\0-s=a.conf\0-F\0", Some("a.conf")),
        ("smbd\0--configfile=/b/smb.conf\0", Some("/b/smb.conf")),
        ("smbd\0--configfile\0/c/smb.conf\0-F\0", Some("/c/smb.conf")),
        ("smbd\0-F\0", None),
        ("", None),
    ] {
        let named = named_config(line.as_bytes());
        assert_eq!(named.as_deref(), expected.map(Path::new), "{line:?}");
    }
    let machine = Machine::new("config");
    let config = machine.file("etc/smb.conf", "");
    let real = fs::canonicalize(&config).expect("a path");
    machine.file("proc/9/cmdline", "smbd\0-s\0smb.conf\0");
    machine.link("proc/9/cwd", &machine.0.join("etc"));
    assert_eq!(config_of(&machine.0, 9), Ok(Some(real)));
    machine.mode("etc/smb.conf", 0o666);
    let said = config_of(&machine.0, 9).unwrap_err();
    assert!(said.starts_with("other users can change"), "{said}");
    machine.file("proc/10/cmdline", "smbd\0-s\0smb.conf\0");
    let said = config_of(&machine.0, 10).unwrap_err();
    assert!(said.contains("proc/10/cwd"), "{said}");
    assert_eq!(config_of(&machine.0, 11), Ok(None));
}

#[test]
fn finds_the_path_by_which_smbd_was_started() {
    let machine = Machine::new("started");
    machine.file("proc/9/cmdline", "/src/bin/smbd\0-F\0");
    machine.file("proc/10/cmdline", "./smbd\0-F\0");
    let path = Path::new("/src/bin/smbd");
    assert_eq!(started_as(&machine.0, 9).as_deref(), Some(path));
    assert_eq!(started_as(&machine.0, 10), None);
    assert_eq!(started_as(&machine.0, 11), None);
}

#[test]
fn a_testparm_belongs_to_its_smbd() {
    let machine = Machine::new("testparm");
    let smbd = machine.program("sbin/smbd", "");
    let real = |path: &Path| fs::canonicalize(path).expect("a path");
    let bin = machine.program("bin/testparm", "");
    let found = |smbd: &Path, is_named| companion("testparm", smbd, None, is_named);
    assert_eq!(found(&smbd, false), Ok(Some(real(&bin))));
    // In a build tree the programs are in different directories, and links to them in one.
    let built = machine.program("tree/default/source3/smbd/smbd", "");
    let link = machine.link("tree/smbd", Path::new("default/source3/smbd/smbd"));
    machine.link("tree/testparm", Path::new("../bin/testparm"));
    let of_tree = companion("testparm", &built, Some(&link), false);
    assert_eq!(of_tree, Ok(Some(real(&bin))));
    let beside = machine.program("sbin/testparm", "");
    assert_eq!(found(&smbd, false), Ok(Some(real(&beside))));
    machine.mode("sbin", 0o777);
    assert!(found(&smbd, false).is_err());
    // The user has named this smbd, whose owner also owns this testparm.
    assert_eq!(found(&smbd, true), Ok(Some(beside.clone())));
    if is_root() {
        chown(&beside, Some(OTHER), None).expect("another owner");
        assert!(found(&smbd, true).is_err());
    }
}

#[test]
fn reads_what_a_program_prints_and_does_not_wait_for_one_that_hangs() {
    let _alone = alone();
    let machine = Machine::new("output");
    let program = machine.program("x", "echo $1 $2");
    let said = output(&program, &["a", "b c"]);
    assert_eq!(said, Ok(Some("a b c\n".to_owned())));
    let program = machine.program("x", "echo no; exit 3");
    assert_eq!(output(&program, &["a"]), Ok(None));
    for hanging in [
        "exec sleep 600",
        "exec >&-; exec sleep 600",
        "sleep 5 & echo",
    ] {
        let program = machine.program("x", hanging);
        let said = output_within(Duration::from_millis(100), &program, &["a"]);
        let said = said.expect_err("it hangs");
        assert!(said.ends_with("x did not end within 100ms"), "{said}");
    }
    let said = output(Path::new("/nowhere/x"), &["a"]).unwrap_err();
    assert!(said.starts_with("/nowhere/x: No such file"), "{said}");
}

#[test]
fn a_program_that_took_too_long_leaves_no_zombie() {
    let _alone = alone();
    let machine = Machine::new("zombie");
    let file = machine.0.join("process");
    let script = format!("echo $$ > {}; exec sleep 600", file.display());
    let program = machine.program("x", &script);
    let said = output_within(Duration::from_secs(2), &program, &["a"]);
    assert!(said.is_err(), "{said:?}");
    let process = fs::read_to_string(file).expect("its number");
    let process = Path::new("/proc").join(process.trim());
    let end = Instant::now() + Duration::from_secs(10);
    while process.exists() && Instant::now() < end {
        thread::sleep(PAUSE);
    }
    assert!(!process.exists(), "{}", process.display());
}
