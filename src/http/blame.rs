//! What an endpoint is blamed for, in words.
//!
//! Its own file because Pingora's errors are not made to be read by operators, and may quote a
//! whole response head: here only their kind and the system's own cause are taken.

use std::io;

use pingora_core::{Error, ErrorType};

use crate::http::end::{brief, cause};
use crate::http::exchange::Exchange;
use crate::http::retry::Failure;

/// Tells the endpoint of the current try, and the log, how it failed.
pub(super) fn endpoint(ctx: &Exchange, failure: Failure, error: &Error) {
    let Some(lease) = &ctx.lease else { return };
    match failure {
        // An idle connection may be closed. Which statuses are errors is the upstream's to say.
        Failure::Stale | Failure::KeepAliveOver | Failure::Status(_) => {}
        Failure::Connect | Failure::NoSocket => {
            let waited = ctx.try_started.elapsed();
            let timeout = ctx.route.as_ref().map(|route| route.tries.connect_timeout);
            let waited = timeout.map_or(waited, |timeout| waited.min(timeout));
            match (error.etype(), cause(error)) {
                (ErrorType::ConnectTimedout, _) => {
                    lease.connect_failed(&io::ErrorKind::TimedOut.into(), waited);
                }
                (_, Some(cause)) => lease.connect_failed(cause, waited),
                (_, None) => lease.connect_failed(&io::Error::other(words(error)), waited),
            }
        }
        Failure::TryTimeout => lease.failed(match ctx.first_byte {
            None => "no response in time",
            Some(_) => "silent in its response for too long",
        }),
        Failure::Broken => {
            let when = match ctx.first_byte {
                None => "before a response",
                Some(_) => "in its response",
            };
            match cause(error) {
                Some(cause) => lease.failed(format_args!("{when}: {cause}")),
                None => lease.failed(format_args!("{when}: {}", words(error))),
            }
        }
    }
}

/// A request could not be sent again although the endpoint had only closed an idle connection.
pub(super) fn stale(ctx: &Exchange) {
    if let (Some(route), Some(endpoint)) = (&ctx.route, &ctx.endpoint) {
        let why = "before a response: closed a connection that was used again";
        route.upstream.failed(endpoint, why);
    }
}

fn words(error: &Error) -> String {
    match error.etype() {
        ErrorType::ConnectTimedout => "timed out".into(),
        ErrorType::ConnectionClosed => "closed the connection".into(),
        _ => brief(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_do_not_quote_what_an_endpoint_said() {
        let head = "buf: HTTP/1.1 200 OK\r\nSet-Cookie: secret";
        for (kind, text) in [
            (ErrorType::ConnectTimedout, "timed out"),
            (ErrorType::ConnectionClosed, "closed the connection"),
            (ErrorType::InvalidHTTPHeader, "InvalidHTTPHeader"),
        ] {
            let error = Error::explain(kind, head).more_context("Peer: somebody");
            assert_eq!(words(&error), text);
        }
    }
}
