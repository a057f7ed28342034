// SPDX-License-Identifier: GPL-2.0-or-later

//! Makes progress: handles events and completions, until the end of a connection.

use std::cmp::Reverse;
use std::time::Duration;

use super::conn::{self, Conn, Stage};
use super::ffi::{AsyncEvent, AsyncKind, CmEvent, Depths, Kind};
use super::status::{of_error, of_event};
use super::{CHANNEL, DEVICES, Owner, Verbs, conn_of, failed};
use crate::fabric::iwarp::mpa::LegacyReadDepths;
use crate::fabric::{CloseReason, ConnId, Event, FabricError, ReadLimits, WcStatus, is_own};

/// Maximum number of events of the connection manager that are handled in one call.
const CM_BATCH: usize = 128;
/// Maximum number of batches of completions of one connection before other connections have their turn.
const COMPLETION_BATCHES: usize = 8;
/// How long to wait for an event that says why work was flushed.
const EXPLANATION: Duration = Duration::from_secs(1);

impl Verbs {
    /// Records which descriptors are ready.
    pub(super) fn collect_readiness(&mut self) -> Result<(), FabricError> {
        let found = self.readiness.take()?;
        for event in found.iter().filter(|event| is_own(event.token())) {
            match event.token() {
                CHANNEL => self.has_cm_events = true,
                DEVICES => self.has_async_events = true,
                token => {
                    let id = conn_of(token);
                    if let Some(conn) = self.conns.get_mut(id) {
                        conn.has_completions = true;
                        conn.enqueue(id, &mut self.work);
                    }
                }
            }
        }
        self.readiness.put(found);
        Ok(())
    }

    pub(super) fn handle_async_events(&mut self, events: &mut Vec<Event>) {
        if !std::mem::take(&mut self.has_async_events) {
            return;
        }
        let devices: Vec<usize> = self.devices.keys().copied().collect();
        for device in devices {
            loop {
                // Any connection of the device will do, and each event may end one.
                let mut conns = self.conns.values();
                let conn = conns.find(|conn| conn.endpoint.device_key() == device);
                let Some(event) = conn.and_then(|conn| conn.endpoint.next_async_event()) else {
                    break;
                };
                self.handle_async_event(device, event, events);
            }
        }
    }

    fn handle_async_event(&mut self, device: usize, event: AsyncEvent, events: &mut Vec<Event>) {
        tracing::debug!(?event, "asynchronous event");
        if event.kind == AsyncKind::DeviceFatal {
            let all = self.conns.iter();
            let all = all.filter(|(_, conn)| conn.endpoint.device_key() == device);
            let all: Vec<ConnId> = all.map(|(id, _)| id).collect();
            for id in all {
                self.end(id, CloseReason::DeviceGone, events);
            }
            return;
        }
        let owner = self
            .conns
            .iter()
            .find(|(_, conn)| conn.endpoint.owns(event));
        let Some((id, conn)) = owner else {
            return;
        };
        match event.kind {
            AsyncKind::Fatal => self.end(id, WcStatus::FATAL.into(), events),
            AsyncKind::InvalidRequest => {
                self.end(id, WcStatus::INVALID_REQUEST.into(), events);
            }
            AsyncKind::AccessError => self.end(id, CloseReason::RemoteAccess, events),
            AsyncKind::Established => conn.endpoint.id().notify_established(),
            AsyncKind::DeviceFatal | AsyncKind::Other(_) => {}
        }
    }

    pub(super) fn handle_cm_events(&mut self, events: &mut Vec<Event>) -> Result<(), FabricError> {
        if !self.has_cm_events {
            return Ok(());
        }
        for _ in 0..CM_BATCH {
            let event = self.channel.next_event();
            let event = event.map_err(|source| failed("read an rdma_cm event", source))?;
            let Some(event) = event else {
                self.has_cm_events = false;
                break;
            };
            tracing::trace!(?event, "connection manager");
            match self.owners.get(&event.key).copied() {
                Some(Owner::Listener(id)) if event.kind == Kind::ConnectRequest => {
                    self.admit(id, event, events);
                }
                Some(Owner::Listener(id)) if event.kind == Kind::DeviceRemoval => {
                    self.lose_listener(id);
                }
                Some(Owner::Listener(_)) => {}
                Some(Owner::Conn(id)) => self.handle_cm_event(id, &event, events),
                // No event of interest follows any of these.
                None => drop(self.lingering.remove(&event.key)),
            }
        }
        Ok(())
    }

    fn handle_cm_event(&mut self, id: ConnId, event: &CmEvent, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let time = self.config.connect_timeout;
        let step = match (event.kind, conn.stage) {
            (Kind::AddressResolved, Stage::ResolvesAddress(limits)) => {
                conn.stage = Stage::ResolvesRoute(limits);
                let step = conn.endpoint.id().resolve_route(time);
                step.map_err(|error| of_error(&error))
            }
            (Kind::RouteResolved, Stage::ResolvesRoute(limits)) => {
                let step = ask(conn, limits);
                step.map_err(|error| of_error(&error))
            }
            (Kind::Established, Stage::Connecting) => {
                let own = conn.own_depths(conn.limits);
                conn.limits = conn::limits(agreed(conn, own, event));
                self.establish(id, events);
                Ok(())
            }
            (Kind::Established, Stage::Accepting) => {
                self.establish(id, events);
                Ok(())
            }
            (Kind::NotResolved | Kind::NotConnected, _) => {
                Err(of_event(event.status, CloseReason::Refused))
            }
            (Kind::Rejected, Stage::Requested { .. } | Stage::Accepting) => Err(CloseReason::Peer),
            (Kind::Rejected, _) => Err(CloseReason::Refused),
            (Kind::Disconnected, Stage::Connecting) => Err(CloseReason::Reset),
            (Kind::Disconnected, _) => Err(of_event(event.status, CloseReason::Peer)),
            (Kind::DeviceRemoval, _) => Err(CloseReason::DeviceGone),
            _ => Ok(()),
        };
        if let Err(reason) = step {
            let answered = event.kind == Kind::Disconnected;
            self.end_with(id, reason, answered, events);
        }
    }

    fn establish(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.stage = Stage::Established;
        conn.deadline = None;
        // Completions that came earlier are looked at now.
        conn.has_completions = true;
        conn.enqueue(id, &mut self.work);
        self.pending.remove(&id);
        events.push(Event::Established {
            conn: id,
            limits: conn.limits,
        });
    }

    /// Moves as much work as possible on one connection.
    pub(super) fn pump(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        conn.dequeued();
        if conn.stage == Stage::Accepting && conn.has_completions {
            self.take_early_completions(id, events);
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.is_up() && conn.has_completions {
            self.take_completions(id, events);
        }
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let flushed = match conn.is_up() && conn.reason.is_none() {
            true => conn.flush(),
            false => Ok(()),
        };
        if let Some(reason) = flushed.err().or_else(|| conn.reason.take()) {
            return self.end(id, reason, events);
        }
        if conn.stage == Stage::Draining && conn.is_drained() {
            return self.end(id, CloseReason::Local, events);
        }
        if conn.deadline.is_none() {
            // The deadline is set here, and not in the call that began the stage, because only `poll` knows the time.
            conn.deadline = match conn.stage {
                Stage::Established if conn.is_suspect => Some(self.now + EXPLANATION),
                Stage::Established => None,
                Stage::Draining => Some(self.now + self.config.drain_timeout),
                _ => Some(self.now + self.config.connect_timeout),
            };
            self.deadlines
                .extend(conn.deadline.map(|deadline| Reverse((deadline, id))));
        }
    }

    /// Takes data that arrived before the event that says that the peer is ready.
    fn take_early_completions(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        let mut completed = std::mem::take(&mut self.completed);
        let polled = conn.endpoint.poll(&mut completed);
        if polled.is_ok() && completed.first().is_some_and(|first| first.status == 0) {
            conn.endpoint.id().notify_established();
            self.establish(id, events);
        }
        if let Some(conn) = self.conns.get_mut(id) {
            for completed in completed.drain(..) {
                events.extend(conn.complete(id, completed));
            }
        }
        self.completed = completed;
    }

    fn take_completions(&mut self, id: ConnId, events: &mut Vec<Event>) {
        let Some(conn) = self.conns.get_mut(id) else {
            return;
        };
        if conn.endpoint.take_notifications() {
            if let Err(error) = conn.endpoint.arm() {
                conn.reason.get_or_insert_with(|| of_error(&error));
            }
        }
        for _ in 0..COMPLETION_BATCHES {
            let polled = conn.endpoint.poll(&mut self.completed);
            for completed in self.completed.drain(..) {
                events.extend(conn.complete(id, completed));
            }
            match polled {
                Ok(true) => {}
                Ok(false) => {
                    conn.has_completions = false;
                    return;
                }
                Err(error) => {
                    conn.reason.get_or_insert_with(|| of_error(&error));
                    return;
                }
            }
        }
        conn.enqueue(id, &mut self.work);
    }

    pub(super) fn end(&mut self, id: ConnId, reason: CloseReason, events: &mut Vec<Event>) {
        self.end_with(id, reason, false, events);
    }

    /// Ends a connection: reports what has completed, flushes everything else, and tells its owner. `answered` means
    /// that the peer already knows of the end.
    pub(super) fn end_with(
        &mut self,
        id: ConnId,
        mut reason: CloseReason,
        answered: bool,
        events: &mut Vec<Event>,
    ) {
        let Some(mut conn) = self.conns.remove(id) else {
            return;
        };
        self.forget(id, &conn);
        let gone = reason == CloseReason::DeviceGone;
        if conn.is_up() {
            // The completions that are left are of messages that arrived before the end.
            while let Ok(more) = conn.endpoint.poll(&mut self.completed) {
                for completed in self.completed.drain(..) {
                    events.extend(conn.complete(id, completed));
                }
                if !more {
                    break;
                }
            }
        }
        match (conn.stage, conn.reason.take()) {
            // The close came first, whatever has happened since.
            (Stage::Draining, _) => reason = CloseReason::Local,
            (_, Some(first)) if !gone => reason = first,
            _ => {}
        }
        let lingers = match conn.stage {
            Stage::Established | Stage::Draining | Stage::Accepting => {
                if let Err(error) = conn.endpoint.id().disconnect() {
                    tracing::debug!(%error, "rdma_disconnect");
                }
                !answered && !gone
            }
            // Destroying the identifier now would wait for the peer's answer.
            Stage::Connecting => conn.device.is_iwarp && reason == CloseReason::Local,
            _ => false,
        };
        self.discard(id, conn, lingers, events);
        events.push(Event::Closed { conn: id, reason });
    }

    /// Ends the objects of a connection, and then flushes its posted work, which nothing touches by then.
    fn discard(&mut self, id: ConnId, mut conn: Conn, lingers: bool, events: &mut Vec<Event>) {
        let mut flushed = Vec::new();
        while let Some(event) = conn.flush_posted(id) {
            flushed.push(event);
        }
        if matches!(conn.stage, Stage::Requested { .. }) {
            conn.reject();
        } else {
            let cm_id = conn.endpoint.into_id();
            if lingers {
                let until = self.now + self.config.linger_timeout;
                self.lingering.insert(cm_id.key(), (cm_id, until));
            }
        }
        events.append(&mut flushed);
    }

    /// Ends connections that have taken too long.
    pub(super) fn expire(&mut self, events: &mut Vec<Event>) {
        while let Some(&Reverse((deadline, id))) = self.deadlines.peek() {
            if deadline > self.now {
                break;
            }
            self.deadlines.pop();
            let conn = self.conns.get(id);
            let Some(conn) = conn.filter(|conn| conn.deadline == Some(deadline)) else {
                continue;
            };
            let reason = match conn.stage {
                Stage::Draining => CloseReason::Local,
                Stage::Established => CloseReason::Reset,
                _ => CloseReason::ConnectTimeout,
            };
            self.end(id, reason, events);
        }
        self.listen_again();
        let now = self.now;
        self.lingering.retain(|_, (_, until)| *until > now);
    }

    /// Ends a connection in a call that has no list of events.
    pub(super) fn end_now(&mut self, id: ConnId, reason: CloseReason) {
        let mut events = std::mem::take(&mut self.events);
        self.end(id, reason, &mut events);
        self.events = events;
    }
}

/// Asks the peer for the connection.
fn ask(conn: &mut Conn, limits: ReadLimits) -> std::io::Result<()> {
    let own = conn.own_depths(limits);
    conn.limits = conn::limits(own);
    conn.stage = Stage::Connecting;
    let named = LegacyReadDepths {
        ird: own.responder_resources.into(),
        ord: own.initiator_depth.into(),
    };
    let named = named.emit();
    let private_data = if conn.device.is_iwarp {
        &named[..]
    } else {
        &[]
    };
    conn.endpoint.id().connect(own, private_data)
}

/// Returns the depths on which both sides have agreed, according to the peer's answer.
fn agreed(conn: &Conn, own: Depths, event: &CmEvent) -> Depths {
    // With iWARP the event states the depths from the peer's point of view; with other devices, from this side's.
    let (serves, asks) = match conn.device.is_iwarp {
        true => (
            event.depths.initiator_depth,
            event.depths.responder_resources,
        ),
        false => (
            event.depths.responder_resources,
            event.depths.initiator_depth,
        ),
    };
    // With siw, the event repeats the depths that were asked for, but the peer's private data names those that the peer
    // accepted.
    let named = LegacyReadDepths::parse(&event.private_data).filter(|_| conn.device.is_iwarp);
    let least = |depth: u8, named: u32| depth.min(u8::try_from(named).unwrap_or(u8::MAX));
    let (named_asks, named_serves) =
        named.map_or((u32::MAX, u32::MAX), |named| (named.ird, named.ord));
    Depths {
        responder_resources: least(own.responder_resources.min(serves), named_serves),
        initiator_depth: least(own.initiator_depth.min(asks), named_asks),
    }
}
