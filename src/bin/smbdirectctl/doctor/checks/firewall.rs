// SPDX-License-Identifier: GPL-2.0-or-later

//! Checks whether a firewall lets in what clients send to the announced addresses: TCP to the port of each address that
//! iWARP serves, and UDP to port 4791 if RoCE in software (rxe) serves one. No firewall of this system sees the packets
//! of RoCE and InfiniBand adapters.
//!
//! The rules are read line by line, as the firewall's program prints them. A rule counts if it names the port alone, or
//! in a list or a range, or if it lets in everything from a part of the network. Which part that is does not count: an
//! administrator who opens a port for a part of the network has a reason. Of the nftables rules, only those that apply
//! to incoming packets count. The order of rules does not count.

mod firewalld;
mod ufw;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;

use smbdirect::broker::PORT;

use super::super::facts::{Facts, Kind, Port};
use super::{Address, Findings, ports_of};

const CHECK: &str = "firewall";

/// A port to which clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    /// `tcp` or `udp`.
    protocol: &'static str,
    port: u16,
}

impl Wanted {
    /// The port that the packages' profiles of ufw and firewalld open.
    const USUAL: Self = Self::tcp(PORT);
    /// The port of RoCE v2.
    const ROCE: Self = Self {
        protocol: "udp",
        port: 4791,
    };

    const fn tcp(port: u16) -> Self {
        Self {
            protocol: "tcp",
            port,
        }
    }

    /// Returns whether a word names the port, alone or in a list or a range, such as `5445/tcp` or `445,5000-6000`.
    fn is_named_by(self, word: &str) -> bool {
        let (ports, protocol) = word.split_once('/').unwrap_or((word, self.protocol));
        let has_port = |range: &str| {
            let (first, last) = range.split_once(['-', ':']).unwrap_or((range, range));
            let [first, last] = [first, last].map(|port| port.parse::<u16>().ok());
            first.is_some_and(|first| first <= self.port)
                && last.is_some_and(|last| self.port <= last)
        };
        protocol == self.protocol && ports.split(',').any(has_port)
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.protocol.to_uppercase(), self.port)
    }
}

pub(super) fn firewall(facts: &Facts, found: &mut Findings) {
    let all = wanted(facts);
    if all.is_empty() {
        return found.ok(
            CHECK,
            "RoCE or InfiniBand adapters serve all addresses: the firewall of this system does not see their packets, \
             but firewalls between machines see RoCE as UDP port 4791",
        );
    }
    let firewall = &facts.firewall;
    let ufw_rules = firewall.ufw.as_ref();
    if let Some(rules) = ufw_rules.filter(|it| it.contains("Status: active")) {
        return all.iter().for_each(|wanted| ufw(rules, *wanted, found));
    }
    if let Some(zones) = &firewall.firewalld {
        let default = firewall.default_zone.as_deref().unwrap_or_default().trim();
        let zones = firewalld::zones(zones, default, &interfaces(facts));
        let Some(first) = zones.first() else {
            return found.skip(CHECK, "the zones of firewalld were not read");
        };
        return all
            .iter()
            .for_each(|wanted| firewalld(&zones, first, *wanted, found));
    }
    match (&firewall.nft, facts.unknown.get(CHECK)) {
        (Some(rules), _) => all
            .iter()
            .for_each(|wanted| nftables(rules, *wanted, found)),
        (None, Some(reason)) => found.skip(CHECK, format!("the rules were not read: {reason}")),
        (None, None) if facts.is_root => {
            found.ok(CHECK, "there is no ufw, firewalld or nft on this machine")
        }
        (None, None) => found.skip(CHECK, "only root can read the firewall's rules"),
    }
}

/// Returns the ports to which clients send; the usual one if no address is announced.
fn wanted(facts: &Facts) -> BTreeSet<Wanted> {
    let addresses = facts.device.iter().flat_map(|device| &device.addresses);
    let addresses: Vec<&Address> = addresses.collect();
    if addresses.is_empty() {
        return [Wanted::USUAL].into();
    }
    let of_address = addresses.into_iter().flat_map(|it| wanted_at(it, facts));
    of_address.collect()
}

fn wanted_at(address: &Address, facts: &Facts) -> Vec<Wanted> {
    let at: Option<SocketAddr> = address.address.parse().ok();
    let tcp = at.map(|at| Wanted::tcp(at.port()));
    if address.fabric != "verbs" {
        return tcp.into_iter().collect();
    }
    let mut ports = ports_of(address, facts);
    if ports.is_empty() {
        // The address may be that of a VLAN or a bond.
        ports = facts.ports.iter().collect();
    }
    let has = |is_it: fn(&Port) -> bool| ports.iter().any(|port| is_it(port));
    let tcp = tcp.filter(|_| has(|port| port.kind == Kind::Iwarp));
    let roce = has(|port| port.is_rxe).then_some(Wanted::ROCE);
    [tcp, roce].into_iter().flatten().collect()
}

/// Returns the interfaces on which clients come; all that may be, if the device does not say.
fn interfaces(facts: &Facts) -> Vec<&str> {
    let addresses = facts.device.iter().flat_map(|device| &device.addresses);
    let announced: Vec<&str> = addresses.filter_map(|it| it.interface.as_deref()).collect();
    if !announced.is_empty() {
        return announced;
    }
    let all = facts.interfaces.iter();
    let outer = all.filter(|(name, it)| *name != "lo" && !it.is_bridge && !it.addresses.is_empty());
    outer.map(|(name, _)| name.as_str()).collect()
}

fn ufw(rules: &str, wanted: Wanted, found: &mut Findings) {
    if ufw::lets_in(rules, wanted) {
        return found.ok(CHECK, format!("ufw lets {wanted} in"));
    }
    let rule = match wanted {
        Wanted::USUAL => "\"SMB Direct\"".to_owned(),
        Wanted { protocol, port } => format!("{port}/{protocol}"),
    };
    found.warn(
        CHECK,
        format!("ufw does not let {wanted} in"),
        &format!("ufw allow {rule}"),
    );
}

/// Judges the zones of firewalld in which clients are.
fn firewalld(
    zones: &[firewalld::Zone<'_>],
    first: &firewalld::Zone<'_>,
    wanted: Wanted,
    found: &mut Findings,
) {
    if let Some(zone) = zones.iter().find(|zone| zone.lets_in(wanted)) {
        let message = format!("firewalld lets {wanted} in, in its zone {}", zone.name);
        return found.ok(CHECK, message);
    }
    let names: Vec<&str> = zones.iter().map(|zone| zone.name).collect();
    let (names, name) = (names.join(" or "), first.name);
    let rule = match wanted {
        Wanted::USUAL => "--add-service=smbdirect".to_owned(),
        Wanted { protocol, port } => format!("--add-port={port}/{protocol}"),
    };
    found.warn(
        CHECK,
        format!("firewalld does not let {wanted} in, in its zone {names}"),
        &format!("firewall-cmd --permanent --zone={name} {rule} && firewall-cmd --reload"),
    );
}

/// Judges the output of `nft list ruleset`.
fn nftables(rules: &str, wanted: Wanted, found: &mut Findings) {
    let input = input_rules(rules, wanted);
    let does = |verdicts: &[&str]| {
        let mut of_port = input.iter().flat_map(|rule| rule.verdict(wanted));
        of_port.any(|word| verdicts.contains(&word))
    };
    if does(&["accept"]) {
        found.ok(CHECK, format!("nftables accepts {wanted}"));
    } else if does(&["drop", "reject"]) {
        found.warn(
            CHECK,
            format!("a rule of nftables refuses {wanted}"),
            "nft list ruleset shows it",
        );
    } else if input.iter().any(|rule| accepts_a_network(&rule.text)) {
        found.ok(
            CHECK,
            "nftables accepts all packets from a part of the network",
        );
    } else if input.iter().any(|rule| drops_the_rest(&rule.text)) {
        let Wanted { protocol, port } = wanted;
        found.warn(
            CHECK,
            format!("nftables drops incoming packets by default, and has no rule that accepts {wanted}"),
            &format!(
                "nft add rule inet filter input {protocol} dport {port} accept (with the names of your table and chain)"
            ),
        );
    } else {
        found.ok(CHECK, format!("no default of nftables refuses {wanted}"));
    }
}

fn words(rule: &str) -> impl Iterator<Item = &str> {
    let words = rule.split([' ', '\t', ',', ';', '{', '}']);
    words.filter(|word| !word.is_empty())
}

/// A rule of nftables that applies to incoming packets.
struct Rule {
    /// The rule, with the elements of named sets and maps in place of their names.
    text: String,
    /// Only packets to the port come to this rule.
    of_port: bool,
}

impl Rule {
    /// Returns the words of what the rule does with packets to the port; none if it is about other packets.
    fn verdict(&self, wanted: Wanted) -> impl Iterator<Item = &str> {
        let of_port = match nft_port(&self.text, wanted) {
            None if self.of_port && is_for_all(&self.text) => Some(&*self.text),
            verdict => verdict,
        };
        of_port.into_iter().flat_map(words)
    }
}

/// Returns whether a rule has no condition.
fn is_for_all(rule: &str) -> bool {
    let begins = words(rule).next();
    begins.is_some_and(|word| ["accept", "drop", "reject", "counter", "log"].contains(&word))
}

/// Returns the part of a rule that says what becomes of packets to the port: of `tcp dport 5445 accept` or
/// `tcp dport { 445, 5445 } accept` all of it, of `tcp dport vmap { 22 : drop, 5445 : accept }` one element. Returns
/// `None` if the rule does not name the port.
fn nft_port(rule: &str, wanted: Wanted) -> Option<&str> {
    let (before, ports) = rule.split_once("dport ")?;
    let before = before.trim_end();
    if !before.ends_with(wanted.protocol) && !before.ends_with("th") {
        return None;
    }
    let first = ports.split([' ', '\t']).next()?;
    if first.starts_with(|first: char| first.is_ascii_digit()) {
        return wanted.is_named_by(first).then_some(rule);
    }
    // A dot joins the port with something else, as in `tcp dport . ip saddr { 5445 . 10.0.0.1 }`.
    if !["{", "vmap", "."].contains(&first) {
        return None;
    }
    let (_, elements) = ports.split_once('{')?;
    let (elements, _) = elements.split_once('}')?;
    let mut elements = elements.split(',');
    // What follows the key of an element begins with a letter or a colon.
    let is_key =
        |word: &&str| word.starts_with(|first: char| first.is_ascii_digit() || first == '.');
    let element = elements.find(|element| {
        let mut keys = words(element).take_while(is_key);
        keys.any(|key| wanted.is_named_by(key))
    })?;
    match ports.split_once('{') {
        Some((to, _)) if words(to).any(|word| word == "vmap") => Some(element),
        _ => Some(rule),
    }
}

/// The rules of each chain and the elements of each named set and map, by table and name.
#[derive(Default)]
struct Ruleset<'a> {
    chains: BTreeMap<(&'a str, &'a str), Vec<&'a str>>,
    elements: BTreeMap<(&'a str, &'a str), String>,
}

impl<'a> Ruleset<'a> {
    fn read(rules: &'a str) -> Self {
        let mut all = Self::default();
        let (mut table, mut chain, mut set) = ("", Some(""), None);
        for line in rules.lines().map(str::trim) {
            let block = |kind: &str| line.strip_prefix(kind)?.strip_suffix(" {");
            if let Some(name) = block("table ") {
                (table, chain, set) = (name, None, None);
            } else if let Some(name) = block("chain ") {
                chain = Some(name);
            } else if let Some(name) = block("set ").or_else(|| block("map ")) {
                set = Some(name);
            } else if line == "}" {
                (chain, set) = (None, None);
            } else if let Some(set) = set {
                // The list of elements goes on over several lines, after lines about the set itself.
                let elements = line.strip_prefix("elements = {");
                let known = all.elements.entry((table, set)).or_default();
                if elements.is_some() || !known.is_empty() {
                    let line = elements.unwrap_or(line).trim_end_matches('}');
                    known.push_str(line);
                    known.push(' ');
                }
            } else if let Some(chain) = chain {
                all.chains.entry((table, chain)).or_default().push(line);
            }
        }
        all
    }

    /// Puts the elements of named sets and maps in place of their names.
    fn resolved(&self, table: &str, rule: &str) -> String {
        let word = |word: &str| {
            let name = word.strip_prefix('@');
            let elements = name.and_then(|name| self.elements.get(&(table, name)));
            elements.map_or_else(|| word.to_owned(), |all| format!("{{ {all}}}"))
        };
        let words: Vec<String> = rule.split(' ').map(word).collect();
        words.join(" ")
    }
}

/// Returns the rules that apply to incoming packets: those of chains with the hook `input`, and those of chains to
/// which these jump.
fn input_rules(rules: &str, wanted: Wanted) -> Vec<Rule> {
    let rules = Ruleset::read(rules);
    let is_of_ip = |table: &str| {
        !["arp ", "bridge ", "netdev "]
            .iter()
            .any(|family| table.starts_with(family))
    };
    let is_base = |rules: &[&str]| rules.iter().any(|rule| rule.contains("hook input"));
    let base = rules
        .chains
        .iter()
        .filter(|((table, _), rules)| is_of_ip(table) && is_base(rules));
    let mut reached: Vec<(&str, String, bool)> = base
        .map(|((table, chain), _)| (*table, (*chain).to_owned(), false))
        .collect();
    let mut found = Vec::new();
    let mut next = 0;
    while let Some((table, chain, of_port)) = reached.get(next).cloned() {
        next += 1;
        for rule in rules.chains.get(&(table, &*chain)).into_iter().flatten() {
            let text = rules.resolved(table, rule);
            let to_port: Vec<&str> = nft_port(&text, wanted)
                .into_iter()
                .flat_map(targets)
                .collect();
            for target in targets(&text) {
                let of_port = of_port || to_port.contains(&target);
                let target = (table, target.to_owned(), of_port);
                if !reached.contains(&target) {
                    reached.push(target);
                }
            }
            found.push(Rule { text, of_port });
        }
    }
    found
}

/// Returns the chains to which a rule, or an element of a verdict map, jumps.
fn targets(rule: &str) -> impl Iterator<Item = &str> {
    let mut before = "";
    words(rule).filter(move |word| {
        let is_target = ["jump", "goto"].contains(&before);
        before = *word;
        is_target
    })
}

/// Returns whether a rule accepts all packets of some networks or interfaces, such as `ip saddr 10.0.0.0/8 accept`, but
/// not only those of this machine itself.
fn accepts_a_network(rule: &str) -> bool {
    const NARROWER: [&str; 10] = [
        "dport", "sport", "ct", "icmp", "icmpv6", "udp", "protocol", "nexthdr", "l4proto", "limit",
    ];
    let has = |wanted: &[&str]| words(rule).any(|word| wanted.contains(&word));
    let is_own = rule.contains("127.0.0.") || has(&["lo", "\"lo\"", "::1"]);
    has(&["accept"]) && has(&["saddr", "iif", "iifname"]) && !is_own && !has(&NARROWER)
}

/// Returns whether a line is the policy to drop packets, or a rule that refuses all packets that come to it.
fn drops_the_rest(rule: &str) -> bool {
    let refuses = words(rule).any(|word| ["drop", "reject"].contains(&word));
    rule.contains("policy drop") || is_for_all(rule) && refuses
}

#[cfg(test)]
mod tests {
    use super::super::super::Verdict;
    use super::*;

    #[test]
    fn ports_are_whole_words_and_ranges() {
        for word in [
            "5445",
            "5445/tcp",
            "445,5445/tcp",
            "5000-6000/tcp",
            "22,5000:6000",
        ] {
            assert!(Wanted::USUAL.is_named_by(word), "{word}");
        }
        for word in [
            "15445",
            "54450/tcp",
            "5445/udp",
            "6000-7000",
            "445",
            "10.0.0.0/8",
            "tcp",
            "",
        ] {
            assert!(!Wanted::USUAL.is_named_by(word), "{word}");
        }
    }

    #[test]
    fn rules_that_were_not_read_are_not_judged() {
        let mut facts = Facts {
            is_root: true,
            ..Facts::default()
        };
        let judge = |facts: &Facts| {
            let mut found = Findings::default();
            firewall(facts, &mut found);
            found.0.remove(0)
        };
        assert_eq!(judge(&facts).result, Verdict::Ok);
        let reason = "/usr/sbin/nft did not end within 10s".to_owned();
        facts.unknown.insert(CHECK, reason);
        let finding = judge(&facts);
        assert_eq!(finding.result, Verdict::Skipped);
        assert!(finding.message.contains("nft did not end"), "{finding:?}");
    }

    #[test]
    fn nftables_is_open_if_a_rule_accepts_the_port() {
        let judge = |policy: &str, rule: &str| {
            let mut found = Findings::default();
            let hook = format!("type filter hook input priority 0; policy {policy};");
            nftables(
                &format!("\t\t{hook}\n\t\t{rule}\n"),
                Wanted::USUAL,
                &mut found,
            );
            found.0.remove(0).cure.is_none()
        };
        for rule in [
            "tcp dport 5445 accept",
            "tcp dport { 22, 445, 5445 } accept",
            "ip saddr 10.0.0.0/8 tcp dport 5000-6000 counter packets 1 bytes 2 accept",
            "meta l4proto { tcp, udp } th dport 5445 accept",
            "tcp dport vmap { 22 : accept, 5445 : accept }",
            "tcp dport . ip saddr { 22 . 10.0.0.1, 5445 . 10.0.0.1 } accept",
            "ip saddr . tcp dport { 10.0.0.1 . 5445 } accept",
            "tcp dport { 5000-6000 counter packets 1 bytes 2 } accept",
        ] {
            assert!(judge("drop", rule), "{rule}");
        }
        for rule in [
            "",
            "tcp dport 5445 drop",
            "tcp dport 15445 accept",
            "udp dport 5445 accept",
            "tcp dport 22 counter packets 5445 bytes 1 accept",
            "tcp dport != 5445 accept",
            "tcp dport != { 5445 } accept",
            "tcp dport vmap { 22 : accept, 5445 : drop }",
            "tcp dport { 22 counter packets 5445 bytes 1 } accept",
        ] {
            assert!(!judge("drop", rule), "{rule}");
        }
        assert!(judge("accept", ""));
        for rule in [
            "tcp dport 5445 reject with tcp reset",
            "drop",
            "counter packets 7 bytes 900 drop",
            "log prefix \"dropped: \" reject",
            "reject with icmpx admin-prohibited",
        ] {
            assert!(!judge("accept", rule), "{rule}");
        }
        assert!(judge("accept", "ip saddr 192.0.2.0/24 drop"));
        for rule in [
            "ip saddr 10.0.0.0/8 accept",
            "iifname \"eth1\" counter packets 1 bytes 2 accept",
        ] {
            assert!(judge("drop", rule), "{rule}");
        }
        for rule in [
            "iifname \"lo\" accept",
            "iif lo accept",
            "ip saddr 10.0.0.0/8 tcp dport 22 accept",
        ] {
            assert!(!judge("drop", rule), "{rule}");
        }
    }

    #[test]
    fn nftables_is_judged_for_the_port_that_is_wanted() {
        let judge = |rule: &str, wanted: Wanted| {
            let mut found = Findings::default();
            let hook = "type filter hook input priority 0; policy drop;";
            nftables(&format!("\t\t{hook}\n\t\t{rule}\n"), wanted, &mut found);
            found.0.remove(0)
        };
        for (rule, wanted, is_open) in [
            ("udp dport 4791 accept", Wanted::ROCE, true),
            ("udp dport { 53, 4000-5000 } accept", Wanted::ROCE, true),
            (
                "meta l4proto { tcp, udp } th dport 4791 accept",
                Wanted::ROCE,
                true,
            ),
            ("tcp dport 4791 accept", Wanted::ROCE, false),
            ("tcp dport 6000 accept", Wanted::tcp(6000), true),
            ("tcp dport 5445 accept", Wanted::tcp(6000), false),
        ] {
            let finding = judge(rule, wanted);
            assert_eq!(finding.cure.is_none(), is_open, "{rule} {finding:?}");
            assert!(finding.message.contains(&wanted.to_string()), "{finding:?}");
        }
        let closed = judge("", Wanted::ROCE).cure.expect("a cure");
        assert!(closed.contains("input udp dport 4791 accept"), "{closed}");
    }

    #[test]
    fn only_rules_that_incoming_packets_meet_count() {
        let judge = |rules: &str| {
            let mut found = Findings::default();
            nftables(rules, Wanted::USUAL, &mut found);
            found.0.remove(0).cure.is_none()
        };
        let input = "chain input {\n type filter hook input priority 0; policy drop;\n";
        let open = "tcp dport 5445 accept\n";
        for (rules, is_open) in [
            (format!("table inet a {{\n {input} jump smb\n }}\n chain smb {{\n {open} }}\n}}\n"), true),
            (format!("table inet a {{\n {input} tcp dport vmap {{ 22 : jump ssh, 445 : goto smb }}\n }}\n \
                      chain smb {{\n {open} }}\n}}\n"), true),
            (format!("table inet a {{\n {input} }}\n chain smb {{\n {open} }}\n}}\n"), false),
            (format!("table inet a {{\n {input} jump smb\n }}\n}}\ntable ip b {{\n chain smb {{\n {open} }}\n}}\n"), false),
            (format!("table inet a {{\n {input} }}\n chain output {{\n type filter hook output priority 0;\n {open} }}\n}}\n"),
             false),
            (format!("table bridge a {{\n {input} }}\n}}\n"), true),
            ("table inet a {\n chain forward {\n type filter hook forward priority 0; policy drop;\n }\n}\n".to_owned(), true),
            ("table inet a {\n chain x {\n jump x\n drop\n }\n}\n".to_owned(), true),
            (String::new(), true),
        ] {
            assert_eq!(judge(&rules), is_open, "{rules}");
        }
    }
    #[test]
    fn named_sets_and_maps_stand_for_their_elements() {
        let judge = |sets: &str, policy: &str, rule: &str| {
            let mut found = Findings::default();
            let rules = format!(
                "table inet a {{\n{sets}\tchain input {{\n\t\ttype filter hook input priority 0; policy {policy};\n\
                 \t\t{rule}\n\t}}\n\tchain smb {{\n\t\taccept\n\t}}\n\tchain ssh {{\n\t\tdrop\n\t}}\n}}\n"
            );
            nftables(&rules, Wanted::USUAL, &mut found);
            found.0.remove(0).cure.is_none()
        };
        // As nft prints them.
        let smb = "\tset smb {\n\t\ttype inet_service\n\t\tflags interval\n\t\telements = { 445, 1000-2000,\n\
                   \t\t\t     5445 }\n\t}\n\n";
        let ssh = "\tset ssh {\n\t\ttype inet_service\n\t\telements = { 22 }\n\t}\n\n";
        let none = "\tset none {\n\t\ttype inet_service\n\t}\n\n";
        let sets = [smb, ssh, none].concat();
        for (rule, is_open) in [
            ("tcp dport @smb accept", true),
            ("tcp dport @ssh accept", false),
            ("tcp dport @none accept", false),
            ("tcp dport @elsewhere accept", false),
            ("tcp dport != @ssh drop", false),
        ] {
            assert_eq!(judge(&sets, "drop", rule), is_open, "{rule}");
        }
        assert!(!judge(&sets, "accept", "tcp dport @smb drop"));
        assert!(judge(&sets, "accept", "tcp dport @ssh drop"));
        let map = |elements: &str| {
            format!(
                "\tmap ports {{\n\t\ttype inet_service : verdict\n\t\telements = {{ {elements} }}\n\t}}\n\n"
            )
        };
        for (elements, drops, accepts) in [
            ("22 : drop, 5445 : accept", true, true),
            ("22 : accept, 5445 : drop", false, false),
            ("22 : accept,\n\t\t\t     5445 : drop", false, false),
            ("22 : jump ssh, 5445 : jump smb", true, true),
            ("22 : jump smb, 5445 : jump ssh", false, false),
            ("5445 comment \"shares\" : goto smb", true, true),
            ("22 : drop", false, true),
        ] {
            let rule = "tcp dport vmap @ports";
            let is_open = |policy| judge(&map(elements), policy, rule);
            assert_eq!(
                (is_open("drop"), is_open("accept")),
                (drops, accepts),
                "{elements}"
            );
        }
        // The rule of a chain that all packets reach.
        let zones = "\tmap zones {\n\t\ttype ifname : verdict\n\t\telements = { \"eth1\" : jump lan }\n\t}\n\n\
                     \tchain lan {\n\t\ttcp dport @smb accept\n\t}\n";
        assert!(judge(&[zones, smb].concat(), "drop", "iifname vmap @zones"));
    }
}
