// SPDX-License-Identifier: GPL-2.0-or-later

//! The results as a table for people.

use std::fmt::{self, Display};

use super::{Report, Row, size};

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "SMB {}, {}; TCP at {}",
            self.dialect,
            self.protection(),
            self.server
        )?;
        if let Some(address) = &self.smb_direct {
            writeln!(f, "SMB Direct at {address}, {}", self.session())?;
        }
        // The server's processes are not visible from everywhere.
        let names: Vec<&str> = ["client", "smbdirectd", "smbd"]
            .into_iter()
            .filter(|name| {
                let mut cpus = self.cases.iter().flat_map(Row::cpu);
                cpus.any(|(known, _)| known == *name)
            })
            .collect();
        let heading = format!("CPU s/GiB: {}", names.join(", "));
        writeln!(
            f,
            "\n{:<10} {:<5} {:>7} {:>7} {:>5} {:>8} {:>15} {:>7} {:>7} {:>7} {:>7} {:>8}  {heading}",
            "transport",
            "what",
            "channel",
            "size",
            "depth",
            "MB/s",
            "least - most",
            "p50 us",
            "p90",
            "p99",
            "p99.9",
            "max",
        )?;
        for row in &self.cases {
            write!(
                f,
                "{:<10} {:<5} {:>7} {:>7} {:>5} {:>8.1} {:>15}",
                row.transport.name(),
                row.operation.name(),
                row.channel,
                size(row.size.into()),
                row.depth,
                row.megabytes_per_second,
                format!(
                    "{:.1} - {:.1}",
                    row.megabytes_per_second_least, row.megabytes_per_second_most
                ),
            )?;
            for (name, latency) in row.latencies() {
                let width = if name == "max" { 8 } else { 7 };
                write!(f, " {latency:>width$.0}")?;
            }
            let cpu = row.cpu();
            let cpu = names.iter().map(|name| {
                let found = cpu.iter().find(|(known, _)| known == name);
                found.map_or_else(|| "-".to_owned(), |(_, cpu)| format!("{cpu:.3}"))
            });
            let cpu: Vec<String> = cpu.collect();
            writeln!(f, "  {}", cpu.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::report::tests::report;

    #[test]
    fn the_table_has_the_percentiles_and_the_processes_that_are_known() {
        let text = report().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert!(
            lines[3].contains("p99.9      max  CPU s/GiB: client, smbd"),
            "{text}"
        );
        assert!(
            lines[4].starts_with("tcp        read        0 1000000     1    110.0   100.0 - 120.0"),
            "{text}"
        );
        assert!(lines[4].contains("   10000  "), "{text}");
    }
}
