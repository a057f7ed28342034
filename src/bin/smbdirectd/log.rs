//! Messages to standard error, where systemd's journal picks them up.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::layer;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What `--log` and `log` of the configuration file mean.
///
/// # Errors
///
/// What is wrong, for people.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(text).map_err(|error| {
        format!(
            "log is \"{text}\" ({error}), and must be a level, such as info, or levels of \
             modules, such as info,smbdirect::broker=debug"
        )
    })
}

/// Begins to log what the filter lets through.
pub(crate) fn start(filter: EnvFilter) {
    // The journal has a time of its own.
    let is_journal = std::env::var_os("JOURNAL_STREAM").is_some_and(|value| !value.is_empty());
    let lines = layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_target(false);
    let registry = tracing_subscriber::registry().with(filter);
    if is_journal {
        registry.with(lines.without_time()).init();
    } else {
        registry.with(lines).init();
    }
}
