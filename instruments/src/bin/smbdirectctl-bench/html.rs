// SPDX-License-Identifier: GPL-2.0-or-later

//! The results as a page: one file that needs nothing else, neither a network nor scripts.
//!
//! Under each graph is a table with the same numbers. All texts are escaped, because the share, the host and the file
//! of an earlier run may have any names.

mod earlier;
mod over_time;

use std::fmt::Write as _;

use crate::chart::{self, Axis, Bar, Group, Head, Line};
use crate::compare::Comparison;
use crate::options::{Operation, Transport};
use crate::report::{self, Report, Row};
use crate::utc::Utc;

/// The style sheet. Colours differ in lightness as well, so that readers who do not see all colours can tell them
/// apart, also in print.
const STYLE: &str = include_str!("html/style.css");

/// Returns a text in which nothing is markup, and nothing changes the direction of writing.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('?'),
            '\u{fffe}' | '\u{ffff}' => escaped.push('?'),
            c if c.is_control() => escaped.push('?'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Returns the page.
pub(crate) fn page(report: &Report, comparison: Option<&Comparison>) -> String {
    let mut page = Page {
        text: String::new(),
        graphs: 0,
    };
    let title = escape(&format!("Benchmark of {}", report.share));
    page.push(&format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    ));
    page.facts(report);
    if let Some(comparison) = comparison {
        page.earlier(comparison);
    }
    for operation in operations(report) {
        page.operation(report, operation);
    }
    page.push("</main>\n</body>\n</html>\n");
    page.text
}

/// Returns the operations of a report, in its order.
fn operations(report: &Report) -> Vec<Operation> {
    let mut found = Vec::new();
    for row in &report.cases {
        if !found.contains(&row.operation) {
            found.push(row.operation);
        }
    }
    found
}

/// Returns the cases of an operation that are to be compared with each other: those of the same size and depth.
fn groups(report: &Report, operation: Operation) -> Vec<Vec<&Row>> {
    let mut groups: Vec<Vec<&Row>> = Vec::new();
    for row in report.cases.iter().filter(|row| row.operation == operation) {
        let is_same = |group: &&mut Vec<&Row>| {
            group.first().is_some_and(|first| {
                (first.size_requested, first.depth) == (row.size_requested, row.depth)
            })
        };
        match groups.iter_mut().find(is_same) {
            Some(group) => group.push(row),
            None => groups.push(vec![row]),
        }
    }
    groups
}

/// Names the size and the depth of a case.
fn shape(row: &Row) -> String {
    let size = report::size(row.size_requested.into());
    format!("{size} × {}", row.depth)
}

/// Says how file data travels in a case.
const fn way_of(transport: Transport, channel: u32) -> &'static str {
    match (transport, channel) {
        (Transport::Tcp, _) => "TCP",
        (Transport::SmbDirect, 0) => "SMB Direct, in messages",
        (Transport::SmbDirect, 1) => "SMB Direct, by RDMA",
        (Transport::SmbDirect, _) => "SMB Direct, by RDMA, invalidated",
    }
}

/// Returns the class of the style sheet for a transport and channel.
const fn class_of(transport: Transport, channel: u32) -> &'static str {
    match (transport, channel) {
        (Transport::Tcp, _) => "w0",
        (Transport::SmbDirect, 1) => "w1",
        (Transport::SmbDirect, 0) => "w2",
        (Transport::SmbDirect, _) => "w3",
    }
}

fn way(row: &Row) -> String {
    let name = way_of(row.transport, row.channel);
    match row.size == row.size_requested {
        true => name.to_owned(),
        false => format!("{name} ({} a request)", report::size(row.size.into())),
    }
}

const fn class(row: &Row) -> &'static str {
    class_of(row.transport, row.channel)
}

/// A page that is being written.
struct Page {
    text: String,
    graphs: usize,
}

impl Page {
    fn push(&mut self, text: &str) {
        self.text += text;
    }

    fn head(&mut self, title: String, description: &str) -> Head {
        self.graphs += 1;
        Head {
            number: self.graphs,
            title,
            description: description.to_owned(),
        }
    }

    /// Writes a heading.
    fn heading(&mut self, level: u8, text: &str) {
        let text = escape(text);
        self.push(&format!("<h{level}>{text}</h{level}>\n"));
    }

    /// Writes a paragraph.
    fn paragraph(&mut self, text: &str) {
        let text = escape(text);
        self.push(&format!("<p>{text}</p>\n"));
    }

    /// Writes a graph with its title, the names of its colours, and the table of its numbers.
    fn figure(&mut self, title: &str, legend: &[(&str, &str)], graph: &str, table: &Table) {
        self.push("<figure>\n");
        let title = escape(title);
        self.push(&format!("<figcaption>{title}</figcaption>\n"));
        if !legend.is_empty() {
            self.push("<ul class=\"legend\">\n");
        }
        for (class, name) in legend {
            let name = escape(name);
            self.push(&format!(
                "<li><svg viewBox=\"0 0 24 12\" width=\"24\" height=\"12\" aria-hidden=\"true\">\
                 <line class=\"line {class}\" x1=\"0\" y1=\"6\" x2=\"24\" y2=\"6\"/>\
                 <rect class=\"bar {class}\" x=\"6\" y=\"0\" width=\"12\" height=\"12\"/></svg> {name}</li>\n"
            ));
        }
        if !legend.is_empty() {
            self.push("</ul>\n");
        }
        self.push(graph);
        self.push(&table.to_html());
        self.push("</figure>\n");
    }

    /// Draws bars, those of each size on an axis of their own, because small requests are many times slower.
    fn bars(&mut self, title: &str, description: &str, bars: &BySize, unit: &str) -> String {
        let mut graphs = String::new();
        for (size, groups) in &bars.0 {
            let head = self.head(format!("{title}, {size}"), description);
            graphs += &chart::bars(&head, groups, unit);
        }
        graphs
    }

    /// Says what was measured, with what, and where.
    fn facts(&mut self, report: &Report) {
        let machine = &report.machine;
        let mut facts = vec![
            ("Date", Utc(report.time_seconds as f64).to_string()),
            ("Command", report.command.clone()),
            ("smbdirectctl", report.version.to_owned()),
            ("Server", format!("{} over TCP", report.server)),
        ];
        if let Some(address) = &report.smb_direct {
            let fabric = report.fabric.unwrap_or("unknown");
            let how = report.session();
            let text = format!("{address}, {how}; the client's fabric is {fabric}");
            facts.push(("SMB Direct", text));
        }
        if let Some(version) = &report.smbdirectd_version {
            facts.push(("smbdirectd", version.clone()));
        }
        let checked = if report.verified {
            "checked"
        } else {
            "not checked"
        };
        let size = report::size(report.file_size);
        let processors = machine.processors;
        let model = &machine.processor;
        let of = if model.is_empty() { "" } else { " of " };
        facts.extend([
            (
                "SMB",
                format!("{}, {}", report.dialect, report.protection()),
            ),
            ("File", format!("{size} bytes, its data {checked}")),
            ("Client", machine.host.clone()),
            (
                "Processors",
                format!("{processors}{of}{model}, {}", machine.architecture),
            ),
            ("Kernel", machine.kernel.clone()),
        ]);
        self.push("<table class=\"facts\">\n<tbody>\n");
        for (name, value) in facts {
            let value = escape(&value);
            self.push(&format!(
                "<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>\n"
            ));
        }
        self.push("</tbody>\n</table>\n");
        self.paragraph(
            "Cases of the same operation, size and depth alternate in rounds. Throughput and latencies up to p99 are \
             medians of the rounds; p99.9 and max are of all requests together. If the rounds of two cases overlap, \
             the difference between them means nothing.",
        );
    }

    fn operation(&mut self, report: &Report, operation: Operation) {
        let name = match operation {
            Operation::Read => "Reads",
            Operation::Write => "Writes",
        };
        self.heading(2, name);
        let groups = groups(report, operation);
        self.throughput(name, &groups);
        self.processors(name, &groups);
        for group in &groups {
            let Some(first) = group.first() else {
                continue;
            };
            let size = size_of(group);
            let title = format!("{name} of {size}, {} at a time", first.depth);
            self.heading(3, &title);
            self.latency(&title, group);
            self.over_time(&title, group);
        }
    }

    fn throughput(&mut self, name: &str, groups: &[Vec<&Row>]) {
        let mut table = Table::new(
            &["Size × depth", "Transport"],
            &["MB/s", "least", "most", "times TCP"],
        );
        let mut bars = BySize::default();
        for group in groups {
            let tcp = group.iter().find(|row| row.transport == Transport::Tcp);
            let tcp = tcp.map(|row| row.megabytes_per_second);
            for row in group {
                let speed = row.megabytes_per_second;
                let (least, most) = (
                    row.megabytes_per_second_least,
                    row.megabytes_per_second_most,
                );
                let ratio = tcp
                    .filter(|tcp| *tcp > 0.0)
                    .map(|tcp| format!("{:.2}", speed / tcp));
                let numbers = [speed, least, most].map(|speed| format!("{speed:.1}"));
                let numbers = numbers.into_iter().chain([ratio.unwrap_or_else(dash)]);
                table.row([shape(row), way(row)].into_iter().chain(numbers));
            }
            let of_group = group.iter().map(|row| Bar {
                label: way(row),
                parts: vec![(class(row), row.megabytes_per_second)],
                spread: Some((
                    row.megabytes_per_second_least,
                    row.megabytes_per_second_most,
                )),
                value: chart::number(row.megabytes_per_second),
            });
            bars.add(size_of(group), (group_name(group), of_group.collect()));
        }
        let title = format!("{name}: throughput");
        let description = "Bars with the median throughput of each case, and lines from its slowest to its fastest \
                           round. The table below has the numbers.";
        let graph = self.bars(&title, description, &bars, "10⁶ bytes per second");
        self.figure(&title, &[], &graph, &table);
    }

    fn processors(&mut self, name: &str, groups: &[Vec<&Row>]) {
        const PROCESSES: [(&str, &str); 3] =
            [("p0", "client"), ("p1", "smbdirectd"), ("p2", "smbd")];
        let mut table = Table::new(
            &["Size × depth", "Transport"],
            &["client", "smbdirectd", "smbd", "together"],
        );
        let mut bars = BySize::default();
        for group in groups {
            let mut of_group = Vec::new();
            for row in group {
                let known = row.cpu();
                let find = |name: &str| known.iter().find(|(known, _)| *known == name);
                let parts = PROCESSES
                    .iter()
                    .filter_map(|(class, name)| Some((*class, find(name)?.1)));
                let parts: Vec<(&str, f64)> = parts.collect();
                let sum: f64 = parts.iter().map(|(_, cpu)| cpu).sum();
                let cells = PROCESSES
                    .iter()
                    .map(|(_, name)| find(name).map_or_else(dash, |(_, cpu)| format!("{cpu:.3}")));
                let cells = cells.chain([format!("{sum:.3}")]);
                table.row([shape(row), way(row)].into_iter().chain(cells));
                of_group.push(Bar {
                    label: way(row),
                    parts,
                    spread: None,
                    value: chart::number(sum),
                });
            }
            bars.add(size_of(group), (group_name(group), of_group));
        }
        let title = format!("{name}: processor seconds for each GiB");
        let description = "Bars with the processor time of the client, of smbdirectd and of smbd for each GiB, as far \
                           as it is known. The table below has the numbers.";
        let graph = self.bars(&title, description, &bars, "processor seconds per GiB");
        self.figure(&title, &PROCESSES, &graph, &table);
    }

    fn latency(&mut self, name: &str, group: &[&Row]) {
        let mut table = Table::new(&["Transport"], &["p50", "p90", "p99", "p99.9", "max"]);
        let mut lines = Vec::new();
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for row in group {
            let latencies = row.latencies();
            let cells = latencies.iter().map(|(_, latency)| chart::time(*latency));
            table.row([way(row)].into_iter().chain(cells));
            // A logarithmic axis has no zero. No latency is below a nanosecond.
            let values = latencies.map(|(_, latency)| latency.max(1e-3));
            least = values.into_iter().fold(least, f64::min);
            most = values.into_iter().fold(most, f64::max);
            lines.push(Line {
                class: class(row),
                points: (0..).map(f64::from).zip(values).collect(),
                band: Vec::new(),
            });
        }
        let title = format!("{name}: latency");
        let description = "Lines through the percentiles of the latency of each transport, on a logarithmic axis. The \
                           table below has the numbers.";
        let head = self.head(title.clone(), description);
        let x = Axis::names("percentile", &["p50", "p90", "p99", "p99.9", "max"]);
        let y = Axis::log("latency", least, most, chart::time);
        let graph = chart::lines(&head, (&x, &y), &lines);
        self.figure(&title, &legend(group), &graph, &table);
    }
}

/// Names the ways of a group beside their classes.
fn legend(group: &[&Row]) -> Vec<(&'static str, &'static str)> {
    let ways = group.iter();
    ways.map(|row| (class(row), way_of(row.transport, row.channel)))
        .collect()
}

/// Bars by the size of the requests.
#[derive(Default)]
struct BySize(Vec<(String, Vec<Group>)>);

impl BySize {
    /// Adds a group. Groups of the same size come one after the other.
    fn add(&mut self, size: String, group: Group) {
        match self.0.last_mut() {
            Some((last, groups)) if *last == size => groups.push(group),
            _ => self.0.push((size, vec![group])),
        }
    }
}

fn size_of(group: &[&Row]) -> String {
    let first = group.first();
    first.map_or_else(String::new, |row| report::size(row.size_requested.into()))
}

fn group_name(group: &[&Row]) -> String {
    group.first().map_or_else(String::new, |row| shape(row))
}

/// Stands for a number that is not known.
fn dash() -> String {
    "-".to_owned()
}

/// A table of numbers.
struct Table {
    /// The names of the columns, first those of texts, then those of numbers.
    names: Vec<String>,
    texts: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(texts: &[&str], numbers: &[&str]) -> Self {
        let names = texts.iter().chain(numbers);
        Self {
            names: names.map(|name| (*name).to_owned()).collect(),
            texts: texts.len(),
            rows: Vec::new(),
        }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    fn to_html(&self) -> String {
        let mut html = "<div class=\"scroll\">\n<table>\n<thead>\n<tr>".to_owned();
        for (at, name) in self.names.iter().enumerate() {
            let class = self.class(at);
            let _ = write!(html, "<th scope=\"col\"{class}>{}</th>", escape(name));
        }
        html += "</tr>\n</thead>\n<tbody>\n";
        for row in &self.rows {
            html += "<tr>";
            for (at, cell) in row.iter().enumerate() {
                let (class, cell) = (self.class(at), escape(cell));
                let _ = match at < self.texts {
                    true => write!(html, "<th scope=\"row\"{class}>{cell}</th>"),
                    false => write!(html, "<td>{cell}</td>"),
                };
            }
            html += "</tr>\n";
        }
        html + "</tbody>\n</table>\n</div>\n"
    }

    /// Returns the attribute of a cell in this column.
    const fn class(&self, at: usize) -> &'static str {
        if at < self.texts {
            " class=\"text\""
        } else {
            ""
        }
    }
}

#[cfg(test)]
mod tests;
