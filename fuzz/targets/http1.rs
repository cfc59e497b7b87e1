//! Any bytes: the verdict on a head does not depend on how the bytes are cut into reads. The first
//! byte says how long the reads are.
#![no_main]

use harbr_router::wire::http1::{BodyTracker, HeadScanner, Scan};
use libfuzzer_sys::fuzz_target;

const MAX_BYTES: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((step, bytes)) = input.split_first() else {
        return;
    };
    let step = usize::from(*step).max(1);

    let whole = HeadScanner::new(MAX_BYTES).scan(bytes);
    let mut scanner = HeadScanner::new(MAX_BYTES);
    let mut cut = Scan::NeedMore;
    let mut end = 0;
    while cut == Scan::NeedMore && end < bytes.len() {
        end = (end + step).min(bytes.len());
        cut = scanner.scan(&bytes[..end]);
    }
    assert_eq!(whole, cut);

    let Scan::Complete(head) = whole else { return };
    if let Some(on) = head.rewritten(bytes) {
        let Scan::Complete(again) = HeadScanner::new(MAX_BYTES).scan(&on) else {
            panic!("what goes on passes");
        };
        assert_eq!((again.body, again.rewritten(&on)), (head.body, None));
    }
    assert!(head.method.end <= head.target.start && head.target.end <= head.head.end);
    let body = &bytes[head.head.end..];
    let mut tracker = BodyTracker::new(head.body, MAX_BYTES);
    let whole = tracker.advance(body);
    let mut cut_tracker = BodyTracker::new(head.body, MAX_BYTES);
    let mut taken = 0;
    for piece in body.chunks(step) {
        match cut_tracker.advance(piece) {
            Ok(count) => taken += count,
            Err(_) => return assert!(whole.is_err()),
        }
        if cut_tracker.is_done() {
            break;
        }
    }
    assert_eq!(whole.ok(), Some(taken));
    assert_eq!(tracker.is_done(), cut_tracker.is_done());
});
