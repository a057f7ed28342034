// SPDX-License-Identifier: GPL-2.0-or-later

//! Splits a Rust file into tokens, and finds the paths in it.

/// A file below `src`.
pub(crate) struct Source {
    /// The file's name, from `src` on.
    pub(crate) name: String,
    /// The path of the file's module from the root of the crate; the root's own path is empty.
    pub(crate) module: Vec<String>,
    /// The file's words and signs, without comments, and without literals except the names of features. `::` is one
    /// token.
    pub(crate) tokens: Vec<String>,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let path = name.trim_end_matches(".rs");
        let path = path.trim_end_matches("/mod").trim_end_matches("/main");
        let module = path
            .split('/')
            .filter(|part| *part != "lib")
            .map(str::to_owned)
            .collect();
        Self {
            name: name.to_owned(),
            module,
            tokens: tokens(text),
        }
    }

    /// Returns whether this file holds the tests of the module above it.
    pub(crate) fn is_test(&self) -> bool {
        self.module.iter().any(|part| part == "tests")
    }

    /// Returns the tokens, without the items under `#[cfg(test)]`.
    pub(crate) fn code(&self) -> Vec<String> {
        self.without(after_test_attribute)
    }

    /// Returns the tokens of [`code`](Self::code) without the items that exist only if there is an operating system.
    pub(crate) fn code_without_os(&self) -> Vec<String> {
        self.without(|tokens| {
            after_test_attribute(tokens).or_else(|| after_hosted_attribute(tokens))
        })
    }

    fn without(&self, attribute: impl Fn(&[String]) -> Option<&[String]>) -> Vec<String> {
        let mut kept = Vec::new();
        let mut rest = self.tokens.as_slice();
        while let Some(token) = rest.first() {
            if let Some(behind) = attribute(rest) {
                rest = after_item(behind);
            } else if let Some(behind) = after_hosted_derive(rest) {
                rest = behind;
            } else {
                kept.push(token.clone());
                rest = &rest[1..];
            }
        }
        kept
    }

    /// Returns the modules that the file declares under a `cfg` with features, and whether those features need an
    /// operating system.
    pub(crate) fn featured_modules(&self) -> Vec<(Vec<String>, bool)> {
        let starts = (0..self.tokens.len()).map(|n| &self.tokens[n..]);
        starts
            .filter_map(declared_with_feature)
            .map(|(name, hosted)| (self.module.iter().cloned().chain([name]).collect(), hosted))
            .collect()
    }

    /// Returns the names of the public types and constants that the file defines.
    pub(crate) fn defined(&self) -> impl Iterator<Item = &str> {
        self.tokens.windows(3).filter_map(|w| {
            let kind = matches!(
                w[1].as_str(),
                "struct" | "enum" | "const" | "type" | "trait" | "fn"
            );
            (w[0] == "pub" && kind).then_some(w[2].as_str())
        })
    }
}

/// The feature that needs only `core` and `alloc`.
const ENGINE: &str = "\"engine\"";

/// Returns the condition of a `cfg` of features at the start, and the rest.
fn feature_condition(tokens: &[String]) -> Option<(&[String], &[String])> {
    if tokens.len() < 5 || tokens[..4] != ["#", "[", "cfg", "("] {
        return None;
    }
    let end = tokens.iter().position(|token| token == "]")?;
    let (condition, rest) = (&tokens[4..end], &tokens[end + 1..]);
    let is = |word: &str| condition.iter().any(|token| token == word);
    (is("feature") && !is("not")).then_some((condition, rest))
}

/// Returns the rest after a `cfg` of features that all need an operating system.
fn after_hosted_attribute(tokens: &[String]) -> Option<&[String]> {
    let (condition, rest) = feature_condition(tokens)?;
    (!condition.iter().any(|token| token == ENGINE)).then_some(rest)
}

/// Returns the rest after an attribute that exists only with features that need an operating system, such as
/// `#[cfg_attr(feature = "broker", derive(serde::Serialize))]`.
fn after_hosted_derive(tokens: &[String]) -> Option<&[String]> {
    if tokens.len() < 8 || tokens[..5] != ["#", "[", "cfg_attr", "(", "feature"] {
        return None;
    }
    let end = tokens.iter().position(|token| token == "]")?;
    let is_hosted = tokens[5] == "=" && tokens[6] != ENGINE;
    is_hosted.then(|| &tokens[end + 1..])
}

/// Returns the name of the module that `#[cfg(feature …)] mod name` at the start declares, and whether the module needs
/// an operating system.
fn declared_with_feature(tokens: &[String]) -> Option<(String, bool)> {
    let (condition, mut rest) = feature_condition(tokens)?;
    let hosted = !condition.iter().any(|token| token == ENGINE);
    // Skip further attributes, and the visibility.
    while rest.first().is_some_and(|token| token == "#") {
        let end = rest.iter().position(|token| token == "]")?;
        rest = &rest[end + 1..];
    }
    let keyword = rest.iter().take(6).position(|token| token == "mod")?;
    let is_visibility =
        |token: &String| matches!(token.as_str(), "pub" | "(" | ")" | "crate" | "super" | "in");
    let (before, rest) = rest.split_at(keyword);
    let name = rest.get(1).filter(|_| before.iter().all(is_visibility))?;
    Some((name.clone(), hosted))
}

/// Returns the rest after `#[cfg(test)]`, or after a `cfg` with `test` among its conditions.
fn after_test_attribute(tokens: &[String]) -> Option<&[String]> {
    if tokens.len() < 5 || tokens[..4] != ["#", "[", "cfg", "("] {
        return None;
    }
    let end = tokens.iter().position(|token| token == "]")?;
    let condition = &tokens[4..end];
    let test = condition.iter().any(|token| token == "test")
        && !condition.iter().any(|token| token == "not");
    test.then(|| &tokens[end + 1..])
}

/// Returns the rest after the item at the start: after its `;`, or after the `}` of its first `{`.
fn after_item(tokens: &[String]) -> &[String] {
    let mut depth = 0_usize;
    for (n, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            ";" => {}
            _ => continue,
        }
        if depth == 0 {
            return &tokens[n + 1..];
        }
    }
    &[]
}

/// Returns the words and signs of a text, without comments, and without literals except the names of features.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let length = if c.is_whitespace() {
            c.len_utf8()
        } else if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest).or_else(|| character(rest)) {
            if tokens.ends_with(&["feature", "="].map(str::to_owned)) {
                tokens.push(rest[..length].to_owned());
            }
            length
        } else if word > 0 {
            tokens.push(rest[..word].to_owned());
            word
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            tokens.push(c.to_string());
            c.len_utf8()
        };
        rest = &rest[length..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let bytes = text.as_bytes();
    for (n, pair) in bytes.windows(2).enumerate() {
        match pair {
            b"/*" => depth += 1,
            b"*/" if depth == 1 => return n + 2,
            b"*/" => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Returns the length of the string literal at the start of a text.
fn string(text: &str) -> Option<usize> {
    let prefix = text.find(|c| !"bcr".contains(c))?;
    let behind = &text[prefix..];
    let raw = text[..prefix].contains('r');
    let hashes = behind.find(|c| c != '#')?;
    if prefix > 2 || !behind[hashes..].starts_with('"') || (hashes > 0 && !raw) {
        return None;
    }
    let start = prefix + hashes + 1;
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(start + text[start..].find(&end)? + end.len());
    }
    let mut escaped = false;
    let end = text[start..].find(|c| match c {
        '"' if !escaped => true,
        c => {
            escaped = c == '\\' && !escaped;
            false
        }
    })?;
    Some(start + end + 1)
}

/// Returns the length of the character literal, or of the lifetime, at the start of a text.
fn character(text: &str) -> Option<usize> {
    let prefix = usize::from(text.starts_with("b'"));
    let mut inside = text[prefix..].strip_prefix('\'')?.char_indices();
    match (inside.next()?, inside.next()?) {
        ((_, '\\'), _) => {
            let end = inside.find(|(_, c)| *c == '\'')?.0;
            Some(prefix + 1 + end + 1)
        }
        (_, (end, '\'')) => Some(prefix + 1 + end + 1),
        _ => Some(prefix + 1), // A lifetime's name follows as a word, which does no harm.
    }
}

/// Returns the paths in a file that lead outside: absolute paths, and paths that begin with `crate` or another crate's
/// name. A `use` with braces is taken apart.
pub(crate) fn paths(tokens: &[String], module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    let mut read = 0;
    for (n, token) in tokens.iter().enumerate() {
        if n < read {
            continue; // This word is part of a path that began before.
        }
        match token.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, opened)| *opened <= depth);
            }
            "mod" if tokens.get(n + 2).is_some_and(|brace| brace == "{") => {
                inline.push((tokens[n + 1].clone(), depth + 1));
            }
            _ => {}
        }
        let here = || {
            module
                .iter()
                .chain(inline.iter().map(|(name, _)| name))
                .cloned()
        };
        let before = &tokens[..n];
        let free = !continues(before) && !is_visibility(before);
        let starts = is_word(token) && !is_keyword(token) && free;
        let leads = tokens.get(n + 1).is_some_and(|sign| sign == "::");
        if starts && (leads || token == "crate") {
            let behind = tree(&tokens[n..], &[], &mut |path| {
                found.extend(absolute(path, here().collect()))
            });
            read = tokens.len() - behind.len();
        }
    }
    found
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Recognizes a word that cannot be part of a path; a path may begin after the word, even with `::`.
fn is_keyword(token: &str) -> bool {
    const KEYWORDS: [&str; 10] = [
        "as", "dyn", "else", "for", "if", "impl", "in", "match", "return", "use",
    ];
    KEYWORDS.contains(&token)
}

/// Returns whether the next token continues a path.
fn continues(before: &[String]) -> bool {
    match before {
        [.., word, sign] if sign == "::" => (is_word(word) && !is_keyword(word)) || word == ">",
        _ => false,
    }
}

/// Recognizes `pub(crate)`, `pub(super)` and `pub(in …)`.
fn is_visibility(before: &[String]) -> bool {
    matches!(before, [.., p, b] if p == "pub" && b == "(")
        || matches!(before, [.., p, b, i] if p == "pub" && b == "(" && i == "in")
}

/// Calls `each` with every path of the tree at the start of the tokens, and returns the rest.
fn tree<'a>(
    tokens: &'a [String],
    prefix: &[String],
    each: &mut impl FnMut(Vec<String>),
) -> &'a [String] {
    let mut path = prefix.to_vec();
    let mut rest = tokens;
    loop {
        match rest {
            [brace, inner @ ..] if brace == "{" => return group(inner, &path, each),
            [word, behind @ ..] if is_word(word) || word == "*" => {
                if word != "self" || path.is_empty() {
                    path.push(word.clone());
                }
                rest = behind;
            }
            _ => break,
        }
        match rest {
            [sign, behind @ ..] if sign == "::" && behind.first().is_some_and(|t| t != "<") => {
                rest = behind
            }
            _ => break,
        }
    }
    each(path);
    rest
}

fn group<'a>(
    tokens: &'a [String],
    prefix: &[String],
    each: &mut impl FnMut(Vec<String>),
) -> &'a [String] {
    let mut rest = tokens;
    while let Some(token) = rest.first() {
        match token.as_str() {
            "}" => return &rest[1..],
            "," | "as" => rest = &rest[1..],
            "_" => rest = &rest[1..],
            _ if prefix.is_empty() && token != "{" && !is_word(token) => return rest,
            _ => {
                let behind = tree(rest, prefix, each);
                rest = if behind.len() == rest.len() {
                    &rest[1..]
                } else {
                    behind
                };
                // In `x as y`, the new name is not a path.
                if rest.first().is_some_and(|token| token == "as") {
                    rest = rest.get(2..).unwrap_or_default();
                }
            }
        }
    }
    rest
}

/// Returns a path from the root of the crate.
fn absolute(path: Vec<String>, mut here: Vec<String>) -> Option<Vec<String>> {
    let mut rest = path.as_slice();
    match rest.first()?.as_str() {
        "crate" => return Some(path),
        "self" => rest = &rest[1..],
        "super" => {
            while let Some("super") = rest.first().map(String::as_str) {
                here.pop();
                rest = &rest[1..];
            }
        }
        _ => return Some(path),
    }
    here.insert(0, "crate".to_owned());
    here.extend_from_slice(rest);
    Some(here)
}
