//! What a request pays for its route's filters, over all phases: for none, and for ten that do
//! nothing.

use criterion::{Criterion, criterion_group, criterion_main};
use harbr_router::filter::Filter;
use harbr_router::snapshot::Additions;
use tokio::runtime::Runtime;

#[path = "../tests/allocations/request.rs"]
mod request;

use request::OneRequest;

struct Nothing;

impl Filter for Nothing {}

fn chain(c: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut additions = Additions::default();
    additions.filters.http("nothing", |(): ()| Ok(Nothing));
    let mut group = c.benchmark_group("filters");
    for (name, count) in [("none", 0), ("ten", 10)] {
        let filters = ["{type: nothing}"].repeat(count).join(", ");
        let mut request = OneRequest::new(&runtime, &additions, &filters);
        let _entered = runtime.enter();
        group.bench_function(name, |b| b.iter(|| request.pass_every_phase()));
    }
    group.finish();
}

criterion_group!(benches, chain);
criterion_main!(benches);
