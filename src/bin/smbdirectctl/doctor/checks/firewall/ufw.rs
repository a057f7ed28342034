// SPDX-License-Identifier: GPL-2.0-or-later

//! Judges the output of `ufw status verbose`, in which a rule is a line such as `5445/tcp  ALLOW IN  Anywhere`: to where,
//! what happens, from where.

use std::net::IpAddr;

use super::Wanted;

/// Returns whether ufw lets packets to the port in.
pub(super) fn lets_in(rules: &str, wanted: Wanted) -> bool {
    let allows = |action: &str| {
        let mut rules = of(rules, action);
        rules.any(|(to, from)| names(to, wanted) || is_for_all(to, from, wanted.protocol))
    };
    let denies = |action: &str| of(rules, action).any(|(to, _)| names(to, wanted));
    let has = |line: &str| rules.contains(line);
    let refuses = denies(" DENY IN")
        || denies(" REJECT IN")
        || has("Default: deny (incoming)")
        || has("Default: reject (incoming)");
    allows(" ALLOW IN") || allows(" LIMIT IN") || !refuses
}

/// Returns to where and from where each rule with this action applies, unless it is only for this machine itself.
fn of<'a>(rules: &'a str, action: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let rules = rules
        .lines()
        .filter_map(move |rule| rule.split_once(action));
    rules.filter(|(to, _)| !to.trim_end().ends_with(" on lo"))
}

/// Returns whether a rule is for packets to the port.
fn names(to: &str, wanted: Wanted) -> bool {
    let has_profile = wanted == Wanted::USUAL && to.contains("SMB Direct");
    has_profile || to.split_whitespace().any(|word| wanted.is_named_by(word))
}

/// Returns whether a rule is for all packets of a protocol from a part of the network. The rules of `ufw allow from
/// 10.0.0.0/8` and `ufw allow in on eth1` are; their text does not name a port.
fn is_for_all(to: &str, from: &str, protocol: &str) -> bool {
    // A comment may follow, and (v6) or (log).
    let (to, _) = to.split_once(" on ").unwrap_or((to, ""));
    let (from, _) = from.split_once('#').unwrap_or((from, ""));
    [to, from].into_iter().all(|side| {
        let mut words = side.split_whitespace().filter(|it| !it.starts_with('('));
        words.next().is_some_and(|it| is_place(it, protocol)) && words.next().is_none()
    })
}

/// Returns whether a word names hosts, such as `Anywhere`, `10.0.0.0/8` or `10.0.0.0/8/tcp`, and neither a port nor
/// another protocol.
fn is_place(word: &str, protocol: &str) -> bool {
    let mut parts = word.split('/');
    let place = parts.next().unwrap_or_default();
    let ip: Option<IpAddr> = place.parse().ok();
    let is_host = ip.is_some_and(|ip| !ip.is_loopback() && !ip.is_multicast());
    let is_place = place == "Anywhere" || is_host;
    is_place && parts.all(|part| part == protocol || part.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::Wanted;

    fn lets_in(rules: &str) -> bool {
        super::lets_in(rules, Wanted::USUAL)
    }

    /// What ufw prints before the rules.
    const CLOSED: &str = "\
Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), disabled (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
22/tcp (OpenSSH)           ALLOW IN    Anywhere
22/tcp (OpenSSH (v6))      ALLOW IN    Anywhere (v6)
";

    #[test]
    fn is_open_if_a_rule_allows_the_port() {
        let open = CLOSED.replace("deny (incoming)", "allow (incoming)");
        assert!(!lets_in(CLOSED) && lets_in(&open));
        for (rule, is_open) in [
            ("5445/tcp                   ALLOW IN    Anywhere", true),
            ("5445/tcp (SMB Direct)      ALLOW IN    10.0.0.0/8", true),
            ("5445/tcp (SMB Direct (v6)) ALLOW IN    Anywhere (v6)", true),
            ("445,5445/tcp               LIMIT IN    Anywhere", true),
            ("10.0.0.1 5445/tcp on eth1  ALLOW IN    Anywhere", true),
            ("5445/tcp on lo             ALLOW IN    Anywhere", false),
            ("15445                      ALLOW IN    Anywhere", false),
            ("5445/tcp                   DENY IN     Anywhere", false),
            ("5445/udp                   ALLOW IN    Anywhere", false),
            ("5445/tcp                   ALLOW OUT   Anywhere", false),
            (
                "22/tcp                     ALLOW IN    Anywhere                   # 5445",
                false,
            ),
        ] {
            assert_eq!(lets_in(&format!("{CLOSED}{rule}\n")), is_open, "{rule}");
        }
        let denied = "5445/tcp                   DENY IN     Anywhere\n";
        assert!(!lets_in(&format!("{open}{denied}")));
    }

    #[test]
    fn is_open_for_a_part_of_the_network_if_a_rule_allows_all_from_there() {
        for (rule, is_open) in [
            ("Anywhere                   ALLOW IN    10.0.0.0/8", true),
            ("Anywhere                   ALLOW IN    fd00::/8", true),
            ("Anywhere on eth1           ALLOW IN    Anywhere", true),
            ("Anywhere (v6) on eth1      ALLOW IN    Anywhere (v6)", true),
            (
                "Anywhere                   ALLOW IN    10.0.0.7                   (log)",
                true,
            ),
            (
                "Anywhere                   ALLOW IN    10.0.0.0/8                 # 22/tcp",
                true,
            ),
            ("10.0.0.1                   ALLOW IN    10.0.0.0/8", true),
            ("Anywhere/tcp               ALLOW IN    Anywhere", true),
            (
                "Anywhere                   LIMIT IN    10.0.0.0/8/tcp",
                true,
            ),
            ("Anywhere on lo             ALLOW IN    Anywhere", false),
            (
                "Anywhere (v6) on lo        ALLOW IN    Anywhere (v6)",
                false,
            ),
            ("Anywhere                   ALLOW IN    127.0.0.1", false),
            ("224.0.0.251                ALLOW IN    Anywhere", false),
            ("Anywhere/udp               ALLOW IN    Anywhere", false),
            (
                "Anywhere                   ALLOW IN    10.0.0.0/8/udp",
                false,
            ),
            ("Anywhere                   ALLOW IN    5000/tcp", false),
            (
                "Anywhere                   ALLOW IN    10.0.0.5 5000/tcp",
                false,
            ),
            ("10.0.0.1 22/tcp            ALLOW IN    10.0.0.0/8", false),
            ("Anywhere                   DENY IN     10.0.0.0/8", false),
            ("Anywhere                   ALLOW OUT   10.0.0.0/8", false),
            (
                "Anywhere on eth1           ALLOW FWD   Anywhere on eth0",
                false,
            ),
        ] {
            assert_eq!(lets_in(&format!("{CLOSED}{rule}\n")), is_open, "{rule}");
        }
    }

    #[test]
    fn is_judged_for_the_port_that_is_wanted() {
        for (rule, wanted, is_open) in [
            (
                "4791/udp                   ALLOW IN    Anywhere",
                Wanted::ROCE,
                true,
            ),
            (
                "4791                       ALLOW IN    Anywhere",
                Wanted::ROCE,
                true,
            ),
            (
                "Anywhere                   ALLOW IN    10.0.0.0/8/udp",
                Wanted::ROCE,
                true,
            ),
            (
                "Anywhere                   ALLOW IN    10.0.0.0/8/tcp",
                Wanted::ROCE,
                false,
            ),
            (
                "4791/tcp                   ALLOW IN    Anywhere",
                Wanted::ROCE,
                false,
            ),
            (
                "6000/tcp                   ALLOW IN    Anywhere",
                Wanted::tcp(6000),
                true,
            ),
            (
                "5445/tcp (SMB Direct)      ALLOW IN    Anywhere",
                Wanted::tcp(6000),
                false,
            ),
        ] {
            let rules = format!("{CLOSED}{rule}\n");
            assert_eq!(super::lets_in(&rules, wanted), is_open, "{rule}");
        }
    }
}
