// SPDX-License-Identifier: GPL-2.0-or-later

//! What the client runs on: a result means something only together with its machine.

use std::fs;
use std::thread;

use serde::Serialize;

/// This machine.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) host: String,
    /// The kernel's name and release.
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    /// The model of the processors; empty if the kernel does not say.
    pub(crate) processor: String,
    /// The number of processors that this process may use.
    pub(crate) processors: usize,
}

impl Machine {
    /// Asks the kernel. What it does not say is empty.
    pub(crate) fn this() -> Self {
        let read = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/kernel/{name}"));
            text.unwrap_or_default().trim().to_owned()
        };
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            host: read("hostname"),
            kernel: format!("{} {}", read("ostype"), read("osrelease"))
                .trim()
                .to_owned(),
            architecture: std::env::consts::ARCH.to_owned(),
            processor: model(&processors).to_owned(),
            processors: thread::available_parallelism().map_or(0, Into::into),
        }
    }
}

/// Returns the model from the text of `/proc/cpuinfo`, whose names for it depend on the architecture.
fn model(text: &str) -> &str {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    let mut pairs = pairs.map(|(name, value)| (name.trim(), value.trim()));
    let found = pairs.find(|(name, _)| ["model name", "cpu", "Model", "uarch"].contains(name));
    found.map_or("", |(_, model)| model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_of_the_processor_has_a_name_of_each_architecture() {
        let x86 = "processor\t: 0\nmodel\t\t: 85\nmodel name\t: Some CPU @ 2.00GHz\n";
        assert_eq!(model(x86), "Some CPU @ 2.00GHz");
        assert_eq!(model("processor : 0\ncpu : POWER9\n"), "POWER9");
        assert_eq!(model("processor : 0\nBogoMIPS : 50.00\n"), "");
        assert_eq!(model(""), "");
    }

    #[test]
    fn this_machine_has_a_kernel_and_processors() {
        let machine = Machine::this();
        assert!(machine.kernel.starts_with("Linux "), "{machine:?}");
        assert!(
            machine.processors > 0 && !machine.host.is_empty(),
            "{machine:?}"
        );
    }
}
