// SPDX-License-Identifier: GPL-2.0-or-later

//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng): packets with comments, and how many were lost.
//!
//! ```text
//!   section header, an interface description for each interface
//!   enhanced packet ...      each names its interface; packets of several interfaces may mix
//!   interface statistics     one for each interface, after its last packet
//! ```
//!
//! Here, an interface is a thread that captures, and all packets begin with their IP header. [`file_header`] makes the
//! blocks with which a file begins, [`Packet`] one packet, and [`Statistics`] the block that ends an interface;
//! Wireshark shows all of it.

use std::time::Duration;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

/// Distinguishes the byte orders: little-endian here.
const BYTE_ORDER: u32 = 0x1a2b_3c4d;
/// The link type for raw IP: the version is in the packet.
const LINKTYPE_RAW: u16 = 101;

const OPTION_COMMENT: u16 = 1;
const OPTION_APPLICATION: u16 = 4;
const OPTION_NAME: u16 = 2;
const OPTION_RESOLUTION: u16 = 9;
const OPTION_RECEIVED: u16 = 4;
const OPTION_DROPPED: u16 = 5;

/// Times count nanoseconds: 10^-9 seconds.
const NANOSECONDS: u8 = 9;

/// Number of bytes of a block besides its body: type and length before it, length after it.
const FRAMING: usize = 12;

/// Returns the blocks with which a file begins: `program` wrote it, and it has an interface of each of these names.
#[must_use]
pub fn file_header(program: &str, interfaces: &[String]) -> Vec<u8> {
    let mut blocks = Vec::new();
    block(&mut blocks, SECTION_HEADER, |body| {
        body.extend_from_slice(&BYTE_ORDER.to_le_bytes());
        // Version 1.0.
        body.extend_from_slice(&[1, 0, 0, 0]);
        // The length of the section is not known in advance.
        body.extend_from_slice(&u64::MAX.to_le_bytes());
        option(body, OPTION_APPLICATION, program.as_bytes());
    });
    for name in interfaces {
        block(&mut blocks, INTERFACE_DESCRIPTION, |body| {
            body.extend_from_slice(&LINKTYPE_RAW.to_le_bytes());
            // Reserved, and no limit on the length of packets.
            body.extend_from_slice(&[0; 6]);
            option(body, OPTION_NAME, name.as_bytes());
            option(body, OPTION_RESOLUTION, &[NANOSECONDS]);
        });
    }
    blocks
}

/// A packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The number of its interface in the file, from 0.
    pub interface: u32,
    /// The time since 1970.
    pub time: Duration,
    /// All its bytes, from the IP header on.
    pub bytes: &'a [u8],
    /// A comment; empty stands for none.
    pub comment: &'a str,
}

impl Packet<'_> {
    /// Appends the packet's block to `blocks`.
    pub fn emit(&self, blocks: &mut Vec<u8>) {
        block(blocks, ENHANCED_PACKET, |body| {
            let nanos = u64::try_from(self.time.as_nanos()).unwrap_or(u64::MAX);
            // No packet has more than 65,535 bytes.
            let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
            let (high, low) = ((nanos >> 32) as u32, nanos as u32);
            for field in [self.interface, high, low, length, length] {
                body.extend_from_slice(&field.to_le_bytes());
            }
            body.extend_from_slice(self.bytes);
            body.resize(body.len().next_multiple_of(4), 0);
            if !self.comment.is_empty() {
                option(body, OPTION_COMMENT, self.comment.as_bytes());
            }
        });
    }
}

/// What became of an interface's packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The number of the interface in the file, from 0.
    pub interface: u32,
    /// Number of packets that there were, including those that the file lacks.
    pub received: u64,
    /// Number of packets that the file lacks, because its reader was too slow.
    pub dropped: u64,
    /// Why the packets of this interface end here.
    pub comment: String,
}

impl Statistics {
    /// Returns the block for statistics that were made at this time since 1970.
    #[must_use]
    pub fn emit(&self, time: Duration) -> Vec<u8> {
        let mut blocks = Vec::new();
        block(&mut blocks, INTERFACE_STATISTICS, |body| {
            let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
            for field in [self.interface, (nanos >> 32) as u32, nanos as u32] {
                body.extend_from_slice(&field.to_le_bytes());
            }
            option(body, OPTION_RECEIVED, &self.received.to_le_bytes());
            option(body, OPTION_DROPPED, &self.dropped.to_le_bytes());
            option(body, OPTION_COMMENT, self.comment.as_bytes());
        });
        blocks
    }

    /// Returns all statistics among these blocks, which [`file_header`] and the other functions here made. Stops at the
    /// first block that none of them would make.
    pub fn all_in(blocks: &[u8]) -> impl Iterator<Item = Self> {
        let mut rest = blocks;
        let next = move || {
            let (head, after) = rest.split_first_chunk::<8>()?;
            let kind = u32_at(head, 0)?;
            let body = usize::try_from(u32_at(head, 4)?)
                .ok()?
                .checked_sub(FRAMING)?;
            let found = after.get(..body)?;
            rest = after.get(body + 4..)?;
            Some((kind, found))
        };
        std::iter::from_fn(next)
            .filter(|(kind, _)| *kind == INTERFACE_STATISTICS)
            .filter_map(|(_, body)| Self::parse(body))
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut statistics = Self {
            interface: u32_at(body, 0)?,
            ..Self::default()
        };
        let mut rest = body.get(12..)?;
        while let Some((head, after)) = rest.split_first_chunk::<4>() {
            let [a, b, c, d] = *head;
            let length = usize::from(u16::from_le_bytes([c, d]));
            let value = after.get(..length)?;
            let number = || value.try_into().ok().map(u64::from_le_bytes);
            match u16::from_le_bytes([a, b]) {
                OPTION_RECEIVED => statistics.received = number()?,
                OPTION_DROPPED => statistics.dropped = number()?,
                OPTION_COMMENT => {
                    statistics.comment = String::from_utf8_lossy(value).into_owned();
                }
                _ => {}
            }
            rest = after.get(length.next_multiple_of(4)..)?;
        }
        Some(statistics)
    }
}

/// Returns the 32-bit number at this offset.
fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes))
}

/// Appends a block, whose body `write` appends.
fn block(blocks: &mut Vec<u8>, kind: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let start = blocks.len();
    blocks.extend_from_slice(&kind.to_le_bytes());
    blocks.extend_from_slice(&[0; 4]);
    write(blocks);
    // All bodies are a few bytes longer than a packet at most.
    let length = u32::try_from(blocks.len() - start + 4).unwrap_or(u32::MAX);
    if let Some(field) = blocks.get_mut(start + 4..start + 8) {
        field.copy_from_slice(&length.to_le_bytes());
    }
    blocks.extend_from_slice(&length.to_le_bytes());
}

/// Appends an option. A value that is too long for one is cut.
fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let value = value.get(..usize::from(length)).unwrap_or(value);
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&length.to_le_bytes());
    body.extend_from_slice(value);
    let padding = value.len().next_multiple_of(4) - value.len();
    body.resize(body.len() + padding, 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(interface: u32) -> Statistics {
        Statistics {
            interface,
            received: 1 << 40 | 3,
            dropped: 2,
            comment: "odd".to_owned(),
        }
    }

    fn file() -> Vec<u8> {
        let mut file = file_header("a program", &["one".to_owned(), "three".to_owned()]);
        let packet = Packet {
            interface: 1,
            time: Duration::from_nanos(5 << 32 | 7),
            bytes: b"bytes",
            comment: "why",
        };
        packet.emit(&mut file);
        file.extend(statistics(0).emit(Duration::ZERO));
        file.extend(statistics(1).emit(Duration::ZERO));
        file
    }

    #[test]
    fn a_packet_has_its_time_its_bytes_and_its_comment_in_whole_words() {
        let mut block = Vec::new();
        let packet = Packet {
            interface: 1,
            time: Duration::from_nanos(5 << 32 | 7),
            bytes: b"bytes",
            comment: "why",
        };
        packet.emit(&mut block);
        let words = [6, 48, 1, 5, 7, 5, 5].map(u32::to_le_bytes);
        let mut expected = words.as_flattened().to_vec();
        expected.extend_from_slice(b"bytes\0\0\0\x01\0\x03\0why\0");
        expected.extend_from_slice(&48u32.to_le_bytes());
        assert_eq!(block, expected);
    }

    #[test]
    fn statistics_are_found_among_other_blocks() {
        let found: Vec<_> = Statistics::all_in(&file()).collect();
        assert_eq!(found, [statistics(0), statistics(1)]);
    }

    #[test]
    fn what_is_not_a_block_is_not_looked_at() {
        let file = file();
        for length in 0..file.len() {
            // One block of statistics is complete, or none.
            assert!(Statistics::all_in(&file[..length]).count() <= 1, "{length}");
        }
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] = 0xff;
            assert!(Statistics::all_in(&damaged).count() <= 2, "{at}");
        }
    }
}
