//! Names to addresses, in the background.
//!
//! The only part of `upstream` that asks a resolver. Invariants: never on the request path; the
//! last good answer is kept whatever happens, an empty answer is no answer; one log line for each
//! change between answering and not answering. The system resolver knows no time to live, so a name
//! is asked for again after [`REFRESH`], or what another one says. Long because half of it is
//! tests.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::endpoint_addr::{EndpointAddr, by_server};
use super::lock::lock;
use super::source::{LOOK, UpstreamSource, stopped};
use super::{LastError, Upstream};
use crate::config::Host;

pub use super::resolver::{REFRESH, Resolver, Resolvers, SystemResolver};

/// Keeps the endpoints of the current upstreams up to date with the resolver.
pub struct Discovery {
    upstreams: UpstreamSource,
    resolver: Arc<dyn Resolver>,
    names: Mutex<HashMap<Name, Record>>,
}

/// Host and port.
type Name = (String, u16);

/// What is known of one name.
#[derive(Debug)]
struct Record {
    /// When to ask (again).
    due: Instant,
    /// Lookups in a row that gave nothing.
    failures: u32,
    answer: Option<Vec<EndpointAddr>>,
    /// Why the last lookup gave nothing.
    error: Option<LastError>,
}

impl Record {
    /// Whether there has been an answer, good or bad.
    fn is_settled(&self) -> bool {
        self.answer.is_some() || self.failures > 0
    }
}

impl Discovery {
    /// Resolves nothing yet: that begins with `resolve_all_once` or `run`.
    pub fn new(upstreams: UpstreamSource, resolver: Arc<dyn Resolver>) -> Discovery {
        Discovery {
            upstreams,
            resolver,
            names: Mutex::new(HashMap::new()),
        }
    }

    /// Asks for every name once and returns when all have answered, or after `timeout`: for the
    /// start, so that serving begins with addresses. What has not answered is left to
    /// [`Discovery::run`].
    pub async fn resolve_all_once(&self, timeout: Duration) {
        let end = Instant::now() + timeout;
        let mut lookups = JoinSet::new();
        loop {
            self.ask(&mut lookups);
            // Not "until all lookups have ended": `run` may have begun and be asking already.
            if lock(&self.names).values().all(Record::is_settled) {
                return;
            }
            tokio::select! {
                Some(lookup) = lookups.join_next() => self.note(lookup.ok()),
                () = tokio::time::sleep_until(end) => break,
                () = tokio::time::sleep(GLANCE) => {}
            }
        }
        let mut names = lock(&self.names);
        for (name, record) in names.iter_mut().filter(|(_, r)| r.answer.is_none()) {
            record.due = Instant::now();
            if record.failures == 0 {
                // Said once: the next failure is no news, the first answer is.
                record.failures = 1;
                let why = format_args!("resolve: no answer within {} ms", timeout.as_millis());
                record.error = Some(LastError::new(why));
                log::warn!(
                    "no answer for {}:{} within {} ms, starting without",
                    name.0,
                    name.1,
                    timeout.as_millis()
                );
            }
        }
    }

    /// Resolves until `shutdown` says true.
    pub async fn run(&self, mut shutdown: watch::Receiver<bool>) {
        let mut lookups = JoinSet::new();
        loop {
            self.ask(&mut lookups);
            tokio::select! {
                () = stopped(&mut shutdown) => return,
                Some(lookup) = lookups.join_next() => self.note(lookup.ok()),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Starts the lookups that are due, and gives new upstreams the answers known already.
    fn ask(&self, lookups: &mut JoinSet<(Name, io::Result<Vec<SocketAddr>>)>) {
        let upstreams = (self.upstreams)();
        let now = Instant::now();
        let mut names = lock(&self.names);
        let mut current = HashMap::with_capacity(names.len());
        for name in upstreams.iter().flat_map(|upstream| names_of(upstream)) {
            current.entry(name).or_insert_with_key(|name| {
                names.remove(name).unwrap_or(Record {
                    due: now,
                    failures: 0,
                    answer: None,
                    error: None,
                })
            });
        }
        *names = current;
        for (name, record) in names.iter_mut() {
            if record.due <= now && lookups.len() < AT_ONCE {
                // Also the time after which it is asked again should the lookup never end.
                record.due = now + REFRESH;
                let (name, resolver) = (name.clone(), Arc::clone(&self.resolver));
                lookups.spawn(async move {
                    let answer = look_up(resolver, name.clone()).await;
                    (name, answer)
                });
            }
        }
        tell(&upstreams, &names);
    }

    /// Takes a finished lookup; `None` when it died.
    fn note(&self, lookup: Option<(Name, io::Result<Vec<SocketAddr>>)>) {
        let Some((name, answer)) = lookup else { return };
        // Foreign code: not while the names are locked.
        let refresh = || self.resolver.refresh(&name.0);
        let refresh = catch_unwind(AssertUnwindSafe(refresh)).unwrap_or(REFRESH);
        let refresh = refresh.clamp(LOOK, LONGEST_REFRESH);
        let mut names = lock(&self.names);
        // Absent: a reload has dropped the name meanwhile.
        let Some(record) = names.get_mut(&name) else {
            return;
        };
        let answer = answer.map(|answer| by_server(&answer)).and_then(|servers| {
            if servers.is_empty() {
                Err(io::Error::other("no address"))
            } else {
                Ok(servers)
            }
        });
        match answer {
            Ok(servers) => {
                if record.failures > 0 {
                    log::info!("name resolves again: {}:{}", name.0, name.1);
                }
                record.failures = 0;
                record.error = None;
                record.due = Instant::now() + refresh;
                record.answer = Some(servers);
            }
            Err(error) => {
                record.error = Some(LastError::new(format_args!("resolve: {error}")));
                if record.failures == 0 {
                    let kept = record.answer.as_ref().map_or(0, Vec::len);
                    log::warn!(
                        "cannot resolve {}:{}: {error}; going on with {kept} addresses from before",
                        name.0,
                        name.1
                    );
                }
                let wait = FIRST_RETRY.saturating_mul(1 << record.failures.min(5));
                record.due = Instant::now() + wait.min(REFRESH);
                record.failures = record.failures.saturating_add(1);
            }
        }
        tell(&(self.upstreams)(), &names);
    }
}

/// One lookup; one that panics has failed, and one that never ends as well.
async fn look_up(resolver: Arc<dyn Resolver>, name: Name) -> io::Result<Vec<SocketAddr>> {
    // A task of its own, which ends with this future.
    let mut task = JoinSet::new();
    task.spawn(async move { resolver.lookup(&name.0, name.1).await });
    match tokio::time::timeout(PATIENCE, task.join_next()).await {
        Ok(Some(Ok(answer))) => answer,
        Ok(Some(Err(died))) => Err(io::Error::other(died)),
        Ok(None) | Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn names_of(upstream: &Upstream) -> Vec<Name> {
    upstream
        .spec()
        .endpoints
        .iter()
        .filter_map(|endpoint| match &endpoint.url.host {
            Host::Name(name) => Some((name.clone(), endpoint.url.port)),
            Host::Ip(_) => None,
        })
        .collect()
}

/// Passes every answer on, good or bad. An upstream that has it already does nothing.
fn tell(upstreams: &[Arc<Upstream>], names: &HashMap<Name, Record>) {
    for upstream in upstreams {
        for name in names_of(upstream) {
            let Some(record) = names.get(&name) else {
                continue;
            };
            if let Some(answer) = &record.answer {
                upstream.note_addresses(&name.0, name.1, answer);
            }
            if let Some(error) = &record.error {
                upstream.note_unresolved(&name.0, name.1, error);
            }
        }
    }
}

/// The longest time that a resolver may call an answer good.
const LONGEST_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// Doubled with each failure, up to [`REFRESH`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// How long one lookup may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the start looks whether all names are settled.
const GLANCE: Duration = Duration::from_millis(10);

/// Lookups running at once.
const AT_ONCE: usize = 16;

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::config::UpstreamSpec;
    use crate::upstream::fixture::{endpoint, eventually, pick, spec};
    use crate::upstream::{EndpointId, PickError};

    /// Answers from a table, after a while; what is not in it is an error.
    #[derive(Default)]
    struct Table {
        delay: Duration,
        answers: Mutex<HashMap<String, Vec<SocketAddr>>>,
        asked: Mutex<Vec<(String, Instant)>>,
    }

    impl Table {
        fn set(&self, host: &str, addresses: &[&str]) {
            let addresses = addresses.iter().map(|a| a.parse().unwrap()).collect();
            lock(&self.answers).insert(host.to_owned(), addresses);
        }

        fn forget(&self, host: &str) {
            lock(&self.answers).remove(host);
        }

        fn times_asked(&self) -> usize {
            lock(&self.asked).len()
        }
    }

    #[async_trait]
    impl Resolver for Table {
        async fn lookup(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            lock(&self.asked).push((host.to_owned(), Instant::now()));
            tokio::time::sleep(self.delay).await;
            if host == "slow.example" {
                std::future::pending::<()>().await;
            }
            let answers = lock(&self.answers);
            answers
                .get(host)
                .cloned()
                .ok_or_else(|| io::Error::other("unknown"))
        }
    }

    struct Setup {
        table: Arc<Table>,
        upstreams: Arc<Mutex<Vec<Arc<Upstream>>>>,
        discovery: Arc<Discovery>,
    }

    fn setup(specs: Vec<UpstreamSpec>) -> Setup {
        slow_setup(specs, Duration::ZERO)
    }

    fn slow_setup(specs: Vec<UpstreamSpec>, delay: Duration) -> Setup {
        let table = Arc::new(Table {
            delay,
            ..Table::default()
        });
        let upstreams: Vec<_> = specs
            .into_iter()
            .map(|spec| Upstream::new(Arc::new(spec), None))
            .collect();
        let upstreams = Arc::new(Mutex::new(upstreams));
        let source = Arc::clone(&upstreams);
        let discovery = Arc::new(Discovery::new(
            Arc::new(move || lock(&source).clone()),
            Arc::clone(&table) as Arc<dyn Resolver>,
        ));
        Setup {
            table,
            upstreams,
            discovery,
        }
    }

    impl Setup {
        fn upstream(&self) -> Arc<Upstream> {
            Arc::clone(&lock(&self.upstreams)[0])
        }

        fn run(&self) -> (watch::Sender<bool>, tokio::task::JoinHandle<()>) {
            let (stop, stopped) = watch::channel(false);
            let discovery = Arc::clone(&self.discovery);
            (
                stop,
                tokio::spawn(async move { discovery.run(stopped).await }),
            )
        }
    }

    fn addresses(upstream: &Upstream) -> Vec<String> {
        let set = upstream.endpoints();
        set.iter().map(|e| e.addr().to_string()).collect()
    }

    fn ids(upstream: &Upstream) -> HashMap<SocketAddr, EndpointId> {
        let set = upstream.endpoints();
        set.iter().map(|e| (e.addr(), e.id())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn starts_with_every_address_of_a_name() {
        let setup = setup(vec![spec(vec![endpoint("db.example:5432")])]);
        setup.table.set(
            "db.example",
            &["10.0.0.2:5432", "10.0.0.1:5432", "10.0.0.2:5432"],
        );
        let upstream = setup.upstream();
        assert_eq!(
            pick(&upstream).await.unwrap_err(),
            PickError::NoHealthyEndpoint
        );
        setup
            .discovery
            .resolve_all_once(Duration::from_secs(2))
            .await;
        assert_eq!(addresses(&upstream), ["10.0.0.1:5432", "10.0.0.2:5432"]);
        let lease = pick(&upstream).await.unwrap();
        assert_eq!(lease.endpoint().label(), "db.example:5432");
        assert_eq!(upstream.health(), [("db.example:5432".to_owned(), true)]);
    }

    #[tokio::test(start_paused = true)]
    async fn both_families_of_a_name_are_one_endpoint_and_each_can_be_alone() {
        let setup = setup(vec![spec(vec![
            endpoint("both.example:80"),
            endpoint("six.example:80"),
        ])]);
        setup
            .table
            .set("both.example", &["[::1]:80", "127.0.0.1:80"]);
        setup.table.set("six.example", &["[::2]:80"]);
        setup
            .discovery
            .resolve_all_once(Duration::from_secs(2))
            .await;
        let upstream = setup.upstream();
        assert_eq!(addresses(&upstream), ["127.0.0.1:80", "[::2]:80"]);
        let set = upstream.endpoints();
        let addrs: Vec<_> = set.iter().map(|endpoint| endpoint.addrs()).collect();
        assert_eq!(addrs[0].first, "[::1]:80".parse().unwrap());
        assert_eq!(addrs[0].second, Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!(addrs[1].second, None);
        assert_eq!(upstream.health().len(), 2, "one for each label");
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_stays_when_its_other_family_comes_goes_or_changes_places() {
        let setup = setup(vec![spec(vec![endpoint("a.example:80")])]);
        let _running = setup.run();
        let mut known = None;
        for answer in [
            &["10.0.0.1:80"][..],
            &["10.0.0.1:80", "[::1]:80"],
            &["[::1]:80", "10.0.0.1:80"],
            &["[::2]:80", "10.0.0.1:80"],
        ] {
            setup.table.set("a.example", answer);
            tokio::time::sleep(REFRESH).await;
            let upstream = setup.upstream();
            let set = upstream.endpoints();
            assert_eq!(set.len(), 1);
            let endpoint = set.iter().next().unwrap();
            assert_eq!(endpoint.addrs().first, answer[0].parse().unwrap());
            assert_eq!(*known.get_or_insert(endpoint.id()), endpoint.id());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn start_waits_no_longer_than_told_and_serves_what_it_has() {
        let setup = setup(vec![spec(vec![
            endpoint("slow.example:80"),
            endpoint("gone.example:80"),
            endpoint("10.0.0.9:80"),
        ])]);
        let start = Instant::now();
        setup
            .discovery
            .resolve_all_once(Duration::from_secs(2))
            .await;
        assert_eq!(start.elapsed(), Duration::from_secs(2));
        let upstream = setup.upstream();
        assert_eq!(addresses(&upstream), ["10.0.0.9:80"]);
        assert_eq!(upstream.endpoints().unresolved(), 2);
        assert!(pick(&upstream).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn start_waits_for_lookups_that_are_under_way_already() {
        let setup = slow_setup(
            vec![spec(vec![endpoint("a.example:80")])],
            Duration::from_millis(700),
        );
        setup.table.set("a.example", &["10.0.0.1:80"]);
        let _running = setup.run();
        eventually("asked", || setup.table.times_asked() == 1).await;
        setup
            .discovery
            .resolve_all_once(Duration::from_secs(2))
            .await;
        assert_eq!(addresses(&setup.upstream()), ["10.0.0.1:80"]);
        assert_eq!(setup.table.times_asked(), 1);
    }

    #[tokio::test]
    async fn the_system_knows_localhost() {
        let answer = SystemResolver.lookup("localhost", 80).await.unwrap();
        assert!(!answer.is_empty());
        assert!(
            answer
                .iter()
                .all(|a| a.ip().is_loopback() && a.port() == 80)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn asks_again_and_keeps_endpoints_whose_address_stays() {
        let setup = setup(vec![spec(vec![endpoint("a.example:80")])]);
        setup
            .table
            .set("a.example", &["10.0.0.1:80", "10.0.0.2:80"]);
        let (stop, task) = setup.run();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let upstream = setup.upstream();
        let before = ids(&upstream);
        assert_eq!(before.len(), 2);

        setup
            .table
            .set("a.example", &["10.0.0.3:80", "10.0.0.2:80"]);
        tokio::time::sleep(REFRESH).await;
        assert_eq!(addresses(&upstream), ["10.0.0.2:80", "10.0.0.3:80"]);
        let after = ids(&upstream);
        let stayed: SocketAddr = "10.0.0.2:80".parse().unwrap();
        assert_eq!(before[&stayed], after[&stayed]);
        assert!(
            !before
                .values()
                .any(|id| *id == after[&"10.0.0.3:80".parse().unwrap()])
        );
        assert_eq!(setup.table.times_asked(), 2);

        stop.send(true).unwrap();
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn failed_and_empty_answers_keep_the_last_good_one() {
        let setup = setup(vec![spec(vec![endpoint("a.example:80")])]);
        setup.table.set("a.example", &["10.0.0.1:80"]);
        let _running = setup.run();
        tokio::time::sleep(Duration::from_secs(1)).await;
        setup.table.forget("a.example");
        tokio::time::sleep(REFRESH * 2).await;
        assert_eq!(addresses(&setup.upstream()), ["10.0.0.1:80"]);
        setup.table.set("a.example", &[]);
        tokio::time::sleep(REFRESH * 2).await;
        assert_eq!(addresses(&setup.upstream()), ["10.0.0.1:80"]);
        assert!(setup.table.times_asked() > 5);
    }

    #[tokio::test(start_paused = true)]
    async fn backs_off_from_one_to_thirty_seconds() {
        let setup = setup(vec![spec(vec![endpoint("gone.example:80")])]);
        let _running = setup.run();
        tokio::time::sleep(Duration::from_secs(125)).await;
        let asked = lock(&setup.table.asked).clone();
        let gaps: Vec<_> = asked
            .windows(2)
            .map(|pair| (pair[1].1 - pair[0].1).as_secs_f64().round() as u64)
            .collect();
        assert_eq!(gaps, [1, 2, 4, 8, 16, 30, 30, 30]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_comes_back_is_served() {
        let setup = setup(vec![spec(vec![endpoint("late.example:80")])]);
        let _running = setup.run();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(pick(&setup.upstream()).await.is_err());
        setup.table.set("late.example", &["10.0.0.1:80"]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(pick(&setup.upstream()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_is_seen_and_asks_only_for_what_is_new() {
        let setup = setup(vec![spec(vec![endpoint("a.example:80")])]);
        setup.table.set("a.example", &["10.0.0.1:80"]);
        setup.table.set("b.example", &["10.0.0.2:80"]);
        let _running = setup.run();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let old = setup.upstream();
        let wider = spec(vec![endpoint("a.example:80"), endpoint("b.example:80")]);
        let new = Upstream::new(Arc::new(wider), Some(&old));
        // What was known is there at once, before anything is asked.
        assert_eq!(ids(&new), ids(&old));
        *lock(&setup.upstreams) = vec![Arc::clone(&new)];
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(addresses(&new), ["10.0.0.1:80", "10.0.0.2:80"]);
        let asked: Vec<_> = lock(&setup.table.asked)
            .iter()
            .map(|a| a.0.clone())
            .collect();
        assert_eq!(asked, ["a.example", "b.example"]);
    }
}
