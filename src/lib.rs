//! promrelay: a durable relay for Prometheus remote write.
//!
//! Upstream Prometheus servers point `remote_write` at it. It puts every request on disk, answers 2xx, and delivers it to every
//! configured target, in order, however long a target was away.
//!
//! # Promises
//! 1. **Durable.** With `sync = "always"` (the default) a 2xx means that the request survives `kill -9` and power loss.
//! 2. **Complete.** Per target every accepted sample ends in exactly one way:
//!    `accepted = delivered + refused + filtered + expired + dropped + lost + pending`, in every scrape, across restarts.
//! 3. **Ordered.** A target sees the samples of one series in the order in which they were accepted, through retries, crashes and
//!    restarts. (With `order = "fresh_first"` within each of the two lanes; what somebody has sent again, by seek or resend, comes behind.)
//! 4. **Bounded.** Memory and start-up time depend neither on the number of series nor on the backlog; disk has a hard cap.
//!
//! # The way of the data
//! ```text
//!  upstream --POST--> receive --record--> wal::writer --fdatasync--> readable position
//!              ^   negotiate, limit,         | group commit              |
//!              |   decode, validate          v                           v
//!              '-------- 204 only after -----'                 wal::reader: copies out of a read-only mapping
//!                                                                        | one cursor per target
//!                     target: records -> batch -> POST -> answer -> outcome -> settled --- refused ---> dead letters
//!                               ^                          |                     |
//!                               '--- halves of it, again --'                     v
//!                     segments are released  <---- lowest savepoint ---- savepoint per target
//! ```
//! Receive and target never meet except in the log. What is stored is the request's body as it came, and one record is sent as it was stored:
//! unknown fields survive, and another target costs little more than its bytes. (A request that is not *canonical* is rewritten once, by the receiver:
//! what is invalid left out, labels sorted. So nothing malformed ever becomes a target's poison.) When a target is behind, requests of 1.0 are merged without
//! being decompressed. Only merged requests of 2.0, what is taken apart because it was refused, and what a target gets relabeled or in the other protocol, are written anew.
//!
//! # Words
//! One meaning each, in code, logs, metrics and configuration. *record*: one accepted request as stored. *segment*: one file of the
//! log, *active* or *sealed*. *position*: a record's place in the total order. *offset*: bytes inside a file. *readable position*: up
//! to where targets may read (durable, with `sync = "never"` written). *cursor*: a reader's moving place. *target*: a configured
//! destination. *batch*: consecutive records that are one request; its *cut* says which. *piece*: what one request carries of it. *entry*: one
//! time series message of a request. *offence*: why a series is *invalid*, which is when no receiver can take it. *canonical*: a request without those,
//! with sorted labels that all have values. *attempt*, *outcome*: one try, and what came of it. *question*: an attempt that is to tell something about
//! the target. *culprit*: a series that was refused alone. *isolated*: failing while others are taken. *poison*: given up for that. *lane*: of
//! two orders in which a target is sent to, with `fresh_first`. *settled*: delivered, refused, filtered, expired, dropped or lost.
//! *savepoint*: the durable statement of what a target has settled. *pending*, *backlog*: readable but not settled. *reject*: what we
//! answer an upstream; *refuse*: what a target answers us; *drop*: what we give up. *release*: delete old segments. *seal*: close a
//! segment for good.
//!
//! # Modules
//! Imports go one way, from the top of this list to the bottom; [`receive`] and [`target`] never import each other.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the command line: run, check, the tools for the log and for rules |
//! | [`relay`] | the wiring: start, housekeeping, end |
//! | [`config`] | `config.toml`, checked and turned into each part's settings |
//! | [`web`] | the listener, status, metrics, readiness |
//! | [`receive`] | from a request to a durable record and its answer |
//! | [`target`] | from a record to a target's answer and a moved savepoint |
//! | [`dead_letter`] | what targets refused for good, kept in a ring |
//! | [`savepoint`] | what each target has settled, kept through crashes |
//! | [`metrics`] | every metric, declared once |
//! | [`relabel`] | which series a target gets, and with which labels; imports nothing of the crate |
//! | [`protocol`] | the walk over remote write 1.0 and 2.0; imports nothing of the crate |
//! | [`wal`] | the log; imports nothing of the crate |
//! | [`clock`] | the wall clock |

pub mod cli;
pub mod clock;
pub mod config;
pub mod dead_letter;
pub mod metrics;
pub mod protocol;
pub mod receive;
pub mod relabel;
pub mod relay;
pub mod savepoint;
pub mod target;
pub mod wal;
pub mod web;
