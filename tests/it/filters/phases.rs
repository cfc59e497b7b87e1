//! What a filter says of its phases, and what it has written.

use async_trait::async_trait;
use bytes::Bytes;
use harbr_router::filter::{
    Context, End, Filter, Last, Phases, RequestHead, ResponseHead, Result, Verdict,
};

use super::{Named, Noting, Seen};
use crate::support::{Gw, Origin, route};

/// All phases of `Noting`, but it says `phases`.
struct Saying {
    phases: Phases,
    noting: Noting,
}

#[async_trait]
impl Filter for Saying {
    fn phases(&self) -> Phases {
        self.phases
    }

    async fn request(&self, cx: &mut Context<'_>) -> Result<Verdict> {
        self.noting.request(cx).await
    }

    fn request_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        last: Last,
    ) -> Result<()> {
        self.noting.request_body(cx, body, last)
    }

    fn upstream_request(&self, cx: &mut Context<'_>, head: &mut RequestHead<'_>) -> Result<()> {
        self.noting.upstream_request(cx, head)
    }

    fn response(&self, cx: &mut Context<'_>, head: &mut ResponseHead<'_>) -> Result<()> {
        self.noting.response(cx, head)
    }

    fn response_body(
        &self,
        cx: &mut Context<'_>,
        body: &mut Option<Bytes>,
        last: Last,
    ) -> Result<()> {
        self.noting.response_body(cx, body, last)
    }

    fn log(&self, cx: &mut Context<'_>, end: &End) {
        self.noting.log(cx, end);
    }
}

fn saying(phases: Phases) -> (Gw, Seen, Origin) {
    let origin = Origin::echo();
    let noted = Seen::default();
    let seen = noted.clone();
    let yaml = route(
        "/",
        &[origin.url()],
        "filters: [{type: saying, name: a}, {type: noting, name: b}]\n",
    );
    let gw = Gw::embed(yaml, move |gateway| {
        let other = noted.clone();
        gateway
            .filter("saying", move |named: Named| {
                Ok(Saying {
                    phases,
                    noting: Noting {
                        name: named.name,
                        seen: noted.clone(),
                    },
                })
            })
            .filter("noting", move |named: Named| {
                Ok(Noting {
                    name: named.name,
                    seen: other.clone(),
                })
            })
    });
    (gw, seen, origin)
}

#[test]
fn a_phase_that_is_written_is_called_whatever_the_filter_says() {
    let all = [
        "a request",
        "b request",
        "a upstream_request",
        "b upstream_request",
        "a request_body",
        "b request_body",
        "b response 200",
        "a response 200",
        "b response_body",
        "a response_body",
        "a log 200 ok",
        "b log 200 ok",
    ];
    for phases in [
        Phases::NONE,
        Phases::REQUEST,
        Phases::REQUEST | Phases::LOG,
        Phases::RESPONSE.or(Phases::UPSTREAM_REQUEST),
        Phases::ALL,
    ] {
        let (gw, seen, _origin) = saying(phases);
        for requests in 1..=3 {
            assert_eq!(gw.get("/").status, 200);
            let seen = seen.wait_for(12 * requests);
            assert_eq!(seen[12 * (requests - 1)..], all, "{phases:?}, {requests}");
        }
    }
}

/// Writes `log` alone, and says that it does.
struct OnlyLog(Seen);

impl Filter for OnlyLog {
    fn phases(&self) -> Phases {
        Phases::LOG
    }

    fn log(&self, _cx: &mut Context<'_>, _end: &End) {
        self.0.note("log");
    }
}

/// Has work in the request phase and, when it is `on`, in that of the response.
struct Switched {
    on: bool,
    seen: Seen,
}

#[async_trait]
impl Filter for Switched {
    fn phases(&self) -> Phases {
        match self.on {
            true => Phases::REQUEST | Phases::RESPONSE,
            false => Phases::REQUEST,
        }
    }

    async fn request(&self, _cx: &mut Context<'_>) -> Result<Verdict> {
        self.seen.note("request");
        Ok(Verdict::Continue)
    }

    fn response(&self, cx: &mut Context<'_>, _head: &mut ResponseHead<'_>) -> Result<()> {
        self.seen.note("response");
        if !self.on {
            cx.take_no_part();
        }
        Ok(())
    }
}

#[test]
fn a_phase_that_settings_turn_off_is_looked_at_once() {
    for (on, notes) in [
        (
            true,
            ["request", "response", "request", "response"].as_slice(),
        ),
        (false, &["request", "response", "request"]),
    ] {
        let origin = Origin::echo();
        let (seen, ended) = (Seen::default(), Seen::default());
        let (noted, log) = (seen.clone(), ended.clone());
        let gw = Gw::embed(route("/", &[origin.url()], ""), move |gateway| {
            gateway
                .every_request("switched", Switched { on, seen: noted })
                .every_request("log", OnlyLog(log))
        });
        assert_eq!(gw.get("/").status, 200);
        assert_eq!(gw.get("/").status, 200);
        ended.wait_for(2);
        assert_eq!(seen.all(), notes, "on: {on}");
    }
}
