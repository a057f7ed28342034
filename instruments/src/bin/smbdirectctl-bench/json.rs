// SPDX-License-Identifier: GPL-2.0-or-later

//! JSON with a line for each member of an object, but with the elements of an array on one line: a list of numbers for
//! each tenth of a second would otherwise take thousands of lines.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::compare::Comparison;
use crate::report::Report;

/// Everything that is printed.
#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<&'a Comparison>,
}

/// Returns the results as JSON.
pub(crate) fn text(report: &Report, comparison: Option<&Comparison>) -> Result<String, String> {
    let mut text = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut text, Lines { depth: 0 });
    let output = Output { report, comparison };
    output
        .serialize(&mut serializer)
        .map_err(|error| error.to_string())?;
    text.push(b'\n');
    String::from_utf8(text).map_err(|error| error.to_string())
}

struct Lines {
    depth: usize,
}

impl Lines {
    fn line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        write!(writer, "\n{:1$}", "", 2 * self.depth)
    }
}

impl Formatter for Lines {
    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth += 1;
        writer.write_all(b"{")
    }

    fn begin_object_key<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.line(writer)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.depth -= 1;
        self.line(writer)?;
        writer.write_all(b"}")
    }

    fn begin_array_value<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        match first {
            true => Ok(()),
            false => writer.write_all(b", "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn the_text_is_the_same_json_in_fewer_lines() {
        let report = report();
        let text = text(&report, None).unwrap();
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        let plain = serde_json::to_string(&report).unwrap();
        let plain: serde_json::Value = serde_json::from_str(&plain).unwrap();
        assert_eq!(read, plain);
        assert!(text.starts_with("{\n  \"schema_version\": 1,\n"), "{text}");
        assert!(text.ends_with("\n}\n"), "{text}");
        let line = text
            .lines()
            .find(|line| line.contains("\"latency_p99_microseconds\": ["));
        assert!(
            line.is_some_and(|line| line.contains("], ") || line.ends_with(']')),
            "{text}"
        );
        assert!(text.lines().count() < 250, "{text}");
    }
}
