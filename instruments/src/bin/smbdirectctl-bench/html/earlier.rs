// SPDX-License-Identifier: GPL-2.0-or-later

//! The comparison with an earlier run.

use super::{BySize, Page, Table, class_of, dash, way_of};
use crate::chart::{self, Bar};
use crate::compare::{Change, Compared, Comparison, Verdict};
use crate::report;

impl Page {
    pub(super) fn earlier(&mut self, comparison: &Comparison) {
        self.heading(2, "Compared with an earlier run");
        self.paragraph(&format!(
            "The earlier run is {} of {}, {}. {}.",
            comparison.file,
            comparison.date(),
            comparison.share,
            comparison.summary()
        ));
        self.figure_of_change(
            comparison,
            "Throughput then and now",
            "10⁶ bytes per second",
            |case| case.megabytes_per_second,
            |value| format!("{value:.1}"),
        );
        self.figure_of_change(
            comparison,
            "p99 of the latency then and now",
            "microseconds",
            |case| case.latency_p99_microseconds,
            chart::time,
        );
        self.figure_of_change(
            comparison,
            "p99.9 of the latency then and now",
            "microseconds",
            |case| case.latency_p99_9_microseconds,
            chart::time,
        );
        for (names, whose) in [
            (&comparison.only_now, "only in this run"),
            (&comparison.only_earlier, "only in the earlier run"),
        ] {
            for name in names {
                self.paragraph(&format!("{name}: {whose}."));
            }
        }
    }

    fn figure_of_change(
        &mut self,
        comparison: &Comparison,
        title: &str,
        unit: &str,
        of: impl Fn(&Compared) -> Change,
        words: impl Fn(f64) -> String,
    ) {
        let mut table = Table::new(&["Case", "Transport"], &["then", "now", "ratio", "verdict"]);
        let mut bars = BySize::default();
        for case in &comparison.cases {
            let change = of(case);
            let size = report::size(case.size.into());
            let shape = format!("{} {size} × {}", case.operation.name(), case.depth);
            let way = way_of(case.transport, case.channel);
            let verdict = change.verdict.map_or_else(dash, |it| it.name().to_owned());
            let numbers = [
                words(change.earlier),
                words(change.now),
                change.ratio(),
                verdict,
            ];
            table.row([shape.clone(), way.to_owned()].into_iter().chain(numbers));
            let bar = |label: &str, class, value, note: &str| Bar {
                label: label.to_owned(),
                parts: vec![(class, value)],
                spread: None,
                value: format!("{}{note}", words(value)),
            };
            let note = match change.verdict {
                Some(verdict @ (Verdict::Better | Verdict::Worse)) => {
                    format!(", {}", verdict.name())
                }
                _ => String::new(),
            };
            let class = class_of(case.transport, case.channel);
            let then_and_now = vec![
                bar("then", "then", change.earlier, ""),
                bar("now", class, change.now, &note),
            ];
            let kind = format!("{} {size}", case.operation.name());
            bars.add(kind, (format!("{shape}, {way}"), then_and_now));
        }
        let description = "A grey bar for the earlier run and a bar for this run, for each case. The table below has the \
                           numbers.";
        let graph = self.bars(title, description, &bars, unit);
        self.figure(title, &[], &graph, &table);
    }
}
