// SPDX-License-Identifier: GPL-2.0-or-later

//! NTSTATUS values, with the names that people search for ([MS-ERREF] 2.3).

use std::fmt;

/// The status of a response.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NtStatus(pub u32);

macro_rules! statuses {
    ($($name:ident = $value:literal,)+) => {
        impl NtStatus {
            $(
                #[doc = concat!("`STATUS_", stringify!($name), "`.")]
                pub const $name: Self = Self($value);
            )+

            /// Returns `STATUS_…`, or `None` for a status that file servers rarely send.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(concat!("STATUS_", stringify!($name))),)+
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    SUCCESS = 0x0000_0000,
    PENDING = 0x0000_0103,
    NOTIFY_CLEANUP = 0x0000_010b,
    NOTIFY_ENUM_DIR = 0x0000_010c,
    BUFFER_OVERFLOW = 0x8000_0005,
    NO_MORE_FILES = 0x8000_0006,
    STOPPED_ON_SYMLINK = 0x8000_002d,
    UNSUCCESSFUL = 0xc000_0001,
    NOT_IMPLEMENTED = 0xc000_0002,
    INVALID_INFO_CLASS = 0xc000_0003,
    INFO_LENGTH_MISMATCH = 0xc000_0004,
    INVALID_HANDLE = 0xc000_0008,
    INVALID_PARAMETER = 0xc000_000d,
    NO_SUCH_FILE = 0xc000_000f,
    INVALID_DEVICE_REQUEST = 0xc000_0010,
    END_OF_FILE = 0xc000_0011,
    MORE_PROCESSING_REQUIRED = 0xc000_0016,
    NO_MEMORY = 0xc000_0017,
    ACCESS_DENIED = 0xc000_0022,
    BUFFER_TOO_SMALL = 0xc000_0023,
    OBJECT_NAME_INVALID = 0xc000_0033,
    OBJECT_NAME_NOT_FOUND = 0xc000_0034,
    OBJECT_NAME_COLLISION = 0xc000_0035,
    OBJECT_PATH_NOT_FOUND = 0xc000_003a,
    SHARING_VIOLATION = 0xc000_0043,
    FILE_LOCK_CONFLICT = 0xc000_0054,
    LOCK_NOT_GRANTED = 0xc000_0055,
    DELETE_PENDING = 0xc000_0056,
    WRONG_PASSWORD = 0xc000_006a,
    LOGON_FAILURE = 0xc000_006d,
    ACCOUNT_RESTRICTION = 0xc000_006e,
    PASSWORD_EXPIRED = 0xc000_0071,
    ACCOUNT_DISABLED = 0xc000_0072,
    DISK_FULL = 0xc000_007f,
    INSUFFICIENT_RESOURCES = 0xc000_009a,
    MEDIA_WRITE_PROTECTED = 0xc000_00a2,
    BAD_IMPERSONATION_LEVEL = 0xc000_00a5,
    IO_TIMEOUT = 0xc000_00b5,
    FILE_IS_A_DIRECTORY = 0xc000_00ba,
    NOT_SUPPORTED = 0xc000_00bb,
    NETWORK_NAME_DELETED = 0xc000_00c9,
    NETWORK_ACCESS_DENIED = 0xc000_00ca,
    BAD_NETWORK_NAME = 0xc000_00cc,
    REQUEST_NOT_ACCEPTED = 0xc000_00d0,
    INVALID_OPLOCK_PROTOCOL = 0xc000_00e3,
    INTERNAL_ERROR = 0xc000_00e5,
    DIRECTORY_NOT_EMPTY = 0xc000_0101,
    NOT_A_DIRECTORY = 0xc000_0103,
    CANCELLED = 0xc000_0120,
    FILE_CLOSED = 0xc000_0128,
    CONNECTION_DISCONNECTED = 0xc000_020c,
    CONNECTION_RESET = 0xc000_020d,
    USER_SESSION_DELETED = 0xc000_0203,
    INSUFF_SERVER_RESOURCES = 0xc000_0205,
    PATH_NOT_COVERED = 0xc000_0257,
    NETWORK_SESSION_EXPIRED = 0xc000_035c,
    DOWNGRADE_DETECTED = 0xc000_0388,
    INVALID_SIGNATURE = 0xc000_a000,
    SERVER_UNAVAILABLE = 0xc000_0466,
    AUTH_TAG_MISMATCH = 0xc000_a002,
}

impl NtStatus {
    /// Returns whether the request failed. Warnings (`BUFFER_OVERFLOW` and the like) count as failures, because there
    /// is less data than was asked for.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >= 0x8000_0000
    }

    /// Returns what a user can do about it; empty if the name says enough.
    #[must_use]
    pub const fn cure(self) -> &'static str {
        match self {
            Self::LOGON_FAILURE | Self::WRONG_PASSWORD => {
                "check user, password and domain (for smbd: smbpasswd -a USER)"
            }
            Self::ACCOUNT_DISABLED | Self::ACCOUNT_RESTRICTION | Self::PASSWORD_EXPIRED => {
                "the account may not log in: ask the server's administrator"
            }
            Self::BAD_NETWORK_NAME => "there is no such share on this server",
            Self::ACCESS_DENIED | Self::NETWORK_ACCESS_DENIED => {
                "this user may not do that there: check the share's and the file's permissions; \
                 a server that requires encryption also answers with this status (then use --seal)"
            }
            Self::MEDIA_WRITE_PROTECTED => "the share is read-only",
            Self::DISK_FULL => "free some space on the share, or use a smaller file",
            Self::INVALID_PARAMETER => "the server refuses the form of the request",
            Self::REQUEST_NOT_ACCEPTED => {
                "the server takes no more channels or sessions of this kind \
                 (smbd: server multi channel support = yes)"
            }
            Self::USER_SESSION_DELETED | Self::NETWORK_SESSION_EXPIRED => {
                "the server does not know the session, or has forgotten it: log in again"
            }
            Self::NOT_SUPPORTED | Self::INVALID_DEVICE_REQUEST | Self::NOT_IMPLEMENTED => {
                "the server cannot do that"
            }
            Self::INSUFFICIENT_RESOURCES | Self::INSUFF_SERVER_RESOURCES | Self::NO_MEMORY => {
                "the server is short of memory or buffers: try again, or with less depth"
            }
            _ => "",
        }
    }
}

impl fmt::Display for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "NTSTATUS {:#010x}", self.0),
        }
    }
}

impl fmt::Debug for NtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_its_name_and_an_unknown_one_its_number() {
        assert_eq!(NtStatus(0xc000_006d).to_string(), "STATUS_LOGON_FAILURE");
        assert_eq!(NtStatus(0xc012_3456).to_string(), "NTSTATUS 0xc0123456");
        assert!(NtStatus::LOGON_FAILURE.cure().contains("password"));
    }

    #[test]
    fn pending_is_not_an_error_but_less_data_than_asked_for_is() {
        assert!(!NtStatus::PENDING.is_error());
        assert!(NtStatus::BUFFER_OVERFLOW.is_error());
        assert!(NtStatus::END_OF_FILE.is_error());
    }
}
