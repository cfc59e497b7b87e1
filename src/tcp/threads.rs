//! Which server has the thread that a `KILL` of MySQL or MariaDB means.
//!
//! A client kills on a connection of its own, with the id that its server's greeting gave it, and
//! each server counts for itself. Invariant: an entry lives as long as its session, by Drop. Looked
//! at by `mysql`, for routes with several endpoints; others keep nothing here.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::telemetry::Direction;

/// The threads of all sessions in progress.
#[derive(Clone, Debug)]
pub struct Threads {
    living: Arc<Mutex<Living>>,
    epoch: Instant,
}

/// One session's; forgotten by Drop.
#[derive(Debug)]
pub struct Thread {
    threads: Threads,
    key: Key,
    client: IpAddr,
    activity: Arc<Activity>,
}

/// A server, and the id that it gave.
type Key = (SocketAddr, u32);

#[derive(Debug, Default)]
struct Living {
    all: HashMap<Key, Arc<Activity>>,
    of_client: HashMap<IpAddr, HashMap<Key, Arc<Activity>>>,
}

/// What a session has said last. Times are milliseconds since the epoch of [`Threads`].
#[derive(Debug, Default)]
struct Activity {
    asked_at: AtomicU64,
    answered_at: AtomicU64,
    /// Bytes of answer since the client asked.
    answer: AtomicU64,
}

impl Default for Threads {
    fn default() -> Threads {
        Threads {
            living: Arc::default(),
            epoch: Instant::now(),
        }
    }
}

impl Threads {
    /// Remembers that the session of `client` is thread `id` of `server`.
    pub fn enter(&self, server: SocketAddr, id: u32, client: IpAddr) -> Thread {
        let activity = Arc::new(Activity::default());
        activity.answered_at.store(self.now(), Ordering::Relaxed);
        let key = (server, id);
        let mut living = lock(&self.living);
        living.all.insert(key, activity.clone());
        let of_client = living.of_client.entry(client).or_default();
        of_client.insert(key, activity.clone());
        Thread {
            threads: self.clone(),
            key,
            client,
            activity,
        }
    }

    /// Those of `servers` at which a session has this id.
    pub fn owners(&self, servers: &[SocketAddr], id: u64) -> Vec<SocketAddr> {
        let Ok(id) = u32::try_from(id) else {
            return Vec::new();
        };
        let living = lock(&self.living);
        let owns = |server: &&SocketAddr| living.all.contains_key(&(**server, id));
        servers.iter().filter(owns).copied().collect()
    }

    /// The one of `servers`, but for `here`, at which a session of `client` has waited longest for
    /// an answer that is not whole.
    pub fn awaited_elsewhere(
        &self,
        servers: &[SocketAddr],
        here: SocketAddr,
        client: IpAddr,
    ) -> Option<SocketAddr> {
        let now = self.now();
        let living = lock(&self.living);
        let sessions = living.of_client.get(&client)?;
        let awaited = sessions
            .iter()
            .take(MAX_LOOKED_AT)
            .filter(|((server, _), _)| *server != here && servers.contains(server))
            .filter_map(|((server, _), activity)| Some((activity.waited(now)?, *server)));
        awaited.max().map(|(_, server)| server)
    }

    /// Whether thread `id` of `server` is a session of `client` that waits for an answer.
    pub fn is_awaited(&self, server: SocketAddr, id: u64, client: IpAddr) -> bool {
        let Ok(id) = u32::try_from(id) else {
            return false;
        };
        let now = self.now();
        let living = lock(&self.living);
        let sessions = living.of_client.get(&client);
        sessions
            .and_then(|sessions| sessions.get(&(server, id)))
            .is_some_and(|activity| activity.waited(now).is_some())
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

impl Thread {
    pub fn is_at(&self, server: SocketAddr, id: u64) -> bool {
        self.key.0 == server && u64::from(self.key.1) == id
    }

    /// Bytes of this session have moved.
    pub fn moved(&self, direction: Direction, bytes: u64) {
        let activity = &self.activity;
        match direction {
            Direction::Upstream => {
                activity.answer.store(0, Ordering::Relaxed);
                activity
                    .asked_at
                    .store(self.threads.now() + 1, Ordering::Relaxed);
            }
            Direction::Downstream => {
                activity.answer.fetch_add(bytes, Ordering::Relaxed);
                activity
                    .answered_at
                    .store(self.threads.now(), Ordering::Relaxed);
            }
        }
    }
}

impl Activity {
    /// How long a client waits for its answer, once that is long enough to be given up. One that
    /// streams in is taken to be still coming while it does.
    fn waited(&self, now: u64) -> Option<u64> {
        let asked_at = self.asked_at.load(Ordering::Relaxed);
        let answered_at = self.answered_at.load(Ordering::Relaxed);
        let answer = self.answer.load(Ordering::Relaxed);
        let comes = answer >= STREAM && now.saturating_sub(answered_at) < STREAMING;
        let waited = now.saturating_sub(asked_at);
        (asked_at > 0 && (answer == 0 || comes) && waited >= IMPATIENT).then_some(waited)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let mut living = lock(&self.threads.living);
        let is_own = |entry: Option<&Arc<Activity>>| {
            entry.is_some_and(|activity| Arc::ptr_eq(activity, &self.activity))
        };
        // A server that was started anew may have given the id to another one meanwhile.
        if is_own(living.all.get(&self.key)) {
            living.all.remove(&self.key);
        }
        let Some(of_client) = living.of_client.get_mut(&self.client) else {
            return;
        };
        if is_own(of_client.get(&self.key)) {
            of_client.remove(&self.key);
        }
        if of_client.is_empty() {
            living.of_client.remove(&self.client);
        }
    }
}

fn lock(living: &Mutex<Living>) -> MutexGuard<'_, Living> {
    living.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In milliseconds: what is answered sooner, nobody has given up.
const IMPATIENT: u64 = 100;
/// Bytes, of an answer that is not whole after its first part.
const STREAM: u64 = 64 * 1024;
/// Since its last part, in milliseconds.
const STREAMING: u64 = 2000;
/// Sessions of one client that are looked at.
const MAX_LOOKED_AT: usize = 4096;
/// How long a login may take beside the one that counts.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn server(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    #[test]
    fn a_thread_is_known_while_its_session_lives() {
        let threads = Threads::default();
        let client = IpAddr::from([192, 0, 2, 7]);
        let (a, b) = (server(1), server(2));
        let first = threads.enter(a, 5, client);
        let second = threads.enter(b, 5, client);
        assert_eq!(threads.owners(&[a, b], 5), [a, b]);
        assert_eq!(
            threads.owners(&[b], 5),
            [b],
            "of the servers that are asked for"
        );
        assert!(threads.owners(&[a, b], 6).is_empty());
        assert!(threads.owners(&[a, b], (1 << 32) + 5).is_empty());
        // Its server was started anew, and has given the id again.
        let again = threads.enter(a, 5, client);
        drop(first);
        assert_eq!(threads.owners(&[a, b], 5), [a, b]);
        drop((again, second));
        assert!(threads.owners(&[a, b], 5).is_empty());
        let living = lock(&threads.living);
        assert!(living.all.is_empty() && living.of_client.is_empty());
    }

    #[test]
    fn who_waits_for_an_answer_is_found_and_nobody_else() {
        let activity = |asked_at, answered_at, answer| Activity {
            asked_at: AtomicU64::new(asked_at),
            answered_at: AtomicU64::new(answered_at),
            answer: AtomicU64::new(answer),
        };
        for (activity, waited, what) in [
            (activity(0, 0, 0), None, "has asked nothing"),
            (activity(9_950, 9_000, 0), None, "has not waited long"),
            (activity(9_000, 8_000, 0), Some(1000), "waits"),
            (activity(9_000, 9_500, 100), None, "has its answer"),
            (
                activity(5_000, 9_900, STREAM),
                Some(5000),
                "its answer streams in",
            ),
            (activity(5_000, 7_000, STREAM), None, "its answer has ended"),
        ] {
            assert_eq!(activity.waited(10_000), waited, "{what}");
        }
    }

    #[test]
    fn one_elsewhere_is_a_session_of_the_same_client_at_another_server() {
        let threads = Threads {
            epoch: Instant::now() - Duration::from_secs(60),
            ..Threads::default()
        };
        let (mine, other) = (IpAddr::from([192, 0, 2, 7]), IpAddr::from([192, 0, 2, 8]));
        let (a, b) = (server(1), server(2));
        let thread = threads.enter(a, 5, mine);
        thread.activity.asked_at.store(1, Ordering::Relaxed);
        assert_eq!(threads.awaited_elsewhere(&[a, b], b, mine), Some(a));
        assert_eq!(threads.awaited_elsewhere(&[a, b], a, mine), None);
        assert_eq!(threads.awaited_elsewhere(&[b], b, mine), None);
        assert_eq!(threads.awaited_elsewhere(&[a, b], b, other), None);
        assert!(thread.is_at(a, 5) && !thread.is_at(b, 5) && !thread.is_at(a, (1 << 32) + 5));
        assert!(threads.is_awaited(a, 5, mine) && !threads.is_awaited(a, 5, other));
        assert!(!threads.is_awaited(b, 5, mine) && !threads.is_awaited(a, (1 << 32) + 5, mine));
        thread.moved(Direction::Downstream, 10);
        assert_eq!(threads.awaited_elsewhere(&[a, b], b, mine), None);
        thread.moved(Direction::Upstream, 10);
        assert_eq!(
            threads.awaited_elsewhere(&[a, b], b, mine),
            None,
            "just now"
        );
    }
}
