// SPDX-License-Identifier: GPL-2.0-or-later

//! Implements the part of HTTP/1.0 (RFC 1945) that serves the metrics: it reads the request's first line, skips its
//! header, and does not expect a body. Each connection gets one answer.

/// Length of the longest request, in bytes. Prometheus sends a few hundred.
const LONGEST_REQUEST: usize = 8192;

/// The path of the metrics.
const PATH: &str = "/metrics";

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// The client asks for the metrics.
    Metrics,
    /// The client asks only for the head of the answer with the metrics (`HEAD`).
    Head,
    /// The client asks for something that does not exist here.
    Other,
    /// The client uses a method that is not answered.
    Method,
    /// The request is not HTTP, or too long.
    Malformed,
}

impl Asked {
    /// Reads a request. Returns `None` if the rest of it has not come yet.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let is_whole = ["\r\n\r\n", "\n\n"]
            .iter()
            .any(|end| bytes.windows(end.len()).any(|part| part == end.as_bytes()));
        if !is_whole {
            return (bytes.len() >= LONGEST_REQUEST).then_some(Self::Malformed);
        }
        let line = bytes
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let line = std::str::from_utf8(line).unwrap_or_default();
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [method, target, version] = words[..] else {
            return Some(Self::Malformed);
        };
        if !version.starts_with("HTTP/") {
            return Some(Self::Malformed);
        }
        let path = target.split('?').next().unwrap_or_default();
        Some(match method {
            "GET" | "HEAD" if path != PATH => Self::Other,
            "GET" => Self::Metrics,
            "HEAD" => Self::Head,
            _ => Self::Method,
        })
    }
}

/// Returns the answer. Calls `metrics` if the client asks for the metrics or their head.
pub(super) fn answer(
    asked: Asked,
    content_type: &str,
    metrics: impl FnOnce() -> String,
) -> Vec<u8> {
    let plain = "text/plain; charset=utf-8";
    let (code, content_type, body) = match asked {
        Asked::Metrics | Asked::Head => ("200 OK", content_type, metrics()),
        Asked::Other => (
            "404 Not Found",
            plain,
            format!("The metrics are at {PATH}.\n"),
        ),
        Asked::Method => (
            "405 Method Not Allowed\r\nAllow: GET, HEAD",
            plain,
            "Only GET and HEAD are answered.\n".to_owned(),
        ),
        Asked::Malformed => (
            "400 Bad Request",
            plain,
            "This is not an HTTP request.\n".to_owned(),
        ),
    };
    let length = body.len();
    let mut answer = format!(
        "HTTP/1.0 {code}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    if asked != Asked::Head {
        answer.push_str(&body);
    }
    answer.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_asked_for() {
        for (request, asked) in [
            (
                "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                Some(Asked::Metrics),
            ),
            ("GET /metrics?a=b HTTP/1.0\n\n", Some(Asked::Metrics)),
            ("HEAD /metrics HTTP/1.0\r\n\r\n", Some(Asked::Head)),
            ("GET / HTTP/1.0\r\n\r\n", Some(Asked::Other)),
            ("POST /metrics HTTP/1.0\r\n\r\n", Some(Asked::Method)),
            ("GET /metrics\r\n\r\n", Some(Asked::Malformed)),
            ("GET /metrics SMB/3\r\n\r\n", Some(Asked::Malformed)),
            ("\r\n\r\n", Some(Asked::Malformed)),
            ("GET /metrics HTTP/1.0\r\nHost: x\r\n", None),
            ("", None),
        ] {
            assert_eq!(Asked::read(request.as_bytes()), asked, "{request:?}");
        }
        assert_eq!(Asked::read(b"\xff\xfe\n\n"), Some(Asked::Malformed));
        let long = [b'x'; LONGEST_REQUEST];
        assert_eq!(Asked::read(&long), Some(Asked::Malformed));
        assert_eq!(Asked::read(&long[1..]), None);
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let text = |asked| {
            let bytes = answer(asked, "text/x", || "a 1\n".to_owned());
            String::from_utf8(bytes).unwrap()
        };
        let whole = text(Asked::Metrics);
        let head = text(Asked::Head);
        assert_eq!(whole, format!("{head}a 1\n"));
        assert!(
            head.starts_with("HTTP/1.0 200 OK\r\nContent-Type: text/x\r\nContent-Length: 4\r\n")
        );
        assert!(head.ends_with("\r\n\r\n"));
        for (asked, words) in [
            (Asked::Other, ["HTTP/1.0 404 ", "at /metrics"]),
            (Asked::Method, ["HTTP/1.0 405 ", "\r\nAllow: GET, HEAD\r\n"]),
            (Asked::Malformed, ["HTTP/1.0 400 ", "not an HTTP"]),
        ] {
            let text = text(asked);
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }
}
