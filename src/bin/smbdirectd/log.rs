// SPDX-License-Identifier: GPL-2.0-or-later

//! Writes messages to standard error, for people, for programs, or for systemd's journal.

use std::fmt;
use std::io::{self, IsTerminal};

use rustix::fs::fstat;
use smbdirect::broker::{LogFormat, log_filter};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, layer};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::Layer as Reloadable;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

/// Returns the filter for the text of `--log`, or of `log` in the configuration file.
///
/// # Errors
///
/// The error says what is wrong, as a message for people.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    let wrong = |allowed: &str| format!("log is \"{text}\", and must be {allowed}");
    let words = log_filter(text).map_err(|allowed| wrong(&allowed))?;
    EnvFilter::try_new(words).map_err(|error| wrong(&format!("a filter ({error})")))
}

/// What the filter lets through.
type Filtered = Layered<Reloadable<EnvFilter, Registry>, Registry>;
/// Writes the lines.
type Lines = Box<dyn Layer<Filtered> + Send + Sync>;

/// Changes the filter and the format of the log.
pub(crate) type Change = Box<dyn Fn(EnvFilter, LogFormat)>;

/// Begins to log the messages that the filter lets through. Returns the function that changes that.
pub(crate) fn start(filter: EnvFilter, format: LogFormat) -> Change {
    let (filter, of_filter) = Reloadable::new(filter);
    let (written, of_written) = Reloadable::new(lines(format));
    tracing_subscriber::registry()
        .with(filter)
        .with(written)
        .init();
    Box::new(move |filter, format| {
        // This fails only if a thread has panicked while it changed the log.
        let _ = of_filter.reload(filter);
        let _ = of_written.reload(lines(format));
    })
}

fn lines(format: LogFormat) -> Lines {
    let is_journal = is_journal();
    match format {
        LogFormat::Json => {
            let lines = layer().with_writer(io::stderr).json().flatten_event(true);
            let prioritized = |inner| Prioritized { inner, is_journal };
            lines.map_event_format(prioritized).boxed()
        }
        LogFormat::Text => {
            let lines = layer()
                .with_writer(io::stderr)
                .with_ansi(has_colors())
                .with_target(false);
            if is_journal {
                // The journal adds its own time.
                let lines = lines.without_time();
                let prioritized = |inner| Prioritized { inner, is_journal };
                lines.map_event_format(prioritized).boxed()
            } else {
                lines.boxed()
            }
        }
    }
}

/// Returns whether standard error goes to systemd's journal: `JOURNAL_STREAM` names the stream that the service was
/// given, and its standard error may have been redirected since.
pub(crate) fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let own = fstat(io::stderr()).map(|own| format!("{}:{}", own.st_dev, own.st_ino));
    own.is_ok_and(|own| own == stream)
}

/// Returns whether to use colors: only on terminals, and not for users who do not want any (no-color.org).
fn has_colors() -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stderr().is_terminal() && !unwanted
}

/// Puts the priority in front of each line, in the journal's form (sd-daemon(3)), if the lines go to the journal.
struct Prioritized<F> {
    inner: F,
    is_journal: bool,
}

impl<S, N, F> FormatEvent<S, N> for Prioritized<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.is_journal {
            writer.write_str(priority(*event.metadata().level()))?;
        }
        self.inner.format_event(context, writer, event)
    }
}

const fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}
