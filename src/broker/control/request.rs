//! The requests of processes: read, judged, answered.
//!
//! An error is what no correct library asks, or an answer that the process left no room for: it is
//! detached. Everything else is answered.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::{Control, report};
use crate::broker::memory::Segment;
use crate::broker::process::{Process, Role};
use crate::broker::reactor::Command;
use crate::device::Status;
use crate::device::abi::{self, kind, region};
use crate::proto;
use crate::units::Credits;

/// Why a process is detached.
type Refusal = (Status, &'static str);

const MALFORMED: Refusal = (Status::Corrupt, "a malformed request");
const UNREAD: Refusal = (Status::Again, "it does not read its answers");

impl Control {
    /// A message of a process.
    pub(super) fn request(&mut self, id: u32, message: &[u8]) -> Result<(), Refusal> {
        let (control, body) = abi::Control::read_from_prefix(message).map_err(|_| MALFORMED)?;
        if control.length as usize != message.len() || control.cookie == 0 {
            return Err(MALFORMED);
        }
        let Some(peer) = self.peers.get(&id) else {
            return Ok(());
        };
        let Some(process) = peer.process.clone() else {
            return self.attach(id, &control, body);
        };
        let role = |role: Role| {
            (process.role == role)
                .then_some(())
                .ok_or(Status::NotAttached)
        };
        let cookie = control.cookie;
        let result = match control.kind {
            kind::SET_PARAMETERS => match role(Role::Listener) {
                Ok(()) => self.set_parameters(body)?,
                Err(status) => Err(status),
            },
            kind::SET_SESSION_ID => match role(Role::Worker) {
                Ok(()) => self.set_session_id(&process, parse(body)?),
                Err(status) => Err(status),
            },
            kind::CLAIM => match role(Role::Worker).and_then(|()| self.claim(body)) {
                // The reactor answers, for only there it is known whether the connection lives.
                Ok(offered) => {
                    self.give(offered, &process, Some(cookie));
                    return Ok(());
                }
                Err(status) => Err(status),
            },
            kind::GROW => match role(Role::Worker) {
                Ok(()) => match self.grow(&process, cookie, parse(body)?)? {
                    Ok(()) => return Ok(()),
                    Err(status) => Err(status),
                },
                Err(status) => Err(status),
            },
            kind::STATUS_REQUEST => match role(Role::Observer) {
                Ok(()) => {
                    parse::<abi::StatusRequest>(body)?;
                    match self.reports.has_asked(id) {
                        true => Err(Status::Busy),
                        false => {
                            self.report(report::Asker::Process { id, cookie });
                            return Ok(());
                        }
                    }
                }
                Err(status) => Err(status),
            },
            _ => return Err((Status::Corrupt, "an unknown request")),
        };
        reply(&process, cookie, control.kind, result)
    }

    /// The first message of a process.
    fn attach(&mut self, id: u32, control: &abi::Control, body: &[u8]) -> Result<(), Refusal> {
        let refused = |this: &Self, status: Status, why| {
            this.shared.registry().count("refused_attach");
            if let Some(peer) = this.peers.get(&id) {
                let reply = abi::Reply {
                    status: status.code(),
                    kind: kind::ATTACH,
                };
                let _ = crate::broker::process::send(
                    &peer.socket,
                    kind::REPLY,
                    control.cookie,
                    &reply,
                    &[],
                );
            }
            Err((status, why))
        };
        if control.kind != kind::ATTACH {
            return Err((Status::Corrupt, "its first message is no attachment"));
        }
        // The version first: another one may have another structure.
        let (version, _) = u32::read_from_prefix(body).map_err(|_| MALFORMED)?;
        if version != abi::VERSION {
            return refused(self, Status::Version, "it speaks another version");
        }
        let attach: abi::Attach = parse(body)?;
        let role = Role::of(attach.role).ok_or(MALFORMED)?;
        let has_token = attach.token != abi::Token::default();
        if attach.reserved != 0 || has_token && role != Role::Worker {
            return Err(MALFORMED);
        }
        if self.socket.is_none() {
            return refused(self, Status::Stopping, "the device stops");
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return Ok(());
        };
        let config = &self.shared.config;
        let socket = Arc::clone(&peer.socket);
        let process = Process::new(id, peer.pid, role, socket, config.memory.limit);
        let process = Arc::new(process);
        let mut registry = self.shared.registry();
        let taken = registry.attach(&process, config.max_workers);
        let offered = match taken {
            Ok(()) if has_token => registry.claim(&attach.token),
            _ => None,
        };
        if taken.is_ok() && has_token && offered.is_none() {
            registry.detach(id);
        }
        drop(registry);
        if let Err(status) = taken {
            return refused(self, status, "there is no place for it");
        }
        if has_token && offered.is_none() {
            return refused(self, Status::NoToken, "its token names no connection");
        }
        peer.process = Some(Arc::clone(&process));
        let attached = abi::Attached {
            version: abi::VERSION,
            worker: id,
            memory: config.memory,
            submissions_outstanding: config.queue_depth,
            max_read_write_size: config.acceptor.max_read_write_size,
            reserved: [0; 6],
        };
        let sent = process.send(kind::ATTACHED, control.cookie, &attached, &[]);
        sent.map_err(|_| UNREAD)?;
        self.shared.registry().count("attached");
        tracing::info!(
            worker = id,
            pid = process.pid,
            role = role.name(),
            "attached"
        );
        if let Some(offered) = offered {
            self.give(offered, &process, None);
        }
        Ok(())
    }

    fn claim(&self, body: &[u8]) -> Result<crate::broker::registry::Offered, Status> {
        let claim = abi::Claim::read_from_bytes(body).map_err(|_| Status::Invalid)?;
        let offered = self.shared.registry().claim(&claim.token);
        offered.ok_or(Status::NoToken)
    }

    /// Has the reactor of a connection give it to a worker.
    fn give(
        &self,
        offered: crate::broker::registry::Offered,
        process: &Arc<Process>,
        cookie: Option<u64>,
    ) {
        if let Some(reactor) = self.reactors.get(offered.reactor) {
            reactor.send(Command::Claim {
                conn: offered.conn,
                process: Arc::clone(process),
                cookie,
            });
        }
    }

    fn set_session_id(&self, process: &Process, set: abi::SetSessionId) -> Result<(), Status> {
        if set.reserved != 0 || set.client_guid == [0; 16] {
            return Err(Status::Invalid);
        }
        let mut registry = self.shared.registry();
        match set.remove {
            0 => {
                let limit = self.shared.config.max_sessions;
                registry.register(process.id, set.client_guid, set.session_id, limit)
            }
            1 => registry.unregister(process.id, set.client_guid, set.session_id),
            _ => Err(Status::Invalid),
        }
    }

    /// Gives a worker one more segment.
    fn grow(
        &self,
        process: &Arc<Process>,
        cookie: u64,
        grow: abi::Grow,
    ) -> Result<Result<(), Status>, Refusal> {
        let memory = &self.shared.config.memory;
        let (name, shape) = match grow.region {
            region::SEND => ("smbdirect-send", &memory.send),
            region::BULK => ("smbdirect-bulk", &memory.bulk),
            _ => return Ok(Err(Status::Invalid)),
        };
        if grow.reserved != 0 {
            return Ok(Err(Status::Invalid));
        }
        let accounts = [&process.account, &self.shared.memory];
        let (segment, file) = match Segment::create(name, shape, accounts) {
            Ok(made) => made,
            Err(status) => {
                self.shared.registry().count("refused_memory");
                return Ok(Err(status));
            }
        };
        let Some(number) = process.add_segment(grow.region, segment, shape.max_segments) else {
            return Ok(Err(Status::NoMemory));
        };
        let answer = abi::Segment {
            region: grow.region,
            queue: 0,
            number,
            reserved: 0,
            length: file.len() as u64,
        };
        let sent = process.send(kind::SEGMENT, cookie, &answer, &[file.as_fd()]);
        sent.map_err(|_| UNREAD)?;
        Ok(Ok(()))
    }

    fn set_parameters(&self, body: &[u8]) -> Result<Result<(), Status>, Refusal> {
        let (set, blob) = abi::SetParameters::read_from_prefix(body).map_err(|_| MALFORMED)?;
        if set.security_blob_length as usize != blob.len() {
            return Err(MALFORMED);
        }
        if blob.len() > abi::MAX_SECURITY_BLOB || set.reserved != [0; 5] {
            return Ok(Err(Status::Invalid));
        }
        let acceptor = reduced(&self.shared.config.acceptor, &set);
        if acceptor.validate().is_err() {
            return Ok(Err(Status::Invalid));
        }
        self.command_all(|| Command::SetAcceptor(acceptor));
        Ok(Ok(()))
    }
}

/// A structure that fills the rest of a message.
fn parse<T: FromBytes + KnownLayout + Immutable>(body: &[u8]) -> Result<T, Refusal> {
    T::read_from_bytes(body).map_err(|_| MALFORMED)
}

fn reply(
    process: &Process,
    cookie: u64,
    kind: u32,
    result: Result<(), Status>,
) -> Result<(), Refusal> {
    let reply = abi::Reply {
        status: result.err().unwrap_or(Status::Ok).code(),
        kind,
    };
    let sent = process.send(kind::REPLY, cookie, &reply, &[]);
    sent.map_err(|_| UNREAD)
}

/// The device's own values, where the listener does not want less.
fn reduced(own: &proto::Config, set: &abi::SetParameters) -> proto::Config {
    let number = |own: u32, set: u32| if set == 0 { own } else { own.min(set) };
    let credits = |own: Credits, set: u16| if set == 0 { own } else { own.min(Credits(set)) };
    let interval = match set.keepalive_interval_ms {
        0 => own.idle_timeout,
        milliseconds => Duration::from_millis(milliseconds.into()).min(own.idle_timeout),
    };
    proto::Config {
        receive_credit_max: credits(own.receive_credit_max, set.receive_credit_max),
        send_credit_target: credits(own.send_credit_target, set.send_credit_target),
        max_send_size: number(own.max_send_size, set.max_send_size),
        max_receive_size: number(own.max_receive_size, set.max_receive_size),
        max_fragmented_size: number(own.max_fragmented_size, set.max_fragmented_size),
        max_read_write_size: number(own.max_read_write_size, set.max_read_write_size),
        idle_timeout: interval,
        ..*own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_can_lower_the_devices_values_and_not_raise_them() {
        let own = proto::Config::default();
        let mut set = abi::SetParameters::read_from_bytes(&[0; 64]).unwrap();
        assert_eq!(reduced(&own, &set), own);
        set.receive_credit_max = 10;
        set.send_credit_target = 1000;
        set.max_read_write_size = 1 << 20;
        set.max_fragmented_size = u32::MAX;
        set.keepalive_interval_ms = 1000;
        let expected = proto::Config {
            receive_credit_max: Credits(10),
            max_read_write_size: 1 << 20,
            idle_timeout: Duration::from_secs(1),
            ..own
        };
        assert_eq!(reduced(&own, &set), expected);
    }
}
