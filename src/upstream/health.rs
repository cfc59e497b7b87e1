//! Active checks: when each endpoint is probed, and what follows.
//!
//! What a check does is in [`probe`]. Invariants: at most one check of an endpoint and [`AT_ONCE`]
//! of all run at a time, each under its timeout; a verdict changes only after as many checks in a
//! row as configured; a change is logged once. Until its first verdict an endpoint counts as
//! healthy. Long because more than half of it is tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::services::background::BackgroundService;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use super::Upstream;
use super::endpoint::{Endpoint, EndpointId, Role};
use super::probe::{self, Probe, ProbeFactory};
use super::source::{LOOK, UpstreamSource, stopped};
use crate::config::HealthCheck;

/// Checks the endpoints of the current upstreams.
pub struct Prober {
    upstreams: UpstreamSource,
    factory: ProbeFactory,
}

/// The label of the upstream, and which of its endpoints.
type Key = (String, EndpointId);

/// The schedule of one endpoint.
struct Course {
    policy: HealthCheck,
    endpoint: Arc<Endpoint>,
    upstream: Arc<Upstream>,
    /// When the next check starts.
    due: Instant,
    running: Option<Id>,
    probe: Result<Arc<dyn Probe>, String>,
}

/// When a check started, and what it said.
type Checked = (Instant, Result<Role, String>);

impl Prober {
    /// Probes as `health_check` configures; checks begin when it runs as a background service.
    pub fn new(upstreams: UpstreamSource) -> Prober {
        Prober {
            upstreams,
            factory: Arc::new(probe::probe_for),
        }
    }

    /// Takes its probes from `factory` instead of [`probe::probe_for`].
    pub fn probing_with(mut self, factory: ProbeFactory) -> Prober {
        self.factory = factory;
        self
    }

    /// Checks until `shutdown` says true, and ends the checks under way in their order: one that is
    /// broken off leaves a line in the log of many a server.
    pub async fn run(&self, mut shutdown: watch::Receiver<bool>) {
        let mut courses = HashMap::new();
        let mut running = JoinSet::new();
        let mut look = Instant::now();
        loop {
            if look <= Instant::now() {
                self.follow(&mut courses);
                look = Instant::now() + LOOK;
            }
            let wake = start_due(&mut courses, &mut running).min(look);
            tokio::select! {
                () = stopped(&mut shutdown) => break,
                Some(ended) = running.join_next_with_id() => {
                    let (id, (started, result)) = ended.unwrap_or_else(|died| {
                        (died.id(), (Instant::now(), Err("the probe panicked".to_owned())))
                    });
                    if let Some(course) = courses.values_mut().find(|c| c.running == Some(id)) {
                        self.note(course, started, result);
                    }
                }
                () = tokio::time::sleep_until(wake) => {}
            }
        }
        while running.join_next().await.is_some() {}
    }

    /// Brings the schedule in line with the current upstreams.
    fn follow(&self, courses: &mut HashMap<Key, Course>) {
        let mut current = HashMap::with_capacity(courses.len());
        let mut fresh = Vec::new();
        for upstream in (self.upstreams)() {
            let Some(policy) = upstream.spec().health_check.clone() else {
                continue;
            };
            for endpoint in upstream.endpoints().iter() {
                let key = (upstream.label().to_owned(), endpoint.id());
                match courses.remove(&key) {
                    Some(mut course)
                        if course.policy == policy
                            && course.endpoint.resolved() == endpoint.resolved()
                            && course.endpoint.label() == endpoint.label() =>
                    {
                        course.upstream = Arc::clone(&upstream);
                        course.endpoint = Arc::clone(endpoint);
                        current.insert(key, course);
                    }
                    _ => fresh.push((key, Arc::clone(&upstream), Arc::clone(endpoint))),
                }
            }
        }
        *courses = current;
        let (now, count) = (Instant::now(), fresh.len() as u32);
        for (nth, (key, upstream, endpoint)) in (0..).zip(fresh) {
            let Some(policy) = upstream.spec().health_check.clone() else {
                continue;
            };
            let spread = policy.interval.min(SPREAD) * nth / count;
            let probe = (self.factory)(&policy, &endpoint);
            courses.insert(
                key,
                Course {
                    due: now + spread,
                    running: None,
                    probe,
                    policy,
                    endpoint,
                    upstream,
                },
            );
        }
    }

    /// Takes a finished check and plans the next.
    fn note(&self, course: &mut Course, started: Instant, result: Result<Role, String>) {
        let jitter = rand::rng().random_range(0.9..1.1);
        course.running = None;
        course.due = started + course.policy.interval.mul_f64(jitter);
        let (upstream, endpoint) = (&course.upstream, &course.endpoint);
        if upstream
            .note_check(endpoint, &course.policy, &result)
            .is_none()
        {
            return;
        }
        match result {
            Ok(_) => log::info!(
                "endpoint passes its checks again: upstream={} endpoint={} addr={}",
                upstream.label(),
                endpoint.label(),
                endpoint.addr()
            ),
            Err(why) => log::warn!(
                "endpoint fails its checks, it is out: upstream={} endpoint={} addr={}: {why}",
                upstream.label(),
                endpoint.label(),
                endpoint.addr()
            ),
        }
    }
}

#[async_trait]
impl BackgroundService for Prober {
    async fn start(&self, shutdown: watch::Receiver<bool>) {
        self.run(shutdown).await;
    }
}

/// Starts what is due, the longest overdue first, as far as there is room. Returns when the next
/// will be due.
fn start_due(courses: &mut HashMap<Key, Course>, running: &mut JoinSet<Checked>) -> Instant {
    let now = Instant::now();
    let mut wake = now + LOOK;
    let mut due = Vec::new();
    for course in courses.values_mut().filter(|c| c.running.is_none()) {
        if course.due > now {
            wake = wake.min(course.due);
        } else {
            due.push(course);
        }
    }
    due.sort_by_key(|course| course.due);
    let room = AT_ONCE.saturating_sub(running.len());
    for course in due.into_iter().take(room) {
        let (probe, endpoint) = (course.probe.clone(), Arc::clone(&course.endpoint));
        let timeout = course.policy.timeout;
        let check = async move {
            let result = match probe {
                Ok(probe) => tokio::time::timeout(timeout, probe.check(&endpoint, timeout))
                    .await
                    .unwrap_or_else(|_| {
                        Err(format!("no answer within {} ms", timeout.as_millis()))
                    }),
                Err(why) => Err(why),
            };
            (now, result)
        };
        course.running = Some(running.spawn(check).id());
    }
    wake
}

/// Checks running at once.
pub const AT_ONCE: usize = 64;

/// First checks are spread over this time, or the interval when that is shorter.
const SPREAD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::config::{self, DbType, EndpointSpec, StatusSet, UpstreamSpec};
    use crate::upstream::Outcome;
    use crate::upstream::fixture::{
        ejecting, endpoint, eventually, pick, spec, upstream, weighted,
    };
    use crate::upstream::lock::lock;

    fn checked(probe: config::Probe, endpoints: Vec<EndpointSpec>) -> UpstreamSpec {
        UpstreamSpec {
            health_check: Some(HealthCheck {
                probe,
                interval: Duration::from_millis(20),
                timeout: Duration::from_millis(200),
                healthy_after: 2,
                unhealthy_after: 3,
            }),
            ..spec(endpoints)
        }
    }

    fn over_http() -> config::Probe {
        config::Probe::Http {
            path: "/healthz?full".to_owned(),
            status: StatusSet::parse("200-399").unwrap(),
        }
    }

    fn over_tcp(db_type: DbType) -> config::Probe {
        config::Probe::Tcp {
            db_type,
            user: None,
            password: None,
        }
    }

    /// Ends the prober when dropped.
    struct Running {
        task: JoinHandle<()>,
        _stop: watch::Sender<bool>,
        upstreams: Arc<Mutex<Vec<Arc<Upstream>>>>,
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    fn probing(upstream: &Arc<Upstream>, with: impl FnOnce(Prober) -> Prober) -> Running {
        let upstreams = Arc::new(Mutex::new(vec![Arc::clone(upstream)]));
        let source = Arc::clone(&upstreams);
        let prober = with(Prober::new(Arc::new(move || lock(&source).clone())));
        let (stop, stopped) = watch::channel(false);
        Running {
            task: tokio::spawn(async move { prober.start(stopped).await }),
            _stop: stop,
            upstreams,
        }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    /// Answers each connection's first request with the status of the moment.
    async fn origin(status: Arc<AtomicU16>, heads: Arc<Mutex<Vec<String>>>) -> SocketAddr {
        let (listener, addr) = listener().await;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let length = stream.read(&mut head).await.unwrap_or(0);
                lock(&heads).push(String::from_utf8_lossy(&head[..length]).into_owned());
                let status = status.load(Ordering::SeqCst);
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nhi");
                let _client_may_be_gone = stream.write_all(answer.as_bytes()).await;
            }
        });
        addr
    }

    #[tokio::test]
    async fn http_checks_put_an_endpoint_out_and_in_again() {
        let (status, heads) = (Arc::new(AtomicU16::new(204)), Arc::default());
        let addr = origin(Arc::clone(&status), Arc::clone(&heads)).await;
        let upstream = upstream(checked(over_http(), vec![endpoint(&addr.to_string())]));
        let _running = probing(&upstream, |prober| prober);
        assert!(upstream.health()[0].1, "healthy until proven otherwise");
        let count = || lock(&heads).len();
        eventually("checked", || count() >= 3).await;
        assert!(upstream.health()[0].1);

        status.store(503, Ordering::SeqCst);
        let before = count();
        eventually("out", || !upstream.health()[0].1).await;
        assert!(count() >= before + 3, "three in a row are needed");
        assert!(pick(&upstream).await.is_err());

        status.store(200, Ordering::SeqCst);
        eventually("in", || upstream.health()[0].1).await;
        assert!(pick(&upstream).await.is_ok());
        let label = addr.to_string();
        let head = lock(&heads)[0].to_lowercase();
        assert!(head.starts_with("get /healthz?full http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("\r\nhost: {label}\r\n")), "{head}");
    }

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_is_out() {
        let (_silent, addr) = listener().await;
        let upstream = upstream(checked(over_http(), vec![endpoint(&addr.to_string())]));
        let _running = probing(&upstream, |prober| prober);
        eventually("out", || !upstream.health()[0].1).await;
    }

    #[tokio::test]
    async fn tcp_checks_tell_an_open_port_from_a_closed_one() {
        let (_open, addr) = listener().await;
        let (closed, closed_addr) = listener().await;
        drop(closed);
        let labels = [addr.to_string(), closed_addr.to_string()];
        let endpoints = labels.iter().map(|label| endpoint(label)).collect();
        let upstream = upstream(checked(over_tcp(DbType::Tcp), endpoints));
        let _running = probing(&upstream, |prober| prober);
        eventually("out", || !upstream.health()[1].1).await;
        assert!(upstream.health()[0].1);
    }

    /// A probe that says what the test wants and keeps count.
    #[derive(Default)]
    struct Scripted {
        failing: Mutex<bool>,
        hanging: bool,
        panicking: bool,
        started: Mutex<Vec<(EndpointId, Instant)>>,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    #[async_trait]
    impl Probe for Scripted {
        async fn check(&self, endpoint: &Endpoint, timeout: Duration) -> Result<Role, String> {
            struct Count<'a>(&'a AtomicUsize);
            impl Drop for Count<'_> {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::SeqCst);
                }
            }
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            let _count = Count(&self.now);
            self.most.fetch_max(now, Ordering::SeqCst);
            lock(&self.started).push((endpoint.id(), Instant::now()));
            assert!(!self.panicking, "as told");
            if self.hanging {
                tokio::time::sleep(timeout * 100).await;
            }
            if *lock(&self.failing) {
                Err("as told".to_owned())
            } else {
                Ok(Role::Unknown)
            }
        }
    }

    fn scripted(upstream: &Arc<Upstream>, probe: &Arc<Scripted>) -> Running {
        let probe = Arc::clone(probe);
        probing(upstream, |prober| {
            prober.probing_with(Arc::new(move |_, _| {
                Ok(Arc::clone(&probe) as Arc<dyn Probe>)
            }))
        })
    }

    fn every_five_seconds(endpoints: Vec<EndpointSpec>) -> UpstreamSpec {
        let mut spec = checked(over_tcp(DbType::Tcp), endpoints);
        spec.health_check = spec.health_check.map(|policy| HealthCheck {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            ..policy
        });
        spec
    }

    #[tokio::test(start_paused = true)]
    async fn first_checks_start_at_once_and_spread_and_then_keep_the_interval() {
        let upstream = upstream(every_five_seconds(weighted(&[1; 10])));
        let probe = Arc::new(Scripted::default());
        let begin = Instant::now();
        let _running = scripted(&upstream, &probe);
        tokio::time::sleep(Duration::from_secs(101)).await;
        let started = lock(&probe.started).clone();
        let mut firsts: Vec<_> = started[..10].iter().map(|(_, at)| *at - begin).collect();
        assert!(firsts[0] < Duration::from_millis(10), "{firsts:?}");
        assert!(firsts[9] > Duration::from_millis(800), "{firsts:?}");
        assert!(firsts[9] < Duration::from_millis(1100), "{firsts:?}");
        firsts.dedup();
        assert_eq!(firsts.len(), 10, "spread");

        let mut of: HashMap<EndpointId, Vec<Instant>> = HashMap::new();
        for (id, at) in started {
            of.entry(id).or_default().push(at);
        }
        assert_eq!(of.len(), 10);
        for times in of.values() {
            let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!((18..=23).contains(&gaps.len()), "{gaps:?}");
            for gap in &gaps {
                assert!((4490..=5510).contains(&gap.as_millis()), "{gap:?}");
            }
            assert!(gaps.windows(2).any(|pair| pair[0] != pair[1]), "jitter");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn hanging_probes_are_cut_and_bounded_in_number_and_all_get_their_turn() {
        // More than can be checked within the interval: 64 in each second.
        let mut often = every_five_seconds(weighted(&[1; 150]));
        often.health_check = often.health_check.map(|policy| HealthCheck {
            interval: Duration::from_secs(1),
            ..policy
        });
        let upstream = upstream(often);
        let probe = Arc::new(Scripted {
            hanging: true,
            ..Scripted::default()
        });
        let _running = scripted(&upstream, &probe);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(probe.most.load(Ordering::SeqCst), AT_ONCE);
        assert!(upstream.endpoints().iter().all(|e| !e.passes_checks()));
        let mut checks: HashMap<EndpointId, usize> = HashMap::new();
        for (id, _) in lock(&probe.started).iter() {
            *checks.entry(*id).or_default() += 1;
        }
        let (least, most) = (checks.values().min(), checks.values().max());
        assert_eq!(checks.len(), 150);
        assert!(most.unwrap() - least.unwrap() <= 6, "{least:?} to {most:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn rise_and_fall_count_checks_in_a_row() {
        let upstream = upstream(every_five_seconds(weighted(&[1])));
        let probe = Arc::new(Scripted::default());
        let _running = scripted(&upstream, &probe);
        let checks = || lock(&probe.started).len();
        let healthy = || upstream.health()[0].1;
        // (failing, healthy afterwards): three failures in a row to fall, two passes to rise.
        for (failing, after) in [
            (true, true),
            (true, true),
            (false, true),
            (true, true),
            (true, true),
            (true, false),
            (false, false),
            (true, false),
            (false, false),
            (false, true),
        ] {
            *lock(&probe.failing) = failing;
            let before = checks();
            eventually("checked", || checks() > before).await;
            // The verdict is taken before the next check can start.
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(healthy(), after);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_passed_check_ends_an_ejection() {
        let upstream = upstream(UpstreamSpec {
            ejection: ejecting(1, Vec::new())
                .ejection
                .map(|ejection| config::Ejection {
                    base: Duration::from_secs(3600),
                    ..ejection
                }),
            ..every_five_seconds(weighted(&[1, 1]))
        });
        let probe = Arc::new(Scripted::default());
        let _running = scripted(&upstream, &probe);
        pick(&upstream).await.unwrap().finish(Outcome::Failed);
        assert!(upstream.endpoints().iter().any(|e| e.is_ejected()));
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert!(!upstream.endpoints().iter().any(|e| e.is_ejected()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_panics_is_a_failed_check() {
        let upstream = upstream(every_five_seconds(weighted(&[1])));
        let probe = Arc::new(Scripted {
            panicking: true,
            ..Scripted::default()
        });
        let _running = scripted(&upstream, &probe);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(!upstream.health()[0].1);
        assert!(lock(&probe.started).len() > 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_followed() {
        let old = upstream(every_five_seconds(weighted(&[1, 1])));
        let probe = Arc::new(Scripted::default());
        let running = scripted(&old, &probe);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(lock(&probe.started).len(), 2);

        let new = Upstream::new(
            Arc::new(every_five_seconds(weighted(&[1, 1, 1]))),
            Some(&old),
        );
        *lock(&running.upstreams) = vec![Arc::clone(&new)];
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Only the third is new; the others keep their schedule.
        assert_eq!(lock(&probe.started).len(), 3);
        *lock(&probe.failing) = true;
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(new.endpoints().iter().all(|e| !e.passes_checks()));

        lock(&running.upstreams).clear();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let count = lock(&probe.started).len();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(lock(&probe.started).len(), count, "nothing left to check");
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_ends_the_prober() {
        let upstream = upstream(every_five_seconds(weighted(&[1])));
        let prober = Prober::new(Arc::new(move || vec![Arc::clone(&upstream)]))
            .probing_with(Arc::new(|_, _| Ok(Arc::new(Scripted::default()))));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { prober.run(stopped).await });
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!task.is_finished());
        stop.send(true).unwrap();
        task.await.unwrap();
    }
}
