// SPDX-License-Identifier: GPL-2.0-or-later

//! Hides the contents of files in SMB Direct messages.
//!
//! Small READs and WRITEs carry file data in the SMB2 message itself ([MS-SMB2] 2.2.20, 2.2.21). A [`Conceal`] follows
//! the messages of a connection through their fragments and compounds, and overwrites such data with zeros, except its
//! first bytes. Lengths stay as they are, so a decoder still understands everything else. Encrypted messages stay as
//! they are, and so does everything that is neither READ nor WRITE. Of a message that cannot be parsed, only the first
//! bytes stay.

use std::ops::Range;

use crate::fabric::pcap::Direction;
use crate::wire::DataTransfer;
use crate::wire::smb2::{Header, MessageKind};

/// Number of bytes of an SMB2 header and of its request or response that say where the file data is.
const HEAD: usize = Header::LENGTH + 8;

/// StructureSize of a READ response that succeeded.
const READ_RESPONSE: u16 = 17;

/// What the next message in one direction is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The message of the SMB Direct negotiation.
    Negotiation,
    /// The first fragment of an SMB2 message.
    Start,
    /// A further fragment of an SMB2 message.
    Within(Elements),
}

impl Next {
    /// A further fragment of a message whose beginning was not seen: nothing of that message is shown.
    pub(super) fn unseen() -> Self {
        Self::Within(Elements {
            head: vec![0; HEAD],
            at: HEAD as u64,
            hidden: 0..u64::MAX,
            end: u64::MAX,
        })
    }
}

/// The position in an SMB2 message: a compound has several elements, any other message one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// The first bytes of the element, at most [`HEAD`].
    head: Vec<u8>,
    /// Number of bytes of the element that have passed.
    at: u64,
    /// The bytes of the element to hide, once its head is complete.
    hidden: Range<u64>,
    /// The length of the element, once its head is complete; `u64::MAX` if it is the last.
    end: u64,
}

impl Elements {
    fn hide(&mut self, mut rest: &mut [u8], shown: u32) {
        while !rest.is_empty() {
            let missing = HEAD - self.head.len();
            if missing > 0 {
                let (head, after) = rest.split_at_mut(missing.min(rest.len()));
                self.head.extend_from_slice(head);
                self.at += head.len() as u64;
                rest = after;
                if self.head.len() == HEAD {
                    (self.hidden, self.end) = judge(&self.head, shown);
                }
                continue;
            }
            let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let (body, after) = rest.split_at_mut(left.min(rest.len()));
            let until = self.at + body.len() as u64;
            let from = self.hidden.start.clamp(self.at, until) - self.at;
            let to = self.hidden.end.clamp(self.at, until) - self.at;
            // Both are at most the length of `body`.
            if let Some(hidden) = body.get_mut(from as usize..to as usize) {
                hidden.fill(0);
            }
            self.at = until;
            rest = after;
            if self.at == self.end {
                *self = Self::default();
            }
        }
    }
}

/// Returns which bytes of an element to hide, and its length.
fn judge(head: &[u8], shown: u32) -> (Range<u64>, u64) {
    let shown = u64::from(shown);
    let unknown = (HEAD as u64 + shown..u64::MAX, u64::MAX);
    if MessageKind::of(head) == Ok(MessageKind::Encrypted) {
        return (0..0, u64::MAX);
    }
    let Ok(header) = Header::parse(head) else {
        return unknown;
    };
    let end = match header.next_command() {
        0 => u64::MAX,
        next if next as usize >= HEAD => u64::from(next),
        _ => return unknown,
    };
    let Some(&[a, b, c, d, e, f, g, h]) = head.get(Header::LENGTH..HEAD) else {
        return unknown;
    };
    let is_response = header.flags() & Header::SERVER_TO_REDIR != 0;
    let offset = match (header.command(), is_response) {
        (Header::READ, true) if u16::from_le_bytes([a, b]) == READ_RESPONSE => u16::from(c),
        (Header::WRITE, false) => u16::from_le_bytes([c, d]),
        _ => return (0..0, end),
    };
    let offset = u64::from(offset);
    let data_end = offset + u64::from(u32::from_le_bytes([e, f, g, h]));
    ((offset + shown).min(data_end)..data_end, end)
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Conceal {
    /// Number of bytes of file data of each READ or WRITE that stay.
    shown: u32,
    from_client: Next,
    from_server: Next,
}

impl Conceal {
    pub(super) const fn new(shown: u32, from_client: Next, from_server: Next) -> Self {
        Self {
            shown,
            from_client,
            from_server,
        }
    }

    /// Overwrites file data in a SEND of a connection, all of whose SENDs must be given to this in order.
    pub(super) fn edit(&mut self, direction: Direction, message: &mut [u8]) {
        let next = match direction {
            Direction::ToServer => &mut self.from_client,
            Direction::ToClient => &mut self.from_server,
        };
        if *next == Next::Negotiation {
            *next = Next::Start;
            return;
        }
        let Ok(transfer) = DataTransfer::parse(message) else {
            // This message ends the connection, or its bytes are missing here, so that nobody knows where the next message
            // begins.
            message.fill(0);
            *next = Next::unseen();
            return;
        };
        let range = transfer.payload.start as usize..transfer.payload.end as usize;
        // A peer may send more bytes than the message says, before its payload and after it; nothing reads them.
        let header = DataTransfer::EMPTY_LENGTH;
        for ignored in [header..range.start, range.end.max(header)..message.len()] {
            if let Some(ignored) = message.get_mut(ignored) {
                ignored.fill(0);
            }
        }
        let Some(payload) = message.get_mut(range).filter(|it| !it.is_empty()) else {
            return;
        };
        let mut elements = match std::mem::replace(next, Next::Start) {
            Next::Within(elements) => elements,
            Next::Start | Next::Negotiation => Elements::default(),
        };
        elements.hide(payload, self.shown);
        if transfer.remaining_data_length > 0 {
            *next = Next::Within(elements);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Credits;

    const WRITE: u16 = Header::WRITE;
    const SECRET: &[u8] = b"what the file holds";

    /// Returns an SMB2 element: a header and a body.
    fn element(command: u16, is_response: bool, next: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; Header::LENGTH];
        bytes[..6].copy_from_slice(b"\xfeSMB\x40\0");
        bytes[12..14].copy_from_slice(&command.to_le_bytes());
        bytes[16] = u8::from(is_response);
        bytes[20..24].copy_from_slice(&next.to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    fn write(next: u32, data: &[u8]) -> Vec<u8> {
        let mut body = vec![0; 48];
        body[..2].copy_from_slice(&49u16.to_le_bytes());
        body[2..4].copy_from_slice(&112u16.to_le_bytes());
        body[4..8].copy_from_slice(&(data.len() as u32).to_le_bytes());
        body.extend_from_slice(data);
        element(WRITE, false, next, &body)
    }

    fn read_response(data: &[u8]) -> Vec<u8> {
        let mut body = vec![17, 0, 80, 0];
        body.extend_from_slice(&(data.len() as u32).to_le_bytes());
        body.extend_from_slice(&[0; 8]);
        body.extend_from_slice(data);
        element(Header::READ, true, 0, &body)
    }

    /// Sends a message in fragments with `most` bytes each, and returns what is shown of it.
    fn shown(conceal: &mut Conceal, direction: Direction, message: &[u8], most: usize) -> Vec<u8> {
        let (mut rest, mut shown) = (message.len(), Vec::new());
        for part in message.chunks(most) {
            rest -= part.len();
            let transfer = DataTransfer {
                credits_requested: Credits(1),
                credits_granted: Credits(0),
                flags: 0,
                remaining_data_length: rest as u32,
                payload: DataTransfer::payload_of(part.len() as u32),
            };
            let (header, _) = transfer.emit();
            let mut bytes = [&header, part].concat();
            conceal.edit(direction, &mut bytes);
            assert_eq!(bytes[..24], header);
            shown.extend_from_slice(&bytes[24..]);
        }
        shown
    }

    fn conceal(shown: u32) -> Conceal {
        Conceal::new(shown, Next::Start, Next::Start)
    }

    /// Checks what is shown of a message, however it is cut into fragments.
    fn check(limit: u32, direction: Direction, message: &[u8], expected: &[u8]) {
        for most in [1, 3, 63, 71, 72, 73, 200, 10_000] {
            let mut conceal = conceal(limit);
            for _ in 0..2 {
                let shown = shown(&mut conceal, direction, message, most);
                assert!(shown == expected, "{most}: {shown:x?}");
            }
        }
    }

    fn zeroed(message: &[u8], from: usize, length: usize) -> Vec<u8> {
        let mut message = message.to_vec();
        message[from..from + length].fill(0);
        message
    }

    #[test]
    fn hides_file_data_after_the_first_bytes() {
        let write = write(0, SECRET);
        let length = SECRET.len() - 4;
        check(4, Direction::ToServer, &write, &zeroed(&write, 116, length));
        check(100, Direction::ToServer, &write, &write);
        let read = read_response(SECRET);
        let expected = zeroed(&read, 80, SECRET.len());
        check(0, Direction::ToClient, &read, &expected);
    }

    #[test]
    fn finds_file_data_in_each_element_of_a_compound() {
        let mut compound = write(136, &[7; 24]);
        compound.extend(element(5, false, 120, &[8; 56]));
        compound.extend(write(0, SECRET));
        let mut expected = zeroed(&compound, 112, 24);
        expected = zeroed(&expected, 136 + 120 + 112, SECRET.len());
        check(0, Direction::ToServer, &compound, &expected);
    }

    #[test]
    fn shows_what_is_not_file_data() {
        for message in [
            element(5, false, 0, &[9; 300]),
            // A READ request, a WRITE response, and a READ response without data.
            element(Header::READ, false, 0, &[9; 300]),
            element(WRITE, true, 0, &[9; 300]),
            element(Header::READ, true, 0, &[9; 9]),
            // A WRITE by RDMA, which has buffer descriptors instead of data.
            write(0, &[])
                .into_iter()
                .chain([9; 64])
                .collect::<Vec<u8>>(),
            [&b"\xfdSMB"[..], &[9; 300]].concat(),
            element(2, false, 0, &[4, 0, 0, 0]),
        ] {
            check(0, Direction::ToServer, &message, &message);
        }
    }

    #[test]
    fn hides_most_of_what_it_does_not_understand() {
        for message in [
            [&b"\xfcSMB"[..], &[9; 300]].concat(),
            vec![9; 300],
            element(5, false, 8, &[9; 300]),
        ] {
            let expected = zeroed(&message, HEAD + 16, message.len() - HEAD - 16);
            check(16, Direction::ToServer, &message, &expected);
        }
    }

    #[test]
    fn shows_nothing_of_a_message_whose_beginning_it_has_not_seen() {
        let mut conceal = Conceal::new(16, Next::unseen(), Next::Start);
        let direction = Direction::ToServer;
        let inside = [&b"\xfeSMB"[..], &[9; 200]].concat();
        let hidden = shown(&mut conceal, direction, &inside, 50);
        assert_eq!(hidden, vec![0; inside.len()]);
        let next = element(5, false, 0, &[9; 300]);
        assert_eq!(shown(&mut conceal, direction, &next, 50), next);
    }

    #[test]
    fn the_first_message_of_a_connection_is_the_negotiation() {
        let mut conceal = Conceal::new(0, Next::Negotiation, Next::Negotiation);
        let mut negotiation = [7; 20];
        conceal.edit(Direction::ToServer, &mut negotiation);
        assert_eq!(negotiation, [7; 20]);
        let write = write(0, SECRET);
        let expected = zeroed(&write, 112, SECRET.len());
        let shown = shown(&mut conceal, Direction::ToServer, &write, 1000);
        assert_eq!(shown, expected);
    }

    #[test]
    fn hides_bytes_after_the_end_of_a_fragment() {
        let mut conceal = conceal(0);
        let transfer = DataTransfer {
            credits_requested: Credits(1),
            credits_granted: Credits(0),
            flags: 0,
            remaining_data_length: 0,
            payload: 0..0,
        };
        let (header, length) = transfer.emit();
        let mut message = [&header[..length], SECRET].concat();
        conceal.edit(Direction::ToServer, &mut message);
        assert_eq!(message[20..], vec![0; SECRET.len()]);
    }

    #[test]
    fn hides_bytes_between_the_header_and_a_payload_far_behind_it() {
        let mut conceal = conceal(0);
        let element = element(5, false, 0, &[9; 56]);
        let transfer = DataTransfer {
            credits_requested: Credits(1),
            credits_granted: Credits(0),
            flags: 0,
            remaining_data_length: 0,
            payload: DataTransfer::payload_of(element.len() as u32),
        };
        let (mut header, _) = transfer.emit();
        // The offset of the payload ([MS-SMBD] 2.2.3).
        header[12..16].copy_from_slice(&48u32.to_le_bytes());
        let mut message = [&header[..], &[7; 24], &element].concat();
        conceal.edit(Direction::ToServer, &mut message);
        assert_eq!(message, [&header[..], &[0; 24], &element].concat());
    }

    #[test]
    fn shows_nothing_of_a_message_after_a_fragment_whose_bytes_are_missing() {
        let mut conceal = conceal(0);
        let direction = Direction::ToServer;
        conceal.edit(direction, &mut []);
        let secret = [&b"\xfeSMB"[..], &[9; 200]].concat();
        let hidden = shown(&mut conceal, direction, &secret, 50);
        assert_eq!(hidden, vec![0; secret.len()]);
        let next = element(5, false, 0, &[9; 300]);
        assert_eq!(shown(&mut conceal, direction, &next, 50), next);
    }
}
