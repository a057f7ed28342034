// SPDX-License-Identifier: GPL-2.0-or-later

//! A short-lived client: connects over SMB Direct, sends one SMB2 NEGOTIATE request, waits for the response, and
//! closes.

use std::net::SocketAddr;
use std::time::{Duration, Instant as Clock};

use smbdirect::fabric::{Access, AnyFabric, FabricKind, Memory, Sge, iwarp};
use smbdirect::proto;
use smbdirect::transport::{Config, Event, HeapBuffers, Transport};
use smbdirect::units::Instant;

/// How long the whole probe may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns how long the response took, from the beginning of the connection.
///
/// # Errors
///
/// The error says what went wrong, as a message for people.
pub(super) fn probe(address: SocketAddr, kind: FabricKind) -> Result<Duration, String> {
    let start = Clock::now();
    let now = || Instant::ZERO + start.elapsed();
    let mut limits = iwarp::Config::default();
    limits.depths.recvs = 256;
    let fabric = AnyFabric::towards(address, Some(kind), limits).map_err(|e| e.to_string())?;
    let config = Config::new(proto::Config::default(), proto::Config::initiator_default());
    let mut transport = Transport::new(fabric, HeapBuffers::new(), config);
    let conn = transport
        .connect(now(), address)
        .map_err(|e| e.to_string())?;
    let mut stage = "the RDMA connection or the SMB Direct negotiation";
    let mut took = None;
    loop {
        let mut events = Vec::new();
        transport
            .poll(now(), &mut events)
            .map_err(|e| e.to_string())?;
        for event in events {
            match event {
                Event::Established { .. } => {
                    stage = "smbd's response to NEGOTIATE";
                    let request = negotiate();
                    let memory = Memory::zeroed(request.len());
                    memory.write(0, &request).map_err(|e| e.to_string())?;
                    let region = transport.register(conn, &memory, Access::Local);
                    let sge = Sge {
                        region: region.map_err(|e| e.to_string())?.id,
                        offset: 0,
                        length: request.len() as u32,
                    };
                    let sent = transport.send(conn, 0, sge, None);
                    sent.map_err(|e| e.to_string())?;
                }
                Event::Message { buffer, .. } => {
                    let is_response = buffer.starts_with(b"\xfeSMB");
                    transport.recycle(buffer);
                    if !is_response {
                        return Err("the answer is not SMB2".to_owned());
                    }
                    took = Some(start.elapsed());
                    transport.close(conn);
                }
                Event::Closed { reason, .. } => return took.ok_or_else(|| reason.to_string()),
                _ => {}
            }
        }
        let left = TIMEOUT.saturating_sub(start.elapsed());
        if left.is_zero() {
            // There is no need to wait for the end of a connection that has done its work.
            return took
                .ok_or_else(|| format!("{stage} was not complete after {} s", TIMEOUT.as_secs()));
        }
        transport
            .wait(now(), Some(left))
            .map_err(|e| e.to_string())?;
    }
}

/// Returns a NEGOTIATE request for SMB 3.0 and 3.0.2 ([MS-SMB2] 2.2.1.2, 2.2.3), from a client that no server knows.
fn negotiate() -> Vec<u8> {
    const DIALECTS: [u16; 2] = [0x0300, 0x0302];
    let mut message = Vec::new();
    message.extend(b"\xfeSMB");
    message.extend(64_u16.to_le_bytes());
    message.extend([0; 8]); // CreditCharge, Status, Command
    message.extend(1_u16.to_le_bytes()); // CreditRequest
    message.extend([0; 48]); // the rest of the header
    message.extend(36_u16.to_le_bytes());
    message.extend((DIALECTS.len() as u16).to_le_bytes());
    message.extend(1_u16.to_le_bytes()); // SecurityMode: signing enabled
    message.extend([0; 6]); // Reserved, Capabilities
    message.extend(guid());
    message.extend([0; 8]); // ClientStartTime
    message.extend(DIALECTS.iter().flat_map(|dialect| dialect.to_le_bytes()));
    message
}

/// Returns a new ClientGuid. With the GUID of an earlier probe, this connection would go to the smbd of that probe.
fn guid() -> [u8; 16] {
    let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let time = time.unwrap_or_default().as_nanos();
    (time ^ (u128::from(std::process::id()) << 96)).to_le_bytes()
}
