// SPDX-License-Identifier: GPL-2.0-or-later

//! Several requests in one message ([MS-SMB2] 3.2.4.1.4).

use super::{Connection, Outstanding};
use crate::client::link::Deadline;
use crate::client::{Request, Result};

impl Connection {
    /// Sends several requests in one message, as soon as there are credits for all of them, and returns their message
    /// ids. A request with [`Header::RELATED`](crate::client::Header::RELATED) uses the session and the tree of the
    /// request before it; if it names [`FileId::NONE`](crate::client::FileId::NONE), it also uses that request's file.
    /// If one of the requests is encrypted, all are.
    pub fn send_compound(&mut self, requests: &[Request<'_>]) -> Result<Vec<u64>> {
        let deadline = Deadline::new(self.config.timeout);
        let charges = requests.iter().map(|request| request.credit_charge.max(1));
        let charge = charges.map(u32::from).sum();
        self.wait_for_credits(charge, deadline)?;
        let protections: Vec<_> = requests.iter().map(|one| self.protection(one)).collect();
        let seal = protections.iter().any(|(_, seal)| *seal);
        let mut message = Vec::new();
        let mut ids = Vec::new();
        for (n, (request, (sign, _))) in requests.iter().zip(&protections).enumerate() {
            let sign = *sign && !seal;
            let next_command = if n + 1 < requests.len() {
                request.padded_length()
            } else {
                0
            };
            let id = self.next_message_id;
            let head = self.head(request, id, None, next_command, sign)?;
            message.extend(head);
            message.extend(&request.body);
            message.extend(request.data);
            message.extend(request.padding(next_command));
            self.next_message_id += u64::from(request.credit_charge.max(1));
            let outstanding = Outstanding {
                command: request.command,
                signed: sign,
                sealed: seal,
                async_id: None,
            };
            self.outstanding.insert(id, outstanding);
            ids.push(id);
        }
        self.credits -= charge;
        if seal {
            self.send_sealed(message, deadline)?;
        } else {
            self.link.send(&[&message], deadline)?;
        }
        Ok(ids)
    }
}
