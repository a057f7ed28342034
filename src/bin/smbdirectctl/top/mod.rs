// SPDX-License-Identifier: GPL-2.0-or-later

//! `smbdirectctl top`: shows the current traffic on the whole screen. See smbdirectctl(8).
//!
//! A thread asks the device, so that keys work even while the device does not answer. Its answers go into the
//! [scene](Scene), keys change the [view](View), and [draw] makes a screen from both. Only this file and
//! [terminal] touch the terminal.

mod keys;
mod scene;
mod screen;
mod terminal;
mod view;

use std::env;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::{flag, low_level::pipe};
use smbdirect::device::DEFAULT_PATH;

use self::scene::Scene;
use self::screen::draw;
use self::terminal::Terminal;
use self::view::{Action, Sort, View};
use super::status::Device;
use super::users::{self, Sessions};
use super::{FAILED, Failure, ask, failed, parse_interval, read, unreadable};

/// Time between the first two reports of the device: rates need two reports, so the second comes soon.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// How long the sessions that smbstatus reported are used before it is asked again.
const KNOWN: Duration = Duration::from_secs(5);
/// How long the rest of a key may take if the terminal sends the key as several bytes.
const REST_OF_KEY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Update the screen every SECONDS
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_interval)]
    interval: Duration,
    /// Sort by this column first; the key s changes it
    #[arg(
        long,
        value_name = "COLUMN",
        default_value = "traffic",
        hide_possible_values = true
    )]
    sort: Sort,
    /// Show the users of the connections, as smbstatus reports them (only as root)
    #[arg(long)]
    users: bool,
    /// Path of smbdirectd's control socket, or of the kernel's device, /dev/smbdirect
    #[arg(long, value_name = "PATH", default_value = DEFAULT_PATH)]
    control: PathBuf,
}

/// Runs `smbdirectctl top`.
pub(crate) fn run(options: &Options) -> ExitCode {
    let is_screen = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !is_screen || env::var_os("TERM").is_some_and(|name| name == "dumb") {
        eprintln!(
            "smbdirectctl: top needs a terminal with a whole screen; elsewhere use smbdirectctl status --watch"
        );
        return FAILED.into();
    }
    let json = match ask(&options.control) {
        Ok(json) => json,
        Err(failure) => return failed(&options.control, &failure),
    };
    let device: Device = match read(&json) {
        Ok(device) => device,
        Err(error) => return unreadable(&options.control, &error),
    };
    match show(options, device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("smbdirectctl: top: {error}");
            FAILED.into()
        }
    }
}

/// How the device is asked.
struct Source {
    control: PathBuf,
    interval: Duration,
    /// Whether smbstatus is to be asked for the users.
    wants_users: AtomicBool,
}

/// Shows the device until a key or a signal ends the program.
fn show(options: &Options, device: Device) -> io::Result<()> {
    let (mut bell, ringer) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    ringer.set_nonblocking(true)?;
    let is_ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        flag::register(signal, Arc::clone(&is_ending))?;
    }
    let goes_on = Arc::new(AtomicBool::new(false));
    flag::register(SIGCONT, Arc::clone(&goes_on))?;
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGWINCH, SIGCONT] {
        pipe::register(signal, ringer.try_clone()?)?;
    }
    let source = Arc::new(Source {
        control: options.control.clone(),
        interval: options.interval,
        wants_users: AtomicBool::new(options.users),
    });
    let (answers, answered) = channel();
    let (hurry, hurried) = channel();
    let asked = Arc::clone(&source);
    let thread = thread::Builder::new().name("device".to_owned());
    thread.spawn(move || look(&asked, &answers, &hurried, &ringer))?;

    let mut scene = Scene::new(device);
    let mut view = View::new(options.sort, options.users);
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let has_colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let open = || Terminal::open(stdin.as_fd(), stdout.as_fd(), has_colours);
    let mut terminal = open()?;
    let mut typed = Vec::new();
    loop {
        if goes_on.swap(false, Ordering::Relaxed) {
            terminal.take()?;
        }
        let size = terminal.size();
        let screen = draw(&scene, &view, size);
        view.fit(screen.rows, screen.page);
        terminal.show(&screen.lines, size)?;

        let mut ready = [
            PollFd::new(&stdin, PollFlags::IN),
            PollFd::new(&bell, PollFlags::IN),
        ];
        let limit = (!typed.is_empty()).then_some(&REST_OF_KEY);
        let is_late = match poll(&mut ready, limit) {
            Ok(count) => count == 0,
            Err(Errno::INTR) => false,
            Err(error) => return Err(error.into()),
        };
        let has_input = !ready[0].revents().is_empty();
        // The bytes only wake this thread; their number does not matter.
        while matches!(bell.read(&mut [0; 64]), Ok(1..)) {}
        if is_ending.load(Ordering::Relaxed) {
            return Ok(());
        }
        collect(&answered, &mut scene, &view)?;
        if has_input {
            let mut buffer = [0; 256];
            match rustix::io::read(&stdin, &mut buffer) {
                // The terminal has gone.
                Ok(0) | Err(Errno::IO) => return Ok(()),
                Ok(length) => typed.extend(buffer.iter().take(length)),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for key in keys::take(&mut typed, is_late) {
            match view.handle_key(key) {
                Action::Draw => {}
                Action::Look => {
                    source.wants_users.store(view.has_users, Ordering::Relaxed);
                    // The other thread has ended only if it has panicked, which `collect` notices.
                    let _ = hurry.send(());
                }
                Action::Quit => return Ok(()),
                Action::Suspend => {
                    drop(terminal);
                    kill_process(getpid(), Signal::TSTP)?;
                    // What opens the terminal now need not be done once more.
                    goes_on.store(false, Ordering::Relaxed);
                    terminal = open()?;
                }
            }
        }
    }
}

/// Adds the answers of the device to the scene.
fn collect(
    answered: &Receiver<Result<Device, String>>,
    scene: &mut Scene,
    view: &View,
) -> io::Result<()> {
    loop {
        match answered.try_recv() {
            // The next report shows the mean of the whole pause.
            Ok(_) if view.is_paused => {}
            Ok(answer) => scene.add(answer),
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => {
                return Err(io::Error::other(
                    "the thread that asks the device has ended",
                ));
            }
        }
    }
}

/// Asks the device again and again, until the other thread has gone.
fn look(
    source: &Source,
    answers: &Sender<Result<Device, String>>,
    hurried: &Receiver<()>,
    mut ringer: &UnixStream,
) {
    let mut pause = source.interval.min(SECOND_LOOK);
    let mut sessions = None;
    while let Ok(()) | Err(RecvTimeoutError::Timeout) = hurried.recv_timeout(pause) {
        let began = Instant::now();
        // One look is enough for all keys that have been pressed.
        while hurried.try_recv().is_ok() {}
        let mut answer = ask_device(source);
        if let Ok(device) = &mut answer {
            if source.wants_users.load(Ordering::Relaxed) {
                users::name(device, known(&mut sessions, device));
            }
        }
        if answers.send(answer).is_err() {
            return;
        }
        // If the stream is full, there is enough in it to wake the other thread.
        let _ = ringer.write(&[1]);
        pause = source.interval.saturating_sub(began.elapsed());
    }
}

fn ask_device(source: &Source) -> Result<Device, String> {
    let json = ask(&source.control).map_err(|(_, message): Failure| message)?;
    read(&json).map_err(|error| format!("cannot parse its status: {error}"))
}

/// What smbstatus said, and when.
type Known = (Instant, Result<Sessions, String>);

/// Returns the sessions that smbstatus reports, or reported a short time ago.
fn known<'a>(known: &'a mut Option<Known>, device: &Device) -> &'a Result<Sessions, String> {
    let fresh = known.take().filter(|(when, _)| when.elapsed() < KNOWN);
    let fresh = fresh.unwrap_or_else(|| {
        // The time counts from the answer: a slow smbstatus must not run without a pause.
        let sessions = users::ask(device);
        (Instant::now(), sessions)
    });
    &known.insert(fresh).1
}
