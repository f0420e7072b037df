//! Why there was no answer, told apart by type.

use std::error::Error;
use std::io;

/// There was no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unanswered {
    /// What failed.
    pub kind: Kind,
    /// A time-out passed, while connecting or later.
    pub timed_out: bool,
    /// `false` only when it is certain that no byte of the body was sent. Else the target may or may not have taken the request,
    /// and what it says to the same data later may be said of data that it has.
    pub may_have_arrived: bool,
    /// For people.
    pub text: String,
}

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The name has no address, or nobody says so.
    Dns,
    /// No connection: refused, no route, no time left.
    Connect,
    /// The handshake, or later something about the certificates.
    Tls,
    /// The time was over after the request, or a part of it, had been sent.
    TimedOut,
    /// The connection ended before an answer.
    Reset,
    /// Not HTTP, or something nobody thought of.
    Other,
}

impl Unanswered {
    pub(super) fn new(error: reqwest::Error, may_have_arrived: bool) -> Unanswered {
        let timed_out = error.is_timeout();
        let kind = if error.is_dns() {
            Kind::Dns
        } else if has_cause::<rustls::Error>(&error, |_| true) {
            Kind::Tls
        } else if error.is_connect() || (timed_out && !may_have_arrived) {
            Kind::Connect
        } else if timed_out {
            Kind::TimedOut
        } else if has_cause(&error, is_reset) || has_cause(&error, is_end) {
            Kind::Reset
        } else {
            Kind::Other
        };
        // The URL may hold a password, and the line names the target anyway.
        let error = error.without_url();
        Unanswered { kind, timed_out, may_have_arrived, text: text(&error) }
    }
}

fn is_reset(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}

fn is_end(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

/// The error, what caused it, what caused that.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error: &&'a (dyn Error + 'static)| {
        // The source of an `io::Error` is that of what it wraps; what it wraps has to be asked for.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

fn has_cause<E: Error + 'static>(error: &(dyn Error + 'static), is_it: impl Fn(&E) -> bool) -> bool {
    causes(error).filter_map(<dyn Error>::downcast_ref::<E>).any(is_it)
}

/// For people: the last two causes, which say what happened to whom; those above name layers of the client. Not over [`causes`]: an `io::Error`
/// says what it wraps.
fn text(error: &(dyn Error + 'static)) -> String {
    let mut said = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        said.push(cause.to_string());
        source = cause.source();
    }
    said[said.len().saturating_sub(2)..].join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_what_happened_and_not_through_how_many_layers() {
        #[derive(Debug, thiserror::Error)]
        #[error("error sending request")]
        struct Sending(#[source] Connecting);

        #[derive(Debug, thiserror::Error)]
        #[error("tcp connect error")]
        struct Connecting(#[source] io::Error);

        let refused = io::Error::other("Connection refused (os error 111)");
        assert_eq!(text(&Sending(Connecting(refused))), "tcp connect error: Connection refused (os error 111)");
        assert_eq!(text(&io::Error::other("time is up")), "time is up");
    }

    #[test]
    fn a_cause_is_found_however_deep_and_inside_an_io_error() {
        let alert = || rustls::Error::General("no".into());
        assert!(has_cause::<rustls::Error>(&io::Error::other(alert()), |_| true));
        assert!(has_cause::<rustls::Error>(&io::Error::other(io::Error::other(alert())), |_| true));
        assert!(!has_cause::<rustls::Error>(&io::Error::other("no"), |_| true));
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(has_cause(&reset, is_reset));
        assert!(!has_cause(&io::Error::from(io::ErrorKind::TimedOut), is_reset));
    }
}
