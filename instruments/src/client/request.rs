// SPDX-License-Identifier: GPL-2.0-or-later

//! Requests: plain data until they are sent, so that tests can send what no client should.
//!
//! The bodies come from the crate `smb-msg`, except those of READ and WRITE ([`super::read_write`]), because it does
//! not know their channels.

use std::io::Cursor;

use binrw::BinWrite;
use smb_fscc::{
    FileAccessMask, FileAttributes, FileDispositionInformation, FileEndOfFileInformation,
    QueryDirectoryInfoClass, QueryFileInfoClass, SetFileInfo, SetFileInfoClass,
};
use smb_msg::{
    AdditionalInfo, CancelRequest, CloseRequest, CreateDisposition, CreateOptions, CreateRequest,
    EchoRequest, FlushRequest, GetInfoRequestData, ImpersonationLevel, InfoType, IoctlBuffer,
    IoctlReqData, IoctlRequest, IoctlRequestFlags, LogoffRequest, OplockLevel, QueryDirectoryFlags,
    QueryDirectoryRequest, QueryInfoClass, QueryInfoFlags, QueryInfoRequest, RawSetInfoData,
    SetInfoClass, SetInfoData, SetInfoRequest, ShareAccessFlags, TreeConnectRequest,
    TreeDisconnectRequest,
};

use super::header::HEADER_LENGTH;
use super::{Command, Error, FileId, Result};

/// Bytes of data that one credit stands for ([MS-SMB2] 3.2.4.1.5).
const CREDIT: u32 = 64 * 1024;

/// The smallest body of a CREATE, in bytes.
const CREATE_LENGTH: usize = 57;

/// How a request is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protection {
    /// Protected as the server and the options require.
    #[default]
    AsAgreed,
    /// Neither signed nor encrypted.
    Plain,
    /// Signed.
    Signed,
    /// Encrypted.
    Sealed,
}

/// A request that has no message id yet, with any bytes that follow its body.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The request's command.
    pub command: Command,
    /// The tree.
    pub tree_id: u32,
    /// Flags of the header, without [`Header::SIGNED`](super::Header::SIGNED).
    pub flags: u32,
    /// Credits that it takes. The message id advances by the same number, but by at least 1.
    pub credit_charge: u16,
    /// The bytes after the header; offsets in it count from the header's start.
    pub body: Vec<u8>,
    /// The bytes after the body.
    pub data: &'a [u8],
    /// How it is protected.
    pub protection: Protection,
}

/// Returns the credits for `bytes` of data, sent or asked for.
#[must_use]
pub const fn credits_for(bytes: u32) -> u16 {
    let credits = bytes.saturating_sub(1) / CREDIT + 1;
    if credits > u16::MAX as u32 {
        u16::MAX
    } else {
        credits as u16
    }
}

impl<'a> Request<'a> {
    /// Makes a request with any bytes as its body.
    #[must_use]
    pub const fn raw(command: Command, tree_id: u32, body: Vec<u8>) -> Self {
        Self {
            command,
            tree_id,
            flags: 0,
            credit_charge: 1,
            body,
            data: &[],
            protection: Protection::AsAgreed,
        }
    }

    /// Makes a request whose body `smb-msg` encodes.
    pub(super) fn encode<T>(
        command: Command,
        tree_id: u32,
        name: &'static str,
        body: &T,
    ) -> Result<Self>
    where
        T: for<'b> BinWrite<Args<'b> = ()>,
    {
        // Leave room for the header: offsets count from its start.
        let mut cursor = Cursor::new(vec![0; HEADER_LENGTH]);
        cursor.set_position(HEADER_LENGTH as u64);
        match body.write_le(&mut cursor) {
            Ok(()) => Ok(Self::raw(
                command,
                tree_id,
                cursor.into_inner().split_off(HEADER_LENGTH),
            )),
            Err(error) => Err(Error::Encode(name, error.to_string())),
        }
    }

    /// Returns the length in bytes, header included, rounded up to a multiple of 8, where the next request of a
    /// compound may begin.
    pub(super) fn padded_length(&self) -> u32 {
        let length = HEADER_LENGTH + self.body.len() + self.data.len();
        u32::try_from(length.next_multiple_of(8)).unwrap_or(u32::MAX)
    }

    /// Returns the zeros between this request and the next one of a compound, if there is one at `next_command`.
    pub(super) fn padding(&self, next_command: u32) -> &'static [u8] {
        let length = HEADER_LENGTH + self.body.len() + self.data.len();
        let padding = (next_command as usize).saturating_sub(length);
        const ZEROS: &[u8] = &[0; 8];
        ZEROS.get(..padding).unwrap_or_default()
    }

    /// Returns the request with the credits that `bytes` of data take.
    #[must_use]
    pub const fn charged_for(mut self, bytes: u32) -> Self {
        self.credit_charge = credits_for(bytes);
        self
    }

    /// Returns the request with this protection instead of the agreed one.
    #[must_use]
    pub const fn protected(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// Makes an ECHO.
    pub fn echo() -> Result<Self> {
        Self::encode(Command::ECHO, 0, "ECHO", &EchoRequest::default())
    }

    /// Makes a LOGOFF.
    pub fn logoff() -> Result<Self> {
        Self::encode(Command::LOGOFF, 0, "LOGOFF", &LogoffRequest::default())
    }

    /// Makes a CANCEL, without the id of the request to cancel: see `Connection::cancel`.
    pub(super) fn cancel() -> Result<Self> {
        Self::encode(Command::CANCEL, 0, "CANCEL", &CancelRequest::default())
    }

    /// Makes a TREE_CONNECT to `\\host\share`.
    pub fn tree_connect(path: &str) -> Result<Self> {
        let body = TreeConnectRequest::new(path);
        Self::encode(Command::TREE_CONNECT, 0, "TREE_CONNECT", &body)
    }

    /// Makes a TREE_DISCONNECT.
    pub fn tree_disconnect(tree_id: u32) -> Result<Self> {
        let body = TreeDisconnectRequest::default();
        Self::encode(Command::TREE_DISCONNECT, tree_id, "TREE_DISCONNECT", &body)
    }

    /// Makes a CREATE.
    pub fn create(tree_id: u32, name: &str, how: &Create) -> Result<Self> {
        let body = CreateRequest {
            requested_oplock_level: OplockLevel::None,
            impersonation_level: ImpersonationLevel::Impersonation,
            desired_access: FileAccessMask::from_bytes(how.access.to_le_bytes()),
            file_attributes: FileAttributes::from_bytes(how.attributes.to_le_bytes()),
            share_access: ShareAccessFlags::from_bytes(how.share.to_le_bytes()),
            create_disposition: match how.disposition {
                Disposition::Supersede => CreateDisposition::Superseded,
                Disposition::Open => CreateDisposition::Open,
                Disposition::Create => CreateDisposition::Create,
                Disposition::OpenIf => CreateDisposition::OpenIf,
                Disposition::Overwrite => CreateDisposition::Overwrite,
                Disposition::OverwriteIf => CreateDisposition::OverwriteIf,
            },
            create_options: CreateOptions::from_bytes(how.options.to_le_bytes()),
            name: name.into(),
            contexts: how
                .lease
                .map_or_else(Vec::new, |lease| vec![lease.context()])
                .into(),
        };
        let mut request = Self::encode(Command::CREATE, tree_id, "CREATE", &body)?;
        // smb-msg supports neither batch oplocks nor leases in this field ([MS-SMB2] 2.2.13).
        let level = if how.lease.is_some() {
            0xff
        } else {
            how.oplock
        };
        if let Some(field) = request.body.get_mut(3) {
            *field = level;
        }
        // smb-msg gives absent contexts a nonzero offset, and some servers look for contexts there.
        if how.lease.is_none() {
            if let Some(offset) = request.body.get_mut(48..52) {
                offset.fill(0);
            }
        }
        // smb-msg omits the buffer if the name is empty, but the buffer must have at least one byte.
        request
            .body
            .resize(request.body.len().max(CREATE_LENGTH), 0);
        Ok(request)
    }

    /// Makes a CLOSE, which asks for the attributes afterwards.
    pub fn close(tree_id: u32, file: FileId) -> Result<Self> {
        let body = CloseRequest {
            file_id: file.0.into(),
        };
        Self::encode(Command::CLOSE, tree_id, "CLOSE", &body)
    }

    /// Makes a FLUSH.
    pub fn flush(tree_id: u32, file: FileId) -> Result<Self> {
        let body = FlushRequest {
            file_id: file.0.into(),
        };
        Self::encode(Command::FLUSH, tree_id, "FLUSH", &body)
    }

    /// Makes an IOCTL: a file system control that returns at most `output` bytes.
    pub fn fsctl(tree_id: u32, code: u32, file: FileId, input: &[u8], output: u32) -> Result<Self> {
        let body = IoctlRequest {
            ctl_code: code,
            file_id: file.0.into(),
            max_input_response: 0,
            max_output_response: output,
            flags: IoctlRequestFlags::new().with_is_fsctl(true),
            buffer: IoctlReqData::Ioctl(IoctlBuffer::from(input)),
        };
        let request = Self::encode(Command::IOCTL, tree_id, "IOCTL", &body)?;
        Ok(request.charged_for(output))
    }

    /// Makes a QUERY_INFO of a file for [MS-FSCC]'s FileStandardInformation.
    pub fn query_standard_info(tree_id: u32, file: FileId) -> Result<Self> {
        let body = QueryInfoRequest {
            info_type: InfoType::File,
            info_class: QueryInfoClass::File(QueryFileInfoClass::StandardInformation),
            output_buffer_length: 24,
            additional_info: AdditionalInfo::new(),
            flags: QueryInfoFlags::new(),
            file_id: file.0.into(),
            data: GetInfoRequestData::None(()),
        };
        Self::encode(Command::QUERY_INFO, tree_id, "QUERY_INFO", &body)
    }

    /// Makes a SET_INFO that sets the end of a file.
    pub fn set_end_of_file(tree_id: u32, file: FileId, end: u64) -> Result<Self> {
        let info = SetFileInfo::EndOfFileInformation(FileEndOfFileInformation { end_of_file: end });
        Self::set_info(tree_id, file, SetFileInfoClass::EndOfFileInformation, info)
    }

    /// Makes a SET_INFO that sets whether the file is deleted when it is closed.
    pub fn set_delete_on_close(tree_id: u32, file: FileId, delete: bool) -> Result<Self> {
        let info = SetFileInfo::DispositionInformation(FileDispositionInformation {
            delete_pending: delete.into(),
        });
        Self::set_info(
            tree_id,
            file,
            SetFileInfoClass::DispositionInformation,
            info,
        )
    }

    fn set_info(
        tree_id: u32,
        file: FileId,
        class: SetFileInfoClass,
        info: SetFileInfo,
    ) -> Result<Self> {
        let body = SetInfoRequest {
            info_class: SetInfoClass::File(class),
            additional_information: AdditionalInfo::new(),
            file_id: file.0.into(),
            data: SetInfoData::from(RawSetInfoData::from(info)),
        };
        Self::encode(Command::SET_INFO, tree_id, "SET_INFO", &body)
    }

    /// Makes a QUERY_DIRECTORY, which asks for the names that match `pattern`, in at most `output` bytes.
    pub fn query_directory(
        tree_id: u32,
        file: FileId,
        pattern: &str,
        restart: bool,
        output: u32,
    ) -> Result<Self> {
        let body = QueryDirectoryRequest {
            file_information_class: QueryDirectoryInfoClass::FullDirectoryInformation,
            flags: QueryDirectoryFlags::new().with_restart_scans(restart),
            file_index: 0,
            file_id: file.0.into(),
            output_buffer_length: output,
            file_name: pattern.into(),
        };
        let request = Self::encode(Command::QUERY_DIRECTORY, tree_id, "QUERY_DIRECTORY", &body)?;
        Ok(request.charged_for(output))
    }
}

/// What CREATE does if the file exists, and if it does not ([MS-SMB2] 2.2.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Replaces or creates it.
    Supersede,
    /// Opens it; fails if it does not exist.
    Open,
    /// Creates it; fails if it exists.
    Create,
    /// Opens or creates it.
    OpenIf,
    /// Empties it; fails if it does not exist.
    Overwrite,
    /// Empties or creates it.
    OverwriteIf,
}

/// How CREATE opens a file; [MS-SMB2] 2.2.13 defines the masks and levels.
#[derive(Clone, Copy, Debug)]
pub struct Create {
    /// `DesiredAccess`.
    pub access: u32,
    /// `FileAttributes`.
    pub attributes: u32,
    /// `ShareAccess`: 1 read, 2 write, 4 delete.
    pub share: u32,
    /// What happens if the file exists, and if it does not.
    pub disposition: Disposition,
    /// `CreateOptions`.
    pub options: u32,
    /// `RequestedOplockLevel`: 0 none, 1 shared, 8 exclusive, 9 batch.
    pub oplock: u8,
    /// A lease to ask for, instead of an oplock.
    pub lease: Option<Lease>,
}

/// A lease to ask for ([MS-SMB2] 2.2.13.2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its key.
    pub key: [u8; 16],
    /// What the client may cache: 1 reads, 2 handles, 4 writes.
    pub state: u32,
}

impl Lease {
    fn context(self) -> smb_msg::CreateContextRequest {
        smb_msg::RequestLease::RqLsReqv1(smb_msg::RequestLeaseV1 {
            lease_key: u128::from_le_bytes(self.key),
            lease_state: smb_msg::LeaseState::from_bytes(self.state.to_le_bytes()),
        })
        .into()
    }
}

impl Create {
    /// In `options`: the file is a directory.
    pub const DIRECTORY: u32 = 0x1;
    /// In `options`: writes reach the disk before they are answered.
    pub const WRITE_THROUGH: u32 = 0x2;
    /// In `options`: the file is not a directory.
    pub const NON_DIRECTORY: u32 = 0x40;
    /// In `options`: the file is deleted when it is closed. Needs [`Self::DELETE`].
    pub const DELETE_ON_CLOSE: u32 = 0x1000;
    /// In `access`: read data and attributes.
    pub const READ: u32 = 0x0012_0089;
    /// In `access`: write data and attributes.
    pub const WRITE: u32 = 0x0012_0116;
    /// In `access`: delete.
    pub const DELETE: u32 = 0x0001_0000;

    /// Opens a file to read and write, which others may use at the same time.
    #[must_use]
    pub const fn file(disposition: Disposition) -> Self {
        Self {
            access: Self::READ | Self::WRITE | Self::DELETE,
            attributes: 0x80,
            share: 7,
            disposition,
            options: Self::NON_DIRECTORY,
            oplock: 0,
            lease: None,
        }
    }

    /// Opens a directory to list.
    #[must_use]
    pub const fn directory() -> Self {
        Self {
            access: Self::READ,
            attributes: 0x10,
            share: 7,
            disposition: Disposition::Open,
            options: Self::DIRECTORY,
            oplock: 0,
            lease: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{Create, Disposition};

    #[test]
    fn a_create_without_contexts_names_their_offset_and_length_as_0() {
        let how = Create::file(Disposition::Create);
        let body = Request::create(1, "name", &how).expect("a request").body;
        // CreateContextsOffset and CreateContextsLength ([MS-SMB2] 2.2.13).
        assert_eq!(body[48..56], [0; 8]);
    }
}
