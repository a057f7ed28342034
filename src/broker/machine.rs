// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds how much memory this process may use: what the machine has, or less if a control group limits it. It also
//! finds what the process does use.
//!
//! A container, or a systemd unit with `MemoryMax=`, may have far less than the machine. The limits of a process's own
//! group and of all groups above it apply together, so the lowest of them decides.

use std::fs;
use std::path::{Component, Path};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use rustix::process::{Resource, getrlimit};

use super::status::Usage;

/// Returns the number of bytes that this process may use.
pub(super) fn memory() -> u64 {
    let information = rustix::system::sysinfo();
    let machine = (information.totalram as u64).saturating_mul(information.mem_unit.into());
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.min(limit_of(&groups, Path::new("/sys/fs/cgroup")).unwrap_or(u64::MAX))
}

/// Returns what this process uses. A number that the system does not report is 0.
pub(super) fn usage() -> Usage {
    // rustix looks for the kernel's clock by itself, which ends a process that runs under valgrind.
    let cpu = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0.0, |used| Duration::from(used).as_secs_f64());
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    Usage {
        cpu_seconds: cpu,
        open_descriptors: open_descriptors(),
        max_descriptors: getrlimit(Resource::Nofile).current,
        resident_bytes: resident(&status).unwrap_or_default(),
    }
}

/// Returns the number of open descriptors. From Linux 6.2 on, this number is the size of the directory that lists them.
fn open_descriptors() -> u64 {
    let directory = Path::new("/proc/self/fd");
    let size = directory.metadata().map_or(0, |file| file.len());
    if size > 0 {
        return size;
    }
    // One of the listed descriptors is that of the open directory itself.
    let listed = fs::read_dir(directory).map_or(0, Iterator::count);
    listed.saturating_sub(1) as u64
}

/// Returns the number of resident bytes, from the text of `/proc/self/status`.
fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// Returns the lowest limit of the control groups that `groups` names, in the form of `/proc/self/cgroup`; they are
/// mounted at `root`. Returns `None` if there is no limit.
fn limit_of(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        if controllers.is_empty() {
            lowest(root, path, "memory.max")
        } else if controllers.split(',').any(|name| name == "memory") {
            lowest(&root.join("memory"), path, "memory.limit_in_bytes")
        } else {
            None
        }
    });
    limits.min()
}

/// Returns the lowest number in the files called `name` of a group and of those above it. In a container, `group` may
/// name a group that the container cannot see, so that there are no such files; the container's own group is then at
/// the root.
fn lowest(root: &Path, group: &str, name: &str) -> Option<u64> {
    // The path of a group outside the visible ones begins with "..": nothing above the root may be read.
    let names = Path::new(group)
        .components()
        .filter(|part| matches!(part, Component::Normal(_)));
    let group = root.join(names.collect::<std::path::PathBuf>());
    let groups = group.ancestors().take_while(|path| path.starts_with(root));
    let limits = groups.filter_map(|path| {
        let text = fs::read_to_string(path.join(name)).ok()?;
        // The word "max" means that there is no limit.
        text.trim().parse().ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_limit_of_all_groups_counts() {
        let name = format!("smbdirect-cgroup-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let write = |path: &str, limit: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, limit).unwrap();
        };
        write("system.slice/memory.max", "5000\n");
        write("system.slice/device.service/memory.max", "max\n");
        write("small/one/memory.max", "700\n");
        write("memory/docker/x/memory.limit_in_bytes", "900\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let limit = |groups: &str| limit_of(groups, &root);
        assert_eq!(limit("0::/system.slice/device.service\n"), Some(5000));
        assert_eq!(limit("0::/small/one\n"), Some(700));
        assert_eq!(limit("0::/../small/one\n"), Some(700));
        assert_eq!(limit("0::/\n"), None);
        let both = "5:cpu,memory:/docker/x\n1:name=systemd:/\n0::/system.slice\n";
        assert_eq!(limit(both), Some(900));
        // A container that sees only its own group may be given the path of one that it does not see.
        let hidden = limit("5:memory:/not/here\n");
        assert_eq!(hidden, Some(9_223_372_036_854_771_712));
        for nothing in ["", "0", "0:", "5:cpu:/small/one\n"] {
            assert_eq!(limit(nothing), None, "{nothing:?}");
        }
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_process_may_use_some_memory_and_uses_some() {
        assert!(memory() > 0);
        let usage = usage();
        assert!(usage.cpu_seconds > 0.0, "{usage:?}");
        assert!(usage.open_descriptors >= 3, "{usage:?}");
        assert!((1..=memory()).contains(&usage.resident_bytes), "{usage:?}");
        assert_eq!(resident("VmPeak: 1 kB\nVmRSS:\t    12 kB\n"), Some(12_288));
        assert_eq!(resident("VmRSS:\t12 pages\n"), None);
    }
}
