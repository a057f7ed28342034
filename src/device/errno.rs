// SPDX-License-Identifier: GPL-2.0-or-later

//! The `errno` values that a [`Status`](super::Status) becomes in a build without libc: Linux's generic ones, which
//! x86-64 and arm64 have.

pub(super) const EPERM: i32 = 1;
pub(super) const ENOENT: i32 = 2;
pub(super) const EIO: i32 = 5;
pub(super) const EBADF: i32 = 9;
pub(super) const EAGAIN: i32 = 11;
pub(super) const ENOMEM: i32 = 12;
pub(super) const EACCES: i32 = 13;
pub(super) const EBUSY: i32 = 16;
pub(super) const EEXIST: i32 = 17;
pub(super) const ENODEV: i32 = 19;
pub(super) const EINVAL: i32 = 22;
pub(super) const EPIPE: i32 = 32;
pub(super) const ERANGE: i32 = 34;
pub(super) const EPROTO: i32 = 71;
pub(super) const EUSERS: i32 = 87;
pub(super) const EMSGSIZE: i32 = 90;
pub(super) const EPROTONOSUPPORT: i32 = 93;
pub(super) const EOPNOTSUPP: i32 = 95;
pub(super) const EADDRNOTAVAIL: i32 = 99;
pub(super) const ECONNABORTED: i32 = 103;
pub(super) const ECONNRESET: i32 = 104;
pub(super) const ENOBUFS: i32 = 105;
pub(super) const ENOTCONN: i32 = 107;
pub(super) const ESHUTDOWN: i32 = 108;
pub(super) const ETIMEDOUT: i32 = 110;
pub(super) const EREMOTEIO: i32 = 121;
pub(super) const ECANCELED: i32 = 125;
pub(super) const ENOTRECOVERABLE: i32 = 131;

#[cfg(all(
    test,
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
mod tests {
    #[test]
    fn the_numbers_are_those_of_libc() {
        for (here, there) in [
            (super::EPERM, libc::EPERM),
            (super::ENOENT, libc::ENOENT),
            (super::EIO, libc::EIO),
            (super::EBADF, libc::EBADF),
            (super::EAGAIN, libc::EAGAIN),
            (super::ENOMEM, libc::ENOMEM),
            (super::EACCES, libc::EACCES),
            (super::EBUSY, libc::EBUSY),
            (super::EEXIST, libc::EEXIST),
            (super::ENODEV, libc::ENODEV),
            (super::EINVAL, libc::EINVAL),
            (super::EPIPE, libc::EPIPE),
            (super::ERANGE, libc::ERANGE),
            (super::EPROTO, libc::EPROTO),
            (super::EUSERS, libc::EUSERS),
            (super::EMSGSIZE, libc::EMSGSIZE),
            (super::EPROTONOSUPPORT, libc::EPROTONOSUPPORT),
            (super::EOPNOTSUPP, libc::EOPNOTSUPP),
            (super::EADDRNOTAVAIL, libc::EADDRNOTAVAIL),
            (super::ECONNABORTED, libc::ECONNABORTED),
            (super::ECONNRESET, libc::ECONNRESET),
            (super::ENOBUFS, libc::ENOBUFS),
            (super::ENOTCONN, libc::ENOTCONN),
            (super::ESHUTDOWN, libc::ESHUTDOWN),
            (super::ETIMEDOUT, libc::ETIMEDOUT),
            (super::EREMOTEIO, libc::EREMOTEIO),
            (super::ECANCELED, libc::ECANCELED),
            (super::ENOTRECOVERABLE, libc::ENOTRECOVERABLE),
        ] {
            assert_eq!(here, there);
        }
    }
}
