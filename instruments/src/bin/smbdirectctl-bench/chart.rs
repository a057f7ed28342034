// SPDX-License-Identifier: GPL-2.0-or-later

//! Graphs as SVG inside a page. The page's style sheet has the colours: a class `w0`, `w1`, ... chooses one.

use std::fmt::Write as _;

use crate::html::escape;

/// The width and height of a diagram of lines.
const SIZE: (f64, f64) = (560.0, 280.0);
/// The space around its plot: left, top, right, bottom.
const MARGIN: (f64, f64, f64, f64) = (76.0, 12.0, 16.0, 44.0);
/// The width of a bar chart, and where its bars begin and end at most; labels are left of them, values right.
const BARS: (f64, f64, f64) = (760.0, 240.0, 610.0);
/// The height of a bar with its distance to the next, and of the bar alone.
const BAR: (f64, f64) = (22.0, 14.0);

/// The description of a graph, for readers who cannot see it.
#[derive(Debug)]
pub(crate) struct Head {
    /// Distinguishes the graph from others on the page.
    pub(crate) number: usize,
    pub(crate) title: String,
    pub(crate) description: String,
}

impl Head {
    fn open(&self, (width, height): (f64, f64)) -> String {
        let (number, title) = (self.number, escape(&self.title));
        let description = escape(&self.description);
        format!(
            "<svg viewBox=\"0 0 {width:.0} {height:.0}\" style=\"max-width:{width:.0}px\" role=\"img\" \
             aria-labelledby=\"title{number} desc{number}\">\n<title id=\"title{number}\">{title}</title>\n\
             <desc id=\"desc{number}\">{description}</desc>\n"
        )
    }
}

/// A bar, which may consist of parts.
#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) label: String,
    /// The class and the length of each part.
    pub(crate) parts: Vec<(&'static str, f64)>,
    /// The least and the most that the length stands for.
    pub(crate) spread: Option<(f64, f64)>,
    /// The value in words.
    pub(crate) value: String,
}

impl Bar {
    fn end(&self) -> f64 {
        let length = self.parts.iter().map(|(_, length)| length).sum();
        self.spread.map_or(length, |(_, most)| most.max(length))
    }
}

/// A name, and the bars below it.
pub(crate) type Group = (String, Vec<Bar>);

/// Draws groups of horizontal bars. `unit` names what the axis counts.
pub(crate) fn bars(head: &Head, groups: &[Group], unit: &str) -> String {
    let (width, left, right) = BARS;
    let rows = groups.iter().map(|(_, bars)| bars.len() + 1).sum::<usize>();
    let bottom = rows as f64 * BAR.0 + 8.0;
    let ends = groups.iter().flat_map(|(_, bars)| bars).map(Bar::end);
    let ticks = ticks(ends.fold(0.0, f64::max));
    let most = ticks.last().copied().unwrap_or(1.0);
    let x = |value: f64| left + (value / most).clamp(0.0, 1.0) * (right - left);
    let mut text = head.open((width, bottom + 40.0));
    for tick in &ticks {
        let at = x(*tick);
        let label = number(*tick);
        let _ = writeln!(
            text,
            "<line class=\"grid\" x1=\"{at:.1}\" y1=\"4\" x2=\"{at:.1}\" y2=\"{bottom:.1}\"/>\n\
             <text class=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{label}</text>",
            bottom + 15.0
        );
    }
    let _ = writeln!(
        text,
        "<text class=\"middle\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
        f64::midpoint(left, right),
        bottom + 32.0,
        escape(unit)
    );
    let mut top = 4.0;
    for (name, bars) in groups {
        let _ = writeln!(
            text,
            "<text class=\"group\" x=\"4\" y=\"{:.1}\">{}</text>",
            top + 15.0,
            escape(name)
        );
        top += BAR.0;
        for bar in bars {
            draw_bar(&mut text, bar, top, x);
            top += BAR.0;
        }
    }
    text + "</svg>\n"
}

fn draw_bar(text: &mut String, bar: &Bar, top: f64, x: impl Fn(f64) -> f64) {
    let (middle, baseline) = (top + BAR.1 / 2.0, top + 11.0);
    let _ = writeln!(
        text,
        "<text class=\"end\" x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
        BARS.1 - 8.0,
        escape(&bar.label)
    );
    let mut from = 0.0;
    for (class, length) in &bar.parts {
        let (start, end) = (x(from), x(from + length));
        let _ = writeln!(
            text,
            "<rect class=\"bar {class}\" x=\"{start:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            end - start,
            BAR.1
        );
        from += length;
    }
    if let Some((least, most)) = bar.spread {
        let (least, most) = (x(least), x(most));
        let _ = writeln!(
            text,
            "<path class=\"spread\" d=\"M{least:.1} {:.1}v8M{least:.1} {middle:.1}H{most:.1}M{most:.1} {:.1}v8\"/>",
            middle - 4.0,
            middle - 4.0
        );
    }
    let _ = writeln!(
        text,
        "<text x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>",
        x(bar.end()) + 8.0,
        escape(&bar.value)
    );
}

/// An axis of a diagram.
#[derive(Debug)]
pub(crate) struct Axis {
    pub(crate) name: &'static str,
    from: f64,
    to: f64,
    is_log: bool,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Makes an axis from 0 to at least `most`.
    pub(crate) fn linear(name: &'static str, most: f64) -> Self {
        let ticks = ticks(most);
        Self {
            name,
            from: 0.0,
            to: ticks.last().copied().unwrap_or(1.0),
            is_log: false,
            ticks: ticks.into_iter().map(|tick| (tick, number(tick))).collect(),
        }
    }

    /// Makes an axis of this many names, which stand at 0, 1, and so on.
    pub(crate) fn names(name: &'static str, names: &[&str]) -> Self {
        let ticks = names.iter().enumerate();
        Self {
            name,
            from: -0.3,
            to: names.len() as f64 - 0.7,
            is_log: false,
            ticks: ticks
                .map(|(at, name)| (at as f64, (*name).to_owned()))
                .collect(),
        }
    }

    /// Makes a logarithmic axis that holds `least` and `most`, which are above 0.
    pub(crate) fn log(name: &'static str, least: f64, most: f64, label: fn(f64) -> String) -> Self {
        let (from, to) = (least / 1.3, most * 1.3);
        let powers = from.log10().floor() as i32..=to.log10().ceil() as i32;
        let powers: Vec<f64> = powers.map(|power| 10_f64.powi(power)).collect();
        // Over many powers of ten, only the powers themselves have labels.
        let steps: &[f64] = match powers.len() {
            0..=5 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let ticks = powers
            .iter()
            .flat_map(|power| steps.iter().map(move |step| step * power));
        let ticks = ticks.filter(|tick| (from..=to).contains(tick));
        Self {
            name,
            from,
            to,
            is_log: true,
            ticks: ticks.map(|tick| (tick, label(tick))).collect(),
        }
    }

    /// Returns where a value is between the ends of the axis, from 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let share = match self.is_log {
            true => (value.max(self.from) / self.from).ln() / (self.to / self.from).ln(),
            false => (value - self.from) / (self.to - self.from),
        };
        share.clamp(0.0, 1.0)
    }
}

/// A line through points, and the area between the least and the most at each.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) class: &'static str,
    /// x and y.
    pub(crate) points: Vec<(f64, f64)>,
    /// x, least and most; may be empty.
    pub(crate) band: Vec<(f64, f64, f64)>,
}

/// Draws lines in a diagram.
pub(crate) fn lines(head: &Head, (x, y): (&Axis, &Axis), lines: &[Line]) -> String {
    let (left, top) = (MARGIN.0, MARGIN.1);
    let (right, bottom) = (SIZE.0 - MARGIN.2, SIZE.1 - MARGIN.3);
    let place = |(at, value): (f64, f64)| {
        let at = left + x.share(at) * (right - left);
        (at, bottom - y.share(value) * (bottom - top))
    };
    let mut text = head.open(SIZE);
    for (tick, label) in &y.ticks {
        let (_, at) = place((x.from, *tick));
        let _ = writeln!(
            text,
            "<line class=\"grid\" x1=\"{left:.1}\" y1=\"{at:.1}\" x2=\"{right:.1}\" y2=\"{at:.1}\"/>\n\
             <text class=\"end\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            left - 6.0,
            at + 4.0,
            escape(label)
        );
    }
    for (tick, label) in &x.ticks {
        let (at, _) = place((*tick, y.from));
        let _ = writeln!(
            text,
            "<text class=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 16.0,
            escape(label)
        );
    }
    let (middle, across) = (f64::midpoint(top, bottom), f64::midpoint(left, right));
    let _ = writeln!(
        text,
        "<text class=\"middle\" x=\"{across:.1}\" y=\"{:.1}\">{}</text>\n\
         <text class=\"middle\" transform=\"translate(14 {middle:.1}) rotate(-90)\">{}</text>",
        SIZE.1 - 8.0,
        escape(x.name),
        escape(y.name)
    );
    let points = |points: &mut dyn Iterator<Item = (f64, f64)>| -> String {
        let points = points.map(place).map(|(x, y)| format!("{x:.1},{y:.1}"));
        points.collect::<Vec<_>>().join(" ")
    };
    for line in lines.iter().filter(|line| !line.band.is_empty()) {
        let most = line.band.iter().map(|(at, _, most)| (*at, *most));
        let least = line.band.iter().rev().map(|(at, least, _)| (*at, *least));
        let outline = points(&mut most.chain(least));
        let _ = writeln!(
            text,
            "<polygon class=\"band {}\" points=\"{outline}\"/>",
            line.class
        );
    }
    for line in lines {
        let class = line.class;
        let path = points(&mut line.points.iter().copied());
        let _ = writeln!(text, "<polyline class=\"line {class}\" points=\"{path}\"/>");
        for (x, y) in line.points.iter().map(|point| place(*point)) {
            let _ = writeln!(
                text,
                "<circle class=\"bar {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>"
            );
        }
    }
    text + "</svg>\n"
}

/// Returns about five round numbers from 0 to at least `most`.
fn ticks(most: f64) -> Vec<f64> {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10_f64.powf((most / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    let step = steps.into_iter().find(|step| step * 5.0 >= most);
    let step = step.unwrap_or(power * 10.0);
    let count = (most / step).ceil() as u32;
    (0..=count).map(|at| f64::from(at) * step).collect()
}

/// Formats a number with three significant digits, or all digits of its integral part.
pub(crate) fn number(number: f64) -> String {
    let digits = match number {
        0.0 => 0,
        number if number < 1.0 => 3,
        number if number < 10.0 => 2,
        number if number < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{number:.digits$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Formats a time in a unit that suits it.
pub(crate) fn time(microseconds: f64) -> String {
    let (value, unit) = match microseconds {
        short if short < 1e3 => (short, "µs"),
        medium if medium < 1e6 => (medium / 1e3, "ms"),
        long => (long / 1e6, "s"),
    };
    format!("{} {unit}", number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_reach_the_end() {
        for (most, expected) in [
            (0.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (1.0, vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
            (9.0, vec![0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
            (1234.0, vec![0.0, 500.0, 1000.0, 1500.0]),
            (26.0, vec![0.0, 10.0, 20.0, 30.0]),
        ] {
            let found = ticks(most);
            assert_eq!(found.len(), expected.len(), "{most}: {found:?}");
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{most}: {found} {expected}"
                );
            }
        }
        for power in -12..12 {
            let most = 1.7 * 10_f64.powi(power);
            let found = ticks(most);
            assert!((3..=7).contains(&found.len()), "{most}: {found:?}");
            assert!(
                found[found.len() - 1] >= most * 0.999_999,
                "{most}: {found:?}"
            );
        }
    }

    #[test]
    fn numbers_have_the_digits_that_matter() {
        for (value, text) in [
            (0.0, "0"),
            (0.2, "0.2"),
            (0.1234, "0.123"),
            (1.5, "1.5"),
            (12.34, "12.3"),
            (100.0, "100"),
            (12_345.6, "12346"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(time(20.44), "20.4 µs");
        assert_eq!(time(1500.0), "1.5 ms");
        assert_eq!(time(2_000_000.0), "2 s");
    }

    #[test]
    fn a_logarithmic_axis_gives_each_power_of_ten_the_same_length() {
        let axis = Axis::log("", 10.0, 1e5, time);
        let shares = [10.0, 100.0, 1e3, 1e4, 1e5].map(|value| axis.share(value));
        for pair in shares.windows(2) {
            assert!(
                (pair[1] - pair[0] - (shares[1] - shares[0])).abs() < 1e-9,
                "{shares:?}"
            );
        }
        assert!(shares[0] > 0.0 && shares[4] < 1.0);
        assert_eq!(
            (axis.share(0.0), axis.share(1e9)),
            (0.0, 1.0),
            "never outside"
        );
        let labels: Vec<&str> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
        assert_eq!(labels, ["10 µs", "100 µs", "1 ms", "10 ms", "100 ms"]);
        let short = Axis::log("", 20.0, 90.0, time);
        let labels: Vec<&str> = short
            .ticks
            .iter()
            .map(|(_, label)| label.as_str())
            .collect();
        assert_eq!(labels, ["20 µs", "50 µs", "100 µs"]);
    }

    #[test]
    fn bars_are_as_long_as_their_values_and_names_are_escaped() {
        let head = Head {
            number: 7,
            title: "<title>".to_owned(),
            description: "a & b".to_owned(),
        };
        let bar = |length| Bar {
            label: "\"bar\"".to_owned(),
            parts: vec![("w0", length / 2.0), ("w1", length / 2.0)],
            spread: Some((length * 0.9, length)),
            value: "<1>".to_owned(),
        };
        let groups = [("<group>".to_owned(), vec![bar(100.0), bar(50.0)])];
        let text = bars(&head, &groups, "MB/s");
        // The plot is 370 wide, and 100 is its end.
        assert_eq!(text.matches("width=\"185.0\"").count(), 2, "{text}");
        assert_eq!(text.matches("width=\"92.5\"").count(), 2, "{text}");
        for escaped in [
            "&lt;title&gt;",
            "a &amp; b",
            "&quot;bar&quot;",
            "&lt;1&gt;",
            "&lt;group&gt;",
        ] {
            assert!(text.contains(escaped), "{escaped}: {text}");
        }
        assert!(text.contains("aria-labelledby=\"title7 desc7\""), "{text}");
    }
}
