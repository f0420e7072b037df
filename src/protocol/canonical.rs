//! A request as it may be sent on: without its invalid series, labels sorted by name, none with an empty value.
//!
//! ```text
//!  series 0  job="a" __name__="up"                        -->  __name__="up" job="a"
//!  series 1  __name__="up" job=""                         -->  __name__="up"                an empty value is no label
//!  series 2  job="a"                       (an offender)  -->  left out
//!  series 3  __name__="up" job="a"                        -->  as it was
//! ```
//!
//! Senders must sort (`V1-22`, `V2-75`) and must not send empty values (`V1-23`, `V2-76`), but some do, and so receivers take it; as a sender
//! the relay is stricter. The result walks clean, and is its own canonical form.

use super::rewrite::{Label, Rewritten, Verdict, rewrite};
use super::wire::Malformed;
use super::{Offences, Protocol};

/// The canonical form of a decompressed request whose invalid series are known from its walk.
///
/// # Errors
/// The message is no request of this protocol, or an invalid series is not among the `offences`.
pub fn canonicalise(protocol: Protocol, message: &[u8], offences: &Offences) -> Result<Rewritten, Malformed> {
    let mut order: Vec<usize> = Vec::new();
    rewrite(protocol, message, |series, sink| {
        if offences.contains(series.index) {
            return Verdict::Drop;
        }
        if is_canonical(series.labels) {
            return Verdict::Keep;
        }
        order.clear();
        order.extend((0..series.labels.len()).filter(|n| !series.labels[*n].1.is_empty()));
        // No name comes twice: that would be an offence.
        order.sort_unstable_by_key(|n| series.labels[*n].0);
        order.iter().for_each(|n| sink.keep(*n));
        Verdict::Relabel
    })
}

fn is_canonical(labels: &[Label<'_>]) -> bool {
    labels.iter().all(|(_, value)| !value.is_empty()) && labels.windows(2).all(|pair| pair[0].0 < pair[1].0)
}
