//! Relabeling: which series a target gets, and with which labels. Prometheus' `external_labels` and `write_relabel_configs`, exactly.
//!
//! ```text
//!  config  RelabelConfig ---> rules  Rules ---> apply    one series: Dropped, Unchanged or Changed
//!                               |     |           |        builder  labels being worked on, as Prometheus has it
//!                               |     |           '----->  change   the difference to what came
//!                               |     '-------> explain  the same, step by step, for people
//!                               |--- pattern    an anchored expression, and templates filled from its groups
//!                               |       '--- syntax  Go's expressions in the words of the `regex` crate
//!                               '--- case       Go's upper and lower case
//!
//!  labels, key ---> cache  Relabeler ---> Verdict: remembered, or by the rules
//!                     '--- table  values by key, those that came one after the other side by side
//! ```
//!
//! External labels come first, each where the series has no label of that name; then the rules in their order, each on what the one before
//! has left; then labels whose values are empty are no labels any more, and the others are sorted. Judged by Prometheus 3.5 and 3.14, with
//! any UTF-8 as a label's name.
//!
//! What is our own decision:
//!
//! - A series that is left without `__name__` is dropped, which counts as *filtered* (`V1-20`, `V2-73`). Prometheus would send it, and no receiver takes it.
//! - A series with text that is not UTF-8 is dropped (none is received): no rule can read it, and what a rule is to keep back must not pass.
//! - A `labelmap` that makes an empty name writes nothing, as `replace` does it everywhere.
//! - A series is dropped when a name or a value, or values joined, become larger than 16 MiB: a rule can double a value, and thirty rules fill
//!   any memory.
//! - Expressions are nested at most 200 deep, and a compiled one has the engine's limit of 10 MiB.
//!
//! This module imports nothing of the crate, and everything in it is pure.

pub mod cache;
pub mod change;
pub mod config;
pub mod explain;
pub mod pattern;
pub mod rules;
pub mod syntax;

mod builder;
mod case;
mod table;

pub use cache::{Relabeler, Verdict};
pub use change::{Change, Merged};
pub use config::{Action, RelabelConfig};
pub use rules::{Outcome, RuleError, Rules};
pub use table::Key;

/// Name and value.
pub type Label<'a> = (&'a [u8], &'a [u8]);

/// The label that holds a metric's name.
const METRIC_NAME: &str = "__name__";
