// SPDX-License-Identifier: GPL-2.0-or-later

//! An initiator that does nothing by itself, and checks that the acceptor keeps every rule.
//!
//! In every case, this checks every message after the negotiation: the value of each field, the credits on both sides,
//! and that fragments are complete and in sequence.

use std::collections::VecDeque;

use smbdirect::fabric::iwarp::Iwarp;
use smbdirect::fabric::{Access, CloseReason, ConnId, Fabric, Region, Sge, WrId};
use smbdirect::sys::Memory;

use super::messages::{
    DataTransfer, NegotiateRequest, NegotiateResponse, RESPONSE_REQUESTED, header,
};

/// The number of receives, and of SENDs, for which there is memory.
pub(crate) const SLOTS: u16 = 256;
/// The number of bytes for each receive and each SEND. The posted receives have the negotiated size.
const SLOT_SIZE: u32 = 16 * 1024;
/// The bytes of the receive for the response.
const FIRST_RECEIVE: u32 = 512;

/// The initiator's end of a connection.
pub(crate) struct Peer {
    pub(crate) conn: ConnId,
    /// The acceptor's end of the connection.
    pub(crate) server: ConnId,
    memory: Memory,
    region: Region,
    free_sends: Vec<u16>,
    pub(crate) established: bool,
    pub(crate) closed: Option<CloseReason>,
    /// Messages as they arrived, until a case takes them.
    pub(crate) messages: VecDeque<Vec<u8>>,
    /// Messages of the upper layer, put together again, until a case takes them.
    pub(crate) replies: VecDeque<Vec<u8>>,
    pub(crate) session: Option<Session>,
}

/// The result of the negotiation, and the state of both sides.
pub(crate) struct Session {
    /// The request as it was sent.
    pub(crate) request: NegotiateRequest,
    /// The response as it was received.
    pub(crate) response: NegotiateResponse,
    /// The number of credits that the next messages ask for.
    pub(crate) credits_requested: u16,
    /// The number of messages that this side may send.
    pub(crate) credits: u16,
    /// The number of messages that the acceptor may send.
    pub(crate) server_credits: u16,
    /// The number of posted receives that the acceptor does not know of.
    pub(crate) unannounced: u16,
    /// The largest number of receives to post.
    pub(crate) receives: u16,
    /// Whether this side grants credits and answers questions by itself, like an idle client.
    pub(crate) answers: bool,
    /// Whether the acceptor has asked for a message.
    asked: bool,
    /// Whether a message of the upper layer has begun but not ended. Nothing may come in between.
    pub(crate) within_message: bool,
    partial: Vec<u8>,
    remaining: u32,
}

impl Peer {
    /// Posts one receive, for the response.
    pub(crate) fn new(client: &mut Iwarp, conn: ConnId) -> Self {
        let memory = Memory::zeroed(2 * usize::from(SLOTS) * SLOT_SIZE as usize);
        let region = client.register(conn, &memory, Access::Local).unwrap();
        let peer = Self {
            conn,
            server: ConnId::default(),
            memory,
            region,
            free_sends: (0..SLOTS).collect(),
            established: false,
            closed: None,
            messages: VecDeque::new(),
            replies: VecDeque::new(),
            session: None,
        };
        peer.post_receive(client, 0, FIRST_RECEIVE);
        peer
    }

    fn post_receive(&self, client: &mut Iwarp, slot: u16, length: u32) {
        let memory = self.receive_slot(slot, length);
        client
            .post_recv(self.conn, WrId(u64::from(slot)), memory)
            .unwrap();
    }

    fn receive_slot(&self, slot: u16, length: u32) -> Sge {
        Sge {
            region: self.region.id,
            offset: u32::from(slot) * SLOT_SIZE,
            length,
        }
    }

    /// After the negotiation, posts `receives` receives of exactly the size in the request, so that a longer message
    /// ends the connection.
    pub(crate) fn begin(
        &mut self,
        client: &mut Iwarp,
        request: NegotiateRequest,
        response: NegotiateResponse,
        receives: u16,
    ) {
        for slot in 0..receives {
            self.post_receive(client, slot, request.max_receive_size.min(SLOT_SIZE));
        }
        self.session = Some(Session {
            request,
            response,
            credits_requested: request.credits_requested,
            credits: response.credits_granted,
            server_credits: 0,
            unannounced: receives,
            receives,
            answers: false,
            asked: false,
            within_message: false,
            partial: Vec::new(),
            remaining: 0,
        });
    }

    /// Returns whether there is memory for one more SEND.
    pub(crate) fn can_send(&self) -> bool {
        !self.free_sends.is_empty()
    }

    /// Posts one SEND of these bytes, whatever they are.
    pub(crate) fn send(&mut self, client: &mut Iwarp, bytes: &[u8]) {
        let slot = self.free_sends.pop().unwrap();
        let mut memory = self.receive_slot(SLOTS + slot, bytes.len().try_into().unwrap());
        assert!(memory.length <= SLOT_SIZE);
        self.memory.write(memory.offset as usize, bytes).unwrap();
        // Pass the first bytes as the header of the SEND, as a sender of SMB Direct does.
        let (header, _) = bytes.split_at(bytes.len().min(24));
        memory.offset += header.len() as u32;
        memory.length -= header.len() as u32;
        let payload = (memory.length > 0).then_some(memory);
        let wr_id = WrId(u64::from(slot));
        client
            .post_send(self.conn, wr_id, header, payload, None)
            .unwrap();
    }

    pub(crate) fn sent(&mut self, wr_id: WrId) {
        self.free_sends.push(wr_id.0.try_into().unwrap());
    }

    /// Takes a message out of its receive, which is posted again once the negotiation is over.
    pub(crate) fn received(&mut self, client: &mut Iwarp, wr_id: WrId, length: u32) {
        let slot = u16::try_from(wr_id.0).unwrap();
        let memory = self.receive_slot(slot, length);
        let bytes = self
            .memory
            .to_vec(memory.offset as usize, memory.length as usize)
            .unwrap();
        if let Some(session) = &mut self.session {
            self.replies.extend(session.take(&bytes));
            session.unannounced += 1;
            let length = session.request.max_receive_size.min(SLOT_SIZE);
            self.post_receive(client, slot, length);
        }
        self.messages.push_back(bytes);
    }
}

impl Session {
    /// Checks a message of the acceptor, and returns the upper-layer message that it completes.
    fn take(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let message = DataTransfer::parse(bytes);
        assert!(bytes.len() <= self.response.preferred_send_size as usize);
        assert_eq!(message.credits_requested, self.response.credits_requested);
        assert_eq!(message.flags & !RESPONSE_REQUESTED, 0, "{message:?}");
        assert_eq!(message.reserved, 0, "{message:?}");
        self.take_credits(&message);
        self.asked |= message.flags == RESPONSE_REQUESTED;
        if message.data_length == 0 {
            assert_eq!(bytes.len(), 20, "an empty message is its header");
            assert_eq!(
                (message.data_offset, message.remaining_data_length),
                (0, 0),
                "{message:?}"
            );
            assert_eq!(self.remaining, 0, "an empty message between two fragments");
            return None;
        }
        self.take_fragment(&message, bytes)
    }

    fn take_credits(&mut self, message: &DataTransfer) {
        self.server_credits = self
            .server_credits
            .checked_sub(1)
            .expect("the acceptor sent a message without a credit");
        self.credits += message.credits_granted;
        // Even for a peer that asks for one credit, four receives are posted.
        assert!(
            self.credits <= self.credits_requested.max(4),
            "granted more than was asked for: {message:?}"
        );
        if self.server_credits == 0 {
            assert!(
                message.credits_granted > 0,
                "the last credit was spent without a grant: {message:?}"
            );
        }
    }

    fn take_fragment(&mut self, message: &DataTransfer, bytes: &[u8]) -> Option<Vec<u8>> {
        assert_eq!(message.data_offset, 24, "{message:?}");
        assert_eq!(bytes[20..24], [0; 4], "padding");
        assert_eq!(bytes.len(), 24 + message.data_length as usize);
        let rest = u64::from(message.data_length) + u64::from(message.remaining_data_length);
        assert!(rest <= u64::from(self.request.max_fragmented_size));
        if self.remaining > 0 {
            assert_eq!(rest, u64::from(self.remaining), "{message:?}");
        }
        self.partial.extend(&bytes[24..]);
        self.remaining = message.remaining_data_length;
        (self.remaining == 0).then(|| std::mem::take(&mut self.partial))
    }

    /// Makes a legal [`header`] that grants everything that can be granted.
    pub(crate) fn header(&self, data_length: usize, remaining_data_length: usize) -> DataTransfer {
        DataTransfer {
            credits_requested: self.credits_requested,
            credits_granted: self.unannounced,
            ..header(data_length, remaining_data_length)
        }
    }

    /// Updates the credits for a message that is to be sent.
    pub(crate) fn spend(&mut self, message: &DataTransfer) {
        self.credits -= 1;
        self.unannounced = self
            .unannounced
            .checked_sub(message.credits_granted)
            .expect("a case grants receives that are not posted");
        self.server_credits += message.credits_granted;
        self.asked = false;
    }

    /// Returns whether a client that answers has something to send now.
    pub(crate) fn owes_answer(&self) -> bool {
        let starves = self.server_credits <= self.receives / 4 && self.unannounced > 0;
        self.answers && !self.within_message && self.credits > 0 && (self.asked || starves)
    }
}
