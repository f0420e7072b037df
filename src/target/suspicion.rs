//! Whether a target that refuses is to be believed: a proxy that went wrong answers 400 to everything, and must not empty the log. Pure.
//!
//! ```text
//!  a batch was refused, nothing of it was accepted
//!        |
//!        |-- something else was accepted since -------------------------------> believed: booked
//!        |-- an operator said so (`accept-refusals`), until something is accepted --> believed
//!        '-- an empty request is asked (it can break no order) --- 2xx -------> believed
//!                                |                            '-- 400, 409, 422 from a target that has delivered,
//!                                |                                but never took an empty one ------> believed
//!                                |                                (nobody knows whether it does: after `suspect_after`)
//!                                '-- anything else: *suspect*. Nothing is booked. Asked again, slowly, until it is 2xx:
//!                                    then the batch is sent again from its beginning.
//! ```
//!
//! Where a target was believed several times in turn and goes on accepting other batches, it is believed without a question. After
//! everything was refused for `suspect_after` and the target is sane, records go one by one, and are not taken apart any more unless their witness is
//! taken (`batch`).

use std::time::{Duration, Instant};

use super::backoff::Backoff;

/// So many questions answered well spare further ones.
const TRUSTED: u32 = 3;
/// So many batches are taken apart in vain before records go one by one.
const REFUSED_BATCHES: u32 = 3;
/// What was refused before so long a time without a refusal is another story.
const LULL: Duration = Duration::from_secs(60);
/// An answer to a question holds so long for a target that refuses record after record.
const ANSWER_HOLDS: Duration = Duration::from_secs(10);

/// What comes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The refusals hold.
    Believed,
    /// It was suspect, and takes requests again: what it refused is sent again.
    Again,
    /// It is suspect.
    Suspect {
        /// It was not before.
        began: bool,
    },
}

/// See the module.
#[derive(Debug)]
pub struct Suspicion {
    suspect_after: Duration,
    hold: Backoff,
    /// What is remembered of the target by name and URL.
    has_delivered: bool,
    takes_empty: Option<bool>,
    /// It refused an empty request when nobody doubted it. If it goes on accepting others, this is how it is.
    refused_empty: bool,
    is_forced: bool,
    /// Since when it refuses, without accepting anything.
    refusing_since: Option<Instant>,
    last_refused: Option<Instant>,
    /// Batches that were refused as a whole since.
    refused_batches: u32,
    /// When the newest request was started that was accepted.
    last_accepted: Option<Instant>,
    last_believed: Option<Instant>,
    /// Questions answered well, in a row.
    trust: u32,
    sane_at: Option<Instant>,
    is_suspect: bool,
    unanswered: u32,
    /// Nobody doubted it when the question was asked.
    is_asked_without_doubt: bool,
    /// It was asked in this life.
    was_asked: bool,
    /// No question before this.
    not_before: Option<Instant>,
}

impl Suspicion {
    /// Of a target of which this is known.
    #[must_use]
    pub fn new(suspect_after: Duration, hold: Backoff, has_delivered: bool, takes_empty: Option<bool>) -> Suspicion {
        Suspicion {
            suspect_after,
            hold,
            has_delivered,
            takes_empty,
            refused_empty: false,
            is_forced: false,
            refusing_since: None,
            last_refused: None,
            refused_batches: 0,
            last_accepted: None,
            last_believed: None,
            trust: 0,
            sane_at: None,
            is_suspect: false,
            unanswered: 0,
            is_asked_without_doubt: false,
            was_asked: false,
            not_before: None,
        }
    }

    /// Whether it has delivered, and whether it takes empty requests: what is remembered.
    #[must_use]
    pub fn learned(&self) -> (bool, Option<bool>) {
        (self.has_delivered, self.takes_empty)
    }

    /// Whether it takes empty requests, if that is known.
    #[must_use]
    pub fn takes_empty(&self) -> Option<bool> {
        self.takes_empty
    }

    /// Whether it should be asked once, for later: it has delivered, and never been asked.
    #[must_use]
    pub fn is_curious(&self) -> bool {
        self.has_delivered && self.takes_empty.is_none() && !self.was_asked
    }

    /// Something was accepted that was sent at `started`.
    pub fn accepted(&mut self, started: Instant) {
        self.has_delivered = true;
        if self.refusing_since.is_some_and(|since| started < since) {
            // It was on its way before the target began to refuse, and says nothing about it now.
            return;
        }
        if std::mem::take(&mut self.refused_empty) {
            self.takes_empty = Some(false);
        }
        self.is_forced = false;
        self.refusing_since = None;
        self.last_accepted = Some(started);
        self.refused_batches = 0;
        self.is_suspect = false;
        self.unanswered = 0;
        self.not_before = None;
    }

    /// Something was refused.
    pub fn refused(&mut self, now: Instant) {
        self.refused_empty = false;
        // After a lull it begins anew.
        if self.last_refused.is_some_and(|last| now.saturating_duration_since(last) > LULL) {
            self.refusing_since = None;
            self.refused_batches = 0;
        }
        self.last_refused = Some(now);
        self.refusing_since.get_or_insert(now);
    }

    /// Everything was refused for so long, and so often, that records go one by one.
    #[must_use]
    pub fn goes_record_by_record(&self, now: Instant) -> bool {
        self.refused_batches >= REFUSED_BATCHES && self.refuses_for_long(now)
    }

    /// The same of a target of which nobody knows that it ever took an empty request: whatever it answers to one says nothing any more.
    #[must_use]
    pub fn has_waited(&self, now: Instant) -> bool {
        self.has_delivered && self.takes_empty != Some(true) && self.refuses_for_long(now)
    }

    fn refuses_for_long(&self, now: Instant) -> bool {
        self.refusing_since.is_some_and(|since| now.saturating_duration_since(since) >= self.suspect_after)
    }

    /// A batch was refused as a whole, and that is booked.
    pub fn was_refused_whole(&mut self) {
        self.refused_batches = self.refused_batches.saturating_add(1);
    }

    /// Nothing is believed now.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.is_suspect
    }

    /// An operator says that refusals are to be believed, until something is accepted.
    pub fn force(&mut self) {
        self.is_forced = true;
        self.is_suspect = false;
        self.not_before = None;
    }

    /// Whether a question was answered well a moment ago, or an operator says that refusals are to be believed.
    #[must_use]
    pub fn was_sane_just_now(&self, now: Instant) -> bool {
        // What it said before it began to refuse says nothing about now.
        let is_since = |at: Instant| self.refusing_since.is_none_or(|since| at >= since);
        let holds = |at: Instant| is_since(at) && now.saturating_duration_since(at) < ANSWER_HOLDS;
        self.is_forced || self.sane_at.is_some_and(holds)
    }

    /// Whether refusals between what it accepts are usual with it.
    fn is_usual(&self) -> bool {
        self.trust >= TRUSTED
            && self.last_accepted.is_some_and(|accepted| self.last_believed.is_none_or(|before| accepted >= before))
    }

    /// Whether a piece that was refused, while others of its batch are or were there, is to be given up without a question. `after` is when
    /// the one before it was given up, if nothing was accepted since: then the answer to a question must be newer.
    /// `asked_since` is when the piece was refused before, if it is sent again after a question: then an answer since then is enough, however long
    /// the target took to refuse it again.
    pub fn believes_a_piece(&mut self, after: Option<Instant>, asked_since: Option<Instant>, now: Instant) -> bool {
        let is_since = |moment: Instant| self.is_forced || self.sane_at.is_some_and(|at| at > moment);
        let was_asked = asked_since.is_some_and(is_since);
        let is_newer = after.is_none_or(is_since);
        let believes = !self.is_suspect && (was_asked || is_newer && (self.is_usual() || self.was_sane_just_now(now)));
        if believes {
            self.believed(now);
        }
        believes
    }

    /// Whether a batch that was refused as a whole, from `refused_at` on, is to be booked without a question. `is_expected` where all that its senders
    /// sent of late was refused: then a question is answered for some time.
    pub fn believes(&mut self, refused_at: Instant, is_expected: bool, now: Instant) -> bool {
        let accepted_since = self.last_accepted.is_some_and(|accepted| accepted >= refused_at);
        let is_usual = self.is_usual();
        let goes_on = (is_expected || self.goes_record_by_record(now)) && self.was_sane_just_now(now);
        let believes = !self.is_suspect && (accepted_since || is_usual || self.is_forced || goes_on);
        if believes {
            self.believed(now);
        }
        believes
    }

    fn believed(&mut self, now: Instant) {
        self.last_believed = Some(now);
    }

    /// When the next question may be asked.
    #[must_use]
    pub fn not_before(&self) -> Option<Instant> {
        self.not_before
    }

    /// A question is asked.
    pub fn asks(&mut self) {
        self.was_asked = true;
        self.is_asked_without_doubt = self.refusing_since.is_none();
    }

    /// It has taken an empty request that asked something else.
    pub fn took_an_empty_request(&mut self) {
        self.takes_empty = Some(true);
    }

    /// It was asked out of curiosity, in a protocol that it does not take: once more, in the other one.
    pub fn asks_again(&mut self) {
        self.was_asked = false;
    }

    /// A question was answered: with 2xx, with a refusal (400, 409, 422), or otherwise.
    pub fn answered(&mut self, is_taken: bool, is_refused: bool, now: Instant, random: f64) -> Finding {
        // (Something may have been refused since.)
        let is_without_doubt = std::mem::take(&mut self.is_asked_without_doubt) || self.refusing_since.is_none();
        let mut was_waited_for = false;
        if is_taken {
            self.takes_empty = Some(true);
        } else if self.has_delivered && self.takes_empty != Some(true) {
            if is_refused && self.takes_empty.is_none() && self.refusing_since.is_none() && is_without_doubt {
                // Or it has just begun to refuse everything: what comes next tells.
                self.refused_empty = true;
            } else if self.refuses_for_long(now) {
                // Nobody knows that it ever took one, so that says nothing. It has delivered, and been waited for.
                was_waited_for = true;
                self.is_suspect = false;
                if is_refused {
                    self.takes_empty = Some(false);
                }
            }
        }
        let never_takes_one = is_refused && self.has_delivered && self.takes_empty == Some(false);
        let is_sane = is_taken || was_waited_for || never_takes_one;
        if is_sane {
            self.trust = self.trust.saturating_add(1);
            self.sane_at = Some(now);
            self.unanswered = 0;
            self.not_before = None;
            if std::mem::take(&mut self.is_suspect) {
                self.refusing_since = None;
                return Finding::Again;
            }
            self.believed(now);
            return Finding::Believed;
        }
        if self.refusing_since.is_none() {
            // Nobody doubts it.
            self.unanswered += 1;
            return Finding::Believed;
        }
        self.trust = 0;
        self.unanswered = self.unanswered.saturating_add(1);
        self.not_before = Some(now + self.hold.wait(self.unanswered, random));
        let began = !std::mem::replace(&mut self.is_suspect, true);
        Finding::Suspect { began }
    }

    /// A question was not answered, or by something that says nothing (429, 5xx): the target's back-off decides when it is asked again.
    pub fn unanswered(&mut self) {
        if self.refusing_since.is_none() {
            self.unanswered += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const SECOND: Duration = Duration::from_secs(1);

    fn suspicion(has_delivered: bool, takes_empty: Option<bool>) -> Suspicion {
        Suspicion::new(MINUTE, Backoff::try_new(SECOND, 30 * SECOND).unwrap(), has_delivered, takes_empty)
    }

    #[test]
    fn a_refusal_is_not_believed_before_a_question_was_answered_well() {
        let (mut suspicion, now) = (suspicion(true, Some(true)), Instant::now());
        suspicion.accepted(now);
        suspicion.refused(now + SECOND);
        assert!(!suspicion.believes(now + SECOND, false, now + SECOND));
        assert_eq!(suspicion.answered(true, false, now + 2 * SECOND, 0.0), Finding::Believed);
        assert!(!suspicion.is_suspect());
    }

    #[test]
    fn who_answers_400_to_everything_is_suspect_and_sent_everything_again_later() {
        let (mut suspicion, now) = (suspicion(true, Some(true)), Instant::now());
        suspicion.refused(now);
        assert_eq!(suspicion.answered(false, true, now, 0.0), Finding::Suspect { began: true });
        assert_eq!(suspicion.answered(false, true, now, 0.0), Finding::Suspect { began: false });
        assert!(suspicion.is_suspect() && !suspicion.believes(now, false, now));
        assert_eq!(suspicion.not_before(), Some(now + 2 * SECOND), "asked slowly");
        assert_eq!(suspicion.answered(true, false, now, 0.0), Finding::Again);
        assert!(!suspicion.is_suspect());
    }

    #[test]
    fn who_never_took_an_empty_request_is_believed_when_it_refuses_one() {
        let now = Instant::now();
        let mut never = suspicion(false, None);
        never.accepted(now);
        assert!(never.is_curious());
        never.asks();
        assert_eq!(never.answered(false, true, now, 0.0), Finding::Believed);
        assert!(!never.is_curious());
        assert_eq!(never.learned(), (true, None), "perhaps it has just begun to refuse everything");
        never.accepted(now);
        assert_eq!(never.learned(), (true, Some(false)));
        never.refused(now);
        assert_eq!(never.answered(false, true, now, 0.0), Finding::Believed);
        let mut begins = suspicion(false, None);
        begins.accepted(now);
        begins.answered(false, true, now, 0.0);
        begins.refused(now);
        assert_eq!(begins.answered(false, true, now, 0.0), Finding::Suspect { began: true });
        assert_eq!(begins.answered(false, true, now + MINUTE, 0.0), Finding::Believed, "it is no wedge");
        for known in [None, Some(false)] {
            let mut locked = suspicion(true, known);
            locked.refused(now);
            assert_eq!(locked.answered(false, false, now, 0.0), Finding::Suspect { began: true }, "401, say");
            assert_eq!(locked.answered(false, false, now + MINUTE, 0.0), Finding::Believed, "it is no wedge");
        }
        let mut mad = suspicion(true, Some(true));
        mad.refused(now);
        for minute in 0..60 {
            let began = minute == 0;
            assert_eq!(mad.answered(false, true, now + minute * MINUTE, 0.0), Finding::Suspect { began });
        }
        let mut unknown = suspicion(false, None);
        unknown.refused(now);
        assert_eq!(unknown.answered(false, true, now, 0.0), Finding::Suspect { began: true }, "it never delivered");
    }

    #[test]
    fn what_is_accepted_beside_it_or_an_operator_makes_a_refusal_believed() {
        let (mut suspicion, now) = (suspicion(true, Some(true)), Instant::now());
        suspicion.refused(now);
        suspicion.accepted(now + SECOND);
        assert!(suspicion.believes(now, false, now + SECOND));
        suspicion.refused(now + 2 * SECOND);
        assert!(!suspicion.believes(now + 2 * SECOND, false, now + 2 * SECOND));
        suspicion.force();
        assert!(suspicion.believes(now + 2 * SECOND, false, now + 2 * SECOND));
        suspicion.accepted(now + 3 * SECOND);
        suspicion.refused(now + 4 * SECOND);
        assert!(!suspicion.believes(now + 4 * SECOND, false, now + 4 * SECOND), "until something is accepted");
    }

    #[test]
    fn a_pair_that_is_refused_every_second_time_costs_no_questions_for_ever() {
        let (mut suspicion, mut now) = (suspicion(true, Some(true)), Instant::now());
        let mut questions = 0;
        for _ in 0..20 {
            now += SECOND;
            suspicion.accepted(now);
            now += SECOND;
            suspicion.refused(now);
            if !suspicion.believes(now, false, now) {
                questions += 1;
                assert_eq!(suspicion.answered(true, false, now, 0.0), Finding::Believed);
            }
        }
        assert_eq!(questions, 3);
        now += SECOND;
        suspicion.refused(now);
        assert!(!suspicion.believes(now, false, now), "twice in a row is asked");
    }

    #[test]
    fn after_a_while_records_go_one_by_one_until_something_is_accepted() {
        let (mut suspicion, now) = (suspicion(true, Some(true)), Instant::now());
        for second in 0..60 {
            suspicion.refused(now + second * SECOND);
        }
        assert!(!suspicion.goes_record_by_record(now + MINUTE), "one batch says little");
        for _ in 0..REFUSED_BATCHES {
            suspicion.was_refused_whole();
        }
        assert!(!suspicion.goes_record_by_record(now + MINUTE - SECOND));
        assert!(suspicion.goes_record_by_record(now + MINUTE));
        suspicion.answered(true, false, now + MINUTE, 0.0);
        assert!(suspicion.believes(now + MINUTE, false, now + MINUTE + SECOND), "an answer holds for a moment");
        assert!(!suspicion.believes(now + MINUTE, false, now + MINUTE + 11 * SECOND));
        suspicion.accepted(now + 2 * MINUTE);
        assert!(!suspicion.goes_record_by_record(now + 3 * MINUTE));
    }
}
