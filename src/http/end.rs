//! How a request ended, and what Pingora's errors say of that.
//!
//! Invariant: nothing that an endpoint sent gets into a text made here.

use std::io;

use pingora_core::{Error, ErrorSource, ErrorType};

use crate::error::{Fault, Reason};
use crate::http::retry::Failure;
use crate::upstream::dial;
use crate::wire::http1::Malformed;

/// Why a request ended other than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The word for the log and the metrics.
    pub reason: Reason,
    /// Whose fault it was; `None` where it ended well.
    pub fault: Option<Fault>,
    /// Which rule the client broke; the client receives it as `detail`.
    pub detail: Option<&'static str>,
}

impl End {
    /// A request that breaks a rule.
    pub fn bad_request(detail: &'static str) -> End {
        End {
            detail: Some(detail),
            ..Reason::BadRequest.into()
        }
    }
}

impl From<Reason> for End {
    fn from(reason: Reason) -> End {
        End {
            reason,
            fault: reason.fault(),
            detail: None,
        }
    }
}

/// Says in our words what Pingora's error says in its own.
pub fn classify(error: &Error) -> End {
    use ErrorType::*;
    let malformed = || Malformed::behind(error.root_cause());
    let reason = match (error.esource(), error.etype()) {
        (_, HTTPStatus(413)) => Reason::BodyTooLarge,
        (_, HTTPStatus(400..=499)) => Reason::BadRequest,
        (ErrorSource::Downstream, ReadTimedout | WriteTimedout) => {
            return End {
                fault: Some(Fault::Client),
                ..Reason::Timeout.into()
            };
        }
        (ErrorSource::Downstream, ReadError | WriteError | ConnectionClosed) => {
            match malformed().filter(|_| *error.etype() == ReadError) {
                Some(Malformed(why)) => return End::bad_request(why),
                None => Reason::ClientClosed,
            }
        }
        (ErrorSource::Downstream, _) => Reason::BadRequest,
        (_, ConnectTimedout) => Reason::ConnectTimeout,
        (_, ConnectRefused | ConnectNoRoute | ConnectError | SocketError | BindError) => {
            Reason::ConnectFailed
        }
        (_, ReadTimedout | WriteTimedout) => Reason::Timeout,
        (ErrorSource::Upstream, ReadError | WriteError | ConnectionClosed) => Reason::UpstreamReset,
        (ErrorSource::Upstream, _) => Reason::UpstreamError,
        _ => Reason::FilterError,
    };
    reason.into()
}

/// How a connect failed: without a descriptor, a port or memory left, no endpoint would have been
/// reached.
pub fn connect_failure(error: &Error) -> Failure {
    match cause(error) {
        Some(cause) if dial::is_ours(cause) => Failure::NoSocket,
        _ => Failure::Connect,
    }
}

/// What the system said. Pingora 0.9 hides it behind details of its own where a connect failed.
pub fn cause(error: &Error) -> Option<&io::Error> {
    let root = error.root_cause();
    let behind = || root.source()?.downcast_ref();
    root.downcast_ref().or_else(behind)
}

/// Pingora's error for the log: its kind and its cause. Not its context, which may quote a whole
/// response head with whatever is secret in it.
pub fn brief(error: &Error) -> String {
    let cause = error.root_cause();
    match cause.is::<Error>() || cause.is::<Box<Error>>() {
        true => error.etype().as_str().to_string(),
        false => format!("{}: {cause}", error.etype().as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Pingora hides the cause of a failed connect.
    #[derive(Debug)]
    struct Hiding(io::Error);

    impl std::fmt::Display for Hiding {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.fmt(f)
        }
    }

    impl std::error::Error for Hiding {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_machine_out_of_descriptors_is_not_the_endpoints_fault() {
        let failed = |errno: nix::errno::Errno, etype| {
            let cause = io::Error::from_raw_os_error(errno as i32);
            let inner = Error::because(ErrorType::SocketError, "a socket", cause);
            connect_failure(&Error::because(etype, "a connect", inner))
        };
        use nix::errno::Errno::*;
        for errno in [EMFILE, ENFILE, ENOBUFS, EADDRNOTAVAIL] {
            assert_eq!(
                failed(errno, ErrorType::InternalError),
                Failure::NoSocket,
                "{errno}"
            );
        }
        for errno in [ECONNREFUSED, EHOSTUNREACH, EPERM] {
            assert_eq!(
                failed(errno, ErrorType::ConnectError),
                Failure::Connect,
                "{errno}"
            );
        }
        let hidden = |errno: nix::errno::Errno| {
            let details = Hiding(io::Error::from_raw_os_error(errno as i32));
            let error = Error::because(ErrorType::ConnectError, "a connect", details);
            connect_failure(&error)
        };
        assert_eq!(hidden(EADDRNOTAVAIL), Failure::NoSocket);
        assert_eq!(hidden(ECONNREFUSED), Failure::Connect);
        let timed_out = Error::new(ErrorType::ConnectTimedout);
        assert_eq!(connect_failure(&timed_out), Failure::Connect);
    }

    #[test]
    fn the_log_does_not_quote_what_an_endpoint_said() {
        let cause = io::Error::other("invalid header name");
        let context = "buf: HTTP/1.1 200 OK\r\nSet-Cookie: secret";
        let error = Error::because(ErrorType::InvalidHTTPHeader, context, cause);
        let error = error.more_context("Peer: somebody");
        assert_eq!(brief(&error), "InvalidHTTPHeader: invalid header name");
        let bare = Error::explain(ErrorType::ConnectionClosed, context).more_context("Peer");
        assert_eq!(brief(&bare), "ConnectionClosed");
    }
}
