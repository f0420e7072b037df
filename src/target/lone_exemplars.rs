//! Whether a target takes exemplars in series of their own (`V2-63`).
//!
//! ```text
//!            400 to a request with such series, which says so
//!  Taken  -------------------------------------------------->  Refused
//!         <--------------------------------------------------
//!                            an hour later
//! ```
//!
//! Prometheus sends them so, a sample in one request and its exemplar perhaps in the next, and most receivers take them. Since 3.8
//! Prometheus keeps the rest of such a request and answers 400. So they stay where no sample of their series is at hand, and a record goes as it was
//! stored, until a target refuses that: then exemplars go with a sample of their series in every request, and those without one are left out. They are
//! counted, and so are those of the request that showed it. What was refused as a whole for their sake is sent again without. (The text of an answer
//! decides here, against `V2-30`, and about nothing else: a 400 has many reasons, and this one is not the data's.)

use std::time::{Duration, Instant};

/// As for the protocol: receivers get newer.
const BELIEVED_FOR: Duration = Duration::from_secs(3600);

/// In Prometheus' answer, of each such series.
const REFUSAL: &str = "at least one sample or histogram";

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoneExemplars {
    refused: Option<Instant>,
}

impl LoneExemplars {
    /// Whether they are left out of what is sent now.
    #[must_use]
    pub fn are_refused(&self, now: Instant) -> bool {
        self.refused.is_some_and(|refused| now.saturating_duration_since(refused) < BELIEVED_FOR)
    }

    /// The answer to a request that had some.
    pub fn answered(&mut self, status: Option<u16>, text: &str, now: Instant) -> Refusal {
        if status != Some(400) || !text.contains(REFUSAL) {
            return Refusal::None;
        }
        let was_known = self.are_refused(now);
        self.refused = Some(now);
        if was_known { Refusal::Known } else { Refusal::News }
    }
}

/// Whether an answer says that the target refuses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It does not.
    None,
    /// It does, and that was known.
    Known,
    /// It does.
    News,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_taken_until_an_answer_says_that_they_are_not_and_again_an_hour_later() {
        let start = Instant::now();
        let mut exemplars = LoneExemplars::default();
        let refusal = "TimeSeries must contain at least one sample or histogram for series {__name__=\"up\"}\n";
        for (status, text) in [(None, refusal), (Some(500), refusal), (Some(400), "out of order exemplar")] {
            assert_eq!(exemplars.answered(status, text, start), Refusal::None);
        }
        assert!(!exemplars.are_refused(start));
        assert_eq!(exemplars.answered(Some(400), refusal, start), Refusal::News);
        assert_eq!(exemplars.answered(Some(400), refusal, start), Refusal::Known);
        assert!(exemplars.are_refused(start + BELIEVED_FOR - Duration::from_secs(1)));
        assert!(!exemplars.are_refused(start + BELIEVED_FOR));
    }
}
