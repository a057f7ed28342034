// SPDX-License-Identifier: GPL-2.0-or-later

//! Keeps what has happened lately: connections that began and ended, processes that came and went, limits that were
//! reached.
//!
//! The device keeps the last few thousand events, each with a number that grows by one, so that a process that asks
//! again and again gets each event once, and notices if it asked too late for some: their numbers are missing. The
//! memory for the events has a limit, whatever clients and processes do.
//!
//! A restart that keeps connections keeps the events, and continues their numbers. So the events name the numbering by
//! the start of the device that began it.
//!
//! A stranger can cause events as fast as it connects: those of connections, and, because smbd starts a process for a
//! new client, those of processes that come and go. So there are three lists with one numbering, and none of these
//! events takes the place of an event that tells what went wrong: that a process was refused or broke a rule, or that a
//! limit was reached.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// Number of events of connections that are kept.
const CONNECTIONS: usize = 2048;
/// Number of events of processes that came and went that are kept.
const PROCESSES: usize = 1024;
/// Number of all other events that are kept.
const TROUBLES: usize = 1024;

/// A string, usually a literal.
type Text = Cow<'static, str>;

/// Events as they are sent to a process that asks for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Events {
    /// The time at which the device started that began to number the events, from 1, in seconds since 1970. If the
    /// device continues where another one stood still, that is the other one.
    pub start_time_seconds: Option<f64>,
    /// The events that were asked for and are still kept, the oldest first.
    pub events: Vec<Event>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The number of the event. A number that is missing between two events belongs to an event that is no longer kept.
    pub number: u64,
    /// The time of the event, in seconds since 1970.
    pub time_seconds: f64,
    /// What happened.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum What {
    /// A client has negotiated SMB Direct.
    Established {
        /// The client's address.
        peer: SocketAddr,
        /// The server's address to which the client connected.
        local: Option<SocketAddr>,
        /// The fabric that carries it: `software` or `verbs`.
        fabric: Text,
    },
    /// A connection has an owner.
    Assigned {
        /// The client's address.
        peer: SocketAddr,
        /// The worker that owns it.
        worker: u32,
        /// The worker's process.
        pid: i32,
    },
    /// A connection has ended.
    Ended {
        /// The client's address.
        peer: SocketAddr,
        /// The server's address to which the client connected.
        local: Option<SocketAddr>,
        /// The fabric that carried it.
        fabric: Text,
        /// The worker that owned it.
        worker: Option<u32>,
        /// The worker's process.
        pid: Option<i32>,
        /// The name of the reason.
        reason: Text,
        /// The reason in words.
        words: String,
        /// Time since the connection was accepted.
        age_seconds: f64,
        /// Bytes that came from the client, in messages and by RDMA READ.
        bytes_received: u64,
        /// Bytes that went to the client, in messages and by RDMA WRITE.
        bytes_sent: u64,
    },
    /// A process of smbd has attached.
    Attached {
        /// The device's number for the process.
        worker: u32,
        /// The system's number for the process.
        pid: i32,
        /// `listener` or `worker`.
        role: Text,
    },
    /// A process of smbd is no longer attached.
    Detached {
        /// The device's number for the process.
        worker: u32,
        /// The system's number for the process.
        pid: i32,
        /// `listener` or `worker`.
        role: Text,
        /// The status that the device sent, if it was the device that detached the process.
        status: Option<Text>,
        /// The reason in words.
        words: String,
    },
    /// A process was not allowed to attach.
    Refused {
        /// The system's number for the process, if it is known.
        pid: Option<i32>,
        /// The status that the process got.
        status: Text,
        /// The reason in words.
        words: String,
    },
    /// A limit was reached. Each limit has at most one such event a minute.
    LimitMet {
        /// The key of the configuration that sets it.
        key: Text,
        /// The value of the key.
        limit: u64,
        /// How often the limit was reached since its last such event.
        times: u64,
        /// What the device did.
        words: String,
    },
}

/// The events that are kept, the oldest of each list first.
#[derive(Debug, Default)]
pub(super) struct Rings {
    /// The start of the device that began the numbering, in seconds since 1970.
    began: Option<f64>,
    last: u64,
    connections: VecDeque<Arc<Event>>,
    processes: VecDeque<Arc<Event>>,
    troubles: VecDeque<Arc<Event>>,
}

/// The events, as they are passed on.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct KeptEvents {
    began: Option<f64>,
    last: u64,
    events: Vec<Event>,
}

impl Rings {
    /// Begins the numbering of a device that started at this time, in seconds since 1970.
    pub(super) fn new(began: Option<f64>) -> Self {
        Self {
            began,
            ..Self::default()
        }
    }

    /// Returns the start of the device that began the numbering, in seconds since 1970.
    pub(super) const fn began(&self) -> Option<f64> {
        self.began
    }

    /// Returns all events that are kept.
    pub(super) fn keep(&self) -> KeptEvents {
        let events = self.after(0);
        KeptEvents {
            began: self.began,
            last: self.last,
            events: events.iter().map(|event| Event::clone(event)).collect(),
        }
    }

    /// Continues with the events of an earlier broker, and with its numbering.
    pub(super) fn adopt(&mut self, kept: KeptEvents) {
        self.began = kept.began;
        for event in kept.events {
            self.insert(event);
        }
        self.last = self.last.max(kept.last);
    }

    /// Adds an event that happens now.
    pub(super) fn add(&mut self, what: What) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.last += 1;
        self.insert(Event {
            number: self.last,
            time_seconds: since.unwrap_or_default().as_secs_f64(),
            what,
        });
    }

    /// Adds an event, whose number is greater than all others.
    fn insert(&mut self, event: Event) {
        let (kept, most) = match &event.what {
            What::Established { .. } | What::Assigned { .. } | What::Ended { .. } => {
                (&mut self.connections, CONNECTIONS)
            }
            What::Attached { .. } => (&mut self.processes, PROCESSES),
            What::Detached { status, .. } if !is_fault(status.as_deref()) => {
                (&mut self.processes, PROCESSES)
            }
            // Its client has gone.
            What::Refused { status, .. } if status == "no_token" => {
                (&mut self.processes, PROCESSES)
            }
            What::Detached { .. } | What::Refused { .. } | What::LimitMet { .. } => {
                (&mut self.troubles, TROUBLES)
            }
        };
        if kept.len() >= most {
            kept.pop_front();
        }
        kept.push_back(Arc::new(event));
    }

    /// Returns the events with greater numbers than `after` that are still kept, the oldest first.
    pub(super) fn after(&self, after: u64) -> Vec<Arc<Event>> {
        let lists = [&self.connections, &self.processes, &self.troubles];
        let wanted = lists.into_iter().flat_map(|kept| {
            let known = kept.partition_point(|event| event.number <= after);
            kept.range(known..)
        });
        let mut events: Vec<Arc<Event>> = wanted.cloned().collect();
        events.sort_unstable_by_key(|event| event.number);
        events
    }
}

/// Returns whether a process that was detached with this status did something wrong. Every other process has gone by
/// itself, or its client has gone.
fn is_fault(status: Option<&str>) -> bool {
    matches!(status, Some("again" | "corrupt" | "system"))
}

/// Returns the JSON of [`Events`].
pub(super) fn to_json(began: Option<f64>, events: &[Arc<Event>]) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Borrowed<'a> {
        start_time_seconds: Option<f64>,
        events: Vec<&'a Event>,
    }

    serde_json::to_vec(&Borrowed {
        start_time_seconds: began,
        events: events.iter().map(|event| &**event).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_met(times: u64) -> What {
        What::LimitMet {
            key: "max_workers".into(),
            limit: 9,
            times,
            words: "was reached".to_owned(),
        }
    }

    fn established() -> What {
        What::Established {
            peer: "10.0.0.1:9".parse().unwrap(),
            local: None,
            fabric: "software".into(),
        }
    }

    fn detached(status: Option<Text>) -> What {
        What::Detached {
            worker: 1,
            pid: 1,
            role: "worker".into(),
            status,
            words: String::new(),
        }
    }

    #[test]
    fn keeps_the_last_events_with_their_numbers() {
        let mut ring = Rings::default();
        assert_eq!(ring.after(0), []);
        let all = TROUBLES as u64 + 10;
        for times in 1..=all {
            ring.add(limit_met(times));
        }
        let numbers = |after| -> Vec<u64> {
            let events = ring.after(after);
            events.iter().map(|event| event.number).collect()
        };
        assert_eq!(numbers(0).len(), TROUBLES);
        assert_eq!(numbers(0)[0], 11);
        assert_eq!(numbers(all - 2), [all - 1, all]);
        assert!(numbers(all).is_empty());
        // The process asks with a number from an earlier device.
        assert!(numbers(u64::MAX).is_empty());
        assert_eq!(ring.after(all - 1)[0].what, limit_met(all));
    }

    #[test]
    fn connections_and_their_processes_do_not_push_out_what_went_wrong() {
        let mut rings = Rings::default();
        let troubles = [limit_met(1), detached(Some("corrupt".into()))];
        troubles.iter().for_each(|what| rings.add(what.clone()));
        for _ in 0..2500 {
            rings.add(established());
            rings.add(detached(None));
            rings.add(established());
            // The client of a process that smbd had started has gone.
            rings.add(detached(Some("reset".into())));
        }
        rings.add(limit_met(2));
        let events = rings.after(0);
        assert_eq!(events.len(), CONNECTIONS + PROCESSES + 3);
        assert!(events.is_sorted_by_key(|event| event.number));
        assert_eq!(
            [&events[0].what, &events[1].what],
            [&troubles[0], &troubles[1]]
        );
        // The missing numbers are those of the events that are no longer kept.
        assert_eq!((events[1].number, events[2].number), (2, 5907));
        let last: Vec<u64> = rings.after(10_000).iter().map(|it| it.number).collect();
        assert_eq!(last, [10_001, 10_002, 10_003]);
    }

    #[test]
    fn a_device_that_continues_another_one_continues_its_numbering() {
        let mut before = Rings::new(Some(1_700_000_000.125));
        before.add(limit_met(1));
        before.add(established());
        // The state goes through JSON.
        let kept = serde_json::to_vec(&before.keep()).unwrap();
        let mut after = Rings::new(Some(1_700_000_100.5));
        after.adopt(serde_json::from_slice(&kept).unwrap());
        after.add(limit_met(2));
        assert_eq!(after.began(), before.began());
        let events = after.after(2);
        assert_eq!((events.len(), events[0].number), (1, 3));
        assert_eq!(after.after(0).len(), 3);
    }

    #[test]
    fn the_json_is_flat_and_is_read_again() {
        let mut ring = Rings::default();
        ring.add(limit_met(3));
        ring.add(established());
        let events = ring.after(0);
        let json = to_json(Some(1.5), &events).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["events"][0]["event"], "limit_met");
        assert_eq!(value["events"][1]["peer"], "10.0.0.1:9");
        let read: Events = serde_json::from_slice(&json).unwrap();
        assert_eq!(read.start_time_seconds, Some(1.5));
        assert_eq!(read.events[1].number, events[1].number);
        assert_eq!(read.events[1].what, events[1].what);
        // Reading a number with a fraction may change its last digit.
        let change = read.events[1].time_seconds - events[1].time_seconds;
        assert!(
            change.abs() < 1e-6 && events[1].time_seconds > 1.7e9,
            "{change}"
        );
    }
}
