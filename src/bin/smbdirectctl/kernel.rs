// SPDX-License-Identifier: GPL-2.0-or-later

//! The status of the kernel's device.

use std::path::Path;

use smbdirect::broker::kernel_status;
use smbdirect::device::abi::VERSION;
use smbdirect::device::chardev::{is_char_device, observe};
use smbdirect::device::{NotObserved, Status, uapi};

/// Returns the status as JSON, or the reason why there is none, with a cure.
pub(crate) fn status(path: &Path) -> Result<String, (Status, String)> {
    let records = observe(path).map_err(|error| (error.status, explain(error)))?;
    let corrupt = |error: &dyn std::error::Error| (Status::Corrupt, error.to_string());
    let status = kernel_status::read(&records, name_of).map_err(|error| corrupt(&error))?;
    serde_json::to_string(&status).map_err(|error| corrupt(&error))
}

fn explain(error: NotObserved) -> String {
    const TOGETHER: &str = "install both from one release, and load the module again (modprobe -r smbdirectk; \
                            modprobe smbdirectk)";
    match (error.status, error.device_version) {
        (Status::NoDevice, _) => {
            "not the smbdirect device, or one that has failed: the kernel's log (dmesg) says which".to_owned()
        }
        (Status::Denied, _) => {
            "not allowed to use the smbdirect device: run this as root, or as a member of its group (ls -l shows which)"
                .to_owned()
        }
        (Status::Version, Some(version)) => format!(
            "the module smbdirectk speaks version {version} of the interface, this program version {VERSION}: {TOGETHER}"
        ),
        (Status::Version, None) => {
            format!("this module smbdirectk does not report a status: {TOGETHER}")
        }
        (Status::Detached, _) => {
            "the smbdirect device has failed, or is being removed: the kernel's log (dmesg) says which".to_owned()
        }
        (status, _) => status.to_string(),
    }
}

/// Returns what else to try if there is no device at a path.
pub(crate) fn hint(path: &Path) -> String {
    if path == Path::new(uapi::PATH) {
        " (modprobe smbdirectk loads it)".to_owned()
    } else if is_char_device(Path::new(uapi::PATH)) {
        format!(" (for the kernel's device: --control {})", uapi::PATH)
    } else {
        String::new()
    }
}

fn name_of(interface: u32) -> Option<String> {
    let name = nix::net::if_::if_indextoname(interface).ok()?;
    // An index without an interface has an empty name.
    name.into_string().ok().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_names_a_cause_and_a_cure() {
        let failure = |status, device_version| {
            explain(NotObserved {
                status,
                device_version,
            })
        };
        assert!(failure(Status::Version, Some(9)).contains("version 9 of the interface"));
        assert!(failure(Status::Version, Some(9)).contains("modprobe smbdirectk"));
        assert!(failure(Status::Version, None).contains("does not report a status"));
        assert!(failure(Status::Denied, None).contains("as root"));
        assert!(failure(Status::NoDevice, None).contains("dmesg"));
        assert!(failure(Status::Detached, None).contains("dmesg"));
        assert_eq!(failure(Status::System, None), Status::System.to_string());
    }

    #[test]
    fn another_kind_of_device_is_not_taken_for_it() {
        let (status, text) = super::status(Path::new("/dev/null")).unwrap_err();
        assert_eq!(status, Status::NoDevice, "{text}");
        assert!(hint(Path::new(uapi::PATH)).contains("modprobe smbdirectk"));
    }

    #[test]
    fn interfaces_have_names() {
        assert_eq!(name_of(1).as_deref(), Some("lo"));
        assert_eq!(name_of(0), None);
    }
}
