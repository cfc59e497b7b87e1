//! The only place where it is decided whether a request is sent again.
//!
//! Its own file so that the whole policy can be read, and tested, in one piece. Invariant: nothing
//! is sent again once response bytes went to the client, and nothing that is not idempotent is sent
//! again once any of it may have reached an endpoint.

use std::time::Duration;

use rand::Rng;

use crate::error::Reason;

/// How a try failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// No connection stood, so no byte was sent.
    Connect,
    /// As [`Connect`](Failure::Connect), for want of something here, not at the endpoint.
    NoSocket,
    /// A pooled connection died before a response byte: the endpoint had closed it while idle.
    Stale,
    /// A pooled connection was not used, because its endpoint may be closing it by now.
    KeepAliveOver,
    /// The connection broke, or what came was no response.
    Broken,
    /// `try_timeout_ms` passed without a response header.
    TryTimeout,
    /// The endpoint answered with this status.
    Status(u16),
}

impl Failure {
    /// The `reason` label of `harbr_retries_total`.
    pub fn reason(self) -> Reason {
        match self {
            Failure::Connect => Reason::ConnectFailed,
            // Our own limit, which is nobody else's fault.
            Failure::NoSocket => Reason::TooManyConnections,
            Failure::Stale | Failure::KeepAliveOver | Failure::Broken => Reason::UpstreamReset,
            Failure::TryTimeout => Reason::Timeout,
            Failure::Status(_) => Reason::UpstreamError,
        }
    }
}

/// What is known of the request when a try failed.
#[derive(Clone, Copy, Debug)]
pub struct Situation {
    /// RFC 9110, section 9.2.2.
    pub idempotent: bool,
    /// The body, if any, still stands whole in the replay buffer (64 KiB).
    pub replayable: bool,
    /// Response bytes went to the client.
    pub responded: bool,
    /// `timeout_ms` has passed.
    pub out_of_time: bool,
    /// Counted tries that were made, the first one included.
    pub tries: u32,
    /// `retry_count` of the route.
    pub retry_count: u32,
    /// The one uncounted resend after a stale connection is used up.
    pub resent: bool,
    /// There is an endpoint that was not tried and has room.
    pub another: bool,
    /// The one uncounted try at another endpoint is used up.
    pub moved: bool,
}

/// What to do about a failed try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The failure reaches the client.
    GiveUp,
    /// On a connection that is surely fresh; not counted as a retry and without back-off.
    Resend,
    /// At once, at another endpoint, since nothing was sent; not counted as a retry.
    Elsewhere,
    /// A counted retry.
    Retry,
}

/// Decides. `budget` is asked last, and only for a retry that is charged to it.
pub fn decide(failure: Failure, now: &Situation, budget: impl FnOnce() -> bool) -> Decision {
    if now.responded || now.out_of_time {
        return Decision::GiveUp;
    }
    if failure == Failure::Connect && now.another && !now.moved {
        return Decision::Elsewhere;
    }
    if failure == Failure::KeepAliveOver {
        // Once for each try: what is fresh has not lain in the pool.
        return Decision::Resend;
    }
    if matches!(failure, Failure::Connect | Failure::NoSocket) {
        return if now.tries <= now.retry_count {
            Decision::Retry
        } else {
            Decision::GiveUp
        };
    }
    if !now.idempotent || !now.replayable {
        return Decision::GiveUp;
    }
    if failure == Failure::Stale && !now.resent {
        return Decision::Resend;
    }
    if let Failure::Status(status) = failure
        && !is_retryable(status)
    {
        return Decision::GiveUp;
    }
    if now.tries <= now.retry_count && budget() {
        Decision::Retry
    } else {
        Decision::GiveUp
    }
}

/// The statuses that say "not me, not now": 502, 503 and 504.
pub fn is_retryable(status: u16) -> bool {
    matches!(status, 502..=504)
}

/// The pause before retry `n` (from 1): full jitter over 25 ms × 2ⁿ⁻¹, at most 250 ms.
/// Source: "Exponential Backoff And Jitter", AWS Architecture Blog; base and cap as Envoy's.
pub fn backoff(n: u32) -> Duration {
    let most = BACKOFF_BASE
        .saturating_mul(1 << n.saturating_sub(1).min(10))
        .min(BACKOFF_CAP);
    rand::rng().random_range(Duration::ZERO..=most)
}

const BACKOFF_BASE: Duration = Duration::from_millis(25);
const BACKOFF_CAP: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    const GET: Situation = Situation {
        idempotent: true,
        replayable: true,
        responded: false,
        out_of_time: false,
        tries: 1,
        retry_count: 2,
        resent: false,
        another: false,
        moved: false,
    };
    const POST: Situation = Situation {
        idempotent: false,
        ..GET
    };

    fn with_budget(failure: Failure, now: &Situation) -> Decision {
        decide(failure, now, || true)
    }

    #[test]
    fn a_connect_failure_is_retried_for_every_method_and_not_charged() {
        for failure in [Failure::Connect, Failure::NoSocket] {
            for now in [GET, POST] {
                let decision = decide(failure, &now, || panic!("charged"));
                assert_eq!(decision, Decision::Retry);
            }
        }
        let not_replayable = Situation {
            replayable: false,
            ..POST
        };
        assert_eq!(
            with_budget(Failure::Connect, &not_replayable),
            Decision::Retry,
            "no byte of the body was read yet"
        );
    }

    #[test]
    fn a_failed_connect_goes_to_another_endpoint_once_without_count_or_charge() {
        let alone = Situation {
            retry_count: 0,
            ..POST
        };
        let decision = |failure, now| decide(failure, &now, || panic!("charged"));
        assert_eq!(decision(Failure::Connect, alone), Decision::GiveUp);
        let with_another = Situation {
            another: true,
            ..alone
        };
        let moved = Situation {
            moved: true,
            ..with_another
        };
        assert_eq!(
            decision(Failure::Connect, with_another),
            Decision::Elsewhere
        );
        assert_eq!(decision(Failure::Connect, moved), Decision::GiveUp);
        assert_eq!(
            decision(Failure::NoSocket, with_another),
            Decision::GiveUp,
            "what is missing here is missing for every endpoint"
        );
        for failure in [Failure::Stale, Failure::Broken, Failure::Status(503)] {
            assert_eq!(decision(failure, with_another), Decision::GiveUp);
        }
        let late = Situation {
            out_of_time: true,
            ..with_another
        };
        assert_eq!(decision(Failure::Connect, late), Decision::GiveUp);
    }

    #[test]
    fn retries_end_with_retry_count() {
        for failure in [Failure::Connect, Failure::Broken, Failure::Status(503)] {
            let second = Situation { tries: 2, ..GET };
            let third = Situation { tries: 3, ..GET };
            assert_eq!(with_budget(failure, &second), Decision::Retry);
            assert_eq!(with_budget(failure, &third), Decision::GiveUp);
        }
    }

    #[test]
    fn what_is_not_idempotent_is_never_sent_twice() {
        for failure in [
            Failure::Stale,
            Failure::Broken,
            Failure::TryTimeout,
            Failure::Status(503),
        ] {
            assert_eq!(with_budget(failure, &POST), Decision::GiveUp);
        }
    }

    #[test]
    fn nothing_is_retried_after_response_bytes_or_out_of_time() {
        let responded = Situation {
            responded: true,
            ..GET
        };
        let late = Situation {
            out_of_time: true,
            ..GET
        };
        for failure in [
            Failure::Connect,
            Failure::Stale,
            Failure::Broken,
            Failure::TryTimeout,
            Failure::Status(502),
        ] {
            assert_eq!(with_budget(failure, &responded), Decision::GiveUp);
            assert_eq!(with_budget(failure, &late), Decision::GiveUp);
        }
    }

    #[test]
    fn a_stale_connection_is_resent_once_without_count() {
        let none_left = Situation {
            retry_count: 0,
            ..GET
        };
        assert_eq!(with_budget(Failure::Stale, &none_left), Decision::Resend);
        let resent = Situation {
            resent: true,
            ..none_left
        };
        assert_eq!(with_budget(Failure::Stale, &resent), Decision::GiveUp);
    }

    #[test]
    fn a_connection_that_was_not_used_is_replaced_for_every_method_and_not_counted() {
        for now in [GET, POST] {
            let last = Situation {
                replayable: false,
                retry_count: 0,
                resent: true,
                ..now
            };
            let decision = decide(Failure::KeepAliveOver, &last, || panic!("charged"));
            assert_eq!(decision, Decision::Resend);
        }
        let late = Situation {
            out_of_time: true,
            ..GET
        };
        assert_eq!(with_budget(Failure::KeepAliveOver, &late), Decision::GiveUp);
    }

    #[test]
    fn only_502_503_504_are_retried() {
        for status in [200, 404, 500, 501, 505, 599] {
            assert_eq!(with_budget(Failure::Status(status), &GET), Decision::GiveUp);
        }
        for status in [502, 503, 504] {
            assert_eq!(with_budget(Failure::Status(status), &GET), Decision::Retry);
        }
    }

    #[test]
    fn an_empty_budget_ends_it() {
        assert_eq!(decide(Failure::Broken, &GET, || false), Decision::GiveUp);
    }

    #[test]
    fn backoff_is_jittered_and_bounded() {
        for n in [1, 2, 3, 4, 5, 20, u32::MAX] {
            for _ in 0..100 {
                assert!(backoff(n) <= BACKOFF_CAP);
            }
        }
        assert!((0..100).all(|_| backoff(1) <= BACKOFF_BASE));
    }
}
