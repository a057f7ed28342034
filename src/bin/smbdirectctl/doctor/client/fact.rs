// SPDX-License-Identifier: GPL-2.0-or-later

//! Values in the report of a client, in whatever form they come.

use std::net::IpAddr;

use serde_json::Value;

/// Number of items of a list that are looked at.
const MOST_ITEMS: usize = 64;
/// Number of characters of a text that are kept.
const MOST_CHARACTERS: usize = 256;

/// A value in a report, or the lack of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact<'a>(Option<&'a Value>);

impl<'a> Fact<'a> {
    pub(super) const fn new(value: &'a Value) -> Self {
        Self(Some(value))
    }

    /// Returns the member of this name.
    pub(super) fn at(self, name: &str) -> Self {
        Self(self.0.and_then(|value| value.get(name)))
    }

    /// Returns a text, or a number as a text. The rest of a text that is too long is left out.
    pub(super) fn text(&self) -> Option<String> {
        match self.0? {
            Value::String(text) => Some(text.chars().take(MOST_CHARACTERS).collect()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Returns a truth value. PowerShell writes some of them as texts, such as `True`.
    pub(super) fn flag(self) -> Option<bool> {
        match self.0? {
            Value::Bool(flag) => Some(*flag),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    /// Returns a number, or a text that is a number.
    pub(super) fn number(self) -> Option<u64> {
        match self.0? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Returns the items of a list; `None` if there is no list. PowerShell may write a list of one item as that item,
    /// and any list as an object with the members `value` and `Count`.
    pub(super) fn items(self) -> Option<Vec<Self>> {
        let items = match self.0? {
            Value::Null => return None,
            Value::Array(items) => items,
            Value::Object(members) if members.contains_key("Count") => {
                members.get("value")?.as_array()?
            }
            _ => return Some(vec![self]),
        };
        Some(items.iter().take(MOST_ITEMS).map(Self::new).collect())
    }

    /// Returns an IP address, without its scope.
    pub(super) fn address(self) -> Option<IpAddr> {
        let text = self.text()?;
        let address = text.split('%').next()?;
        Some(address.parse::<IpAddr>().ok()?.to_canonical())
    }

    /// Returns the IP addresses in a list.
    pub(super) fn addresses(self) -> Vec<IpAddr> {
        let items = self.items().unwrap_or_default();
        items.into_iter().filter_map(Self::address).collect()
    }
}
