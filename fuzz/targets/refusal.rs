//! Any client of any protocol: its refusal ends, is bounded, and does not depend on how its bytes
//! are cut. The first two bytes say which protocol and how.
#![no_main]

use harbr_router::config::DbType;
use harbr_router::wire::refusal::{Refusal, Refuser, Step};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let [kind, step, bytes @ ..] = input else {
        return;
    };
    let refuser = || match DbType::ALL.get(usize::from(*kind)) {
        Some(db) => Refuser::new(*db, Refusal::Unavailable, "why"),
        None => Refuser::sniffing(Refusal::NoRoute, "why"),
    };
    let step = usize::from(*step).max(1);
    let whole = written(&mut refuser(), bytes.chunks(bytes.len().max(1)));
    let cut = written(&mut refuser(), bytes.chunks(step));
    assert_eq!(whole, cut);
    assert!(whole.0.len() <= 4096 + bytes.len() * 8);
});

fn written<'a>(refuser: &mut Refuser, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    for piece in std::iter::once(&[][..]).chain(pieces) {
        match refuser.advance(piece) {
            Step::NeedMore => (),
            Step::Send(more) => bytes.extend(more),
            Step::Cancel(_) => break,
            Step::Done(last) => {
                bytes.extend(last);
                return (bytes, true);
            }
        }
    }
    (bytes, false)
}
