// SPDX-License-Identifier: GPL-2.0-or-later

//! Measures what the smbdirect device costs: a worker, a broker and a client run in separate processes, and each figure
//! is a ratio to a bare figure from the same run.
//!
//! `cargo bench --bench device [-- [operations] [stream] [idle] [--seconds=N] [--json]]`

mod idle;
mod operations;
mod pair;
mod process;
mod stream;

use std::time::Duration;

/// A measured value, and the bare figure with which it is compared.
pub(crate) struct Figure {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// `value` relative to the bare figure of the same run, and the goal, if there is one.
    pub(crate) ratio: Option<f64>,
    pub(crate) goal: Option<Goal>,
}

/// The goal for a figure, or for its ratio if it has one.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    fn is_missed(&self) -> bool {
        let value = self.ratio.unwrap_or(self.value);
        match self.goal {
            Some(Goal::AtLeast(goal)) => value < goal,
            Some(Goal::AtMost(goal)) => value > goal,
            None => false,
        }
    }

    fn json(&self) -> String {
        let number =
            |value: Option<f64>| value.map_or_else(|| "null".into(), |value| format!("{value:.4}"));
        let goal = match self.goal {
            Some(Goal::AtLeast(goal)) => format!("\">= {goal}\""),
            Some(Goal::AtMost(goal)) => format!("\"<= {goal}\""),
            None => "null".into(),
        };
        format!(
            "{{\"what\":\"{}\",\"value\":{:.4},\"unit\":\"{}\",\"ratio\":{},\"goal\":{goal}}}",
            self.what,
            self.value,
            self.unit,
            number(self.ratio)
        )
    }

    fn line(&self) -> String {
        let ratio = self
            .ratio
            .map_or_else(String::new, |ratio| format!("{ratio:.2} x"));
        let goal = match self.goal {
            Some(Goal::AtLeast(goal)) => format!("at least {goal}"),
            Some(Goal::AtMost(goal)) => format!("at most {goal}"),
            None => String::new(),
        };
        let missed = if self.is_missed() { "   MISSED" } else { "" };
        let value = format!("{:.2} {}", self.value, self.unit);
        format!("{:<58}{value:>18}{ratio:>10}   {goal}{missed}", self.what)
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if process::is_child(&args) {
        return;
    }
    let seconds = args
        .iter()
        .find_map(|arg| arg.strip_prefix("--seconds=")?.parse().ok());
    let quick = args.iter().any(|arg| arg == "--test");
    let time = Duration::from_secs_f64(seconds.unwrap_or(if quick { 0.1 } else { 1.0 }));
    let json = args.iter().any(|arg| arg == "--json");

    // If no name is given, all measurements run.
    let names = ["operations", "stream", "idle"];
    let is_named = |name: &str| args.iter().any(|arg| arg == name);
    let wants = |name| is_named(name) || !names.into_iter().any(is_named);
    let mut figures = Vec::new();
    if wants("operations") {
        figures.extend(operations::measure(time));
    }
    if wants("stream") {
        figures.extend(stream::measure(time));
    }
    if wants("idle") {
        figures.extend(idle::measure(if quick { 50 } else { 1000 }, time));
    }
    if json {
        let rows: Vec<String> = figures.iter().map(Figure::json).collect();
        println!("[{}]", rows.join(",\n "));
    } else {
        figures
            .iter()
            .for_each(|figure| println!("{}", figure.line()));
    }
}
