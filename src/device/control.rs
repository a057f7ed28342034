// SPDX-License-Identifier: GPL-2.0-or-later

//! Requests to the device, and its messages on the channel.

use super::Status;
use super::abi::{Address, Attached, Grow, Offer, Reply, Segment, kind};
use super::channel::{Channel, Delivery};
use super::event::{Event, Role};
use super::handle::{Handle, State};
use super::message::{Answer, Body, encode};
use super::regions::Growth;
use super::worker::Worker;
use crate::sys::Memory;

/// Maximum number of the caller's requests that may be unanswered.
const MAX_REQUESTS: usize = 64;

/// An unanswered request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Attach,
    /// A request for a segment of this region.
    Grow(u32),
    /// A request that the caller made.
    Call {
        cookie: u64,
        /// `kind::*`.
        kind: u32,
    },
}

impl Asked {
    const fn kind(self) -> u32 {
        match self {
            Self::Attach => kind::ATTACH,
            Self::Grow(_) => kind::GROW,
            Self::Call { kind, .. } => kind,
        }
    }
}

impl<C: Channel> Handle<C> {
    /// Sends a request. Returns [`Status::Again`] if it cannot be sent now; [`Event::Room`] then follows: with the next
    /// answer, or, because messages without an answer may have filled the channel, once the channel has room.
    pub(super) fn request<B: Body>(
        &mut self,
        asked: Asked,
        body: &B,
        blob: &[u8],
    ) -> Result<(), Status> {
        let is_call = matches!(asked, Asked::Call { .. });
        if is_call && self.requests.len() >= MAX_REQUESTS {
            self.request_refused = true;
            return Err(Status::Again);
        }
        let cookie = self.requests.insert(asked);
        encode(cookie, body, blob, &mut self.message);
        let sent = self.channel.send(&self.message);
        if let Err(status) = sent {
            self.requests.remove(cookie);
            self.request_refused |= status == Status::Again;
        }
        sent
    }

    /// Sends a message that is not answered. Returns [`Status::Again`] if it cannot be sent now.
    pub(super) fn tell<B: Body>(&mut self, body: &B) -> Result<(), Status> {
        encode(0, body, &[], &mut self.message);
        self.channel.send(&self.message)
    }

    /// Gives back the segments that the device wants and nothing uses, and asks for the segments that this side needs.
    /// Messages that cannot be sent now are sent later.
    pub(super) fn trade_memory(&mut self) {
        while let Some(release) = self.worker.as_ref().and_then(|w| w.releases.front()) {
            let release = *release;
            if self.tell(&release).is_err() {
                return;
            }
            if let Some(worker) = &mut self.worker {
                worker.releases.pop_front();
            }
        }
        while let Some((region, growing)) = self.worker.as_mut().and_then(Worker::growing) {
            let units = growing.wanted();
            let grow = Grow { region, units };
            if self.request(Asked::Grow(region), &grow, &[]).is_err() {
                break;
            }
            if let Some((_, wanting)) = self.worker.as_mut().and_then(Worker::growing) {
                wanting.growth = Growth::Asked;
            }
        }
    }

    /// Sends what found no room before, if there is room again. Returns whether the caller has to be told that there is
    /// room.
    fn resume(&mut self) -> bool {
        if !self.channel.has_room_again() {
            return false;
        }
        let refused = std::mem::take(&mut self.request_refused);
        self.room |= refused;
        self.trade_memory();
        refused
    }

    /// Reads one control message; returns `false` if there is none, and nothing else to report.
    pub(super) fn read_message(&mut self) -> Result<bool, Status> {
        if matches!(self.state, State::Leaving(_)) {
            return Ok(false);
        }
        match self.channel.receive() {
            Ok(None) => Ok(self.resume()),
            Ok(Some(delivery)) => self.handle_message(delivery).map(|()| true),
            // The entries that the device wrote into the rings before it went are still valid.
            Err(Status::Detached) => {
                self.state = State::Leaving(Status::Detached);
                Ok(true)
            }
            Err(status) => Err(status),
        }
    }

    fn handle_message(&mut self, delivery: Delivery<C::Doorbell>) -> Result<(), Status> {
        let Delivery {
            cookie,
            answer,
            memory,
            doorbell,
            ..
        } = delivery;
        self.woken = false;
        // No request has cookie 0.
        let asked = self.requests.remove(cookie);
        if asked.is_some() != (cookie != 0) {
            return Err(Status::Corrupt);
        }
        if asked.is_some() && std::mem::take(&mut self.request_refused) {
            self.room = true;
        }
        let result = match (answer, asked, memory, doorbell) {
            (Answer::Attached(attached), Some(Asked::Attach), ..) => self.attached(attached),
            (Answer::Reply(reply), Some(asked), ..) => self.replied(asked, reply),
            (Answer::Segment(segment), asked, Some(memory), _) => {
                self.segment(&segment, asked, memory)
            }
            (Answer::Queue(queue), None, Some(memory), Some(doorbell)) => {
                let worker = self.worker.as_mut().ok_or(Status::Corrupt)?;
                worker.add_queue(&queue, &memory, doorbell)
            }
            (Answer::Reclaim(reclaim), None, ..) => {
                let worker = self.worker.as_mut().ok_or(Status::Corrupt)?;
                worker.reclaim(&reclaim)
            }
            (Answer::Offer(offer), None, ..) => self.offered(&offer),
            (Answer::Wake(_), None, ..) => {
                self.woken = true;
                Ok(())
            }
            (Answer::Addresses(addresses), None, ..) => self.told_addresses(addresses),
            (Answer::Skipped, ..) => Ok(()),
            (Answer::Detached(detached), None, ..) => {
                self.device_version = detached.version;
                self.state = State::Leaving(reason(detached.status));
                Ok(())
            }
            _ => Err(Status::Corrupt),
        };
        match (result, asked) {
            (Ok(()), _) => self.trade_memory(),
            // The request was not answered: the end of the attachment reports it with all the others.
            (Err(_), Some(asked)) => drop(self.requests.insert(asked)),
            (Err(_), None) => {}
        }
        result
    }

    fn attached(&mut self, attached: Attached) -> Result<(), Status> {
        if !attached.is_understood() {
            self.device_version = attached.version;
            return Err(Status::Version);
        }
        self.params = Some(attached);
        if self.role == Role::Worker {
            // A worker without memory cannot send anything, so it counts as attached once it has some.
            let worker = self.worker.insert(Worker::new(attached)?);
            worker.send.want_first();
            return Ok(());
        }
        self.complete_attachment();
        Ok(())
    }

    fn complete_attachment(&mut self) {
        self.state = State::Attached;
        self.pending.push_back(Event::Attached);
    }

    fn replied(&mut self, asked: Asked, reply: Reply) -> Result<(), Status> {
        if reply.kind != asked.kind() {
            return Err(Status::Corrupt);
        }
        let status = Status::from_code(reply.status).unwrap_or(Status::Fabric);
        match asked {
            Asked::Call { cookie, .. } => {
                self.pending.push_back(Event::Reply { cookie, status });
                Ok(())
            }
            // On success, the device answers a request to attach or a request for a segment with another message.
            _ if status == Status::Ok => Err(Status::Corrupt),
            Asked::Attach => {
                self.state = State::Leaving(status);
                Ok(())
            }
            // The caller has not seen anything from the rings, so there is nothing to report.
            Asked::Grow(_) if self.state == State::Attaching => Err(status),
            Asked::Grow(region) => {
                let worker = self.worker.as_mut().ok_or(Status::Corrupt)?;
                self.room |= worker.region(region)?.refuse();
                Ok(())
            }
        }
    }

    fn segment(
        &mut self,
        segment: &Segment,
        asked: Option<Asked>,
        memory: Memory,
    ) -> Result<(), Status> {
        let region = match asked {
            None => None,
            Some(Asked::Grow(region)) => Some(region),
            Some(_) => return Err(Status::Corrupt),
        };
        let worker = self.worker.as_mut().ok_or(Status::Corrupt)?;
        worker.add_segment(segment, region, memory)?;
        if self.state == State::Attaching && region.is_some() {
            self.complete_attachment();
        }
        Ok(())
    }

    fn told_addresses(&mut self, addresses: Vec<Address>) -> Result<(), Status> {
        if addresses.iter().any(|a| a.port == 0 || a.link_speed == 0) {
            return Err(Status::Corrupt);
        }
        self.addresses = addresses;
        Ok(())
    }

    fn offered(&mut self, offer: &Offer) -> Result<(), Status> {
        if self.role != Role::Listener || self.state != State::Attached || offer.token == [0; 16] {
            return Err(Status::Corrupt);
        }
        self.pending.push_back(Event::Offer {
            token: offer.token,
            info: offer.info,
        });
        Ok(())
    }
}

/// Returns the reason that a device gives for detaching a process.
fn reason(status: i32) -> Status {
    match Status::from_code(status) {
        None => Status::Fabric,
        Some(Status::Ok) => Status::Detached,
        Some(status) => status,
    }
}
