//! Which protocol a request speaks: decided by `Content-Type` and `Content-Encoding` alone (`V2-19`, `V2-02`), read as RFC 9110 says.
//!
//! | `Content-Type` | protocol |
//! |---|---|
//! | none, `application/x-protobuf`, `...;proto=prometheus.WriteRequest` | 1.0 |
//! | `application/x-protobuf;proto=io.prometheus.write.v2.Request` | 2.0 |
//! | anything else | 415 (`V2-42`) |
//!
//! Names are compared without regard to case, white space around `;` is allowed, values may be quoted (`V2-11`, `V2-14`, `V2-17`). A request
//! without `Content-Encoding` is taken for snappy, as Prometheus does (`V1-05`); so is one without `Content-Type` for 1.0 (`V1-06`).
//! Nobody asks for the version header (`V1-08`).

use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::rejection::Rejection;
use crate::protocol::Protocol;

/// Reads the two headers. Both messages are taken (`V2-03`, `V2-04`).
///
/// # Errors
/// [`Rejection::Unsupported`], with a text that says what would be right.
pub fn negotiate(headers: &HeaderMap) -> Result<Protocol, Rejection> {
    let value = |name| {
        let mut values = headers.get_all(&name).iter();
        let first = values.next().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        if values.next().is_some() { Err(unsupported(format!("{name} is given twice"))) } else { Ok(first) }
    };
    let protocol = match value(CONTENT_TYPE)? {
        None => Protocol::V1,
        Some(content_type) => content_type_protocol(&content_type).ok_or_else(|| {
            unsupported(format!(
                "Content-Type {content_type:?} is not supported: send {:?} or {:?}",
                Protocol::V1.content_type(),
                Protocol::V2.content_type()
            ))
        })?,
    };
    // V2-13; what a later minor version adds is not there yet (V2-57).
    match value(CONTENT_ENCODING)? {
        None => Ok(protocol),
        Some(encoding) if encoding.trim().eq_ignore_ascii_case("snappy") => Ok(protocol),
        Some(encoding) => {
            Err(unsupported(format!("Content-Encoding {encoding:?} is not supported: send \"snappy\" (block format)")))
        }
    }
}

fn unsupported(text: String) -> Rejection {
    // What a client sent comes back to it, but not without end.
    Rejection::Unsupported(text.chars().take(300).collect())
}

fn content_type_protocol(value: &str) -> Option<Protocol> {
    let (media_type, mut rest) = value.split_at(value.find(';').unwrap_or(value.len()));
    if !media_type.trim().eq_ignore_ascii_case("application/x-protobuf") {
        return None;
    }
    let mut protocol = Protocol::V1;
    let mut is_given = false;
    while let Some(parameters) = rest.strip_prefix(';') {
        let parameters = parameters.trim_start_matches([' ', '\t']);
        // RFC 9110 5.6.6: empty parameters are allowed.
        if parameters.is_empty() || parameters.starts_with(';') {
            rest = parameters;
            continue;
        }
        let (name, value) = parameters.split_once('=')?;
        let (value, behind) = parameter_value(value)?;
        rest = behind.trim_start_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("proto") {
            protocol = match &*value {
                "prometheus.WriteRequest" => Protocol::V1,
                "io.prometheus.write.v2.Request" => Protocol::V2,
                _ => return None,
            };
            if std::mem::replace(&mut is_given, true) {
                return None;
            }
        }
    }
    rest.is_empty().then_some(protocol)
}

/// A token or a quoted string, and what comes behind it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([';', ' ', '\t']).unwrap_or(text.len());
        let (token, behind) = text.split_at(end);
        return (!token.is_empty() && !token.contains('"')).then(|| (token.to_owned(), behind));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            _ => value.push(char),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_type(value: &str) -> Option<Protocol> {
        content_type_protocol(value)
    }

    #[test]
    fn the_three_forms_of_the_specification_are_understood() {
        assert_eq!(content_type("application/x-protobuf"), Some(Protocol::V1), "V2-02, V2-17");
        assert_eq!(content_type("application/x-protobuf;proto=prometheus.WriteRequest"), Some(Protocol::V1));
        assert_eq!(content_type("application/x-protobuf;proto=io.prometheus.write.v2.Request"), Some(Protocol::V2));
    }

    #[test]
    fn case_white_space_quotes_and_other_parameters_are_no_obstacle() {
        for value in [
            "Application/X-Protobuf; Proto=io.prometheus.write.v2.Request",
            "application/x-protobuf ;\tproto=\"io.prometheus.write.v2.Request\" ",
            "application/x-protobuf;;charset=\"a;b\\\"\";proto=io.prometheus.write.v2.Request;",
        ] {
            assert_eq!(content_type(value), Some(Protocol::V2), "V2-14: {value}");
        }
    }

    #[test]
    fn anything_else_is_not_supported() {
        for value in [
            "",
            "text/plain",
            "application/json",
            "application/x-protobufs",
            "application/x-protobuf;proto=",
            "application/x-protobuf;proto=prometheus.writerequest",
            "application/x-protobuf;proto=io.prometheus.write.v3.Request",
            "application/x-protobuf;proto=\"io.prometheus.write.v2.Request",
            "application/x-protobuf;proto=prometheus.WriteRequest;proto=io.prometheus.write.v2.Request",
            "application/x-protobuf;proto=prometheus.WriteRequest x",
            "application/x-protobuf;proto",
        ] {
            assert_eq!(content_type(value), None, "{value}");
        }
    }

    fn headers(pairs: &[(&str, &str)]) -> Result<Protocol, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name.parse::<axum::http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        negotiate(&headers).map_err(|rejection| {
            assert_eq!(rejection.status(), 415, "V2-42");
            rejection.text()
        })
    }

    const TWO: &str = "application/x-protobuf;proto=io.prometheus.write.v2.Request";

    #[test]
    fn headers_decide_and_missing_ones_mean_what_prometheus_takes_them_for() {
        assert_eq!(headers(&[]), Ok(Protocol::V1), "V1-05, V1-06: senders must, receivers need not insist");
        assert_eq!(headers(&[("content-encoding", "Snappy")]), Ok(Protocol::V1), "V2-11");
        assert_eq!(headers(&[("content-type", TWO), ("content-encoding", "snappy")]), Ok(Protocol::V2), "V2-13, V2-19");
        for encoding in ["zstd", "gzip", "identity", "", "snappy, snappy", "x-snappy-framed"] {
            let text = headers(&[("content-type", TWO), ("content-encoding", encoding)]).unwrap_err();
            assert!(text.contains("send \"snappy\""), "V2-42, V2-57: {text}");
        }
        headers(&[("content-encoding", "snappy"), ("content-encoding", "snappy")]).unwrap_err();
        headers(&[("content-type", TWO), ("content-type", TWO)]).unwrap_err();
    }

    #[test]
    fn neither_the_version_header_nor_anything_else_changes_the_protocol() {
        // V1-08, V1-16, V2-09, V2-19: a version is told, but the content type decides; some senders tell none, some nonsense.
        for version in ["0.1.0", "2.0.0", "9.9", ""] {
            let version = ("x-prometheus-remote-write-version", version);
            assert_eq!(headers(&[version]), Ok(Protocol::V1));
            assert_eq!(headers(&[version, ("content-type", "application/x-protobuf")]), Ok(Protocol::V1));
            assert_eq!(headers(&[version, ("content-type", TWO), ("user-agent", "x")]), Ok(Protocol::V2));
        }
    }

    #[test]
    fn vmagent_learns_that_it_must_speak_snappy() {
        // It begins with zstd, and falls back after a 415 (or 400) to the same request in snappy.
        let first = [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "zstd"),
            ("x-victoriametrics-remote-write-version", "1"),
        ];
        let text = headers(&first).unwrap_err();
        assert_eq!(text, "Content-Encoding \"zstd\" is not supported: send \"snappy\" (block format)\n");
        let second = [("content-type", "application/x-protobuf"), ("content-encoding", "snappy")];
        assert_eq!(headers(&second), Ok(Protocol::V1));
    }

    #[test]
    fn what_a_client_sent_comes_back_to_it_but_not_without_end_and_not_as_it_is() {
        let text = headers(&[("content-type", &format!("a\t{}", "x".repeat(5000)))]).unwrap_err();
        assert!(text.len() < 400 && !text.contains('\t'), "{text}");
    }
}
