// SPDX-License-Identifier: GPL-2.0-or-later

//! Parses responses field by field, and trusts none of the server's lengths.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::bytes::{array_at, slice_at, u8_at, u16_at, u32_at, u64_at};
use super::header::HEADER_LENGTH;
use super::{Command, Error, Header, NtStatus, Result};
use smbdirect::wire::smb2::CryptoTransform;

/// An open file: 16 bytes that only the server understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub [u8; 16]);

impl FileId {
    /// No file: for controls that concern the server itself.
    pub const NONE: Self = Self([0xff; 16]);
}

/// A response, or a message that the server sends unasked.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its header.
    pub header: Header,
    /// The whole message, header included, decrypted.
    pub message: Vec<u8>,
}

impl Response {
    /// Its status.
    #[must_use]
    pub const fn status(&self) -> NtStatus {
        self.header.status
    }

    /// Turns an error status into an error.
    pub fn ok(self) -> Result<Self> {
        if self.status().is_error() {
            return Err(self.refusal());
        }
        Ok(self)
    }

    pub(super) const fn refusal(&self) -> Error {
        Error::Status {
            command: self.header.command,
            status: self.header.status,
        }
    }

    /// The bytes after the header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.message.get(HEADER_LENGTH..).unwrap_or_default()
    }

    /// Returns the body, whose structure size must be `size`.
    pub(super) fn checked(&self, size: u16) -> Result<&[u8]> {
        let body = self.body();
        if u16_at(body, 0) != Some(size) {
            return Err(self.malformed("StructureSize is wrong"));
        }
        Ok(body)
    }

    pub(super) const fn malformed(&self, why: &'static str) -> Error {
        Error::Malformed(
            match self.header.command {
                Command::NEGOTIATE => "NEGOTIATE response",
                Command::SESSION_SETUP => "SESSION_SETUP response",
                Command::TREE_CONNECT => "TREE_CONNECT response",
                Command::CREATE => "CREATE response",
                Command::READ => "READ response",
                Command::WRITE => "WRITE response",
                Command::IOCTL => "IOCTL response",
                Command::QUERY_INFO => "QUERY_INFO response",
                Command::QUERY_DIRECTORY => "QUERY_DIRECTORY response",
                _ => "response",
            },
            why,
        )
    }

    /// Returns a buffer whose offset counts from the header.
    pub(super) fn buffer(&self, offset: u32, length: u32) -> Result<&[u8]> {
        slice_at(&self.message, offset as usize, length as usize)
            .ok_or_else(|| self.malformed("a buffer lies beyond the end of the message"))
    }

    /// Parses the response to a CREATE.
    pub fn created(&self) -> Result<Created> {
        let body = self.checked(89)?;
        let fields = || {
            Some(Created {
                oplock: u8_at(body, 2)?,
                action: u32_at(body, 4)?,
                end_of_file: u64_at(body, 48)?,
                file: FileId(array_at(body, 64)?),
            })
        };
        fields().ok_or_else(|| self.malformed("it is too short"))
    }

    /// Parses the response to a READ.
    pub fn read(&self) -> Result<ReadDone<'_>> {
        let body = self.checked(17)?;
        let fields = || {
            Some((
                u8_at(body, 2)?,
                u32_at(body, 4)?,
                u32_at(body, 8)?,
                u32_at(body, 12)?,
            ))
        };
        let (offset, length, direct, flags) =
            fields().ok_or_else(|| self.malformed("it is too short"))?;
        let data = match length {
            0 => &[],
            _ => self.buffer(offset.into(), length)?,
        };
        Ok(ReadDone {
            offset,
            data,
            direct,
            flags,
        })
    }

    /// Parses the response to a WRITE, and returns the bytes written.
    pub fn written(&self) -> Result<u32> {
        let body = self.checked(17)?;
        u32_at(body, 4).ok_or_else(|| self.malformed("it is too short"))
    }

    /// Parses the response to a CLOSE, and returns the size of the file.
    pub fn closed_at(&self) -> Result<u64> {
        let body = self.checked(60)?;
        u64_at(body, 48).ok_or_else(|| self.malformed("it is too short"))
    }

    /// Parses the response to an IOCTL, and returns its output.
    pub fn output(&self) -> Result<&[u8]> {
        let body = self.checked(49)?;
        let fields = || Some((u32_at(body, 32)?, u32_at(body, 36)?));
        let (offset, length) = fields().ok_or_else(|| self.malformed("it is too short"))?;
        self.buffer(offset, length)
    }

    /// Parses the response to a QUERY_INFO or QUERY_DIRECTORY, and returns its output.
    pub fn information(&self) -> Result<&[u8]> {
        let body = self.checked(9)?;
        let fields = || Some((u16_at(body, 2)?, u32_at(body, 4)?));
        let (offset, length) = fields().ok_or_else(|| self.malformed("it is too short"))?;
        self.buffer(offset.into(), length)
    }

    /// Parses the response to `FSCTL_QUERY_NETWORK_INTERFACE_INFO` ([MS-SMB2] 2.2.32.5), and leaves out addresses that
    /// are not IP. A server that announces no interface sends an empty output.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        let mut rest = self.output()?;
        let mut found = Vec::new();
        if rest.is_empty() {
            return Ok(found);
        }
        loop {
            let entry = || {
                Some((
                    u32_at(rest, 0)?,
                    Interface {
                        index: u32_at(rest, 4)?,
                        rss: u32_at(rest, 8)? & 1 != 0,
                        rdma: u32_at(rest, 8)? & 2 != 0,
                        speed: u64_at(rest, 16)?,
                        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                    },
                ))
            };
            let (next, interface) = entry().ok_or_else(|| self.malformed("it is too short"))?;
            let address = match u16_at(rest, 24) {
                Some(2) => array_at(rest, 28).map(|octets: [u8; 4]| Ipv4Addr::from(octets).into()),
                Some(0x17) => {
                    array_at(rest, 32).map(|octets: [u8; 16]| Ipv6Addr::from(octets).into())
                }
                _ => None,
            };
            found.extend(address.map(|address| Interface {
                address,
                ..interface
            }));
            if next == 0 {
                return Ok(found);
            }
            rest = rest.get(next as usize..).unwrap_or_default();
        }
    }

    /// Parses the response to a QUERY_DIRECTORY, and returns names and file sizes.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut rest = self.information()?;
        let mut found = Vec::new();
        loop {
            let entry = || {
                let length = u32_at(rest, 60)? as usize;
                let name = slice_at(rest, 68, length)?.chunks_exact(2);
                let name: Vec<u16> = name.filter_map(|unit| u16_at(unit, 0)).collect();
                let entry = Entry {
                    name: String::from_utf16_lossy(&name),
                    end_of_file: u64_at(rest, 40)?,
                    attributes: u32_at(rest, 56)?,
                };
                Some((u32_at(rest, 0)?, entry))
            };
            let (next, entry) = entry().ok_or_else(|| self.malformed("an entry is too short"))?;
            found.push(entry);
            if next == 0 {
                return Ok(found);
            }
            rest = rest.get(next as usize..).unwrap_or_default();
        }
    }
}

/// The result of CREATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Created {
    /// The file.
    pub file: FileId,
    /// The oplock granted; 0xff means a lease.
    pub oplock: u8,
    /// 1 opened, 2 created, 3 overwritten, 0 superseded.
    pub action: u32,
    /// Its size.
    pub end_of_file: u64,
}

/// The result of READ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadDone<'a> {
    /// The offset of `data` in the message (`DataOffset`).
    pub offset: u8,
    /// The data, if it came in the response.
    pub data: &'a [u8],
    /// Bytes that the server put into this side's memory (`DataRemaining`).
    pub direct: u32,
    /// `Flags`, which SMB 3.1.1 has.
    pub flags: u32,
}

impl<'a> ReadDone<'a> {
    /// In `flags`: `data` is an RDMA transform.
    pub const RDMA_TRANSFORM: u32 = 1;

    /// Returns how the data that the server put into this side's memory is protected, if it is.
    pub fn transform(&self) -> Result<Option<CryptoTransform<'a>>> {
        if self.flags & Self::RDMA_TRANSFORM == 0 {
            return Ok(None);
        }
        let malformed = |_| Error::Malformed("READ response", "its RDMA transform is malformed");
        CryptoTransform::parse(self.data)
            .map(Some)
            .map_err(malformed)
    }
}

/// An address of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The interface's index: all addresses of an interface have the same.
    pub index: u32,
    /// Receive side scaling: several connections use several processors.
    pub rss: bool,
    /// SMB Direct is served there.
    pub rdma: bool,
    /// Bits per second.
    pub speed: u64,
    /// The address.
    pub address: IpAddr,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name without its path.
    pub name: String,
    /// Its size.
    pub end_of_file: u64,
    /// Its attributes; 0x10: a directory.
    pub attributes: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(command: Command, body: &[u8]) -> Response {
        let header = Header {
            credit_charge: 0,
            status: NtStatus::SUCCESS,
            command,
            credits: 1,
            flags: Header::RESPONSE,
            next_command: 0,
            message_id: 0,
            async_id: 0,
            session_id: 0,
            signature: [0; 16],
        };
        let message = [&header.emit()[..], body].concat();
        Response { header, message }
    }

    #[test]
    fn a_buffer_that_is_not_in_the_message_is_refused() {
        let read = |length: u32, data: &[u8]| {
            let mut body = vec![17, 0, 80, 0];
            body.extend(length.to_le_bytes());
            body.extend([0; 8]);
            body.extend(data);
            response(Command::READ, &body)
                .read()
                .map(|read| read.data.to_vec())
        };
        assert_eq!(read(4, b"data").expect("whole"), b"data");
        assert!(read(5, b"data").is_err());
        assert!(read(u32::MAX, b"data").is_err());
        assert_eq!(read(0, b"").expect("nothing"), b"");
    }

    #[test]
    fn an_interface_has_its_address_speed_and_capabilities() {
        let entry = |next: u32, capability: u32, family: u16, address: &[u8], at: usize| {
            let mut entry = vec![0; 152];
            entry[..4].copy_from_slice(&next.to_le_bytes());
            entry[4] = 9;
            entry[8..12].copy_from_slice(&capability.to_le_bytes());
            entry[16..24].copy_from_slice(&10_000_000_000_u64.to_le_bytes());
            entry[24..26].copy_from_slice(&family.to_le_bytes());
            entry[at..at + address.len()].copy_from_slice(address);
            entry
        };
        let mut output = entry(152, 3, 2, &[192, 0, 2, 1], 28);
        let six = Ipv6Addr::LOCALHOST;
        output.extend(entry(152, 1, 0x17, &six.octets(), 32));
        output.extend(entry(0, 2, 99, &[], 28));
        let mut body = vec![49, 0];
        body.extend([0; 30]);
        body.extend(112_u32.to_le_bytes());
        body.extend((output.len() as u32).to_le_bytes());
        body.extend([0; 8]);
        body.extend(&output);
        let found = response(Command::IOCTL, &body)
            .interfaces()
            .expect("two addresses");
        let first = Interface {
            index: 9,
            rss: true,
            rdma: true,
            speed: 10_000_000_000,
            address: Ipv4Addr::new(192, 0, 2, 1).into(),
        };
        let second = Interface {
            rdma: false,
            address: six.into(),
            ..first
        };
        assert_eq!(found, [first, second]);
    }

    #[test]
    fn a_server_may_announce_no_interface() {
        let mut body = vec![49, 0];
        body.extend([0; 30]);
        body.extend(112_u32.to_le_bytes());
        body.extend([0; 12]);
        let found = response(Command::IOCTL, &body).interfaces();
        assert!(found.expect("an empty list").is_empty());
        // An output that is too short for an interface is still malformed.
        body[36] = 8;
        body.extend([0; 8]);
        assert!(response(Command::IOCTL, &body).interfaces().is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_from_a_server_make_the_client_panic_or_run_on(
            size in prop::sample::select(vec![9_u16, 16, 17, 49, 60, 65, 89]),
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
            small in any::<bool>(),
        ) {
            let mut body = size.to_le_bytes().to_vec();
            body.extend(bytes);
            if small {
                // Make offsets and lengths small, so that they are plausible.
                body.iter_mut().skip(2).for_each(|byte| *byte &= 0x3);
            }
            let response = response(Command::IOCTL, &body);
            let _ = response.created();
            let _ = response.read();
            let _ = response.written();
            let _ = response.closed_at();
            let _ = response.interfaces();
            let _ = response.entries();
            let config = crate::client::Config::new([0; 16]);
            let _ = crate::client::negotiate::response(&response, &config);
        }
    }
}
