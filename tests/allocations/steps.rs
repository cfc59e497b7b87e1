//! One GET in the hands of the proxy, step by step, without Pingora around it.
//!
//! Calls our code as Pingora does for a keep-alive request that goes well: each phase once, on a
//! session whose head was read. What Pingora and the sockets do between the phases is not in it.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use harbr_router::config;
use harbr_router::http::{Arrival, Proxy, arrival::Connection, exchange::Exchange};
use harbr_router::pingora;
use harbr_router::snapshot::{Additions, Snapshot, SnapshotHandle};
use harbr_router::telemetry::{AccessLog, Metrics, Reporter};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::{ProxyHttp, Session};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// A proxy with metrics, timeouts and an access log to a file, whose writer is not running: what is
/// logged stays in its queue.
pub struct Steps {
    proxy: Proxy,
    runtime: Runtime,
    listener: Arc<str>,
    connection: Arc<Connection>,
    _folder: TempDir,
}

impl Steps {
    pub fn new() -> Steps {
        let text = "listen_addr: 127.0.0.1:0\nglobal_timeout_ms: 1000\nmax_connections: 10\n\
            upstreams:\n  origin: {upstream: [\"http://127.0.0.1:1\", \"http://127.0.0.1:2\"]}\n\
            routes:\n  /: {upstream: origin}\n  /static: {upstream: origin}\n  \
            /api: {upstream: origin, retry_count: 2}\n";
        let config = config::parse(text, Path::new("c.yml")).expect("a configuration");
        let metrics = Metrics::new();
        let snapshot = Snapshot::build(Arc::new(config), &Additions::default(), &metrics, None);
        let snapshot = snapshot.expect("it names no files");
        let folder = TempDir::new().expect("a temporary folder");
        let dropped = metrics.access_log_dropped();
        let log = AccessLog::file(&folder.path().join("access.log"), dropped).expect("a file");
        let (_, closing) = watch::channel(false);
        let (_, cut) = watch::channel(None);
        Steps {
            proxy: Proxy::new(
                SnapshotHandle::new(snapshot),
                Reporter::new(Arc::new(log)),
                closing,
                cut,
            ),
            runtime: Runtime::new().expect("a runtime"),
            listener: "127.0.0.1:0".into(),
            connection: Arc::new(Connection::new(([203, 0, 113, 7], 4711).into(), None)),
            _folder: folder,
        }
    }

    /// A GET through every phase. `measure` gets each phase's name and the phase.
    pub fn get(&self, mut measure: impl FnMut(&'static str, &mut dyn FnMut())) {
        let (mut session, arrival, _client) = self.session();
        // The response's head as Pingora parsed it, and the request's as Pingora copies it.
        let mut up: RequestHeader = session.req_header().clone();
        let mut down = ResponseHeader::build(200, None).expect("a head");
        down.insert_header("Content-Length", "4").expect("a field");
        let mut body = Some(Bytes::from_static(b"body"));
        let _entered = self.runtime.enter();
        let (proxy, session) = (&self.proxy, &mut session);
        let mut begun = None;
        let mut arrival: Option<Box<dyn std::any::Any + Send + Sync>> = Some(Box::new(arrival));
        measure("new_ctx", &mut || begun = Some(proxy.new_ctx()));
        let ctx: &mut Box<Exchange> = begun.as_mut().expect("made above");
        measure("on_connection_reuse", &mut || {
            if let Some(arrival) = arrival.take() {
                proxy.on_connection_reuse(session, ctx, arrival);
            }
        });
        measure("request_filter", &mut || {
            let answered = at_once(proxy.request_filter(session, ctx));
            assert!(
                !answered.expect("nothing is wrong with it"),
                "it has a route"
            );
        });
        let mut peer = None;
        measure("upstream_peer", &mut || {
            peer = Some(at_once(proxy.upstream_peer(session, ctx)).expect("an endpoint is in"));
        });
        let peer = peer.expect("picked above");
        measure("connected_to_upstream", &mut || {
            let connected = proxy.connected_to_upstream(session, true, &peer, 0, None, ctx);
            at_once(connected).expect("it refuses none");
        });
        measure("upstream_request_filter", &mut || {
            at_once(proxy.upstream_request_filter(session, &mut up, ctx)).expect("a head");
        });
        measure("request_body_filter", &mut || {
            at_once(proxy.request_body_filter(session, &mut None, true, ctx)).expect("no body");
        });
        measure("upstream_response_filter", &mut || {
            at_once(proxy.upstream_response_filter(session, &mut down, ctx)).expect("a head");
        });
        measure("response_filter", &mut || {
            at_once(proxy.response_filter(session, &mut down, ctx)).expect("a head");
        });
        measure("response_body_filter", &mut || {
            let passed = proxy.response_body_filter(session, &mut body, true, ctx);
            assert!(passed.expect("no filter refuses").is_none());
        });
        measure("logging", &mut || {
            at_once(proxy.logging(session, None, ctx))
        });
        assert_eq!(&*ctx.route().expect("it was routed").label, "/api");
        assert_eq!(up.headers["x-forwarded-for"], "203.0.113.7");
    }

    /// A session whose head was read, and how it arrived.
    fn session(&self) -> (Session, Arrival, DuplexStream) {
        let (session, client) = self.runtime.block_on(async {
            let (mut client, server) = duplex(4096);
            client.write_all(HEAD).await.expect("room for a head");
            let mut session = Session::new_h1(Box::new(server));
            let read = session.as_downstream_mut().read_request().await;
            assert!(read.expect("a whole head"));
            (session, client)
        });
        let arrival = Arrival {
            client: SocketAddr::from(([203, 0, 113, 7], 4711)),
            local: SocketAddr::from(([127, 0, 0, 1], 80)),
            listener: self.listener.clone(),
            head_read: Instant::now(),
            requests_before: 1,
            last: false,
            cutoff: Arc::default(),
            connection: self.connection.clone(),
        };
        (session, arrival, client)
    }
}

/// What a future is that waits for nothing.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("it waits"),
    }
}

const HEAD: &[u8] = b"GET /api/v1/users/42?page=2 HTTP/1.1\r\nHost: gateway.test\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n";
