//! Members of a MongoDB replica set that both say they are primary: fakes, as no server can be had.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use harbr_router::config::Target;
use harbr_router::upstream::Role;

use super::{Checks, fake};
use crate::support::eventually;

/// What a primary of this term answers to `hello`.
fn hello(set: &str, term: u64) -> Vec<u8> {
    let mut document = vec![0; 4];
    document.extend(b"\x08isWritablePrimary\0\x01\x02setName\0");
    document.extend((set.len() as u32 + 1).to_le_bytes());
    document.extend(set.bytes());
    document.extend(b"\0\x07electionId\0\x7f\xff\xff\xff");
    document.extend(term.to_be_bytes());
    document.extend(b"\x01ok\0\0\0\0\0\0\0\xf0\x3f\0");
    let length = document.len() as u32;
    document[..4].copy_from_slice(&length.to_le_bytes());
    // Length, id, what it answers, OP_MSG, no flags, one section of kind 0.
    let mut message = (document.len() as u32 + 21).to_le_bytes().to_vec();
    message.extend(b"\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0");
    message.extend(document);
    message
}

fn member(set: &'static str, term: &Arc<AtomicU64>) -> SocketAddr {
    let term = Arc::clone(term);
    fake(move |_, mut stream| {
        let _asked = stream.read(&mut [0; 1024]);
        let _gone = stream.write_all(&hello(set, term.load(Ordering::SeqCst)));
    })
}

#[test]
fn the_primary_of_the_last_election_is_used_and_that_of_another_set_too() {
    let terms = [4, 3, 1].map(|term| Arc::new(AtomicU64::new(term)));
    let members = [
        member("rs0", &terms[0]),
        member("rs0", &terms[1]),
        member("rs1", &terms[2]),
    ];
    let urls = members.map(|addr| format!("mongodb://{addr}"));
    let checks = Checks::of(&urls.each_ref().map(String::as_str), "");
    checks.await_roles(&[Role::Primary; 3]);
    let picked = || {
        let picked = (0..12).map(|_| checks.picked(Target::Primary).expect("one is in"));
        let mut picked: Vec<u16> = picked.collect();
        picked.sort_unstable();
        picked.dedup();
        picked
    };
    let without = |nth: usize| {
        let mut ports: Vec<u16> = members.iter().map(SocketAddr::port).collect();
        ports.remove(nth);
        ports.sort_unstable();
        ports
    };
    let patience = std::time::Duration::from_secs(20);
    eventually(patience, "the second is out", || picked() == without(1));
    // The other is elected.
    terms[1].store(5, Ordering::SeqCst);
    eventually(patience, "the first is out", || picked() == without(0));
}
