//! For tests: messages that no request is in.

use super::Connection;
use crate::client::Result;
use crate::client::link::Deadline;

impl Connection {
    /// Sends any bytes as one message, which no request is taken to be in: the answer, if there is
    /// one, is for [`receive_bytes`](Self::receive_bytes).
    pub fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        let deadline = Deadline::new(self.config.timeout);
        self.link.send(&[message], deadline)
    }

    /// The next message as it arrived, unchecked; not for a connection with requests outstanding.
    pub fn receive_bytes(&mut self) -> Result<Vec<u8>> {
        let deadline = Deadline::new(self.config.timeout);
        self.link.receive(deadline)
    }

    /// The id of the next request's message.
    #[must_use]
    pub const fn next_message_id(&self) -> u64 {
        self.next_message_id
    }
}
