//! What a request allocates in our own code; and what filters cost a gateway that has none: not one
//! allocation.
//!
//! A binary of its own because it replaces the allocator. The proof: every entry through which a
//! request comes to our code, and every one through which it meets filters, is called, and the
//! allocations of this thread are counted meanwhile.

mod request;
mod steps;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use harbr_router::filter::Filter;
use harbr_router::http::exchange::Exchange;
use harbr_router::snapshot::Additions;

use self::request::OneRequest;
use self::steps::Steps;

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to `System` as it came; the count is a thread's own and needs no memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(call: impl FnOnce()) -> usize {
    let before = COUNT.with(Cell::get);
    call();
    COUNT.with(Cell::get) - before
}

struct Nothing;

impl Filter for Nothing {}

#[test]
fn a_route_without_filters_allocates_nothing_for_them() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut additions = Additions::default();
    additions.filters.http("nothing", |(): ()| Ok(Nothing));

    let mut without = OneRequest::new(&runtime, &additions, "");
    assert_eq!(allocations(|| without.pass_every_phase()), 0);

    // The counter counts: a filter's future is boxed.
    let _entered = runtime.enter();
    let mut with = OneRequest::new(&runtime, &additions, "{type: nothing}");
    assert!(allocations(|| with.pass_every_phase()) > 0);
}

#[test]
fn a_request_begins_without_an_allocation_for_what_filters_keep() {
    assert_eq!(allocations(|| drop(Exchange::new(Instant::now()))), 0);
}

#[test]
fn a_request_allocates_no_more_than_it_did() {
    let steps = Steps::new();
    // Labels, buffers and the like are made by the first request that needs them.
    for _ in 0..3 {
        steps.get(|_, step| step());
    }
    let mut counted = Vec::new();
    steps.get(|step, call| counted.push((step, allocations(call))));
    let names: Vec<&str> = MOST.iter().map(|(step, _)| *step).collect();
    assert_eq!(
        counted.iter().map(|(step, _)| *step).collect::<Vec<_>>(),
        names
    );
    let more = counted
        .iter()
        .zip(&MOST)
        .filter(|((_, now), (_, most))| now > most);
    assert_eq!(more.count(), 0, "{counted:?}, at most {MOST:?}");
    if counted != MOST {
        println!("fewer than before, lower MOST: {counted:?}");
    }
}

/// By phase. One that waits is a box of its own: `ProxyHttp` wants it so.
const MOST: [(&str, usize); 11] = [
    ("new_ctx", 1),
    ("on_connection_reuse", 0),
    ("request_filter", 2),
    ("upstream_peer", 2),
    ("connected_to_upstream", 0),
    ("upstream_request_filter", 2),
    ("request_body_filter", 0),
    ("upstream_response_filter", 0),
    ("response_filter", 0),
    ("response_body_filter", 0),
    ("logging", 0),
];
