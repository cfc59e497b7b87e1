//! What the gateway says about itself: metrics and the access log.
