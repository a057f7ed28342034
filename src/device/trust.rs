// SPDX-License-Identifier: GPL-2.0-or-later

//! Decides which users may run a device, and where its socket may be.
//!
//! A false device would get the memory and the clients of every process that attaches to it, so both sides
//! check the path of the control socket. They check each directory from the root on, with symbolic links
//! resolved.
//!
//! A device starts only if no other user can put another socket in place of the device's: the socket's directory
//! belongs to root or to the device's own user, and no other user can write to that directory, or rename it or a
//! directory above it.
//!
//! A process attaches to a device that runs as root or as the process's own user. It also attaches to a device that
//! runs as the owner of the socket's directory, if only root or the process's own user can have made that directory and
//! only its owner may write to it. In this way, an administrator can let another user serve as the device (`User=` and
//! `RuntimeDirectory=` of a systemd unit).

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const ROOT: u32 = 0;
/// Write permission of the group and of others.
const WRITABLE: u32 = 0o022;
/// In a directory with this bit, only the owners of files may rename and remove them.
const STICKY: u32 = 0o1000;

/// An error: a socket's directory is not safe. The error's text is a message for people.
#[derive(Debug, thiserror::Error)]
pub enum UnsafeDirectory {
    /// A directory of the path belongs to another user, or others may change it.
    #[error(
        "{path} belongs to user {owner} and has mode {mode:04o}, so other users could replace the \
         {what} with their own; {cure}"
    )]
    Writable {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its mode, without the type.
        mode: u32,
        /// What others could replace there.
        what: &'static str,
        /// How to make it safe.
        cure: String,
    },
    /// The system did not allow the check.
    #[error("{}: {source}", path.display())]
    System {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// The properties of a directory that matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Directory {
    path: PathBuf,
    owner: u32,
    mode: u32,
}

impl Directory {
    const fn is_writable_by_others(&self) -> bool {
        self.mode & WRITABLE != 0
    }

    /// Returns whether others may rename or remove files in this directory that are not their own.
    const fn is_open(&self) -> bool {
        self.is_writable_by_others() && self.mode & STICKY == 0
    }
}

/// The users whose directories can be trusted.
#[derive(Clone, Copy, Debug)]
struct Users {
    own: u32,
    /// The number that stands for users unknown to this user namespace, such as the machine's root.
    unmapped: Option<u32>,
}

impl Users {
    fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            own: rustix::process::geteuid().as_raw(),
            unmapped: unmapped(
                &read("/proc/sys/kernel/overflowuid"),
                &read("/proc/self/uid_map"),
            ),
        }
    }

    const fn has(self, owner: u32) -> bool {
        owner == ROOT || owner == self.own
    }

    /// Returns whether the directories above the socket's own may belong to `owner`.
    fn may_lead(self, owner: u32) -> bool {
        self.has(owner) || self.unmapped == Some(owner)
    }
}

/// Returns the overflow user, unless that is the number of a real user.
fn unmapped(overflow: &str, map: &str) -> Option<u32> {
    let overflow: u32 = overflow.trim().parse().ok()?;
    let mut ranges = map.lines().filter_map(|line| {
        let mut words = line.split_whitespace().map(str::parse::<u32>);
        let (first, _, count) = (words.next()?.ok()?, words.next()?, words.next()?.ok()?);
        Some((first, count))
    });
    let is_real =
        ranges.any(|(first, count)| (first..first.saturating_add(count)).contains(&overflow));
    (!is_real && !map.is_empty()).then_some(overflow)
}

/// Returns the directory of a path, and all directories above it; the root is the last.
fn directories(socket: &Path) -> Result<Vec<Directory>, UnsafeDirectory> {
    let parent = match socket.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => socket,
    };
    let failed = |path: &Path, source| UnsafeDirectory::System {
        path: path.to_owned(),
        source,
    };
    let real = fs::canonicalize(parent).map_err(|source| failed(parent, source))?;
    let directory = |path: &Path| {
        let file = fs::symlink_metadata(path).map_err(|source| failed(path, source))?;
        Ok(Directory {
            path: path.to_owned(),
            owner: file.uid(),
            mode: file.mode() & 0o7777,
        })
    };
    real.ancestors().map(directory).collect()
}

/// Checks that a device may have its control socket at `socket`, whose directory exists. The check also suits other
/// files: if the path of a file passes, no other user can put another file in its place.
///
/// # Errors
///
/// Another user could put another socket in place of the device's, or the directories cannot be checked.
pub fn check_directory(socket: &Path) -> Result<(), UnsafeDirectory> {
    check_directory_of(socket, ("control socket", "--control"))
}

/// Checks, as [`check_directory`] does, that a device may have another socket at `socket`. `named` has the words for
/// the error: what the socket is, and which option or key gives its path.
///
/// # Errors
///
/// Those of [`check_directory`].
pub fn check_directory_of(
    socket: &Path,
    named: (&'static str, &'static str),
) -> Result<(), UnsafeDirectory> {
    check(&directories(socket)?, Users::now(), named)
}

fn check(
    directories: &[Directory],
    users: Users,
    (what, option): (&'static str, &'static str),
) -> Result<(), UnsafeDirectory> {
    for (n, directory) in directories.iter().enumerate() {
        let is_own = match n {
            0 => users.has(directory.owner),
            _ => users.may_lead(directory.owner),
        };
        // In the socket's own directory, a sticky bit does not stop others from making the socket first.
        let is_open = match n {
            0 => directory.is_writable_by_others(),
            _ => directory.is_open(),
        };
        let path = directory.path.display();
        let cure = match (is_own, is_open) {
            (true, false) => continue,
            (true, true) => format!("chmod go-w {path}, or give another path with {option}"),
            (false, _) => format!(
                "it must belong to root or to user {}: give another path with {option}",
                users.own
            ),
        };
        return Err(UnsafeDirectory::Writable {
            path: directory.path.clone(),
            owner: directory.owner,
            mode: directory.mode,
            what,
            cure,
        });
    }
    Ok(())
}

/// Returns whether the device at `socket`, which `user` runs, can be trusted.
pub(super) fn may_serve(socket: &Path, user: u32) -> bool {
    let users = Users::now();
    users.has(user) || directories(socket).is_ok_and(|found| is_appointed(&found, user, users))
}

/// Returns whether root, or this process's user, has given the directory of a socket to `user`.
fn is_appointed(directories: &[Directory], user: u32, users: Users) -> bool {
    let [directory, parent, above @ ..] = directories else {
        return false;
    };
    let is_its_own = directory.owner == user && !directory.is_writable_by_others();
    // Users that may write to the parent could make a directory with this name in it.
    let is_given = users.may_lead(parent.owner) && !parent.is_writable_by_others();
    let is_safe = |above: &Directory| users.may_lead(above.owner) && !above.is_open();
    is_its_own && is_given && above.iter().all(is_safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 1000;
    const OTHER: u32 = 1001;
    const UNMAPPED: u32 = 65_534;
    const USERS: Users = Users {
        own: OWN,
        unmapped: None,
    };
    const SANDBOX: Users = Users {
        own: OWN,
        unmapped: Some(UNMAPPED),
    };

    /// Returns a chain of directories, from the socket's own up.
    fn chain(of: &[(u32, u32)]) -> Vec<Directory> {
        let directory = |(n, (owner, mode)): (usize, &(u32, u32))| Directory {
            path: format!("/{n}").into(),
            owner: *owner,
            mode: *mode,
        };
        of.iter().enumerate().map(directory).collect()
    }

    fn check_of(of: &[(u32, u32)], users: Users) -> Result<(), String> {
        let named = ("control socket", "--control");
        check(&chain(of), users, named).map_err(|error| error.to_string())
    }

    const TOP: (u32, u32) = (ROOT, 0o755);
    const TMP: (u32, u32) = (ROOT, 0o1777);

    #[test]
    fn a_device_starts_if_others_cannot_replace_its_socket() {
        for fine in [
            &[(OWN, 0o700), TOP, TOP][..],
            &[(ROOT, 0o755), TOP],
            &[(OWN, 0o755), TMP, TOP],
            &[(OWN, 0o2750), (OWN, 0o755), TMP],
        ] {
            assert_eq!(check_of(fine, USERS), Ok(()), "{fine:?}");
        }
        for (wrong, named) in [
            (
                &[(OTHER, 0o700), TOP][..],
                "/0 belongs to user 1001 and has mode 0700",
            ),
            (&[(OWN, 0o770), TOP], "chmod go-w /0"),
            (
                &[(OWN, 0o702), TOP],
                "/0 belongs to user 1000 and has mode 0702",
            ),
            (&[TMP, TOP], "/0 belongs to user 0 and has mode 1777"),
            (
                &[(OWN, 0o700), (OTHER, 0o700), TOP],
                "/1 belongs to user 1001",
            ),
            (&[(OWN, 0o700), (ROOT, 0o777), TOP], "chmod go-w /1"),
            (
                &[(OWN, 0o700), (OTHER, 0o1777), TOP],
                "/1 belongs to user 1001",
            ),
        ] {
            let said = check_of(wrong, USERS).unwrap_err();
            assert!(said.contains(named), "{said}");
            assert!(said.contains("--control"), "{said}");
        }
    }

    #[test]
    fn owners_that_a_sandbox_does_not_know_may_lead_to_the_directory_and_not_have_it() {
        let inside = [(OWN, 0o700), (UNMAPPED, 0o1777), (UNMAPPED, 0o755)];
        assert_eq!(check_of(&inside, SANDBOX), Ok(()));
        assert!(check_of(&inside, USERS).is_err());
        assert!(check_of(&[(UNMAPPED, 0o700), TOP], SANDBOX).is_err());
        let everybody = "         0          0 4294967295\n";
        assert_eq!(unmapped("65534\n", everybody), None);
        assert_eq!(unmapped("65534\n", "1000 0 1\n"), Some(UNMAPPED));
        assert_eq!(unmapped("65534\n", "0 1000 1\n1 100000 65536\n"), None);
        assert_eq!(unmapped("", ""), None);
        assert_eq!(unmapped("65534\n", ""), None);
    }

    #[test]
    fn another_user_is_the_device_only_if_root_gave_it_the_directory() {
        let is = |of: &[(u32, u32)]| is_appointed(&chain(of), OTHER, USERS);
        assert!(is(&[(OTHER, 0o755), TOP, TOP]), "/run/smbdirect");
        assert!(is(&[(OTHER, 0o700), (OWN, 0o700), TMP, TOP]));
        for wrong in [
            // The other user may have made the directory.
            &[(OTHER, 0o755), TMP, TOP][..],
            &[(OTHER, 0o755), (OTHER, 0o755), TOP],
            &[(OTHER, 0o755), (ROOT, 0o775), TOP],
            &[(OTHER, 0o755), TOP, (ROOT, 0o777)],
            &[(OTHER, 0o755), TOP, (OTHER, 0o755)],
            // Other users may put a socket there.
            &[(OTHER, 0o775), TOP, TOP],
            &[(OTHER, 0o1777), TOP, TOP],
            // The directory belongs to another user than the device's.
            &[(ROOT, 0o755), TOP, TOP],
            &[(1002, 0o755), TOP, TOP],
            &[(OTHER, 0o755)],
        ] {
            assert!(!is(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn root_and_oneself_are_trusted_wherever_they_listen() {
        let own = rustix::process::geteuid().as_raw();
        let nowhere = Path::new("/nowhere/control");
        assert!(may_serve(nowhere, own) && may_serve(nowhere, ROOT));
        assert!(!may_serve(nowhere, own + 1));
        assert!(!may_serve(Path::new("/"), own + 1));
    }

    #[test]
    fn names_the_directory_that_is_not_there() {
        let error = check_directory(Path::new("/nowhere/control")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "/nowhere: No such file or directory (os error 2)"
        );
    }
}
