// SPDX-License-Identifier: GPL-2.0-or-later

//! Runs the device: its start, signals, the service manager, and its end.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;
use smbdirect::broker::{Broker, Kept, Settings, StartError, iwarp_config};
use smbdirect::fabric::iwarp::{self, Iwarp};
use smbdirect::fabric::verbs::Verbs;
use smbdirect::fabric::{AnyFabric, FabricKind};
use tracing::{info, warn};

use super::reload::Reload;
use super::store::{self, FdStore};
use super::{FAILED, prepare};

/// Signals to stop within this time count as one: some senders send two at once, as timeout(1) and shells do.
const TOGETHER: Duration = Duration::from_millis(500);

/// How often to check that the broker still runs.
const CHECK: Duration = Duration::from_secs(1);

/// Runs the device until a signal ends it.
///
/// # Errors
///
/// The error says why the device could not start, or how it failed, as a message for people.
pub(crate) fn serve(mut settings: Settings, mut reload: Reload<'_>) -> Result<(), String> {
    // This comes first, before anything else opens a descriptor.
    let passed = store::passed();
    // This comes before any thread is started, and before there is anything that a signal would leave behind: as soon
    // as something is taken out of the store, only this process can pass it on.
    let signals = signals().map_err(|error| format!("signals: {error}"))?;
    let store = FdStore::find().map(Arc::new);
    let mut kept = store::take(store.as_deref(), passed);
    settings.broker.keep_connections = store.is_some();
    prepare::descriptors(&settings.broker);
    prepare::addresses(&mut settings.broker, kept.as_mut())?;
    prepare::unused_devices(&settings.broker);
    prepare::locked_memory(&settings.broker)?;
    prepare::control_directory(&settings.broker)?;
    let metrics_socket = settings.broker.metrics_socket.clone();
    let mut broker = start(settings, kept).map_err(|error| not_started(&error))?;

    let missing = broker
        .status()
        .map_or_else(|_| Vec::new(), |status| status.missing);
    let said = whereabouts(&broker.addresses(), &missing);
    info!("{said}");
    if let Some(address) = broker.metrics_address() {
        info!("metrics at http://{address}/metrics");
    }
    if let Some(path) = metrics_socket {
        let path = path.display();
        info!("metrics at {path}: curl --unix-socket {path} http://localhost/metrics");
    }
    notify(&[NotifyState::Ready, NotifyState::Status(&said)]);
    let stopped = wait_for_stop(&mut broker, &signals, (said, &mut reload));
    let first = stopped
        .as_ref()
        .map_or_else(|_| Instant::now(), |(_, at)| *at);
    notify(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    // Without this thread a second signal has no effect, but the device can still stop gracefully.
    let _ = thread::Builder::new().spawn(move || end_at_second_signal(&signals, first));
    if let (Ok((SIGTERM, _)), Some(store)) = (&stopped, &store) {
        match pass_on(&broker, store) {
            Ok(()) => {
                info!("connections are kept for the next start");
                broker.leave();
                return Ok(());
            }
            Err(why) => {
                warn!("connections end with this stop: {why}");
                store.undo();
                broker.go_on();
            }
        }
    }
    broker.stop();
    broker.wait().map_err(|error| format!("failed: {error}"))?;
    stopped?;
    info!("stopped");
    Ok(())
}

/// Leaves everything that the next start needs in the service manager's descriptor store.
///
/// # Errors
///
/// The error says why that is not possible, as a message for people.
fn pass_on(broker: &Broker, store: &Arc<FdStore>) -> Result<(), String> {
    let state = broker.keep(Arc::<FdStore>::clone(store))?;
    let finished = store.finish(state.as_fd());
    finished.map_err(|error| format!("the descriptor store: {error}"))
}

fn start(settings: Settings, kept: Option<Kept>) -> Result<Broker, StartError> {
    let iwarp = fabric_config(&settings);
    let verbs = smbdirect::broker::verbs_config(&settings.broker);
    Broker::resume(settings.broker, kept, move |kind| {
        let fabric = match kind {
            FabricKind::Software => Iwarp::new(iwarp).map(AnyFabric::from),
            FabricKind::Verbs => Verbs::new(verbs).map(AnyFabric::from),
        };
        fabric.map_err(io::Error::other)
    })
}

/// Returns the configuration of the software fabric.
pub(crate) fn fabric_config(settings: &Settings) -> iwarp::Config {
    iwarp::Config {
        crc: settings.crc,
        ..iwarp_config(&settings.broker)
    }
}

/// Returns a text that says where clients are served, and for which addresses the device waits.
pub(crate) fn whereabouts(listen: &[SocketAddr], missing: &[SocketAddr]) -> String {
    let (missing, here): (Vec<SocketAddr>, Vec<SocketAddr>) =
        listen.iter().partition(|address| missing.contains(address));
    let parts = [("listening on", here), ("waiting for", missing)];
    let parts = parts.iter().filter(|(_, addresses)| !addresses.is_empty());
    let parts = parts.map(|(words, addresses)| {
        let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        format!("{words} {}", addresses.join(", "))
    });
    parts.collect::<Vec<_>>().join("; ")
}

/// A signal, and when it came.
type Signal = (i32, Instant);

/// Returns a channel of signals as they come. It holds only a few. While it is full, others wait, and several of one
/// kind count as one, so that no signal is lost while the configuration is reloaded.
fn signals() -> io::Result<Receiver<Signal>> {
    // SIGUSR1 and SIGUSR2 have no meaning here, but would end the process by default.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2])?;
    let (sender, receiver): (SyncSender<Signal>, _) = mpsc::sync_channel(4);
    let thread = thread::Builder::new().name("signals".to_owned());
    thread.spawn(move || {
        for signal in signals.forever() {
            let _ = sender.send((signal, Instant::now()));
        }
    })?;
    Ok(receiver)
}

/// Waits for a signal to stop. Meanwhile, this function reloads the configuration when it is asked to, and tells the
/// service manager that all is well, and where clients are served, if the text that says where differs from `said`.
/// Returns the signal.
///
/// # Errors
///
/// The broker has ended unexpectedly.
fn wait_for_stop(
    broker: &mut Broker,
    signals: &Receiver<Signal>,
    (mut said, reload): (String, &mut Reload<'_>),
) -> Result<Signal, String> {
    let watchdog = sd_notify::watchdog_enabled().map(|time| time / 2);
    let time = watchdog.map_or(CHECK, |time| time.min(CHECK));
    let mut check_at = Instant::now() + time;
    loop {
        let now = Instant::now();
        // Signals that come one after another must not keep this from happening.
        if check_at <= now {
            check_at = now + time;
            if broker.has_ended() {
                return Err("the broker has ended unexpectedly".to_owned());
            }
            // The broker's status needs an answer from each of its threads, and so shows that all of them run.
            if let Some(Ok(status)) = watchdog.map(|_| broker.status()) {
                notify(&[NotifyState::Watchdog]);
                let now = reload.note(whereabouts(&status.listen, &status.missing));
                if now != said {
                    notify(&[NotifyState::Status(&now)]);
                    said = now;
                }
            }
        }
        match signals.recv_timeout(check_at.saturating_duration_since(now)) {
            Ok((SIGHUP, _)) => said = reload.run(broker),
            Ok((SIGUSR1 | SIGUSR2, _)) => {
                info!("SIGUSR1 and SIGUSR2 have no meaning: smbdirectctl status shows the state")
            }
            Ok(signal) => {
                info!("stopping; a second signal ends at once");
                return Ok(signal);
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err("the signal thread has ended".to_owned());
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn end_at_second_signal(signals: &Receiver<Signal>, first: Instant) {
    while let Ok((signal, at)) = signals.recv() {
        let stops = matches!(signal, SIGTERM | SIGINT);
        if stops && at.saturating_duration_since(first) >= TOGETHER {
            warn!("ended at once by a second signal");
            process::exit(FAILED.into());
        }
    }
}

/// Tells the service manager, if there is one.
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!("cannot tell the service manager: {error}");
    }
}

pub(crate) fn not_started(error: &StartError) -> String {
    let hint = match error {
        StartError::StatusGroup { source, .. } => match source.kind() {
            io::ErrorKind::PermissionDenied => {
                "; the user of smbdirectd has to be a member of it (usermod -aG, and restart smbdirectd), or root"
            }
            _ => "",
        },
        StartError::Control { source, .. } | StartError::StatusSocket { source, .. } => {
            match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "; stop it, or give this one another path with --control"
                }
                io::ErrorKind::PermissionDenied => {
                    "; run as root, or give a path of your own with --control"
                }
                _ => "",
            }
        }
        StartError::MetricsSocket { source, .. } => match source.kind() {
            io::ErrorKind::AddrInUse => "; stop it, or give metrics.socket another path",
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                "; the user of smbdirectd has to be able to make files in the directory: under its unit, that is \
                 /run/smbdirect"
            }
            _ => "",
        },
        _ => "",
    };
    format!("{error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn does_not_claim_to_listen_at_an_address_that_it_waits_for() {
        let [one, other]: [SocketAddr; 2] =
            ["10.0.0.1:5445", "[::]:5445"].map(|address| address.parse().unwrap());
        for (missing, said) in [
            (&[][..], "listening on 10.0.0.1:5445, [::]:5445"),
            (&[one], "listening on [::]:5445; waiting for 10.0.0.1:5445"),
            (&[one, other], "waiting for 10.0.0.1:5445, [::]:5445"),
        ] {
            assert_eq!(whereabouts(&[one, other], missing), said);
        }
    }
}
