//! A gateway with a filter of its own: `cargo run --example hello -- conf/minimal.yaml`

use harbr_router::filter::{Verdict, from_fn};
use harbr_router::server::Gateway;

fn main() -> Result<(), harbr_router::Error> {
    let config = std::env::args().nth(1).unwrap_or("config.yml".into());
    let hello = from_fn(|cx| {
        cx.request_mut().set("x-hello", "world")?;
        Ok(Verdict::Continue)
    });
    Gateway::from_file(config)?
        .every_request("hello", hello)
        .run()
}
