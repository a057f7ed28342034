// SPDX-License-Identifier: GPL-2.0-or-later

//! What the user of `top` has chosen to see, and how keys change that.

use clap::ValueEnum;

use super::keys::Key;

/// What a row of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Connections,
    Clients,
    Users,
}

/// By what the rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Sort {
    /// Bytes in both directions
    Traffic,
    /// Bytes from the client
    In,
    /// Bytes to the client
    Out,
    /// Age of the connection
    Age,
    /// Address of the client, or name of the user
    Name,
}

impl Sort {
    const fn next(self) -> Self {
        match self {
            Self::Traffic => Self::In,
            Self::In => Self::Out,
            Self::Out => Self::Age,
            Self::Age => Self::Name,
            Self::Name => Self::Traffic,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Traffic => "traffic",
            Self::In => "in",
            Self::Out => "out",
            Self::Age => "age",
            Self::Name => "name",
        }
    }
}

/// What is to be done after a key, besides changing the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Draw the screen again.
    Draw,
    /// Ask the device at once.
    Look,
    Quit,
    /// Suspend the program, as Ctrl-Z does in shells.
    Suspend,
}

/// What is to be seen.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) group: Group,
    pub(super) sort: Sort,
    /// Whether connections have the names of their users, which takes a run of smbstatus.
    pub(super) has_users: bool,
    pub(super) is_paused: bool,
    pub(super) has_help: bool,
    /// Number of rows above the first that is shown.
    pub(super) first: usize,
    /// Number of rows of the table that the screen has room for.
    page: usize,
    /// Number of rows of the table.
    rows: usize,
}

impl View {
    pub(super) const fn new(sort: Sort, has_users: bool) -> Self {
        Self {
            group: Group::Connections,
            sort,
            has_users,
            is_paused: false,
            has_help: false,
            first: 0,
            page: 0,
            rows: 0,
        }
    }

    /// Notes how many rows there are, and how many of them the screen has room for. Scrolls back if it is beyond the
    /// last.
    pub(super) fn fit(&mut self, rows: usize, page: usize) {
        (self.rows, self.page) = (rows, page);
        self.first = self.first.min(self.last());
    }

    /// Returns the first row to show if the last one is to be seen.
    const fn last(&self) -> usize {
        self.rows.saturating_sub(self.page)
    }

    /// Handles a key.
    pub(super) fn handle_key(&mut self, key: Key) -> Action {
        let down = self.first.saturating_add(self.page.max(1));
        let up = self.first.saturating_sub(self.page.max(1));
        match key {
            Key::Char('q') | Key::Ctrl('c') => return Action::Quit,
            Key::Ctrl('z') => return Action::Suspend,
            Key::Char('h' | '?') => self.has_help = !self.has_help,
            Key::Escape => self.has_help = false,
            Key::Char('s') => self.sort = self.sort.next(),
            Key::Char('p') => {
                self.is_paused = !self.is_paused;
                return Action::Look;
            }
            Key::Char('c') => self.toggle(Group::Clients),
            Key::Char('u') => {
                self.toggle(Group::Users);
                self.has_users = true;
                return Action::Look;
            }
            Key::Up | Key::Char('k') => self.scroll_to(self.first.saturating_sub(1)),
            Key::Down | Key::Char('j') => self.scroll_to(self.first.saturating_add(1)),
            Key::PageUp => self.scroll_to(up),
            Key::PageDown => self.scroll_to(down),
            Key::Home => self.scroll_to(0),
            Key::End => self.scroll_to(usize::MAX),
            Key::Char(_) | Key::Ctrl(_) | Key::Other => {}
        }
        Action::Draw
    }

    fn scroll_to(&mut self, row: usize) {
        self.first = row.min(self.last());
    }

    /// Shows groups of this kind, or, if they are shown, connections.
    fn toggle(&mut self, group: Group) {
        self.group = if self.group == group {
            Group::Connections
        } else {
            group
        };
        self.first = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        let mut view = View::new(Sort::Traffic, false);
        view.fit(25, 10);
        view
    }

    #[test]
    fn keys_scroll_within_the_table() {
        let mut view = view();
        for (key, first) in [
            (Key::Up, 0),
            (Key::Down, 1),
            (Key::PageDown, 11),
            (Key::PageDown, 15),
            (Key::Down, 15),
            (Key::Up, 14),
            (Key::PageUp, 4),
            (Key::PageUp, 0),
            (Key::End, 15),
            (Key::Home, 0),
            (Key::Char('j'), 1),
            (Key::Char('k'), 0),
        ] {
            assert_eq!(view.handle_key(key), Action::Draw);
            assert_eq!(view.first, first, "{key:?}");
        }
        view.handle_key(Key::End);
        view.fit(12, 10);
        assert_eq!(view.first, 2, "most rows have gone");
        view.fit(12, 40);
        assert_eq!(view.first, 0, "the window has become larger");
        view.fit(0, 0);
        view.handle_key(Key::PageDown);
        assert_eq!(view.first, 0);
    }

    #[test]
    fn keys_change_groups_and_order() {
        let mut view = view();
        view.handle_key(Key::Down);
        view.handle_key(Key::Char('c'));
        assert_eq!((view.group, view.first), (Group::Clients, 0));
        assert!(!view.has_users, "smbstatus is not run without need");
        assert_eq!(view.handle_key(Key::Char('u')), Action::Look);
        assert_eq!(view.group, Group::Users);
        assert!(view.has_users);
        view.handle_key(Key::Char('u'));
        assert_eq!(view.group, Group::Connections);
        let mut orders = vec![view.sort];
        while view.handle_key(Key::Char('s')) == Action::Draw && view.sort != Sort::Traffic {
            orders.push(view.sort);
        }
        assert_eq!(orders, Sort::value_variants());
    }

    #[test]
    fn keys_pause_help_and_end() {
        let mut view = view();
        assert_eq!(view.handle_key(Key::Char('p')), Action::Look);
        assert!(view.is_paused);
        view.handle_key(Key::Char('p'));
        assert!(!view.is_paused);
        for key in [Key::Char('h'), Key::Char('?')] {
            view.handle_key(key);
            assert!(view.has_help);
            view.handle_key(Key::Escape);
            assert!(!view.has_help);
        }
        for key in [Key::Char('q'), Key::Ctrl('c')] {
            assert_eq!(view.handle_key(key), Action::Quit);
        }
        assert_eq!(view.handle_key(Key::Ctrl('z')), Action::Suspend);
        assert_eq!(view.handle_key(Key::Other), Action::Draw);
    }
}
