// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks that crates that are built have no vulnerability known to RustSec's database, except those listed here with a
//! reason.
//!
//! The test makes no queries: `advisories.txt` has the database's entries for the crates in our lock files, as of the
//! date in it, and the names of the crates for which it was made. `tools/advisories.py` makes it. If the list is old,
//! or was made before a crate was added, the test prints a warning, which `make test` repeats at its end.

use std::cmp::Ordering;
use std::fs;
use std::io::Write;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

const ADVISORIES: &str = include_str!("advisories.txt");

/// The lock files of all packages in this repository.
const LOCKS: [&str; 3] = ["Cargo.lock", "fuzz/Cargo.lock", "tests/smb-rs/Cargo.lock"];

/// The age in days above which a list causes a warning. One advisory in about 35 days names one of our crates.
const OLD: i64 = 90;

/// Advisories that do not matter here, and why.
const EXCEPTIONS: [(&str, &str); 2] = [
    (
        "RUSTSEC-2026-0009",
        "time, by smb-dtyp: parsing of RFC 2822 dates exhausts the stack. It is in the feature `parsing`, which is not \
         built (see below); 0.3.47 needs Rust 1.88",
    ),
    (
        "RUSTSEC-2023-0071",
        "rsa, by the SMB library of tests/smb-rs: keys leak by timing. It runs in tests only, with keys that protect \
         nothing; no version fixes it",
    ),
];

/// Returns the crates of a lock file that come from a registry, with their versions.
pub(crate) fn crates(lock: &str) -> Vec<(&str, &str)> {
    let value = |entry: &str, package: &'_ str| -> Option<(usize, usize)> {
        let start = package.find(entry)? + entry.len();
        let end = start + package.get(start..)?.find('"')?;
        Some((start, end))
    };
    let packages = lock.split("[[package]]").skip(1);
    packages
        .filter(|package| package.contains("\nsource = "))
        .filter_map(|package| {
            let (start, end) = value("name = \"", package)?;
            let (from, to) = value("version = \"", package)?;
            Some((&package[start..end], &package[from..to]))
        })
        .collect()
}

/// Returns the text of a lock file, by its path in the repository.
pub(crate) fn lock(path: &str) -> String {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A version of a crate, in the order of Semantic Versioning: 1.0.0-rc.1 comes before 1.0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version<'a> {
    numbers: [u64; 3],
    /// `rc.1`, or empty for a release.
    pre: &'a str,
}

impl<'a> Version<'a> {
    /// Parses a version, whose last numbers may be missing.
    fn parse(text: &'a str) -> Result<Self, String> {
        let without_build = text.split('+').next().unwrap_or_default();
        let (release, pre) = without_build.split_once('-').unwrap_or((without_build, ""));
        let mut numbers = [0; 3];
        let parts: Vec<&str> = release.split('.').collect();
        if parts.len() > numbers.len() {
            return Err(format!("not a version: {text:?}"));
        }
        for (number, part) in numbers.iter_mut().zip(parts) {
            *number = part
                .parse()
                .map_err(|_| format!("not a version: {text:?}"))?;
        }
        Ok(Self { numbers, pre })
    }
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let release = self.numbers.cmp(&other.numbers);
        release.then_with(|| match (self.pre, other.pre) {
            (mine, theirs) if mine == theirs => Ordering::Equal,
            ("", _) => Ordering::Greater,
            (_, "") => Ordering::Less,
            (mine, theirs) => identifiers(mine).cmp(&identifiers(theirs)),
        })
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Returns the parts of a pre-release. Numbers come before words.
fn identifiers(pre: &str) -> Vec<(bool, u64, &str)> {
    pre.split('.')
        .map(|part| {
            part.parse()
                .map_or((true, 0, part), |number| (false, number, ""))
        })
        .collect()
}

/// Returns whether a version meets a requirement such as `>= 1.2, < 2`.
fn fits(have: Version<'_>, requirement: &str) -> Result<bool, String> {
    let mut all = true;
    for part in requirement.split(',').map(str::trim) {
        let number = part.trim_start_matches(['<', '>', '=', '^', '~']);
        let wanted = Version::parse(number.trim())?;
        let same = match wanted.numbers {
            [0, 0, _] => 3,
            [0, ..] => 2,
            _ => 1,
        };
        let compatible =
            |same: usize| have >= wanted && have.numbers[..same] == wanted.numbers[..same];
        all &= match &part[..part.len() - number.len()] {
            ">=" => have >= wanted,
            "<=" => have <= wanted,
            ">" => have > wanted,
            "<" => have < wanted,
            "=" => have == wanted,
            "~" => compatible(2),
            "^" | "" => compatible(same),
            other => return Err(format!("unknown comparison {other:?} in {requirement:?}")),
        };
    }
    Ok(all)
}

/// The contents of a list.
#[derive(Debug)]
struct List<'a> {
    /// The date of the database, in days since 1970-01-01.
    day: i64,
    date: &'a str,
    /// The crates for which the list was made.
    names: Vec<&'a str>,
    /// Identifier, crate, and the ranges of good versions.
    advisories: Vec<(&'a str, &'a str, &'a str)>,
}

impl<'a> List<'a> {
    /// Reads a list. An error names what is wrong with the list.
    fn parse(text: &'a str) -> Result<Self, String> {
        let mut list = Self {
            day: 0,
            date: "",
            names: Vec::new(),
            advisories: Vec::new(),
        };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (key, rest) = line
                .split_once(' ')
                .ok_or_else(|| format!("not a line of the list: {line:?}"))?;
            match key {
                "date" => (list.day, list.date) = (day(rest)?, rest),
                "crates" => list.names.extend(rest.split(' ')),
                id if id.starts_with("RUSTSEC-") => {
                    let (name, good) = rest
                        .split_once(':')
                        .ok_or_else(|| format!("no colon in {line:?}"))?;
                    list.advisories.push((id, name, good.trim()));
                }
                _ => return Err(format!("not a line of the list: {line:?}")),
            }
        }
        if list.date.is_empty() || list.names.is_empty() {
            return Err(
                "the list has no date, or names no crates: make it with tools/advisories.py"
                    .to_owned(),
            );
        }
        // A range that cannot be read is an error, even if no lock file has the crate at present.
        let any = Version {
            numbers: [0; 3],
            pre: "",
        };
        for (.., good) in &list.advisories {
            ranges(good).try_for_each(|range| fits(any, range).map(drop))?;
        }
        Ok(list)
    }

    /// Returns the advisories that concern crates of a lock file.
    fn found(&self, lock: &str) -> Result<Vec<String>, String> {
        let mut found = Vec::new();
        for (name, text) in crates(lock) {
            let have = Version::parse(text)?;
            for (id, _, good) in self.advisories.iter().filter(|(_, of, _)| *of == name) {
                let mut is_good = false;
                for range in ranges(good) {
                    is_good |= fits(have, range)?;
                }
                if !is_good {
                    found.push(format!("{id} {name} {text}, good: {good}"));
                }
            }
        }
        Ok(found)
    }

    /// Returns the reasons why, on this day, the list may miss vulnerabilities of the crates of a lock file.
    fn warnings(&self, today: i64, lock: &str) -> Vec<String> {
        let mut warnings = Vec::new();
        let age = today - self.day;
        if age > OLD {
            warnings.push(format!(
                "tests/repository/advisories.txt is from {}, {age} days ago: vulnerabilities published since then are \
                 not known here. Run tools/advisories.py, which says what it needs",
                self.date
            ));
        }
        let mut unknown: Vec<&str> = crates(lock).iter().map(|(name, _)| *name).collect();
        unknown.retain(|name| !self.names.contains(name));
        if !unknown.is_empty() {
            warnings.push(format!(
                "tests/repository/advisories.txt is older than the use of these crates, and says nothing about them: \
                 {}. Run tools/advisories.py, which says what it needs",
                unknown.join(", ")
            ));
        }
        warnings
    }
}

/// Returns the ranges of good versions; there are none if no version is good.
fn ranges(good: &str) -> impl Iterator<Item = &str> {
    good.split(" || ").filter(|range| !range.is_empty())
}

/// Returns the days from 1970-01-01 to a date such as 2026-08-21.
fn day(date: &str) -> Result<i64, String> {
    let parts: Result<Vec<i64>, _> = date.split('-').map(str::parse).collect();
    let Ok([year, month @ 1..=12, day @ 1..=31]) = parts.as_deref() else {
        return Err(format!("not a date: {date:?}"));
    };
    // Years begin in March here, so that a leap day is the last day of its year.
    let (year, month) = if *month > 2 {
        (*year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1;
    Ok(days - 719_468)
}

#[test]
fn no_crate_has_a_known_vulnerability_without_an_exception() {
    let list = List::parse(ADVISORIES).expect("tests/repository/advisories.txt");
    let mut all = Vec::new();
    for path in LOCKS {
        let text = lock(path);
        assert!(
            crates(&text).len() > 10,
            "{path}: {} crates",
            crates(&text).len()
        );
        let found = list.found(&text).expect(path);
        all.extend(found.into_iter().map(|line| format!("{path}: {line}")));
    }
    let excused = |line: &&String| EXCEPTIONS.iter().any(|(id, _)| line.contains(id));
    let (known, new): (Vec<&String>, Vec<&String>) = all.iter().partition(excused);
    assert!(
        new.is_empty(),
        "update these, or name them in tests/repository/advisories.rs with a reason: {new:#?}"
    );
    for (id, reason) in EXCEPTIONS {
        let is_found = known.iter().any(|line| line.contains(id));
        assert!(
            is_found,
            "{id} is no longer found: remove its exception ({reason})"
        );
    }
}

/// This test does not fail, because people who build an old release, or have no network, cannot update the list.
#[test]
fn warns_if_the_list_may_miss_vulnerabilities() {
    let list = List::parse(ADVISORIES).expect("tests/repository/advisories.txt");
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time after 1970");
    let today = i64::try_from(now.as_secs() / 86_400).expect("a day");
    let locks = LOCKS.map(lock).concat();
    for warning in list.warnings(today, &locks) {
        // Do not use eprintln: the harness shows its output only if a test fails.
        writeln!(std::io::stderr(), "\nOUTDATED: {warning}").expect("stderr");
    }
}

/// This is the reason why RUSTSEC-2026-0009 does not matter.
#[test]
fn time_is_built_without_its_parsers() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--workspace",
            "--all-features",
            "--edges",
            "features",
        ])
        .args(["--invert", "time"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo tree");
    let tree = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.contains("time feature \"std\""), "{tree}");
    assert!(!tree.contains("time feature \"parsing\""), "{tree}");
}

const FIXTURE: &str = "# A comment.\ndate 2026-08-21\ncrates mended none other rc\n\
    RUSTSEC-2020-0001 mended: >= 1.2.3, < 2 || >= 2.1\nRUSTSEC-2020-0002 none:\nRUSTSEC-2020-0003 rc: >= 0.10.0\n";

/// Makes a lock file with these crates.
fn lock_of(crates: &[(&str, &str)]) -> String {
    let package = |(name, version): &(&str, &str)| {
        format!(
            "[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nsource = \"registry\"\n\n"
        )
    };
    crates.iter().map(package).collect()
}

#[test]
fn finds_a_vulnerable_version() {
    let list = List::parse(FIXTURE).unwrap();
    for (name, version, expected) in [
        (
            "mended",
            "1.2.2",
            Some("RUSTSEC-2020-0001 mended 1.2.2, good: >= 1.2.3, < 2 || >= 2.1"),
        ),
        ("mended", "1.2.3", None),
        (
            "mended",
            "2.0.9",
            Some("RUSTSEC-2020-0001 mended 2.0.9, good: >= 1.2.3, < 2 || >= 2.1"),
        ),
        ("mended", "2.1.0", None),
        (
            "none",
            "99.0.0",
            Some("RUSTSEC-2020-0002 none 99.0.0, good: "),
        ),
        (
            "rc",
            "0.10.0-rc.18",
            Some("RUSTSEC-2020-0003 rc 0.10.0-rc.18, good: >= 0.10.0"),
        ),
        ("rc", "0.10.0", None),
        ("other", "1.0.0", None),
    ] {
        // The crate is found among others, and in both of its versions.
        let lock = lock_of(&[("other", "0.1.0"), (name, version), ("mended", "3.0.0")]);
        let found = list.found(&lock).unwrap();
        assert_eq!(
            found.first().map(String::as_str),
            expected,
            "{name} {version}"
        );
        assert!(found.len() < 2, "{found:?}");
    }
}

#[test]
fn warns_of_an_old_list_and_of_crates_that_it_does_not_know() {
    let list = List::parse(FIXTURE).unwrap();
    let known = lock_of(&[("mended", "1.2.3")]);
    let made = day("2026-08-21").unwrap();
    assert!(list.warnings(made + OLD, &known).is_empty());
    let old = list.warnings(made + OLD + 1, &known);
    assert!(
        old.len() == 1 && old[0].contains("2026-08-21, 91 days ago"),
        "{old:?}"
    );
    let new = list.warnings(
        made,
        &lock_of(&[("mended", "1.2.3"), ("unheard-of", "1.0.0")]),
    );
    assert!(
        new.len() == 1 && new[0].contains(": unheard-of."),
        "{new:?}"
    );
}

#[test]
fn refuses_a_list_that_it_cannot_read() {
    for (list, expected) in [
        ("crates a\n", "no date"),
        ("date 2026-08-21\n", "names no crates"),
        ("date 2026-13-21\ncrates a\n", "not a date"),
        (
            "date 2026-08-21\ncrates a\nRUSTSEC-2020-0001 a >= 1\n",
            "no colon",
        ),
        (
            "date 2026-08-21\ncrates a\nRUSTSEC-2020-0001 a: >= one\n",
            "not a version",
        ),
        (
            "date 2026-08-21\ncrates a\nRUSTSEC-2020-0001 a: => 1\n",
            "unknown comparison",
        ),
        (
            "date 2026-08-21\ncrates a\nGHSA-1 a: >= 1\n",
            "not a line of the list",
        ),
        ("date 2026-08-21\ncrates a\n\n", "not a line of the list"),
    ] {
        let error = List::parse(list).expect_err(list);
        assert!(error.contains(expected), "{list:?}: {error}");
    }
}

#[test]
fn understands_requirements() {
    for (have, requirement, expected) in [
        ("0.3.45", ">= 0.3.47", false),
        ("0.3.47", ">= 0.3.47", true),
        ("0.3.5", "< 0.3.6", true),
        ("0.3.4", "^0.3.4", true),
        ("0.4.0", "^0.3.4", false),
        ("1.9.0", "^1.2", true),
        ("2.0.0", "^1.2", false),
        ("1.3.0", "~1.2.5", false),
        ("1.2.6", "~1.2.5", true),
        ("0.9.18", "< 0.10.0, >= 0.9.18", true),
        ("0.9.17", "< 0.10.0, >= 0.9.18", false),
        ("1.0.0-rc.1", ">= 1.0.0", false),
        ("1.0.0-rc.10", ">= 1.0.0-rc.9", true),
        ("1.0.0-alpha", ">= 1.0.0-1", true),
        ("1.2.3+build", "=1.2.3", true),
    ] {
        let have = Version::parse(have).unwrap();
        assert_eq!(
            fits(have, requirement),
            Ok(expected),
            "{have:?} {requirement}"
        );
    }
}

#[test]
fn counts_days() {
    for (date, expected) in [
        ("1970-01-01", 0),
        ("2000-02-29", 11_016),
        ("2026-08-21", 20_686),
    ] {
        assert_eq!(day(date), Ok(expected), "{date}");
    }
}
