//! Any target: what is accepted has one reading, and normalising it again changes nothing.
#![no_main]

use harbr_router::route::{BadPath, normalise, with_slashes};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|target: &str| {
    let Ok(once) = normalise(target) else { return };
    let path = once.path();
    assert!(path.starts_with('/') && path.is_ascii());
    assert!(!path.contains("//") && !path.contains('\\'));
    assert!(
        path.split('/')
            .all(|segment| segment != "." && segment != "..")
    );
    let lower = path.to_ascii_lowercase();
    assert!(!lower.contains("%2e") && !lower.contains("%00"));
    assert_eq!(once.query(), target.split_once('?').map(|(_, query)| query));

    let twice = normalise(once.as_str()).expect("what was accepted is accepted again");
    assert!(!twice.is_changed());
    assert_eq!(once.is_changed(), once.as_str() != target);

    match with_slashes(target) {
        Ok(kept) => {
            let merged = normalise(kept.as_str()).expect("it differs in slashes alone");
            assert_eq!(merged.as_str(), once.as_str());
        }
        Err(why) => assert_eq!(why, BadPath::DotsBehindSlashes),
    }
});
