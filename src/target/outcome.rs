//! What an answer of a target means for what was sent. Decided by status and headers, never by text (`V1-32`, `V2-30`).
//!
//! | answer | outcome |
//! |---|---|
//! | 2xx | accepted; on 2.0 a shortfall in the `*-Written` headers is refused |
//! | 2xx with `Content-Type: text/html` | hold: a captive portal or a login page has not stored anything |
//! | 415 | wrong protocol: the target does not take this one (`V2-42`) |
//! | 2xx to 2.0 without any `*-Written`; 400, 409, 422 as well, to an empty request or as long as nothing has shown that the target takes 2.0 | wrong protocol (`V2-37`, `V2-43`) |
//! | 400 to 2.0 with `*-Written` | accepted, as far as the target says so; the shortfall is refused, nothing is sent again (`V2-40`) |
//! | 413 | too large |
//! | 400, 409, 422 | refused (`V1-37`, `V2-46`): whether all of it or one sample of it is for `delivery` to find out |
//! | 429, 408, 425, 5xx, no answer | retry, for ever (`V1-35`, `V1-38`, `V2-52`) |
//! | everything else: 1xx, 3xx, 401, 403, 404, ... | hold: most likely somebody's configuration, so the data stays |
//!
//! `V1-37` and `V2-46` want no other 4xx repeated. 408 and 425 ask for it; and what is held would be lost for a wrong password. So both are,
//! on purpose.
//!
//! 408, 502 and 504 are answers of somebody who has lost patience: as with no answer at all, the request may have arrived.

use std::fmt;
use std::time::Duration;

use crate::protocol::Protocol;

/// What is known of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The `*-Written` headers (`V2-31`). One that is missing or nonsense is unknown, not 0.
    pub written: Written,
    /// The body is a web page.
    pub is_html: bool,
    /// What `Retry-After` asks for, already clamped.
    pub retry_after: Option<Duration>,
}

/// The three headers of a 2.0 receiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// `X-Prometheus-Remote-Write-Samples-Written`.
    pub samples: Option<u64>,
    /// `X-Prometheus-Remote-Write-Histograms-Written`.
    pub histograms: Option<u64>,
    /// `X-Prometheus-Remote-Write-Exemplars-Written`.
    pub exemplars: Option<u64>,
}

impl Written {
    fn is_confirmed(self) -> bool {
        self.samples.is_some() || self.histograms.is_some() || self.exemplars.is_some()
    }

    /// Samples of ours that the target says it did not keep (`V2-36`, `V2-38`). It cannot have kept more than it was sent.
    fn shortfall(self, sent: Sent) -> u64 {
        let missing = |sent: u64, written: Option<u64>| written.map_or(0, |written| sent.saturating_sub(written));
        missing(sent.samples, self.samples) + missing(sent.histograms, self.histograms)
    }
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// In which protocol.
    pub protocol: Protocol,
    /// Float samples.
    pub samples: u64,
    /// Histograms.
    pub histograms: u64,
    /// An answer has shown that the target takes this protocol.
    pub is_confirmed: bool,
    /// Nothing at all was: it asks whether the target takes an empty request, or this protocol.
    pub is_question: bool,
}

impl Sent {
    /// A question, or exemplars alone.
    fn has_no_samples(self) -> bool {
        self.samples + self.histograms == 0
    }
}

/// What comes of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target has it, but for so many samples that it did not keep.
    Accepted {
        /// Says the target's own count.
        refused: u64,
    },
    /// It does not take this, as it is.
    Refused,
    /// It does not take so much at once.
    TooLarge,
    /// Worth another attempt, not before the target's own time if it named one.
    Retry {
        /// Already clamped.
        retry_after: Option<Duration>,
        /// It asks for less.
        is_throttled: bool,
        /// The target may have it.
        may_have_arrived: bool,
        /// Nothing came within the time-out.
        timed_out: bool,
    },
    /// The target does not take this protocol: the same data may go in the other one (`negotiation`).
    WrongProtocol(Reason),
    /// The target is not set up to take it, now. The data stays, it is tried slowly.
    Hold(Reason),
}

/// Why a target is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It answers with a status that says nothing about the data.
    Status(u16),
    /// A 2xx with a web page.
    WebPage(u16),
    /// It does not take remote write 2.0.
    Not2(u16),
    /// It does not take remote write 1.0.
    Not1(u16),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = |code: u16| {
            let text = reqwest::StatusCode::from_u16(code).ok().and_then(|status| status.canonical_reason());
            format!("{code}{}{}", if text.is_some() { " " } else { "" }, text.unwrap_or_default())
        };
        match self {
            Reason::Status(code @ 300..400) => {
                write!(f, "{} (redirects are not followed: set the final URL)", status(*code))
            }
            Reason::Status(code) => f.write_str(&status(*code)),
            Reason::WebPage(code) => {
                write!(f, "{} with a web page: a login or a captive portal answers", status(*code))
            }
            Reason::Not2(415) => f.write_str("415 to a remote write 2.0 request: the target does not take 2.0"),
            Reason::Not2(code) => {
                write!(
                    f,
                    "{} without *-Written headers to a remote write 2.0 request: the target does not take 2.0",
                    status(*code)
                )
            }
            Reason::Not1(code) => {
                write!(f, "{} to a remote write 1.0 request: the target does not take 1.0", status(*code))
            }
        }
    }
}

/// The table above.
#[must_use]
pub fn judge(sent: Sent, answer: &Answer) -> Outcome {
    let as_far_as_written = || Outcome::Accepted { refused: answer.written.shortfall(sent) };
    let unconfirmed_2 = sent.protocol == Protocol::V2 && !answer.written.is_confirmed();
    match answer.status {
        code @ 200..300 if answer.is_html => Outcome::Hold(Reason::WebPage(code)),
        code @ 415 if sent.protocol == Protocol::V2 => Outcome::WrongProtocol(Reason::Not2(code)),
        code @ 415 => Outcome::WrongProtocol(Reason::Not1(code)),
        code @ 200..300 if unconfirmed_2 => Outcome::WrongProtocol(Reason::Not2(code)),
        code @ (400 | 409 | 422) if unconfirmed_2 && (!sent.is_confirmed || sent.is_question) => {
            Outcome::WrongProtocol(Reason::Not2(code))
        }
        200..300 if sent.protocol == Protocol::V2 => as_far_as_written(),
        // V2-34: on 1.0 the headers mean nothing.
        200..300 => Outcome::Accepted { refused: 0 },
        // What has no samples and is refused was not taken, whatever was written of it.
        400 if sent.protocol == Protocol::V2 && !unconfirmed_2 && !sent.has_no_samples() => as_far_as_written(),
        413 => Outcome::TooLarge,
        400 | 409 | 422 => Outcome::Refused,
        code @ (408 | 425 | 429 | 500..600) => Outcome::Retry {
            retry_after: answer.retry_after,
            // A 503 that names a pause comes from a limit, one that does not from a target that is not well.
            is_throttled: code == 429 || (code == 503 && answer.retry_after.is_some()),
            may_have_arrived: matches!(code, 408 | 502 | 504),
            timed_out: false,
        },
        code => Outcome::Hold(Reason::Status(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: Sent =
        Sent { protocol: Protocol::V1, samples: 10, histograms: 2, is_confirmed: true, is_question: false };
    const V2: Sent = Sent { protocol: Protocol::V2, ..V1 };

    fn status(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    fn with_written(status: u16, samples: Option<u64>, histograms: Option<u64>) -> Answer {
        Answer { status, written: Written { samples, histograms, exemplars: None }, ..Answer::default() }
    }

    fn accepted(refused: u64) -> Outcome {
        Outcome::Accepted { refused }
    }

    #[test]
    fn any_2xx_delivers_a_1_0_request_whatever_the_headers_say() {
        for code in [200, 202, 204, 299] {
            assert_eq!(judge(V1, &status(code)), accepted(0));
            assert_eq!(judge(V1, &with_written(code, Some(0), Some(0))), accepted(0), "V2-34");
        }
    }

    #[test]
    fn a_2_0_request_is_delivered_as_far_as_the_target_confirms() {
        assert_eq!(judge(V2, &with_written(204, Some(10), Some(2))), accepted(0));
        assert_eq!(judge(V2, &with_written(204, Some(7), Some(2))), accepted(3));
        assert_eq!(judge(V2, &with_written(204, Some(7), None)), accepted(3), "missing is unknown, not 0");
        assert_eq!(judge(V2, &with_written(204, Some(99), Some(99))), accepted(0), "no more than was sent");
        assert_eq!(judge(V2, &with_written(400, Some(4), Some(0))), accepted(8), "V2-40");
    }

    #[test]
    fn a_target_that_does_not_take_a_protocol_shows_it() {
        let not_2 = |code| Outcome::WrongProtocol(Reason::Not2(code));
        let unknown = Sent { is_confirmed: false, ..V2 };
        for code in [200, 204, 415] {
            assert_eq!(
                (judge(V2, &status(code)), judge(unknown, &status(code))),
                (not_2(code), not_2(code)),
                "V2-37, V2-42"
            );
        }
        for code in [400, 409, 422] {
            assert_eq!(judge(unknown, &status(code)), not_2(code), "V2-43");
            assert_eq!(judge(V2, &status(code)), Outcome::Refused, "it takes 2.0, so it does not take the data");
            let question = Sent { samples: 0, histograms: 0, is_question: true, ..V2 };
            assert_eq!(judge(question, &status(code)), not_2(code), "it took 2.0, and is another one now");
            let exemplars = Sent { is_question: false, ..question };
            assert_eq!(judge(exemplars, &status(code)), Outcome::Refused, "it does not take exemplars alone");
        }
        assert_eq!(judge(unknown, &with_written(400, Some(4), Some(2))), accepted(6), "it says so itself");
        assert_eq!(judge(V1, &status(415)), Outcome::WrongProtocol(Reason::Not1(415)));
        assert_eq!(judge(V2, &with_written(415, Some(0), Some(0))), not_2(415), "whatever it has written");
        assert_eq!(judge(V1, &status(400)), Outcome::Refused);
    }

    #[test]
    fn statuses_that_say_never_refuse_the_record() {
        for code in [400, 409, 422] {
            assert_eq!(judge(V1, &status(code)), Outcome::Refused);
        }
        assert_eq!(judge(V2, &status(409)), Outcome::Refused);
        assert_eq!((judge(V1, &status(413)), judge(V2, &status(413))), (Outcome::TooLarge, Outcome::TooLarge));
        let empty = Sent { samples: 0, histograms: 0, ..V2 };
        assert_eq!(judge(empty, &with_written(400, Some(0), Some(0))), Outcome::Refused);
    }

    #[test]
    fn statuses_that_say_later_are_retried_with_the_targets_pause() {
        let retry_after = Some(Duration::from_secs(7));
        for code in [408, 425, 429, 500, 502, 503, 504, 529, 599] {
            let answer = Answer { retry_after, ..status(code) };
            let retry = Outcome::Retry {
                retry_after,
                is_throttled: code == 429 || code == 503,
                may_have_arrived: code == 408 || code == 502 || code == 504,
                timed_out: false,
            };
            assert_eq!(judge(V1, &answer), retry);
            assert_eq!(judge(V2, &answer), retry);
        }
    }

    #[test]
    fn everything_else_is_held() {
        for code in [100, 199, 301, 302, 307, 308, 401, 403, 404, 405, 407, 410, 431, 451, 600, 999] {
            assert_eq!(judge(V1, &status(code)), Outcome::Hold(Reason::Status(code)));
            assert_eq!(judge(V2, &status(code)), Outcome::Hold(Reason::Status(code)));
        }
        let portal = Answer { is_html: true, ..status(200) };
        assert_eq!(judge(V1, &portal), Outcome::Hold(Reason::WebPage(200)));
    }

    #[test]
    fn reasons_are_read_by_people() {
        assert_eq!(Reason::Status(401).to_string(), "401 Unauthorized");
        assert!(Reason::Status(302).to_string().starts_with("302 Found (redirects are not followed"));
        assert_eq!(Reason::Status(999).to_string(), "999");
    }
}
