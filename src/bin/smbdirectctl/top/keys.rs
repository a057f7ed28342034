// SPDX-License-Identifier: GPL-2.0-or-later

//! Parses what a terminal sends when keys are pressed.

/// A key that `top` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// A printable character.
    Char(char),
    /// Ctrl and a letter.
    Ctrl(char),
    /// Escape alone.
    Escape,
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    /// Any other key.
    Other,
}

const ESCAPE: u8 = 0x1b;

/// Takes the keys from the bytes that a terminal sent. The beginning of a key whose other bytes have not come yet
/// stays; with `is_all`, nothing more will come, and so an ESC that is left is the key itself.
pub(super) fn take(bytes: &mut Vec<u8>, is_all: bool) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((key, length)) = first(rest) {
        keys.push(key);
        rest = rest.get(length..).unwrap_or_default();
    }
    let is_left = !rest.is_empty();
    *bytes = rest.to_vec();
    if is_all && is_left {
        keys.push(if bytes == &[ESCAPE] {
            Key::Escape
        } else {
            Key::Other
        });
        bytes.clear();
    }
    keys
}

/// Returns the first key, and how many bytes it has; `None` if bytes are missing.
fn first(bytes: &[u8]) -> Option<(Key, usize)> {
    match *bytes {
        [] | [ESCAPE] => None,
        [ESCAPE, b'[', ref rest @ ..] => {
            // A control sequence ends with a byte from @ to ~ (ECMA-48 5.4).
            let end = rest.iter().position(|byte| matches!(byte, 0x40..=0x7e))?;
            let key = match rest.get(..=end).unwrap_or_default() {
                b"A" => Key::Up,
                b"B" => Key::Down,
                b"H" | b"1~" | b"7~" => Key::Home,
                b"F" | b"4~" | b"8~" => Key::End,
                b"5~" => Key::PageUp,
                b"6~" => Key::PageDown,
                _ => Key::Other,
            };
            Some((key, end + 3))
        }
        // In the application mode of the cursor keys.
        [ESCAPE, b'O', last, ..] => {
            let key = match last {
                b'A' => Key::Up,
                b'B' => Key::Down,
                b'H' => Key::Home,
                b'F' => Key::End,
                _ => Key::Other,
            };
            Some((key, 3))
        }
        [ESCAPE, b'O'] => None,
        [ESCAPE, ..] => Some((Key::Escape, 1)),
        [byte @ 0x01..=0x1a, ..] => Some((Key::Ctrl(char::from(byte - 1 + b'a')), 1)),
        [byte @ 0x20..=0x7e, ..] => Some((Key::Char(char::from(byte)), 1)),
        [_, ..] => Some((Key::Other, 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_keys_of_several_bytes() {
        let mut bytes =
            b"q\x03\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~\x1b[1;5C\x1b[\x1b[B".to_vec();
        let keys = take(&mut bytes, false);
        assert_eq!(
            keys,
            [
                Key::Char('q'),
                Key::Ctrl('c'),
                Key::Up,
                Key::Down,
                Key::PageUp,
                Key::PageDown,
                Key::Home,
                Key::End,
                Key::Other,
                Key::Other,
                Key::Char('B'),
            ]
        );
        assert!(bytes.is_empty());
    }

    #[test]
    fn a_key_may_come_in_parts() {
        let mut bytes = b"s\x1b".to_vec();
        assert_eq!(take(&mut bytes, false), [Key::Char('s')]);
        bytes.push(b'[');
        assert_eq!(take(&mut bytes, false), []);
        bytes.extend(b"6");
        assert_eq!(take(&mut bytes, false), []);
        bytes.extend(b"~p");
        assert_eq!(take(&mut bytes, false), [Key::PageDown, Key::Char('p')]);
        bytes.push(ESCAPE);
        assert_eq!(take(&mut bytes, true), [Key::Escape]);
        bytes.extend(b"\x1b[1;");
        assert_eq!(take(&mut bytes, true), [Key::Other]);
        assert!(bytes.is_empty());
    }

    #[test]
    fn takes_any_bytes() {
        let all: Vec<u8> = (0..=255).cycle().take(1024).collect();
        for length in 0..all.len() {
            let mut bytes = all[..length].to_vec();
            let _ = take(&mut bytes, true);
            assert!(bytes.is_empty());
        }
    }
}
