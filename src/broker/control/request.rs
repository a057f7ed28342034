// SPDX-License-Identifier: GPL-2.0-or-later

//! Reads, checks and answers the requests of processes.
//!
//! A process is detached for a request that no correct library makes, or if it leaves no room for an
//! answer. Every other request is answered.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;

use super::{Control, Peer, report};
use crate::broker::config::Config;
use crate::broker::events::What;
use crate::broker::process::{Process, send};
use crate::broker::reactor::Command;
use crate::device::Status;
use crate::device::abi::{self, kind};
use crate::device::message::{MessageError, Request, attach_version, read_request};
use crate::engine::admission::Place;
use crate::engine::parameters::reduced;
use crate::engine::peer::Role;
use crate::engine::shard::Claim;
use crate::sys::SeqSocket;

/// How a request is answered.
pub(super) enum Answer {
    /// The answer is an [`abi::Reply`].
    Now(Result<(), Status>),
    /// The answer is another message, or comes from another thread.
    Other,
}

/// Why a process is detached.
pub(super) type Refusal = (Status, Cow<'static, str>);

const UNREAD: Refusal = (Status::Again, Cow::Borrowed("it does not read its answers"));

impl Control {
    /// Handles a message of a process.
    pub(super) fn request(&mut self, id: u32, message: &[u8]) -> Result<(), Refusal> {
        let Some(peer) = self.peers.get(&id) else {
            return Ok(());
        };
        let Some(process) = peer.process.clone() else {
            return self.attach(id, message);
        };
        let (cookie, request) = read_request(message).map_err(malformed)?;
        let (role, kind) = match request {
            Request::Skipped => return Ok(()),
            Request::Attach(_) => (process.role, kind::ATTACH),
            Request::SetParameters(..) => (Role::Listener, kind::SET_PARAMETERS),
            Request::SetAddresses(..) => (Role::Listener, kind::SET_ADDRESSES),
            Request::SetSessionId(_) => (Role::Worker, kind::SET_SESSION_ID),
            Request::Claim(_) => (Role::Worker, kind::CLAIM),
            Request::Decline(_) => (Role::Listener, kind::DECLINE),
            Request::Grow(_) => (Role::Worker, kind::GROW),
            Request::Release(_) => (Role::Worker, kind::RELEASE),
            Request::ClientNote(_) => (Role::Listener, kind::CLIENT_NOTE),
            Request::Status(_) => (Role::Observer, kind::STATUS_REQUEST),
            Request::Events(_) => (Role::Observer, kind::EVENTS_REQUEST),
            Request::Capture(_) => (Role::Observer, kind::CAPTURE_REQUEST),
        };
        if process.role != role {
            if cookie == 0 {
                return Err((
                    Status::Corrupt,
                    "it sent a request that its role does not allow".into(),
                ));
            }
            return reply(&process, cookie, kind, Err(Status::NotAttached));
        }
        match self.carry_out(&process, cookie, request)? {
            Answer::Now(result) => reply(&process, cookie, kind, result),
            Answer::Other => Ok(()),
        }
    }

    /// Carries out a request that the process may make.
    fn carry_out(
        &mut self,
        process: &Arc<Process>,
        cookie: u64,
        request: Request<'_>,
    ) -> Result<Answer, Refusal> {
        Ok(match request {
            Request::Attach(_) => return Err((Status::Corrupt, "it is already attached".into())),
            // `request` has already dealt with skipped requests.
            Request::Skipped => Answer::Other,
            Request::SetParameters(set, _) => Answer::Now(self.set_parameters(&set)),
            Request::SetAddresses(set, list) => Answer::Now(self.set_addresses(set, &list)),
            Request::SetSessionId(set) => Answer::Now(self.set_session_id(process, &set)),
            Request::Claim(claim) => self.claim(process, cookie, claim),
            Request::Decline(decline) => Answer::Now(self.decline(&decline)),
            Request::Grow(grow) => self.grow(process, cookie, grow)?,
            Request::Release(release) => {
                self.release(process, release)?;
                Answer::Other
            }
            Request::ClientNote(note) => {
                self.clients.note(&note, self.now);
                if matches!(note.note, abi::note::SESSION | abi::note::ENCRYPTED) {
                    // Only the reactors know the connection.
                    self.command_all(|| Command::SetProtection(note));
                }
                Answer::Other
            }
            Request::Status(_) if self.reports.has_asked(process.id) => {
                Answer::Now(Err(Status::Busy))
            }
            Request::Status(_) => {
                let id = process.id;
                self.report(report::Asker::Process { id, cookie });
                Answer::Other
            }
            Request::Events(asked) => {
                let json = self.shared.events_json(asked.after);
                let sent = json
                    .map_err(io::Error::from)
                    .and_then(|json| report::send_json(&process.socket, cookie, &json));
                answered(sent)?;
                Answer::Other
            }
            Request::Capture(asked) => self.begin_capture(process, cookie, &asked)?,
        })
    }

    /// Handles the first message of a process.
    fn attach(&mut self, id: u32, message: &[u8]) -> Result<(), Refusal> {
        let Some(peer) = self.peers.get(&id) else {
            return Ok(());
        };
        let (socket, pid) = (Arc::clone(&peer.socket), peer.pid);
        // If reading fails, the message that detaches the process says more than a reply would: that message names the
        // version that this side speaks.
        let (cookie, attach, version) = read_attach(message)?;
        let admitted = self.admit_attached(id, (&socket, pid), &attach);
        let (process, offered) = admitted.inspect_err(|(status, _)| {
            let reply = abi::Reply {
                status: status.code(),
                kind: kind::ATTACH,
            };
            // The process is detached whether it reads this reply or not.
            let _ = send(&socket, kind::REPLY, cookie, &reply, &[]);
        })?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.process = Some(Arc::clone(&process));
        }
        let attached = attached(id, &self.shared.config(), (version, attach.features));
        if process.role != Role::Observer {
            // The addresses are sent first, so that an attached process always knows them.
            let told = self.known.tell(&process);
            answered(told)?;
        }
        let register = || {
            let mut registry = self.shared.registry();
            registry.attach(&process);
            registry.count("attached");
        };
        let sent = process.greet(cookie, &attached, register);
        answered(sent).inspect_err(|_| self.shared.registry().detach(id))?;
        let (pid, role) = (process.pid, process.role.name());
        match process.role {
            // An observer is only a tool that asks for the status and goes.
            Role::Observer => tracing::debug!(worker = id, pid, role, "attached"),
            Role::Listener | Role::Worker => {
                self.shared.record(What::Attached {
                    worker: id,
                    pid,
                    role: role.into(),
                });
                tracing::info!(worker = id, pid, role, "attached");
            }
        }
        if let Some(offered) = offered {
            self.give(offered, &process, None);
        }
        Ok(())
    }

    /// Checks an attachment: whether the process may attach, and whether its token names a connection.
    fn admit_attached(
        &self,
        id: u32,
        (socket, pid): (&Arc<SeqSocket>, i32),
        attach: &abi::Attach,
    ) -> Result<(Arc<Process>, Option<Place>), Refusal> {
        let role = Role::of(attach.role).ok_or_else(|| (Status::Corrupt, "unknown role".into()))?;
        let has_token = attach.token != abi::Token::default();
        if has_token && role != Role::Worker {
            return Err((Status::Corrupt, "token without worker role".into()));
        }
        if self.stopping && role != Role::Observer {
            return Err((Status::Stopping, "smbdirectd is stopping".into()));
        }
        let config = self.shared.config();
        let mut registry = self.shared.registry();
        let offered = registry.claim(&attach.token);
        if has_token && offered.is_none() {
            let why = "the connection that the worker was started for has ended, or was not claimed in time";
            return Err((Status::NoToken, why.into()));
        }
        let may_attach = match offered {
            Some(_) => Ok(()),
            None => registry.may_attach(role, config.max_workers),
        };
        drop(registry);
        may_attach.map_err(|status| (status, no_place(status, role, &config).into()))?;
        let limit = config.memory.limit;
        let process = Process::new(
            (id, pid),
            (role, offered.is_some()),
            Arc::clone(socket),
            limit,
        );
        let process = process.with_files(config.keep_connections);
        Ok((Arc::new(process), offered))
    }

    fn claim(&self, process: &Arc<Process>, cookie: u64, claim: abi::Claim) -> Answer {
        let offered = self.shared.registry().claim(&claim.token);
        let Some(offered) = offered else {
            return Answer::Now(Err(Status::NoToken));
        };
        // The reactor answers, because only it knows whether the connection still exists.
        self.give(offered, process, Some(cookie));
        Answer::Other
    }

    /// Tells the reactor of a connection to end it. It is not an error if the connection has already ended.
    fn decline(&self, decline: &abi::Decline) -> Result<(), Status> {
        let offered = self.shared.registry().claim(&decline.token);
        let offered = offered.ok_or(Status::NoToken)?;
        if let Some(reactor) = self.reactors.get(offered.shard) {
            reactor.send(Command::Decline(offered.conn));
        }
        Ok(())
    }

    /// Tells the reactor of a connection to give it to a worker.
    fn give(&self, offered: Place, process: &Arc<Process>, cookie: Option<u64>) {
        if let Some(reactor) = self.reactors.get(offered.shard) {
            let worker = Arc::clone(process);
            reactor.send(Command::Claim {
                conn: offered.conn,
                claim: Claim { worker, cookie },
            });
        }
    }

    fn set_session_id(&mut self, process: &Process, set: &abi::SetSessionId) -> Result<(), Status> {
        if set.client_guid == [0; 16] {
            return Err(Status::Invalid);
        }
        match set.remove {
            0 => match self.register(process.id, set) {
                Err(Status::Taken) if self.detach_gone(set) => self.register(process.id, set),
                result => result,
            },
            1 => {
                let mut registry = self.shared.registry();
                registry.unregister(process.id, set.client_guid, set.session_id)
            }
            _ => Err(Status::Invalid),
        }
    }

    fn register(&self, process: u32, set: &abi::SetSessionId) -> Result<(), Status> {
        let limit = self.shared.config().max_sessions;
        let mut registry = self.shared.registry();
        registry.register(process, set.client_guid, set.session_id, limit)
    }

    /// Detaches each process that holds this client or session, if the process has closed its socket or exited and the
    /// control thread has not noticed that yet. Returns whether there was such a process.
    fn detach_gone(&mut self, set: &abi::SetSessionId) -> bool {
        let holders = self
            .shared
            .registry()
            .holders(&set.client_guid, set.session_id);
        let mut some = false;
        for id in holders.into_iter().flatten() {
            if self.peers.get(&id).is_some_and(Peer::has_gone) {
                self.detach(
                    id,
                    None,
                    "it has exited or closed its socket, and another process registers its client",
                );
                some = true;
            }
        }
        some
    }

    fn set_parameters(&mut self, set: &abi::SetParameters) -> Result<(), Status> {
        let acceptor = reduced(&self.shared.config().acceptor, set);
        acceptor.validate().map_err(|_| Status::Invalid)?;
        self.parameters = Some(*set);
        self.command_all(|| Command::SetAcceptor(acceptor));
        Ok(())
    }
}

/// Returns the message for a process that attaches, given the version that both sides speak and the process's features.
pub(in crate::broker) const fn attached(
    id: u32,
    config: &Config,
    (version, features): (u32, u64),
) -> abi::Attached {
    abi::Attached {
        version,
        worker: id,
        memory: config.memory,
        submissions_outstanding: config.queue_depth,
        max_read_write_size: config.acceptor.max_read_write_size,
        features: features & abi::FEATURES,
        reserved: [0; 4],
    }
}

fn malformed(error: MessageError) -> Refusal {
    (Status::Corrupt, error.to_string().into())
}

/// Reads the first message of a process, and finds the version that both sides speak.
pub(in crate::broker) fn read_attach(message: &[u8]) -> Result<(u64, abi::Attach, u32), Refusal> {
    // The version is read first, because another version may have another layout.
    let newest = attach_version(message);
    let version = |newest| (Status::Version, other_version(newest).into());
    match (read_request(message), newest) {
        (_, Some(newest)) if newest < abi::OLDEST_VERSION => Err(version(newest)),
        (Ok((cookie, Request::Attach(attach))), _) => {
            let common = abi::common_version(attach.version, attach.oldest_version);
            let common = common.ok_or_else(|| version(attach.version))?;
            Ok((cookie, attach, common))
        }
        (Err(_), Some(newest)) if newest > abi::VERSION => Err(version(newest)),
        (Err(error), _) => Err(malformed(error)),
        (Ok(_), _) => Err((Status::Corrupt, "its first message is not ATTACH".into())),
    }
}

/// Returns what the log says about a process that speaks another version of the interface, with the cure.
fn other_version(version: u32) -> String {
    let own = abi::VERSION;
    let cure = if version < abi::OLDEST_VERSION {
        "restart smbd, or install the smbd that was built with this smbdirectd"
    } else {
        "restart smbdirectd, or install the one that smbd was built with"
    };
    format!("it speaks version {version} of the interface, this smbdirectd version {own}: {cure}")
}

/// Returns what the log says about a process that exceeds a limit, with the cure.
fn no_place(status: Status, role: Role, config: &Config) -> String {
    match status {
        Status::Limit if role == Role::Worker => format!(
            "max_workers = {} reached: only clients of current workers are served; raise it in smbdirectd.toml",
            config.max_workers
        ),
        Status::Taken => {
            "another smbd is the listener: a device serves only one smbd at a time".to_owned()
        }
        _ => format!("too many processes with the role {}", role.name()),
    }
}

/// Judges the result of sending an answer. A process that has gone in the meantime does not need one; the next read
/// notices that it has gone.
pub(super) fn answered(sent: io::Result<()>) -> Result<(), Refusal> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(UNREAD),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn reply(
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
    answered(sent)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::super::ControlSocket;
    use super::*;
    use crate::broker::shared::Shared;
    use crate::device::message::encode;
    use crate::engine::registry::Route;
    use crate::units::Instant;

    /// Makes a control thread without reactors, and the process with number 1, which has connected but not attached.
    pub(in super::super) fn control() -> (Control, SeqSocket, std::path::PathBuf) {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let name = format!("smbdirect-control-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("control");
        let socket = ControlSocket::bind(&path).unwrap();
        let status = ControlSocket::bind(&directory.join("status")).unwrap();
        let sockets = (socket, Arc::new(status));
        let shared = Arc::new(Shared::new(crate::broker::Config::default(), Instant::ZERO));
        let (_, messages) = crossbeam_channel::unbounded();
        let waits = (mio::Poll::new().unwrap(), messages);
        let mut control = Control::new(shared, waits, sockets, Vec::new(), Vec::new()).unwrap();
        let (ours, theirs) = SeqSocket::pair().unwrap();
        let peer = Peer {
            socket: Arc::new(ours),
            pid: 1,
            pidfd: None,
            process: None,
            addresses_due: false,
        };
        control.peers.insert(1, peer);
        (control, theirs, directory)
    }

    #[test]
    fn a_listener_is_offered_nothing_before_it_is_told_that_it_is_attached() {
        let (mut control, theirs, directory) = control();
        let attach = abi::Attach::new(abi::role::LISTENER, abi::Token::default());
        let mut message = Vec::new();
        encode(1, &attach, &[], &mut message);
        // There is no room for the answer.
        let socket = Arc::clone(&control.peers[&1].socket);
        while socket.send(&[0; 64], &[]).is_ok() {}
        assert_eq!(control.request(1, &message), Err(UNREAD));
        let route = |control: &Control| control.shared.registry().route(&[1; 16]);
        assert!(matches!(route(&control), Route::Nobody));
        while theirs.receive(&mut [0; 64]).is_ok() {}
        control.peers.get_mut(&1).unwrap().process = None;
        assert_eq!(control.request(1, &message), Ok(()));
        assert!(matches!(route(&control), Route::Listener(_)));
        drop(control);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
