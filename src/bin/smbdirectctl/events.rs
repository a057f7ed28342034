// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl events`: shows what has happened lately at the device, and what happens now.

use std::fmt::{self, Display};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use smbdirect::broker::events::{Event, What};
use smbdirect::device::chardev::is_char_device;
use smbdirect::device::{self, DEFAULT_PATH, Status};

use super::status::{Age, Bytes, process};
use super::utc::Utc;
use super::{Failure, TIMEOUT, failed, not_printed, read, unreadable, with_cure};

/// Time between two looks for new events.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct Options {
    /// Keep printing new events until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Print each event as JSON, on a line of its own
    #[arg(long)]
    json: bool,
    /// Path of smbdirectd's control socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

/// The answer of a device. An event that this program does not know stays as it is.
#[derive(Deserialize)]
struct Answer {
    start_time_seconds: Option<f64>,
    events: Vec<Value>,
}

/// How far the events have been read.
struct Position {
    /// The time at which the device started that began to number the events. A restart that keeps connections continues
    /// the numbers; any other device has another time.
    start_time_seconds: Option<f64>,
    /// The number of the last event; 0 before the first.
    last: u64,
}

/// Prints the events that the device still keeps, and, with `--follow`, those that come later.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut position = None;
    let mut is_waiting = false;
    loop {
        let ask = |after| ask(&options.control, after);
        let found = match look(ask, &mut position) {
            Ok(found) => found,
            Err(Silent::Gone(_)) if options.follow && position.is_some() => {
                if !is_waiting {
                    let control = options.control.display();
                    eprintln!(
                        "smbdirectctl: {control}: the device does not answer; waiting for it"
                    );
                }
                is_waiting = true;
                thread::sleep(PAUSE);
                continue;
            }
            Err(Silent::Gone(failure) | Silent::Failed(failure)) => {
                return failed(&options.control, &failure);
            }
            Err(Silent::Unreadable(error)) => return unreadable(&options.control, &error),
        };
        is_waiting = false;
        if found.is_anew {
            eprintln!(
                "smbdirectctl: smbdirectd was restarted, and numbers its events anew: the last events of the earlier \
                 one may be missing here, and are in its log (journalctl -u smbdirectd)"
            );
        }
        let lost = found.lost;
        if lost > 0 {
            eprintln!("smbdirectctl: {lost} events came too fast to be read, and are lost");
        }
        let lines = found.events.into_iter().map(|event| match options.json {
            true => format!("{event}\n"),
            false => line(event),
        });
        let text: String = lines.collect();
        let printed = io::stdout().write_all(text.as_bytes());
        if let Err(error) = printed {
            return not_printed(&error);
        }
        if !options.follow {
            return ExitCode::SUCCESS;
        }
        thread::sleep(PAUSE);
    }
}

/// Why there are no events.
enum Silent {
    /// There is no device, or it is ending or too busy.
    Gone(Failure),
    /// Asking again would not help.
    Failed(Failure),
    /// The answer does not have the form that this program knows.
    Unreadable(serde_json::Error),
}

/// What a look for new events has found.
struct Found {
    /// The new events.
    events: Vec<Value>,
    /// How many others were lost.
    lost: u64,
    /// Whether they are from another device than at the last look, so that the last events of the earlier device may
    /// not have been read.
    is_anew: bool,
}

/// Looks for new events. `ask` asks for the events after the one whose number it is given.
fn look(
    ask: impl Fn(u64) -> Result<Answer, Silent>,
    position: &mut Option<Position>,
) -> Result<Found, Silent> {
    let before = position.as_ref();
    let mut answer = ask(before.map_or(0, |before| before.last))?;
    // What happened before this program looked for the first time is not missed.
    let mut read_until = before.map(|before| before.last);
    let is_anew =
        before.is_some_and(|before| before.start_time_seconds != answer.start_time_seconds);
    if is_anew {
        // The answer is from another device, which numbers its events anew.
        answer = ask(0)?;
        read_until = Some(0);
    }
    let newest = answer.events.last().and_then(|it| it["number"].as_u64());
    let lost = match (read_until, newest) {
        (Some(until), Some(newest)) => {
            let read = answer.events.len() as u64;
            newest.saturating_sub(until).saturating_sub(read)
        }
        _ => 0,
    };
    *position = Some(Position {
        start_time_seconds: answer.start_time_seconds,
        last: newest.or(read_until).unwrap_or_default(),
    });
    Ok(Found {
        events: answer.events,
        lost,
        is_anew,
    })
}

/// Asks for the events after the one with this number.
fn ask(control: &Path, after: u64) -> Result<Answer, Silent> {
    if is_char_device(control) {
        let message = "the kernel's device does not keep events; they are in the kernel's log (journalctl -k -g smbdirect)";
        return Err(Silent::Failed((Status::Invalid, message.to_owned())));
    }
    let json = device::observe_events(control, after, TIMEOUT);
    let json = json.map_err(|error| match error.status {
        Status::Corrupt => {
            let message = "this smbdirectd is older than this program, and does not keep events: restart it after the upgrade";
            Silent::Failed((Status::Corrupt, message.to_owned()))
        }
        Status::Denied | Status::Untrusted | Status::Version => {
            Silent::Failed(with_cure(control, error))
        }
        _ => Silent::Gone(with_cure(control, error)),
    })?;
    read(&json).map_err(Silent::Unreadable)
}

/// Returns the line that shows an event to people.
fn line(event: Value) -> String {
    match Event::deserialize(&event) {
        Ok(event) => {
            let time = Utc(event.time_seconds);
            format!("{time}  {}\n", Words(&event.what))
        }
        // The event is from a later version.
        Err(_) => format!("{event}\n"),
    }
}

/// An event in words.
struct Words<'a>(&'a What);

impl Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            What::Established {
                peer,
                local,
                fabric,
            } => {
                write!(f, "established  {peer}")?;
                if let Some(local) = local {
                    write!(f, " at {local}")?;
                }
                write!(f, ", {fabric}")
            }
            What::Assigned { peer, worker, pid } => {
                write!(
                    f,
                    "assigned     {peer} to process {}",
                    process(*pid, *worker)
                )
            }
            What::Ended {
                peer,
                reason,
                words,
                age_seconds,
                bytes_received,
                bytes_sent,
                ..
            } => {
                let (received, sent) = (Bytes(*bytes_received), Bytes(*bytes_sent));
                let age = Age(*age_seconds);
                write!(
                    f,
                    "ended        {peer} after {age}, {received} received, {sent} sent: {words} ({reason})"
                )
            }
            What::Attached { worker, pid, role } => {
                write!(f, "attached     process {}, {role}", process(*pid, *worker))
            }
            What::Detached {
                worker,
                pid,
                role,
                status,
                words,
            } => {
                let process = process(*pid, *worker);
                write!(f, "detached     process {process}, {role}: {words}")?;
                match status {
                    Some(status) => write!(f, " ({status})"),
                    None => Ok(()),
                }
            }
            What::Refused { pid, status, words } => {
                f.write_str("refused      ")?;
                match pid {
                    Some(pid) => write!(f, "process {pid}")?,
                    None => f.write_str("a process")?,
                }
                write!(f, ": {words} ({status})")
            }
            What::LimitMet {
                key,
                limit,
                times,
                words,
            } => {
                let times = match times {
                    1 => "once".to_owned(),
                    times => format!("{times} times"),
                };
                write!(f, "limit_met    {key} = {limit}, {times}: {words}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines() {
        let at = |event: Value| {
            let mut event = event;
            event["number"] = 1.into();
            event["time_seconds"] = 0.25.into();
            line(event)
        };
        for (event, words) in [
            (
                serde_json::json!({"event": "established", "peer": "10.0.0.5:1", "local": "10.0.0.1:5445",
                                   "fabric": "software"}),
                "established  10.0.0.5:1 at 10.0.0.1:5445, software",
            ),
            (
                serde_json::json!({"event": "assigned", "peer": "10.0.0.5:1", "worker": 3, "pid": 0}),
                "assigned     10.0.0.5:1 to process #3",
            ),
            (
                serde_json::json!({"event": "ended", "peer": "10.0.0.5:1", "local": null, "fabric": "software",
                                   "worker": 3, "pid": 100, "reason": "peer", "words": "closed by the peer",
                                   "age_seconds": 60.0, "bytes_received": 2048, "bytes_sent": 0}),
                "ended        10.0.0.5:1 after 60 s, 2.0 KiB received, 0 B sent: closed by the peer (peer)",
            ),
            (
                serde_json::json!({"event": "attached", "worker": 3, "pid": 100, "role": "worker"}),
                "attached     process 100, worker",
            ),
            (
                serde_json::json!({"event": "detached", "worker": 3, "pid": 100, "role": "worker", "status": "corrupt",
                                   "words": "it is wrong"}),
                "detached     process 100, worker: it is wrong (corrupt)",
            ),
            (
                serde_json::json!({"event": "refused", "pid": null, "status": "denied", "words": "not you"}),
                "refused      a process: not you (denied)",
            ),
            (
                serde_json::json!({"event": "limit_met", "key": "max_connections", "limit": 5, "times": 2,
                                   "words": "the oldest was ended"}),
                "limit_met    max_connections = 5, 2 times: the oldest was ended",
            ),
        ] {
            assert_eq!(at(event), format!("1970-01-01T00:00:00.250Z  {words}\n"));
        }
        let later = at(serde_json::json!({"event": "of a later version"}));
        assert!(later.starts_with('{') && later.ends_with("}\n"), "{later}");
    }

    #[test]
    fn an_event_is_one_line_and_does_not_control_the_terminal() {
        let json = r#"{"number": 1, "time_seconds": 0.0, "event": "refused", "pid": null, "status": "denied",
                       "words": "a\u001b[2Jb\nc"}"#;
        let shown = line(read(json).unwrap());
        assert!(shown.ends_with(": a?[2Jb?c (denied)\n"), "{shown:?}");
    }

    /// Looks at a device that was started at this time, and that keeps the events with these numbers.
    fn found(position: &mut Option<Position>, start: f64, kept: &[u64]) -> Found {
        let ask = |after: u64| {
            let newer = kept.iter().filter(|number| **number > after);
            let events = newer.map(|number| serde_json::json!({"number": number}));
            Ok(Answer {
                start_time_seconds: Some(start),
                events: events.collect(),
            })
        };
        let Ok(found) = look(ask, position) else {
            panic!("the device answers");
        };
        found
    }

    /// Looks as [`found`] does, and returns how many events are lost.
    fn lost(position: &mut Option<Position>, start: f64, kept: &[u64]) -> u64 {
        found(position, start, kept).lost
    }

    #[test]
    fn knows_when_another_device_begins_anew() {
        let mut position = None;
        for (start, is_anew) in [(1.0, false), (1.0, false), (2.0, true), (2.0, false)] {
            let found = found(&mut position, start, &[1, 2]);
            assert_eq!(found.is_anew, is_anew, "the device of {start}");
        }
        // The events of the other device are shown from its first one on.
        assert_eq!(found(&mut position, 3.0, &[1, 2]).events.len(), 2);
    }

    #[test]
    fn knows_how_many_events_it_has_missed() {
        let mut position = None;
        assert_eq!(lost(&mut position, 1.0, &[5, 6]), 0, "the first look");
        assert_eq!(lost(&mut position, 1.0, &[5, 6, 7]), 0);
        assert_eq!(lost(&mut position, 1.0, &[10, 11]), 2);
        assert_eq!(lost(&mut position, 1.0, &[10, 11]), 0, "nothing new");
        // Another device counts anew, and its first three events are lost.
        assert_eq!(lost(&mut position, 2.0, &[4, 5]), 3);
        assert_eq!(lost(&mut position, 2.0, &[6]), 0);
        assert_eq!(lost(&mut position, 3.0, &[]), 0);
        assert_eq!(
            lost(&mut position, 3.0, &[5]),
            4,
            "after a look that found none"
        );
        position = None;
        assert_eq!(lost(&mut position, 1.0, &[]), 0);
        assert_eq!(lost(&mut position, 1.0, &[5, 6]), 4);
    }
}
