// SPDX-License-Identifier: GPL-2.0-or-later

//! Reads the output of `firewall-cmd --list-all-zones`: zones, each a line with its name, and then lines with a name, a
//! colon and words, the last of which are its rich rules.

use super::Wanted;

/// A zone.
#[derive(Clone, Debug)]
pub(super) struct Zone<'a> {
    pub(super) name: &'a str,
    lines: Vec<&'a str>,
}

/// Returns the zones that apply to packets from clients, which come on these interfaces: those of the interfaces, those
/// of networks, and, if an interface is in none, the default zone.
pub(super) fn zones<'a>(text: &'a str, default: &str, interfaces: &[&str]) -> Vec<Zone<'a>> {
    let mut all: Vec<Zone<'a>> = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        match all.last_mut() {
            Some(zone) if line.starts_with([' ', '\t']) => zone.lines.push(line.trim()),
            // The name may be followed by `(active)`.
            _ => all.push(Zone {
                name: line.split(' ').next().unwrap_or_default(),
                lines: Vec::new(),
            }),
        }
    }
    let has_zone = |interface: &&str| all.iter().any(|zone| zone.has_interface(interface));
    let uses_default = interfaces.is_empty() || !interfaces.iter().all(has_zone);
    let applies = |zone: &&Zone<'a>| {
        let mut interfaces = interfaces.iter();
        zone.has("sources:", |_| true)
            || interfaces.any(|interface| zone.has_interface(interface))
            || uses_default && zone.name == default
    };
    all.iter().filter(applies).cloned().collect()
}

impl Zone<'_> {
    /// Returns whether a line of this name has such a word.
    fn has(&self, name: &str, is_it: impl Fn(&str) -> bool) -> bool {
        let words = self.lines.iter().find_map(|line| line.strip_prefix(name));
        words.is_some_and(|words| words.split_whitespace().any(is_it))
    }

    fn has_interface(&self, name: &str) -> bool {
        self.has("interfaces:", |interface| interface == name)
    }

    /// Returns whether the zone lets packets to the port in.
    pub(super) fn lets_in(&self, wanted: Wanted) -> bool {
        self.has("ports:", |word| wanted.is_named_by(word))
            || self.has("services:", |word| is_service(word, wanted))
            || self.has("protocols:", |word| word == wanted.protocol)
            || self.has("target:", |word| word == "ACCEPT")
            || self.lines.iter().any(|line| accepts(line, wanted))
    }
}

/// Returns whether a service that the packages define has the port.
fn is_service(name: &str, wanted: Wanted) -> bool {
    name == "smbdirect" && wanted == Wanted::USUAL
}

/// Returns whether a line is a rich rule that accepts packets to the port, or all packets of a part of the network.
fn accepts(rule: &str, wanted: Wanted) -> bool {
    let mut words = rule.split_whitespace();
    if words.next() != Some("rule") || !words.any(|word| word == "accept") {
        return false;
    }
    let has = |element: &str| rule.split_whitespace().any(|word| word == element);
    let value = |name: &str| {
        let mut words = rule.split_whitespace();
        words.find_map(|word| {
            word.strip_prefix(name)?
                .strip_prefix("=\"")?
                .strip_suffix('"')
        })
    };
    if has("port") {
        value("protocol") == Some(wanted.protocol)
            && value("port").is_some_and(|ports| wanted.is_named_by(ports))
    } else if has("service") {
        value("name").is_some_and(|name| is_service(name, wanted))
    } else if has("protocol") {
        value("value") == Some(wanted.protocol)
    } else {
        // A rule without an element is for all packets, from a source if there is one.
        has("source") && !has("source-port") && !has("icmp-type")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What firewalld 1.3 prints of a zone.
    fn zone(
        head: &str,
        (interfaces, sources): (&str, &str),
        services: &str,
        rules: &str,
    ) -> String {
        format!(
            "{head}\n  target: default\n  icmp-block-inversion: no\n  interfaces: {interfaces}\n  sources: {sources}\n  \
             services: {services}\n  ports: \n  protocols: \n  forward: yes\n  masquerade: no\n  forward-ports: \n  \
             source-ports: \n  icmp-blocks: \n  rich rules: {rules}\n\n"
        )
    }

    /// Returns the zones that apply to clients that come on `eth0` and `eth1`, and whether each lets them in.
    fn judged<'a>(text: &'a str, default: &str) -> Vec<(&'a str, bool)> {
        let zones = zones(text, default, &["eth0", "eth1"]);
        zones
            .iter()
            .map(|zone| (zone.name, zone.lets_in(Wanted::USUAL)))
            .collect()
    }

    #[test]
    fn a_zone_is_open_if_it_has_the_port() {
        let closed = zone(
            "public (active)",
            ("eth0 eth1", ""),
            "dhcpv6-client ssh",
            "",
        );
        for (old, new, is_open) in [
            ("", "", false),
            ("ssh\n", "smbdirect ssh\n", true),
            ("  ports: ", "  ports: 445/tcp 5445/tcp", true),
            ("  ports: ", "  ports: 5000-6000/tcp", true),
            ("  ports: ", "  ports: 15445/tcp 5445/udp", false),
            ("source-ports: ", "source-ports: 5445/tcp", false),
            (
                "forward-ports: ",
                "forward-ports: \n\tport=5445:proto=tcp:toport=22:toaddr=",
                false,
            ),
            ("  protocols: ", "  protocols: tcp", true),
            ("target: default", "target: ACCEPT", true),
            ("target: default", "target: %%REJECT%%", false),
        ] {
            let text = closed.replacen(old, new, 1);
            assert_eq!(judged(&text, "public"), [("public", is_open)], "{text}");
        }
    }

    #[test]
    fn rich_rules_open_ports() {
        for (rule, is_open) in [
            (
                "rule family=\"ipv4\" source address=\"10.0.0.0/8\" port port=\"5445\" protocol=\"tcp\" accept",
                true,
            ),
            (
                "rule priority=\"-1\" family=\"ipv6\" port port=\"5000-6000\" protocol=\"tcp\" log level=\"info\" accept",
                true,
            ),
            (
                "rule service name=\"smbdirect\" accept limit value=\"10/m\"",
                true,
            ),
            (
                "rule family=\"ipv4\" source address=\"10.0.0.0/8\" accept",
                true,
            ),
            ("rule protocol value=\"tcp\" accept", true),
            (
                "rule family=\"ipv4\" port port=\"5445\" protocol=\"udp\" accept",
                false,
            ),
            (
                "rule family=\"ipv4\" port port=\"15445\" protocol=\"tcp\" accept",
                false,
            ),
            (
                "rule family=\"ipv4\" port port=\"5445\" protocol=\"tcp\" reject",
                false,
            ),
            (
                "rule family=\"ipv4\" source address=\"10.0.0.0/8\" service name=\"ssh\" accept",
                false,
            ),
            (
                "rule family=\"ipv4\" source address=\"10.0.0.0/8\" drop",
                false,
            ),
            (
                "rule family=\"ipv4\" source-port port=\"5445\" protocol=\"tcp\" accept",
                false,
            ),
            ("rule protocol value=\"icmp\" accept", false),
        ] {
            let others = "rule service name=\"ssh\" accept";
            let rules = format!("\n\t{others}\n\t{rule}");
            let text = zone("public (active)", ("eth0 eth1", ""), "ssh", &rules);
            assert_eq!(judged(&text, "public"), [("public", is_open)], "{rule}");
        }
    }

    #[test]
    fn all_zones_count_in_which_clients_are() {
        let none = ("", "");
        let block = zone("block", none, "", "").replace("default", "%%REJECT%%");
        let trusted =
            |places| zone("trusted (active)", places, "", "").replace("default", "ACCEPT");
        let public = |places| zone("public (active)", places, "ssh", "");
        let docker = zone("docker (active)", ("docker0", ""), "", "").replace("default", "ACCEPT");
        for (zones, judged_as) in [
            // The interfaces have a zone each.
            (
                [public(("eth0", "")), trusted(("eth1", ""))],
                vec![("public", false), ("trusted", true)],
            ),
            // One interface is in no zone, and so in the default zone.
            (
                [public(none), trusted(("eth1", ""))],
                vec![("public", false), ("trusted", true)],
            ),
            // A zone is for a network.
            (
                [public(("eth0 eth1", "")), trusted(("", "10.0.0.0/8"))],
                vec![("public", false), ("trusted", true)],
            ),
            // Clients do not come by lo.
            (
                [public(("eth0 eth1", "")), trusted(("lo", ""))],
                vec![("public", false)],
            ),
            // The default zone is for no interface of clients.
            (
                [public(none), trusted(("eth0 eth1", ""))],
                vec![("trusted", true)],
            ),
        ] {
            let text = format!("{block}{docker}{}", zones.concat());
            assert_eq!(judged(&text, "public"), judged_as, "{text}");
        }
        // Newer versions mark the default zone.
        let text = zone(
            "public (default, active)",
            ("eth0 eth1", ""),
            "smbdirect",
            "",
        );
        assert_eq!(judged(&text, "public"), [("public", true)]);
        assert_eq!(zones("", "public", &["eth0"]).len(), 0);
    }

    #[test]
    fn is_judged_for_the_port_that_is_wanted() {
        let with = |services: &str, rules: &str, ports: &str| {
            let text = zone("public (active)", ("eth0 eth1", ""), services, rules);
            text.replacen("  ports: ", &format!("  ports: {ports}"), 1)
        };
        let rule = "\n\trule family=\"ipv4\" port port=\"4791\" protocol=\"udp\" accept";
        for (text, wanted, is_open) in [
            (with("ssh", "", "4791/udp"), Wanted::ROCE, true),
            (with("ssh", rule, ""), Wanted::ROCE, true),
            (with("smbdirect", "", "4791/tcp"), Wanted::ROCE, false),
            (with("smbdirect", "", "6000/tcp"), Wanted::tcp(6000), true),
            (with("smbdirect", rule, ""), Wanted::tcp(6000), false),
        ] {
            let zones = zones(&text, "public", &["eth0"]);
            assert_eq!(zones[0].lets_in(wanted), is_open, "{wanted} {text}");
        }
    }
}
