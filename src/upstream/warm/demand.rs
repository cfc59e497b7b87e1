//! How many sockets it is worth having connected ahead.
//!
//! Arithmetic only. Invariant: nothing is worth having when clients come so seldom that it would
//! grow old unused.

use std::time::Duration;

use tokio::time::Instant;

/// How many clients come.
#[derive(Debug, Default)]
pub(super) struct Demand {
    /// Since `measured`.
    came: u32,
    measured: Option<Instant>,
    /// A second, over the last few.
    rate: f64,
    /// The last two.
    last: Option<Instant>,
    before: Option<Instant>,
    /// How long a connect takes, in seconds, over the last few.
    connect: f64,
}

impl Demand {
    /// A client came.
    pub(super) fn note(&mut self, now: Instant) {
        self.came = self.came.saturating_add(1);
        self.before = self.last.replace(now);
    }

    pub(super) fn note_connect(&mut self, took: Duration) {
        let took = took.as_secs_f64();
        self.connect = if self.connect == 0.0 {
            took
        } else {
            self.connect * 0.9 + took * 0.1
        };
    }

    /// Brings the rate up to date.
    pub(super) fn measure(&mut self, now: Instant) {
        if let Some(since) = self.measured {
            let seconds = now.duration_since(since).as_secs_f64();
            if seconds <= 0.0 {
                return;
            }
            let share = 1.0 - (-seconds / MEMORY.as_secs_f64()).exp();
            self.rate += share * (f64::from(self.came) / seconds - self.rate);
        }
        self.measured = Some(now);
        self.came = 0;
    }

    /// Whether a socket would probably grow old unused: the last two clients came further apart
    /// than that, or the last one is as long ago.
    pub(super) fn is_over(&self, now: Instant, max_age: Duration) -> bool {
        match (self.before, self.last) {
            (Some(before), Some(last)) => {
                last.duration_since(before) >= max_age || now.duration_since(last) >= max_age
            }
            _ => true,
        }
    }

    /// How many sockets are worth having: as many clients as come while one is replaced, and twice
    /// the spread of that number (they come independently, so it is its square root).
    pub(super) fn target(&self, now: Instant, max_age: Duration) -> usize {
        if self.is_over(now, max_age) {
            return 0;
        }
        let replace = (2.0 * self.connect).max(LEAST_REPLACE.as_secs_f64());
        let clients = self.rate * replace;
        let target = (clients + 2.0 * clients.sqrt()).ceil();
        // The conversion saturates. At least one, because clients do come.
        (target as usize).max(1)
    }
}

/// Over which time the rate of clients is taken.
const MEMORY: Duration = Duration::from_secs(2);

/// Replacing a socket takes at least this long: the filler has to be scheduled.
const LEAST_REPLACE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(30);

    /// What clients that come every `every` for `long` are worth at the end.
    fn after(every: Duration, long: Duration) -> (Demand, Instant) {
        let mut demand = Demand::default();
        let start = Instant::now();
        let mut now = start;
        let mut look = start;
        while now < start + long {
            demand.note(now);
            if now >= look {
                demand.measure(now);
                look = now + Duration::from_millis(200);
            }
            now += every;
        }
        (demand, now)
    }

    #[test]
    fn nobody_is_worth_nothing_and_one_client_is_nobody_yet() {
        let now = Instant::now();
        let mut demand = Demand::default();
        assert_eq!(demand.target(now, AGE), 0);
        demand.note(now);
        demand.measure(now);
        assert_eq!(demand.target(now, AGE), 0);
        demand.note(now);
        assert_eq!(demand.target(now, AGE), 1);
    }

    #[test]
    fn grows_with_the_rate_and_with_the_time_a_connect_takes() {
        let target = |micros, connect| {
            let (mut demand, now) = after(Duration::from_micros(micros), Duration::from_secs(8));
            demand.note_connect(Duration::from_millis(connect));
            demand.target(now, AGE)
        };
        assert_eq!(target(1_000_000, 1), 1);
        assert_eq!(target(10_000, 1), 2);
        assert!((8..=14).contains(&target(1_000, 1)));
        assert!(target(10_000, 20) > 2 * target(10_000, 1));
        let seldom = after(Duration::from_secs(20), Duration::from_secs(100));
        assert_eq!(seldom.0.target(seldom.1, AGE), 1);
    }

    #[test]
    fn clients_that_come_seldom_or_no_more_are_worth_nothing() {
        let (demand, now) = after(Duration::from_secs(31), Duration::from_secs(200));
        assert_eq!(demand.target(now, AGE), 0);
        let (demand, now) = after(Duration::from_millis(1), Duration::from_secs(5));
        assert!(demand.target(now, AGE) > 1);
        assert_eq!(demand.target(now + AGE, AGE), 0);
    }
}
