//! How the work in the background learns of the current upstreams, and when to end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::group::Upstream;

/// Gives the upstreams of the current configuration. Asked several times a second by the work in
/// the background, which so sees a reload by itself.
pub type UpstreamSource = Arc<dyn Fn() -> Vec<Arc<Upstream>> + Send + Sync>;

/// How often the work in the background asks its [`UpstreamSource`].
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// Returns when the watch turns true, or when its sender is gone.
pub(super) async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the sender is gone.
    let _gone = shutdown.wait_for(|stop| *stop).await;
}
