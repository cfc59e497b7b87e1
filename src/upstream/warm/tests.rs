//! Sockets connected ahead to real listeners. The filler is driven by hand where it must be shown
//! that it does nothing.
//!
//! Long because shelf, filler and limits are tested together.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::config::{DbType, HealthCheck, Probe, UpstreamSpec};
use crate::telemetry::Metrics;
use crate::upstream::EndpointAddr;
use crate::upstream::Role;
use crate::upstream::fixture::{endpoint, eventually, pick, spec, upstream};

const POLICY: Policy = Policy {
    most: 4,
    max_age: Duration::from_secs(30),
    asked_first: true,
};

/// A server, an upstream with it, and the pool. The filler does one round for each `round`.
struct Setup {
    listener: TcpListener,
    upstream: Arc<Upstream>,
    warm: Warm,
    filler: Filler,
    policy: Policy,
    metrics: Metrics,
}

async fn setup(policy: Policy, change: impl FnOnce(&mut UpstreamSpec)) -> Setup {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let label = listener.local_addr().unwrap().to_string();
    let mut spec = spec(vec![endpoint(&label)]);
    change(&mut spec);
    Setup {
        listener,
        upstream: upstream(spec),
        warm: Warm::new(Arc::new(Vec::new)),
        filler: Filler::default(),
        policy,
        metrics: Metrics::new(),
    }
}

impl Setup {
    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(self.upstream.endpoints().iter().next().unwrap())
    }

    fn take(&self) -> Option<TcpStream> {
        let taken = self.warm.take(&self.upstream, &self.endpoint())?;
        if let Some(next) = taken.next {
            next.start();
        }
        Some(taken.stream)
    }

    fn wanted(&self) -> Vec<Wanted> {
        vec![Wanted {
            upstream: Arc::clone(&self.upstream),
            policy: self.policy,
            metrics: self.metrics.tcp_route("db"),
        }]
    }

    /// One round of the filler, its connects included.
    async fn round(&mut self) {
        self.round_with(self.wanted()).await;
    }

    async fn round_with(&mut self, wanted: Vec<Wanted>) {
        self.filler.tend(wanted);
        loop {
            self.filler.fill();
            if self.filler.connects.join_next().await.is_none() {
                break;
            }
        }
        // Those in the place of what was taken.
        for endpoint in self.filler.served.clone() {
            let connecting = || endpoint.shelf().lock().connecting;
            eventually("all are connected", || connecting() == 0).await;
        }
    }

    /// Two clients within a short time: enough for one socket.
    async fn clients_come(&mut self) {
        self.round().await;
        assert!(self.take().is_none());
        assert!(self.take().is_none());
        self.round().await;
        assert_eq!(self.ready(), 1);
    }

    fn ready(&self) -> usize {
        self.endpoint().warm_sockets()
    }

    /// What the server has accepted and not yet handed to the test.
    async fn accept(&self) -> TcpStream {
        let accept = self.listener.accept();
        let accepted = tokio::time::timeout(Duration::from_secs(10), accept).await;
        accepted.expect("somebody connects").unwrap().0
    }

    async fn nobody_connects(&self) {
        let accept = self.listener.accept();
        let waited = tokio::time::timeout(Duration::from_millis(50), accept).await;
        assert!(waited.is_err(), "somebody connected");
    }

    fn gauge(&self) -> String {
        let text = self.metrics.render();
        let line = text.lines().find(|l| l.starts_with("harbr_warm_sockets{"));
        line.and_then(|l| l.rsplit(' ').next())
            .unwrap_or("none")
            .to_owned()
    }
}

/// The end of a connection, seen from the server.
async fn is_closed(mut accepted: TcpStream) {
    let mut bytes = [0; 16];
    let read = accepted.read(&mut bytes);
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    assert!(
        !matches!(read.expect("it is closed"), Ok(1..)),
        "bytes came"
    );
}

#[test]
fn protocols_that_bear_it_have_sockets_ahead_and_no_others() {
    let minute = Duration::from_secs(60);
    let of = |db_type| Policy::of(db_type, minute).map(|p| (p.most, p.max_age.as_secs()));
    assert_eq!(of(DbType::Postgres), Some((8, 2)));
    assert_eq!(of(DbType::Redis), Some((4, 60)));
    assert_eq!(of(DbType::Mongodb), Some((2, 30)));
    let with = DbType::ALL.into_iter().filter(|t| of(*t).is_some());
    assert_eq!(with.count(), 3);
    assert_eq!(of(DbType::Mysql), None);

    let short = Policy::of(DbType::Redis, Duration::from_secs(5)).unwrap();
    assert_eq!(short.max_age, Duration::from_secs(5));
    let short = Policy::of(DbType::Postgres, Duration::from_secs(1)).unwrap();
    assert_eq!(short.max_age, Duration::from_secs(1));
    assert_eq!(Policy::of(DbType::Postgres, Duration::ZERO), None);
}

#[tokio::test]
async fn nothing_is_connected_while_nobody_comes() {
    let mut setup = setup(POLICY, |_| {}).await;
    for _ in 0..20 {
        setup.round().await;
    }
    assert!(setup.take().is_none());
    setup.round().await;
    assert_eq!(setup.ready(), 0);
    setup.nobody_connects().await;
}

#[tokio::test]
async fn clients_that_come_again_find_a_socket() {
    let mut setup = setup(POLICY, |_| {}).await;
    setup.clients_come().await;
    assert_eq!(setup.gauge(), "1");
    let mut taken = setup.take().expect("a socket is there");
    assert_eq!((setup.ready(), setup.gauge().as_str()), (0, "0"));
    let mut accepted = setup.accept().await;
    taken.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    accepted.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, *b"hello");
}

#[tokio::test]
async fn one_that_was_given_out_is_never_given_out_again() {
    let mut setup = setup(POLICY, |_| {}).await;
    setup.clients_come().await;
    let mut seen = HashSet::new();
    for _ in 0..50 {
        let taken = setup.take().expect("it was replaced");
        assert!(seen.insert(taken.local_addr().unwrap()), "given out twice");
        let accepted = setup.accept().await;
        assert_eq!(accepted.peer_addr().unwrap(), taken.local_addr().unwrap());
        drop(taken);
        setup.round().await;
    }
}

#[tokio::test]
async fn a_crowd_gets_no_more_than_the_protocol_bears() {
    let mut setup = setup(POLICY, |_| {}).await;
    setup.round().await;
    for _ in 0..10 {
        for _ in 0..1000 {
            setup.take();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        setup.round().await;
        assert!(setup.ready() <= 4);
    }
    assert_eq!(setup.ready(), 4);
}

#[tokio::test]
async fn one_that_the_server_closed_is_not_given_out() {
    let mut setup = setup(POLICY, |_| {}).await;
    setup.clients_come().await;
    drop(setup.accept().await);
    let shelf = setup.endpoint();
    eventually("the close arrives", || {
        let now = Instant::now();
        let state = shelf.shelf().lock();
        state.sockets.iter().all(|kept| !kept.is_good(now, POLICY))
    })
    .await;
    assert_eq!(setup.ready(), 1, "nothing has looked at it yet");
    assert!(setup.take().is_none());
    // And what is found dead in time is replaced.
    setup.round().await;
    assert!(setup.take().is_some());
}

#[tokio::test]
async fn one_on_which_the_server_spoke_is_not_given_out() {
    let mut setup = setup(POLICY, |_| {}).await;
    setup.clients_come().await;
    let mut accepted = setup.accept().await;
    accepted.write_all(b"-ERR max").await.unwrap();
    let shelf = setup.endpoint();
    eventually("the bytes arrive", || {
        let now = Instant::now();
        let state = shelf.shelf().lock();
        state.sockets.iter().all(|kept| !kept.is_good(now, POLICY))
    })
    .await;
    assert!(setup.take().is_none());
    is_closed(accepted).await;
}

#[tokio::test]
async fn none_is_given_out_that_is_too_old() {
    let policy = Policy {
        max_age: Duration::from_millis(600),
        ..POLICY
    };
    let mut setup = setup(policy, |_| {}).await;
    setup.clients_come().await;
    let accepted = setup.accept().await;
    tokio::time::sleep(policy.max_age).await;
    assert_eq!(setup.ready(), 1, "nothing has looked at it yet");
    assert!(setup.take().is_none());
    is_closed(accepted).await;
}

#[tokio::test]
async fn all_are_closed_when_nobody_comes_any_more() {
    let policy = Policy {
        max_age: Duration::from_millis(600),
        ..POLICY
    };
    let mut setup = setup(policy, |_| {}).await;
    setup.clients_come().await;
    let accepted = setup.accept().await;
    tokio::time::sleep(policy.max_age).await;
    setup.round().await;
    assert_eq!((setup.ready(), setup.gauge().as_str()), (0, "0"));
    is_closed(accepted).await;
    setup.round().await;
    setup.nobody_connects().await;
}

fn checked(spec: &mut UpstreamSpec) {
    spec.health_check = Some(HealthCheck {
        probe: Probe::Tcp {
            db_type: DbType::Postgres,
            user: None,
            password: None,
        },
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(1),
        healthy_after: 1,
        unhealthy_after: 1,
    });
}

#[tokio::test]
async fn an_endpoint_that_goes_down_loses_its_sockets() {
    let mut setup = setup(POLICY, checked).await;
    setup.clients_come().await;
    let accepted = setup.accept().await;
    let check = setup.upstream.spec().health_check.clone().unwrap();
    let down = Err("no answer".to_owned());
    setup.upstream.note_check(&setup.endpoint(), &check, &down);
    assert!(setup.take().is_none(), "not even before the next look");
    setup.round().await;
    assert_eq!(setup.ready(), 0);
    is_closed(accepted).await;
    setup.nobody_connects().await;
    // Up again: its clients still come.
    let up = Ok(Role::Unknown);
    setup.upstream.note_check(&setup.endpoint(), &check, &up);
    setup.round().await;
    assert!(setup.take().is_some());
}

#[tokio::test]
async fn an_address_that_changes_takes_its_sockets_with_it() {
    let mut setup = setup(POLICY, |_| {}).await;
    let port = setup.listener.local_addr().unwrap().port();
    setup.upstream = upstream(spec(vec![endpoint(&format!("db.example:{port}"))]));
    let here = EndpointAddr::alone(([127, 0, 0, 1], port).into());
    let there = EndpointAddr::alone(([127, 0, 0, 2], port).into());
    setup.upstream.note_addresses("db.example", port, &[here]);
    setup.clients_come().await;
    let accepted = setup.accept().await;
    let before = setup.endpoint();
    setup.upstream.note_addresses("db.example", port, &[there]);
    assert!(setup.take().is_none());
    setup.round().await;
    assert_eq!((before.warm_sockets(), setup.ready()), (0, 0));
    is_closed(accepted).await;
}

#[tokio::test]
async fn a_reload_keeps_them_and_one_without_pooling_does_not() {
    let mut setup = setup(POLICY, |_| {}).await;
    setup.clients_come().await;
    let accepted = setup.accept().await;
    let mut changed = (**setup.upstream.spec()).clone();
    changed.endpoints[0].max_connections = Some(100);
    setup.upstream = Upstream::new(Arc::new(changed), Some(&setup.upstream));
    setup.round().await;
    let taken = setup.take().expect("it was kept");
    assert_eq!(accepted.peer_addr().unwrap(), taken.local_addr().unwrap());

    setup.round().await;
    assert_eq!(setup.ready(), 1);
    setup.round_with(Vec::new()).await;
    assert_eq!(setup.ready(), 0);
    assert!(setup.take().is_none());
    assert!(setup.take().is_none());
    setup.round_with(Vec::new()).await;
    assert_eq!(setup.ready(), 0);
}

#[tokio::test]
async fn leases_and_sockets_stay_within_the_limits_together() {
    let limit_endpoint = |spec: &mut UpstreamSpec| spec.endpoints[0].max_connections = Some(3);
    let limit_upstream = |spec: &mut UpstreamSpec| spec.max_connections = Some(3);
    let limits: [fn(&mut UpstreamSpec); 2] = [limit_endpoint, limit_upstream];
    for limit in limits {
        let mut setup = setup(POLICY, limit).await;
        setup.round().await;
        // A crowd: four would be worth having.
        for _ in 0..20_000 {
            setup.take();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        setup.round().await;
        assert_eq!(setup.ready(), 3);
        let mut held = Vec::new();
        for left in [2, 1, 0] {
            // The lease is given although sockets and leases fill all places.
            held.push(pick(&setup.upstream).await.unwrap());
            setup.round().await;
            assert_eq!(setup.ready(), left);
        }
        held.pop();
        setup.round().await;
        assert_eq!(setup.ready(), 1);
    }
}

#[tokio::test]
async fn a_server_that_refuses_is_left_alone_for_longer_each_time() {
    let mut setup = setup(POLICY, |_| {}).await;
    setup.round().await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    drop(std::mem::replace(&mut setup.listener, gone));
    setup.take();
    setup.take();
    setup.round().await;
    let endpoint = setup.endpoint();
    let failures = || endpoint.shelf().lock().failures;
    let retry_at = |at| endpoint.shelf().lock().retry_at.replace(at).unwrap();
    assert_eq!((failures(), endpoint.shelf().lock().connecting), (1, 0));
    let hour = Duration::from_secs(3600);
    assert!(retry_at(Instant::now() + hour) <= Instant::now() + FIRST_RETRY);
    setup.round().await;
    assert_eq!(failures(), 1, "tried before it was time");
    let again = Instant::now();
    retry_at(again);
    setup.round().await;
    assert_eq!(failures(), 2);
    assert!(retry_at(again) >= again + FIRST_RETRY * 2);
    setup.round().await;
    assert_eq!(failures(), 3);
    assert!(retry_at(again) >= again + FIRST_RETRY * 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_on_its_own_and_leaves_nothing_behind() {
    let setup = setup(POLICY, |_| {}).await;
    let wanted = setup.wanted();
    let warm = Arc::new(Warm::new(Arc::new(move || wanted.clone())));
    let (stop, stopped) = watch::channel(false);
    let running = Arc::clone(&warm);
    let task = tokio::spawn(async move { running.run(stopped).await });
    let (upstream, endpoint) = (&setup.upstream, setup.endpoint());
    let mut hits = 0;
    let begun = Instant::now();
    while hits < 30 {
        let so_far = begun.elapsed();
        assert!(so_far < Duration::from_secs(30), "{hits} in {so_far:?}");
        hits += usize::from(warm.take(upstream, &endpoint).is_some());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually("one is there", || endpoint.warm_sockets() > 0).await;
    stop.send(true).unwrap();
    task.await.unwrap();
    assert_eq!(endpoint.warm_sockets(), 0);
    assert_eq!(endpoint.shelf().lock().connecting, 0);
    assert!(warm.take(upstream, &endpoint).is_none());
}

#[test]
fn one_that_was_given_out_outlives_the_runtime_that_connected_it() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().unwrap()
    };
    let (connects, uses) = (runtime(), runtime());
    let mut setup = connects.block_on(setup(POLICY, |_| {}));
    connects.block_on(setup.clients_come());
    let server = connects.block_on(setup.accept());
    let (mut server, mut client) = uses.block_on(async {
        let server = TcpStream::from_std(server.into_std().unwrap()).unwrap();
        (server, setup.take().expect("one is ready"))
    });
    drop(connects);
    uses.block_on(async {
        server.write_all(b"x").await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(10), client.read_u8()).await;
        assert_eq!(heard.expect("it is heard").unwrap(), b'x');
    });
}

/// A server that says whether it takes clients, and counts how often it was asked.
#[derive(Default)]
struct Says {
    ready: AtomicBool,
    asked: AtomicUsize,
}

#[async_trait]
impl Ready for Says {
    async fn ask(&self, _: &Endpoint) -> io::Result<()> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        match self.ready.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err(io::Error::other("it starts")),
        }
    }
}

#[tokio::test]
async fn a_server_is_asked_before_anything_is_connected_and_whenever_it_may_be_another() {
    let mut setup = setup(POLICY, |_| {}).await;
    let says = Arc::new(Says::default());
    setup.filler.ready = Some(says.clone());
    let asked = || says.asked.load(Ordering::SeqCst);
    setup.round().await;
    assert!(setup.take().is_none() && setup.take().is_none());
    setup.round().await;
    assert_eq!(asked(), 1);
    setup.nobody_connects().await;

    // It is asked again, and connected to once it has said yes.
    says.ready.store(true, Ordering::SeqCst);
    let end = Instant::now() + Duration::from_secs(10);
    while setup.ready() == 0 {
        assert!(Instant::now() < end, "nothing is connected ahead");
        tokio::time::sleep(Duration::from_millis(20)).await;
        setup.round().await;
    }
    assert_eq!(asked(), 2);
    assert!(setup.take().is_some());
    setup.round().await;
    assert_eq!((setup.ready(), asked()), (1, 2), "once is enough");

    says.ready.store(false, Ordering::SeqCst);
    setup.warm.flush(&setup.endpoint());
    let end = Instant::now() + Duration::from_secs(10);
    while asked() == 2 {
        assert!(Instant::now() < end, "it is not asked again");
        assert_eq!(setup.ready(), 0);
        tokio::time::sleep(Duration::from_millis(20)).await;
        setup.round().await;
    }
    assert_eq!(setup.ready(), 0);
}
