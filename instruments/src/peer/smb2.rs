// SPDX-License-Identifier: GPL-2.0-or-later

//! The part of SMB2 that the device needs to route a client: requests, byte by byte ([MS-SMB2] 2.2).

/// Command: NEGOTIATE.
pub const NEGOTIATE: u16 = 0;

/// Makes a request: its header ([MS-SMB2] 2.2.1.2), which asks for one credit, followed by `body`.
pub fn request(command: u16, message_id: u64, session_id: u64, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(64 + body.len());
    message.extend(b"\xfeSMB");
    message.extend(64_u16.to_le_bytes());
    message.extend(0_u16.to_le_bytes()); // CreditCharge
    message.extend(0_u32.to_le_bytes()); // Status
    message.extend(command.to_le_bytes());
    message.extend(1_u16.to_le_bytes()); // CreditRequest
    message.extend(0_u32.to_le_bytes()); // Flags
    message.extend(0_u32.to_le_bytes()); // NextCommand
    message.extend(message_id.to_le_bytes());
    message.extend([0; 8]); // Reserved, TreeId
    message.extend(session_id.to_le_bytes());
    message.extend([0; 16]); // Signature
    message.extend(body);
    message
}

/// Makes the NEGOTIATE request of a client that speaks SMB 3.0 to 3.1.1, with the one negotiate context that 3.1.1 must
/// have ([MS-SMB2] 2.2.3).
pub fn negotiate_request(client_guid: [u8; 16]) -> Vec<u8> {
    const DIALECTS: [u16; 3] = [0x0300, 0x0302, 0x0311];
    // The contexts follow header, body and dialects, at a multiple of 8.
    const CONTEXTS_OFFSET: u32 = (64_u32 + 36 + 6).next_multiple_of(8);
    let mut body = Vec::new();
    body.extend(36_u16.to_le_bytes());
    body.extend((DIALECTS.len() as u16).to_le_bytes());
    body.extend(1_u16.to_le_bytes()); // SecurityMode: signing enabled
    body.extend(0_u16.to_le_bytes());
    body.extend(0_u32.to_le_bytes()); // Capabilities
    body.extend(client_guid);
    body.extend(CONTEXTS_OFFSET.to_le_bytes());
    body.extend(1_u16.to_le_bytes()); // NegotiateContextCount
    body.extend(0_u16.to_le_bytes());
    for dialect in DIALECTS {
        body.extend(dialect.to_le_bytes());
    }
    body.resize(CONTEXTS_OFFSET as usize - 64, 0);
    body.extend(1_u16.to_le_bytes()); // preauthentication integrity
    body.extend(38_u16.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    body.extend(1_u16.to_le_bytes()); // HashAlgorithmCount
    body.extend(32_u16.to_le_bytes()); // SaltLength
    body.extend(1_u16.to_le_bytes()); // SHA-512
    body.extend([0x5a; 32]);
    request(NEGOTIATE, 0, 0, &body)
}
