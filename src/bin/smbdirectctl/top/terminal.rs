// SPDX-License-Identifier: GPL-2.0-or-later

//! The terminal as a whole screen, without echo and line editing. However the program ends, the terminal is restored.
//!
//! This needs only the calls of termios and a few control sequences (ECMA-48, and xterm's private modes 7, 25 and
//! 1049), which every terminal of the last decades supports. Libraries for terminals would bring second versions of
//! rustix, signal-hook and strum, and the product must not have two versions of a crate
//! (`tests/repository/duplicates.rs`).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::screen::{Line, Size, Style};

/// Switches to the alternate screen, hides the cursor, and cuts lines at the right edge.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
/// Undoes [`ENTER`].
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
/// The size of a terminal that does not know its own.
const USUAL: Size = Size {
    rows: 24,
    columns: 80,
};

/// What is needed to restore the terminal.
struct Saved {
    input: OwnedFd,
    output: File,
    modes: Termios,
}

/// The terminal to restore. It is here so that a panic restores it before the message of the panic is printed.
static SAVED: Mutex<Option<Saved>> = Mutex::new(None);

fn saved() -> MutexGuard<'static, Option<Saved>> {
    SAVED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Restores the terminal, unless that has been done already.
fn restore() {
    let Some(mut saved) = saved().take() else {
        return;
    };
    // Nothing can be done about a terminal that has gone.
    let _ = saved.output.write_all(LEAVE.as_bytes());
    let _ = tcsetattr(&saved.input, OptionalActions::Flush, &saved.modes);
}

/// The terminal, which is restored when this is dropped, and at a panic.
#[derive(Debug)]
pub(super) struct Terminal {
    output: File,
    has_colours: bool,
}

impl Terminal {
    /// Takes over the terminal. Only one of these exists at a time.
    pub(super) fn open(
        input: BorrowedFd<'_>,
        output: BorrowedFd<'_>,
        has_colours: bool,
    ) -> io::Result<Self> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = panic::take_hook();
            panic::set_hook(Box::new(move |info| {
                restore();
                next(info);
            }));
        });
        let modes = tcgetattr(input)?;
        let output = File::from(output.try_clone_to_owned()?);
        *saved() = Some(Saved {
            input: input.try_clone_to_owned()?,
            output: output.try_clone()?,
            modes,
        });
        // From here on, dropping it restores the terminal.
        let mut terminal = Self {
            output,
            has_colours,
        };
        terminal.take()?;
        Ok(terminal)
    }

    /// Takes over the terminal again after this program was stopped without a chance to restore it (SIGSTOP): a shell
    /// that had the terminal meanwhile has set its own modes.
    pub(super) fn take(&mut self) -> io::Result<()> {
        if let Some(saved) = &*saved() {
            let mut raw = saved.modes.clone();
            raw.make_raw();
            tcsetattr(&saved.input, OptionalActions::Flush, &raw)?;
        }
        self.output.write_all(ENTER.as_bytes())
    }

    /// Returns the terminal's size at this moment.
    pub(super) fn size(&self) -> Size {
        match tcgetwinsize(self.output.as_fd()) {
            Ok(size) if size.ws_row > 0 && size.ws_col > 0 => Size {
                rows: size.ws_row.into(),
                columns: size.ws_col.into(),
            },
            _ => USUAL,
        }
    }

    /// Shows these lines, and nothing else.
    pub(super) fn show(&mut self, lines: &[Line], size: Size) -> io::Result<()> {
        let text = paint(lines, size, self.has_colours);
        self.output.write_all(text.as_bytes())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Returns what to send to a terminal, so that it shows these lines.
fn paint(lines: &[Line], size: Size, has_colours: bool) -> String {
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate().take(size.rows) {
        let style = match (line.style, has_colours) {
            (Style::Plain, _) | (Style::Limited, false) => "",
            (Style::Bold, _) | (Style::Warning, false) => "\x1b[1m",
            (Style::Bar, _) => "\x1b[7m",
            (Style::Warning, true) => "\x1b[1;31m",
            (Style::Limited, true) => "\x1b[33m",
        };
        text += &format!("\x1b[{};1H{style}{}\x1b[0m", number + 1, line.text);
        // After a line of full length, the cursor is still on its last character, which this would erase.
        if line.text.chars().count() < size.columns {
            text += "\x1b[K";
        }
    }
    if lines.len() < size.rows {
        text += &format!("\x1b[{};1H\x1b[J", lines.len() + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::{LocalModes, Winsize, tcsetwinsize};

    use super::*;

    fn is_raw(terminal: &OwnedFd) -> bool {
        let modes = tcgetattr(terminal).unwrap().local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Reads what has been sent to the terminal, up to `end`.
    fn read_until(master: &mut File, end: &str) -> String {
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with(end) {
            master.read_exact(&mut byte).unwrap();
            text.push(char::from(byte[0]));
        }
        text
    }

    /// This is one test, because there is one terminal to restore.
    #[test]
    fn the_terminal_is_restored_at_the_end_and_at_a_panic() {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        unlockpt(&master).unwrap();
        let terminal = ioctl_tiocgptpeer(&master, flags).unwrap();
        let mut master = File::from(master);
        let size = Winsize {
            ws_row: 5,
            ws_col: 20,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&terminal, size).unwrap();
        assert!(!is_raw(&terminal));

        let mut opened = Terminal::open(terminal.as_fd(), terminal.as_fd(), false).unwrap();
        assert!(is_raw(&terminal));
        assert_eq!(read_until(&mut master, ENTER), ENTER);
        let size = opened.size();
        assert_eq!(
            size,
            Size {
                rows: 5,
                columns: 20
            }
        );
        let line = |text: &str, style| Line {
            text: text.to_owned(),
            style,
        };
        opened.show(&[line("shown", Style::Plain)], size).unwrap();
        assert!(read_until(&mut master, "\x1b[J").contains("shown"));
        drop(opened);
        assert!(!is_raw(&terminal));
        assert_eq!(read_until(&mut master, LEAVE), LEAVE);

        let result = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let _opened = Terminal::open(terminal.as_fd(), terminal.as_fd(), false).unwrap();
                assert!(is_raw(&terminal));
                panic!("on purpose");
            });
            thread.join()
        });
        assert!(result.is_err());
        assert!(!is_raw(&terminal));
        let text = read_until(&mut master, LEAVE);
        assert_eq!(text, format!("{ENTER}{LEAVE}"));
    }

    #[test]
    fn without_colours_only_bold_and_reverse_are_used() {
        let size = Size {
            rows: 9,
            columns: 7,
        };
        let styles = [
            Style::Plain,
            Style::Bold,
            Style::Bar,
            Style::Warning,
            Style::Limited,
        ];
        let lines = styles.map(|style| Line {
            text: "abc".to_owned(),
            style,
        });
        let plain = paint(&lines, size, false);
        for colour in 30..=37 {
            assert!(!plain.contains(&format!("{colour}m")), "{plain:?}");
        }
        assert!(plain.contains("\x1b[7mabc") && plain.contains("\x1b[1mabc"));
        let colours = paint(&lines, size, true);
        assert!(colours.contains("\x1b[1;31mabc") && colours.contains("\x1b[33mabc"));
    }

    #[test]
    fn a_line_replaces_the_one_before_without_touching_others() {
        let size = Size {
            rows: 2,
            columns: 3,
        };
        let lines = ["ab", "abc", "beyond"].map(|text| Line {
            text: text.to_owned(),
            style: Style::Plain,
        });
        assert_eq!(
            paint(&lines, size, true),
            "\x1b[1;1Hab\x1b[0m\x1b[K\x1b[2;1Habc\x1b[0m"
        );
        assert_eq!(
            paint(&lines[..1], size, true),
            "\x1b[1;1Hab\x1b[0m\x1b[K\x1b[2;1H\x1b[J"
        );
    }
}
