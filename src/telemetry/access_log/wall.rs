//! What the clock on the wall showed at an instant.
//!
//! A worker has read the monotonic clock when a request ends; reading the other, too, costs as much
//! again. Invariant: within a second after the system's time was set, it is the time that is
//! returned.

use std::cell::Cell;
use std::time::{Duration, Instant, SystemTime};

/// The time of day at `at`, which is about now.
pub fn wall_clock(at: Instant) -> SystemTime {
    let seen = SEEN.get().filter(|(monotonic, _)| {
        at.checked_duration_since(*monotonic)
            .is_some_and(|since| since < ANEW)
    });
    let (monotonic, wall) = seen.unwrap_or_else(|| {
        let both = (Instant::now(), SystemTime::now());
        SEEN.set(Some(both));
        both
    });
    match at.checked_duration_since(monotonic) {
        Some(since) => wall + since,
        None => wall - monotonic.duration_since(at),
    }
}

thread_local! {
    /// Both clocks, read at one time.
    static SEEN: Cell<Option<(Instant, SystemTime)>> = const { Cell::new(None) };
}

/// How long after that they are read again.
const ANEW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_agree() {
        let (instant, now) = (Instant::now(), SystemTime::now());
        for shift in [0, 5, 900, 1_500, 1_501, 700_000, 20].map(Duration::from_millis) {
            let told = wall_clock(instant + shift);
            let apart = told
                .duration_since(now + shift)
                .unwrap_or_else(|before| before.duration());
            assert!(apart < Duration::from_millis(500), "{apart:?} at {shift:?}");
        }
    }
}
