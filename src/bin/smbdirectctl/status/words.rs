// SPDX-License-Identifier: GPL-2.0-or-later

//! The words for a connection in tables, and the number of columns that they need.

use super::{Connection, process};

impl Connection {
    /// Returns the connection's state and its marks: `*` if nobody has logged in on the connection and the state does
    /// not imply that; otherwise letters that say how file data is protected, or `?` if a client has logged in and smbd
    /// has not said how. If the session does not demand that data is encrypted, but a share or the client does it, that
    /// is the mark, even if the other data is signed.
    pub(crate) fn state(&self) -> String {
        let is_marked =
            self.authenticated == Some(false) && matches!(self.state.as_str(), "owned" | "ending");
        let marks = match self.protection.as_deref() {
            _ if is_marked => "*",
            Some("encrypted") => " E",
            Some("encrypted in messages") => " Em",
            _ if self.is_encrypted_in_messages() => " em",
            _ if !self.encrypted_by.is_empty() => " e",
            Some("signed") => " S",
            Some("signed in messages") => " Sm",
            None if self.authenticated == Some(true) => " ?",
            _ => "",
        };
        format!("{}{marks}", self.state)
    }

    /// Returns how data is protected, `signed` or `encrypted`, if it goes in messages because of that.
    pub(crate) fn in_messages(&self) -> Option<&str> {
        let of_session = self.protection.as_deref();
        let of_session = of_session.and_then(|how| how.strip_suffix(" in messages"));
        of_session.or_else(|| self.is_encrypted_in_messages().then_some("encrypted"))
    }

    fn is_encrypted_in_messages(&self) -> bool {
        let mut by = self.encrypted_by.iter();
        by.any(|by| by.ends_with(" in messages"))
    }

    /// Returns the credits to send and those granted to the client.
    pub(crate) fn credits(&self) -> String {
        format!("{}/{}", self.send_credits, self.receive_credits)
    }

    /// Returns the process that owns the connection.
    pub(crate) fn process(&self) -> String {
        let worker = self.worker.unwrap_or_default();
        self.pid
            .map_or_else(|| "-".to_owned(), |pid| process(pid, worker))
    }
}

/// Returns a fabric's name in at most 5 columns.
pub(crate) fn short_fabric(fabric: &str) -> &str {
    match fabric {
        "software" => "soft",
        fabric => fabric,
    }
}

/// Returns the names of users in at most this number of columns: without their domains if they are too long otherwise,
/// and then without their end.
pub(crate) fn short_user(users: Option<&str>, columns: usize) -> String {
    let full = users.unwrap_or("-");
    let fits = |text: &str| text.chars().count() <= columns;
    if fits(full) {
        return full.to_owned();
    }
    let names = full.split(", ").map(|name| match name.rsplit_once('\\') {
        Some((_, name)) => name,
        None => name,
    });
    let short = names.collect::<Vec<_>>().join(", ");
    if fits(&short) {
        return short;
    }
    let begin = short.chars().take(columns.saturating_sub(1));
    begin.chain(['~']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_of_users_are_shortened() {
        for (user, shown) in [
            (None, "-"),
            (Some("alice"), "alice"),
            (Some("alice.longname"), "alice.long~"),
            (Some("AD\\alice"), "AD\\alice"),
            (Some("EXAMPLE\\alice"), "alice"),
            (Some("EXAMPLE\\alice.longname"), "alice.long~"),
            (Some("EXAMPLE\\al, EXAMPLE\\bo"), "al, bo"),
            (Some("\u{e9}\u{e9}\u{e9}"), "\u{e9}\u{e9}\u{e9}"),
        ] {
            assert_eq!(short_user(user, 11), shown);
        }
    }
}
