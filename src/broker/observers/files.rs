// SPDX-License-Identifier: GPL-2.0-or-later

//! The memory files in which observers get their answers.
//!
//! A process that has got a memory file can keep it, and with it memory of this device. As long as it does not receive
//! the message, the file also counts as a descriptor that the device's user has in flight; the system limits these, and
//! beyond the limit workers get no descriptors either. So each user has a limited number of files, and a later answer
//! to the same user overwrites an earlier one. Users never share a file, because every process that gets a file can
//! write to it.
//!
//! A file is used again once its last answer has been received, and the process that got it has ended the connection or
//! has had [`TIME`] to read. The file is never sealed against writes, cut or emptied: older processes map it for
//! writing, and a process that writes to a file slowly could make the system wait before it changes the file.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{MOST, TIME};
use crate::broker::control::send_report;
use crate::device::Status;
use crate::shm;
use crate::sys::{Memfd, Memory, SeqSocket};

/// Maximum number of files of a user: one for each client that is served at a time.
const MOST_OF_USER: usize = MOST;
/// Maximum number of files of all users together: a member of the group may have many user ids (subuid(5)).
const MOST_OF_ALL: usize = 256;
/// Age of the last answer in a file that may make room for another user's, if there are so many.
const UNUSED: Duration = Duration::from_secs(600);
/// Length of the shortest file. The system gives memory only for what is written.
const SHORTEST: usize = 64 << 10;

/// The files of all users.
#[derive(Debug, Default)]
pub(super) struct Files(Vec<AnswerFile>);

#[derive(Debug)]
struct AnswerFile {
    user: u32,
    file: Memfd,
    memory: Memory,
    /// The connection that carried the last answer; `None` before the first one.
    carrier: Option<Arc<SeqSocket>>,
    /// When the last answer was sent, or the file was made.
    used: Instant,
}

impl AnswerFile {
    fn new(user: u32, length: usize, now: Instant) -> Result<Self, Status> {
        // Some room for growth: a file that has become too short is replaced, and whoever has it may keep it.
        let length = length.next_power_of_two().max(SHORTEST);
        let file = Memfd::create("smbdirect-status", length).map_err(|_| Status::System)?;
        Ok(Self {
            user,
            memory: shm::map(&file).map_err(|_| Status::System)?,
            file,
            carrier: None,
            used: now,
        })
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.used)
    }

    /// Returns whether the file may be overwritten.
    fn is_free(&self, now: Instant) -> bool {
        self.carrier.as_ref().is_none_or(|carrier| {
            let is_done = self.age(now) >= TIME || carrier.is_over().unwrap_or(false);
            // A process that has shut its end down can still receive.
            is_done && carrier.is_all_received().unwrap_or(false)
        })
    }
}

impl Files {
    /// Sends a user's process its answer, and then the end of the connection.
    ///
    /// # Errors
    ///
    /// [`Status::Limit`]: the processes of this user have too many answers that they have not received, or may still
    /// be reading; or all users together have. [`Status::Again`]: the process leaves no room for its answer.
    /// [`Status::System`].
    pub(super) fn send(
        &mut self,
        user: u32,
        (carrier, cookie): (&Arc<SeqSocket>, u64),
        json: &[u8],
        now: Instant,
    ) -> Result<(), Status> {
        let file = self.free(user, json.len(), now)?;
        file.memory.write(0, json).map_err(|_| Status::System)?;
        send_report(carrier, cookie, &file.file, json.len()).map_err(|_| Status::Again)?;
        file.carrier = Some(Arc::clone(carrier));
        file.used = now;
        // This fails only if the process has gone.
        let _ = carrier.finish();
        Ok(())
    }

    /// Returns a file for an answer of this length.
    fn free(&mut self, user: u32, length: usize, now: Instant) -> Result<&mut AnswerFile, Status> {
        let mut files = self.0.iter();
        let found = files.position(|file| file.user == user && file.is_free(now));
        let place = match found {
            Some(place) => place,
            None => {
                self.make_room(user, now)?;
                self.0.push(AnswerFile::new(user, length, now)?);
                self.0.len() - 1
            }
        };
        let file = self.0.get_mut(place).ok_or(Status::System)?;
        if file.file.len() < length {
            *file = AnswerFile::new(user, length, now)?;
        }
        Ok(file)
    }

    /// Makes room for one more file of a user.
    fn make_room(&mut self, user: u32, now: Instant) -> Result<(), Status> {
        let own = self.0.iter().filter(|file| file.user == user).count();
        if own >= MOST_OF_USER {
            return Err(Status::Limit);
        }
        if self.0.len() >= MOST_OF_ALL {
            let is_unused = |file: &AnswerFile| file.age(now) >= UNUSED && file.is_free(now);
            let place = self.0.iter().position(is_unused).ok_or(Status::Limit)?;
            self.0.swap_remove(place);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::abi::MAX_CONTROL_LENGTH;

    /// A process that gets an answer, and the device's end of the connection with it.
    struct Observer {
        socket: SeqSocket,
        carrier: Arc<SeqSocket>,
    }

    impl Observer {
        fn new() -> Self {
            let (socket, carrier) = SeqSocket::pair().unwrap();
            Self {
                socket,
                carrier: Arc::new(carrier),
            }
        }

        /// Makes a user have this answer sent.
        fn gets(
            &self,
            files: &mut Files,
            user: u32,
            json: &[u8],
            now: Instant,
        ) -> Result<(), Status> {
            files.send(user, (&self.carrier, 1), json, now)
        }

        /// Receives the answer, and returns its file.
        fn receive(&self) -> Memory {
            let mut buffer = [0; MAX_CONTROL_LENGTH];
            let mut received = self.socket.receive(&mut buffer).unwrap();
            let file = received.descriptors.pop().unwrap();
            let length = rustix::fs::fstat(&file).unwrap().st_size as usize;
            shm::map(&Memfd::verify(file, length).unwrap()).unwrap()
        }
    }

    fn begins(memory: &Memory, json: &[u8]) -> bool {
        memory.to_vec(0, json.len()).unwrap() == json
    }

    #[test]
    fn a_user_that_leaves_its_answers_unread_gets_no_more() {
        let mut files = Files::default();
        let now = Instant::now();
        let later = now + TIME;
        let observers: Vec<_> = (0..MOST_OF_USER).map(|_| Observer::new()).collect();
        for observer in &observers {
            observer.gets(&mut files, 1, b"{}", now).unwrap();
        }
        let next = Observer::new();
        assert_eq!(
            next.gets(&mut files, 1, b"{}", later),
            Err(Status::Limit),
            "nothing has been received"
        );
        // The end of a connection does not free what is still in the other queue.
        observers[0].socket.shut_down().unwrap();
        assert_eq!(
            next.gets(&mut files, 1, b"{}", later),
            Err(Status::Limit),
            "still nothing has been received"
        );
        Observer::new().gets(&mut files, 2, b"{}", later).unwrap();
        observers[1].receive();
        assert_eq!(
            next.gets(&mut files, 1, b"{}", now),
            Err(Status::Limit),
            "it may still be reading"
        );
        next.gets(&mut files, 1, b"{}", later).unwrap();
        assert_eq!(files.0.len(), MOST_OF_USER + 1);
    }

    #[test]
    fn a_file_is_used_again_for_its_user_only() {
        let mut files = Files::default();
        let now = Instant::now();
        let first = Observer::new();
        first.gets(&mut files, 1, b"first", now).unwrap();
        let kept = first.receive();
        assert!(begins(&kept, b"first"));
        // The process ends the connection, but keeps the file.
        drop(first);
        Observer::new().gets(&mut files, 2, b"other", now).unwrap();
        assert!(begins(&kept, b"first"));
        let again = Observer::new();
        again.gets(&mut files, 1, b"again", now).unwrap();
        assert!(begins(&kept, b"again") && begins(&again.receive(), b"again"));
        assert_eq!(files.0.len(), 2);
    }

    #[test]
    fn a_file_that_is_too_short_is_replaced() {
        let mut files = Files::default();
        let now = Instant::now();
        Observer::new().gets(&mut files, 1, b"{}", now).unwrap();
        let long = vec![b' '; SHORTEST + 1];
        let observer = Observer::new();
        observer.gets(&mut files, 1, &long, now).unwrap();
        assert!(begins(&observer.receive(), &long));
        assert_eq!(files.0.len(), 1);
    }

    #[test]
    fn all_users_together_have_a_limited_number_of_files() {
        let mut files = Files::default();
        let now = Instant::now();
        for user in 0..MOST_OF_ALL as u32 {
            files.free(user, 2, now).unwrap();
        }
        let newcomer = MOST_OF_ALL as u32;
        let observer = Observer::new();
        assert_eq!(
            observer.gets(&mut files, newcomer, b"{}", now),
            Err(Status::Limit)
        );
        observer
            .gets(&mut files, newcomer, b"{}", now + UNUSED)
            .unwrap();
        assert_eq!(files.0.len(), MOST_OF_ALL);
    }
}
