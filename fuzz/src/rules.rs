// SPDX-License-Identifier: GPL-2.0-or-later

//! The rules for an arriving iWARP segment (RFC 5040, RFC 5041), implemented a second time: slowly, on whole segments,
//! and without a state machine.

use std::collections::VecDeque;

use smbdirect::fabric::iwarp::ddp::{Control, Tagged, Untagged};
use smbdirect::fabric::iwarp::handshake::Agreed;
use smbdirect::fabric::iwarp::qp::{Completion, Done};
use smbdirect::fabric::iwarp::rdmap::{Opcode, ReadRequest};
use smbdirect::fabric::{Access, RegionId, Sge, WrId};
use smbdirect::units::RemoteToken;

use super::side::{DEPTHS, REGION_LENGTH, REGIONS, SINK};

/// The state of a receiving side.
pub(crate) struct Rules {
    pub(crate) agreed: Agreed,
    pub(crate) access: [Access; REGIONS.len()],
    /// Receives that are posted but have not completed.
    pub(crate) recvs: VecDeque<(WrId, Sge)>,
    /// READs that are posted but have not completed, how many of their requests were sent, and how many have completed.
    pub(crate) reads: VecDeque<(WrId, Sge)>,
    pub(crate) outstanding: u16,
    pub(crate) reads_done: u32,
    /// The peer's READ requests that are not fully answered, and the memory that they read.
    pub(crate) responses: VecDeque<(ReadRequest, Sge)>,
    sends: u32,
    send_kind: Option<(Opcode, u32)>,
    send_offset: u32,
    write: Option<Tagged>,
    read_offset: u32,
    read_requests: u32,
}

/// The effect of a segment that is accepted.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The memory for its payload.
    pub(crate) place: Option<Sge>,
    /// The work request that it completes.
    pub(crate) completes: Option<Completion>,
}

impl Rules {
    pub(crate) fn new(agreed: Agreed) -> Self {
        Self {
            agreed,
            access: REGIONS.map(|region| region.0),
            recvs: VecDeque::new(),
            reads: VecDeque::new(),
            outstanding: 0,
            reads_done: 0,
            responses: VecDeque::new(),
            sends: 0,
            send_kind: None,
            send_offset: 0,
            write: None,
            read_offset: 0,
            read_requests: 0,
        }
    }

    /// Accepts a segment, or refuses it (`None`), which ends the connection.
    pub(crate) fn take(&mut self, ulpdu: &[u8]) -> Option<Taken> {
        let (control, rest) = ulpdu.split_first_chunk()?;
        let control = Control::parse(*control).ok()?;
        if control.opcode.is_tagged() {
            let (header, payload) = rest.split_first_chunk()?;
            let tagged = Tagged::parse(header);
            return match control.opcode {
                Opcode::Write => self.take_write(tagged, payload.len() as u32, control.last),
                _ => self.take_read_response(tagged, payload.len() as u32, control.last),
            };
        }
        let (header, payload) = rest.split_first_chunk()?;
        let untagged = Untagged::parse(header);
        match control.opcode {
            Opcode::Terminate => None,
            Opcode::ReadRequest => self.take_read_request(untagged, payload, control.last),
            _ => self.take_send(control, untagged, payload.len() as u32),
        }
    }

    fn take_write(&mut self, tagged: Tagged, length: u32, last: bool) -> Option<Taken> {
        let goes_on = self.write.is_none_or(|expected| expected == tagged);
        if !goes_on || self.read_offset > 0 {
            return None;
        }
        let place = match length {
            0 => None,
            _ => Some(self.remote(tagged.stag, tagged.offset, length, Access::RemoteWrite)?),
        };
        let offset = tagged.offset.wrapping_add(u64::from(length));
        self.write = (!last).then_some(Tagged { offset, ..tagged });
        Some(Taken {
            place,
            completes: None,
        })
    }

    fn take_read_response(&mut self, tagged: Tagged, length: u32, last: bool) -> Option<Taken> {
        let (wr_id, sink) = *self.reads.front()?;
        let end = self.read_offset + length;
        let due = self.write.is_none() && self.outstanding > 0;
        let expected =
            tagged.stag == SINK + self.reads_done && tagged.offset == u64::from(self.read_offset);
        if !due || !expected || end > sink.length || last != (end == sink.length) {
            return None;
        }
        let place = part(sink, self.read_offset, length);
        self.read_offset = if last { 0 } else { end };
        if last {
            self.outstanding -= 1;
            self.reads_done += 1;
            self.reads.pop_front();
        }
        let completes = last.then_some(Completion {
            wr_id,
            done: Done::Read,
        });
        Some(Taken { place, completes })
    }

    fn take_read_request(&mut self, untagged: Untagged, body: &[u8], last: bool) -> Option<Taken> {
        let request = ReadRequest::parse(body.try_into().ok()?);
        let in_order = untagged.queue == 1
            && untagged.msn == self.read_requests + 1
            && untagged.mo == 0
            && last;
        let room = self.responses.len() < DEPTHS.responses.min(usize::from(self.agreed.ird));
        request.sink_offset.checked_add(u64::from(request.length))?;
        if !in_order || !room {
            return None;
        }
        let nowhere = Sge {
            region: RegionId(0),
            offset: 0,
            length: 0,
        };
        let source = match request.length {
            0 => nowhere,
            length => self.remote(
                request.source_stag,
                request.source_offset,
                length,
                Access::RemoteRead,
            )?,
        };
        self.read_requests += 1;
        self.responses.push_back((request, source));
        Some(Taken::default())
    }

    fn take_send(&mut self, control: Control, untagged: Untagged, length: u32) -> Option<Taken> {
        let token = if control.opcode.invalidates() {
            untagged.invalidate
        } else {
            0
        };
        let kind = (control.opcode, token);
        let continues = untagged.msn == self.sends + 1 && untagged.mo == self.send_offset;
        if untagged.queue != 0 || !continues || self.send_kind.is_some_and(|first| first != kind) {
            return None;
        }
        let is_first_and_empty = untagged.msn == 1 && untagged.mo == 0 && length == 0;
        let may_say_ready = control.opcode == Opcode::Send && control.last;
        if self.agreed.ready_to_receive_send && may_say_ready && is_first_and_empty {
            self.end_send();
            return Some(Taken::default());
        }
        let (wr_id, memory) = *self.recvs.front()?;
        let end = untagged.mo + length;
        if end > memory.length {
            return None;
        }
        let place = part(memory, untagged.mo, length);
        if !control.last {
            (self.send_offset, self.send_kind) = (end, Some(kind));
            return Some(Taken {
                place,
                completes: None,
            });
        }
        let mut invalidated = None;
        if control.opcode.invalidates() {
            let named = |n: &usize| {
                self.access[*n] != Access::Local && REGIONS[*n].1 == untagged.invalidate
            };
            let region = (0..REGIONS.len()).find(named)?;
            self.access[region] = Access::Local;
            invalidated = Some(RemoteToken(untagged.invalidate));
        }
        self.recvs.pop_front();
        self.end_send();
        let done = Done::Recv {
            length: end,
            invalidated,
        };
        Some(Taken {
            place,
            completes: Some(Completion { wr_id, done }),
        })
    }

    /// Returns whether the peer has a READ under way from memory whose token has since been invalidated.
    pub(crate) fn reads_what_is_revoked(&self) -> bool {
        let revoked = |source: &Sge| self.access[source.region.0 as usize] != Access::RemoteRead;
        let mut sources = self.responses.iter().map(|(_, source)| source);
        sources.any(|source| source.length > 0 && revoked(source))
    }

    fn end_send(&mut self) {
        self.sends += 1;
        (self.send_offset, self.send_kind) = (0, None);
    }

    /// Returns the memory that the peer names, if the peer may access it.
    fn remote(&self, stag: u32, address: u64, length: u32, access: Access) -> Option<Sge> {
        let region = REGIONS.iter().position(|region| region.1 == stag)?;
        let (_, _, start) = REGIONS[region];
        let (from, to) = (
            u128::from(address),
            u128::from(address) + u128::from(length),
        );
        let within =
            from >= u128::from(start) && to <= u128::from(start) + u128::from(REGION_LENGTH);
        (self.access[region] == access && within && to <= u128::from(u64::MAX)).then(|| Sge {
            region: RegionId(region as u32),
            offset: (address - start) as u32,
            length,
        })
    }
}

fn part(whole: Sge, offset: u32, length: u32) -> Option<Sge> {
    let offset = whole.offset + offset;
    (length > 0).then_some(Sge {
        offset,
        length,
        ..whole
    })
}
