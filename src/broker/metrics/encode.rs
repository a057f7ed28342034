// SPDX-License-Identifier: GPL-2.0-or-later

//! Writes Prometheus' text format: families of samples, each after its help and its type.

use std::fmt::{Display, Write};

/// A text that is being written.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// The samples of a metric. They follow each other in the text, so the next family begins when this one is done.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Text {
    /// Begins the family of a number that may fall, with its name and its help.
    pub(super) fn gauge<'a>(&'a mut self, about: (&'a str, &str)) -> Family<'a> {
        self.family(about, "gauge")
    }

    /// Begins the family of a number that only grows after the start of the device, with its name (which ends in
    /// `_total`) and its help.
    pub(super) fn counter<'a>(&'a mut self, about: (&'a str, &str)) -> Family<'a> {
        self.family(about, "counter")
    }

    /// Writes the help and the type of a family.
    fn family<'a>(&'a mut self, (name, help): (&'a str, &str), kind: &str) -> Family<'a> {
        let text = &mut self.0;
        // Writing to a string does not fail. Help is this program's own text, without line feeds.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text, name }
    }

    /// Returns the whole text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Adds a sample with these labels.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        let mut open = '{';
        for (label, value) in labels {
            self.text.push(open);
            self.text.push_str(label);
            self.text.push_str("=\"");
            self.text.extend(value.chars().flat_map(escaped));
            self.text.push('"');
            open = ',';
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Returns a character of a label's value, escaped if it has to be.
fn escaped(c: char) -> impl Iterator<Item = char> {
    let (before, c) = match c {
        '\\' | '"' => (Some('\\'), c),
        '\n' => (Some('\\'), 'n'),
        c => (None, c),
    };
    before.into_iter().chain([c])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_help_type_labels_and_values() {
        let mut text = Text::default();
        text.gauge(("a", "One.")).sample(&[], 1.5);
        let mut family = text.counter(("b_total", "Two."));
        family.sample(&[("x", "1"), ("y", "a\\b\"c\nd")], u64::MAX);
        family.sample(&[("x", "")], 0);
        let expected = "# HELP a One.\n# TYPE a gauge\na 1.5\n\
                        # HELP b_total Two.\n# TYPE b_total counter\n\
                        b_total{x=\"1\",y=\"a\\\\b\\\"c\\nd\"} 18446744073709551615\nb_total{x=\"\"} 0\n";
        assert_eq!(text.finish(), expected);
    }
}
