// SPDX-License-Identifier: GPL-2.0-or-later

//! Tests that the page is well formed, needs nothing else, and shows texts of any kind as texts.

use instruments::client::Channel;

use super::*;
use crate::compare::tests::comparison;
use crate::report::tests::{report, row};

/// Checks that every element of a page ends where it must, and that no text has a character that begins markup.
/// Returns the names of the elements, in the order in which they begin.
fn elements(page: &str) -> Vec<String> {
    let rest = page
        .strip_prefix("<!DOCTYPE html>")
        .expect("the type of the document");
    let (mut open, mut found): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    let mut pieces = rest.split('<');
    let before = pieces.next().unwrap();
    assert!(before.trim().is_empty(), "{before}");
    for piece in pieces {
        let (tag, text) = piece
            .split_once('>')
            .unwrap_or_else(|| panic!("no end: {piece}"));
        assert!(
            !text.contains('>') || open.last().is_some_and(|it| it == "style"),
            "{text}"
        );
        check_references(text);
        let name = tag.trim_start_matches('/').trim_end_matches('/');
        let name = name.split_ascii_whitespace().next().expect("a name");
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{tag}");
        if tag.starts_with('/') {
            assert_eq!(
                open.pop().as_deref(),
                Some(name),
                "{tag} ends something else"
            );
            continue;
        }
        check_attributes(tag);
        found.push(name.to_owned());
        if !tag.ends_with('/') {
            open.push(name.to_owned());
        }
    }
    assert!(open.is_empty(), "{open:?} does not end");
    found
}

fn check_attributes(tag: &str) {
    let quotes = tag.matches('"').count();
    assert_eq!(quotes % 2, 0, "{tag}");
    assert_eq!(quotes / 2, tag.matches("=\"").count(), "{tag}");
    check_references(tag);
}

/// Checks that each ampersand begins a reference that HTML and XML know.
fn check_references(text: &str) {
    for after in text.split('&').skip(1) {
        let (name, _) = after.split_once(';').unwrap_or_else(|| panic!("{text}"));
        assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "{text}");
    }
}

/// Checks that a page loads nothing and runs nothing.
fn check_alone(page: &str) {
    for outside in [
        "src=", "href=", "url(", "@import", "<script", "<iframe", "<link", "<object", " on",
    ] {
        let tags = page
            .split('<')
            .map(|piece| piece.split('>').next().unwrap_or(""));
        let is_tag = outside.starts_with('<');
        let found = match (is_tag, outside) {
            (true, _) => page.contains(outside),
            (false, "url(" | "@import") => STYLE.contains(outside),
            (false, _) => tags.into_iter().any(|tag| tag.contains(outside)),
        };
        assert!(!found, "{outside}");
    }
}

#[test]
fn the_page_is_well_formed_and_needs_nothing_else() {
    for comparison in [None, Some(comparison(&[90, 80, 99], &[230, 221, 250]))] {
        let page = page(&report(), comparison.as_ref());
        let elements = elements(&page);
        check_alone(&page);
        assert!(!page.contains("://"), "an address of something outside");
        let count = |name: &str| elements.iter().filter(|element| *element == name).count();
        // Throughput, processor time, latency and time line, and three of the comparison.
        let graphs = if comparison.is_some() { 7 } else { 4 };
        assert_eq!(count("figure"), graphs);
        // One of the titles is the page's.
        assert_eq!((count("desc"), count("title")), (graphs, graphs + 1));
        assert_eq!(
            count("table"),
            graphs + 1,
            "a table for each graph, and one of facts"
        );
        assert!(page.contains("prefers-color-scheme: dark") && page.contains("@media print"));
        for number in 1..=graphs {
            assert_eq!(page.matches(&format!("id=\"title{number}\"")).count(), 1);
        }
    }
}

#[test]
fn the_page_has_the_numbers_and_the_circumstances() {
    let page = page(
        &report(),
        Some(&comparison(&[90, 80, 99], &[230, 221, 250])),
    );
    for text in [
        "Benchmark of //server/share",
        "smbdirectctl bench //server/share",
        "2025-12-31T23:59:59",
        "2 of Some CPU, x86_64",
        "Linux 6.12",
        "1.2.3",
        "the client&#39;s fabric is software",
        "3.1.1, neither signed nor encrypted",
        // Median, least and most over TCP.
        "<td>110.0</td><td>100.0</td><td>120.0</td><td>1.00</td>",
        "<td>210.0</td><td>200.0</td><td>220.0</td><td>1.91</td>",
        // The processor time of smbdirectd is not known.
        "<td>2.440</td><td>-</td><td>4.881</td><td>7.321</td>",
        "<td>10 ms</td>",
        "SMB Direct, by RDMA: longest p99",
        // Then and now.
        "<td>90.0</td><td>110.0</td><td>1.22</td><td>better</td>",
        "1 better and 1 worse",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn texts_from_outside_are_texts_of_the_page() {
    let evil = "</title><script src=\"http://x/\">alert('&')</script>\u{202e}\u{1b}]\u{0}";
    let mut report = report();
    report.share = evil.to_owned();
    report.command = evil.to_owned();
    report.server = evil.to_owned();
    report.smb_direct = Some(evil.to_owned());
    report.smbdirectd_version = Some(evil.to_owned());
    report.machine.host = evil.to_owned();
    report.machine.processor = evil.to_owned();
    report.machine.kernel = evil.to_owned();
    let mut comparison = comparison(&[90, 80, 99], &[230, 221, 250]);
    comparison.file = evil.to_owned();
    comparison.share = evil.to_owned();
    comparison.only_now = vec![evil.to_owned()];
    let page = page(&report, Some(&comparison));
    let elements = elements(&page);
    assert!(elements.iter().all(|element| element != "script"));
    check_alone(&page);
    assert!(page.chars().all(|c| c == '\n' || !c.is_control()));
    assert!(!page.contains('\u{202e}'));
    let escaped = escape(evil);
    assert!(
        escaped.starts_with("&lt;/title&gt;&lt;script src=&quot;http:"),
        "{escaped}"
    );
    assert!(
        page.matches(&escaped).count() >= 11,
        "{}",
        page.matches(&escaped).count()
    );
}

#[test]
fn a_case_of_another_size_stays_beside_the_case_that_was_asked_for_the_same() {
    let mut report = report();
    let mut messages = row(Transport::SmbDirect, Channel::None, &[50, 60]);
    messages.size = 999_424;
    report.cases.push(messages);
    let page = page(&report, None);
    elements(&page);
    assert!(
        page.contains("SMB Direct, in messages (976K a request)"),
        "{page}"
    );
    // There is one group, so one graph of latencies.
    assert_eq!(
        page.matches("<figcaption>Reads of 1000000, 1 at a time: latency<")
            .count(),
        1
    );
}

#[test]
fn each_size_has_an_axis_of_its_own() {
    let mut report = report();
    let mut small = row(Transport::Tcp, Channel::None, &[1, 2]);
    (small.size, small.size_requested) = (4096, 4096);
    let mut deep = small.clone();
    deep.depth = 8;
    report.cases.extend([small, deep]);
    let page = page(&report, None);
    elements(&page);
    for (title, count) in [
        (">Reads: throughput, 4K<", 1),
        (">Reads: throughput, 1000000<", 1),
    ] {
        assert_eq!(page.matches(title).count(), count, "{title}");
    }
    // Throughput, processor time, and two graphs for each of three groups.
    assert_eq!(page.matches("<figure>").count(), 2 + 3 * 2);
    assert_eq!(page.matches("<desc ").count(), 2 * 2 + 3 * 2);
}

#[test]
fn a_report_without_cases_or_requests_is_a_page_as_well() {
    let mut report = report();
    report.cases = vec![row(Transport::Tcp, Channel::None, &[])];
    elements(&page(&report, None));
    report.cases.clear();
    report.smb_direct = None;
    report.machine.processor.clear();
    let page = page(&report, None);
    elements(&page);
    assert!(page.contains("2, x86_64"), "{page}");
}
