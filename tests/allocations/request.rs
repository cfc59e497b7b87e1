//! One request in the hands of `http::filters`, without a gateway around it. The test counts what it
//! allocates, a benchmark measures what it costs.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use harbr_router::config;
use harbr_router::filter::End;
use harbr_router::http::exchange::Exchange;
use harbr_router::http::filters::{self, Requested};
use harbr_router::snapshot::{Additions, Snapshot};
use harbr_router::telemetry::Metrics;
use harbr_router::{Reason, pingora};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;

/// A request whose head was read, at a route.
pub struct OneRequest {
    session: Session,
    exchange: Exchange,
    up: RequestHeader,
    down: ResponseHeader,
    _client: DuplexStream,
}

impl OneRequest {
    /// A GET at a route with these `filters`.
    pub fn new(runtime: &Runtime, additions: &Additions, filters: &str) -> OneRequest {
        let text = format!(
            "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1000\nmax_connections: 10\n\
             routes: {{/: {{upstream: \"http://127.0.0.1:1\", filters: [{filters}]}}}}\n"
        );
        let config = config::parse(&text, Path::new("c.yml")).expect("a configuration");
        let snapshot = Snapshot::build(Arc::new(config), additions, &Metrics::new(), None);
        let snapshot = snapshot.expect("its filters are known");
        let (session, client) = runtime.block_on(async {
            let (mut client, server) = duplex(4096);
            let head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
            client.write_all(head).await.expect("room for a head");
            let mut session = Session::new_h1(Box::new(server));
            let read = session.as_downstream_mut().read_request().await;
            assert!(read.expect("a whole head"));
            (session, client)
        });
        let mut exchange = Exchange::new(Instant::now());
        exchange.begin(Instant::now());
        let route = snapshot.routes.lookup(None, "/").expect("a route");
        exchange.route_to(route.clone(), "/".to_owned());
        OneRequest {
            session,
            exchange,
            up: RequestHeader::build("GET", b"/", None).expect("a head"),
            down: ResponseHeader::build(200, None).expect("a head"),
            _client: client,
        }
    }

    /// Every phase once, as a request without a retry goes through them.
    pub fn pass_every_phase(&mut self) {
        let (session, exchange) = (&mut self.session, &mut self.exchange);
        let requested = at_once(filters::request(session, exchange));
        assert!(matches!(
            requested,
            Requested::Unfiltered | Requested::Passed
        ));
        exchange.begin_try();
        let mut body = Some(Bytes::from_static(b"body"));
        let passed = [
            filters::upstream_request(session, exchange, &mut self.up),
            filters::request_body(session, exchange, &mut body, true),
            filters::response(session, exchange, &mut self.down),
            filters::response_body(session, exchange, &mut body, true),
        ];
        assert!(passed.iter().all(Result::is_ok));
        let end = End {
            status: 200,
            reason: Reason::Ok,
            duration: Duration::from_millis(1),
        };
        filters::log(session, exchange, &end);
    }
}

/// What a future is that waits for nothing.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}
