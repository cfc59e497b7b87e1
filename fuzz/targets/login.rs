//! Any server: a login and a probe end or wait for more, and never write without end. The first
//! two bytes say which protocol and how its bytes are cut.
#![no_main]

use harbr_router::config::DbType;
use harbr_router::wire::login::{LoginStep, login};
use harbr_router::wire::probe::{MAX_ANSWER_BYTES, Verdict, judge};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [kind, step, bytes @ ..] = input else {
        return;
    };
    let db = DbType::ALL[usize::from(*kind) % DbType::ALL.len()];

    let verdict = judge(db, bytes);
    for end in (0..bytes.len()).take(64) {
        let early = judge(db, &bytes[..end]);
        if early != Verdict::NeedMore {
            assert_eq!(early == Verdict::Alive, verdict == Verdict::Alive);
        }
    }
    assert!(verdict != Verdict::NeedMore || bytes.len() < MAX_ANSWER_BYTES);

    let Some(mut login) = login(db, Some("user"), Some("password")) else {
        return;
    };
    let mut written = login.start().len();
    for piece in bytes.chunks(usize::from(*step).max(1)) {
        match login.advance(piece) {
            LoginStep::NeedMore => (),
            LoginStep::Send(more) => written += more.len(),
            LoginStep::Done { .. } => break,
            LoginStep::Failed(text) => {
                assert!(!text.contains("password\0") && text.len() < 2000);
                break;
            }
        }
    }
    assert!(written <= 4096 + bytes.len() * 32);
});
