// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that release, C ABI and interface change together, as docs/packaging.md says.

use std::fs;
use std::path::Path;

use smbdirect::device::abi;
use smbdirect::ffi::SMBDIRECT_ABI_VERSION;

use crate::shared::scripted;
use instruments::ROOT;

/// A line of the table: the numbers of one minor release.
#[derive(Debug, PartialEq)]
struct Release {
    release: (u32, u32),
    abi: u32,
    newest: u32,
    oldest: u32,
}

fn number(text: &str) -> u32 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

fn minor_release(text: &str) -> (u32, u32) {
    let (major, minor) = text.split_once('.').expect("major.minor");
    (number(major), number(minor))
}

fn table() -> Vec<Release> {
    let page = fs::read_to_string(Path::new(ROOT).join("docs/packaging.md"));
    let page = page.expect("docs/packaging.md");
    let heading = "| release | SONAME | interface | oldest interface |\n|---|---|---|---|\n";
    let (_, table) = page.split_once(heading).expect("the table of releases");
    let lines = table
        .lines()
        .map_while(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let releases = lines.map(|line| {
        let [release, soname, newest, oldest] = line.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{line}: not four columns");
        };
        Release {
            release: minor_release(release),
            abi: number(soname.strip_prefix("libsmbdirect.so.").expect("a SONAME")),
            newest: number(newest),
            oldest: number(oldest),
        }
    });
    releases.collect()
}

#[test]
fn the_table_of_releases_ends_with_this_one() {
    let (release, _) = env!("CARGO_PKG_VERSION")
        .rsplit_once('.')
        .expect("a patch level");
    let this = Release {
        release: minor_release(release),
        abi: SMBDIRECT_ABI_VERSION,
        newest: abi::VERSION,
        oldest: abi::OLDEST_VERSION,
    };
    assert_eq!(
        table().last(),
        Some(&this),
        "docs/packaging.md has the rules"
    );
}

/// Returns whether a later release may have these numbers after an earlier one.
fn may_follow(earlier: &Release, later: &Release) -> bool {
    let major = later.release.0 > earlier.release.0;
    let may_break = major || earlier.release.0 == 0;
    later.release > earlier.release
        && (later.abi == earlier.abi || later.abi > earlier.abi && may_break)
        && later.newest >= earlier.newest
        && (later.oldest == earlier.oldest || later.oldest > earlier.oldest && may_break)
        && later.oldest <= later.newest
}

#[test]
fn releases_follow_each_other_by_the_rules() {
    let table = table();
    assert!(!table.is_empty());
    for pair in table.windows(2) {
        assert!(
            may_follow(&pair[0], &pair[1]),
            "{:?} cannot follow {:?}",
            pair[1],
            pair[0]
        );
    }
    let release = |release, abi, newest, oldest| Release {
        release,
        abi,
        newest,
        oldest,
    };
    let first = release((1, 0), 1, 5, 4);
    assert!(may_follow(&first, &release((1, 1), 1, 6, 4)));
    assert!(may_follow(&first, &release((2, 0), 2, 6, 6)));
    for wrong in [
        release((1, 0), 1, 6, 4),
        release((1, 1), 2, 5, 4),
        release((1, 1), 1, 5, 5),
        release((1, 1), 1, 4, 4),
        release((2, 0), 0, 5, 4),
        release((2, 0), 2, 6, 7),
    ] {
        assert!(!may_follow(&first, &wrong), "{wrong:?}");
    }
}

#[test]
fn symbols_have_versions_of_this_abi_and_of_releases_that_had_it() {
    let first = format!("SMBDIRECT_{SMBDIRECT_ABI_VERSION}");
    let table = table();
    for (function, version) in scripted() {
        let Some(release) = version.strip_prefix(&first) else {
            panic!("{function} has {version}, and the ABI is {first}");
        };
        let Some(minor) = release.strip_prefix('.') else {
            assert_eq!(release, "", "{function} has {version}");
            continue;
        };
        let has_it =
            |row: &Release| row.abi == SMBDIRECT_ABI_VERSION && row.release.1 == number(minor);
        assert!(
            table.iter().any(has_it),
            "{function} has {version}, which is not the name of a release"
        );
    }
}

#[test]
fn packages_have_the_numbers_of_this_release() {
    let file = |name: &str| fs::read_to_string(Path::new(ROOT).join(name)).expect(name);
    let (version, abi) = (env!("CARGO_PKG_VERSION"), SMBDIRECT_ABI_VERSION);
    for (name, line) in [
        ("debian/control", format!("Package: libsmbdirect{abi}\n")),
        ("debian/changelog", format!("smbdirect ({version}-")),
        (
            "debian/libsmbdirect0.symbols",
            format!("libsmbdirect.so.{abi} libsmbdirect{abi} "),
        ),
        (
            "debian/libsmbdirect0.install",
            format!("/libsmbdirect.so.{abi}*\n"),
        ),
        (
            "contrib/packaging/smbdirect.spec",
            format!("\nVersion:        {version}\n"),
        ),
        (
            "contrib/packaging/smbdirect.spec",
            format!("/libsmbdirect.so.{abi}*\n"),
        ),
        (
            "contrib/packaging/PKGBUILD",
            format!("\npkgver={version}\n"),
        ),
    ] {
        // The first line of the changelog is the newest.
        let text = file(name);
        let found = if name.ends_with("changelog") {
            text.starts_with(&line)
        } else {
            text.contains(&line)
        };
        assert!(found, "{name} does not have {line:?}");
    }
    // Debian's table lists each version of symbols, with the release that brought it.
    let symbols = file("debian/libsmbdirect0.symbols");
    for node in scripted().values() {
        let entry = format!(" (symver){node} ");
        assert!(
            symbols.contains(&entry),
            "debian/libsmbdirect0.symbols does not have{entry}"
        );
    }
}
