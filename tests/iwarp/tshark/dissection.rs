// SPDX-License-Identifier: GPL-2.0-or-later

//! Asks tshark about a capture.

use std::collections::HashMap;
use std::process::Command;

/// One packet: the fields that tshark found in it.
#[derive(Debug)]
pub(crate) struct Packet(HashMap<&'static str, String>);

const FIELDS: &[&str] = &[
    "frame.number",
    "tcp.srcport",
    "iwarp_mpa.req",
    "iwarp_mpa.rep",
    "iwarp_mpa.ulpdulength",
    "iwarp_mpa.crc",
    "iwarp_ddp.stag",
    "iwarp_ddp.tagged_offset",
    "iwarp_ddp.last_flag",
    "iwarp_ddp.msn",
    "iwarp_rdma.opcode",
    "iwarp_rdma.inval_stag",
    "iwarp_rdma.rdmardsz",
    "iwarp_rdma.srcstag",
    "iwarp_rdma.srcto",
    "smb_direct.negotiate_request",
    "smb_direct.negotiate_response",
    "smb_direct.data_message",
    "smb_direct.version.min",
    "smb_direct.version.max",
    "smb_direct.version.negotiated",
    "smb_direct.credits.requested",
    "smb_direct.credits.granted",
    "smb_direct.status",
    "smb_direct.max_read_write_size",
    "smb_direct.preferred_send_size",
    "smb_direct.max_receive_size",
    "smb_direct.max_fragmented_size",
    "smb_direct.flags.response_requested",
    "smb_direct.remaining_length",
    "smb_direct.data_offset",
    "smb_direct.data_length",
    "_ws.malformed",
    "_ws.expert.severity",
    "_ws.expert.message",
];

/// The lowest expert severity of Wireshark that means an error.
const SEVERITY_ERROR: u64 = 0x0080_0000;

impl Packet {
    pub(crate) fn has(&self, field: &str) -> bool {
        self.0.get(field).is_some_and(|value| !value.is_empty())
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    /// Returns a field as a number. tshark writes numbers in decimal or hexadecimal, and booleans as words.
    pub(crate) fn number(&self, field: &str) -> u64 {
        let text = self.text(field);
        match (text.strip_prefix("0x"), text) {
            (Some(digits), _) => u64::from_str_radix(digits, 16).unwrap(),
            (None, "True") => 1,
            (None, "False") => 0,
            (None, digits) => digits
                .parse()
                .unwrap_or_else(|_| panic!("{field}: {self:?}")),
        }
    }
}

/// Returns what tshark prints about a capture.
fn tshark(name: &str, capture: &[u8], arguments: &[&str]) -> String {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join(format!("{name}.pcap"));
    std::fs::write(&path, capture).unwrap();
    let mut command = Command::new("tshark");
    command
        .args(["-n", "-2", "-o", "tcp.try_heuristic_first:TRUE", "-r"])
        .arg(&path);
    let output = command.args(arguments).output().unwrap_or_else(|error| {
        panic!("tshark cannot be run ({error}): `make setup` installs it (Debian package tshark)")
    });
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the number of FPDUs whose CRC tshark has computed and found good. Only the text output says that a CRC is
/// good; there is no field for it.
pub(crate) fn good_crcs(name: &str, capture: &[u8]) -> usize {
    tshark(name, capture, &["-V"])
        .matches("(Good CRC32)")
        .count()
}

/// Dissects a capture. tshark must find every packet complete.
pub(crate) fn dissect(name: &str, capture: &[u8]) -> Vec<Packet> {
    let mut arguments = vec!["-T", "fields", "-E", "separator=|", "-E", "occurrence=f"];
    arguments.extend(FIELDS.iter().flat_map(|field| ["-e", field]));
    let text = tshark(name, capture, &arguments);
    let packets: Vec<Packet> = text
        .lines()
        .map(|line| {
            let values = line.split('|').map(str::to_owned);
            Packet(FIELDS.iter().copied().zip(values).collect())
        })
        .collect();
    for packet in &packets {
        assert!(!packet.has("_ws.malformed"), "malformed: {packet:?}");
        let handshake = packet.has("iwarp_mpa.req") || packet.has("iwarp_mpa.rep");
        // tshark 4.0 does not know the enhanced handshake (RFC 6581), and complains about its flag.
        if packet.has("_ws.expert.severity") && !handshake {
            assert!(
                packet.number("_ws.expert.severity") < SEVERITY_ERROR,
                "{packet:?}"
            );
        }
    }
    packets
}
