// SPDX-License-Identifier: GPL-2.0-or-later

//! Calls that send one request at a time and return its result.

use super::bytes::{u32_at, u64_at};
use super::{
    Connection, Create, Created, Entry, FileId, Interface, NtStatus, Read, Request, Result, Write,
};

/// `FSCTL_QUERY_NETWORK_INTERFACE_INFO`.
const QUERY_NETWORK_INTERFACE_INFO: u32 = 0x0014_01fc;
/// In the flags of a share: encryption is required.
const ENCRYPT_DATA: u32 = 0x0000_8000;
/// Bytes of output to ask for.
const OUTPUT: u32 = 64 * 1024;

impl Connection {
    /// Connects to a share, `\\host\share`, and returns the tree's id, valid on all connections of
    /// the session.
    pub fn tree_connect(&mut self, path: &str) -> Result<u32> {
        let response = self.call(&Request::tree_connect(path)?)?;
        let tree_id = response.header.tree_id();
        let flags = u32_at(response.checked(16)?, 4).unwrap_or(0);
        if flags & ENCRYPT_DATA != 0 {
            self.shared_session()?.seal_tree(tree_id);
        }
        Ok(tree_id)
    }

    /// Leaves a share.
    pub fn tree_disconnect(&mut self, tree_id: u32) -> Result<()> {
        self.call(&Request::tree_disconnect(tree_id)?).map(drop)
    }

    /// Asks whether the server answers.
    pub fn echo(&mut self) -> Result<()> {
        self.call(&Request::echo()?).map(drop)
    }

    /// Asks for the server's addresses.
    pub fn network_interfaces(&mut self, tree_id: u32) -> Result<Vec<Interface>> {
        let code = QUERY_NETWORK_INTERFACE_INFO;
        let request = Request::fsctl(tree_id, code, FileId::NONE, &[], OUTPUT)?;
        self.call(&request)?.interfaces()
    }

    /// Opens or creates a file or directory; `name` begins below the share, with `\` between its
    /// parts.
    pub fn create(&mut self, tree_id: u32, name: &str, how: &Create) -> Result<Created> {
        self.call(&Request::create(tree_id, name, how)?)?.created()
    }

    /// Closes a file and returns its size.
    pub fn close(&mut self, tree_id: u32, file: FileId) -> Result<u64> {
        self.call(&Request::close(tree_id, file)?)?.closed_at()
    }

    /// Waits until the data that was written is on the disk.
    pub fn flush(&mut self, tree_id: u32, file: FileId) -> Result<()> {
        self.call(&Request::flush(tree_id, file)?).map(drop)
    }

    /// Reads at most `length` bytes, which come in the response. There are fewer if the file ends before that.
    pub fn read(
        &mut self,
        tree_id: u32,
        file: FileId,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>> {
        let request = Read::inline(file, offset, length).request(tree_id);
        match self.call(&request) {
            Ok(response) => {
                let data = response.read()?.data.to_vec();
                self.recycle(response);
                Ok(data)
            }
            Err(error) if error.status() == Some(NtStatus::END_OF_FILE) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Writes data that goes in the request, and returns the number of bytes written.
    pub fn write(&mut self, tree_id: u32, file: FileId, offset: u64, data: &[u8]) -> Result<u32> {
        let request = Write::inline(file, offset, data).request(tree_id);
        self.call(&request)?.written()
    }

    /// Asks for the size of a file.
    pub fn end_of_file(&mut self, tree_id: u32, file: FileId) -> Result<u64> {
        let response = self.call(&Request::query_standard_info(tree_id, file)?)?;
        let end = u64_at(response.information()?, 8);
        end.ok_or_else(|| response.malformed("it is too short"))
    }

    /// Lengthens or shortens a file.
    pub fn set_end_of_file(&mut self, tree_id: u32, file: FileId, end: u64) -> Result<()> {
        let request = Request::set_end_of_file(tree_id, file, end)?;
        self.call(&request).map(drop)
    }

    /// Sets whether a file is deleted when it is closed.
    pub fn set_delete_on_close(&mut self, tree_id: u32, file: FileId, delete: bool) -> Result<()> {
        let request = Request::set_delete_on_close(tree_id, file, delete)?;
        self.call(&request).map(drop)
    }

    /// Lists the entries of a directory that match `pattern`, such as `*`.
    pub fn list(&mut self, tree_id: u32, directory: FileId, pattern: &str) -> Result<Vec<Entry>> {
        let mut found = Vec::new();
        let output = OUTPUT.min(self.negotiated().max_transact_size);
        loop {
            let restart = found.is_empty();
            let request = Request::query_directory(tree_id, directory, pattern, restart, output)?;
            match self.call(&request) {
                Ok(response) => found.extend(response.entries()?),
                Err(error) => match error.status() {
                    Some(NtStatus::NO_MORE_FILES | NtStatus::NO_SUCH_FILE) => return Ok(found),
                    _ => return Err(error),
                },
            }
        }
    }
}
