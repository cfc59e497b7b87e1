//! The phases that filters say they skip, and whether that is true.
//!
//! A trait does not know which of its methods are written: a filter that names too few phases is
//! found when it is called. Invariants: a written method is called whatever `phases` says; one that
//! is not costs one call.

use std::sync::atomic::{AtomicU8, Ordering};

use super::Phases;

/// For each filter of a chain, by its place, the phases that it leaves out.
#[derive(Debug)]
pub(super) struct SkippedPhases {
    of_step: Vec<Step>,
    /// The phases in which a filter may still be called.
    living: AtomicU8,
}

#[derive(Debug)]
struct Step {
    /// Not called yet.
    doubted: AtomicU8,
    /// Called once: nothing is written.
    idle: AtomicU8,
}

/// What the one call in a phase that was left out showed.
pub(super) enum Found {
    /// It was in no doubt, or another thread has found out.
    Nothing,
    /// The filter has work there.
    Work,
}

impl SkippedPhases {
    pub(super) fn new(phases: impl Iterator<Item = Phases>) -> SkippedPhases {
        let of_step: Vec<Step> = phases.map(Step::new).collect();
        let living = match of_step.is_empty() {
            true => Phases::NONE,
            false => Phases::ALL,
        };
        SkippedPhases {
            of_step,
            living: AtomicU8::new(living.bits()),
        }
    }

    /// Whether any filter may have to do in `phase`.
    pub(super) fn any_in(&self, phase: Phases) -> bool {
        self.living.load(Ordering::Relaxed) & phase.bits() != 0
    }

    /// Whether the `nth` filter is to be called in `phase`.
    pub(super) fn is_called(&self, nth: usize, phase: Phases) -> bool {
        self.of_step[nth].idle.load(Ordering::Relaxed) & phase.bits() == 0
    }

    /// The `nth` filter was called in `phase`, and said (`idle`) that it does nothing there.
    pub(super) fn called(&self, nth: usize, phase: Phases, idle: bool) -> Found {
        match self.of_step[nth].doubted.load(Ordering::Relaxed) & phase.bits() {
            0 => Found::Nothing,
            _ => self.settle(nth, phase, idle),
        }
    }

    #[cold]
    fn settle(&self, nth: usize, phase: Phases, idle: bool) -> Found {
        let step = &self.of_step[nth];
        let before = step.doubted.fetch_and(!phase.bits(), Ordering::SeqCst);
        if before & phase.bits() == 0 {
            return Found::Nothing;
        }
        if !idle {
            return Found::Work;
        }
        step.idle.fetch_or(phase.bits(), Ordering::SeqCst);
        let mut all = self.of_step.iter();
        if all.all(|step| step.idle.load(Ordering::SeqCst) & phase.bits() != 0) {
            self.living.fetch_and(!phase.bits(), Ordering::SeqCst);
        }
        Found::Nothing
    }
}

impl Step {
    fn new(phases: Phases) -> Step {
        Step {
            doubted: AtomicU8::new(Phases::ALL.bits() & !phases.bits()),
            idle: AtomicU8::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(found: Found) -> bool {
        matches!(found, Found::Work)
    }

    #[test]
    fn what_is_left_out_and_written_is_found_once_and_called_for_good() {
        let skipped = SkippedPhases::new([Phases::REQUEST, Phases::ALL].into_iter());
        assert!(work(skipped.called(0, Phases::LOG, false)));
        assert!(!work(skipped.called(0, Phases::LOG, false)));
        assert!(!work(skipped.called(0, Phases::LOG, true)));
        assert!(skipped.is_called(0, Phases::LOG));
        assert!(!work(skipped.called(0, Phases::REQUEST, false)));
        assert!(!work(skipped.called(1, Phases::LOG, false)));
    }

    #[test]
    fn what_is_left_out_and_not_written_is_called_once() {
        let skipped = SkippedPhases::new([Phases::REQUEST, Phases::LOG].into_iter());
        for phase in [Phases::RESPONSE, Phases::REQUEST, Phases::LOG] {
            assert!(skipped.any_in(phase));
            for nth in 0..2 {
                assert!(skipped.is_called(nth, phase));
                assert!(!work(skipped.called(nth, phase, true)));
            }
        }
        assert!(!skipped.any_in(Phases::RESPONSE), "nobody is in it");
        assert!(skipped.any_in(Phases::REQUEST) && skipped.is_called(0, Phases::REQUEST));
        assert!(!skipped.is_called(1, Phases::REQUEST));
        assert!(skipped.is_called(1, Phases::LOG), "it says that it is");
    }

    #[test]
    fn without_filters_there_is_no_phase() {
        assert!(!SkippedPhases::new(std::iter::empty()).any_in(Phases::REQUEST));
    }
}
