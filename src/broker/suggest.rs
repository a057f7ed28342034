// SPDX-License-Identifier: GPL-2.0-or-later

//! Finds the word for "Did you mean ...?".

/// How similar two words have to be, at most 1.0: one letter may be missing, wrong, doubled or swapped.
const LIKE: f64 = 0.75;

/// Returns the word of `known` that is most similar to `text`, if one is similar enough.
pub(super) fn nearest<'a>(text: &str, known: &[&'a str]) -> Option<&'a str> {
    let text = text.to_lowercase();
    let like = |name: &&'a str| (strsim::normalized_damerau_levenshtein(&text, name), *name);
    let all = known.iter().map(like).filter(|(like, _)| *like >= LIKE);
    let best = all.max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_was_mistyped_and_nothing_if_all_differ() {
        let known = ["max_connections", "max_workers", "listen", "warn"];
        for (text, found) in [
            ("max_conections", Some("max_connections")),
            ("Max_Connections", Some("max_connections")),
            ("max_wokrers", Some("max_workers")),
            ("listn", Some("listen")),
            ("wran", Some("warn")),
            ("iwarp", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, &known), found, "{text}");
        }
    }
}
